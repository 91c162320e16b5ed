//! Superseded links: the user has connected the bank anew in place of a repair, so nobody is nagged about the old link.
//!
//! Belvo gives every new connection a new link id, and a new open-finance consent is always a new link. The old link
//! stays broken. [`succeeds`] decides whether one link is the *successor* of another. The machine sees only one link, so
//! the caller finds the successor and passes it in, as an event ([`super::Event::Superseded`]) or as a circumstance
//! ([`super::Input::successor`]).
//!
//! A superseded link keeps its broken state and its episode, with the mark `superseded_by`. While the episode has this
//! mark, its user is neither prompted nor reminded. Everything else goes on: evidence refines the cause, an attempt of
//! the user is followed, and a proof that the link works ends the episode as always.

use super::builder::{Next, TransitionBuilder};
use super::{
    AttemptEnd, Effect, Episode, Job, Link, LinkId, Notice, Policy, Profile, Prompt, Refusal, State, Step,
    SuccessorObservation, Supersede, Timestamp, UpdatePhase,
};

/// How many links a link remembers that do not supersede it, by an operator's command. The oldest is forgotten first.
pub const NOT_SUPERSEDED_BY_MAX: usize = 8;

/// Whether `other` is the successor of `link`: a newer link of the same user at the same institution that is proven to
/// work. What is unknown or empty never matches.
pub fn succeeds(other: &Link, link: &Link, policy: &Policy) -> bool {
    let is_newer = match (other.profile.created_at, link.profile.created_at) {
        (Some(other), Some(link)) => other > link,
        (Some(_) | None, _) => false,
    };
    other.id != link.id
        && is_newer
        && is_proven_valid(&other.state)
        && !link.not_superseded_by.contains(&other.id)
        && is_of_same_user(&other.profile, &link.profile, policy)
}

/// Like [`succeeds`], after a success callback of `link` named `other`. The callback connects the two links, so only a
/// contradiction counts: another institution, another user there, or an older link.
pub fn may_succeed(other: &Link, link: &Link, policy: &Policy) -> bool {
    let institution = known(&link.profile.institution);
    let users = (known(&other.profile.institution_user_id), known(&link.profile.institution_user_id));
    let is_other_user = matches!(users, (Some(one), Some(other)) if one != other);
    let created = (other.profile.created_at, link.profile.created_at);
    let is_older = matches!(created, (Some(other), Some(link)) if other <= link);
    policy.settings().supersede != Supersede::Never
        && other.id != link.id
        && is_proven_valid(&other.state)
        && institution.is_some()
        && institution == known(&other.profile.institution)
        && !is_other_user
        && !is_older
}

/// Whether both links are of one user at one institution, by the keys that the policy accepts.
fn is_of_same_user(one: &Profile, other: &Profile, policy: &Policy) -> bool {
    if known(&one.institution).is_none() || one.institution != other.institution {
        return false;
    }
    match (known(&one.institution_user_id), known(&other.institution_user_id), policy.settings().supersede) {
        (_, _, Supersede::Never) => false,
        // Belvo's key is the login at the bank. It decides alone if it is known of both links.
        (Some(one), Some(other), Supersede::InstitutionUserId | Supersede::ExternalId) => one == other,
        (_, _, Supersede::InstitutionUserId) => false,
        (_, _, Supersede::ExternalId) => known(&one.external_id).is_some() && one.external_id == other.external_id,
    }
}

impl Step {
    /// Whether a successor of the link would change this step, so that the caller has to look it up: the user of a
    /// broken link is prompted or reminded, the prompt is deferred to a later step, the end of a consent or an unfinished
    /// creation is announced, or a key by which a successor is found has become known.
    pub fn may_have_successor(&self, before: &Link) -> bool {
        let is_announcement = |effect: &Effect| {
            matches!(
                effect,
                Effect::Notice { notice: Notice::ConsentExpiring { .. } | Notice::CreationUnfinished { .. }, .. }
            )
        };
        if self.effects.iter().any(is_announcement) {
            return true;
        }
        let is_open = |episode: &&Episode| episode.superseded_by.is_none();
        let Some(episode) = self.link.state.episode().filter(is_open) else { return false };
        let is_prompt = |effect: &Effect| {
            matches!(effect, Effect::Notice { notice: Notice::UpdateRequired | Notice::Reminder { .. }, .. })
        };
        let is_deferred = before.state.episode().is_none() && !matches!(episode.prompt, Prompt::Sent | Prompt::Muted);
        let is_identified = before.state.episode().is_some() && keys_of(&before.profile) != keys_of(&self.link.profile);
        self.effects.iter().any(is_prompt) || is_deferred || is_identified
    }
}

/// The fields that decide whether two links are of one user, and which one is newer.
fn keys_of(profile: &Profile) -> (Option<&str>, Option<&str>, Option<&str>, Option<Timestamp>) {
    let Profile { institution, institution_user_id, external_id, created_at, .. } = profile;
    (known(institution), known(institution_user_id), known(external_id), *created_at)
}

fn known(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

const fn is_proven_valid(state: &State) -> bool {
    matches!(state, State::Valid { suspicion: None })
}

impl TransitionBuilder<'_> {
    /// A link that has just been proven to work may be the successor of broken links: asks for a look-up of them. There
    /// is one look-up for each proof, and one when a key becomes known; a sweep that finds nothing new asks for none.
    pub(super) fn find_superseded(&mut self, before: &Link, after: &State) {
        let settings = self.policy.settings();
        let keys = |profile| {
            let (institution, user, external_id, created_at) = keys_of(profile);
            let external_id = external_id.filter(|_| settings.supersede == Supersede::ExternalId);
            (institution, user, external_id, created_at)
        };
        let (institution, user, external_id, created_at) = keys(&self.link.profile);
        let has_keys = institution.is_some() && (user.is_some() || external_id.is_some()) && created_at.is_some();
        let is_news = !is_proven_valid(&before.state) || keys(&before.profile) != keys(&self.link.profile);
        let is_wanted = settings.supersede != Supersede::Never && settings.can_verify;
        // A link that only webhooks have named has no keys yet: the job reads it from Belvo, once.
        let is_unread = before.state == State::Unconfirmed && institution.is_none();
        if is_proven_valid(after) && is_wanted && (is_unread || (is_news && has_keys)) {
            self.effects.push(Effect::Job(Job::FindSuperseded));
        }
    }

    /// The known successor, unless an operator has rejected it.
    pub(super) fn successor(&self) -> Option<LinkId> {
        let successor = self.successor.clone().filter(|_| self.policy.settings().supersede != Supersede::Never)?;
        (successor != self.link.id && !self.link.not_superseded_by.contains(&successor)).then_some(successor)
    }

    /// Marks the open episode if the caller knows a successor of the link. Returns whether it did.
    pub(super) fn note_successor(&mut self) -> bool {
        let Some(successor) = self.successor() else { return false };
        let mut state = self.link.state.clone();
        let Some(episode) = state.episode_mut() else { return false };
        let is_marked = self.supersede(episode, successor);
        self.link.state = state;
        is_marked
    }

    /// Marks the episode as superseded and emits the notice. Returns `false` if it is superseded already.
    pub(super) fn supersede(&mut self, episode: &mut Episode, by: LinkId) -> bool {
        if episode.superseded_by.is_some() {
            return false;
        }
        if episode.prompt != Prompt::Sent {
            // Nothing waits for the end of the incident, for the end of the night or for a read any more.
            episode.prompt = Prompt::Muted;
        }
        episode.superseded_by = Some(by.clone());
        self.emit(Notice::Superseded { by }, Some(episode));
        true
    }

    /// The link has a successor. An attempt in the widget ends by it: most likely its user has connected the bank anew
    /// in that widget. A claimed repair of this link is still verified, unless the claim named the successor.
    pub(super) fn end_by_successor(&mut self, state: State, seen: &SuccessorObservation) -> Next {
        self.check_successor(&seen.by)?;
        let mut state = state;
        let Some(episode) = state.episode_mut() else { return Err(Refusal::NotBroken) };
        if seen.observed_at < episode.opened_at {
            return Err(Refusal::Outdated);
        }
        if !self.supersede(episode, seen.by.clone()) {
            return Err(Refusal::AlreadyKnown);
        }
        self.link.widget_until = None;
        let is_named = state.episode().is_some_and(|episode| episode.successor_named.as_ref() == Some(&seen.by));
        Ok(match state {
            State::Updating { episode, phase: UpdatePhase::WithUser { .. } } => State::broken(episode),
            State::Updating { episode, phase } if is_named || !phase.is_claimed() => {
                self.link.verify_asked_at = None;
                State::broken(episode)
            }
            state => state,
        })
    }

    /// A success callback names another link. It comes from the user's device, so Belvo is asked about the other link;
    /// without API keys the callback counts, like every other callback.
    pub(super) fn hear_of_successor(&mut self, state: State, named: &LinkId) -> Next {
        self.check_successor(named)?;
        let mut state = state;
        let Some(episode) = state.episode_mut() else { return Err(Refusal::NotBroken) };
        if !self.policy.can_verify() {
            let seen = SuccessorObservation { observed_at: self.now, by: named.clone() };
            return self.end_by_successor(state, &seen);
        }
        // Widgets deliver the callback of one success more than once; the second changes nothing.
        if episode.superseded_by.is_some() || episode.successor_named.as_ref() == Some(named) {
            return Err(Refusal::AlreadyKnown);
        }
        episode.successor_named = Some(named.clone());
        self.effects.push(Effect::Job(Job::ReadSuccessor { link: named.clone() }));
        Ok(match state {
            // The user has finished, in whichever link: the attempt is verified as after every success.
            State::Updating { episode, phase: UpdatePhase::WithUser { .. } } => {
                self.link.widget_until = None;
                self.verify_or(AttemptEnd::Claimed, episode)
            }
            state => state,
        })
    }

    fn check_successor(&self, by: &LinkId) -> Result<(), Refusal> {
        if self.policy.settings().supersede == Supersede::Never {
            Err(Refusal::SupersedeOff)
        } else if *by == self.link.id || self.link.not_superseded_by.contains(by) {
            Err(Refusal::NotASuccessor)
        } else {
            Ok(())
        }
    }

    /// An operator says that the link is not superseded: its user is prompted if the prompt was not sent before, and
    /// reminded again after the reminder pause.
    pub(super) fn unsupersede(&mut self, state: &mut State) -> Result<(), Refusal> {
        let by = state.episode_mut().and_then(|episode| episode.superseded_by.take()).ok_or(Refusal::AlreadyKnown)?;
        if self.link.not_superseded_by.len() == NOT_SUPERSEDED_BY_MAX {
            self.link.not_superseded_by.remove(0);
        }
        self.link.not_superseded_by.push(by);
        if let State::Invalid { episode } | State::TokenRequired { episode } = state {
            episode.pause_reminders(self.now, self.policy);
            self.release_prompt(episode);
        }
        Ok(())
    }
}
