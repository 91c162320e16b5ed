//! The historical refresh after a repair: who asks for it, how often, and when it is complete or given up.

use relink::link::{
    AccessMode, Breakage, Cause, Consent, Data, DataKind, Effect, Event, Input, Job, Notice, Policy, PolicySettings,
    Profile, RefreshBy, Refusal, Status,
};

use crate::scene::{SECOND, Scene, asks, data, refresh};
use crate::world::{DAY, HOUR, MINUTE, START, shift};

/// Repairs a link of this access mode. Returns the effects of the recovery.
fn repair(access_mode: AccessMode) -> (Scene, Vec<Effect>) {
    repair_of(Profile { access_mode: Some(access_mode), ..Profile::default() })
}

fn repair_of(profile: Profile) -> (Scene, Vec<Effect>) {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.receive(Input { profile, ..Event::UpdateClaimed.into() });
    scene.wait(SECOND);
    let observed = scene.observed(Status::Valid, None);
    let effects = scene.receive(observed);
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
    assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(refresh())]);
    scene.wait(HOUR);
    let effects = scene.receive(data());
    assert!(closed(&effects).is_some());
    assert_eq!(scene.history.link.refresh, None);
}

/// The arrived and the missing resources in a `refreshed` notice.
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

fn is_stale(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Notice { notice: Notice::Stale { .. }, .. }])
}

#[test]
fn missing_resources_are_asked_for_once_more_and_then_reported() {
    for access_mode in [AccessMode::Single, AccessMode::Recurrent] {
        let (mut scene, _) = repair_of(fetching(access_mode, &["BILLS", "OWNERS", "TRANSACTIONS"]));
        scene.wait(MINUTE);
        assert_eq!(closed(&scene.receive(arrival("OWNERS"))), None);
        scene.wait_for_deadline();
        let missing = Job::Refresh { resources: vec!["BILLS".into(), "TRANSACTIONS".into()] };
        assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(missing)]);
        scene.wait(MINUTE);
        assert_eq!(closed(&scene.receive(arrival("BILLS"))), None);
        scene.wait_for_deadline();
        let effects = scene.receive(Event::DeadlinePassed);
        let (arrived, missing) = closed(&effects).expect("it is given up");
        assert_eq!((arrived, missing), (vec!["BILLS".into(), "OWNERS".into()], vec!["TRANSACTIONS".into()]));
    }
}

#[test]
fn a_refresh_without_any_data_makes_the_link_stale() {
    for access_mode in [AccessMode::Single, AccessMode::Recurrent] {
        let (mut scene, _) = repair(access_mode);
        scene.wait_for_deadline();
        assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(refresh())]);
        scene.wait_for_deadline();
        assert!(is_stale(&scene.receive(Event::DeadlinePassed)));
        assert_eq!(scene.history.link.refresh, None);
    }
}

/// A recurrent link with a consent, right after its repair.
fn repaired_consent_link() -> Scene {
    let consent = Some(Box::new(Consent { id: Some("c1".into()), ..Consent::default() }));
    let (scene, _) = repair_of(Profile { consent, ..fetching(AccessMode::Recurrent, &["BILLS", "OWNERS"]) });
    scene
}

#[test]
fn missing_resources_of_a_consent_are_not_asked_for_again() {
    let mut scene = repaired_consent_link();
    scene.receive(arrival("OWNERS"));
    scene.wait_for_deadline();
    let (arrived, missing) = closed(&scene.receive(Event::DeadlinePassed)).expect("it is closed");
    assert_eq!((arrived, missing), (vec!["OWNERS".into()], vec!["BILLS".into()]));
}

#[test]
fn refreshes_of_a_consent_stay_within_relinks_monthly_share() {
    let mut scene = repaired_consent_link();
    let share = scene.history.policy.settings().consent_refreshes_max;
    let mut asked = 0;
    // The link breaks several times within a few days of one month.
    for _ in 0..2 * share {
        scene.wait_for_deadline();
        let effects = scene.receive(Event::DeadlinePassed);
        asked += u32::from(asks(&effects, refresh()));
        if effects.is_empty() {
            break;
        }
        scene.wait(HOUR);
        scene.receive(Event::Broken(Breakage::of(Cause::Credentials)));
        scene.wait(HOUR);
        scene.receive(Event::UpdateClaimed);
        let observed = scene.observed(Status::Valid, None);
        scene.receive(observed);
    }
    assert_eq!(asked, share);
    // The next refresh is asked for in the next month. START is in September, and Brazil is three hours behind UTC.
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-10-01T03:00:00.000Z");
    assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(refresh())]);
}

#[test]
fn a_used_up_quota_postpones_the_refresh_to_the_next_month() {
    let (mut scene, effects) = repair(AccessMode::Single);
    assert!(asks(&effects, refresh()));
    scene.wait(MINUTE);
    assert_eq!(scene.receive(Event::QuotaReached { of_refresh: true }), []);
    assert_eq!(scene.try_receive(Event::QuotaReached { of_refresh: true }), Err(Refusal::AlreadyKnown));
    scene.wait_for_deadline();
    assert_eq!(scene.now.to_string(), "2026-10-01T03:00:00.000Z");
    assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(refresh())]);
    // The refused refresh does not count, so both rounds are left.
    scene.wait_for_deadline();
    assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(refresh())]);
}

#[test]
fn a_used_up_quota_says_nothing_of_a_working_link() {
    let mut scene = Scene::valid(true);
    assert_eq!(scene.receive(Event::QuotaReached { of_refresh: true }), []);
    assert_eq!(scene.history.link.deadline(&scene.history.policy), None);
    assert!(scene.now < shift(START, DAY));
}

#[test]
fn the_quota_of_another_call_does_not_postpone_an_accepted_refresh() {
    let (mut scene, _) = repair(AccessMode::Single);
    scene.wait(SECOND);
    scene.receive(Event::RefreshAccepted);
    let deadline = scene.history.link.deadline(&scene.history.policy);
    scene.wait(MINUTE);
    assert_eq!(scene.receive(Event::QuotaReached { of_refresh: false }), []);
    assert_eq!(scene.history.link.deadline(&scene.history.policy), deadline);
}

#[test]
fn without_a_monthly_share_a_refresh_is_given_up() {
    let mut scene = repaired_consent_link();
    let settings = scene.history.policy.settings().clone();
    scene.history.policy = Policy::new(PolicySettings { consent_refreshes_max: 0, ..settings }).unwrap();
    scene.wait_for_deadline();
    assert_eq!(scene.receive(Event::DeadlinePassed), []);
    assert_eq!(scene.history.link.refresh, None);
}

#[test]
fn a_refresh_that_needs_a_token_is_asked_for_once() {
    let (mut scene, effects) = repair(AccessMode::Single);
    assert!(asks(&effects, refresh()));
    // The institution requires a token at every login, also for a refresh that relink asked for.
    scene.wait(HOUR);
    scene.receive(Event::Broken(Breakage::of(Cause::Token)));
    scene.receive(Event::UpdateClaimed);
    let observed = scene.observed(Status::Valid, None);
    let effects = scene.receive(observed);
    assert!(!asks(&effects, refresh()));
    let by = |effect: &Effect| match effect {
        Effect::Notice { notice: Notice::RefreshDue { by, .. }, .. } => Some(*by),
        Effect::Notice { .. } | Effect::Job(_) => None,
    };
    assert_eq!(effects.iter().find_map(by), Some(RefreshBy::Subscriber));
    scene.wait_for_deadline();
    assert_eq!(scene.receive(Event::DeadlinePassed), []);
}
