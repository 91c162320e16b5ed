//! What states, causes, events and their reporters mean, in words for people who do not know relink. `relink why` and the console use them.
//!
//! The matches are exhaustive, so whatever is new needs its words here.

use serde::Serialize;
use serde_json::{Value, json};
use strum::VariantArray;

use crate::contract::{CauseWord, DueWord, HeldWord, OriginKind, StateWord};
use crate::link::{Cause, EventName};

/// What a state means.
pub const fn of_state(state: StateWord) -> &'static str {
    match state {
        StateWord::Unconfirmed => {
            "Nothing has shown yet whether the link works: there is no proof that its creation was finished."
        }
        StateWord::Valid => "The link works.",
        StateWord::Invalid => "The link does not work until its user repairs it.",
        StateWord::TokenRequired => "The link does not work until its user gives a new MFA token.",
        StateWord::Updating => "Its user is repairing the link, or relink is verifying the repair.",
        StateWord::Removed => "The link is removed. relink ignores all later messages about it.",
    }
}

/// Why a link is broken, as a clause.
pub const fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Credentials => "the institution refuses the stored credentials",
        Cause::Token => "the institution requires a new MFA token",
        Cause::AccountBlocked => "the institution locked the account of the user, or forbids access to it",
        Cause::ConsentEnded => "the open-finance consent ended",
        Cause::Unsupported => "the institution requires a kind of MFA that Belvo does not support",
    }
}

/// Who reported something, as the start of a sentence.
pub const fn reporter(kind: OriginKind) -> &'static str {
    match kind {
        OriginKind::Webhook => "Belvo reported in a webhook",
        OriginKind::ApiError => "Belvo's API answered your application with an error",
        OriginKind::Widget => "A report of Belvo's widget, of relink's repair page or of your application",
        OriginKind::Observation => "relink read the link from Belvo",
        OriginKind::Command => "An operator gave a command",
        OriginKind::InstitutionStatus => "Belvo's status page reported",
        OriginKind::Timer => "A time limit of relink has passed",
    }
}

/// What was due for a link, as a sentence.
pub const fn of_due(due: DueWord) -> &'static str {
    match due {
        DueWord::Creation => "The time in which the creation of the link should have been finished was over.",
        DueWord::Report => "Nothing has refuted the report that the link is broken, so it counts.",
        DueWord::Answer => "Belvo had not answered whether the link is broken.",
        DueWord::Refresh => "The wait for the data of the outage was over.",
        DueWord::ConsentNotice => "The notice that the consent ends soon was due.",
        DueWord::ConsentEnd => "The consent ended.",
        DueWord::Data => "The scheduled data of the link was overdue.",
        DueWord::Prompt => "It was time to prompt the user, or to look again whether the prompt has to wait.",
        DueWord::Reminder => "A reminder to the user was due, because the link is still broken.",
        DueWord::Attempt => "The time for the repair, or for its proof, was over.",
        DueWord::Incident => "It was time to check whether the institution works again.",
    }
}

/// Why a message to the user was not sent, as a sentence. `relink why` has longer ones, with the other link and the times.
pub const fn of_held(held: HeldWord) -> &'static str {
    match held {
        HeldWord::Incident => "The institution has an incident, so the message to the user waits.",
        HeldWord::Answer => "Before the message to the user, relink asks Belvo whether the link works again.",
        HeldWord::Unidentified => {
            "relink has never read the link, so before the message it asks Belvo whose link it is."
        }
        HeldWord::Pause => {
            "The person got another message a short time before, so this one waits for the end of the reminder pause."
        }
        HeldWord::QuietHours => "It is a part of the day without messages (quiet hours), so the message waits.",
        HeldWord::InWidget => "The person is repairing this link or another one, so the message waits.",
        HeldWord::OtherAnswer => {
            "relink asks Belvo about another broken link of the person first, so that one message is about both."
        }
        HeldWord::Muted => "The link is muted, so its user gets no message.",
        HeldWord::Superseded => "A newer link of the same user works, so the user gets no message about this one.",
        HeldWord::Mentioned => {
            "The last message to the person mentioned this link. It counts, so the user gets no other one."
        }
    }
}

/// What an event says, as a clause.
pub const fn of_event(event: EventName) -> &'static str {
    match event {
        EventName::CredentialsRejected => of_cause(Cause::Credentials),
        EventName::TokenRequested => of_cause(Cause::Token),
        EventName::AccountBlocked => of_cause(Cause::AccountBlocked),
        EventName::ConsentEnded => of_cause(Cause::ConsentEnded),
        EventName::UnsupportedLogin => of_cause(Cause::Unsupported),
        EventName::CreationUnfinished => "the creation of the link is not finished",
        EventName::SessionExpired => "the MFA session has expired",
        EventName::ConsentEnding => "the consent ends soon",
        EventName::ConsentChanged => "the due date of the consent has changed, so most likely the user has renewed it",
        EventName::UpdateStarted => "the user has opened the widget to repair the link",
        EventName::UpdateClaimed => "the user has repaired the link; this is not proven yet",
        EventName::UpdateAbandoned => "the user has left the widget, or the widget has failed",
        EventName::ObservedValid => "its status there is `valid`",
        EventName::ObservedInvalid => "its status there is `invalid`",
        EventName::ObservedTokenRequired => "its status there is `token_required`",
        EventName::ObservedUnconfirmed => "its status there is `unconfirmed`",
        EventName::ObservedMissing => "Belvo does not know the link any more",
        EventName::ObservedConsentAuthorised => "its consent is authorised",
        EventName::ObservedConsentEnded => "its consent has ended",
        EventName::MissingReported => "the link was not found (404)",
        EventName::DataArrived => "data of the link is at Belvo",
        EventName::RefreshAccepted => "Belvo accepted a request for a refresh",
        EventName::QuotaReached => "the monthly quota of the user is used up",
        EventName::Superseded => "a newer link of the same user at the same institution works",
        EventName::SuccessorNamed => "the user connected the bank, and the widget named another link",
        EventName::OutageMet => "the institution is down, and a call or the user met this outage",
        EventName::LinkDeleted => "the link was deleted at Belvo",
        EventName::DeadlinePassed => "a time limit has passed",
        EventName::Mute => "the user gets no prompts and no reminders until `unmute`",
        EventName::Unmute => "the user gets prompts and reminders again",
        EventName::Snooze => "the user gets no reminders before a given time",
        EventName::Verify => "relink reads the link from Belvo now",
        EventName::Unsupersede => "the user is asked about this link again, although a newer link works",
        EventName::Release => "neither a mute nor an incident of the institution keeps the prompt back any longer",
        EventName::Forget => "relink removes the link for ever",
    }
}

/// The commands that may ask for what is so already.
const REPEATABLE: [&str; 5] = ["mute", "unmute", "snooze", "unsupersede", "release"];

/// Why a command changed nothing, if it asked for what is so already, as a clause. `None` for everything else.
pub fn of_known_already(command: &str) -> Option<&'static str> {
    Some(match command {
        "mute" => "the link is muted already",
        "unmute" => "the link is not muted",
        "snooze" => "the link is snoozed until this time already",
        "unsupersede" => "the link is not superseded by a newer link",
        "release" => {
            "a newer link of the same user has replaced this one, so nobody is prompted for it; `relink unsupersede` reverses this"
        }
        _ => return None,
    })
}

/// Why a `release` changed nothing, if it found no prompt to release, as a clause.
pub const NOTHING_HELD: &str = "no prompt of this link waits for the end of a mute or of an incident; `relink show` says what it waits for, \
                                and `relink unmute` ends a mute";

/// All these words by their names in messages, for programs.
pub fn tables() -> Value {
    fn table<T: VariantArray + Copy + Serialize>(words: impl Fn(T) -> &'static str) -> Value {
        let rows = T::VARIANTS.iter().map(|&variant| {
            let name = serde_json::to_value(variant).ok().and_then(|name| name.as_str().map(str::to_owned));
            (name.expect("a word is a text"), words(variant).into())
        });
        Value::Object(rows.collect())
    }
    let events = EventName::VARIANTS.iter().map(|event| (event.as_str().to_owned(), of_event(*event).into()));
    let known_already = REPEATABLE.iter().map(|&command| (command.to_owned(), of_known_already(command).into()));
    json!({
        "states": table(of_state),
        "causes": table(|cause: CauseWord| of_cause(cause.into())),
        "events": Value::Object(events.collect()),
        "reporters": table(reporter),
        "due": table(of_due),
        "held": table(of_held),
        "known_already": Value::Object(known_already.collect()),
        "nothing_held": NOTHING_HELD,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_the_names_of_messages() {
        let tables = tables();
        for (table, name, start) in [
            ("states", "token_required", "The link does not work until"),
            ("causes", "consent_ended", "the open-finance consent"),
            ("events", "observed_valid", "its status there"),
            ("reporters", "api_error", "Belvo's API answered"),
            ("due", "consent_notice", "The notice that the consent"),
            ("held", "quiet_hours", "It is a part of the day"),
        ] {
            assert!(tables[table][name].as_str().is_some_and(|words| words.starts_with(start)), "{table} {name}");
        }
    }
}
