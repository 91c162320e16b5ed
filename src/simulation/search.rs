//! A failure made short: fewer troubles and fewer steps that still break the same kind of rule.

use super::{Failure, Options, simulate};

/// A failure, and the shortest run that was found for it.
#[derive(Clone, Debug)]
pub struct Found {
    /// As it was found.
    pub first: Box<Failure>,
    /// The shortest run, with its last events.
    pub shortest: Box<Failure>,
}

/// Leaves troubles out, then steps, as long as a rule is broken. The same sentence need not come out: a shorter run that fails is worth more.
pub fn shorten(first: Box<Failure>) -> Found {
    let mut shortest = first.clone();
    let fails = |options: &Options| simulate(&Options { trace: true, ..options.clone() }).err();
    let mut kept = first.troubles.clone();
    for trouble in first.troubles.clone() {
        let fewer: Vec<_> = kept.iter().copied().filter(|other| *other != trouble).collect();
        let options = Options { troubles: Some(fewer.clone()), ..shortest.options.clone() };
        if let Some(failure) = fails(&options) {
            (kept, shortest) = (fewer, failure);
        }
    }
    let (mut low, mut high) = (0, shortest.people);
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
