//! The segments of the journal: one file is appended to, the older ones wait until they are published.
//!
//! ```text
//!   00000000000000000001-5a17c0de.rlj   00000000000000004812-5a17c0de.rlj            published
//!   ├───────────────────────────────┤   ├──────────────────────┬─────────┤           ├────────┤
//!     records 1 … 4811                    records 4812 … 5900   being      ▲          4811 +check
//!                                         synced                written    └ a crash may cut here
//! ```
//!
//! A name has the number of the file's first record, and the salt of its checks. `published` has the number of the last record that
//! NATS has acknowledged; it is not synced, because a lost number only causes repeats. A file is removed when all its records are
//! published.
//!
//! This file must never return a record that is not synced, or remove a file with a record that is not published.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk::Disk;
use super::format::{self, Entry, HEADER_BYTES, Salt, Start};
use super::segment::{Segment, Segments};
use super::writer::Writer;

/// The file with the number of the last published record.
const PUBLISHED: &str = "published";

/// How many bytes of a file are read at once: about the size of a batch. If a record is larger, more bytes are read at once.
const READ_BYTES: usize = 1024 * 1024;
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
const _: () = assert!(HEADER_BYTES + format::BODY_BYTES_MAX < READ_BYTES_MAX, "each record can be read at once");

/// The largest part of a damaged file that becomes one item, so that it fits into a message.
const DAMAGED_BYTES_MAX: usize = 256 * 1024;

/// The segments. Clones share them: one thread appends, and one task reads.
pub(super) struct Log<D: Disk> {
    pub(super) disk: Arc<D>,
    salt: Salt,
    segments: Arc<Mutex<Segments>>,
}

/// How much waits to be published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) records: u64,
    /// The bytes of all files.
    pub(super) bytes: u64,
}

/// A position in the files: the next record to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    name: String,
    offset: u64,
    /// The number of the last record that was read.
    pub(super) number: u64,
}

/// A part of the journal, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A message to publish.
    Entry { number: u64, salt: Salt, entry: Entry },
    /// Bytes that are no record.
    Damaged { file: String, offset: u64, bytes: Bytes },
}

impl<D: Disk> Clone for Log<D> {
    fn clone(&self) -> Self {
        Self { disk: Arc::clone(&self.disk), salt: self.salt, segments: Arc::clone(&self.segments) }
    }
}

impl<D: Disk> Log<D> {
    /// Reads what an earlier process has left; a new segment begins after about `segment_bytes`. Returns the log, the writer, and how many bytes were cut from the end of the last
    /// segment: they belonged to records that were being written at a crash.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn open(disk: D, salt: u32, segment_bytes: u64) -> io::Result<(Self, Writer<D>, u64)> {
        let mut names: Vec<String> = disk.names()?;
        names.sort_unstable();
        let mut files: VecDeque<Segment> = names.iter().filter_map(|name| Segment::of_name(name)).collect();
        let mut cut = 0;
        let count = files.len();
        for index in 0..count {
            let next_first = files.get(index + 1).map(|next| next.first);
            let segment = &mut files[index];
            segment.length = disk.length(&segment.name)?;
            // Only the last segment can have an end that was not synced.
            if let Some(next_first) = next_first {
                segment.last = next_first - 1;
                continue;
            }
            cut = segment.open_end(&disk)?;
        }
        let published = disk.names()?.iter().any(|name| name == PUBLISHED);
        let published = if published { read_published(&disk)? } else { 0 };
        // A new segment must not begin with the number of an empty one, because names are compared.
        let last = files.back().map_or(0, |segment| segment.last.max(segment.first));
        while files.back().is_some_and(|segment| segment.last <= published && files.len() == 1) {
            files.pop_back().map_or(Ok(()), |segment| disk.remove(&segment.name))?;
        }
        let log = Self {
            disk: Arc::new(disk),
            salt: Salt(salt),
            segments: Arc::new(Mutex::new(Segments { files, published })),
        };
        log.remove_published();
        // A record with a number that is already published would be taken for published.
        let next = last.max(published) + 1;
        let writer = Writer { log: log.clone(), segment_bytes, file: None, next, buffer: Vec::new(), must_cut: false };
        Ok((log, writer, cut))
    }

    /// How much waits to be published.
    pub(super) fn waiting(&self) -> Waiting {
        let segments = self.lock();
        // Between two segments there may be numbers of records that were refused, because the disk failed.
        let count = |segment: &Segment| segment.last.saturating_sub(segments.published.max(segment.first - 1));
        Waiting {
            records: segments.files.iter().map(count).sum(),
            bytes: segments.files.iter().map(|segment| segment.length).sum(),
        }
    }

    /// The salt of new records.
    pub(super) const fn salt(&self) -> Salt {
        self.salt
    }

    /// The next items after `cursor` that are not published, at most `count_max` with about `bytes_max` bytes. None if there are no
    /// more. The cursor moves only if the result is used: see [`Log::published_up_to`].
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn read(&self, cursor: &mut Cursor, count_max: usize, bytes_max: usize) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut bytes_count = 0;
        loop {
            let (published, segment) = {
                let segments = self.lock();
                (segments.published, segments.at_or_after(&cursor.name).cloned())
            };
            let Some(segment) = segment else { return Ok(items) };
            if segment.name != cursor.name {
                *cursor = Cursor { name: segment.name.clone(), offset: 0, number: segment.first - 1 };
            }
            let mut chunk_bytes = READ_BYTES;
            while cursor.offset < segment.length {
                let left = usize::try_from(segment.length - cursor.offset).unwrap_or(usize::MAX);
                let chunk = Bytes::from(self.disk.read(&segment.name, cursor.offset, left.min(chunk_bytes))?);
                let mut at = 0;
                while at < chunk.len() {
                    if items.len() >= count_max || bytes_count >= bytes_max {
                        return Ok(items);
                    }
                    match format::read(&chunk[at..], segment.salt) {
                        Start::Record(found) if found.number > cursor.number => {
                            let body = chunk.slice(at + HEADER_BYTES..at + found.length);
                            let offset = cursor.offset;
                            at += found.length;
                            cursor.offset += found.length as u64;
                            cursor.number = found.number;
                            if found.number <= published {
                                continue;
                            }
                            bytes_count += found.length;
                            items.push(Entry::decode(&body).map_or_else(
                                || Item::Damaged { file: segment.name.clone(), offset, bytes: body },
                                |entry| Item::Entry { number: found.number, salt: segment.salt, entry },
                            ));
                        }
                        // The record ends in the next chunk.
                        Start::Incomplete if chunk.len() < left && at > 0 => break,
                        Start::Incomplete if chunk.len() < left && chunk_bytes < READ_BYTES_MAX => {
                            chunk_bytes = READ_BYTES_MAX;
                            break;
                        }
                        Start::Record(_) | Start::Incomplete | Start::Damaged => {
                            let damaged = self.damaged(&segment, cursor)?;
                            bytes_count += damaged.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
                            items.extend(damaged.into_iter().map(|(offset, bytes)| Item::Damaged {
                                file: segment.name.clone(),
                                offset,
                                bytes,
                            }));
                            break;
                        }
                    }
                }
                if chunk.is_empty() {
                    break; // The file is shorter than it was.
                }
            }
            if !self.lock().has_after(&segment.name) {
                return Ok(items);
            }
            cursor.name.push('~'); // The next name is larger.
        }
    }

    /// The bytes from the cursor to the next record, in pieces with their offsets; moves the cursor to that record.
    fn damaged(&self, segment: &Segment, cursor: &mut Cursor) -> io::Result<Vec<(u64, Bytes)>> {
        let left = usize::try_from(segment.length - cursor.offset).unwrap_or(usize::MAX);
        let rest = Bytes::from(self.disk.read(&segment.name, cursor.offset, left)?);
        // The first byte is skipped, because the record that begins there is not valid.
        let next = format::find(rest.get(1..).unwrap_or_default(), segment.salt, cursor.number).map(|at| at + 1);
        let bytes = rest.slice(..next.unwrap_or(rest.len()));
        let start = cursor.offset;
        cursor.offset = if next.is_some() { start + bytes.len() as u64 } else { segment.length };
        if next.is_none() {
            cursor.number = segment.last;
        }
        let pieces = (0..bytes.len()).step_by(DAMAGED_BYTES_MAX);
        Ok(pieces.map(|at| (start + at as u64, bytes.slice(at..bytes.len().min(at + DAMAGED_BYTES_MAX)))).collect())
    }

    /// All records up to the cursor are published: notes it, and removes the files that are not needed any more.
    pub(super) fn published_up_to(&self, cursor: &Cursor) {
        {
            let mut segments = self.lock();
            if cursor.number <= segments.published {
                return;
            }
            segments.published = cursor.number;
        }
        let check = format::check_of(Salt(0), &cursor.number.to_le_bytes());
        // After an error the number is old, and records are published again.
        let written = self.disk.write_small(PUBLISHED, format!("{} {check}", cursor.number).as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "the journal cannot note what is published; after a restart it is published again");
        }
        self.remove_published();
    }

    /// Removes the files whose records are all published, except the one that is appended to.
    pub(super) fn remove_published(&self) {
        loop {
            let name = {
                let mut segments = self.lock();
                let published = segments.published;
                let is_done = |segment: &Segment| segment.last <= published;
                match segments.files.front() {
                    Some(first) if is_done(first) && segments.files.len() > 1 => segments.files.pop_front(),
                    Some(_) | None => None,
                }
            };
            let Some(segment) = name else { return };
            if let Err(error) = self.disk.remove(&segment.name) {
                tracing::warn!(%error, journal.file = segment.name, "a published part of the journal cannot be removed");
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_published<D: Disk>(disk: &D) -> io::Result<u64> {
    let bytes = disk.read(PUBLISHED, 0, 64)?;
    let text = String::from_utf8_lossy(&bytes);
    let number = text.split_once(' ').and_then(|(number, check)| {
        let number: u64 = number.parse().ok()?;
        (check.parse() == Ok(format::check_of(Salt(0), &number.to_le_bytes()))).then_some(number)
    });
    Ok(number.unwrap_or(0))
}
