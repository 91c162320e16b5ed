//! Captures the log of this process at every level, for a test that searches it for secrets.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use relink::telemetry::shows_no_body;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

static CAPTURED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Capture;

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the capture, and prints the log at `INFO` beside a failing test.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let kept = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| Capture)
            .with_filter(filter_fn(shows_no_body));
        let shown = tracing_subscriber::fmt::layer().with_test_writer().with_filter(LevelFilter::INFO);
        tracing_subscriber::registry().with(kept).with(shown).init();
    });
}

/// The log so far.
pub(crate) fn log() -> String {
    String::from_utf8_lossy(&CAPTURED.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}
