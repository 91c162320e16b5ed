//! `GET /v1/institutions`: the state of each institution.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::SharedServer;
use super::parameters::Query;
use super::problem::Problem;
use crate::contract::{At, IncidentBody, IncidentCause};
use crate::institution;

/// The number of institutions in an answer: the default and the maximum. Belvo has some hundreds.
const INSTITUTIONS: (usize, usize) = (1_000, 10_000);

/// `GET /v1/institutions`
#[derive(Serialize)]
pub(super) struct Institutions {
    institutions: Vec<Institution>,
}

/// An institution that has links, or had an incident.
#[derive(Default, Serialize)]
struct Institution {
    institution: String,
    /// `operational`, `degraded` or `down`.
    state: &'static str,
    /// When the state began; absent if it never changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<At>,
    /// The evidence; absent while it is operational.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<IncidentCause>,
    /// The number of its links.
    links_count: u64,
    /// Its links by state, without zeros.
    by_state: BTreeMap<&'static str, u64>,
}

pub(super) async fn list(State(server): State<SharedServer>, query: Query) -> Result<Json<Institutions>, Problem> {
    query.only(&["limit"])?;
    let limit = query.limit(INSTITUTIONS.0, INSTITUTIONS.1)?;
    let read = move |store: &dyn crate::store::Store| Ok((store.count_by_institution(limit)?, store.incidents()?));
    let (counts, latest) = server.read_store(read).await?;
    let mut known = BTreeMap::<String, Institution>::new();
    for counts in counts {
        let by_state: BTreeMap<_, _> = counts
            .by_state
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| (state.as_str(), count))
            .collect();
        let entry = known.entry(counts.institution).or_default();
        (entry.links_count, entry.by_state) = (by_state.values().sum(), by_state);
    }
    for IncidentBody { institution, change, cause, at, .. } in latest {
        let state = change.state();
        let entry = known.entry(institution).or_default();
        entry.state = state.into();
        entry.since = Some(at);
        entry.cause = (state != institution::State::Operational).then_some(cause);
    }
    let named = known.into_iter().take(limit).map(|(name, mut entry)| {
        if entry.state.is_empty() {
            entry.state = institution::State::Operational.into();
        }
        Institution { institution: name, ..entry }
    });
    Ok(Json(Institutions { institutions: named.collect() }))
}
