//! A link while one event changes it.
//!
//! The machine's arms are methods of [`Draft`], by subject: `breaking`, `repair`, `refresh`, `renewal`, `reminder`, `upkeep`, `orders`.
//! Each notes effects and memory here and answers with the next state; which arm applies is decided in `machine`, never here.

use super::{
    DedupKey, Due, EFFECTS_MAX, Effect, Episode, Input, Link, Notice, Policy, Profile, Prompt, RECENT_KEYS_MAX,
    Refusal, Seen, State, Step, Timestamp,
};

/// A link being changed by one event. Thrown away whole if the event is refused.
pub(super) struct Draft<'a> {
    pub(super) link: Link,
    pub(super) effects: Vec<Effect>,
    pub(super) now: Timestamp,
    pub(super) policy: &'a Policy,
    /// [`Input::incident`]
    pub(super) incident: bool,
    /// The message names another end of the consent than was known.
    pub(super) consent_moved: bool,
    /// The message names an end of the consent that cannot be a date.
    pub(super) due_is_unreadable: bool,
}

/// What an arm answers: the state to go to.
pub(super) type Next = Result<State, Refusal>;

impl<'a> Draft<'a> {
    pub(super) fn of(link: &Link, input: &Input, now: Timestamp, policy: &'a Policy) -> Self {
        let now = now.max(link.updated_at);
        let incident = input.incident;
        let consent = input.profile.consent.as_ref();
        let due_is_unreadable = consent.is_some_and(|consent| consent.due == Due::Unreadable);
        let (link, effects) = (link.clone(), Vec::new());
        Self { link, effects, now, policy, incident, consent_moved: false, due_is_unreadable }
    }

    pub(super) fn state(&self) -> State {
        self.link.state.clone()
    }

    pub(super) fn refuse_repeat(&self, key: DedupKey) -> Result<(), Refusal> {
        let window = self.policy.settings().repeat_window;
        let repeated = self.link.recent.iter().any(|seen| seen.key == key && self.now.since(seen.at) <= window);
        if repeated { Err(Refusal::Repeated) } else { Ok(()) }
    }

    pub(super) fn learn(&mut self, profile: &Profile) {
        let due = self.link.consent_due();
        self.link.profile.learn(profile);
        self.consent_moved = self.link.consent_due() != due;
    }

    pub(super) fn has_learnt(&self, before: &Link) -> bool {
        self.link.profile != before.profile
    }

    /// Closes the draft: the step is taken.
    pub(super) fn accept(mut self, before: &Link, state: State, key: Option<DedupKey>) -> Step {
        let window = self.policy.settings().repeat_window;
        let now = self.now;
        self.link.recent.retain(|seen| now.since(seen.at) <= window);
        if let Some(key) = key {
            if self.link.recent.len() == RECENT_KEYS_MAX {
                self.link.recent.remove(0);
            }
            self.link.recent.push(Seen { key, at: now });
        }
        assert_consistent(&self.link, &state);
        assert!(self.effects.len() <= EFFECTS_MAX, "a step asks for more than a commit has room for");
        let from = before.state.name();
        if state.name() != from {
            self.link.since = now;
        }
        self.link.state = state;
        self.link.claimed_at = self.link.claimed_at.filter(|_| self.settles_at().is_some_and(|at| now < at));
        self.link.widget_until = self.widget_until();
        self.link.version += 1;
        self.link.updated_at = now;
        Step { link: self.link, from, at: now, effects: self.effects }
    }

    /// Until when the user holds a widget token that no attempt accounts for; none if it has expired.
    pub(super) fn widget_until(&self) -> Option<Timestamp> {
        self.link.widget_until.filter(|&until| self.now < until)
    }

    /// When the settle window ends that began with the last recovery or claim, whether or not it has ended.
    pub(super) fn settles_at(&self) -> Option<Timestamp> {
        let window = self.policy.settings().settle_window;
        self.link.settled_since().map(|at| at.after(window))
    }

    pub(super) fn tell(&mut self, notice: Notice, episode: Option<&Episode>) {
        self.effects.push(Effect::Notice { notice, episode: episode.cloned() });
    }
}

/// What must hold of every link, however it got there: a step that breaks it is a bug of ours, and is set aside instead of
/// told to anybody.
fn assert_consistent(link: &Link, state: &State) {
    assert!(link.recent.len() <= RECENT_KEYS_MAX, "a link remembers more facts than its record has room for");
    match state {
        State::Invalid { episode } | State::TokenRequired { episode } => {
            let wants_token = matches!(state, State::TokenRequired { .. });
            assert!(episode.cause.wants_token() == wants_token, "a broken state must fit its cause");
            assert!(episode.session.is_none() || wants_token, "only a link that wants a token has a login session");
            assert!(
                episode.prompt != Prompt::Held || link.muted,
                "only a mute holds the prompt of a link nobody repairs"
            );
        }
        State::Updating { episode, .. } => {
            assert!(episode.attempts_count > 0, "an attempt is counted");
            assert!(episode.session.is_none(), "the session is the attempt's");
        }
        State::Unconfirmed | State::Valid { .. } | State::Removed => {}
    }
    if let Some(episode) = state.episode() {
        assert!(episode.number.0 == link.episodes_count, "the open episode is the last one");
        assert!(episode.reminders_count == 0 || episode.prompt == Prompt::Sent, "a reminder follows a prompt");
    }
}
