//! Injected bugs of the machine: each breaks one rule about the messages that a user gets.
//!
//! The checkers compare every state with the machine. A real bug of the machine would be in that comparison too, so with these bugs they
//! do not compare: one named rule, which is written without the machine, has to find the bug ([`Bug::rule`]). A bug is a node with
//! another policy than the rules have, or a message that the node did not publish, or one that is missing.

use std::time::Duration;

use super::bug_injector::Bug;
use crate::contract::{Action, Address, At, Because, HeldWord, NoticeBody, NoticeContent, NoticeName, Record};
use crate::engine::{Message, Outgoing};
use crate::link::{Due, Episode, InstitutionNotices, Link, Policy, Prompt, State, Supersede};
use crate::store::Changes;

impl Bug {
    /// The words of the rule that has to find this bug. `None`: the bug is not in the machine, and any checker may find it.
    pub const fn rule(self) -> Option<&'static str> {
        Some(match self {
            Self::PersonsIgnored | Self::PauseIgnored => "sends a message to a person who got one",
            Self::MentionDropped => "in its message, and",
            Self::OtherAnswerNotAwaited => "Belvo has not answered yet about",
            Self::PromptOnEveryWebhook => "prompts twice in one episode",
            Self::RungAnnouncedAgain => "announces the end of a consent twice",
            Self::QuietHoursIgnored => "sends a message to a user in quiet hours",
            Self::AskedWhileUpdating => "asks a user who is repairing the link",
            Self::AskedAfterRepair => "asks the user of a link that is not broken",
            Self::AskedWhenSuperseded => "asks the user of a superseded link",
            Self::SuccessorsIgnored => "works",
            Self::AskedInOutage => "asks a user for a repair while the institution is down",
            Self::DeferralNeverEnds | Self::PostponedForgotten => "waits for ever",
            Self::OutageNoticesOff => "the link has met an outage, and that is not announced",
            Self::OutageAnnouncedAgain => "announced as down without reason, or twice",
            Self::RestoredUnannounced => "that it was down was not announced",
            Self::RestoredDropped => "gets no notice that the institution works again",
            _not_in_the_machine => return None,
        })
    }

    /// The policy of a node with this bug.
    pub(super) fn policy(bug: Option<Self>, policy: &Policy) -> Policy {
        let mut settings = policy.settings().clone();
        match bug {
            Some(Self::SettleWindowOff) => settings.settle_window = Duration::from_millis(1),
            Some(Self::OutageNoticesOff) => settings.institution_notices = InstitutionNotices::Off,
            Some(Self::SuccessorsIgnored) => settings.supersede = Supersede::Never,
            Some(Self::PersonsIgnored) => settings.per_person = false,
            Some(Self::PauseIgnored) => settings.reminder_pause = Duration::from_millis(1),
            Some(Self::QuietHoursIgnored) => settings.quiet_hours = None,
            Some(Self::DeferralNeverEnds) => settings.incident_wait = Duration::from_secs(300 * 86_400),
            Some(_) | None => return policy.clone(),
        }
        Policy::new(settings).expect("these settings are in range")
    }

    /// What is published in place of a message.
    pub(super) fn published(self, mut sent: Outgoing) -> Vec<Outgoing> {
        match (&sent.message.address, self) {
            (Address::Notice(NoticeName::InstitutionRestored, _), Self::RestoredDropped) => Vec::new(),
            (Address::Notice(..), Self::MentionDropped) => {
                drop_mention(&mut sent.message);
                vec![sent]
            }
            (Address::State(_), bug) => match bug.more(&sent) {
                Some(more) => vec![more, sent],
                None => vec![sent],
            },
            _another => vec![sent],
        }
    }

    /// The notice that is published before this state, and that the machine did not emit.
    fn more(self, sent: &Outgoing) -> Option<Outgoing> {
        let Message { id, at, body, .. } = &sent.message;
        let record = Record::parse(body).ok()?;
        let link = record.link().ok()?;
        let content = self.content(&link, &record.because)?;
        let notice = NoticeBody {
            link_id: link.id.to_string(),
            external_id: None,
            institution: None,
            state: link.state.name().into(),
            episode: None,
            renewal: None,
            repair_url: None,
            also_broken: Vec::new(),
            also_ending: Vec::new(),
            because: record.because.clone(),
            content,
        };
        let address = Address::Notice(notice.content.name(), link.id.clone());
        let body = serde_json::to_vec(&notice).ok()?.into();
        let message = Message { address, id: format!("{id}.more"), at: *at, body, trace: None };
        Some(Outgoing { partition: sent.partition, fence: None, message })
    }

    fn content(self, link: &Link, because: &Because) -> Option<NoticeContent> {
        let (prompt, reminder) = (
            NoticeContent::UpdateRequired { action: Action::None },
            NoticeContent::Reminder { action: Action::None, number: 1 },
        );
        let broken = match &link.state {
            State::Invalid { episode } | State::TokenRequired { episode } => Some(episode),
            State::Unconfirmed | State::Valid { .. } | State::Updating { .. } | State::Removed => None,
        };
        let works = matches!(link.state, State::Valid { .. });
        match self {
            Self::OtherAnswerNotAwaited => {
                let waits = |episode: &&Episode| matches!(episode.prompt, Prompt::Postponed { .. });
                let is_held = because.held == Some(HeldWord::OtherAnswer);
                broken.filter(waits).filter(|_| is_held).map(|_| prompt)
            }
            Self::PromptOnEveryWebhook => broken.filter(|episode| episode.prompt == Prompt::Sent).map(|_| prompt),
            Self::AskedInOutage => {
                broken.filter(|episode| matches!(episode.prompt, Prompt::Deferred { .. })).map(|_| prompt)
            }
            Self::AskedWhenSuperseded => broken.filter(|episode| episode.superseded_by.is_some()).map(|_| reminder),
            Self::AskedWhileUpdating => matches!(link.state, State::Updating { .. }).then_some(reminder),
            Self::AskedAfterRepair => (works && link.episodes_count > 0).then_some(reminder),
            Self::RungAnnouncedAgain => {
                let consent = link.profile.consent.as_ref().filter(|_| works)?;
                let Due::At(due_at) = consent.due else { return None };
                let rung_secs = Some(consent.rung?.as_secs());
                Some(NoticeContent::ConsentExpiring { action: Action::None, due_at: Some(At(due_at)), rung_secs })
            }
            Self::OutageAnnouncedAgain => {
                link.institution_outage.map(|known| NoticeContent::InstitutionDown { since: At(known.began_at) })
            }
            Self::RestoredUnannounced => (works && link.institution_outage.is_none())
                .then_some(NoticeContent::InstitutionRestored { since: At(link.since), action: Action::None }),
            _another => None,
        }
    }

    /// Changes what is written to the store: a timer is forgotten.
    pub(super) fn forget_timers(self, changes: &mut Changes) {
        let is_postponed = |record: &[u8]| {
            let link = Record::parse(record).ok().and_then(|record| record.link().ok());
            let prompt = link.and_then(|link| link.state.episode().map(|episode| episode.prompt));
            matches!(prompt, Some(Prompt::Postponed { .. }))
        };
        for put in changes.puts.iter_mut().filter(|put| self == Self::PostponedForgotten && is_postponed(&put.record)) {
            put.head.deadline = None;
        }
    }
}

/// Leaves out the first other link that a notice mentions.
fn drop_mention(message: &mut Message) {
    let Ok(mut notice) = serde_json::from_slice::<NoticeBody>(&message.body) else { return };
    if !notice.also_broken.is_empty() {
        notice.also_broken.remove(0);
        message.body = serde_json::to_vec(&notice).unwrap_or_default().into();
    }
}
