//! States, events, notices and refusals as plain sentences, for readers who do not know relink.
//!
//! The matches are exhaustive, so a new event or notice needs a sentence here. Words of a newer relink are shown as they are.

use serde_json::Value;
use strum::VariantArray;

use crate::contract::{Because, Mention, NoticeName, Origin, OriginKind, StateWord};
use crate::link::{EventName, StateName, Timestamp};
use crate::printable::{printable, shortened};
use crate::wording::{of_due, of_event, reporter};

/// The word of a state in messages.
pub(super) fn word_of(state: StateWord) -> &'static str {
    StateName::from(state).as_str()
}

/// Who reported an event and what it says, as a sentence.
pub(super) fn of_transition(because: &Because) -> String {
    let Some(event) = event_named(&because.event) else {
        return format!("{}: `{}`.", reporter(because.origin.kind), because.event);
    };
    match because.origin.kind {
        OriginKind::Timer if because.times_corrected => {
            "relink corrected times of the link that were in the future: the clock of the NATS server had been ahead."
                .to_owned()
        }
        OriginKind::Timer => because.due.map_or("Something was due for the link.", of_due).to_owned(),
        OriginKind::Command => {
            format!(
                "{} gave the command `{event}`: {}.{}",
                operator(&because.origin),
                of_event(event),
                reason(&because.origin)
            )
        }
        // No answer of Belvo says this: relink compares the links of a user, and an application may publish it too.
        OriginKind::Observation if event == EventName::Superseded => {
            format!("relink, or your application, compared the links of the user: {}.", of_event(event))
        }
        kind @ (OriginKind::Webhook
        | OriginKind::ApiError
        | OriginKind::Widget
        | OriginKind::Observation
        | OriginKind::InstitutionStatus) => {
            format!("{}: {}.", reporter(kind), of_event(event))
        }
    }
}

/// The last message about another link of the same person that mentioned this one.
pub(super) fn of_mention(mention: &Mention, now: Timestamp) -> String {
    format!(
        "The last message to the same user that mentioned this link too was about the link {}, at {}.",
        printable(&mention.link_id),
        at(mention.at.0, now)
    )
}

/// Who gave a command. Both names are shown escaped, because they come from outside.
fn operator(origin: &Origin) -> String {
    if origin.is_adoption() {
        return "relink itself".to_owned();
    }
    let quoted = |text: &String| in_quotes(&shortened(text, 80));
    match (origin.by.as_ref().map(quoted), origin.token.as_ref().map(quoted)) {
        (None, None) => "An operator".to_owned(),
        (Some(by), None) => format!("The operator {by}"),
        (None, Some(token)) => format!("The holder of the API token {token}"),
        (Some(by), Some(token)) => format!("The operator {by}, with the API token {token},"),
    }
}

/// A printable text from outside in quotation marks. It has none inside, so nothing behind it is taken for a part of relink's sentence.
pub(super) fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "'"))
}

/// Who gave which command, and the reason, as sentences. They do not say that the command changed something.
pub(super) fn commanded_by(origin: &Origin, command: &str) -> String {
    format!("{} gave the command `{command}`.{}", operator(origin), reason(origin))
}

/// The reason of a command, as a sentence of its own.
fn reason(origin: &Origin) -> String {
    origin
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(" Reason: {}.", in_quotes(&shortened(reason, 200))))
}

/// Who reported something, or gave a command, as the start of a sentence.
pub(super) fn reporter_of(origin: &Origin) -> String {
    match origin.kind {
        OriginKind::Command => format!("{} gave a command", operator(origin)),
        kind => reporter(kind).to_owned(),
    }
}

/// The name of an event as a clause; the name itself if this version does not know it.
pub(super) fn of_event_named(name: &str) -> String {
    event_named(name).map_or_else(|| format!("`{name}`"), |event| of_event(event).to_owned())
}

fn event_named(name: &str) -> Option<EventName> {
    EventName::VARIANTS.iter().copied().find(|event| event.as_str() == name)
}

/// What a notice would have asked of its subscribers, as a clause after "relink".
pub(super) fn of_observed(name: &str, body: &Value) -> String {
    format!("would have {} (observe mode)", of_notice(name, body))
}

/// What a published notice asks of its subscribers, as a clause after "relink".
pub(super) fn of_notice(name: &str, body: &Value) -> String {
    let Some(notice) = NoticeName::VARIANTS.iter().copied().find(|known| known.as_str() == name) else {
        return format!("published `{name}`");
    };
    let text = |field: &str| body[field].as_str().unwrap_or("?");
    match notice {
        NoticeName::UpdateRequired => {
            format!("prompted the user: {}{}", of_action(text("action")), others(body))
        }
        NoticeName::Reminder => {
            format!("reminded the user (reminder {}): {}{}", body["number"], of_action(text("action")), others(body))
        }
        NoticeName::UpdateStarted => "reported that the user is repairing the link".to_owned(),
        NoticeName::UpdateFailed => {
            let end = match text("attempt") {
                "claimed" => "the user reported a success, and the link still does not work",
                "abandoned" => "the user closed the widget, or the widget failed",
                "timed_out" => "the attempt had no result in time",
                other => other,
            };
            let rest = if body["episode"]["superseded_by"].is_string() {
                "A newer link has replaced this one, so no message to the user follows"
            } else {
                "The user gets no second prompt for it; reminders go on, if any is left"
            };
            format!("reported that the attempt failed: {end}. {rest}")
        }
        NoticeName::Superseded => {
            format!("reported that the user does not have to repair this link: the newer link {} works", text("by"))
        }
        NoticeName::CreationUnfinished => format!(
            "reported that the creation of the link is not finished since {}. If the user still wants the link: {}",
            text("since"),
            of_action(text("action"))
        ),
        NoticeName::Recovered => {
            let proof = match text("proof") {
                "observed" => "Belvo's status of the link shows it",
                "data" => "new data of the link arrived",
                "claimed" => "a success was reported, and relink has no keys to ask Belvo",
                other => other,
            };
            format!("reported that the link works again: {proof}")
        }
        NoticeName::RefreshDue => {
            let by = match text("by") {
                "belvo" => "Belvo fetches it without being asked",
                "relink" => "relink asks Belvo for it",
                "subscriber" => "your program has to ask Belvo for it",
                other => other,
            };
            let to = body["gap"]["to"].as_str().unwrap_or("?");
            match body["gap"]["from"].as_str() {
                Some(from) => format!("reported that the data from {from} to {to} has to be fetched; {by}"),
                None => format!(
                    "reported that all data up to {to} has to be fetched, because it knows of none from before the outage; {by}"
                ),
            }
        }
        NoticeName::DataAvailable => format!("reported that Belvo has new data ({})", text("resource")),
        NoticeName::Refreshed => {
            let missing: Vec<_> = body["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let rest =
                if missing.is_empty() { String::new() } else { format!("; there is none of {}", missing.join(", ")) };
            format!("reported that the data has arrived at Belvo{rest}")
        }
        NoticeName::ConsentExpiring => {
            let due_at = body["due_at"].as_str().unwrap_or("an unknown date");
            format!("reported that the consent ends, on {due_at}{}", others(body))
        }
        NoticeName::Stale => "reported that the scheduled data of the link is overdue".to_owned(),
        NoticeName::InstitutionDown => {
            format!("reported that the institution is down, since {}: there is nothing to do now", text("since"))
        }
        NoticeName::InstitutionRestored => match text("action") {
            "none" => "reported that the institution works again, at least for this link: this message asks the user for nothing".to_owned(),
            action => format!("reported that the institution works again: {}{}", of_action(action), others(body)),
        },
        NoticeName::Removed => {
            let reason = match body["reason"].as_str().or_else(|| body["why"].as_str()).unwrap_or("?") {
                "deleted" => "Belvo deleted it",
                "missing" => "Belvo does not know it any more",
                "forgotten" => "an operator removed it",
                other => other,
            };
            format!("reported that the link is removed: {reason}")
        }
    }
}

/// The other links that a message mentions, as the end of a clause.
fn others(body: &Value) -> String {
    let lists = ["also_broken", "also_ending"].map(|list| body[list].as_array());
    let ids: Vec<_> = lists.into_iter().flatten().flatten().filter_map(|other| other["link_id"].as_str()).collect();
    if ids.is_empty() { String::new() } else { format!("; the message also mentions {}", ids.join(", ")) }
}

/// What a job does, as a clause after "relink".
pub(super) fn of_job(name: &str, body: &Value) -> String {
    match name {
        "find_superseded" => "looked for a broken link of the same user at the same bank, which this link would replace (the history of that link has the result)"
            .to_owned(),
        "read_successor" => {
            let other = body["successor_id"].as_str().unwrap_or("?");
            format!("ordered a read from Belvo, to see whether the link {other} replaces this link")
        }
        "verify" => "ordered a read of the link from Belvo".to_owned(),
        "refresh" => "ordered a fetch of the data of the link at Belvo".to_owned(),
        other => format!("requested the job `{other}`"),
    }
}

/// What a message asks of the user.
pub(super) fn of_action(action: &str) -> &str {
    match action {
        "update_credentials" => "give the current credentials in the widget",
        "provide_token" => "give a new MFA token in the widget",
        "contact_institution" => "unlock the account at the institution",
        "renew_consent" => "renew the consent",
        "none" => "the user can do nothing, because Belvo does not support this login",
        other => other,
    }
}

/// The time, and how far it is from `now`: `2026-11-23T00:46:07.731Z (in 3 h)`.
pub(super) fn at(time: Timestamp, now: Timestamp) -> String {
    let distance = if time >= now {
        format!("in {}", span(time.as_millis().saturating_sub(now.as_millis())))
    } else {
        format!("{} ago", span(now.as_millis().saturating_sub(time.as_millis())))
    };
    format!("{time} ({distance})")
}

/// A span as its largest unit, rounded: `3 h`.
pub(super) fn span(millis: i64) -> String {
    let seconds = millis.max(0) / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", (seconds + 30) / 60),
        7_200..=172_799 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_largest_unit() {
        for (seconds, shown) in [
            (-1, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "120 min"),
            (7_200, "2 h"),
            (172_800, "2 days"),
            (1_209_595, "14 days"),
        ] {
            assert_eq!(span(seconds * 1_000), shown);
        }
        let now = Timestamp::from_millis(1_700_000_000_000);
        assert_eq!(
            at(Timestamp::from_millis(1_700_000_000_000 - 9_000_000), now),
            "2023-11-14T19:43:20.000Z (3 h ago)"
        );
    }

    #[test]
    fn a_name_cannot_forge_the_rest_of_a_sentence() {
        let origin = serde_json::json!({"kind": "command", "by": "ana\", with the API token \"boss",
            "reason": "ok\". The time: 2020", "received_at": "2023-11-14T22:13:20.000Z"});
        let text = commanded_by(&serde_json::from_value(origin).unwrap(), "unmute");
        let expected = "The operator \"ana', with the API token 'boss\" gave the command `unmute`. Reason: \"ok'. The time: 2020\".";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_correction_of_times_is_no_message_that_was_due() {
        let because = serde_json::json!({"event": "deadline_passed", "from": "invalid", "to": "invalid", "times_corrected": true,
            "at": "2023-11-14T22:13:20.000Z", "origin": {"kind": "timer", "received_at": "2023-11-14T22:13:20.000Z"}});
        let text = of_transition(&serde_json::from_value(because).unwrap());
        assert!(text.starts_with("relink corrected times of the link"), "{text}");
    }

    #[test]
    fn words_of_a_newer_relink_are_shown_as_they_are() {
        assert_eq!(of_event_named("observed_frozen"), "`observed_frozen`");
        assert_eq!(of_notice("thawed", &Value::Null), "published `thawed`");
        assert_eq!(of_job("thaw", &Value::Null), "requested the job `thaw`");
        assert_eq!(
            of_notice("recovered", &serde_json::json!({"proof": "sworn"})),
            "reported that the link works again: sworn"
        );
    }
}
