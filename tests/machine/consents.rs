//! The open-finance consent of a link: announced once, believed when it is over, healed when it is renewed.

use relink::link::{
    Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Due, Effect, Event, Input, Job, Notice,
    Profile, Proof, Refusal, State, StateName, Status, Timestamp,
};

use crate::scene::{SECOND, Scene, asks, data, prompts};
use crate::world::{DAY, HOUR, MINUTE, shift};

/// `event`, from a message that names the consent, and its end if it says so.
fn with_consent(event: Event, due_at: Option<Timestamp>) -> Input {
    with_due(event, due_at.map_or(Due::Unknown, Due::At))
}

fn with_due(event: Event, due: Due) -> Input {
    let consent = Box::new(Consent { id: Some("c1".into()), due, ..Consent::default() });
    Input { profile: Profile { consent: Some(consent), ..Profile::default() }, ..event.into() }
}

impl Scene {
    /// A working link with a consent that is over in 30 days, as the list of consents says.
    fn with_consent(can_verify: bool) -> (Self, Timestamp) {
        let mut scene = Self::valid(can_verify);
        let due_at = shift(scene.now, 30 * DAY);
        let seen = scene.reads_consent(ConsentStatus::Authorised);
        assert_eq!(scene.hears(with_consent(seen, Some(due_at))), []);
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
        Effect::Notice { notice: Notice::ConsentExpiring { due_at }, .. } => Some(*due_at),
        Effect::Notice { .. } | Effect::Job(_) => None,
    };
    effects.iter().filter_map(due_at).collect()
}

#[test]
fn the_end_is_announced_once_by_our_own_timer() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(due_at, -7 * DAY));
    assert_eq!(announcements(&scene.hears(Event::DeadlinePassed)), [Some(due_at)]);
    // Belvo's own word, at the next refresh and at the one after.
    for _ in 0..2 {
        scene.wait(DAY);
        let ending = with_consent(Event::ConsentEnding, Some(due_at));
        assert_eq!(scene.tries(ending), Err(Refusal::AlreadyKnown));
    }
}

#[test]
fn a_renewal_ahead_of_time_begins_it_anew() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait_for_deadline();
    scene.hears(Event::DeadlinePassed);
    let renewed = shift(due_at, 366 * DAY);
    assert_eq!(scene.hears(with_consent(Event::ConsentChanged, Some(renewed))), []);
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(renewed, -7 * DAY));
    assert_eq!(announcements(&scene.hears(Event::DeadlinePassed)), [Some(renewed)]);
}

#[test]
fn a_change_without_a_date_is_asked_about_and_keeps_the_timer() {
    let (mut scene, due_at) = Scene::with_consent(true);
    assert!(asks(&scene.hears(with_consent(Event::ConsentChanged, None)), verify()));
    // It was read before already, with the date it moved to.
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert_eq!(scene.tries(with_consent(seen, Some(due_at))), Err(Refusal::AlreadyKnown));
    scene.wait_for_deadline();
    assert_eq!(announcements(&scene.hears(Event::DeadlinePassed)), [Some(due_at)]);
}

#[test]
fn without_keys_a_change_without_a_date_stops_the_timer() {
    let (mut scene, due_at) = Scene::with_consent(false);
    assert_eq!(scene.hears(with_consent(Event::ConsentChanged, None)), []);
    scene.now = shift(due_at, DAY);
    assert_eq!(scene.tries(Event::DeadlinePassed), Err(Refusal::NotDue));
    // Belvo's next word names the new one.
    let renewed = shift(due_at, 366 * DAY);
    assert_eq!(announcements(&scene.hears(with_consent(Event::ConsentEnding, Some(renewed)))), [Some(renewed)]);
}

#[test]
fn a_consent_without_an_end_is_not_announced() {
    let (mut scene, due_at) = Scene::with_consent(true);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert_eq!(scene.hears(with_due(seen, Due::Never)), []);
    scene.now = shift(due_at, DAY);
    assert_eq!(scene.tries(Event::DeadlinePassed), Err(Refusal::NotDue));
}

#[test]
fn the_end_itself_is_asked_about_and_believed_without_an_answer() {
    for can_verify in [true, false] {
        let (mut scene, due_at) = Scene::with_consent(can_verify);
        scene.wait_for_deadline();
        scene.hears(Event::DeadlinePassed);
        scene.wait_for_deadline();
        assert_eq!(scene.now, due_at);
        let effects = scene.hears(Event::DeadlinePassed);
        assert_eq!((scene.state(), prompts(&effects)), (StateName::Valid, 0));
        assert_eq!(asks(&effects, verify()), can_verify);
        // The link's own status shows nothing of the consent.
        if can_verify {
            scene.wait(MINUTE);
            let observed = scene.observed(Status::Valid, None);
            scene.hears(observed);
        }
        scene.wait_for_deadline();
        assert_eq!(prompts(&scene.hears(Event::DeadlinePassed)), 1);
        assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
    }
}

#[test]
fn a_consent_that_is_authorised_beyond_its_date_is_not_over() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait_for_deadline();
    scene.hears(Event::DeadlinePassed);
    scene.wait_for_deadline();
    scene.hears(Event::DeadlinePassed);
    // Belvo's word lags behind its own date.
    scene.wait(MINUTE);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert_eq!(scene.tries(with_consent(seen.clone(), Some(due_at))), Err(Refusal::AlreadyKnown));
    assert!(matches!(scene.story.link.state, State::Valid { suspicion: Some(_) }));
    // A date that is ahead is its word, too.
    assert_eq!(scene.hears(with_consent(seen, Some(shift(due_at, 366 * DAY)))), []);
    assert_eq!(scene.story.link.state, State::Valid { suspicion: None });
}

#[test]
fn a_muted_link_hears_of_the_end_when_it_is_unmuted() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.hears(Event::Command(Command::Mute));
    scene.now = shift(due_at, -3 * DAY);
    assert_eq!(scene.tries(with_consent(Event::ConsentEnding, Some(due_at))), Err(Refusal::AlreadyKnown));
    assert_eq!(scene.tries(Event::DeadlinePassed), Err(Refusal::NotDue));
    scene.hears(Event::Command(Command::Unmute));
    assert_eq!(announcements(&scene.hears(Event::DeadlinePassed)), [Some(due_at)]);
}

#[test]
fn what_belvo_announced_while_the_link_was_broken_is_announced_after_its_repair() {
    let mut scene = Scene::broken(true, Cause::AccountBlocked);
    let due_at = shift(scene.now, 5 * DAY);
    assert_eq!(scene.hears(with_consent(Event::ConsentEnding, Some(due_at))), []);
    scene.wait(DAY);
    let observed = scene.observed(Status::Valid, Some(scene.now));
    scene.hears(observed);
    let told = scene.hears(Event::DeadlinePassed);
    assert_eq!(announcements(&told), [Some(due_at)]);
}

#[test]
fn a_consent_that_is_found_revoked_is_an_outage() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.wait(DAY);
    let seen = scene.reads_consent(ConsentStatus::Ended);
    assert_eq!(prompts(&scene.hears(seen)), 1);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
}

#[test]
fn an_invalid_link_with_a_consent_needs_no_password() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.wait(DAY);
    let observed = scene.observed(Status::Invalid, None);
    scene.hears(observed);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
}

/// Whether a step recovered the link.
fn recovers(effects: &[Effect], by: Proof) -> bool {
    let is_it =
        |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::Recovered { proof }, .. } if *proof == by);
    effects.iter().any(is_it)
}

#[test]
fn a_renewal_heals() {
    // Belvo says so and is asked; its list of consents is proof.
    let (mut scene, _) = Scene::with_consent(true);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let renewed = shift(scene.now, 366 * DAY);
    assert!(asks(&scene.hears(with_consent(Event::ConsentChanged, Some(renewed))), verify()));
    assert_eq!(scene.state(), StateName::Updating);
    scene.wait(MINUTE);
    let ended = scene.reads_consent(ConsentStatus::Ended);
    assert_eq!(scene.hears(ended), [], "its status may lag");
    assert_eq!(scene.state(), StateName::Updating);
    let authorised = scene.reads_consent(ConsentStatus::Authorised);
    assert!(recovers(&scene.hears(authorised), Proof::Observed));

    // Without keys the webhook is all there is.
    let (mut scene, _) = Scene::with_consent(false);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let renewed = with_consent(Event::ConsentChanged, Some(shift(scene.now, 366 * DAY)));
    assert!(recovers(&scene.hears(renewed), Proof::Claimed));
}

#[test]
fn a_renewal_that_nobody_told_is_seen_by_its_date() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    assert!(recovers(&scene.hears(with_consent(seen, Some(shift(due_at, 366 * DAY)))), Proof::Observed));
}

#[test]
fn an_authorised_consent_without_accounts_heals_nothing() {
    // 401 `consent_without_accounts`: the consent stays as it was.
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    for _ in 0..3 {
        scene.wait(DAY);
        let seen = scene.reads_consent(ConsentStatus::Authorised);
        assert_eq!(scene.tries(with_consent(seen, Some(due_at))), Err(Refusal::AlreadyKnown));
    }
    assert_eq!((scene.state(), scene.story.link.episodes_count), (StateName::Invalid, 1));
}

#[test]
fn a_claim_of_a_renewal_is_not_proven_by_the_links_status() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    let opened_at = scene.now;
    scene.wait(MINUTE);
    scene.hears(Event::UpdateClaimed);
    let ended = scene.reads_consent(ConsentStatus::Ended);
    assert_eq!(scene.hears(ended), [], "it answers the question, and the claim is not over");
    let observed = scene.observed(Status::Valid, Some(shift(opened_at, -HOUR)));
    assert_eq!(scene.tries(observed), Err(Refusal::AlreadyKnown));
    let observed = scene.observed(Status::Valid, Some(shift(opened_at, SECOND)));
    assert!(recovers(&scene.hears(observed), Proof::Observed), "Belvo has had access since");
}

#[test]
fn a_read_from_before_the_end_heals_nothing() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait(DAY);
    let before = scene.reads_consent(ConsentStatus::Authorised);
    scene.wait(MINUTE);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.hears(with_consent(before, Some(shift(due_at, DAY))));
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_consent_read_before_the_link_was_seen_broken_heals_nothing() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.wait(HOUR);
    scene.hears(Event::Broken(Breakage::of(Cause::Token)));
    scene.wait(HOUR);
    let before = scene.reads_consent(ConsentStatus::Authorised);
    scene.wait(SECOND);
    let broken = scene.observed(Status::Invalid, None);
    scene.hears(broken);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
    // Received last, and read first.
    scene.hears(with_consent(before, Some(shift(due_at, DAY))));
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_read_from_before_the_renewal_breaks_nothing() {
    let (mut scene, due_at) = Scene::with_consent(true);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let before = scene.reads_consent(ConsentStatus::Ended);
    scene.wait(MINUTE);
    let seen = scene.reads_consent(ConsentStatus::Authorised);
    scene.hears(with_consent(seen, Some(shift(due_at, 366 * DAY))));
    assert_eq!((scene.state(), scene.tries(before)), (StateName::Valid, Err(Refusal::Stale)));
}

#[test]
fn a_read_from_before_the_outage_does_not_change_its_cause() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.wait(DAY);
    let before = scene.reads_consent(ConsentStatus::Ended);
    scene.wait(MINUTE);
    scene.hears(Event::Broken(Breakage::of(Cause::AccountBlocked)));
    assert_eq!(scene.tries(before), Err(Refusal::Stale));
    scene.wait(MINUTE);
    let after = scene.reads_consent(ConsentStatus::Ended);
    scene.hears(after);
    assert_eq!((scene.cause(), scene.story.link.episodes_count), (Some(Cause::ConsentEnded), 1));
}

#[test]
fn a_change_to_a_date_that_is_over_is_no_renewal() {
    let (mut scene, _) = Scene::with_consent(true);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.wait(HOUR);
    let over = shift(scene.now, -MINUTE);
    assert!(asks(&scene.hears(with_consent(Event::ConsentChanged, Some(over))), verify()));
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn data_refutes_the_end_of_a_consent_where_belvo_cannot_be_asked() {
    for can_verify in [true, false] {
        let (mut scene, due_at) = Scene::with_consent(can_verify);
        scene.now = due_at;
        scene.hears(Event::DeadlinePassed);
        scene.wait(MINUTE);
        scene.hears(data());
        // With keys Belvo's answer decides: the data may be older than the end.
        assert_eq!(scene.story.link.state != State::Valid { suspicion: None }, can_verify);
    }
}
