//! The service with real parts: nodes, sweeps, the journal, outages, damages and strangers. One binary, because linking takes longer
//! than most of these tests.

#[path = "../support/mod.rs"]
mod support;

mod dead_letter_floods;
mod journal;
mod node;
mod observe;
mod outage;
mod private_files;
mod proxies;
mod reads;
mod reconciler;
mod recovery;
mod restored_streams;
mod sweeps_continue;
mod tools;
mod traces;
