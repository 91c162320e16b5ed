//! The tables of a scenario file, as types that serde reads. [`super::player`] executes them.

use std::time::Duration;

use belvo_sandbox::{AccessMode, LinkStatus, PayloadShape, RefreshOutcome, RefreshRate, WebhookFault};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::values::{
    Answered, BankAnswer, BelvoStatus, Call, Counts, ErrorCode, ErrorStatus, IncidentChange, Logins, Notice,
    PageStatus, Refusal, Span, State, True,
};

/// The name of a link in the file. The id of the link is known only after the setup, or after a step has registered the
/// link.
pub(super) type Name = String;

/// The default limit of a wait.
pub(super) const WAIT_WITHIN: Duration = Duration::from_secs(20);
/// The default limit of a wait for the end of all work in progress.
pub(super) const IDLE_WITHIN: Duration = Duration::from_secs(60);

/// `[belvo]`: settings of the sandbox that differ from its defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BelvoSettings {
    pub(super) data_delay: Option<Span>,
    pub(super) webhook_retry_step: Option<Span>,
    pub(super) logins_until_invalid: Option<Logins>,
    pub(super) payload_shape: Option<PayloadShape>,
    /// Whether links are refreshed by their rate and consents end when `advances_clock` moves the clock.
    #[serde(default)]
    pub(super) schedule: bool,
}

/// A link of `[links]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkSetup {
    pub(super) institution: String,
    pub(super) access_mode: Option<AccessMode>,
    /// The link's name by default.
    pub(super) external_id: Option<String>,
    pub(super) refresh_rate: Option<RefreshRate>,
    /// The time from the start of the scenario to the end of the consent.
    pub(super) consent_ends_in: Option<Span>,
    #[serde(default)]
    pub(super) before: Before,
}

/// What relink knows about a link when the scenario starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Before {
    /// The link is connected, and relink has received its first data.
    #[default]
    Known,
    /// The link exists at Belvo, and relink has received no message about it.
    Unknown,
    /// The link does not exist; a step registers it.
    Absent,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    /// The text of the step in the file, on one line.
    pub(super) text: String,
    pub(super) action: Action,
}

/// A step: an action, or a wait. The kind is the one key that every step of that kind has: `belvo`, `notice`, `expect`, …
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Action {
    Belvo(BelvoAction),
    /// Sets the bank's answer to the following logins.
    Bank {
        bank: BankAnswer,
        link: Name,
    },
    User(UserAction),
    App(AppAction),
    /// Waits for the next notice of this type that no step has waited for yet.
    Notice {
        notice: Notice,
        link: Name,
        /// Expected fields of its body; a key may be a path, such as `because.event`.
        #[serde(default)]
        with: Map<String, Value>,
        within: Option<Span>,
    },
    /// Waits until relink's state of the link is this one.
    State {
        state: State,
        link: Name,
        within: Option<Span>,
    },
    /// Waits for the next refusal with this reason.
    Refused {
        refused: Refusal,
        link: Name,
        within: Option<Span>,
    },
    /// Requires a dead letter about this link with this reason.
    DeadLetter {
        dead_letter: String,
        link: Name,
        within: Option<Span>,
    },
    /// Waits for the next message about an incident of the institution, which must be this one.
    Incident {
        incident: IncidentChange,
        institution: String,
        within: Option<Span>,
    },
    /// Waits until all messages have been handled, and all calls and messages that follow from them.
    Idle {
        #[serde(rename = "idle")]
        _idle: True,
        within: Option<Span>,
    },
    /// Waits as `idle` does, then requires all of this.
    Expect {
        expect: Name,
        state: Option<State>,
        belvo: Option<BelvoStatus>,
        #[serde(default)]
        notices: Counts,
    },
}

/// The kinds of steps: a step has exactly one of these keys. `expect` comes first because its other fields have the names of kinds.
pub(super) const KINDS: [&str; 11] =
    ["expect", "belvo", "bank", "user", "app", "notice", "state", "refused", "dead_letter", "incident", "idle"];

/// The kinds whose value is a verb, which determines the other fields of the step.
pub(super) const KINDS_WITH_VERB: [&str; 3] = ["belvo", "user", "app"];

/// `belvo = "…"`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum BelvoAction {
    Refreshes {
        link: Name,
        outcome: RefreshOutcome,
    },
    Sends {
        link: Name,
        r#type: String,
        code: String,
        process_type: Option<String>,
        /// A label: webhooks with the same label belong to the same refresh.
        refresh: Option<String>,
        #[serde(default)]
        data: Value,
        #[serde(default)]
        delay: Span,
    },
    Repeats {
        link: Name,
        code: String,
        #[serde(default = "once")]
        times: usize,
        #[serde(default)]
        delay: Span,
    },
    SetsStatus {
        link: Name,
        status: LinkStatus,
    },
    Fails {
        error: ErrorCode,
        /// A part of `METHOD /path/`; empty for any call.
        #[serde(default)]
        call: String,
        #[serde(default = "once")]
        times: usize,
    },
    Mishandles {
        webhook: DeliveryFault,
        /// Only for `delayed`.
        delay: Option<Span>,
        #[serde(default = "once")]
        times: usize,
    },
    HasNothingNew {
        link: Name,
    },
    AnnouncesConsentEnd {
        link: Name,
        within: Option<Span>,
    },
    EndsConsent {
        link: Name,
    },
    Wipes {},
    /// The status page of Belvo sends a webhook about an institution.
    ReportsInstitution {
        institution: String,
        status: PageStatus,
    },
    ChangesPayload {
        shape: PayloadShape,
    },
    /// Moves the sandbox's clock forward, and no other clock.
    AdvancesClock {
        span: Span,
    },
}

const fn once() -> usize {
    1
}

/// A fault in the delivery of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeliveryFault {
    Dropped,
    Duplicated,
    Delayed,
    Reordered,
    WithoutExternalId,
    OfUnknownCode,
    WithErrors,
    OfShortCode,
}

impl DeliveryFault {
    /// The fault as a value of the sandbox.
    pub(super) fn fault(self, delay: Option<Span>) -> WebhookFault {
        match self {
            Self::Dropped => WebhookFault::Drop,
            Self::Duplicated => WebhookFault::Duplicate,
            Self::Delayed => WebhookFault::Delay(delay.map_or(Duration::from_secs(1), |delay| delay.0)),
            Self::Reordered => WebhookFault::Reorder,
            Self::WithoutExternalId => WebhookFault::NullExternalId,
            Self::OfUnknownCode => WebhookFault::UnknownCode,
            Self::WithErrors => WebhookFault::DataErrors,
            Self::OfShortCode => WebhookFault::ShortCode,
        }
    }
}

/// `user = "…"`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum UserAction {
    OpensWidget {
        link: Name,
    },
    /// Sees a page on which nothing can be done because the institution is down.
    Waits {
        link: Name,
    },
    Succeeds {
        link: Name,
        #[serde(default = "yes")]
        reported: bool,
    },
    Mistypes {
        link: Name,
    },
    ClosesWidget {
        link: Name,
        #[serde(default = "yes")]
        reported: bool,
    },
    RenewsConsent {
        link: Name,
        #[serde(default = "yes")]
        reported: bool,
    },
    /// Connects the bank once more, with the same login.
    ConnectsAnew {
        link: Name,
        /// The name of the old link.
        old: Name,
    },
}

/// `app = "…"`: the customer's application.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum AppAction {
    Calls {
        link: Name,
        call: Call,
        answered: Option<Answered>,
        #[serde(default = "yes")]
        reported: bool,
    },
    Registers {
        link: Name,
        #[serde(default = "right_password")]
        password: String,
        answered: Option<Answered>,
        #[serde(default = "yes")]
        reported: bool,
    },
    ChangesPassword {
        link: Name,
        password: String,
        answered: Option<Answered>,
        #[serde(default = "yes")]
        reported: bool,
    },
    Resumes {
        link: Name,
        token: String,
        answered: Option<Answered>,
        #[serde(default = "yes")]
        reported: bool,
    },
    Reports {
        link: Name,
        call: Call,
        status: ErrorStatus,
        #[serde(default)]
        errors: Value,
    },
    Deletes {
        link: Name,
        #[serde(default)]
        later: bool,
    },
    Commands {
        link: Name,
        command: String,
    },
}

const fn yes() -> bool {
    true
}

fn right_password() -> String {
    "right".to_owned()
}

/// The state of a link that must be true at the end, or at an `expect`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    /// relink's state.
    pub(super) state: Option<State>,
    /// Belvo's status.
    pub(super) belvo: Option<BelvoStatus>,
    #[serde(default)]
    pub(super) notices: Counts,
}
