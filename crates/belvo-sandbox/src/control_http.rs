//! The handlers of the control API: JSON in, JSON out. [`super::control_index`] lists the endpoints, with their bodies.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
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

pub(crate) type Handle = State<Arc<Shared>>;
pub(crate) type Answer = Result<Json<Value>, Refusal>;

fn done() -> Answer {
    Ok(Json(json!({})))
}

pub(crate) async fn links(State(shared): Handle) -> Answer {
    Ok(Json(json!(Control::new(shared).links())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateBody {
    institution: String,
    access_mode: Option<AccessMode>,
    external_id: Option<String>,
    username: Option<String>,
    refresh_rate: Option<RefreshRate>,
    fetch_resources: Option<Vec<String>>,
    created_at: Option<String>,
    consent_ends_at: Option<String>,
    #[serde(default)]
    silent: bool,
}

pub(crate) async fn create(State(shared): Handle, Body(body): Body<CreateBody>) -> Answer {
    let new = NewFleetLink {
        institution: body.institution,
        access_mode: body.access_mode.unwrap_or(AccessMode::Recurrent),
        external_id: body.external_id,
        username: body.username,
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
pub(crate) struct RefreshBody {
    outcome: RefreshOutcome,
}

pub(crate) async fn scheduled_refresh(
    State(shared): Handle,
    InPath(id): InPath<Uuid>,
    Body(body): Body<RefreshBody>,
) -> Answer {
    let request_id = Control::new(shared).scheduled_refresh(id, body.outcome)?;
    Ok(Json(json!({"request_id": request_id})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusBody {
    status: LinkStatus,
}

pub(crate) async fn status(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<StatusBody>) -> Answer {
    Control::new(shared).set_status(id, body.status)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginBody {
    login: String,
}

pub(crate) async fn login(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<LoginBody>) -> Answer {
    Control::new(shared).set_login(id, Login::from_name(&body.login))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FreshBody {
    fresh: bool,
}

pub(crate) async fn fresh_data(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<FreshBody>) -> Answer {
    Control::new(shared).set_fresh_data(id, body.fresh)?;
    done()
}

pub(crate) async fn quotas(State(shared): Handle, InPath(id): InPath<Uuid>) -> Answer {
    Ok(Json(json!(Control::new(shared).quotas(id)?)))
}

pub(crate) async fn repair(State(shared): Handle, InPath(id): InPath<Uuid>) -> Answer {
    Control::new(shared).repair(id)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CorrectionBody {
    correction: Correction,
}

pub(crate) async fn correction(
    State(shared): Handle,
    InPath(id): InPath<Uuid>,
    Body(body): Body<CorrectionBody>,
) -> Answer {
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
pub(crate) struct ConsentBody {
    event: ConsentEvent,
    within_secs: Option<u64>,
}

pub(crate) async fn consent(State(shared): Handle, InPath(id): InPath<Uuid>, Body(body): Body<ConsentBody>) -> Answer {
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

pub(crate) async fn wipe(State(shared): Handle) -> Answer {
    Ok(Json(json!({"links": Control::new(shared).wipe()})))
}

pub(crate) async fn codes() -> Answer {
    Ok(Json(json!(error_codes())))
}

pub(crate) async fn clear_faults(State(shared): Handle) -> Answer {
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
pub(crate) struct WebhookFaultBody {
    kind: WebhookFaultKind,
    count: Option<usize>,
    delay_ms: Option<u64>,
}

pub(crate) async fn webhook_fault(State(shared): Handle, Body(body): Body<WebhookFaultBody>) -> Answer {
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
pub(crate) struct ApiFaultBody {
    kind: String,
    count: Option<usize>,
    #[serde(default)]
    on: String,
    secs: Option<u64>,
}

pub(crate) async fn api_fault(State(shared): Handle, Body(body): Body<ApiFaultBody>) -> Answer {
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
pub(crate) struct TargetBody {
    /// The URL, or null for none; the field is required.
    #[serde(deserialize_with = "Option::deserialize")]
    url: Option<String>,
    authorization: Option<SecretString>,
}

pub(crate) async fn webhook_target(State(shared): Handle, Body(body): Body<TargetBody>) -> Answer {
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
pub(crate) struct ShapeBody {
    shape: PayloadShape,
}

pub(crate) async fn payload_shape(State(shared): Handle, Body(body): Body<ShapeBody>) -> Answer {
    Control::new(shared).set_payload_shape(body.shape);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendBody {
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

pub(crate) async fn send_webhook(State(shared): Handle, Body(body): Body<SendBody>) -> Answer {
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

/// The default `limit` of deliveries.
const DELIVERIES_DEFAULT: usize = 100;
const DELIVERIES_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveriesQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
    limit: Option<usize>,
}

pub(crate) async fn deliveries(State(shared): Handle, Asked(query): Asked<DeliveriesQuery>) -> Answer {
    let control = Control::new(shared);
    if query.wait_ms > 0 {
        let wait = Duration::from_millis(query.wait_ms.min(60_000));
        // A timeout gives an empty list and no error.
        let _in_time = tokio::time::timeout(wait, control.wait_for_delivery(query.after, |_| true)).await;
    }
    let limit = query.limit.unwrap_or(DELIVERIES_DEFAULT).min(DELIVERIES_MAX);
    Ok(Json(json!(control.deliveries_page(query.after, limit))))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReplayBody {
    delay_ms: u64,
}

pub(crate) async fn replay(State(shared): Handle, InPath(seq): InPath<u64>, body: Bytes) -> Answer {
    // A missing body counts as an empty one.
    let body = if body.is_empty() { Ok(ReplayBody::default()) } else { serde_json::from_slice::<ReplayBody>(&body) };
    let body = body.map_err(|wrong| Refusal::bad(wrong.to_string()))?;
    Control::new(shared).replay(seq, Duration::from_millis(body.delay_ms))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdvanceBody {
    secs: Option<u64>,
    until: Option<String>,
}

/// The maximum span of one call.
const ADVANCE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// The span of one step. Scheduled events happen within a step, and other calls wait until the step is done.
const ADVANCE_STEP: Duration = Duration::from_secs(24 * 3_600);

pub(crate) async fn advance(State(shared): Handle, Body(body): Body<AdvanceBody>) -> Answer {
    let control = Control::new(shared);
    let now_ms = control.now_ms();
    let at_ms = match (body.secs, body.until) {
        (Some(secs), None) => now_ms.saturating_add(millis(Duration::from_secs(secs))),
        (None, Some(until)) => moment(&until)?,
        _ => return Err(Refusal::bad("give either secs or until")),
    };
    if at_ms.saturating_sub(now_ms) > millis(ADVANCE_MAX) {
        return Err(Refusal::bad("the time moves forward by a year at most"));
    }
    let mut step_ms = now_ms;
    while step_ms < at_ms {
        step_ms = at_ms.min(step_ms.saturating_add(millis(ADVANCE_STEP)));
        control.advance_to(step_ms);
        tokio::task::yield_now().await;
    }
    Ok(Json(told_time(&control)))
}

pub(crate) async fn time(State(shared): Handle) -> Answer {
    Ok(Json(told_time(&Control::new(shared))))
}

fn told_time(control: &Control) -> Value {
    json!({"now": belvo_time(control.now_ms()), "next_event": control.next_event_at().map(belvo_time)})
}

/// A time in a body.
fn moment(text: &str) -> Result<i64, Refusal> {
    parse_time(text).ok_or_else(|| Refusal::bad(format!("{text} is not an RFC 3339 time")))
}
