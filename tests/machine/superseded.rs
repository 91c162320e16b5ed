//! A user who connects the bank anew in place of a repair is not asked about the old link any more.

use std::collections::BTreeMap;

use proptest::prelude::*;
use relink::link::{
    AttemptEnd, Cause, Command, Effect, Event, Input, Job, Link, LinkId, Notice, Policy, PolicySettings, Profile,
    Prompt, Refusal, State, StateName, Status, SuccessorObservation, Supersede, UpdatePhase, may_succeed, step,
    succeeds,
};

use crate::histories::history;
use crate::properties::{notices, prompts, steps};
use crate::scene::{Scene, asks, prompts as prompts_of, rejected, verify};
use crate::world::{DAY, HOUR, MINUTE, START, other_links, policy, shift, unknown_link};

fn successor() -> LinkId {
    other_links()[0].clone()
}

impl Scene {
    fn superseded(&self, by: LinkId) -> Event {
        Event::Superseded(SuccessorObservation { observed_at: self.now, by })
    }

    fn mark(&self) -> Option<LinkId> {
        self.history.link.state.episode().and_then(|episode| episode.superseded_by.clone())
    }

    fn with_supersede(mut self, supersede: Supersede) -> Self {
        let settings = self.history.policy.settings().clone();
        self.history.policy = Policy::new(PolicySettings { supersede, ..settings }).unwrap();
        self
    }
}

fn superseded(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Notice { notice: Notice::Superseded { .. }, .. })).count()
}

// --- which link succeeds which ---

fn link(id: &str, institution: &str, user: &str, external_id: &str, created: Option<i64>) -> Link {
    let text = |text: &str| (text != "-").then(|| text.to_owned());
    let profile = Profile {
        institution: text(institution),
        institution_user_id: text(user),
        external_id: text(external_id),
        created_at: created.map(|at| shift(START, at)),
        ..Profile::default()
    };
    Link { profile, state: State::Valid { suspicion: None }, ..Link::unknown(id.parse().unwrap(), START) }
}

#[test]
fn only_a_newer_working_link_of_the_same_user_at_the_same_institution_succeeds() {
    use Supersede::{ExternalId, InstitutionUserId, Never};
    let old = link("old", "erebor", "u1", "maria", Some(0));
    let is = |other: &Link, old: &Link, supersede| {
        let settings = PolicySettings { supersede, ..PolicySettings::default() };
        succeeds(other, old, &Policy::new(settings).unwrap())
    };
    let by_user = link("new", "erebor", "u1", "-", Some(1));
    assert_eq!([InstitutionUserId, ExternalId, Never].map(|kind| is(&by_user, &old, kind)), [true, true, false]);
    for no in [
        link("old", "erebor", "u1", "maria", Some(1)),
        link("new", "gringotts", "u1", "maria", Some(1)),
        link("new", "-", "u1", "maria", Some(1)),
        link("new", "erebor", "u2", "maria", Some(1)),
        link("new", "erebor", "", "maria", Some(0)),
        link("new", "erebor", "u1", "maria", Some(0)),
        link("new", "erebor", "u1", "maria", Some(-1)),
        link("new", "erebor", "u1", "maria", None),
        Link { state: State::Removed, ..by_user.clone() },
        Link { state: State::Unconfirmed, ..by_user.clone() },
    ] {
        assert!(!is(&no, &old, InstitutionUserId) && !is(&no, &old, ExternalId), "{no:?}");
    }
    // The weaker key counts only if the policy says so, and only where Belvo's key is unknown on one side.
    let by_external_id = link("new", "erebor", "-", "maria", Some(1));
    assert_eq!(
        [InstitutionUserId, ExternalId, Never].map(|kind| is(&by_external_id, &old, kind)),
        [false, true, false]
    );
    let empty = |link: Link| Link { profile: Profile { external_id: Some(" ".into()), ..link.profile }, ..link };
    let (one, other) = (link("new", "erebor", "-", "-", Some(1)), link("old", "erebor", "-", "-", Some(0)));
    assert!(!is(&one, &other, ExternalId) && !is(&empty(one), &empty(other), ExternalId));
    let nameless = link("old", "-", "u1", "maria", Some(0));
    assert!(!is(&link("new", "-", "u1", "maria", Some(1)), &nameless, ExternalId));
    let rejected = Link { not_superseded_by: vec![by_user.id.clone()], ..old };
    assert!(!is(&by_user, &rejected, InstitutionUserId));
}

#[test]
fn a_named_link_succeeds_if_nothing_contradicts() {
    let old = link("old", "erebor", "u1", "-", Some(0));
    for (other, expected) in [
        (link("new", "erebor", "u1", "-", Some(1)), true),
        (link("new", "erebor", "-", "-", None), true),
        (link("new", "erebor", "u2", "-", Some(1)), false),
        (link("new", "gringotts", "-", "-", Some(1)), false),
        (link("new", "-", "u1", "-", Some(1)), false),
        (link("new", "erebor", "u1", "-", Some(0)), false),
        (link("old", "erebor", "u1", "-", Some(1)), false),
    ] {
        assert_eq!(may_succeed(&other, &old, &policy(true)), expected, "{other:?}");
    }
}

// --- the look-up ---

#[test]
fn one_proof_asks_for_one_look_up() {
    let profile = |user: &str| link("x", "erebor", user, "-", Some(0)).profile;
    let mut scene = Scene::unknown(true);
    let seen = |scene: &Scene, user| Input { profile: profile(user), ..scene.observed(Status::Valid, None).into() };
    let first = seen(&scene, "-");
    assert!(!asks(&scene.receive(first), Job::FindSuperseded), "no key is known");
    scene.wait(HOUR);
    let second = seen(&scene, "u1");
    assert!(asks(&scene.receive(second.clone()), Job::FindSuperseded), "a key became known");
    for _sweep in 0..3 {
        scene.wait(HOUR);
        let again = seen(&scene, "u1");
        assert_eq!(scene.try_receive(again), Err(Refusal::AlreadyKnown));
    }
    // A later access is news, but no new proof of another kind.
    let accessed = Input { profile: profile("u1"), ..scene.observed(Status::Valid, Some(scene.now)).into() };
    assert!(!asks(&scene.receive(accessed), Job::FindSuperseded));
    scene.receive(rejected());
    scene.wait(HOUR);
    let repaired = scene.observed(Status::Valid, None);
    assert!(asks(&scene.receive(repaired), Job::FindSuperseded), "a recovery is a new proof");
    for supersede in [Supersede::Never, Supersede::ExternalId] {
        let mut scene = Scene::unknown(true).with_supersede(supersede);
        let first = seen(&scene, "u1");
        assert_eq!(asks(&scene.receive(first), Job::FindSuperseded), supersede != Supersede::Never);
    }
}

// --- the old link ---

#[test]
fn a_superseded_link_is_neither_prompted_nor_reminded_and_comes_back_by_itself() {
    for can_verify in [true, false] {
        let mut scene = Scene::broken(can_verify, Cause::Credentials);
        scene.wait(HOUR);
        let input = scene.superseded(successor());
        let effects = scene.receive(input.clone());
        assert_eq!((superseded(&effects), prompts_of(&effects), effects.len()), (1, 0, 1));
        assert_eq!((scene.mark(), scene.state()), (Some(successor()), StateName::Invalid));
        assert_eq!(scene.try_receive(input), Err(Refusal::AlreadyKnown));
        let other = scene.superseded(other_links()[1].clone());
        assert_eq!(scene.try_receive(other), Err(Refusal::AlreadyKnown));
        assert_eq!(scene.history.link.deadline(&scene.history.policy), None, "nothing waits for the user");
        scene.wait(8 * DAY);
        let effects = scene.receive(Event::Broken(relink::link::Breakage::of(Cause::Token)));
        assert_eq!((effects.len(), scene.state()), (0, StateName::TokenRequired));
    }
    let mut scene = Scene::broken(true, Cause::Credentials);
    let input = scene.superseded(successor());
    scene.receive(input);
    scene.wait(DAY);
    let works = scene.observed(Status::Valid, None);
    let effects = scene.receive(works);
    assert!(matches!(effects[0], Effect::Notice { notice: Notice::Recovered { .. }, .. }), "{effects:?}");
    scene.wait(DAY);
    let effects = scene.receive(rejected());
    assert_eq!((prompts_of(&effects), scene.mark()), (1, None), "a new episode is a new outage");
}

#[test]
fn a_link_that_breaks_while_its_successor_works_prompts_nobody() {
    for incident in [None, Some(START)] {
        let mut scene = Scene::valid(true);
        scene.wait(HOUR);
        let input = Input { successor: Some(successor()), incident, ..rejected().into() };
        let effects = scene.receive(input);
        assert_eq!((superseded(&effects), prompts_of(&effects), scene.mark()), (1, 0, Some(successor())));
        assert_eq!(scene.history.link.state.episode().unwrap().prompts_count(), 0);
        assert_eq!(scene.history.link.deadline(&scene.history.policy), None);
    }
}

#[test]
fn a_reminder_or_a_muted_prompt_that_is_due_ends_by_a_successor() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.wait_for_deadline();
    let due = Input { successor: Some(successor()), ..Event::DeadlinePassed.into() };
    let effects = scene.receive(due);
    assert_eq!((superseded(&effects), effects.len()), (1, 1));
    assert_eq!(scene.history.link.deadline(&scene.history.policy), None);

    let mut scene = Scene::valid(true);
    scene.receive(Event::Command(Command::Mute));
    scene.receive(rejected());
    let unmuted = Input { successor: Some(successor()), ..Event::Command(Command::Unmute).into() };
    let effects = scene.receive(unmuted);
    assert_eq!((superseded(&effects), prompts_of(&effects)), (1, 0));
}

#[test]
fn an_operator_reverses_it_for_good() {
    // The prompt was sent before, so reminders go on.
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.wait(2 * DAY);
    let input = scene.superseded(successor());
    scene.receive(input.clone());
    assert_eq!(scene.receive(Event::Command(Command::Unsupersede)), []);
    assert_eq!(scene.try_receive(Event::Command(Command::Unsupersede)), Err(Refusal::AlreadyKnown));
    assert_eq!((scene.mark(), scene.try_receive(input)), (None, Err(Refusal::NotASuccessor)));
    let named = Event::SuccessorNamed { link: successor() };
    assert_eq!(scene.try_receive(named), Err(Refusal::NotASuccessor));
    let before = scene.now;
    scene.wait_for_deadline();
    assert_eq!(scene.now, shift(before, DAY), "no reminder follows at once");
    let due = Input { successor: Some(successor()), ..Event::DeadlinePassed.into() };
    let effects = scene.receive(due);
    assert!(matches!(effects[..], [Effect::Notice { notice: Notice::Reminder { number: 1 }, .. }]), "{effects:?}");

    // The prompt was never sent, so it is sent now, and the next episode prompts too.
    let mut scene = Scene::valid(true);
    scene.receive(Input { successor: Some(successor()), ..rejected().into() });
    scene.wait(HOUR);
    let unsuperseded = Input { successor: Some(successor()), ..Event::Command(Command::Unsupersede).into() };
    assert_eq!(prompts_of(&scene.receive(unsuperseded)), 1);
    scene.wait(HOUR);
    let works = scene.observed(Status::Valid, None);
    scene.receive(works);
    scene.wait(DAY);
    let effects = scene.receive(Input { successor: Some(successor()), ..rejected().into() });
    assert_eq!((prompts_of(&effects), superseded(&effects)), (1, 0));
    // Another successor still counts.
    let other = scene.superseded(other_links()[1].clone());
    assert_eq!(superseded(&scene.receive(other)), 1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    let itself = scene.superseded(unknown_link().id);
    assert_eq!(scene.try_receive(itself), Err(Refusal::NotASuccessor));
    let observed_at = shift(scene.now, -1);
    let earlier = Event::Superseded(SuccessorObservation { observed_at, by: successor() });
    assert_eq!(scene.try_receive(earlier), Err(Refusal::Outdated), "it is about an earlier outage");
    for state in [Scene::valid(true), Scene::unknown(true)] {
        let mut scene = state;
        let input = scene.superseded(successor());
        assert_eq!(scene.try_receive(input), Err(Refusal::NotBroken));
        assert_eq!(scene.try_receive(Event::SuccessorNamed { link: successor() }), Err(Refusal::NotBroken));
    }
    let mut scene = Scene::broken(true, Cause::Credentials).with_supersede(Supersede::Never);
    let input = scene.superseded(successor());
    assert_eq!(scene.try_receive(input), Err(Refusal::SupersedeOff));
    let due = Input { successor: Some(successor()), ..Event::DeadlinePassed.into() };
    scene.wait_for_deadline();
    assert_eq!(superseded(&scene.receive(due)), 0);
}

#[test]
fn a_callback_that_names_another_link_is_checked_with_belvo_once() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.update_starts();
    let named = Event::SuccessorNamed { link: successor() };
    let effects = scene.receive(named.clone());
    assert_eq!(effects, [Effect::Job(Job::ReadSuccessor { link: successor() }), Effect::Job(verify())]);
    assert_eq!(scene.try_receive(named.clone()), Err(Refusal::AlreadyKnown));
    // The user has left the widget. If the named link is no successor, the attempt ends as after every claim.
    let mut wrong = Scene::broken(true, Cause::Credentials);
    wrong.update_starts();
    wrong.receive(named.clone());
    let claimed_at = wrong.now;
    let phase = |scene: &Scene| match &scene.history.link.state {
        State::Updating { phase, .. } => Some(*phase),
        _ => None,
    };
    assert!(matches!(phase(&wrong), Some(UpdatePhase::Verifying { after: AttemptEnd::Claimed, .. })));
    while wrong.state() == StateName::Updating {
        wrong.wait_for_deadline();
        wrong.receive(Event::DeadlinePassed);
    }
    assert_eq!(wrong.state(), StateName::Invalid);
    assert!(wrong.now <= shift(claimed_at, HOUR), "{} {claimed_at}", wrong.now);
    assert_eq!((scene.state(), scene.mark()), (StateName::Updating, None));
    // Belvo's answer ends the attempt in the widget.
    scene.wait(MINUTE);
    let input = scene.superseded(successor());
    let effects = scene.receive(input);
    assert_eq!((superseded(&effects), effects.len(), scene.state()), (1, 1, StateName::Invalid));

    let mut scene = Scene::broken(false, Cause::Credentials);
    scene.update_starts();
    assert_eq!(superseded(&scene.receive(named)), 1, "without API keys the callback counts");
    assert_eq!(scene.state(), StateName::Invalid);
}

#[test]
fn a_claimed_repair_of_a_superseded_link_is_still_verified() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.receive(Event::UpdateClaimed);
    let input = scene.superseded(successor());
    scene.receive(input);
    assert_eq!(scene.state(), StateName::Updating);
    scene.wait(MINUTE);
    let works = scene.observed(Status::Valid, None);
    scene.receive(works);
    assert_eq!(scene.state(), StateName::Valid);
}

// --- properties ---

proptest! {
    #[test]
    fn a_superseded_episode_asks_its_user_for_nothing(history in history()) {
        for (_, step) in steps(&history) {
            let is_marked = step.link.state.episode().is_some_and(|episode| episode.superseded_by.is_some());
            if is_marked {
                let reminders = notices(step).filter(|notice| matches!(notice, Notice::Reminder { .. })).count();
                prop_assert_eq!((prompts(step), reminders), (0, 0));
                let at_rest = matches!(step.link.state, State::Invalid { .. } | State::TokenRequired { .. });
                prop_assert!(!at_rest || step.link.deadline(&history.policy).is_none());
            }
        }
    }

    #[test]
    fn an_episode_is_superseded_once_for_each_command_that_reverses_it(history in history()) {
        let (mut marks, mut reversed) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, u32>::new());
        for (received, step) in steps(&history) {
            for effect in &step.effects {
                let Effect::Notice { notice: Notice::Superseded { by }, episode } = effect else { continue };
                let number = episode.as_ref().unwrap().number.0;
                *marks.entry(number).or_default() += 1;
                prop_assert_eq!(marks[&number], 1 + reversed.get(&number).copied().unwrap_or_default());
                prop_assert!(*by != step.link.id && !received.before.not_superseded_by.contains(by));
            }
            let was_marked = received.before.state.episode().is_some_and(|episode| episode.superseded_by.is_some());
            if was_marked && received.input.event == Event::Command(Command::Unsupersede) {
                *reversed.entry(step.link.episodes_count).or_default() += 1;
            }
        }
    }

    #[test]
    fn a_superseded_link_can_be_unsuperseded_and_then_behaves_as_before(history in history()) {
        for (_, taken) in steps(&history) {
            let Some(episode) = taken.link.state.episode() else { continue };
            let Some(by) = episode.superseded_by.clone() else { continue };
            let now = shift(taken.at, MINUTE);
            let input = Input { successor: Some(by.clone()), ..Event::Command(Command::Unsupersede).into() };
            let after = step(&taken.link, &input, now, &history.policy).unwrap();
            let open = after.link.state.episode().unwrap();
            prop_assert_eq!((&open.superseded_by, open.number), (&None, episode.number));
            let is_repairing = matches!(after.link.state, State::Updating { .. });
            let pause = history.policy.settings().reminder_pause;
            let is_paused = open.cause.user_can_act() && taken.link.messaged.as_ref().is_some_and(|message| now < message.at.after(pause));
            let is_silent = after.link.muted || is_repairing || is_paused || episode.prompt == Prompt::Sent;
            let waits_for_a_read = matches!(open.prompt, Prompt::Unidentified { .. });
            prop_assert_eq!(prompts(&after), usize::from(!is_silent && !waits_for_a_read));
        }
    }
}
