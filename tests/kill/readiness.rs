//! Whether `/readyz` was honest.
//!
//! The rule: there are no ten seconds in which every sample of `/readyz` was 200, and every webhook that was sent was refused or not
//! answered. A sample that is not 200, or is not answered within a second, starts the ten seconds again, and so does a stored webhook.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::load::Shared;

/// How long relink may say that it is ready while it stores nothing.
const DISHONEST_AFTER: Duration = Duration::from_secs(10);

const SAMPLE_EVERY: Duration = Duration::from_millis(50);
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the samples and the answers have shown.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Every sample since then was 200.
    ready_since: Option<Instant>,
    /// No webhook was stored since then, although at least one was sent.
    refused_since: Option<Instant>,
    samples: u64,
    violation: Option<String>,
}

impl Readiness {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process answers from now on, or another round begins.
    pub(crate) fn start_again(&self) {
        let mut seen = self.seen();
        (seen.ready_since, seen.refused_since) = (None, None);
    }

    fn sampled(&self, is_ready: bool) {
        let mut seen = self.seen();
        seen.samples += 1;
        seen.ready_since = is_ready.then(|| seen.ready_since.unwrap_or_else(Instant::now));
    }

    /// A webhook that was sent at `sent_at` was stored, or was not.
    pub(crate) fn answered(&self, sent_at: Instant, is_stored: bool) {
        let mut seen = self.seen();
        if is_stored {
            seen.refused_since = None;
            return;
        }
        let refused_since = *seen.refused_since.get_or_insert(sent_at);
        let Some(ready_since) = seen.ready_since else { return };
        let both = ready_since.max(refused_since).elapsed();
        if both >= DISHONEST_AFTER {
            let text = format!("/readyz was 200 for {both:.1?}, and every webhook of that time was refused");
            seen.violation.get_or_insert(text);
        }
    }

    /// How long every sample has been 200.
    pub(crate) fn ready_for(&self) -> Duration {
        self.seen().ready_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn samples(&self) -> u64 {
        self.seen().samples
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.seen().violation.clone()
    }
}

/// Samples `/readyz` until the result is dropped.
pub(crate) fn sample(shared: Arc<Shared>, client: reqwest::Client) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let url = shared.endpoints().http;
            let answer = client.get(format!("{url}/readyz")).timeout(SAMPLE_TIMEOUT).send().await;
            let is_ready = answer.is_ok_and(|answer| answer.status() == 200);
            if shared.endpoints().http == url {
                shared.readiness.sampled(is_ready);
            }
            sleep(SAMPLE_EVERY).await;
        }
    }))
}
