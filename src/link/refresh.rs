//! The historical refresh that follows a repair: what has come, what is asked for again, and when it is given up.

use super::draft::{Draft, Next};
use super::{Data, DataKind, Effect, Gap, Job, Notice, Refresh, Refusal, State};

impl Draft<'_> {
    pub(super) fn count_arrival(&mut self, data: &Data) {
        let Some(refresh) = self.link.refresh.as_mut().filter(|_| counts_as_arrival(data)) else { return };
        refresh.arrived = with_arrival(std::mem::take(&mut refresh.arrived), data);
        // Where the fetched resources are not known, the first to come is all there is to go by.
        if self.missing_resources().is_empty() {
            self.close_refresh();
        }
    }

    pub(super) fn missing_resources(&self) -> Vec<String> {
        let arrived = self.link.refresh.as_ref().map_or(&[][..], |refresh| &refresh.arrived);
        let fetched = self.link.profile.fetch_resources.iter();
        fetched.filter(|resource| !arrived.contains(resource)).cloned().collect()
    }

    pub(super) fn close_refresh(&mut self) {
        let missing = self.missing_resources();
        if let Some(Refresh { gap_from, gap_to, arrived, .. }) = self.link.refresh.take() {
            let gap = Gap { from: gap_from, to: gap_to };
            self.tell(Notice::Refreshed { gap, arrived, missing }, None);
        }
    }

    pub(super) fn note_refresh_accepted(&mut self, state: State) -> Next {
        let until = self.now.after(self.policy.settings().refresh_wait);
        match &mut self.link.refresh {
            Some(refresh) if refresh.until < until => {
                refresh.asked = true;
                refresh.until = until;
                Ok(state)
            }
            Some(_) | None => Err(Refusal::AlreadyKnown),
        }
    }

    /// The refresh did not come in time: ask for it, once; after that report what came, or that nothing did.
    pub(super) fn pass_refresh_deadline(&mut self) {
        let can_verify = self.policy.can_verify();
        let until = self.now.after(self.policy.settings().refresh_wait);
        let Some(refresh) = &mut self.link.refresh else { return };
        if !refresh.arrived.is_empty() {
            self.close_refresh();
        } else if !refresh.asked && can_verify {
            refresh.asked = true;
            refresh.until = until;
            self.effects.push(Effect::Job(Job::Refresh));
        } else {
            // Nothing after a repair is legal if Belvo found nothing new, so only a refresh we asked for is missed.
            let missed = refresh.asked;
            let since = refresh.gap_from;
            self.link.refresh = None;
            if missed {
                self.tell(Notice::Silent { since }, None);
            }
        }
    }
}

/// Whether data is part of a history that was missed. A correction is not.
pub(super) const fn counts_as_arrival(data: &Data) -> bool {
    match data.kind {
        DataKind::Historical | DataKind::New => true,
        DataKind::Changed => false,
    }
}

/// The arrivals, sorted, with one more.
pub(super) fn with_arrival(mut arrived: Vec<String>, data: &Data) -> Vec<String> {
    if let Err(place) = arrived.binary_search(&data.resource) {
        arrived.insert(place, data.resource.clone());
    }
    arrived
}
