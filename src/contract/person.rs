//! The other links of a person: in the record and in `because`, and as lists in notices.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::BadRecord;
use super::rfc3339::At;
use super::words::{Action, CauseWord};
use crate::link::{
    EpisodeNumber, LastMessage, LinkId, Messaged, Need, OtherWidget, Person, UndecidedLink, WaitingLink,
};

/// The last message to the user about a link: a prompt, a reminder, or the notice about the end of a consent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessagedRecord {
    /// When it was published.
    pub at: At,
    /// The other links of the person that it mentioned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentioned: Vec<WaitingLinkRecord>,
}

/// What was known of the other links of the person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PersonRecord {
    /// The last message to the person about another link. A person gets no other message within the reminder pause after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<LastMessageRecord>,
    /// The other link that the person is repairing. A person gets no message before the widget token for it has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_widget: Option<OtherWidgetRecord>,
    /// Another broken link, about which Belvo had not answered yet. A message waits for the answer, so that it can mention this link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undecided: Option<UndecidedLinkRecord>,
    /// The other links that needed their user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingLinkRecord>,
}

/// The last message to a person about another link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastMessageRecord {
    /// When it was published.
    pub at: At,
    /// Belvo's id of the link that it was about.
    pub link_id: String,
    /// If it mentioned this link: what this link needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mentioned: Option<NeedRecord>,
}

/// The person holds a widget token for another link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OtherWidgetRecord {
    /// Belvo's id of the link that the token is for.
    pub link_id: String,
    /// When the token expires.
    pub until: At,
}

/// Another broken link of the person, whose prompt waits until Belvo has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UndecidedLinkRecord {
    /// Belvo's id of the link.
    pub link_id: String,
    /// When relink asks Belvo about it, or has asked.
    pub asked_at: At,
}

/// A link that needs its user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingLinkRecord {
    /// Belvo's id of the link.
    pub link_id: String,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// What the link needs.
    pub need: NeedRecord,
}

/// What a link needs from its user: a repair, if `episode` and `cause` are there; else a renewal of its consent before `due_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NeedRecord {
    /// The number of the episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<u32>,
    /// What the user has to repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<CauseWord>,
    /// When the consent of a working link ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<At>,
}

/// Another broken link of the same person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlsoBroken {
    /// Belvo's id of the link.
    pub link_id: String,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// The number of the episode.
    pub episode: u32,
    /// What the user has to do.
    pub action: Action,
    /// The address of the page where the user repairs this link, if the repair page is switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_url: Option<String>,
}

/// Another link of the same person whose consent ends soon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlsoEnding {
    /// Belvo's id of the link.
    pub link_id: String,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// When the consent ends.
    pub due_at: At,
}

/// The lists of a notice: the other links that are broken, and those whose consent ends soon.
pub(super) fn lists_of(person: Option<&PersonRecord>) -> (Vec<AlsoBroken>, Vec<AlsoEnding>) {
    let (mut broken, mut ending) = (Vec::new(), Vec::new());
    for WaitingLinkRecord { link_id, institution, need } in person.into_iter().flat_map(|person| &person.waiting) {
        let (link_id, institution) = (link_id.clone(), institution.clone());
        match need.parse() {
            Ok(Need::Repair { episode: EpisodeNumber(episode), cause }) => {
                broken.push(AlsoBroken { link_id, institution, episode, action: cause.into(), repair_url: None });
            }
            Ok(Need::Renewal { due_at }) => ending.push(AlsoEnding { link_id, institution, due_at: At(due_at) }),
            Err(_no_need) => {}
        }
    }
    (broken, ending)
}

impl MessagedRecord {
    pub(super) fn of(message: &Messaged) -> Self {
        Self { at: At(message.at), mentioned: message.mentioned.iter().map(WaitingLinkRecord::of).collect() }
    }

    pub(super) fn parse(&self) -> Result<Messaged, BadRecord> {
        let mentioned = self.mentioned.iter().map(WaitingLinkRecord::parse).collect::<Result<_, _>>()?;
        Ok(Messaged { at: self.at.0, mentioned })
    }
}

impl PersonRecord {
    /// The JSON of a circumstance.
    pub fn of(person: &Person) -> Self {
        let last_message = person.last_message.as_ref().map(|message| LastMessageRecord {
            at: At(message.at),
            link_id: message.about.to_string(),
            mentioned: message.mentioned.map(NeedRecord::from),
        });
        let in_widget = person.in_widget.as_ref();
        let in_widget =
            in_widget.map(|widget| OtherWidgetRecord { link_id: widget.about.to_string(), until: At(widget.until) });
        let undecided = person.undecided.as_ref();
        let undecided =
            undecided.map(|link| UndecidedLinkRecord { link_id: link.id.to_string(), asked_at: At(link.asked_at) });
        let waiting = person.waiting.iter().map(WaitingLinkRecord::of).collect();
        Self { last_message, in_widget, undecided, waiting }
    }

    /// The circumstance of the input.
    ///
    /// # Errors
    /// [`BadRecord::Impossible`]: an id is no link id.
    pub fn parse(&self) -> Result<Person, BadRecord> {
        let last_message = self.last_message.as_ref().map(|message| -> Result<_, BadRecord> {
            let about = parse_id(&message.link_id)?;
            Ok(LastMessage {
                at: message.at.0,
                about,
                mentioned: message.mentioned.map(NeedRecord::parse).transpose()?,
            })
        });
        let in_widget = self.in_widget.as_ref().map(|widget| -> Result<_, BadRecord> {
            Ok(OtherWidget { until: widget.until.0, about: parse_id(&widget.link_id)? })
        });
        let undecided = self.undecided.as_ref().map(|link| -> Result<_, BadRecord> {
            Ok(UndecidedLink { asked_at: link.asked_at.0, id: parse_id(&link.link_id)? })
        });
        let waiting = self.waiting.iter().map(WaitingLinkRecord::parse).collect::<Result<_, _>>()?;
        Ok(Person {
            last_message: last_message.transpose()?,
            in_widget: in_widget.transpose()?,
            undecided: undecided.transpose()?,
            waiting,
        })
    }
}

impl WaitingLinkRecord {
    fn of(link: &WaitingLink) -> Self {
        Self { link_id: link.id.to_string(), institution: link.institution.clone(), need: link.need.into() }
    }

    fn parse(&self) -> Result<WaitingLink, BadRecord> {
        let id = parse_id(&self.link_id)?;
        Ok(WaitingLink { id, institution: self.institution.clone(), need: self.need.parse()? })
    }
}

impl From<Need> for NeedRecord {
    fn from(need: Need) -> Self {
        let (episode, cause, due_at) = match need {
            Need::Repair { episode: EpisodeNumber(episode), cause } => (Some(episode), Some(cause.into()), None),
            Need::Renewal { due_at } => (None, None, Some(At(due_at))),
        };
        Self { episode, cause, due_at }
    }
}

impl NeedRecord {
    fn parse(self) -> Result<Need, BadRecord> {
        match (self.episode, self.cause, self.due_at) {
            (Some(episode), Some(cause), _) => {
                Ok(Need::Repair { episode: EpisodeNumber(episode), cause: cause.into() })
            }
            (_, _, Some(At(due_at))) => Ok(Need::Renewal { due_at }),
            (_, _, None) => Err(BadRecord::Impossible("need")),
        }
    }
}

fn parse_id(id: &str) -> Result<LinkId, BadRecord> {
    id.parse().map_err(|_| BadRecord::Impossible("link_id of another link"))
}
