//! Why relink refused an input, as plain sentences. A refusal changes nothing, so what the input asks for or reports is not written as a fact.

use serde_json::Value;

use super::sentences::{commanded_by, of_event_named, reporter_of};
use crate::contract::{Origin, OriginKind};
use crate::wording::{NOTHING_HELD, of_known_already};

/// The reason of an input that says what relink knows already, or asks for what is so already.
const ALREADY_KNOWN: &str = "already_known";

/// Who reported or asked for what, and why it changed nothing. `body` is that of the message on `link.refused.<link>`, with printable texts.
pub(super) fn of_refused(body: &Value) -> String {
    let (event, why) = (body["event"].as_str(), why_refused(body));
    let origin = serde_json::from_value::<Origin>(body["origin"].clone()).ok();
    match (origin, event) {
        (Some(origin), _) if body["reason"] == "repeated" => {
            let what = event.map(|event| format!(" (`{event}`)")).unwrap_or_default();
            format!(
                "relink received message {} again{what}: it is the same message, and not a new one.",
                origin.message_id.as_deref().unwrap_or("?")
            )
        }
        (Some(origin), Some(command)) if origin.kind == OriginKind::Command => {
            format!("{} It changed nothing: {why}.", commanded_by(&origin, command))
        }
        // Only compared: relink may publish this, and an application too.
        (Some(_), Some("superseded")) => {
            format!("relink, or your application, named a newer link of the same user. Nothing changed: {why}.")
        }
        (origin, event) => {
            let who = origin.as_ref().map_or_else(|| "relink received a message".to_owned(), reporter_of);
            let what = event.map(|event| format!(": {}", of_event_named(event))).unwrap_or_default();
            format!("{who}{what}. Nothing changed: {why}.")
        }
    }
}

/// The reason, as a clause.
pub(super) fn why_refused(body: &Value) -> &str {
    let detail = body["detail"].as_str().unwrap_or("?");
    if body["reason"] == "nothing_held" {
        return NOTHING_HELD;
    }
    if body["reason"] == "cannot_verify" {
        return "relink has no keys of Belvo's API, so it cannot ask (RELINK_BELVO_URL, RELINK_BELVO_SECRET_ID, RELINK_BELVO_SECRET_PASSWORD)";
    }
    if body["reason"] != ALREADY_KNOWN {
        return detail;
    }
    body["event"].as_str().and_then(of_known_already).unwrap_or("relink knows this already")
}

/// Whether the refused command asked for what is so already.
pub(super) fn is_so_already(body: &Value) -> bool {
    // The prompt of a superseded link is not released.
    let is_known = body["reason"] == ALREADY_KNOWN && body["event"] != "release";
    let is_removed = body["reason"] == "removed" && body["event"] == "forget";
    (is_known || is_removed) && !is_about_no_link(body)
}

/// Whether relink does not know the link.
pub(super) fn is_about_no_link(body: &Value) -> bool {
    body["state"].is_null()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_does_not_say_that_something_changed() {
        let mut all = String::new();
        for (kind, event, reason) in [
            ("command", "mute", ALREADY_KNOWN),
            ("command", "unmute", ALREADY_KNOWN),
            ("command", "snooze", ALREADY_KNOWN),
            ("command", "unsupersede", ALREADY_KNOWN),
            ("command", "release", ALREADY_KNOWN),
            ("command", "release", "nothing_held"),
            ("command", "verify", "cannot_verify"),
            ("command", "forget", "removed"),
            ("webhook", "token_requested", ALREADY_KNOWN),
            ("observation", "observed_valid", "outdated"),
        ] {
            let origin =
                json!({"kind": kind, "by": "ana", "reason": "a call", "received_at": "2023-11-14T22:13:20.000Z"});
            let detail = format!("the detail of {reason}");
            let body = json!({"event": event, "reason": reason, "detail": detail, "state": "valid", "origin": origin});
            all += &format!("{}\n", of_refused(&body));
            let expected = event == "forget" || (reason == ALREADY_KNOWN && event != "release");
            assert_eq!(is_so_already(&body), expected, "{body}");
        }
        insta::assert_snapshot!(all);
        assert!(!is_so_already(&json!({"event": "unmute", "reason": ALREADY_KNOWN, "state": null})));
        assert_eq!(of_refused(&json!(null)), "relink received a message. Nothing changed: ?.");
    }
}
