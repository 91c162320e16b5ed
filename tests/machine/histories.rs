//! Random histories of a link, for the properties.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use relink::link::{Command, DedupKey, Event, Input, InstitutionNotices, LastMessage, Need, Person, PolicySettings};

use crate::world::{DAY, ENDINGS, HOUR, History, MINUTE, START, events, other_links, policy_with, profiles, shift};

const LENGTH_MAX: usize = 60;

/// One action of a random history, chosen before the earlier actions are applied.
#[derive(Clone, Debug)]
enum Action {
    /// An event, `millis` milliseconds later. The dedup keys are chosen out of a few, so that some repeat by chance.
    Event { event: Index, millis: i64, key: Option<u64>, profile: Index },
    /// The link's deadline passes, `late` milliseconds late.
    DeadlinePasses { late: i64 },
    /// The incident of the institution begins or ends.
    Incident { is_on: bool },
    /// The last message to the person about another link was `ago` before; it mentioned the open outage of this link, or not.
    Person { message: Option<(i64, bool)> },
    /// The caller knows a successor of the link from now on, or none.
    Successor { which: Option<Index> },
    /// An earlier input is delivered again.
    Repeat { which: Index, millis: i64 },
    /// The link is removed.
    End { how: Index },
}

fn millis() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0..3 * MINUTE,
        3 => 0..8 * HOUR,
        1 => 0..5 * DAY,
        2 => -HOUR..0i64,
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let key = prop_oneof![3 => Just(None), 1 => (0..500u64).prop_map(Some)];
    prop_oneof![
        60 => (any::<Index>(), millis(), key, any::<Index>())
            .prop_map(|(event, millis, key, profile)| Action::Event { event, millis, key, profile }),
        15 => prop_oneof![Just(0), 0..DAY].prop_map(|late| Action::DeadlinePasses { late }),
        4 => any::<bool>().prop_map(|is_on| Action::Incident { is_on }),
        3 => proptest::option::of((0..2 * DAY, any::<bool>())).prop_map(|message| Action::Person { message }),
        3 => proptest::option::of(any::<Index>()).prop_map(|which| Action::Successor { which }),
        10 => (any::<Index>(), millis()).prop_map(|(which, millis)| Action::Repeat { which, millis }),
        1 => any::<Index>().prop_map(|how| Action::End { how }),
    ]
}

/// A history of up to [`LENGTH_MAX`] actions; `muted` may change within it.
pub(crate) fn history() -> impl Strategy<Value = History> {
    use InstitutionNotices::{All, Off, Repair};
    let settings = (any::<bool>(), prop_oneof![Just(Off), Just(Repair), Just(All)]);
    history_with(settings.prop_map(|(can_verify, institution_notices)| PolicySettings {
        can_verify,
        institution_notices,
        ..PolicySettings::default()
    }))
}

/// The same, with these settings of the policy.
pub(crate) fn history_with(settings: impl Strategy<Value = PolicySettings>) -> impl Strategy<Value = History> {
    (settings, any::<bool>(), vec(action(), 1..LENGTH_MAX)).prop_map(|(settings, muted, actions)| {
        let mut history = History { policy: policy_with(settings), ..History::new(true) };
        let mut now = START;
        let (mut incident, mut incidents_count, mut successor, mut person) = (None, 0, None, None);
        if muted {
            history.receive(Event::Command(Command::Mute), now).unwrap();
        }
        for actions in actions {
            let input = match actions {
                Action::Event { event, millis, key, profile } => {
                    now = shift(now, millis);
                    let event = event.get(&events(now)).clone();
                    let profile = profile.get(&profiles(now)).clone();
                    let (successor, person) = (successor.clone(), person.clone());
                    Input { event, key: key.map(DedupKey), profile, incident, successor, person }
                }
                Action::DeadlinePasses { late } => {
                    now = history.link.deadline(&history.policy).map_or(now, |at| shift(at, late));
                    Input {
                        incident,
                        successor: successor.clone(),
                        person: person.clone(),
                        ..Event::DeadlinePassed.into()
                    }
                }
                Action::Successor { which } => {
                    successor = which.map(|which| which.get(&other_links()).clone());
                    continue;
                }
                Action::Person { message } => {
                    let link = &history.link;
                    let open = link.state.episode().filter(|_| message.is_some_and(|(_, mentioned)| mentioned));
                    let mentioned = open.map(|open| Need::Repair { episode: open.number, cause: open.cause });
                    let last_message = message.map(|(ago, _)| LastMessage {
                        at: shift(now, -ago),
                        about: other_links()[0].clone(),
                        mentioned,
                    });
                    person = Some(Box::new(Person { last_message, ..Person::default() }));
                    continue;
                }
                Action::Incident { is_on } => {
                    // No two incidents of an institution begin at the same time.
                    incidents_count += 1;
                    incident = is_on.then(|| shift(START, incidents_count));
                    continue;
                }
                Action::Repeat { which, millis } => {
                    now = shift(now, millis);
                    let Some(last) = history.received.len().checked_sub(1) else { continue };
                    Input { incident, ..history.received[which.index(last + 1)].input.clone() }
                }
                Action::End { how } => how.get(&ENDINGS).clone().into(),
            };
            // A refused event is part of the history.
            let _refused = history.receive(input, now);
        }
        history
    })
}
