//! The core of institutions: whether a bank works, from evidence about it. It is pure, like `link`.
//!
//! ```text
//!                        trouble                         outage
//!   operational ────────────────────▶ degraded ────────────────────────▶ down
//!     ▲   ▲  └──────────────────────────────────── outage ────────────────▲ │
//!     │   └──── calm ─────────────────────┘                                 │
//!     └──────────────────────────── no outage ──────────────────────────────┘
//! ```
//!
//! The *level* of the evidence decides (`machine` has the table). There are three kinds of evidence:
//!
//! | evidence | trouble | outage | ends |
//! |---|---|---|---|
//! | outage errors of distinct links | a quarter of the threshold in a window | the threshold | in a window with fewer than a quarter |
//! | an incident: many links of the institution fail | | while it goes on | with the incident |
//! | Belvo's status page | partial outage | major outage | with a better status, or after a day |
//!
//! What is counted falls only after a window without new evidence, so that the state does not change with every message (hysteresis). Each
//! evidence has an end: without new evidence an institution is operational again after at most [`LIFE`], or two windows.
//!
//! This module must never have a clock, serde or I/O. The engine (`engine::institutions`) gives it the evidence.

mod components;
mod evidence;
mod machine;

pub use components::{BadComponent, Components};
pub use evidence::{Cause, Evidence, LIFE, Level, PageStatus, Settings};
pub use machine::{Change, Institution, State, next};
