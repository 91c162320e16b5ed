//! Creations that are not finished: the application is notified once, and only if the link has never worked.

use std::time::Duration;

use proptest::prelude::*;
use relink::link::{Effect, Event, Input, Notice, PolicySettings, Profile, Refusal, StateName, Status, step};

use crate::histories::history_with;
use crate::properties::{notices, steps};
use crate::scene::{SECOND, Scene, asks, data, verify};
use crate::world::{DAY, HOUR, MINUTE, START, policy_with, shift};

fn is_announced(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Notice { notice: Notice::CreationUnfinished { .. }, .. }))
}

/// A link whose creation was reported as not finished a moment ago.
fn reported(can_verify: bool) -> Scene {
    let mut scene = Scene::unknown(can_verify);
    assert_eq!(scene.receive(Event::CreationUnfinished), []);
    scene
}

#[test]
fn belvo_is_asked_before_the_notice_and_the_notice_comes_once() {
    let mut scene = reported(true);
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(START, HOUR));
    let asked = scene.receive(Event::DeadlinePassed);
    assert!(asks(&asked, verify()) && !is_announced(&asked));
    scene.wait(SECOND);
    let unconfirmed = scene.observed(Status::Unconfirmed, None);
    let announced = scene.receive(unconfirmed.clone());
    assert_eq!(announced, [Effect::Notice { notice: Notice::CreationUnfinished { since: START }, episode: None }]);
    // Nothing is due any more, and no repeat leads to a second notice.
    assert_eq!(scene.history.link.deadline(&scene.history.policy), None);
    scene.wait(30 * DAY);
    for event in [Event::CreationUnfinished, unconfirmed, scene.observed(Status::Unconfirmed, None)] {
        assert_eq!(scene.try_receive(event), Err(Refusal::AlreadyKnown));
    }
    assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
}

#[test]
fn without_an_answer_or_without_keys_the_notice_comes_too() {
    let mut silent = reported(true);
    silent.wait_for_deadline();
    silent.receive(Event::DeadlinePassed);
    silent.wait_for_deadline();
    assert!(is_announced(&silent.receive(Event::DeadlinePassed)));
    let mut without_keys = reported(false);
    without_keys.wait_for_deadline();
    assert!(is_announced(&without_keys.receive(Event::DeadlinePassed)));
}

#[test]
fn nobody_is_notified_of_an_unfinished_link_whose_user_has_connected_the_bank_anew() {
    let mut scene = reported(false);
    scene.wait_for_deadline();
    let policy = scene.history.policy.clone();
    let taken = step(&scene.history.link, &Event::DeadlinePassed.into(), scene.now, &policy).unwrap();
    assert!(taken.may_have_successor(&scene.history.link), "the caller looks for the newer link");
    let successor = Some("newer".parse().unwrap());
    let effects = scene.try_receive(Input { successor, ..Event::DeadlinePassed.into() }).unwrap();
    assert!(!is_announced(&effects));
    assert_eq!(scene.history.link.deadline(&policy), None);
}

#[test]
fn a_user_who_is_finishing_the_creation_is_waited_for() {
    let mut scene = reported(true);
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    // The user takes a widget token while Belvo is being asked.
    let until = shift(scene.now, 10 * MINUTE);
    scene.receive(Event::UpdateStarted { until });
    scene.wait(SECOND);
    let unconfirmed = scene.observed(Status::Unconfirmed, None);
    assert!(!is_announced(&scene.receive(unconfirmed)));
    // When the token has expired, Belvo is asked again, and then the notice comes.
    scene.wait_for_deadline();
    assert_eq!(scene.now, until);
    assert!(asks(&scene.receive(Event::DeadlinePassed), verify()));
    scene.wait(SECOND);
    let unconfirmed = scene.observed(Status::Unconfirmed, None);
    assert!(is_announced(&scene.receive(unconfirmed)));
}

#[test]
fn tokens_without_end_do_not_hold_back_the_notice_for_ever() {
    let mut scene = reported(false);
    for _ in 0..300 {
        let until = shift(scene.now, 10 * MINUTE);
        scene.receive(Event::UpdateStarted { until });
        scene.wait(5 * MINUTE);
        if scene.history.link.deadline(&scene.history.policy).is_some_and(|at| at <= scene.now)
            && is_announced(&scene.receive(Event::DeadlinePassed))
        {
            assert_eq!(scene.now, shift(START, HOUR + DAY));
            return;
        }
    }
    panic!("the notice never came");
}

#[test]
fn a_creation_that_was_finished_without_a_message_leads_to_no_notice() {
    for status in [Status::Valid, Status::Invalid] {
        let mut scene = reported(true);
        scene.wait_for_deadline();
        scene.receive(Event::DeadlinePassed);
        let seen = scene.observed(status, None);
        assert!(!is_announced(&scene.receive(seen)));
        assert_ne!(scene.state(), StateName::Unconfirmed);
    }
    let mut scene = reported(true);
    scene.wait(MINUTE);
    scene.receive(data());
    assert_eq!(scene.history.link.deadline(&scene.history.policy), None);
    assert_eq!(scene.try_receive(Event::CreationUnfinished), Err(Refusal::CreationOnly));
}

#[test]
fn an_answer_from_before_the_question_does_not_count() {
    let mut scene = reported(true);
    scene.wait_for_deadline();
    let old = scene.observed(Status::Unconfirmed, None);
    scene.wait(SECOND);
    scene.receive(Event::DeadlinePassed);
    assert_eq!(scene.try_receive(old), Err(Refusal::AlreadyKnown));
    let new = scene.observed(Status::Unconfirmed, None);
    assert!(is_announced(&scene.receive(new)));
}

#[test]
fn a_link_that_was_given_up_long_before_relink_knew_it_leads_to_no_notice() {
    for (age, is_due) in [(DAY - HOUR, true), (2 * DAY, false)] {
        let mut scene = Scene::unknown(true);
        let profile = Profile { created_at: Some(shift(START, -age)), ..Profile::default() };
        scene.receive(Input { profile, ..scene.observed(Status::Unconfirmed, None).into() });
        assert_eq!(scene.history.link.deadline(&scene.history.policy).is_some(), is_due);
        // The application still tries to use the link.
        scene.wait(MINUTE);
        let answer = scene.try_receive(Event::CreationUnfinished);
        assert_eq!(answer, if is_due { Err(Refusal::AlreadyKnown) } else { Ok(Vec::new()) });
        assert!(scene.history.link.deadline(&scene.history.policy).is_some());
    }
}

#[test]
fn a_link_that_is_only_known_by_its_id_leads_to_no_notice() {
    let mut scene = Scene::unknown(false);
    scene.update_starts();
    assert_eq!((scene.state(), scene.history.link.deadline(&scene.history.policy)), (StateName::Unconfirmed, None));
}

#[test]
fn the_policy_can_switch_the_notice_off() {
    let mut scene = reported(true);
    scene.history.policy = policy_with(PolicySettings { unfinished_after: None, ..PolicySettings::default() });
    assert_eq!(scene.history.link.deadline(&scene.history.policy), None);
    scene.wait(DAY);
    assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
}

fn settings() -> impl Strategy<Value = PolicySettings> {
    let wait = prop_oneof![
        1 => Just(None),
        3 => (1..100_000u64).prop_map(|seconds| Some(Duration::from_secs(seconds)))
    ];
    (any::<bool>(), wait).prop_map(|(can_verify, unfinished_after)| PolicySettings {
        can_verify,
        unfinished_after,
        ..PolicySettings::default()
    })
}

proptest! {
    #[test]
    fn an_unfinished_creation_is_announced_once_and_never_after_the_link_was_confirmed(history in history_with(settings())) {
        let (mut announced, mut confirmed) = (0, false);
        for (received, step) in steps(&history) {
            confirmed |= step.from != StateName::Unconfirmed;
            let is_news = notices(step).filter(|notice| matches!(notice, Notice::CreationUnfinished { .. })).count();
            announced += is_news;
            prop_assert!(is_news == 0 || !confirmed, "{received:?}");
            prop_assert!(is_news == 0 || step.link.state.name() == StateName::Unconfirmed);
        }
        prop_assert!(announced <= 1 && (announced == 0 || history.policy.settings().unfinished_after.is_some()));
    }
}
