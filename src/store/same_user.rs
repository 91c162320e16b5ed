//! Other links of the user of a link at the same institution, by the indexes.

use std::collections::BTreeMap;

use super::{Query, Store, StoreError, pages};
use crate::link::{Link, LinkId, Policy, StateName, Supersede};

/// The most links of one index and state that are read. A user has a few; an `external_id` that thousands of links share is no key of a
/// user.
const LINKS_MAX: usize = 64;

/// The links in one of these states that may be of the same user as `link`, without `link` itself and without those of
/// `leave_out`, of which the caller knows a newer state. The caller compares them (`link::succeeds`).
///
/// The result does not depend on writes of links that are left out: they are not counted against the limit.
///
/// # Errors
/// [`StoreError`] if the store cannot be read. A record that cannot be read is left out.
pub fn links_of_same_user<S: Store + ?Sized>(
    store: &S,
    link: &Link,
    states: &[StateName],
    policy: &Policy,
    leave_out: impl Fn(&LinkId) -> bool,
) -> Result<BTreeMap<LinkId, Link>, StoreError> {
    let profile = &link.profile;
    let mut found = BTreeMap::new();
    if profile.institution.is_none() || policy.settings().supersede == Supersede::Never {
        return Ok(found);
    }
    let of_institution = || Query { institution: profile.institution.clone(), limit: LINKS_MAX, ..Query::default() };
    let by_user =
        profile.institution_user_id.clone().map(|user| Query { institution_user_id: Some(user), ..of_institution() });
    let by_external_id = profile.external_id.clone().filter(|_| policy.settings().supersede == Supersede::ExternalId);
    let by_external_id = by_external_id.map(|external_id| Query { external_id: Some(external_id), ..of_institution() });
    for query in [by_user, by_external_id].into_iter().flatten() {
        for &state in states {
            let mut left = LINKS_MAX;
            for page in pages(store, Query { state: Some(state), ..query.clone() }) {
                let page = page?;
                let others = page.ids.iter().zip(&page.links).filter(|(id, _)| **id != link.id && !leave_out(id));
                for (id, stored) in others.take(left) {
                    left -= 1;
                    found.extend(stored.readable_link()?.map(|other| (id.clone(), other)));
                }
                if left == 0 {
                    break;
                }
            }
        }
    }
    Ok(found)
}
