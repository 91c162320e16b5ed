//! The loop: the next event, and everything that follows from it.
//!
//! ```text
//!   people, banks, Belvo's own schedule ─▶ webhooks, errors, callbacks ─▶ relink ─▶ notices ─▶ people, checker
//!                                                                            └────▶ jobs ─▶ Belvo
//! ```
//!
//! One event happens at a time, and everything that follows from it at once, so a seed has one history. Both clocks stand
//! still meanwhile; only a call that has to wait for its turn moves relink's on.

use std::time::Duration;

use belvo_sandbox::LinkStatus;
use serde_json::Value;

use super::checker::GroundTruth;
use super::hazards::DAY;
use super::options::FleetOptions;
use super::relink::SETTINGS;
use super::report::Report;
use super::state::{BEGIN, Happening, Simulation};
use crate::belvo::IDS_MAX;
use crate::contract::{Address, JobBody, JobName, NoticeName};
use crate::jobs::{self, Next};
use crate::link::{LinkId, StateName, Timestamp};

/// How long everything is left in peace at the end, so that what relink has not noticed by then, it never will: one
/// rotation, and two sweeps.
const QUIET: Duration = Duration::from_secs(27 * 3600);

/// How soon a sweep that broke off is tried again. As in the reconciler.
const SWEEP_RETRY: Duration = Duration::from_secs(5 * 60);

/// How long a job lies on the bus before a worker has it.
const JOB_LATENCY: Duration = Duration::from_millis(150);

/// In a link's state: its prompt waits for the end of an incident.
const WAITS: &[u8] = br#""prompt":"deferred""#;

/// Lets a fleet live through its days. `on_day` is called for each that has passed.
///
/// # Errors
/// If a part fails in a way that the simulation does not know: a mistake in it, or in relink.
pub async fn simulate(options: FleetOptions, on_day: impl FnMut(u32)) -> anyhow::Result<Report> {
    let mut simulation = Simulation::begin(options).await?;
    simulation.live(on_day).await?;
    let report = Report::of(&simulation);
    simulation.sandbox.shutdown().await;
    Ok(report)
}

impl Simulation {
    /// Lives through it all. `on_day` is called for each day that has passed.
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
            self.checker.relink_calls = false;
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
        self.checker.end(&words, self.now());
        Ok(())
    }

    fn next_of_belvo(&self) -> Option<Timestamp> {
        self.control.next_event_at().map(Timestamp::from_millis)
    }

    fn numbered(&self, link: &LinkId) -> Option<usize> {
        self.index.get(&link.as_str().parse().ok()?).copied()
    }

    async fn happen(&mut self, happening: Happening) -> anyhow::Result<()> {
        match happening {
            Happening::Arrival(webhook) => self.arrive(*webhook)?,
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
        self.checker.relink_calls = true;
        let done = self.relink.worker.perform(&job, &link, stored_at).await;
        match jobs::decide_retry(&done, tries) {
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
            Ok(_) => self.relink.reconciler.sweep_known_broken().await,
            Err(error) => Err(error),
        };
        let pause = if swept.is_ok() { jittered(SETTINGS.sweep_every, &mut self.rng) } else { SWEEP_RETRY };
        self.plan_in(pause, Happening::Sweep);
        if swept.is_ok() {
            self.checker.swept();
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

    /// Lets relink handle its inputs, and hands its messages on.
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
                        self.checker.held(number);
                    }
                }
                Address::Incident(_) => {
                    let body: Value = serde_json::from_slice(&message.body)?;
                    self.incidents += u64::from(body["type"] == "began");
                }
                Address::Refused(_) | Address::Offset(_) | Address::Fence(_) | Address::Commit(_) => {}
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
                let source = sequence.map(|sequence| self.relink.source_of(sequence));
                self.checker.prompted(number, source, now);
                self.members[number].told_broken = true;
                self.user_is_told(number);
            }
            NoticeName::Reminder => self.user_is_told(number),
            NoticeName::Recovered => {
                self.members[number].told_broken = false;
                self.checker.recovered(number, now);
            }
            NoticeName::RefreshDue => self.checker.gap_opened(number),
            NoticeName::Refreshed => self.checker.gap_closed(number),
            NoticeName::UpdateStarted
            | NoticeName::UpdateFailed
            | NoticeName::DataAvailable
            | NoticeName::ConsentExpiring
            | NoticeName::Stale
            | NoticeName::Removed => {}
        }
        Ok(())
    }

    /// Reads the ground truth of a link, and reports it to the checker.
    pub(super) fn look(&mut self, number: usize) {
        let member = &mut self.members[number];
        let truth = match self.control.status_of(member.id) {
            Err(_gone) => GroundTruth::Gone,
            Ok(LinkStatus::Valid) if member.refused => GroundTruth::Refused,
            Ok(LinkStatus::Valid) => GroundTruth::Works,
            Ok(_) => GroundTruth::Broken,
        };
        let before = self.checker.truth(number);
        let now = self.relink.clock.now();
        self.checker.is_true(number, truth, now);
        if before != truth {
            self.story.tell(&member.link, now, || format!("truth    {before:?} -> {truth:?}"));
        }
        if before == GroundTruth::Works && truth != GroundTruth::Gone {
            self.broke(number);
        }
    }

    /// Fails if the ground truth of a link has changed without a call of [`Self::look`].
    fn look_at_all(&mut self) -> anyhow::Result<()> {
        for number in 0..self.members.len() {
            let before = self.checker.truth(number);
            self.look(number);
            let link = &self.members[number].link;
            anyhow::ensure!(before == self.checker.truth(number), "{link} changed, and the checker was not told");
        }
        Ok(())
    }
}

fn truth_of(word: StateName) -> GroundTruth {
    match word {
        StateName::Valid => GroundTruth::Works,
        StateName::Invalid | StateName::TokenRequired | StateName::Updating | StateName::Unconfirmed => {
            GroundTruth::Broken
        }
        StateName::Removed => GroundTruth::Gone,
    }
}

/// A tenth more or less, as the reconciler's own pace is.
fn jittered(span: Duration, rng: &mut fastrand::Rng) -> Duration {
    span.mul_f64(rng.f64().mul_add(0.2, 0.9))
}
