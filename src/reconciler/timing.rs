//! When each step of the reconciler last ended, and how long it took: for the metrics, and for people who ask how fresh relink's view is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use super::{Reconciler, SweepError};
use crate::clock;
use crate::contract::{At, SweepStatus};
use crate::metric;

/// The last complete step of each kind since the start, by the name that the metrics have.
pub(super) type StepsEnded = BTreeMap<&'static str, SweepStatus>;

impl Reconciler {
    /// The last complete step of each kind since the start.
    pub fn steps_ended(&self) -> watch::Receiver<StepsEnded> {
        self.ended.subscribe()
    }

    /// Notes when a step has ended, and whether it failed.
    pub(super) async fn timed<T>(
        &self,
        name: &'static str,
        step: impl Future<Output = Result<T, SweepError>>,
    ) -> Result<T, SweepError> {
        let started = clock::instant();
        let result = step.await;
        if result.is_ok() {
            let (at, took) = (self.parts.clock.now(), started.elapsed());
            metrics::gauge!(metric::SWEEP_SECONDS.name, "step" => name).set(took.as_secs_f64());
            let ended_at = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or_default());
            metrics::gauge!(metric::SWEEP_ENDED_AT_SECONDS.name, "step" => name).set(ended_at.as_secs_f64());
            self.ended.send_modify(|ended| {
                ended.insert(name, SweepStatus { step: name, ended_at: At(at), took_secs: took.as_secs_f64() });
            });
        } else {
            metrics::counter!(metric::SWEEP_FAILURES.name, "step" => name).increment(1);
        }
        result
    }
}
