//! A bank refuses everybody: what one of its links does, an example each.

use relink::link::{
    Breakage, Cause, Command, Effect, Event, Input, Job, Notice, Observation, Prompt, Refusal, State, StateName,
    Status, Timestamp,
};

use crate::world::{DAY, HOUR, MINUTE, START, Story, shift};

/// A link of the bank, and whether the bank is in trouble.
struct Scene {
    story: Story,
    now: Timestamp,
    incident: bool,
}

impl Scene {
    /// A link that has just broken.
    fn broken(can_verify: bool, cause: Cause) -> Self {
        let mut scene = Self { story: Story::new(can_verify), now: START, incident: true };
        scene.hears(Event::Broken(Breakage::of(cause)));
        scene
    }

    /// One that Belvo has been asked about, the bank's trouble being over.
    fn asked() -> Self {
        let mut scene = Self::broken(true, Cause::Credentials);
        scene.incident = false;
        assert_eq!(scene.is_due(), [Effect::Job(Job::Verify { consent: None })]);
        scene
    }

    fn hears(&mut self, event: Event) -> Vec<Effect> {
        self.tries(event).expect("the machine accepts it")
    }

    fn tries(&mut self, event: Event) -> Result<Vec<Effect>, Refusal> {
        let input = Input { incident: self.incident, ..event.into() };
        self.story.hear(input, self.now).map(|step| step.effects)
    }

    fn is_due(&mut self) -> Vec<Effect> {
        self.now = self.story.link.deadline(&self.story.policy).expect("the link waits for something");
        self.hears(Event::DeadlinePassed)
    }

    fn is_read(&mut self, status: Status) -> Vec<Effect> {
        self.now = shift(self.now, MINUTE);
        self.hears(Event::Observed(Observation { observed_at: self.now, status, last_accessed_at: None }))
    }

    fn prompt(&self) -> Prompt {
        self.story.link.state.episode().expect("an open episode").prompt
    }
}

fn prompts(effects: &[Effect]) -> usize {
    let is_prompt = |effect: &&Effect| matches!(effect, Effect::Notice { notice: Notice::UpdateRequired, .. });
    effects.iter().filter(is_prompt).count()
}

#[test]
fn the_prompt_waits_as_long_as_the_incident_lasts() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    assert_eq!(scene.prompt(), Prompt::Waiting { until: shift(START, 10 * MINUTE), asked_at: None });
    for wait in 2..20 {
        assert_eq!(scene.is_due(), []);
        assert_eq!(scene.prompt(), Prompt::Waiting { until: shift(START, wait * 10 * MINUTE), asked_at: None });
    }
    assert_eq!(scene.tries(Event::DeadlinePassed), Err(Refusal::NotDue));
}

#[test]
fn belvo_is_asked_first_and_a_link_that_works_prompts_nobody() {
    let mut scene = Scene::asked();
    assert_eq!(prompts(&scene.is_read(Status::Valid)), 0);
    assert_eq!(scene.story.link.state, State::Valid { suspicion: None });
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
fn no_answer_in_time_is_a_prompt_too() {
    let mut scene = Scene::asked();
    let asked_at = scene.now;
    assert_eq!(prompts(&scene.is_due()), 1);
    assert_eq!(scene.now, shift(asked_at, 30 * MINUTE), "many links share the answers");
}

#[test]
fn an_answer_from_before_the_question_says_nothing() {
    let mut scene = Scene::asked();
    let observed_at = shift(scene.now, -1);
    let read = Observation { observed_at, status: Status::Invalid, last_accessed_at: None };
    assert_eq!(scene.tries(Event::Observed(read)), Err(Refusal::AlreadyKnown));
    assert!(matches!(scene.prompt(), Prompt::Waiting { .. }));
}

#[test]
fn a_second_incident_before_the_answer_starts_the_wait_again() {
    let mut scene = Scene::asked();
    scene.incident = true;
    assert_eq!(scene.is_due(), []);
    assert_eq!(scene.prompt(), Prompt::Waiting { until: shift(scene.now, 10 * MINUTE), asked_at: None });
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
fn without_keys_the_prompt_goes_out_when_it_is_over() {
    let mut scene = Scene::broken(false, Cause::Token);
    scene.incident = false;
    assert_eq!(prompts(&scene.is_due()), 1);
}

#[test]
fn what_no_institution_can_cause_is_prompted_at_once() {
    for (cause, waits) in [
        (Cause::Credentials, true),
        (Cause::Token, true),
        (Cause::AccountBlocked, true),
        (Cause::ConsentEnded, false),
        (Cause::Unsupported, false),
    ] {
        let mut scene = Scene::broken(true, cause);
        assert_eq!(matches!(scene.prompt(), Prompt::Waiting { .. }), waits, "{cause:?}");
        // A consent that ends meanwhile is the user's business whatever the bank does.
        let consent_ended = scene.tries(Event::Broken(Breakage::of(Cause::ConsentEnded)));
        assert_eq!(consent_ended.is_ok(), cause != Cause::ConsentEnded, "{cause:?}");
        assert!(!waits || prompts(&scene.is_due()) == 1, "{cause:?}");
    }
}

#[test]
fn a_link_that_was_muted_meanwhile_is_held_and_not_prompted() {
    let mut scene = Scene::asked();
    scene.hears(Event::Command(Command::Mute));
    assert_eq!(prompts(&scene.is_read(Status::Invalid)), 0);
    assert_eq!(scene.prompt(), Prompt::Held);
    assert_eq!(prompts(&scene.hears(Event::Command(Command::Unmute))), 1);
}

#[test]
fn a_user_who_comes_unasked_is_served_and_a_failed_attempt_waits_on() {
    let mut scene = Scene::broken(true, Cause::Credentials);
    scene.hears(Event::UpdateStarted { until: shift(scene.now, 10 * MINUTE) });
    scene.hears(Event::UpdateAbandoned);
    scene.is_read(Status::Invalid);
    assert_eq!((scene.story.link.state.name(), scene.prompt() == Prompt::Sent), (StateName::Invalid, false));
    scene.now = shift(scene.now, HOUR);
    assert_eq!(scene.hears(Event::DeadlinePassed), []);
    assert_eq!(scene.prompt(), Prompt::Waiting { until: shift(scene.now, 10 * MINUTE), asked_at: None });
}

#[test]
fn a_doubt_that_is_believed_during_an_incident_waits_as_well() {
    let mut scene = Scene::asked();
    scene.is_read(Status::Valid);
    scene.incident = true;
    assert_eq!(
        scene.hears(Event::Broken(Breakage::of(Cause::Credentials))),
        [Effect::Job(Job::Verify { consent: None })]
    );
    while scene.story.link.state.name() == StateName::Valid {
        assert_eq!(prompts(&scene.is_due()), 0);
    }
    assert!(matches!(scene.prompt(), Prompt::Waiting { .. }));
}
