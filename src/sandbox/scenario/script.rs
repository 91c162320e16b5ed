//! What a scenario file says, as types. Nothing here reads or plays: see [`super::reader`] and [`super::player`].

use std::time::Duration;

use serde_json::{Map, Value};

use crate::sandbox::{AccessMode, LinkStatus, Login, PayloadShape, RefreshOutcome, RefreshRate, WebhookFault};

/// What the file calls a link. Its id is not known before the stage is set, or before the story registers it.
pub(super) type Name = String;

/// A link of the story.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: Name,
    pub(super) institution: String,
    pub(super) access_mode: AccessMode,
    pub(super) external_id: Option<String>,
    pub(super) refresh_rate: Option<RefreshRate>,
    /// When its consent ends, counted from the beginning.
    pub(super) consent_ends_in: Option<Duration>,
    pub(super) before: Before,
}

/// What there is of a link when the story begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Its user connected it, and relink has heard its first data.
    Known,
    /// Belvo has it, and relink has heard nothing of it.
    Unheard,
    /// It does not exist: the story registers it.
    Absent,
}

/// One line of the story.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    /// As the file has it.
    pub(super) text: String,
    pub(super) deed: Deed,
}

/// What somebody does, or what is waited for.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Belvo(BelvoDeed),
    /// What the bank says to logins from now on.
    Bank {
        link: Name,
        says: Login,
    },
    User(UserDeed),
    App(AppDeed),
    Wait(Wait),
    Expect(Expectation),
}

#[derive(Clone, Debug)]
pub(super) enum BelvoDeed {
    Refreshes {
        link: Name,
        outcome: RefreshOutcome,
    },
    Sends {
        link: Name,
        webhook: SentWebhook,
    },
    Repeats {
        link: Name,
        code: String,
        times: usize,
        delay: Duration,
    },
    SetsStatus {
        link: Name,
        status: LinkStatus,
    },
    Fails {
        on: String,
        error: String,
        times: usize,
    },
    Mishandles {
        fault: WebhookFault,
        times: usize,
    },
    HasNothingNew {
        link: Name,
    },
    AnnouncesConsentEnd {
        link: Name,
        within: Duration,
    },
    EndsConsent {
        link: Name,
    },
    Wipes,
    Speaks {
        shape: PayloadShape,
    },
    /// The sandbox's clock goes forward; nobody else's.
    LetsPass {
        span: Duration,
    },
}

/// A webhook that is written out in the file.
#[derive(Clone, Debug)]
pub(super) struct SentWebhook {
    pub(super) family: String,
    pub(super) code: String,
    pub(super) process_type: Option<String>,
    /// Webhooks with the same label belong to the same refresh.
    pub(super) refresh: Option<String>,
    pub(super) data: Value,
    pub(super) delay: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum UserDeed {
    OpensWidget { link: Name },
    Succeeds { link: Name, unheard: bool },
    Mistypes { link: Name },
    ClosesWidget { link: Name, unheard: bool },
    RenewsConsent { link: Name, unheard: bool },
}

#[derive(Clone, Debug)]
pub(super) enum AppDeed {
    Calls { link: Name, call: Call, answer: Answer },
    Registers { link: Name, password: String, answer: Answer },
    ChangesPassword { link: Name, password: String, answer: Answer },
    Resumes { link: Name, token: String, answer: Answer },
    Reports { link: Name, call: Call, status: u16, errors: Value },
    Deletes { link: Name, later: bool },
    Commands { link: Name, command: String },
}

/// A call of Belvo's API, `METHOD /path/`; `{link}` in the path stands for the id.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) path: String,
}

/// What a call has to be answered with, and whether the app tells relink.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// HTTP status, and the code of the first error if it is an error.
    pub(super) status: Option<u16>,
    pub(super) code: Option<String>,
    pub(super) reported: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Wait {
    pub(super) until: Until,
    pub(super) within: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum Until {
    /// The next notice of this type that has not been waited for yet.
    Notice { link: Name, notice: String, with: Map<String, Value> },
    /// The link is in this state.
    State { link: Name, state: String },
    /// relink said, once more, that it changed nothing, for this reason.
    Refused { link: Name, reason: String },
    /// relink set something of this link aside, for this reason.
    DeadLetter { link: Name, reason: String },
    /// The next word on the institution's incident, and it is this one: `began` or `ended`.
    Incident { institution: String, news: String },
    /// Everything that was sent has arrived, has been handled, and has caused whatever it causes.
    Settled,
}

/// What must be true of a link.
#[derive(Clone, Debug)]
pub(super) struct Expectation {
    pub(super) link: Name,
    /// relink's word.
    pub(super) state: Option<String>,
    /// Belvo's word.
    pub(super) belvo: Option<String>,
    /// How many notices of each type there were since the beginning.
    pub(super) notices: Vec<(String, usize)>,
}

/// The types of notice. A message may have others one day; a file may not, for it would be a typing mistake.
pub(super) const NOTICES: [&str; 11] = [
    "update_required",
    "reminder",
    "update_started",
    "update_failed",
    "recovered",
    "refresh_due",
    "data_available",
    "refreshed",
    "consent_expiring",
    "stale",
    "removed",
];

/// How much the bank had says nothing about relink: this type is only counted where a file names it.
pub(super) const UNCOUNTED: &str = "data_available";

/// relink's words for the state of a link.
pub(super) const STATES: [&str; 6] = ["unconfirmed", "valid", "invalid", "token_required", "updating", "removed"];
