//! Clocks that are wrong: whatever the times of the events were, after the clock is right again every wait ends in time.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use relink::link::{
    Breakage, CLOCK_AHEAD_MAX, Cause, Event, Freshness, Input, Link, Notice, Policy, Prompt, Refusal, State, StateName,
    Timestamp, UpdatePhase, correct_times, step,
};

use crate::scene::identified;
use crate::world::{DAY, HOUR, History, MINUTE, START, events, profiles, shift};

/// An event so many milliseconds after the last one, and how wrong the clock is from then on.
type Action = (Index, i64, i64, Index);

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let millis = prop_oneof![6 => 0..3 * MINUTE, 3 => 0..8 * HOUR, 1 => 0..5 * DAY];
    let wrong_by = prop_oneof![
        4 => Just(0),
        2 => Just(400 * DAY),
        1 => Just(-400 * DAY),
        1 => -2 * HOUR..2 * HOUR,
        1 => Just(8_000 * 365 * DAY),
    ];
    vec((any::<Index>(), millis, wrong_by, any::<Index>()), 1..40)
}

/// A history with wrong clocks, and the true time at its end.
fn history() -> impl Strategy<Value = (History, Timestamp)> {
    (any::<bool>(), actions()).prop_map(|(can_verify, actions)| {
        let (mut history, mut right) = (History::new(can_verify), START);
        for (event, millis, wrong_by, profile) in actions {
            right = shift(right, millis);
            let now = Timestamp::from_millis(right.as_millis() + wrong_by);
            let event = event.get(&events(now)).clone();
            let input = Input { profile: profile.get(&profiles(now)).clone(), ..event.into() };
            // A refused event is part of the history.
            let _refused = history.receive(input, now);
            if let Some(deadline) = history.link.deadline(&history.policy).filter(|at| *at <= now) {
                let _refused = history.receive(Event::DeadlinePassed, now.max(deadline));
            }
        }
        (history, right)
    })
}

/// The longest wait that the policy allows in this state, without the waits whose end others have chosen.
fn longest_wait(link: &Link, policy: &Policy) -> Duration {
    let settings = policy.settings();
    let answer = settings.verify_wait.max(settings.incident_wait) * settings.verify_attempts_max;
    match &link.state {
        State::Removed => Duration::ZERO,
        State::Unconfirmed => answer.max(settings.unfinished_after.unwrap_or_default()),
        State::Valid { .. } => {
            let every = link.profile.refresh_every.unwrap_or_default() * settings.stale_after_intervals;
            let month = Duration::from_secs(31 * 86_400);
            answer.max(settings.settle_window).max(settings.refresh_wait).max(every).max(month)
        }
        State::Invalid { .. } | State::TokenRequired { .. } => {
            let last = settings.reminders.last().copied().unwrap_or_default();
            answer.max(last).max(settings.reminder_pause)
        }
        State::Updating { phase: UpdatePhase::WithUser { .. }, .. } => settings.update_wait_max,
        State::Updating { phase: UpdatePhase::Verifying { .. }, .. } => settings.verify_wait,
    }
}

/// The deadlines that Belvo or an operator has chosen.
fn is_chosen(link: &Link, deadline: Timestamp, policy: &Policy) -> bool {
    let due = link.profile.consent.as_ref().and_then(|consent| consent.due.at());
    let rungs = &policy.settings().consent_notices;
    let is_rung = due.is_some_and(|due| rungs.iter().any(|&rung| due.before(rung) == deadline));
    is_rung || [due, link.snoozed_until].contains(&Some(deadline))
}

/// The link after the corrections that the engine plans when the clock is right.
fn corrected(link: &Link, now: Timestamp, policy: &Policy) -> Link {
    correct_times(link, now, policy).map_or_else(|| link.clone(), |step| step.link)
}

proptest! {
    #[test]
    fn after_the_clock_is_right_again_every_wait_ends_in_time((history, now) in history()) {
        let policy = &history.policy;
        let link = corrected(&history.link, now, policy);
        if link.state == State::Removed {
            return Ok(());
        }
        let latest = now.after(CLOCK_AHEAD_MAX);
        prop_assert!(link.updated_at <= latest && link.since <= link.updated_at, "{link:?}");
        if let Some(deadline) = link.deadline(policy) {
            let in_time = deadline <= latest.after(longest_wait(&link, policy)) || is_chosen(&link, deadline, policy);
            prop_assert!(in_time, "{deadline} at {now}: {link:?}");
        }
        // Evidence is not a repeat of a fact from the future for longer than the repeat window.
        prop_assert!(link.recent.iter().all(|seen| seen.at <= latest));
    }

    #[test]
    fn after_the_clock_is_right_again_a_broken_link_reminds_or_recovers((history, now) in history()) {
        let policy = &history.policy;
        let mut link = corrected(&history.link, now, policy);
        let mut now = now;
        (link.snoozed_until, link.muted) = (None, false);
        let Some(reminders) = link.state.episode().map(|episode| episode.reminders_count as usize) else { return Ok(()) };
        let is_deaf = link.state.episode().is_some_and(|episode| {
            episode.prompt == Prompt::Muted || episode.superseded_by.is_some() || !episode.cause.user_can_act()
        });
        if is_deaf || reminders >= policy.settings().reminders.len() {
            return Ok(());
        }
        let end = now.after(Duration::from_secs(12 * 86_400));
        let mut has_reminded = false;
        for _ in 0..100 {
            let Some(deadline) = link.deadline(policy).filter(|at| *at <= end && !has_reminded) else { break };
            now = now.max(deadline);
            let taken = step(&link, &Event::DeadlinePassed.into(), now, policy).unwrap();
            has_reminded = taken.effects.iter().any(|effect| matches!(
                effect,
                relink::link::Effect::Notice { notice: Notice::Reminder { .. }, .. }
            ));
            link = taken.link;
        }
        prop_assert!(has_reminded, "no reminder before {end}: {link:?}");
    }

    #[test]
    fn a_correction_changes_only_times((history, now) in history(), early in 0..400 * DAY) {
        let (before, policy) = (&history.link, &history.policy);
        let now = shift(now, -early);
        let Some(step) = correct_times(before, now, policy) else { return Ok(()) };
        prop_assert!(step.times_corrected && step.effects.is_empty());
        let link = &step.link;
        prop_assert_eq!((step.from, step.at, link.version), (before.state.name(), now, before.version + 1));
        prop_assert_eq!((link.state.name(), link.episodes_count), (before.state.name(), before.episodes_count));
        // Of the profile, only the wait of a consent notice is relink's own.
        let profile = |link: &Link| {
            let mut profile = link.profile.clone();
            profile.consent.iter_mut().for_each(|consent| consent.postponed_until = None);
            profile
        };
        prop_assert_eq!((profile(link), link.muted, link.snoozed_until), (profile(before), before.muted, before.snoozed_until));
        let numbers = |link: &Link| {
            link.state.episode().map(|episode| (episode.number, episode.cause, episode.reminders_count, episode.attempts_count))
        };
        prop_assert_eq!(numbers(link), numbers(before));
        prop_assert!(link.deadline(policy) <= before.deadline(policy), "a wait becomes longer");
        prop_assert_eq!(correct_times(link, now, policy), None, "a second correction");
    }
}

/// The wrong clock of the test that found it: six seconds, 400 days ahead.
#[test]
fn six_seconds_of_a_wrong_clock_do_not_silence_a_link() {
    let mut history = History::new(true);
    let broken = Event::Broken(Breakage::of(Cause::Credentials));
    history.receive(Input { profile: identified(), ..broken.into() }, shift(START, 400 * DAY)).unwrap();
    assert_eq!(history.link.state.name(), StateName::Invalid);
    let now = shift(START, 6_000);
    // Until the correction, events have the time of the last step.
    let late = step(&history.link, &Event::DeadlinePassed.into(), shift(now, 2 * DAY), &history.policy);
    assert_eq!(late.unwrap_err(), Refusal::NotDue);
    let corrected = correct_times(&history.link, now, &history.policy).unwrap().link;
    let reminded = step(&corrected, &Event::DeadlinePassed.into(), shift(now, DAY), &history.policy).unwrap();
    assert_eq!(reminded.at, shift(now, DAY));
    assert!(matches!(reminded.link.freshness, Freshness::Fresh));
    assert_eq!(reminded.link.state.episode().unwrap().reminders_count, 1);
}

/// No reminder is earlier after the opening than the policy says, also if the correction has moved the opening.
#[test]
fn a_correction_keeps_the_reminders_behind_their_steps() {
    let mut history = History::new(true);
    let broken = Event::Broken(Breakage::of(Cause::Credentials));
    history.receive(Input { profile: identified(), ..broken.into() }, shift(START, 400 * DAY)).unwrap();
    history.receive(Event::DeadlinePassed, shift(START, 401 * DAY)).unwrap();
    let now = shift(START, 6_000);
    let corrected = correct_times(&history.link, now, &history.policy).unwrap().link;
    let episode = corrected.state.episode().unwrap();
    assert_eq!((episode.reminders_count, episode.opened_at), (1, now));
    let second = history.policy.settings().reminders[1];
    assert!(episode.next_reminder_at.unwrap() >= episode.opened_at.after(second), "{episode:?}");
}

#[test]
fn clocks_that_differ_a_little_are_not_corrected() {
    let mut history = History::new(true);
    history.receive(Event::Broken(Breakage::of(Cause::Token)), START).unwrap();
    let earlier = |by| correct_times(&history.link, START.before(by), &history.policy);
    assert_eq!(earlier(CLOCK_AHEAD_MAX), None);
    assert!(earlier(CLOCK_AHEAD_MAX + Duration::from_millis(1)).is_some());
}
