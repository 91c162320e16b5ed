//! The jobs about superseded links: they compare two links, and publish an observation for the older one.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Outcome, Worker};
use crate::belvo::{self, CallError, LinkRead, Meaning};
use crate::contract::{At, InputKind, JobBody, Observation, ReadOutcome, Source, StateWord};
use crate::link::{Event, Link, LinkId, Policy, State, StateName, Status, Timestamp, may_succeed, succeeds};
use crate::store::{Store, StoreError, links_of_same_user};

/// The states of a broken link.
const BROKEN: [StateName; 3] = [StateName::Invalid, StateName::TokenRequired, StateName::Updating];

/// A job may arrive some milliseconds before the store has the commit that contains it.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How long a job waits for the commit that contains it. After that, the commit is lost: NATS may lose the end of a stream when its host
/// crashes, and the job was delivered before.
const STEP_WAIT: Duration = Duration::from_secs(4 * 3600);

/// The links that relink knows, and the policy by which they are compared.
#[derive(Clone)]
pub struct KnownLinks {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The policy of the machine.
    pub policy: Policy,
}

impl KnownLinks {
    fn get(&self, id: &LinkId) -> Result<Option<Link>, StoreError> {
        self.store.get(id)?.map(|stored| stored.link()).transpose()
    }

    /// The link, if the store has the step of the job already, or never will. An earlier state has neither the proof nor the keys.
    fn get_after(&self, id: &LinkId, job: &JobBody, now: Timestamp) -> Result<Option<Link>, StoreError> {
        // Several steps of a link may have one time, and a clock may have been wrong, so the version decides.
        let is_overdue = now.since(job.asked_at.0) >= STEP_WAIT;
        Ok(self.get(id)?.filter(|link| link.version >= job.version || is_overdue))
    }

    /// The broken links that `link` supersedes.
    fn superseded_by(&self, link: &Link) -> Result<Vec<Link>, StoreError> {
        let broken = links_of_same_user(&*self.store, link, &BROKEN, &self.policy, |_| false)?;
        let is_open = |old: &Link| old.state.episode().is_some_and(|episode| episode.superseded_by.is_none());
        Ok(broken.into_values().filter(|old| is_open(old) && succeeds(link, old, &self.policy)).collect())
    }
}

impl Worker {
    /// Finds the broken links that this link supersedes, and publishes it for each of them. If nobody has read the link
    /// from Belvo yet, this is done first.
    pub(super) async fn find_superseded(&self, job: &JobBody, link: &LinkId, stored_at: Timestamp) -> Outcome {
        let now = self.clock.now().max(stored_at);
        let known = match self.known.get_after(link, job, now) {
            Ok(Some(known)) => known,
            Ok(None) => return Outcome::TooEarly(STORE_PAUSE),
            Err(error) => return unread(&error),
        };
        if known.profile.institution.is_none() && job.because.from == StateWord::Unconfirmed {
            // Only webhooks have named the link. If the answer has the keys, the machine asks for another look-up.
            return self.read_if_found(link, now).await;
        }
        let superseded = match self.known.superseded_by(&known) {
            Ok(superseded) => superseded,
            Err(error) => return unread(&error),
        };
        for old in superseded {
            let published = self.publish_superseded(&old, link, Source::Lookup, now).await;
            if published != Outcome::Reported {
                return published;
            }
        }
        Outcome::Reported
    }

    /// Reads a link from Belvo, and publishes it if Belvo has it. A sweep finds out whether a missing one is deleted.
    async fn read_if_found(&self, link: &LinkId, observed_at: Timestamp) -> Outcome {
        let answer = self.belvo.get_link(link).await;
        let answer = answer.map(|read| match read {
            LinkRead::Found(resource) => Some(Answer::Publish(ReadOutcome::Found { link: resource })),
            LinkRead::Missing => None,
        });
        match answer.transpose() {
            Some(answer) => self.publish_answer(answer, link, observed_at).await,
            None => Outcome::Reported,
        }
    }

    /// Reads the link that a success callback named. It is published as an observation of that link, and if it may
    /// succeed the link of the callback, as an observation of that one too. If not, the callback was about the link that
    /// it came for, so this one is read: its user has most likely repaired it.
    pub(super) async fn read_successor(&self, job: &JobBody, link: &LinkId, stored_at: Timestamp) -> Outcome {
        let Some(named) = job.successor_id.as_deref().and_then(|id| id.parse::<LinkId>().ok()) else {
            return Outcome::GivenUp("the job names no other link".to_owned());
        };
        let observed_at = self.clock.now().max(stored_at);
        let resource = match self.belvo.get_link(&named).await {
            Ok(LinkRead::Found(resource)) => resource,
            // The name came from the user's device, so it may be any text.
            Ok(LinkRead::Missing) | Err(CallError::Api(_)) => return self.read_if_found(link, observed_at).await,
            Err(error) => return self.publish_answer(Err(error), link, observed_at).await,
        };
        let old = match self.known.get(link) {
            Ok(Some(old)) => old,
            Ok(None) => return Outcome::TooEarly(STORE_PAUSE),
            Err(error) => return unread(&error),
        };
        let outcome = ReadOutcome::Found { link: resource };
        let seen = read_link(&named, &outcome, observed_at);
        let published = self.publish_answer(Ok(Answer::Publish(outcome)), &named, observed_at).await;
        match seen {
            Some(seen) if published == Outcome::Reported && may_succeed(&seen, &old, &self.known.policy) => {
                self.publish_superseded(&old, &named, Source::Verify, observed_at).await
            }
            Some(_) | None if published == Outcome::Reported => self.read_if_found(link, observed_at).await,
            Some(_) | None => published,
        }
    }

    async fn publish_superseded(&self, old: &Link, by: &LinkId, source: Source, at: Timestamp) -> Outcome {
        // The two links were compared as of the last step of the old one, also if our clock is behind.
        let observed_at = At(at.max(old.updated_at));
        let outcome = ReadOutcome::Superseded { by: by.to_string() };
        let observation = Observation { schema_version: None, observed_at, source, outcome };
        match self.publish(InputKind::Observation, &old.id, serde_json::to_vec(&observation)).await {
            Ok(()) => Outcome::Reported,
            Err(error) => Outcome::Retry(Duration::ZERO, error.to_string()),
        }
    }
}

/// The store could not be read. Another attempt reads a damaged record no better.
fn unread(error: &StoreError) -> Outcome {
    if error.is_of_one_record() {
        Outcome::GivenUp(error.to_string())
    } else {
        Outcome::Retry(Duration::ZERO, error.to_string())
    }
}

/// A link as Belvo's resource describes it. `None` if Belvo does not say that it works.
fn read_link(id: &LinkId, outcome: &ReadOutcome, observed_at: Timestamp) -> Option<Link> {
    let observation = Observation {
        schema_version: None,
        observed_at: At(observed_at),
        source: Source::Verify,
        outcome: outcome.clone(),
    };
    let body = serde_json::to_vec(&observation).ok()?;
    let Ok(Meaning::Event(input)) = belvo::translate(InputKind::Observation, id, &body, observed_at) else {
        return None;
    };
    let Event::Observed(seen) = input.event else { return None };
    let works = seen.status == Status::Valid;
    let unknown = Link::unknown(id.clone(), observed_at);
    works.then_some(Link { profile: input.profile, state: State::Valid { suspicion: None }, ..unknown })
}

#[cfg(test)]
mod tests;
