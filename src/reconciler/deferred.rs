//! Deferred reads: elements that could not be read are skipped, counted, and read again with growing pauses.
//!
//! One link that Belvo cannot return, or one unreadable record, must not block the others. So a step goes on without
//! it, and [`Reconciler::retry`] reads it later. The list is not stored: after a restart the steps reach every link
//! anyway.
//!
//! | `reason` | skipped element |
//! |---|---|
//! | `belvo` | a link, a consent or a page that Belvo did not return |
//! | `shape` | an element of a list that names no link |
//! | `record` | an unreadable record of the store |
//! | `message` | a message that NATS does not accept |
//! | `history` | a history that could not be read from NATS |
//! | `bug` | a link whose comparison panicked |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::{Reconciler, SweepError, Swept};
use crate::belvo::IDS_MAX;
use crate::link::{LinkId, StateName, Timestamp};
use crate::metric;

/// The first pause; doubled after each failure.
const WAIT_MIN: Duration = Duration::from_secs(5 * 60);

/// The longest pause: four reads of the element a day.
const WAIT_MAX: Duration = Duration::from_secs(6 * 3600);

/// How many unreadable records are logged by name; a limit on the log and on memory.
const LOGGED_MAX: usize = 1_000;

/// A link, or the consent of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) link: LinkId,
    pub(super) consent: Option<String>,
}

/// The elements to read again.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    elements: BTreeMap<Element, Wait>,
    /// The unreadable records that have been logged.
    logged: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    tries: u32,
    until: Timestamp,
}

impl Element {
    pub(super) const fn link(link: LinkId) -> Self {
        Self { link, consent: None }
    }
}

impl Deferred {
    /// Notes a failure. Returns whether it is the first of this element.
    fn failed(&mut self, element: Element, now: Timestamp) -> bool {
        let wait = self.elements.entry(element).or_insert(Wait { tries: 0, until: now });
        let doublings = wait.tries.min(16);
        wait.tries = wait.tries.saturating_add(1);
        wait.until = now.after(WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX));
        wait.tries == 1
    }

    fn is_waiting(&self, element: &Element, now: Timestamp) -> bool {
        self.elements.get(element).is_some_and(|wait| wait.until > now)
    }

    /// The elements whose pause is over, the longest overdue first.
    fn due(&self, now: Timestamp, limit: usize) -> Vec<Element> {
        let mut due: Vec<_> = self.elements.iter().filter(|(_, wait)| wait.until <= now).collect();
        due.sort_by_key(|(_, wait)| wait.until);
        due.into_iter().take(limit).map(|(element, _)| element.clone()).collect()
    }
}

impl Reconciler {
    /// Reads the deferred elements whose pause is over.
    ///
    /// # Errors
    /// [`SweepError`]; the elements are deferred again.
    pub async fn retry(&self) -> Result<Swept, SweepError> {
        let _progress = self.progress.lock().await;
        let due = self.deferred().due(self.parts.clock.now(), IDS_MAX);
        if due.is_empty() {
            return Ok(Swept::default());
        }
        let step = async {
            let links = due.iter().filter(|element| element.consent.is_none()).map(|element| element.link.clone());
            let mut swept = self.read_and_compare(links.collect()).await?;
            let consents = due.iter().filter_map(|element| Some((element.link.clone(), element.consent.clone()?)));
            swept.drifted_count += self.read_consents(consents.collect(), &mut swept.skipped_count).await?;
            Ok(swept)
        };
        let result = self.timed("retry", step).await;
        // An element that is still in the list is deferred again: its read failed, the step failed, or its answer was
        // not published.
        let now = self.parts.clock.now();
        let mut deferred = self.deferred();
        for element in due {
            if deferred.elements.get(&element).is_some_and(|wait| wait.until <= now) {
                deferred.failed(element, now);
            }
        }
        result
    }

    pub(super) fn deferred(&self) -> MutexGuard<'_, Deferred> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Skips an element because of `error`, and defers its read.
    pub(super) fn skip(&self, reason: &'static str, element: Element, error: &dyn std::fmt::Display) {
        skipped(reason, 1);
        let link = element.link.clone();
        let is_first = self.deferred().failed(element, self.parts.clock.now());
        self.set_deferred_gauge();
        if is_first {
            tracing::warn!(link.id = %link, reason, %error, "an element was skipped; its read is deferred");
        }
    }

    /// Notes that the element was read.
    pub(super) fn clear_deferral(&self, element: &Element) {
        if self.deferred().elements.remove(element).is_some() {
            self.set_deferred_gauge();
        }
    }

    pub(super) fn is_deferred(&self, link: &LinkId) -> bool {
        self.deferred().is_waiting(&Element::link(link.clone()), self.parts.clock.now())
    }

    /// Skips an unreadable record. Its read is not deferred: only an operator can repair the record.
    pub(super) fn skip_record(&self, name: &str, error: &dyn std::fmt::Display) {
        skipped("record", 1);
        let mut deferred = self.deferred();
        if deferred.logged.len() < LOGGED_MAX && deferred.logged.insert(name.to_owned()) {
            tracing::error!(record = name, %error, "a record of the store cannot be read and is skipped");
        }
    }

    /// Whether sweeps read this link by id: not a removed or an unknown one.
    pub(super) fn is_tracked(state: StateName, is_known: bool) -> bool {
        is_known && state != StateName::Removed
    }

    pub(super) fn set_deferred_gauge(&self) {
        let count = u32::try_from(self.deferred().elements.len()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::READS_DEFERRED.name).set(f64::from(count));
    }
}

/// Adds to `relink_skipped_total`.
pub(super) fn skipped(reason: &'static str, count: usize) {
    metrics::counter!(metric::SKIPPED.name, "reason" => reason).increment(count as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_maximum() {
        let element = Element::link("l".parse().unwrap());
        let (mut deferred, mut now, mut waits) = (Deferred::default(), Timestamp::from_millis(0), Vec::new());
        for _ in 0..20 {
            deferred.failed(element.clone(), now);
            assert!(deferred.is_waiting(&element, now) && deferred.due(now, 9).is_empty());
            let until = deferred.elements[&element].until;
            waits.push(until.since(now).as_secs() / 60);
            now = until;
            assert_eq!(deferred.due(now, 9), std::slice::from_ref(&element));
        }
        assert_eq!(waits[..8], [5, 10, 20, 40, 80, 160, 320, 360]);
        assert_eq!(waits[19], 360);
    }
}
