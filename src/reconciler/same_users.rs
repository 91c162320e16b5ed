//! Lists the newer links of the users who get a message soon: who has connected the bank anew must not be reminded of the old link.
//!
//! Belvo reports a new link by webhooks only. If all of them are lost, the survey finds the link, once a day, and a user may be reminded
//! before that. So each sweep asks Belvo for the links of those users whose prompt or reminder is due before the next sweep: by the keys by
//! which the machine recognises a successor, and many users in one request. If no message is due, there is no request.

use std::collections::BTreeSet;

use super::by_id::is_about_keys;
use super::compare::Known;
use super::{Reconciler, SweepError, Swept};
use crate::belvo::{CallError, LinkFilter, USER_KEYS_BYTES_MAX, USER_KEYS_MAX, UserKey};
use crate::link::{Link, LinkId, Supersede};

/// How many links with a deadline before the next sweep are considered. More come only after a long stop of relink.
const DUE_MAX: usize = 5_000;

/// The jitter of a sweep and the time of its steps, as a part of its interval.
const HORIZON: f64 = 1.25;

impl Reconciler {
    /// Lists all links of the users who get a message before the next sweep.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep_same_users(&self) -> Result<Swept, SweepError> {
        let mut progress = self.progress.lock().await;
        let step = async {
            let mut swept = Swept::default();
            for filter in filters(self.keys_of_users().await?) {
                let Swept { read_count, drifted_count, adopted_count, skipped_count, .. } =
                    self.list(&filter, &mut progress).await?;
                swept.read_count += read_count;
                swept.drifted_count += drifted_count;
                swept.adopted_count += adopted_count;
                swept.skipped_count += skipped_count;
            }
            Ok(swept)
        };
        self.timed("same_users", step).await
    }

    /// The same. If Belvo refuses the filter, only the survey finds newer links, and the sweep goes on.
    pub(super) async fn sweep_same_users_if_possible(&self) -> Result<Swept, SweepError> {
        match self.sweep_same_users().await {
            Err(SweepError::Belvo(error))
                if !is_about_keys(&error) && !matches!(error, CallError::Transient { .. }) =>
            {
                tracing::warn!(%error, "Belvo does not list links by their users; a link that a user connects anew may be found a day later");
                Ok(Swept::default())
            }
            swept => swept,
        }
    }

    /// The keys of the users who get a message about a broken link before the next sweep.
    async fn keys_of_users(&self) -> Result<BTreeSet<(UserKey, String)>, SweepError> {
        let supersede = self.parts.policy.settings().supersede;
        if supersede == Supersede::Never {
            return Ok(BTreeSet::new());
        }
        let until = self.parts.clock.now().after(self.settings.sweep_every.mul_f64(HORIZON));
        let due: Vec<LinkId> = self.read_store(move |store| store.due(until, DUE_MAX)).await?;
        let known = self.known(due).await?;
        let asked = known.iter().flatten().map(Known::link).filter(|link| link.awaits_user().is_some());
        Ok(asked.filter_map(|link| key_of(link, supersede)).collect())
    }
}

/// The key by which a newer link of the same user is listed.
fn key_of(link: &Link, supersede: Supersede) -> Option<(UserKey, String)> {
    let known = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let user = known(&link.profile.institution_user_id).map(|key| (UserKey::InstitutionUserId, key));
    let external = || known(&link.profile.external_id).map(|id| (UserKey::ExternalId, id));
    let key = user.or_else(|| external().filter(|_| supersede == Supersede::ExternalId))?;
    // A comma separates the values of a filter, and Belvo has no escape for it. Such a link is found by the survey.
    Some(key).filter(|(_, value)| !value.contains(',') && value.len() <= USER_KEYS_BYTES_MAX)
}

/// As few filters as the length of a request allows.
fn filters(keys: BTreeSet<(UserKey, String)>) -> Vec<LinkFilter> {
    let mut filters: Vec<(UserKey, Vec<String>)> = Vec::new();
    for (key, value) in keys {
        let has_room = |values: &[String]| {
            let bytes: usize = values.iter().map(String::len).sum();
            values.len() < USER_KEYS_MAX && bytes + value.len() <= USER_KEYS_BYTES_MAX
        };
        match filters.last_mut() {
            Some((last, values)) if *last == key && has_room(values) => values.push(value),
            _ => filters.push((key, vec![value])),
        }
    }
    filters.into_iter().map(|(key, values)| LinkFilter::Users { key, values }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Profile, Timestamp};

    fn link(user: Option<&str>, external_id: Option<&str>) -> Link {
        let profile = Profile {
            institution_user_id: user.map(str::to_owned),
            external_id: external_id.map(str::to_owned),
            ..Profile::default()
        };
        Link { profile, ..Link::unknown("link".parse().unwrap(), Timestamp::default()) }
    }

    #[test]
    fn the_key_is_the_one_by_which_the_machine_recognises_a_successor() {
        let user = |key: &str| Some((UserKey::InstitutionUserId, key.to_owned()));
        for (user_key, external_id, supersede, expected) in [
            (Some("u"), Some("e"), Supersede::InstitutionUserId, user("u")),
            (Some("u"), Some("e"), Supersede::ExternalId, user("u")),
            (None, Some("e"), Supersede::InstitutionUserId, None),
            (None, Some("e"), Supersede::ExternalId, Some((UserKey::ExternalId, "e".to_owned()))),
            (Some(" "), None, Supersede::ExternalId, None),
            (Some("a,b"), None, Supersede::InstitutionUserId, None),
        ] {
            assert_eq!(key_of(&link(user_key, external_id), supersede), expected, "{user_key:?} {external_id:?}");
        }
    }

    #[test]
    fn every_user_is_in_one_filter_and_no_filter_is_too_long() {
        let mut keys: BTreeSet<_> = (0..120).map(|n| (UserKey::ExternalId, format!("{n}"))).collect();
        keys.extend(
            (0..5).map(|n| (UserKey::InstitutionUserId, format!("{n}{}", "x".repeat(USER_KEYS_BYTES_MAX / 2 - 1)))),
        );
        let filters = filters(keys.clone());
        let mut listed = Vec::new();
        for filter in &filters {
            let LinkFilter::Users { key, values } = filter else { panic!("{filter:?}") };
            assert!(
                values.len() <= USER_KEYS_MAX && values.iter().map(String::len).sum::<usize>() <= USER_KEYS_BYTES_MAX
            );
            listed.extend(values.iter().map(|value| (*key, value.clone())));
        }
        assert_eq!((filters.len(), listed.len()), (3 + 3, keys.len()));
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), keys);
    }
}
