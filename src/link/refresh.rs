//! The historical refresh after a repair: which resources have arrived, when relink asks Belvo for the missing ones,
//! and when it gives up.

use super::builder::{Next, TransitionBuilder};
use super::{Data, Effect, Gap, Job, Month, Notice, Refresh, RefreshQuota, Refusal, State};

impl TransitionBuilder<'_> {
    pub(super) fn count_arrival(&mut self, data: &Data) {
        let Some(refresh) = &mut self.link.refresh else { return };
        refresh.arrived = with_arrival(std::mem::take(&mut refresh.arrived), data);
        // If it is not known which resources Belvo fetches, the first arrival completes the refresh.
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
            self.emit(Notice::Refreshed { gap, arrived, missing }, None);
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

    /// The refresh is not complete in time. Asks Belvo for the missing resources, as long as the policy allows it; then
    /// reports which resources arrived, or that the link is stale.
    pub(super) fn pass_refresh_deadline(&mut self) {
        let Some(refresh) = &self.link.refresh else { return };
        let (asked, since) = (refresh.asked, refresh.gap_from);
        let nothing_came = refresh.arrived.is_empty();
        // If some resources arrived, the others most likely have nothing new; a link with a consent keeps its quota.
        let is_worth_it = nothing_came || self.link.profile.consent.is_none();
        let settings = self.policy.settings();
        let has_no_share = self.link.profile.consent.is_some() && settings.consent_refreshes_max == 0;
        let never_asks = has_no_share || self.link.refresh_needs_token;
        let has_rounds = refresh.rounds_count < settings.refresh_attempts_max && !never_asks;
        if has_rounds && is_worth_it && self.policy.can_verify() {
            let missing = if nothing_came { Vec::new() } else { self.missing_resources() };
            self.request_refresh(missing);
        } else if nothing_came {
            self.link.refresh = None;
            // Belvo's own refresh sends nothing if it finds nothing new, so its absence is not reported. A refresh that
            // relink asked for is always answered.
            if asked {
                self.emit(Notice::Stale { since }, None);
            }
        } else {
            self.close_refresh();
        }
    }

    /// Asks Belvo for a refresh of these resources, or of all if the list is empty. If the monthly quota is used up,
    /// the request is postponed to the next month.
    pub(super) fn request_refresh(&mut self, resources: Vec<String>) {
        let month = Month::of(self.now);
        let settings = self.policy.settings();
        let has_quota = self.link.profile.consent.is_some();
        let refresh_quota = &mut self.link.refresh_quota;
        if has_quota && refresh_quota.month != month {
            *refresh_quota = RefreshQuota { month, count: 0, ..*refresh_quota };
        }
        let own_limit = (has_quota && refresh_quota.count >= settings.consent_refreshes_max).then(|| month.end());
        let belvos_limit = refresh_quota.refused_until.filter(|&until| self.now < until);
        let Some(refresh) = &mut self.link.refresh else { return };
        if let Some(until) = own_limit.max(belvos_limit) {
            refresh.until = until;
            return;
        }
        refresh_quota.count += u32::from(has_quota);
        refresh.asked = true;
        refresh.rounds_count += 1;
        refresh.until = self.now.after(settings.refresh_wait);
        self.effects.push(Effect::Job(Job::Refresh { resources }));
    }

    /// Belvo reports that the monthly quota is used up. A refresh that it refused for this reason is asked for again in
    /// the next month.
    pub(super) fn note_quota(&mut self, state: State, of_refresh: bool) -> Next {
        let until = Month::of(self.now).end();
        let known = self.link.refresh_quota.refused_until.replace(until) == Some(until);
        match &mut self.link.refresh {
            Some(refresh) if of_refresh && refresh.asked && refresh.until < until => {
                refresh.rounds_count = refresh.rounds_count.saturating_sub(1);
                refresh.until = until;
            }
            Some(_) | None if known => return Err(Refusal::AlreadyKnown),
            Some(_) | None => {}
        }
        Ok(state)
    }
}

/// The sorted list of arrived resources, with the resource of `data` added.
pub(super) fn with_arrival(mut arrived: Vec<String>, data: &Data) -> Vec<String> {
    if let Err(place) = arrived.binary_search(&data.resource) {
        arrived.insert(place, data.resource.clone());
    }
    arrived
}
