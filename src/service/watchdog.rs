//! Ends relink when a call of the store does not return.
//!
//! The partitions wait for such a call for ever, while everything else goes on, and nothing can end the call from outside. So the
//! process ends, and its next start continues after the last commit. The watchdog has a thread of its own, because calls that do not return
//! may block all threads of the runtime.

use std::io::Write as _;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

use crate::nats::node::{LOOKS_MAX, OpenCalls};

/// How long a call may take. It usually takes milliseconds, on a busy disk seconds.
pub(super) const CALL_MAX: Duration = Duration::from_secs(120);

/// How long the process may take to end after the time limit of its stop.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Watches the calls until it is dropped.
pub(super) struct Watchdog {
    stuck: oneshot::Receiver<&'static str>,
    call_max: Duration,
    /// The thread ends soon after this is dropped.
    _is_watching: Arc<()>,
}

impl Watchdog {
    /// Starts the thread. If a call is open for longer than `call_max`, [`Watchdog::stuck`] returns; if the watchdog still exists
    /// after a further `stop_timeout` and some seconds, the thread ends the process with status 1.
    pub(super) fn start(calls: OpenCalls, call_max: Duration, stop_timeout: Duration) -> anyhow::Result<Self> {
        let (sender, stuck) = oneshot::channel();
        let is_watching = Arc::new(());
        let watched = Arc::downgrade(&is_watching);
        let watch = move || {
            let Some(what) = wait_for_stuck(&calls, call_max, &watched) else { return };
            let _ = sender.send(what);
            thread::sleep(stop_timeout + END_WITHIN);
            if watched.strong_count() > 0 {
                // Standard error may be a closed terminal.
                let _ = writeln!(std::io::stderr(), "relink: {}; it could not stop in order", sentence(what, call_max));
                std::process::exit(1);
            }
        };
        thread::Builder::new().name("watchdog".to_owned()).spawn(watch).context("starting the watchdog")?;
        Ok(Self { stuck, call_max, _is_watching: is_watching })
    }

    /// Returns when a call is stuck.
    pub(super) async fn stuck(&mut self) -> anyhow::Error {
        match (&mut self.stuck).await {
            Ok(what) => anyhow!(sentence(what, self.call_max)),
            Err(_ended) => std::future::pending().await,
        }
    }
}

/// Returns what a stuck call does; `None` when the watchdog was dropped.
fn wait_for_stuck(calls: &OpenCalls, call_max: Duration, watched: &Weak<()>) -> Option<&'static str> {
    while watched.strong_count() > 0 {
        thread::sleep(call_max / LOOKS_MAX);
        if let Some(what) = calls.look() {
            return Some(what);
        }
    }
    None
}

fn sentence(what: &str, call_max: Duration) -> String {
    format!(
        "the store hangs: {what} has not returned for {} s or longer. Check the disk of RELINK_DATA_DIR and start relink again; nothing is \
         lost, because NATS and the journal have everything: do not delete the data directory",
        call_max.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_call_that_does_not_return_is_reported() {
        let calls = OpenCalls::default();
        let _call = calls.open("a write", LOOKS_MAX);
        let mut watchdog = Watchdog::start(calls, SHORT, Duration::ZERO).unwrap();
        let error = watchdog.stuck().await.to_string();
        assert!(error.starts_with("the store hangs: a write has not returned"), "{error}");
    }

    /// The name of a test that runs in a process of its own.
    const BLOCKED: &str = "service::watchdog::tests::a_process_with_blocked_threads";

    #[test]
    fn the_process_ends_although_all_its_threads_are_blocked() {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).args(["--ignored", "--exact", BLOCKED]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("relink: the store hangs: "), "{error}");
    }

    #[test]
    #[ignore = "it ends its process; another test runs it"]
    fn a_process_with_blocked_threads() {
        if !std::env::args().any(|argument| argument == BLOCKED) {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let calls = OpenCalls::default();
            let _call = calls.open("a write", LOOKS_MAX);
            let mut watchdog = Watchdog::start(calls, SHORT, Duration::ZERO).unwrap();
            // The only worker is blocked, so no timer of the runtime fires.
            tokio::spawn(async { thread::park() });
            watchdog.stuck().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            std::future::pending::<()>().await;
        });
    }
}
