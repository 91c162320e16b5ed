//! Sample messages of publishers, valid and invalid.

use bytes::Bytes;
use relink::contract::{Command, Observation, Webhook, Widget};
use relink::engine::{Delivery, Plan};
use relink::link::{Policy, PolicySettings, Timestamp};
use serde_json::{Value, json};

/// The number of partitions.
pub(crate) const PARTITIONS: u16 = 3;

/// The creation times that identify the streams.
pub(crate) const INPUT_CREATED_NS: i64 = 1_111;
pub(crate) const OUTPUT_CREATED_NS: i64 = 2_222;

/// When every history begins.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// The kind of a sample message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    Credentials,
    TokenRequired,
    Data,
    History,
    ConsentExpired,
    Deleted,
    SessionOpen,
    Started,
    Claimed,
    Abandoned,
    SeenValid,
    SeenInvalid,
    Mute,
    Unmute,
    Outage,
    InstitutionDown,
    UnknownCode,
    NotJson,
    NoBody,
    WrongShape,
    AnotherLink,
    NoKind,
    NoLink,
    FutureEnvelope,
    FutureSchema,
}

impl Sample {
    /// All samples; readable ones come first and more than once.
    pub(crate) const ALL: [Self; 39] = [
        Self::Credentials,
        Self::Credentials,
        Self::Credentials,
        Self::TokenRequired,
        Self::TokenRequired,
        Self::Data,
        Self::History,
        Self::History,
        Self::ConsentExpired,
        Self::SessionOpen,
        Self::SessionOpen,
        Self::Started,
        Self::Started,
        Self::Started,
        Self::Claimed,
        Self::Claimed,
        Self::Claimed,
        Self::Abandoned,
        Self::Abandoned,
        Self::SeenValid,
        Self::SeenValid,
        Self::SeenValid,
        Self::SeenValid,
        Self::SeenInvalid,
        Self::SeenInvalid,
        Self::Deleted,
        Self::Mute,
        Self::Unmute,
        Self::Outage,
        Self::InstitutionDown,
        Self::UnknownCode,
        Self::NotJson,
        Self::NoBody,
        Self::WrongShape,
        Self::AnotherLink,
        Self::NoKind,
        Self::NoLink,
        Self::FutureEnvelope,
        Self::FutureSchema,
    ];

    /// The message. Two of one `request` are the same fact.
    pub(crate) fn about(self, link: u8, request: u32, now: Timestamp) -> Delivery {
        let id = format!("link-{link}");
        let (kind, body) = match self {
            Self::Credentials => ("webhook", webhook(&id, "LINK", "invalid_credentials", request)),
            Self::TokenRequired => ("webhook", webhook(&id, "LINK", "token_required", request)),
            Self::Data => ("webhook", webhook(&id, "TRANSACTIONS", "new_transactions_available", request)),
            Self::History => ("webhook", webhook(&id, "TRANSACTIONS", "historical_update", request)),
            Self::ConsentExpired => ("webhook", webhook(&id, "CONSENT", "openfinance_consent_expired", request)),
            Self::Deleted => ("webhook", webhook(&id, "LINK", "link_deleted", request)),
            Self::UnknownCode => ("webhook", webhook(&id, "LINK", "link_healed", request)),
            Self::AnotherLink => ("webhook", webhook("someone-else", "LINK", "token_required", request)),
            Self::SessionOpen => ("api_error", token_wanted(&id, request)),
            Self::InstitutionDown => (
                "api_error",
                json!({"http_status": 400, "method": "POST", "path": "/api/transactions/",
                    "body": [{"code": "institution_down", "message": "The financial institution is down, try again later"}]}),
            ),
            Self::Outage => ("api_error", json!({"http_status": 503, "method": "POST", "path": "/api/transactions/"})),
            Self::Started => ("widget", json!({"event": "started", "expires_in_seconds": 600})),
            Self::Claimed => ("widget", with(Widget::example(), "link", json!(id))),
            Self::Abandoned => ("widget", json!({"event": "exit"})),
            Self::SeenValid => ("observation", observation(&id, "valid", now)),
            Self::SeenInvalid => ("observation", observation(&id, "invalid", now)),
            Self::Mute => ("command", json!({"command": "mute"})),
            Self::Unmute => ("command", json!({"command": "unmute"})),
            Self::NotJson | Self::NoBody => ("webhook", Value::Null),
            Self::WrongShape => ("api_error", json!({"http_status": "teapot", "request": request})),
            Self::NoKind => ("telepathy", json!({"request": request})),
            Self::NoLink | Self::FutureEnvelope => ("command", Command::example()),
            Self::FutureSchema => ("command", with(Command::example(), "schema_version", json!(9))),
        };
        let mut delivery = delivery(kind, &id, body.to_string());
        match self {
            Self::NotJson => delivery.payload = Bytes::from(vec![b'{', 0xff, 0, request as u8]),
            Self::NoBody => delivery.payload = Bytes::new(),
            Self::NoLink => delivery.link = "not a link".to_owned(),
            Self::FutureEnvelope => delivery.headers.push(("CE-SpecVersion".to_owned(), "2.0".to_owned())),
            _readable => {}
        }
        delivery.partition = u16::from(link) % PARTITIONS;
        delivery
    }
}

/// The first delivery of a message that was stored at [`START`].
pub(crate) fn delivery(kind: &str, link: &str, payload: impl Into<Bytes>) -> Delivery {
    Delivery {
        partition: 0,
        sequence: 1,
        stored_at_ns: START.as_millis() * 1_000_000,
        subject: format!("belvo.0.{kind}.{link}"),
        kind: kind.to_owned(),
        link: link.to_owned(),
        headers: Vec::new(),
        payload: payload.into(),
        receipt: String::new(),
    }
}

/// The default policy, with or without API keys.
pub(crate) fn policy(can_verify: bool) -> Policy {
    Policy::new(PolicySettings { can_verify, ..PolicySettings::default() }).unwrap()
}

/// The reasons of the dead letters of a plan.
pub(crate) fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.dead_letters.iter().map(|dead| dead.reason.as_str()).collect()
}

pub(crate) fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn webhook(link: &str, family: &str, code: &str, request: u32) -> Value {
    let body = with(Webhook::example(), "link_id", json!(link));
    let body = with(body, "external_id", json!(format!("user-of-{link}")));
    let body = with(body, "webhook_type", json!(family));
    let body = with(body, "webhook_code", json!(code));
    with(body, "request_id", json!(format!("{request:08}-51eb-4350-9c74-5df5ac92a7f6")))
}

fn token_wanted(link: &str, request: u32) -> Value {
    let item = json!({"code": "token_required", "message": "A MFA token is required", "session": "s", "expiry": 600,
        "request_id": format!("{request:032}"), "link": link});
    json!({"http_status": 428, "method": "POST", "path": "/api/transactions/", "link_id": link, "body": [item]})
}

fn observation(link: &str, status: &str, now: Timestamp) -> Value {
    let mut body = with(Observation::example(), "observed_at", json!(now.to_string()));
    body["link"]["id"] = json!(link);
    body["link"]["external_id"] = json!(format!("user-of-{link}"));
    body["link"]["status"] = json!(status);
    body["link"]["last_accessed_at"] = json!(now.to_string());
    body
}
