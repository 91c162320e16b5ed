//! A fixture: one link at a certain time, with helpers to send it events.

use std::time::Duration;

use relink::link::{
    Breakage, Cause, Data, DataKind, Effect, Event, Input, Job, LinkObservation, Notice, PolicySettings, Profile,
    Refusal, StateName, Status, Timestamp,
};

use crate::world::{DAY, HOUR, History, MINUTE, START, policy_with, shift};

pub(crate) const SECOND: i64 = 1000;

/// One link with its history, and the current time.
pub(crate) struct Scene {
    pub(crate) history: History,
    pub(crate) now: Timestamp,
}

impl Scene {
    /// A link about which no event has been received yet.
    pub(crate) fn unknown(can_verify: bool) -> Self {
        Self { history: History::new(can_verify), now: START }
    }

    /// A working link that was read from Belvo.
    pub(crate) fn valid(can_verify: bool) -> Self {
        let mut scene = Self::unknown(can_verify);
        scene.receive(Input { profile: identified(), ..data().into() });
        scene
    }

    /// A link with an open episode.
    pub(crate) fn broken(can_verify: bool, cause: Cause) -> Self {
        let mut scene = Self::valid(can_verify);
        scene.wait(HOUR);
        scene.receive(Event::Broken(Breakage::of(cause)));
        scene
    }

    /// A link whose repair is proven, two minutes after it broke. Its user may get the next message at once.
    pub(crate) fn repaired() -> Self {
        let mut scene = Self::broken(true, Cause::Credentials);
        scene.without_pause();
        scene.wait(MINUTE);
        scene.receive(Event::UpdateClaimed);
        scene.wait(MINUTE);
        let observed = scene.observed(Status::Valid, None);
        scene.receive(observed);
        assert_eq!(scene.state(), StateName::Valid);
        scene
    }

    /// A repaired link without API keys, where the claim is the proof.
    pub(crate) fn repaired_without_keys() -> Self {
        let mut scene = Self::broken(false, Cause::Credentials);
        scene.without_pause();
        scene.wait(MINUTE);
        scene.receive(Event::UpdateClaimed);
        scene.wait(MINUTE);
        assert_eq!(scene.state(), StateName::Valid);
        scene
    }

    /// The reminder pause is a minute, so that the next outage is prompted at once.
    pub(crate) fn without_pause(&mut self) {
        let settings = self.history.policy.settings().clone();
        self.history.policy = policy_with(PolicySettings { reminder_pause: Duration::from_secs(60), ..settings });
    }

    pub(crate) fn wait(&mut self, millis: i64) {
        self.now = shift(self.now, millis);
    }

    pub(crate) fn wait_for_deadline(&mut self) {
        self.now = self.history.link.deadline(&self.history.policy).expect("the link waits for something");
    }

    pub(crate) fn try_receive(&mut self, input: impl Into<Input>) -> Result<Vec<Effect>, Refusal> {
        self.history.receive(input, self.now).map(|step| step.effects)
    }

    pub(crate) fn receive(&mut self, input: impl Into<Input>) -> Vec<Effect> {
        self.try_receive(input).expect("the machine accepts it")
    }

    pub(crate) fn state(&self) -> StateName {
        self.history.link.state.name()
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        self.history.link.state.episode().map(|episode| episode.cause)
    }

    /// An observation that is read now.
    pub(crate) fn observed(&self, status: Status, last_accessed_at: Option<Timestamp>) -> Event {
        Event::Observed(LinkObservation { observed_at: self.now, status, last_accessed_at })
    }

    pub(crate) fn update_starts(&mut self) {
        let until = shift(self.now, 10 * MINUTE);
        self.receive(Event::UpdateStarted { until });
    }
}

/// What a read from Belvo shows: the prompt of this link need not wait for a read.
pub(crate) fn identified() -> Profile {
    Profile {
        institution: Some("erebor_mx_retail".into()),
        external_id: Some("maria".into()),
        created_at: Some(shift(START, -DAY)),
        ..Profile::default()
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
