//! The table equals the machine: for every state and every event, in both directions.
//!
//! Random walks, the same in every run, reach many different links; every event is tried on each of them.

use std::collections::{BTreeMap, BTreeSet};

use strum::VariantArray;

use crate::world::{DAY, ENDINGS, HOUR, History, MINUTE, START, down, events, profiles, shift};
use relink::link::table::MOVES;
use relink::link::{Consent, Due, Event, EventName, Input, Link, Policy, Profile, Refusal, StateName, Timestamp, step};

const WALKS: u64 = 60;
const WALK_LENGTH: usize = 40;

/// The observed transitions: for each state and event the states after it. No states: the machine refused every such
/// event.
type Seen = BTreeMap<(StateName, EventName), BTreeSet<StateName>>;

fn explore() -> Seen {
    let mut seen = Seen::new();
    for walk in 0..WALKS {
        let mut rng = fastrand::Rng::with_seed(walk);
        let mut history = History::new(walk % 2 == 0);
        let mut now = START;
        for _ in 0..WALK_LENGTH {
            try_everything(&history.link, now, &history.policy, &mut seen);
            let choice = events(now);
            let event = choice[rng.usize(..choice.len())].clone();
            let choice = profiles(now);
            let profile = choice[rng.usize(..choice.len())].clone();
            now = shift(now, rng.i64(-MINUTE..8 * HOUR) / rng.i64(1..60));
            if event == Event::DeadlinePassed {
                now = history.link.deadline(&history.policy).unwrap_or(now).max(now);
            }
            // After a refusal the walk goes on from the same link.
            let _refused = history.receive(
                Input { event, key: None, profile, incident: down(walk % 3 == 0), successor: None, person: None },
                now,
            );
        }
        for ending in ENDINGS {
            let mut ended = history.clone();
            ended.receive(ending, now).unwrap();
            try_everything(&ended.link, now, &ended.policy, &mut seen);
        }
    }
    seen
}

fn try_everything(link: &Link, now: Timestamp, policy: &Policy, seen: &mut Seen) {
    // Some transitions depend on a renewed consent in the profile of the message.
    let due = Due::At(shift(now, 400 * DAY));
    let consent = Some(Box::new(Consent { due, ..Consent::default() }));
    let news = Profile { external_id: Some("user-7".into()), consent, ..Profile::default() };
    for at in [Some(now), link.deadline(policy)].into_iter().flatten() {
        for event in events(at).into_iter().chain(ENDINGS) {
            let targets = seen.entry((link.state.name(), event.name())).or_default();
            for incident in [None, Some(START)] {
                let mut input = Input { incident, ..event.clone().into() };
                let mut answer = step(link, &input, at, policy);
                if answer == Err(Refusal::AlreadyKnown) {
                    input.profile = news.clone();
                    answer = step(link, &input, at, policy);
                }
                targets.extend(answer.ok().map(|step| step.link.state.name()));
            }
        }
    }
}

fn listed() -> Seen {
    MOVES.iter().map(|row| ((row.from, row.on), row.to.iter().copied().collect())).collect()
}

#[test]
fn the_machine_accepts_exactly_the_transitions_of_the_table() {
    let listed = listed();
    let explored = explore();
    for &from in StateName::VARIANTS {
        for &on in EventName::VARIANTS {
            let done = explored.get(&(from, on)).unwrap_or_else(|| panic!("{from} × {on} was never tried"));
            let none = BTreeSet::new();
            assert_eq!(done, listed.get(&(from, on)).unwrap_or(&none), "{from} × {on}: machine, then table");
        }
    }
}

#[test]
fn the_table_is_in_order_and_has_no_row_twice() {
    assert!(MOVES.is_sorted_by(|a, b| (a.from, a.on) < (b.from, b.on)));
    for row in MOVES {
        assert!(!row.to.is_empty() && row.to.is_sorted_by(|a, b| a < b), "{row:?}");
    }
}

#[test]
fn nothing_leads_out_of_removed() {
    assert!(MOVES.iter().all(|row| row.from != StateName::Removed));
}
