//! `GET /v1/status`: how fresh relink's view is, and what waits. `/metrics` has the same numbers for monitoring.

use axum::Json;
use axum::extract::State;

use super::{Server, SharedServer, health};
use crate::belvo::{self, BudgetLeft};
use crate::clock;
use crate::contract::{At, BelvoStatus, PartitionStatus, Status};
use crate::nats::lag::PartitionLag;

pub(super) async fn show(State(server): State<SharedServer>) -> Json<Status> {
    let partition = |(partition, lag): (usize, &PartitionLag)| PartitionStatus {
        partition: partition as u64,
        waiting: lag.waiting,
        oldest_at: lag.oldest_at.map(At),
    };
    let lag = server.lag.borrow().clone();
    Json(Status {
        at: At(clock::now()),
        sweeps: server.steps_ended.as_ref().map(|ended| ended.borrow().values().cloned().collect()),
        belvo: belvo_status(&server),
        journal: health::waiting(&server),
        partitions: lag.partitions.iter().enumerate().map(partition).collect(),
        partitions_read_at: lag.read_at.map(At),
    })
}

fn belvo_status(server: &Server) -> Option<BelvoStatus> {
    let belvo: &belvo::Client = server.belvo.as_ref()?;
    let BudgetLeft { requests_max, requests_left, span, paused_for } = belvo.budget_left();
    Some(BelvoStatus {
        requests_max: requests_max as u64,
        requests_left: requests_left as u64,
        window_secs: span.as_secs(),
        paused_secs: paused_for.map(|pause| pause.as_secs().max(1)),
        keys_refused: belvo.are_keys_refused(),
    })
}
