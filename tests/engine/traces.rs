//! The trace context of an input goes on to the messages and, if spans are recorded, to the spans of the steps. It changes no decision.

use std::collections::VecDeque;
use std::time::Duration;

use relink::contract::{Address, SAME_TRACE_MAX, SampleRatio, TraceContext};
use relink::engine::{Delivery, Engine, Plan, Publishing, StepSpan};
use relink::link::StateName;
use relink::store::MemoryStore;
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, delivery, policy};
use crate::plans::{HOUR, LINK, Plans, at};

const OUTAGE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const VISIT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// An engine that records these traces.
fn relink(spans: Option<SampleRatio>) -> Plans {
    let engine = Engine::new(MemoryStore::default(), policy(false), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
    Plans::of(engine.with_publishing(Publishing { spans, ..Publishing::default() }))
}

/// An input that is stored at this time, with this `traceparent`.
fn input(sequence: u64, kind: &str, body: &Value, millis: i64, parent: Option<&str>) -> Delivery {
    // Programs may write the names of headers as they like.
    let headers = parent.map(|parent| ("Traceparent".to_owned(), parent.to_owned())).into_iter();
    let headers = headers.chain([("ce-id".to_owned(), format!("id-{sequence}"))]).collect();
    let stored_at_ns = at(millis).as_millis() * 1_000_000;
    Delivery { partition: 0, sequence, stored_at_ns, headers, ..delivery(kind, LINK, body.to_string()) }
}

fn broken(millis: i64, parent: Option<&str>) -> Delivery {
    let body =
        json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials", "link_id": LINK});
    input(1, "webhook", &body, millis, parent)
}

/// Plans and commits one input, or the timers.
fn run(relink: &mut Plans, delivery: Option<Delivery>, millis: i64) -> Plan {
    let plan = relink.plan(VecDeque::from_iter(delivery), millis);
    relink.apply(&plan);
    relink.engine.record_commit(&plan);
    plan
}

/// A link breaks, its reminder comes a day later, and its user repairs it.
fn story(relink: &mut Plans) -> Vec<Plan> {
    let widget =
        |sequence, event: &str, millis| Some(input(sequence, "widget", &json!({"event": event}), millis, Some(VISIT)));
    vec![
        run(relink, Some(broken(0, Some(OUTAGE))), 0),
        run(relink, None, 25 * HOUR),
        run(relink, widget(2, "started", 26 * HOUR), 26 * HOUR),
        run(relink, widget(3, "success", 26 * HOUR + 1), 26 * HOUR + 1),
    ]
}

/// The contexts of the messages about the link, without repeats.
fn contexts(plan: &Plan) -> Vec<Option<String>> {
    let messages = plan.messages.iter().map(|outgoing| &outgoing.message);
    let about_link = messages.filter(|message| !matches!(message.address, Address::Offset(_)));
    let mut contexts: Vec<_> =
        about_link.map(|message| message.trace.as_ref().map(TraceContext::traceparent)).collect();
    contexts.dedup();
    contexts
}

fn span(plan: &Plan) -> &StepSpan {
    let [span] = &plan.spans[..] else { panic!("{:?}", plan.spans) };
    span
}

#[test]
fn without_spans_the_context_of_an_input_is_passed_on_as_it_is() {
    let mut relink = relink(None);
    let plans = story(&mut relink);
    let expected = [Some(OUTAGE), None, Some(VISIT), Some(VISIT)];
    for (plan, expected) in plans.iter().zip(expected) {
        assert_eq!(contexts(plan), [expected.map(str::to_owned)]);
        assert!(plan.spans.is_empty());
    }
    assert!(relink.published.iter().all(|(_, body)| body["episode"].get("traceparent").is_none()));
}

#[test]
fn each_step_is_a_span_and_a_repair_has_a_link_to_the_outage() {
    let mut relink = relink(Some(SampleRatio::ALL));
    let plans = story(&mut relink);
    let [outage, reminder, started, recovered] = [0, 1, 2, 3].map(|index| span(&plans[index]));
    for (plan, span) in plans.iter().zip([outage, reminder, started, recovered]) {
        assert_eq!(contexts(plan), [Some(span.context.traceparent())], "the step is the parent of its messages");
        assert_eq!((span.link.as_ref().unwrap().as_str(), span.outcome.as_str()), (LINK, "accepted"));
    }
    assert_eq!(outage.parent, TraceContext::parse(OUTAGE));
    assert_eq!(outage.context.trace_id(), TraceContext::parse(OUTAGE).unwrap().trace_id());
    assert_eq!((outage.input, outage.position, outage.message_id.as_deref()), ("webhook", Some((0, 1)), Some("id-1")));
    assert_eq!(outage.states, Some((StateName::Unconfirmed, StateName::Invalid)));
    assert!(outage.links.is_empty() && outage.sent.contains(&format!("{LINK}.1.1")), "{outage:?}");

    // A day later the traces are other ones.
    let began = [outage.context.clone()];
    assert_eq!((reminder.input, &reminder.parent, &reminder.links[..]), ("timer", &None, &began[..]));
    assert!(reminder.context.trace_id() != outage.context.trace_id());
    for step in [started, recovered] {
        assert_eq!((&step.parent, &step.links[..]), (&TraceContext::parse(VISIT), &began[..]));
    }
    assert_eq!(recovered.states, Some((StateName::Updating, StateName::Valid)));

    // The record keeps the trace while the episode is open.
    let states = relink.published.iter().filter(|(address, _)| matches!(address, Address::State(_)));
    let kept: Vec<_> = states.map(|(_, body)| body["episode"]["traceparent"].as_str().map(str::to_owned)).collect();
    let open = Some(began[0].traceparent());
    assert_eq!(kept, [open.clone(), open.clone(), open, None]);
}

#[test]
fn spans_change_nothing_but_the_headers_and_the_trace_in_the_record() {
    let published = |spans| {
        let mut relink = relink(spans);
        story(&mut relink);
        let without_trace = |(address, mut body): (Address, Value)| {
            body["episode"].as_object_mut().map(|episode| episode.remove("traceparent"));
            (format!("{address:?}"), body)
        };
        relink.published.into_iter().map(without_trace).collect::<Vec<_>>()
    };
    let (without, with) = (published(None), published(Some(SampleRatio::ALL)));
    assert!(without.len() > 8);
    assert_eq!(without, with);
    // The ids follow from the inputs, so a plan that is made again has the same ones.
    let spans =
        || story(&mut relink(Some(SampleRatio::ALL))).into_iter().flat_map(|plan| plan.spans).collect::<Vec<_>>();
    assert_eq!(spans(), spans());
}

#[test]
fn a_late_input_begins_a_trace_with_a_link_to_its_cause() {
    let mut relink = relink(Some(SampleRatio::ALL));
    let late = i64::try_from((SAME_TRACE_MAX + Duration::from_secs(1)).as_millis()).unwrap();
    let plan = run(&mut relink, Some(broken(0, Some(OUTAGE))), late);
    let (span, cause) = (span(&plan), TraceContext::parse(OUTAGE).unwrap());
    assert_eq!((&span.parent, &span.links[..]), (&None, &[cause.clone()][..]));
    assert!(span.context.trace_id() != cause.trace_id());
}

#[test]
fn only_sampled_traces_are_recorded_and_a_bad_header_begins_a_new_trace() {
    let none = SampleRatio::new(0.0).unwrap();
    let unsampled = OUTAGE.replace("-01", "-00");
    for (ratio, parent, recorded) in [
        (SampleRatio::ALL, None, true),
        (none, None, false),
        (none, Some(OUTAGE), true),
        (SampleRatio::ALL, Some(unsampled.as_str()), false),
        (SampleRatio::ALL, Some("00-planted"), true),
        (none, Some(&*"0".repeat(1 << 20)), false),
    ] {
        let mut relink = relink(Some(ratio));
        let plan = run(&mut relink, Some(broken(0, parent)), 0);
        assert_eq!(plan.spans.len(), usize::from(recorded), "{parent:?}");
        let [Some(context)] = &contexts(&plan)[..] else { panic!("each message has a context") };
        assert_eq!(context.ends_with("-01"), recorded);
        assert!(recorded || parent != Some(&unsampled) || *context == unsampled, "the parent stays");
        assert_eq!(relink.record(LINK).trace().is_some(), recorded);
    }
}

#[test]
fn a_refusal_is_a_span_with_its_reason() {
    let mut relink = relink(Some(SampleRatio::ALL));
    run(&mut relink, Some(broken(0, Some(OUTAGE))), 0);
    let again = Delivery { sequence: 2, ..broken(1, Some(VISIT)) };
    let plan = run(&mut relink, Some(again), 1);
    let span = span(&plan);
    assert_eq!((span.event.as_deref(), span.outcome.as_str()), (Some("credentials_rejected"), "repeated"));
    assert_eq!((&span.states, span.link.as_ref().unwrap().as_str()), (&None, LINK));
    assert_eq!(contexts(&plan), [Some(span.context.traceparent())]);
}
