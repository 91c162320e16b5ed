//! The rebuild of a store: the links are collected and sorted, and all keys are written in their order into a new database.
//!
//! ```text
//!  changes ──▶ links by id, sorted in a file ──▶ newest of each link ──┬──▶ links, in a file ──────────┐
//!                                                                     └──▶ index keys, sorted in a file ┼──▶ database
//!  offsets, incidents, position ──▶ memory ─────────────────────────────────────────────────────────────┘
//! ```
//!
//! The stream has the links in the order of their changes. Written in that order, each key is in another page of sled than the key before:
//! that took most of the time of a rebuild, and the pages were half empty and had to be written many times. In the order of the keys, each
//! page is written once and is full (`filler.rs`).
//!
//! Nothing of a rebuild is durable before its end. If the process ends meanwhile, the store is as before, and the rebuild begins again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::database::{Database, Failure};
use super::directories::{Root, io_error};
use super::filler::Filler;
use super::sorter::{Entry, Merge, RUN_BYTES, Sorter, Spool};
use super::{each_batch, start_copy};
use crate::store::content::{Content, seal, unseal};
use crate::store::counts::StateCounts;
use crate::store::format::{
    self, CONTENT_KEY, FORMAT_KEY, Head, INCIDENT_PREFIX, INSTITUTION_PREFIX, LINK_PREFIX, OFFSET_PREFIX, POSITION_KEY,
};
use crate::store::index::{self, Labels, NameHash};
use crate::store::{Changes, Position, Put, StoreError, tree};

/// A commit with at least so many links begins a rebuild of an incomplete store. Few links need none: they are written at once.
const COMMIT_MIN: usize = 500;

/// An incomplete store with more links than this goes on without a rebuild: it would copy them.
const LINKS_MAX: u64 = 10_000;

/// The most threads that encode links.
const THREADS_MAX: usize = 4;

/// The fewest links for which a thread is worth its start.
const LINKS_PER_THREAD_MIN: usize = 100;

/// The number of entries that are handed to the thread that writes at once.
const HANDED_OVER: usize = 256;

/// The most such pieces that wait.
const WAITING_MAX: usize = 16;

/// A rebuild that has not ended.
#[derive(Debug)]
pub(super) struct Rebuild {
    /// The directory of the temporary files.
    directory: PathBuf,
    /// Every state of a link that was applied.
    links: Sorter,
    /// Institutions by the hash of their name.
    institutions: BTreeMap<NameHash, String>,
    /// The last incidents and committed offsets, without checksums.
    others: BTreeMap<Vec<u8>, Vec<u8>>,
    position: Option<Position>,
}

/// A link with the state that a merge has found.
struct Found {
    key: Vec<u8>,
    value: Vec<u8>,
    head: Head,
    labels: Labels,
}

impl Rebuild {
    /// Begins with the entries of a database.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn begin(root: &Root, database: &Database) -> Result<Self, StoreError> {
        let mut rebuild = Self::of_nothing(root)?;
        for prefix in [INCIDENT_PREFIX, OFFSET_PREFIX] {
            each_batch(database, prefix, |entries| {
                for (key, value) in entries {
                    let payload = database.noticed(unseal(&key, &value))?.to_vec();
                    rebuild.others.insert(key, payload);
                }
                Ok(())
            })?;
        }
        let position = database.read(POSITION_KEY)?.map(|value| tree::decode_position(&value)).transpose();
        rebuild.position = database.noticed(position)?;
        each_batch(database, INSTITUTION_PREFIX, |entries| {
            for name in entries.iter().filter_map(|(key, _)| std::str::from_utf8(&key[INSTITUTION_PREFIX.len()..]).ok())
            {
                rebuild.institutions.insert(NameHash::of_institution(name), name.to_owned());
            }
            Ok(())
        })?;
        each_batch(database, LINK_PREFIX, |entries| {
            let pushed = entries.iter().try_for_each(|(key, value)| rebuild.links.push(key, value));
            pushed.map_err(|error| io_error(&rebuild.directory, &error))
        })?;
        Ok(rebuild)
    }

    /// Whether these changes of a store with this content begin a rebuild.
    pub(super) fn begins(content: &Content, changes: &Changes) -> bool {
        !content.is_complete && changes.puts.len() >= COMMIT_MIN && content.links.links_count <= LINKS_MAX
    }

    /// Begins with no entry.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn of_nothing(root: &Root) -> Result<Self, StoreError> {
        let directory = root.path().to_owned();
        let links = Sorter::new(&directory, RUN_BYTES).map_err(|error| io_error(&directory, &error))?;
        let (institutions, others) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { directory, links, institutions, others, position: None })
    }

    /// The position after the changes so far.
    pub(super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Collects changes.
    ///
    /// # Errors
    /// The failure of the disk. Then the rebuild cannot go on.
    pub(super) fn take(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let Changes { puts, incidents, offsets, position, is_end_of_read: _ } = changes;
        for ((key, value, institution), put) in encoded(puts).into_iter().zip(puts) {
            if let (Some(hash), Some(name)) = (institution, &put.names.institution) {
                self.institutions.entry(hash).or_insert_with(|| name.clone());
            }
            self.links.push(&key, &value).map_err(|error| io_error(&self.directory, &error))?;
        }
        self.others.extend(tree::payloads(incidents, offsets)?);
        self.position = position.clone().or(self.position.take());
        Ok(())
    }

    /// Collects an entry that is no link and of no index, without its checksum.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is a position that cannot be read.
    pub(super) fn take_other(&mut self, key: Vec<u8>, payload: Vec<u8>) -> Result<(), StoreError> {
        if key == POSITION_KEY {
            self.position = Some(format::decode_position(&payload)?);
        } else {
            self.others.insert(key, payload);
        }
        Ok(())
    }

    /// Writes a new database, which is on the disk afterwards. A crash before the end leaves no trace of it. `copied`: the content of which
    /// it is a copy.
    ///
    /// # Errors
    /// The failure of the disk, or [`StoreError::Damaged`] if the links are not those of `copied`.
    pub(super) fn finish(
        self,
        root: &Root,
        cache_bytes: u64,
        copied: Option<&Content>,
    ) -> Result<Database, StoreError> {
        let Self { directory, links, institutions, mut others, position } = self;
        let failed = |failure: Failure| failure.at(&directory);
        let links = links.merge().map_err(|error| io_error(&directory, &error))?;
        let mut sorted = Sorted::new(&directory).map_err(|error| io_error(&directory, &error))?;
        sorted.take_all(links).map_err(failed)?;
        let Sorted { links, index, mut content, counts } = sorted;
        if let Some(copied) = copied {
            content.is_complete = copied.is_complete;
            if content.links != copied.links {
                return Err(StoreError::Damaged("its copy has other links".to_owned()));
            }
        }
        for (hash, counts) in counts {
            let name = institutions.get(&hash).map_or("", String::as_str);
            others.insert(format::institution_key(name), counts.encode());
        }
        others.extend(position.map(|position| (POSITION_KEY.to_vec(), format::encode_position(&position))));
        for (key, payload) in &mut others {
            *payload = seal(key, payload);
            content.add(key, payload);
        }
        others.insert(FORMAT_KEY.to_vec(), format::encode_format());
        others.insert(CONTENT_KEY.to_vec(), content.encode());
        let entries =
            || Ok(InOrder { links: links.read()?, index: index.merge()?, others: others.into_iter().peekable() });
        let entries = entries().map_err(|error: io::Error| io_error(&directory, &error))?;
        let database = start_copy(root, cache_bytes)?;
        let written = write(&database, entries).map_err(failed).and_then(|()| database.flush());
        if let Err(error) = written.and_then(|()| root.complete(database.number())) {
            let _deleted_at_the_next_start = root.delete(database.number());
            // A drop would flush, and may wait for ever for a thread of sled that has failed.
            std::mem::forget(database);
            return Err(error);
        }
        *database.content() = content;
        Ok(database)
    }
}

/// The key and the value of each link, and the hash of its institution.
fn encoded(puts: &[Put]) -> Vec<(Vec<u8>, Vec<u8>, Option<NameHash>)> {
    let encode = |put: &Put| {
        let (key, labels) = (format::link_key(&put.id), Labels::of(&put.names));
        let value = seal(&key, &format::encode_link(&put.head, &labels, &put.record));
        (key, value, labels.institution())
    };
    let threads_count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    if puts.len() < LINKS_PER_THREAD_MIN * threads_count {
        return puts.iter().map(encode).collect();
    }
    std::thread::scope(|scope| {
        let parts = puts.chunks(puts.len().div_ceil(threads_count));
        let threads: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(encode).collect::<Vec<_>>())).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// The newest state of each link in the order of the ids, and what follows from the links.
struct Sorted {
    links: Spool,
    index: Sorter,
    content: Content,
    counts: BTreeMap<NameHash, StateCounts>,
}

impl Sorted {
    fn new(directory: &Path) -> io::Result<Self> {
        let (links, index) = (Spool::new(directory)?, Sorter::new(directory, RUN_BYTES)?);
        Ok(Self { links, index, content: Content::default(), counts: BTreeMap::new() })
    }

    fn take_all(&mut self, mut entries: Merge) -> Result<(), Failure> {
        let mut newest: Option<Found> = None;
        while let Some((key, value)) = entries.next()? {
            let (head, labels) = format::decode_head(&key, unseal(&key, &value)?)?;
            let found = Found { key, value, head, labels };
            match &mut newest {
                // Of two puts of one version, the later one may have another deadline.
                Some(newest) if newest.key == found.key => {
                    if newest.head.version <= found.head.version {
                        *newest = found;
                    }
                }
                Some(before) => self.take(std::mem::replace(before, found))?,
                None => newest = Some(found),
            }
        }
        newest.map_or(Ok(()), |last| self.take(last))
    }

    fn take(&mut self, Found { key, value, head, labels }: Found) -> Result<(), Failure> {
        let id = key.strip_prefix(LINK_PREFIX).and_then(format::parse_link_id);
        let id = id.ok_or_else(|| format::corrupt(&key, "not a link id"))?;
        self.content.add(&key, &value);
        self.content.links.replace(&id, None, head.version);
        self.content.by_state.add(head.state, 1)?;
        if let Some(institution) = labels.institution() {
            self.counts.entry(institution).or_default().add(head.state, 1)?;
        }
        for key in index::keys(&id, &head, &labels) {
            self.index.push(&key, &[])?;
        }
        self.links.push(&key, &value)?;
        Ok(())
    }
}

/// All entries of the database in the order of their keys.
struct InOrder<O: Iterator<Item = Entry>> {
    links: Merge,
    index: Merge,
    others: std::iter::Peekable<O>,
}

impl<O: Iterator<Item = Entry>> InOrder<O> {
    fn next(&mut self) -> io::Result<Option<Entry>> {
        let Self { links, index, others } = self;
        let of_others = others.peek().map(|(key, _)| key.as_slice());
        let keys = [links.next_key(), index.next_key(), of_others];
        // Every key is in one of the three only.
        let first = (0..keys.len()).filter(|&source| keys[source].is_some()).min_by_key(|&source| keys[source]);
        match first {
            Some(0) => links.next(),
            Some(1) => index.next(),
            Some(_) => Ok(others.next()),
            None => Ok(None),
        }
    }
}

/// Writes all entries, in a thread of its own, while this one reads the next ones.
fn write(database: &Database, mut entries: InOrder<impl Iterator<Item = Entry>>) -> Result<(), Failure> {
    let (hand_over, handed_over) = std::sync::mpsc::sync_channel::<Vec<Entry>>(WAITING_MAX);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut filler = Filler::new(database);
            handed_over.into_iter().flatten().try_for_each(|entry| filler.push(entry))?;
            filler.end()
        });
        let read = read_all(&mut entries, &hand_over);
        drop(hand_over);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.map_err(Failure::from).and(read.map_err(Failure::from))
    })
}

/// Reads until the end, or until the writer has failed.
fn read_all(
    entries: &mut InOrder<impl Iterator<Item = Entry>>,
    hand_over: &std::sync::mpsc::SyncSender<Vec<Entry>>,
) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(HANDED_OVER);
        while piece.len() < HANDED_OVER
            && let Some(entry) = entries.next()?
        {
            piece.push(entry);
        }
        let is_last = piece.len() < HANDED_OVER;
        if hand_over.send(piece).is_err() || is_last {
            return Ok(());
        }
    }
}
