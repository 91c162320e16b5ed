//! The endpoints of a link's resources: a POST logs in and can fail with every login error; a GET lists the collected
//! data.
//!
//! The items of each list are in [`super::items`]. Next: [`super::super::bank`] for the login.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use uuid::Uuid;

use super::item_filter::ItemFilter;
use super::items::{count, items};
use super::links::resume_session;
use super::list::{Params, page, page_of};
use super::request::{Context, object, path_id, receipt, required, required_id, wants_async};
use crate::institution::INSTITUTIONS;
use crate::problem::Problem;
use crate::world::World;

/// The resources that have an endpoint here, by the path of the endpoint: all values of `fetch_resources` (API
/// reference). A call for a resource that the institution lacks is answered `unsupported_operation`.
pub(super) const READABLE: [&str; 14] = [
    "accounts",
    "bills",
    "employment-records",
    "employments",
    "incomes",
    "investment-transactions",
    "investments",
    "invoices",
    "owners",
    "recurring-expenses",
    "risk-insights",
    "tax-returns",
    "tax-status",
    "transactions",
];

/// The name of a resource in `fetch_resources` and webhooks.
fn name_of(path: &str) -> String {
    path.replace('-', "_").to_uppercase()
}

/// `GET /api/institutions/`.
pub(super) async fn institutions(
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Result<Response, Problem> {
    let all: Vec<_> = INSTITUTIONS
        .iter()
        .filter(|institution| params.get("name").is_none_or(|name| name == institution.name))
        .filter(|institution| params.get("country_code").is_none_or(|code| code == institution.country))
        .filter(|institution| params.get("type").is_none_or(|kind| kind == institution.kind))
        .collect();
    page(&all, &params, &uri, &headers, |institution| institution.to_json())
}

/// `GET /api/consents/{id}/`.
pub(super) async fn consent(State(shared): Context, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let id = path_id(&id)?;
    let world = shared.world();
    let consent = world.consents.values().find(|consent| consent.id == id);
    let consent = consent.ok_or_else(|| Problem::of("not_found"))?;
    Ok(Json(consent.to_json(world.links.get(&consent.link_id))))
}

/// `GET /api/consents/`.
pub(super) async fn consents(
    State(shared): Context,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Result<Response, Problem> {
    let world = shared.world();
    let wanted = params.get("link_id").or_else(|| params.get("link"));
    let all: Vec<_> = of_link(&world.consents, wanted)
        .filter(|consent| params.get("status").is_none_or(|status| status == consent.status))
        .collect();
    page(&all, &params, &uri, &headers, |consent| consent.to_json(world.links.get(&consent.link_id)))
}

/// The entries of the wanted link, or of all links.
fn of_link<'w, T>(all: &'w BTreeMap<Uuid, T>, wanted: Option<&String>) -> Box<dyn Iterator<Item = &'w T> + 'w> {
    match wanted {
        None => Box::new(all.values()),
        Some(text) => Box::new(text.parse().ok().and_then(|id: Uuid| all.get(&id)).into_iter()),
    }
}

/// `GET /api/<resource>/`: the data collected so far; there is none before the first `historical_update`.
pub(super) async fn list(
    resource: &'static str,
    State(shared): Context,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Result<Response, Problem> {
    let world = shared.world();
    let name = name_of(resource);
    let several: Option<Vec<&str>> = params.get("link__in").map(|list| list.split(',').collect());
    let links: Vec<_> = of_link(&world.links, params.get("link"))
        .filter(|link| several.as_ref().is_none_or(|ids| ids.contains(&link.id.to_string().as_str())))
        .filter(|link| link.collected.contains(&name))
        .collect();
    let filter = ItemFilter::new(&params)?;
    if !filter.is_empty() {
        let all = links.iter().flat_map(|link| items(resource, link));
        let matching: Vec<Value> = all.filter(|item| filter.matches(item)).collect();
        return page(&matching, &params, &uri, &headers, Value::clone);
    }
    // Each link has the same number of items, so the links of a page can be computed.
    let each = count(resource);
    page_of(links.len() * each, &params, &uri, &headers, |range| {
        let on_page = links.iter().skip(range.start / each.max(1)).flat_map(|link| items(resource, link));
        on_page.skip(range.start % each.max(1)).take(range.len()).collect()
    })
}

/// `POST /api/<resource>/`: one login at the bank, which returns the data.
pub(super) async fn retrieve(
    resource: &'static str,
    State(shared): Context,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let body = object(&body)?;
    let mut problems = Vec::new();
    let id = required_id(&body, "link").map_err(|problem| problems.push(problem));
    if resource == "transactions" {
        problems.extend(required(&body, "date_from").err());
    }
    if let Some(problem) = Problem::all(problems) {
        return Err(problem);
    }
    let id = id.unwrap_or_default();
    let name = name_of(resource);
    shared.change(|world, now| {
        let Some(link) = world.links.get(&id) else {
            let message = format!("Object with id={id} does not exist.");
            return Err(Problem::field("link", "does_not_exist", &message));
        };
        if !link.institution.resources.contains(&name.as_str()) {
            return Err(Problem::of("unsupported_operation"));
        }
        world.log_in_for(now, id, std::slice::from_ref(&name))?;
        if wants_async(&headers) {
            let request_id = world.uuid();
            world.post_historical(now, id, vec![name], request_id);
            return Ok(receipt(request_id));
        }
        Ok((StatusCode::CREATED, Json(collect(world, id, resource))).into_response())
    })
}

/// `PATCH /api/<resource>/`: resumes a login that a 428 interrupted.
pub(super) async fn resume(resource: &'static str, State(shared): Context, body: Bytes) -> Result<Response, Problem> {
    let body = object(&body)?;
    shared.change(|world, now| {
        let session = world.sessions.get(required(&body, "session")?);
        let link = session.and_then(|session| world.links.get(&session.link));
        if link.is_some_and(|link| !link.institution.resources.contains(&name_of(resource).as_str())) {
            return Err(Problem::of("unsupported_operation"));
        }
        let id = resume_session(world, now, &body)?;
        Ok(Json(collect(world, id, resource)).into_response())
    })
}

fn collect(world: &mut World, id: Uuid, resource: &str) -> Vec<Value> {
    let Some(link) = world.links.get_mut(&id) else { return Vec::new() };
    link.collected.insert(name_of(resource));
    items(resource, link)
}
