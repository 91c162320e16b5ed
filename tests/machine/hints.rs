//! A hint is a hint in every state: data, claims, tokens and the widget's word make relink ask, remember or wait. None of
//! them alone moves a link, and none is forgotten while it still means something.

use proptest::collection::vec;
use proptest::prelude::*;
use relink::link::{
    Breakage, Cause, Consent, Data, DataKind, Due, Effect, Event, Input, Notice, Observation, Phase, Profile, Prompt,
    Refusal, Session, State, StateName, Status,
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

/// A link in each living state whose trouble is not over, by name.
fn in_trouble(can_verify: bool) -> Vec<(&'static str, Scene)> {
    let broken = || Scene::broken(can_verify, Cause::Credentials);
    let with = |event: Event| {
        let mut scene = broken();
        scene.wait(MINUTE);
        scene.update_starts();
        scene.wait(MINUTE);
        scene.hears(event);
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
        suspected.hears(rejected());
        scenes.push(("suspected", suspected));
    }
    for (_, scene) in &mut scenes {
        // Whatever was asked has been asked long ago.
        scene.wait(3 * MINUTE);
    }
    scenes
}

#[test]
fn with_keys_no_data_moves_a_link_in_trouble_and_all_of_it_asks() {
    for kind in KINDS {
        for has_errors in [false, true] {
            for (name, mut scene) in in_trouble(true) {
                let before = scene.state();
                let effects = scene.hears(arrives(kind, has_errors));
                assert_eq!(scene.state(), before, "{name} {kind:?} {has_errors}");
                assert!(asks(&effects, verify()), "{name} {kind:?} {has_errors}: {effects:?}");
                let suspicion = matches!(&scene.story.link.state, State::Valid { suspicion: None });
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
            let _either_way = scene.tries(arrives(kind, has_errors));
            assert_eq!(scene.state(), before, "{name} {kind:?} {has_errors}");
        }
        let mut scene = Scene::repaired_without_keys();
        scene.hears(rejected());
        let _either_way = scene.tries(arrives(kind, has_errors));
        assert!(matches!(scene.story.link.state, State::Valid { suspicion: Some(_) }), "{kind:?} {has_errors}");
    }
}

#[test]
fn a_correction_is_no_sign_of_life() {
    let mut scene = Scene::valid(true);
    let data_at = scene.story.link.data_at;
    scene.wait(HOUR);
    let effects = scene.hears(arrives(DataKind::Changed, false));
    assert!(matches!(&effects[..], [Effect::Notice { notice: Notice::DataAvailable(_), .. }]), "{effects:?}");
    assert_eq!(scene.story.link.data_at, data_at);
}

/// The story of a public report: data that Belvo made before the outage arrives while the user is in the widget.
#[test]
fn late_data_during_an_update_is_asked_about_and_nobody_is_prompted_twice() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.wait(MINUTE);
    scene.update_starts();
    scene.wait(SECOND);
    let effects = scene.hears(arrives(DataKind::Historical, false));
    assert!(asks(&effects, verify()) && !is_recovered(&effects), "{effects:?}");
    scene.wait(SECOND);
    let still_broken = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.hears(still_broken)), 0);
    // The answer frees the next question: the user may have been quick.
    scene.wait(SECOND);
    assert!(asks(&scene.hears(arrives(DataKind::New, false)), verify()));
    scene.wait(SECOND);
    let works = scene.observed(Status::Valid, None);
    assert!(is_recovered(&scene.hears(works)));
    assert_eq!(scene.story.link.episodes_count, 1);
}

#[test]
fn a_success_that_overtakes_the_bad_news_begins_the_settle_window() {
    for can_verify in [true, false] {
        for first in [Some(data()), None] {
            let mut scene = Scene::unknown(can_verify);
            if let Some(first) = first.clone() {
                scene.hears(first);
                scene.wait(HOUR);
            }
            scene.hears(Event::UpdateClaimed);
            scene.wait(MINUTE);
            let effects = scene.hears(rejected());
            assert_eq!((scene.state(), prompts(&effects)), (StateName::Valid, 0), "{can_verify} {first:?}");
            if can_verify {
                scene.wait_for_deadline();
                assert!(asks(&scene.hears(Event::DeadlinePassed), verify()));
                let works = scene.observed(Status::Valid, None);
                assert_eq!(scene.hears(works), []);
                assert_eq!(scene.story.link.state, State::Valid { suspicion: None });
            } else {
                // Nobody refutes it: it is believed when the window is over.
                scene.wait_for_deadline();
                assert_eq!(prompts(&scene.hears(Event::DeadlinePassed)), 1);
            }
        }
    }
}

#[test]
fn the_second_callback_of_one_success_says_nothing_new() {
    let mut scene = Scene::repaired();
    scene.wait(SECOND);
    assert_eq!(scene.tries(Event::UpdateClaimed), Err(Refusal::AlreadyKnown));
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.hears(Event::UpdateClaimed);
    scene.wait(SECOND);
    assert_eq!(scene.tries(Event::UpdateClaimed), Err(Refusal::AlreadyKnown));
    // Later it is another one, and begins a window of its own.
    scene.wait(25 * MINUTE);
    scene.hears(Event::UpdateClaimed);
    scene.wait(25 * MINUTE);
    assert_eq!(prompts(&scene.hears(rejected())), 0);
}

#[test]
fn the_window_of_a_claim_ends() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    scene.hears(Event::UpdateClaimed);
    scene.wait(31 * MINUTE);
    assert_eq!(prompts(&scene.hears(rejected())), 1);
}

#[test]
fn belvos_status_lags_behind_a_claim_of_a_link_that_was_held_for_valid() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    assert!(asks(&scene.hears(Event::UpdateClaimed), verify()));
    scene.wait(SECOND);
    let lags = scene.observed(Status::Invalid, None);
    assert_eq!(prompts(&scene.hears(lags)), 0);
    // It says so until the claim has been looked at as often as any other: then it is believed, once.
    let mut asked = 0;
    for _ in 0..10 {
        if scene.state() != StateName::Valid {
            break;
        }
        scene.wait_for_deadline();
        let effects = scene.hears(Event::DeadlinePassed);
        asked += usize::from(asks(&effects, verify()));
        let lags = scene.observed(Status::Invalid, None);
        let _either_way = scene.tries(lags);
    }
    assert_eq!((scene.state(), scene.story.link.episodes_count), (StateName::Invalid, 1));
    assert!((1..=3).contains(&asked), "{asked}");
}

#[test]
fn a_token_after_the_success_does_not_cancel_the_claim() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    // A refused login: only the user's word makes a bare `valid` count.
    scene.hears(Event::Broken(Breakage { refused_login: true, ..Breakage::of(Cause::Credentials) }));
    scene.update_starts();
    scene.wait(MINUTE);
    scene.hears(Event::UpdateClaimed);
    for _ in 0..3 {
        scene.wait(SECOND);
        let _the_page_was_drawn_again = scene.tries(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    }
    let works = scene.observed(Status::Valid, None);
    assert!(is_recovered(&scene.hears(works)));
    assert_eq!(scene.story.link.widget_until, None);
}

#[test]
fn a_claim_from_a_second_visit_is_verified_from_the_start() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.update_starts();
    scene.hears(Event::UpdateClaimed);
    assert_eq!(scene.tries(Event::UpdateClaimed), Err(Refusal::AlreadyKnown), "the callback came twice");
    scene.wait_for_deadline();
    scene.hears(Event::DeadlinePassed);
    scene.hears(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.wait(MINUTE);
    assert!(asks(&scene.hears(Event::UpdateClaimed), verify()));
    let State::Updating { episode, phase: Phase::Verifying { asked_count, .. }, .. } = &scene.story.link.state else {
        panic!("{:?}", scene.story.link.state)
    };
    assert_eq!((episode.attempts_count, *asked_count), (2, 1));
}

#[test]
fn a_user_in_the_widget_is_updating_and_not_prompted() {
    for (name, mut scene) in [("valid", Scene::valid(true)), ("unknown", Scene::unknown(true))] {
        scene.wait(HOUR);
        scene.hears(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
        scene.wait(MINUTE);
        let effects = scene.hears(rejected());
        assert_eq!((scene.state(), prompts(&effects)), (StateName::Updating, 0), "{name}");
        // The attempt fails: now the one prompt of the outage is due.
        scene.hears(Event::UpdateAbandoned);
        scene.wait(SECOND);
        let still_broken = scene.observed(Status::Invalid, None);
        assert_eq!(prompts(&scene.hears(still_broken)), 1, "{name}");
        assert_eq!(scene.state(), StateName::Invalid);
        let episode = scene.story.link.state.episode().unwrap();
        assert_eq!((episode.prompt, episode.attempts_count), (Prompt::Sent, 1));
    }
}

#[test]
fn a_user_who_left_the_widget_is_prompted() {
    let mut scene = Scene::valid(true);
    scene.hears(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.wait(MINUTE);
    scene.hears(Event::UpdateAbandoned);
    assert_eq!(scene.tries(Event::UpdateAbandoned), Err(Refusal::NotUpdating));
    assert_eq!(prompts(&scene.hears(rejected())), 1);

    let mut scene = Scene::valid(true);
    scene.hears(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.wait(11 * MINUTE);
    assert_eq!(prompts(&scene.hears(rejected())), 1, "the token has expired");
}

#[test]
fn an_open_session_of_a_put_is_a_user_at_work() {
    let mut scene = Scene::valid(true);
    scene.wait(HOUR);
    let session = Some(Session { expires_at: shift(scene.now, 20 * MINUTE) });
    let answer = Breakage { session, during_update: true, ..Breakage::of(Cause::Token) };
    scene.hears(Event::Broken(answer));
    assert_eq!(scene.state(), StateName::Valid, "an answer to a PUT says nothing of the stored credentials");
    scene.wait(MINUTE);
    let effects = scene.hears(rejected());
    assert_eq!((scene.state(), prompts(&effects)), (StateName::Updating, 0));
}

#[test]
fn tokens_extend_an_attempt_only_so_far() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    let started_at = scene.now;
    scene.update_starts();
    for _ in 0..60 {
        scene.wait(MINUTE / 2);
        let _drawn_again = scene.tries(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    }
    let longest = scene.story.policy.settings().update_wait_max;
    assert_eq!(scene.story.link.deadline(&scene.story.policy), Some(started_at.after(longest)));
}

#[test]
fn observations_are_ordered_by_when_they_were_read() {
    // Both were read before the first of them arrived; the second in the same second, or later.
    for (first, second) in [
        (Status::Invalid, Status::Valid),
        (Status::TokenRequired, Status::Invalid),
        (Status::Invalid, Status::TokenRequired),
    ] {
        for later in [0, SECOND] {
            let mut scene = Scene::valid(true);
            scene.wait(HOUR);
            let read_at = shift(scene.now, -MINUTE);
            let read = |status, at| Event::Observed(Observation { observed_at: at, status, last_accessed_at: None });
            scene.hears(read(first, read_at));
            scene.hears(read(second, shift(read_at, later)));
            let expected = match second {
                Status::Valid => StateName::Valid,
                Status::TokenRequired => StateName::TokenRequired,
                Status::Invalid | Status::Unconfirmed => StateName::Invalid,
            };
            assert_eq!(scene.state(), expected, "{first:?}, then {second:?}");
            assert_eq!(scene.tries(read(first, shift(read_at, -SECOND))), Err(Refusal::Stale), "{first:?} is older");
        }
    }
}

#[test]
fn a_date_that_cannot_be_one_tells_nobody_to_renew() {
    let unreadable = || {
        let consent = Some(Box::new(Consent { due: Due::Unreadable, ..Consent::default() }));
        Input { profile: Profile { consent, ..Profile::default() }, ..Event::ConsentEnding.into() }
    };
    let mut scene = Scene::valid(true);
    assert_eq!(scene.hears(unreadable()), [Effect::Job(verify())], "Belvo is asked for the consent");
    let mut scene = Scene::valid(false);
    assert_eq!(scene.tries(unreadable()).unwrap_or_default(), []);
    assert_eq!(scene.story.link.profile.consent.unwrap_or_default().due, Due::Unknown);
}

#[test]
fn a_coarser_word_does_not_overwrite_a_finer_one() {
    for fine in [Cause::AccountBlocked, Cause::ConsentEnded, Cause::Unsupported] {
        let mut scene = Scene::broken(true, fine);
        scene.wait(MINUTE);
        assert_eq!(scene.tries(rejected()), Err(Refusal::AlreadyKnown), "{fine:?}");
        scene.wait(MINUTE);
        let observed = scene.observed(Status::Invalid, None);
        let _either_way = scene.tries(observed);
        assert_eq!(scene.cause(), Some(fine));
        // While the user is at it, too.
        scene.update_starts();
        let _either_way = scene.tries(rejected());
        assert_eq!(scene.cause(), Some(fine));
        // The institution's answer to the user's own attempt is newer, and says what is wrong now.
        scene.hears(Event::Broken(Breakage { during_update: true, ..Breakage::of(Cause::Credentials) }));
        assert_eq!(scene.cause(), Some(Cause::Credentials));
    }
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.hears(Event::Broken(Breakage::of(Cause::AccountBlocked)));
    assert_eq!(scene.cause(), Some(Cause::AccountBlocked), "the other way round it is news");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Tokens that nobody uses, minted by a page at each drawing or by a mail scanner, never silence the reminders.
    #[test]
    fn tokens_never_put_reminders_off_for_ever(
        can_verify in any::<bool>(),
        pauses in vec(prop_oneof![0..MINUTE, 0..HOUR, 0..12 * HOUR], 50..400),
        held_back in any::<bool>(),
    ) {
        let mut scene = Scene::valid(can_verify);
        scene.wait(HOUR);
        if held_back {
            scene.update_starts();
        }
        let mut told = prompts(&scene.hears(rejected()));
        let broken_at = scene.now;
        let mut told_at = vec![broken_at; told];
        for pause in pauses.iter().cycle() {
            let next = shift(scene.now, *pause);
            if next > shift(broken_at, 20 * DAY) {
                break;
            }
            // Timers run before the next token is minted, and Belvo answers each question at once.
            while let Some(due) = scene.story.link.deadline(&scene.story.policy).filter(|&due| due <= next) {
                scene.now = due.max(scene.now);
                let mut effects = scene.hears(Event::DeadlinePassed);
                if can_verify && asks(&effects, verify()) {
                    let observed = scene.observed(Status::Invalid, None);
                    effects.extend(scene.tries(observed).unwrap_or_default());
                }
                let news = prompts(&effects) + reminders(&effects);
                told += news;
                told_at.extend(vec![scene.now; news]);
            }
            scene.now = next;
            let _drawn = scene.tries(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
        }
        prop_assert_eq!(told, 4, "one prompt and three reminders: {:?}", told_at);
        for (at, latest) in told_at.iter().zip([HOUR, 2 * DAY + HOUR, 4 * DAY + HOUR, 8 * DAY + HOUR]) {
            prop_assert!(*at <= shift(broken_at, latest), "{:?}", told_at);
        }
    }
}
