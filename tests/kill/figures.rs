//! The figures of a run, for its report.

use std::collections::BTreeMap;

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) inputs: u64,
    pub(crate) accepted: u64,
    pub(crate) decided: u64,
    pub(crate) dead_letters: u64,
    pub(crate) prompts: u64,
    /// Links that became valid because relink has asked Belvo.
    pub(crate) repaired: u64,
    /// Inputs without an outcome because the harness has deleted a stream.
    pub(crate) lost_by_deletion: u64,
    /// Messages that were published again because the harness has deleted `KV_links`.
    pub(crate) published_again: u64,
    /// Repeated records that changed their links, by the outcome of the first copy.
    pub(crate) changes_by_repeats: BTreeMap<String, u64>,
    /// Records of a journal that are in `BELVO` once more.
    pub(crate) records_again: u64,
    /// Records that were lost because the harness has damaged them.
    pub(crate) lost_by_damage: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            inputs,
            accepted,
            decided,
            dead_letters,
            prompts,
            repaired,
            lost_by_deletion,
            published_again,
            changes_by_repeats,
            records_again,
            lost_by_damage,
        } = other;
        self.inputs += inputs;
        self.accepted += accepted;
        self.decided += decided;
        self.dead_letters += dead_letters;
        self.prompts += prompts;
        self.repaired += repaired;
        self.lost_by_deletion += lost_by_deletion;
        self.published_again += published_again;
        for (outcome, count) in changes_by_repeats {
            *self.changes_by_repeats.entry(outcome.clone()).or_default() += count;
        }
        self.records_again += records_again;
        self.lost_by_damage += lost_by_damage;
    }
}
