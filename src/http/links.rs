//! `/v1/links` and `/v1/summary`: lists of links, one link, its history, and totals.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Extension, Json};
use strum::VariantArray;

use super::SharedServer;
use super::auth::Caller;
use super::connection::ClientGone;
use super::parameters::{LinkInPath, Query, bad};
use super::problem::{Kind, Problem};
use super::surroundings::SurroundingsReader;
use crate::contract::{
    HistoryOfLink, IncidentBody, IncidentChange, IncidentSummary, LINKS_ON_PAGE, LinksPage, ShownLink, Summary,
};
use crate::link::{LinkId, StateName};
use crate::store::{self, CountsOfInstitution};

/// The most institutions of a summary. Belvo has some hundreds.
const INSTITUTIONS_MAX: usize = 1_000;

pub(super) async fn list(
    State(server): State<SharedServer>,
    Extension(client): Extension<ClientGone>,
    query: Query,
) -> Result<Json<LinksPage>, Problem> {
    query.only(&["state", "institution", "external_id", "limit", "after"])?;
    let query = store::Query {
        state: query.text("state").map(parse_state).transpose()?,
        institution: query.filter("institution")?,
        external_id: query.filter("external_id")?,
        institution_user_id: None,
        after: query.parse("after")?,
        limit: query.limit(LINKS_ON_PAGE)?,
    };
    let read = move |store: &dyn store::Store| {
        let page = store.page(&query)?;
        let reader = SurroundingsReader::new(store)?;
        let links = page.links.into_iter().map(|stored| reader.of(stored)).collect::<Result<Vec<_>, _>>()?;
        Ok((page.ids, links, page.unreadable, page.next))
    };
    let (ids, found, unreadable, next) = server.scan(&client, read).await?;
    // An unreadable record does not fail the page; its id is listed in `unreadable`.
    let mut unreadable: Vec<String> = unreadable.into_iter().map(|entry| entry.key).collect();
    let mut links = Vec::with_capacity(found.len());
    for (id, found) in ids.iter().zip(&found) {
        match found.show(&server) {
            Ok(link) => links.push(link),
            Err(_unreadable) => unreadable.push(id.to_string()),
        }
    }
    Ok(Json(LinksPage { links, unreadable, next: next.map(|id| id.to_string()) }))
}

fn parse_state(text: &str) -> Result<StateName, Problem> {
    let names = || StateName::VARIANTS.iter().map(|state| state.as_str()).collect::<Vec<_>>().join("`, `");
    text.parse().map_err(|_| bad("state", &format!("must be one of `{}`", names())))
}

pub(super) async fn show(
    State(server): State<SharedServer>,
    LinkInPath(id): LinkInPath,
) -> Result<Json<ShownLink>, Problem> {
    let key = id.clone();
    let read = move |store: &dyn store::Store| {
        let Some(stored) = store.get(&key)? else { return Ok(None) };
        SurroundingsReader::new(store)?.of(stored).map(Some)
    };
    match server.read_store(read).await? {
        Some(found) => Ok(Json(found.show(&server)?)),
        None => Err(unknown_link(&id)),
    }
}

pub(super) async fn history(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    LinkInPath(id): LinkInPath,
) -> Result<Json<HistoryOfLink>, Problem> {
    let mut read = server.histories.read(&id).await.map_err(|error| {
        Problem::new(Kind::Unavailable, "The history could not be read from NATS; try again.")
            .retry_after_secs(1)
            .log_detail(error)
    })?;
    if read.entries.is_empty() {
        return Err(unknown_link(&id));
    }
    read.entries.iter_mut().for_each(|entry| caller.hide_repair_links(&mut entry.body));
    Ok(Json(HistoryOfLink { link_id: id.to_string(), entries: read.entries, truncated: read.truncated }))
}

pub(super) async fn summary(State(server): State<SharedServer>) -> Result<Json<Summary>, Problem> {
    let read = |store: &dyn store::Store| {
        Ok((store.count()?, store.count_by_institution(INSTITUTIONS_MAX)?, store.incidents()?))
    };
    let (counts, institutions, incidents) = server.read_store(read).await?;
    let without_zeros = |counts: CountsOfInstitution| {
        let counted = counts.by_state.into_iter().filter(|(_, count)| *count > 0);
        (counts.institution, counted.map(|(state, count)| (state.as_str(), count)).collect())
    };
    let by_state: BTreeMap<_, _> =
        StateName::VARIANTS.iter().map(|state| (state.as_str(), counts.get(state).copied().unwrap_or(0))).collect();
    let incidents = incidents.into_iter().filter(|incident| incident.change == IncidentChange::Began);
    let incidents = incidents.map(|IncidentBody { institution, began_at, links_count, .. }| IncidentSummary {
        institution,
        began_at,
        links_count,
    });
    let drift_by_institution = server.drift.as_ref().map(|drift| drift.borrow().clone());
    Ok(Json(Summary {
        links_count: by_state.values().sum(),
        by_state,
        by_institution: institutions.into_iter().map(without_zeros).collect(),
        incidents: incidents.collect(),
        drift_by_institution,
        observe: server.observe,
    }))
}

fn unknown_link(id: &LinkId) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!(
            "relink does not know the link {id}; it becomes known with the first webhook or API error that changes its state."
        ),
    )
}
