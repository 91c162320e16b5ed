//! SIGINT, SIGTERM and SIGHUP: the first one starts an orderly stop, the second one ends the process at once.
//!
//! SIGHUP comes when the terminal of the process is closed. It is no reload: relink reads its settings once. A process that was started
//! with SIGHUP ignored (`nohup relink serve &`) goes on ignoring it.
//!
//! SIGXFSZ comes when a file would get larger than the limit of the process (`ulimit -f`). It ends a process without a word, so relink
//! takes it and does nothing: then the write fails, and relink reports that as it reports a full disk.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

/// The exit code of an interrupted program, by the convention of shells: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// How long the program may take to end after the second signal.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A token that the first signal cancels. The second signal cancels `at_once`. A second SIGHUP does not: a shell and the kernel may both
/// send one when a terminal is closed.
pub(super) fn shutdown(at_once: &CancellationToken) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut signals = Signals::listen().context("listening for signals")?;
    let (cancelled, at_once) = (token.clone(), at_once.clone());
    tokio::spawn(async move {
        signals.first().await;
        tracing::info!("relink is stopping; a second signal ends it at once");
        cancelled.cancel();
        signals.second().await;
        // Standard error may be a closed terminal.
        let _ = writeln!(anstream::stderr(), "relink: ended at once because of a second signal");
        at_once.cancel();
        tokio::time::sleep(END_WITHIN).await;
        std::process::exit(INTERRUPTED.into());
    });
    Ok(token)
}

#[cfg(unix)]
struct Signals {
    /// Never read: that it is there keeps the process alive.
    _file_too_large: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// `None` if it is ignored.
    hang_up: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            _file_too_large: signal(SignalKind::from_raw(crate::os::FILE_TOO_LARGE))?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up,
        })
    }

    async fn first(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => {}
        }
    }

    async fn second(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Whether this process was started with SIGHUP ignored. Only Linux shows that without unsafe code; elsewhere the answer is no.
#[cfg(unix)]
fn ignores_hang_up() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, SIGHUP))
}

/// The number of SIGHUP on every Unix.
#[cfg(unix)]
const SIGHUP: u32 = 1;

/// Whether a `/proc/<pid>/status` has this signal in its mask of ignored signals.
#[cfg(unix)]
fn ignores(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the Unix side can fail")]
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn first(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn second(&mut self) {
        self.first().await;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::{SIGHUP, ignores};

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert!(ignores("Name:\tx\nSigIgn:\t0000000000001001\n", SIGHUP));
        assert!(!ignores("SigIgn:\t0000000000001000\n", SIGHUP));
        assert!(!ignores("", SIGHUP));
    }
}
