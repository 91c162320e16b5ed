//! The strings to pull, over HTTP: JSON in, JSON out, no authentication. It is for loopback only.
//!
//! | call | body | answer, or what happens |
//! |---|---|---|
//! | `GET /sandbox/links` | | all links, as Belvo shows them |
//! | `POST /sandbox/links` | `{institution, access_mode?, external_id?, silent?}` | `{link}`; webhooks, or `silent` |
//! | `POST /sandbox/links/{id}/scheduled-refresh` | `{outcome}`, a [`RefreshOutcome`] | `{request_id}` |
//! | `POST /sandbox/links/{id}/status` | `{status}` | set without a webhook |
//! | `POST /sandbox/links/{id}/login` | `{login}`, see [`Login::from_name`] | what the bank says next |
//! | `POST /sandbox/links/{id}/fresh-data` | `{fresh}` | whether refreshes find anything |
//! | `GET /sandbox/links/{id}/quotas` | | `[{resource, limit, used}]` of this month, for a link with a consent |
//! | `POST /sandbox/links/{id}/repair` | | as the widget's success |
//! | `POST /sandbox/links/{id}/consent` | `{event, within_secs?}` | `about_to_expire`, `expire`, `renew` |
//! | `POST /sandbox/wipe` | | `{links}`: how many are gone |
//! | `POST /sandbox/faults/webhooks` | `{kind, count?, delay_ms?}`, a [`WebhookFault`] | for the next `count` |
//! | `POST /sandbox/faults/api` | `{kind, count?, on?, secs?}`, see below | for the next `count` |
//! | `DELETE /sandbox/faults` | | none any more |
//! | `POST /sandbox/webhook` | `{url, authorization?}` | where webhooks go |
//! | `POST /sandbox/payload-shape` | `{shape}`, a [`PayloadShape`] | |
//! | `POST /sandbox/webhooks` | `{link, webhook_type, webhook_code, …}`, see [`NewWebhook`] | sent by hand |
//! | `GET /sandbox/deliveries?after=N&wait_ms=M` | | attempts after the Nth; waits M ms for one |
//! | `POST /sandbox/deliveries/{seq}/replay` | `{delay_ms?}` | the same body again |
//! | `POST /sandbox/advance` | `{secs}` | time goes forward |
//!
//! An API fault's `kind` is `rate_limited`, `timeout` (both last `secs`), or a code of Belvo's error reference; `on` is
//! a part of `METHOD /path`. Names are in snake case.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Shared;
use super::control::{Control, ControlError, NewWebhook};
use super::fault::{ApiFault, WebhookFault};
use super::link::{AccessMode, LinkStatus, Login};
use super::problem::Problem;
use super::schedule::RefreshOutcome;
use super::webhook::PayloadShape;

type Handle = State<Arc<Shared>>;
type Answer = Result<Json<Value>, Refusal>;

/// The routes under `/sandbox/`.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/sandbox/links", get(links).post(create))
        .route("/sandbox/links/{id}/scheduled-refresh", post(scheduled_refresh))
        .route("/sandbox/links/{id}/status", post(status))
        .route("/sandbox/links/{id}/login", post(login))
        .route("/sandbox/links/{id}/fresh-data", post(fresh_data))
        .route("/sandbox/links/{id}/quotas", get(quotas))
        .route("/sandbox/links/{id}/repair", post(repair))
        .route("/sandbox/links/{id}/consent", post(consent))
        .route("/sandbox/wipe", post(wipe))
        .route("/sandbox/faults", delete(clear_faults))
        .route("/sandbox/faults/webhooks", post(webhook_fault))
        .route("/sandbox/faults/api", post(api_fault))
        .route("/sandbox/webhook", post(webhook_target))
        .route("/sandbox/payload-shape", post(payload_shape))
        .route("/sandbox/webhooks", post(send_webhook))
        .route("/sandbox/deliveries", get(deliveries))
        .route("/sandbox/deliveries/{seq}/replay", post(replay))
        .route("/sandbox/advance", post(advance))
}

/// What could not be done, in words.
struct Refusal(StatusCode, String);

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::NoSuchLink(_) | ControlError::NoSuchDelivery(_) => StatusCode::NOT_FOUND,
            ControlError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::NoSuchInstitution(_)
            | ControlError::NoSuchResource(_)
            | ControlError::NotRecurrent(_)
            | ControlError::NotValid(_)
            | ControlError::NoConsent(_) => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

fn done() -> Answer {
    Ok(Json(json!({})))
}

async fn links(State(shared): Handle) -> Answer {
    Ok(Json(json!(Control::new(shared).links())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    institution: String,
    access_mode: Option<AccessMode>,
    external_id: Option<String>,
    #[serde(default)]
    silent: bool,
}

async fn create(State(shared): Handle, Json(body): Json<CreateBody>) -> Answer {
    let control = Control::new(shared);
    let mode = body.access_mode.unwrap_or(AccessMode::Recurrent);
    let external_id = body.external_id.as_deref();
    let link = if body.silent {
        control.add_link(&body.institution, mode, external_id)?
    } else {
        control.create_link(&body.institution, mode, external_id)?
    };
    Ok(Json(json!({"link": link})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    outcome: RefreshOutcome,
}

async fn scheduled_refresh(State(shared): Handle, Path(id): Path<Uuid>, Json(body): Json<RefreshBody>) -> Answer {
    let request_id = Control::new(shared).scheduled_refresh(id, body.outcome)?;
    Ok(Json(json!({"request_id": request_id})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusBody {
    status: LinkStatus,
}

async fn status(State(shared): Handle, Path(id): Path<Uuid>, Json(body): Json<StatusBody>) -> Answer {
    Control::new(shared).set_status(id, body.status)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    login: String,
}

async fn login(State(shared): Handle, Path(id): Path<Uuid>, Json(body): Json<LoginBody>) -> Answer {
    let login = Login::from_name(&body.login);
    if let Login::Answers(code) = &login {
        known_code(code)?;
    }
    Control::new(shared).set_login(id, login)?;
    done()
}

fn known_code(code: &str) -> Result<(), Refusal> {
    let unknown = || Refusal(StatusCode::BAD_REQUEST, format!("Belvo documents no error {code}"));
    Problem::find(code).map(|_| ()).ok_or_else(unknown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FreshBody {
    fresh: bool,
}

async fn fresh_data(State(shared): Handle, Path(id): Path<Uuid>, Json(body): Json<FreshBody>) -> Answer {
    Control::new(shared).set_fresh_data(id, body.fresh)?;
    done()
}

async fn quotas(State(shared): Handle, Path(id): Path<Uuid>) -> Answer {
    Ok(Json(json!(Control::new(shared).quotas(id)?)))
}

async fn repair(State(shared): Handle, Path(id): Path<Uuid>) -> Answer {
    Control::new(shared).repair(id)?;
    done()
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ConsentBody {
    AboutToExpire { within_secs: Option<u64> },
    Expire,
    Renew,
}

async fn consent(State(shared): Handle, Path(id): Path<Uuid>, Json(body): Json<ConsentBody>) -> Answer {
    const SEVEN_DAYS_SECS: u64 = 7 * 24 * 3600;
    let control = Control::new(shared);
    match body {
        ConsentBody::AboutToExpire { within_secs } => {
            control.consent_about_to_expire(id, Duration::from_secs(within_secs.unwrap_or(SEVEN_DAYS_SECS)))?;
        }
        ConsentBody::Expire => control.expire_consent(id)?,
        ConsentBody::Renew => control.renew_consent(id)?,
    }
    done()
}

async fn wipe(State(shared): Handle) -> Answer {
    Ok(Json(json!({"links": Control::new(shared).wipe()})))
}

async fn clear_faults(State(shared): Handle) -> Answer {
    Control::new(shared).clear_faults();
    done()
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum WebhookFaultKind {
    Drop,
    Duplicate,
    Delay,
    Reorder,
    NullExternalId,
    UnknownCode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookFaultBody {
    kind: WebhookFaultKind,
    count: Option<usize>,
    delay_ms: Option<u64>,
}

async fn webhook_fault(State(shared): Handle, Json(body): Json<WebhookFaultBody>) -> Answer {
    let fault = match body.kind {
        WebhookFaultKind::Drop => WebhookFault::Drop,
        WebhookFaultKind::Duplicate => WebhookFault::Duplicate,
        WebhookFaultKind::Delay => WebhookFault::Delay(Duration::from_millis(body.delay_ms.unwrap_or(1_000))),
        WebhookFaultKind::Reorder => WebhookFault::Reorder,
        WebhookFaultKind::NullExternalId => WebhookFault::NullExternalId,
        WebhookFaultKind::UnknownCode => WebhookFault::UnknownCode,
    };
    Control::new(shared).fail_webhooks(fault, body.count.unwrap_or(1));
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiFaultBody {
    kind: String,
    count: Option<usize>,
    #[serde(default)]
    on: String,
    secs: Option<u64>,
}

async fn api_fault(State(shared): Handle, Json(body): Json<ApiFaultBody>) -> Answer {
    let span = Duration::from_secs(body.secs.unwrap_or(30));
    let fault = match body.kind.as_str() {
        "rate_limited" => ApiFault::RateLimited(span),
        "timeout" => ApiFault::Timeout(span),
        code => {
            known_code(code)?;
            ApiFault::Error(code.to_owned())
        }
    };
    Control::new(shared).fail_api(fault, body.count.unwrap_or(1), &body.on);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetBody {
    url: Option<String>,
    authorization: Option<SecretString>,
}

async fn webhook_target(State(shared): Handle, Json(body): Json<TargetBody>) -> Answer {
    Control::new(shared).set_webhook(body.url, body.authorization);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShapeBody {
    shape: PayloadShape,
}

async fn payload_shape(State(shared): Handle, Json(body): Json<ShapeBody>) -> Answer {
    Control::new(shared).set_payload_shape(body.shape);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendBody {
    link: Uuid,
    webhook_type: String,
    webhook_code: String,
    process_type: Option<String>,
    request_id: Option<Uuid>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    delay_ms: u64,
}

async fn send_webhook(State(shared): Handle, Json(body): Json<SendBody>) -> Answer {
    let new = NewWebhook {
        webhook_type: body.webhook_type,
        webhook_code: body.webhook_code,
        process_type: body.process_type,
        request_id: body.request_id,
        data: body.data,
        delay: Duration::from_millis(body.delay_ms),
    };
    Control::new(shared).send_webhook(body.link, new);
    done()
}

#[derive(Deserialize)]
struct DeliveriesQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

async fn deliveries(State(shared): Handle, Query(query): Query<DeliveriesQuery>) -> Answer {
    let control = Control::new(shared);
    if query.wait_ms > 0 {
        let wait = Duration::from_millis(query.wait_ms.min(60_000));
        // Nothing in time is an empty list, not an error.
        let _in_time = tokio::time::timeout(wait, control.wait_for_delivery(query.after, |_| true)).await;
    }
    Ok(Json(json!(control.deliveries(query.after))))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct ReplayBody {
    delay_ms: u64,
}

async fn replay(State(shared): Handle, Path(seq): Path<u64>, body: Option<Json<ReplayBody>>) -> Answer {
    let delay = body.map(|Json(body)| body.delay_ms).unwrap_or_default();
    Control::new(shared).replay(seq, Duration::from_millis(delay))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceBody {
    secs: u64,
}

async fn advance(State(shared): Handle, Json(body): Json<AdvanceBody>) -> Answer {
    Control::new(shared).advance(Duration::from_secs(body.secs));
    done()
}
