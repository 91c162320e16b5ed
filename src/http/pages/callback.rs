//! Belvo's widget returns: `GET /repair/callback/{locale}/{event}/{token}`.
//!
//! relink gives these addresses to Belvo when it mints the token, so only Belvo's widget and the user's browser know
//! them. Like every callback, one is a hint of the user's device. relink publishes it, and the machine reads the link
//! from Belvo. Then the browser goes back to the page, so that a reload repeats nothing. Belvo's messages and the name
//! of the institution are not published: only the codes are used.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::super::SharedServer;
use super::{PATH, Purpose, Visit, draw, locale_of, look_up, not_now, see_other, switched_off, wait_for};
use crate::contract::{InputKind, Widget};
use crate::link::Episode;
use crate::repair::{Claims, Locale, RepairLinks, View};

/// How long the answer waits for the effect of the callback, so that the page shows it at once.
const WAIT_MAX: Duration = Duration::from_millis(1_500);

/// The longest code of Belvo that is published.
const CODE_LENGTH_MAX: usize = 64;

/// The events in the addresses.
const EVENTS: [&str; 3] = ["success", "exit", "event"];

/// The three addresses for Belvo: success, exit and event. The language is a part of the path, because the widget
/// appends its own query.
pub(super) fn addresses(links: &RepairLinks, claims: &Claims, attempt: u32, locale: Locale) -> [String; 3] {
    let token = links.sign(Purpose::Callback, &Claims { attempt, ..claims.clone() });
    let base = links.base_url();
    EVENTS.map(|event| format!("{base}{PATH}/callback/{}/{event}/{token}", locale.as_str()))
}

pub(super) async fn take(
    State(server): State<SharedServer>,
    path: Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    method: Method,
    visit: Visit,
) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    let Path((locale, event, token)) = path;
    let visit = Visit { locale: Some(locale), is_return: true, ..visit };
    let claims = pages.links.verify(Purpose::Callback, &token).ok();
    // relink signs the token and not the rest of the address, so that may be changed.
    let Some(claims) = claims.filter(|_| is_event(&event)) else {
        return draw(&server, pages, &visit, None).await;
    };
    let opened = match look_up(&server, claims).await {
        Ok(opened) => opened,
        Err(problem) => return not_now(pages, &visit, problem),
    };
    // A callback counts for its own episode only. A preview of the address asks with HEAD.
    let is_open = matches!(
        opened.view,
        View::NeedsYou(_) | View::InProgress | View::Superseded(_) | View::Checking | View::StillChecking
    );
    let widget =
        widget_event(&event, query.as_deref().unwrap_or_default()).filter(|_| is_open && method == Method::GET);
    // An earlier attempt has ended. Only a success of it may still say something: then relink reads the link.
    let widget = widget.filter(|widget| {
        let is_earlier = |episode: &Episode| opened.claims.attempt < episode.attempts_count;
        let episode = opened.link.as_ref().and_then(|link| link.state.episode());
        matches!(widget, Widget::Success { .. }) || !episode.is_some_and(is_earlier)
    });
    if let (Some(widget), Some(link)) = (widget, &opened.link)
        && pages.callbacks.allows(&link.id)
    {
        let body = serde_json::to_vec(&widget).expect("a widget event has string keys");
        if let Err(problem) = server.store_input(InputKind::Widget, &link.id, Bytes::from(body)).await {
            return not_now(pages, &visit, problem);
        }
        let version = link.version;
        wait_for(&server, &link.id, WAIT_MAX, |link| link.version > version).await;
    }
    let locale = locale_of(&visit, opened.institution());
    let token = pages.links.sign(Purpose::Page, &opened.claims);
    see_other(&format!("{}{PATH}/{token}?locale={}&done", pages.links.base_url(), locale.as_str())).into_response()
}

/// Whether relink gives Belvo an address with this word.
pub(super) fn is_event(word: &str) -> bool {
    EVENTS.contains(&word)
}

/// The event of the widget; `None` for one that says nothing.
fn widget_event(event: &str, query: &str) -> Option<Widget> {
    let value = |name: &str| {
        let values = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = values.into_iter().find(|(found, _)| *found == name)?;
        let is_plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        (is_plain && !value.is_empty() && value.len() <= CODE_LENGTH_MAX).then(|| value.to_owned())
    };
    match event {
        // A link that is another one: the user has connected the bank anew.
        "success" => Some(Widget::Success { link: value("link"), institution: None }),
        "exit" => Some(Widget::Exit {
            last_encountered_error: None,
            last_encountered_error_code: value("last_encountered_error_code"),
            last_encountered_error_message: None,
            meta_data: None,
            meta_data_institution_name: None,
            meta_data_step: value("meta_data_step"),
        }),
        "event" => match (value("error"), value("warning")) {
            (Some(error), _) => {
                Some(Widget::Error { error: Some(error), error_message: None, request_id: None, meta_data: None })
            }
            (None, Some(warning)) => Some(Widget::Warning { warning: Some(warning), warning_message: None }),
            (None, None) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_of_a_callback_are_published() {
        let event =
            |event: &str, query: &str| widget_event(event, query).map(|event| serde_json::to_string(&event).unwrap());
        let success = "link=16f68516-bcbc-4cf7-b815-c500d4204e28&institution=y";
        let named = r#"{"event":"success","link":"16f68516-bcbc-4cf7-b815-c500d4204e28"}"#;
        assert_eq!(event("success", success).as_deref(), Some(named));
        assert_eq!(event("success", "link=%00&institution=y").as_deref(), Some(r#"{"event":"success"}"#));
        let exit = "last_encountered_error_code=login_error&last_encountered_error_message=Maria%20Lopez&meta_data_step=abandon-survey";
        let published =
            r#"{"event":"exit","last_encountered_error_code":"login_error","meta_data_step":"abandon-survey"}"#;
        assert_eq!(event("exit", exit).as_deref(), Some(published));
        assert_eq!(event("exit", "meta_data_step=%00&x").as_deref(), Some(r#"{"event":"exit"}"#));
        let error = event("event", "error=ACCESS_TOKEN_NOT_VALID&error_message=x");
        assert_eq!(error.as_deref(), Some(r#"{"event":"error","error":"ACCESS_TOKEN_NOT_VALID"}"#));
        let warning = event("event", "warning=institution_disabled");
        assert_eq!(warning.as_deref(), Some(r#"{"event":"warning","warning":"institution_disabled"}"#));
        for (name, query) in [("event", ""), ("event", &*format!("error={}", "x".repeat(65))), ("other", "error=x")] {
            assert_eq!(event(name, query), None, "{name} {query}");
        }
    }
}
