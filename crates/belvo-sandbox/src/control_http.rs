//! The strings to pull, over HTTP: JSON in, JSON out, no authentication. It is for loopback only.
//!
//! | call | body | answer, or what happens |
//! |---|---|---|
//! | `GET /sandbox/links` | | all links, as Belvo shows them |
//! | `POST /sandbox/links` | `{institution, access_mode?, …}`, see below | `{link}`; webhooks, or `silent` |
//! | `POST /sandbox/links/{id}/scheduled-refresh` | `{outcome}`, a [`RefreshOutcome`] | `{request_id}` |
//! | `POST /sandbox/links/{id}/status` | `{status}` | set without a webhook |
//! | `POST /sandbox/links/{id}/login` | `{login}`, see [`Login::from_name`] | what the bank says next |
//! | `POST /sandbox/links/{id}/fresh-data` | `{fresh}` | whether refreshes find anything |
//! | `GET /sandbox/links/{id}/quotas` | | `[{resource, limit, used}]` of this month, for a link with a consent |
//! | `POST /sandbox/links/{id}/repair` | | as the widget's success |
//! | `POST /sandbox/links/{id}/corrections` | `{correction}`, a [`Correction`] | `transactions_updated` and the like |
//! | `POST /sandbox/links/{id}/consent` | `{event, within_secs?}` | `about_to_expire`, `expire`, `renew`, or resources that cannot be had: `unrecoverable`, `temporarily_unavailable` |
//! | `POST /sandbox/wipe` | | `{links}`: how many are gone |
//! | `POST /sandbox/faults/webhooks` | `{kind, count?, delay_ms?}`, a [`WebhookFault`] | for the next `count` |
//! | `POST /sandbox/faults/api` | `{kind, count?, on?, secs?}`, see below | for the next `count` |
//! | `GET /sandbox/codes` | | the codes of errors that can be asked for |
//! | `DELETE /sandbox/faults` | | none any more |
//! | `POST /sandbox/webhook` | `{url, authorization?}` | where webhooks go; nowhere, if `url` is null |
//! | `POST /sandbox/payload-shape` | `{shape}`, a [`PayloadShape`] | |
//! | `POST /sandbox/webhooks` | `{link, webhook_type, webhook_code, …}`, see [`NewWebhook`] | sent by hand |
//! | `GET /sandbox/deliveries?after=N&limit=L&wait_ms=M` | | the L (100) attempts after the Nth; waits M ms for one |
//! | `POST /sandbox/deliveries/{seq}/replay` | `{delay_ms?}` | the same body again |
//! | `GET /sandbox/time` | | `{now, next_event}`: when the next thing happens, or the next webhook is due |
//! | `POST /sandbox/advance` | `{secs}` or `{until}` | time goes forward, and what is planned happens; the same answer |
//!
//! A new link may also have `external_id`, `refresh_rate`, `fetch_resources`, `created_at`, `consent_ends_at` and
//! `silent`. Times are RFC 3339.
//!
//! An API fault's `kind` is `rate_limited`, `timeout` (both last `secs`), or a code that `GET /sandbox/codes` lists: of
//! Belvo's error reference, with `login_error:locked` and its like for the message, `token_required` for the link that the
//! call names, and `forbidden_html` for the proxy's 403. `on` is a part of `METHOD /path`. Names are in snake case.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bank::RefreshOutcome;
use crate::clock::{belvo_time, millis, parse_time};
use crate::consent::ConsentLack;
use crate::control::{Control, NewWebhook};
use crate::control_json::{Asked, Body, InPath, Refusal};
use crate::fault::{ApiFault, WebhookFault};
use crate::link::{AccessMode, LinkStatus, RefreshRate};
use crate::login::Login;
use crate::new_link::NewFleetLink;
use crate::problem::error_codes;
use crate::shared::Shared;
use crate::webhook::{Correction, PayloadShape};
use crate::world::{is_header_value, is_webhook_url};

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
        .route("/sandbox/links/{id}/corrections", post(correction))
        .route("/sandbox/links/{id}/consent", post(consent))
        .route("/sandbox/wipe", post(wipe))
        .route("/sandbox/codes", get(codes))
        .route("/sandbox/faults", delete(clear_faults))
        .route("/sandbox/faults/webhooks", post(webhook_fault))
        .route("/sandbox/faults/api", post(api_fault))
        .route("/sandbox/webhook", post(webhook_target))
        .route("/sandbox/payload-shape", post(payload_shape))
        .route("/sandbox/webhooks", post(send_webhook))
        .route("/sandbox/deliveries", get(deliveries))
        .route("/sandbox/deliveries/{seq}/replay", post(replay))
        .route("/sandbox/time", get(time))
        .route("/sandbox/advance", post(advance))
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
    refresh_rate: Option<RefreshRate>,
    fetch_resources: Option<Vec<String>>,
    created_at: Option<String>,
    consent_ends_at: Option<String>,
    #[serde(default)]
    silent: bool,
}

async fn create(State(shared): Handle, Body(body): Body<CreateBody>) -> Answer {
    let new = NewFleetLink {
        institution: body.institution,
        access_mode: body.access_mode.unwrap_or(AccessMode::Recurrent),
        external_id: body.external_id,
        refresh_rate: body.refresh_rate,
        fetch_resources: body.fetch_resources,
        created_at_ms: body.created_at.as_deref().map(moment).transpose()?,
        consent_ends_at_ms: body.consent_ends_at.as_deref().map(moment).transpose()?,
        is_announced: !body.silent,
    };
    Ok(Json(json!({"link": Control::new(shared).add_fleet_link(new)?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    outcome: RefreshOutcome,
}

async fn scheduled_refresh(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<RefreshBody>) -> Answer {
    let request_id = Control::new(shared).scheduled_refresh(id, body.outcome)?;
    Ok(Json(json!({"request_id": request_id})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusBody {
    status: LinkStatus,
}

async fn status(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<StatusBody>) -> Answer {
    Control::new(shared).set_status(id, body.status)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    login: String,
}

async fn login(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<LoginBody>) -> Answer {
    Control::new(shared).set_login(id, Login::from_name(&body.login))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FreshBody {
    fresh: bool,
}

async fn fresh_data(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<FreshBody>) -> Answer {
    Control::new(shared).set_fresh_data(id, body.fresh)?;
    done()
}

async fn quotas(State(shared): Handle, InPath(id): InPath<Uuid>) -> Answer {
    Ok(Json(json!(Control::new(shared).quotas(id)?)))
}

async fn repair(State(shared): Handle, InPath(id): InPath<Uuid>) -> Answer {
    Control::new(shared).repair(id)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CorrectionBody {
    correction: Correction,
}

async fn correction(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<CorrectionBody>) -> Answer {
    Control::new(shared).correct_transactions(id, body.correction)?;
    done()
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ConsentEvent {
    AboutToExpire,
    Expire,
    Unrecoverable,
    TemporarilyUnavailable,
    Renew,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsentBody {
    event: ConsentEvent,
    within_secs: Option<u64>,
}

async fn consent(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<ConsentBody>) -> Answer {
    const SEVEN_DAYS_SECS: u64 = 7 * 24 * 3600;
    let control = Control::new(shared);
    match (body.event, body.within_secs) {
        (ConsentEvent::AboutToExpire, within_secs) => {
            control.consent_about_to_expire(id, Duration::from_secs(within_secs.unwrap_or(SEVEN_DAYS_SECS)))?;
        }
        (_, Some(_)) => {
            return Err(Refusal::bad("within_secs is for about_to_expire"));
        }
        (ConsentEvent::Expire, None) => control.expire_consent(id)?,
        (ConsentEvent::Unrecoverable, None) => control.lose_consent_resources(id, ConsentLack::Unrecoverable)?,
        (ConsentEvent::TemporarilyUnavailable, None) => {
            control.lose_consent_resources(id, ConsentLack::TemporarilyUnavailable)?;
        }
        (ConsentEvent::Renew, None) => control.renew_consent(id)?,
    }
    done()
}

async fn wipe(State(shared): Handle) -> Answer {
    Ok(Json(json!({"links": Control::new(shared).wipe()})))
}

async fn codes() -> Answer {
    Ok(Json(json!(error_codes())))
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
    DataErrors,
    ShortCode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookFaultBody {
    kind: WebhookFaultKind,
    count: Option<usize>,
    delay_ms: Option<u64>,
}

async fn webhook_fault(State(shared): Handle, Body(body): Body<WebhookFaultBody>) -> Answer {
    let fault = match body.kind {
        WebhookFaultKind::Drop => WebhookFault::Drop,
        WebhookFaultKind::Duplicate => WebhookFault::Duplicate,
        WebhookFaultKind::Delay => WebhookFault::Delay(Duration::from_millis(body.delay_ms.unwrap_or(1_000))),
        WebhookFaultKind::Reorder => WebhookFault::Reorder,
        WebhookFaultKind::NullExternalId => WebhookFault::NullExternalId,
        WebhookFaultKind::UnknownCode => WebhookFault::UnknownCode,
        WebhookFaultKind::DataErrors => WebhookFault::DataErrors,
        WebhookFaultKind::ShortCode => WebhookFault::ShortCode,
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

async fn api_fault(State(shared): Handle, Body(body): Body<ApiFaultBody>) -> Answer {
    let span = Duration::from_secs(body.secs.unwrap_or(30));
    let fault = match body.kind.as_str() {
        "rate_limited" => ApiFault::RateLimited(span),
        "timeout" => ApiFault::Timeout(span),
        code => ApiFault::Error(code.to_owned()),
    };
    Control::new(shared).fail_api(fault, body.count.unwrap_or(1), &body.on)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetBody {
    /// Null for nowhere; it has to be said.
    #[serde(deserialize_with = "Option::deserialize")]
    url: Option<String>,
    authorization: Option<SecretString>,
}

async fn webhook_target(State(shared): Handle, Body(body): Body<TargetBody>) -> Answer {
    if body.url.as_deref().is_some_and(|url| !is_webhook_url(url)) {
        return Err(Refusal::bad("url must be an http or https address, or null"));
    }
    if body.authorization.as_ref().is_some_and(|value| !is_header_value(value.expose_secret())) {
        return Err(Refusal::bad("authorization cannot be sent in a header"));
    }
    Control::new(shared).set_webhook(body.url, body.authorization);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShapeBody {
    shape: PayloadShape,
}

async fn payload_shape(State(shared): Handle, Body(body): Body<ShapeBody>) -> Answer {
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

async fn send_webhook(State(shared): Handle, Body(body): Body<SendBody>) -> Answer {
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

/// How many deliveries are answered at once, unless another `limit` is given.
const DELIVERIES_DEFAULT: usize = 100;
const DELIVERIES_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveriesQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
    limit: Option<usize>,
}

async fn deliveries(State(shared): Handle, Asked(query): Asked<DeliveriesQuery>) -> Answer {
    let control = Control::new(shared);
    if query.wait_ms > 0 {
        let wait = Duration::from_millis(query.wait_ms.min(60_000));
        // Nothing in time is an empty list, not an error.
        let _in_time = tokio::time::timeout(wait, control.wait_for_delivery(query.after, |_| true)).await;
    }
    let limit = query.limit.unwrap_or(DELIVERIES_DEFAULT).min(DELIVERIES_MAX);
    Ok(Json(json!(control.deliveries_page(query.after, limit))))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct ReplayBody {
    delay_ms: u64,
}

async fn replay(State(shared): Handle, InPath(seq): InPath<u64>, body: Bytes) -> Answer {
    // No body at all is as good as an empty one.
    let body = if body.is_empty() { Ok(ReplayBody::default()) } else { serde_json::from_slice::<ReplayBody>(&body) };
    let body = body.map_err(|wrong| Refusal::bad(wrong.to_string()))?;
    Control::new(shared).replay(seq, Duration::from_millis(body.delay_ms))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceBody {
    secs: Option<u64>,
    until: Option<String>,
}

/// How far time can be moved at once.
const ADVANCE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// How far it moves before others get their turn: what is planned happens on the way, and nobody is answered meanwhile.
const ADVANCE_STEP: Duration = Duration::from_secs(24 * 3_600);

async fn advance(State(shared): Handle, Body(body): Body<AdvanceBody>) -> Answer {
    let control = Control::new(shared);
    let now_ms = control.now_ms();
    let at_ms = match (body.secs, body.until) {
        (Some(secs), None) => now_ms.saturating_add(millis(Duration::from_secs(secs))),
        (None, Some(until)) => moment(&until)?,
        _ => return Err(Refusal::bad("give either secs or until")),
    };
    if at_ms.saturating_sub(now_ms) > millis(ADVANCE_MAX) {
        return Err(Refusal::bad("time goes forward by a year at most"));
    }
    let mut step_ms = now_ms;
    while step_ms < at_ms {
        step_ms = at_ms.min(step_ms.saturating_add(millis(ADVANCE_STEP)));
        control.advance_to(step_ms);
        tokio::task::yield_now().await;
    }
    Ok(Json(told_time(&control)))
}

async fn time(State(shared): Handle) -> Answer {
    Ok(Json(told_time(&Control::new(shared))))
}

fn told_time(control: &Control) -> Value {
    json!({"now": belvo_time(control.now_ms()), "next_event": control.next_event_at().map(belvo_time)})
}

/// A time in a body.
fn moment(text: &str) -> Result<i64, Refusal> {
    parse_time(text).ok_or_else(|| Refusal::bad(format!("{text} is no RFC 3339 time")))
}
