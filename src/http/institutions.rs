//! `GET /v1/institutions`: the state of each institution.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::SharedServer;
use super::parameters::Query;
use super::problem::Problem;
use crate::contract::{INSTITUTIONS_ON_PAGE, IncidentBody, InstitutionSummary, InstitutionsList};
use crate::institution;

pub(super) async fn list(State(server): State<SharedServer>, query: Query) -> Result<Json<InstitutionsList>, Problem> {
    query.only(&["limit"])?;
    let limit = query.limit(INSTITUTIONS_ON_PAGE)?;
    let read = move |store: &dyn crate::store::Store| Ok((store.count_by_institution(limit)?, store.incidents()?));
    let (counts, latest) = server.read_store(read).await?;
    let mut known = BTreeMap::<String, InstitutionSummary>::new();
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
        InstitutionSummary { institution: name, ..entry }
    });
    Ok(Json(InstitutionsList { institutions: named.collect() }))
}
