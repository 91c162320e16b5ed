//! The words that several messages share, and their conversion from the core.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::link::{
    AccessMode, Attempt, Cause, DataKind, Episode, EpisodeNumber, LinkId, Proof, RefreshBy, Removal, StateName,
    Timestamp,
};

/// A point in time: RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub Timestamp);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = At;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time such as 2026-11-22T10:15:00Z")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<At, E> {
                text.parse().map(At).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for At {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "At".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "A point in time: RFC 3339, UTC, milliseconds.",
        })
    }
}

/// relink's word on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateWord {
    /// Its creation was never seen to finish.
    Unconfirmed,
    /// It works.
    Valid,
    /// It does not work until its user acts.
    Invalid,
    /// It does not work until its user gives a new MFA token.
    TokenRequired,
    /// Its user is repairing it.
    Updating,
    /// It is gone for ever.
    Removed,
}

impl From<StateName> for StateWord {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Unconfirmed => Self::Unconfirmed,
            StateName::Valid => Self::Valid,
            StateName::Invalid => Self::Invalid,
            StateName::TokenRequired => Self::TokenRequired,
            StateName::Updating => Self::Updating,
            StateName::Removed => Self::Removed,
        }
    }
}

impl From<StateWord> for StateName {
    fn from(word: StateWord) -> Self {
        match word {
            StateWord::Unconfirmed => Self::Unconfirmed,
            StateWord::Valid => Self::Valid,
            StateWord::Invalid => Self::Invalid,
            StateWord::TokenRequired => Self::TokenRequired,
            StateWord::Updating => Self::Updating,
            StateWord::Removed => Self::Removed,
        }
    }
}

/// What has to be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseWord {
    /// The stored credentials are refused.
    Credentials,
    /// The institution wants a new MFA token.
    Token,
    /// The institution locked the user's account or forbids access.
    AccountBlocked,
    /// The open-finance consent ended.
    ConsentEnded,
    /// The institution asks for an MFA that Belvo does not support.
    Unsupported,
}

impl From<Cause> for CauseWord {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Credentials => Self::Credentials,
            Cause::Token => Self::Token,
            Cause::AccountBlocked => Self::AccountBlocked,
            Cause::ConsentEnded => Self::ConsentEnded,
            Cause::Unsupported => Self::Unsupported,
        }
    }
}

impl From<CauseWord> for Cause {
    fn from(word: CauseWord) -> Self {
        match word {
            CauseWord::Credentials => Self::Credentials,
            CauseWord::Token => Self::Token,
            CauseWord::AccountBlocked => Self::AccountBlocked,
            CauseWord::ConsentEnded => Self::ConsentEnded,
            CauseWord::Unsupported => Self::Unsupported,
        }
    }
}

/// What the user has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Open the widget in update mode and give the current credentials.
    UpdateCredentials,
    /// Open the widget in update mode and give a new MFA token.
    ProvideToken,
    /// Unlock the account at the institution first; a new password alone will not help.
    ContactInstitution,
    /// Renew the open-finance consent.
    RenewConsent,
    /// Nothing the user could do: tell them that the institution is not supported.
    None,
}

impl From<Cause> for Action {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Credentials => Self::UpdateCredentials,
            Cause::Token => Self::ProvideToken,
            Cause::AccountBlocked => Self::ContactInstitution,
            Cause::ConsentEnded => Self::RenewConsent,
            Cause::Unsupported => Self::None,
        }
    }
}

/// How an attempt to repair a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptWord {
    /// It is said to have succeeded.
    Claimed,
    /// The user closed the widget, or it reported an error.
    Abandoned,
    /// Nothing was heard in time.
    TimedOut,
}

impl From<Attempt> for AttemptWord {
    fn from(core: Attempt) -> Self {
        match core {
            Attempt::Claimed => Self::Claimed,
            Attempt::Abandoned => Self::Abandoned,
            Attempt::TimedOut => Self::TimedOut,
        }
    }
}

impl From<AttemptWord> for Attempt {
    fn from(word: AttemptWord) -> Self {
        match word {
            AttemptWord::Claimed => Self::Claimed,
            AttemptWord::Abandoned => Self::Abandoned,
            AttemptWord::TimedOut => Self::TimedOut,
        }
    }
}

/// Belvo's `access_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessModeWord {
    /// Read once; nothing is refreshed unless somebody asks.
    Single,
    /// Refreshed by Belvo on a schedule.
    Recurrent,
}

impl From<AccessMode> for AccessModeWord {
    fn from(core: AccessMode) -> Self {
        match core {
            AccessMode::Single => Self::Single,
            AccessMode::Recurrent => Self::Recurrent,
        }
    }
}

impl From<AccessModeWord> for AccessMode {
    fn from(word: AccessModeWord) -> Self {
        match word {
            AccessModeWord::Single => Self::Single,
            AccessModeWord::Recurrent => Self::Recurrent,
        }
    }
}

/// What makes relink say that a link works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProofWord {
    /// Belvo was asked and said `valid`.
    Observed,
    /// Data arrived after the update began.
    Data,
    /// Somebody said so, and Belvo could not be asked because no API keys are configured.
    Claimed,
}

impl From<Proof> for ProofWord {
    fn from(core: Proof) -> Self {
        match core {
            Proof::Observed => Self::Observed,
            Proof::Data => Self::Data,
            Proof::Claimed => Self::Claimed,
        }
    }
}

/// Who fetches missed history into Belvo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefreshByWord {
    /// Belvo itself, as it does for a recurrent link after a repair.
    Belvo,
    /// relink, by `POST /api/links/{id}/refresh/`.
    Relink,
    /// Nobody until the subscriber does.
    Subscriber,
}

impl From<RefreshBy> for RefreshByWord {
    fn from(core: RefreshBy) -> Self {
        match core {
            RefreshBy::Belvo => Self::Belvo,
            RefreshBy::Relink => Self::Relink,
            RefreshBy::Subscriber => Self::Subscriber,
        }
    }
}

/// What kind of data arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataKindWord {
    /// The history is there.
    Historical,
    /// A scheduled refresh found something new.
    New,
    /// A correction.
    Changed,
}

impl From<DataKind> for DataKindWord {
    fn from(core: DataKind) -> Self {
        match core {
            DataKind::Historical => Self::Historical,
            DataKind::New => Self::New,
            DataKind::Changed => Self::Changed,
        }
    }
}

/// Why a link was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovalWord {
    /// Belvo said it was deleted.
    Deleted,
    /// Belvo does not know it any more.
    Missing,
    /// An operator forgot it.
    Forgotten,
}

impl From<Removal> for RemovalWord {
    fn from(core: Removal) -> Self {
        match core {
            Removal::Deleted => Self::Deleted,
            Removal::Missing => Self::Missing,
            Removal::Forgotten => Self::Forgotten,
        }
    }
}

/// One outage of one link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeSummary {
    /// `<link id>-e<number>`: stable, and the same in every message of the outage.
    pub id: String,
    /// Which outage of the link, from 1.
    pub number: u32,
    /// What has to be mended.
    pub cause: CauseWord,
    /// When it began.
    pub opened_at: At,
    /// How often the user has been told, reminders included.
    pub prompts_count: u32,
    /// How often the user has tried to repair it.
    pub attempts_count: u32,
}

impl EpisodeSummary {
    /// The summary of an episode of `link`.
    pub fn of(link: &LinkId, episode: &Episode) -> Self {
        let EpisodeNumber(number) = episode.number;
        Self {
            id: format!("{link}-e{number}"),
            number,
            cause: episode.cause.into(),
            opened_at: At(episode.opened_at),
            prompts_count: episode.prompts_count(),
            attempts_count: episode.attempts_count,
        }
    }
}

/// Why a message was set aside: the last token of a dead letter's subject, and its header `Relink-Dead-Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The body cannot be read as what its subject says it is.
    Malformed,
    /// It does not say which link it is about.
    NoLink,
    /// The subject names no kind of input, or no link.
    UnknownSubject,
    /// It follows a newer version of a schema, or of CloudEvents.
    FutureVersion,
    /// It was read, and is in no table: a code Belvo did not have when this was written.
    UnknownCode,
    /// Handling it panicked: a bug of ours.
    Panicked,
    /// What follows from it does not fit a message: NATS refuses the commit, also of this message alone.
    TooLarge,
    /// relink's own record of the link cannot be read: it is damaged. To be replayed once the store has been rebuilt.
    UnreadableRecord,
}

impl DeadReason {
    /// Every reason there is.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::NoLink,
        Self::UnknownSubject,
        Self::FutureVersion,
        Self::UnknownCode,
        Self::Panicked,
        Self::TooLarge,
        Self::UnreadableRecord,
    ];

    /// Its token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoLink => "no_link",
            Self::UnknownSubject => "unknown_subject",
            Self::FutureVersion => "future_version",
            Self::UnknownCode => "unknown_code",
            Self::Panicked => "panicked",
            Self::TooLarge => "too_large",
            Self::UnreadableRecord => "unreadable_record",
        }
    }
}

/// Whether a flag need not be written.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}
