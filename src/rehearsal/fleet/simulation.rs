//! The main loop: it handles the next event with all its consequences.
//!
//! ```text
//!   users, banks, Belvo's schedule ─▶ webhooks, errors, callbacks ─▶ relink ─▶ notices ─▶ users, checker
//!                                                                       └────▶ jobs ─▶ Belvo
//! ```
//!
//! One event is handled at a time, and its consequences immediately after it, so a seed has one history. Both clocks are
//! constant during an event; only a call that waits for the call budget moves relink's clock forward.

use std::time::Duration;

use belvo_sandbox::LinkStatus;
use serde_json::Value;

use super::checker::{Circumstances, GroundTruth};
use super::mails::Mail;
use super::options::FleetOptions;
use super::rates::{BANKS, DAY};
use super::relink::SETTINGS;
use super::report::Report;
use super::state::{BEGIN, FleetEvent, Simulation};
use crate::contract::{Action, Address, JobBody, JobName, NoticeBody, NoticeContent, NoticeName};
use crate::jobs::{self, Next};
use crate::link::{EpisodeNumber, LinkId, StateName, Timestamp};

/// The length of the final phase without faults, in which relink must detect every change: one
/// rotation, and two sweeps.
const QUIET: Duration = Duration::from_secs(27 * 3600);

/// The time from the publication of a job to its delivery.
const JOB_LATENCY: Duration = Duration::from_millis(150);

/// The text in the state of a link whose prompt is deferred by an incident.
const PROMPT_DEFERRED: &[u8] = br#""prompt":"deferred""#;

/// Simulates a fleet. `on_day` is called after each day.
///
/// # Errors
/// If a part fails in a way that the simulation does not provide for: a bug in the simulation or in relink.
pub async fn simulate(options: FleetOptions, on_day: impl FnMut(u32)) -> anyhow::Result<Report> {
    let mut simulation = Simulation::begin(options).await?;
    simulation.run_days(on_day).await?;
    let report = Report::of(&simulation);
    simulation.sandbox.shutdown().await;
    Ok(report)
}

impl Simulation {
    /// Runs all days. `on_day` is called after each day.
    pub(super) async fn run_days(&mut self, mut on_day: impl FnMut(u32)) -> anyhow::Result<()> {
        let end = self.end_of_days().after(QUIET);
        let mut day = 0;
        loop {
            let next = [self.event_queue.next_at(), self.relink.next_deadline()?, self.next_of_belvo()];
            let Some(next) = next.into_iter().flatten().min().filter(|&next| next <= end) else { break };
            self.relink.set_clock(next);
            let now = self.now();
            self.control.advance_to(now.as_millis());
            for webhook in self.control.take_webhooks() {
                self.post(webhook)?;
            }
            if let Some(event) = self.event_queue.take_due(now) {
                self.handle(event).await?;
            }
            self.run_relink()?;
            self.checker.relink_calls = false;
            let passed = u32::try_from(now.since(BEGIN).as_secs() / DAY.as_secs()).unwrap_or(u32::MAX);
            if passed > day {
                day = passed;
                on_day(day);
            }
        }
        self.check_truths()?;
        let states = self.relink.states()?;
        let states: Vec<_> =
            self.members.iter().map(|member| states.get(&member.link).map(|&state| truth_of(state))).collect();
        self.checker.end(&states, self.now());
        Ok(())
    }

    fn next_of_belvo(&self) -> Option<Timestamp> {
        self.control.next_event_at().map(Timestamp::from_millis)
    }

    fn numbered(&self, link: &LinkId) -> Option<usize> {
        self.index.get(&link.as_str().parse().ok()?).copied()
    }

    async fn handle(&mut self, event: FleetEvent) -> anyhow::Result<()> {
        match event {
            FleetEvent::Arrival(webhook) => self.arrive(*webhook)?,
            FleetEvent::Job { job, link, stored_at, tries } => self.work(job, link, stored_at, tries).await,
            FleetEvent::Reconcile => self.reconcile().await,
            FleetEvent::UserAction(number, act) => {
                let now = self.now();
                self.link_log.log(&self.members[number].link, now, || format!("user     {act:?}"));
                self.act(number, act).await?;
            }
            FleetEvent::Scan { number, mail, look } => self.scan(number, &mail, look).await?,
            FleetEvent::Call(link) => self.call(link).await?,
            FleetEvent::LinkFault(link) => self.link_fault(link).await?,
            other => self.handle_disturbance(other)?,
        }
        Ok(())
    }

    async fn work(&mut self, job: Box<JobBody>, link: LinkId, stored_at: Timestamp, tries: i64) {
        self.checker.relink_calls = true;
        let done = self.relink.worker.perform(&job, &link, stored_at).await;
        match jobs::decide_retry(&done, tries) {
            Next::Ended => self.refreshes_requested += u64::from(job.name == JobName::Refresh),
            Next::Again(pause) => {
                self.plan_in(pause, FleetEvent::Job { job, link: link.clone(), stored_at, tries: tries + 1 })
            }
            Next::GivenUp => self.jobs_abandoned += 1,
        }
        if let Some(number) = self.numbered(&link) {
            self.update_truth(number);
        }
    }

    /// Lets relink's reconciler do its next step.
    async fn reconcile(&mut self) {
        let clock = self.relink.clock.clone();
        let (step, _) = self.schedule.next(clock.elapsed(), &SETTINGS);
        let sweeps_count = self.schedule.sweeps_count();
        let pause = self.relink.reconciler.perform(step, &mut self.schedule).await;
        self.schedule.ended(step, clock.elapsed(), pause);
        if self.schedule.sweeps_count() > sweeps_count {
            self.checker.swept(clock.now());
        }
        self.plan_reconciler();
    }

    /// Plans the next step of relink's reconciler, when its schedule says.
    pub(super) fn plan_reconciler(&mut self) {
        let elapsed = self.relink.clock.elapsed();
        let (_, at) = self.schedule.next(elapsed, &SETTINGS);
        self.plan_in(at.saturating_sub(elapsed), FleetEvent::Reconcile);
    }

    /// Lets relink handle its inputs, and forwards its messages.
    pub(super) fn run_relink(&mut self) -> anyhow::Result<()> {
        let published = self.relink.handle_inputs()?;
        for link in published.refused {
            if let Some(number) = self.numbered(&link) {
                self.members[number].refused = true;
                self.update_truth(number);
            }
        }
        for link in published.outage_errors {
            if let Some(number) = self.numbered(&link) {
                let now = self.now();
                self.banks[self.members[number].bank].evidence.error(number, now);
            }
        }
        for message in published.messages {
            self.link_log.log_message(&message);
            match message.address {
                Address::Notice(name, link) => {
                    *self.notices.entry(name.as_str()).or_default() += 1;
                    let Some(number) = self.numbered(&link) else { continue };
                    self.notice(number, name, &message.body)?;
                }
                Address::Job(_, link) => {
                    let (job, stored_at) = (serde_json::from_slice(&message.body)?, self.now());
                    self.plan_in(JOB_LATENCY, FleetEvent::Job { job, link, stored_at, tries: 1 });
                }
                Address::State(link) => {
                    // A text search is faster than parsing: only a few of half a million states match.
                    if message.body.windows(PROMPT_DEFERRED.len()).any(|states| states == PROMPT_DEFERRED)
                        && let Some(number) = self.numbered(&link)
                    {
                        self.checker.deferred(number);
                    }
                }
                Address::Incident(_) => {
                    let body: Value = serde_json::from_slice(&message.body)?;
                    self.incidents += u64::from(body["type"] == "began");
                    let bank = BANKS.iter().position(|bank| body["institution"] == bank.name);
                    match (bank, body["type"].as_str()) {
                        (Some(bank), Some("began")) => self.banks[bank].evidence.is_published = true,
                        (Some(bank), Some("ended")) => self.banks[bank].evidence.is_published = false,
                        _another => {}
                    }
                }
                Address::Observed(..)
                | Address::Refused(_)
                | Address::Offset(_)
                | Address::Fence(_)
                | Address::Commit(_) => {}
            }
        }
        Ok(())
    }

    fn notice(&mut self, number: usize, name: NoticeName, body: &[u8]) -> anyhow::Result<()> {
        let now = self.now();
        if let NoticeName::UpdateRequired | NoticeName::Reminder | NoticeName::ConsentExpiring = name {
            let notice: NoticeBody = serde_json::from_slice(body)?;
            let mut also = Vec::new();
            for other in &notice.also_broken {
                let Some(other_number) = self.numbered(&other.link_id.parse()?) else { continue };
                also.push(other_number);
                self.mail(other_number, other.repair_url.as_deref(), other.episode);
            }
            let episode = notice.episode.as_ref().map_or(0, |episode| episode.number);
            self.mail(number, notice.repair_url.as_deref(), episode);
            if let NoticeContent::UpdateRequired { action } | NoticeContent::Reminder { action, .. } = notice.content {
                let mut circumstances = self.circumstances(number);
                // The state of the bank says nothing about a consent that has ended.
                circumstances.is_reminder = name == NoticeName::Reminder;
                circumstances.bank_is_down &= !matches!(action, Action::RenewConsent | Action::None);
                self.checker.asked(number, circumstances, now);
            }
            self.checker.messaged(number, &also, now);
            for other in also {
                self.members[other].is_notified_broken = true;
                self.notify_user(other);
            }
        }
        match name {
            NoticeName::UpdateRequired => {
                let body: Value = serde_json::from_slice(body)?;
                let sequence = body["because"]["origin"]["input_sequence"].as_u64();
                let source = sequence.map(|sequence| self.relink.source_of(sequence));
                self.checker.prompted(number, source, now);
                self.members[number].is_notified_broken = true;
                self.notify_user(number);
            }
            NoticeName::Reminder => self.notify_user(number),
            NoticeName::Recovered => {
                self.members[number].is_notified_broken = false;
                self.checker.recovered(number, now);
            }
            NoticeName::RefreshDue => self.checker.gap_opened(number),
            NoticeName::Refreshed => self.checker.gap_closed(number),
            NoticeName::Superseded => self.checker.superseded(number),
            NoticeName::CreationUnfinished
            | NoticeName::UpdateStarted
            | NoticeName::UpdateFailed
            | NoticeName::DataAvailable
            | NoticeName::ConsentExpiring
            | NoticeName::Stale
            | NoticeName::InstitutionDown
            | NoticeName::InstitutionRestored
            | NoticeName::Removed => {}
        }
        Ok(())
    }

    /// The user of a link gets the address of the repair page, if the message has one.
    fn mail(&mut self, number: usize, url: Option<&str>, episode: u32) {
        let Some(url) = url else { return };
        let mail = Mail { url: url.to_owned(), episode: EpisodeNumber(episode), sent_at: self.now() };
        self.plan_scans(number, &mail);
        self.members[number].mail = Some(mail);
    }

    /// The circumstances of a message to the user of a link, which do not depend on who sends it.
    pub(super) fn circumstances(&self, number: usize) -> Circumstances {
        let bank = self.members[number].bank;
        let state = &self.banks[bank];
        // None of these countries changes its clocks.
        let offset = match BANKS[bank].name {
            name if name.contains("_mx_") => -6,
            name if name.contains("_co_") => -5,
            _brazil => -3,
        };
        let hour = (self.now().as_millis().div_euclid(3_600_000) + offset).rem_euclid(24);
        Circumstances {
            bank_is_down: state.is_down || state.refuses_logins,
            bank_could_be_known: state.evidence.shows_outage(self.now()),
            is_quiet: self.options.quiet_hours && !(8..22).contains(&hour),
            is_reminder: false,
        }
    }

    /// Reads the ground truth of a link, and reports it to the checker.
    pub(super) fn update_truth(&mut self, number: usize) {
        let member = &mut self.members[number];
        let truth = match self.control.status_of(member.id) {
            Err(_gone) => GroundTruth::Gone,
            Ok(LinkStatus::Valid) if member.refused => GroundTruth::Refused,
            Ok(LinkStatus::Valid) => GroundTruth::Works,
            Ok(_) => GroundTruth::Broken,
        };
        let before = self.checker.truth(number);
        let now = self.relink.clock.now();
        self.checker.set_truth(number, truth, now);
        if before != truth {
            self.link_log.log(&member.link, now, || format!("truth    {before:?} -> {truth:?}"));
        }
        if before == GroundTruth::Works && truth != GroundTruth::Gone {
            self.link_broke(number);
        }
    }

    /// Fails if the ground truth of a link has changed without a call of [`Self::update_truth`].
    fn check_truths(&mut self) -> anyhow::Result<()> {
        for number in 0..self.members.len() {
            let before = self.checker.truth(number);
            self.update_truth(number);
            let link = &self.members[number].link;
            anyhow::ensure!(before == self.checker.truth(number), "{link} changed without a report to the checker");
        }
        Ok(())
    }
}

fn truth_of(state: StateName) -> GroundTruth {
    match state {
        StateName::Valid => GroundTruth::Works,
        StateName::Invalid | StateName::TokenRequired | StateName::Updating | StateName::Unconfirmed => {
            GroundTruth::Broken
        }
        StateName::Removed => GroundTruth::Gone,
    }
}
