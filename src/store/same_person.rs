//! Other links of the person behind a link, by the index of `external_id`.

use super::{Query, Store, StoreError, pages};
use crate::link::{Link, LinkId, PERSON_LINKS_MAX};

/// The other links with the `external_id` of `link`, without those of `leave_out`, of which the caller knows a newer state; at most
/// [`PERSON_LINKS_MAX`], which is too many for a person (`link::Person::of`). None for a link without a person.
///
/// The result does not depend on writes of links that are left out: they are not counted against the limit.
///
/// # Errors
/// [`StoreError`] if the store cannot be read. A record that cannot be read is left out.
pub fn links_of_same_person<S: Store + ?Sized>(
    store: &S,
    link: &Link,
    leave_out: impl Fn(&LinkId) -> bool,
) -> Result<Vec<Link>, StoreError> {
    let mut found = Vec::new();
    if link.profile.person().is_none() {
        return Ok(found);
    }
    let query = Query { external_id: link.profile.external_id.clone(), limit: PERSON_LINKS_MAX, ..Query::default() };
    for page in pages(store, query) {
        let page = page?;
        for (_, stored) in page.ids.iter().zip(&page.links).filter(|(id, _)| **id != link.id && !leave_out(id)) {
            found.extend(stored.readable_link()?);
            if found.len() == PERSON_LINKS_MAX {
                return Ok(found);
            }
        }
    }
    Ok(found)
}
