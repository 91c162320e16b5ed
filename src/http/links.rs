//! What is known of links: lists, one link, its history, and of all of them the summary.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::SharedDoor;
use super::parameters::{LinkInPath, Query, bad};
use super::problem::{Kind, Problem};
use crate::contract::{At, IncidentBody, IncidentNews, Record};
use crate::link::{LinkId, StateName};
use crate::nats::history::HistoryEntry;
use crate::store::{self, StoredLink};

/// How many links a page has if nobody says, and at most.
const PAGE: (usize, usize) = (100, 1_000);

/// `GET /v1/links`
#[derive(Serialize)]
pub(super) struct Links {
    links: Vec<Record>,
    /// The links among them whose records cannot be read; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<String>,
    /// What to give as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /v1/links/{id}/history`
#[derive(Serialize)]
pub(super) struct History {
    link_id: String,
    entries: Vec<HistoryEntry>,
    truncated: bool,
}

/// `GET /v1/summary`
#[derive(Serialize)]
pub(super) struct Summary {
    links_count: u64,
    by_state: BTreeMap<&'static str, u64>,
    /// The institutions whose links fail together now.
    incidents: Vec<IncidentSummary>,
    /// How many transitions were learnt only by sweeping since the start, by institution; absent where nothing is swept,
    /// which is without Belvo keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    drift_by_institution: Option<BTreeMap<String, u64>>,
}

/// An incident under way. How many prompts it has held is told when it ends.
#[derive(Serialize)]
struct IncidentSummary {
    institution: String,
    began_at: At,
    /// How many links had failed when it began.
    links_count: u64,
}

pub(super) async fn list(State(door): State<SharedDoor>, query: Query) -> Result<Json<Links>, Problem> {
    query.only(&["state", "institution", "limit", "after"])?;
    let state = query.text("state").map(parse_state).transpose()?;
    let institution = query.text("institution").map(str::to_owned);
    let query = store::Query { state, institution, after: query.parse("after")?, limit: query.limit(PAGE.0, PAGE.1)? };
    let page = door.ask_store(move |store| store.page(&query)).await?;
    // One record that cannot be read hides no other; it is named instead.
    let mut unreadable: Vec<String> = page.unreadable.into_iter().map(|entry| entry.key).collect();
    let mut links = Vec::with_capacity(page.links.len());
    for (id, stored) in page.ids.iter().zip(&page.links) {
        match public(stored) {
            Ok(record) => links.push(record),
            Err(_unreadable) => unreadable.push(id.to_string()),
        }
    }
    Ok(Json(Links { links, unreadable, next: page.next.map(|id| id.to_string()) }))
}

fn parse_state(text: &str) -> Result<StateName, Problem> {
    let names = || StateName::ALL.map(StateName::as_str).join("`, `");
    let found = StateName::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| bad("state", &format!("must be one of `{}`", names())))
}

pub(super) async fn show(State(door): State<SharedDoor>, LinkInPath(id): LinkInPath) -> Result<Json<Record>, Problem> {
    let asked = id.clone();
    match door.ask_store(move |store| store.get(&asked)).await? {
        Some(stored) => Ok(Json(public(&stored)?)),
        None => Err(unheard_of(&id)),
    }
}

pub(super) async fn history(
    State(door): State<SharedDoor>,
    LinkInPath(id): LinkInPath,
) -> Result<Json<History>, Problem> {
    let read = door.histories.read(&id).await.map_err(|error| {
        Problem::new(Kind::Unavailable, "NATS did not give the history; try again.").retry_after_secs(1).inside(error)
    })?;
    if read.entries.is_empty() {
        return Err(unheard_of(&id));
    }
    Ok(Json(History { link_id: id.to_string(), entries: read.entries, truncated: read.truncated }))
}

pub(super) async fn summary(State(door): State<SharedDoor>) -> Result<Json<Summary>, Problem> {
    let (counts, incidents) = door.ask_store(|store| Ok((store.count()?, store.incidents()?))).await?;
    let by_state: BTreeMap<_, _> =
        StateName::ALL.into_iter().map(|state| (state.as_str(), counts.get(&state).copied().unwrap_or(0))).collect();
    let incidents = incidents.into_iter().filter(|incident| incident.news == IncidentNews::Began);
    let incidents = incidents.map(|IncidentBody { institution, began_at, links_count, .. }| IncidentSummary {
        institution,
        began_at,
        links_count,
    });
    let drift_by_institution = door.drift.as_ref().map(|drift| drift.borrow().clone());
    Ok(Json(Summary {
        links_count: by_state.values().sum(),
        by_state,
        incidents: incidents.collect(),
        drift_by_institution,
    }))
}

/// A record without what is for relink's own use.
fn public(stored: &StoredLink) -> Result<Record, Problem> {
    let mut record = stored.parse()?;
    record.recent.clear();
    Ok(record)
}

fn unheard_of(id: &LinkId) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!("relink has not heard of the link {id}; its first webhook or error makes it known."),
    )
}
