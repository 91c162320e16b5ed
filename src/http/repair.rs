//! `POST /v1/links/{id}/update`: the user clicked "repair". Mints Belvo's widget token for update mode, or for the
//! renewal of a consent, and says so on the bus.
//!
//! The token opens the user's bank connection for ten minutes: it is in this answer and nowhere else, neither in a
//! message nor in a log, and no cache may keep it.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use reqwest::Url;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body;
use super::parameters::LinkInPath;
use super::problem::{Kind, Problem};
use super::{Door, SharedDoor, renewal};
use crate::belvo::{CallError, WidgetToken, read_json as parse_json};
use crate::contract::{ApiError, InputKind, Widget};
use crate::link::LinkId;

/// The languages of Belvo's hosted widget.
const LOCALES: [&str; 3] = ["es", "pt", "en"];

/// What may be said about the widget; an empty body says nothing.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Wishes {
    #[serde(default)]
    locale: Option<String>,
    /// For a link with a consent: Belvo's `widget` object.
    #[serde(default)]
    widget: Option<Map<String, Value>>,
}

pub(super) async fn update(
    State(door): State<SharedDoor>,
    LinkInPath(link): LinkInPath,
    request: Request,
) -> Result<Response, Problem> {
    let Wishes { locale, widget } = read_wishes(&body::read_json(request).await?)?;
    let Some(belvo) = &door.belvo else {
        return Err(Problem::new(
            Kind::NoBelvoKeys,
            "To mint widget tokens relink needs RELINK_BELVO_URL, RELINK_BELVO_SECRET_ID and \
             RELINK_BELVO_SECRET_PASSWORD. Or mint \
             the token yourself and report it: POST /v1/links/{id}/widget with {\"event\": \"started\"}.",
        ));
    };
    if let Some(consent_link) = door.consent_link(&link).await? {
        let token = belvo.renewal_token(&link, renewal::read_widget(widget)?).await;
        // What Belvo answers to somebody's name and document number is not for the bus.
        let token = token.map_err(|error| not_minted(&error))?;
        let sequence = announce(&door, &link, &token).await?;
        let url = renewal::address(&door.portal_url, &consent_link, &token)?;
        return Ok(answer(&url, &link, &token, sequence).into_response());
    }
    let token = match belvo.update_token(&link).await {
        Ok(token) => token,
        Err(error) => return Err(refused(&door, &link, error).await),
    };
    let sequence = announce(&door, &link, &token).await?;
    let mut url = Url::parse(&door.widget_url).map_err(Problem::internal)?;
    url.query_pairs_mut()
        .append_pair("access_token", token.access.expose_secret())
        .extend_pairs(locale.map(|locale| ("locale", locale)));
    Ok(answer(&url, &link, &token, sequence).into_response())
}

/// Says on the bus that the user is at it.
async fn announce(door: &Door, link: &LinkId, token: &WidgetToken) -> Result<u64, Problem> {
    let started = Widget::Started { expires_in_seconds: token.expires_in.as_secs() };
    let started = serde_json::to_vec(&started).map_err(Problem::internal)?;
    door.store_input(InputKind::Widget, link, Bytes::from(started)).await
}

fn answer(url: &Url, link: &LinkId, token: &WidgetToken, sequence: u64) -> impl IntoResponse + use<> {
    let mut body = json!({
        "link_id": link.as_str(),
        "access": token.access.expose_secret(),
        "expires_in": token.expires_in.as_secs(),
        "widget_url": url.as_str(),
        "sequence": sequence,
    });
    if let Some(refresh) = &token.refresh {
        body["refresh"] = Value::from(refresh.expose_secret());
    }
    ([(CACHE_CONTROL, "no-store")], Json(body))
}

fn read_wishes(body: &[u8]) -> Result<Wishes, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Wishes::default());
    }
    let value = parse_json(body)?;
    let wrong = || {
        Problem::new(
            Kind::WrongShape,
            "The body may be empty, or an object with `locale` (`es`, `pt` or `en`) and `widget`.",
        )
    };
    let wishes = serde_json::from_value::<Wishes>(value).map_err(|_| wrong())?;
    match &wishes.locale {
        Some(locale) if !LOCALES.contains(&locale.as_str()) => Err(wrong().at("/locale")),
        Some(_) | None => Ok(wishes),
    }
}

/// What the caller hears when Belvo did not mint. If its answer says something of the link, the machine hears it too.
async fn refused(door: &Door, link: &LinkId, error: CallError) -> Problem {
    let problem = not_minted(&error);
    let CallError::Api(api_error) = error else { return problem };
    match publish_error(door, link, &api_error).await {
        Ok(sequence) => problem.with("sequence", sequence),
        // The answer stays Belvo's; that the machine has not heard of it is in the log.
        Err(unheard) => {
            tracing::warn!(link.id = %link, "an error of Belvo's could not be stored: {}", unheard.detail());
            problem
        }
    }
}

fn not_minted(error: &CallError) -> Problem {
    let problem = Problem::new(Kind::BelvoRefused, format!("{error}.")).inside(error);
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

async fn publish_error(door: &Door, link: &LinkId, error: &ApiError) -> Result<u64, Problem> {
    let body = serde_json::to_vec(error).map_err(Problem::internal)?;
    door.store_input(InputKind::ApiError, link, Bytes::from(body)).await
}

/// Belvo's code, if the body has one; only if it looks like a code.
fn code_of(error: &ApiError) -> Option<String> {
    let first = error.body.get(0).unwrap_or(&error.body);
    let code = first.get("code")?.as_str()?;
    let is_plain = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    is_plain.then(|| code.to_owned())
}
