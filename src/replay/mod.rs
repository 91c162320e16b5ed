//! The shadow replay: another policy, or this version's code, over what relink has recorded. Nothing is published and nothing is stored.
//!
//! The recording is the state of each link at the start (`KV_links`) and the inputs behind it (`BELVO`). The shipped engine decides about
//! them once more, over a store in memory, in the order of their times; the timers run at the deadlines of the new policy. The result is
//! compared with the messages that relink published ([`Comparison`]).
//!
//! **What a replay cannot know.** It repeats the inputs that came, and the world would have answered other messages with other inputs:
//!
//! - the answers of Belvo to questions that only the new policy asks; such a question stays unanswered, as if Belvo were away;
//! - what a user would have done after a prompt that was never sent, or did because of one that would not be sent;
//! - pauses of the service: a timer runs at its deadline, although relink may have been stopped then.
//!
//! - `recorded`: the states and messages of the recording; `read` reads them from NATS
//! - `machine`: the replay itself; `compare`: the differences

mod compare;
mod machine;
mod read;
mod recorded;

pub use compare::{Comparison, Difference, KindCount};
pub use machine::{Replay, ReplayError, Replayed};
pub use read::{ReadError, run};
pub use recorded::{Recorded, Sent, SentKind, Start};

use std::time::Duration;

use crate::link::Timestamp;

/// The span of the recording that is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start: the links have the state that they had here.
    pub from: Timestamp,
    /// Its end. Messages at this time or later are not compared.
    pub to: Timestamp,
    /// Two messages within this time of each other count as the same: a real timer runs a moment after its deadline.
    pub tolerance: Duration,
}
