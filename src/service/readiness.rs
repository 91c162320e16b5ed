//! Whether relink can store inputs and decide about links: the answer of `/readyz`.
//!
//! It is judged by what the parts see in their work; no message is published for a test. Each reason disappears by itself.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::own_server::ServerStatus;
use crate::nats::node::OpenCommit;
use crate::nats::publisher::NotStored;
use crate::nats::server_health::{ServerHealth, ServerMonitor};
use crate::node::Phase;

/// How often the reasons are collected.
const EVERY: Duration = Duration::from_millis(500);

/// How often the health of another nats-server is read.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// How long a failed publish counts. After that relink is ready again until the next failure, because a sender that waits for `/readyz`
/// sends nothing that could succeed.
const NOT_STORED_COUNTS: Duration = Duration::from_secs(30);

/// How long a commit may wait for its answer. It usually takes milliseconds; on a busy disk, tenths of a second.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(3);

/// What the parts see.
pub(super) struct Sources {
    /// The partitions.
    pub(super) phase: watch::Receiver<Phase>,
    /// The commit that waits for its answer.
    pub(super) open_commit: watch::Receiver<Option<OpenCommit>>,
    /// The streams and consumers.
    pub(super) streams: watch::Receiver<Vec<String>>,
    /// The last publish of an input, if it failed.
    pub(super) not_stored: watch::Receiver<Option<NotStored>>,
    /// relink's own nats-server, or another one whose monitor is known.
    pub(super) server: Option<watch::Receiver<ServerStatus>>,
    /// Why the journal takes no messages, or waits for NATS since the start.
    pub(super) journal: Box<dyn Fn() -> Option<String> + Send>,
}

impl Sources {
    /// The reasons why relink is not ready, each as one clause; none if it is ready. The partitions have run since `running_since`.
    fn reasons(&self, running_since: Instant) -> Vec<String> {
        let mut reasons = self.streams.borrow().clone();
        reasons.extend((self.journal)());
        match *self.phase.borrow() {
            Phase::Running => {}
            Phase::Starting => reasons.push("not every partition is running".to_owned()),
            Phase::Stopped => reasons.push("the partitions have ended".to_owned()),
        }
        if self.open_commit.borrow().is_some_and(|commit| commit.since.elapsed() > COMMIT_WAIT_MAX) {
            reasons.push("NATS has not answered the last commit yet".to_owned());
        }
        // A partition that starts has stored a fence, so the failures before it are over.
        let mut over_before = running_since;
        if let Some(server) = &self.server {
            let status = server.borrow();
            reasons.extend(status.problem.clone());
            over_before = over_before.max(status.started_at);
        }
        let not_stored = self.not_stored.borrow();
        let counts = |failed: &&NotStored| failed.at.elapsed() < NOT_STORED_COUNTS && failed.at > over_before;
        if let Some(failed) = not_stored.as_ref().filter(counts) {
            reasons.push(format!("the last input was not stored: {}", failed.why));
        }
        reasons
    }
}

/// Reads the health of a nats-server that is not relink's own. Only its operator can restart it.
pub(super) fn watch_server(monitor: ServerMonitor) -> watch::Receiver<ServerStatus> {
    let (sender, receiver) = watch::channel(ServerStatus { started_at: Instant::now(), problem: None });
    tokio::spawn(async move {
        while !sender.is_closed() {
            // A monitor that does not answer says nothing about the server.
            let problem = match monitor.health().await {
                Ok(ServerHealth::CannotWrite(error)) => {
                    Some((error, "the NATS server cannot write; restart it when its disk has room"))
                }
                Ok(ServerHealth::Unhealthy(error)) => Some((error, "the NATS server is not healthy")),
                Ok(ServerHealth::Healthy) | Err(_) => None,
            };
            let reason = problem.as_ref().map(|(_, reason)| (*reason).to_owned());
            let is_new =
                sender.send_if_modified(|status| std::mem::replace(&mut status.problem, reason.clone()) != reason);
            if let Some((error, reason)) = problem.filter(|_| is_new) {
                tracing::error!(error, "{reason}");
            }
            tokio::select! {
                () = sleep(HEALTH_EVERY) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

/// Collects the reasons until the receiver is dropped, and logs their changes.
pub(super) fn collect(mut sources: Sources) -> watch::Receiver<Vec<String>> {
    let mut running_since = Instant::now();
    let (sender, receiver) = watch::channel(sources.reasons(running_since));
    tokio::spawn(async move {
        let mut unready_since = None;
        loop {
            if *sources.phase.borrow_and_update() != Phase::Running {
                running_since = Instant::now();
            }
            let reasons = sources.reasons(running_since);
            let is_ready = reasons.is_empty();
            let has_changed = sender.send_if_modified(|before| std::mem::replace(before, reasons.clone()) != reasons);
            if has_changed && is_ready {
                let since: Option<Instant> = unready_since.take();
                let unready_ms = since.map_or(0, |since| since.elapsed().as_millis());
                tracing::info!(unready_ms = u64::try_from(unready_ms).unwrap_or(u64::MAX), "relink is ready");
            } else if has_changed {
                unready_since.get_or_insert_with(Instant::now);
                tracing::warn!(reasons = reasons.join("; "), "relink is not ready");
            }
            tokio::select! {
                // The phase changes most often; the sender lives as long as the node.
                Ok(()) = sources.phase.changed() => {}
                () = sleep(EVERY) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[tokio::test(start_paused = true)]
    async fn a_commit_without_an_answer_is_a_reason_until_its_answer() {
        let open_commit = watch::Sender::new(Some(OpenCommit::sent_now(clock::now())));
        let sources = Sources {
            phase: watch::Sender::new(Phase::Running).subscribe(),
            open_commit: open_commit.subscribe(),
            streams: watch::Sender::new(Vec::new()).subscribe(),
            not_stored: watch::Sender::new(None).subscribe(),
            server: None,
            journal: Box::new(|| None),
        };
        assert_eq!(sources.reasons(Instant::now()), Vec::<String>::new());
        tokio::time::advance(COMMIT_WAIT_MAX + Duration::from_millis(1)).await;
        assert_eq!(sources.reasons(Instant::now()), ["NATS has not answered the last commit yet"]);
        open_commit.send_replace(None);
        assert_eq!(sources.reasons(Instant::now()), Vec::<String>::new());
    }
}
