//! Makes an event of a row of the tables and a body: it computes times, counts, the profile and the dedup key.
//!
//! `classify` has found the row; this module does not look at codes.

use std::time::Duration;

use super::body::webhook::WebhookBody;
use super::body::{ConsentResource, LinkResource};
use super::call::Call;
use super::classify::{ErrorClass, WebhookClass};
use super::error_body::ErrorItem;
use super::key;
use super::optional::FieldValue;
use super::status_page::StatusReport;
use super::undecodable::{Undecodable, same_link};
use super::unrelated::Unrelated;
use crate::contract::{self, ApiError, At, CommandName, ReadOutcome, Widget};
use crate::link::{
    Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Data, Due, Event, Input, LinkId,
    LinkObservation, Profile, Session, Status, SuccessorObservation, Timestamp,
};

/// The longest accepted validity of a token or a session. Belvo's are valid for ten minutes to a few hours; more is a
/// mistake.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The meaning of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// An event of the link.
    Event(Input),
    /// The message is not about the link, so it must not change the link.
    NotAboutTheLink {
        /// The class of the message.
        class: Unrelated,
        /// Belvo's code.
        code: String,
    },
    /// A report of Belvo's status page about institutions.
    StatusPage(StatusReport),
    /// The code, or the text, is in no table. The message is dead-lettered and counted.
    Unknown {
        /// The kind and the code, such as `webhook LINK link_healed`; short and safe for a log.
        what: String,
    },
}

/// How much of an unknown code is shown, in characters. Belvo's own codes are shorter.
const CODE_LENGTH_MAX: usize = 64;

impl Meaning {
    fn event(event: Event) -> Self {
        Self::Event(event.into())
    }

    fn unrelated(class: Unrelated, code: &str) -> Self {
        Self::NotAboutTheLink { class, code: plain(code) }
    }

    pub(super) fn unknown(words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| plain(word)).collect();
        Self::Unknown { what: words.join(" ") }
    }
}

/// A code in a form that is safe for a log: escaped where a terminal would interpret it, of a limited length, and not changed otherwise.
fn plain(code: &str) -> String {
    let mut shown = String::new();
    for letter in code.chars().take(CODE_LENGTH_MAX) {
        match letter {
            '"' | '\'' | '\\' => shown.push(letter),
            letter => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

/// The meaning of a webhook, by its row.
pub(super) fn of_webhook(class: WebhookClass, family: &str, code: &str, body: &WebhookBody<'_>) -> Meaning {
    let event = match class {
        WebhookClass::Breaks(cause) => Event::Broken(Breakage::of(cause)),
        WebhookClass::ConsentEnds => Event::ConsentEnding,
        WebhookClass::ConsentMoves => Event::ConsentChanged,
        WebhookClass::Deleted => Event::LinkDeleted,
        WebhookClass::Data(kind) => Event::DataArrived(Data {
            resource: family.to_owned(),
            kind,
            items_count: body.items_count(),
            has_errors: body.has_errors(),
        }),
        WebhookClass::Unrelated(unrelated) => return Meaning::unrelated(unrelated, code),
    };
    let profile = Profile {
        external_id: body.external_id().map(str::to_owned),
        institution: body.data_text("institution"),
        consent: (family == "CONSENT").then(|| {
            Box::new(Consent {
                id: body.data_text("consent_id"),
                due: match body.due {
                    FieldValue::Value(at) => Due::At(at),
                    FieldValue::Absent => Due::Unknown,
                    FieldValue::Unreadable => Due::Unreadable,
                },
                institution_display_name: body.data_text("institution_display_name"),
                institution_icon_logo: body.data_text("institution_icon_logo"),
                ..Consent::default()
            })
        }),
        ..Profile::default()
    };
    Meaning::Event(Input { key: key::of_webhook(family, code, body), profile, ..event.into() })
}

/// The meaning of an API error, by its row.
pub(super) fn of_api_error(
    class: ErrorClass,
    call: Call,
    link: &LinkId,
    error: &ApiError,
    item: &ErrorItem,
    received_at: Timestamp,
) -> Meaning {
    let code = item.code.as_deref().unwrap_or("without_code");
    let during_update = call.is_repair();
    let event = match (class, call) {
        (ErrorClass::Refuses(_), Call::Creation) => return Meaning::unrelated(Unrelated::Creation, code),
        (ErrorClass::Breaks(cause), Call::Creation | Call::Resumption | Call::Repair | Call::Refresh | Call::Use)
        | (ErrorClass::Refuses(cause), Call::Resumption | Call::Repair | Call::Refresh | Call::Use) => {
            let refused_login = matches!(class, ErrorClass::Refuses(_)) && !during_update;
            Event::Broken(Breakage { cause, session: None, during_update, refused_login })
        }
        // The link exists now but has never worked, so this is no outage.
        (ErrorClass::RequiresToken, Call::Creation) => Event::CreationUnfinished,
        (ErrorClass::RequiresToken, Call::Resumption | Call::Repair | Call::Refresh | Call::Use) => {
            let session =
                item.session_valid_for.map(|life| Session { expires_at: received_at.after(life.min(LIFE_MAX)) });
            Event::Broken(Breakage { session, during_update, ..Breakage::of(Cause::Token) })
        }
        (ErrorClass::Unfinished, _any) => Event::CreationUnfinished,
        (ErrorClass::SessionOver, _any) => Event::SessionExpired,
        (ErrorClass::Missing, _any) => Event::MissingReported,
        (ErrorClass::QuotaUsedUp, call) => Event::QuotaReached { of_refresh: call == Call::Refresh },
        (ErrorClass::Unrelated(unrelated), _any) => return Meaning::unrelated(unrelated, code),
    };
    let request_id = item.request_id.as_deref().or(error.request_id.as_deref());
    let key = request_id.map(|id| key::of_api_error(link, error.http_status, call, item, id));
    Meaning::Event(Input { key, ..event.into() })
}

/// The meaning of a widget callback. A callback comes from the user's device, so it proves nothing.
pub(super) fn of_widget(link: &LinkId, widget: &Widget, received_at: Timestamp) -> Result<Meaning, Undecodable> {
    let event = match widget {
        Widget::Started { expires_in_seconds } => {
            let life = Duration::from_secs(*expires_in_seconds).min(LIFE_MAX);
            Event::UpdateStarted { until: received_at.after(life) }
        }
        // The `institution` is not used: it comes from the user's device, and the institution of a link decides whether
        // the prompts of an incident are deferred.
        Widget::Success { link: named, institution: _ } => {
            match named.as_deref().and_then(|id| id.parse::<LinkId>().ok()) {
                Some(other) if other != *link => Event::SuccessorNamed { link: other },
                Some(_) | None => Event::UpdateClaimed,
            }
        }
        Widget::Updated {} => Event::UpdateClaimed,
        Widget::Exit { .. } => Event::UpdateAbandoned,
        Widget::Error { error, meta_data, .. } => {
            let in_meta_data = || meta_data.as_ref()?.get("error_code")?.as_str();
            let codes = [error.as_deref(), in_meta_data()];
            if !codes.into_iter().flatten().any(ends_the_widget) {
                let code = codes.into_iter().flatten().next().unwrap_or("error");
                return Ok(Meaning::unrelated(Unrelated::InWidget, code));
            }
            Event::UpdateAbandoned
        }
        Widget::Waiting {} => Event::OutageMet { by_user: true },
        Widget::PageLoad {} => return Ok(Meaning::unrelated(Unrelated::InWidget, "page_load")),
        Widget::Warning { warning, .. } => {
            return Ok(Meaning::unrelated(Unrelated::InstitutionOff, warning.as_deref().unwrap_or("warning")));
        }
    };
    Ok(Meaning::event(event))
}

/// Whether the error ends the attempt in the widget. After any other error the user can try again, and the exit
/// callback, a success or the expiry of the token ends the attempt. (Guide: hosted widget,
/// `error=ACCESS_TOKEN_NOT_VALID`.)
fn ends_the_widget(error: &str) -> bool {
    let error = error.to_ascii_uppercase();
    error.contains("TOKEN") && ["NOT_VALID", "INVALID", "EXPIRED"].iter().any(|end| error.contains(end))
}

/// The meaning of an observation.
pub(super) fn of_observation(
    link: &LinkId,
    seen: &contract::Observation,
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    let observed_at = seen.observed_at.0;
    let (event, profile) = match &seen.outcome {
        ReadOutcome::Found { link: resource } => {
            let resource = LinkResource::parse(resource, received_at);
            same_link(link, resource.id.as_ref())?;
            let word = resource.status.ok_or_else(|| Undecodable::shape("$.link.status", "missing"))?;
            let Some(status) = status_of(&word) else { return Ok(Meaning::unknown(&["observation", "status", &word])) };
            let profile = Profile {
                external_id: resource.external_id,
                institution: resource.institution,
                institution_user_id: resource.institution_user_id,
                created_at: resource.created_at,
                access_mode: resource.access_mode,
                refresh_every: resource.refresh_every,
                fetch_resources: resource.fetch_resources,
                consent: None,
            };
            let observation = LinkObservation { observed_at, status, last_accessed_at: resource.last_accessed_at };
            (Event::Observed(observation), profile)
        }
        ReadOutcome::Consent { consent: resource } => {
            let resource = ConsentResource::parse(resource, received_at);
            same_link(link, resource.link_id.as_ref())?;
            let word = resource.status.as_deref().unwrap_or_default();
            let status = match word {
                "AUTHORISED" => ConsentStatus::Authorised,
                "EXPIRED" | "REJECTED" => ConsentStatus::Ended,
                // The status is null before the consent has one.
                "AWAITING_AUTHORISATION" | "AWAITING_AUTHORISATION_CONFIRMATION" | "" => {
                    return Ok(Meaning::unrelated(Unrelated::ConsentPending, word));
                }
                _unknown => return Ok(Meaning::unknown(&["observation", "consent", word])),
            };
            let profile = Profile {
                institution: resource.institution,
                consent: Some(Box::new(resource.consent)),
                ..Profile::default()
            };
            (Event::ConsentObserved(ConsentObservation { observed_at, status }), profile)
        }
        ReadOutcome::Missing => (Event::ObservedMissing, Profile::default()),
        ReadOutcome::RefreshAccepted { .. } => (Event::RefreshAccepted, Profile::default()),
        ReadOutcome::Superseded { by } => {
            let by = by.parse::<LinkId>().map_err(|error| Undecodable::shape("$.by", error.to_string()))?;
            (Event::Superseded(SuccessorObservation { observed_at, by }), Profile::default())
        }
    };
    Ok(Meaning::Event(Input { key: Some(key::of_observation(link, seen)), profile, ..event.into() }))
}

/// Belvo's status of a link ("API reference: links", `status`). Belvo may add values; `None` for an unknown one.
fn status_of(word: &str) -> Option<Status> {
    match word {
        "valid" => Some(Status::Valid),
        "invalid" => Some(Status::Invalid),
        "token_required" => Some(Status::TokenRequired),
        "unconfirmed" => Some(Status::Unconfirmed),
        _unknown => None,
    }
}

/// The meaning of an operator's command.
pub(super) fn of_command(command: &contract::Command) -> Result<Meaning, Undecodable> {
    let command = match (command.command, command.until) {
        (CommandName::Mute, _) => Command::Mute,
        (CommandName::Unmute, _) => Command::Unmute,
        (CommandName::Snooze, Some(At(until))) => Command::Snooze(until),
        (CommandName::Snooze, None) => return Err(Undecodable::shape("$.until", "missing: `snooze` needs it")),
        (CommandName::Verify, _) => Command::Verify,
        (CommandName::Unsupersede, _) => Command::Unsupersede,
        (CommandName::Release, _) => Command::Release,
        (CommandName::Forget, _) => Command::Forget,
    };
    Ok(Meaning::event(Event::Command(command)))
}
