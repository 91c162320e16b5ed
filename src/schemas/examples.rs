//! The examples in `schemas/`: a fixed script of inputs is run through the real engine, and its messages are the
//! examples.
//!
//! The script has six links, a week, and every kind of notice, job and state; then an incident of one institution.
//! All data is invented, and the result is always the same.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use crate::contract::{self, Address, At, Commit, Fence, InputKind, NoticeName, STATUS_PAGE};
use crate::engine::{Delivery, Engine, Message, Publishing};
use crate::link::{InstitutionNotices, Policy, PolicySettings, Timestamp};
use crate::nats::envelope;
use crate::nats::subject::Subjects;
use crate::repair::RepairLinks;
use crate::store::{MemoryStore, Store};

/// One example message.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The name of its schema, such as `link.notice`.
    pub name: String,
    /// The name of the example among several of one schema.
    pub variant: Option<String>,
    /// The subject.
    pub subject: String,
    /// The headers, in order of their names.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Value,
}

/// A recurrent link: its credentials fail, the second repair attempt succeeds, later it becomes stale.
const ANA: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
/// A single link: needs a token, which the customer's application reports.
const BRUNO: &str = "30cb4806-6e00-48a4-91c9-ca55968576c8";
/// A Brazilian link: its consent is about to end; it is deleted.
const CARLA: &str = "8848bd0c-9c7e-4f53-a732-ec896b11d4c4";
/// A link whose registration was not finished.
const DIEGO: &str = "bd15a6f6-9abd-4cf7-a1b3-cd1bea62e0f1";

/// A link that breaks; its user connects the bank anew.
const ELENA: &str = "4b3bb0ac-2f0b-4b0c-a9c2-0a6f2fd1c0a7";
/// The new link of that user.
const ELENA_ANEW: &str = "9c9f4f0b-6a0c-4f7e-8d4c-3f2d1f6f6c11";

/// The start of the script: 2026-11-02T09:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_793_610_000_000);

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// An input of the script. `variant` is the name of its example file; an input that shows nothing new has none.
struct ScriptedInput {
    /// Seconds since the start.
    at: i64,
    link: &'static str,
    kind: InputKind,
    variant: &'static str,
    body: Value,
}

/// The whole script, in order; a row of `None` is a time at which only timers are due.
fn script() -> Vec<(i64, Option<ScriptedInput>)> {
    use InputKind::{ApiError, Command, InstitutionStatus, Observation, Webhook, Widget};
    let input = |at, link, kind, variant, body| (at, Some(ScriptedInput { at, link, kind, variant, body }));
    let timers_only = |at| (at, None);
    vec![
        input(0, ANA, Observation, "found", found(ANA, 0, "valid", "recurrent")),
        input(5, ANA, Webhook, "historical_update", webhook(ANA, "ACCOUNTS", "historical_update", 1, json!({}))),
        input(20, DIEGO, ApiError, "unconfirmed_link", api_error(400, DIEGO, unconfirmed())),
        input(25, BRUNO, Observation, "", found(BRUNO, 25, "valid", "single")),
        input(30, CARLA, Observation, "", found(CARLA, 30, "valid", "recurrent")),
        // Diego has not finished the creation of his link: Belvo is asked, and the application is notified.
        timers_only(20 + HOUR),
        input(30 + HOUR, DIEGO, Observation, "", found(DIEGO, 30 + HOUR, "unconfirmed", "single")),
        // Ana's bank refuses the stored password; a day passes without a repair.
        input(6 * HOUR, ANA, Webhook, "invalid_credentials", login_failed(ANA)),
        input(6 * HOUR + 10, ANA, Webhook, "", login_failed(ANA)),
        timers_only(DAY + 6 * HOUR),
        // She opens the widget and closes it; later she opens it again.
        input(DAY + 7 * HOUR, ANA, Widget, "started", json!({"event": "started", "expires_in_seconds": 600})),
        input(DAY + 7 * HOUR + 40, ANA, Widget, "exit", exited()),
        input(DAY + 7 * HOUR + 45, ANA, Observation, "", found(ANA, DAY + 7 * HOUR + 44, "invalid", "recurrent")),
        input(DAY + 9 * HOUR, ANA, Widget, "", json!({"event": "started", "expires_in_seconds": 600})),
        input(DAY + 9 * HOUR + 90, ANA, Widget, "success", succeeded(ANA)),
        input(DAY + 9 * HOUR + 92, ANA, Observation, "", found(ANA, DAY + 9 * HOUR + 92, "valid", "recurrent")),
        input(
            DAY + 9 * HOUR + 5 * MINUTE,
            ANA,
            Webhook,
            "new_transactions_available",
            webhook(ANA, "TRANSACTIONS", "new_transactions_available", 2, json!({"new_transactions": 17})),
        ),
        // Bruno's bank requires a token: the customer's application receives the error and reports it.
        input(2 * DAY, BRUNO, ApiError, "token_required", api_error(428, BRUNO, token_required(BRUNO))),
        input(2 * DAY + HOUR, BRUNO, ApiError, "institution_down", api_error(400, BRUNO, institution_down())),
        input(2 * DAY + HOUR + MINUTE, BRUNO, Webhook, "", webhook(BRUNO, "LINK", "link_healed", 3, json!({}))),
        input(
            2 * DAY + 2 * HOUR,
            BRUNO,
            Command,
            "snooze",
            json!({
                "command": "snooze", "until": at(9 * DAY).to_string(), "by": "support@example.com",
                "reason": "The user is travelling until then",
            }),
        ),
        input(2 * DAY + 3 * HOUR, BRUNO, Widget, "updated", json!({"event": "updated"})),
        input(2 * DAY + 3 * HOUR + 3, BRUNO, Observation, "", found(BRUNO, 2 * DAY + 3 * HOUR + 2, "valid", "single")),
        input(
            2 * DAY + 3 * HOUR + 6,
            BRUNO,
            Observation,
            "refresh_accepted",
            json!({
                "observed_at": at(2 * DAY + 3 * HOUR + 5).to_string(), "source": "verify",
                "outcome": "refresh_accepted",
                "request_id": "0a9c5bd1d6d84a2a9c7c1c5b6f9d2e41",
            }),
        ),
        input(
            2 * DAY + 3 * HOUR + 4 * MINUTE,
            BRUNO,
            Webhook,
            "",
            webhook(BRUNO, "TRANSACTIONS", "historical_update", 4, json!({"total_transactions": 240})),
        ),
        // Carla's consent ends in a month; she deletes the link.
        input(3 * DAY, CARLA, Webhook, "consent_about_to_expire", consent_ends(CARLA)),
        input(4 * DAY, CARLA, Command, "verify", json!({"command": "verify", "by": "support@example.com"})),
        input(5 * DAY, CARLA, Webhook, "link_deleted", webhook(CARLA, "LINK", "link_deleted", 5, json!({}))),
        // The name of the institution on the status page is not configured, so the webhook is dead-lettered.
        input(5 * DAY + HOUR, STATUS_PAGE, InstitutionStatus, "incident", contract::InstitutionStatus::example()),
        // No scheduled refresh of Ana's link arrives, and the verify job has no answer.
        timers_only(6 * DAY),
        timers_only(6 * DAY + HOUR),
        // Elena's bank refuses the password. She does not repair the link, but connects the bank anew in the widget.
        input(6 * DAY + 2 * HOUR, ELENA, Observation, "", connected(ELENA, 6 * DAY + 2 * HOUR, 0)),
        input(6 * DAY + 3 * HOUR, ELENA, Webhook, "", login_failed(ELENA)),
        input(6 * DAY + 4 * HOUR, ELENA, Widget, "success_of_another_link", succeeded(ELENA_ANEW)),
        input(
            6 * DAY + 4 * HOUR + 2,
            ELENA_ANEW,
            Observation,
            "",
            connected(ELENA_ANEW, 6 * DAY + 4 * HOUR + 1, 6 * DAY + 4 * HOUR - 9),
        ),
        input(
            6 * DAY + 4 * HOUR + 3,
            ELENA,
            Observation,
            "superseded",
            json!({
                "observed_at": at(6 * DAY + 4 * HOUR + 3).to_string(), "source": "lookup", "outcome": "superseded",
                "by": ELENA_ANEW,
            }),
        ),
        (6 * DAY + 4 * HOUR + 4, Some(ScriptedInput { at: 6 * DAY + 4 * HOUR + 4, link: ELENA, ..waiting() })),
        // They are links of two companies, so the support wants both.
        input(
            6 * DAY + 5 * HOUR,
            ELENA,
            Command,
            "unsupersede",
            json!({
                "command": "unsupersede", "by": "support@example.com", "reason": "Her company needs this link too",
            }),
        ),
    ]
}

/// All example messages, one of each variant: first the inputs, then the messages of relink.
pub fn examples() -> Vec<Example> {
    let subjects = Subjects::default();
    let settings = PolicySettings { can_verify: true, ..PolicySettings::default() };
    let policy = Policy::new(settings).expect("the defaults are in range");
    let created_ns = START.as_millis() * 1_000_000;
    let mut engine = Engine::new(MemoryStore::default(), policy, created_ns, &[(0, 0)].into())
        .expect("an empty store in memory can be read")
        .with_publishing(Publishing { repair_links: Some(repair_links()), ..Publishing::default() });
    let (mut inputs, mut outputs) =
        (Vec::new(), [fence(), commit()].map(|message| to_example(&subjects, &message)).to_vec());
    for (sequence, (seconds, scripted)) in (1..).zip(script()) {
        let mut queue = VecDeque::new();
        if let Some(scripted) = scripted {
            let subject = subjects.input(scripted.kind, scripted.link);
            queue.push_back(deliver(&scripted, sequence, &subject));
            if !scripted.variant.is_empty() {
                inputs.push(input_example(&scripted, sequence, subject));
            }
        }
        let plan = engine.plan(&mut queue, at(seconds)).expect("a store in memory can be read");
        engine.store().apply(&plan.changes(None)).expect("a store in memory can be written");
        engine.record_commit(&plan);
        outputs.extend(plan.messages.iter().map(|outgoing| to_example(&subjects, &outgoing.message)));
    }
    outputs.extend(incident().iter().map(|message| to_example(&subjects, message)));
    let mut known = BTreeSet::new();
    let all = inputs.into_iter().chain(outputs);
    all.filter(|example| known.insert((example.name.clone(), example.variant.clone()))).collect()
}

/// The user is at the repair page while the institution is down.
fn waiting() -> ScriptedInput {
    ScriptedInput { at: 0, link: ANA, kind: InputKind::Widget, variant: "waiting", body: json!({"event": "waiting"}) }
}

/// Signs the addresses in the examples. Nobody uses this key.
fn repair_links() -> RepairLinks {
    let keys = ["the-key-of-the-examples-which-nobody-uses".into()];
    RepairLinks::new("https://relink.example.com", &keys, Duration::from_secs(14 * 86_400))
}

/// The messages at the start and the end of an incident of an institution, and those about a link whose user is at the repair page then.
fn incident() -> Vec<Message> {
    let institution_notices = InstitutionNotices::Repair;
    let settings = PolicySettings { can_verify: true, institution_notices, ..PolicySettings::default() };
    let policy = Policy::new(settings).expect("the defaults are in range");
    let links = i64::from(policy.settings().incident_links) + 5;
    let created_ns = START.as_millis() * 1_000_000;
    let mut engine = Engine::new(MemoryStore::default(), policy, created_ns, &[(0, 0)].into())
        .expect("an empty store in memory can be read")
        .with_publishing(Publishing { repair_links: Some(repair_links()), ..Publishing::default() });
    let mut messages = Vec::new();
    for link in 0..links {
        let id = format!("c0ffee00-0000-4000-8000-{link:012}");
        let seen = (InputKind::Observation, found(&id, 7 * DAY + link, "valid", "recurrent"));
        let failed = (InputKind::Webhook, login_failed(&id));
        let delivery = |(index, (kind, body)): (i64, (InputKind, Value))| {
            let input = ScriptedInput { at: 7 * DAY + link, link: ANA, kind, variant: "", body };
            let sequence = u64::try_from(2 * link + index).expect("neither is negative");
            Delivery { link: id.clone(), ..deliver(&input, sequence, "") }
        };
        let mut queue: VecDeque<Delivery> = (1..).zip([seen, failed]).map(delivery).collect();
        if link == links - 1 {
            let waiting = ScriptedInput { at: 7 * DAY + link, ..waiting() };
            let sequence = u64::try_from(2 * links + 1).expect("it is not negative");
            queue.push_back(Delivery {
                link: "c0ffee00-0000-4000-8000-000000000000".to_owned(),
                ..deliver(&waiting, sequence, "")
            });
        }
        let plan = engine.plan(&mut queue, at(7 * DAY + link)).expect("a store in memory can be read");
        engine.store().apply(&plan.changes(None)).expect("a store in memory can be written");
        messages.extend(plan.messages.into_iter().map(|outgoing| outgoing.message));
    }
    let plan = engine.plan(&mut VecDeque::new(), at(7 * DAY + HOUR)).expect("a store in memory can be read");
    messages.extend(plan.messages.into_iter().map(|outgoing| outgoing.message));
    let is_wanted = |address: &Address| match address {
        Address::Incident(_) => true,
        Address::Notice(name, _) => matches!(name, NoticeName::InstitutionDown | NoticeName::InstitutionRestored),
        _ => false,
    };
    messages.retain(|message| is_wanted(&message.address));
    messages
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + seconds * 1_000)
}

fn deliver(scripted: &ScriptedInput, sequence: u64, subject: &str) -> Delivery {
    Delivery {
        partition: 0,
        sequence,
        stored_at_ns: at(scripted.at).as_millis() * 1_000_000,
        subject: subject.to_owned(),
        kind: scripted.kind.as_str().to_owned(),
        link: scripted.link.to_owned(),
        headers: vec![("ce-id".to_owned(), input_id(sequence))],
        payload: scripted.body.to_string().into(),
        receipt: String::new(),
    }
}

fn input_id(sequence: u64) -> String {
    format!("b7d6b3c2-0000-4000-8000-{sequence:012}")
}

fn input_example(scripted: &ScriptedInput, sequence: u64, subject: String) -> Example {
    let name = format!("belvo.{}", scripted.kind);
    let header = |name: &str, value: String| (name.to_owned(), value);
    let headers = vec![
        header("ce-dataschema", format!("urn:relink:schema:{name}:{}", contract::SCHEMA_VERSION)),
        header("ce-id", input_id(sequence)),
        header("ce-source", "/your-application".to_owned()),
        header("ce-specversion", "1.0".to_owned()),
        header("ce-time", at(scripted.at).to_string()),
        header("ce-type", name.clone()),
        header("content-type", "application/json".to_owned()),
    ];
    Example { name, variant: Some(scripted.variant.to_owned()), subject, headers, body: scripted.body.clone() }
}

fn to_example(subjects: &Subjects, message: &Message) -> Example {
    let headers = envelope::headers(message);
    let mut headers: Vec<(String, String)> = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    headers.sort();
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let name = header("ce-dataschema").split(':').nth(3).unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&message.body).expect("our bodies are JSON");
    let field = match name.as_str() {
        "link.state" => "state",
        "link.refused" => "reason",
        _ => "type",
    };
    let variant = body[field].as_str().map(str::to_owned);
    Example { name, variant, subject: envelope::subject(subjects, &message.address), headers, body }
}

/// The owner name of the process that publishes the examples.
const OWNER: &str = "relink-7d4b9c";

/// The first message of a process on its own subject `link.commit.<writer>`.
fn commit() -> Message {
    let writer = "5e0d3f0a-8d0b-4c52-9f0e-2d9a6f6f5c11".to_owned();
    let commit = Commit { owner: OWNER.to_owned(), sent_at: At(START), links: None };
    Message {
        id: format!("commit.{writer}.1"),
        address: Address::Commit(writer),
        at: START,
        body: serde_json::to_vec(&commit).expect("a commit is a plain struct").into(),
        trace: None,
    }
}

fn fence() -> Message {
    let fence = Fence { owner: OWNER.to_owned(), taken_at: At(START) };
    Message {
        address: Address::Fence(0),
        id: format!("fence.0.{}.{}", fence.owner, START.as_millis()),
        at: START,
        body: serde_json::to_vec(&fence).expect("a fence is a plain struct").into(),
        trace: None,
    }
}

fn webhook(link: &str, family: &str, code: &str, request: u32, data: Value) -> Value {
    json!({
        "webhook_id": format!("{request:08x}fc8e4f79a49f7f04027ac999"),
        "webhook_type": family,
        "process_type": "recurrent_update",
        "webhook_code": code,
        "link_id": link,
        "request_id": format!("{request:08x}-51eb-4350-9c74-5df5ac92a7f6"),
        "external_id": external_id(link),
        "data": data,
    })
}

fn external_id(link: &str) -> String {
    match (link, link.strip_prefix("c0ffee00-0000-4000-8000-")) {
        (ANA, _) => "user-ana".to_owned(),
        (BRUNO, _) => "user-bruno".to_owned(),
        (CARLA, _) => "user-carla".to_owned(),
        // Each of the links of an incident has a user of its own, or the notices would mention the other links.
        (_, Some(number)) => format!("user-{number}"),
        _ => "user-diego".to_owned(),
    }
}

fn login_failed(link: &str) -> Value {
    let data = json!({
        "error_code": "login_error",
        "error_message": "Invalid credentials provided to login to the institution",
        "status": 400,
    });
    webhook(link, "LINK", "invalid_credentials", 7, data)
}

fn consent_ends(link: &str) -> Value {
    let data = json!({
        "consent_id": "b2c17cb6-1f9d-4f9c-8d0f-1f5e7d0c0f5a",
        "consent_due_date": "2026-12-05",
        "institution_display_name": "Gringotts (Brasil)",
        "institution_icon_logo": "https://example.com/gringotts.svg",
    });
    webhook(link, "CONSENT", "openfinance_consent_about_to_expire", 8, data)
}

fn found(link: &str, seconds: i64, status: &str, access_mode: &str) -> Value {
    let institution = match link {
        BRUNO => "heimdall_mx_retail",
        CARLA => "ofgringotts_br_retail",
        _ => "erebor_mx_retail",
    };
    let recurrent = access_mode == "recurrent";
    let refresh_rate = match link {
        ANA => json!("24h"),
        CARLA => json!("7d"),
        _ => Value::Null,
    };
    json!({
        "observed_at": at(seconds).to_string(),
        "source": "verify",
        "outcome": "found",
        "link": {
            "id": link,
            "institution": institution,
            "access_mode": access_mode,
            "status": status,
            "refresh_rate": refresh_rate,
            "last_accessed_at": at(if status == "valid" { seconds - 2 } else { 0 }).to_string(),
            "external_id": external_id(link),
            "fetch_resources": if recurrent { json!(["ACCOUNTS", "TRANSACTIONS"]) } else { json!(["TRANSACTIONS"]) },
        },
    })
}

/// Like [`found`], with the fields by which links of one user are recognised.
fn connected(link: &str, seconds: i64, created: i64) -> Value {
    let mut observation = found(link, seconds, "valid", "single");
    observation["link"]["institution_user_id"] = "sooE7XJWEKypZJR603ecaWYk-8Ap0oD2Nr1pBQ4eG9c=".into();
    observation["link"]["created_at"] = at(created - 10 * DAY).to_string().into();
    observation
}

fn api_error(status: u16, link: &str, item: Value) -> Value {
    json!({
        "http_status": status,
        "method": "POST",
        "path": "/api/transactions/",
        "link_id": link,
        "body": [item],
    })
}

fn token_required(link: &str) -> Value {
    json!({
        "code": "token_required",
        "message": "A MFA token is required by the institution to login",
        "request_id": "8c7b283c6efa449c9c028a16b5c249fa",
        "session": "2675b703b9d4451f8d4861a3eee54449",
        "expiry": 9600,
        "link": link,
    })
}

fn institution_down() -> Value {
    json!({
        "code": "institution_down",
        "message": "The financial institution is down, try again later",
        "request_id": "5fc8ea3d4c4e4d1b8a3c3f6a2b0e7d19",
    })
}

fn unconfirmed() -> Value {
    json!({
        "code": "unconfirmed_link",
        "message": "Can't perform this action on an unconfirmed link",
        "request_id": "c3a2f1f0f6a14c0e9a2f8f0d2b7e6a55",
    })
}

fn succeeded(link: &str) -> Value {
    json!({"event": "success", "link": link, "institution": "erebor_mx_retail"})
}

fn exited() -> Value {
    json!({
        "event": "exit",
        "last_encountered_error": {"code": "login_error", "message": "Invalid credentials"},
        "meta_data": {"institution_name": "erebor_mx_retail", "step": "credentials"},
    })
}
