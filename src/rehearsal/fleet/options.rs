//! The options of a fleet.

/// The options of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetOptions {
    /// The number of links.
    pub links: usize,
    /// The number of days.
    pub days: u32,
    /// The seed of all randomness.
    pub seed: u64,
    /// Whether users get no messages from 22:00 to 08:00 of the time of their bank's country.
    pub quiet_hours: bool,
    /// A link whose full history is part of the report.
    pub link_log: Option<String>,
    /// A bug in front of relink's code, to test the checker.
    pub bug: Option<InjectedBug>,
}

/// A bug that the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedBug {
    /// The repair page mints a widget token when somebody opens it, and not when its button is pressed.
    PageMintsWhenOpened,
}
