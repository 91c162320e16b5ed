//! How a row of the tables and a body become an event: spans into times, counts, consents, the identity of the fact.
//!
//! Which row it is has been decided in `translate`; nothing here looks at a code again.

use std::time::Duration;

use super::body::webhook::WebhookBody;
use super::body::{ConsentResource, LinkResource, believed};
use super::call::Call;
use super::error_body::ErrorItem;
use super::informs::{self, Told};
use super::key;
use super::translate::{ErrorSays, WebhookSays};
use super::undecodable::{Undecodable, same_link};
use crate::contract::{self, ApiError, CommandName, Outcome, Widget};
use crate::link::{
    Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Data, Due, Event, Input, LinkId, Observation,
    Profile, Session, Status, Timestamp,
};

/// The longest life believed of a token or a session. Belvo's live ten minutes and a few hours; more is a mistake somewhere.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a message means.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// Something happened to the link.
    Event(Input),
    /// Something is the matter, but not with the link: it must not touch its state.
    NotAboutTheLink {
        /// What.
        class: Unrelated,
        /// Belvo's code.
        code: String,
    },
    /// A code, or a message, that is in no table: to be kept whole and counted.
    Unknown {
        /// Which, such as `webhook LINK link_healed`. Short and plain enough for a log.
        what: String,
    },
}

/// What is the matter, if not the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unrelated {
    /// Belvo does not accept our secret keys.
    Keys,
    /// We may not use this resource, this environment, or more links.
    Permission,
    /// The request was wrong.
    Request,
    /// The institution or Belvo is down, or was too slow; try again.
    Outage,
    /// Somebody is logged in already; try again in two minutes.
    Busy,
    /// Too many requests; try again later.
    RateLimit,
    /// The link was refreshed a moment ago; wait.
    Delay,
    /// Belvo switched the institution off.
    InstitutionOff,
    /// Some of the data is not to be had.
    PartialData,
    /// The consent waits for its user, who has to authorise it.
    ConsentPending,
    /// The registration of a new link failed; no link came of it.
    Creation,
    /// The user mistyped the MFA token; the attempt goes on.
    WrongToken,
    /// The user is in the widget; how that ends is not said yet.
    InWidget,
}

impl Unrelated {
    /// Every class there is.
    pub const ALL: [Self; 13] = [
        Self::Keys,
        Self::Permission,
        Self::Request,
        Self::Outage,
        Self::Busy,
        Self::RateLimit,
        Self::Delay,
        Self::InstitutionOff,
        Self::PartialData,
        Self::ConsentPending,
        Self::Creation,
        Self::WrongToken,
        Self::InWidget,
    ];

    /// The spelling in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Permission => "permission",
            Self::Request => "request",
            Self::Outage => "outage",
            Self::Busy => "busy",
            Self::RateLimit => "rate_limit",
            Self::Delay => "delay",
            Self::InstitutionOff => "institution_off",
            Self::PartialData => "partial_data",
            Self::ConsentPending => "consent_pending",
            Self::Creation => "creation",
            Self::WrongToken => "wrong_token",
            Self::InWidget => "in_widget",
        }
    }

    /// Whether the same request may well succeed later (guide: Belvo API errors, retry policy).
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Outage | Self::Busy | Self::RateLimit | Self::Delay => true,
            Self::Keys
            | Self::Permission
            | Self::Request
            | Self::InstitutionOff
            | Self::PartialData
            | Self::ConsentPending
            | Self::Creation
            | Self::WrongToken
            | Self::InWidget => false,
        }
    }
}

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

/// A code as it may be logged: what Belvo's codes are made of, and not much of it.
fn plain(code: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() || "_-.".contains(letter) { letter } else { '?' };
    code.chars().take(64).map(safe).collect()
}

/// The meaning of a webhook whose row is known.
pub(super) fn of_webhook(
    says: WebhookSays,
    family: &str,
    code: &str,
    body: &WebhookBody,
    received_at: Timestamp,
) -> Meaning {
    let event = match says {
        WebhookSays::Breaks(cause) => Event::Broken(Breakage::of(cause)),
        WebhookSays::ConsentEnds => Event::ConsentEnding,
        WebhookSays::ConsentMoves => Event::ConsentChanged,
        WebhookSays::Deleted => Event::LinkDeleted,
        WebhookSays::Data(kind) => Event::DataArrived(Data {
            resource: family.to_owned(),
            kind,
            items_count: body.items_count(),
            has_errors: body.has_errors(),
        }),
        WebhookSays::Unrelated(class) => return Meaning::unrelated(class, code),
    };
    let profile = Profile {
        external_id: body.external_id.clone(),
        institution: body.data_text("institution"),
        consent: (family == "CONSENT").then(|| {
            Box::new(Consent {
                id: body.data_text("consent_id"),
                due: match informs::due(body.data.get("consent_due_date"), received_at) {
                    Told::This(at) => Due::At(at),
                    Told::Nothing => Due::Unknown,
                    Told::Unread => Due::Unreadable,
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

/// The meaning of an API error whose row is known.
pub(super) fn of_api_error(
    says: ErrorSays,
    call: Call,
    link: &LinkId,
    error: &ApiError,
    item: &ErrorItem,
    received_at: Timestamp,
) -> Meaning {
    let code = item.code.as_deref().unwrap_or("without_code");
    let during_update = call.is_repair();
    let event = match (says, call) {
        (ErrorSays::Refuses(_), Call::Creation) => return Meaning::unrelated(Unrelated::Creation, code),
        (ErrorSays::Breaks(cause), Call::Creation | Call::Resumption | Call::Repair | Call::Refresh | Call::Use)
        | (ErrorSays::Refuses(cause), Call::Resumption | Call::Repair | Call::Refresh | Call::Use) => {
            let refused_login = matches!(says, ErrorSays::Refuses(_)) && !during_update;
            Event::Broken(Breakage { cause, session: None, during_update, refused_login })
        }
        // The link exists from here on, but has never worked: it must not look like an outage of a customer.
        (ErrorSays::WantsToken, Call::Creation) => Event::CreationUnfinished,
        (ErrorSays::WantsToken, Call::Resumption | Call::Repair | Call::Refresh | Call::Use) => {
            let session = item.session_lives.map(|life| Session { expires_at: received_at.after(life.min(LIFE_MAX)) });
            Event::Broken(Breakage { session, during_update, ..Breakage::of(Cause::Token) })
        }
        (ErrorSays::Unfinished, _any) => Event::CreationUnfinished,
        (ErrorSays::SessionOver, _any) => Event::SessionExpired,
        (ErrorSays::Missing, _any) => Event::MissingReported,
        (ErrorSays::QuotaUsedUp, call) => Event::QuotaReached { of_refresh: call == Call::Refresh },
        (ErrorSays::Unrelated(class), _any) => return Meaning::unrelated(class, code),
    };
    let request_id = item.request_id.as_deref().or(error.request_id.as_deref());
    let key = request_id.map(|id| key::of_api_error(link, error.http_status, call, item, id));
    Meaning::Event(Input { key, ..event.into() })
}

/// The meaning of a widget callback. Callbacks run on the user's device: hints, never proofs.
pub(super) fn of_widget(link: &LinkId, widget: &Widget, received_at: Timestamp) -> Result<Meaning, Undecodable> {
    let event = match widget {
        Widget::Started { expires_in_seconds } => {
            let life = Duration::from_secs(*expires_in_seconds).min(LIFE_MAX);
            Event::UpdateStarted { until: received_at.after(life) }
        }
        Widget::Success { link: named, institution } => {
            same_link(link, named.as_deref().and_then(|id| id.parse().ok()))?;
            // A hint like the rest of it, and a text from somebody's device: a long one is not believed.
            let institution = institution.as_deref().and_then(believed);
            let profile = Profile { institution, ..Profile::default() };
            let input = Input { profile, ..Event::UpdateClaimed.into() };
            return Ok(Meaning::Event(input));
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
        Widget::PageLoad {} => return Ok(Meaning::unrelated(Unrelated::InWidget, "page_load")),
        Widget::Warning { warning, .. } => {
            return Ok(Meaning::unrelated(Unrelated::InstitutionOff, warning.as_deref().unwrap_or("warning")));
        }
    };
    Ok(Meaning::event(event))
}

/// Whether the widget cannot go on after this error. It shows every other one to the user, who may try again: the exit
/// callback, a success or the token's end says how the attempt ended. (Guide: hosted widget, `error=ACCESS_TOKEN_NOT_VALID`.)
fn ends_the_widget(error: &str) -> bool {
    let error = error.to_ascii_uppercase();
    error.contains("TOKEN") && ["NOT_VALID", "INVALID", "EXPIRED"].iter().any(|end| error.contains(end))
}

/// The meaning of what was read from Belvo.
pub(super) fn of_observation(
    link: &LinkId,
    seen: &contract::Observation,
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    let observed_at = seen.observed_at;
    let (event, profile) = match &seen.outcome {
        Outcome::Found { link: resource } => {
            let resource = LinkResource::parse(resource, received_at);
            same_link(link, resource.id.clone())?;
            let word = resource.status.ok_or_else(|| Undecodable::shape("$.link.status", "missing"))?;
            let Some(status) = status_of(&word) else { return Ok(Meaning::unknown(&["observation", "status", &word])) };
            let profile = Profile {
                external_id: resource.external_id,
                institution: resource.institution,
                access_mode: resource.access_mode,
                refresh_every: resource.refresh_every,
                fetch_resources: resource.fetch_resources,
                consent: None,
            };
            let observation = Observation { observed_at, status, last_accessed_at: resource.last_accessed_at };
            (Event::Observed(observation), profile)
        }
        Outcome::Consent { consent: resource } => {
            let resource = ConsentResource::parse(resource, received_at);
            same_link(link, resource.link_id)?;
            let word = resource.status.as_deref().unwrap_or_default();
            let status = match word {
                "AUTHORISED" => ConsentStatus::Authorised,
                "EXPIRED" | "REJECTED" => ConsentStatus::Ended,
                // Null where nothing is known of it yet.
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
        Outcome::Missing => (Event::ObservedMissing, Profile::default()),
        Outcome::RefreshAccepted { .. } => (Event::RefreshAccepted, Profile::default()),
    };
    Ok(Meaning::Event(Input { key: Some(key::of_observation(link, seen)), profile, ..event.into() }))
}

/// Belvo's word on a link ("API reference: links", `status`). The enum is open; a word that is not known is no observation.
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
        (CommandName::Snooze, Some(until)) => Command::Snooze(until),
        (CommandName::Snooze, None) => return Err(Undecodable::shape("$.until", "missing: `snooze` needs it")),
        (CommandName::Verify, _) => Command::Verify,
        (CommandName::Forget, _) => Command::Forget,
    };
    Ok(Meaning::event(Event::Command(command)))
}
