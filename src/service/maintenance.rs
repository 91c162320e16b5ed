//! What an operator does with the stored data: saves and restores the streams, and replaces the store (`relink backup`, `restore`,
//! `rebuild`). Only a backup may run beside a relink.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;

use super::nats::connect_alone;
use crate::config::Config;
use crate::nats::backup::{self, Extent};
use crate::nats::declaration::is_missing;
use crate::nats::server::NatsServer;
use crate::nats::server_binary::ServerSource;
use crate::nats::stream;
use crate::os;
use crate::store::{SledStore, StoreError};

/// How long relink's own nats-server may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How far a backup or a restore is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This many bytes of a stream, and all of its bytes, if they are known.
    Going {
        /// The stream.
        stream: String,
        /// The bytes so far.
        bytes: u64,
        /// All bytes.
        of: Option<u64>,
    },
    /// A stream is finished.
    Done {
        /// The stream.
        stream: String,
        /// How much it has.
        extent: Extent,
    },
}

/// Saves the streams below `directory`, each in a directory of its own.
///
/// # Errors
/// The first stream that cannot be saved; those before it are.
pub async fn back_up(
    config: &Config,
    source: ServerSource,
    directory: &Path,
    mut progress: impl FnMut(Step),
) -> anyhow::Result<()> {
    // While relink is stopped, its own nats-server is stopped too.
    let (client, server) = match super::connect(config, "relink backup").await {
        Err(_not_running) if config.nats.url.is_none() => connect_alone(config, source, "relink backup").await?,
        connected => (connected?, None),
    };
    let saved = save_all(&jetstream::new(client), config, directory, &mut progress).await;
    stop(server).await?;
    saved.context("the backup is not complete")
}

async fn save_all(
    context: &jetstream::Context,
    config: &Config,
    directory: &Path,
    progress: &mut impl FnMut(Step),
) -> anyhow::Result<()> {
    os::create_private_directory(directory)
        .with_context(|| format!("cannot use the directory {}", directory.display()))?;
    for stream in stream::names(&config.nats.subjects) {
        let saved = backup::save(context, &stream, directory, |bytes| {
            progress(Step::Going { stream: stream.clone(), bytes, of: None });
        });
        let extent = saved.await?;
        progress(Step::Done { stream, extent });
    }
    Ok(())
}

/// Restores the streams from a backup below `directory`. With `replace`, those that exist are deleted first.
///
/// # Errors
/// The backup is not whole, relink runs, a stream exists and shall not be replaced, or NATS refuses a stream.
pub async fn restore(
    config: &Config,
    source: ServerSource,
    directory: &Path,
    replace: bool,
    mut progress: impl FnMut(Step),
) -> anyhow::Result<()> {
    // Before anything is deleted.
    for stream in stream::names(&config.nats.subjects) {
        backup::check(&stream, directory).await.context("this is not a whole backup")?;
    }
    let data = &config.store.data_dir;
    os::create_private_directory(data).with_context(|| format!("cannot use the data directory {}", data.display()))?;
    let _relink_cannot_start = SledStore::hold(&data.join("store")).map_err(stopped)?;
    let (client, server) = connect_alone(config, source, "relink restore").await?;
    let restored = restore_all(&jetstream::new(client), config, directory, replace, &mut progress).await;
    stop(server).await?;
    restored
}

async fn restore_all(
    context: &jetstream::Context,
    config: &Config,
    directory: &Path,
    replace: bool,
    progress: &mut impl FnMut(Step),
) -> anyhow::Result<()> {
    let mut existing = Vec::new();
    for stream in stream::names(&config.nats.subjects) {
        match context.get_stream(&stream).await {
            Ok(_) => existing.push(stream),
            Err(error) if is_missing(&error.kind()) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read the stream {stream}")),
        }
    }
    if !existing.is_empty() && !replace {
        bail!(
            "NATS has these streams already: {}. `relink restore --replace` deletes them first, with all their messages",
            existing.join(", ")
        );
    }
    const TORN: &str = "not all streams are restored, and with --replace the old ones are gone: restore a whole backup before you start relink";
    for stream in existing {
        let deleted =
            context.delete_stream(&stream).await.with_context(|| format!("cannot delete the stream {stream}"));
        deleted.context(TORN)?;
    }
    for stream in stream::names(&config.nats.subjects) {
        let restored = backup::restore(context, &stream, directory, |bytes, of| {
            progress(Step::Going { stream: stream.clone(), bytes, of: Some(of) });
        });
        let extent = restored.await.context(TORN)?;
        progress(Step::Done { stream, extent });
    }
    Ok(())
}

/// Moves the store aside, so that the next start makes a new one from the output stream. Returns its new directory; `None` if there is no
/// store.
///
/// # Errors
/// relink runs, or the store cannot be moved.
pub fn set_store_aside(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    SledStore::set_aside(&config.store.data_dir.join("store")).map_err(stopped)
}

/// The error of a store that cannot be locked.
fn stopped(error: StoreError) -> anyhow::Error {
    let is_in_use = matches!(error, StoreError::InUse { .. });
    let error = anyhow::Error::new(error);
    if is_in_use { error.context("relink runs on this data directory: stop it first") } else { error }
}

async fn stop(server: Option<NatsServer>) -> anyhow::Result<()> {
    match server {
        Some(server) => server.stop(STOP_LIMIT).await.context("relink's own nats-server does not stop"),
        None => Ok(()),
    }
}
