//! Looks up the successor of a link before its user is asked for a repair: who has connected the bank anew is not
//! prompted for the old link.
//!
//! The links of a user are found by an index of the store, and among the links that uncommitted plans have changed. So
//! the engine misses no successor whose state was planned earlier, and the job `find_superseded` of a successor misses
//! no link that broke earlier.
//!
//! A write of the store may land before or after a plan, and the plan must not depend on it. Therefore a link that
//! uncommitted plans have changed is taken from the overlay only, and its entries in the store are left out.

use super::{Engine, Links};
use crate::link::{Input, Link, LinkId, Policy, Refusal, StateName, Step, Supersede, Timestamp, succeeds};
use crate::store::{Store, StoreError, links_of_same_user};

impl<S: Store> Engine<S> {
    /// Steps a link. If a successor would change the step and the link has one, the step is taken again with the
    /// successor as a circumstance of the input.
    pub(super) fn step_with_successor(
        &self,
        link: &Link,
        input: &mut Input,
        now: Timestamp,
    ) -> Result<Result<Step, Refusal>, StoreError> {
        let stepped = (self.step)(link, input, now, &self.policy);
        let Some(step) = stepped.as_ref().ok().filter(|step| step.may_have_successor(link)) else { return Ok(stepped) };
        input.successor = successor_of(&step.link, &self.store, &self.recent, &self.policy)?;
        if input.successor.is_none() {
            return Ok(stepped);
        }
        Ok((self.step)(link, input, now, &self.policy))
    }
}

/// The newest link that succeeds this one.
fn successor_of<S: Store>(
    link: &Link,
    store: &S,
    recent: &Links,
    policy: &Policy,
) -> Result<Option<LinkId>, StoreError> {
    let profile = &link.profile;
    let has_keys = profile.institution.is_some() && profile.created_at.is_some();
    if !has_keys || policy.settings().supersede == Supersede::Never {
        return Ok(None);
    }
    let stored = links_of_same_user(store, link, &[StateName::Valid], policy, |id| recent.is_uncommitted(id))?;
    let others = stored.values().chain(recent.uncommitted_of_same_user(profile));
    let successors = others.filter(|other| succeeds(other, link, policy));
    Ok(successors.max_by_key(|other| (other.profile.created_at, &other.id)).map(|other| other.id.clone()))
}
