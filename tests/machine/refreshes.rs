//! The history that was missed: who asks for it, how often, and when it counts as fetched or as lost.

use relink::link::{
    AccessMode, Breakage, Cause, Consent, Data, DataKind, Effect, Event, Input, Job, Notice, Policy, PolicySettings,
    Profile, RefreshBy, Refusal, Status,
};

use crate::scene::{SECOND, Scene, asks, data, refresh};
use crate::world::{DAY, HOUR, MINUTE, START, shift};

/// Repairs a link of this access mode and answers with what the recovery asks for.
fn repair(access_mode: AccessMode) -> (Scene, Vec<Effect>) {
    repair_of(Profile { access_mode: Some(access_mode), ..Profile::default() })
}

fn repair_of(profile: Profile) -> (Scene, Vec<Effect>) {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.hears(Input { profile, ..Event::UpdateClaimed.into() });
    scene.wait(SECOND);
    let observed = scene.observed(Status::Valid, None);
    let effects = scene.hears(observed);
    (scene, effects)
}

#[test]
fn a_repaired_single_link_gets_a_refresh() {
    let (_, effects) = repair(AccessMode::Single);
    assert!(asks(&effects, refresh()));
}

#[test]
fn a_repaired_recurrent_link_waits_for_belvo_and_then_asks() {
    let (mut scene, effects) = repair(AccessMode::Recurrent);
    assert!(!asks(&effects, refresh()));
    scene.wait_for_deadline();
    assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(refresh())]);
    scene.wait(HOUR);
    let effects = scene.hears(data());
    assert!(closed(&effects).is_some());
    assert_eq!(scene.story.link.refresh, None);
}

/// Of a notice that the gap is closed: what came, and what did not.
fn closed(effects: &[Effect]) -> Option<(Vec<String>, Vec<String>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Notice { notice: Notice::Refreshed { arrived, missing, .. }, .. } => {
            Some((arrived.clone(), missing.clone()))
        }
        Effect::Notice { .. } | Effect::Job(_) => None,
    })
}

fn fetching(access_mode: AccessMode, resources: &[&str]) -> Profile {
    let fetch_resources = resources.iter().map(|&name| name.to_owned()).collect();
    Profile { access_mode: Some(access_mode), fetch_resources, ..Profile::default() }
}

fn arrival(resource: &str) -> Event {
    let (resource, kind) = (resource.to_owned(), DataKind::Historical);
    Event::DataArrived(Data { resource, kind, items_count: None, has_errors: false })
}

fn is_silence(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Notice { notice: Notice::Stale { .. }, .. }])
}

#[test]
fn what_did_not_come_is_asked_for_once_more_and_then_reported() {
    for access_mode in [AccessMode::Single, AccessMode::Recurrent] {
        let (mut scene, _) = repair_of(fetching(access_mode, &["BILLS", "OWNERS", "TRANSACTIONS"]));
        scene.wait(MINUTE);
        assert_eq!(closed(&scene.hears(arrival("OWNERS"))), None);
        scene.wait_for_deadline();
        let missing = Job::Refresh { resources: vec!["BILLS".into(), "TRANSACTIONS".into()] };
        assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(missing)]);
        scene.wait(MINUTE);
        assert_eq!(closed(&scene.hears(arrival("BILLS"))), None);
        scene.wait_for_deadline();
        let effects = scene.hears(Event::DeadlinePassed);
        let (arrived, missing) = closed(&effects).expect("it is given up");
        assert_eq!((arrived, missing), (vec!["BILLS".into(), "OWNERS".into()], vec!["TRANSACTIONS".into()]));
    }
}

#[test]
fn a_refresh_of_which_nothing_came_is_a_silence() {
    for access_mode in [AccessMode::Single, AccessMode::Recurrent] {
        let (mut scene, _) = repair(access_mode);
        scene.wait_for_deadline();
        assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(refresh())]);
        scene.wait_for_deadline();
        assert!(is_silence(&scene.hears(Event::DeadlinePassed)));
        assert_eq!(scene.story.link.refresh, None);
    }
}

/// A recurrent link with a consent, right after its repair.
fn repaired_consent_link() -> Scene {
    let consent = Some(Box::new(Consent { id: Some("c1".into()), ..Consent::default() }));
    let (scene, _) = repair_of(Profile { consent, ..fetching(AccessMode::Recurrent, &["BILLS", "OWNERS"]) });
    scene
}

#[test]
fn the_rest_of_a_consents_data_is_not_worth_its_quota() {
    let mut scene = repaired_consent_link();
    scene.hears(arrival("OWNERS"));
    scene.wait_for_deadline();
    let (arrived, missing) = closed(&scene.hears(Event::DeadlinePassed)).expect("it is closed");
    assert_eq!((arrived, missing), (vec!["OWNERS".into()], vec!["BILLS".into()]));
}

#[test]
fn a_consents_refreshes_stay_within_our_share_of_the_month() {
    let mut scene = repaired_consent_link();
    let share = scene.story.policy.settings().consent_refreshes_max;
    let mut asked = 0;
    // Breaks again and again within a few days of one month.
    for _ in 0..2 * share {
        scene.wait_for_deadline();
        let effects = scene.hears(Event::DeadlinePassed);
        asked += u32::from(asks(&effects, refresh()));
        if effects.is_empty() {
            break;
        }
        scene.wait(HOUR);
        scene.hears(Event::Broken(Breakage::of(Cause::Credentials)));
        scene.wait(HOUR);
        scene.hears(Event::UpdateClaimed);
        let observed = scene.observed(Status::Valid, None);
        scene.hears(observed);
    }
    assert_eq!(asked, share);
    // What is owed is asked for in the next month: START is in September, and Brazil is three hours behind.
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-10-01T03:00:00.000Z");
    assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(refresh())]);
}

#[test]
fn a_quota_that_belvo_says_is_used_up_is_waited_for() {
    let (mut scene, effects) = repair(AccessMode::Single);
    assert!(asks(&effects, refresh()));
    scene.wait(MINUTE);
    assert_eq!(scene.hears(Event::QuotaReached { of_refresh: true }), []);
    assert_eq!(scene.tries(Event::QuotaReached { of_refresh: true }), Err(Refusal::AlreadyKnown));
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-10-01T03:00:00.000Z");
    assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(refresh())]);
    // It was not the refresh's fault: it has both its rounds.
    scene.wait_for_deadline();
    assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(refresh())]);
}

#[test]
fn a_used_up_quota_says_nothing_of_a_working_link() {
    let mut scene = Scene::valid(true);
    assert_eq!(scene.hears(Event::QuotaReached { of_refresh: true }), []);
    assert_eq!(scene.story.link.deadline(&scene.story.policy), None);
    assert!(scene.now < shift(START, DAY));
}

#[test]
fn the_quota_of_another_call_does_not_put_off_a_refresh_that_belvo_took() {
    let (mut scene, _) = repair(AccessMode::Single);
    scene.wait(SECOND);
    scene.hears(Event::RefreshAccepted);
    let deadline = scene.story.link.deadline(&scene.story.policy);
    scene.wait(MINUTE);
    assert_eq!(scene.hears(Event::QuotaReached { of_refresh: false }), []);
    assert_eq!(scene.story.link.deadline(&scene.story.policy), deadline);
}

#[test]
fn with_no_share_of_the_month_nothing_is_owed_for_ever() {
    let mut scene = repaired_consent_link();
    let settings = scene.story.policy.settings().clone();
    scene.story.policy = Policy::new(PolicySettings { consent_refreshes_max: 0, ..settings }).unwrap();
    scene.wait_for_deadline();
    assert_eq!(scene.hears(Event::DeadlinePassed), []);
    assert_eq!(scene.story.link.refresh, None);
}

#[test]
fn a_refresh_that_asks_the_user_for_a_token_is_not_asked_for_twice() {
    let (mut scene, effects) = repair(AccessMode::Single);
    assert!(asks(&effects, refresh()));
    // The bank wants a token at every login, ours included.
    scene.wait(HOUR);
    scene.hears(Event::Broken(Breakage::of(Cause::Token)));
    scene.hears(Event::UpdateClaimed);
    let observed = scene.observed(Status::Valid, None);
    let effects = scene.hears(observed);
    assert!(!asks(&effects, refresh()));
    let by = |effect: &Effect| match effect {
        Effect::Notice { notice: Notice::RefreshDue { by, .. }, .. } => Some(*by),
        Effect::Notice { .. } | Effect::Job(_) => None,
    };
    assert_eq!(effects.iter().find_map(by), Some(RefreshBy::Subscriber));
    scene.wait_for_deadline();
    assert_eq!(scene.hears(Event::DeadlinePassed), []);
}
