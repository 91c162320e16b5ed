//! What mail scanners did, and what followed.

use std::collections::{BTreeMap, BTreeSet};

/// What scanners did, and what followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Scans {
    pub(super) looks: u64,
    /// The links whose pages were opened.
    pub(super) links: BTreeSet<usize>,
    /// The tokens that Belvo minted, and the inputs and messages of relink, because of a look.
    pub(super) tokens_minted: u64,
    pub(super) effects: u64,
    /// How often each view was shown, to scanners and people, and how many of them were wrong.
    pub(super) views: BTreeMap<String, u64>,
    pub(super) wrong_pages: u64,
}
