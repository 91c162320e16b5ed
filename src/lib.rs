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
//! | [`sandbox`] | Belvo in a box, for demos and tests; it shares no code with the rooms it tests |
//! | [`fleet`] | a fleet, simulated: a month of trouble in seconds, and a judge |
//! | [`printable`] | text from outside, as people may see it |
//! | [`simulation`] | node, jobs and reconciler against streams, disks, clocks and a Belvo that go wrong: one seed, one run |
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

pub mod sandbox;

pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod fleet;
pub mod printable;
pub mod service;
pub mod simulation;
pub mod telemetry;
pub mod tls;
