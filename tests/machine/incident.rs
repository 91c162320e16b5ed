//! One link during an incident of its institution.

use relink::link::{
    Breakage, Cause, Command, Effect, Event, Input, Job, LastMessage, LinkObservation, Notice, Person, Prompt, Refusal,
    State, StateName, Status, Timestamp,
};

use crate::scene::identified;
use crate::world::{DAY, HOUR, History, MINUTE, START, down, other_links, shift};

/// A link, and whether its institution has an incident.
struct Scene {
    history: History,
    now: Timestamp,
    incident: bool,
}

impl Scene {
    /// A link that has just broken.
    fn broken(can_verify: bool, cause: Cause) -> Self {
        let mut scene = Self { history: History::new(can_verify), now: START, incident: true };
        // Only of a link that has been read the institution is known, and whether it has an incident.
        scene.history.link.profile = identified();
        scene.receive(Event::Broken(Breakage::of(cause)));
        scene
    }

    /// A link that broke in an incident; the incident is over, and Belvo has been asked.
    fn asked() -> Self {
        let mut scene = Self::broken(true, Cause::Credentials);
        scene.incident = false;
        assert_eq!(scene.is_due(), [Effect::Job(Job::Verify { consent: None })]);
        scene
    }

    fn receive(&mut self, event: Event) -> Vec<Effect> {
        self.try_receive(event).expect("the machine accepts it")
    }

    fn try_receive(&mut self, event: Event) -> Result<Vec<Effect>, Refusal> {
        let input = Input { incident: down(self.incident), ..event.into() };
        self.history.receive(input, self.now).map(|step| step.effects)
    }

    fn is_due(&mut self) -> Vec<Effect> {
        self.now = self.history.link.deadline(&self.history.policy).expect("the link has a deadline");
        self.receive(Event::DeadlinePassed)
    }

    fn is_read(&mut self, status: Status) -> Vec<Effect> {
        self.now = shift(self.now, MINUTE);
        self.receive(Event::Observed(LinkObservation { observed_at: self.now, status, last_accessed_at: None }))
    }

    fn prompt(&self) -> Prompt {
        self.history.link.state.episode().expect("an open episode").prompt
    }
}

fn prompts(effects: &[Effect]) -> usize {
    let is_prompt = |effect: &&Effect| matches!(effect, Effect::Notice { notice: Notice::UpdateRequired, .. });
    effects.iter().filter(is_prompt).count()
}

#[test]
fn the_prompt_is_deferred_as_long_as_the_incident_lasts() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    assert_eq!(scene.prompt(), Prompt::Deferred { until: shift(START, 10 * MINUTE), asked_at: None });
    for wait in 2..20 {
        assert_eq!(scene.is_due(), []);
        assert_eq!(scene.prompt(), Prompt::Deferred { until: shift(START, wait * 10 * MINUTE), asked_at: None });
    }
    assert_eq!(scene.try_receive(Event::DeadlinePassed), Err(Refusal::NotDue));
}

#[test]
fn after_the_incident_belvo_is_asked_first_and_a_working_link_prompts_nobody() {
    let mut scene = Scene::asked();
    assert_eq!(prompts(&scene.is_read(Status::Valid)), 0);
    assert_eq!(scene.history.link.state, State::Valid { suspicion: None });
}

#[test]
fn a_link_that_is_still_broken_gets_its_one_prompt_and_reminders_a_day_later() {
    let mut scene = Scene::asked();
    assert_eq!(prompts(&scene.is_read(Status::Invalid)), 1);
    assert_eq!(scene.prompt(), Prompt::Sent);
    let prompted_at = scene.now;
    let reminded = scene.is_due();
    assert!(matches!(reminded[..], [Effect::Notice { notice: Notice::Reminder { number: 1 }, .. }]), "{reminded:?}");
    assert_eq!(scene.now, shift(prompted_at, DAY));
}

#[test]
fn after_a_late_prompt_the_reminders_keep_their_distances() {
    let mut scene = Scene::asked();
    scene.incident = true;
    let opened_at = scene.now;
    while scene.now < shift(opened_at, 10 * DAY) {
        assert_eq!(scene.is_due(), []);
    }
    scene.incident = false;
    // relink asks Belvo, and prompts without an answer.
    while prompts(&scene.is_due()) == 0 {}
    let prompted_at = scene.now;
    for days in [1, 3, 7] {
        scene.is_due();
        assert_eq!(scene.now, shift(prompted_at, days * DAY));
    }

    // A reminder that waits for a week moves the next one.
    let mut scene = Scene::asked();
    scene.is_read(Status::Invalid);
    scene.incident = true;
    while scene.is_due().is_empty() && scene.now < shift(START, 10 * DAY) {}
    scene.incident = false;
    assert_eq!(scene.is_due().len(), 1);
    let reminded_at = scene.now;
    assert_eq!(scene.is_due().len(), 1);
    assert!(scene.now >= shift(reminded_at, DAY + DAY / 2), "{reminded_at} {}", scene.now);
}

#[test]
fn a_reminder_waits_for_the_end_of_the_incident_too() {
    let mut scene = Scene::asked();
    scene.is_read(Status::Invalid);
    scene.incident = true;
    let waits_since =
        |scene: &Scene| scene.history.link.state.episode().and_then(|episode| episode.reminder_waits_since);
    assert_eq!((scene.is_due(), waits_since(&scene)), (vec![], Some(scene.now)));
    let due_at = scene.now;
    for _ in 0..8 {
        assert_eq!((scene.is_due(), waits_since(&scene)), (vec![], Some(due_at)));
    }
    scene.incident = false;
    let reminded = scene.is_due();
    assert!(matches!(reminded[..], [Effect::Notice { notice: Notice::Reminder { number: 1 }, .. }]), "{reminded:?}");
}

#[test]
fn the_prompt_is_sent_if_belvo_does_not_answer_in_time() {
    let mut scene = Scene::asked();
    let asked_at = scene.now;
    assert_eq!(prompts(&scene.is_due()), 1);
    assert_eq!(scene.now, shift(asked_at, 30 * MINUTE), "many links share the call budget");
}

#[test]
fn an_observation_from_before_the_request_is_no_answer() {
    let mut scene = Scene::asked();
    let observed_at = shift(scene.now, -1);
    let read = LinkObservation { observed_at, status: Status::Invalid, last_accessed_at: None };
    assert_eq!(scene.try_receive(Event::Observed(read)), Err(Refusal::AlreadyKnown));
    assert!(matches!(scene.prompt(), Prompt::Deferred { .. }));
}

#[test]
fn a_second_incident_before_the_answer_defers_the_prompt_again() {
    let mut scene = Scene::asked();
    scene.incident = true;
    assert_eq!(scene.is_due(), []);
    assert_eq!(scene.prompt(), Prompt::Deferred { until: shift(scene.now, 10 * MINUTE), asked_at: None });
}

#[test]
fn an_answer_that_comes_in_a_second_incident_prompts_nobody() {
    let mut scene = Scene::asked();
    scene.incident = true;
    assert_eq!(prompts(&scene.is_read(Status::Invalid)), 0);
    scene.incident = false;
    assert_eq!(prompts(&scene.is_read(Status::Invalid)), 1);
}

#[test]
fn without_keys_the_prompt_is_sent_when_the_incident_is_over() {
    let mut scene = Scene::broken(false, Cause::Token);
    scene.incident = false;
    assert_eq!(prompts(&scene.is_due()), 1);
}

#[test]
fn nobody_is_asked_for_what_needs_an_institution_that_is_down() {
    for (cause, waits) in [
        (Cause::Credentials, true),
        (Cause::Token, true),
        (Cause::AccountBlocked, true),
        (Cause::ConsentEnded, true),
        (Cause::Unsupported, false),
    ] {
        let mut scene = Scene::broken(true, cause);
        assert_eq!(matches!(scene.prompt(), Prompt::Deferred { .. }), waits, "{cause:?}");
        // What the user has to do may change meanwhile. A consent is renewed at the institution too.
        let consent_ended = scene.try_receive(Event::Broken(Breakage::of(Cause::ConsentEnded)));
        assert_eq!(consent_ended.is_ok(), cause != Cause::ConsentEnded, "{cause:?}");
        if waits {
            assert_eq!(prompts(&scene.is_due()), 0, "{cause:?}");
            scene.incident = false;
            // relink asks Belvo first, and does not wait for ever for the answer.
            assert_eq!((prompts(&scene.is_due()), prompts(&scene.is_due())), (0, 1), "{cause:?}");
        }
    }
}

#[test]
fn a_link_that_is_muted_during_the_incident_is_not_prompted() {
    let mut scene = Scene::asked();
    scene.receive(Event::Command(Command::Mute));
    assert_eq!(prompts(&scene.is_read(Status::Invalid)), 0);
    assert_eq!(scene.prompt(), Prompt::Muted);
    assert_eq!(prompts(&scene.receive(Event::Command(Command::Unmute))), 1);
}

#[test]
fn an_operator_releases_a_deferred_prompt_during_the_incident() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    assert!(matches!(scene.prompt(), Prompt::Deferred { .. }));
    assert_eq!(prompts(&scene.receive(Event::Command(Command::Release))), 1);
    assert_eq!(scene.prompt(), Prompt::Sent);
    // It was the one prompt of the outage: the end of the incident and the answer of Belvo send no second one.
    assert_eq!(scene.try_receive(Event::Command(Command::Release)), Err(Refusal::NothingHeld));
    scene.incident = false;
    scene.receive(Event::Command(Command::Verify));
    assert_eq!(prompts(&scene.is_read(Status::Invalid)), 0);
}

#[test]
fn a_release_ends_a_mute_and_does_not_wait_for_the_incident() {
    let mut scene = Scene::asked();
    scene.receive(Event::Command(Command::Mute));
    scene.is_read(Status::Invalid);
    assert_eq!(scene.prompt(), Prompt::Muted);
    scene.incident = true;
    assert_eq!(prompts(&scene.receive(Event::Command(Command::Release))), 1);
    assert!(!scene.history.link.muted);
}

#[test]
fn a_release_counts_also_if_the_incident_begins_after_the_wait_for_the_turn_of_the_user() {
    let mut scene = Scene { history: History::new(true), now: START, incident: false };
    scene.history.link.profile = identified();
    let message = LastMessage { at: scene.now, about: other_links()[0].clone(), mentioned: None };
    let person = Box::new(Person { last_message: Some(message), ..Person::default() });
    let broken = Event::Broken(Breakage::of(Cause::Token));
    scene.history.receive(Input { person: Some(person), ..broken.into() }, scene.now).expect("the machine accepts it");
    assert!(matches!(scene.prompt(), Prompt::Postponed { .. }));
    assert_eq!(scene.try_receive(Event::Command(Command::Release)), Err(Refusal::NothingHeld));
    scene.incident = true;
    assert_eq!(prompts(&scene.receive(Event::Command(Command::Release))), 0);
    let at = scene.history.link.deadline(&scene.history.policy).expect("the end of the pause");
    let due = Input { incident: down(true), ..Event::DeadlinePassed.into() };
    assert_eq!(prompts(&scene.history.receive(due, at).expect("it is due").effects), 1);
}

#[test]
fn a_release_does_not_wake_a_user_and_sends_nothing_about_a_link_that_needs_nobody() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    // The person got a message about another link a minute ago.
    let message = LastMessage { at: scene.now, about: other_links()[0].clone(), mentioned: None };
    let person = Box::new(Person { last_message: Some(message), ..Person::default() });
    let input = Input { incident: down(true), person: Some(person), ..Event::Command(Command::Release).into() };
    scene.now = shift(scene.now, MINUTE);
    let released = scene.history.receive(input, scene.now).expect("the machine accepts it");
    assert_eq!(prompts(&released.effects), 0);
    assert!(matches!(scene.prompt(), Prompt::Postponed { .. }));
    assert_eq!(scene.try_receive(Event::Command(Command::Release)), Err(Refusal::NothingHeld));
    // When the person may get a message, the incident goes on, and defers the prompt no more.
    let mut later = scene.history.clone();
    let at = later.link.deadline(&later.policy).expect("the end of the pause");
    let sent = later.receive(Input { incident: down(true), ..Event::DeadlinePassed.into() }, at).expect("it is due");
    assert_eq!(prompts(&sent.effects), 1);
    // While its user repairs the link, and while the link works, nothing is held.
    scene.receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    assert_eq!(scene.try_receive(Event::Command(Command::Release)), Err(Refusal::NothingHeld));
    let mut valid = Scene::asked();
    valid.is_read(Status::Valid);
    assert_eq!(valid.try_receive(Event::Command(Command::Release)), Err(Refusal::NothingHeld));
}

#[test]
fn a_user_may_repair_the_link_during_the_incident_and_a_failed_attempt_keeps_the_prompt_deferred() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.receive(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.receive(Event::UpdateAbandoned);
    scene.is_read(Status::Invalid);
    assert_eq!((scene.history.link.state.name(), scene.prompt() == Prompt::Sent), (StateName::Invalid, false));
    scene.now = shift(scene.now, HOUR);
    assert_eq!(scene.receive(Event::DeadlinePassed), []);
    assert_eq!(scene.prompt(), Prompt::Deferred { until: shift(scene.now, 10 * MINUTE), asked_at: None });
}

#[test]
fn a_suspicion_that_is_confirmed_during_an_incident_has_a_deferred_prompt() {
    let mut scene = Scene::asked();
    scene.is_read(Status::Valid);
    scene.incident = true;
    assert_eq!(
        scene.receive(Event::Broken(Breakage::of(Cause::Credentials))),
        [Effect::Job(Job::Verify { consent: None })]
    );
    while scene.history.link.state.name() == StateName::Valid {
        assert_eq!(prompts(&scene.is_due()), 0);
    }
    assert!(matches!(scene.prompt(), Prompt::Deferred { .. }));
}
