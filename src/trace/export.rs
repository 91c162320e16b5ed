//! Sends the spans of this process to an OTLP endpoint, over HTTP with protobuf.
//!
//! One task takes the spans out of a bounded queue, and sends them in batches. OpenTelemetry's `BatchSpanProcessor` is not used: it has a
//! thread of its own, which needs a blocking HTTP client with a second runtime, and it does not say how many spans it has dropped.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::recorded::Recorded;
use crate::contract::SampleRatio;
use crate::metric;

/// The most spans that wait for the export. Each has some hundred bytes.
const QUEUE_MAX: usize = 8_192;

/// The most spans in one request, and how long the first of them waits for others.
const BATCH_MAX: usize = 512;
const GATHER: Duration = Duration::from_secs(1);

/// How long a request may take, with its repeats. The exporter repeats it if the collector is busy (429, 502, 503, 504).
const EXPORT_WITHIN: Duration = Duration::from_secs(5);
const RETRIES_MAX: usize = 3;
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// How long a stop waits for the last spans.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The pause between two warnings that the endpoint does not take spans.
const WARN_EVERY: Duration = Duration::from_secs(300);

/// Where the spans go, and how many.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The whole address of the endpoint for traces, such as `http://collector:4318/v1/traces`.
    pub endpoint: String,
    /// Headers of each request.
    pub headers: Vec<(String, SecretString)>,
    /// The share of the traces that begin in relink. A request or a message with a trace decides itself.
    pub ratio: SampleRatio,
}

/// The export cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP client cannot be built.
    #[error("the HTTP client for traces cannot be built")]
    Http(#[from] reqwest::Error),
    /// The exporter does not take the settings.
    #[error("the exporter of traces cannot be built")]
    Exporter(#[from] ExporterBuildError),
}

/// The recorder of this process.
struct Recorder {
    ratio: SampleRatio,
    queue: mpsc::Sender<Recorded>,
}

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Whether this process records spans.
pub fn is_on() -> bool {
    RECORDER.get().is_some()
}

/// The share of the new traces; `None` if no spans are recorded.
pub(super) fn ratio() -> Option<SampleRatio> {
    RECORDER.get().map(|recorder| recorder.ratio)
}

pub(super) fn enqueue(span: Recorded) {
    let Some(recorder) = RECORDER.get() else { return };
    if recorder.queue.try_send(span).is_err() {
        count("dropped", 1);
    }
}

/// The running export.
pub struct Exporting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts the export of this process. `http` is the builder of its HTTP client. Must be called inside a tokio runtime. `None` if an export
/// has been started before: a process has one.
///
/// # Errors
/// [`StartError`].
pub fn start(settings: &Settings, http: reqwest::ClientBuilder) -> Result<Option<Exporting>, StartError> {
    let headers = settings.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
    // The headers may be a password, so they go to the configured address only.
    let client = http.redirect(reqwest::redirect::Policy::none()).timeout(EXPORT_WITHIN).build()?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&settings.endpoint)
        .with_timeout(EXPORT_WITHIN)
        .with_retry_policy(RetryPolicy::default().with_max_retries(RETRIES_MAX).with_initial_delay(RETRY_AFTER))
        .with_headers(headers.collect())
        .build()?;
    let (queue, spans) = mpsc::channel(QUEUE_MAX);
    if RECORDER.set(Recorder { ratio: settings.ratio, queue }).is_err() {
        return Ok(None);
    }
    let stop = CancellationToken::new();
    let task = tokio::spawn(Export::new(exporter).run(spans, stop.clone()));
    Ok(Some(Exporting { stop, task }))
}

impl Exporting {
    /// Sends the spans that wait. Takes at most two seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        let mut task = self.task;
        if timeout(STOP_WITHIN, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("the endpoint for traces has not taken the last spans in time; they are lost");
        }
    }
}

/// The task.
struct Export {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    /// When the last warning was logged, since the endpoint takes no spans.
    warned_at: Option<Instant>,
    /// How many spans were lost since then.
    lost_count: usize,
}

impl Export {
    fn new(mut exporter: SpanExporter) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        // The builder reads `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
        let name = Resource::builder().build().get(&Key::from_static_str("service.name")).map(|name| name.to_string());
        let name = name.filter(|name| !name.starts_with("unknown_service")).unwrap_or_else(|| "relink".to_owned());
        let resource = Resource::builder().with_service_name(name);
        let resource = resource.with_attribute(KeyValue::new("service.version", version)).build();
        exporter.set_resource(&resource);
        let scope = InstrumentationScope::builder("relink").with_version(version).build();
        Self { exporter, scope, warned_at: None, lost_count: 0 }
    }

    async fn run(mut self, mut spans: mpsc::Receiver<Recorded>, stop: CancellationToken) {
        let mut batch = Vec::new();
        while !stop.is_cancelled() {
            tokio::select! {
                _count = spans.recv_many(&mut batch, BATCH_MAX) => {}
                () = stop.cancelled() => break,
            }
            let until = Instant::now() + GATHER;
            while batch.len() < BATCH_MAX {
                let room = BATCH_MAX - batch.len();
                tokio::select! {
                    _count = spans.recv_many(&mut batch, room) => {}
                    () = sleep_until(until) => break,
                    () = stop.cancelled() => break,
                }
            }
            self.send(&mut batch).await;
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
            if batch.len() == BATCH_MAX {
                self.send(&mut batch).await;
            }
        }
        if !batch.is_empty() {
            self.send(&mut batch).await;
        }
    }

    async fn send(&mut self, batch: &mut Vec<Recorded>) {
        let spans: Vec<_> = batch.drain(..).map(|span| span.data(&self.scope)).collect();
        let spans_count = spans.len();
        match self.exporter.export(spans).await {
            Ok(()) => {
                count("exported", spans_count);
                if self.warned_at.take().is_some() {
                    tracing::info!(spans.lost_count = self.lost_count, "the endpoint for traces takes spans again");
                }
                self.lost_count = 0;
            }
            Err(error) => {
                count("failed", spans_count);
                self.lost_count += spans_count;
                if self.warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    self.warned_at = Some(Instant::now());
                    let lost_count = self.lost_count;
                    tracing::warn!(%error, spans.lost_count = lost_count, "the endpoint for traces does not take spans; they are lost, and relink goes on");
                }
            }
        }
    }
}

fn count(outcome: &'static str, spans_count: usize) {
    metrics::counter!(metric::SPANS.name, "outcome" => outcome).increment(spans_count as u64);
}
