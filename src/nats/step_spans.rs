//! The steps of a stored commit as spans. The names of attributes are those of OpenTelemetry's conventions for messaging where there is one.

use std::time::Duration;

use crate::clock;
use crate::engine::StepSpan;
use crate::nats::subject::Subjects;
use crate::trace::{Recorded, SpanKind, Value, record};

/// Records the steps of a commit, which was planned this time ago, and is stored now.
pub(super) fn publish(spans: Vec<StepSpan>, planned_ago: Duration, subjects: &Subjects) {
    if spans.is_empty() {
        return;
    }
    let ended = clock::system_time();
    let started = ended.checked_sub(planned_ago).unwrap_or(ended);
    for span in spans {
        let StepSpan { context, parent, links, input, .. } = &span;
        record(Recorded {
            context: context.clone(),
            parent: parent.clone(),
            links: links.clone(),
            name: format!("step {input}"),
            kind: SpanKind::Consumer,
            started,
            ended,
            attributes: attributes(span, subjects),
            failure: None,
        });
    }
}

fn attributes(span: StepSpan, subjects: &Subjects) -> Vec<(&'static str, Value)> {
    let StepSpan { input, position, message_id, link, institution, event, states, outcome, sent, .. } = span;
    let mut attributes: Vec<(&'static str, Value)> =
        vec![("relink.input.kind", input.into()), ("relink.outcome", outcome.into())];
    let mut add = |key: &'static str, value: Option<String>| {
        attributes.extend(value.map(|value| (key, Value::from(value))));
    };
    add("relink.link.id", link.map(|link| link.to_string()));
    add("relink.institution", institution);
    add("relink.event", event);
    let (from, to) = states.unzip();
    add("relink.state.from", from.map(|state| state.as_str().to_owned()));
    add("relink.state.to", to.map(|state| state.as_str().to_owned()));
    add("messaging.message.id", message_id);
    if let Some((partition, sequence)) = position {
        let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
        attributes.push(("messaging.system", "nats".into()));
        attributes.push(("messaging.operation.type", "process".into()));
        attributes.push(("messaging.destination.name", subjects.input_stream().into()));
        attributes.push(("messaging.destination.partition.id", partition.to_string().into()));
        attributes.push(("relink.input.sequence", sequence.into()));
    }
    if !sent.is_empty() {
        // The ids of the messages, as texts.
        attributes.push(("relink.sent", sent.join(" ").into()));
    }
    attributes
}
