//! When the reconciler does what. It adds nothing to the steps but the time.
//!
//! Nothing begins before the lanes run, nor at once after: what relink missed while it was down may still be in the
//! input stream, or be sent again by Belvo, and would look like drift.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Reconciler, SweepError};
use crate::belvo::IDS_MAX;

/// From the start to the first sweep.
const START_PAUSE: Duration = Duration::from_secs(30);

/// The first pause after a failure; Belvo may be down for hours, and the question stays.
const RETRY_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How often it is looked whether something that was put off is due.
const PUT_OFF_PAUSE: Duration = Duration::from_secs(60);

/// The least time between two steps of one kind, however large the fleet or the rate.
const STEP_PAUSE_MIN: Duration = Duration::from_millis(100);

/// What can wake the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Sweep,
    Rotate,
    Consents,
    Release,
    Retry,
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
        // The survey introduces the links that consents are about; consents tell what an adopted link's user has to do.
        // Neither waits for ever for one that does not come to its end.
        let (mut surveyed, mut swept, mut asked_for_consents) = (false, false, false);
        let start = Instant::now() + START_PAUSE;
        let (mut sweep_at, mut consents_at) = (start, start);
        let (mut rotate_at, mut release_at, mut retry_at) =
            (start + START_PAUSE, start + START_PAUSE, start + START_PAUSE);
        loop {
            let releases = self.settings.adoption_per_hour > 0 && asked_for_consents;
            let wake = tokio::select! {
                biased;
                () = sleep_until(sweep_at) => Wake::Sweep,
                () = sleep_until(consents_at), if swept => Wake::Consents,
                () = sleep_until(retry_at) => Wake::Retry,
                () = sleep_until(release_at), if releases => Wake::Release,
                () = sleep_until(rotate_at) => Wake::Rotate,
            };
            if !*ready.borrow() {
                if ready.wait_for(|ready| *ready).await.is_err() {
                    return;
                }
                sleep(START_PAUSE).await;
            }
            let step = async {
                match wake {
                    Wake::Sweep => {
                        swept = true;
                        self.sweep(&mut surveyed).await.map(|()| jittered(self.settings.sweep_every))
                    }
                    Wake::Rotate => self.rotate_and_pause().await,
                    Wake::Consents => {
                        asked_for_consents = true;
                        self.sweep_consents().await.map(|_swept| jittered(self.settings.rotation))
                    }
                    Wake::Release => {
                        self.release_adopted().await.map(|_released| release_pause(self.settings.adoption_per_hour))
                    }
                    Wake::Retry => self.retry().await.map(|_swept| PUT_OFF_PAUSE),
                }
            };
            // A bug that panics in one step must not end them all.
            let result = AssertUnwindSafe(step).catch_unwind().await.unwrap_or(Err(SweepError::Panicked));
            let pause = result.unwrap_or_else(|error| {
                tracing::warn!(%error, step = ?wake, "a sweep broke off and will be tried again");
                RETRY_PAUSE.min(self.settings.sweep_every)
            });
            let next = Instant::now() + pause.max(STEP_PAUSE_MIN);
            match wake {
                Wake::Sweep => sweep_at = next,
                Wake::Rotate => rotate_at = next,
                Wake::Consents => consents_at = next,
                Wake::Release => release_at = next,
                Wake::Retry => retry_at = next,
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
        Ok(jittered(self.settings.rotation / steps))
    }
}

/// One at a time rather than an hour's at once: the people who answer the users' questions are not a batch either.
fn release_pause(per_hour: u32) -> Duration {
    Duration::from_secs(3600) / per_hour.max(1)
}

/// A tenth more or less, so that many relinks do not call Belvo in one second.
fn jittered(span: Duration) -> Duration {
    span.mul_f64(fastrand::f64().mul_add(0.2, 0.9))
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
        let hour = Duration::from_secs(3600);
        for _ in 0..1_000 {
            let pause = jittered(hour);
            assert!(pause >= hour.mul_f64(0.899) && pause <= hour.mul_f64(1.101), "{pause:?}");
        }
    }
}
