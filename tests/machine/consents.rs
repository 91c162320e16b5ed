//! The open-finance consent of a link: the announcement of its end, its end, and its renewal.

use std::time::Duration;

use relink::link::{
    Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Due, Effect, Event, Input, Job, Notice,
    PolicySettings, Profile, Proof, Refusal, State, StateName, Status, Timestamp,
};

use crate::scene::{SECOND, Scene, asks, data, prompts};
use crate::world::{DAY, HOUR, MINUTE, down, policy_with, shift};

/// `event`, in a message that names the consent, and its due date if there is one.
fn with_consent(event: Event, due_at: Option<Timestamp>) -> Input {
    with_due(event, due_at.map_or(Due::Unknown, Due::At))
}

fn with_due(event: Event, due: Due) -> Input {
    let consent = Box::new(Consent { id: Some("c1".into()), due, ..Consent::default() });
    Input { profile: Profile { consent: Some(consent), ..Profile::default() }, ..event.into() }
}

impl Scene {
    /// A valid link with a consent that is due in 30 days, and is announced 7 days ahead.
    fn with_consent(can_verify: bool) -> (Self, Timestamp) {
        let mut scene = Self::valid(can_verify);
        let consent_notices = vec![Duration::from_secs(7 * 86_400)];
        scene.history.policy = policy_with(PolicySettings { can_verify, consent_notices, ..PolicySettings::default() });
        let due_at = shift(scene.now, 30 * DAY);
        let seen = scene.reads_consent(ConsentStatus::Authorised);
        assert_eq!(scene.receive(with_consent(seen, Some(due_at))), []);
        (scene, due_at)
    }

    fn reads_consent(&self, status: ConsentStatus) -> Event {
        Event::ConsentObserved(ConsentObservation { observed_at: self.now, status })
    }
}

fn verify() -> Job {
    Job::Verify { consent: Some("c1".into()) }
}

fn announcements(effects: &[Effect]) -> Vec<Option<Timestamp>> {
    let due_at = |effect: &Effect| match effect {
        Effect::Notice { notice: Notice::ConsentExpiring { due_at, .. }, .. } => Some(*due_at),
        Effect::Notice { .. } | Effect::Job(_) => None,
    };
    effects.iter().filter_map(due_at).collect()
}

#[test]
fn the_end_of_a_consent_is_announced_once_by_a_timer() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(due_at, -7 * DAY));
    assert_eq!(announcements(&scene.receive(Event::DeadlinePassed)), [Some(due_at)]);
    // Belvo's own webhook, after the next two refreshes.
    for _ in 0..2 {
        scene.wait(DAY);
        let ending = with_consent(Event::ConsentEnding, Some(due_at));
        assert_eq!(scene.try_receive(ending), Err(Refusal::AlreadyKnown));
    }
}

#[test]
fn an_early_renewal_restarts_the_timer_of_the_announcement() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    let renewed = shift(due_at, 366 * DAY);
    assert_eq!(scene.receive(with_consent(Event::ConsentChanged, Some(renewed))), []);
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(renewed, -7 * DAY));
    assert_eq!(announcements(&scene.receive(Event::DeadlinePassed)), [Some(renewed)]);
}

#[test]
fn a_changed_consent_without_a_date_asks_belvo_and_keeps_the_timer() {
    let (mut scene, due_at) = Scene::with_consent(true);
    assert!(asks(&scene.receive(with_consent(Event::ConsentChanged, None)), verify()));
    // The consent was read before, with the new date.
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert_eq!(scene.try_receive(with_consent(seen, Some(due_at))), Err(Refusal::AlreadyKnown));
    scene.wait_for_deadline();
    assert_eq!(announcements(&scene.receive(Event::DeadlinePassed)), [Some(due_at)]);
}

#[test]
fn without_keys_a_changed_consent_without_a_date_stops_the_timer() {
    let (mut scene, due_at) = Scene::with_consent(false);
    assert_eq!(scene.receive(with_consent(Event::ConsentChanged, None)), []);
    scene.now = shift(due_at, DAY);
    assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
    // Belvo's next webhook contains the new date.
    let renewed = shift(due_at, 366 * DAY);
    assert_eq!(announcements(&scene.receive(with_consent(Event::ConsentEnding, Some(renewed)))), [Some(renewed)]);
}

#[test]
fn a_consent_without_an_end_is_not_announced() {
    let (mut scene, due_at) = Scene::with_consent(true);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert_eq!(scene.receive(with_due(seen, Due::Never)), []);
    scene.now = shift(due_at, DAY);
    assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
}

#[test]
fn a_passed_due_date_asks_belvo_and_opens_an_episode_without_an_answer() {
    for can_verify in [true, false] {
        let (mut scene, due_at) = Scene::with_consent(can_verify);
        scene.wait_for_deadline();
        scene.receive(Event::DeadlinePassed);
        scene.wait_for_deadline();
        assert_eq!(scene.now, due_at);
        let effects = scene.receive(Event::DeadlinePassed);
        assert_eq!((scene.state(), prompts(&effects)), (StateName::Valid, 0));
        assert_eq!(asks(&effects, verify()), can_verify);
        // The status of the link does not show the consent.
        if can_verify {
            scene.wait(MINUTE);
            let observed = scene.observed(Status::Valid, None);
            scene.receive(observed);
        }
        scene.wait_for_deadline();
        assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
        assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
    }
}

#[test]
fn an_authorised_consent_with_a_future_date_refutes_the_suspicion() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    // The status of the consent lags behind its due date.
    scene.wait(MINUTE);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert_eq!(scene.try_receive(with_consent(seen.clone(), Some(due_at))), Err(Refusal::AlreadyKnown));
    assert!(matches!(scene.history.link.state, State::Valid { suspicion: Some(_) }));
    // A due date in the future counts.
    assert_eq!(scene.receive(with_consent(seen, Some(shift(due_at, 366 * DAY)))), []);
    assert_eq!(scene.history.link.state, State::Valid { suspicion: None });
}

#[test]
fn the_end_of_a_muted_links_consent_is_announced_after_unmute() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.receive(Event::Command(Command::Mute));
    scene.now = shift(due_at, -3 * DAY);
    assert_eq!(scene.try_receive(with_consent(Event::ConsentEnding, Some(due_at))), Err(Refusal::AlreadyKnown));
    assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
    scene.receive(Event::Command(Command::Unmute));
    assert_eq!(announcements(&scene.receive(Event::DeadlinePassed)), [Some(due_at)]);
}

#[test]
fn an_announcement_during_an_outage_is_emitted_after_the_repair() {
    let mut scene = Scene::broken(true, Cause::AccountBlocked);
    let due_at = shift(scene.now, 5 * DAY);
    assert_eq!(scene.receive(with_consent(Event::ConsentEnding, Some(due_at))), []);
    scene.wait(DAY);
    let observed = scene.observed(Status::Valid, Some(scene.now));
    scene.receive(observed);
    let effects = scene.receive(Event::DeadlinePassed);
    assert_eq!(announcements(&effects), [Some(due_at)]);
}

#[test]
fn a_revoked_consent_opens_an_episode() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.wait(DAY);
    let seen = scene.reads_consent(ConsentStatus::Ended);
    assert_eq!(prompts(&scene.receive(seen)), 1);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
}

#[test]
fn an_invalid_link_with_a_consent_needs_no_password() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.wait(DAY);
    let observed = scene.observed(Status::Invalid, None);
    scene.receive(observed);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
}

/// Whether a step recovered the link.
fn recovers(effects: &[Effect], by: Proof) -> bool {
    let is_it =
        |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::Recovered { proof }, .. } if *proof == by);
    effects.iter().any(is_it)
}

#[test]
fn a_renewal_ends_the_episode() {
    // After the webhook Belvo is asked, and the consent that it returns is the proof.
    let (mut scene, _) = Scene::with_consent(true);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let renewed = shift(scene.now, 366 * DAY);
    assert!(asks(&scene.receive(with_consent(Event::ConsentChanged, Some(renewed))), verify()));
    assert_eq!(scene.state(), StateName::Updating);
    scene.wait(MINUTE);
    let ended = scene.reads_consent(ConsentStatus::Ended);
    assert_eq!(scene.receive(ended), [], "its status may lag");
    assert_eq!(scene.state(), StateName::Updating);
    let authorised = scene.reads_consent(ConsentStatus::Authorised);
    assert!(recovers(&scene.receive(authorised), Proof::Observed));

    // Without keys the webhook is the proof.
    let (mut scene, _) = Scene::with_consent(false);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let renewed = with_consent(Event::ConsentChanged, Some(shift(scene.now, 366 * DAY)));
    assert!(recovers(&scene.receive(renewed), Proof::Claimed));
}

#[test]
fn a_renewal_without_a_webhook_is_recognised_by_its_due_date() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert!(recovers(&scene.receive(with_consent(seen, Some(shift(due_at, 366 * DAY)))), Proof::Observed));
}

#[test]
fn an_authorised_consent_without_accounts_does_not_end_the_episode() {
    // 401 `consent_without_accounts`: the status of the consent stays `AUTHORISED`.
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    for _ in 0..3 {
        scene.wait(DAY);
        let seen = scene.reads_consent(ConsentStatus::Authorised);
        assert_eq!(scene.try_receive(with_consent(seen, Some(due_at))), Err(Refusal::AlreadyKnown));
    }
    assert_eq!((scene.state(), scene.history.link.episodes_count), (StateName::Invalid, 1));
}

#[test]
fn a_claim_of_a_renewal_is_not_proven_by_the_links_status() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    let opened_at = scene.now;
    scene.wait(MINUTE);
    scene.receive(Event::UpdateClaimed);
    let ended = scene.reads_consent(ConsentStatus::Ended);
    assert_eq!(scene.receive(ended), [], "this read closes the verify request, and the claim stays open");
    let observed = scene.observed(Status::Valid, Some(shift(opened_at, -HOUR)));
    assert_eq!(scene.try_receive(observed), Err(Refusal::AlreadyKnown));
    let observed = scene.observed(Status::Valid, Some(shift(opened_at, SECOND)));
    assert!(recovers(&scene.receive(observed), Proof::Observed), "Belvo has had access since");
}

#[test]
fn an_observation_from_before_the_end_does_not_end_the_episode() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait(DAY);
    let before = scene.reads_consent(ConsentStatus::Authorised);
    scene.wait(MINUTE);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.receive(with_consent(before, Some(shift(due_at, DAY))));
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_consent_read_before_the_broken_link_does_not_end_the_episode() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait(HOUR);
    scene.receive(Event::Broken(Breakage::of(Cause::Token)));
    scene.wait(HOUR);
    let before = scene.reads_consent(ConsentStatus::Authorised);
    scene.wait(SECOND);
    let broken = scene.observed(Status::Invalid, None);
    scene.receive(broken);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
    // This observation is received last, but was read first.
    scene.receive(with_consent(before, Some(shift(due_at, DAY))));
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn an_observation_from_before_the_renewal_opens_no_episode() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let before = scene.reads_consent(ConsentStatus::Ended);
    scene.wait(MINUTE);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    scene.receive(with_consent(seen, Some(shift(due_at, 366 * DAY))));
    assert_eq!((scene.state(), scene.try_receive(before)), (StateName::Valid, Err(Refusal::Outdated)));
}

#[test]
fn an_observation_from_before_the_outage_does_not_change_its_cause() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.wait(DAY);
    let before = scene.reads_consent(ConsentStatus::Ended);
    scene.wait(MINUTE);
    scene.receive(Event::Broken(Breakage::of(Cause::AccountBlocked)));
    assert_eq!(scene.try_receive(before), Err(Refusal::Outdated));
    scene.wait(MINUTE);
    let after = scene.reads_consent(ConsentStatus::Ended);
    scene.receive(after);
    assert_eq!((scene.cause(), scene.history.link.episodes_count), (Some(Cause::ConsentEnded), 1));
}

#[test]
fn a_changed_due_date_in_the_past_is_no_renewal() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let over = shift(scene.now, -MINUTE);
    assert!(asks(&scene.receive(with_consent(Event::ConsentChanged, Some(over))), verify()));
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn without_keys_data_refutes_the_end_of_a_consent() {
    for can_verify in [true, false] {
        let (mut scene, due_at) = Scene::with_consent(can_verify);
        scene.now = due_at;
        scene.receive(Event::DeadlinePassed);
        scene.wait(MINUTE);
        scene.receive(data());
        // With keys Belvo's answer decides, because the data may be older than the end of the consent.
        assert_eq!(scene.history.link.state != State::Valid { suspicion: None }, can_verify);
    }
}

/// The rungs, in days, that have been announced, and the days before the end at which they were.
fn ladder(scene: &mut Scene, due_at: Timestamp, until: Timestamp) -> Vec<(u64, i64)> {
    let mut announced = Vec::new();
    while scene.history.link.deadline(&scene.history.policy).is_some_and(|at| at < until) {
        scene.wait_for_deadline();
        for effect in scene.receive(Event::DeadlinePassed) {
            if let Effect::Notice { notice: Notice::ConsentExpiring { due_at: of, rung }, .. } = effect {
                assert_eq!(of, Some(due_at));
                let days = (due_at.as_millis() - scene.now.as_millis()) / DAY;
                announced.push((rung.unwrap().as_secs() / 86_400, days));
            }
        }
    }
    announced
}

/// A valid link with a consent that is due in so many days, with the default policy.
fn with_ladder(days: i64) -> (Scene, Timestamp) {
    let mut scene = Scene::valid(true);
    let due_at = shift(scene.now, days * DAY);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    scene.receive(with_consent(seen, Some(due_at)));
    (scene, due_at)
}

#[test]
fn each_rung_is_announced_once() {
    let (mut scene, due_at) = with_ladder(60);
    assert_eq!(ladder(&mut scene, due_at, due_at), [(30, 30), (7, 7), (1, 1)]);
}

#[test]
fn a_date_that_is_near_when_it_becomes_known_leaves_out_the_missed_rungs() {
    let (mut scene, due_at) = with_ladder(5);
    scene.wait(DAY);
    assert_eq!(announcements(&scene.receive(Event::DeadlinePassed)), [Some(due_at)]);
    assert_eq!(ladder(&mut scene, due_at, due_at), [(1, 1)]);
}

#[test]
fn belvos_webhook_counts_as_the_rung_that_is_reached_or_as_the_first() {
    let (mut scene, due_at) = with_ladder(60);
    assert_eq!(announcements(&scene.receive(with_consent(Event::ConsentEnding, Some(due_at)))), [Some(due_at)]);
    scene.now = shift(due_at, -7 * DAY);
    assert_eq!(announcements(&scene.receive(with_consent(Event::ConsentEnding, Some(due_at)))), [Some(due_at)]);
    let again = with_consent(Event::ConsentEnding, Some(due_at));
    assert_eq!(scene.try_receive(again), Err(Refusal::AlreadyKnown));
    assert_eq!(ladder(&mut scene, due_at, due_at), [(1, 1)]);
}

#[test]
fn after_a_renewal_no_rung_of_the_old_date_is_announced() {
    let (mut scene, due_at) = with_ladder(60);
    assert_eq!(ladder(&mut scene, due_at, shift(due_at, -10 * DAY)), [(30, 30)]);
    let renewed = shift(due_at, 366 * DAY);
    assert_eq!(scene.receive(with_consent(Event::ConsentChanged, Some(renewed))), []);
    assert_eq!(ladder(&mut scene, renewed, renewed), [(30, 30), (7, 7), (1, 1)]);
}

/// A new consent of the user is a new link, so the old one may end.
#[test]
fn a_consent_that_the_user_has_replaced_is_not_announced() {
    let (mut scene, due_at) = with_ladder(60);
    scene.wait_for_deadline();
    let successor = Some("11111111-1111-4111-8111-111111111111".parse().unwrap());
    let known = Input { successor: successor.clone(), ..Event::DeadlinePassed.into() };
    assert_eq!(scene.receive(known), []);
    assert!(scene.now < due_at, "the rung counts as announced, so the timer goes on to the next one");
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(due_at, -7 * DAY));
    assert_eq!(scene.receive(Input { successor, ..Event::DeadlinePassed.into() }), []);
    assert_eq!(ladder(&mut scene, due_at, due_at), [(1, 1)], "the new link is gone");
}

#[test]
fn no_consent_is_announced_while_the_bank_is_down() {
    let (mut scene, due_at) = with_ladder(60);
    scene.wait_for_deadline();
    for _ in 0..3 {
        assert_eq!(scene.receive(Input { incident: down(true), ..Event::DeadlinePassed.into() }), []);
        scene.wait_for_deadline();
    }
    assert_eq!(announcements(&scene.receive(Event::DeadlinePassed)), [Some(due_at)]);
}

#[test]
fn a_policy_without_rungs_announces_nothing() {
    let (mut scene, due_at) = with_ladder(60);
    scene.history.policy = policy_with(PolicySettings { consent_notices: Vec::new(), ..PolicySettings::default() });
    assert_eq!(ladder(&mut scene, due_at, due_at), []);
    let ending = with_consent(Event::ConsentEnding, Some(due_at));
    assert_eq!(scene.try_receive(ending), Err(Refusal::AlreadyKnown));
}
