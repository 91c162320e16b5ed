//! Belvo's HTTP API, as far as links go: the routes, the rate limit, Basic auth and the faults.
//!
//! As at Belvo, trailing slashes are required and the path has no version. Handlers translate requests; the
//! changes of a link are in [`super::bank`].

mod data;
mod gate;
mod item_filter;
mod items;
mod links;
mod list;
mod request;
mod token;

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use serde_json::{Value, json};

use self::gate::{authenticate, inject_faults, limit_rate};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::{control_index, portal, widget};

/// All routes: Belvo's API with Basic auth; the widget, the portal and the control API without it.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut api = Router::new()
        .route("/api/", get(root))
        .route("/api/institutions/", get(data::institutions))
        .route("/api/links/", get(links::list).post(links::create).patch(links::resume))
        .route("/api/links/{id}/", get(links::detail).patch(links::patch).put(links::put).delete(links::delete))
        .route("/api/links/{id}/refresh/", post(links::refresh))
        .route("/api/consents/", get(data::consents))
        .route("/api/consents/{id}/", get(data::consent));
    for resource in data::READABLE {
        let path = format!("/api/{resource}/");
        let routes = get(move |context, uri, headers, query| data::list(resource, context, uri, headers, query))
            .post(move |context, headers, body| data::retrieve(resource, context, headers, body))
            .patch(move |context, body| data::resume(resource, context, body));
        api = api.route(&path, routes);
    }
    let api = api
        .route_layer(from_fn_with_state(Arc::clone(&shared), authenticate))
        // The token call has its secrets in the body.
        .route("/api/token/", post(token::create))
        .route_layer(from_fn_with_state(Arc::clone(&shared), inject_faults))
        .route_layer(from_fn_with_state(Arc::clone(&shared), limit_rate));
    api.merge(widget::routes())
        .merge(portal::routes())
        .merge(control_index::routes())
        .method_not_allowed_fallback(|method: Method| async move {
            Problem::new(405, "method_not_allowed", &format!("Method \"{method}\" not allowed."))
        })
        .fallback(|| async { Problem::of("not_found") })
        .with_state(shared)
}

/// `GET /api/`: the SDKs call it to check the secrets.
async fn root() -> axum::Json<Value> {
    axum::Json(json!({"name": "Belvo API", "environment": "sandbox"}))
}
