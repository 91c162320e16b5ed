//! Events: the facts about a link that the machine takes, named in the past tense.
//!
//! An event is the meaning of a message. The messages, and the tables that map messages to events, are in the module
//! `belvo`. A message about the API keys or about one request is not an event, because it says nothing about one link. An outage of an
//! institution is a circumstance of other events ([`Input::incident`]); that a link met it is an event.

use std::borrow::Cow;

use strum::{Display, IntoStaticStr, VariantArray};

use super::consent::{Consent, ConsentObservation, ConsentStatus};
use super::{DedupKey, LinkId, Person, Timestamp};

/// The argument of [`super::step`]: an event, with what else is known about its message.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The event.
    pub event: Event,
    /// Identifies the fact, so that a second delivery of it is refused. `None` if the message contains nothing that
    /// identifies it; then a second delivery is refused only if it contains nothing new.
    pub key: Option<DedupKey>,
    /// Fields of the message that describe the link, such as its `external_id`.
    pub profile: Profile,
    /// Since when the institution of the link has an incident: it is down, or many of its links are failing together. `None` if it works.
    /// The caller sets it, because it sees many links; the message does not contain it.
    pub incident: Option<Timestamp>,
    /// The successor of the link, if one is known ([`super::succeeds`]). The caller looks it up, because it sees many
    /// links; it need not do so for a step that prompts nobody.
    pub successor: Option<LinkId>,
    /// What is known of the other links of the person behind the link ([`Person::of`]). The caller looks it up for a step that sends a
    /// message to the user ([`super::Step::has_message`]). Boxed, because few inputs have it.
    pub person: Option<Box<Person>>,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self { event, key: None, profile: Profile::default(), incident: None, successor: None, person: None }
    }
}

/// A fact about one link.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The institution, or Belvo, rejected a login or an access. The link cannot be used until its user repairs it.
    Broken(Breakage),
    /// The creation of the link needs an MFA token or was never finished (428 to `POST /api/links/`, 400
    /// `unconfirmed_link`).
    CreationUnfinished,
    /// The MFA session of the link has expired (400 `session_expired`).
    SessionExpired,
    /// The consent behind the link ends soon (webhook CONSENT / `openfinance_consent_about_to_expire`). The [`Profile`]
    /// has the due date and the parameters of a renewal.
    ConsentEnding,
    /// The due date of the consent has changed (webhook CONSENT / `openfinance_consent_expiration_changed`). Most
    /// likely its user has renewed it.
    ConsentChanged,
    /// The consent was read from Belvo (`GET /api/consents/`).
    ConsentObserved(ConsentObservation),
    /// A widget token in update mode was minted: the user is about to repair the link.
    UpdateStarted {
        /// When the token expires. Belvo's tokens are valid for 10 minutes.
        until: Timestamp,
    },
    /// A success callback of the widget, or a 200 to PUT or PATCH, says that the link is repaired. This claim is no
    /// proof, because the callback comes from the user's device.
    UpdateClaimed,
    /// The widget was closed, or reported an error.
    UpdateAbandoned,
    /// The link was read from Belvo.
    Observed(LinkObservation),
    /// The link was read from Belvo, and Belvo answered 404.
    ObservedMissing,
    /// An application reports a 404 for a call about the link. The link may be deleted; Belvo is asked.
    MissingReported,
    /// Data of the link arrived at Belvo (webhooks `historical_update`, `new_*_available`, `transactions_*`).
    DataArrived(Data),
    /// Belvo accepted a request for a historical refresh (202).
    RefreshAccepted,
    /// The monthly quota of the person behind the link is used up (400 `operational_limits_reached`, Open Finance
    /// Brazil). No refresh is possible before the next month. The link itself works.
    QuotaReached {
        /// Whether the error answers a refresh. Belvo counts a quota for each resource, so another call says nothing
        /// about it.
        of_refresh: bool,
    },
    /// The user has connected the bank anew: another link works in place of this one.
    Superseded(SuccessorObservation),
    /// A success callback of the widget for this link names another link. The callback comes from the user's device, so
    /// Belvo is asked about the other link.
    SuccessorNamed {
        /// The other link.
        link: LinkId,
    },
    /// A call about the link, or its user, met an outage of the institution. The outage itself is in [`Input::incident`]; without one the
    /// event says nothing.
    OutageMet {
        /// Whether the user did: the repair page was opened.
        by_user: bool,
    },
    /// Belvo deleted the link (webhook `link_deleted`).
    LinkDeleted,
    /// The deadline of the link ([`super::Link::deadline`]) has passed.
    DeadlinePassed,
    /// An operator gave a command.
    Command(Command),
}

/// Evidence that a link is broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Breakage {
    /// What the user has to repair.
    pub cause: Cause,
    /// The open MFA session, if the message names one. Only with [`Cause::Token`].
    pub session: Option<Session>,
    /// Whether the message answers the user's own attempt to repair the link (PUT or PATCH), so that it describes the
    /// attempt and not the outage.
    pub during_update: bool,
    /// Whether the evidence is one refused login (`login_error`, `expired_credentials`). Belvo's status stays `valid`
    /// until several logins have been refused.
    pub refused_login: bool,
}

impl Breakage {
    /// Evidence from outside of an attempt, without a session.
    pub const fn of(cause: Cause) -> Self {
        Self { cause, session: None, during_update: false, refused_login: false }
    }
}

/// What the user has to repair. The cause decides the text of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The stored credentials are refused (400 `invalid_link`, webhook `invalid_credentials`).
    Credentials,
    /// The institution requires a new MFA token (428, webhook `token_required`).
    Token,
    /// The institution locked the user's account or forbids access; a new password does not help.
    AccountBlocked,
    /// The open-finance consent ended (webhook CONSENT, 401 `consent_without_accounts`).
    ConsentEnded,
    /// The institution requires a kind of MFA that Belvo does not support; nobody can repair the link.
    Unsupported,
}

impl Cause {
    /// Whether the state of a link that is broken by this cause is `TokenRequired`; for every other cause it is
    /// `Invalid`. Belvo's status has only these two values for a broken link.
    pub const fn requires_token(self) -> bool {
        match self {
            Self::Token => true,
            Self::Credentials | Self::AccountBlocked | Self::ConsentEnded | Self::Unsupported => false,
        }
    }
}

impl Event {
    /// The same event, with an observation at most as late as its receipt at `received_at`. The clock of a reader may run ahead; an
    /// observation from the future would make every later one look outdated, and the link could never recover.
    pub(super) fn bounded_by_receipt(&self, received_at: Timestamp) -> Cow<'_, Self> {
        let mut event = Cow::Borrowed(self);
        if let Self::Observed(LinkObservation { observed_at, .. })
        | Self::ConsentObserved(ConsentObservation { observed_at, .. })
        | Self::Superseded(SuccessorObservation { observed_at, .. }) = self
            && *observed_at > received_at
            && let Self::Observed(LinkObservation { observed_at, .. })
            | Self::ConsentObserved(ConsentObservation { observed_at, .. })
            | Self::Superseded(SuccessorObservation { observed_at, .. }) = event.to_mut()
        {
            *observed_at = received_at;
        }
        event
    }
}

/// Belvo's MFA session: a login that waits for the user's token. Its id is a credential of the caller who opened it, so
/// it is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// When it expires. Belvo answers a later PATCH with `session_expired`.
    pub expires_at: Timestamp,
}

/// The result of reading the link from Belvo (`GET /api/links/{id}/`).
#[derive(Clone, Debug, PartialEq)]
pub struct LinkObservation {
    /// When it was read, by the clock of the reader. An observation older than a proof cannot undo the proof.
    pub observed_at: Timestamp,
    /// Belvo's status of the link.
    pub status: Status,
    /// Belvo's last successful access to the institution (`last_accessed_at`).
    pub last_accessed_at: Option<Timestamp>,
}

/// The successor of a link was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessorObservation {
    /// When the two links were compared, by the clock of the reader.
    pub observed_at: Timestamp,
    /// The successor.
    pub by: LinkId,
}

/// Belvo's status of a link. Belvo may add values; an observation with an unknown value is not turned into an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// `valid`
    Valid,
    /// `invalid`
    Invalid,
    /// `token_required`
    TokenRequired,
    /// `unconfirmed`
    Unconfirmed,
}

/// The descriptive fields of a link. A message changes only the fields that it contains.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// The customer's own id of the link or of its user.
    pub external_id: Option<String>,
    /// Belvo's name of the institution, such as `erebor_mx_retail`.
    pub institution: Option<String>,
    /// Belvo's key of the user at the institution (`institution_user_id`): the same for every link that the user makes
    /// with the same login.
    pub institution_user_id: Option<String>,
    /// When the link was created at Belvo.
    pub created_at: Option<Timestamp>,
    /// Whether Belvo refreshes the link on a schedule.
    pub access_mode: Option<AccessMode>,
    /// The interval of Belvo's scheduled refreshes.
    pub refresh_every: Option<std::time::Duration>,
    /// The resources that Belvo fetches for the link, such as `TRANSACTIONS`; sorted, without repeats.
    pub fetch_resources: Vec<String>,
    /// The consent behind the link. A link with a consent has no stored credentials. Boxed, because few links have one.
    pub consent: Option<Box<Consent>>,
}

impl Profile {
    /// Copies every field that `newer` has.
    pub(super) fn merge_profile(&mut self, newer: &Self) {
        take(&mut self.external_id, &newer.external_id);
        take(&mut self.institution, &newer.institution);
        take(&mut self.institution_user_id, &newer.institution_user_id);
        take(&mut self.created_at, &newer.created_at);
        take(&mut self.access_mode, &newer.access_mode);
        take(&mut self.refresh_every, &newer.refresh_every);
        if !newer.fetch_resources.is_empty() {
            self.fetch_resources.clone_from(&newer.fetch_resources);
        }
        if let Some(newer) = &newer.consent {
            self.consent.get_or_insert_default().merge_profile(newer);
        }
    }
}

pub(super) fn take<T: Clone>(known: &mut Option<T>, newer: &Option<T>) {
    if newer.is_some() {
        known.clone_from(newer);
    }
}

/// Belvo's `access_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// Belvo reads the link once, and again only when it is asked for a refresh.
    Single,
    /// Belvo refreshes the link on a schedule.
    Recurrent,
}

/// The content of a data webhook: which resource has new data at Belvo. Webhooks contain counts, never the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// The resource (`webhook_type`), such as `TRANSACTIONS`.
    pub resource: String,
    /// The kind of update.
    pub kind: DataKind,
    /// The number of items, if the message contains one.
    pub items_count: Option<u64>,
    /// Whether the message reports errors (`data.errors`). Such data does not prove that the link works.
    pub has_errors: bool,
}

/// The kind of a data webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// A historical refresh has finished (`historical_update` and the initial updates).
    Historical,
    /// A scheduled refresh found new items (`new_*_available`).
    New,
    /// Belvo corrected stored items (`transactions_updated`, `transactions_deleted`).
    Changed,
}

/// An operator's command about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send no prompts and no reminders until [`Command::Unmute`].
    Mute,
    /// End [`Command::Mute`]. A muted prompt is emitted if the link is still broken.
    Unmute,
    /// Send no reminders before this time.
    Snooze(Timestamp),
    /// Ask Belvo for the status of the link now.
    Verify,
    /// The link is not superseded: prompt its user again, and do not let the same link supersede it any more.
    Unsupersede,
    /// Emit the prompt that a mute or an incident keeps back.
    Release,
    /// Replace the link by a tombstone.
    Forget,
}

/// The name of an event in the transition table and in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum EventName {
    /// [`Cause::Credentials`]
    CredentialsRejected,
    /// [`Cause::Token`]
    TokenRequested,
    /// [`Cause::AccountBlocked`]
    AccountBlocked,
    /// [`Cause::ConsentEnded`]
    ConsentEnded,
    /// [`Cause::Unsupported`]
    UnsupportedLogin,
    /// [`Event::CreationUnfinished`]
    CreationUnfinished,
    /// [`Event::SessionExpired`]
    SessionExpired,
    /// [`Event::ConsentEnding`]
    ConsentEnding,
    /// [`Event::ConsentChanged`]
    ConsentChanged,
    /// [`Event::UpdateStarted`]
    UpdateStarted,
    /// [`Event::UpdateClaimed`]
    UpdateClaimed,
    /// [`Event::UpdateAbandoned`]
    UpdateAbandoned,
    /// [`Event::Observed`] with [`Status::Valid`]
    ObservedValid,
    /// [`Event::Observed`] with [`Status::Invalid`]
    ObservedInvalid,
    /// [`Event::Observed`] with [`Status::TokenRequired`]
    ObservedTokenRequired,
    /// [`Event::Observed`] with [`Status::Unconfirmed`]
    ObservedUnconfirmed,
    /// [`Event::ObservedMissing`]
    ObservedMissing,
    /// [`Event::ConsentObserved`] with [`ConsentStatus::Authorised`]
    ObservedConsentAuthorised,
    /// [`Event::ConsentObserved`] with [`ConsentStatus::Ended`]
    ObservedConsentEnded,
    /// [`Event::MissingReported`]
    MissingReported,
    /// [`Event::DataArrived`]
    DataArrived,
    /// [`Event::RefreshAccepted`]
    RefreshAccepted,
    /// [`Event::QuotaReached`]
    QuotaReached,
    /// [`Event::Superseded`]
    Superseded,
    /// [`Event::SuccessorNamed`]
    SuccessorNamed,
    /// [`Event::OutageMet`]
    OutageMet,
    /// [`Event::LinkDeleted`]
    LinkDeleted,
    /// [`Event::DeadlinePassed`]
    DeadlinePassed,
    /// [`Command::Mute`]
    Mute,
    /// [`Command::Unmute`]
    Unmute,
    /// [`Command::Snooze`]
    Snooze,
    /// [`Command::Verify`]
    Verify,
    /// [`Command::Unsupersede`]
    Unsupersede,
    /// [`Command::Release`]
    Release,
    /// [`Command::Forget`]
    Forget,
}

impl EventName {
    /// The name in messages, tables and drawings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Event {
    /// The name of this event in the table.
    pub const fn name(&self) -> EventName {
        match self {
            Self::Broken(breakage) => match breakage.cause {
                Cause::Credentials => EventName::CredentialsRejected,
                Cause::Token => EventName::TokenRequested,
                Cause::AccountBlocked => EventName::AccountBlocked,
                Cause::ConsentEnded => EventName::ConsentEnded,
                Cause::Unsupported => EventName::UnsupportedLogin,
            },
            Self::CreationUnfinished => EventName::CreationUnfinished,
            Self::SessionExpired => EventName::SessionExpired,
            Self::ConsentEnding => EventName::ConsentEnding,
            Self::ConsentChanged => EventName::ConsentChanged,
            Self::UpdateStarted { .. } => EventName::UpdateStarted,
            Self::UpdateClaimed => EventName::UpdateClaimed,
            Self::UpdateAbandoned => EventName::UpdateAbandoned,
            Self::Observed(observation) => match observation.status {
                Status::Valid => EventName::ObservedValid,
                Status::Invalid => EventName::ObservedInvalid,
                Status::TokenRequired => EventName::ObservedTokenRequired,
                Status::Unconfirmed => EventName::ObservedUnconfirmed,
            },
            Self::ObservedMissing => EventName::ObservedMissing,
            Self::ConsentObserved(seen) => match seen.status {
                ConsentStatus::Authorised => EventName::ObservedConsentAuthorised,
                ConsentStatus::Ended => EventName::ObservedConsentEnded,
            },
            Self::MissingReported => EventName::MissingReported,
            Self::DataArrived(_) => EventName::DataArrived,
            Self::RefreshAccepted => EventName::RefreshAccepted,
            Self::QuotaReached { .. } => EventName::QuotaReached,
            Self::Superseded(_) => EventName::Superseded,
            Self::SuccessorNamed { .. } => EventName::SuccessorNamed,
            Self::OutageMet { .. } => EventName::OutageMet,
            Self::LinkDeleted => EventName::LinkDeleted,
            Self::DeadlinePassed => EventName::DeadlinePassed,
            Self::Command(command) => match command {
                Command::Mute => EventName::Mute,
                Command::Unmute => EventName::Unmute,
                Command::Snooze(_) => EventName::Snooze,
                Command::Verify => EventName::Verify,
                Command::Unsupersede => EventName::Unsupersede,
                Command::Release => EventName::Release,
                Command::Forget => EventName::Forget,
            },
        }
    }
}
