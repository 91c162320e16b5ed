//! THE DISK: every link's record, the timers derived from them, institutions' incidents, and how far the stream has been read.
//!
//! The store is the *materialised* state: the commit point is the stream `LINKS`, and a store that is lost, behind or corrupt is
//! brought up to date from there. So what [`Store`] has to promise is small, and written at the trait.
//!
//! - `format`: keys and versioned values, drawn
//! - `sled`: the promise kept on disk; the only file that imports sled
//! - `memory`: the promise kept in memory, for tests and benches of everything above
//! - `tree`: what the two do alike

mod format;
mod memory;
mod sled;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use self::format::{Head, StoredLink};
pub use self::memory::MemoryStore;
pub use self::sled::{Opened, SledStore};
use crate::contract::{BadRecord, CommittedOffset, IncidentBody, Record};
use crate::link::{LinkId, Policy, StateName, Timestamp};

/// A place to keep what has been committed.
///
/// One writer at a time; any number of readers beside it.
pub trait Store: Send + Sync {
    /// The stored form of a link, if the store has it.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails or what it holds is not ours.
    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError>;

    /// Applies a commit: **all of it or none**, also across a crash. After it returns, every reader sees it. It is on stable storage only
    /// after the next [`Store::checkpoint`]; losing it before then loses nothing that the stream does not still have.
    ///
    /// A put whose version is below the stored one changes nothing, and one of the same version only the deadline, so a commit may be
    /// applied again.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was applied.
    fn apply(&self, changes: &Changes) -> Result<(), StoreError>;

    /// Puts everything applied so far on stable storage, also against a crash of the host.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is promised of what was applied since the last checkpoint.
    fn checkpoint(&self) -> Result<(), StoreError>;

    /// Empties the store, which knows more than the stream or belongs to another one. What it held is kept aside where it can be, and
    /// the place is returned.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError>;

    /// How far the stream has been applied. `None`: never, the store is empty.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn position(&self) -> Result<Option<Position>, StoreError>;

    /// How far each partition has handled its input.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError>;

    /// The latest incident of each institution that had one, in the order of their names; whether it is on is in its body.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError>;

    /// The links whose deadline is at or before `now`, earliest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError>;

    /// The earliest deadline of all.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError>;

    /// One page of links in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn page(&self, query: &Query) -> Result<Page, StoreError>;

    /// How many links are in each state.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError>;
}

/// One commit, as the store takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Links as they are now.
    pub puts: Vec<Put>,
    /// Institutions' incidents, in the order of the stream: of one institution the last stays.
    pub incidents: Vec<IncidentBody>,
    /// How far partitions have got.
    pub offsets: Vec<(u16, CommittedOffset)>,
    /// Where in the stream that leaves us. `None`: unchanged.
    pub position: Option<Position>,
}

/// A link as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    /// Which.
    pub id: LinkId,
    /// What can be told without reading the record.
    pub head: Head,
    /// The JSON of its [`crate::contract::Record`].
    pub record: Vec<u8>,
}

impl Put {
    /// The put that a state message comes to: what catching up applies, and the same as the commit applied when it was made.
    ///
    /// # Errors
    /// [`BadRecord`] if it is not a record of ours, or of a newer relink.
    pub fn of_state_message(payload: &[u8], policy: &Policy) -> Result<Self, BadRecord> {
        let record = Record::parse(payload)?;
        let link = record.link()?;
        let head = Head::of(&link, record.partition, policy);
        Ok(Self { id: link.id, head, record: payload.to_vec() })
    }
}

/// How far the stream `LINKS` has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// When the stream was created, in nanoseconds since the Unix epoch: its identity.
    pub stream_created_ns: i64,
    /// Everything up to this sequence has been applied.
    pub sequence: u64,
    /// A message that the stream has as long as it has lost nothing of this. `None` in a store of 0.1.0.
    pub witness: Option<Witness>,
}

/// The last message on the stream `LINKS` that the store's process wrote itself. A stream loses its tail only: while this message is
/// there, so is everything before it. The sequence alone proves nothing, since a stream that lost its tail gives sequences out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its sequence.
    pub sequence: u64,
    /// The process that wrote it, as its fences name it; no other process has this name.
    pub owner: String,
}

/// Which links to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only in this state.
    pub state: Option<StateName>,
    /// Only of this institution.
    pub institution: Option<String>,
    /// Only behind this id.
    pub after: Option<LinkId>,
    /// At most so many.
    pub limit: usize,
}

/// All pages of a query, one after the other, until the last one or an error.
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

/// Some of the links asked for.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Them. That a head can be read does not mean that its record can.
    pub links: Vec<StoredLink>,
    /// Their ids, in the same order.
    pub ids: Vec<LinkId>,
    /// What lies among them and cannot be read: it hides none of the others.
    pub unreadable: Vec<Unreadable>,
    /// Where to go on, if there may be more.
    pub next: Option<LinkId>,
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key, printable.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or sled.
    #[error("the store failed: {0}")]
    Disk(String),
    /// A value is not what we wrote.
    #[error("the store holds something unreadable at {key}: {problem}")]
    Corrupt {
        /// Where, printable.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A record is damaged, or of a newer relink.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// Another process has the store open.
    #[error("{} is in use by another relink; stop it, or set another data directory", directory.display())]
    InUse {
        /// The store's directory.
        directory: PathBuf,
    },
    /// The whole store is of a newer relink.
    #[error("the store has format {found}, written by a newer relink (this one reads {known}); upgrade this node")]
    FutureFormat {
        /// The format on disk.
        found: u16,
        /// The format of this program.
        known: u16,
    },
}

impl StoreError {
    /// Whether one record cannot be read, and all others can: it is damaged, or a bug wrote it. Such a record stops nothing but its
    /// link. A record of a newer relink is another matter: nothing can be decided beside it.
    pub const fn is_of_one_record(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Record(BadRecord::NotARecord(_) | BadRecord::Impossible(_)) => true,
            Self::Disk(_)
            | Self::InUse { .. }
            | Self::FutureFormat { .. }
            | Self::Record(BadRecord::FutureVersion { .. }) => false,
        }
    }
}
