//! The loop: the next thing that happens, whoever does it, and what follows from it.
//!
//! ```text
//!   people, banks, Belvo's own schedule ─▶ webhooks, errors, callbacks ─▶ relink ─▶ notices ─▶ people, judge
//!                                                                            └────▶ jobs ─▶ Belvo
//! ```
//!
//! One thing happens at a time, and everything that follows from it at once, so a seed has one story. Both clocks stand
//! still meanwhile; only a call that has to wait for its turn moves relink's on.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::FleetOptions;
use super::banks::BankState;
use super::calendar::Calendar;
use super::customer::Customer;
use super::hazards::{BANKS, DAY, Draw, HOUR, RHYTHMS, WEBHOOK_RETRY_STEP, percent};
use super::judge::{Judge, Truth};
use super::people::Visit;
use super::post::Letter;
use super::relink::{Relink, SETTINGS};
use super::story::Story;
use crate::belvo::{IDS_MAX, SecretId, SecretPassword};
use crate::contract::{Address, JobBody, JobName, NoticeName};
use crate::jobs::{self, Next};
use crate::link::{LinkId, StateName, Timestamp};
use crate::sandbox::{
    AccessMode, Control, LinkStatus, Login, LoginFailure, NewFleetLink, Sandbox, SandboxConfig, SandboxTime,
    WebhookDelivery,
};

/// When the month begins: 2026-03-02T00:00:00Z, a Monday. Any would do.
const BEGIN: Timestamp = Timestamp::from_millis(1_772_409_600_000);

/// How long everything is left in peace at the end, so that what relink has not noticed by then, it never will: one
/// rotation, and two sweeps.
const QUIET: Duration = Duration::from_secs(27 * 3600);

/// From relink's start to its first sweep; and after one that broke off. As in the reconciler.
const SWEEP_START: Duration = Duration::from_secs(30);
const SWEEP_RETRY: Duration = Duration::from_secs(5 * 60);

/// How long a job lies on the bus before a worker has it.
const JOB_LATENCY: Duration = Duration::from_millis(150);

/// How a link's state says that its prompt waits for the end of an incident.
const WAITS: &[u8] = br#""prompt":"waiting""#;

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// A link's next trouble.
    Trouble(usize),
    /// The customer reads data of a single link.
    Call(usize),
    /// A user does something.
    Visit(usize, Visit),
    /// A webhook arrives that was late.
    Arrival(Box<Letter>),
    /// A job is due.
    Job {
        job: Box<JobBody>,
        link: LinkId,
        stored_at: Timestamp,
        tries: i64,
    },
    /// relink sweeps, rotates, reads consents, releases.
    Sweep,
    Rotate,
    Consents,
    Release,
    /// A bank goes down, or confuses its passwords; and is over it.
    BankDown(usize),
    BankUp(usize),
    Confusion(usize),
    ConfusionEnds(usize),
    /// Belvo calls valid again what the confusion broke.
    Amends(usize),
    /// Nobody takes webhooks; somebody does again.
    ReceiverDown,
    ReceiverUp,
    /// Belvo's API answers 500; it does not any more.
    ApiDown,
    ApiUp,
}

/// One link of the fleet.
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) link: LinkId,
    pub(super) bank: usize,
    /// What its bank says to its credentials, as long as the bank is well.
    pub(super) login: Login,
    /// Whether Belvo's last answer about it was that only its user can help.
    pub(super) refused: bool,
    /// Whether it broke for no fault of its user's.
    pub(super) wronged: bool,
    /// Whether relink has said that it is broken, and not yet that it works again.
    pub(super) told_broken: bool,
    /// Whether its user is about to do something.
    pub(super) is_awaited: bool,
    pub(super) rng: fastrand::Rng,
}

/// The fleet, and all it has to do with.
pub(super) struct Simulation {
    pub(super) options: FleetOptions,
    pub(super) control: Control,
    pub(super) customer: Customer,
    pub(super) relink: Relink,
    pub(super) judge: Judge,
    pub(super) calendar: Calendar<Happening>,
    pub(super) members: Vec<Member>,
    pub(super) banks: Vec<BankState>,
    pub(super) receiver_is_down: bool,
    pub(super) rng: fastrand::Rng,
    pub(super) notices: BTreeMap<&'static str, u64>,
    /// How often relink said that an institution's incident began.
    pub(super) incidents: u64,
    pub(super) webhooks_sent: u64,
    pub(super) jobs_given_up: u64,
    pub(super) refreshes_asked: u64,
    pub(super) story: Story,
    pub(super) index: HashMap<Uuid, usize>,
    surveyed: bool,
    sandbox: Sandbox,
}

impl Simulation {
    /// A fleet on the first day, as relink is put in front of it.
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
        let keys = (SecretId(config.secret_id.clone().into()), SecretPassword(config.secret_password.clone()));
        let mut simulation = Self {
            control: sandbox.control(),
            customer: Customer::of(sandbox.url(), &config)?,
            relink: Relink::start(&sandbox.url(), keys, BEGIN)?,
            judge: Judge::new(options.links),
            calendar: Calendar::new(),
            members: Vec::with_capacity(options.links),
            banks: BANKS.iter().map(|_| BankState::default()).collect(),
            receiver_is_down: false,
            rng: fastrand::Rng::with_seed(options.seed),
            notices: BTreeMap::new(),
            incidents: 0,
            webhooks_sent: 0,
            jobs_given_up: 0,
            refreshes_asked: 0,
            story: Story::of(options.story.as_deref().map(str::parse).transpose()?),
            index: HashMap::new(),
            surveyed: false,
            sandbox,
            options,
        };
        for _ in 0..simulation.options.links {
            simulation.add_member()?;
        }
        let start = BEGIN.after(SWEEP_START);
        simulation.calendar.plan(start, Happening::Sweep);
        simulation.calendar.plan(start.after(SWEEP_START), Happening::Rotate);
        simulation.calendar.plan(start.after(SWEEP_START), Happening::Release);
        simulation.calendar.plan(start.after(SWEEP_START * 2), Happening::Consents);
        simulation.plan_disturbances();
        Ok(simulation)
    }

    fn add_member(&mut self) -> anyhow::Result<()> {
        let number = self.members.len();
        let mut rng = self.rng.fork();
        let bank = rng.pick(BANKS.iter().map(|bank| bank.share));
        let (_, mut mode, mut rate) = RHYTHMS[rng.pick(RHYTHMS.iter().map(|rhythm| rhythm.0))];
        if mode == AccessMode::Single && !(BANKS[bank].has_owners && BANKS[bank].has_password) {
            (mode, rate) = (AccessMode::Recurrent, Some(crate::sandbox::RefreshRate::Week));
        }
        let created_at = BEGIN.before(rng.between((DAY, DAY * 364)));
        let id = self.control.add_fleet_link(NewFleetLink {
            institution: BANKS[bank].name.to_owned(),
            access_mode: mode,
            external_id: Some(format!("user-{number}")),
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
            self.judge.broken_before(number, BEGIN);
        }
        if mode == AccessMode::Single {
            self.calendar.plan(BEGIN.after(rng.between((HOUR, DAY * 7))), Happening::Call(number));
        }
        self.calendar.plan(BEGIN.after(self.time_to_trouble(bank, &mut rng)), Happening::Trouble(number));
        self.index.insert(id, number);
        let (refused, wronged, told_broken, is_awaited) = (false, false, false, false);
        self.members.push(Member { id, link, bank, login, refused, wronged, told_broken, is_awaited, rng });
        Ok(())
    }

    /// Lives through it all. `on_day` hears of each day that has passed.
    pub(super) async fn live(&mut self, mut on_day: impl FnMut(u32)) -> anyhow::Result<()> {
        let end = self.end_of_days().after(QUIET);
        let mut day = 0;
        loop {
            let next = [self.calendar.next_at(), self.relink.next_deadline()?, self.next_of_belvo()];
            let Some(next) = next.into_iter().flatten().min().filter(|&next| next <= end) else { break };
            self.relink.set_clock(next);
            let now = self.now();
            self.control.advance_to(now.as_millis());
            for webhook in self.control.take_webhooks() {
                self.post(webhook)?;
            }
            if let Some(happening) = self.calendar.take_due(now) {
                self.happen(happening).await?;
            }
            self.follow()?;
            self.judge.relink_calls = false;
            let passed = u32::try_from(now.since(BEGIN).as_secs() / DAY.as_secs()).unwrap_or(u32::MAX);
            if passed > day {
                day = passed;
                on_day(day);
            }
        }
        self.look_at_all()?;
        let words = self.relink.words()?;
        let words: Vec<_> =
            self.members.iter().map(|member| words.get(&member.link).map(|&word| truth_of(word))).collect();
        self.judge.end(&words, self.now());
        Ok(())
    }

    /// Stops Belvo.
    pub(super) async fn end(self) {
        self.sandbox.shutdown().await;
    }

    pub(super) fn now(&self) -> Timestamp {
        self.relink.clock.now()
    }

    pub(super) fn plan_in(&mut self, span: Duration, what: Happening) {
        let at = self.now().after(span);
        self.calendar.plan(at, what);
    }

    /// Whether the last days have come, in which nothing new goes wrong and nobody does anything.
    pub(super) fn is_quiet(&self) -> bool {
        self.now() >= self.end_of_days()
    }

    fn end_of_days(&self) -> Timestamp {
        BEGIN.after(DAY * self.options.days)
    }

    fn next_of_belvo(&self) -> Option<Timestamp> {
        self.control.next_event_at().map(Timestamp::from_millis)
    }

    fn numbered(&self, link: &LinkId) -> Option<usize> {
        self.index.get(&link.as_str().parse().ok()?).copied()
    }

    async fn happen(&mut self, happening: Happening) -> anyhow::Result<()> {
        match happening {
            Happening::Arrival(letter) => self.arrive(*letter)?,
            Happening::Job { job, link, stored_at, tries } => self.work(job, link, stored_at, tries).await,
            Happening::Sweep => self.sweep().await,
            Happening::Rotate => self.rotate().await,
            Happening::Consents => {
                let swept = self.relink.reconciler.sweep_consents().await;
                let pause = jittered(SETTINGS.rotation, &mut self.rng);
                self.plan_in(if swept.is_ok() { pause } else { SWEEP_RETRY }, Happening::Consents);
            }
            Happening::Release => {
                let released = self.relink.reconciler.release_adopted().await;
                let pause = Duration::from_secs(3600) / SETTINGS.adoption_per_hour;
                self.plan_in(if released.is_ok() { pause } else { SWEEP_RETRY }, Happening::Release);
            }
            Happening::Visit(number, visit) => {
                let now = self.now();
                self.story.tell(&self.members[number].link, now, || format!("user     {visit:?}"));
                self.visit(number, visit).await?;
            }
            Happening::Call(link) => self.call(link).await?,
            Happening::Trouble(link) => self.trouble(link).await?,
            other => self.disturb(other)?,
        }
        Ok(())
    }

    async fn work(&mut self, job: Box<JobBody>, link: LinkId, stored_at: Timestamp, tries: i64) {
        self.judge.relink_calls = true;
        let done = self.relink.worker.perform(&job, &link, stored_at).await;
        match jobs::settle(&done, tries) {
            Next::Ended => self.refreshes_asked += u64::from(job.name == JobName::Refresh),
            Next::Again(pause) => {
                self.plan_in(pause, Happening::Job { job, link: link.clone(), stored_at, tries: tries + 1 })
            }
            Next::GivenUp => self.jobs_given_up += 1,
        }
        if let Some(number) = self.numbered(&link) {
            self.look(number);
        }
    }

    async fn sweep(&mut self) {
        let listed = if self.surveyed {
            self.relink.reconciler.sweep_broken().await
        } else {
            self.relink.reconciler.survey().await
        };
        self.surveyed |= listed.is_ok();
        let swept = match listed {
            Ok(_) => self.relink.reconciler.sweep_held().await,
            Err(error) => Err(error),
        };
        let pause = if swept.is_ok() { jittered(SETTINGS.sweep_every, &mut self.rng) } else { SWEEP_RETRY };
        self.plan_in(pause, Happening::Sweep);
        if swept.is_ok() {
            self.judge.swept();
        }
    }

    async fn rotate(&mut self) {
        let rotated = self.relink.reconciler.rotate().await;
        // What it asks for wakes it up again anyway: whether it came is no matter of the simulation's.
        let _retried = self.relink.reconciler.retry().await;
        let steps = u32::try_from(self.members.len().div_ceil(IDS_MAX)).unwrap_or(u32::MAX).max(1);
        let pause = if rotated.is_ok() { jittered(SETTINGS.rotation / steps, &mut self.rng) } else { SWEEP_RETRY };
        self.plan_in(pause, Happening::Rotate);
    }

    /// Lets relink handle what it has heard, and hands on what it says.
    fn follow(&mut self) -> anyhow::Result<()> {
        let said = self.relink.digest()?;
        for link in said.refused {
            if let Some(number) = self.numbered(&link) {
                self.members[number].refused = true;
                self.look(number);
            }
        }
        for message in said.messages {
            self.story.tell_message(&message);
            match message.address {
                Address::Notice(name, link) => {
                    *self.notices.entry(name.as_str()).or_default() += 1;
                    let Some(number) = self.numbered(&link) else { continue };
                    self.notice(number, name, &message.body)?;
                }
                Address::Job(_, link) => {
                    let (job, stored_at) = (serde_json::from_slice(&message.body)?, self.now());
                    self.plan_in(JOB_LATENCY, Happening::Job { job, link, stored_at, tries: 1 });
                }
                Address::State(link) => {
                    // Read as text: of half a million states a few say so.
                    if message.body.windows(WAITS.len()).any(|words| words == WAITS)
                        && let Some(number) = self.numbered(&link)
                    {
                        self.judge.held(number);
                    }
                }
                Address::Incident(_) => {
                    let body: Value = serde_json::from_slice(&message.body)?;
                    self.incidents += u64::from(body["type"] == "began");
                }
                Address::Refused(_) | Address::Mark(_) | Address::Fence(_) => {}
            }
        }
        Ok(())
    }

    fn notice(&mut self, number: usize, name: NoticeName, body: &[u8]) -> anyhow::Result<()> {
        let now = self.now();
        match name {
            NoticeName::UpdateRequired => {
                let body: Value = serde_json::from_slice(body)?;
                let sequence = body["because"]["origin"]["input_sequence"].as_u64();
                let heard = sequence.map(|sequence| self.relink.heard(sequence));
                self.judge.prompted(number, heard, now);
                self.members[number].told_broken = true;
                self.user_is_told(number);
            }
            NoticeName::Reminder => self.user_is_told(number),
            NoticeName::Recovered => {
                self.members[number].told_broken = false;
                self.judge.recovered(number, now);
            }
            NoticeName::RefreshDue => self.judge.gap_opened(number),
            NoticeName::Refreshed => self.judge.gap_closed(number),
            NoticeName::UpdateStarted
            | NoticeName::UpdateFailed
            | NoticeName::DataAvailable
            | NoticeName::ConsentExpiring
            | NoticeName::Silent
            | NoticeName::Removed => {}
        }
        Ok(())
    }

    /// Looks at what is true of a link now, and tells the judge.
    pub(super) fn look(&mut self, number: usize) {
        let member = &mut self.members[number];
        let truth = match self.control.status_of(member.id) {
            Err(_gone) => Truth::Gone,
            Ok(LinkStatus::Valid) if member.refused => Truth::Refused,
            Ok(LinkStatus::Valid) => Truth::Works,
            Ok(_) => Truth::Broken,
        };
        let before = self.judge.truth(number);
        let now = self.relink.clock.now();
        self.judge.is_true(number, truth, now);
        if before != truth {
            self.story.tell(&member.link, now, || format!("truth    {before:?} -> {truth:?}"));
        }
        if before == Truth::Works && truth != Truth::Gone {
            self.broke(number);
        }
    }

    /// Nothing may have become true that nobody looked at.
    fn look_at_all(&mut self) -> anyhow::Result<()> {
        for number in 0..self.members.len() {
            let before = self.judge.truth(number);
            self.look(number);
            let link = &self.members[number].link;
            anyhow::ensure!(before == self.judge.truth(number), "{link} changed, and the judge was not told");
        }
        Ok(())
    }
}

fn truth_of(word: StateName) -> Truth {
    match word {
        StateName::Valid => Truth::Works,
        StateName::Invalid | StateName::TokenRequired | StateName::Updating | StateName::Unconfirmed => Truth::Broken,
        StateName::Removed => Truth::Gone,
    }
}

/// A tenth more or less, as the reconciler's own pace is.
fn jittered(span: Duration, rng: &mut fastrand::Rng) -> Duration {
    span.mul_f64(rng.f64().mul_add(0.2, 0.9))
}
