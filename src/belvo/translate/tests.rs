//! One case for each row of the tables, with documented bodies and with their old shapes.

use std::time::Duration;

use serde_json::{Value, json};
use strum::VariantArray;

use super::*;
use crate::belvo::Unrelated;
use crate::belvo::classify::{
    ANY, ERRORS, ErrorClass, Http, LOGIN_ERROR, MESSAGES, NONE, UNKNOWN_RANK, WEBHOOKS, WebhookClass as W,
    as_the_table_spells, row_of,
};
use crate::contract::STATUS_PAGE;
use crate::contract::input::INPUT_SCHEMA_VERSION;
use crate::link::{
    AccessMode, Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Data, DataKind, Due, Event,
    Input, LinkObservation, Profile, Session, Status, SuccessorObservation,
};

mod api_errors;
mod documented;
mod fuzz;
mod own_words;
mod passed_on;
mod usual;

pub(super) const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
pub(super) const REQUEST: &str = "4363b08b-51eb-4350-9c74-5df5ac92a7f6";

pub(super) fn link() -> LinkId {
    LINK.parse().unwrap()
}

pub(super) fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// Translates a message. The key and the profile are dropped; they have their own tests.
pub(super) fn check(kind: InputKind, payload: &Value, expected: Result<Said, Undecodable>) {
    let meaning = translate(kind, &link(), payload.to_string().as_bytes(), now());
    assert_eq!(meaning.map(Said::from), expected, "{kind} {payload}");
}

/// A meaning without the key and the profile.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Event(Event),
    Not(Unrelated),
    StatusPage(usize),
    Unknown(String),
}

impl From<Meaning> for Said {
    fn from(meaning: Meaning) -> Self {
        match meaning {
            Meaning::Event(input) => Self::Event(input.event),
            Meaning::NotAboutTheLink { class, code: _ } => Self::Not(class),
            Meaning::StatusPage(report) => Self::StatusPage(report.components.len()),
            Meaning::Unknown { what } => Self::Unknown(what),
        }
    }
}

pub(super) fn input(kind: InputKind, payload: &Value) -> Input {
    match translate(kind, &link(), payload.to_string().as_bytes(), now()) {
        Ok(Meaning::Event(input)) => input,
        other => panic!("{payload}: {other:?}"),
    }
}

pub(super) fn broken(cause: Cause) -> Said {
    Said::Event(Event::Broken(Breakage::of(cause)))
}

#[test]
fn every_row_of_the_webhook_table() {
    for &(family, code, says) in WEBHOOKS {
        let body = json!({"webhook_type": family, "webhook_code": code, "link_id": LINK});
        let data = |kind| {
            let resource = family.to_owned();
            Said::Event(Event::DataArrived(Data { resource, kind, items_count: None, has_errors: false }))
        };
        let expected = match says {
            W::Breaks(cause) => broken(cause),
            W::ConsentEnds => Said::Event(Event::ConsentEnding),
            W::ConsentMoves => Said::Event(Event::ConsentChanged),
            W::Deleted => Said::Event(Event::LinkDeleted),
            W::Data(kind) => data(kind),
            W::Unrelated(class) => Said::Not(class),
        };
        check(InputKind::Webhook, &body, Ok(expected));
    }
}

#[test]
fn the_tables_have_no_row_twice_and_no_row_unreachable() {
    for (at, (family, code, _)) in WEBHOOKS.iter().enumerate() {
        assert!(!WEBHOOKS[..at].iter().any(|row| (row.0, row.1) == (family, code)), "{family} {code}");
        assert_eq!(as_the_table_spells(family, code), (*family, *code), "spelt as it is looked up");
    }
    for (http, code, words, rank, says) in ERRORS {
        let status = match http {
            Http::Is(status) => *status,
            Http::Server => 503,
        };
        let code = (*code != NONE).then(|| code.to_string());
        let item = ErrorItem { code, message: Some(words.to_uppercase()), ..ErrorItem::default() };
        assert_eq!(row_of(status, &item), Some((*rank, *says)), "{status} {:?} {words:?}", item.code);
        assert_ne!(*rank, UNKNOWN_RANK);
    }
    for (words, rank, says) in MESSAGES {
        for code in [Some(LOGIN_ERROR.to_owned()), None] {
            let item = ErrorItem { code, message: Some(words.to_uppercase()), ..ErrorItem::default() };
            assert_eq!(row_of(400, &item), Some((*rank, *says)), "{words:?}");
        }
        assert_ne!(*rank, UNKNOWN_RANK);
    }
}

#[test]
fn widget_callbacks() {
    let started = |seconds| Said::Event(Event::UpdateStarted { until: now().after(Duration::from_secs(seconds)) });
    let claimed = Said::Event(Event::UpdateClaimed);
    let abandoned = Said::Event(Event::UpdateAbandoned);
    for (body, expected) in [
        (json!({"event": "started"}), started(600)),
        (json!({"event": "started", "expires_in_seconds": 60}), started(60)),
        (json!({"event": "started", "expires_in_seconds": u64::MAX}), started(24 * 3600)),
        (json!({"event": "success", "link": LINK, "institution": "erebor_mx_retail"}), claimed.clone()),
        (json!({"event": "success"}), claimed.clone()),
        (json!({"event": "updated", "link": "ignored"}), claimed),
        (json!({"event": "exit"}), abandoned.clone()),
        (
            json!({"event": "exit", "last_encountered_error": {"code": "login_error", "message": "x"},
                "meta_data": {"institution_name": "x", "step": "abandon-survey"}}),
            abandoned.clone(),
        ),
        (json!({"event": "exit", "last_encountered_error": null, "metadata": {}}), abandoned.clone()),
        (
            json!({"event": "exit", "last_encountered_error_code": "institution_down", "meta_data_step": "x"}),
            abandoned.clone(),
        ),
        (json!({"event": "error", "error": "ACCESS_TOKEN_NOT_VALID", "error_message": "x"}), abandoned.clone()),
        (
            json!({"event": "error", "eventName": "ERROR", "request_id": "x", "meta_data": {"error_code": "login_error"}}),
            Said::Not(Unrelated::InWidget),
        ),
        (json!({"event": "error"}), Said::Not(Unrelated::InWidget)),
        (json!({"event": "error", "error": "access_token_expired"}), abandoned),
        (json!({"event": "warning", "warning": "institution_disabled"}), Said::Not(Unrelated::InstitutionOff)),
    ] {
        check(InputKind::Widget, &body, Ok(expected));
    }
    let success = input(InputKind::Widget, &json!({"event": "success", "institution": "erebor_mx_retail"}));
    assert_eq!(
        (success.key, success.profile.institution.as_deref()),
        (None, None),
        "a device's institution is not used"
    );
    let other: LinkId = "another".parse().unwrap();
    let named = Said::Event(Event::SuccessorNamed { link: other });
    check(InputKind::Widget, &json!({"event": "success", "link": "another"}), Ok(named));
    for odd in [json!("not a link id"), json!(null), json!(format!(" {} ", LINK.to_uppercase()))] {
        let claimed = Said::Event(Event::UpdateClaimed);
        check(InputKind::Widget, &json!({"event": "success", "link": odd}), Ok(claimed));
    }
}

#[test]
fn observations() {
    let seen = |status: &str, at: &str| {
        json!({"observed_at": at, "source": "sweep", "outcome": "found", "link": {"id": LINK, "status": status,
            "institution": "tatooine_mx_fiscal", "access_mode": "recurrent", "refresh_rate": "12h", "external_id": null,
            "institution_user_id": " Tyc3 ", "created_at": "2024-02-02T13:11:42.586099Z",
            "last_accessed_at": "2024-02-02T13:11:42.593032+00:00", "fetch_resources": ["TAX_STATUS", "invoices", "INVOICES"]}})
    };
    for (word, status) in [
        ("valid", Status::Valid),
        ("invalid", Status::Invalid),
        ("token_required", Status::TokenRequired),
        ("unconfirmed", Status::Unconfirmed),
    ] {
        let found = input(InputKind::Observation, &seen(word, "2026-11-22T11:59:59.5Z"));
        let observation = LinkObservation {
            observed_at: "2026-11-22T11:59:59.5Z".parse().unwrap(),
            status,
            last_accessed_at: Some("2024-02-02T13:11:42.593Z".parse().unwrap()),
        };
        assert_eq!(found.event, Event::Observed(observation));
        assert!(found.key.is_some());
        let profile = Profile {
            external_id: None,
            institution: Some("tatooine_mx_fiscal".into()),
            institution_user_id: Some("Tyc3".into()),
            created_at: Some("2024-02-02T13:11:42.586Z".parse().unwrap()),
            access_mode: Some(AccessMode::Recurrent),
            refresh_every: Some(Duration::from_secs(12 * 3600)),
            fetch_resources: vec!["INVOICES".into(), "TAX_STATUS".into()],
            consent: None,
        };
        assert_eq!(found.profile, profile);
    }

    let at = "2026-11-22T11:00:00Z";
    let base = |outcome: &str| json!({"observed_at": at, "source": "verify", "outcome": outcome});
    let cases = [
        (seen("updating", at), Ok(Said::Unknown("observation status updating".into()))),
        (base("missing"), Ok(Said::Event(Event::ObservedMissing))),
        (base("refresh_accepted"), Ok(Said::Event(Event::RefreshAccepted))),
        (base("found"), Err(Undecodable::shape("$.link", "missing"))),
        (base("superseded"), Err(Undecodable::shape("$.by", "missing"))),
        (
            json!({"observed_at": at, "source": "lookup", "outcome": "superseded", "by": "link_2"}),
            Ok(Said::Event(Event::Superseded(SuccessorObservation {
                observed_at: at.parse().unwrap(),
                by: "link_2".parse().unwrap(),
            }))),
        ),
        (
            json!({"observed_at": at, "outcome": "superseded", "by": "a b"}),
            Err(Undecodable::shape("$.by", "a link id is 1 to 64 letters, digits, `-` or `_` (Belvo's are UUIDs)")),
        ),
        (
            json!({"observed_at": at, "source": "app", "outcome": "found", "link": {"id": LINK}}),
            Err(Undecodable::shape("$.link.status", "missing")),
        ),
    ];
    cases.into_iter().for_each(|(body, expected)| check(InputKind::Observation, &body, expected));
}

#[test]
fn observed_consents() {
    let seen = |status: Value| {
        json!({"observed_at": "2026-11-22T11:59:59.5Z", "source": "sweep", "outcome": "consent", "consent": {"id": "c1",
            "link_id": LINK, "status": status, "expired_at": "2027-01-01T10:00:00.5Z", "belvo_institution_name": "mock",
            "institution_display_name": "Mock Bank", "institution_icon_logo": null}})
    };
    for (word, status) in [
        ("AUTHORISED", ConsentStatus::Authorised),
        ("EXPIRED", ConsentStatus::Ended),
        ("REJECTED", ConsentStatus::Ended),
    ] {
        let found = input(InputKind::Observation, &seen(json!(word)));
        let observed_at = "2026-11-22T11:59:59.5Z".parse().unwrap();
        assert_eq!(found.event, Event::ConsentObserved(ConsentObservation { observed_at, status }));
        let consent = Consent {
            id: Some("c1".into()),
            due: Due::At("2027-01-01T10:00:00.5Z".parse().unwrap()),
            institution_display_name: Some("Mock Bank".into()),
            institution_icon_logo: None,
            ..Consent::default()
        };
        let profile =
            Profile { institution: Some("mock".into()), consent: Some(Box::new(consent)), ..Profile::default() };
        assert_eq!((found.profile, found.key.is_some()), (profile, true));
    }
    for pending in [json!("AWAITING_AUTHORISATION"), json!("AWAITING_AUTHORISATION_CONFIRMATION"), Value::Null] {
        check(InputKind::Observation, &seen(pending), Ok(Said::Not(Unrelated::ConsentPending)));
    }
    check(InputKind::Observation, &seen(json!("MOVED")), Ok(Said::Unknown("observation consent MOVED".into())));
}

#[test]
fn commands() {
    let until = "2026-12-01T09:00:00Z";
    let said = |command| Ok(Said::Event(Event::Command(command)));
    for (body, expected) in [
        (json!({"command": "mute", "by": "ana", "reason": "x"}), said(Command::Mute)),
        (json!({"command": "unmute"}), said(Command::Unmute)),
        (json!({"command": "snooze", "until": until}), said(Command::Snooze(until.parse().unwrap()))),
        (json!({"command": "snooze", "until": "01/12/2026 06:00-0300"}), said(Command::Snooze(until.parse().unwrap()))),
        (json!({"command": "snooze", "until": 1_796_115_600}), said(Command::Snooze(until.parse().unwrap()))),
        (json!({"command": "snooze", "until": 1_796_115_600_000.0}), said(Command::Snooze(until.parse().unwrap()))),
        (json!({"command": "snooze", "until": "9999-12-31T23:59:59-03:00"}), said(Command::Snooze(Timestamp::LATEST))),
        (
            json!({"command": "snooze", "until": true}),
            Err(Undecodable::shape("$.until", "expected an RFC 3339 time such as 2026-11-22T10:15:00Z")),
        ),
        (json!({"command": "verify", "until": null}), said(Command::Verify)),
        (json!({"command": "forget"}), said(Command::Forget)),
        (json!({"command": "snooze"}), Err(Undecodable::shape("$.until", "missing: `snooze` needs it"))),
        (
            json!({"command": "verify", "schema_version": 2}),
            Err(Undecodable::FutureVersion { found: 2, known: INPUT_SCHEMA_VERSION }),
        ),
    ] {
        check(InputKind::Command, &body, expected);
    }
}

#[test]
fn the_examples_of_the_schemas_mean_something() {
    for &kind in InputKind::VARIANTS {
        let example = kind.example();
        let id = match kind {
            InputKind::ApiError => "30cb4806-6e00-48a4-91c9-ca55968576c8",
            InputKind::InstitutionStatus => STATUS_PAGE,
            InputKind::Webhook | InputKind::Widget | InputKind::Observation | InputKind::Command => LINK,
        };
        let meaning = translate(kind, &id.parse().unwrap(), example.to_string().as_bytes(), now());
        assert!(matches!(meaning, Ok(Meaning::Event(_) | Meaning::StatusPage(_))), "{kind}: {meaning:?}");
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
}

/// A session that is open for this long.
pub(super) fn session(seconds: u64) -> Option<Session> {
    Some(Session { expires_at: now().after(Duration::from_secs(seconds)) })
}
