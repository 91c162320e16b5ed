//! What could not be looked at: skipped, counted, and asked for again by itself, later and later.
//!
//! One link that Belvo cannot show, or one record that cannot be read, must not hide those behind it. So a step goes on
//! without it, and [`Reconciler::retry`] comes back to it. A restart forgets the list, and nothing is lost with it: the
//! steps come round to every link anyway.
//!
//! | `why` | what was skipped |
//! |---|---|
//! | `belvo` | a link, a consent or a page that Belvo did not show |
//! | `shape` | an element of a list that names no link |
//! | `record` | a record of the store that cannot be read |
//! | `message` | a message that NATS does not take |
//! | `history` | a history that NATS did not give |
//! | `bug` | a link on which relink itself panicked |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::{Reconciler, SweepError, Swept};
use crate::belvo::IDS_MAX;
use crate::link::{LinkId, StateName, Timestamp};
use crate::metric;

/// The first wait; doubled after each failure.
const WAIT_MIN: Duration = Duration::from_secs(5 * 60);

/// The longest wait: a few questions a day.
const WAIT_MAX: Duration = Duration::from_secs(6 * 3600);

/// How many unreadable records are logged by their names.
const TOLD_MAX: usize = 1_000;

/// A link, or the consent of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) link: LinkId,
    pub(super) consent: Option<String>,
}

/// What waits for another try.
#[derive(Debug, Default)]
pub(super) struct PutOff {
    elements: BTreeMap<Element, Wait>,
    /// The unreadable records that have been logged.
    told: BTreeSet<String>,
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

impl PutOff {
    /// Notes a failure; whether it is the first.
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

    /// Those whose wait is over, the longest first.
    fn due(&self, now: Timestamp, limit: usize) -> Vec<Element> {
        let mut due: Vec<_> = self.elements.iter().filter(|(_, wait)| wait.until <= now).collect();
        due.sort_by_key(|(_, wait)| wait.until);
        due.into_iter().take(limit).map(|(element, _)| element.clone()).collect()
    }
}

impl Reconciler {
    /// Asks again for what was put off and has waited for long enough.
    ///
    /// # Errors
    /// [`SweepError`]; what was asked for waits anew.
    pub async fn retry(&self) -> Result<Swept, SweepError> {
        let _progress = self.progress.lock().await;
        let due = self.put_off().due(self.parts.clock.now(), IDS_MAX);
        if due.is_empty() {
            return Ok(Swept::default());
        }
        let step = async {
            let links = due.iter().filter(|element| element.consent.is_none()).map(|element| element.link.clone());
            let mut swept = self.examine(links.collect()).await?;
            let consents = due.iter().filter_map(|element| Some((element.link.clone(), element.consent.clone()?)));
            swept.drifted_count += self.read_consents(consents.collect(), &mut swept.skipped_count).await?;
            Ok(swept)
        };
        let result = self.timed("retry", step).await;
        // Whatever was not settled by its answer waits anew, also if the step broke off or the answer was held back.
        let now = self.parts.clock.now();
        let mut put_off = self.put_off();
        for element in due {
            if put_off.elements.get(&element).is_some_and(|wait| wait.until <= now) {
                put_off.failed(element, now);
            }
        }
        result
    }

    pub(super) fn put_off(&self) -> MutexGuard<'_, PutOff> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Skips an element because of `error`, to be asked for again later.
    pub(super) fn skip(&self, why: &'static str, element: Element, error: &dyn std::fmt::Display) {
        skipped(why, 1);
        let link = element.link.clone();
        let is_first = self.put_off().failed(element, self.parts.clock.now());
        self.show_put_off();
        if is_first {
            tracing::warn!(link.id = %link, why, %error, "skipped for now, and asked for again later");
        }
    }

    /// The element has been looked at.
    pub(super) fn looked_at(&self, element: &Element) {
        if self.put_off().elements.remove(element).is_some() {
            self.show_put_off();
        }
    }

    pub(super) fn is_put_off(&self, link: &LinkId) -> bool {
        self.put_off().is_waiting(&Element::link(link.clone()), self.parts.clock.now())
    }

    /// Skips a record that cannot be read. It is not asked for again by itself: only a person can mend it.
    pub(super) fn skip_record(&self, name: &str, error: &dyn std::fmt::Display) {
        skipped("record", 1);
        let mut put_off = self.put_off();
        if put_off.told.len() < TOLD_MAX && put_off.told.insert(name.to_owned()) {
            tracing::error!(record = name, %error, "a record of the store cannot be read and is passed over");
        }
    }

    /// Links that are gone, or that relink has never heard of, are not asked for.
    pub(super) fn is_of_interest(state: StateName, is_known: bool) -> bool {
        is_known && state != StateName::Removed
    }

    fn show_put_off(&self) {
        let count = u32::try_from(self.put_off().elements.len()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::READS_DEFERRED.name).set(f64::from(count));
    }
}

/// Counts what was skipped.
pub(super) fn skipped(why: &'static str, count: usize) {
    metrics::counter!(metric::SKIPPED.name, "why" => why).increment(count as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_ceiling() {
        let element = Element::link("l".parse().unwrap());
        let (mut put_off, mut now, mut waits) = (PutOff::default(), Timestamp::from_millis(0), Vec::new());
        for _ in 0..20 {
            put_off.failed(element.clone(), now);
            assert!(put_off.is_waiting(&element, now) && put_off.due(now, 9).is_empty());
            let until = put_off.elements[&element].until;
            waits.push(until.since(now).as_secs() / 60);
            now = until;
            assert_eq!(put_off.due(now, 9), std::slice::from_ref(&element));
        }
        assert_eq!(waits[..8], [5, 10, 20, 40, 80, 160, 320, 360]);
        assert_eq!(waits[19], 360);
    }
}
