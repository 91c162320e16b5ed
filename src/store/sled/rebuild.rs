//! The rebuild of a store: the links are collected and sorted, and all keys are written in their order into a new database.
//!
//! ```text
//!  changes ──▶ links by id, sorted in a file ──▶ newest of each link ──┬─────────────────────────────────▶ database
//!                                                                     └──▶ index keys, sorted in a file ──▶ database
//!  offsets, incidents, position ──▶ memory ───────────────────────────────────────────────────────────────▶ database
//! ```
//!
//! Two threads write: each has the links of one half of the ids, and afterwards one half of the index keys. Inserting a key into sled takes
//! most of the time of a rebuild, and is the work of the thread that calls it.
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
use super::sorter::{Merge, Sorter};
use super::{each_batch, start_copy};
use crate::store::content::{Content, seal, unseal};
use crate::store::counts::StateCounts;
use crate::store::format::{
    self, CONTENT_KEY, FORMAT_KEY, Head, ID_OF_UUID, INCIDENT_PREFIX, INSTITUTION_PREFIX, LINK_PREFIX, OFFSET_PREFIX,
    POSITION_KEY, STATE_PREFIX,
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

/// The number of threads that write.
const WRITERS: usize = 2;

/// The bytes that each sorter of links, and each of index keys, sorts in memory.
const LINKS_RUN_BYTES: usize = 8 << 20;
const INDEX_RUN_BYTES: usize = 2 << 20;

/// The cache of the database while it is written. A page is not read again after it is full, so a larger cache only takes memory: with a
/// million links and 128 MB it took 440 MB, and the write was not faster. Afterwards the database is opened again, with its own cache.
const WRITE_CACHE_BYTES: u64 = 16 << 20;

/// A rebuild that has not ended.
#[derive(Debug)]
pub(super) struct Rebuild {
    /// The directory of the temporary files.
    directory: PathBuf,
    /// Every state of a link that was applied, by the part of the ids ([`part_of_link`]).
    links: [Sorter; WRITERS],
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
            let pushed = entries.iter().try_for_each(|(key, value)| rebuild.push(key, value));
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
        let links = sorters(&directory, LINKS_RUN_BYTES).map_err(|error| io_error(&directory, &error))?;
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
            self.push(&key, &value).map_err(|error| io_error(&self.directory, &error))?;
        }
        self.others.extend(tree::payloads(incidents, offsets)?);
        self.position = position.clone().or(self.position.take());
        Ok(())
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.links[part_of_link(key)].push(key, value)
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
        let directory = self.directory.clone();
        let database = start_copy(root, WRITE_CACHE_BYTES)?;
        let number = database.number();
        let content = self.write(&database, copied).map_err(|failure| failure.at(&directory));
        let content = content.and_then(|content| database.flush().map(|()| content));
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                let _deleted_at_the_next_start = root.delete(number);
                // A drop would flush, and may wait for ever for a thread of sled that has failed.
                std::mem::forget(database);
                return Err(error);
            }
        };
        drop(database);
        let opened = Database::open(number, root.database(number), cache_bytes, true);
        let completed = opened.and_then(|(database, _format)| root.complete(number).map(|()| database));
        let database = completed.inspect_err(|_| {
            let _deleted_at_the_next_start = root.delete(number);
        })?;
        *database.content() = content;
        Ok(database)
    }

    /// Writes all entries into an empty database, and returns their content.
    fn write(self, database: &Database, copied: Option<&Content>) -> Result<Content, Failure> {
        let Self { directory, links, institutions, mut others, position } = self;
        let written = in_threads(links, |links| Links::new(database, &directory)?.write(links.merge()?))?;
        let (mut content, mut counts) = (Content::default(), BTreeMap::<_, StateCounts>::new());
        let mut parts: [Vec<Sorter>; WRITERS] = std::array::from_fn(|_| Vec::new());
        for Written { index, content: of_part, counts: counts_of_part } in written {
            content.join(&of_part)?;
            for (institution, of_part) in counts_of_part {
                counts.entry(institution).or_default().join(&of_part)?;
            }
            parts.iter_mut().zip(index).for_each(|(part, sorter)| part.push(sorter));
        }
        if let Some(copied) = copied {
            content.is_complete = copied.is_complete;
            if content.links != copied.links {
                return Err(StoreError::Damaged("its copy has other links".to_owned()).into());
            }
        }
        in_threads(parts, |sorters| {
            let mut filler = Filler::new(database);
            let mut keys = Merge::of_all(sorters)?;
            while let Some(entry) = keys.next()? {
                filler.push(entry)?;
            }
            Ok(filler.end()?)
        })?;
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
        let mut filler = Filler::new(database);
        others.into_iter().try_for_each(|entry| filler.push(entry))?;
        filler.end()?;
        Ok(content)
    }
}

fn sorters(directory: &Path, run_bytes: usize) -> io::Result<[Sorter; WRITERS]> {
    Ok([Sorter::new(directory, run_bytes)?, Sorter::new(directory, run_bytes)?])
}

/// The part of a link's key: the UUIDs are cut in the middle. Ids that are no UUIDs are behind all UUIDs.
fn part_of_link(key: &[u8]) -> usize {
    let id = key.strip_prefix(LINK_PREFIX).unwrap_or_default();
    usize::from(*id >= [ID_OF_UUID, 0x80][..])
}

/// The part of an index key: the index by state, by which every link is found, and the others.
fn part_of_index(key: &[u8]) -> usize {
    usize::from(key.starts_with(STATE_PREFIX))
}

/// Makes a call for each part, in threads of their own.
fn in_threads<P: Send, T: Send>(
    parts: [P; WRITERS],
    call: impl Fn(P) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    std::thread::scope(|scope| {
        let call = &call;
        let threads = parts.map(|part| scope.spawn(move || call(part)));
        let joined = threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.into_iter().collect()
    })
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

/// Writes the newest state of each link of one part, in the order of the ids, and collects what follows from the links.
struct Links<'a> {
    filler: Filler<'a>,
    written: Written,
}

/// What follows from the links of one part.
struct Written {
    /// The index keys, by their part ([`part_of_index`]).
    index: [Sorter; WRITERS],
    content: Content,
    counts: BTreeMap<NameHash, StateCounts>,
}

impl<'a> Links<'a> {
    fn new(database: &'a Database, directory: &Path) -> io::Result<Self> {
        let index = sorters(directory, INDEX_RUN_BYTES)?;
        let written = Written { index, content: Content::default(), counts: BTreeMap::new() };
        Ok(Self { filler: Filler::new(database), written })
    }

    fn write(mut self, mut entries: Merge) -> Result<Written, Failure> {
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
        newest.map_or(Ok(()), |last| self.take(last))?;
        self.filler.end()?;
        Ok(self.written)
    }

    fn take(&mut self, Found { key, value, head, labels }: Found) -> Result<(), Failure> {
        let Written { index, content, counts } = &mut self.written;
        let id = key.strip_prefix(LINK_PREFIX).and_then(format::parse_link_id);
        let id = id.ok_or_else(|| format::corrupt(&key, "not a link id"))?;
        content.add(&key, &value);
        content.links.replace(&id, None, head.version);
        content.by_state.add(head.state, 1)?;
        if let Some(institution) = labels.institution() {
            counts.entry(institution).or_default().add(head.state, 1)?;
        }
        for key in index::keys(&id, &head, &labels) {
            index[part_of_index(&key)].push(&key, &[])?;
        }
        Ok(self.filler.push((key, value))?)
    }
}
