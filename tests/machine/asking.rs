//! When the user of a link may get a message: quiet hours.

use proptest::prelude::*;
use proptest::sample::select;
use relink::link::{Cause, Effect, Event, Notice, PolicySettings, Prompt, QuietHours, Step, step};

use crate::histories::history_with;
use crate::properties::steps;
use crate::scene::{Scene, prompts};
use crate::world::{DAY, HOUR, MINUTE, policy_with, shift};

/// Zones with and without a change between summer and winter time; the start of every history is in September 2026.
const ZONES: [Option<&str>; 5] =
    [None, Some("America/Sao_Paulo"), Some("America/Santiago"), Some("Australia/Lord_Howe"), Some("America/Tijuana")];

const PARTS: [&str; 5] = ["22:00-08:00", "00:30-07:00", "01:30-02:30", "13:00-14:00", "16:00-08:00"];

fn quiet_hours() -> impl Strategy<Value = QuietHours> {
    (select(&PARTS[..]), select(&ZONES[..])).prop_map(|(hours, zone)| {
        let hours: QuietHours = hours.parse().unwrap();
        zone.map_or(hours.clone(), |zone| hours.in_zone(zone).unwrap())
    })
}

fn settings() -> impl Strategy<Value = PolicySettings> {
    (any::<bool>(), quiet_hours()).prop_map(|(can_verify, quiet_hours)| PolicySettings {
        can_verify,
        quiet_hours: Some(quiet_hours),
        ..PolicySettings::default()
    })
}

fn messages(step: &Step) -> usize {
    let is_message = |effect: &&Effect| match effect {
        Effect::Notice { notice, .. } => matches!(notice, Notice::UpdateRequired | Notice::Reminder { .. }),
        Effect::Job(_) => false,
    };
    step.effects.iter().filter(is_message).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_user_gets_a_message_in_quiet_hours(history in history_with(settings())) {
        let quiet_hours = history.policy.settings().quiet_hours.clone().unwrap();
        for (_, step) in steps(&history) {
            let end = quiet_hours.end(step.at, &step.link.profile);
            prop_assert!(messages(step) == 0 || end == step.at, "{:?} {:?}", step.at, step.effects);
        }
    }

    #[test]
    fn a_consent_is_announced_at_most_once_for_each_rung_and_never_after_its_renewal(history in history_with(settings())) {
        let mut announced = std::collections::BTreeSet::new();
        for (_, step) in steps(&history) {
            for effect in &step.effects {
                let Effect::Notice { notice: Notice::ConsentExpiring { due_at, rung }, .. } = effect else { continue };
                let consent = step.link.profile.consent.as_ref().unwrap();
                prop_assert_eq!(consent.due.at(), *due_at);
                prop_assert!(due_at.is_none_or(|due_at| step.at < due_at && rung.is_some()));
                if let Some(due_at) = due_at {
                    prop_assert!(announced.insert((consent.id.clone(), *due_at, *rung)));
                }
            }
        }
    }

    #[test]
    fn every_postponed_prompt_is_sent_in_the_end(history in history_with(settings())) {
        for (_, taken) in steps(&history) {
            let episode = taken.link.state.episode();
            let is_postponed = episode.is_some_and(|episode| matches!(episode.prompt, Prompt::Postponed { .. }));
            if !is_postponed || taken.link.muted {
                continue;
            }
            let (mut link, mut sent, number) = (taken.link.clone(), 0, episode.unwrap().number);
            // An attempt of the user ends first.
            for _ in 0..20 {
                let at = link.deadline(&history.policy).expect("a postponed prompt has a deadline");
                prop_assert!(at <= shift(link.updated_at, 2 * DAY));
                let step = step(&link, &Event::DeadlinePassed.into(), at, &history.policy).unwrap();
                sent += prompts(&step.effects);
                link = step.link;
                if sent > 0 {
                    break;
                }
            }
            prop_assert_eq!(sent, 1);
            let episode = link.state.episode().unwrap();
            prop_assert_eq!((episode.prompt, episode.number), (Prompt::Sent, number));
        }
    }

    #[test]
    fn all_reminders_are_sent_although_they_wait(quiet_hours in quiet_hours(), start in 0..DAY) {
        let settings = PolicySettings { quiet_hours: Some(quiet_hours), ..PolicySettings::default() };
        let reminders_count = settings.reminders.len();
        let mut scene = Scene::broken(false, Cause::Credentials);
        scene.history.policy = policy_with(settings);
        scene.wait(start);
        let mut reminded = 0;
        while scene.history.link.deadline(&scene.history.policy).is_some() {
            scene.wait_for_deadline();
            let effects = scene.receive(Event::DeadlinePassed);
            reminded += effects.len();
            prop_assert!(reminded <= reminders_count);
        }
        prop_assert_eq!(reminded, reminders_count);
    }
}

/// A link of Brazil that breaks at 22:30 there; quiet hours are from 22:00 to 08:00.
fn breaks_at_night() -> Scene {
    let mut scene = Scene::valid(true);
    let quiet_hours = "22:00-08:00".parse::<QuietHours>().unwrap().in_zone("America/Sao_Paulo").unwrap();
    let settings = PolicySettings { can_verify: true, quiet_hours: Some(quiet_hours), ..PolicySettings::default() };
    scene.history.policy = policy_with(settings);
    scene.now = "2026-09-22T01:30:00Z".parse().unwrap();
    assert_eq!(prompts(&scene.receive(crate::scene::rejected())), 0);
    scene
}

#[test]
fn a_prompt_of_the_night_is_sent_in_the_morning() {
    let mut scene = breaks_at_night();
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-09-22T11:00:00.000Z");
    assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
    // The reminder a day later is not at night.
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-09-23T11:00:00.000Z");
}

#[test]
fn a_link_that_works_again_in_the_morning_prompts_nobody() {
    let mut scene = breaks_at_night();
    scene.wait(HOUR);
    let observed = scene.observed(relink::link::Status::Valid, None);
    assert_eq!(prompts(&scene.receive(observed)), 0);
    assert!(scene.history.link.state.episode().is_none());
}

#[test]
fn a_late_timer_sends_no_reminder_at_night() {
    let mut scene = breaks_at_night();
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    // relink was stopped until the next night but one.
    scene.now = "2026-09-25T03:00:00Z".parse().unwrap();
    assert_eq!(scene.receive(Event::DeadlinePassed), []);
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-09-25T11:00:00.000Z");
    assert_eq!(messages_of(&mut scene), 1);
}

fn messages_of(scene: &mut Scene) -> usize {
    let effects = scene.receive(Event::DeadlinePassed);
    effects.iter().filter(|effect| matches!(effect, Effect::Notice { notice: Notice::Reminder { .. }, .. })).count()
}

#[test]
fn a_failed_attempt_at_night_does_not_prompt_at_once() {
    let mut scene = breaks_at_night();
    scene.update_starts();
    scene.wait(MINUTE);
    scene.receive(Event::UpdateAbandoned);
    let observed = scene.observed(relink::link::Status::Invalid, None);
    assert_eq!(prompts(&scene.receive(observed)), 0);
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
}
