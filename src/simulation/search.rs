//! Shortens a failing run: fewer faults and fewer publisher turns.

use super::{Failure, Options, simulate};

/// A failure and the shortest failing run found for it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The original failure.
    pub first: Box<Failure>,
    /// The shortest run, with its last events.
    pub shortest: Box<Failure>,
}

/// Removes faults, then publisher turns, while the run still fails. The shorter run may violate another rule than the original.
pub fn shorten(first: Box<Failure>) -> Found {
    let mut shortest = first.clone();
    let fails = |options: &Options| simulate(&Options { trace: true, ..options.clone() }).err();
    let mut kept = first.faults.clone();
    for fault in first.faults.clone() {
        let fewer: Vec<_> = kept.iter().copied().filter(|other| *other != fault).collect();
        let options = Options { faults: Some(fewer.clone()), ..shortest.options.clone() };
        if let Some(failure) = fails(&options) {
            (kept, shortest) = (fewer, failure);
        }
    }
    let (mut low, mut high) = (0, shortest.turns);
    while low < high {
        let middle = low + (high - low) / 2;
        match fails(&Options { steps: Some(middle), ..shortest.options.clone() }) {
            Some(failure) => (shortest, high) = (failure, middle),
            None => low = middle + 1,
        }
    }
    if shortest.events.is_empty()
        && let Some(failure) = fails(&shortest.options)
    {
        shortest = failure;
    }
    Found { first, shortest }
}
