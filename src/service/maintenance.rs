//! What an operator does with the stored data: saves and restores the streams, and replaces the store (`relink backup`, `restore`,
//! `rebuild`). Only a backup may run beside a relink.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;

use super::nats::connect_alone;
use crate::config::Config;
use crate::nats::backup::{self, BackupError, Extent};
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
    /// A stream that will be replaced is saved.
    Kept {
        /// The stream.
        stream: String,
        /// How much it has.
        extent: Extent,
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
    // A backup that exists already is not touched, so it is as complete as it was.
    let is_refused = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(BackupError::Exists { .. }));
    saved
        .or_else(|error| if is_refused(&error) { Err(error) } else { Err(error).context("the backup is not complete") })
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
        let extent = save_one(context, &stream, directory, progress).await?;
        progress(Step::Done { stream, extent });
    }
    Ok(())
}

async fn save_one(
    context: &jetstream::Context,
    stream: &str,
    directory: &Path,
    progress: &mut impl FnMut(Step),
) -> Result<Extent, BackupError> {
    let going = |bytes| progress(Step::Going { stream: stream.to_owned(), bytes, of: None });
    backup::save(context, stream, directory, going).await
}

/// What happens to streams that exist when a backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is restored.
    Refuse,
    /// They are saved in the data directory, and deleted then. They come back if the backup cannot be restored.
    Replace,
    /// They are deleted. For streams that cannot be saved.
    Discard,
}

/// Restores the streams from a backup below `directory`. Returns the directory of the streams that were replaced; `None` if none was saved.
///
/// # Errors
/// The backup is not whole, relink runs, a stream exists and shall not be replaced, or NATS refuses a stream.
pub async fn restore(
    config: &Config,
    source: ServerSource,
    directory: &Path,
    existing: Existing,
    mut progress: impl FnMut(Step),
) -> anyhow::Result<Option<PathBuf>> {
    // Before anything is deleted.
    for stream in stream::names(&config.nats.subjects) {
        backup::check(&stream, directory).await.context("this is not a whole backup, and nothing has changed")?;
    }
    let data = &config.store.data_dir;
    os::create_private_directory(data).with_context(|| format!("cannot use the data directory {}", data.display()))?;
    let _relink_cannot_start = SledStore::hold(&data.join("store")).map_err(stopped)?;
    let (client, server) = connect_alone(config, source, "relink restore").await?;
    let context = jetstream::new(client);
    let restored = restore_all(&context, config, directory, existing, &mut progress).await;
    stop(server).await?;
    restored
}

async fn restore_all(
    context: &jetstream::Context,
    config: &Config,
    directory: &Path,
    existing: Existing,
    progress: &mut impl FnMut(Step),
) -> anyhow::Result<Option<PathBuf>> {
    let present = present_streams(context, config).await?;
    let names = present.join(", ");
    let kept = match existing {
        _ if present.is_empty() => None,
        Existing::Refuse => bail!(
            "NATS has these streams already: {names}. `relink restore --replace` replaces them; it saves them in the data directory before"
        ),
        Existing::Replace => {
            let kept = first_free(&config.store.data_dir);
            for stream in &present {
                let extent = save_one(context, stream, &kept, progress).await.with_context(|| {
                    format!("the stream {stream} cannot be saved, and nothing has changed; --discard deletes it without a copy")
                })?;
                progress(Step::Kept { stream: stream.clone(), extent });
            }
            Some(kept)
        }
        Existing::Discard => None,
    };
    let restored = match delete(context, &present).await {
        Ok(()) => restore_streams(context, &stream::names(&config.nats.subjects), directory, progress).await,
        Err(error) => Err(error),
    };
    let Err(error) = restored else { return Ok(kept) };
    let Some(kept) = kept else {
        return Err(error.context("not all streams are restored: restore a whole backup before you start relink"));
    };
    match put_back(context, config, &present, &kept, progress).await {
        Ok(()) => Err(error.context("the backup cannot be restored; NATS has the streams again that it had before")),
        Err(failed) => Err(error.context(format!(
            "the backup cannot be restored, and the streams that NATS had before cannot be put back ({failed:#}); they are saved: \
             `relink restore {} --discard`",
            kept.display()
        ))),
    }
}

async fn present_streams(context: &jetstream::Context, config: &Config) -> anyhow::Result<Vec<String>> {
    let mut present = Vec::new();
    for stream in stream::names(&config.nats.subjects) {
        match context.get_stream(&stream).await {
            Ok(_) => present.push(stream),
            Err(error) if is_missing(&error.kind()) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read the stream {stream}")),
        }
    }
    Ok(present)
}

/// A directory for the streams that are replaced, beside the store.
fn first_free(data: &Path) -> PathBuf {
    let mut numbered = (1_u32..).map(|number| data.join(format!("streams.replaced-{number}")));
    numbered.find(|path| !path.exists()).expect("there are more numbers than directories")
}

async fn delete(context: &jetstream::Context, streams: &[String]) -> anyhow::Result<()> {
    for stream in streams {
        context.delete_stream(stream).await.with_context(|| format!("cannot delete the stream {stream}"))?;
    }
    Ok(())
}

async fn restore_streams(
    context: &jetstream::Context,
    streams: &[String],
    directory: &Path,
    progress: &mut impl FnMut(Step),
) -> anyhow::Result<()> {
    for stream in streams {
        let restored = backup::restore(context, stream, directory, |bytes, of| {
            progress(Step::Going { stream: stream.clone(), bytes, of: Some(of) });
        });
        let extent = restored.await?;
        progress(Step::Done { stream: stream.clone(), extent });
    }
    Ok(())
}

/// Deletes what was restored of a backup, and restores the streams that were replaced.
async fn put_back(
    context: &jetstream::Context,
    config: &Config,
    replaced: &[String],
    kept: &Path,
    progress: &mut impl FnMut(Step),
) -> anyhow::Result<()> {
    delete(context, &present_streams(context, config).await?).await?;
    restore_streams(context, replaced, kept, progress).await
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
