//! The machine's rules, over every sequence of events.
//!
//! A failing case is shrunk, printed with every input of its story, and its seed is kept in `properties.regressions`
//! beside this file, to be tried first from then on: commit it, and add an example to `traps`. `PROPTEST_RNG_SEED=7`
//! makes a run repeatable, `PROPTEST_CASES=100000` makes it long.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use relink::link::table::MOVES;
use relink::link::{
    Cause, Command, ConsentStatus, DataKind, DedupKey, EFFECTS_MAX, Effect, Event, Input, Job, Link, Notice,
    Observation, Phase, Prompt, Proof, RECENT_KEYS_MAX, Refusal, State, StateName, Status, Step, Timestamp, step,
};

use crate::world::{DAY, ENDINGS, HOUR, Heard, MINUTE, START, Story, events, profiles, shift};

const CASES: u32 = 512;
const LENGTH_MAX: usize = 60;

/// What comes next, chosen before the story is known.
#[derive(Clone, Debug)]
enum Turn {
    /// Something happens, after so many milliseconds; with a key out of a few, so that some are the same by chance.
    Happens { event: Index, millis: i64, key: Option<u64>, profile: Index },
    /// The link's deadline passes, so many milliseconds late.
    DeadlinePasses { late: i64 },
    /// From here on the institution has an incident, or none any more.
    Incident { is_on: bool },
    /// Something that was put to the machine before comes again.
    ComesAgain { which: Index, millis: i64 },
    /// The link ends.
    Ends { how: Index },
}

fn millis() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0..3 * MINUTE,
        3 => 0..8 * HOUR,
        1 => 0..5 * DAY,
        2 => -HOUR..0i64,
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    let key = prop_oneof![3 => Just(None), 1 => (0..500u64).prop_map(Some)];
    prop_oneof![
        60 => (any::<Index>(), millis(), key, any::<Index>())
            .prop_map(|(event, millis, key, profile)| Turn::Happens { event, millis, key, profile }),
        15 => prop_oneof![Just(0), 0..DAY].prop_map(|late| Turn::DeadlinePasses { late }),
        4 => any::<bool>().prop_map(|is_on| Turn::Incident { is_on }),
        10 => (any::<Index>(), millis()).prop_map(|(which, millis)| Turn::ComesAgain { which, millis }),
        1 => any::<Index>().prop_map(|how| Turn::Ends { how }),
    ]
}

/// A story of up to [`LENGTH_MAX`] turns; `muted` may change within it.
fn story() -> impl Strategy<Value = Story> {
    (any::<bool>(), any::<bool>(), vec(turn(), 1..LENGTH_MAX)).prop_map(|(can_verify, muted, turns)| {
        let mut story = Story::new(can_verify);
        let mut now = START;
        let mut incident = false;
        if muted {
            story.hear(Event::Command(Command::Mute), now).unwrap();
        }
        for turn in turns {
            let input = match turn {
                Turn::Happens { event, millis, key, profile } => {
                    now = shift(now, millis);
                    let event = event.get(&events(now)).clone();
                    Input { event, key: key.map(DedupKey), profile: profile.get(&profiles(now)).clone(), incident }
                }
                Turn::DeadlinePasses { late } => {
                    now = story.link.deadline(&story.policy).map_or(now, |at| shift(at, late));
                    Input { incident, ..Event::DeadlinePassed.into() }
                }
                Turn::Incident { is_on } => {
                    incident = is_on;
                    continue;
                }
                Turn::ComesAgain { which, millis } => {
                    now = shift(now, millis);
                    let Some(last) = story.heard.len().checked_sub(1) else { continue };
                    Input { incident, ..story.heard[which.index(last + 1)].input.clone() }
                }
                Turn::Ends { how } => how.get(&ENDINGS).clone().into(),
            };
            // A refusal is part of the story.
            let _refused = story.hear(input, now);
        }
        story
    })
}

fn steps(story: &Story) -> impl Iterator<Item = (&Heard, &Step)> {
    story.heard.iter().filter_map(|heard| heard.answer.as_ref().ok().map(|step| (heard, step)))
}

fn notices(step: &Step) -> impl Iterator<Item = &Notice> {
    step.effects.iter().filter_map(|effect| match effect {
        Effect::Notice { notice, .. } => Some(notice),
        Effect::Job(_) => None,
    })
}

fn prompts(step: &Step) -> usize {
    notices(step).filter(|notice| **notice == Notice::UpdateRequired).count()
}

fn is_broken(state: StateName) -> bool {
    match state {
        StateName::Invalid | StateName::TokenRequired | StateName::Updating => true,
        StateName::Unconfirmed | StateName::Valid | StateName::Removed => false,
    }
}

fn read(observed_at: Timestamp, status: Status) -> Event {
    Event::Observed(Observation { observed_at, status, last_accessed_at: Some(observed_at) })
}

/// The time a step is taken at: a link's time never runs backwards.
fn taken_at(link: &Link, now: Timestamp) -> Timestamp {
    now.max(link.updated_at)
}

/// The last recovery or claim.
fn settled_from(link: &Link) -> Option<Timestamp> {
    link.recovered_at.max(link.claimed_at)
}

/// In the settle window after a proven recovery, or after the user's word.
fn is_settling(link: &Link, now: Timestamp, story: &Story) -> bool {
    let window = story.policy.settings().settle_window;
    settled_from(link).is_some_and(|at| taken_at(link, now) < at.after(window))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn leaving_valid_opens_one_episode_with_one_prompt(story in story()) {
        for (heard, step) in steps(&story) {
            let to = step.link.state.name();
            let opens = matches!(step.from, StateName::Valid | StateName::Unconfirmed) && is_broken(to);
            prop_assert_eq!(step.link.episodes_count - heard.before.episodes_count, u32::from(opens));
            if opens {
                let episode = step.link.state.episode().unwrap();
                let in_widget = to == StateName::Updating;
                let counts = (step.link.episodes_count, u32::from(in_widget));
                prop_assert_eq!((episode.number.0, episode.attempts_count), counts);
                // Whoever is in the widget already is not prompted, as long as the token lives.
                let token_lives = heard.before.widget_until.is_some_and(|until| step.at < until);
                prop_assert_eq!(in_widget, token_lives);
                let waits = heard.input.incident && episode.cause.may_be_the_institutions();
                prop_assert_eq!(prompts(step), usize::from(!heard.before.muted && !waits && !in_widget));
                let is_waiting = matches!(episode.prompt, Prompt::Waiting { .. });
                prop_assert_eq!(is_waiting, waits && !heard.before.muted && !in_widget);
            } else if prompts(step) > 0 {
                // A muted link's one prompt, or one of an incident, held back until now.
                let held = heard.before.state.episode().unwrap();
                prop_assert!(held.prompt != Prompt::Sent && !step.link.muted);
                let cause = step.link.state.episode().unwrap().cause;
                prop_assert!(!heard.input.incident || !cause.may_be_the_institutions());
                prop_assert_eq!((prompts(step), step.link.state.episode().unwrap().prompt), (1, Prompt::Sent));
            }
        }
    }

    #[test]
    fn an_episode_prompts_at_most_once_and_reminds_only_by_the_ladder(story in story()) {
        let ladder = &story.policy.settings().reminders;
        let mut prompted = BTreeSet::new();
        let mut reminded = BTreeSet::new();
        let mut told_at = None;
        for (heard, step) in steps(&story) {
            for effect in &step.effects {
                let Effect::Notice { notice, episode } = effect else { continue };
                match notice {
                    Notice::UpdateRequired => {
                        prop_assert!(prompted.insert(episode.as_ref().unwrap().number));
                        told_at = Some(step.at);
                    }
                    Notice::Reminder { number } => {
                        let episode = episode.as_ref().unwrap();
                        // A failed attempt is followed by the reminder that it must not put off any further.
                        let by_timer = heard.input.event == Event::DeadlinePassed;
                        prop_assert!(by_timer || step.from == StateName::Updating);
                        prop_assert!(reminded.insert((episode.number, *number)));
                        prop_assert!(*number == 1 || reminded.contains(&(episode.number, number - 1)));
                        prop_assert!(step.at >= episode.opened_at.after(ladder[*number as usize - 1]));
                        prop_assert!(step.at >= told_at.unwrap().after(story.policy.settings().reminder_pause));
                        prop_assert!(prompted.contains(&episode.number) && !step.link.muted);
                        prop_assert!(step.link.snoozed_until.is_none_or(|until| step.at >= until));
                        told_at = Some(step.at);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_waiting_prompt_is_sent_or_its_episode_ends(story in story(), ends_after in 0..4usize) {
        let settings = story.policy.settings();
        for (_, taken) in steps(&story) {
            let (Some(episode), false) = (taken.link.state.episode(), taken.link.muted) else { continue };
            let Prompt::Waiting { .. } = episode.prompt else { continue };
            let (mut link, mut asked, mut attempts) = (taken.link.clone(), 0, 2 * (settings.verify_attempts_max + 5));
            for turn in 0.. {
                let incident = turn < ends_after;
                let at = link.deadline(&story.policy).expect("what waits has a deadline");
                let input = Input { incident, ..Event::DeadlinePassed.into() };
                let step = step(&link, &input, at, &story.policy).unwrap();
                let is_asked = step.from != StateName::Updating && step.effects.iter().any(|effect| matches!(effect, Effect::Job(Job::Verify { .. })));
                asked += usize::from(is_asked);
                let prompted = prompts(&step);
                link = step.link;
                if prompted == 1 {
                    prop_assert!(!incident || !link.state.episode().unwrap().cause.may_be_the_institutions());
                    prop_assert_eq!(link.state.episode().unwrap().prompt, Prompt::Sent);
                    break;
                }
                prop_assert!(link.state.episode().unwrap().prompt != Prompt::Sent);
                attempts -= u32::from(!incident);
                prop_assert!(attempts > 0, "{:?}", link);
            }
            prop_assert!(asked <= 1);
            // Belvo said meanwhile that it works: nobody is asked for anything.
            let now = shift(taken.link.updated_at, MINUTE);
            let works = step(&taken.link, &read(now, Status::Valid).into(), now, &story.policy).unwrap();
            prop_assert_eq!((works.link.state.name(), prompts(&works)), (StateName::Valid, 0));
        }
    }

    #[test]
    fn updating_becomes_valid_only_by_proof(story in story()) {
        for (heard, step) in steps(&story) {
            let was_broken = is_broken(step.from);
            let recovers = was_broken && step.link.state.name() == StateName::Valid;
            let recovered: Vec<_> = notices(step)
                .filter_map(|notice| if let Notice::Recovered { proof } = notice { Some(*proof) } else { None })
                .collect();
            let refreshes = notices(step).filter(|notice| matches!(notice, Notice::RefreshDue { .. })).count();
            prop_assert_eq!((recovered.len(), refreshes), (usize::from(recovers), usize::from(recovers)));
            if !recovers {
                continue;
            }
            let can_verify = story.policy.settings().can_verify;
            let episode = heard.before.state.episode().unwrap();
            let opened_at = episode.observed_at.unwrap_or(episode.opened_at);
            match (&heard.input.event, recovered[0]) {
                (Event::Observed(seen), Proof::Observed) => {
                    prop_assert_eq!(seen.status, Status::Valid);
                    prop_assert!(seen.observed_at >= opened_at);
                }
                (Event::DataArrived(data), Proof::Data) => {
                    prop_assert!(!data.has_errors && data.kind != DataKind::Changed && !can_verify);
                }
                (Event::ConsentObserved(seen), Proof::Observed) => {
                    prop_assert_eq!(seen.status, ConsentStatus::Authorised);
                    prop_assert!(seen.observed_at >= opened_at);
                }
                (Event::UpdateClaimed | Event::ConsentChanged, Proof::Claimed) => prop_assert!(!can_verify),
                other => prop_assert!(false, "no proof: {:?}", other),
            }
        }
    }

    #[test]
    fn updating_always_ends(story in story()) {
        for (_, taken) in steps(&story).filter(|(_, taken)| taken.link.state.name() == StateName::Updating) {
            let link = &taken.link;
            let episode = link.state.episode().unwrap();
            let mut link = link.clone();
            // The attempt, and the one that its user may have begun while the first was being verified.
            for _ in 0..2 * (story.policy.settings().verify_attempts_max + 2) {
                let State::Updating { .. } = link.state else { break };
                let at = link.deadline(&story.policy).expect("an attempt has a deadline");
                let step = step(&link, &Event::DeadlinePassed.into(), at, &story.policy).unwrap();
                prop_assert!(prompts(&step) == 0 || (episode.prompt == Prompt::Held && !link.muted));
                link = step.link;
            }
            prop_assert!(matches!(link.state, State::Invalid { .. } | State::TokenRequired { .. }), "{:?}", link.state);
            prop_assert_eq!(link.state.episode().unwrap().number, episode.number);
        }
    }

    #[test]
    fn stale_evidence_cannot_undo_proof(story in story()) {
        for heard in &story.heard {
            let StateName::Valid = heard.before.state.name() else { continue };
            if !is_settling(&heard.before, heard.now, &story) {
                continue;
            }
            match (&heard.input.event, &heard.answer) {
                (Event::Broken(_), Ok(step)) => {
                    let State::Valid { suspicion } = &step.link.state else { panic!("{:?}", step.link.state) };
                    prop_assert!(suspicion.is_some());
                    let asked = step.link.verify_asked_at.map(|at| step.at.since(at));
                    let answered_soon = asked.is_some_and(|ago| ago < story.policy.settings().verify_wait);
                    prop_assert_eq!(answered_soon, story.policy.settings().can_verify);
                    prop_assert_eq!(prompts(step), 0);
                }
                (Event::Observed(seen), answer) if settled_from(&heard.before) > Some(seen.observed_at) => {
                    let doubts = matches!(seen.status, Status::Invalid | Status::TokenRequired);
                    let refused = matches!(answer, Err(Refusal::Stale | Refusal::Repeated));
                    prop_assert!(!doubts || refused, "{:?}", answer);
                }
                (Event::ConsentObserved(seen), answer) if settled_from(&heard.before) > Some(seen.observed_at) => {
                    let refused = matches!(answer, Err(Refusal::Stale | Refusal::Repeated));
                    prop_assert!(seen.status == ConsentStatus::Authorised || refused, "{:?}", answer);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn evidence_is_never_lost(story in story()) {
        for heard in &story.heard {
            let Event::Broken(breakage) = &heard.input.event else { continue };
            let StateName::Valid = heard.before.state.name() else { continue };
            if heard.answer == Err(Refusal::Repeated) {
                continue;
            }
            prop_assert!(heard.answer.is_ok(), "{:?}", heard.answer);
            let Ok(Step { mut link, .. }) = heard.answer.clone() else { continue };
            // A read of the time before it answers nothing.
            let stale = read(shift(link.updated_at, -1), Status::Valid);
            if let Ok(step) = step(&link, &stale.into(), heard.now, &story.policy) {
                link = step.link;
            }
            for _ in 0..10 {
                let State::Valid { suspicion: Some(held) } = &link.state else { break };
                let hidden = is_hidden(held.breakage.cause) || held.breakage.refused_login;
                prop_assert!(held.breakage.cause == breakage.cause || hidden);
                let at = link.deadline(&story.policy).expect("a doubt has a deadline");
                link = step(&link, &Event::DeadlinePassed.into(), at, &story.policy).unwrap().link;
            }
            prop_assert!(is_broken(link.state.name()), "{:?}", link.state);
        }
    }

    #[test]
    fn no_state_is_a_dead_end(story in story()) {
        for (_, step) in steps(&story) {
            let link = &step.link;
            let now = shift(link.updated_at, MINUTE);
            let answer = relink::link::step(link, &read(now, Status::Valid).into(), now, &story.policy);
            match (link.state.name(), answer) {
                (StateName::Removed, answer) => {
                    prop_assert_eq!(answer, Err(Refusal::Removed));
                    for event in events(now).into_iter().chain(ENDINGS) {
                        let answer = relink::link::step(link, &event.into(), now, &story.policy);
                        prop_assert_eq!(answer, Err(Refusal::Removed));
                    }
                }
                (_, Ok(step)) => prop_assert_eq!(step.link.state.name(), StateName::Valid),
                (from, Err(refusal)) => prop_assert_eq!((from, refusal), (StateName::Valid, Refusal::AlreadyKnown)),
            }
        }
    }

    #[test]
    fn a_repeat_changes_nothing(story in story(), late in 0..4 * HOUR) {
        for (heard, step) in steps(&story) {
            let Some(key) = heard.input.key else { continue };
            let again = relink::link::step(&step.link, &heard.input, shift(step.at, late), &story.policy);
            prop_assert_eq!(again, Err(Refusal::Repeated));
            prop_assert!(step.link.recent.iter().any(|seen| seen.key == key));
        }
    }

    #[test]
    fn a_history_replayed_gives_its_link(story in story()) {
        let mut link = Story::new(true).link;
        let mut at = link.updated_at;
        for (heard, taken) in steps(&story) {
            prop_assert_eq!(&heard.before, &link);
            // A step is told from its recorded time as well as from the time it was heard.
            let again = step(&link, &heard.input, taken.at, &story.policy);
            prop_assert_eq!(again.as_ref(), Ok(taken));
            link = taken.link.clone();
            prop_assert_eq!(link.version, heard.before.version + 1);
            prop_assert!(link.updated_at >= at && link.updated_at == taken.at);
            at = link.updated_at;
            prop_assert!(taken.effects.len() <= EFFECTS_MAX && link.recent.len() <= RECENT_KEYS_MAX);
        }
        prop_assert_eq!(link, story.link);
    }

    #[test]
    fn a_deadline_makes_progress(story in story()) {
        for (_, taken) in steps(&story) {
            let mut link = taken.link.clone();
            let Some(deadline) = link.deadline(&story.policy) else { continue };
            let early = shift(deadline, -1);
            if early >= link.updated_at {
                let answer = step(&link, &Event::DeadlinePassed.into(), early, &story.policy);
                prop_assert_eq!(answer, Err(Refusal::NotDue));
            }
            // Several may be due at once: a doubt, a refresh, a consent's notice and its end, a silence.
            let mut due = 0;
            while link.deadline(&story.policy).is_some_and(|at| at <= taken_at(&link, deadline)) {
                link = step(&link, &Event::DeadlinePassed.into(), deadline, &story.policy).unwrap().link;
                due += 1;
                prop_assert!(due <= 5, "{:?}", link);
            }
        }
    }

    #[test]
    fn only_a_broken_link_has_an_episode_and_numbers_rise(story in story()) {
        for (heard, step) in steps(&story) {
            let state = &step.link.state;
            prop_assert_eq!(state.episode().is_some(), is_broken(state.name()));
            if let Some(episode) = state.episode() {
                prop_assert_eq!(episode.number.0, step.link.episodes_count);
                let fits = match state.name() {
                    StateName::TokenRequired => episode.cause == Cause::Token,
                    StateName::Invalid => episode.cause != Cause::Token,
                    StateName::Unconfirmed | StateName::Valid | StateName::Updating | StateName::Removed => true,
                };
                prop_assert!(fits, "{:?}", state);
            }
            prop_assert!(step.link.episodes_count >= heard.before.episodes_count);
        }
    }

    #[test]
    fn every_step_is_in_the_table_and_every_notice_has_its_episode(story in story()) {
        for (heard, step) in steps(&story) {
            let (on, to) = (heard.input.event.name(), step.link.state.name());
            prop_assert_eq!(step.from, heard.before.state.name());
            let listed = MOVES.iter().any(|row| row.from == step.from && row.on == on && row.to.contains(&to));
            prop_assert!(listed, "{} × {} → {}", step.from, on, to);
            let open = heard.before.state.episode().or(step.link.state.episode()).map(|episode| episode.number);
            for effect in &step.effects {
                if let Effect::Notice { episode: Some(episode), .. } = effect {
                    prop_assert_eq!(Some(episode.number), open);
                }
            }
            let at_rest = !matches!(step.link.state, State::Updating { phase: Phase::WithUser { .. }, .. });
            prop_assert!(at_rest || step.link.deadline(&story.policy).is_some());
        }
    }
}

/// Whether Belvo's status shows nothing of the cause, so that it outlives a bare `valid`.
fn is_hidden(cause: Cause) -> bool {
    match cause {
        Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => true,
        Cause::Credentials | Cause::Token => false,
    }
}
