//! What a read of a link would change: the machine is asked, and answers without doing it.
//!
//! Pure. That the same machine decides once more, when the observation arrives, is what makes this safe: a wrong guess
//! here costs a refusal or one pass, never a wrong state.

use std::time::Duration;

use crate::belvo::{self, Meaning};
use crate::contract::{InputKind, Observation, Outcome, Source};
use crate::link::{Link, LinkId, Policy, StateName, Timestamp, step};
use crate::store::{Store, StoreError};

/// What relink knows of a link, and when it looked.
#[derive(Clone, Debug)]
pub(super) struct Known {
    link: Link,
    at: Timestamp,
}

/// What was read from Belvo.
pub(super) struct Read {
    pub(super) outcome: Outcome,
    /// When the question left, by our clock.
    pub(super) read_at: Timestamp,
}

/// A read that moves a link.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) link: LinkId,
    /// The version of the link it moves.
    pub(super) version: u64,
    pub(super) from: StateName,
    pub(super) to: StateName,
    pub(super) institution: String,
    /// The body of the observation.
    pub(super) body: Vec<u8>,
}

impl Known {
    pub(super) fn read(store: &dyn Store, id: LinkId, now: Timestamp) -> Result<Self, StoreError> {
        let link = match store.get(&id)? {
            Some(stored) => stored.parse()?.link()?,
            None => Link::unheard_of(id, now),
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

    /// Whether relink has ever heard of the link.
    pub(super) const fn is_known(&self) -> bool {
        self.link.version > 0
    }

    /// Whether relink has nothing of the link but questions: somebody has named it, and nobody has seen it at Belvo.
    pub(super) fn is_stranger(&self) -> bool {
        self.link.state.name() == StateName::Unconfirmed && self.link.profile.institution.is_none()
    }
}

/// What `read` would do to the link; `None` if it says what is known, or nothing that the machine would act upon before
/// the link is looked at again, at the latest after `look_again`.
pub(super) fn moves(known: &Known, read: Read, policy: &Policy, look_again: Duration) -> Option<Move> {
    let link = &known.link;
    // The link's times are the NATS server's, the read's are ours. What was asked after the link was looked up is newer
    // than all that had happened to it by then, whatever the two clocks think of each other.
    let observed_at = if known.at <= read.read_at { read.read_at.max(link.updated_at) } else { read.read_at };
    let observation = Observation { schema_version: None, observed_at, source: Source::Sweep, outcome: read.outcome };
    let body = serde_json::to_vec(&observation).expect("our bodies have string keys and no failing serializers");
    let now = observed_at.max(link.updated_at);
    // A status that is in no table is no news: `Belvo` has more words than the machine.
    let Ok(Meaning::Event(input)) = belvo::translate(InputKind::Observation, &link.id, &body, now) else { return None };
    let step = step(link, &input, now, policy).ok()?;
    let to = step.link.state.name();
    // A link that was first heard of in a webhook is one whose institution nobody has said: prompts name it.
    // The date of a consent is what its timer runs to.
    let introduces = (link.profile.institution.is_none() && step.link.profile.institution.is_some())
        || link.profile.consent != step.link.profile.consent;
    // Belvo had access, so the link need not be asked about one by one when its silence becomes suspicious.
    let deadline = link.deadline(policy).filter(|&at| at <= now.after(look_again));
    let spares_a_question = deadline.is_some() && step.link.deadline(policy).is_none_or(|at| Some(at) > deadline);
    if known.is_known() && to == step.from && !introduces && !spares_a_question {
        return None;
    }
    let institution = step.link.profile.institution.unwrap_or_else(|| "unknown".to_owned());
    Some(Move { link: link.id.clone(), version: link.version, from: step.from, to, institution, body })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::link::{AccessMode, Breakage, Cause, Event, Input, Observation, Profile, Settings, Status};

    const DAY: Duration = Duration::from_secs(86_400);

    const ID: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000 + 1_000 * seconds)
    }

    fn policy() -> Policy {
        Policy::new(Settings { can_verify: true, ..Settings::default() }).unwrap()
    }

    fn read(status: &str, seconds: i64) -> Read {
        let link = json!({"id": ID, "status": status, "institution": "erebor_mx_retail", "last_accessed_at": null});
        Read { outcome: Outcome::Found { link: link.as_object().unwrap().clone() }, read_at: at(seconds) }
    }

    fn known(events: &[(Event, i64)], looked_at: i64) -> Known {
        let mut link = Link::unheard_of(ID.parse().unwrap(), at(0));
        for (event, seconds) in events {
            let profile = Profile { institution: Some("erebor_mx_retail".to_owned()), ..Profile::default() };
            let input = Input { profile, ..event.clone().into() };
            link = step(&link, &input, at(*seconds), &policy()).unwrap().link;
        }
        Known { link, at: at(looked_at) }
    }

    fn seen(status: Status, seconds: i64) -> Event {
        Event::Observed(Observation { observed_at: at(seconds), status, last_accessed_at: None })
    }

    fn moved(known: &Known, read: Read) -> Option<(&'static str, &'static str)> {
        moves(known, read, &policy(), DAY).map(|found| (found.from.as_str(), found.to.as_str()))
    }

    #[test]
    fn agreement_is_silent_and_disagreement_moves() {
        let valid = known(&[(seen(Status::Valid, 1), 1)], 10);
        let invalid = known(&[(Event::Broken(Breakage::of(Cause::Credentials)), 1)], 10);
        let unheard_of = known(&[], 10);
        for (known, status, expected) in [
            (&valid, "valid", None),
            (&valid, "invalid", Some(("valid", "invalid"))),
            (&valid, "token_required", Some(("valid", "token_required"))),
            (&valid, "unconfirmed", None),
            (&valid, "a_new_word", None),
            (&invalid, "invalid", None),
            (&invalid, "valid", Some(("invalid", "valid"))),
            (&invalid, "token_required", Some(("invalid", "token_required"))),
            (&unheard_of, "unconfirmed", Some(("unconfirmed", "unconfirmed"))),
            (&unheard_of, "invalid", Some(("unconfirmed", "invalid"))),
        ] {
            assert_eq!(moved(known, read(status, 11)), expected, "{} {status}", known.link.state.name());
        }
        let missing = Read { outcome: Outcome::Missing, read_at: at(11) };
        assert_eq!(moved(&valid, missing), Some(("valid", "removed")));
    }

    #[test]
    fn a_link_whose_institution_nobody_said_is_introduced_once() {
        let mut valid = known(&[(seen(Status::Valid, 1), 1)], 10);
        assert_eq!(moved(&valid, read("valid", 11)), None);
        valid.link.profile.institution = None;
        assert_eq!(moved(&valid, read("valid", 11)), Some(("valid", "valid")));
    }

    #[test]
    fn an_access_is_told_in_time_to_spare_a_question() {
        const HOURS: i64 = 3600;
        let profile = Profile {
            institution: Some("erebor_mx_retail".to_owned()),
            access_mode: Some(AccessMode::Recurrent),
            refresh_every: Some(DAY),
            ..Profile::default()
        };
        let accessed = |hours| Some(at(hours * HOURS));
        let first = Observation { observed_at: at(0), status: Status::Valid, last_accessed_at: accessed(0) };
        let input = Input { profile, ..Event::Observed(first).into() };
        let link = step(&Link::unheard_of(ID.parse().unwrap(), at(0)), &input, at(0), &policy()).unwrap().link;
        let known = Known { link, at: at(0) };
        let read = |hours: i64, accessed: Option<Timestamp>| {
            let link = json!({"id": ID, "status": "valid", "institution": "erebor_mx_retail",
                "last_accessed_at": accessed.map(|at| at.to_string())});
            Read { outcome: Outcome::Found { link: link.as_object().unwrap().clone() }, read_at: at(hours * HOURS) }
        };
        // It is missed after two days, and looked at once a day.
        assert_eq!(moved(&known, read(20, accessed(19))), None);
        assert_eq!(moved(&known, read(25, accessed(24))), Some(("valid", "valid")));
        assert_eq!(moved(&known, read(25, accessed(0))), None, "nothing new");
    }

    #[test]
    fn what_belvo_cannot_show_is_not_asked_away() {
        let blocked = known(&[(Event::Broken(Breakage::of(Cause::AccountBlocked)), 1)], 10);
        assert_eq!(moved(&blocked, read("valid", 11)), None);
    }

    #[test]
    fn a_read_from_before_the_look_undoes_no_proof() {
        let recovered = [(Event::Broken(Breakage::of(Cause::Credentials)), 1), (seen(Status::Valid, 100), 100)];
        assert_eq!(moved(&known(&recovered, 101), read("invalid", 99)), None, "the list was slow");
        assert_eq!(moved(&known(&recovered, 90), read("invalid", 95)), Some(("valid", "invalid")), "our clock is slow");
    }
}
