//! Several links of one person: one message for all of them, in whichever plans, partitions and processes they break.

use std::collections::VecDeque;

use relink::contract::{Address, NoticeName, PromptWord, Record};
use relink::engine::{Delivery, Engine, Publishing};
use relink::link::{Link, Policy, PolicySettings, step};
use relink::store::{Changes, MemoryStore, Store};
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, START, delivery};
use crate::plans::{HOUR, Plans, at};
use crate::repair_links::links;

const DAY: i64 = 24 * HOUR;

/// Two partitions, each with links of one person.
struct Relink {
    plans: Plans,
    policy: Policy,
    sequence: u64,
}

impl Relink {
    fn new(settings: PolicySettings) -> Self {
        let policy = Policy::new(settings).unwrap();
        let mut relink = Self { plans: Plans::of(engine(MemoryStore::default(), &policy, 0)), policy, sequence: 0 };
        for link in ["a", "b", "c"] {
            let found = relink.found(link, "valid", 0);
            relink.plans.commit([found].into(), 0);
        }
        relink
    }

    fn input(&mut self, link: &str, kind: &str, body: Value, millis: i64) -> Delivery {
        self.sequence += 1;
        let stored_at_ns = (START.as_millis() + millis) * 1_000_000;
        let partition = u16::from(link == "b");
        Delivery { partition, sequence: self.sequence, stored_at_ns, ..delivery(kind, link, body.to_string()) }
    }

    fn found(&mut self, link: &str, status: &str, millis: i64) -> Delivery {
        let resource = json!({"id": link, "status": status, "institution": format!("bank_{link}"), "external_id": "maria",
            "last_accessed_at": at(millis).to_string()});
        let body = json!({"observed_at": at(millis).to_string(), "outcome": "found", "link": resource});
        self.input(link, "observation", body, millis)
    }

    fn rejected(&mut self, link: &str, millis: i64) -> Delivery {
        let body = json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials",
            "link_id": link, "request_id": format!("r{}", self.sequence), "data": {}});
        self.input(link, "webhook", body, millis)
    }

    /// A new process with the same store.
    fn restart(&mut self) {
        let store = self.plans.engine.store().copy();
        self.plans.engine = engine(store, &self.policy, self.sequence);
    }

    /// The notices that ask the user for something.
    fn messages(&self) -> Vec<&Value> {
        let asks = [NoticeName::UpdateRequired, NoticeName::Reminder, NoticeName::ConsentExpiring];
        let is_message = |address: &Address| matches!(address, Address::Notice(name, _) if asks.contains(name));
        self.plans.published.iter().filter(|(address, _)| is_message(address)).map(|(_, body)| body).collect()
    }

    /// The link of each message, and the links that it mentions.
    fn delivered(&self) -> Vec<(String, Vec<String>)> {
        let id = |value: &Value| value["link_id"].as_str().unwrap().to_owned();
        let also = |body: &Value| body["also_broken"].as_array().into_iter().flatten().map(id).collect();
        self.messages().into_iter().map(|body| (id(body), also(body))).collect()
    }

    fn prompt(&self, link: &str) -> PromptWord {
        self.plans.record(link).episode.unwrap().prompt.unwrap()
    }
}

fn engine(store: MemoryStore, policy: &Policy, sequence: u64) -> Engine<MemoryStore> {
    let offsets = [(0, sequence), (1, sequence)].into();
    Engine::new(store, policy.clone(), INPUT_CREATED_NS, &offsets)
        .unwrap()
        .with_publishing(Publishing { repair_links: Some(links()), ..Publishing::default() })
}

fn settings() -> PolicySettings {
    PolicySettings { can_verify: true, incident_links: 0, ..PolicySettings::default() }
}

fn delivered(messages: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    messages.iter().map(|(link, also)| ((*link).to_owned(), owned(also))).collect()
}

#[test]
fn links_that_break_in_one_plan_lead_to_one_prompt_and_then_to_one_reminder_for_all() {
    let mut relink = Relink::new(settings());
    let queue = ["a", "b", "c"].map(|link| relink.rejected(link, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    assert_eq!(relink.delivered(), delivered(&[("a", &[])]));
    assert_eq!(
        ["a", "b", "c"].map(|link| relink.prompt(link)),
        [PromptWord::Sent, PromptWord::Postponed, PromptWord::Postponed]
    );
    // The end of the pause is in one plan for all of them.
    relink.plans.commit(VecDeque::new(), HOUR + DAY);
    let messages = relink.delivered();
    assert_eq!(messages.len(), 2, "{messages:?}");
    let (link, mut also) = messages[1].clone();
    also.push(link);
    also.sort();
    assert_eq!(also, ["a", "b", "c"]);
    assert_eq!(["b", "c"].map(|link| relink.prompt(link)), [PromptWord::Sent; 2]);
    let body = relink.messages()[1];
    for other in body["also_broken"].as_array().unwrap() {
        let id = other["link_id"].as_str().unwrap();
        let url = other["repair_url"].as_str().unwrap();
        let claims = links().verify(relink::repair::Purpose::Page, url.rsplit_once('/').unwrap().1).unwrap();
        assert_eq!((claims.link.as_str(), other["institution"].as_str().unwrap()), (id, &*format!("bank_{id}")));
        assert_eq!(other["action"], "update_credentials");
    }
}

#[test]
fn a_message_names_no_link_whose_bank_is_down() {
    let mut relink = Relink::new(settings());
    let queue = ["a", "b", "c"].map(|link| relink.rejected(link, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    let began = at(DAY).to_string();
    let down = json!({"type": "began", "cause": "status_page", "institution": "bank_b", "at": began, "began_at": began,
        "links_count": 0, "deferred_count": 0, "threshold": 0, "window_seconds": 600,
        "because": {"origin": {"kind": "institution_status", "received_at": began}}});
    let incidents = vec![serde_json::from_value(down).unwrap()];
    relink.plans.engine.store().apply(&Changes { incidents, ..Changes::default() }).unwrap();
    relink.restart();
    relink.plans.commit(VecDeque::new(), HOUR + DAY);
    let (link, also) = relink.delivered().pop().unwrap();
    let mut named = also.clone();
    named.push(link);
    named.sort();
    assert_eq!((relink.delivered().len(), named), (2, vec!["a".to_owned(), "c".to_owned()]));
    assert_ne!(relink.prompt("b"), PromptWord::Sent, "its own prompt waits for the end of the outage");
}

#[test]
fn a_message_in_a_plan_that_is_not_stored_yet_counts_whether_its_write_has_landed_or_not() {
    for has_landed in [false, true] {
        let mut relink = Relink::new(settings());
        let first = relink.rejected("a", HOUR);
        let in_flight = relink.plans.plan([first].into(), HOUR);
        if has_landed {
            relink.plans.apply(&in_flight);
        }
        let second = relink.rejected("b", 2 * HOUR);
        let next = relink.plans.plan([second].into(), 2 * HOUR);
        assert_eq!(relink.delivered(), delivered(&[("a", &[])]), "{has_landed}");
        let because = &relink
            .plans
            .published
            .iter()
            .rev()
            .find(|(address, _)| matches!(address, Address::State(_)))
            .unwrap()
            .1["because"];
        assert_eq!(because["person"]["last_message"]["link_id"], "a");
        for plan in [in_flight, next] {
            relink.plans.apply(&plan);
            relink.plans.engine.record_commit(&plan);
        }
        assert_eq!(relink.prompt("b"), PromptWord::Postponed);
    }
}

#[test]
fn a_new_process_knows_the_last_message_and_the_links_that_wait() {
    let mut relink = Relink::new(settings());
    let first = relink.rejected("a", HOUR);
    relink.plans.commit([first].into(), HOUR);
    relink.restart();
    let second = relink.rejected("b", 2 * HOUR);
    relink.plans.commit([second].into(), 2 * HOUR);
    assert_eq!(relink.delivered(), delivered(&[("a", &[])]));
    relink.restart();
    // The first link works again, so the second one is prompted alone, at the end of the pause.
    let works = relink.found("a", "valid", 3 * HOUR);
    relink.plans.commit([works].into(), 3 * HOUR);
    relink.plans.commit(VecDeque::new(), HOUR + DAY - 1);
    assert_eq!(relink.delivered().len(), 1);
    relink.plans.commit(VecDeque::new(), HOUR + DAY);
    assert_eq!(relink.delivered(), delivered(&[("a", &[]), ("b", &[])]));
}

#[test]
fn another_person_and_a_link_without_one_are_prompted_at_once() {
    let mut relink = Relink::new(settings());
    let mut other = relink.found("d", "valid", 0);
    let body: Value = serde_json::from_slice(&other.payload).unwrap();
    let mut body = body;
    body["link"]["external_id"] = json!("joao");
    other.payload = body.to_string().into();
    relink.plans.commit([other].into(), 0);
    // relink has read two links that belong to no person, so their prompts do not wait for a read.
    let nobodys = ["e", "f"].map(|link| {
        let mut found = relink.found(link, "valid", 0);
        let mut body: Value = serde_json::from_slice(&found.payload).unwrap();
        body["link"]["external_id"] = Value::Null;
        body["link"]["created_at"] = json!(at(0).to_string());
        found.payload = body.to_string().into();
        found
    });
    relink.plans.commit(nobodys.into(), 0);
    let queue = ["a", "d", "e", "f"].map(|link| relink.rejected(link, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    assert_eq!(relink.delivered(), delivered(&[("a", &[]), ("d", &[]), ("e", &[]), ("f", &[])]));
}

#[test]
fn an_operator_can_switch_the_rule_off() {
    let mut relink = Relink::new(PolicySettings { per_person: false, ..settings() });
    let queue = ["a", "b"].map(|link| relink.rejected(link, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    assert_eq!(relink.delivered(), delivered(&[("a", &[]), ("b", &[])]));
}

/// `because` has all circumstances: the same input with them leads from the state before to the state after.
#[test]
fn the_recorded_circumstance_replays_to_the_same_state() {
    let mut relink = Relink::new(settings());
    let queue = ["a", "b", "c"].map(|link| relink.rejected(link, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    relink.plans.commit(VecDeque::new(), HOUR + DAY);
    let states = relink.plans.published.iter().filter(|(address, _)| matches!(address, Address::State(_)));
    let mut links = std::collections::BTreeMap::<String, Link>::new();
    let mut with_person = 0;
    for (_, body) in states {
        let record: Record = serde_json::from_value(body.clone()).unwrap();
        let after = record.link().unwrap();
        let before = links.insert(record.link_id.clone(), after.clone());
        if record.because.event == "deadline_passed" {
            let person = record.because.person.as_ref().map(|person| Box::new(person.parse().unwrap()));
            with_person += usize::from(person.is_some());
            let input = relink::link::Input { person, ..relink::link::Event::DeadlinePassed.into() };
            let taken = step(&before.unwrap(), &input, record.because.at.0, &relink.policy).unwrap();
            assert_eq!(taken.link, after);
        }
    }
    assert_eq!(with_person, 3);
}
