//! The effects of a step: notices to emit and calls to Belvo, as values. The core performs none of them.

use std::time::Duration;

use strum::IntoStaticStr;

use super::{AttemptEnd, Data, DeadlineName, Episode, Held, Link, LinkId, StateName, Timestamp};

/// The most effects that one step may have. The engine relies on this limit to keep a commit below 1000 messages, the
/// limit of a JetStream atomic batch.
pub const EFFECTS_MAX: usize = 6;

/// The result of an accepted event: the changed link and the effects to perform.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The link after the event.
    pub link: Link,
    /// The state before the event.
    pub from: StateName,
    /// The time of the step: when the event was received, and never before the previous step of the link, except if the
    /// times of the link were corrected.
    pub at: Timestamp,
    /// The effects, in order; at most [`EFFECTS_MAX`].
    pub effects: Vec<Effect>,
    /// Whether the step only corrected times that lay in the future ([`super::correct_times`]).
    pub times_corrected: bool,
    /// The deadline that had passed, if the event is [`super::Event::DeadlinePassed`].
    pub due: Option<DeadlineName>,
    /// Why the step has not sent the message to the user that was due.
    pub held: Option<Held>,
    /// Until when quiet hours keep back a notice about the outage of the institution, if this step has begun that wait:
    /// `institution_restored`, or an `institution_down` that a later step may emit.
    pub outage_notice_at: Option<Timestamp>,
}

/// One effect of a step.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a step has at most six, and each lives until its message is encoded")]
pub enum Effect {
    /// Publish a notice to the subscribers.
    Notice {
        /// The notice.
        notice: Notice,
        /// The episode that the notice belongs to. The episode is present even if this step closed it.
        episode: Option<Episode>,
    },
    /// Make a call to Belvo.
    Job(Job),
}

/// A notice: the message that relink publishes to its subscribers about a link.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Prompt the user, once.
    UpdateRequired,
    /// Remind the user.
    Reminder {
        /// Which reminder of this episode, from 1.
        number: u32,
    },
    /// The user is repairing the link.
    UpdateStarted,
    /// The attempt failed. The episode goes on, and no new prompt follows.
    UpdateFailed {
        /// How the attempt ended.
        after: AttemptEnd,
    },
    /// The user has connected the bank anew: another link works in place of this one. No prompt and no reminder follows
    /// in this episode.
    Superseded {
        /// The successor.
        by: LinkId,
    },
    /// The creation of the link was not finished in time. For the application: its user is not asked, because the link has never worked.
    CreationUnfinished {
        /// Since when relink knows the link.
        since: Timestamp,
    },
    /// The link works again.
    Recovered {
        /// The fact that shows that the link works.
        proof: Proof,
    },
    /// Data was missed during the outage, and has to be fetched by a historical refresh.
    RefreshDue {
        /// The span that was missed.
        gap: Gap,
        /// Who asks Belvo for the refresh.
        by: RefreshBy,
    },
    /// New data of the link is at Belvo, and can be read from Belvo's API.
    DataAvailable(Data),
    /// The historical refresh is over.
    Refreshed {
        /// The span that was missed.
        gap: Gap,
        /// The resources whose data arrived.
        arrived: Vec<String>,
        /// The resources that Belvo fetches for this link and whose data did not arrive: they have nothing new, or
        /// failed.
        missing: Vec<String>,
    },
    /// The consent ends soon.
    ConsentExpiring {
        /// The due date, if it is known.
        due_at: Option<Timestamp>,
        /// The rung of the policy's ladder: how long before the due date it asks for this notice. `None` without a due date.
        rung: Option<Duration>,
    },
    /// A refresh is overdue: no data arrived when it was due.
    Stale {
        /// When data last arrived, as far as is proven.
        since: Option<Timestamp>,
    },
    /// The institution is down, and there is nothing to do now.
    InstitutionDown {
        /// When the outage began.
        since: Timestamp,
    },
    /// The institution works again, or the link does. Only after [`Notice::InstitutionDown`].
    InstitutionRestored {
        /// When the outage began.
        since: Timestamp,
        /// Whether the notice asks the user to repair the link: the user was prompted before, and this step sends no message that asks
        /// the same.
        asks: bool,
    },
    /// The link is removed.
    Removed {
        /// The reason.
        why: Removal,
    },
}

/// A fact that shows that a link works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Belvo's status of the link, or of its consent, was read after the repair, and shows that the link works.
    Observed,
    /// Data arrived during the attempt, or after the settle window. Counts only if no API keys are configured.
    Data,
    /// A success callback, or a 200 to PUT or PATCH. Counts only if no API keys are configured.
    Claimed,
}

/// The span of an outage for which data has to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When data last arrived before the outage; `None` if none ever did.
    pub from: Option<Timestamp>,
    /// When the link recovered.
    pub to: Timestamp,
}

/// Who asks Belvo for the historical refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshBy {
    /// Belvo starts it without being asked, as it does for a recurrent link after a repair.
    Belvo,
    /// relink, by `POST /api/links/{id}/refresh/`.
    Relink,
    /// The subscriber has to ask: the link is not recurrent, and relink has no API keys or must not cause a login.
    Subscriber,
}

/// Why a link was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Belvo reported the deletion (webhook `link_deleted`).
    Deleted,
    /// Belvo answered 404 for the URL of the link.
    Missing,
    /// An operator's command `forget`.
    Forgotten,
}

/// A call to Belvo, or a look-up of other links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Read the link (`GET /api/links/{id}/`) and publish the result as an observation.
    Verify {
        /// Belvo's id of the link's consent, which is read too (`GET /api/consents/{id}/`), because the status of the
        /// link does not show the consent.
        consent: Option<String>,
    },
    /// Ask for a historical refresh (`POST /api/links/{id}/refresh/`).
    Refresh {
        /// The resources to refresh; empty for all resources of the link.
        resources: Vec<String>,
    },
    /// Look up the broken links that this link supersedes, and publish [`super::Event::Superseded`] for each of them.
    FindSuperseded,
    /// Read another link, which may be the successor of this one, and publish the result for both links.
    ReadSuccessor {
        /// The other link.
        link: LinkId,
    },
}

/// Why the machine refuses an event. A refusal changes nothing and is no error: it is recorded for readers of the
/// history of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// A message with the same dedup key was accepted within the repeat window.
    #[error("the message repeats one that was accepted before")]
    Repeated,
    /// The event contains nothing new.
    #[error("the event contains nothing new")]
    AlreadyKnown,
    /// The event is older than the knowledge that it contradicts.
    #[error("the event is older than the knowledge that it contradicts")]
    Outdated,
    /// The link is removed, and no event revives a removed link.
    #[error("the link is removed, and no event revives a removed link")]
    Removed,
    /// There is no attempt to repair the link.
    #[error("there is no attempt to repair the link")]
    NotUpdating,
    /// The data has errors, so it does not prove that the link works.
    #[error("the data has errors, so it does not prove that the link works")]
    DataWithErrors,
    /// The event is about the creation of the link, which has been finished, or was never finished.
    #[error("the event is about the creation of the link, which has been finished, or was never finished")]
    CreationOnly,
    /// Belvo would have to be asked, and no API keys are configured.
    #[error("Belvo would have to be asked, and no API keys are configured")]
    CannotVerify,
    /// The link is not broken, so no other link can supersede it.
    #[error("the link is not broken, so no other link can supersede it")]
    NotBroken,
    /// The other link is this one, or an operator has decided that it does not supersede this one.
    #[error("the other link is this one, or an operator has decided that it does not supersede this one")]
    NotASuccessor,
    /// The policy lets no link supersede another one.
    #[error("the policy lets no link supersede another one")]
    SupersedeOff,
    /// Neither a mute nor an incident keeps a prompt of the link back.
    #[error("neither a mute nor an incident keeps a prompt of the link back")]
    NothingHeld,
    /// No deadline of the link has passed.
    #[error("no deadline of the link has passed")]
    NotDue,
}

impl Refusal {
    /// The name in messages and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
