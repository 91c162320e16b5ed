//! When the reconciler does what. It adds nothing to the steps but the time.
//!
//! Nothing begins before the partitions run, nor at once after: what relink missed while it was down may still be in the
//! input stream, or be sent again by Belvo, and would look like drift.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Reconciler, Settings, SweepError};
use crate::belvo::IDS_MAX;

/// From the start to the first sweep.
const START_PAUSE: Duration = Duration::from_secs(30);

/// The first pause after a failure; Belvo may be down for hours, and the question stays.
const RETRY_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How often it is looked whether something that was put off is due.
const PUT_OFF_PAUSE: Duration = Duration::from_secs(60);

/// The least time between two steps of one kind, however large the fleet or the rate.
const STEP_PAUSE_MIN: Duration = Duration::from_millis(100);

/// A kind of step, in the order in which they go if several are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The lists of Belvo's, and the links that are held to be broken.
    Sweep,
    /// The list of all consents.
    Consents,
    /// What was put off.
    Retry,
    /// One adopted link.
    Release,
    /// The next fifty of all links.
    Rotate,
}

/// Which step is next, and when: all times are spans since any one moment. A restart begins a new one.
#[derive(Clone, Debug)]
pub struct Schedule {
    sweep_at: Duration,
    consents_at: Duration,
    retry_at: Duration,
    release_at: Duration,
    rotate_at: Duration,
    // The survey introduces the links that consents are about; consents tell what an adopted link's user has to do.
    // Neither waits for ever for one that does not come to its end.
    surveyed: bool,
    swept: bool,
    asked_for_consents: bool,
    sweeps_count: u64,
    rng: fastrand::Rng,
}

impl Schedule {
    /// The schedule of a start at `now`, with dice from `seed`.
    pub fn new(now: Duration, seed: u64) -> Self {
        let (first, second) = (now + START_PAUSE, now + START_PAUSE * 2);
        Self {
            sweep_at: first,
            consents_at: first,
            retry_at: second,
            release_at: second,
            rotate_at: second,
            surveyed: false,
            swept: false,
            asked_for_consents: false,
            sweeps_count: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The next step, and when; in the past, if it is overdue.
    pub fn next(&self, now: Duration, settings: &Settings) -> (Step, Duration) {
        let releases = settings.adoption_per_hour > 0 && self.asked_for_consents;
        let steps = [
            (Step::Consents, self.consents_at, self.swept),
            (Step::Retry, self.retry_at, true),
            (Step::Release, self.release_at, releases),
            (Step::Rotate, self.rotate_at, true),
        ];
        let waiting = steps.into_iter().filter(|(.., is_on)| *is_on).map(|(step, at, _)| (step, at));
        // Of those that are due already, none is earlier than another.
        waiting.fold(
            (Step::Sweep, self.sweep_at),
            |first, next| if next.1.max(now) < first.1.max(now) { next } else { first },
        )
    }

    /// How many sweeps have read all that they asked for.
    pub const fn sweeps_count(&self) -> u64 {
        self.sweeps_count
    }

    /// A step has ended at `now`, and is done again after `pause`.
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

    /// A tenth more or less, so that many relinks do not call Belvo in one second.
    fn jittered(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.f64().mul_add(0.2, 0.9))
    }
}

impl Reconciler {
    /// Sweeps until `shutdown`. A step under way is then broken off; the next start does it again.
    pub async fn run(self, ready: watch::Receiver<bool>, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.sweep_for_ever(ready) => {}
        }
    }

    async fn sweep_for_ever(&self, mut ready: watch::Receiver<bool>) {
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

    /// Does one step, and gives the pause until the next of its kind.
    pub async fn perform(&self, step: Step, schedule: &mut Schedule) -> Duration {
        // A bug that panics in one step must not end them all.
        let result = AssertUnwindSafe(self.try_to_perform(step, schedule)).catch_unwind().await;
        result.unwrap_or(Err(SweepError::Panicked)).unwrap_or_else(|error| {
            tracing::warn!(%error, ?step, "a sweep broke off and will be tried again");
            RETRY_PAUSE.min(self.settings.sweep_every)
        })
    }

    async fn try_to_perform(&self, step: Step, schedule: &mut Schedule) -> Result<Duration, SweepError> {
        match step {
            Step::Sweep => {
                schedule.swept = true;
                self.sweep(&mut schedule.surveyed).await?;
                schedule.sweeps_count += 1;
                Ok(schedule.jittered(self.settings.sweep_every))
            }
            Step::Consents => {
                schedule.asked_for_consents = true;
                self.sweep_consents().await?;
                Ok(schedule.jittered(self.settings.rotation))
            }
            Step::Retry => self.retry().await.map(|_swept| PUT_OFF_PAUSE),
            Step::Release => {
                self.release_adopted().await.map(|_released| release_pause(self.settings.adoption_per_hour))
            }
            Step::Rotate => {
                let pause = self.rotate_and_pause().await?;
                Ok(schedule.jittered(pause))
            }
        }
    }

    async fn sweep(&self, surveyed: &mut bool) -> Result<(), SweepError> {
        let listed = if *surveyed { self.sweep_broken().await } else { self.survey().await };
        *surveyed |= listed.is_ok();
        // The links that relink holds to be broken are asked for by id, which may well work where a list does not.
        let held = self.sweep_held().await;
        let (listed, held) = (listed?, held?);
        let drifted_count = listed.drifted_count + held.drifted_count;
        tracing::info!(
            links.read_count = listed.read_count + held.read_count,
            links.drifted_count = drifted_count,
            links.adopted_count = listed.adopted_count,
            links.skipped_count = listed.skipped_count + held.skipped_count,
            "a sweep has ended"
        );
        Ok(())
    }

    /// Fifty links, then as long as makes the whole fleet take one rotation.
    async fn rotate_and_pause(&self) -> Result<Duration, SweepError> {
        self.rotate().await?;
        let links: u64 = self.ask_store(|store| Ok(store.count()?.values().sum())).await?;
        let steps = u32::try_from(links.div_ceil(IDS_MAX as u64)).unwrap_or(u32::MAX).max(1);
        Ok(self.settings.rotation / steps)
    }
}

/// One at a time rather than an hour's at once: the people who answer the users' questions are not a batch either.
fn release_pause(per_hour: u32) -> Duration {
    Duration::from_secs(3600) / per_hour.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_pause() {
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
    fn the_first_steps_go_in_their_order() {
        let settings = Settings {
            sweep_every: Duration::from_secs(3600),
            rotation: Duration::from_secs(86_400),
            adoption_per_hour: 60,
        };
        let (mut schedule, mut now, mut steps) = (Schedule::new(Duration::ZERO, 1), Duration::ZERO, Vec::new());
        for _ in 0..5 {
            let (step, at) = schedule.next(now, &settings);
            now = now.max(at);
            // As `perform` does.
            schedule.swept |= step == Step::Sweep;
            schedule.asked_for_consents |= step == Step::Consents;
            schedule.ended(step, now, Duration::from_secs(600));
            steps.push((step, now.as_secs()));
        }
        let expected =
            [(Step::Sweep, 30), (Step::Consents, 30), (Step::Retry, 60), (Step::Release, 60), (Step::Rotate, 60)];
        assert_eq!(steps, expected);
        // Long asleep, everything is due: the order holds again.
        assert_eq!(schedule.next(now + Duration::from_secs(9_999), &settings).0, Step::Sweep);
    }
}
