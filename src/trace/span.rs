//! A span that is open, and the context of the running work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::Value;
use opentelemetry::trace::SpanKind;
use uuid::Uuid;

use super::export;
use super::recorded::{Recorded, record};
use crate::clock;
use crate::contract::{TraceContext, parent_or_cause};

/// The span while it is open. Empty after its end.
type Open = Arc<Mutex<Option<Recorded>>>;

tokio::task_local! {
    static CURRENT: Current;
}

/// The context of the running work, and its span if that is recorded.
#[derive(Clone)]
struct Current {
    context: TraceContext,
    open: Option<Open>,
}

/// The context of the running work.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|current| current.context.clone()).ok()
}

/// The headers for a message or a request that follows from the running work.
pub fn current_headers() -> impl Iterator<Item = (&'static str, String)> {
    current().into_iter().flat_map(|context| context.headers())
}

/// Adds an attribute to the span of the running work. `value` is made only if the span is recorded.
pub fn note<V: Into<Value>>(key: &'static str, value: impl FnOnce() -> V) {
    change_current(|span| span.set(key, value()));
}

/// Adds a link to the span of the running work: this span of another trace has led to it.
pub fn link_to(cause: &TraceContext) {
    change_current(|span| {
        if span.context.trace_id() != cause.trace_id() && !span.links.contains(cause) {
            span.links.push(cause.clone());
        }
    });
}

fn change_current(change: impl FnOnce(&mut Recorded)) {
    let _without_context = CURRENT.try_with(|current| change_open(current.open.as_ref(), change));
}

fn change_open(open: Option<&Open>, change: impl FnOnce(&mut Recorded)) {
    let Some(open) = open else { return };
    if let Some(span) = open.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        change(span);
    }
}

/// A span that ends when it is dropped. Without an endpoint, or in a trace that is not sampled, it only passes a context on.
#[must_use = "the span ends when it is dropped"]
pub struct Span(Option<Current>);

impl Span {
    /// Passes a context on, without a span.
    pub fn passing(context: Option<TraceContext>) -> Self {
        Self(context.map(|context| Current { context, open: None }))
    }

    /// A span in the trace of `parent`, or the first one of a new trace.
    pub fn begin(kind: SpanKind, parent: Option<TraceContext>, name: impl FnOnce() -> String) -> Self {
        Self::open(kind, parent, None, name)
    }

    /// As [`Span::begin`], for work that follows from `cause` after this time. If that is long, the span begins a new trace with a link to
    /// the cause.
    pub fn begin_after(
        age: Duration,
        kind: SpanKind,
        cause: Option<TraceContext>,
        name: impl FnOnce() -> String,
    ) -> Self {
        let (parent, cause) = parent_or_cause(age, cause);
        Self::open(kind, parent, cause, name)
    }

    /// A span within the running work. Work without a context gets none.
    pub fn within(kind: SpanKind, name: impl FnOnce() -> String) -> Self {
        current().map_or_else(|| Self::passing(None), |parent| Self::begin(kind, Some(parent), name))
    }

    fn open(
        kind: SpanKind,
        parent: Option<TraceContext>,
        cause: Option<TraceContext>,
        name: impl FnOnce() -> String,
    ) -> Self {
        let Some(ratio) = export::ratio() else { return Self::passing(parent.or(cause)) };
        let context = ratio.begin(Uuid::new_v4().as_bytes(), parent.as_ref(), cause.as_ref());
        if !context.is_sampled() {
            // Without a span of its own, what follows has the parent of this one.
            return Self::passing(parent.or(Some(context)));
        }
        let started = clock::system_time();
        let span = Recorded {
            context: context.clone(),
            parent,
            links: cause.into_iter().collect(),
            name: name(),
            kind,
            started,
            ended: started,
            attributes: Vec::new(),
            failure: None,
        };
        Self(Some(Current { context, open: Some(Arc::new(Mutex::new(Some(span)))) }))
    }

    /// The context for what follows from this span.
    pub fn context(&self) -> Option<&TraceContext> {
        self.0.as_ref().map(|current| &current.context)
    }

    /// The headers for what follows from this span.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        self.context().cloned().into_iter().flat_map(|context| context.headers())
    }

    /// Adds an attribute. `value` is made only if the span is recorded.
    pub fn set<V: Into<Value>>(&self, key: &'static str, value: impl FnOnce() -> V) {
        self.change(|span| span.set(key, value()));
    }

    /// Marks the span as failed, for this reason.
    pub fn fail(&self, why: impl FnOnce() -> String) {
        self.change(|span| span.failure = Some(why()));
    }

    /// Drops the span without a record of it.
    pub fn discard(self) {
        if let Some(open) = self.0.as_ref().and_then(|current| current.open.as_ref()) {
            *open.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Runs work within the span.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match self.0.clone() {
            Some(current) => CURRENT.scope(current, work).await,
            None => work.await,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Recorded)) {
        change_open(self.0.as_ref().and_then(|current| current.open.as_ref()), change);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let open = self.0.as_ref().and_then(|current| current.open.as_ref());
        let span = open.and_then(|open| open.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(span) = span {
            record(Recorded { ended: clock::system_time(), ..span });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::SAME_TRACE_MAX;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// No exporter runs in the unit tests.
    #[tokio::test]
    async fn without_an_endpoint_a_context_is_passed_on_and_nothing_is_made() {
        let parent = TraceContext::parse(PARENT);
        let name = || unreachable!("no span is recorded");
        let span = Span::begin(SpanKind::Server, parent.clone(), name);
        assert_eq!(span.context(), parent.as_ref());
        span.set("key", || -> i64 { unreachable!("no attribute is recorded") });
        let inner = span.run(async {
            assert_eq!(current_headers().collect::<Vec<_>>(), [("traceparent", PARENT.to_owned())]);
            note("key", || -> i64 { unreachable!("no attribute is recorded") });
            Span::within(SpanKind::Client, || unreachable!("no span is recorded")).context().cloned()
        });
        assert_eq!(inner.await, parent);
        assert_eq!(current(), None);
        let late = Span::begin_after(SAME_TRACE_MAX * 2, SpanKind::Client, parent.clone(), || unreachable!("no span"));
        assert_eq!(late.context(), parent.as_ref());
        let nothing = Span::begin(SpanKind::Server, None, || unreachable!("no span is recorded"));
        assert_eq!(nothing.context(), None);
        nothing.run(async { assert_eq!(current(), None) }).await;
    }
}
