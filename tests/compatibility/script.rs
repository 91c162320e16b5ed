//! The inputs of the run that writes a version's streams: a few links with every kind of outage, and every kind of input.

use relink::contract::InputKind;
use relink::link::Timestamp;
use relink::schemas::examples;
use serde_json::{Value, json};
use strum::VariantArray;

/// The start of the run: 2026-11-02T09:00:00Z.
const BEGINNING: Timestamp = Timestamp::from_millis(1_793_610_000_000);

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The number of failing links that is an incident in this run.
pub(crate) const INCIDENT_LINKS: u32 = 3;

/// A moment of the run: an input arrives, or only timers are due.
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) input: Option<Input>,
}

/// An input to publish.
pub(crate) struct Input {
    pub(crate) subject: String,
    /// Whether it has relink's headers. Any NATS client may publish without them.
    pub(crate) with_headers: bool,
    /// One more header.
    pub(crate) header: Option<(&'static str, &'static str)>,
    pub(crate) body: Vec<u8>,
}

struct Script(Vec<Moment>);

/// The whole run, in order of time.
pub(crate) fn moments() -> Vec<Moment> {
    let mut script = Script(Vec::new());
    script.repair_credentials();
    script.repair_token();
    script.renew_consent();
    script.obey_operators();
    script.connect_anew();
    script.fail_together();
    script.publish_what_cannot_be_read();
    script.publish_examples();
    script.end();
    script.0.sort_by_key(|moment| moment.at);
    script.0
}

impl Script {
    fn publish_json(&mut self, seconds: i64, kind: InputKind, link: &str, body: Value) {
        self.publish(seconds, format!("belvo.{kind}.{link}"), body.to_string().into_bytes(), None);
    }

    fn publish(&mut self, seconds: i64, subject: String, body: Vec<u8>, header: Option<(&'static str, &'static str)>) {
        let with_headers = !self.0.len().is_multiple_of(3);
        self.0.push(Moment { at: at(seconds), input: Some(Input { subject, with_headers, header, body }) });
    }

    fn wait(&mut self, seconds: i64) {
        self.0.push(Moment { at: at(seconds), input: None });
    }

    /// Refused credentials, a reminder, two attempts, the missed history, and a stale link at the end.
    fn repair_credentials(&mut self) {
        use InputKind::{Observation, Webhook, Widget};
        let link = "ana-recurrent";
        self.publish_json(0, Observation, link, found(link, 0, "valid"));
        self.publish_json(
            5,
            Webhook,
            link,
            webhook(link, "ACCOUNTS", "historical_update", 1, json!({"total_accounts": 2})),
        );
        self.publish_json(
            6 * HOUR,
            Webhook,
            link,
            webhook(link, "LINK", "invalid_credentials", 2, json!({"error_code": "login_error"})),
        );
        self.publish_json(
            6 * HOUR + 9,
            Webhook,
            link,
            webhook(link, "LINK", "invalid_credentials", 2, json!({"error_code": "login_error"})),
        );
        // Before a reminder, relink tries a refresh itself.
        self.wait(DAY + 6 * HOUR);
        self.wait(DAY + 6 * HOUR + 10 * MINUTE);
        let first = DAY + 7 * HOUR;
        self.publish_json(first, Widget, link, json!({"event": "started", "expires_in_seconds": 600}));
        self.publish_json(
            first + 40,
            Widget,
            link,
            json!({"event": "exit", "last_encountered_error": {"code": "login_error"}}),
        );
        self.publish_json(first + 45, Observation, link, found(link, first + 44, "invalid"));
        let second = DAY + 9 * HOUR;
        self.publish_json(second, Widget, link, json!({"event": "started"}));
        self.publish_json(
            second + 90,
            Widget,
            link,
            json!({"event": "success", "link": link, "institution": "erebor_mx_retail"}),
        );
        self.publish_json(second + 92, Observation, link, found(link, second + 92, "valid"));
        for (request, family, code) in [
            (3, "TRANSACTIONS", "historical_update"),
            (4, "ACCOUNTS", "new_accounts_available"),
            (5, "TRANSACTIONS", "transactions_updated"),
        ] {
            self.publish_json(
                second + 300 + request,
                Webhook,
                link,
                webhook(link, family, code, request, json!({"total_transactions": 17})),
            );
        }
        self.wait(6 * DAY);
        self.wait(6 * DAY + HOUR);
    }

    /// A link that only its customer refreshes needs a token; and every error that is not about the link.
    fn repair_token(&mut self) {
        use InputKind::{ApiError, Observation, Webhook, Widget};
        let link = "bruno-single";
        self.publish_json(10, Observation, link, single(link, 10, "valid"));
        let wanted = json!({"code": "token_required", "message": "A MFA token is required", "session": "s", "expiry": 9600, "link": link});
        self.publish_json(2 * DAY, ApiError, link, api_error(428, "POST", "/api/transactions/", link, &wanted));
        for (minutes, status, code) in [
            (1, 400, "institution_down"),
            (2, 400, "too_many_sessions"),
            (3, 400, "session_expired"),
            (4, 401, "authentication_failed"),
            (5, 403, "access_to_resource_denied"),
            (6, 409, "link_refreshed"),
            (7, 429, "too_many_requests"),
            (8, 400, "institution_inactive"),
            (9, 400, "unavailable_data"),
            (10, 400, "invalid_token"),
            (11, 400, "login_error"),
            (12, 500, "unexpected_error"),
        ] {
            let error =
                json!({"code": code, "message": "Something unexpected happened", "request_id": request_id(minutes)});
            self.publish_json(
                2 * DAY + minutes * MINUTE,
                ApiError,
                link,
                api_error(status, "GET", "/api/accounts/", link, &error),
            );
        }
        self.publish_json(2 * DAY + HOUR, Webhook, link, webhook(link, "LINK", "link_healed", 6, json!({})));
        let repaired = 2 * DAY + 3 * HOUR;
        self.publish_json(repaired, Widget, link, json!({"event": "updated"}));
        self.publish_json(repaired + 3, Observation, link, single(link, repaired + 2, "valid"));
        let accepted =
            json!({"observed_at": at(repaired + 5).to_string(), "source": "verify", "outcome": "refresh_accepted"});
        self.publish_json(repaired + 6, Observation, link, accepted);
        self.publish_json(
            repaired + 99,
            Webhook,
            link,
            webhook(link, "TRANSACTIONS", "historical_update", 7, json!({"total_transactions": 240})),
        );
        let blocked = json!({"code": "login_error", "message": "The account is locked"});
        self.publish_json(20 * DAY, ApiError, link, api_error(400, "POST", "/api/accounts/", link, &blocked));
        let expired = json!({"code": "expired_credentials", "message": "x"});
        self.publish_json(20 * DAY + 60, ApiError, link, api_error(404, "POST", "/api/accounts/", link, &expired));
    }

    /// A consent whose end is announced, that ends and is renewed; the monthly quota; and the deletion of the link.
    fn renew_consent(&mut self) {
        use InputKind::{ApiError, Observation, Webhook};
        let link = "carla-consent";
        self.publish_json(20, Observation, link, found(link, 20, "valid"));
        self.publish_json(21, Observation, link, consent(link, 21, "AUTHORISED", 10 * DAY));
        self.publish_json(22, Observation, link, consent(link, 22, "AWAITING_AUTHORISATION", 10 * DAY));
        self.wait(3 * DAY + MINUTE);
        let data = json!({"consent_id": "c1", "consent_due_date": "2026-11-12", "institution_display_name": "Gringotts (Brasil)"});
        for (seconds, code, request) in [
            (4 * DAY, "openfinance_consent_about_to_expire", 8),
            (10 * DAY + HOUR, "openfinance_consent_expired", 9),
            (10 * DAY + 2 * HOUR, "openfinance_consent_with_unrecoverable_resources", 10),
            (10 * DAY + 3 * HOUR, "openfinance_consent_expiration_changed", 11),
        ] {
            self.publish_json(seconds, Webhook, link, webhook(link, "CONSENT", code, request, data.clone()));
        }
        let renewed = 10 * DAY + 4 * HOUR;
        self.publish_json(renewed, Observation, link, consent(link, renewed, "AUTHORISED", 300 * DAY));
        let quota = json!({"code": "operational_limits_reached", "message": "x", "request_id": request_id(90)});
        let path = format!("/api/links/{link}/refresh/");
        self.publish_json(11 * DAY, ApiError, link, api_error(400, "POST", &path, link, &quota));
        self.publish_json(12 * DAY, Observation, link, consent(link, 12 * DAY, "REJECTED", 300 * DAY));
        self.publish_json(13 * DAY, Webhook, link, webhook(link, "LINK", "link_deleted", 12, json!({})));
        self.publish_json(13 * DAY + 1, Webhook, link, webhook(link, "LINK", "token_required", 13, json!({})));
    }

    /// A muted link breaks, and is verified, snoozed, unmuted and forgotten; another link stays unconfirmed.
    fn obey_operators(&mut self) {
        use InputKind::{ApiError, Command, Observation, Webhook, Widget};
        let link = "elena-muted";
        self.publish_json(30, Observation, link, found(link, 30, "valid"));
        let snooze = json!({"command": "snooze", "until": at(9 * DAY).to_string(), "by": "support@example.com", "reason": "travelling"});
        for (seconds, command) in [
            (31, json!({"command": "mute", "by": "support@example.com"})),
            (3 * HOUR, json!({"command": "verify"})),
            (4 * HOUR, snooze),
            (5 * HOUR, json!({"command": "unmute"})),
            (30 * DAY, json!({"command": "forget"})),
        ] {
            self.publish_json(seconds, Command, link, command);
        }
        self.publish_json(2 * HOUR, Webhook, link, webhook(link, "LINK", "token_required", 14, json!({})));
        let unfinished = json!({"code": "unconfirmed_link", "message": "x", "request_id": request_id(91)});
        self.publish_json(
            40,
            ApiError,
            "diego-unfinished",
            api_error(400, "GET", "/api/accounts/", "diego-unfinished", &unfinished),
        );
        let missing = json!({"code": "not_found", "message": "Not found", "request_id": request_id(92)});
        self.publish_json(
            41,
            ApiError,
            "diego-unfinished",
            api_error(404, "GET", "/api/accounts/", "diego-unfinished", &missing),
        );
        let gone = json!({"observed_at": at(50).to_string(), "source": "sweep", "outcome": "missing"});
        self.publish_json(50, Observation, "felipe-missing", gone);
        self.publish_json(
            51,
            Widget,
            "ana-recurrent",
            json!({"event": "error", "error": "ACCESS_TOKEN_NOT_VALID", "metadata": {}}),
        );
        self.publish_json(52, Widget, "ana-recurrent", json!({"event": "warning", "warning": "institution_disabled"}));
    }

    /// A user connects the bank anew instead of repairing the link: the widget names the new link, and later relink finds one itself.
    fn connect_anew(&mut self) {
        use InputKind::{Observation, Webhook, Widget};
        let (link, begins) = ("karla-anew", 16 * DAY);
        self.publish_json(begins, Observation, link, found(link, begins, "valid"));
        for (seconds, request) in [(HOUR, 60), (5 * HOUR, 61)] {
            let failed = webhook(link, "LINK", "invalid_credentials", request, json!({"error_code": "login_error"}));
            self.publish_json(begins + seconds, Webhook, link, failed);
        }
        let success = json!({"event": "success", "link": "karla-newer", "institution": "erebor_mx_retail"});
        self.publish_json(begins + 2 * HOUR, Widget, link, success);
        let at_seconds = begins + 3 * HOUR;
        let superseded =
            json!({"observed_at": at(at_seconds).to_string(), "outcome": "superseded", "by": "karla-newer"});
        self.publish_json(at_seconds, Observation, link, superseded);
        self.publish_json(begins + 4 * HOUR, Observation, link, found(link, begins + 4 * HOUR, "valid"));
    }

    /// Links of one institution fail together; one recovers before its prompt is sent.
    fn fail_together(&mut self) {
        use InputKind::{Observation, Webhook};
        let begins = 15 * DAY;
        for number in 0..INCIDENT_LINKS + 3 {
            let (link, after) = (format!("bank-{number}"), i64::from(number));
            self.publish_json(begins + after, Observation, &link, found(&link, begins + after, "valid"));
            let request = 20 + after;
            let failed = webhook(&link, "LINK", "invalid_credentials", request, json!({"error_code": "login_error"}));
            self.publish_json(begins + MINUTE + after, Webhook, &link, failed);
        }
        for minutes in [12, 22, 24, 30, 60] {
            self.wait(begins + minutes * MINUTE);
        }
        let link = format!("bank-{INCIDENT_LINKS}");
        self.publish_json(begins + 25 * MINUTE, Observation, &link, found(&link, begins + 25 * MINUTE, "valid"));
    }

    fn publish_what_cannot_be_read(&mut self) {
        let link = "gil-unreadable";
        let webhook_subject = format!("belvo.webhook.{link}");
        let other = webhook("somebody-else", "LINK", "token_required", 40, json!({})).to_string();
        for (seconds, subject, body, header) in [
            (60, webhook_subject.clone(), b"{not json \xff".to_vec(), None),
            (61, webhook_subject.clone(), Vec::new(), None),
            (62, webhook_subject, other.into_bytes(), None),
            (63, format!("belvo.telepathy.{link}"), b"{}".to_vec(), None),
            (64, format!("belvo.command.{link}"), br#"{"command":"mute","schema_version":9}"#.to_vec(), None),
            (65, format!("belvo.command.{link}"), br#"{"command":"mute"}"#.to_vec(), Some(("ce-specversion", "2.0"))),
            (66, format!("belvo.api_error.{link}"), br#"{"http_status":"teapot"}"#.to_vec(), Some(("x-twice", "1"))),
        ] {
            self.publish(seconds, subject, body, header);
        }
    }

    /// The examples of the published schemas.
    fn publish_examples(&mut self) {
        let mut seconds = 40 * DAY;
        for example in examples::examples().into_iter().filter(|example| example.name.starts_with("belvo.")) {
            self.publish(seconds, example.subject, example.body.to_string().into_bytes(), None);
            seconds += 7;
        }
        for &kind in InputKind::VARIANTS {
            self.publish_json(seconds, kind, "16f68516-bcbc-4cf7-b815-c500d4204e28", kind.example());
            seconds += 7;
        }
    }

    /// The last inputs, so that the run ends with a link in every state.
    fn end(&mut self) {
        use InputKind::{Observation, Webhook, Widget};
        let seconds = 41 * DAY;
        for link in ["hugo-working", "ines-updating", "joao-token"] {
            self.publish_json(seconds, Observation, link, found(link, seconds, "valid"));
        }
        self.publish_json(
            seconds + 1,
            Webhook,
            "ines-updating",
            webhook("ines-updating", "LINK", "invalid_credentials", 50, json!({})),
        );
        self.publish_json(seconds + 2, Widget, "ines-updating", json!({"event": "started", "expires_in_seconds": 600}));
        self.publish_json(
            seconds + 3,
            Webhook,
            "joao-token",
            webhook("joao-token", "LINK", "token_required", 51, json!({})),
        );
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(BEGINNING.as_millis() + seconds * 1_000)
}

fn request_id(number: i64) -> String {
    format!("{number:08x}51eb43509c745df5ac92a7f6")
}

fn webhook(link: &str, family: &str, code: &str, request: i64, data: Value) -> Value {
    json!({
        "webhook_id": format!("{request:08x}fc8e4f79a49f7f04027ac999"), "webhook_type": family, "webhook_code": code,
        "process_type": "recurrent_update", "link_id": link, "request_id": format!("{request:08x}-51eb-4350-9c74-5df5ac92a7f6"),
        "external_id": format!("user-of-{link}"), "data": data,
    })
}

fn api_error(status: u16, method: &str, path: &str, link: &str, item: &Value) -> Value {
    json!({"http_status": status, "method": method, "path": path, "link_id": link, "body": [item]})
}

fn found(link: &str, seconds: i64, status: &str) -> Value {
    let institution = if link.starts_with("bank") { "tatooine_mx_retail" } else { "erebor_mx_retail" };
    let accessed_at = at(if status == "valid" { seconds - 2 } else { 0 }).to_string();
    json!({
        "observed_at": at(seconds).to_string(), "source": "verify", "outcome": "found",
        "link": {
            "id": link, "institution": institution, "access_mode": "recurrent", "status": status, "refresh_rate": "24h",
            "last_accessed_at": accessed_at, "external_id": format!("user-of-{link}"),
            "fetch_resources": ["ACCOUNTS", "TRANSACTIONS"],
        },
    })
}

fn single(link: &str, seconds: i64, status: &str) -> Value {
    let mut body = found(link, seconds, status);
    body["link"]["access_mode"] = json!("single");
    body["link"]["refresh_rate"] = Value::Null;
    body["link"]["fetch_resources"] = json!(["TRANSACTIONS"]);
    body
}

fn consent(link: &str, seconds: i64, status: &str, ends: i64) -> Value {
    json!({
        "observed_at": at(seconds).to_string(), "source": "verify", "outcome": "consent",
        "consent": {
            "id": "b2c17cb6-1f9d-4f9c-8d0f-1f5e7d0c0f5a", "link_id": link, "status": status,
            "belvo_institution_name": "ofgringotts_br_retail", "expired_at": at(ends).to_string(),
            "institution_display_name": "Gringotts (Brasil)", "institution_icon_logo": "https://example.com/gringotts.svg",
        },
    })
}
