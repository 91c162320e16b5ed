//! Looks up the other links of a person before a message is sent to it, so that one message is for all of them.
//!
//! As in `successors`, a link that uncommitted plans have changed is taken from the overlay only, so a plan does not depend on the moment of
//! a write. A node sees the links of its store: links of partitions that another node owns may be a moment old there.

use super::Engine;
use crate::link::{Input, Link, Person, Refusal, Step, Timestamp};
use crate::store::{Store, StoreError, links_of_same_person};

impl<S: Store> Engine<S> {
    /// Steps a link, with what else is known of its user as circumstances of the input: first whether the user has connected the bank anew,
    /// then the other links of the person. Each is looked up only for a step that it may change, and then the step is taken again.
    pub(super) fn step_link(
        &self,
        link: &Link,
        input: &mut Input,
        now: Timestamp,
    ) -> Result<Result<Step, Refusal>, StoreError> {
        let stepped = self.step_with_successor(link, input, now)?;
        let Some(step) = stepped.as_ref().ok().filter(|step| step.has_message()) else { return Ok(stepped) };
        input.person = self.person_of(step)?.map(Box::new);
        if input.person.is_none() {
            return Ok(stepped);
        }
        Ok((self.step)(link, input, now, &self.policy))
    }

    /// The other links of the person.
    fn person_of(&self, step: &Step) -> Result<Option<Person>, StoreError> {
        let (profile, policy) = (&step.link.profile, &self.policy);
        if profile.person().is_none() || !policy.settings().per_person {
            return Ok(None);
        }
        let stored = links_of_same_person(&self.store, &step.link, |id| self.recent.is_uncommitted(id))?;
        let others = stored.iter().chain(self.recent.uncommitted_of_same_user(profile));
        let is_down = |institution: Option<&str>| self.institutions.down_since(institution).is_some();
        Ok(Person::of(&step.link, others, is_down, step.at, policy))
    }
}
