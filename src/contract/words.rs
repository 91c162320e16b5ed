//! Enums that several bodies share, with their names in JSON, and the conversions from and to the types of the core.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::rfc3339::At;
use crate::link::{
    AccessMode, AttemptEnd, Cause, DataKind, DeadlineName, Episode, EpisodeNumber, Held, LinkId, Proof, RefreshBy,
    Removal, StateName,
};

/// Implements the conversions between an enum of the core, which has no serde, and its enum in JSON. Both matches are
/// exhaustive: a variant that only one of them has does not compile.
macro_rules! convert_both_ways {
    ($core:ident, $word:ident { $($variant:ident),+ }) => {
        impl From<$core> for $word {
            fn from(core: $core) -> Self {
                match core {
                    $($core::$variant => Self::$variant,)+
                }
            }
        }

        impl From<$word> for $core {
            fn from(word: $word) -> Self {
                match word {
                    $($word::$variant => Self::$variant,)+
                }
            }
        }
    };
}

/// The state of a link, as relink decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum StateWord {
    /// There is no proof that the creation of the link was finished.
    Unconfirmed,
    /// The link works.
    Valid,
    /// The link does not work until its user repairs it.
    Invalid,
    /// The link does not work until its user gives a new MFA token.
    TokenRequired,
    /// The user is repairing the link, or the repair is being verified.
    Updating,
    /// The link is removed. This is final.
    Removed,
}

convert_both_ways!(StateName, StateWord { Unconfirmed, Valid, Invalid, TokenRequired, Updating, Removed });

/// What the user has to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum CauseWord {
    /// The stored credentials are refused.
    Credentials,
    /// The institution requires a new MFA token.
    Token,
    /// The institution locked the user's account or forbids access.
    AccountBlocked,
    /// The open-finance consent ended.
    ConsentEnded,
    /// The institution requires a kind of MFA that Belvo does not support.
    Unsupported,
}

convert_both_ways!(Cause, CauseWord { Credentials, Token, AccountBlocked, ConsentEnded, Unsupported });

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
    /// The user cannot repair the link: the message to the user should say that the institution is not supported.
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

/// How the user's part of an attempt to repair a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEndWord {
    /// A success was reported.
    Claimed,
    /// The user closed the widget, or the widget reported an error.
    Abandoned,
    /// No message about the attempt arrived in time.
    TimedOut,
}

convert_both_ways!(AttemptEnd, AttemptEndWord { Claimed, Abandoned, TimedOut });

/// What relink does at a time when something is due for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum DueWord {
    /// relink asks Belvo whether the creation of the link is finished, or publishes `creation_unfinished`.
    Creation,
    /// A report that nothing has refuted counts: the link is broken.
    Report,
    /// relink asks Belvo again about a report, because Belvo has not answered.
    Answer,
    /// The wait for the data of the outage ends: relink asks Belvo for it, or publishes `refreshed` without it.
    Refresh,
    /// relink publishes `consent_expiring`.
    ConsentNotice,
    /// The consent ends.
    ConsentEnd,
    /// Data is overdue: relink asks Belvo about the link, or publishes `stale`.
    Data,
    /// relink publishes the prompt, or decides again whether it has to wait.
    Prompt,
    /// relink publishes a reminder, or finds out before whether the link works again.
    Reminder,
    /// A part of the attempt to repair the link ends.
    Attempt,
    /// relink looks whether the incident of the institution, of which your application was notified, is over.
    Incident,
}

convert_both_ways!(
    DeadlineName,
    DueWord { Creation, Report, Answer, Refresh, ConsentNotice, ConsentEnd, Data, Prompt, Reminder, Attempt, Incident }
);

/// Why a transition has not sent the message to the user that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum HeldWord {
    /// The institution has an incident: the message waits for its end.
    Incident,
    /// relink first asks Belvo whether the link works again.
    Answer,
    /// relink has never read the link, and first asks Belvo whose link it is.
    Unidentified,
    /// The person got another message within the reminder pause: the message waits for its end.
    Pause,
    /// It is a part of the day without messages: the message waits for its end.
    QuietHours,
    /// The person is repairing this link or another one: the message waits for the end of that attempt.
    InWidget,
    /// relink asks Belvo about another broken link of the person first, so that one message is about both.
    OtherAnswer,
    /// The link is muted: the message waits for `unmute`.
    Muted,
    /// A newer link of the user works: no message is needed.
    Superseded,
    /// The last message to the person mentioned this link: it counts, and no other one is needed.
    Mentioned,
}

convert_both_ways!(
    Held,
    HeldWord { Incident, Answer, Unidentified, Pause, QuietHours, InWidget, OtherAnswer, Muted, Superseded, Mentioned }
);

/// Belvo's `access_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessModeWord {
    /// Belvo reads the link once, and again only when it is asked for a refresh.
    Single,
    /// Belvo refreshes the link on a schedule.
    Recurrent,
}

convert_both_ways!(AccessMode, AccessModeWord { Single, Recurrent });

/// A fact that shows that a link works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProofWord {
    /// Belvo's status of the link, or of its consent, was read after the repair, and shows that the link works.
    Observed,
    /// Data arrived during the attempt, or after the settle window. Counts only without API keys.
    Data,
    /// A success callback, or a 200 to PUT or PATCH. Counts only without API keys.
    Claimed,
}

convert_both_ways!(Proof, ProofWord { Observed, Data, Claimed });

/// Who asks Belvo for the historical refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefreshByWord {
    /// Belvo starts it without being asked, as it does for a recurrent link after a repair.
    Belvo,
    /// relink, by `POST /api/links/{id}/refresh/`.
    Relink,
    /// The subscriber has to ask.
    Subscriber,
}

convert_both_ways!(RefreshBy, RefreshByWord { Belvo, Relink, Subscriber });

/// The kind of a data webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataKindWord {
    /// A historical refresh has finished.
    Historical,
    /// A scheduled refresh found new items.
    New,
    /// Belvo corrected stored items.
    Changed,
}

convert_both_ways!(DataKind, DataKindWord { Historical, New, Changed });

/// Why a link was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovalWord {
    /// Belvo reported the deletion.
    Deleted,
    /// Belvo answered 404 for the URL of the link.
    Missing,
    /// An operator's command `forget`.
    Forgotten,
}

convert_both_ways!(Removal, RemovalWord { Deleted, Missing, Forgotten });

/// An episode: one outage of one link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeSummary {
    /// The id of the episode, `<link id>-e<number>`; the same in every message about it.
    pub id: String,
    /// The number of the episode, from 1 for the first outage of the link.
    pub number: u32,
    /// What the user has to repair.
    pub cause: CauseWord,
    /// When the episode began.
    pub opened_at: At,
    /// How many messages to the user the episode has led to: the prompt and the reminders.
    pub prompts_count: u32,
    /// How many times the user has tried to repair the link.
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

/// Why a message was dead-lettered: the last token of a dead letter's subject, and its header `Relink-Dead-Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum DeadReason {
    /// The body cannot be read as the kind of input that its subject names.
    Malformed,
    /// The message does not name a link.
    NoLink,
    /// The subject does not name a kind of input, or its link id is not valid.
    UnknownSubject,
    /// The message has a newer version of a schema, or of CloudEvents, than this relink reads.
    FutureVersion,
    /// The message was read, but its code is in no table of relink: Belvo most likely added it later.
    UnknownCode,
    /// Handling the message panicked, which is a bug of relink.
    Panicked,
    /// NATS refuses the commit of this message as too large, even if the commit contains nothing else.
    TooLarge,
    /// relink's own record of the link is damaged and cannot be read. Replay the message after the store has been
    /// rebuilt.
    UnreadableRecord,
    /// The bytes are from a damaged part of a node's journal.
    DamagedJournal,
    /// A notice or an incident that the HTTP address for notices did not accept in time.
    NoticeNotDelivered,
    /// A webhook of Belvo that the HTTP address for forwarded webhooks did not accept in time.
    WebhookNotForwarded,
}

impl DeadReason {
    /// The token in the subject.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the message itself was handled, and only could not be sent over HTTP.
    pub const fn is_outbound(self) -> bool {
        matches!(self, Self::NoticeNotDelivered | Self::WebhookNotForwarded)
    }
}

/// For `skip_serializing_if`: a flag is written only if it is set.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}
