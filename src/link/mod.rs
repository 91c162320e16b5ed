//! THE CORE: one link, one state machine. Pure: no clock, no randomness, no serde, no I/O, no async; it imports nothing
//! of the crate.
//!
//! Start at [`machine`] ★: the drawing and the whole decision. Then:
//!
//! - [`event`](Event): what can happen to a link; [`state`](State): what is known of one; [`consent`](Consent) behind it
//! - [`effect`](Effect): what the machine asks for; [`episode`](Episode): one outage
//! - `breaking`, `repair`, `refresh`, `renewal`, `reminder`, `upkeep`, `orders`: what each arm of the machine does, in a `draft` of
//!   the link; `incident`: prompts that wait while an institution's links fail together
//! - [`policy`](Policy): how patient it is; [`table`]: the legal moves as data

pub mod machine;
pub mod table;

mod breaking;
mod consent;
mod draft;
mod effect;
mod episode;
mod event;
mod id;
mod incident;
mod orders;
mod policy;
mod refresh;
mod reminder;
mod renewal;
mod repair;
mod state;
mod time;
mod upkeep;

pub use consent::{Consent, ConsentObservation, ConsentStatus, Due};
pub use effect::{EFFECTS_MAX, Effect, Gap, Job, Notice, Proof, RefreshBy, Refusal, Removal, Step};
pub use episode::{Episode, Prompt};
pub use event::{
    AccessMode, Breakage, Cause, Command, Data, DataKind, Event, EventName, Input, Observation, Profile, Session,
    Status,
};
pub use id::{DedupKey, EpisodeNumber, LINK_ID_LENGTH_MAX, LinkId, NotALinkId};
pub use machine::step;
pub use policy::{BadSetting, Policy, Settings};
pub use state::{Asks, Attempt, Link, Phase, Quiet, RECENT_KEYS_MAX, Refresh, Seen, State, StateName, Suspicion};
pub use time::{Month, NotATime, Timestamp};
