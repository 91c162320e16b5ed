//! The schedule of the reconciler's steps.
//!
//! The first step runs some time after the partitions have started: events of relink's downtime may still be in the
//! input stream, or be repeated by Belvo, and would look like drift.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Reconciler, SweepError, SweepSettings, Swept};
use crate::belvo::IDS_MAX;

/// The pause between the start of the partitions and the first sweep.
const START_PAUSE: Duration = Duration::from_secs(30);

/// The pause after a failed step.
const RETRY_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The interval at which deferred reads are checked.
const DEFERRED_PAUSE: Duration = Duration::from_secs(60);

/// The least pause between two steps of one kind, whatever the number of links and the rate.
const STEP_PAUSE_MIN: Duration = Duration::from_millis(100);

/// A kind of step. If several are due, they run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Belvo's lists of broken links, and the links that relink knows as broken.
    Sweep,
    /// The list of all consents.
    Consents,
    /// The deferred reads.
    Retry,
    /// One adopted link.
    Release,
    /// The next fifty of all links.
    Rotate,
}

/// The time of the next step of each kind, as a duration since any fixed moment. The schedule is not stored; a restart
/// begins a new schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    sweep_at: Duration,
    consents_at: Duration,
    retry_at: Duration,
    release_at: Duration,
    rotate_at: Duration,
    // When the last survey began that found links, by the clock of the reconciler.
    surveyed_at: Option<Duration>,
    // Consents follow the first sweep, whose survey adopts the links of the consents. Releases follow the consents,
    // which show what the user of an adopted link has to do. A failed attempt also counts, so that an error does not
    // block the next kind.
    swept: bool,
    listed_consents: bool,
    sweeps_count: u64,
    rng: fastrand::Rng,
}

impl Schedule {
    /// The schedule of a process that starts at `now`; `seed` determines the jitter.
    pub fn new(now: Duration, seed: u64) -> Self {
        let (first, second) = (now + START_PAUSE, now + START_PAUSE * 2);
        Self {
            sweep_at: first,
            consents_at: first,
            retry_at: second,
            release_at: second,
            rotate_at: second,
            surveyed_at: None,
            swept: false,
            listed_consents: false,
            sweeps_count: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The next step and its time, which is in the past if the step is overdue.
    pub fn next(&self, now: Duration, settings: &SweepSettings) -> (Step, Duration) {
        let releases = settings.adoption_per_hour > 0 && self.listed_consents;
        let steps = [
            (Step::Consents, self.consents_at, self.swept),
            (Step::Retry, self.retry_at, true),
            (Step::Release, self.release_at, releases),
            (Step::Rotate, self.rotate_at, true),
        ];
        let waiting = steps.into_iter().filter(|(.., is_on)| *is_on).map(|(step, at, _)| (step, at));
        // Of several steps that are due, the first in the order of `Step` runs, not the longest overdue.
        waiting.fold(
            (Step::Sweep, self.sweep_at),
            |first, next| if next.1.max(now) < first.1.max(now) { next } else { first },
        )
    }

    /// How many sweeps have read everything that they requested.
    pub const fn sweeps_count(&self) -> u64 {
        self.sweeps_count
    }

    /// Notes that a step ended at `now`; the next one of its kind is due after `pause`.
    pub fn ended(&mut self, step: Step, now: Duration, pause: Duration) {
        let next = now + pause.max(STEP_PAUSE_MIN);
        match step {
            Step::Sweep => self.sweep_at = next,
            Step::Consents => self.consents_at = next,
            Step::Retry => self.retry_at = next,
            Step::Release => self.release_at = next,
            Step::Rotate => self.rotate_at = next,
        }
    }

    /// Adds jitter of up to a tenth, so that several processes do not call Belvo in the same second.
    fn jittered(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.f64().mul_add(0.2, 0.9))
    }
}

impl Reconciler {
    /// Runs the steps until `shutdown`, which aborts a running step; the next start repeats it.
    pub async fn run(self, ready: watch::Receiver<bool>, shutdown: CancellationToken) {
        self.set_deferred_gauge();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.sweep_forever(ready) => {}
        }
    }

    async fn sweep_forever(&self, mut ready: watch::Receiver<bool>) {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::ZERO, fastrand::u64(..));
        loop {
            let (step, at) = schedule.next(start.elapsed(), &self.settings);
            sleep_until(start + at).await;
            if !*ready.borrow() {
                if ready.wait_for(|ready| *ready).await.is_err() {
                    return;
                }
                sleep(START_PAUSE).await;
            }
            let pause = self.perform(step, &mut schedule).await;
            schedule.ended(step, start.elapsed(), pause);
        }
    }

    /// Runs one step. Returns the pause until the next one of its kind.
    pub async fn perform(&self, step: Step, schedule: &mut Schedule) -> Duration {
        // A panic, which is a bug, ends only this step.
        let result = AssertUnwindSafe(self.try_to_perform(step, schedule)).catch_unwind().await;
        result.unwrap_or(Err(SweepError::Panicked)).unwrap_or_else(|error| {
            tracing::warn!(%error, ?step, "a sweep failed and will be tried again");
            RETRY_PAUSE.min(self.settings.sweep_every)
        })
    }

    async fn try_to_perform(&self, step: Step, schedule: &mut Schedule) -> Result<Duration, SweepError> {
        match step {
            Step::Sweep => {
                schedule.swept = true;
                self.sweep(&mut schedule.surveyed_at).await?;
                schedule.sweeps_count += 1;
                Ok(schedule.jittered(self.settings.sweep_every))
            }
            Step::Consents => {
                schedule.listed_consents = true;
                self.sweep_consents().await?;
                Ok(schedule.jittered(self.settings.rotation))
            }
            Step::Retry => self.retry().await.map(|_swept| DEFERRED_PAUSE),
            Step::Release => {
                self.release_adopted().await.map(|_released| release_pause(self.settings.adoption_per_hour))
            }
            Step::Rotate => {
                let pause = self.rotate_and_pause().await?;
                Ok(schedule.jittered(pause))
            }
        }
    }

    async fn sweep(&self, surveyed_at: &mut Option<Duration>) -> Result<(), SweepError> {
        let now = self.parts.clock.elapsed();
        // The survey is repeated, because relink may lose a link after it: `KV_links` loses its state, and `BELVO` has
        // deleted its inputs already.
        let is_survey = surveyed_at.is_none_or(|at| now.saturating_sub(at) >= self.settings.rotation);
        let listed = if is_survey { self.survey().await } else { self.sweep_broken().await };
        // An empty list is no survey: the calls may go to another account, which has none of the links.
        if is_survey && listed.as_ref().is_ok_and(|swept| swept.read_count > 0) {
            *surveyed_at = Some(now);
        }
        // This step reads links by id, which may work while lists fail.
        let known_broken = self.sweep_known_broken().await;
        // A survey has listed the links of all users.
        let same_users = if is_survey { Ok(Swept::default()) } else { self.sweep_same_users_if_possible().await };
        let (listed, known_broken, same_users) = (listed?, known_broken?, same_users?);
        let drifted_count = listed.drifted_count + known_broken.drifted_count + same_users.drifted_count;
        tracing::info!(
            links.read_count = listed.read_count + known_broken.read_count + same_users.read_count,
            links.drifted_count = drifted_count,
            links.adopted_count = listed.adopted_count + same_users.adopted_count,
            links.skipped_count = listed.skipped_count + known_broken.skipped_count + same_users.skipped_count,
            "a sweep has ended"
        );
        Ok(())
    }

    /// Reads fifty links. Returns the pause with which all links take one rotation.
    async fn rotate_and_pause(&self) -> Result<Duration, SweepError> {
        self.rotate().await?;
        let links: u64 = self.read_store(|store| Ok(store.count()?.values().sum())).await?;
        let steps = u32::try_from(links.div_ceil(IDS_MAX as u64)).unwrap_or(u32::MAX).max(1);
        Ok(self.settings.rotation / steps)
    }
}

/// Links are released one at a time and evenly over the hour, because people answer the questions of the users.
fn release_pause(per_hour: u32) -> Duration {
    Duration::from_secs(3600) / per_hour.max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::future::{BoxFuture, ready};

    use super::*;
    use crate::belvo::{Client, MissingGuard, Question, Reply, SecretId, SecretPassword, Timeouts, Wire};
    use crate::clock::Clock;
    use crate::link::{LinkId, Policy, PolicySettings, Timestamp};
    use crate::nats::history::{HistoryError, LinkHistory, ReadHistory};
    use crate::nats::inputs::{Inputs, NewInput};
    use crate::nats::publisher::PublishError;
    use crate::reconciler::Parts;
    use crate::store::MemoryStore;

    const SETTINGS: SweepSettings = SweepSettings {
        sweep_every: Duration::from_secs(3600),
        rotation: Duration::from_secs(86_400),
        adoption_per_hour: 60,
    };

    const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

    /// A Belvo with one valid link, and a stream that forgets every input. It records the links of the inputs.
    #[derive(Clone, Debug, Default)]
    struct Forgetful(Arc<Mutex<Vec<LinkId>>>);

    impl Wire for Forgetful {
        fn ask(&self, question: Question) -> BoxFuture<'_, Result<Reply, String>> {
            let is_listed = !question.target.contains("status__in=");
            let link = serde_json::json!({"id": LINK, "status": "valid", "institution": "erebor_mx_retail"});
            let results: Vec<_> = is_listed.then_some(link).into_iter().collect();
            let body = serde_json::json!({"count": results.len(), "next": null, "results": results});
            Box::pin(ready(Ok(Reply { status: 200, retry_after: None, body: body.to_string().into() })))
        }
    }

    impl Inputs for Forgetful {
        fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
            self.0.lock().expect("no test panics here").push(input.link);
            Box::pin(ready(Ok(())))
        }
    }

    impl ReadHistory for Forgetful {
        fn history<'a>(&'a self, _link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>> {
            Box::pin(ready(Ok(LinkHistory::default())))
        }
    }

    #[tokio::test]
    async fn a_link_that_relink_has_lost_is_found_within_one_rotation() {
        let forgetful = Forgetful::default();
        let (clock, manual) = Clock::manual(Timestamp::from_millis(1_790_000_000_000));
        let keys = (SecretId("id".into()), SecretPassword("password".into()));
        let client =
            Client::new("http://belvo.invalid", keys.0, keys.1, Timeouts::default()).expect("it is an address");
        let parts = Parts {
            belvo: client.with_wire(Arc::new(forgetful.clone())),
            guard: MissingGuard::default(),
            store: Arc::new(MemoryStore::default()),
            inputs: Arc::new(forgetful.clone()),
            histories: Arc::new(forgetful.clone()),
            policy: Policy::new(PolicySettings::default()).expect("the defaults are in range"),
            clock: clock.clone(),
        };
        let reconciler = Reconciler::rotating_from(None, SETTINGS, parts);
        let mut schedule = Schedule::new(clock.elapsed(), 1);
        let mut found = Vec::new();
        for _ in 0..=25 {
            reconciler.perform(Step::Sweep, &mut schedule).await;
            found.push(std::mem::take(&mut *forgetful.0.lock().expect("no test panics here")).len());
            manual.set(clock.now().after(SETTINGS.sweep_every));
        }
        // Sweep 0 finds the link, and relink loses it at once. One survey in a rotation is enough.
        let surveys: Vec<usize> = (0..found.len()).filter(|sweep| found[*sweep] > 0).collect();
        assert_eq!(surveys, [0, 24]);
    }

    #[test]
    fn a_rate_per_hour_becomes_a_pause() {
        let pauses = [1, 60, 3600].map(|per_hour| release_pause(per_hour).as_secs());
        assert_eq!(pauses, [3600, 60, 1]);
    }

    #[test]
    fn jitter_is_a_tenth_at_most() {
        let (hour, mut schedule) = (Duration::from_secs(3600), Schedule::new(Duration::ZERO, 1));
        for _ in 0..1_000 {
            let pause = schedule.jittered(hour);
            assert!(pause >= hour.mul_f64(0.899) && pause <= hour.mul_f64(1.101), "{pause:?}");
        }
    }

    #[test]
    fn the_first_steps_run_in_the_order_of_their_kinds() {
        let (mut schedule, mut now, mut steps) = (Schedule::new(Duration::ZERO, 1), Duration::ZERO, Vec::new());
        for _ in 0..5 {
            let (step, at) = schedule.next(now, &SETTINGS);
            now = now.max(at);
            // As `try_to_perform` does.
            schedule.swept |= step == Step::Sweep;
            schedule.listed_consents |= step == Step::Consents;
            schedule.ended(step, now, Duration::from_secs(600));
            steps.push((step, now.as_secs()));
        }
        let expected =
            [(Step::Sweep, 30), (Step::Consents, 30), (Step::Retry, 60), (Step::Release, 60), (Step::Rotate, 60)];
        assert_eq!(steps, expected);
        // After a long pause every step is due: the order of the kinds decides again.
        assert_eq!(schedule.next(now + Duration::from_secs(9_999), &SETTINGS).0, Step::Sweep);
    }
}
