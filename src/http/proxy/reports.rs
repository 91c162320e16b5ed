//! Gives the journal what the answers of Belvo say about links. This happens behind the calls, in one task.
//!
//! A report goes the way of `POST /v1/api-errors` and its like: it is translated first, and stored only if the engine can
//! read it. Reports are stored in the order in which the answers ended, so that a repair is not stored before its outage.

use axum::http::{HeaderMap, Method, Uri};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::tap::SharedCopy;
use crate::belvo::{Concern, Exchange, ExchangeReport, Meaning, Unrelated};
use crate::contract::{InputKind, TraceContext};
use crate::http::problem::Severity;
use crate::http::{body, entry_of_input, log_sample::LogSample, report, translate};
use crate::journal::{Journal, JournalError};
use crate::link::{LinkId, Timestamp};
use crate::metric;
use crate::nats::subject::Subjects;
use crate::trace::Span;

/// The `ce-source` of the reports.
const SOURCE: &str = "/relink/proxy";

/// The most reports that are stored with one sync of the journal.
const TOGETHER_MAX: usize = 64;

/// A call that was passed on, and an answer that concerns a link. It has no `Debug`, because it has secrets.
pub(super) struct Seen {
    pub(super) concern: Concern,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) request: SharedCopy,
    pub(super) status: u16,
    /// The `Content-Encoding` of the answer.
    pub(super) coding: HeaderMap,
    /// The copy of the answer, if the report needs it.
    pub(super) answer: Option<SharedCopy>,
    pub(super) answered_at: Timestamp,
    /// The trace of the call.
    pub(super) trace: Option<TraceContext>,
}

/// The task that stores the reports.
pub struct Reports {
    queue: mpsc::Receiver<Seen>,
    journal: Journal,
    subjects: Subjects,
    sample: LogSample,
}

impl Reports {
    pub(super) fn new(queue: mpsc::Receiver<Seen>, journal: Journal, subjects: Subjects) -> Self {
        Self { queue, journal, subjects, sample: LogSample::default() }
    }

    /// Stores reports until the proxy has ended and the last one is stored.
    pub async fn run(mut self) {
        let mut seen = Vec::new();
        while self.queue.recv_many(&mut seen, TOGETHER_MAX).await > 0 {
            // Each is appended when it is polled first, so the order is kept.
            let this = &self;
            let read = seen.drain(..).filter_map(|seen| Some((this.read(&seen)?, Span::passing(seen.trace))));
            let stored = read.map(|(report, call)| async move { call.run(this.store(report)).await });
            futures::future::join_all(stored).await;
        }
    }

    /// The report about an answer; `None` if there is nothing to store, which is counted.
    fn read(&self, seen: &Seen) -> Option<(InputKind, LinkId, Bytes)> {
        let answer = seen.answer.as_ref().map(SharedCopy::bytes).unwrap_or_default();
        // What relink cannot decompress is an unknown body: the status alone may say enough.
        let answer = body::unpack(&seen.coding, answer).unwrap_or_default();
        let exchange = Exchange {
            concern: seen.concern,
            method: seen.method.as_str(),
            path: seen.uri.path(),
            query: seen.uri.query().unwrap_or_default(),
            request: &seen.request.bytes(),
            status: seen.status,
            answer: &answer,
            answered_at: seen.answered_at,
        };
        let ExchangeReport { kind, link, body } = exchange.report()?;
        let body = report::redacted(body.into());
        let meaning = match &link {
            Some(link) => translate(kind, link, &body),
            None => translate(kind, &report::stand_in(), &body),
        };
        match (link, meaning) {
            (_, Err(_unreadable)) => count(kind, "unreadable"),
            (None, Ok(Meaning::NotAboutTheLink { .. })) => count(kind, "not_about_a_link"),
            // Belvo gives these answers also to a stranger without keys, who could fill the streams with them.
            (Some(_), Ok(Meaning::NotAboutTheLink { class: Unrelated::Keys | Unrelated::RateLimit, .. })) => {
                count(kind, "not_about_a_link");
            }
            (None, Ok(Meaning::Event(_) | Meaning::StatusPage(_) | Meaning::Unknown { .. })) => count(kind, "no_link"),
            (Some(link), Ok(_)) => return Some((kind, link, body)),
        }
        None
    }

    async fn store(&self, (kind, link, body): (InputKind, LinkId, Bytes)) {
        let (entry, _message_id) = entry_of_input(&self.subjects, kind, &link, SOURCE, body);
        match self.journal.append(entry).await {
            Ok(_stored) => count(kind, "stored"),
            Err(error) => {
                count(kind, "unavailable");
                self.log(&error);
            }
        }
    }

    fn log(&self, error: &JournalError) {
        let summary = |count: u64, example: &str| {
            tracing::error!(reports.count = count, "more reports of the proxy were lost; the last one: {example}");
        };
        let line = error.to_string();
        if self.sample.takes(("unavailable", Severity::Failed), &line, summary) {
            tracing::error!("a report of the proxy was lost: {line}");
        }
    }
}

fn count(kind: InputKind, outcome: &'static str) {
    metrics::counter!(metric::PROXY_REPORTS.name, "kind" => kind.as_str(), "outcome" => outcome).increment(1);
}
