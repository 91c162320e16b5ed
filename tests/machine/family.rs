//! The links of one person. `Family` does what the engine does with the circumstance of an input, and keeps what was sent.

use relink::link::{
    Consent, Due, Effect, EpisodeNumber, Event, Input, Link, LinkObservation, Need, Notice, Person, Policy,
    PolicySettings, Profile, Prompt, Status, Step, Timestamp, step,
};

use crate::scene::data;
use crate::world::{START, down, policy_with, shift};

/// A message that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) at: Timestamp,
    pub(crate) about: usize,
    pub(crate) notice: Notice,
    pub(crate) mentioned: Vec<(String, Need)>,
}

/// The links of one person, and what the person was sent.
pub(crate) struct Family {
    pub(crate) policy: Policy,
    pub(crate) links: Vec<Link>,
    pub(crate) now: Timestamp,
    pub(crate) is_down: bool,
    pub(crate) messages: Vec<Message>,
    /// The outages of which the application was informed that the user can do nothing.
    pub(crate) informed: Vec<(usize, EpisodeNumber)>,
}

impl Family {
    pub(crate) fn new(settings: PolicySettings, count: usize) -> Self {
        let link = |number| Link::unknown(format!("link-{number}").parse().unwrap(), START);
        let links = (0..count).map(link).collect();
        let mut family = Self {
            policy: policy_with(settings),
            links,
            now: START,
            is_down: false,
            messages: Vec::new(),
            informed: Vec::new(),
        };
        for link in 0..count {
            // relink knows the links, so no prompt waits for a read.
            let (institution, external_id) = (Some(format!("bank-{link}")), Some("maria".to_owned()));
            let profile = Profile { institution, external_id, ..Profile::default() };
            family.receive(link, Input { profile, ..data().into() }).unwrap();
        }
        family
    }

    /// Gives an input to a link. Like the engine, it looks up the person only if the step sends a message.
    pub(crate) fn receive(&mut self, which: usize, input: impl Into<Input>) -> Option<Step> {
        let mut input: Input = input.into();
        input.incident = down(self.is_bank_down(self.links[which].profile.institution.as_deref()));
        let before = self.links[which].clone();
        let mut stepped = step(&before, &input, self.now, &self.policy).ok()?;
        if stepped.has_message() {
            let is_down = |institution: Option<&str>| self.is_bank_down(institution);
            input.person = Person::of(&stepped.link, &self.links, is_down, stepped.at, &self.policy).map(Box::new);
            stepped = step(&before, &input, self.now, &self.policy).expect("a person makes no input useless");
        }
        let waiting = input.person.map(|person| person.waiting).unwrap_or_default();
        for effect in &stepped.effects {
            let Effect::Notice { notice, episode } = effect else { continue };
            if let (Notice::UpdateRequired, Some(episode)) = (notice, episode)
                && !episode.cause.user_can_act()
            {
                self.informed.push((which, episode.number));
            }
            if notice.is_message(episode.as_ref()) {
                let mentioned = waiting.iter().map(|link| (link.id.to_string(), link.need)).collect();
                self.messages.push(Message { at: stepped.at, about: which, notice: notice.clone(), mentioned });
            }
        }
        self.links[which] = stepped.link.clone();
        Some(stepped)
    }

    /// The bank of the first link may be down. Unless a test gives another link the same bank, it has no other one.
    pub(crate) fn is_bank_down(&self, institution: Option<&str>) -> bool {
        self.is_down && institution == self.links[0].profile.institution.as_deref()
    }

    pub(crate) fn wait(&mut self, millis: i64) {
        self.now = shift(self.now, millis);
    }

    /// The next deadline of all links passes, `late` milliseconds late. Returns `false` if no link waits.
    pub(crate) fn pass_deadline(&mut self, late: i64) -> bool {
        let deadlines = self.links.iter().enumerate();
        let next = deadlines.filter_map(|(which, link)| Some((link.deadline(&self.policy)?, which))).min();
        let Some((at, which)) = next else { return false };
        self.now = self.now.max(shift(at, late));
        self.receive(which, Event::DeadlinePassed);
        true
    }

    pub(crate) fn observe(&mut self, which: usize, status: Status) {
        let seen = LinkObservation { observed_at: self.now, status, last_accessed_at: Some(self.now) };
        self.receive(which, Event::Observed(seen));
    }

    pub(crate) fn ends(&mut self, which: usize, after: i64) {
        let consent = Consent { id: Some("c".to_owned()), due: Due::At(shift(self.now, after)), ..Consent::default() };
        let profile = Profile { consent: Some(Box::new(consent)), ..Profile::default() };
        self.receive(which, Input { profile, ..data().into() });
    }

    pub(crate) fn prompt(&self, which: usize) -> Prompt {
        self.links[which].state.episode().expect("an outage").prompt
    }

    /// What was sent: the link, and the number of links that were mentioned.
    pub(crate) fn sent(&self) -> Vec<(usize, usize)> {
        self.messages.iter().map(|message| (message.about, message.mentioned.len())).collect()
    }

    /// Whether a message was about the open outage of the link, or mentioned it.
    pub(crate) fn has_heard(&self, which: usize) -> bool {
        let link = &self.links[which];
        let episode = link.state.episode().expect("an outage");
        self.messages.iter().any(|message| {
            let is_about = message.about == which && message.at >= episode.opened_at;
            let is_of = |need: &Need| matches!(need, Need::Repair { episode: of, .. } if *of == episode.number);
            is_about || message.mentioned.iter().any(|(id, need)| id == link.id.as_str() && is_of(need))
        })
    }
}
