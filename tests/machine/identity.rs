//! The first prompt about a link that relink has never read: it waits for the read, but not for ever.

use proptest::prelude::*;
use relink::link::{
    Breakage, Cause, Command, Effect, Event, Input, Link, LinkObservation, Notice, Profile, Prompt, StateName, Status,
    step,
};

use crate::histories::history;
use crate::properties::{prompts as prompts_of, steps};
use crate::scene::{SECOND, Scene, asks, identified, prompts, rejected, verify};
use crate::world::{DAY, HOUR, MINUTE, shift};

/// An observation with the profile of a read.
fn read(scene: &Scene, status: Status) -> Input {
    Input { profile: identified(), ..scene.observed(status, None).into() }
}

/// A link that breaks and that nobody has read. Belvo is asked, and its user is not prompted yet.
fn breaks_unread() -> Scene {
    let mut scene = Scene::unknown(true);
    let effects = scene.receive(rejected());
    assert!(asks(&effects, verify()) && prompts(&effects) == 0, "{effects:?}");
    scene.wait(SECOND);
    scene
}

#[test]
fn the_prompt_comes_with_the_answer_and_names_the_user() {
    let mut scene = breaks_unread();
    let answer = read(&scene, Status::Invalid);
    assert_eq!(prompts(&scene.receive(answer)), 1);
    assert_eq!(scene.history.link.profile, identified());
    // The next outage prompts at once.
    scene.wait(MINUTE);
    let works = read(&scene, Status::Valid);
    scene.receive(works);
    scene.wait(DAY);
    assert_eq!(prompts(&scene.receive(rejected())), 1);
}

#[test]
fn a_link_that_works_according_to_the_read_leads_to_no_prompt() {
    let mut scene = breaks_unread();
    let works = read(&scene, Status::Valid);
    assert_eq!(prompts(&scene.receive(works)), 0);
    assert_eq!(scene.state(), StateName::Valid);
}

#[test]
fn a_refused_login_is_not_lost_although_belvos_status_is_still_valid() {
    let mut scene = Scene::unknown(true);
    let refused = Breakage { refused_login: true, ..Breakage::of(Cause::Credentials) };
    assert_eq!(prompts(&scene.receive(Event::Broken(refused))), 0);
    scene.wait(SECOND);
    let lags = read(&scene, Status::Valid);
    assert_eq!(prompts(&scene.receive(lags)), 1);
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn without_an_answer_the_prompt_comes_after_the_wait() {
    let mut scene = breaks_unread();
    scene.wait_for_deadline();
    assert_eq!(scene.now, scene.history.link.since.after(scene.history.policy.settings().verify_wait));
    assert_eq!(prompts(&scene.receive(Event::DeadlinePassed)), 1);
}

#[test]
fn a_link_without_an_external_id_waits_only_once() {
    let mut scene = breaks_unread();
    let anonymous = Profile { external_id: None, ..identified() };
    let of = |scene: &Scene, status| Input { profile: anonymous.clone(), ..scene.observed(status, None).into() };
    let answer = of(&scene, Status::Invalid);
    assert_eq!(prompts(&scene.receive(answer)), 1);
    scene.wait(MINUTE);
    let works = of(&scene, Status::Valid);
    scene.receive(works);
    scene.wait(DAY);
    assert_eq!(prompts(&scene.receive(rejected())), 1);
}

#[test]
fn without_keys_and_after_a_read_that_shows_the_outage_nothing_waits() {
    let mut without_keys = Scene::unknown(false);
    assert_eq!(prompts(&without_keys.receive(rejected())), 1);
    let mut seen = Scene::unknown(true);
    let broken = seen.observed(Status::Invalid, None);
    assert_eq!(prompts(&seen.receive(broken)), 1, "another read would show no more");
}

#[test]
fn an_operator_who_unmutes_an_unread_link_waits_for_the_read_too() {
    let mut scene = Scene::unknown(true);
    scene.receive(Event::Command(Command::Mute));
    scene.receive(rejected());
    scene.wait(HOUR);
    let effects = scene.receive(Event::Command(Command::Unmute));
    assert!(asks(&effects, verify()) && prompts(&effects) == 0);
    let answer = read(&scene, Status::Invalid);
    assert_eq!(prompts(&scene.receive(answer)), 1);
}

proptest! {
    #[test]
    fn every_unidentified_prompt_is_sent_in_time_or_with_the_names_or_not_at_all(history in history()) {
        let wait = history.policy.settings().verify_wait;
        for (_, taken) in steps(&history) {
            let link = &taken.link;
            let Some(episode) = link.state.episode() else { continue };
            let Prompt::Unidentified { until } = episode.prompt else { continue };
            prop_assert!(history.policy.settings().can_verify && until <= link.updated_at.after(wait));
            if link.state.name() == StateName::Updating || link.muted {
                continue;
            }
            // Within the reminder pause after the last message about this link, the prompt is postponed.
            let pause = history.policy.settings().reminder_pause;
            let is_paused_at = |at| link.messaged.as_ref().is_some_and(|message| at < message.at.after(pause));
            // What nobody can repair is no message to the user.
            let can_act = |of: &Link| of.state.episode().is_some_and(|open| open.cause.user_can_act());
            let end = until.max(link.updated_at);
            let late = step(link, &Event::DeadlinePassed.into(), end, &history.policy).unwrap();
            prop_assert_eq!(prompts_of(&late), usize::from(!(is_paused_at(end) && can_act(&late.link))));
            let now = shift(link.updated_at, SECOND);
            let seen = |status| {
                let last_accessed_at = (status == Status::Valid).then_some(now);
                let event = Event::Observed(LinkObservation { observed_at: now, status, last_accessed_at });
                step(link, &Input { profile: identified(), ..event.into() }, now, &history.policy).unwrap()
            };
            for status in [Status::Invalid, Status::TokenRequired] {
                let answered = seen(status);
                let is_paused = is_paused_at(now) && can_act(&answered.link);
                prop_assert_eq!(prompts_of(&answered), usize::from(!is_paused));
                let waits = answered.link.state.episode().is_some_and(|open| matches!(open.prompt, Prompt::Postponed { .. }));
                prop_assert_eq!(waits, is_paused);
                prop_assert!(answered.link.profile.institution.is_some());
            }
            let works = seen(Status::Valid);
            let is_prompted = |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::UpdateRequired, .. });
            prop_assert!(works.link.state.name() == StateName::Valid && !works.effects.iter().any(is_prompted));
        }
    }
}
