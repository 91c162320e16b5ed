//! Peculiarities of Belvo that a simple implementation handles wrongly, with one example each.

use relink::link::{
    AccessMode, AttemptEnd, Breakage, Cause, Command, DedupKey, Effect, Event, Input, Job, LinkObservation, Notice,
    Profile, Proof, RECENT_KEYS_MAX, Refusal, Session, State, StateName, Status, UpdatePhase,
};

use crate::scene::{SECOND, Scene, asks, data, prompts, rejected, verify};
use crate::world::{DAY, HOUR, History, MINUTE, START, shift};

#[test]
fn a_late_duplicate_after_a_repair_is_verified_and_refuted() {
    let mut scene = Scene::repaired();
    scene.wait(MINUTE);
    let effects = scene.receive(rejected());
    assert_eq!((scene.state(), prompts(&effects)), (StateName::Valid, 0));
    assert!(asks(&effects, verify()));
    scene.wait(SECOND);
    let observed = scene.observed(Status::Valid, None);
    assert_eq!(scene.receive(observed), []);
    assert_eq!(scene.history.link.state, State::Valid { suspicion: None });
}

#[test]
fn a_new_outage_that_looks_like_a_late_duplicate_prompts_after_verification() {
    let mut scene = Scene::repaired();
    scene.receive(rejected());
    scene.wait(SECOND);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.receive(observed)), 1);
    assert_eq!(scene.history.link.episodes_count, 2);
}

#[test]
fn a_suspicion_without_an_answer_is_confirmed() {
    let mut scene = Scene::repaired();
    scene.receive(rejected());
    for _ in 1..scene.history.policy.settings().verify_attempts_max {
        scene.wait_for_deadline();
        assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(verify())]);
    }
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_webhook_that_is_delivered_twice_counts_once() {
    let mut scene = Scene::valid(true);
    let webhook = Input { key: Some(DedupKey(1)), ..rejected().into() };
    assert_eq!(prompts(&scene.receive(webhook.clone())), 1);
    scene.wait(HOUR);
    assert_eq!(scene.try_receive(webhook), Err(Refusal::Repeated));
}

#[test]
fn several_resources_failing_in_one_refresh_prompt_once() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    assert_eq!(scene.try_receive(rejected()), Err(Refusal::AlreadyKnown));
    scene.wait(6 * HOUR);
    assert_eq!(scene.try_receive(rejected()), Err(Refusal::AlreadyKnown));
    let effects = scene.receive(Event::Broken(Breakage::of(Cause::Token)));
    assert_eq!((scene.state(), prompts(&effects)), (StateName::TokenRequired, 0));
}

#[test]
fn mfa_during_creation_never_prompts() {
    let mut scene = Scene { history: History::new(true), now: START };
    assert_eq!(scene.receive(Event::CreationUnfinished), []);
    let session = Some(Session { expires_at: shift(START, 10 * MINUTE) });
    let answer = Breakage { session, during_update: true, ..Breakage::of(Cause::Token) };
    assert_eq!(scene.try_receive(Event::Broken(answer)), Err(Refusal::CreationOnly));
    while scene.history.link.deadline(&scene.history.policy).is_some() {
        scene.wait_for_deadline();
        assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 0);
    }
    assert_eq!(scene.state(), StateName::Unconfirmed);
}

#[test]
fn mfa_of_the_creation_does_not_break_a_working_link() {
    let mut scene = Scene::valid(true);
    assert_eq!(scene.try_receive(Event::CreationUnfinished), Err(Refusal::CreationOnly));
}

#[test]
fn a_new_password_may_be_followed_by_a_token() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.update_starts();
    scene.wait(MINUTE);
    let expires_at = shift(scene.now, 20 * MINUTE);
    let session = Some(Session { expires_at });
    let effects = scene.receive(Event::Broken(Breakage { session, during_update: true, ..Breakage::of(Cause::Token) }));
    assert_eq!((scene.state(), prompts(&effects)), (StateName::Updating, 0));
    // The MFA session extends the attempt beyond the widget token.
    assert_eq!(scene.history.link.deadline(&scene.history.policy), Some(expires_at));
    scene.wait(MINUTE);
    let effects = scene.receive(Event::SessionExpired);
    assert!(asks(&effects, verify()));
    let observed = scene.observed(Status::TokenRequired, None);
    assert_eq!(prompts(&scene.receive(observed)), 0);
    assert_eq!((scene.state(), scene.history.link.episodes_count), (StateName::TokenRequired, 1));
}

#[test]
fn an_observed_valid_does_not_end_the_episode_of_an_ended_consent() {
    for cause in [Cause::ConsentEnded, Cause::AccountBlocked, Cause::Unsupported] {
        let mut scene = Scene::broken(true, cause);
        let before = scene.now;
        scene.wait(HOUR);
        for accessed in [None, Some(before)] {
            let observed = scene.observed(Status::Valid, accessed);
            assert_eq!(scene.try_receive(observed), Err(Refusal::AlreadyKnown));
        }
        let observed = scene.observed(Status::Valid, Some(shift(before, MINUTE)));
        scene.receive(observed);
        assert_eq!(scene.state(), StateName::Valid);
    }
}

#[test]
fn an_observation_older_than_the_outage_does_not_end_it() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    let read = LinkObservation { observed_at: shift(scene.now, -1), status: Status::Valid, last_accessed_at: None };
    assert_eq!(scene.try_receive(Event::Observed(read)), Err(Refusal::Outdated));
}

#[test]
fn a_repair_without_any_later_webhook_is_no_error() {
    let mut scene = Scene::broken(false, Cause::Credentials);
    let effects = scene.receive(Event::UpdateClaimed);
    let is_claimed =
        |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::Recovered { proof: Proof::Claimed }, .. });
    assert!(effects.iter().any(is_claimed));
    scene.wait_for_deadline();
    assert_eq!(scene.receive(Event::DeadlinePassed), []);
    assert_eq!((scene.state(), scene.history.link.deadline(&scene.history.policy)), (StateName::Valid, None));
}

#[test]
fn an_abandoned_attempt_returns_to_the_broken_state_without_a_prompt() {
    for cause in [Cause::Credentials, Cause::Token] {
        let mut scene = Scene::broken(true, cause);
        let broken = scene.state();
        scene.update_starts();
        scene.receive(Event::UpdateAbandoned);
        scene.wait(SECOND);
        let status = if cause == Cause::Token { Status::TokenRequired } else { Status::Invalid };
        let observed = scene.observed(status, None);
        let effects = scene.receive(observed);
        let [Effect::Notice { notice, episode }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(*notice, Notice::UpdateFailed { after: AttemptEnd::Abandoned });
        assert_eq!(episode.as_ref(), scene.history.link.state.episode());
        assert_eq!((scene.state(), scene.history.link.episodes_count), (broken, 1));
    }
}

#[test]
fn a_widget_whose_exit_never_came_times_out() {
    let mut scene = Scene::broken(false, Cause::Token);
    scene.update_starts();
    scene.wait_for_deadline();
    let effects = scene.receive(Event::DeadlinePassed);
    assert_eq!((scene.state(), prompts(&effects)), (StateName::TokenRequired, 0));
}

#[test]
fn a_claim_that_belvo_does_not_confirm_is_verified_several_times_and_then_fails() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.receive(Event::UpdateClaimed);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(scene.receive(observed), [], "Belvo's status lags behind a repair");
    assert_eq!(scene.state(), StateName::Updating);
    for _ in 1..scene.history.policy.settings().verify_attempts_max {
        scene.wait_for_deadline();
        assert!(asks(&scene.receive(Event::DeadlinePassed), verify()));
        assert!(matches!(scene.history.link.state, State::Updating { phase: UpdatePhase::Verifying { .. }, .. }));
    }
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 0);
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_muted_link_is_prompted_when_it_is_unmuted_and_only_then() {
    let mut scene = Scene::valid(true);
    scene.receive(Event::Command(Command::Mute));
    assert_eq!(scene.receive(rejected()), []);
    assert_eq!(scene.history.link.deadline(&scene.history.policy), None);
    scene.wait(2 * DAY);
    assert_eq!(prompts(&scene.receive(Event::Command(Command::Unmute))), 1);
    scene.receive(Event::Command(Command::Mute));
    assert_eq!(scene.receive(Event::Command(Command::Unmute)), []);
    scene.wait_for_deadline();
    let effects = scene.receive(Event::DeadlinePassed);
    assert!(matches!(effects[..], [Effect::Notice { notice: Notice::Reminder { number: 1 }, .. }]));
}

#[test]
fn a_late_message_never_revives_a_removed_link() {
    let mut scene = Scene::valid(true);
    scene.receive(Event::LinkDeleted);
    for event in [data(), rejected(), scene.observed(Status::Valid, Some(scene.now))] {
        assert_eq!(scene.try_receive(event), Err(Refusal::Removed));
    }
}

#[test]
fn a_reported_404_for_an_id_that_nobody_knows_makes_no_link() {
    let mut scene = Scene::unknown(true);
    assert_eq!(scene.try_receive(Event::MissingReported), Err(Refusal::AlreadyKnown));
}

#[test]
fn a_reported_404_is_verified_before_the_link_is_removed() {
    let mut scene = Scene::valid(true);
    assert_eq!(scene.receive(Event::MissingReported), [Effect::Job(verify())]);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn after_a_failed_attempt_belvos_status_decides_the_cause() {
    let mut scene = Scene::broken(true, Cause::Token);
    scene.update_starts();
    scene.receive(Event::UpdateAbandoned);
    let observed = scene.observed(Status::Invalid, None);
    scene.receive(observed);
    assert_eq!((scene.state(), scene.cause()), (StateName::Invalid, Some(Cause::Credentials)));
    let observed = scene.observed(Status::TokenRequired, None);
    scene.receive(observed);
    assert_eq!((scene.state(), scene.cause()), (StateName::TokenRequired, Some(Cause::Token)));
}

#[test]
fn an_observation_does_not_refute_later_evidence() {
    let mut scene = Scene::repaired();
    scene.wait(MINUTE);
    scene.receive(rejected());
    let read = scene.observed(Status::Valid, None);
    scene.wait(SECOND);
    scene.receive(rejected());
    assert_eq!(scene.try_receive(read), Err(Refusal::AlreadyKnown));
    assert_eq!(scene.state(), StateName::Valid);
    // The verify request is repeated, and its answer counts.
    scene.wait_for_deadline();
    assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(verify())]);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.receive(observed)), 1);
}

#[test]
fn an_ended_consent_replaces_an_older_suspicion() {
    let mut scene = Scene::repaired();
    scene.receive(rejected());
    scene.wait(SECOND);
    scene.receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.receive(rejected());
    scene.wait(SECOND);
    let observed = scene.observed(Status::Valid, None);
    scene.receive(observed);
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
}

#[test]
fn evidence_after_the_settle_window_opens_an_episode_in_spite_of_a_suspicion() {
    let mut scene = Scene::valid(true);
    scene.receive(Event::Broken(Breakage { during_update: true, ..Breakage::of(Cause::Credentials) }));
    assert_eq!(scene.state(), StateName::Valid);
    assert_eq!(prompts(&scene.receive(rejected())), 1);
}

#[test]
fn an_outage_does_not_make_a_recurrent_link_stale() {
    for can_verify in [false, true] {
        let mut scene = Scene::broken(can_verify, Cause::Credentials);
        let every = std::time::Duration::from_secs(6 * 3600);
        let access_mode = Some(AccessMode::Recurrent);
        let profile = Profile { access_mode, refresh_every: Some(every), ..Profile::default() };
        scene.wait(5 * DAY);
        scene.receive(Input { profile, ..Event::UpdateClaimed.into() });
        if can_verify {
            let observed = scene.observed(Status::Valid, None);
            scene.receive(observed);
        }
        assert_eq!(scene.state(), StateName::Valid);
        scene.wait(MINUTE);
        assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
    }
}

/// An answer that changes nothing closes the verify request: data right after it may be the end of the outage.
#[test]
fn data_right_after_an_answer_is_verified_again() {
    for (cause, status) in [
        (Cause::Credentials, Status::Invalid),
        (Cause::Token, Status::TokenRequired),
        (Cause::AccountBlocked, Status::Valid),
    ] {
        let mut scene = Scene::broken(true, cause);
        scene.wait(MINUTE);
        assert!(asks(&scene.receive(data()), verify()), "{cause:?}: a late webhook, perhaps");
        scene.wait(SECOND);
        let as_before = scene.observed(status, None);
        scene.receive(as_before.clone());
        assert_eq!(scene.try_receive(as_before), Err(Refusal::AlreadyKnown));
        scene.wait(SECOND);
        assert!(asks(&scene.receive(data()), verify()), "{cause:?}: the user was quick");
    }
}

/// The data that led to the verify request arrived after the repair. The data counts for the refresh, unless Belvo says
/// that the link is still broken.
#[test]
fn data_before_the_proof_counts_for_the_refresh() {
    for late in [false, true] {
        let mut scene = Scene::broken(true, Cause::Credentials);
        scene.wait(MINUTE);
        scene.receive(data());
        scene.wait(SECOND);
        if late {
            let still_broken = scene.observed(Status::Invalid, None);
            scene.receive(still_broken);
            scene.wait(SECOND);
        }
        let works = scene.observed(Status::Valid, None);
        let effects = scene.receive(works);
        let is_refreshed = |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::Refreshed { missing, .. }, .. } if missing.is_empty());
        assert_eq!(effects.iter().any(is_refreshed), !late, "{effects:?}");
        assert_eq!(scene.history.link.refresh.is_some(), late);
    }
}

#[test]
fn only_the_newest_dedup_keys_are_kept() {
    let mut scene = Scene::valid(true);
    let fact = |key| Input { key: Some(DedupKey(key)), ..data().into() };
    for key in 0..=RECENT_KEYS_MAX as u64 {
        scene.receive(fact(key));
    }
    assert_eq!(scene.history.link.recent.len(), RECENT_KEYS_MAX);
    assert_eq!(scene.try_receive(fact(1)), Err(Refusal::Repeated));
    scene.receive(fact(0));
}

fn refused_login() -> Event {
    Event::Broken(Breakage { refused_login: true, ..Breakage::of(Cause::Credentials) })
}

#[test]
fn a_lagging_status_does_not_end_the_episode_of_a_refused_login() {
    // Belvo's status becomes `invalid` only after several refused logins.
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    assert_eq!(prompts(&scene.receive(refused_login())), 1);
    let refused_at = scene.now;
    for accessed in [None, Some(shift(refused_at, -HOUR))] {
        scene.wait(HOUR);
        let observed = scene.observed(Status::Valid, accessed);
        assert_eq!(scene.try_receive(observed), Err(Refusal::AlreadyKnown));
    }
    // An access before the latest refused login does not count either.
    let accessed = Some(scene.now);
    scene.wait(MINUTE);
    scene.receive(refused_login());
    scene.wait(MINUTE);
    let observed = scene.observed(Status::Valid, accessed);
    assert_eq!(scene.try_receive(observed), Err(Refusal::AlreadyKnown));
    let observed = scene.observed(Status::Valid, Some(scene.now));
    scene.receive(observed);
    assert_eq!((scene.state(), scene.history.link.episodes_count), (StateName::Valid, 1));
}

#[test]
fn after_belvos_status_has_shown_the_outage_an_observed_valid_ends_it() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.receive(refused_login());
    scene.wait(HOUR);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(scene.receive(observed), []);
    scene.wait(HOUR);
    let observed = scene.observed(Status::Valid, None);
    scene.receive(observed);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn a_claim_after_a_refused_login_is_proven_by_the_status() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.receive(refused_login());
    scene.update_starts();
    let observed = scene.observed(Status::Valid, None);
    assert_eq!(scene.try_receive(observed), Err(Refusal::AlreadyKnown), "the user is still in the widget");
    scene.receive(Event::UpdateClaimed);
    let observed = scene.observed(Status::Valid, None);
    scene.receive(observed);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn a_refresh_is_asked_for_before_a_reminder_of_a_refused_login() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.receive(refused_login());
    for number in 1..=2 {
        scene.wait_for_deadline();
        let login = Job::Refresh { resources: Vec::new() };
        assert_eq!(scene.receive(Event::DeadlinePassed), [Effect::Job(login)]);
        // The login is refused again, so the reminder is sent.
        scene.wait(SECOND);
        assert_eq!(scene.receive(refused_login()), []);
        scene.wait_for_deadline();
        let effects = scene.receive(Event::DeadlinePassed);
        assert!(
            matches!(&effects[..], [Effect::Notice { notice: Notice::Reminder { number: sent }, .. }] if *sent == number)
        );
    }
    // The third login succeeds: the episode ends, and no reminder is sent.
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    scene.wait(SECOND);
    assert!(asks(&scene.receive(Event::RefreshAccepted), verify()));
    let observed = scene.observed(Status::Valid, Some(scene.now));
    scene.receive(observed);
    assert_eq!((scene.state(), scene.history.link.episodes_count), (StateName::Valid, 1));
}

/// The clock of the reader runs ahead, by a minute or by a hundred years.
#[test]
fn a_read_by_a_clock_that_runs_ahead_does_not_outrank_later_reads() {
    for ahead in [MINUTE, 36_500 * DAY] {
        let mut scene = Scene::valid(true);
        let early = |scene: &Scene, status| match scene.observed(status, None) {
            Event::Observed(seen) => {
                Event::Observed(LinkObservation { observed_at: shift(seen.observed_at, ahead), ..seen })
            }
            other => other,
        };
        let broken = early(&scene, Status::TokenRequired);
        scene.receive(broken);
        scene.wait(1_000);
        let repaired = scene.observed(Status::Valid, None);
        scene.receive(repaired);
        assert_eq!(scene.state(), StateName::Valid);
    }
}
