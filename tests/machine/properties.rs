//! The rules of the machine, tested over random sequences of events.
//!
//! proptest shrinks a failing case, prints all its inputs, and adds its seed to `properties.regressions` beside this
//! file; later runs try these seeds first. Commit the seed, and add an example to `traps`. `PROPTEST_RNG_SEED=7` makes
//! a run repeatable, and `PROPTEST_CASES=100000` sets the number of cases.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use relink::link::table::MOVES;
use relink::link::{
    Cause, Command, ConsentStatus, DataKind, DeadlineName, EFFECTS_MAX, Effect, Event, EventName, Input, Job, Link,
    LinkObservation, Need, Notice, Prompt, Proof, RECENT_KEYS_MAX, Refusal, State, StateName, Status, Step, Timestamp,
    UpdatePhase, step,
};

use crate::histories::history;
use crate::world::{ENDINGS, HOUR, History, MINUTE, Received, down, events, shift};

const CASES: u32 = 512;

pub(crate) fn steps(history: &History) -> impl Iterator<Item = (&Received, &Step)> {
    history.received.iter().filter_map(|received| received.answer.as_ref().ok().map(|step| (received, step)))
}

pub(crate) fn notices(step: &Step) -> impl Iterator<Item = &Notice> {
    step.effects.iter().filter_map(|effect| match effect {
        Effect::Notice { notice, .. } => Some(notice),
        Effect::Job(_) => None,
    })
}

pub(crate) fn prompts(step: &Step) -> usize {
    notices(step).filter(|notice| **notice == Notice::UpdateRequired).count()
}

fn is_broken(state: StateName) -> bool {
    match state {
        StateName::Invalid | StateName::TokenRequired | StateName::Updating => true,
        StateName::Unconfirmed | StateName::Valid | StateName::Removed => false,
    }
}

fn read(observed_at: Timestamp, status: Status) -> Event {
    Event::Observed(LinkObservation { observed_at, status, last_accessed_at: Some(observed_at) })
}

/// The time of a step. This time is never before the previous step.
fn taken_at(link: &Link, now: Timestamp) -> Timestamp {
    now.max(link.updated_at)
}

/// When the settle window began: with the last recovery or claim.
fn settle_window_start(link: &Link) -> Option<Timestamp> {
    link.recovered_at.max(link.claimed_at)
}

/// Whether `now` is in the settle window of a recovery or a claim.
fn is_in_settle_window(link: &Link, now: Timestamp, history: &History) -> bool {
    let window = history.policy.settings().settle_window;
    settle_window_start(link).is_some_and(|at| taken_at(link, now) < at.after(window))
}

/// Whether the person got a message, about this link or another one, within the reminder pause.
fn is_paused(received: &Received, step: &Step, history: &History) -> bool {
    let other =
        received.input.person.as_ref().and_then(|person| person.last_message.as_ref()).map(|message| message.at);
    let own = received.before.messaged.as_ref().map(|message| message.at);
    let pause = history.policy.settings().reminder_pause;
    if step.link.state.episode().is_some_and(|episode| !episode.cause.user_can_act()) {
        return false;
    }
    own.max(other).is_some_and(|at| step.at < at.min(step.at).after(pause))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn leaving_valid_opens_one_episode_with_one_prompt(history in history()) {
        for (received, step) in steps(&history) {
            let to = step.link.state.name();
            let opens = matches!(step.from, StateName::Valid | StateName::Unconfirmed) && is_broken(to);
            prop_assert_eq!(step.link.episodes_count - received.before.episodes_count, u32::from(opens));
            if opens {
                let episode = step.link.state.episode().unwrap();
                let in_widget = to == StateName::Updating;
                let counts = (step.link.episodes_count, u32::from(in_widget));
                prop_assert_eq!((episode.number.0, episode.attempts_count), counts);
                // A user who is in the widget already is not prompted while the token is valid.
                let token_lives = received.before.widget_until.is_some_and(|until| step.at < until);
                prop_assert_eq!(in_widget, token_lives);
                let waits = received.input.incident.is_some() && episode.cause.user_can_act();
                let superseded = episode.superseded_by.is_some();
                let rejected = &received.before.not_superseded_by;
                let known = received.input.successor.as_ref().is_some_and(|successor| !rejected.contains(successor));
                prop_assert_eq!(superseded, known && !in_widget);
                let silent = received.before.muted || in_widget || superseded;
                let profile = &step.link.profile;
                let is_known = profile.institution.is_some() && (profile.external_id.is_some() || profile.created_at.is_some());
                let is_read = is_known || matches!(received.input.event, Event::Observed(_));
                let unidentified = history.policy.settings().can_verify && !is_read;
                let paused = is_paused(received, step, &history);
                prop_assert_eq!(prompts(step), usize::from(!silent && !waits && !paused && !unidentified));
                let is_postponed = matches!(episode.prompt, Prompt::Postponed { .. });
                prop_assert_eq!(is_postponed, paused && !silent && !waits && !unidentified);
                let is_waiting = matches!(episode.prompt, Prompt::Deferred { .. });
                prop_assert_eq!(is_waiting, waits && !silent);
                let is_unidentified = matches!(episode.prompt, Prompt::Unidentified { .. });
                prop_assert_eq!(is_unidentified, unidentified && !waits && !silent);
            } else if prompts(step) > 0 {
                // The prompt of a muted link, or a deferred prompt, is sent now.
                let held = received.before.state.episode().unwrap();
                prop_assert!(held.prompt != Prompt::Sent && !step.link.muted);
                let cause = step.link.state.episode().unwrap().cause;
                // Only an operator's release does not wait for the end of the incident.
                let is_released = received.input.event == Event::Command(Command::Release);
                let was_released = received.before.state.episode().is_some_and(|episode| episode.is_released);
                prop_assert!(received.input.incident.is_none() || !cause.user_can_act() || is_released || was_released);
                prop_assert_eq!((prompts(step), step.link.state.episode().unwrap().prompt), (1, Prompt::Sent));
            }
        }
    }

    #[test]
    fn an_episode_prompts_at_most_once_and_reminds_only_by_the_ladder(history in history()) {
        let ladder = &history.policy.settings().reminders;
        let mut prompted = BTreeSet::new();
        let mut reminded = BTreeSet::new();
        let mut told_at = None;
        for (received, step) in steps(&history) {
            // A message about another link mentioned this outage, so it counts as a prompt or a reminder.
            let counted = |link: &Link| link.state.episode().map_or((0, 0), |open| (open.number.0, open.prompts_count()));
            let has_own = notices(step).any(|notice| matches!(notice, Notice::UpdateRequired | Notice::Reminder { .. } | Notice::ConsentExpiring { .. }));
            if let Some(open) = step.link.state.episode().filter(|_| counted(&step.link) > counted(&received.before))
                && !has_own && open.prompt == Prompt::Sent && open.cause.user_can_act()
            {
                let message = received.input.person.as_ref().and_then(|person| person.last_message.as_ref()).unwrap();
                prop_assert_eq!(message.mentioned.map(|need| matches!(need, Need::Repair { episode, .. } if episode == open.number)), Some(true));
                prompted.insert(open.number);
                if open.reminders_count > 0 {
                    reminded.insert((open.number, open.reminders_count));
                }
            }
            for effect in &step.effects {
                let Effect::Notice { notice, episode } = effect else { continue };
                match notice {
                    Notice::UpdateRequired => {
                        prop_assert!(prompted.insert(episode.as_ref().unwrap().number));
                        told_at = Some(step.at);
                    }
                    Notice::Reminder { number } => {
                        let episode = episode.as_ref().unwrap();
                        prop_assert!(episode.cause.user_can_act());
                        // After a failed attempt, a reminder that must not be postponed any further is sent.
                        let by_timer = received.input.event == Event::DeadlinePassed;
                        prop_assert!(by_timer || step.from == StateName::Updating);
                        prop_assert!(reminded.insert((episode.number, *number)));
                        prop_assert!(*number == 1 || reminded.contains(&(episode.number, number - 1)));
                        prop_assert!(step.at >= episode.opened_at.after(ladder[*number as usize - 1]));
                        let pause = history.policy.settings().reminder_pause;
                        prop_assert!(told_at.is_none_or(|at: Timestamp| step.at >= at.after(pause)));
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
    fn a_deferred_prompt_is_sent_or_its_episode_ends(history in history(), ends_after in 0..4usize) {
        let settings = history.policy.settings();
        for (_, taken) in steps(&history) {
            let (Some(episode), false) = (taken.link.state.episode(), taken.link.muted) else { continue };
            let Prompt::Deferred { .. } = episode.prompt else { continue };
            let (mut link, mut asked, mut attempts) = (taken.link.clone(), 0, 2 * (settings.verify_attempts_max + 5));
            for actions in 0.. {
                let incident = actions < ends_after;
                let at = link.deadline(&history.policy).expect("a deferred prompt has a deadline");
                let input = Input { incident: down(incident), ..Event::DeadlinePassed.into() };
                let step = step(&link, &input, at, &history.policy).unwrap();
                let is_asked = step.from != StateName::Updating && step.effects.iter().any(|effect| matches!(effect, Effect::Job(Job::Verify { .. })));
                asked += usize::from(is_asked);
                let prompted = prompts(&step);
                link = step.link;
                if prompted == 1 {
                    prop_assert!(!incident || !link.state.episode().unwrap().cause.user_can_act());
                    prop_assert_eq!(link.state.episode().unwrap().prompt, Prompt::Sent);
                    break;
                }
                prop_assert!(link.state.episode().unwrap().prompt != Prompt::Sent);
                attempts -= u32::from(!incident);
                prop_assert!(attempts > 0, "{:?}", link);
            }
            prop_assert!(asked <= 1);
            // The link works according to Belvo, so its user is not prompted.
            let now = shift(taken.link.updated_at, MINUTE);
            let works = step(&taken.link, &read(now, Status::Valid).into(), now, &history.policy).unwrap();
            prop_assert_eq!((works.link.state.name(), prompts(&works)), (StateName::Valid, 0));
        }
    }

    #[test]
    fn updating_becomes_valid_only_by_proof(history in history()) {
        for (received, step) in steps(&history) {
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
            let can_verify = history.policy.settings().can_verify;
            let episode = received.before.state.episode().unwrap();
            let opened_at = episode.observed_at.unwrap_or(episode.opened_at);
            match (&received.input.event, recovered[0]) {
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
    fn updating_always_ends(history in history()) {
        for (_, taken) in steps(&history).filter(|(_, taken)| taken.link.state.name() == StateName::Updating) {
            let link = &taken.link;
            let episode = link.state.episode().unwrap();
            let mut link = link.clone();
            // The attempt ends, and the one that the user may have begun while the first was being verified.
            for _ in 0..2 * (history.policy.settings().verify_attempts_max + 2) {
                let State::Updating { .. } = link.state else { break };
                let at = link.deadline(&history.policy).expect("an attempt has a deadline");
                let step = step(&link, &Event::DeadlinePassed.into(), at, &history.policy).unwrap();
                prop_assert!(prompts(&step) == 0 || (episode.prompt == Prompt::Muted && !link.muted));
                link = step.link;
            }
            prop_assert!(matches!(link.state, State::Invalid { .. } | State::TokenRequired { .. }), "{:?}", link.state);
            prop_assert_eq!(link.state.episode().unwrap().number, episode.number);
        }
    }

    #[test]
    fn outdated_evidence_cannot_undo_proof(history in history()) {
        for received in &history.received {
            let StateName::Valid = received.before.state.name() else { continue };
            if !is_in_settle_window(&received.before, received.now, &history) {
                continue;
            }
            match (&received.input.event, &received.answer) {
                (Event::Broken(_), Ok(step)) => {
                    let State::Valid { suspicion } = &step.link.state else { panic!("{:?}", step.link.state) };
                    prop_assert!(suspicion.is_some());
                    let asked = step.link.verify_asked_at.map(|at| step.at.since(at));
                    let answered_soon = asked.is_some_and(|ago| ago < history.policy.settings().verify_wait);
                    prop_assert_eq!(answered_soon, history.policy.settings().can_verify);
                    prop_assert_eq!(prompts(step), 0);
                }
                (Event::Observed(seen), answer) if settle_window_start(&received.before) > Some(seen.observed_at) => {
                    let is_evidence = matches!(seen.status, Status::Invalid | Status::TokenRequired);
                    let refused = matches!(answer, Err(Refusal::Outdated | Refusal::Repeated));
                    prop_assert!(!is_evidence || refused, "{:?}", answer);
                }
                (Event::ConsentObserved(seen), answer) if settle_window_start(&received.before) > Some(seen.observed_at) => {
                    let refused = matches!(answer, Err(Refusal::Outdated | Refusal::Repeated));
                    prop_assert!(seen.status == ConsentStatus::Authorised || refused, "{:?}", answer);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn evidence_is_never_lost(history in history()) {
        for received in &history.received {
            let Event::Broken(breakage) = &received.input.event else { continue };
            let StateName::Valid = received.before.state.name() else { continue };
            if received.answer == Err(Refusal::Repeated) {
                continue;
            }
            prop_assert!(received.answer.is_ok(), "{:?}", received.answer);
            let Ok(Step { mut link, .. }) = received.answer.clone() else { continue };
            // An observation from before the evidence is no answer.
            let stale = read(shift(link.updated_at, -1), Status::Valid);
            if let Ok(step) = step(&link, &stale.into(), received.now, &history.policy) {
                link = step.link;
            }
            for _ in 0..10 {
                let State::Valid { suspicion: Some(held) } = &link.state else { break };
                let hidden = is_hidden(held.breakage.cause) || held.breakage.refused_login;
                prop_assert!(held.breakage.cause == breakage.cause || hidden);
                let at = link.deadline(&history.policy).expect("a suspicion has a deadline");
                link = step(&link, &Event::DeadlinePassed.into(), at, &history.policy).unwrap().link;
            }
            prop_assert!(is_broken(link.state.name()), "{:?}", link.state);
        }
    }

    #[test]
    fn no_state_is_a_dead_end(history in history()) {
        for (_, step) in steps(&history) {
            let link = &step.link;
            let now = shift(link.updated_at, MINUTE);
            let answer = relink::link::step(link, &read(now, Status::Valid).into(), now, &history.policy);
            match (link.state.name(), answer) {
                (StateName::Removed, answer) => {
                    prop_assert_eq!(answer, Err(Refusal::Removed));
                    for event in events(now).into_iter().chain(ENDINGS) {
                        let answer = relink::link::step(link, &event.into(), now, &history.policy);
                        prop_assert_eq!(answer, Err(Refusal::Removed));
                    }
                }
                (_, Ok(step)) => prop_assert_eq!(step.link.state.name(), StateName::Valid),
                (from, Err(refusal)) => prop_assert_eq!((from, refusal), (StateName::Valid, Refusal::AlreadyKnown)),
            }
        }
    }

    #[test]
    fn a_repeat_changes_nothing(history in history(), late in 0..4 * HOUR) {
        for (received, step) in steps(&history) {
            let Some(key) = received.input.key else { continue };
            let again = relink::link::step(&step.link, &received.input, shift(step.at, late), &history.policy);
            prop_assert_eq!(again, Err(Refusal::Repeated));
            prop_assert!(step.link.recent.iter().any(|seen| seen.key == key));
        }
    }

    #[test]
    fn a_history_replayed_gives_its_link(history in history()) {
        let mut link = History::new(true).link;
        let mut at = link.updated_at;
        for (received, taken) in steps(&history) {
            prop_assert_eq!(&received.before, &link);
            // The recorded time of a step gives the same result as the time at which its event was received.
            let again = step(&link, &received.input, taken.at, &history.policy);
            prop_assert_eq!(again.as_ref(), Ok(taken));
            link = taken.link.clone();
            prop_assert_eq!(link.version, received.before.version + 1);
            prop_assert!(link.updated_at >= at && link.updated_at == taken.at);
            at = link.updated_at;
            prop_assert!(taken.effects.len() <= EFFECTS_MAX && link.recent.len() <= RECENT_KEYS_MAX);
        }
        prop_assert_eq!(link, history.link);
    }

    #[test]
    fn a_deadline_makes_progress(history in history()) {
        for (_, taken) in steps(&history) {
            let mut link = taken.link.clone();
            let Some(deadline) = link.deadline(&history.policy) else { continue };
            let early = shift(deadline, -1);
            if early >= link.updated_at {
                let answer = step(&link, &Event::DeadlinePassed.into(), early, &history.policy);
                prop_assert_eq!(answer, Err(Refusal::NotDue));
            }
            // Several deadlines may be due at once: a suspicion, a refresh, a consent's announcement and its due date,
            // staleness.
            let mut due = 0;
            while link.deadline(&history.policy).is_some_and(|at| at <= taken_at(&link, deadline)) {
                let passed = step(&link, &Event::DeadlinePassed.into(), deadline, &history.policy).unwrap();
                let at = taken_at(&link, deadline);
                let was_due = |name| link.deadlines(&history.policy).any(|due| due.at <= at && due.name == name);
                let is_due = |name| passed.link.deadlines(&history.policy).any(|due| due.at <= at && due.name == name);
                prop_assert!(passed.due.is_some_and(was_due), "{:?}", passed.due);
                prop_assert!(!passed.due.is_some_and(is_due), "it was not handled: {:?}", passed.due);
                link = passed.link;
                due += 1;
                prop_assert!(due <= 5, "{:?}", link);
            }
        }
    }

    #[test]
    fn only_a_broken_link_has_an_episode_and_numbers_rise(history in history()) {
        for (received, step) in steps(&history) {
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
            prop_assert!(step.link.episodes_count >= received.before.episodes_count);
        }
    }

    #[test]
    fn every_step_is_in_the_table_and_every_notice_has_its_episode(history in history()) {
        for (received, step) in steps(&history) {
            let (on, to) = (received.input.event.name(), step.link.state.name());
            prop_assert_eq!(step.from, received.before.state.name());
            let listed = MOVES.iter().any(|row| row.from == step.from && row.on == on && row.to.contains(&to));
            prop_assert!(listed, "{} × {} → {}", step.from, on, to);
            prop_assert!(step.due.is_none() || on == EventName::DeadlinePassed);
            // A prompt or a reminder that was due is sent, or the step says why not.
            let is_asked = |notice: &Notice| matches!(notice, Notice::UpdateRequired | Notice::Reminder { .. });
            let is_due = matches!(step.due, Some(DeadlineName::Prompt | DeadlineName::Reminder));
            let is_asked = notices(step).any(is_asked);
            prop_assert!(!is_due || is_asked != step.held.is_some(), "{:?}", step);
            prop_assert!(!is_asked || step.held.is_none(), "{:?}", step);
            let open = received.before.state.episode().or(step.link.state.episode()).map(|episode| episode.number);
            for effect in &step.effects {
                if let Effect::Notice { episode: Some(episode), .. } = effect {
                    prop_assert_eq!(Some(episode.number), open);
                }
            }
            let at_rest = !matches!(step.link.state, State::Updating { phase: UpdatePhase::WithUser { .. }, .. });
            prop_assert!(at_rest || step.link.deadline(&history.policy).is_some());
        }
    }
}

/// Whether Belvo's status cannot show the cause, so that an observed `valid` alone does not end the episode.
fn is_hidden(cause: Cause) -> bool {
    match cause {
        Cause::AccountBlocked | Cause::ConsentEnded | Cause::Unsupported => true,
        Cause::Credentials | Cause::Token => false,
    }
}
