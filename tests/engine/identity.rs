//! One link is one record, for every spelling of its id and on every partition.
//!
//! The server chooses the partition of a message by a hash of the published link token, so each spelling of a UUID may
//! arrive on another partition.

use std::collections::{BTreeMap, VecDeque};

use relink::contract::{Address, CommittedOffset, NoticeName, Record};
use relink::engine::{Delivery, Engine, Message};
use relink::link::{Policy, StateName};
use relink::store::{MemoryStore, Query, Store};
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, PARTITIONS, START, delivery, policy};

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// The spellings that are valid tokens of a subject.
const SPELLINGS: [&str; 6] = [
    LINK,
    "16f68516bcbc4cf7b815c500d4204e28",
    "16F68516-BCBC-4CF7-B815-C500D4204E28",
    "16F68516BCBC4CF7B815C500D4204E28",
    "urn:uuid:16f68516-bcbc-4cf7-b815-c500d4204e28",
    "{16f68516-bcbc-4cf7-b815-c500d4204e28}",
];

fn invalid_credentials(spelling: &str, request: usize) -> Value {
    json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials", "link_id": spelling,
        "request_id": format!("{request:08}-51eb-4350-9c74-5df5ac92a7f6")})
}

/// The `nth` message, on a partition to which its spelling may have been hashed.
fn message(kind: &str, nth: usize, body: &Value) -> Delivery {
    let mut message = delivery(kind, SPELLINGS[nth % SPELLINGS.len()], body.to_string());
    message.partition = nth as u16 % PARTITIONS;
    message
}

fn records(store: &MemoryStore) -> Vec<Record> {
    let page = store.page(&Query { limit: 10, ..Query::default() }).unwrap();
    page.links.iter().map(|stored| stored.parse().unwrap()).collect()
}

/// An engine, and the messages that it has published. Each call of `receive` restarts the engine and makes one plan.
struct Desk {
    policy: Policy,
    store: MemoryStore,
    offsets: BTreeMap<u16, u64>,
    inputs_count: u64,
    output: Vec<Message>,
    dead_count: usize,
}

impl Desk {
    fn new(can_verify: bool) -> Self {
        let (store, policy) = (MemoryStore::default(), policy(can_verify));
        Self { policy, store, offsets: BTreeMap::new(), inputs_count: 0, output: Vec::new(), dead_count: 0 }
    }

    fn receive(&mut self, deliveries: Vec<Delivery>) {
        let numbered = deliveries.into_iter().map(|mut delivery| {
            self.inputs_count += 1;
            (delivery.sequence, delivery.stored_at_ns) = (self.inputs_count, START.as_millis() * 1_000_000);
            delivery
        });
        let mut queue: VecDeque<Delivery> = numbered.collect();
        let mut engine = Engine::new(self.store.clone(), self.policy.clone(), INPUT_CREATED_NS, &self.offsets).unwrap();
        while !queue.is_empty() {
            let mut plan = engine.plan(&mut queue, START).unwrap();
            self.store.apply(&plan.changes(None)).unwrap();
            engine.record_commit(&plan);
            self.dead_count += plan.dead_letters.len();
            self.offsets.extend(plan.offsets.iter().map(|(partition, offset)| (*partition, offset.sequence)));
            self.output.extend(plan.messages.drain(..).map(|outgoing| outgoing.message));
        }
    }

    fn prompts(&self) -> usize {
        let is_prompt = |message: &&Message| matches!(message.address, Address::Notice(NoticeName::UpdateRequired, _));
        self.output.iter().filter(is_prompt).count()
    }
}

#[test]
fn a_link_published_under_every_spelling_is_one_record_with_one_prompt_and_one_history() {
    for (first, spelling) in SPELLINGS.iter().enumerate() {
        let mut desk = Desk::new(false);
        // Some messages in one plan, some in the next, some after a restart.
        for (round, count) in [SPELLINGS.len(), 1, SPELLINGS.len()].into_iter().enumerate() {
            let numbers = (0..SPELLINGS.len()).cycle().skip(first + round).take(count);
            // The spelling in the body differs from the one in the subject.
            let body = |nth: usize| invalid_credentials(SPELLINGS[(nth + 1) % SPELLINGS.len()], nth);
            desk.receive(numbers.map(|nth| message("webhook", nth, &body(nth))).collect());
        }
        let records = records(&desk.store);
        assert_eq!(records.iter().map(|record| record.link_id.as_str()).collect::<Vec<_>>(), [LINK]);
        assert_eq!((desk.prompts(), desk.dead_count), (1, 0), "first said as {spelling}");
        let states = desk.output.iter().filter(|message| matches!(message.address, Address::State(_)));
        let versions: Vec<u64> =
            states.map(|message| serde_json::from_slice::<Record>(&message.body).unwrap().version).collect();
        assert!(versions.is_sorted_by(|a, b| a + 1 == *b), "one history, whatever the partition: {versions:?}");
    }
}

#[test]
fn the_institution_in_a_widget_callback_is_not_used() {
    let mut desk = Desk::new(true);
    let claims = |institution: Value| json!({"event": "success", "institution": institution});
    let mut institution_after = |kind: &str, body: &Value| {
        desk.receive(vec![message(kind, 0, body)]);
        let record = records(&desk.store).pop().unwrap();
        assert!(serde_json::to_string(&record).unwrap().len() < 16 * 1024);
        record.institution
    };
    institution_after("webhook", &invalid_credentials(LINK, 1));
    assert_eq!(institution_after("widget", &claims(json!("x".repeat(900_000)))), None);
    assert_eq!(institution_after("widget", &claims(json!("sent_by_a_device"))), None);
    let seen = json!({"observed_at": START.to_string(), "outcome": "found",
        "link": {"id": LINK, "status": "invalid", "institution": "erebor_mx_retail"}});
    assert_eq!(institution_after("observation", &seen).as_deref(), Some("erebor_mx_retail"));
    institution_after("webhook", &invalid_credentials(LINK, 2));
    assert_eq!(institution_after("widget", &claims(json!("evil"))).as_deref(), Some("erebor_mx_retail"));
}

#[test]
fn a_repair_under_another_spelling_of_the_id_repairs_the_same_link() {
    let mut desk = Desk::new(false);
    let observed = json!({"observed_at": START.to_string(), "source": "app",
        "outcome": "found", "link": {"id": SPELLINGS[1], "status": "valid"}});
    let error = json!({"http_status": 400, "method": "POST", "path": format!("/api/links/{}/refresh/", SPELLINGS[3]),
        "link_id": SPELLINGS[4], "body": [{"code": "invalid_link", "link": SPELLINGS[5]}]});
    let success = json!({"event": "success", "link": SPELLINGS[2]});
    desk.receive(vec![
        message("api_error", 0, &error),
        message("widget", 1, &success),
        message("observation", 5, &observed),
    ]);
    assert_eq!((desk.prompts(), desk.dead_count), (1, 0));
    assert_eq!(desk.store.count().unwrap()[&StateName::Valid], 1);
    assert_eq!(records(&desk.store).len(), 1);
}

#[test]
fn an_offset_in_another_stream_has_another_id() {
    let offset = |stored_at_ns: i64| CommittedOffset {
        stream_created_ns: stored_at_ns,
        sequence: 7,
        stored_at_ns,
        journals: Vec::new(),
    };
    let id = |stored_at_ns| Message::of_offset(2, &offset(stored_at_ns)).id;
    assert_eq!(id(5_000_000), id(5_000_000), "an offset that is planned again has the same id");
    assert_ne!(id(5_000_000), id(9_000_000), "the input stream was created again, and uses its sequences again");
}

#[test]
fn the_record_says_who_gave_a_command_and_why() {
    let mut desk = Desk::new(false);
    let body = json!({"command": "mute", "by": "ana", "reason": "the user called us"});
    let mut command = message("command", 1, &body);
    command.headers.push(("Relink-Token".to_owned(), "day-shift".to_owned()));
    desk.receive(vec![command]);
    let origin = records(&desk.store)[0].because.origin.clone();
    assert_eq!(origin.token.as_deref(), Some("day-shift"));
    assert_eq!((origin.by.as_deref(), origin.reason.as_deref()), (Some("ana"), Some("the user called us")));

    // A text that is too long is left out, and the record says which.
    let body = json!({"command": "unmute", "by": "ana", "reason": "x".repeat(5_000)});
    desk.receive(vec![message("command", 2, &body)]);
    let origin = records(&desk.store)[0].because.origin.clone();
    assert_eq!((origin.token, origin.by.as_deref(), origin.reason), (None, Some("ana"), None));
    assert_eq!(origin.unreadable_fields, ["reason"]);
}

#[test]
fn the_record_says_how_long_a_message_waited_in_the_journal() {
    let mut desk = Desk::new(false);
    let mut origin_of = |nth: usize, journal: Option<&str>, time: &str| {
        let name = if nth % 2 == 1 { "mute" } else { "unmute" };
        let mut command = message("command", nth, &json!({"command": name}));
        let journal = journal.map(|record| ("Relink-Journal".to_owned(), record.to_owned()));
        command.headers.extend(journal.into_iter().chain([("ce-time".to_owned(), time.to_owned())]));
        desk.receive(vec![command]);
        let because = records(&desk.store)[0].because.clone();
        assert_eq!(because.event, name, "the command has changed the link");
        because.origin
    };
    let accepted_at = "2026-09-21T10:00:00.000Z";
    let waited = origin_of(1, Some("0000000a-1"), accepted_at);
    assert_eq!(waited.accepted_at.map(|at| at.0.to_string()).as_deref(), Some(accepted_at));
    // Most messages wait for some milliseconds.
    let at_once = origin_of(2, Some("0000000a-2"), &waited.received_at.0.to_string());
    assert_eq!(at_once.accepted_at, None);
    // Only the journal knows the time: another publisher may give any, and what is no time is left out.
    assert_eq!(origin_of(3, None, accepted_at).accepted_at, None);
    assert_eq!(origin_of(4, Some("0000000a-4"), "yesterday").accepted_at, None);
}
