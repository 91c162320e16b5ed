//! The machine of an institution: its state, and the table of its transitions.

use strum::{IntoStaticStr, VariantArray};

use super::evidence::{Cause, Evidence, Known, Level, Settings};
use crate::link::Timestamp;

/// The state of an institution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// Nothing shows a problem.
    #[default]
    Operational,
    /// Something does not work. Prompts are sent.
    Degraded,
    /// The institution cannot be used. Prompts wait.
    Down,
}

/// The state that follows, by what the evidence shows now.
pub const fn next(state: State, level: Level) -> State {
    match (state, level) {
        (State::Operational, Level::Calm) => State::Operational,
        (State::Operational, Level::Trouble) => State::Degraded,
        (State::Operational, Level::Outage) => State::Down,
        (State::Degraded, Level::Calm) => State::Operational,
        (State::Degraded, Level::Trouble) => State::Degraded,
        (State::Degraded, Level::Outage) => State::Down,
        // An outage has an end of its own. If trouble goes on, the institution is degraded by the next step.
        (State::Down, Level::Calm | Level::Trouble) => State::Operational,
        (State::Down, Level::Outage) => State::Down,
    }
}

/// The level that led to a state.
const fn level_of(state: State) -> Level {
    match state {
        State::Operational => Level::Calm,
        State::Degraded => Level::Trouble,
        State::Down => Level::Outage,
    }
}

/// A change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// The evidence. If the institution is operational again: the evidence of the state that has ended.
    pub cause: Cause,
    /// How many links had an outage error within the window.
    pub error_links: usize,
}

/// One institution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Institution {
    state: State,
    /// The evidence that led to the state. `None` while it is operational.
    cause: Option<Cause>,
    known: Known,
    /// A state from before a restart began then, and its evidence is not restored yet.
    to_restore: Option<Timestamp>,
}

impl Institution {
    /// An institution with the state that it had before a restart. Its evidence counts from the first call on.
    pub fn restored(state: State, cause: Cause, since: Timestamp) -> Self {
        let cause = (state != State::Operational).then_some(cause);
        Self { state, cause, known: Known::default(), to_restore: cause.map(|_| since) }
    }

    /// The state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The evidence that led to the state; `None` while the institution is operational.
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Takes evidence that is of `at` and is read at `now`.
    pub fn observe(
        &mut self,
        evidence: Evidence<'_>,
        at: Timestamp,
        now: Timestamp,
        settings: &Settings,
    ) -> Vec<Change> {
        self.restore(now, settings);
        self.known.expire(now, settings);
        self.known.take(evidence, at, now, settings);
        self.step(settings)
    }

    /// Forgets evidence that is too old at `now`.
    pub fn pass_time(&mut self, now: Timestamp, settings: &Settings) -> Vec<Change> {
        self.restore(now, settings);
        self.known.expire(now, settings);
        self.step(settings)
    }

    /// Corrects times that lie after `now`, the latest time that it may be: a clock had been ahead.
    pub fn correct_times(&mut self, now: Timestamp, settings: &Settings) {
        self.to_restore = self.to_restore.map(|since| since.min(now));
        self.known.correct_times(now, settings);
    }

    /// When the state may change without new evidence. `None` if it cannot.
    pub fn deadline(&self, settings: &Settings) -> Option<Timestamp> {
        if self.state == State::Operational { None } else { self.known.next_expiry(settings) }
    }

    /// Whether nothing is known of the institution.
    pub fn is_forgotten(&self) -> bool {
        *self == Self::default()
    }

    fn restore(&mut self, now: Timestamp, settings: &Settings) {
        let Some((since, cause)) = self.to_restore.take().zip(self.cause) else { return };
        self.known.restore(level_of(self.state), cause, since, now, settings);
    }

    /// At most two changes: a state ends, and another begins.
    fn step(&mut self, settings: &Settings) -> Vec<Change> {
        let mut changes = Vec::new();
        loop {
            let from = self.state;
            let (level, cause) = self.known.level(settings);
            // A state that the status page has withdrawn ends, even if other evidence begins the same state anew: after a restart only the
            // cause of a state is known, and it must not be a report that no longer holds.
            let is_withdrawn = self.cause == Some(Cause::StatusPage) && self.known.page_level() < level_of(from);
            let to = if is_withdrawn { State::Operational } else { next(from, level) };
            if to == from {
                return changes;
            }
            let error_links = self.known.error_links();
            let before = self.cause.unwrap_or(cause);
            let cause = if to == State::Operational { before } else { cause };
            self.state = to;
            self.cause = (to != State::Operational).then_some(cause);
            changes.push(Change { from, to, cause, error_links });
        }
    }
}
