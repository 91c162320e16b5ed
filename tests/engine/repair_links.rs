//! The address of the repair page in notices: in the notices that ask the user for a repair, and in no other message.

use std::time::Duration;

use relink::contract::{Address, NoticeName};
use relink::engine::{Engine, Message, Publishing};
use relink::link::EpisodeNumber;
use relink::repair::{Purpose, RepairLinks};
use relink::store::MemoryStore;
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, policy};
use crate::plans::{HOUR, LINK, messages_of};

/// The repair page of the tests.
pub(crate) fn links() -> RepairLinks {
    let keys = ["a-key-of-the-tests-which-is-long-enough".into()];
    RepairLinks::new("https://relink.example.com", &keys, Duration::from_secs(14 * 86_400))
}

/// A link breaks, its reminder comes, and it works again. All messages of that.
fn messages(links: Option<RepairLinks>) -> Vec<Message> {
    let engine = Engine::new(MemoryStore::default(), policy(false), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
    let engine = engine.with_publishing(Publishing { repair_links: links, ..Publishing::default() });
    let broken =
        json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials", "link_id": LINK});
    let widget = |event: &str| Some(("widget", json!({"event": event})));
    let story = [
        (0, Some(("webhook", broken))),
        (25 * HOUR, None),
        (26 * HOUR, widget("started")),
        (26 * HOUR + 1, widget("success")),
    ];
    messages_of(engine, story)
}

#[test]
fn only_prompts_and_reminders_have_the_address_of_the_page() {
    let mut found = Vec::new();
    for Message { address, body, at, .. } in messages(Some(links())) {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let Some(url) = body.get("repair_url").and_then(Value::as_str) else { continue };
        let Address::Notice(name, _) = address else { panic!("{address:?} has an address: {body}") };
        let token = url.strip_prefix("https://relink.example.com/repair/").unwrap();
        let claims = links().verify(Purpose::Page, token).unwrap();
        assert_eq!((claims.link.as_str(), claims.episode), (LINK, EpisodeNumber(1)));
        assert_eq!(claims.expires_at, at.after(Duration::from_secs(14 * 86_400)), "by the time of the step");
        found.push(name);
    }
    assert_eq!(found, [NoticeName::UpdateRequired, NoticeName::Reminder]);
}

#[test]
fn a_repeated_plan_has_the_same_bytes() {
    let bytes = |message: Message| (message.id, message.body);
    let [first, second] = [(), ()].map(|()| messages(Some(links())).into_iter().map(bytes).collect::<Vec<_>>());
    assert_eq!(first, second);
}

#[test]
fn without_the_page_no_message_has_an_address() {
    let texts: Vec<_> =
        messages(None).into_iter().map(|message| String::from_utf8(message.body.into()).unwrap()).collect();
    assert!(texts.len() > 4 && texts.iter().all(|text| !text.contains("repair_url")), "{texts:#?}");
}
