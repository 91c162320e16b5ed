//! The traces: each planned step continues the trace of its input, and its messages have the step as their parent.
//!
//! The engine decides nothing by a trace. Without [`Publishing::spans`](super::Publishing) it passes the context of an input on to the
//! messages as it is. With it, each step is a span of its own, whose ids follow from the input. The spans are part of the plan, and the
//! driver exports them when the commit is stored.

use super::links::LinkEntry;
use super::{Delivery, Plan};
use crate::contract::limits::MESSAGE_ID_BYTES_MAX;
use crate::contract::{SampleRatio, TraceContext, parent_or_cause};
use crate::link::{Link, LinkId, StateName, Timestamp};

/// The word for a timer, where an input has its kind.
const TIMER: &str = "timer";

/// What one input or timer led to, as a span.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSpan {
    /// The span.
    pub context: TraceContext,
    /// Its parent; `None` if it begins a trace.
    pub parent: Option<TraceContext>,
    /// Spans of other traces that led to this one: the late input, and the input that began the episode of the link.
    pub links: Vec<TraceContext>,
    /// The kind of the input, `timer`, or `other` for an unknown kind.
    pub input: &'static str,
    /// The partition and the sequence of the input; `None` for a timer.
    pub position: Option<(u16, u64)>,
    /// The `ce-id` of the input.
    pub message_id: Option<String>,
    /// The link.
    pub link: Option<LinkId>,
    /// Belvo's name of the institution of the link.
    pub institution: Option<String>,
    /// The event, if the input is one.
    pub event: Option<String>,
    /// The states before and after the step.
    pub states: Option<(StateName, StateName)>,
    /// `accepted`, or the reason of the refusal or of the dead letter.
    pub outcome: String,
    /// The ids of the notices and jobs.
    pub sent: Vec<String>,
}

/// The trace of the input that is being planned.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The context of the messages.
    context: Option<TraceContext>,
    /// The span, if it is recorded.
    span: Option<Box<StepSpan>>,
}

impl Following {
    pub(super) const fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    /// The trace of an episode that the link has after a step. An episode keeps the trace that began it.
    pub(super) fn of_episode(&self, before: &LinkEntry, after: &Link) -> Option<TraceContext> {
        let number = |link: &Link| link.state.episode().map(|episode| episode.number);
        let open = number(after)?;
        if number(&before.link) == Some(open) {
            return before.trace.clone();
        }
        self.span.as_ref().map(|span| span.context.clone().with_state(None))
    }
}

impl Plan {
    /// Begins the span of a delivery. `ratio`: the share of the traces that begin here; `None`: no spans are recorded.
    pub(super) fn follow(&mut self, delivery: &Delivery, ratio: Option<SampleRatio>, now: Timestamp) {
        let sent = TraceContext::of(|name| delivery.header(name));
        let Some(ratio) = ratio else {
            self.following = Following { context: sent, span: None };
            return;
        };
        let Delivery { partition, sequence, stored_at_ns, link, .. } = delivery;
        let seed = format!("{partition} {sequence} {stored_at_ns} {link}");
        let (parent, cause) = parent_or_cause(now.since(delivery.stored_at()), sent);
        let message_id = delivery.header("ce-id").filter(|id| id.len() <= MESSAGE_ID_BYTES_MAX);
        let span = |context, parent, links| StepSpan {
            input: delivery.kind_word(),
            position: Some((*partition, *sequence)),
            message_id: message_id.map(ToOwned::to_owned),
            ..StepSpan::of(context, parent, links)
        };
        self.open(seed.as_bytes(), parent, cause, ratio, span);
    }

    /// Begins the span of a timer. It runs long after its cause, so it begins a trace.
    pub(super) fn follow_timer(&mut self, entry: &LinkEntry, ratio: Option<SampleRatio>) {
        let Some(ratio) = ratio else { return };
        let seed = format!("{TIMER} {} {}", entry.link.id, entry.link.version);
        let span = |context, parent, links| StepSpan { input: TIMER, ..StepSpan::of(context, parent, links) };
        self.open(seed.as_bytes(), None, entry.trace.clone(), ratio, span);
    }

    fn open(
        &mut self,
        seed: &[u8],
        parent: Option<TraceContext>,
        cause: Option<TraceContext>,
        ratio: SampleRatio,
        span: impl FnOnce(TraceContext, Option<TraceContext>, Vec<TraceContext>) -> StepSpan,
    ) {
        let context = ratio.begin(seed, parent.as_ref(), cause.as_ref());
        self.following = if context.is_sampled() {
            let span = span(context.clone(), parent, cause.into_iter().collect());
            Following { context: Some(context), span: Some(Box::new(span)) }
        } else {
            // Without a span of its own, the messages have the parent of the input.
            Following { context: parent.or(Some(context)), span: None }
        };
    }

    /// The span that is open, to add what becomes of the input.
    pub(super) fn span(&mut self) -> Option<&mut StepSpan> {
        self.following.span.as_deref_mut()
    }

    /// What became of the input.
    pub(super) fn span_outcome(&mut self, outcome: &str) {
        if let Some(span) = self.span() {
            outcome.clone_into(&mut span.outcome);
        }
    }

    /// The input was about this link, as it was before.
    pub(super) fn span_about(&mut self, before: &LinkEntry) {
        let Some(span) = self.span() else { return };
        span.link = Some(before.link.id.clone());
        span.institution.clone_from(&before.link.profile.institution);
        let began = before.trace.as_ref().filter(|began| began.trace_id() != span.context.trace_id());
        if let Some(began) = began.filter(|began| !span.links.contains(began)) {
            span.links.push(began.clone());
        }
    }

    /// Ends the span of the input, and with it its trace.
    pub(super) fn end_span(&mut self) {
        let Following { span, .. } = std::mem::take(&mut self.following);
        self.spans.extend(span.map(|span| *span).filter(|span| !span.outcome.is_empty()));
    }
}

impl StepSpan {
    fn of(context: TraceContext, parent: Option<TraceContext>, links: Vec<TraceContext>) -> Self {
        Self {
            context,
            parent,
            links,
            input: TIMER,
            position: None,
            message_id: None,
            link: None,
            institution: None,
            event: None,
            states: None,
            outcome: String::new(),
            sent: Vec::new(),
        }
    }
}
