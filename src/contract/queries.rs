//! The parameters in the queries of the HTTP API: their names, types and bounds.
//!
//! `operations` has them in its table, and `http::parameters` reads them by the same bounds.

/// A parameter of a query.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its type.
    pub kind: ParameterKind,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug)]
pub enum ParameterKind {
    /// A text.
    Text,
    /// A state of a link.
    State,
    /// A link id.
    Link,
    /// A whole number, from 0.
    Number,
    /// A whole number of seconds, from 0.
    Seconds {
        /// The largest value.
        max: u64,
    },
    /// A whole number from 1 to the maximum, with a default.
    Limit {
        /// The value if it is absent.
        default: usize,
        /// The largest value.
        max: usize,
    },
}

/// The page sizes of lists of links: the default and the maximum.
pub const LINKS_ON_PAGE: (usize, usize) = (100, 1_000);

/// The page sizes of dead letters: the default and the maximum.
pub const DEAD_LETTERS_ON_PAGE: (usize, usize) = (100, 1_000);

/// The number of institutions in an answer: the default and the maximum. Belvo has some hundreds.
pub const INSTITUTIONS_ON_PAGE: (usize, usize) = (1_000, 10_000);

/// The number of hours of activity in an answer: the default and the maximum.
pub const ACTIVITY_HOURS: (usize, usize) = (24, 24);

/// The longest answer with events, in seconds. A request may take two minutes.
pub const EVENTS_WAIT_MAX: u64 = 100;

const INSTITUTION: Parameter = text("institution", "Belvo's name of the institution; the whole name.");
const EXTERNAL_ID: Parameter = text("external_id", "Your own id of the link's user; the whole id.");
const AFTER_LINK: Parameter =
    Parameter { name: "after", about: "The `next` of the last page.", kind: ParameterKind::Link };

pub(super) const LIST_LINKS: &[Parameter] = &[
    Parameter { name: "state", about: "Only links in this state.", kind: ParameterKind::State },
    INSTITUTION,
    EXTERNAL_ID,
    limit(LINKS_ON_PAGE),
    AFTER_LINK,
];

pub(super) const WATCH_EVENTS: &[Parameter] = &[
    Parameter { name: "after", about: "Begin behind this sequence; default: now.", kind: ParameterKind::Number },
    Parameter { name: "link", about: "Only messages about this link.", kind: ParameterKind::Link },
    text("institution", "Only messages with this institution."),
    text("kind", "Only `state`, `notice`, `observed`, `job`, `refused` or `incident`; several with commas."),
    text("type", "Only this type of notice or job; several with commas."),
    Parameter {
        name: "wait",
        about: "How many seconds to wait for messages; default: the maximum; 0: only those that are there.",
        kind: ParameterKind::Seconds { max: EVENTS_WAIT_MAX },
    },
];

pub(super) const LIST_PROMPTS: &[Parameter] = &[INSTITUTION, EXTERNAL_ID, limit(LINKS_ON_PAGE), AFTER_LINK];

pub(super) const GET_ACTIVITY: &[Parameter] = &[{
    let (default, max) = ACTIVITY_HOURS;
    Parameter { name: "hours", about: "How many hours.", kind: ParameterKind::Limit { default, max } }
}];

pub(super) const LIST_INSTITUTIONS: &[Parameter] = &[limit(INSTITUTIONS_ON_PAGE)];

pub(super) const LIST_DEAD_LETTERS: &[Parameter] = &[
    Parameter { name: "after", about: "The `next` of the last page.", kind: ParameterKind::Number },
    limit(DEAD_LETTERS_ON_PAGE),
];

pub(super) const STATUS_SECRET: &[Parameter] =
    &[text("secret", "One of RELINK_STATUS_WEBHOOK_SECRETS, because the status page sends no header.")];

const fn text(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, about, kind: ParameterKind::Text }
}

const fn limit((default, max): (usize, usize)) -> Parameter {
    Parameter { name: "limit", about: "The most items of the answer.", kind: ParameterKind::Limit { default, max } }
}
