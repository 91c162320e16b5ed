//! The log, on standard error, and the metrics, for Prometheus at `GET /metrics`. The table of the metrics is in
//! [`crate::metric`].
//!
//! The log never contains a body, a secret or a token. A message is readable without its fields; ids are dotted
//! fields (`link.id`, `request.id`). An event of the text log is one line, whatever its fields contain.

use std::sync::OnceLock;
use std::{fmt, io};

use anstyle::Style;
use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogConfig, LogFormat};
use crate::metric::{Kind, METRICS, Metric};
use crate::printable::{safe_json, shortened};

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter has a syntax error.
    #[error("the log filter cannot be used: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A subscriber has been installed before.
    #[error("the log has already been set up in this process")]
    Log(#[from] TryInitError),
}

/// Starts the log of this process on standard error, with colours only if the terminal supports them.
///
/// # Errors
/// [`TelemetryError`] if the filter is malformed or a log has been started before.
pub fn start_log(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = config.filter.parse::<EnvFilter>()?.and(filter_fn(shows_no_body));
    let registry = tracing_subscriber::registry();
    // tracing would report a failed write on standard error, and panic if that fails too: it may be a closed terminal.
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    match config.format {
        LogFormat::Json => {
            let format = format.json().flatten_event(true).with_writer(|| SafeJson(io::stderr()));
            registry.with(format.with_filter(filter)).try_init()?;
        }
        LogFormat::Text => {
            // Depends on the terminal and on NO_COLOR, like all other output of relink.
            let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
            registry.with(format.fmt_fields(PrintableFields).with_ansi(colours).with_filter(filter)).try_init()?;
        }
    }
    Ok(())
}

/// Escapes what JSON leaves and a terminal interprets, such as C1 control characters, in events of the JSON log. Each write is one event.
pub struct SafeJson<W>(pub W);

impl<W: io::Write> io::Write for SafeJson<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if event.is_ascii() {
            // The formatter has escaped the control characters.
            self.0.write_all(event)?;
        } else {
            self.0.write_all(safe_json(&String::from_utf8_lossy(event)).as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The longest value of a field in the text log, in characters.
const FIELD_LENGTH_MAX: usize = 2_000;

/// Formats the fields of the text log like tracing's default, but escapes line breaks, direction marks and all other
/// characters that a terminal interprets, which the default prints.
pub struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = PrintableLine { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct PrintableLine<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl Visit for PrintableLine<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = shortened(&format!("{value:?}"), FIELD_LENGTH_MAX);
        let gap = if self.is_empty { "" } else { " " };
        let written = match field.name() {
            "message" => write!(self.writer, "{gap}{value}"),
            name if self.writer.has_ansi_escapes() => {
                let (name_style, sign_style) = (Style::new().italic(), Style::new().dimmed());
                write!(self.writer, "{gap}{name_style}{name}{name_style:#}{sign_style}={sign_style:#}{value}")
            }
            name => write!(self.writer, "{gap}{name}={value}"),
        };
        self.is_empty = false;
        self.result = self.result.and(written);
    }
}

/// Whether an event with this metadata contains no body, whatever the filter selects. At `TRACE` the crates that relink uses log the data
/// that they send and receive. async-nats logs whole messages at `TRACE`, and at `DEBUG` the answers of JetStream, which have messages in
/// them.
pub fn shows_no_body(metadata: &Metadata<'_>) -> bool {
    let most = match metadata.target().split("::").next() {
        Some("relink") => Level::TRACE,
        Some("async_nats") => Level::INFO,
        Some(_) | None => Level::DEBUG,
    };
    *metadata.level() <= most
}

/// The exporter of the metrics of this process. The first call installs the recorder; later calls share it.
pub fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = METRICS.get_or_init(|| {
        let recorder = exporter().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder was installed before relink's, so GET /metrics stays empty");
        }
        describe();
        handle
    });
    handle.clone()
}

/// The exporter, with the bounds of each histogram. Its default for a histogram are quantiles of the last minute, which are 0 after a quiet
/// minute, and cannot be added up over instances.
fn exporter() -> PrometheusBuilder {
    METRICS.iter().fold(PrometheusBuilder::new(), |exporter, Metric { name, kind, .. }| match kind {
        Kind::Histogram(scale) => exporter
            .set_buckets_for_metric(Matcher::Full((*name).to_owned()), scale.bounds())
            .expect("each scale has bounds"),
        Kind::Counter | Kind::Gauge => exporter,
    })
}

/// Registers the description and the unit of each metric; the name of a metric in seconds ends in `_seconds`. A counter without labels is 0
/// from the start: Prometheus does not see the rise of a series that begins with 1.
fn describe() {
    for Metric { name, kind, labels, about } in METRICS {
        let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, unit, *about),
            Kind::Gauge => metrics::describe_gauge!(*name, unit, *about),
            Kind::Histogram(_) => metrics::describe_histogram!(*name, unit, *about),
        }
        if *kind == Kind::Counter && labels.is_empty() {
            metrics::counter!(*name).increment(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::{PrintableFields, SafeJson};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_of_the_text_log_is_one_line() {
        let forged = "x\n2026-01-01T00:00:00Z  INFO forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{200b}";
        for colours in [false, true] {
            let buffer = Buffer::default();
            let shared = buffer.clone();
            let layer = tracing_subscriber::fmt::layer().fmt_fields(PrintableFields).with_ansi(colours);
            let subscriber = tracing_subscriber::registry().with(layer.with_writer(move || shared.clone()));
            tracing::subscriber::with_default(subscriber, || {
                let span = tracing::info_span!("span", link.id = %forged);
                let _entered = span.enter();
                tracing::info!(link.id = %forged, institution = forged, count = 7, "{forged}");
            });
            let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
            let dangerous = ['\r', '\u{9b}', '\u{202e}', '\u{200b}'];
            assert!(text.ends_with('\n') && text.matches('\n').count() == 1 && !text.contains(dangerous), "{text:?}");
            assert!(!text.contains("\u{1b}[2J") && text.contains("\\u{1b}[2J"), "{text:?}");
            assert!(colours || text.contains("count=7"), "{text:?}");
        }
    }

    #[test]
    fn an_event_of_the_json_log_has_no_character_that_a_terminal_interprets() {
        let forged = "é x\n\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{200b}";
        let buffer = Buffer::default();
        let shared = buffer.clone();
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        let subscriber = tracing_subscriber::registry().with(layer.with_writer(move || SafeJson(shared.clone())));
        tracing::subscriber::with_default(subscriber, || tracing::info!(link.id = %forged, "{forged}"));
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(
            line.contains('é') && line.chars().all(|c| !c.is_control() && !"\u{202e}\u{200b}".contains(c)),
            "{line:?}"
        );
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (event["message"].as_str(), event["link.id"].as_str()),
            (Some(forged), Some(forged)),
            "the event is exact"
        );
    }

    #[test]
    fn the_recorder_is_installed_once_and_shared() {
        let first = super::metrics();
        metrics::counter!(crate::metric::UNAUTHORIZED.name, "endpoint" => "test").increment(1);
        assert!(super::metrics().render().contains("relink_unauthorized_total{endpoint=\"test\"} 1"));
        assert!(first.render().contains("# HELP relink_unauthorized_total"));
    }
}
