//! Which fleet is simulated.

/// Which fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOptions {
    /// How many links.
    pub links: usize,
    /// For how many days.
    pub days: u32,
    /// Where all chance comes from.
    pub seed: u64,
    /// A link whose full history is reported.
    pub story: Option<String>,
}
