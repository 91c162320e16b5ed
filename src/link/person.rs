//! The person behind several links: one message is for all of them, and the next one waits for the reminder pause.
//!
//! A *person* is the user of all links with the same `external_id`; a link without it is a person of its own. A *message* is a notice that
//! asks the user for something: `update_required`, `reminder`, `consent_expiring`, or an `institution_restored` after which the user
//! has to act. [`super::Input::person`] has what is known of the
//! person's other links. The caller looks it up, because the machine sees only one link.
//!
//! ```text
//!   a message is due ──▶ no message to the person within the pause ──▶ it is sent, and mentions all other links that wait
//!        ▲          ──▶ the last one mentioned this link ───────────▶ it counts as this message: nothing is sent
//!        └── the end of the pause ◀── the last one did not mention it: this one is postponed
//! ```
//!
//! An outage of a bank breaks several links of a person together, and after it relink asks Belvo about each of them. So a message waits until
//! the answers are there ([`Person::undecided`]): else it would mention only a part of the broken links, and the others would wait for the
//! next message.
//!
//! Nothing is dropped: a link that is not mentioned keeps its own wait, which ends with its own message. A message also waits while the
//! person is repairing another link. Only `institution_restored` does not wait for the pause, because relink has promised it; the messages
//! after it wait for the pause all the same.

use std::collections::BTreeMap;

use super::{
    Cause, Due, Effect, Episode, EpisodeNumber, Link, LinkId, Notice, Policy, Prompt, State, Step, Timestamp,
    UpdatePhase, succeeds,
};

/// The most links of one person. An `external_id` that more links share, removed ones included, is no key of a person, so each of these
/// links is a person of its own.
pub const PERSON_LINKS_MAX: usize = 64;

/// The last message to the user about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messaged {
    /// When it was sent.
    pub at: Timestamp,
    /// The other links that it mentioned.
    pub mentioned: Vec<WaitingLink>,
}

/// What is known of the other links of the person: a circumstance of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// The last message to the person about another link.
    pub last_message: Option<LastMessage>,
    /// The other link that the person is repairing now; if there are several, the one with the latest end.
    pub in_widget: Option<OtherWidget>,
    /// Another broken link, about which relink asks Belvo before its prompt. If there are several, the one that is answered last.
    pub undecided: Option<UndecidedLink>,
    /// The other links that need their user now, in the order of their ids.
    pub waiting: Vec<WaitingLink>,
}

/// Another broken link of the person that no message mentions yet, because its prompt waits for an answer of Belvo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UndecidedLink {
    /// When relink asks Belvo, or has asked.
    pub asked_at: Timestamp,
    /// The link.
    pub id: LinkId,
}

/// The person holds a widget token for another link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherWidget {
    /// When the token expires.
    pub until: Timestamp,
    /// The link that the token is for.
    pub about: LinkId,
}

/// The last message to a person about another link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastMessage {
    /// When it was sent.
    pub at: Timestamp,
    /// The link that it was about.
    pub about: LinkId,
    /// If it mentioned this link: what this link needed. The message says nothing about a later outage.
    pub mentioned: Option<Need>,
}

/// A link that needs its user, and that a message about another link of the person mentions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingLink {
    /// The link.
    pub id: LinkId,
    /// Belvo's name of its institution.
    pub institution: Option<String>,
    /// What its user has to do.
    pub need: Need,
}

/// What a link needs from its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The link is broken.
    Repair {
        /// The outage.
        episode: EpisodeNumber,
        /// Its cause.
        cause: Cause,
    },
    /// The link works, and its consent ends soon.
    Renewal {
        /// When the consent ends.
        due_at: Timestamp,
    },
}

impl Need {
    /// Whether it is the need of this outage.
    pub(super) fn is_of(&self, outage: &Episode) -> bool {
        matches!(self, Self::Repair { episode, .. } if *episode == outage.number)
    }
}

impl Person {
    /// What `others`, which include all other links of the person, mean for a message about `link` at `now`. `None`: they mean nothing, or
    /// there are too many of them. A link that is given twice counts once. A link whose bank is down (`is_down`, by the institution of the
    /// link) needs nothing from its user now, so no message mentions it.
    pub fn of<'a>(
        link: &Link,
        others: impl IntoIterator<Item = &'a Link>,
        is_down: impl Fn(Option<&str>) -> bool,
        now: Timestamp,
        policy: &Policy,
    ) -> Option<Self> {
        let others = others.into_iter().filter(|other| is_same_person(other, link, policy));
        let others: BTreeMap<&LinkId, &Link> = others.map(|other| (&other.id, other)).collect();
        if others.len() >= PERSON_LINKS_MAX {
            return None;
        }
        let messages = others.values().filter_map(|other| Some((other.messaged.as_ref()?, &other.id)));
        let last_message = messages.max_by_key(|(message, id)| (message.at, *id)).map(|(message, about)| {
            let mentioned = message.mentioned.iter().find(|mentioned| mentioned.id == link.id);
            LastMessage { at: message.at, about: about.clone(), mentioned: mentioned.map(|mentioned| mentioned.need) }
        });
        let is_replaced = |old: &Link| others.values().chain([&link]).any(|new| succeeds(new, old, policy));
        // A user who has connected the bank anew lets the old link be: its own message would find out.
        let repairable = |other: &&&Link| !is_down(other.profile.institution.as_deref()) && !is_replaced(other);
        let repairable = others.values().filter(repairable);
        let waiting = repairable.clone().filter_map(|other| other.waits_for_user(now, policy)).collect();
        let undecided = repairable.filter_map(|other| other.undecided(now)).max();
        let widgets = others.values().filter_map(|other| Some((other.in_widget_until()?, &other.id)));
        let in_widget = widgets.max().filter(|(until, _)| now < *until);
        let in_widget = in_widget.map(|(until, about)| OtherWidget { until, about: about.clone() });
        Some(Self { last_message, in_widget, undecided, waiting }).filter(Self::matters)
    }

    /// Whether anything is known that may change a message.
    fn matters(&self) -> bool {
        let Self { last_message, in_widget, undecided, waiting } = self;
        last_message.is_some() || in_widget.is_some() || undecided.is_some() || !waiting.is_empty()
    }
}

/// Whether both links are of one person, by the policy. An empty `external_id` is no key of a person.
pub fn is_same_person(one: &Link, other: &Link, policy: &Policy) -> bool {
    one.id != other.id
        && one.profile.external_id == other.profile.external_id
        && other.profile.person().is_some()
        && policy.settings().per_person
}

impl super::Profile {
    /// The key of the person, if it is known.
    pub fn person(&self) -> Option<&str> {
        self.external_id.as_deref().filter(|key| !key.trim().is_empty())
    }
}

impl Link {
    /// The last message about one of `others`, which are links of the same person, that mentioned what this link needs from its user: its
    /// open outage, or the end of its consent. When it was sent, and which link it was about.
    pub fn last_mention<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Option<(Timestamp, &'a LinkId)> {
        let is_needed = |need: &Need| match (*need, self.state.episode()) {
            (Need::Repair { episode, .. }, Some(outage)) => episode == outage.number,
            (Need::Renewal { due_at }, None) => self.consent_due() == Due::At(due_at),
            (Need::Repair { .. }, None) | (Need::Renewal { .. }, Some(_)) => false,
        };
        let messages = others.into_iter().filter_map(|other| {
            let message = other.messaged.as_ref()?;
            let mentions = message.mentioned.iter().any(|link| link.id == self.id && is_needed(&link.need));
            mentions.then_some((message.at, &other.id))
        });
        messages.max()
    }

    /// What this link needs from its user, if a message about another link of the person is sent at `now`.
    fn waits_for_user(&self, now: Timestamp, policy: &Policy) -> Option<WaitingLink> {
        let need = self.needs_repair(now).or_else(|| self.needs_renewal(now, policy))?;
        Some(WaitingLink { id: self.id.clone(), institution: self.profile.institution.clone(), need })
    }

    /// When the last widget token for this link expires, in an attempt or outside of one.
    fn in_widget_until(&self) -> Option<Timestamp> {
        let in_attempt = match self.state {
            State::Updating { phase: UpdatePhase::WithUser { until, .. }, .. } => Some(until),
            State::Updating { phase: UpdatePhase::Verifying { .. }, .. }
            | State::Unconfirmed
            | State::Valid { .. }
            | State::Invalid { .. }
            | State::TokenRequired { .. }
            | State::Removed => None,
        };
        in_attempt.max(self.widget_until)
    }

    /// A broken link whose prompt has been sent, or waits only for a time at which the user may get a message.
    fn needs_repair(&self, now: Timestamp) -> Option<Need> {
        let episode = self.awaits_user()?;
        let is_due = match episode.prompt {
            Prompt::Sent => self.snoozed_until.is_none_or(|until| until <= now),
            Prompt::Postponed { .. } => true,
            Prompt::Muted | Prompt::Deferred { .. } | Prompt::Unidentified { .. } => false,
        };
        is_due.then_some(Need::Repair { episode: episode.number, cause: episode.cause })
    }

    /// A broken link whose prompt waits until Belvo has answered. The caller knows that its institution works.
    fn undecided(&self, now: Timestamp) -> Option<UndecidedLink> {
        let asked_at = match self.awaits_user()?.prompt {
            Prompt::Deferred { until, asked_at } => asked_at.unwrap_or(until),
            Prompt::Unidentified { .. } => now,
            Prompt::Sent | Prompt::Muted | Prompt::Postponed { .. } => return None,
        };
        Some(UndecidedLink { asked_at, id: self.id.clone() })
    }

    /// A consent whose notice is due before the person may get the next message.
    fn needs_renewal(&self, now: Timestamp, policy: &Policy) -> Option<Need> {
        let Due::At(due_at) = self.consent_due() else { return None };
        let is_valid = matches!(self.state, State::Valid { .. });
        let announced_at = self.next_rung(policy).map(|rung| due_at.before(rung))?;
        let is_soon = announced_at <= now.after(policy.reminder_pause()) && now < due_at;
        (is_valid && is_soon && !self.muted).then_some(Need::Renewal { due_at })
    }
}

impl Step {
    /// Whether the step sends a message to the user, so that the caller has to look up the person first.
    pub fn has_message(&self) -> bool {
        has_message(&self.effects)
    }
}

/// Whether one of the effects is a message to the user.
pub(super) fn has_message(effects: &[Effect]) -> bool {
    let is_message = |effect: &Effect| match effect {
        Effect::Notice { notice, episode } => notice.is_message(episode.as_ref()),
        Effect::Job(_) => false,
    };
    effects.iter().any(is_message)
}

impl Notice {
    /// Whether the notice asks the user for something. `episode` is the outage that it is about.
    pub fn is_message(&self, episode: Option<&Episode>) -> bool {
        match self {
            Self::UpdateRequired | Self::Reminder { .. } => episode.is_none_or(|episode| episode.cause.user_can_act()),
            Self::ConsentExpiring { .. } => true,
            Self::InstitutionRestored { asks, .. } => *asks,
            Self::UpdateStarted
            | Self::UpdateFailed { .. }
            | Self::Superseded { .. }
            | Self::Recovered { .. }
            | Self::RefreshDue { .. }
            | Self::DataAvailable(_)
            | Self::Refreshed { .. }
            | Self::Stale { .. }
            | Self::InstitutionDown { .. }
            | Self::CreationUnfinished { .. }
            | Self::Removed { .. } => false,
        }
    }
}
