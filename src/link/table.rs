//! The legal moves as data.
//!
//! [`MOVES`] lists every pair of state and event that the machine accepts, with every state it can lead to; what is not listed is
//! refused. Drawings are made from it (`relink machine`), and a test walks the machine itself to hold the two together.

use super::{EventName, StateName};

/// One row: from a state, on an event, to one of these states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The state before.
    pub from: StateName,
    /// What happens.
    pub on: EventName,
    /// The states it can lead to, in the order of [`StateName::ALL`]. The state before may be among them.
    pub to: &'static [StateName],
}

/// Every legal move.
pub const MOVES: &[Move] = &[];
