//! The routes of `/v1`: each operation of the table has a handler here, and its token is checked with the scope of the table.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use strum::VariantArray;

use super::auth::Caller;
use super::problem::Problem;
use super::{
    SharedServer, activity, as_of, auth, dead_letters, events, institutions, links, not_found, notices, prompts,
    repair, report, status_now, wrong_method,
};
use crate::contract::{Operation, Scope};

/// The path of all operations with an API token.
pub(super) const PATH: &str = "/v1";

/// The routes below [`PATH`].
pub(super) fn routes(server: &SharedServer) -> Router<SharedServer> {
    let mut router = Router::new();
    for operation in Operation::VARIANTS {
        let Some((scope, mut handler)) = operation.scope().zip(handler(*operation)) else { continue };
        if operation.is_from_store() {
            handler = handler.layer(middleware::from_fn_with_state(Arc::clone(server), as_of::mark));
        }
        let check = middleware::from_fn_with_state(scope, require_scope);
        let path = operation.row().path.trim_start_matches(PATH);
        router = router.route(path, handler.route_layer(check));
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(server), require_token))
}

/// The handler of an operation of `/v1`; the others have no token, and `router` has their routes.
fn handler(operation: Operation) -> Option<MethodRouter<SharedServer>> {
    Some(match operation {
        Operation::ReportApiError => post(report::api_error),
        Operation::ReportWidgetEvent => post(report::widget),
        Operation::StartUpdate => post(repair::update),
        Operation::GiveCommand => post(report::command),
        Operation::ListLinks => get(links::list),
        Operation::GetLink => get(links::show),
        Operation::GetHistory => get(links::history),
        Operation::WatchEvents => get(events::watch),
        Operation::CheckNotice => post(notices::check),
        Operation::ListPrompts => get(prompts::list),
        Operation::ListHeldPrompts => get(prompts::list_held),
        Operation::GetStatus => get(status_now::show),
        Operation::GetSummary => get(links::summary),
        Operation::GetActivity => get(activity::summary),
        Operation::ListInstitutions => get(institutions::list),
        Operation::ListDeadLetters => get(dead_letters::list),
        Operation::GetDeadLetter => get(dead_letters::show),
        Operation::ReplayDeadLetter => post(dead_letters::replay),
        Operation::DropDeadLetter => post(dead_letters::remove),
        Operation::ReceiveWebhook
        | Operation::ReceiveInstitutionStatus
        | Operation::CheckWebhookAddress
        | Operation::CheckInstitutionStatusAddress
        | Operation::GetHealth
        | Operation::GetReadiness
        | Operation::GetInputReadiness => return None,
    })
}

/// Refuses a request without one of the tokens, also for a path that does not exist.
async fn require_token(
    State(server): State<SharedServer>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = auth::check_api(&server.api_tokens, request.headers())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Refuses a request whose token does not have the scope.
async fn require_scope(
    State(scope): State<Scope>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    auth::check_scope(&caller, scope)?;
    Ok(next.run(request).await)
}
