//! Which commits the store does not show yet.
//!
//! ```text
//!   commit sent ──▶ its notices are on the stream ──▶ the answer of NATS ──▶ written to the store
//!   └──────────────── a reader of the store waits until all of this is done ───────────────┘
//! ```
//!
//! A subscriber may get a notice before the store has the state that led to it. If it then reads the link, it must not get the old state: so
//! every read waits for the commits that were sent before it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long after a commit was sent a read waits for it. Then NATS does not answer, or the machine is overloaded, and an older answer is
/// better than none.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The commits of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Commits(watch::Sender<Progress>);

#[derive(Clone, Copy, Debug)]
struct Progress {
    /// How many commits were sent.
    sent: u64,
    /// How many of them are in the store, or have failed.
    settled: u64,
    /// When the last one was sent.
    sent_at: Instant,
}

impl Default for Commits {
    fn default() -> Self {
        Self(watch::Sender::new(Progress { sent: 0, settled: 0, sent_at: Instant::now() }))
    }
}

impl Commits {
    /// A commit is sent now.
    pub fn sent(&self) {
        self.0.send_modify(|progress| {
            progress.sent += 1;
            progress.sent_at = Instant::now();
        });
    }

    /// All commits that were sent are in the store or have failed, except the last `count`.
    pub fn settled_except(&self, count: usize) {
        self.0.send_if_modified(|progress| {
            let settled = progress.sent.saturating_sub(count as u64);
            std::mem::replace(&mut progress.settled, settled) != settled
        });
    }

    /// Waits until the store shows every commit that was sent before this call, at most two seconds after the last one was sent.
    pub async fn are_in_store(&self) {
        let Progress { sent, settled, sent_at } = *self.0.borrow();
        if settled >= sent {
            return;
        }
        let mut progress = self.0.subscribe();
        let shown = progress.wait_for(|progress| progress.settled >= sent);
        let _late = timeout(WAIT_MAX.saturating_sub(sent_at.elapsed()), shown).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_the_commits_before_it_and_not_for_those_after_it() {
        let commits = Commits::default();
        let waited = async |commits: &Commits| {
            let begun = Instant::now();
            commits.are_in_store().await;
            begun.elapsed()
        };
        assert_eq!(waited(&commits).await, Duration::ZERO);
        commits.sent();
        let reads = tokio::join!(waited(&commits), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            // The next commit is sent before the first one is applied.
            commits.sent();
            commits.settled_except(1);
        });
        assert_eq!(reads.0, Duration::from_millis(10));
        assert_eq!(waited(&commits).await, WAIT_MAX, "a commit without an answer");
        assert_eq!(waited(&commits).await, Duration::ZERO, "it has been waited for already");
        commits.settled_except(0);
        assert_eq!(waited(&commits).await, Duration::ZERO);
    }
}
