//! The tables of a scenario file, as types that serde reads. Nothing here plays: see [`super::player`].

use std::time::Duration;

use belvo_sandbox::{AccessMode, LinkStatus, PayloadShape, RefreshOutcome, RefreshRate, WebhookFault};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::values::{
    Answered, BankAnswer, BelvoStatus, Call, Counts, ErrorCode, ErrorStatus, IncidentChange, Logins, Notice, Refusal,
    Span, State, True,
};

/// The name of a link in the file. Its id is not known before the links are set up, or before a step registers it.
pub(super) type Name = String;

/// How long a wait for one thing lasts unless the step says otherwise.
pub(super) const WAIT_WITHIN: Duration = Duration::from_secs(20);
/// How long everything under way may take to come to its end, unless the step says otherwise.
pub(super) const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// `[belvo]`: how the sandbox of this scenario differs from its usual self.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BelvoSettings {
    pub(super) data_delay: Option<Span>,
    pub(super) webhook_retry_step: Option<Span>,
    pub(super) logins_until_invalid: Option<Logins>,
    pub(super) payload_shape: Option<PayloadShape>,
    /// Whether links are refreshed by their rate and consents end while `lets_pass` lets time pass.
    #[serde(default)]
    pub(super) schedule: bool,
}

/// A link of `[links]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkSetup {
    pub(super) institution: String,
    pub(super) access_mode: Option<AccessMode>,
    /// The link's name, unless another is given.
    pub(super) external_id: Option<String>,
    pub(super) refresh_rate: Option<RefreshRate>,
    /// When its consent ends, counted from the beginning.
    pub(super) consent_ends_in: Option<Span>,
    #[serde(default)]
    pub(super) before: Before,
}

/// The state of a link when the scenario begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Before {
    /// Its user connected it, and relink has received its first data.
    #[default]
    Known,
    /// Belvo has it, and relink has received nothing about it.
    Unheard,
    /// It does not exist: a step registers it.
    Absent,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    /// As the file has it, on one line.
    pub(super) text: String,
    pub(super) action: Action,
}

/// An action of somebody, or a wait. Its first word is the key that only one step has: `belvo`, `hear`, `expect`, …
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Action {
    Belvo(BelvoAction),
    /// The bank answers logins like this from now on.
    Bank {
        bank: BankAnswer,
        link: Name,
    },
    User(UserAction),
    App(AppAction),
    /// The next notice of this type that has not been waited for yet.
    Hear {
        hear: Notice,
        link: Name,
        /// Fields of its body; a key may be a path, such as `because.event`.
        #[serde(default)]
        with: Map<String, Value>,
        within: Option<Span>,
    },
    /// relink's state of the link is this one.
    State {
        state: State,
        link: Name,
        within: Option<Span>,
    },
    /// The next refusal for this reason: relink says that an input changed nothing.
    Refused {
        refused: Refusal,
        link: Name,
        within: Option<Span>,
    },
    /// A dead letter about this link, for this reason.
    DeadLetter {
        dead_letter: String,
        link: Name,
        within: Option<Span>,
    },
    /// The next message about the institution's incident, and it is this one.
    Incident {
        incident: IncidentChange,
        institution: String,
        within: Option<Span>,
    },
    /// Everything that was sent has arrived and has been handled, and so has everything that follows from it.
    Settled {
        #[serde(rename = "settled")]
        _settled: True,
        within: Option<Span>,
    },
    /// The same as `settled`; then all of this is true.
    Expect {
        expect: Name,
        state: Option<State>,
        belvo: Option<BelvoStatus>,
        #[serde(default)]
        notices: Counts,
    },
}

/// The keys of which a step has exactly one. `expect` comes first: it has fields of the names of others.
pub(super) const FIRST_WORDS: [&str; 11] =
    ["expect", "belvo", "bank", "user", "app", "hear", "state", "refused", "dead_letter", "incident", "settled"];

/// Those of them whose value is a verb, which decides what else the step has.
pub(super) const WITH_VERB: [&str; 3] = ["belvo", "user", "app"];

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
        /// Webhooks with the same label belong to the same refresh.
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
        webhook: Mishandling,
        /// Only of `delayed`.
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
    Speaks {
        shape: PayloadShape,
    },
    /// The sandbox's clock goes forward; no other clock does.
    LetsPass {
        span: Span,
    },
}

const fn once() -> usize {
    1
}

/// A fault in the delivery of a webhook, as a file spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mishandling {
    Dropped,
    Duplicated,
    Delayed,
    Reordered,
    WithoutExternalId,
    OfUnknownCode,
    WithErrors,
    OfShortCode,
}

impl Mishandling {
    /// The sandbox's own word for it.
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
    Succeeds {
        link: Name,
        #[serde(default)]
        unheard: bool,
    },
    Mistypes {
        link: Name,
    },
    ClosesWidget {
        link: Name,
        #[serde(default)]
        unheard: bool,
    },
    RenewsConsent {
        link: Name,
        #[serde(default)]
        unheard: bool,
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
