//! The change that a read of a link would cause: the read is tried on the machine, and the result is not stored.
//!
//! This file is pure. The same machine decides again when the observation arrives, so an error here costs a refused
//! message or one missed pass, never a wrong state.

use std::time::Duration;

use crate::belvo::{self, Meaning};
use crate::contract::{At, InputKind, Observation, ReadOutcome, Source};
use crate::link::{Link, LinkId, Policy, StateName, Timestamp, step};
use crate::store::{Store, StoreError};

/// The record of a link, and the time at which it was read from the store.
#[derive(Clone, Debug)]
pub(super) struct Known {
    link: Link,
    at: Timestamp,
}

/// One read from Belvo.
pub(super) struct Read {
    pub(super) outcome: ReadOutcome,
    /// When the request was sent, by relink's clock.
    pub(super) read_at: Timestamp,
}

/// A read that changes a link.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) link: LinkId,
    /// The version of the link it changes.
    pub(super) version: u64,
    pub(super) from: StateName,
    pub(super) to: StateName,
    pub(super) institution: String,
    /// The body of the observation to publish.
    pub(super) body: Vec<u8>,
}

impl Known {
    pub(super) fn read(store: &dyn Store, id: LinkId, now: Timestamp) -> Result<Self, StoreError> {
        let link = match store.get(&id)? {
            Some(stored) => stored.link()?,
            None => Link::unknown(id, now),
        };
        Ok(Self { link, at: now })
    }

    pub(super) const fn id(&self) -> &LinkId {
        &self.link.id
    }

    pub(super) const fn version(&self) -> u64 {
        self.link.version
    }

    pub(super) const fn link(&self) -> &Link {
        &self.link
    }

    /// Whether relink has a record of the link.
    pub(super) const fn is_known(&self) -> bool {
        self.link.version > 0
    }

    /// Whether the link is only known by its id: an input named it, and no read from Belvo has found it.
    pub(super) fn is_unobserved(&self) -> bool {
        self.link.state.name() == StateName::Unconfirmed && self.link.profile.institution.is_none()
    }
}

/// The change that `read` would cause. `None` if the read agrees with the record, or if the link's own timer does not
/// need it before the next read, at the latest after `next_read_within`.
pub(super) fn change_of(known: &Known, read: Read, policy: &Policy, next_read_within: Duration) -> Option<Change> {
    let link = &known.link;
    // The times of the link come from the NATS server's clock, those of the read from relink's. A read that was sent
    // after the record was read is newer than the record, even if relink's clock is behind.
    let observed_at = if known.at <= read.read_at { read.read_at.max(link.updated_at) } else { read.read_at };
    let observation = Observation {
        schema_version: None,
        observed_at: At(observed_at),
        source: Source::Sweep,
        outcome: read.outcome,
    };
    let body = serde_json::to_vec(&observation).expect("our bodies have string keys and no failing serializers");
    let now = observed_at.max(link.updated_at);
    // An unknown status of Belvo causes no event.
    let Ok(Meaning::Event(input)) = belvo::translate(InputKind::Observation, &link.id, &body, now) else { return None };
    let step = step(link, &input, now, policy).ok()?;
    let to = step.link.state.name();
    // A webhook does not name the institution; prompts need it, so the first read that has it is published. So is the
    // first one that has the key by which a newer link of the same user is recognised. A changed consent is published
    // because its due date is a timer.
    let (before, after) = (&link.profile, &step.link.profile);
    let introduces = (before.institution.is_none() && after.institution.is_some())
        || (before.institution_user_id.is_none() && after.institution_user_id.is_some())
        || (before.created_at.is_none() && after.created_at.is_some())
        || link.profile.consent != step.link.profile.consent;
    // A new access postpones the deadline at which the link would become stale, which saves a verify job.
    let deadline = link.deadline(policy).filter(|&at| at <= now.after(next_read_within));
    let saves_a_read = deadline.is_some() && step.link.deadline(policy).is_none_or(|at| Some(at) > deadline);
    if known.is_known() && to == step.from && !introduces && !saves_a_read {
        return None;
    }
    let institution = step.link.profile.institution.unwrap_or_else(|| "unknown".to_owned());
    Some(Change { link: link.id.clone(), version: link.version, from: step.from, to, institution, body })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::link::{AccessMode, Breakage, Cause, Event, Input, LinkObservation, PolicySettings, Profile, Status};

    const DAY: Duration = Duration::from_secs(86_400);

    const ID: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000 + 1_000 * seconds)
    }

    fn policy() -> Policy {
        Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() }).unwrap()
    }

    fn read(status: &str, seconds: i64) -> Read {
        let link = json!({"id": ID, "status": status, "institution": "erebor_mx_retail", "last_accessed_at": null});
        Read { outcome: ReadOutcome::Found { link: link.as_object().unwrap().clone() }, read_at: at(seconds) }
    }

    fn known(events: &[(Event, i64)], read_at: i64) -> Known {
        let mut link = Link::unknown(ID.parse().unwrap(), at(0));
        for (event, seconds) in events {
            let profile = Profile {
                institution: Some("erebor_mx_retail".to_owned()),
                external_id: Some("maria".to_owned()),
                ..Profile::default()
            };
            let input = Input { profile, ..event.clone().into() };
            link = step(&link, &input, at(*seconds), &policy()).unwrap().link;
        }
        Known { link, at: at(read_at) }
    }

    fn observed(status: Status, seconds: i64) -> Event {
        Event::Observed(LinkObservation { observed_at: at(seconds), status, last_accessed_at: None })
    }

    fn states_of_change(known: &Known, read: Read) -> Option<(&'static str, &'static str)> {
        change_of(known, read, &policy(), DAY).map(|found| (found.from.as_str(), found.to.as_str()))
    }

    #[test]
    fn only_a_differing_status_is_a_change() {
        let valid = known(&[(observed(Status::Valid, 1), 1)], 10);
        let invalid = known(&[(Event::Broken(Breakage::of(Cause::Credentials)), 1)], 10);
        let unknown = known(&[], 10);
        for (known, status, expected) in [
            (&valid, "valid", None),
            (&valid, "invalid", Some(("valid", "invalid"))),
            (&valid, "token_required", Some(("valid", "token_required"))),
            (&valid, "unconfirmed", None),
            (&valid, "an_unknown_status", None),
            (&invalid, "invalid", None),
            (&invalid, "valid", Some(("invalid", "valid"))),
            (&invalid, "token_required", Some(("invalid", "token_required"))),
            (&unknown, "unconfirmed", Some(("unconfirmed", "unconfirmed"))),
            (&unknown, "invalid", Some(("unconfirmed", "invalid"))),
        ] {
            assert_eq!(states_of_change(known, read(status, 11)), expected, "{} {status}", known.link.state.name());
        }
        let missing = Read { outcome: ReadOutcome::Missing, read_at: at(11) };
        assert_eq!(states_of_change(&valid, missing), Some(("valid", "removed")));
    }

    #[test]
    fn the_first_read_that_has_the_institution_is_a_change() {
        let mut valid = known(&[(observed(Status::Valid, 1), 1)], 10);
        assert_eq!(states_of_change(&valid, read("valid", 11)), None);
        valid.link.profile.institution = None;
        assert_eq!(states_of_change(&valid, read("valid", 11)), Some(("valid", "valid")));
    }

    #[test]
    fn a_new_access_is_published_only_shortly_before_the_deadline() {
        const HOURS: i64 = 3600;
        let profile = Profile {
            institution: Some("erebor_mx_retail".to_owned()),
            access_mode: Some(AccessMode::Recurrent),
            refresh_every: Some(DAY),
            ..Profile::default()
        };
        let accessed = |hours| Some(at(hours * HOURS));
        let first = LinkObservation { observed_at: at(0), status: Status::Valid, last_accessed_at: accessed(0) };
        let input = Input { profile, ..Event::Observed(first).into() };
        let link = step(&Link::unknown(ID.parse().unwrap(), at(0)), &input, at(0), &policy()).unwrap().link;
        let known = Known { link, at: at(0) };
        let read = |hours: i64, accessed: Option<Timestamp>| {
            let link = json!({"id": ID, "status": "valid", "institution": "erebor_mx_retail",
                "last_accessed_at": accessed.map(|at| at.to_string())});
            Read { outcome: ReadOutcome::Found { link: link.as_object().unwrap().clone() }, read_at: at(hours * HOURS) }
        };
        // The link becomes stale after two days, and is read once a day.
        assert_eq!(states_of_change(&known, read(20, accessed(19))), None);
        assert_eq!(states_of_change(&known, read(25, accessed(24))), Some(("valid", "valid")));
        assert_eq!(states_of_change(&known, read(25, accessed(0))), None, "nothing new");
    }

    #[test]
    fn a_valid_status_does_not_change_a_hidden_cause() {
        let blocked = known(&[(Event::Broken(Breakage::of(Cause::AccountBlocked)), 1)], 10);
        assert_eq!(states_of_change(&blocked, read("valid", 11)), None);
    }

    #[test]
    fn a_read_older_than_the_record_undoes_no_proof() {
        let recovered = [(Event::Broken(Breakage::of(Cause::Credentials)), 1), (observed(Status::Valid, 100), 100)];
        assert_eq!(states_of_change(&known(&recovered, 101), read("invalid", 99)), None, "the list took long");
        assert_eq!(
            states_of_change(&known(&recovered, 90), read("invalid", 95)),
            Some(("valid", "invalid")),
            "our clock is behind"
        );
    }
}
