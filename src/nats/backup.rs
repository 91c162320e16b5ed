//! Backups of streams: the snapshots of JetStream, in the files of the `nats` program (`nats stream backup` and `restore`).
//!
//! ```text
//! <directory>/<stream>/backup.json      the configuration and the state of the stream
//! <directory>/<stream>/stream.tar.s2    the snapshot, as the server sends it; only the server reads it
//! <directory>/<stream>/stream.tar.s2.sha256    its hash, for `sha256sum --check`; a backup of the `nats` program has none
//! ```
//!
//! async-nats has no call for snapshots. The server sends one in chunks, waits for the answer to some of them, and ends with an empty message
//! (docs.nats.io, "JetStream wire API": `STREAM.SNAPSHOT` and `STREAM.RESTORE`). A backup is complete as soon as it has its name.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::{self, response::Response};
use async_nats::{Client, Request};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::limit::REQUEST_TIMEOUT;

/// The files of a backup.
const DESCRIPTION: &str = "backup.json";
const SNAPSHOT: &str = "stream.tar.s2";
const HASH: &str = "stream.tar.s2.sha256";

/// The size of a chunk: the server's default for snapshots.
const CHUNK_BYTES: usize = 128 * 1024;

/// How long the server has for the next chunk of a snapshot. It ends a snapshot itself if its client does not answer for some seconds.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the server has to open a stream that it has received.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The status of the message that ends a complete snapshot.
const COMPLETE: u16 = 204;

/// How much a backup has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The messages of the stream.
    pub messages: u64,
    /// The bytes of the snapshot.
    pub bytes: u64,
}

/// A backup that was not made, or a stream that was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is a backup already.
    #[error("{} exists already: choose a new directory, because a backup is never overwritten", path.display())]
    Exists {
        /// The directory of the stream.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
    /// A file is not what this module writes.
    #[error("{} is no description of a stream: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong.
        why: String,
    },
    /// The snapshot is not the one that was saved.
    #[error("{} is damaged: its SHA-256 is not the one in {HASH}", path.display())]
    Damaged {
        /// The snapshot.
        path: PathBuf,
    },
    /// The server refused the request, or stopped.
    #[error("stream {stream}: {why}")]
    Server {
        /// The stream.
        stream: String,
        /// Its answer.
        why: String,
    },
}

/// The configuration and the state of a stream. All that a newer server has added is kept as it is.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    config: Value,
    state: Value,
}

#[derive(Debug, Deserialize)]
struct Accepted {
    deliver_subject: String,
}

impl Description {
    fn number(&self, name: &str) -> u64 {
        self.state[name].as_u64().unwrap_or_default()
    }
}

/// Saves a stream in `<directory>/<stream>`, with the positions of its consumers. `progress` gets the bytes so far.
///
/// # Errors
/// [`BackupError`]. What was written is removed then.
pub async fn save(
    context: &jetstream::Context,
    stream: &str,
    directory: &Path,
    progress: impl FnMut(u64),
) -> Result<Extent, BackupError> {
    let path = directory.join(stream);
    if path.exists() {
        return Err(BackupError::Exists { path });
    }
    let part = directory.join(format!("{stream}.part"));
    // An interrupted backup has left it.
    if part.exists() {
        fs::remove_dir_all(&part).await.map_err(|error| file(&part, error))?;
    }
    crate::os::create_private_directory(&part).map_err(|error| file(&part, error))?;
    let saved = save_in(context, stream, &part, progress).await;
    if saved.is_err() {
        let _ = fs::remove_dir_all(&part).await;
    } else {
        fs::rename(&part, &path).await.map_err(|error| file(&path, error))?;
    }
    saved
}

async fn save_in(
    context: &jetstream::Context,
    stream: &str,
    part: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Extent, BackupError> {
    let client = context.client();
    let failed = |why: String| BackupError::Server { stream: stream.to_owned(), why };
    let inbox = client.new_inbox();
    let mut chunks = client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
    let wanted = json!({"deliver_subject": inbox, "chunk_size": CHUNK_BYTES});
    let description: Description = request(context, stream, "SNAPSHOT", &wanted).await?;
    let path = part.join(SNAPSHOT);
    let mut snapshot = File::create(&path).await.map_err(|error| file(&path, error))?;
    let mut hash = Sha256::new();
    let (mut bytes, mut count) = (0, 0);
    loop {
        let chunk = timeout(CHUNK_TIMEOUT, chunks.next()).await.ok().flatten();
        let chunk = chunk.ok_or_else(|| failed("the server has sent no more of the snapshot".to_owned()))?;
        if chunk.payload.is_empty() {
            match chunk.status {
                Some(status) if status.as_u16() != COMPLETE => {
                    let why = chunk.description.map_or_else(String::new, |why| format!(": {why}"));
                    return Err(failed(format!("the server ended the snapshot with {status}{why}")));
                }
                Some(_) | None => break,
            }
        }
        count += 1;
        // Before the write, because the server does not wait long. The last chunk may need no answer.
        if let Some(reply) = chunk.reply {
            if number_of(&reply) != Some(count) {
                return Err(failed("a part of the snapshot was lost on the way; try again".to_owned()));
            }
            client.publish(reply, Bytes::new()).await.map_err(|error| failed(error.to_string()))?;
        }
        snapshot.write_all(&chunk.payload).await.map_err(|error| file(&path, error))?;
        hash.update(&chunk.payload);
        bytes += chunk.payload.len() as u64;
        progress(bytes);
    }
    snapshot.flush().await.map_err(|error| file(&path, error))?;
    snapshot.sync_all().await.map_err(|error| file(&path, error))?;
    write(&part.join(HASH), hash_line(hash).as_bytes()).await?;
    let text = serde_json::to_vec_pretty(&description).expect("JSON values can be written");
    write(&part.join(DESCRIPTION), &text).await?;
    Ok(Extent { messages: description.number("messages"), bytes })
}

async fn write(path: &Path, text: &[u8]) -> Result<(), BackupError> {
    let written = async {
        let mut written = File::create(path).await?;
        written.write_all(text).await?;
        written.sync_all().await
    };
    written.await.map_err(|error| file(path, error))
}

/// The hash of a snapshot, in the format of `sha256sum`.
fn hash_line(hash: Sha256) -> String {
    let hash = hash.finalize();
    format!("{hash:x}  {SNAPSHOT}\n")
}

/// The number of a chunk, from 1: the end of the subject of the answer is `.<bytes>.<number>`.
fn number_of(reply: &str) -> Option<u64> {
    reply.rsplit('.').next()?.parse().ok()
}

/// Creates a stream from its backup in `<directory>/<stream>`. `progress` gets the bytes so far and all bytes.
///
/// # Errors
/// [`BackupError`], also if the stream exists.
pub async fn restore(
    context: &jetstream::Context,
    stream: &str,
    directory: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Extent, BackupError> {
    let failed = |why: String| BackupError::Server { stream: stream.to_owned(), why };
    let description = read_description(stream, directory).await?;
    let path = directory.join(stream).join(SNAPSHOT);
    let mut snapshot = File::open(&path).await.map_err(|error| file(&path, error))?;
    let size = snapshot.metadata().await.map_err(|error| file(&path, error))?.len();
    let Accepted { deliver_subject } = request(context, stream, "RESTORE", &description).await?;
    let client = context.client();
    let mut bytes = 0;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        (&mut snapshot).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await.map_err(|error| file(&path, error))?;
        if chunk.is_empty() {
            break;
        }
        bytes += chunk.len() as u64;
        let answer = send(&client, &deliver_subject, chunk.into(), REQUEST_TIMEOUT).await.map_err(failed)?;
        if !answer.is_empty() && !answer.starts_with(b"+OK") {
            return Err(failed(format!("the server does not take the snapshot: {}", String::from_utf8_lossy(&answer))));
        }
        progress(bytes, size);
    }
    let end = send(&client, &deliver_subject, Bytes::new(), OPEN_TIMEOUT).await.map_err(failed)?;
    let end: Value = serde_json::from_slice(&end).map_err(|error| failed(format!("its answer is no JSON: {error}")))?;
    if let Some(error) = end.get("error") {
        return Err(failed(format!("the server cannot use the snapshot: {}", error["description"])));
    }
    // It may have fewer messages, because old ones have reached their age since the backup. The number of the last one stays.
    let (last, expected) = (end["state"]["last_seq"].as_u64().unwrap_or_default(), description.number("last_seq"));
    if last != expected {
        return Err(failed(format!("after the restore its last message is {last}, and {expected} in the backup")));
    }
    Ok(Extent { messages: end["state"]["messages"].as_u64().unwrap_or_default(), bytes })
}

/// Whether the directory has a whole backup of this stream. Only a backup of the `nats` program can still be damaged then, because it has no
/// hash.
///
/// # Errors
/// [`BackupError::File`], [`BackupError::Unreadable`] and [`BackupError::Damaged`].
pub async fn check(stream: &str, directory: &Path) -> Result<(), BackupError> {
    read_description(stream, directory).await?;
    let path = directory.join(stream).join(SNAPSHOT);
    let mut snapshot = File::open(&path).await.map_err(|error| file(&path, error))?;
    let hash_path = directory.join(stream).join(HASH);
    let saved = match fs::read_to_string(&hash_path).await {
        Ok(saved) => saved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file(&hash_path, error)),
    };
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        let count = snapshot.read(&mut chunk).await.map_err(|error| file(&path, error))?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
    }
    if hash_line(hash).split_whitespace().next() == saved.split_whitespace().next() {
        Ok(())
    } else {
        Err(BackupError::Damaged { path })
    }
}

async fn read_description(stream: &str, directory: &Path) -> Result<Description, BackupError> {
    let path = directory.join(stream).join(DESCRIPTION);
    let text = fs::read(&path).await.map_err(|error| file(&path, error))?;
    let unreadable = |why: String| BackupError::Unreadable { path: path.clone(), why };
    let description: Description = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    match description.config["name"].as_str() {
        Some(name) if name == stream => Ok(description),
        name => Err(unreadable(format!("it is about the stream {}", name.unwrap_or("without a name")))),
    }
}

async fn request<T: serde::de::DeserializeOwned>(
    context: &jetstream::Context,
    stream: &str,
    what: &str,
    body: &impl Serialize,
) -> Result<T, BackupError> {
    let failed = |why: String| BackupError::Server { stream: stream.to_owned(), why };
    let answer = timeout(REQUEST_TIMEOUT, context.request(format!("STREAM.{what}.{stream}"), body)).await;
    match answer.map_err(|_late| failed("NATS does not answer".to_owned()))? {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn send(client: &Client, subject: &str, payload: Bytes, limit: Duration) -> Result<Bytes, String> {
    let request = Request::new().payload(payload).timeout(Some(limit));
    let answer = client.send_request(subject.to_owned(), request).await;
    answer.map(|answer| answer.payload).map_err(|error| format!("NATS does not answer: {error}"))
}

fn file(path: &Path, error: io::Error) -> BackupError {
    BackupError::File { path: path.to_owned(), error }
}
