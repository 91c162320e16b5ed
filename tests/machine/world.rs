//! What the tests of the machine have in common: the policies, the events that can happen to a link, and a link's story
//! so far.
//!
//! Events are made for a moment: the times in them lie around it, before and after, near and far.

use std::time::Duration;

use relink::link::{
    AccessMode, Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Data, DataKind, Due, Event,
    Input, Link, LinkObservation, Policy, PolicySettings, Profile, Refusal, Session, Status, Step, Timestamp, step,
};

/// When every story begins.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// A moment so many milliseconds away, before or after.
pub(crate) fn shift(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_millis(at.as_millis() + millis)
}

/// The default policy, with or without API keys.
pub(crate) fn policy(can_verify: bool) -> Policy {
    Policy::new(PolicySettings { can_verify, ..PolicySettings::default() }).unwrap()
}

/// A link nothing has been heard of.
pub(crate) fn unheard_of() -> Link {
    Link::unknown("16f68516-bcbc-4cf7-b815-c500d4204e28".parse().unwrap(), START)
}

/// Everything that can happen to a link at `now`, except its end.
pub(crate) fn events(now: Timestamp) -> Vec<Event> {
    let mut events = vec![
        Event::CreationUnfinished,
        Event::SessionExpired,
        Event::UpdateClaimed,
        Event::UpdateAbandoned,
        Event::MissingReported,
        Event::RefreshAccepted,
        Event::QuotaReached { of_refresh: false },
        Event::QuotaReached { of_refresh: true },
        Event::ConsentEnding,
        Event::ConsentChanged,
        Event::DeadlinePassed,
    ];
    for status in [ConsentStatus::Authorised, ConsentStatus::Ended] {
        for read in [0, -MINUTE, -2 * DAY] {
            let observed_at = shift(now, read);
            events.push(Event::ConsentObserved(ConsentObservation { observed_at, status }));
        }
    }
    for until in [-MINUTE, 10 * MINUTE, 3 * HOUR] {
        events.push(Event::UpdateStarted { until: shift(now, until) });
    }
    let commands = [Command::Mute, Command::Unmute, Command::Snooze(shift(now, 2 * DAY)), Command::Verify];
    events.extend(commands.map(Event::Command));
    for cause in CAUSES {
        for during_update in [false, true] {
            events.push(Event::Broken(Breakage { during_update, ..Breakage::of(cause) }));
            events.push(Event::Broken(Breakage { refused_login: true, ..Breakage::of(cause) }));
        }
    }
    for during_update in [false, true] {
        let session = Some(Session { expires_at: shift(now, 20 * MINUTE) });
        events.push(Event::Broken(Breakage { session, during_update, ..Breakage::of(Cause::Token) }));
    }
    for status in [Status::Valid, Status::Invalid, Status::TokenRequired, Status::Unconfirmed] {
        for read in [0, -MINUTE, -2 * DAY] {
            for accessed in [None, Some(0), Some(-HOUR)] {
                let observed_at = shift(now, read);
                let last_accessed_at = accessed.map(|before| shift(observed_at, before));
                events.push(Event::Observed(LinkObservation { observed_at, status, last_accessed_at }));
            }
        }
    }
    for (resource, kind) in [
        ("TRANSACTIONS", DataKind::Historical),
        ("OWNERS", DataKind::Historical),
        ("TRANSACTIONS", DataKind::New),
        ("TRANSACTIONS", DataKind::Changed),
    ] {
        for has_errors in [false, true] {
            events.push(Event::DataArrived(Data { resource: resource.into(), kind, items_count: None, has_errors }));
        }
    }
    events
}

/// What ends a link.
pub(crate) const ENDINGS: [Event; 3] = [Event::LinkDeleted, Event::ObservedMissing, Event::Command(Command::Forget)];

pub(crate) const CAUSES: [Cause; 5] =
    [Cause::Credentials, Cause::Token, Cause::AccountBlocked, Cause::ConsentEnded, Cause::Unsupported];

/// What messages may say of a link at `now` beside the fact.
pub(crate) fn profiles(now: Timestamp) -> [Profile; 9] {
    let consent = |due| Profile {
        consent: Some(Box::new(Consent { id: Some("c1".into()), due, ..Consent::default() })),
        ..Profile::default()
    };
    let of = |access_mode, hours: Option<u64>, resources: &[&str]| Profile {
        access_mode,
        refresh_every: hours.map(|hours| Duration::from_secs(hours * 3600)),
        fetch_resources: resources.iter().map(|&resource| resource.to_owned()).collect(),
        ..Profile::default()
    };
    [
        of(None, None, &[]),
        of(Some(AccessMode::Recurrent), Some(6), &["OWNERS", "TRANSACTIONS"]),
        of(Some(AccessMode::Recurrent), Some(24), &[]),
        of(Some(AccessMode::Single), None, &["TRANSACTIONS"]),
        consent(Due::Unknown),
        consent(Due::Never),
        consent(Due::At(shift(now, -MINUTE))),
        consent(Due::At(shift(now, HOUR))),
        consent(Due::At(shift(now, 20 * DAY))),
    ]
}

/// One thing that was put to the machine, and what it said.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) before: Link,
    pub(crate) input: Input,
    pub(crate) now: Timestamp,
    pub(crate) answer: Result<Step, Refusal>,
}

/// A link and everything that happened to it.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) policy: Policy,
    pub(crate) link: Link,
    pub(crate) heard: Vec<Heard>,
}

impl Story {
    pub(crate) fn new(can_verify: bool) -> Self {
        Self { policy: policy(can_verify), link: unheard_of(), heard: Vec::new() }
    }

    /// Puts one input to the machine.
    pub(crate) fn hear(&mut self, input: impl Into<Input>, now: Timestamp) -> Result<Step, Refusal> {
        let input = input.into();
        let before = self.link.clone();
        let answer = step(&before, &input, now, &self.policy);
        if let Ok(step) = &answer {
            self.link = step.link.clone();
        }
        self.heard.push(Heard { before, input, now, answer: answer.clone() });
        answer
    }
}
