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
use crate::contract::{
    HistoryOfLink, IncidentBody, IncidentChange, IncidentSummary, LINKS_ON_PAGE, LinksPage, Record, ShownLink, Summary,
    Surroundings,
};
use crate::link::{Link, LinkId, StateName, Timestamp};
use crate::store::{self, CountsOfInstitution, StoreError, StoredLink, links_of_same_person};

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
    let page = server.scan(&client, move |store| store.page(&query)).await?;
    // An unreadable record does not fail the page; its id is listed in `unreadable`.
    let mut unreadable: Vec<String> = page.unreadable.into_iter().map(|entry| entry.key).collect();
    let mut links = Vec::with_capacity(page.links.len());
    for (id, stored) in page.ids.iter().zip(&page.links) {
        match public(stored) {
            Ok(record) => links.push(record),
            Err(_unreadable) => unreadable.push(id.to_string()),
        }
    }
    Ok(Json(LinksPage { links, unreadable, next: page.next.map(|id| id.to_string()) }))
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
        let surroundings = stored.readable_link()?.map(|link| surroundings_of(store, &link)).transpose()?;
        Ok(Some((stored, surroundings.unwrap_or_default())))
    };
    match server.read_store(read).await? {
        Some((stored, surroundings)) => Ok(Json(ShownLink::of(public(&stored)?, &surroundings, &server.policy))),
        None => Err(unknown_link(&id)),
    }
}

fn surroundings_of(store: &dyn store::Store, link: &Link) -> Result<Surroundings, StoreError> {
    let others = links_of_same_person(store, link, |_| false)?;
    Ok(Surroundings { others, down_since: bank_down_since(store, link)? })
}

/// Since when the institution of a link is down.
pub(super) fn bank_down_since(store: &dyn store::Store, link: &Link) -> Result<Option<Timestamp>, StoreError> {
    let Some(institution) = &link.profile.institution else { return Ok(None) };
    let is_down =
        |incident: &IncidentBody| incident.change == IncidentChange::Began && incident.institution == *institution;
    Ok(store.incidents()?.into_iter().find(is_down).map(|incident| incident.began_at.0))
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

/// The record without `recent`, which only relink uses.
pub(super) fn public(stored: &StoredLink) -> Result<Record, Problem> {
    let mut record = stored.parse().map_err(Problem::internal)?;
    record.recent.0.clear();
    Ok(record)
}

fn unknown_link(id: &LinkId) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!(
            "relink does not know the link {id}; it becomes known with the first webhook or API error that changes its state."
        ),
    )
}
