//! The core: the state machine of one link.
//!
//! A link is the connection of one user to one bank, which Belvo keeps. A link breaks when the bank refuses the stored
//! password or asks for a new one-time code, and only the user can repair it. This module decides, for each fact that
//! arrives about a link, which state the link is in, whether its user is prompted, and what Belvo is asked.
//!
//! The module is pure. It has no clock, no randomness, no serde, no I/O and no async code, and it imports nothing of
//! the crate. Time and settings are arguments; notices and calls to Belvo are returned as values.
//!
//! Read [`machine`] first: it has the drawing of the states, and the one `match` that decides. Then:
//!
//! - [`event`](Event): the facts that the machine takes; [`state`](State): the state and the memory of a link;
//!   [`consent`](Consent): the open-finance consent behind a link
//! - [`effect`](Effect): what a step returns, notices and jobs; [`episode`](Episode): one outage of a link
//! - `breaking`, `repair`, `refresh`, `renewal`, `reminder`, `upkeep`, `commands`: the arms of the `match`, by subject,
//!   as methods of the transition builder (`builder`); `incident`: prompts that are deferred while an institution is down;
//!   `outage`: notices about such an outage
//! - `identity`: the read of a link before its first prompt
//! - `asking`: whose help a link needs, and when its user may get a message (every message passes it); `quiet_hours`: the part of the day without messages
//! - `person`: one message for all links of a person ([`Person`])
//! - `creation`: creations that are not finished
//! - `successor`: links whose user has connected the bank anew ([`succeeds`])
//! - `deadline`: when the machine has to look at a link without a message
//! - `correction`: corrects the times of a link after a clock had been ahead ([`correct_times`])
//! - [`policy`](Policy): the durations and limits that an operator can set; [`table`]: the legal transitions as data

pub mod machine;
pub mod table;

mod asking;
mod breaking;
mod builder;
mod commands;
mod consent;
mod correction;
mod creation;
mod deadline;
mod effect;
mod episode;
mod event;
mod id;
mod identity;
mod incident;
mod outage;
mod person;
mod policy;
mod quiet_hours;
mod refresh;
mod reminder;
mod renewal;
mod repair;
mod state;
mod successor;
mod time;
mod upkeep;

pub use asking::Held;
pub use consent::{Consent, ConsentObservation, ConsentStatus, Due};
pub use correction::{CLOCK_AHEAD_MAX, correct_times};
pub use creation::Creation;
pub use deadline::{Deadline, DeadlineName};
pub use effect::{EFFECTS_MAX, Effect, Gap, Job, Notice, Proof, RefreshBy, Refusal, Removal, Step};
pub use episode::{Episode, Prompt};
pub use event::{
    AccessMode, Breakage, Cause, Command, Data, DataKind, Event, EventName, Input, LinkObservation, Profile, Session,
    Status, SuccessorObservation,
};
pub use id::{DedupKey, EpisodeNumber, LINK_ID_LENGTH_MAX, LinkId, NotALinkId};
pub use machine::step;
pub use outage::InstitutionOutage;
pub use person::{
    LastMessage, Messaged, Need, OtherWidget, PERSON_LINKS_MAX, Person, UndecidedLink, WaitingLink, is_same_person,
};
pub use policy::{BadSetting, InstitutionNotices, Policy, PolicySettings, Supersede};
pub use quiet_hours::{NotATimeZone, NotQuietHours, QuietHours};
pub use state::{
    AttemptEnd, Freshness, Link, RECENT_KEYS_MAX, RecentFact, Refresh, RefreshQuota, State, StateName, Suspicion,
    UpdatePhase,
};
pub use successor::{NOT_SUPERSEDED_BY_MAX, may_succeed, succeeds};
pub use time::{Month, NotATime, Timestamp};
