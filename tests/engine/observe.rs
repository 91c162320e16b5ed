//! Observe mode: what would be sent is recorded, and nothing else is different.

use relink::contract::{Address, JobName, NoticeName};
use relink::engine::{Engine, Message, Publishing};
use relink::store::MemoryStore;
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, policy};
use crate::plans::{HOUR, LINK, at, messages_of};

/// A link breaks, its reminder comes, and it works again; the data that was missed does not arrive. All messages of that.
fn messages(observe: bool) -> Vec<Message> {
    let engine = Engine::new(MemoryStore::default(), policy(true), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
    let engine = engine.with_publishing(Publishing { observe, ..Publishing::default() });
    let broken =
        json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials", "link_id": LINK});
    let read = |status: &str, millis: i64| {
        let observed_at = at(millis).to_string();
        let resource = json!({"id": LINK, "status": status, "institution": "erebor_mx_retail", "external_id": "pedro",
            "created_at": "2026-01-01T00:00:00Z", "access_mode": "recurrent"});
        json!({"observed_at": observed_at, "source": "verify", "outcome": "found", "link": resource})
    };
    let mut story = vec![(0, Some(("observation", read("valid", 0)))), (HOUR, Some(("webhook", broken)))];
    story.extend((2..40).map(|hour| (hour * HOUR, None)));
    story.push((40 * HOUR, Some(("observation", read("valid", 40 * HOUR)))));
    story.extend((41..200).map(|hour| (hour * HOUR, None)));
    messages_of(engine, story)
}

fn notices(messages: &[Message], of: impl Fn(&Address) -> Option<NoticeName>) -> Vec<(NoticeName, &str, &[u8])> {
    let named =
        messages.iter().filter_map(|message| Some((of(&message.address)?, message.id.as_str(), &*message.body)));
    named.collect()
}

fn refreshes(messages: &[Message]) -> usize {
    messages.iter().filter(|message| matches!(message.address, Address::Job(JobName::Refresh, _))).count()
}

#[test]
fn notices_are_recorded_and_not_published_and_nothing_is_refreshed() {
    let [normal, observed] = [messages(false), messages(true)];
    let sent = |address: &Address| if let Address::Notice(name, _) = address { Some(*name) } else { None };
    let kept = |address: &Address| if let Address::Observed(name, _) = address { Some(*name) } else { None };

    let would_send = notices(&observed, kept);
    assert_eq!(would_send, notices(&normal, sent), "the same notices, with the same ids and bodies");
    assert!(notices(&observed, sent).is_empty() && notices(&normal, kept).is_empty());
    for name in [NoticeName::UpdateRequired, NoticeName::Reminder, NoticeName::Recovered, NoticeName::RefreshDue] {
        assert!(would_send.iter().any(|(found, ..)| *found == name), "{name:?} in {would_send:?}");
    }
    assert!(refreshes(&normal) > 0 && refreshes(&observed) == 0, "{}", refreshes(&normal));
    // relink still reads.
    let verify = |message: &&Message| matches!(message.address, Address::Job(JobName::Verify, _));
    assert_eq!(observed.iter().filter(verify).count(), normal.iter().filter(verify).count());
}

#[test]
fn a_state_names_only_what_is_published_and_a_refresh_that_nobody_makes_ends() {
    let messages = messages(true);
    let ids: Vec<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    let states = messages.iter().filter(|message| matches!(message.address, Address::State(_)));
    let states: Vec<Value> = states.map(|state| serde_json::from_slice(&state.body).unwrap()).collect();
    for state in &states {
        for id in state["sent"].as_array().into_iter().flatten() {
            assert!(ids.contains(&id.as_str().unwrap()), "{id} is in no batch");
        }
    }
    assert!(states.iter().any(|state| state["refresh"]["asked"] == true));
    let last = states.last().unwrap();
    assert!(last["state"] == "valid" && last["refresh"].is_null(), "{last}");
}
