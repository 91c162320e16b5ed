//! The resources of a link: enough of them to make every error of a login happen, and to have something to list.
//!
//! The numbers are made up from the link's id, the same each time. Next: [`super::super::bank`] for the login.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use super::links::resume_session;
use super::list::{Params, page};
use super::{Context, object, receipt, required, required_id, wants_async};
use crate::sandbox::clock::{belvo_date, belvo_time};
use crate::sandbox::institution::INSTITUTIONS;
use crate::sandbox::link::Link;
use crate::sandbox::problem::Problem;
use crate::sandbox::world::World;

/// The resources that have an endpoint here.
pub(super) const READABLE: [&str; 3] = ["accounts", "owners", "transactions"];

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

/// What belongs to the wanted link, or to all.
fn of_link<'w, T>(all: &'w BTreeMap<Uuid, T>, wanted: Option<&String>) -> Box<dyn Iterator<Item = &'w T> + 'w> {
    match wanted {
        None => Box::new(all.values()),
        Some(text) => Box::new(text.parse().ok().and_then(|id: Uuid| all.get(&id)).into_iter()),
    }
}

/// `GET /api/<resource>/`: what has been collected, which is nothing before the webhook said so.
pub(super) async fn list(
    resource: &'static str,
    State(shared): Context,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Result<Response, Problem> {
    let world = shared.world();
    let items: Vec<Value> = of_link(&world.links, params.get("link"))
        .filter(|link| link.collected.contains(&resource.to_uppercase()))
        .flat_map(|link| items(resource, link))
        .collect();
    page(&items, &params, &uri, &headers, Value::clone)
}

/// `POST /api/<resource>/`: one login at the bank, and the data of it.
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
    let name = resource.to_uppercase();
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
        Ok((StatusCode::CREATED, axum::Json(collect(world, id, resource))).into_response())
    })
}

/// `PATCH /api/<resource>/`: resumes what a 428 interrupted.
pub(super) async fn resume(resource: &'static str, State(shared): Context, body: Bytes) -> Result<Response, Problem> {
    let body = object(&body)?;
    shared.change(|world, now| {
        let id = resume_session(world, now, &body)?;
        Ok(axum::Json(collect(world, id, resource)).into_response())
    })
}

fn collect(world: &mut World, id: Uuid, resource: &str) -> Vec<Value> {
    let Some(link) = world.links.get_mut(&id) else { return Vec::new() };
    link.collected.insert(resource.to_uppercase());
    items(resource, link)
}

/// What the bank has: one owner, two accounts, a dozen transactions on each.
fn items(resource: &str, link: &Link) -> Vec<Value> {
    match resource {
        "accounts" => (0..2).map(|index| account(link, index)).collect(),
        "owners" => vec![json!({
            "id": derived(link, 1, 0),
            "link": link.id,
            "collected_at": belvo_time(link.created_at),
            "display_name": "Carmen Ejemplo",
            "email": "carmen.ejemplo@example.com",
            "phone_number": "+52-000-000-0000",
            "document_id": {"document_type": "NAT_ID", "document_number": "EJEM000000"},
        })],
        _ => (0..2).flat_map(|index| (0..12).map(move |number| transaction(link, index, number))).collect(),
    }
}

fn account(link: &Link, index: u32) -> Value {
    let (category, name) = [("CHECKING_ACCOUNT", "Cuenta corriente"), ("CREDIT_CARD", "Tarjeta")][index as usize % 2];
    let balance = 1_000.0 + f64::from(seed(link) % 9_000) + f64::from(index);
    json!({
        "id": derived(link, 2, index),
        "link": link.id,
        "institution": {"name": link.institution.name, "type": link.institution.kind},
        "collected_at": belvo_time(link.created_at),
        "category": category,
        "name": name,
        "number": format!("{:010}", seed(link) % 1_000_000 + index),
        "currency": if link.institution.country == "BR" { "BRL" } else { "MXN" },
        "balance": {"current": balance, "available": balance},
    })
}

fn transaction(link: &Link, index: u32, number: u32) -> Value {
    const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
    let inflow = number.is_multiple_of(3);
    json!({
        "id": derived(link, 3, index * 100 + number),
        "account": {"id": derived(link, 2, index), "link": link.id},
        "collected_at": belvo_time(link.created_at),
        "value_date": belvo_date(link.created_at - WEEK_MS * i64::from(number)),
        "accounting_date": belvo_time(link.created_at - WEEK_MS * i64::from(number)),
        "amount": 50.0 + f64::from((seed(link) / 7 + number * 131) % 900),
        "currency": if link.institution.country == "BR" { "BRL" } else { "MXN" },
        "description": if inflow { "ABONO NOMINA" } else { "COMPRA" },
        "type": if inflow { "INFLOW" } else { "OUTFLOW" },
        "status": "PROCESSED",
    })
}

/// A number that belongs to the link.
fn seed(link: &Link) -> u32 {
    link.id.as_fields().0
}

/// An id that belongs to the link: the same each time it is asked for.
fn derived(link: &Link, kind: u8, index: u32) -> Uuid {
    let mut bytes = *link.id.as_bytes();
    bytes[10] ^= kind;
    for (byte, part) in bytes[12..].iter_mut().zip(index.to_be_bytes()) {
        *byte ^= part;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
