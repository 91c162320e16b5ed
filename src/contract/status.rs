//! The answer of `GET /v1/status`: how fresh relink's view is, and what waits.

use schemars::JsonSchema;
use serde::Serialize;

use super::answers::JournalWaiting;
use super::rfc3339::At;

/// How relink is doing, in numbers. `/readyz` says whether it does its work.
#[derive(Serialize, JsonSchema)]
pub struct Status {
    /// When this answer was made, by the clock of relink's host.
    pub at: At,
    /// The last complete sweep of each kind; absent without Belvo's keys, because then there are no sweeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweeps: Option<Vec<SweepStatus>>,
    /// The budget of calls to Belvo; absent without Belvo's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub belvo: Option<BelvoStatus>,
    /// What waits in the journal for NATS.
    pub journal: JournalWaiting,
    /// The inputs that wait in NATS, by partition of the input stream, in the order of the numbers. Empty until they are read for the first
    /// time.
    pub partitions: Vec<PartitionStatus>,
    /// When the partitions were read: every few seconds while NATS answers. `null` before the first time.
    pub partitions_read_at: Option<At>,
}

/// The last complete sweep of one kind since the start of relink.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SweepStatus {
    /// `survey`: the list of all links; `broken`: Belvo's list of broken links; `known_broken`: the links that relink knows as broken;
    /// `rotate`: the next fifty of all links; `consents`: the list of all consents; `retry`: what could not be read before.
    pub step: &'static str,
    /// When it ended.
    pub ended_at: At,
    /// How long it took, in seconds.
    pub took_secs: f64,
}

/// What is left of the budget of calls to Belvo.
#[derive(Serialize, JsonSchema)]
pub struct BelvoStatus {
    /// The most requests in a window. Sweeps use three quarters of it; the rest is kept for people and for verify requests.
    pub requests_max: u64,
    /// The requests that may be sent now; 0 during a pause.
    pub requests_left: u64,
    /// The length of the window, in seconds.
    pub window_secs: u64,
    /// How long the pause goes on that Belvo asked for, in seconds; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_secs: Option<u64>,
    /// Whether Belvo refuses the API keys, as far as the last answers show.
    pub keys_refused: bool,
}

/// What waits in one partition of the input stream.
#[derive(Serialize, JsonSchema)]
pub struct PartitionStatus {
    /// The number of the partition, from 0.
    pub partition: u64,
    /// The number of messages that are not handled yet.
    pub waiting: u64,
    /// When NATS stored the oldest of them; `null` if none waits.
    pub oldest_at: Option<At>,
}
