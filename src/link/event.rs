//! What can happen to a link: past-tense facts, fed to the machine.
//!
//! An event is what a message *means*; the messages themselves, and the table from one to the other, live in `belvo`.
//! Nothing about our keys, our requests or an institution's outage is an event: such a signal never touches a link.

use std::borrow::Cow;
use std::fmt;

use super::consent::{Consent, ConsentObservation, ConsentStatus};
use super::{DedupKey, Timestamp};

/// One fact with its identity: what [`super::step`] consumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// What happened.
    pub event: Event,
    /// What identifies the fact, if it carries anything that does. Without a key the machine's own idempotence must do.
    pub key: Option<DedupKey>,
    /// What the message says of the link beside the fact, such as its `external_id`.
    pub profile: Profile,
    /// A circumstance, and no word of the message's: many links of the link's institution are failing together. Whoever
    /// sees many links decides it; a message says nothing of it.
    pub incident: bool,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self { event, key: None, profile: Profile::default(), incident: false }
    }
}

/// A fact about one link.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The link cannot be used until its user acts: the institution, or Belvo on its behalf, said no.
    Broken(Breakage),
    /// Registration of the link wants an MFA token or was never finished (428 to `POST /api/links/`, 400
    /// `unconfirmed_link`).
    CreationUnfinished,
    /// The link's MFA session is over (400 `session_expired`).
    SessionExpired,
    /// The consent behind the link will end (webhook CONSENT / `openfinance_consent_about_to_expire`). When, and what a
    /// renewal needs, is in the [`Profile`].
    ConsentEnding,
    /// The end of the consent has moved (webhook CONSENT / `openfinance_consent_expiration_changed`): most likely it was
    /// renewed.
    ConsentChanged,
    /// The consent was read from Belvo (`GET /api/consents/`).
    ConsentObserved(ConsentObservation),
    /// An update-mode widget token was minted: the user is about to repair the link.
    UpdateStarted {
        /// When the token dies. Belvo's live 10 minutes.
        until: Timestamp,
    },
    /// Somebody says the repair succeeded: the widget's success callback, or a 200 to PUT/PATCH. A hint, not a proof:
    /// callbacks run on the user's device.
    UpdateClaimed,
    /// The widget was closed, or reported an error.
    UpdateAbandoned,
    /// The link was read from Belvo.
    Observed(Observation),
    /// Belvo answered 404 for the link's own URL to somebody we trust to have asked.
    ObservedMissing,
    /// A 404 was reported for some call about the link: perhaps it is gone. To be verified.
    MissingReported,
    /// Data of the link arrived at Belvo (`historical_update`, `new_*_available`, `transactions_*`).
    DataArrived(Data),
    /// Belvo accepted our request for a historical refresh (202).
    RefreshAccepted,
    /// The month's quota of this person's data is used up (400 `operational_limits_reached`, Open Finance Brazil): no
    /// refresh before the next month. Says nothing of the link.
    QuotaReached {
        /// Whether it is the answer to a refresh that was asked for. Quotas are counted by resource.
        of_refresh: bool,
    },
    /// Belvo deleted the link (webhook `link_deleted`).
    LinkDeleted,
    /// The link's [`super::Link::deadline`] has passed.
    DeadlinePassed,
    /// A person decided something.
    Command(Command),
}

/// Why a link cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Breakage {
    /// What the user has to mend.
    pub cause: Cause,
    /// The MFA session the institution holds open, if the message named one: only ever with [`Cause::Token`].
    pub session: Option<Session>,
    /// Whether the message answers the user's own attempt to repair (PUT or PATCH on the link), so that it is news
    /// about the attempt and not about the outage.
    pub during_update: bool,
    /// Whether all that is known is one refused login (`login_error`, `expired_credentials`): Belvo's status goes on
    /// saying `valid` until several were refused.
    pub refused_login: bool,
}

impl Breakage {
    /// A breakage seen outside any repair, without a session.
    pub const fn of(cause: Cause) -> Self {
        Self { cause, session: None, during_update: false, refused_login: false }
    }
}

/// What has to be mended, and therefore what the prompt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The stored credentials are refused (400 `invalid_link`, webhook `invalid_credentials`).
    Credentials,
    /// The institution wants a new MFA token (428, webhook `token_required`).
    Token,
    /// The institution locked the user's account or forbids access: a new password will not help.
    AccountBlocked,
    /// The open-finance consent ended (webhook CONSENT, 401 `consent_without_accounts`).
    ConsentEnded,
    /// The institution asks for an MFA that Belvo does not support: nobody can repair this link.
    Unsupported,
}

impl Cause {
    /// Whether a link that is broken by it is `TokenRequired`. Every other cause makes it `Invalid`: Belvo's status knows
    /// only these two.
    pub const fn wants_token(self) -> bool {
        match self {
            Self::Token => true,
            Self::Credentials | Self::AccountBlocked | Self::ConsentEnded | Self::Unsupported => false,
        }
    }
}

impl Event {
    /// The event with no read later than its receipt at `received_at`: a read by a clock that runs ahead would make every
    /// later read look old, and the link could not recover.
    pub(super) fn read_by(&self, received_at: Timestamp) -> Cow<'_, Self> {
        let mut event = Cow::Borrowed(self);
        if let Self::Observed(Observation { observed_at, .. })
        | Self::ConsentObserved(ConsentObservation { observed_at, .. }) = self
            && *observed_at > received_at
            && let Self::Observed(Observation { observed_at, .. })
            | Self::ConsentObserved(ConsentObservation { observed_at, .. }) = event.to_mut()
        {
            *observed_at = received_at;
        }
        event
    }
}

/// Belvo's MFA login session. Its id is a credential of the caller who opened it and is not kept here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// After this a PATCH answers `session_expired`.
    pub expires_at: Timestamp,
}

/// What a read of the link (`GET /api/links/{id}/`) said.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When it was read, by the reader's clock. A read older than a proof cannot undo it.
    pub observed_at: Timestamp,
    /// Belvo's word.
    pub status: Status,
    /// `last_accessed_at`: Belvo's last *successful* access.
    pub last_accessed_at: Option<Timestamp>,
}

/// Belvo's word on a link. An unknown word is no observation: the enum is open on Belvo's side, and guessing helps
/// nobody.
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

/// What is known of a link beside its state. Each field stays as it was where a message does not say.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// The customer's own id for the link or its user.
    pub external_id: Option<String>,
    /// Belvo's name of the institution, such as `erebor_mx_retail`.
    pub institution: Option<String>,
    /// Whether Belvo refreshes the link by itself.
    pub access_mode: Option<AccessMode>,
    /// How often Belvo refreshes it.
    pub refresh_every: Option<std::time::Duration>,
    /// The resources Belvo fetches for it, such as `TRANSACTIONS`; sorted, without repeats.
    pub fetch_resources: Vec<String>,
    /// The consent behind it. A link that has one has no credentials. Few do, so it is kept aside.
    pub consent: Option<Box<Consent>>,
}

impl Profile {
    /// Takes over everything `newer` says; what it leaves open stays.
    pub(super) fn learn(&mut self, newer: &Self) {
        take(&mut self.external_id, &newer.external_id);
        take(&mut self.institution, &newer.institution);
        take(&mut self.access_mode, &newer.access_mode);
        take(&mut self.refresh_every, &newer.refresh_every);
        if !newer.fetch_resources.is_empty() {
            self.fetch_resources.clone_from(&newer.fetch_resources);
        }
        if let Some(newer) = &newer.consent {
            self.consent.get_or_insert_default().learn(newer);
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
    /// Read once; nothing is refreshed unless somebody asks.
    Single,
    /// Refreshed by Belvo on a schedule.
    Recurrent,
}

/// One resource's data at Belvo. Webhooks carry counts, never the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// `webhook_type`, such as `TRANSACTIONS`.
    pub resource: String,
    /// What kind of arrival.
    pub kind: DataKind,
    /// How many items the message counts, if it does.
    pub items_count: Option<u64>,
    /// Whether `data.errors` was there and not empty: then it is not a success.
    pub has_errors: bool,
}

/// What kind of data arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// `historical_update` and the initial updates: the history is there.
    Historical,
    /// `new_*_available`: a scheduled refresh found something new.
    New,
    /// `transactions_updated`, `transactions_deleted`: a correction.
    Changed,
}

/// What an operator may decide about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// No prompts and no reminders until unmuted.
    Mute,
    /// Undo [`Command::Mute`]; a prompt that was held back goes out now if it is still due.
    Unmute,
    /// No reminders before this time.
    Snooze(Timestamp),
    /// Ask Belvo now.
    Verify,
    /// Forget the link: it becomes a tombstone.
    Forget,
}

/// The name of an event, as the transition table and every message spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// [`Command::Forget`]
    Forget,
}

impl EventName {
    /// Every event there is, in the order of the table.
    pub const ALL: [Self; 30] = [
        Self::CredentialsRejected,
        Self::TokenRequested,
        Self::AccountBlocked,
        Self::ConsentEnded,
        Self::UnsupportedLogin,
        Self::CreationUnfinished,
        Self::SessionExpired,
        Self::ConsentEnding,
        Self::ConsentChanged,
        Self::UpdateStarted,
        Self::UpdateClaimed,
        Self::UpdateAbandoned,
        Self::ObservedValid,
        Self::ObservedInvalid,
        Self::ObservedTokenRequired,
        Self::ObservedUnconfirmed,
        Self::ObservedMissing,
        Self::ObservedConsentAuthorised,
        Self::ObservedConsentEnded,
        Self::MissingReported,
        Self::DataArrived,
        Self::RefreshAccepted,
        Self::QuotaReached,
        Self::LinkDeleted,
        Self::DeadlinePassed,
        Self::Mute,
        Self::Unmute,
        Self::Snooze,
        Self::Verify,
        Self::Forget,
    ];

    /// The spelling in messages, tables and drawings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialsRejected => "credentials_rejected",
            Self::TokenRequested => "token_requested",
            Self::AccountBlocked => "account_blocked",
            Self::ConsentEnded => "consent_ended",
            Self::UnsupportedLogin => "unsupported_login",
            Self::CreationUnfinished => "creation_unfinished",
            Self::SessionExpired => "session_expired",
            Self::ConsentEnding => "consent_ending",
            Self::ConsentChanged => "consent_changed",
            Self::UpdateStarted => "update_started",
            Self::UpdateClaimed => "update_claimed",
            Self::UpdateAbandoned => "update_abandoned",
            Self::ObservedValid => "observed_valid",
            Self::ObservedInvalid => "observed_invalid",
            Self::ObservedTokenRequired => "observed_token_required",
            Self::ObservedUnconfirmed => "observed_unconfirmed",
            Self::ObservedMissing => "observed_missing",
            Self::ObservedConsentAuthorised => "observed_consent_authorised",
            Self::ObservedConsentEnded => "observed_consent_ended",
            Self::MissingReported => "missing_reported",
            Self::DataArrived => "data_arrived",
            Self::RefreshAccepted => "refresh_accepted",
            Self::QuotaReached => "quota_reached",
            Self::LinkDeleted => "link_deleted",
            Self::DeadlinePassed => "deadline_passed",
            Self::Mute => "mute",
            Self::Unmute => "unmute",
            Self::Snooze => "snooze",
            Self::Verify => "verify",
            Self::Forget => "forget",
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Event {
    /// Which row of the table this is.
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
            Self::LinkDeleted => EventName::LinkDeleted,
            Self::DeadlinePassed => EventName::DeadlinePassed,
            Self::Command(command) => match command {
                Command::Mute => EventName::Mute,
                Command::Unmute => EventName::Unmute,
                Command::Snooze(_) => EventName::Snooze,
                Command::Verify => EventName::Verify,
                Command::Forget => EventName::Forget,
            },
        }
    }
}
