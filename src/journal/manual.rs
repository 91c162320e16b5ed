//! A journal without its thread: a simulation appends and publishes at the times that it chooses.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::disk::Disk;
use super::format::{BODY_BYTES_MAX, Entry};
use super::forwarder::Forwarder;
use super::target::Target;
use super::writer::{Body, Writer};
use super::{Shared, Shows as _, open_log, published_until};
use crate::link::Timestamp;

/// Appends to a journal, as its thread does.
pub struct ManualWriter<D: Disk> {
    shared: Arc<Shared<D>>,
    writer: Writer<D>,
}

/// Opens a journal as [`super::open`] does, without a thread. The caller runs [`Forwarder::step`]. `salt` must be another one each time.
///
/// # Errors
/// The disk fails.
pub fn open_manual<D: Disk>(
    disk: D,
    salt: u32,
    segment_bytes: u64,
    target: Arc<dyn Target>,
) -> io::Result<(ManualWriter<D>, Forwarder<D>)> {
    let (shared, writer, _cut_bytes) = open_log(disk, salt, segment_bytes)?;
    let forwarder = Forwarder::new(Arc::clone(&shared), target, watch::channel(()).1);
    Ok((ManualWriter { shared, writer }, forwarder))
}

impl<D: Disk> ManualWriter<D> {
    /// As [`super::Journal::published_until`].
    pub fn published_until(&self, now: Timestamp) -> Option<Timestamp> {
        published_until(self.shared.as_ref(), now)
    }

    /// Writes messages with one sync. Returns the number of the first one.
    ///
    /// # Errors
    /// The disk fails. Then the messages may be published or not.
    ///
    /// # Panics
    /// A message is larger than a record may be.
    pub fn append(&mut self, entries: Vec<Entry>) -> io::Result<u64> {
        let body = |entry: Entry| {
            let bytes = entry.encode();
            assert!(bytes.len() <= BODY_BYTES_MAX, "the HTTP server refuses larger messages");
            Body { check: self.shared.check(&bytes), bytes }
        };
        let bodies: Vec<Body> = entries.into_iter().map(body).collect();
        self.writer.append(bodies.iter())
    }
}
