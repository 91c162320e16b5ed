//! The store: the record of every link, the deadlines of the links, the incidents of institutions, and the position in `KV_links`.
//!
//! The store is a copy of the output stream `KV_links` in a form that the engine and the HTTP server can query. A change is durable once it
//! is on `KV_links`. If the store is lost, incomplete or damaged, the node reads it again from the stream. So the guarantees of [`Store`]
//! are few; the trait documents them.
//!
//! - `format`: the keys and the versioned values
//! - `packing`: the records, compressed
//! - `index`: the keys of a link in the indexes, and the keys that answer a query
//! - `same_user`: the links of the same user at the same institution
//! - `counts`: the numbers of links, by state and by institution
//! - `content`: the checksums, and the sum over them that shows a missing or an old value; `scan`: the check of a whole store
//! - `sled`: the store on disk; the only module that imports sled
//! - `memory`: the store in memory, for tests and benches
//! - `tree`: the functions that both use

mod content;
mod counts;
mod format;
mod index;
mod memory;
mod packing;
mod same_person;
mod same_user;
mod scan;
mod sled;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

pub use self::format::{Head, StoredLink};
pub use self::index::Names;
pub use self::memory::MemoryStore;
pub use self::same_person::links_of_same_person;
pub use self::same_user::links_of_same_user;
pub use self::sled::{Opened, SledStore};
use crate::contract::{BadRecord, CommittedOffset, IncidentBody, LinksDigest};
use crate::link::{LinkId, Policy, StateName, Timestamp};

/// Keeps the committed state of links, partitions and incidents.
///
/// There is one writer at a time, and any number of concurrent readers.
pub trait Store: Send + Sync {
    /// The stored form of a link, if the store has it.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails or the value is damaged.
    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError>;

    /// Applies the changes of a commit: **all of them or none**, also across a crash. After it returns, every reader sees them. They are on
    /// stable storage only after the next [`Store::checkpoint`]; a loss before that is no loss of data, because the stream has the changes.
    ///
    /// A put with a version below the stored one changes nothing. A put with the same version changes only the deadline. So the same commit
    /// may be applied again.
    ///
    /// A store that is being rebuilt may collect the changes, and write all of them after those with [`Changes::is_end_of_read`], or when
    /// they are read. After a crash before that the store is as before the rebuild, which begins again.
    ///
    /// # Errors
    /// [`StoreError`]; then no change was applied.
    fn apply(&self, changes: &Changes) -> Result<(), StoreError>;

    /// Writes all applied changes to stable storage, so that they survive a crash of the host, except those of a rebuild that has not ended.
    ///
    /// # Errors
    /// [`StoreError`]; then the changes since the last checkpoint may be lost in a crash of the host.
    fn checkpoint(&self) -> Result<(), StoreError>;

    /// Empties the store, because it has messages that are not on the stream, or belongs to another stream. If possible, it moves the old
    /// content to another directory, and returns that directory.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError>;

    /// Whether the store has the state of every link that the stream had at the store's position. While the node rebuilds the store, only
    /// the node may read it.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] during a rebuild, [`StoreError::Damaged`] before it.
    fn check_complete(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Records that the store has caught up with the stream.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn set_complete(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The damage that an earlier call has found, as text. Then every call fails until [`Store::replace_damaged`].
    fn damage(&self) -> Option<String> {
        None
    }

    /// Replaces a damaged store by an empty one, for every handle. Returns the directory to which the damaged one was moved.
    ///
    /// # Errors
    /// [`StoreError`] if this is impossible while the process runs. The next start replaces the store then.
    fn replace_damaged(&self) -> Result<PathBuf, StoreError> {
        Err(StoreError::Disk("this store cannot be replaced".to_owned()))
    }

    /// The position in `KV_links` up to which the store has all messages. `None`: the store is empty.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn position(&self) -> Result<Option<Position>, StoreError>;

    /// The committed offset of each partition.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError>;

    /// The last incident message of each institution, in the order of their names. The body says whether the incident has ended.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError>;

    /// The links whose deadline is at or before `now`, earliest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError>;

    /// The earliest deadline of all links.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError>;

    /// One page of links in the order of their ids; ids that are no UUIDs come last. Every combination of filters reads an index: the time of a page depends on its limit,
    /// and not on the number of links. A link that belongs to the query during the whole read is not missed.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn page(&self, query: &Query) -> Result<Page, StoreError>;

    /// The number of links in each state, in constant time.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError>;

    /// The number of links of each institution and state, in the order of the names, at most `limit` institutions with links. It reads one
    /// entry for each institution.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn count_by_institution(&self, limit: usize) -> Result<Vec<CountsOfInstitution>, StoreError>;

    /// All links and their versions as two numbers, without a read of the links.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn links_digest(&self) -> Result<LinksDigest, StoreError>;
}

/// The changes of one commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// The changed links.
    pub puts: Vec<Put>,
    /// Incident messages, in the order of the stream. The last one of each institution is kept.
    pub incidents: Vec<IncidentBody>,
    /// The committed offsets of partitions.
    pub offsets: Vec<(u16, CommittedOffset)>,
    /// The new position in `KV_links`. `None`: unchanged.
    pub position: Option<Position>,
    /// A read of the stream ends with these changes. A store that is being rebuilt may write then what it has collected.
    pub is_end_of_read: bool,
}

impl Changes {
    /// Adds the changes of the next commit.
    pub fn join(&mut self, next: Self) {
        let Self { puts, incidents, offsets, position, is_end_of_read } = next;
        self.puts.extend(puts);
        self.incidents.extend(incidents);
        self.offsets.extend(offsets);
        self.position = position.or(self.position.take());
        self.is_end_of_read |= is_end_of_read;
    }
}

/// A changed link.
#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    /// The id of the link.
    pub id: LinkId,
    /// The fields that are stored outside of the JSON.
    pub head: Head,
    /// The names in `record` that have an index.
    pub names: Names,
    /// The JSON of the link's [`crate::contract::Record`].
    pub record: Bytes,
}

impl Put {
    /// The put of a record that is not parsed yet. The names are read from it, which takes a tenth of the time of parsing it.
    pub fn of_record(id: LinkId, head: Head, record: impl Into<Bytes>) -> Self {
        let record = record.into();
        Self { id, head, names: Names::read(&record), record }
    }

    /// The put for a state message. Catching up applies it; it is the same as the put of the original commit.
    ///
    /// # Errors
    /// [`BadRecord`] if the body is no record, even without its unreadable fields, or a newer version of relink wrote it.
    pub fn of_state_message(payload: &Bytes, policy: &Policy) -> Result<Self, BadRecord> {
        let record = format::read_record(payload)?;
        let link = record.link()?;
        let head = Head::of(&link, record.partition, policy);
        let names = Names::of(&link.profile);
        Ok(Self { id: link.id, head, names, record: payload.clone() })
    }
}

/// The position in the stream `KV_links` up to which the store has all messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// When the stream was created, in nanoseconds since the Unix epoch: its identity.
    pub stream_created_ns: i64,
    /// The store has all messages up to this sequence.
    pub sequence: u64,
    /// While the stream has this message, it has lost no message that the store has. `None` in a store of 0.1.0.
    pub witness: Option<Witness>,
}

/// The last message on `KV_links` that the store's own process wrote. A stream loses messages only from its end, so while it has this
/// message, it has all earlier ones. The sequence alone proves nothing, because a stream that lost messages assigns their sequences again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The sequence of the message.
    pub sequence: u64,
    /// The owner in the message: a name that no other process has.
    pub owner: String,
}

/// A query for a list of links.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only links in this state.
    pub state: Option<StateName>,
    /// Only links of this institution.
    pub institution: Option<String>,
    /// Only links with this external id.
    pub external_id: Option<String>,
    /// Only links with this `institution_user_id`, which is Belvo's key of a user at an institution.
    pub institution_user_id: Option<String>,
    /// Only links after this id.
    pub after: Option<LinkId>,
    /// The most links of one page.
    pub limit: usize,
}

/// All pages of a query, in order, until the last one or an error.
pub fn pages<S: Store + ?Sized>(store: &S, query: Query) -> impl Iterator<Item = Result<Page, StoreError>> {
    let mut next = Some(query);
    std::iter::from_fn(move || {
        let mut query = next.take()?;
        let page = store.page(&query);
        if let Ok(Page { next: after @ Some(_), .. }) = &page {
            query.after.clone_from(after);
            next = Some(query);
        }
        Some(page)
    })
}

/// One page of a list of links.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The links. Their heads were read; a record may still be unreadable.
    pub links: Vec<StoredLink>,
    /// The ids of `links`, in the same order.
    pub ids: Vec<LinkId>,
    /// Unreadable entries among the links. They do not stop the list.
    pub unreadable: Vec<Unreadable>,
    /// The id after which the next page starts, if there may be more links.
    pub next: Option<LinkId>,
}

/// The links of an institution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountsOfInstitution {
    /// Its name.
    pub institution: String,
    /// The number of links in each state.
    pub by_state: BTreeMap<StateName, u64>,
}

impl CountsOfInstitution {
    /// Reads an entry of the store. `None` if the institution has no links any more.
    fn decode(key: &[u8], value: &[u8]) -> Result<Option<Self>, StoreError> {
        let (name, counts) =
            counts::decode_institution(&key[format::INSTITUTION_PREFIX.len()..], content::unseal(key, value)?)?;
        Ok((counts.sum() > 0).then(|| Self { institution: name.to_owned(), by_state: counts.by_state() }))
    }
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The key, as printable text.
    pub key: String,
    /// The error text.
    pub problem: String,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or sled failed.
    #[error("the store failed: {0}")]
    Disk(String),
    /// Entries are missing, old or not those that were written, or sled failed in a way that only a damage explains. A rebuild from the
    /// stream repairs it.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The store was damaged, and it is read again from the stream.
    #[error("the store is being rebuilt from the stream")]
    Incomplete,
    /// The store was found damaged several times while this process ran.
    #[error(
        "the store was found damaged {count} times since the start; the last time: {why}. The next start rebuilds it. Check the disk and the \
         memory of this host"
    )]
    DamagedAgain {
        /// How often.
        count: u32,
        /// The last damage.
        why: String,
    },
    /// This user may not read or write the store.
    #[error(
        "relink may not read or write {}: {problem}. Run relink as the owner of its data directory, or correct the owner and the \
         permissions of that directory",
        path.display()
    )]
    Denied {
        /// The file or directory.
        path: PathBuf,
        /// The error text.
        problem: String,
    },
    /// The disk of the store is full.
    #[error(
        "the disk of the store is full ({}: {problem}). Free some space, or set RELINK_DATA_DIR to another disk, and start relink; \
         nothing is lost, because NATS and the journal have everything: do not delete the data directory",
        path.display()
    )]
    Full {
        /// The file or directory.
        path: PathBuf,
        /// The error text.
        problem: String,
    },
    /// A value does not have relink's format.
    #[error("the store has an unreadable entry at {key}: {problem}")]
    Corrupt {
        /// The key, as printable text.
        key: String,
        /// The error text.
        problem: String,
    },
    /// A record is damaged, or a newer version of relink wrote it.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// Another process has the store open.
    #[error("{} is in use by another relink process; stop that process, or set another data directory", directory.display())]
    InUse {
        /// The store's directory.
        directory: PathBuf,
    },
    /// A newer version of relink wrote the store.
    #[error("the store has format {found}, written by a newer relink (this one reads {known}); upgrade this node")]
    FutureFormat {
        /// The format on disk.
        found: u16,
        /// The format of this program.
        known: u16,
    },
}

impl StoreError {
    /// Whether only one record is unreadable, because it is damaged or a bug wrote it. Then only its link stops. A record of a newer
    /// version of relink is not damaged; it means that this version is too old for the store, so the process ends.
    pub const fn is_of_one_record(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Record(BadRecord::NotARecord(_) | BadRecord::Impossible(_)) => true,
            Self::Disk(_)
            | Self::Damaged(_)
            | Self::DamagedAgain { .. }
            | Self::Incomplete
            | Self::Denied { .. }
            | Self::Full { .. }
            | Self::InUse { .. }
            | Self::FutureFormat { .. }
            | Self::Record(BadRecord::FutureVersion { .. }) => false,
        }
    }
}
