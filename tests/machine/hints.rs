//! Hints: data, claims, minted tokens and callbacks of the widget make relink ask Belvo, but do not change the state of
//! a link by themselves. A hint that may still matter is kept.

use proptest::collection::vec;
use proptest::prelude::*;
use relink::link::{
    Breakage, Cause, Consent, Data, DataKind, Due, Effect, Event, Input, LinkObservation, Notice, Profile, Prompt,
    Refusal, Session, State, StateName, Status, UpdatePhase,
};

use crate::scene::{SECOND, Scene, asks, data, prompts, rejected, verify};
use crate::world::{DAY, HOUR, MINUTE, shift};

const KINDS: [DataKind; 3] = [DataKind::Historical, DataKind::New, DataKind::Changed];

fn arrives(kind: DataKind, has_errors: bool) -> Event {
    Event::DataArrived(Data { resource: "ACCOUNTS".into(), kind, items_count: None, has_errors })
}

fn is_recovered(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Notice { notice: Notice::Recovered { .. }, .. }))
}

fn reminders(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Notice { notice: Notice::Reminder { .. }, .. })).count()
}

/// A link in each state in which it may be broken, with the name of the state.
fn in_trouble(can_verify: bool) -> Vec<(&'static str, Scene)> {
    let broken = || Scene::broken(can_verify, Cause::Credentials);
    let with = |event: Event| {
        let mut scene = broken();
        scene.wait(MINUTE);
        scene.update_starts();
        scene.wait(MINUTE);
        scene.receive(event);
        scene
    };
    let mut updating = broken();
    updating.wait(MINUTE);
    updating.update_starts();
    let mut scenes = vec![
        ("invalid", broken()),
        ("token_required", Scene::broken(can_verify, Cause::Token)),
        ("blocked", Scene::broken(can_verify, Cause::AccountBlocked)),
        ("consent", Scene::broken(can_verify, Cause::ConsentEnded)),
        ("updating", updating),
    ];
    if can_verify {
        scenes.push(("claimed", with(Event::UpdateClaimed)));
        scenes.push(("abandoned", with(Event::UpdateAbandoned)));
        let mut suspected = Scene::repaired();
        suspected.wait(MINUTE);
        suspected.receive(rejected());
        scenes.push(("suspected", suspected));
    }
    for (_, scene) in &mut scenes {
        // Every open verify request is old enough to be repeated.
        scene.wait(3 * MINUTE);
    }
    scenes
}

#[test]
fn with_keys_data_never_changes_the_state_of_a_broken_link_and_always_asks_belvo() {
    for kind in KINDS {
        for has_errors in [false, true] {
            for (name, mut scene) in in_trouble(true) {
                let before = scene.state();
                let effects = scene.receive(arrives(kind, has_errors));
                assert_eq!(scene.state(), before, "{name} {kind:?} {has_errors}");
                assert!(asks(&effects, verify()), "{name} {kind:?} {has_errors}: {effects:?}");
                let suspicion = matches!(&scene.history.link.state, State::Valid { suspicion: None });
                assert!(!suspicion, "{name}: data does not refute a suspicion unasked");
            }
        }
    }
}

#[test]
fn without_keys_errors_and_corrections_prove_nothing() {
    for (kind, has_errors) in
        [(DataKind::Changed, false), (DataKind::Changed, true), (DataKind::New, true), (DataKind::Historical, true)]
    {
        for (name, mut scene) in in_trouble(false) {
            scene.wait(HOUR);
            let before = scene.state();
            let _either_way = scene.try_receive(arrives(kind, has_errors));
            assert_eq!(scene.state(), before, "{name} {kind:?} {has_errors}");
        }
        let mut scene = Scene::repaired_without_keys();
        scene.receive(rejected());
        let _either_way = scene.try_receive(arrives(kind, has_errors));
        assert!(matches!(scene.history.link.state, State::Valid { suspicion: Some(_) }), "{kind:?} {has_errors}");
    }
}

#[test]
fn a_correction_does_not_prove_that_the_link_works() {
    let mut scene = Scene::valid(true);
    let data_at = scene.history.link.data_at;
    scene.wait(HOUR);
    let effects = scene.receive(arrives(DataKind::Changed, false));
    assert!(matches!(&effects[..], [Effect::Notice { notice: Notice::DataAvailable(_), .. }]), "{effects:?}");
    assert_eq!(scene.history.link.data_at, data_at);
}

/// A case from a public report: data from before the outage arrives while the user is in the widget.
#[test]
fn late_data_during_an_update_asks_belvo_and_prompts_nobody_twice() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.wait(MINUTE);
    scene.update_starts();
    scene.wait(SECOND);
    let effects = scene.receive(arrives(DataKind::Historical, false));
    assert!(asks(&effects, verify()) && !is_recovered(&effects), "{effects:?}");
    scene.wait(SECOND);
    let still_broken = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.receive(still_broken)), 0);
    // After the answer the next data leads to a new verify request, because the user may have been quick.
    scene.wait(SECOND);
    assert!(asks(&scene.receive(arrives(DataKind::New, false)), verify()));
    scene.wait(SECOND);
    let works = scene.observed(Status::Valid, None);
    assert!(is_recovered(&scene.receive(works)));
    assert_eq!(scene.history.link.episodes_count, 1);
}

#[test]
fn a_success_callback_before_the_outage_message_begins_the_settle_window() {
    for can_verify in [true, false] {
        for first in [Some(data()), None] {
            let mut scene = Scene::unknown(can_verify);
            if let Some(first) = first.clone() {
                scene.receive(first);
                scene.wait(HOUR);
            }
            scene.receive(Event::UpdateClaimed);
            scene.wait(MINUTE);
            let effects = scene.receive(rejected());
            assert_eq!((scene.state(), prompts(&effects)), (StateName::Valid, 0), "{can_verify} {first:?}");
            if can_verify {
                scene.wait_for_deadline();
                assert!(asks(&scene.receive(Event::DeadlinePassed), verify()));
                let works = scene.observed(Status::Valid, None);
                assert_eq!(scene.receive(works), []);
                assert_eq!(scene.history.link.state, State::Valid { suspicion: None });
            } else {
                // Nothing refutes the suspicion, so it is confirmed when the window is over.
                scene.wait_for_deadline();
                assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
            }
        }
    }
}

#[test]
fn a_repeated_success_callback_is_refused() {
    let mut scene = Scene::repaired();
    scene.wait(SECOND);
    assert_eq!(scene.try_receive(Event::UpdateClaimed), Err(Refusal::AlreadyKnown));
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.receive(Event::UpdateClaimed);
    scene.wait(SECOND);
    assert_eq!(scene.try_receive(Event::UpdateClaimed), Err(Refusal::AlreadyKnown));
    // A later callback is another claim, and begins a new settle window.
    scene.wait(25 * MINUTE);
    scene.receive(Event::UpdateClaimed);
    scene.wait(25 * MINUTE);
    assert_eq!(prompts(&scene.receive(rejected())), 0);
}

#[test]
fn the_settle_window_of_a_claim_ends() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.receive(Event::UpdateClaimed);
    scene.wait(31 * MINUTE);
    assert_eq!(prompts(&scene.receive(rejected())), 1);
}

#[test]
fn belvos_status_lags_behind_a_claim_on_a_valid_link() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    assert!(asks(&scene.receive(Event::UpdateClaimed), verify()));
    scene.wait(SECOND);
    let lags = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.receive(lags)), 0);
    // The broken status is a suspicion until the claim has had all its verify requests; then it opens one episode.
    let mut asked = 0;
    for _ in 0..10 {
        if scene.state() != StateName::Valid {
            break;
        }
        scene.wait_for_deadline();
        let effects = scene.receive(Event::DeadlinePassed);
        asked += usize::from(asks(&effects, verify()));
        let lags = scene.observed(Status::Invalid, None);
        let _either_way = scene.try_receive(lags);
    }
    assert_eq!((scene.state(), scene.history.link.episodes_count), (StateName::Invalid, 1));
    assert!((1..=3).contains(&asked), "{asked}");
}

#[test]
fn a_token_after_the_success_does_not_cancel_the_claim() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    // A refused login: an observed `valid` counts only after a claim.
    scene.receive(Event::Broken(Breakage { refused_login: true, ..Breakage::of(Cause::Credentials) }));
    scene.update_starts();
    scene.wait(MINUTE);
    scene.receive(Event::UpdateClaimed);
    for _ in 0..3 {
        scene.wait(SECOND);
        let _the_page_was_drawn_again =
            scene.try_receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    }
    let works = scene.observed(Status::Valid, None);
    assert!(is_recovered(&scene.receive(works)));
    assert_eq!(scene.history.link.widget_until, None);
}

#[test]
fn a_claim_from_a_second_visit_is_verified_from_the_start() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.update_starts();
    scene.receive(Event::UpdateClaimed);
    assert_eq!(scene.try_receive(Event::UpdateClaimed), Err(Refusal::AlreadyKnown), "the callback came twice");
    scene.wait_for_deadline();
    scene.receive(Event::DeadlinePassed);
    scene.receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.wait(MINUTE);
    assert!(asks(&scene.receive(Event::UpdateClaimed), verify()));
    let State::Updating { episode, phase: UpdatePhase::Verifying { asked_count, .. }, .. } = &scene.history.link.state
    else {
        panic!("{:?}", scene.history.link.state)
    };
    assert_eq!((episode.attempts_count, *asked_count), (2, 1));
}

#[test]
fn a_user_in_the_widget_is_not_prompted_and_the_link_is_updating() {
    for (name, mut scene) in [("valid", Scene::valid(true)), ("unknown", Scene::unknown(true))] {
        scene.wait(HOUR);
        scene.receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
        scene.wait(MINUTE);
        let effects = scene.receive(rejected());
        assert_eq!((scene.state(), prompts(&effects)), (StateName::Updating, 0), "{name}");
        // The attempt fails, so the prompt of the episode is due.
        scene.receive(Event::UpdateAbandoned);
        scene.wait(SECOND);
        let still_broken = scene.observed(Status::Invalid, None);
        assert_eq!(prompts(&scene.receive(still_broken)), 1, "{name}");
        assert_eq!(scene.state(), StateName::Invalid);
        let episode = scene.history.link.state.episode().unwrap();
        assert_eq!((episode.prompt, episode.attempts_count), (Prompt::Sent, 1));
    }
}

#[test]
fn a_user_who_left_the_widget_is_prompted() {
    let mut scene = Scene::valid(true);
    scene.receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.wait(MINUTE);
    scene.receive(Event::UpdateAbandoned);
    assert_eq!(scene.try_receive(Event::UpdateAbandoned), Err(Refusal::NotUpdating));
    assert_eq!(prompts(&scene.receive(rejected())), 1);

    let mut scene = Scene::valid(true);
    scene.receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.wait(11 * MINUTE);
    assert_eq!(prompts(&scene.receive(rejected())), 1, "the token has expired");
}

#[test]
fn an_open_session_of_a_put_begins_an_attempt() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    let session = Some(Session { expires_at: shift(scene.now, 20 * MINUTE) });
    let answer = Breakage { session, during_update: true, ..Breakage::of(Cause::Token) };
    scene.receive(Event::Broken(answer));
    assert_eq!(scene.state(), StateName::Valid, "an answer to a PUT says nothing of the stored credentials");
    scene.wait(MINUTE);
    let effects = scene.receive(rejected());
    assert_eq!((scene.state(), prompts(&effects)), (StateName::Updating, 0));
}

#[test]
fn tokens_extend_an_attempt_up_to_update_wait_max() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    let started_at = scene.now;
    scene.update_starts();
    for _ in 0..60 {
        scene.wait(MINUTE / 2);
        let _drawn_again = scene.try_receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    }
    let longest = scene.history.policy.settings().update_wait_max;
    assert_eq!(scene.history.link.deadline(&scene.history.policy), Some(started_at.after(longest)));
}

#[test]
fn observations_are_ordered_by_when_they_were_read() {
    // Both observations were read before the first one arrived. The second one was read in the same second as the first
    // one, or later.
    for (first, second) in [
        (Status::Invalid, Status::Valid),
        (Status::TokenRequired, Status::Invalid),
        (Status::Invalid, Status::TokenRequired),
    ] {
        for later in [0, SECOND] {
            let mut scene = Scene::valid(true);
            scene.wait(HOUR);
            let read_at = shift(scene.now, -MINUTE);
            let read =
                |status, at| Event::Observed(LinkObservation { observed_at: at, status, last_accessed_at: None });
            scene.receive(read(first, read_at));
            scene.receive(read(second, shift(read_at, later)));
            let expected = match second {
                Status::Valid => StateName::Valid,
                Status::TokenRequired => StateName::TokenRequired,
                Status::Invalid | Status::Unconfirmed => StateName::Invalid,
            };
            assert_eq!(scene.state(), expected, "{first:?}, then {second:?}");
            assert_eq!(
                scene.try_receive(read(first, shift(read_at, -SECOND))),
                Err(Refusal::Outdated),
                "{first:?} is older"
            );
        }
    }
}

#[test]
fn an_impossible_due_date_announces_nothing() {
    let unreadable = || {
        let consent = Some(Box::new(Consent { due: Due::Unreadable, ..Consent::default() }));
        Input { profile: Profile { consent, ..Profile::default() }, ..Event::ConsentEnding.into() }
    };
    let mut scene = Scene::valid(true);
    assert_eq!(scene.receive(unreadable()), [Effect::Job(verify())], "Belvo is asked for the consent");
    let mut scene = Scene::valid(false);
    assert_eq!(scene.try_receive(unreadable()).unwrap_or_default(), []);
    assert_eq!(scene.history.link.profile.consent.unwrap_or_default().due, Due::Unknown);
}

#[test]
fn a_general_cause_does_not_replace_a_precise_one() {
    for fine in [Cause::AccountBlocked, Cause::ConsentEnded, Cause::Unsupported] {
        let mut scene = Scene::broken(true, fine);
        scene.wait(MINUTE);
        assert_eq!(scene.try_receive(rejected()), Err(Refusal::AlreadyKnown), "{fine:?}");
        scene.wait(MINUTE);
        let observed = scene.observed(Status::Invalid, None);
        let _either_way = scene.try_receive(observed);
        assert_eq!(scene.cause(), Some(fine));
        // The same during an attempt.
        scene.update_starts();
        let _either_way = scene.try_receive(rejected());
        assert_eq!(scene.cause(), Some(fine));
        // The answer to the user's own attempt is newer, so its cause counts.
        scene.receive(Event::Broken(Breakage { during_update: true, ..Breakage::of(Cause::Credentials) }));
        assert_eq!(scene.cause(), Some(Cause::Credentials));
    }
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.receive(Event::Broken(Breakage::of(Cause::AccountBlocked)));
    assert_eq!(scene.cause(), Some(Cause::AccountBlocked), "a specific cause replaces a general one");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Unused tokens, minted by a page each time it is loaded or by a mail scanner, do not stop the reminders.
    #[test]
    fn tokens_never_postpone_reminders_for_ever(
        can_verify in any::<bool>(),
        pauses in vec(prop_oneof![0..MINUTE, 0..HOUR, 0..12 * HOUR], 50..400),
        held_back in any::<bool>(),
    ) {
        let mut scene = Scene::valid(can_verify);
        scene.wait(HOUR);
        if held_back {
            scene.update_starts();
        }
        let mut prompts_count = prompts(&scene.receive(rejected()));
        let broken_at = scene.now;
        let mut prompted_at = vec![broken_at; prompts_count];
        for pause in pauses.iter().cycle() {
            let next = shift(scene.now, *pause);
            if next > shift(broken_at, 20 * DAY) {
                break;
            }
            // Timers run before the next token is minted, and Belvo answers each verify request at once.
            while let Some(due) = scene.history.link.deadline(&scene.history.policy).filter(|&due| due <= next) {
                scene.now = due.max(scene.now);
                let mut effects = scene.receive(Event::DeadlinePassed);
                if can_verify && asks(&effects, verify()) {
                    let observed = scene.observed(Status::Invalid, None);
                    effects.extend(scene.try_receive(observed).unwrap_or_default());
                }
                let news = prompts(&effects) + reminders(&effects);
                prompts_count += news;
                prompted_at.extend(vec![scene.now; news]);
            }
            scene.now = next;
            let _drawn = scene.try_receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
        }
        prop_assert_eq!(prompts_count, 4, "one prompt and three reminders: {:?}", prompted_at);
        prop_assert!(prompted_at[0] <= shift(broken_at, HOUR), "{:?}", prompted_at);
        // The policy counts the reminders from the prompt.
        for (at, latest) in prompted_at.iter().zip([0, 2 * DAY, 4 * DAY, 8 * DAY]) {
            prop_assert!(*at <= shift(prompted_at[0], latest + HOUR), "{:?}", prompted_at);
        }
    }
}
