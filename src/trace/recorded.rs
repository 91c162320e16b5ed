//! A span that has ended, and its form for the exporter.

use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::export;
use crate::contract::TraceContext;

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The span.
    pub context: TraceContext,
    /// Its parent; `None` if it begins a trace.
    pub parent: Option<TraceContext>,
    /// Spans of other traces that led to this one.
    pub links: Vec<TraceContext>,
    /// The name.
    pub name: String,
    /// The part that it has in a call or a message.
    pub kind: SpanKind,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// The attributes.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed; `None` if it did not.
    pub failure: Option<String>,
}

/// Gives a span to the exporter. It is dropped if there is none, or if too many spans wait.
pub fn record(span: Recorded) {
    export::enqueue(span);
}

impl Recorded {
    /// Sets an attribute. A span has each key once.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.retain(|(known, _)| *known != key);
        self.attributes.push((key, value.into()));
    }

    pub(super) fn data(self, scope: &InstrumentationScope) -> SpanData {
        let Self { context, parent, links: spans, name, kind, started, ended, attributes, failure } = self;
        let mut links = SpanLinks::default();
        links.links.extend(spans.iter().map(|span| Link::with_context(context_of(span))));
        SpanData {
            span_context: context_of(&context),
            parent_span_id: parent.as_ref().map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id())),
            parent_span_is_remote: parent.is_some(),
            span_kind: kind,
            name: name.into(),
            start_time: started,
            end_time: ended.max(started),
            attributes: attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: failure.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope.clone(),
        }
    }
}

fn context_of(context: &TraceContext) -> SpanContext {
    let state: TraceState = context.state().and_then(|state| state.parse().ok()).unwrap_or_default();
    let (trace, span) = (TraceId::from_bytes(context.trace_id()), SpanId::from_bytes(context.span_id()));
    SpanContext::new(trace, span, TraceFlags::new(context.flags()), true, state)
}
