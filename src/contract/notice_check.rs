//! `POST /v1/notices/check`: whom a notice is still about. A subscriber may be late, and much may have happened since the notice: the user
//! has repaired the link, a newer message has been sent, or the bank is down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::person::{AlsoBroken, AlsoEnding};
use super::record::EpisodeRecord;
use super::rfc3339::At;
use super::shown_link::ShownLink;
use super::words::{Action, StateWord};
use crate::link::Timestamp;

/// A notice as relink published it. Only these fields decide; the others are ignored.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct NoticeToCheck {
    /// The type of the notice.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Belvo's id of the link.
    pub link_id: String,
    /// Belvo's name of the institution.
    #[serde(default)]
    pub institution: Option<String>,
    /// What the user has to do. A notice without it asks for nothing.
    #[serde(default)]
    pub action: Option<Action>,
    /// The outage that the notice is about. A notice without one is about the end of a consent.
    #[serde(default)]
    pub episode: Option<EpisodeToCheck>,
    /// When the consent ends.
    #[serde(default)]
    pub due_at: Option<At>,
    /// The address of the repair page.
    #[serde(default)]
    pub repair_url: Option<String>,
    /// Other links of the person that were broken.
    #[serde(default)]
    pub also_broken: Vec<AlsoBroken>,
    /// Other links of the person whose consent was to end soon.
    #[serde(default)]
    pub also_ending: Vec<AlsoEnding>,
    /// The transition that led to the notice.
    pub because: BecauseToCheck,
}

/// The outage that a notice is about.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct EpisodeToCheck {
    /// Its number.
    pub number: u32,
}

/// The transition that led to a notice.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct BecauseToCheck {
    /// When it was.
    pub at: At,
}

/// Whom a notice is about now.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CheckedNotice {
    /// The links to write to the user about, in one message. If there is none, do not write.
    pub links: Vec<LinkToAskFor>,
    /// The other links of the notice, and why the user is not to be asked about them.
    pub left_out: Vec<LeftOut>,
    /// The banks of all `links` are down, so the user can do nothing now: do not write yet, and check the notice again after this many
    /// seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_again_secs: Option<u64>,
}

/// A link that needs its user.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LinkToAskFor {
    /// Belvo's id of the link.
    pub link_id: String,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// What the user has to do.
    pub action: Action,
    /// The address of the page where the user repairs the link, from the notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_url: Option<String>,
    /// When the consent of a working link ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<At>,
}

/// A link that the user is not to be asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeftOut {
    /// Belvo's id of the link.
    pub link_id: String,
    /// Why.
    pub reason: LeftOutWord,
}

/// Why the user is not to be asked about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutWord {
    /// The notice asks for nothing, or the user cannot repair the link.
    NothingToDo,
    /// relink does not know the link.
    Unknown,
    /// The link is removed.
    Removed,
    /// An operator has muted the link.
    Muted,
    /// The outage of the notice is over.
    Repaired,
    /// A newer link of the same user has replaced the link.
    Superseded,
    /// The user is repairing the link now.
    Updating,
    /// The user has renewed the consent, or its end has changed.
    Renewed,
    /// The link is broken by now. Its outage has a message of its own.
    Broken,
    /// An operator has postponed the reminders of the link.
    Snoozed,
    /// The bank of this link is down, and another link of the notice can be repaired now. A later message asks for this one.
    BankIsDown,
    /// A newer message is about this link, mentions it, or is due and follows soon.
    NewerMessage,
}

/// What a notice says of one of its links.
struct Claim<'a> {
    link_id: &'a str,
    institution: Option<&'a str>,
    action: Action,
    repair_url: Option<&'a str>,
    need: Need,
}

enum Need {
    /// The end of the outage with this number.
    Repair(u32),
    /// The renewal of a consent that ends then.
    Renewal(Option<At>),
}

impl NoticeToCheck {
    fn is_reminder(&self) -> bool {
        self.kind.as_deref() == Some("reminder")
    }

    /// The ids of all links of the notice.
    pub fn link_ids(&self) -> BTreeSet<String> {
        self.claims().map(|claim| claim.link_id.to_owned()).collect()
    }

    /// Whom the notice is about at `now`, if these are its links. While their banks are down, the notice is to be checked again after
    /// `bank_pause`.
    pub fn check(&self, links: &BTreeMap<String, ShownLink>, now: Timestamp, bank_pause: Duration) -> CheckedNotice {
        let in_newer_message = self.in_newer_message(links);
        let mut checked = CheckedNotice { links: Vec::new(), left_out: Vec::new(), check_again_secs: None };
        let mut waiting = Vec::new();
        for claim in self.claims() {
            let link = links.get(claim.link_id);
            let reason = self
                .why_left_out(&claim, link, now)
                .or_else(|| in_newer_message.contains(claim.link_id).then_some(LeftOutWord::NewerMessage));
            match reason {
                Some(reason) => checked.left_out.push(LeftOut { link_id: claim.link_id.to_owned(), reason }),
                None if link.is_some_and(waits_for_bank) => waiting.push(claim.link()),
                None => checked.links.push(claim.link()),
            }
        }
        if checked.links.is_empty() && !waiting.is_empty() {
            checked.links = waiting;
            checked.check_again_secs = Some(bank_pause.as_secs().max(1));
        } else {
            let left_out = |link: LinkToAskFor| LeftOut { link_id: link.link_id, reason: LeftOutWord::BankIsDown };
            checked.left_out.extend(waiting.into_iter().map(left_out));
        }
        checked
    }

    /// The link of the notice, and the others that it lists.
    fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        let own = Claim {
            link_id: &self.link_id,
            institution: self.institution.as_deref(),
            action: self.action.unwrap_or(Action::None),
            repair_url: self.repair_url.as_deref(),
            need: self.episode.map_or(Need::Renewal(self.due_at), |episode| Need::Repair(episode.number)),
        };
        let broken = self.also_broken.iter().map(|other| Claim {
            link_id: &other.link_id,
            institution: other.institution.as_deref(),
            action: other.action,
            repair_url: other.repair_url.as_deref(),
            need: Need::Repair(other.episode),
        });
        let ending = self.also_ending.iter().map(|other| Claim {
            link_id: &other.link_id,
            institution: other.institution.as_deref(),
            action: Action::RenewConsent,
            repair_url: None,
            need: Need::Renewal(Some(other.due_at)),
        });
        std::iter::once(own).chain(broken).chain(ending)
    }

    /// The link of the notice and those that a later message about it mentions, if there is such a message: the user gets that one.
    fn in_newer_message<'a>(&'a self, links: &'a BTreeMap<String, ShownLink>) -> BTreeSet<&'a str> {
        let message = links.get(&self.link_id).and_then(|link| link.record.messaged.as_ref());
        let newer = message.filter(|message| message.at.0 > self.because.at.0);
        let mentioned = newer.into_iter().flat_map(|message| &message.mentioned).map(|link| link.link_id.as_str());
        mentioned.chain(newer.map(|_| self.link_id.as_str())).collect()
    }

    fn why_left_out(&self, claim: &Claim<'_>, link: Option<&ShownLink>, now: Timestamp) -> Option<LeftOutWord> {
        if claim.action == Action::None {
            return Some(LeftOutWord::NothingToDo);
        }
        let Some(link) = link else { return Some(LeftOutWord::Unknown) };
        let is_newer = |at: At| at.0 > self.because.at.0;
        let record = &link.record;
        let consent_ends_at = record.consent.as_ref().and_then(|consent| consent.due_at);
        let outage = match (&claim.need, &record.episode) {
            _ if record.state == StateWord::Removed => Some(LeftOutWord::Removed),
            _ if record.muted => Some(LeftOutWord::Muted),
            (Need::Repair(number), Some(episode)) if episode.number != *number => Some(LeftOutWord::Repaired),
            (Need::Repair(_), None) => Some(LeftOutWord::Repaired),
            (Need::Repair(_), Some(episode)) if episode.superseded_by.is_some() => Some(LeftOutWord::Superseded),
            (Need::Repair(_), Some(_)) if record.state == StateWord::Updating => Some(LeftOutWord::Updating),
            // The prompt comes in spite of a snooze.
            (Need::Repair(_), Some(_)) if self.is_reminder() && record.snoozed_until.is_some_and(|at| now < at.0) => {
                Some(LeftOutWord::Snoozed)
            }
            // A mention counts as the next message about the mentioned link, which does not follow then.
            (Need::Repair(_), Some(episode)) if claim.link_id == self.link_id && is_asked_again_soon(link, episode) => {
                Some(LeftOutWord::NewerMessage)
            }
            (Need::Repair(_), Some(_)) => None,
            (Need::Renewal(_), Some(_)) => Some(LeftOutWord::Broken),
            (Need::Renewal(due_at), None) => (consent_ends_at != *due_at).then_some(LeftOutWord::Renewed),
        };
        let has_newer = record.messaged.as_ref().is_some_and(|message| is_newer(message.at));
        let is_mentioned = link.last_mention.as_ref().is_some_and(|mention| is_newer(mention.at));
        outage.or((has_newer || is_mentioned).then_some(LeftOutWord::NewerMessage))
    }
}

/// Whether the next message about the link is due already, and only waits for the end of what kept it back: an overdue reminder, or the
/// notice that the bank works again.
fn is_asked_again_soon(link: &ShownLink, episode: &EpisodeRecord) -> bool {
    let is_announced = link.record.institution_outage.as_ref().is_some_and(|outage| outage.check_at.is_some());
    let is_promised = is_announced && episode.prompt_sent;
    link.institution_down_since.is_none() && (episode.reminder_waits_since.is_some() || is_promised)
}

/// Whether the bank of the link is down. An operator who has released the prompt has decided that the user is asked all the same.
fn waits_for_bank(link: &ShownLink) -> bool {
    let is_released = link.record.episode.as_ref().is_some_and(|episode| episode.prompt_released);
    link.institution_down_since.is_some() && !is_released
}

impl Claim<'_> {
    fn link(&self) -> LinkToAskFor {
        LinkToAskFor {
            link_id: self.link_id.to_owned(),
            institution: self.institution.map(str::to_owned),
            action: self.action,
            repair_url: self.repair_url.map(str::to_owned),
            due_at: match self.need {
                Need::Renewal(due_at) => due_at,
                Need::Repair(_) => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
