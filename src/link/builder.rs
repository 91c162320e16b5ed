//! The transition builder: a copy of a link that one event changes, and the effects of that event.
//!
//! The arms of the machine are methods of [`TransitionBuilder`], in one file for each subject: `breaking`, `repair`,
//! `refresh`, `renewal`, `reminder`, `creation`, `successor`, `upkeep`, `commands`. An arm changes the copy, emits effects, and returns the next
//! state. `machine` decides which arm runs.

use super::outage::is_silent;
use super::{
    Creation, DedupKey, Due, EFFECTS_MAX, Effect, Episode, Event, Held, Input, Link, LinkId, NOT_SUPERSEDED_BY_MAX,
    Notice, Person, Policy, Profile, Prompt, RECENT_KEYS_MAX, RecentFact, Refusal, State, Step, Timestamp,
};

/// A copy of a link that one event changes. The copy is dropped if the event is refused.
pub(super) struct TransitionBuilder<'a> {
    pub(super) link: Link,
    pub(super) effects: Vec<Effect>,
    pub(super) now: Timestamp,
    pub(super) policy: &'a Policy,
    /// [`Input::incident`] of the event.
    pub(super) incident: Option<Timestamp>,
    /// [`Input::successor`] of the event.
    pub(super) successor: Option<LinkId>,
    /// [`Input::person`] of the event.
    pub(super) person: Option<Box<Person>>,
    /// Whether the event is a read of the link.
    pub(super) is_read: bool,
    /// The message has a due date of the consent that differs from the known one.
    pub(super) consent_moved: bool,
    /// Why the message that was due is not sent.
    pub(super) held: Option<Held>,
    /// Until when quiet hours keep back a notice about the outage of the institution.
    pub(super) outage_notice_at: Option<Timestamp>,
    /// The message has a due date of the consent that cannot be right, such as `0001-01-01`.
    pub(super) due_is_unreadable: bool,
}

/// The result of an arm: the next state, or the reason why the event is refused.
pub(super) type Next = Result<State, Refusal>;

impl Link {
    /// Fails if a message with this key was accepted within the repeat window.
    pub(super) fn refuse_repeat(&self, key: DedupKey, now: Timestamp, policy: &Policy) -> Result<(), Refusal> {
        let (now, window) = (now.max(self.updated_at), policy.settings().repeat_window);
        let repeated = self.recent.iter().any(|seen| seen.key == key && now.since(seen.at) <= window);
        if repeated { Err(Refusal::Repeated) } else { Ok(()) }
    }
}

impl<'a> TransitionBuilder<'a> {
    pub(super) fn of(link: &Link, input: &Input, now: Timestamp, policy: &'a Policy) -> Self {
        let now = now.max(link.updated_at);
        let (incident, successor, person) = (input.incident, input.successor.clone(), input.person.clone());
        let consent = input.profile.consent.as_ref();
        let due_is_unreadable = consent.is_some_and(|consent| consent.due == Due::Unreadable);
        let (link, effects) = (link.clone(), Vec::new());
        let is_read = matches!(input.event, Event::Observed(_));
        Self {
            link,
            effects,
            now,
            policy,
            incident,
            successor,
            person,
            is_read,
            consent_moved: false,
            held: None,
            outage_notice_at: None,
            due_is_unreadable,
        }
    }

    pub(super) fn state(&self) -> State {
        self.link.state.clone()
    }

    pub(super) fn merge_profile(&mut self, profile: &Profile) {
        let due = self.link.consent_due();
        self.link.profile.merge_profile(profile);
        self.consent_moved = self.link.consent_due() != due;
    }

    pub(super) fn has_new_profile(&self, before: &Link) -> bool {
        self.link.profile != before.profile
    }

    /// Makes the step out of the changed copy.
    pub(super) fn accept(mut self, before: &Link, state: State, key: Option<DedupKey>) -> Step {
        let window = self.policy.settings().repeat_window;
        let now = self.now;
        self.link.recent.retain(|seen| now.since(seen.at) <= window);
        if let Some(key) = key {
            if self.link.recent.len() == RECENT_KEYS_MAX {
                self.link.recent.remove(0);
            }
            self.link.recent.push(RecentFact { key, at: now });
        }
        self.find_superseded(before, &state);
        assert_consistent(&self.link, &state);
        assert!(self.effects.len() <= EFFECTS_MAX, "a step has at most EFFECTS_MAX effects, so that it fits a commit");
        let from = before.state.name();
        if state.name() != from {
            self.link.since = now;
        }
        if state != State::Unconfirmed {
            self.link.creation = Creation::NotReported;
        }
        self.link.state = state;
        self.link.claimed_at = self.link.claimed_at.filter(|_| self.settle_window_end().is_some_and(|at| now < at));
        self.link.widget_until = self.widget_until();
        self.link.version += 1;
        self.link.updated_at = now;
        Step {
            link: self.link,
            from,
            at: now,
            effects: self.effects,
            times_corrected: false,
            due: None,
            held: self.held,
            outage_notice_at: self.outage_notice_at,
        }
    }

    /// When the widget token expires that the user holds outside of an attempt. `None` if there is no such token, or it
    /// has expired.
    pub(super) fn widget_until(&self) -> Option<Timestamp> {
        self.link.widget_until.filter(|&until| self.now < until)
    }

    /// When the settle window of the last recovery or claim ends; this may lie in the past.
    pub(super) fn settle_window_end(&self) -> Option<Timestamp> {
        let window = self.policy.settings().settle_window;
        self.link.settle_window_start().map(|at| at.after(window))
    }

    pub(super) fn emit(&mut self, notice: Notice, episode: Option<&Episode>) {
        self.effects.push(Effect::Notice { notice, episode: episode.cloned() });
    }
}

/// Asserts the invariants of every link. A violation is a bug in this module; the panic makes the engine dead-letter
/// the message instead of committing a wrong state.
fn assert_consistent(link: &Link, state: &State) {
    assert!(link.recent.len() <= RECENT_KEYS_MAX, "a link keeps at most RECENT_KEYS_MAX dedup keys");
    assert!(
        link.not_superseded_by.len() <= NOT_SUPERSEDED_BY_MAX,
        "a link remembers at most NOT_SUPERSEDED_BY_MAX links that do not supersede it"
    );
    assert!(
        link.outage_deadline().is_none() || !is_silent(link, state),
        "a link whose user gets no messages waits for no notice about the institution"
    );
    match state {
        State::Invalid { episode } | State::TokenRequired { episode } => {
            let requires_token = matches!(state, State::TokenRequired { .. });
            assert!(episode.cause.requires_token() == requires_token, "a broken state fits the cause of its episode");
            assert!(
                episode.session.is_none() || requires_token,
                "only a link that requires a token has an MFA session"
            );
            assert!(
                episode.prompt != Prompt::Muted || link.muted || episode.superseded_by.is_some(),
                "outside of an attempt, only a muted or superseded link has a muted prompt"
            );
        }
        State::Updating { episode, .. } => {
            assert!(episode.attempts_count > 0, "every attempt is counted in its episode");
            assert!(episode.session.is_none(), "while the user is in the widget, the widget has the MFA session");
        }
        State::Unconfirmed | State::Valid { .. } | State::Removed => {}
    }
    if let Some(episode) = state.episode() {
        assert!(episode.number.0 == link.episodes_count, "the open episode is the newest one");
        assert!(
            episode.reminders_count == 0 || episode.prompt == Prompt::Sent,
            "reminders are sent only after the prompt"
        );
        assert!(
            episode.superseded_by.is_none() || matches!(episode.prompt, Prompt::Sent | Prompt::Muted),
            "the prompt of a superseded link waits for nothing"
        );
        assert!(
            episode.superseded_by.as_ref().is_none_or(|by| !link.not_superseded_by.contains(by)),
            "no link supersedes this one against an operator's command"
        );
    }
}
