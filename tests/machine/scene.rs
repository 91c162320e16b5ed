//! A link in the middle of its story, and the words in which the traps are told.

use relink::link::{
    Breakage, Cause, Data, DataKind, Effect, Event, Input, Job, Notice, Observation, Refusal, StateName, Status,
    Timestamp,
};

use crate::world::{HOUR, MINUTE, START, Story, shift};

pub(crate) const SECOND: i64 = 1000;

/// A link that works, `millis` after the start of its story, with what came of it so far.
pub(crate) struct Scene {
    pub(crate) story: Story,
    pub(crate) now: Timestamp,
}

impl Scene {
    /// A link of which nothing has been received yet.
    pub(crate) fn unknown(can_verify: bool) -> Self {
        Self { story: Story::new(can_verify), now: START }
    }

    /// A working link.
    pub(crate) fn valid(can_verify: bool) -> Self {
        let mut scene = Self::unknown(can_verify);
        scene.hears(data());
        scene
    }

    /// A link with an open episode.
    pub(crate) fn broken(can_verify: bool, cause: Cause) -> Self {
        let mut scene = Self::valid(can_verify);
        scene.wait(HOUR);
        scene.hears(Event::Broken(Breakage::of(cause)));
        scene
    }

    /// A link whose repair is proven, a minute after it broke.
    pub(crate) fn repaired() -> Self {
        let mut scene = Self::broken(true, Cause::Credentials);
        scene.wait(MINUTE);
        scene.hears(Event::UpdateClaimed);
        scene.wait(MINUTE);
        let observed = scene.observed(Status::Valid, None);
        scene.hears(observed);
        assert_eq!(scene.state(), StateName::Valid);
        scene
    }

    /// The same without keys: the user's word is all the proof there is.
    pub(crate) fn repaired_without_keys() -> Self {
        let mut scene = Self::broken(false, Cause::Credentials);
        scene.wait(MINUTE);
        scene.hears(Event::UpdateClaimed);
        scene.wait(MINUTE);
        assert_eq!(scene.state(), StateName::Valid);
        scene
    }

    pub(crate) fn wait(&mut self, millis: i64) {
        self.now = shift(self.now, millis);
    }

    pub(crate) fn wait_for_deadline(&mut self) {
        self.now = self.story.link.deadline(&self.story.policy).expect("the link waits for something");
    }

    pub(crate) fn tries(&mut self, input: impl Into<Input>) -> Result<Vec<Effect>, Refusal> {
        self.story.hear(input, self.now).map(|step| step.effects)
    }

    pub(crate) fn hears(&mut self, input: impl Into<Input>) -> Vec<Effect> {
        self.tries(input).expect("the machine accepts it")
    }

    pub(crate) fn state(&self) -> StateName {
        self.story.link.state.name()
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        self.story.link.state.episode().map(|episode| episode.cause)
    }

    /// A read of the link at this moment.
    pub(crate) fn observed(&self, status: Status, last_accessed_at: Option<Timestamp>) -> Event {
        Event::Observed(Observation { observed_at: self.now, status, last_accessed_at })
    }

    pub(crate) fn update_starts(&mut self) {
        let until = shift(self.now, 10 * MINUTE);
        self.hears(Event::UpdateStarted { until });
    }
}

pub(crate) fn data() -> Event {
    let resource = "TRANSACTIONS".into();
    Event::DataArrived(Data { resource, kind: DataKind::New, items_count: Some(7), has_errors: false })
}

pub(crate) fn rejected() -> Event {
    Event::Broken(Breakage::of(Cause::Credentials))
}

pub(crate) fn prompts(effects: &[Effect]) -> usize {
    let is_prompt = |effect: &&Effect| matches!(effect, Effect::Notice { notice: Notice::UpdateRequired, .. });
    effects.iter().filter(is_prompt).count()
}

pub(crate) fn asks(effects: &[Effect], job: Job) -> bool {
    effects.contains(&Effect::Job(job))
}

pub(crate) const fn verify() -> Job {
    Job::Verify { consent: None }
}

pub(crate) const fn refresh() -> Job {
    Job::Refresh { resources: Vec::new() }
}
