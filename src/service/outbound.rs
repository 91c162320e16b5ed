//! The messages over HTTP, as a part of the service: the targets, and one worker for each.

use std::sync::Arc;

use anyhow::Context as _;
use async_nats::jetstream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Task, after, spawn};
use crate::clock::Clock;
use crate::config::Config;
use crate::nats::dead_letter::DeadLetters;
use crate::outbound::{Target, TargetSettings, Targets, Worker};

/// The targets of the configuration.
///
/// # Errors
/// An HTTP client cannot be built.
pub(super) fn targets(config: &Config, clock: &Clock) -> anyhow::Result<Targets> {
    let build = |settings: &Option<TargetSettings>| {
        let build = |settings: &TargetSettings| Target::new(settings.clone(), clock.clone()).map(Arc::new);
        settings.as_ref().map(build).transpose().context("cannot build the HTTP client for messages")
    };
    Ok(Targets { notices: build(&config.outbound.notices)?, webhooks: build(&config.outbound.forward)? })
}

/// Starts the workers, each as soon as the streams are ready.
pub(super) fn start(
    config: &Config,
    targets: &Targets,
    context: &jetstream::Context,
    dead_letters: &DeadLetters,
    is_ready: &watch::Receiver<bool>,
    stop: &CancellationToken,
) -> Vec<Task<()>> {
    let start = |target: &Arc<Target>| {
        tracing::info!(target.name = target.name(), "relink sends messages to an HTTP target");
        let (context, subjects) = (context.clone(), config.nats.subjects.clone());
        let worker = Worker::new(Arc::clone(target), context, subjects, dead_letters.clone(), stop.clone());
        spawn(after(is_ready.clone(), stop.clone(), worker.run()))
    };
    targets.iter().map(start).collect()
}
