//! What naive designs get wrong about Belvo, one example each.

use relink::link::{
    AccessMode, Attempt, Breakage, Cause, Command, DedupKey, Effect, Event, Input, Job, Notice, Observation, Phase,
    Profile, Proof, RECENT_KEYS_MAX, Refusal, Session, State, StateName, Status,
};

use crate::scene::{SECOND, Scene, asks, data, prompts, rejected, verify};
use crate::world::{DAY, HOUR, MINUTE, START, Story, shift};

#[test]
fn a_late_duplicate_after_a_repair_is_asked_about_and_refuted() {
    let mut scene = Scene::repaired();
    scene.wait(MINUTE);
    let effects = scene.hears(rejected());
    assert_eq!((scene.state(), prompts(&effects)), (StateName::Valid, 0));
    assert!(asks(&effects, verify()));
    scene.wait(SECOND);
    let observed = scene.observed(Status::Valid, None);
    assert_eq!(scene.hears(observed), []);
    assert_eq!(scene.story.link.state, State::Valid { suspicion: None });
}

#[test]
fn a_late_duplicate_that_was_no_duplicate_prompts_once_it_is_confirmed() {
    let mut scene = Scene::repaired();
    scene.hears(rejected());
    scene.wait(SECOND);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.hears(observed)), 1);
    assert_eq!(scene.story.link.episodes_count, 2);
}

#[test]
fn a_doubt_that_nobody_answers_is_believed() {
    let mut scene = Scene::repaired();
    scene.hears(rejected());
    for _ in 1..scene.story.policy.settings().verify_attempts_max {
        scene.wait_for_deadline();
        assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(verify())]);
    }
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.hears(Event::DeadlinePassed)), 1);
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn the_same_webhook_twice_is_one_fact() {
    let mut scene = Scene::valid(true);
    let webhook = Input { key: Some(DedupKey(1)), ..rejected().into() };
    assert_eq!(prompts(&scene.hears(webhook.clone())), 1);
    scene.wait(HOUR);
    assert_eq!(scene.tries(webhook), Err(Refusal::Repeated));
}

#[test]
fn several_resources_failing_in_one_refresh_prompt_once() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    assert_eq!(scene.tries(rejected()), Err(Refusal::AlreadyKnown));
    scene.wait(6 * HOUR);
    assert_eq!(scene.tries(rejected()), Err(Refusal::AlreadyKnown));
    let effects = scene.hears(Event::Broken(Breakage::of(Cause::Token)));
    assert_eq!((scene.state(), prompts(&effects)), (StateName::TokenRequired, 0));
}

#[test]
fn mfa_during_creation_never_prompts() {
    let mut scene = Scene { story: Story::new(true), now: START };
    assert_eq!(scene.hears(Event::CreationUnfinished), []);
    let session = Some(Session { expires_at: shift(START, 10 * MINUTE) });
    let answer = Breakage { session, during_update: true, ..Breakage::of(Cause::Token) };
    assert_eq!(scene.tries(Event::Broken(answer)), Err(Refusal::CreationOnly));
    assert_eq!(scene.state(), StateName::Unconfirmed);
    assert_eq!(scene.story.link.deadline(&scene.story.policy), None);
}

#[test]
fn mfa_of_the_creation_does_not_break_a_working_link() {
    let mut scene = Scene::valid(true);
    assert_eq!(scene.tries(Event::CreationUnfinished), Err(Refusal::CreationOnly));
}

#[test]
fn a_new_password_may_be_followed_by_a_token() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.update_starts();
    scene.wait(MINUTE);
    let expires_at = shift(scene.now, 20 * MINUTE);
    let session = Some(Session { expires_at });
    let effects = scene.hears(Event::Broken(Breakage { session, during_update: true, ..Breakage::of(Cause::Token) }));
    assert_eq!((scene.state(), prompts(&effects)), (StateName::Updating, 0));
    // The session buys the user time beyond the widget token.
    assert_eq!(scene.story.link.deadline(&scene.story.policy), Some(expires_at));
    scene.wait(MINUTE);
    let effects = scene.hears(Event::SessionExpired);
    assert!(asks(&effects, verify()));
    let observed = scene.observed(Status::TokenRequired, None);
    assert_eq!(prompts(&scene.hears(observed)), 0);
    assert_eq!((scene.state(), scene.story.link.episodes_count), (StateName::TokenRequired, 1));
}

#[test]
fn an_ended_consent_is_not_healed_by_a_bare_valid() {
    for cause in [Cause::ConsentEnded, Cause::AccountBlocked, Cause::Unsupported] {
        let mut scene = Scene::broken(true, cause);
        let before = scene.now;
        scene.wait(HOUR);
        for accessed in [None, Some(before)] {
            let observed = scene.observed(Status::Valid, accessed);
            assert_eq!(scene.tries(observed), Err(Refusal::AlreadyKnown));
        }
        let observed = scene.observed(Status::Valid, Some(shift(before, MINUTE)));
        scene.hears(observed);
        assert_eq!(scene.state(), StateName::Valid);
    }
}

#[test]
fn a_read_older_than_the_outage_does_not_end_it() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    let read = Observation { observed_at: shift(scene.now, -1), status: Status::Valid, last_accessed_at: None };
    assert_eq!(scene.tries(Event::Observed(read)), Err(Refusal::Stale));
}

#[test]
fn no_webhook_after_a_repair_is_legal() {
    let mut scene = Scene::broken(false, Cause::Credentials);
    let effects = scene.hears(Event::UpdateClaimed);
    let is_claimed =
        |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::Recovered { proof: Proof::Claimed }, .. });
    assert!(effects.iter().any(is_claimed));
    scene.wait_for_deadline();
    assert_eq!(scene.hears(Event::DeadlinePassed), []);
    assert_eq!((scene.state(), scene.story.link.deadline(&scene.story.policy)), (StateName::Valid, None));
}

#[test]
fn an_abandoned_widget_falls_back_without_a_prompt() {
    for cause in [Cause::Credentials, Cause::Token] {
        let mut scene = Scene::broken(true, cause);
        let broken = scene.state();
        scene.update_starts();
        scene.hears(Event::UpdateAbandoned);
        scene.wait(SECOND);
        let status = if cause == Cause::Token { Status::TokenRequired } else { Status::Invalid };
        let observed = scene.observed(status, None);
        let effects = scene.hears(observed);
        let [Effect::Notice { notice, episode }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(*notice, Notice::UpdateFailed { after: Attempt::Abandoned });
        assert_eq!(episode.as_ref(), scene.story.link.state.episode());
        assert_eq!((scene.state(), scene.story.link.episodes_count), (broken, 1));
    }
}

#[test]
fn a_widget_whose_exit_never_came_times_out() {
    let mut scene = Scene::broken(false, Cause::Token);
    scene.update_starts();
    scene.wait_for_deadline();
    let effects = scene.hears(Event::DeadlinePassed);
    assert_eq!((scene.state(), prompts(&effects)), (StateName::TokenRequired, 0));
}

#[test]
fn a_claim_that_belvo_does_not_confirm_is_asked_about_and_then_fails() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.hears(Event::UpdateClaimed);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(scene.hears(observed), [], "Belvo's status lags behind a repair");
    assert_eq!(scene.state(), StateName::Updating);
    for _ in 1..scene.story.policy.settings().verify_attempts_max {
        scene.wait_for_deadline();
        assert!(asks(&scene.hears(Event::DeadlinePassed), verify()));
        assert!(matches!(scene.story.link.state, State::Updating { phase: Phase::Verifying { .. }, .. }));
    }
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.hears(Event::DeadlinePassed)), 0);
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_muted_link_is_prompted_when_it_is_unmuted_and_only_then() {
    let mut scene = Scene::valid(true);
    scene.hears(Event::Command(Command::Mute));
    assert_eq!(scene.hears(rejected()), []);
    assert_eq!(scene.story.link.deadline(&scene.story.policy), None);
    scene.wait(2 * DAY);
    assert_eq!(prompts(&scene.hears(Event::Command(Command::Unmute))), 1);
    scene.hears(Event::Command(Command::Mute));
    assert_eq!(scene.hears(Event::Command(Command::Unmute)), []);
    scene.wait_for_deadline();
    let effects = scene.hears(Event::DeadlinePassed);
    assert!(matches!(effects[..], [Effect::Notice { notice: Notice::Reminder { number: 1 }, .. }]));
}

#[test]
fn a_late_message_never_revives_a_removed_link() {
    let mut scene = Scene::valid(true);
    scene.hears(Event::LinkDeleted);
    for event in [data(), rejected(), scene.observed(Status::Valid, Some(scene.now))] {
        assert_eq!(scene.tries(event), Err(Refusal::Removed));
    }
}

#[test]
fn a_404_for_some_call_is_verified_before_it_is_believed() {
    let mut scene = Scene::valid(true);
    assert_eq!(scene.hears(Event::MissingReported), [Effect::Job(verify())]);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn what_belvo_says_after_a_failed_attempt_is_the_cause_from_then_on() {
    let mut scene = Scene::broken(true, Cause::Token);
    scene.update_starts();
    scene.hears(Event::UpdateAbandoned);
    let observed = scene.observed(Status::Invalid, None);
    scene.hears(observed);
    assert_eq!((scene.state(), scene.cause()), (StateName::Invalid, Some(Cause::Credentials)));
    let observed = scene.observed(Status::TokenRequired, None);
    scene.hears(observed);
    assert_eq!((scene.state(), scene.cause()), (StateName::TokenRequired, Some(Cause::Token)));
}

#[test]
fn evidence_after_a_read_is_not_refuted_by_it() {
    let mut scene = Scene::repaired();
    scene.wait(MINUTE);
    scene.hears(rejected());
    let read = scene.observed(Status::Valid, None);
    scene.wait(SECOND);
    scene.hears(rejected());
    assert_eq!(scene.tries(read), Err(Refusal::AlreadyKnown));
    assert_eq!(scene.state(), StateName::Valid);
    // The verify is asked for again, and its answer counts.
    scene.wait_for_deadline();
    assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(verify())]);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.hears(observed)), 1);
}

#[test]
fn an_ended_consent_is_not_lost_behind_an_older_doubt() {
    let mut scene = Scene::repaired();
    scene.hears(rejected());
    scene.wait(SECOND);
    scene.hears(Event::Broken(Breakage::of(Cause::ConsentEnded)));
    scene.hears(rejected());
    scene.wait(SECOND);
    let observed = scene.observed(Status::Valid, None);
    scene.hears(observed);
    scene.wait_for_deadline();
    assert_eq!(prompts(&scene.hears(Event::DeadlinePassed)), 1);
    assert_eq!(scene.cause(), Some(Cause::ConsentEnded));
}

#[test]
fn evidence_long_after_a_repair_is_believed_even_while_another_is_doubted() {
    let mut scene = Scene::valid(true);
    scene.hears(Event::Broken(Breakage { during_update: true, ..Breakage::of(Cause::Credentials) }));
    assert_eq!(scene.state(), StateName::Valid);
    assert_eq!(prompts(&scene.hears(rejected())), 1);
}

#[test]
fn a_recurrent_link_is_not_called_silent_for_its_outage() {
    for can_verify in [false, true] {
        let mut scene = Scene::broken(can_verify, Cause::Credentials);
        let every = std::time::Duration::from_secs(6 * 3600);
        let access_mode = Some(AccessMode::Recurrent);
        let profile = Profile { access_mode, refresh_every: Some(every), ..Profile::default() };
        scene.wait(5 * DAY);
        scene.hears(Input { profile, ..Event::UpdateClaimed.into() });
        if can_verify {
            let observed = scene.observed(Status::Valid, None);
            scene.hears(observed);
        }
        assert_eq!(scene.state(), StateName::Valid);
        scene.wait(MINUTE);
        assert_eq!(scene.tries(Event::DeadlinePassed), Err(Refusal::NotDue));
    }
}

/// An answer that changes nothing is an answer all the same: news right after it may be the end of the outage.
#[test]
fn data_right_after_an_answer_is_asked_about_again() {
    for (cause, status) in [
        (Cause::Credentials, Status::Invalid),
        (Cause::Token, Status::TokenRequired),
        (Cause::AccountBlocked, Status::Valid),
    ] {
        let mut scene = Scene::broken(true, cause);
        scene.wait(MINUTE);
        assert!(asks(&scene.hears(data()), verify()), "{cause:?}: a late webhook, perhaps");
        scene.wait(SECOND);
        let as_before = scene.observed(status, None);
        scene.hears(as_before.clone());
        assert_eq!(scene.tries(as_before), Err(Refusal::AlreadyKnown));
        scene.wait(SECOND);
        assert!(asks(&scene.hears(data()), verify()), "{cause:?}: the user was quick");
    }
}

/// The data that made us ask came after the repair: it counts, unless Belvo says that nothing has been repaired yet.
#[test]
fn data_that_came_before_the_proof_closes_the_gap() {
    for late in [false, true] {
        let mut scene = Scene::broken(true, Cause::Credentials);
        scene.wait(MINUTE);
        scene.hears(data());
        scene.wait(SECOND);
        if late {
            let still_broken = scene.observed(Status::Invalid, None);
            scene.hears(still_broken);
            scene.wait(SECOND);
        }
        let works = scene.observed(Status::Valid, None);
        let effects = scene.hears(works);
        let is_refreshed = |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::Refreshed { missing, .. }, .. } if missing.is_empty());
        assert_eq!(effects.iter().any(is_refreshed), !late, "{effects:?}");
        assert_eq!(scene.story.link.refresh.is_some(), late);
    }
}

#[test]
fn only_the_newest_facts_are_remembered() {
    let mut scene = Scene::valid(true);
    let fact = |key| Input { key: Some(DedupKey(key)), ..data().into() };
    for key in 0..=RECENT_KEYS_MAX as u64 {
        scene.hears(fact(key));
    }
    assert_eq!(scene.story.link.recent.len(), RECENT_KEYS_MAX);
    assert_eq!(scene.tries(fact(1)), Err(Refusal::Repeated));
    scene.hears(fact(0));
}

fn refused_login() -> Event {
    Event::Broken(Breakage { refused_login: true, ..Breakage::of(Cause::Credentials) })
}

#[test]
fn a_refused_login_is_not_healed_by_a_status_that_lags() {
    // Belvo calls a link invalid only after several refused logins: until then it says both.
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    assert_eq!(prompts(&scene.hears(refused_login())), 1);
    let refused_at = scene.now;
    for accessed in [None, Some(shift(refused_at, -HOUR))] {
        scene.wait(HOUR);
        let observed = scene.observed(Status::Valid, accessed);
        assert_eq!(scene.tries(observed), Err(Refusal::AlreadyKnown));
    }
    // An access before the latest refusal is none, either.
    let accessed = Some(scene.now);
    scene.wait(MINUTE);
    scene.hears(refused_login());
    scene.wait(MINUTE);
    let observed = scene.observed(Status::Valid, accessed);
    assert_eq!(scene.tries(observed), Err(Refusal::AlreadyKnown));
    let observed = scene.observed(Status::Valid, Some(scene.now));
    scene.hears(observed);
    assert_eq!((scene.state(), scene.story.link.episodes_count), (StateName::Valid, 1));
}

#[test]
fn once_belvos_status_says_so_it_is_believed_again() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.hears(refused_login());
    scene.wait(HOUR);
    let observed = scene.observed(Status::Invalid, None);
    assert_eq!(scene.hears(observed), []);
    scene.wait(HOUR);
    let observed = scene.observed(Status::Valid, None);
    scene.hears(observed);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn a_claim_after_a_refused_login_is_proven_by_the_status() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.hears(refused_login());
    scene.update_starts();
    let observed = scene.observed(Status::Valid, None);
    assert_eq!(scene.tries(observed), Err(Refusal::AlreadyKnown), "the user is still at it");
    scene.hears(Event::UpdateClaimed);
    let observed = scene.observed(Status::Valid, None);
    scene.hears(observed);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn before_a_reminder_of_a_refused_login_a_login_is_tried() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.hears(refused_login());
    for number in 1..=2 {
        scene.wait_for_deadline();
        let login = Job::Refresh { resources: Vec::new() };
        assert_eq!(scene.hears(Event::DeadlinePassed), [Effect::Job(login)]);
        // Refused again, and then the user hears.
        scene.wait(SECOND);
        assert_eq!(scene.hears(refused_login()), []);
        scene.wait_for_deadline();
        let effects = scene.hears(Event::DeadlinePassed);
        assert!(
            matches!(&effects[..], [Effect::Notice { notice: Notice::Reminder { number: told }, .. }] if *told == number)
        );
    }
    // The third is let in: nobody is reminded of what is over.
    scene.wait_for_deadline();
    scene.hears(Event::DeadlinePassed);
    scene.wait(SECOND);
    assert!(asks(&scene.hears(Event::RefreshAccepted), verify()));
    let observed = scene.observed(Status::Valid, Some(scene.now));
    scene.hears(observed);
    assert_eq!((scene.state(), scene.story.link.episodes_count), (StateName::Valid, 1));
}

/// The clock of the reader runs ahead, by a minute or by a hundred years.
#[test]
fn a_read_by_a_clock_that_runs_ahead_does_not_outrank_later_reads() {
    for ahead in [MINUTE, 36_500 * DAY] {
        let mut scene = Scene::valid(true);
        let early = |scene: &Scene, status| match scene.observed(status, None) {
            Event::Observed(seen) => {
                Event::Observed(Observation { observed_at: shift(seen.observed_at, ahead), ..seen })
            }
            other => other,
        };
        let broken = early(&scene, Status::TokenRequired);
        scene.hears(broken);
        scene.wait(1_000);
        let repaired = scene.observed(Status::Valid, None);
        scene.hears(repaired);
        assert_eq!(scene.state(), StateName::Valid);
    }
}
