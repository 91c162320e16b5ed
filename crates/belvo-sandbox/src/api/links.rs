//! `/api/links/…`: register, list, read, resume, repair, refresh, delete (API reference, Links).

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::list::{LinkFilter, Params, page};
use super::request::{Context, object, path_id, receipt, required, resources, text, wants_async};
use crate::bank::NewLink;
use crate::institution::{Access, Institution};
use crate::link::{AccessMode, Link, RefreshRate, Storage, is_stale_in};
use crate::problem::Problem;
use crate::shared::Shared;
use crate::webhook::Webhook;
use crate::world::{Rules, World};

/// `GET /api/links/`.
pub(super) async fn list(
    State(shared): Context,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Result<Response, Problem> {
    let filter = LinkFilter::new(&params)?;
    let world = shared.world();
    let mut links = filter.select(&world.links);
    links.sort_unstable_by_key(|link| std::cmp::Reverse(link.seq));
    page(&links, &params, &uri, &headers, |link| link.to_json())
}

/// `POST /api/links/`: 201, 400, or 428 with an unconfirmed link.
pub(super) async fn create(State(shared): Context, body: Bytes) -> Result<Response, Problem> {
    let body = object(&body)?;
    let new = new_link(&body)?;
    let password = text(&body, "password").unwrap_or_default();
    shared.change(|world, now| {
        let id = world.create(now, new, password, text(&body, "token"))?;
        Ok((StatusCode::CREATED, show(world, id)?).into_response())
    })
}

fn new_link(body: &Map<String, Value>) -> Result<NewLink, Problem> {
    let mut problems = Vec::new();
    let institution = match required(body, "institution") {
        Ok(name) => Institution::find(name).or_else(|| {
            let message = format!("Object with name={name} does not exist.");
            problems.push(Problem::field("institution", "does_not_exist", &message));
            None
        }),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let access = institution.map_or(Access::Password, |institution| institution.access);
    let fields: &[&str] = match access {
        Access::Password | Access::Token => &["username", "password"],
        Access::Username | Access::Consent => &["username"],
    };
    problems.extend(fields.iter().filter_map(|field| required(body, field).err()));
    let access_mode = access_mode(body).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let access_mode = access_mode.unwrap_or(AccessMode::Single);
    let stale_in = stale_in(body).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let storage = text(body, "credentials_storage").map(|word| (word, Storage::parse(word)));
    if let Some((_, None)) = storage {
        problems.push(Problem::field("credentials_storage", "invalid", "Enter a valid value."));
    }
    let refresh_rate = text(body, "refresh_rate").map(|word| (word, word.parse::<RefreshRate>().ok()));
    if let Some((word, None)) = refresh_rate {
        let message = format!("\"{word}\" is not a valid choice.");
        problems.push(Problem::field("refresh_rate", "invalid_choice", &message));
    }
    if let Some(problem) = Problem::all(problems) {
        return Err(problem);
    }
    let institution = institution.ok_or_else(|| Problem::of("not_found"))?;
    let fetch_resources = supported(institution, resources(body)?)?;
    let storage = storage.and_then(|(_, storage)| storage);
    match storage {
        Some(Storage::NoStore | Storage::Days(_)) if access_mode == AccessMode::Recurrent => {
            return Err(Problem::of("invalid_credentials_storage"));
        }
        Some(Storage::NoStore) if fetch_resources.as_ref().is_none_or(Vec::is_empty) => {
            return Err(Problem::of("invalid_fetch_resources"));
        }
        _ => {}
    }
    Ok(NewLink {
        institution,
        access_mode,
        external_id: text(body, "external_id").map(str::to_owned),
        user: text(body, "username").map(str::to_owned),
        institution_user_id: None,
        storage,
        stale_in,
        fetch_resources,
        refresh_rate: refresh_rate.and_then(|(_, rate)| rate),
        created_at: None,
        consent_ends_at: None,
    })
}

fn access_mode(body: &Map<String, Value>) -> Result<Option<AccessMode>, Problem> {
    let Some(word) = text(body, "access_mode") else { return Ok(None) };
    let message = format!("\"{word}\" is not a valid choice.");
    let wrong = || Problem::field("access_mode", "invalid_choice", &message);
    word.parse().map(Some).map_err(|_| wrong())
}

fn stale_in(body: &Map<String, Value>) -> Result<Option<String>, Problem> {
    let Some(days) = text(body, "stale_in") else { return Ok(None) };
    let wrong = || Problem::field("stale_in", "invalid", "Enter a valid value.");
    is_stale_in(days).then(|| Some(days.to_owned())).ok_or_else(wrong)
}

fn supported(institution: &Institution, names: Option<Vec<String>>) -> Result<Option<Vec<String>>, Problem> {
    let known = |name: &String| institution.resources.contains(&name.as_str());
    if names.as_ref().is_some_and(|names| !names.iter().all(known)) {
        let message =
            format!("The institution only supports the following resources: {}", institution.resources.join(", "));
        return Err(Problem::field("resources", "invalid", &message));
    }
    Ok(names)
}

/// `PATCH /api/links/`: the token of a 428.
pub(super) async fn resume(State(shared): Context, body: Bytes) -> Result<Response, Problem> {
    let body = object(&body)?;
    shared.change(|world, now| {
        let id = resume_session(world, now, &body)?;
        show(world, id)
    })
}

/// Resumes the session a body names; shared with the resources, which resume the same way.
pub(super) fn resume_session(world: &mut World, now: i64, body: &Map<String, Value>) -> Result<Uuid, Problem> {
    let session = required(body, "session")?;
    let link = text(body, "link").map(path_id).transpose()?;
    world.resume(now, session, link, text(body, "token"))
}

/// `GET /api/links/{id}/`.
pub(super) async fn detail(State(shared): Context, Path(id): Path<String>) -> Result<Response, Problem> {
    show(&shared.world(), path_id(&id)?)
}

/// `PATCH /api/links/{id}/`: access mode, stale_in, fetch_resources. The change has no immediate effect.
pub(super) async fn patch(State(shared): Context, Path(id): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let (id, body) = (path_id(&id)?, object(&body)?);
    shared.change(|world, now| {
        let link = world.links.get_mut(&id).ok_or_else(|| Problem::of("not_found"))?;
        let before = link.access_mode;
        let names = supported(link.institution, resources(&body)?)?;
        let stale_in = stale_in(&body)?;
        if let Some(mode) = access_mode(&body)? {
            // A scheduled refresh would have no credentials.
            if mode == AccessMode::Recurrent && !link.has_credentials(now) {
                return Err(Problem::of("invalid_access_mode_switch"));
            }
            link.access_mode = mode;
            let rate = link.refresh_rate.unwrap_or_default();
            link.refresh_rate = (mode == AccessMode::Recurrent).then_some(rate);
            if mode == AccessMode::Recurrent {
                link.storage = Storage::Store;
            }
        }
        if let Some(stale_in) = stale_in {
            link.stale_in = stale_in;
        }
        if let Some(names) = names {
            link.fetch_resources = names;
        }
        if link.access_mode != before {
            world.plan_for_access_mode(now, id);
        }
        show(world, id)
    })
}

/// `PUT /api/links/{id}/`: new credentials.
pub(super) async fn put(State(shared): Context, Path(id): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let (id, body) = (path_id(&id)?, object(&body)?);
    shared.change(|world, now| {
        let access = world.links.get(&id).map(|link| link.institution.access);
        if matches!(access, Some(Access::Password | Access::Token)) {
            required(&body, "password")?;
        }
        world.update(now, id, text(&body, "password"), text(&body, "token"))?;
        show(world, id)
    })
}

/// `DELETE /api/links/{id}/`: synchronous, at most five a minute; or asynchronous, with a webhook.
pub(super) async fn delete(
    State(shared): Context,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = path_id(&id)?;
    if wants_async(&headers) {
        return delete_later(&shared, id);
    }
    shared.change(|world, now| {
        while world.deletions.front().is_some_and(|&at| now - at >= Rules::DELETIONS_SPAN_MS) {
            world.deletions.pop_front();
        }
        if world.deletions.len() >= Rules::DELETIONS_MAX {
            let oldest = world.deletions.front().copied().unwrap_or(now);
            let wait_ms = (oldest + Rules::DELETIONS_SPAN_MS - now).max(0);
            return Err(Problem::throttled(u64::try_from(wait_ms / 1_000).unwrap_or(0) + 1));
        }
        forget(world, id)?;
        world.deletions.push_back(now);
        Ok(StatusCode::NO_CONTENT.into_response())
    })
}

fn delete_later(shared: &Shared, id: Uuid) -> Result<Response, Problem> {
    shared.change(|world, now| {
        let link = forget(world, id)?;
        let request_id = world.uuid();
        let due_at = now + world.rules.data_delay_ms;
        world.post(due_at, now, Webhook::link_deleted(&link, request_id));
        Ok(receipt(request_id))
    })
}

/// Removes a link with its session, its consent and its scheduled actions.
fn forget(world: &mut World, id: Uuid) -> Result<Link, Problem> {
    let link = world.links.remove(&id).ok_or_else(|| Problem::of("not_found"))?;
    world.take_back_plans(&link);
    if let Some(session) = &link.session {
        world.sessions.remove(session);
    }
    world.consents.remove(&id);
    Ok(link)
}

/// `POST /api/links/{id}/refresh/`: a receipt; the webhooks carry its request id.
pub(super) async fn refresh(State(shared): Context, Path(id): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let (id, body) = (path_id(&id)?, object(&body)?);
    let names = resources(&body)?;
    shared.change(|world, now| world.refresh(now, id, names)).map(receipt)
}

fn show(world: &World, id: Uuid) -> Result<Response, Problem> {
    let link = world.links.get(&id).ok_or_else(|| Problem::of("not_found"))?;
    Ok(axum::Json(link.to_json()).into_response())
}
