//! What the machine asks for, as values. It performs nothing itself.

use super::{Attempt, Data, Episode, Link, StateName, Timestamp};

/// The most effects one step may have. The durable step counts on it to keep a commit below JetStream's limit of 1000
/// messages.
pub const EFFECTS_MAX: usize = 5;

/// An accepted event: the link as it is now, and what is to be done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The link afterwards.
    pub link: Link,
    /// The state it was in before; the state it is in now is in `link`.
    pub from: StateName,
    /// When the event was taken in: never before the link's previous step.
    pub at: Timestamp,
    /// What others are to be told or asked, in order; at most [`EFFECTS_MAX`].
    pub effects: Vec<Effect>,
}

/// One thing the machine asks for.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a step has at most five, and each lives until its message is encoded")]
pub enum Effect {
    /// Tell the subscribers.
    Notice {
        /// What.
        notice: Notice,
        /// The episode it belongs to, also when this step closed it.
        episode: Option<Episode>,
    },
    /// Call Belvo.
    Job(Job),
}

/// A downstream event.
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
    /// The attempt failed; the link is as broken as before. No new prompt follows.
    UpdateFailed {
        /// How the attempt ended.
        after: Attempt,
    },
    /// The link works again.
    Recovered {
        /// What makes us say so.
        proof: Proof,
    },
    /// History was missed and is to be fetched.
    RefreshDue {
        /// What was missed.
        gap: Gap,
        /// Who fetches it into Belvo.
        by: RefreshBy,
    },
    /// Data is at Belvo and can be read.
    DataAvailable(Data),
    /// The gap is closed.
    Refreshed {
        /// What had been missed.
        gap: Gap,
        /// The resources that came.
        arrived: Vec<String>,
        /// The resources that are fetched for this link and did not come: nothing new in them, or a failure.
        missing: Vec<String>,
    },
    /// The consent ends soon.
    ConsentExpiring {
        /// When, if the message said.
        due_at: Option<Timestamp>,
    },
    /// Data should have come and did not.
    Silent {
        /// The last proven data.
        since: Option<Timestamp>,
    },
    /// The link is gone.
    Removed {
        /// Why.
        why: Removal,
    },
}

/// What makes us say that a link works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Belvo was asked and said `valid`.
    Observed,
    /// Data arrived after the update began.
    Data,
    /// Somebody said so, and Belvo cannot be asked because no API keys are configured.
    Claimed,
}

/// A span without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last proven data before it; `None` if none was ever seen.
    pub from: Option<Timestamp>,
    /// The recovery.
    pub to: Timestamp,
}

/// Who fetches missed history into Belvo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshBy {
    /// Belvo itself, as it does for a recurrent link after a repair.
    Belvo,
    /// relink, by `POST /api/links/{id}/refresh/`.
    Relink,
    /// Nobody until the subscriber does: relink has no API keys and the link is not recurrent.
    Subscriber,
}

/// Why a link was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Belvo said it was deleted.
    Deleted,
    /// Belvo does not know it any more (404 for its own URL).
    Missing,
    /// An operator forgot it.
    Forgotten,
}

/// A call to Belvo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// `GET /api/links/{id}/`, to be answered by an observation.
    Verify {
        /// Belvo's id of the link's consent, to be read too (`GET /api/consents/{id}/`): the link's status shows nothing
        /// of it.
        consent: Option<String>,
    },
    /// `POST /api/links/{id}/refresh/`.
    Refresh {
        /// Only these resources; empty: all that are fetched for the link.
        resources: Vec<String>,
    },
}

/// The machine says no. Nothing changed; nobody is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The same fact was taken in before.
    #[error("the same fact was taken in before")]
    Repeated,
    /// It says what is already known.
    #[error("it says what is already known")]
    AlreadyKnown,
    /// It is older than what it would undo.
    #[error("it is older than what it would undo")]
    Stale,
    /// The link is removed; late messages never revive it.
    #[error("the link is removed; late messages never revive it")]
    Removed,
    /// Nobody is updating the link.
    #[error("nobody is updating the link")]
    NotUpdating,
    /// The data came with errors and proves nothing.
    #[error("the data came with errors and proves nothing")]
    DataWithErrors,
    /// It concerns the creation of the link, which is over or was never finished.
    #[error("it concerns the creation of the link, which is over or was never finished")]
    CreationOnly,
    /// Belvo would have to be asked, and no API keys are configured.
    #[error("Belvo would have to be asked, and no API keys are configured")]
    CannotVerify,
    /// No deadline of the link has passed.
    #[error("no deadline of the link has passed")]
    NotDue,
}

impl Refusal {
    /// The spelling in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Repeated => "repeated",
            Self::AlreadyKnown => "already_known",
            Self::Stale => "stale",
            Self::Removed => "removed",
            Self::NotUpdating => "not_updating",
            Self::DataWithErrors => "data_with_errors",
            Self::CreationOnly => "creation_only",
            Self::CannotVerify => "cannot_verify",
            Self::NotDue => "not_due",
        }
    }
}
