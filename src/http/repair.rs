//! `POST /v1/links/{id}/update`: a user wants to repair a link. relink mints Belvo's widget token for update mode, or
//! for the renewal of a consent, and publishes that an attempt has started.
//!
//! The token gives access to the user's bank connection for ten minutes: it is only in this answer, not in a message
//! or a log, and `no-store` keeps it out of caches.

use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use reqwest::Url;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::auth::Caller;
use super::body;
use super::parameters::LinkInPath;
use super::problem::{Kind, Problem};
use super::{Server, SharedServer, members, renewal};
use crate::belvo::{CallError, Client, WidgetToken};
use crate::contract::{ApiError, InputKind, MintedToken, Receipt, UpdateRequest, Widget};
use crate::link::LinkId;

/// The locales of Belvo's hosted widget.
const LOCALES: [&str; 3] = ["es", "pt", "en"];

pub(super) async fn update(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    LinkInPath(link): LinkInPath,
    request: Request,
) -> Result<Response, Problem> {
    let UpdateRequest { locale, widget } = read_request(&body::read_json(request).await?)?;
    if server.observe {
        return Err(Problem::new(
            Kind::Observing,
            "relink only observes (service.observe), so it starts no repair: your present system mints the token. Report the callbacks of \
             the widget: POST /v1/links/{id}/widget.",
        ));
    }
    let Some(belvo) = server.belvo.as_ref().map(Client::for_people) else {
        return Err(Problem::new(
            Kind::NoBelvoKeys,
            "To mint widget tokens, relink needs RELINK_BELVO_URL, RELINK_BELVO_SECRET_ID and \
             RELINK_BELVO_SECRET_PASSWORD. You can also mint the token yourself and report it: POST /v1/links/{id}/widget with {\"event\": \"started\"}.",
        ));
    };
    check_callbacks(widget.as_ref())?;
    if let Some(consent_link) = server.consent_link(&link).await? {
        if locale.is_some() {
            let detail =
                "This link has a consent, which the user renews in Belvo's portal. The portal takes no `locale`.";
            return Err(Problem::new(Kind::WrongShape, detail).at("/locale"));
        }
        let token = belvo.renewal_token(&link, renewal::read_widget(widget)?).await;
        // Belvo's error may quote the user's name and document number, so it is not published.
        let token = token.map_err(|error| not_minted(&error))?;
        let receipt = publish_started(&server, &link, &token, &caller).await?;
        let url = renewal::address(&server.portal_url, &consent_link, &token)?;
        return Ok(answer(&url, &link, &token, receipt).into_response());
    }
    let token = match belvo.update_token(&link, for_update_mode(widget)?).await {
        Ok(token) => token,
        Err(error) => return Err(refused(&server, &link, error, &caller).await),
    };
    let receipt = publish_started(&server, &link, &token, &caller).await?;
    let mut url = Url::parse(&server.widget_url).map_err(Problem::internal)?;
    url.query_pairs_mut()
        .append_pair("access_token", token.access.expose_secret())
        .extend_pairs(locale.map(|locale| ("locale", locale)));
    Ok(answer(&url, &link, &token, receipt).into_response())
}

/// Refuses `callback_urls` that are no addresses: Belvo's widget would not lead the user back.
fn check_callbacks(widget: Option<&Map<String, Value>>) -> Result<(), Problem> {
    let Some(callbacks) = widget.and_then(|widget| widget.get("callback_urls")) else { return Ok(()) };
    let is_address = |value: &Value| value.as_str().is_some_and(|text| Url::parse(text).is_ok());
    if callbacks.as_object().is_some_and(|callbacks| callbacks.values().all(is_address)) {
        return Ok(());
    }
    let detail = "`callback_urls` must be an object of addresses: `success`, `exit` and `event`.";
    Err(Problem::new(Kind::WrongShape, detail).at("/widget/callback_urls"))
}

/// The members of Belvo's `widget` object that only the renewal of a consent uses.
const CONSENT_ONLY: [&str; 2] = ["consent", "openfinance_feature"];

/// The `widget` object of the request. What update mode does not use is refused, because the caller would expect an
/// effect of it.
fn for_update_mode(widget: Option<Map<String, Value>>) -> Result<Option<Map<String, Value>>, Problem> {
    let unused = widget.iter().flat_map(Map::keys).find(|name| CONSENT_ONLY.contains(&name.as_str()));
    match unused {
        None => Ok(widget),
        Some(name) => {
            let detail = format!("This link has no consent, and Belvo's update mode does not use `{name}`.");
            Err(Problem::new(Kind::WrongShape, detail).at(format!("/widget/{name}")))
        }
    }
}

/// Publishes that the user has started an attempt. The caller is the holder of the API token, or nobody on the repair page.
pub(super) async fn publish_started(
    server: &Server,
    link: &LinkId,
    token: &WidgetToken,
    caller: &Caller,
) -> Result<Receipt, Problem> {
    let started = Widget::Started { expires_in_seconds: token.expires_in.as_secs() };
    let started = serde_json::to_vec(&started).map_err(Problem::internal)?;
    server.store_input_of(InputKind::Widget, link, Bytes::from(started), caller).await
}

fn answer(url: &Url, link: &LinkId, token: &WidgetToken, receipt: Receipt) -> impl IntoResponse + use<> {
    let minted = MintedToken {
        link_id: link.to_string(),
        access: token.access.expose_secret().to_owned(),
        refresh: token.refresh.as_ref().map(|refresh| refresh.expose_secret().to_owned()),
        expires_in: token.expires_in.as_secs(),
        widget_url: url.to_string(),
        receipt,
    };
    ([(CACHE_CONTROL, "no-store")], Json(minted))
}

fn read_request(body: &[u8]) -> Result<UpdateRequest, Problem> {
    let wrong = "The body may be empty, or an object with `locale` (`es`, `pt` or `en`) and `widget`.";
    let request: UpdateRequest = body::optional_object(body, wrong)?;
    match &request.locale {
        Some(locale) if !LOCALES.contains(&locale.as_str()) => Err(Problem::new(Kind::WrongShape, wrong).at("/locale")),
        Some(_) | None => Ok(request),
    }
}

/// The problem for a token that Belvo did not mint. If Belvo answered an API error, it is published as an input too:
/// it may be evidence about the link.
pub(super) async fn refused(server: &Server, link: &LinkId, error: CallError, caller: &Caller) -> Problem {
    let problem = not_minted(&error);
    let CallError::Api(api_error) = error else { return problem };
    match publish_error(server, link, &api_error, caller).await {
        Ok(receipt) => members(&receipt).into_iter().fold(problem, |problem, (name, value)| problem.with(&name, value)),
        // The caller receives Belvo's error anyway; the failed publish is only logged.
        Err(not_stored) => {
            tracing::warn!(link.id = %link, "an API error of Belvo could not be stored as an input: {}", not_stored.detail());
            problem
        }
    }
}

pub(super) fn not_minted(error: &CallError) -> Problem {
    let problem = Problem::new(Kind::BelvoRefused, format!("{error}.")).log_detail(error);
    match error {
        CallError::Api(api_error) => {
            problem.with("belvo_status", api_error.http_status).with("belvo_code", code_of(api_error))
        }
        CallError::Transient { retry_after, .. } => {
            let secs = retry_after.map_or(3, |wait| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX));
            problem.retry_after_secs(secs.max(1))
        }
        CallError::Permanent { class, .. } => match class {
            Some(class) => problem.with("class", class.as_str()),
            None => problem,
        },
    }
}

async fn publish_error(server: &Server, link: &LinkId, error: &ApiError, caller: &Caller) -> Result<Receipt, Problem> {
    let body = serde_json::to_vec(error).map_err(Problem::internal)?;
    server.store_input_of(InputKind::ApiError, link, Bytes::from(body), caller).await
}

/// The code of Belvo's error; `None` if the text does not have the form of a code.
fn code_of(error: &ApiError) -> Option<String> {
    let first = error.body.get(0).unwrap_or(&error.body);
    let code = first.get("code")?.as_str()?;
    let is_plain = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    is_plain.then(|| code.to_owned())
}
