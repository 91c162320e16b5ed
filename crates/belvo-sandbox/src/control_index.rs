//! The control API: one table of its endpoints, from which the routes are made and `GET /sandbox` is answered, as JSON or as a page.
//!
//! The control API has no authentication, so it is for the loopback interface only. Names in bodies are in snake case,
//! times are RFC
//! 3339. The README has the same table, and a test compares them.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;

use crate::control_http as http;
use crate::shared::Shared;

/// One endpoint, as `GET /sandbox` lists it.
#[derive(Serialize)]
struct Endpoint {
    method: &'static str,
    path: &'static str,
    /// The fields of the JSON body or of the query; those with `?` are optional.
    takes: &'static str,
    about: &'static str,
}

type Row = (Endpoint, MethodRouter<Arc<Shared>>);

fn row(
    method: &'static str,
    path: &'static str,
    takes: &'static str,
    about: &'static str,
    route: MethodRouter<Arc<Shared>>,
) -> Row {
    (Endpoint { method, path, takes, about }, route)
}

#[rustfmt::skip]
fn endpoints() -> Vec<Row> {
    vec![
        row("GET", "/sandbox", "", "This list.", get(index)),
        row("GET", "/sandbox/links", "", "All links, the oldest first, as Belvo shows them.", get(http::links)),
        row("POST", "/sandbox/links", "institution, access_mode?, external_id?, refresh_rate?, fetch_resources?, created_at?, consent_ends_at?, silent?", "Makes a valid link and sends its first data webhooks, unless silent. Returns the id as link.", post(http::create)),
        row("POST", "/sandbox/links/{id}/scheduled-refresh", "outcome: ok, login_error, token_required, institution_down", "Refreshes a recurrent link as Belvo's scheduler does, with this outcome and its webhooks. login_error and token_required break the link.", post(http::scheduled_refresh)),
        row("POST", "/sandbox/links/{id}/status", "status: valid, invalid, unconfirmed, token_required", "Sets Belvo's status and sends no webhook.", post(http::status)),
        row("POST", "/sandbox/links/{id}/login", "login: works, token_required, qr_required, or a code of GET /sandbox/codes, with or without the prefix login_error:", "Sets the bank's answer to the next logins.", post(http::login)),
        row("POST", "/sandbox/links/{id}/fresh-data", "fresh: true, false", "Sets whether refreshes find new data; if not, no webhook follows a repair.", post(http::fresh_data)),
        row("GET", "/sandbox/links/{id}/quotas", "", "The monthly limits of a link with a consent: resource, limit, used.", get(http::quotas)),
        row("POST", "/sandbox/links/{id}/repair", "", "Repairs a link as its user does in the widget, or in the portal for a consent.", post(http::repair)),
        row("POST", "/sandbox/links/{id}/corrections", "correction: updated, deleted", "Sends the webhook of transactions that the bank corrected.", post(http::correction)),
        row("POST", "/sandbox/links/{id}/consent", "event: about_to_expire, expire, renew, unrecoverable, temporarily_unavailable; within_secs?", "Changes a consent and sends its webhook.", post(http::consent)),
        row("POST", "/sandbox/wipe", "", "Removes all links without a webhook, as Belvo does on the first of the month. Returns their number.", post(http::wipe)),
        row("POST", "/sandbox/faults/webhooks", "kind: drop, duplicate, delay, reorder, null_external_id, unknown_code, data_errors, short_code; count?, delay_ms?", "The next webhooks are delivered wrongly.", post(http::webhook_fault)),
        row("POST", "/sandbox/faults/api", "kind: rate_limited, timeout, or a code of GET /sandbox/codes; count?, on?, secs?", "The next API calls fail; on is a part of METHOD /path.", post(http::api_fault)),
        row("DELETE", "/sandbox/faults", "", "Removes all faults that have not happened yet.", delete(http::clear_faults)),
        row("GET", "/sandbox/codes", "", "The error codes that the calls above accept.", get(http::codes)),
        row("POST", "/sandbox/webhook", "url, authorization?", "Sets the URL that receives webhooks; if url is null, none are sent.", post(http::webhook_target)),
        row("POST", "/sandbox/payload-shape", "shape: current, mid, oldest", "Sets the generation of webhook bodies.", post(http::payload_shape)),
        row("POST", "/sandbox/webhooks", "link, webhook_type, webhook_code, process_type?, request_id?, data?, delay_ms?", "Sends this webhook.", post(http::send_webhook)),
        row("GET", "/sandbox/deliveries", "after?, limit?, wait_ms?", "The attempts to deliver webhooks, from number after + 1 on; waits up to wait_ms for the first.", get(http::deliveries)),
        row("POST", "/sandbox/deliveries/{seq}/replay", "delay_ms?", "Sends the body of that attempt again.", post(http::replay)),
        row("GET", "/sandbox/time", "", "The sandbox's time, and the time of the next scheduled event.", get(http::time)),
        row("POST", "/sandbox/advance", "secs or until", "Moves the sandbox's time forward; the scheduled events of that time happen.", post(http::advance)),
    ]
}

/// The routes under `/sandbox`.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    endpoints().into_iter().fold(Router::new(), |router, (endpoint, route)| router.route(endpoint.path, route))
}

/// A browser gets a page, and every other client JSON.
async fn index(headers: HeaderMap) -> Response {
    let endpoints: Vec<_> = endpoints().into_iter().map(|(endpoint, _)| endpoint).collect();
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepted.contains("text/html") {
        return Html(page(&endpoints)).into_response();
    }
    Json(json!({"endpoints": endpoints})).into_response()
}

fn page(endpoints: &[Endpoint]) -> String {
    let row = |Endpoint { method, path, takes, about }: &Endpoint| {
        let [takes, about] = [takes, about].map(|text| escaped(text));
        format!("<tr><th scope=\"row\"><code>{method} {path}</code></th><td>{takes}</td><td>{about}</td></tr>\n")
    };
    let rows: String = endpoints.iter().map(row).collect();
    include_str!("control.html").replace("{rows}", &rows)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
