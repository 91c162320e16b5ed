//! Shared by the tests of the machine: the policies, all possible events, and the history of a link.
//!
//! Events are made for a given time: the times in them lie before and after it, near and far.

use std::time::Duration;

use relink::link::{
    AccessMode, Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Data, DataKind, Due, Event,
    Input, Link, LinkId, LinkObservation, Policy, PolicySettings, Profile, Refusal, Session, Status, Step,
    SuccessorObservation, Timestamp, step,
};

/// When every history begins.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// The time plus `millis` milliseconds, which may be negative.
pub(crate) fn shift(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_millis(at.as_millis() + millis)
}

/// Since when the institution is down, if it is.
pub(crate) fn down(is_down: bool) -> Option<Timestamp> {
    is_down.then_some(START)
}

/// The default policy, with or without API keys.
pub(crate) fn policy(can_verify: bool) -> Policy {
    policy_with(PolicySettings { can_verify, ..PolicySettings::default() })
}

/// The policy with these settings.
pub(crate) fn policy_with(settings: PolicySettings) -> Policy {
    Policy::new(settings).unwrap()
}

/// A link about which no event has been received yet.
pub(crate) fn unknown_link() -> Link {
    Link::unknown("16f68516-bcbc-4cf7-b815-c500d4204e28".parse().unwrap(), START)
}

/// Other links of the user, which may be successors.
pub(crate) fn other_links() -> [LinkId; 2] {
    ["5fbae30b-1ccc-4a91-b30d-7a4e4f5d3a91", "link_2"].map(|id| id.parse().unwrap())
}

/// All events that a link may get at `now`, except those that remove it.
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
        Event::OutageMet { by_user: false },
        Event::OutageMet { by_user: true },
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
    let snooze = Command::Snooze(shift(now, 2 * DAY));
    let commands = [Command::Mute, Command::Unmute, snooze, Command::Verify, Command::Unsupersede, Command::Release];
    events.extend(commands.map(Event::Command));
    for by in other_links().into_iter().chain([unknown_link().id]) {
        events.push(Event::SuccessorNamed { link: by.clone() });
        for read in [0, -2 * DAY] {
            let observed_at = shift(now, read);
            events.push(Event::Superseded(SuccessorObservation { observed_at, by: by.clone() }));
        }
    }
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

/// The events that remove a link.
pub(crate) const ENDINGS: [Event; 3] = [Event::LinkDeleted, Event::ObservedMissing, Event::Command(Command::Forget)];

pub(crate) const CAUSES: [Cause; 5] =
    [Cause::Credentials, Cause::Token, Cause::AccountBlocked, Cause::ConsentEnded, Cause::Unsupported];

/// The profiles that messages may have at `now`.
pub(crate) fn profiles(now: Timestamp) -> [Profile; 11] {
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
    let user = |created: i64| Profile {
        institution: Some("erebor".into()),
        institution_user_id: Some("u1".into()),
        created_at: Some(shift(START, created)),
        ..Profile::default()
    };
    [
        user(-DAY),
        user(-HOUR),
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

/// One received input, and the answer of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) before: Link,
    pub(crate) input: Input,
    pub(crate) now: Timestamp,
    pub(crate) answer: Result<Step, Refusal>,
}

/// A link, and all inputs that it has received.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) policy: Policy,
    pub(crate) link: Link,
    pub(crate) received: Vec<Received>,
}

impl History {
    pub(crate) fn new(can_verify: bool) -> Self {
        Self { policy: policy(can_verify), link: unknown_link(), received: Vec::new() }
    }

    /// Gives one input to the machine.
    pub(crate) fn receive(&mut self, input: impl Into<Input>, now: Timestamp) -> Result<Step, Refusal> {
        let input = input.into();
        let before = self.link.clone();
        let answer = step(&before, &input, now, &self.policy);
        if let Ok(step) = &answer {
            self.link = step.link.clone();
        }
        self.received.push(Received { before, input, now, answer: answer.clone() });
        answer
    }
}
