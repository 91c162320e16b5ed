//! The keys and the versioned values of the store: one ordered tree, with a key prefix for each kind.
//!
//! ```text
//! key                                     value
//! "f"                                     checksum of the next two bytes, format version u16
//! "c"                                     content: entries u64, bytes u64, sum of the checksums u64, links u64, sum of their versions u64,
//!                                         links of each state u64 × 6, flags u8
//! "p"                                     position in KV_links: stream created i64, sequence u64; witness: sequence u64, owner
//! "m" partition:u16                       committed offset: JSON
//! "i" institution                         its last incident message: JSON
//! "n" institution                         the number of its links of each state: u64 × 6
//! "l" link id                             head (56 bytes) + JSON of the record
//! "s" state:u8 hash of the institution: [u8; 12] link id
//!                                         -        index of the links by state, by institution, and by both (`index.rs`)
//! "e" hash of the external id: [u8; 12] state:u8 hash of the institution: [u8; 12] link id
//!                                         -        the same of the links with an external id
//! "u" hash of the institution's user id: [u8; 12] state:u8 hash of the institution: [u8; 12] link id
//!                                         -        the same of the links with an `institution_user_id`
//! "d" deadline:i64 ^ sign  link id        -        index of the links by deadline
//!
//! Every value except - begins with its checksum, u64 (`content.rs`).
//!
//! head:  version:u8 = 3 │ state:u8 │ partition:u16 │ link version:u64 │ deadline:i64, or i64::MAX for none
//!        │ hash of the institution: [u8; 12] │ hash of the external id: [u8; 12]
//!        │ hash of the institution's user id: [u8; 12]
//! ```
//!
//! All numbers are big-endian, so that the order of keys is the order of values. `s`, `e`, `u` and `d` are derived from the heads. With the
//! head, the store applies a commit and filters a list without parsing JSON.

use strum::VariantArray;

use super::content;
use super::index::{LABELS_LENGTH, Labels};
use super::{Position, StoreError, Witness};
use crate::contract::{BadRecord, Record, Repaired};
use crate::link::{Link, LinkId, Policy, StateName, Timestamp};

/// The format version of the store. Any change of the table above needs a new version.
///
/// Format 4 had no index `u`. No released version wrote it, so a store of it is rebuilt from the stream, and not copied.
pub(super) const FORMAT: u16 = 5;

/// The format of 0.2, without the institution in `s`, without the index `e` and without the counts. A store of it is copied when it is
/// opened.
pub(super) const FORMAT_WITHOUT_COUNTS: u16 = 3;

/// The last format without checksums, without the content and with one database in the directory itself. Format 1 differs from it in the
/// keys of links: they had the sender's spelling of the id, so a UUID without dashes was a separate link. A store of both formats is copied
/// when it is opened, unless it has such a key; then it is rebuilt.
pub(super) const FORMAT_WITHOUT_CHECKSUMS: u16 = 2;

const HEAD_VERSION: u8 = 3;
const HEAD_START: usize = 20;
const HEAD_LENGTH: usize = HEAD_START + LABELS_LENGTH;

/// The head of formats 1 to 3 has a reserved byte in place of the hashes.
const LEGACY_HEAD_VERSION: u8 = 1;
const LEGACY_HEAD_LENGTH: usize = 21;

const NO_DEADLINE: i64 = i64::MAX;

pub(super) const FORMAT_KEY: &[u8] = b"f";
pub(super) const CONTENT_KEY: &[u8] = b"c";
pub(super) const POSITION_KEY: &[u8] = b"p";
pub(super) const OFFSET_PREFIX: &[u8] = b"m";
pub(super) const INCIDENT_PREFIX: &[u8] = b"i";
pub(super) const LINK_PREFIX: &[u8] = b"l";
pub(super) const EXTERNAL_ID_PREFIX: &[u8] = b"e";
pub(super) const USER_PREFIX: &[u8] = b"u";
pub(super) const STATE_PREFIX: &[u8] = b"s";
pub(super) const DEADLINE_PREFIX: &[u8] = b"d";
pub(super) const INSTITUTION_PREFIX: &[u8] = b"n";

/// The fields of a stored link that are readable without parsing its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The link's state.
    pub state: StateName,
    /// The link's partition of the input stream.
    pub partition: u16,
    /// The link's version. A put with a lower version changes nothing.
    pub version: u64,
    /// The link's next deadline.
    pub deadline: Option<Timestamp>,
}

impl Head {
    /// The head of a link of this partition. The deadline follows from `policy`.
    pub fn of(link: &Link, partition: u16, policy: &Policy) -> Self {
        Self { state: link.state.name(), partition, version: link.version, deadline: link.deadline(policy) }
    }
}

/// A stored link: the head, and the record as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredLink {
    /// The fields that are readable without parsing.
    pub head: Head,
    /// The JSON of the record.
    pub record: Vec<u8>,
}

impl StoredLink {
    /// Parses the record, without the fields that cannot be read.
    ///
    /// # Errors
    /// [`StoreError::Record`] if it is damaged or a newer version of relink wrote it.
    pub fn parse(&self) -> Result<Record, StoreError> {
        Ok(read_record(&self.record)?)
    }

    /// The link of the record.
    ///
    /// # Errors
    /// Those of [`StoredLink::parse`], and [`StoreError::Record`] if a value of the record is impossible.
    pub fn link(&self) -> Result<Link, StoreError> {
        Ok(self.parse()?.link()?)
    }

    /// The link of the record; `None` if the record cannot be read. The messages of that link are dead-lettered when they arrive, which
    /// names it.
    ///
    /// # Errors
    /// [`StoreError::Record`] if a newer version of relink wrote the record.
    pub(super) fn readable_link(&self) -> Result<Option<Link>, StoreError> {
        match self.link() {
            Ok(link) => Ok(Some(link)),
            Err(error @ StoreError::Record(BadRecord::FutureVersion { .. })) => Err(error),
            Err(_unreadable) => Ok(None),
        }
    }
}

/// Parses a record. Fields that cannot be read are dropped and logged ([`Record::repair`]).
pub(super) fn read_record(json: &[u8]) -> Result<Record, BadRecord> {
    match Record::parse(json) {
        Err(error @ BadRecord::NotARecord(_)) => {
            let Ok(Repaired { record, dropped }) = Record::repair(json) else { return Err(error) };
            tracing::warn!(link.id = %record.link_id, fields = %dropped.join(", "), "a record has unreadable fields; it is used without them");
            Ok(record)
        }
        read => read,
    }
}

pub(super) fn link_key(id: &LinkId) -> Vec<u8> {
    [LINK_PREFIX, id.as_str().as_bytes()].concat()
}

pub(super) fn offset_key(partition: u16) -> Vec<u8> {
    [OFFSET_PREFIX, &partition.to_be_bytes()].concat()
}

pub(super) fn incident_key(institution: &str) -> Vec<u8> {
    [INCIDENT_PREFIX, institution.as_bytes()].concat()
}

/// The key of the counts of an institution.
pub(super) fn institution_key(name: &str) -> Vec<u8> {
    [INSTITUTION_PREFIX, name.as_bytes()].concat()
}

/// The key of the index by state of formats 1 to 3.
pub(super) fn legacy_state_key(state: StateName, id: &LinkId) -> Vec<u8> {
    [&state_prefix(state), id.as_str().as_bytes()].concat()
}

pub(super) fn state_prefix(state: StateName) -> Vec<u8> {
    [STATE_PREFIX, &[state_byte(state)]].concat()
}

pub(super) fn deadline_key(at: Timestamp, id: &LinkId) -> Vec<u8> {
    [DEADLINE_PREFIX, &ordered(at).to_be_bytes(), id.as_str().as_bytes()].concat()
}

/// The first deadline key after every key due at `now`.
pub(super) fn deadline_end(now: Timestamp) -> Vec<u8> {
    [DEADLINE_PREFIX, &ordered(now).saturating_add(1).to_be_bytes()].concat()
}

pub(super) fn parse_deadline_key(key: &[u8]) -> Result<(Timestamp, LinkId), StoreError> {
    let corrupt = || corrupt(key, "not a deadline key");
    let rest = key.strip_prefix(DEADLINE_PREFIX).ok_or_else(corrupt)?;
    let (at, id) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
    let at = Timestamp::from_millis((u64::from_be_bytes(*at) ^ SIGN) as i64);
    Ok((at, parse_link_id(id).ok_or_else(corrupt)?))
}

pub(super) fn parse_link_id(bytes: &[u8]) -> Option<LinkId> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

const SIGN: u64 = 1 << 63;

/// Maps a time to an unsigned number, and keeps the order.
const fn ordered(at: Timestamp) -> u64 {
    (at.as_millis() as u64) ^ SIGN
}

pub(super) fn encode_link(head: &Head, labels: &Labels, record: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_LENGTH + record.len());
    value.push(HEAD_VERSION);
    value.push(state_byte(head.state));
    value.extend_from_slice(&head.partition.to_be_bytes());
    value.extend_from_slice(&head.version.to_be_bytes());
    value.extend_from_slice(&head.deadline.map_or(NO_DEADLINE, Timestamp::as_millis).to_be_bytes());
    value.extend_from_slice(&labels.encode());
    value.extend_from_slice(record);
    value
}

/// The head and the labels of a link.
pub(super) fn decode_head(key: &[u8], value: &[u8]) -> Result<(Head, Labels), StoreError> {
    let start = value.first_chunk::<HEAD_START>();
    let labels = value.get(HEAD_START..).and_then(|rest| rest.first_chunk::<LABELS_LENGTH>());
    let (Some(start), Some(labels)) = (start, labels) else {
        return Err(corrupt(key, "shorter than a head"));
    };
    Ok((decode_head_start(key, start, HEAD_VERSION)?, Labels::decode(labels)))
}

fn decode_head_start(key: &[u8], start: &[u8; HEAD_START], expected_version: u8) -> Result<Head, StoreError> {
    let [version, state, l0, l1, v0, v1, v2, v3, v4, v5, v6, v7, d0, d1, d2, d3, d4, d5, d6, d7] = *start;
    if version != expected_version {
        return Err(corrupt(key, "a head of an unknown version"));
    }
    let state = parse_state_byte(state).ok_or_else(|| corrupt(key, "an unknown state"))?;
    let deadline = i64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]);
    Ok(Head {
        state,
        partition: u16::from_be_bytes([l0, l1]),
        version: u64::from_be_bytes([v0, v1, v2, v3, v4, v5, v6, v7]),
        deadline: (deadline != NO_DEADLINE).then(|| Timestamp::from_millis(deadline)),
    })
}

pub(super) fn decode_link(key: &[u8], value: &[u8]) -> Result<(StoredLink, Labels), StoreError> {
    let (head, labels) = decode_head(key, value)?;
    Ok((StoredLink { head, record: value[HEAD_LENGTH..].to_vec() }, labels))
}

/// A link of formats 1 to 3.
pub(super) fn decode_legacy_link(key: &[u8], value: &[u8]) -> Result<StoredLink, StoreError> {
    let (Some(start), Some(record)) = (value.first_chunk(), value.get(LEGACY_HEAD_LENGTH..)) else {
        return Err(corrupt(key, "shorter than a head"));
    };
    Ok(StoredLink { head: decode_head_start(key, start, LEGACY_HEAD_VERSION)?, record: record.to_vec() })
}

pub(super) fn encode_position(position: &Position) -> Vec<u8> {
    let mut value = Vec::with_capacity(24);
    value.extend_from_slice(&position.stream_created_ns.to_be_bytes());
    value.extend_from_slice(&position.sequence.to_be_bytes());
    if let Some(witness) = &position.witness {
        value.extend_from_slice(&witness.sequence.to_be_bytes());
        value.extend_from_slice(witness.owner.as_bytes());
    }
    value
}

pub(super) fn decode_position(value: &[u8]) -> Result<Position, StoreError> {
    let damaged = || corrupt(POSITION_KEY, "not a position");
    let (created, rest) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (sequence, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let witness = if rest.is_empty() {
        None
    } else {
        let (sequence, owner) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let owner = std::str::from_utf8(owner).map_err(|_| damaged())?.to_owned();
        Some(Witness { sequence: u64::from_be_bytes(*sequence), owner })
    };
    Ok(Position { stream_created_ns: i64::from_be_bytes(*created), sequence: u64::from_be_bytes(*sequence), witness })
}

pub(super) fn encode_format() -> Vec<u8> {
    content::seal(FORMAT_KEY, &FORMAT.to_be_bytes())
}

/// The format version of a database.
///
/// # Errors
/// [`StoreError::FutureFormat`], or [`StoreError::Damaged`] if it has no version that a relink has written.
pub(super) fn decode_format(value: Option<&[u8]>, is_sealed: bool) -> Result<u16, StoreError> {
    // sled opens some damaged logs without an error, as an empty database.
    let value = value.ok_or_else(|| StoreError::Damaged("the format version is missing".to_owned()))?;
    let payload = if is_sealed { content::unseal(FORMAT_KEY, value)? } else { value };
    let found = <[u8; 2]>::try_from(payload).map(u16::from_be_bytes);
    match found {
        Ok(found) if found > FORMAT => Err(StoreError::FutureFormat { found, known: FORMAT }),
        Ok(found @ (FORMAT_WITHOUT_COUNTS | FORMAT)) if is_sealed => Ok(found),
        Ok(found @ 1..=FORMAT_WITHOUT_CHECKSUMS) if !is_sealed => Ok(found),
        Ok(_) | Err(_) => Err(StoreError::Damaged("the format version is unknown".to_owned())),
    }
}

pub(super) fn corrupt(key: &[u8], problem: impl Into<String>) -> StoreError {
    StoreError::Corrupt { key: key.escape_ascii().to_string(), problem: problem.into() }
}

pub(super) const fn state_byte(state: StateName) -> u8 {
    match state {
        StateName::Unconfirmed => 0,
        StateName::Valid => 1,
        StateName::Invalid => 2,
        StateName::TokenRequired => 3,
        StateName::Updating => 4,
        StateName::Removed => 5,
    }
}

pub(super) fn parse_state_byte(byte: u8) -> Option<StateName> {
    StateName::VARIANTS.iter().copied().find(|&state| state_byte(state) == byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::Names;

    #[test]
    fn a_link_value_reads_back() {
        for deadline in [None, Some(Timestamp::from_millis(-5)), Some(Timestamp::from_millis(1_700_000_000_000))] {
            let head = Head { state: StateName::Updating, partition: 515, version: u64::MAX - 1, deadline };
            let names = Names { institution: Some("erebor".to_owned()), ..Names::default() };
            let labels = Labels::of(&names);
            let value = encode_link(&head, &labels, b"{}");
            assert_eq!(decode_link(b"l", &value).unwrap(), (StoredLink { head, record: b"{}".to_vec() }, labels));
        }
        assert!(decode_link(b"l", b"short").is_err());
    }

    #[test]
    fn a_position_reads_back() {
        let witness = Witness { sequence: 8, owner: "host 7 a-b".to_owned() };
        for witness in [None, Some(witness)] {
            let position = Position { stream_created_ns: -5, sequence: 9, witness };
            assert_eq!(decode_position(&encode_position(&position)).unwrap(), position);
        }
        assert!(decode_position(&[0; 15]).is_err() && decode_position(&[0; 20]).is_err());
    }

    #[test]
    fn deadlines_sort_by_time_and_then_by_link() {
        let id = |text: &str| text.parse::<LinkId>().unwrap();
        let keys: Vec<_> = [-1, 0, 1, i64::MAX - 1]
            .into_iter()
            .flat_map(|at| ["a", "b"].map(|link| deadline_key(Timestamp::from_millis(at), &id(link))))
            .collect();
        assert!(keys.is_sorted());
        let (at, link) = parse_deadline_key(&keys[1]).unwrap();
        assert_eq!((at, link), (Timestamp::from_millis(-1), id("b")));
        assert!(keys[3] < deadline_end(Timestamp::default()) && deadline_end(Timestamp::default()) <= keys[4]);
    }
}
