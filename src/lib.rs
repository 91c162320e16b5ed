//! relink keeps Belvo links alive.
//!
//! A tour, from the centre outwards; imports only ever point towards the centre:
//!
//! | room | what it is |
//! |---|---|
//! | [`link`] | **the core**, pure: one state machine for one link. Start at [`link::machine`]. |
//! | [`drawing`] | the machine's table as a picture, JSON or text |
//! | [`contract`] | the messages others see: every JSON body on a subject, as a type |
//! | [`belvo`] | the bank side: what Belvo sends, what it means, how to call it |
//! | [`store`] | the disk: what it promises, and sled keeping the promise |
//! | [`engine`] | the durable step: a slice of deliveries in, one commit out; synchronous |
//! | [`nats`] | the bus: streams, lanes, the atomic commit, catch-up |
//! | [`schemas`] | the contract for those who do not read Rust: JSON Schemas, examples, AsyncAPI |
//! | [`http`] | the front door |
//! | [`jobs`] | verify and refresh: call Belvo, publish what was seen |
//! | [`reconciler`] | what the webhooks missed: sweeps, adoption, the drift meter |
//! | [`rehearsal`] | relink against a Belvo that breaks links (the crate `belvo-sandbox`): demo, scenarios, a fleet |
//! | [`printable`] | text from outside, as people may see it |
//! | [`simulation`] | the node against streams, disks and clocks that go wrong: one seed, one run |
//! | [`service`], [`cli`], [`config`] | wiring |

pub mod link;

pub mod drawing;

pub mod contract;

pub mod belvo;
pub mod store;

pub mod engine;
pub mod node;

pub mod nats;

pub mod schemas;

pub mod http;
pub mod jobs;
pub mod reconciler;

pub mod cli;
pub mod clock;
pub mod config;
pub mod printable;
pub mod rehearsal;
pub mod service;
pub mod simulation;
pub mod telemetry;
pub mod tls;
