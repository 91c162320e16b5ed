//! The setup of a fleet: its links, its banks, and the first events.

use std::collections::{BTreeMap, HashMap};

use belvo_sandbox::{
    AccessMode, LinkStatus, Login, LoginFailure, NewFleetLink, RefreshRate, Sandbox, SandboxConfig, SandboxTime,
    WebhookDelivery,
};
use secrecy::ExposeSecret as _;

use super::checker::{Checker, person_of};
use super::customer::Customer;
use super::event_queue::EventQueue;
use super::http_server::{HttpServer, settings};
use super::link_log::LinkLog;
use super::options::FleetOptions;
use super::rates::{BANKS, DAY, Draw, HOUR, RHYTHMS, WEBHOOK_RETRY_STEP, percent};
use super::relink::Relink;
use super::scans::Scans;
use super::state::{BEGIN, BankState, FleetEvent, Member, Simulation};
use crate::link::{LinkId, PolicySettings};
use crate::reconciler::Schedule;

impl Simulation {
    /// Creates a fleet at the time of relink's installation.
    pub(super) async fn begin(options: FleetOptions) -> anyhow::Result<Self> {
        let config = SandboxConfig {
            time: SandboxTime::Driven { from_ms: BEGIN.as_millis() },
            schedule: true,
            delivery: WebhookDelivery::ByHand,
            deliveries_kept: 1,
            webhook_retry_step: WEBHOOK_RETRY_STEP,
            seed: options.seed,
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config.clone()).await?;
        let keys = [config.secret_id.as_str(), config.secret_password.expose_secret()];
        let settings = settings(&sandbox.url(), keys, options.quiet_hours)?;
        let relink = Relink::start(&settings, BEGIN)?;
        let mut simulation = Self {
            schedule: Schedule::new(relink.clock.elapsed(), options.seed),
            control: sandbox.control(),
            customer: Customer::of(sandbox.url(), &config)?,
            http: HttpServer::start(&settings, &relink, options.bug).await?,
            relink,
            subjects: settings.nats.subjects.clone(),
            scans: Scans::default(),
            checker: Checker::new(options.links, PolicySettings::default().reminder_pause, options.quiet_hours),
            event_queue: EventQueue::new(),
            members: Vec::with_capacity(options.links),
            banks: BANKS.iter().map(|_| BankState::default()).collect(),
            receiver_is_down: false,
            rng: fastrand::Rng::with_seed(options.seed),
            notices: BTreeMap::new(),
            incidents: 0,
            webhooks_sent: 0,
            jobs_abandoned: 0,
            refreshes_requested: 0,
            link_log: LinkLog::of(options.link_log.as_deref().map(str::parse).transpose()?),
            index: HashMap::new(),
            sandbox,
            options,
        };
        for _ in 0..simulation.options.links {
            simulation.add_member()?;
        }
        simulation.plan_reconciler();
        simulation.plan_disturbances();
        Ok(simulation)
    }

    fn add_member(&mut self) -> anyhow::Result<()> {
        let number = self.members.len();
        let mut rng = self.rng.fork();
        let bank = rng.pick(BANKS.iter().map(|bank| bank.share));
        let (_, mut mode, mut rate) = RHYTHMS[rng.pick(RHYTHMS.iter().map(|rhythm| rhythm.0))];
        if mode == AccessMode::Single && !(BANKS[bank].has_owners && BANKS[bank].has_password) {
            (mode, rate) = (AccessMode::Recurrent, Some(RefreshRate::Week));
        }
        let created_at = BEGIN.before(rng.between((DAY, DAY * 364)));
        let id = self.control.add_fleet_link(NewFleetLink {
            institution: BANKS[bank].name.to_owned(),
            access_mode: mode,
            external_id: Some(format!("user-{}", person_of(number))),
            refresh_rate: rate,
            created_at_ms: Some(created_at.as_millis()),
            consent_ends_at_ms: (!BANKS[bank].has_password).then(|| created_at.after(DAY * 366).as_millis()),
            ..NewFleetLink::default()
        })?;
        if rng.happens(percent::WITHOUT_NEWS) {
            self.control.set_fresh_data(id, false)?;
        }
        let link: LinkId = id.to_string().parse()?;
        let mut login = Login::Works;
        if BANKS[bank].has_password && rng.happens(percent::BROKEN_BEFORE) {
            login = Login::Fails(LoginFailure::InvalidCredentials);
            self.control.set_login(id, login.clone())?;
            self.control.set_status(id, LinkStatus::Invalid)?;
            self.checker.broken_before(number, BEGIN);
        }
        if mode == AccessMode::Single {
            self.event_queue.plan(BEGIN.after(rng.between((HOUR, DAY * 7))), FleetEvent::Call(number));
        }
        self.event_queue.plan(BEGIN.after(self.time_to_fault(bank, &mut rng)), FleetEvent::LinkFault(number));
        self.index.insert(id, number);
        self.members.push(Member::new(id, link, bank, login, rng));
        Ok(())
    }

    /// The user of a link connects the bank anew: a new link, which works. The old one stays as it is.
    pub(super) fn connect_anew(&mut self, number: usize) -> anyhow::Result<()> {
        let bank = self.members[number].bank;
        let mut rng = self.members[number].rng.fork();
        let id = self.control.connect_anew(self.members[number].id)?;
        let link: LinkId = id.to_string().parse()?;
        let (new, now) = (self.members.len(), self.now());
        self.link_log.log(&self.members[number].link, now, || format!("user     connects the bank anew: {id}"));
        self.index.insert(id, new);
        self.plan_in(self.time_to_fault(bank, &mut rng), FleetEvent::LinkFault(new));
        if self.control.link(id)?["access_mode"] == "single" {
            self.plan_in(rng.between((HOUR, DAY)), FleetEvent::Call(new));
        }
        self.members.push(Member::new(id, link, bank, Login::Works, rng));
        self.members[number].is_replaced = true;
        self.checker.connected_anew(number);
        self.set_sandbox_login(new);
        Ok(())
    }
}
