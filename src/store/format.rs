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
//! "l" id                                  head (13 to 57 bytes) + packed JSON of the record (`packing.rs`)
//! "s" state:u8 hash of the institution: [u8; 12] id
//!                                         -        index of the links by state, by institution, and by both (`index.rs`)
//! "e" hash of the external id: [u8; 12] state:u8 hash of the institution: [u8; 12] id
//!                                         -        the same of the links with an external id
//! "u" hash of the institution's user id: [u8; 12] state:u8 hash of the institution: [u8; 12] id
//!                                         -        the same of the links with an `institution_user_id`
//! "d" deadline:i64 ^ sign  id             -        index of the links by deadline
//!
//! Every value except - begins with its checksum, u64 (`content.rs`).
//!
//! id:    0:u8 │ UUID: [u8; 16], or 1:u8 │ the text of an id that is no UUID
//! head:  version:u8 = 4 │ state:u8 │ partition:u16 │ link version:u64 │ flags:u8 │ deadline:i64 if flags & 8
//!        │ hash of the institution: [u8; 12] if flags & 1 │ hash of the external id: [u8; 12] if flags & 2
//!        │ hash of the institution's user id: [u8; 12] if flags & 4
//! ```
//!
//! All numbers are big-endian, so that the order of keys is the order of values. Keys of links are ordered like the texts of their ids, but
//! all UUIDs are before all other ids. `s`, `e`, `u` and `d` are derived from the heads. With the head, the store applies a commit and
//! filters a list without parsing JSON.

use strum::VariantArray;

use uuid::Uuid;

use super::index::{HASH_LENGTH, Labels};
use super::{Position, StoreError, Witness, content, packing};
use crate::contract::{BadRecord, Record, Repaired, TraceContext};
use crate::link::{Link, LinkId, Policy, StateName, Timestamp};

/// The format version of the store. Any change of the table above needs a new version.
///
/// No released version wrote the formats 4 and 5, so a store of them is rebuilt from the stream, and not copied.
pub(super) const FORMAT: u16 = 6;

/// The format of 0.2, without the institution in `s`, without the index `e` and without the counts. A store of it is copied when it is
/// opened.
pub(super) const FORMAT_WITHOUT_COUNTS: u16 = 3;

/// The last format without checksums, without the content and with one database in the directory itself. Format 1 differs from it in the
/// keys of links: they had the sender's spelling of the id, so a UUID without dashes was a separate link. A store of both formats is copied
/// when it is opened, unless it has such a key; then it is rebuilt.
pub(super) const FORMAT_WITHOUT_CHECKSUMS: u16 = 2;

const HEAD_VERSION: u8 = 4;
const HEAD_START: usize = 13;
const HEAD_LENGTH_MAX: usize = HEAD_START + 8 + 3 * HASH_LENGTH;

/// The flag of a head with a deadline. The lower flags are those of the labels.
const HAS_DEADLINE: u8 = 8;

pub(super) const ID_OF_UUID: u8 = 0;
const ID_OF_TEXT: u8 = 1;

/// The head of formats 1 to 3 always has a deadline, and a reserved byte in place of the flags and the hashes.
const LEGACY_HEAD_VERSION: u8 = 1;

/// The deadline of a head of formats 1 to 3 without one.
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

    /// The link of the record, and the trace of the input that began its open episode.
    ///
    /// # Errors
    /// Those of [`StoredLink::link`].
    pub fn link_and_trace(&self) -> Result<(Link, Option<TraceContext>), StoreError> {
        let record = self.parse()?;
        Ok((record.link()?, record.trace()))
    }

    /// The link of the record; `None` if the record cannot be read. The messages of that link are dead-lettered when they arrive, which
    /// names it.
    ///
    /// # Errors
    /// [`StoreError::Record`] if a newer version of relink wrote the record.
    pub fn readable_link(&self) -> Result<Option<Link>, StoreError> {
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

/// An id in a key.
pub(super) fn id_key(id: &LinkId) -> Vec<u8> {
    match id.uuid() {
        Some(uuid) => [&[ID_OF_UUID], &uuid.as_bytes()[..]].concat(),
        None => [&[ID_OF_TEXT], id.as_str().as_bytes()].concat(),
    }
}

pub(super) fn link_key(id: &LinkId) -> Vec<u8> {
    [LINK_PREFIX, &id_key(id)].concat()
}

/// The key of a link of formats 1 to 3.
#[cfg(test)]
pub(super) fn legacy_link_key(id: &LinkId) -> Vec<u8> {
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

/// The key of the index by deadline. `id` is the id in a key.
pub(super) fn deadline_key(at: Timestamp, id: &[u8]) -> Vec<u8> {
    [DEADLINE_PREFIX, &ordered(at).to_be_bytes(), id].concat()
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

/// The id in a key.
pub(super) fn parse_link_id(bytes: &[u8]) -> Option<LinkId> {
    match bytes.split_first()? {
        (&ID_OF_UUID, uuid) => Some(LinkId::of_uuid(Uuid::from_bytes(uuid.try_into().ok()?))),
        // An id has one form only.
        (&ID_OF_TEXT, text) => {
            parse_legacy_link_id(text).filter(|id| id.uuid().is_none() && id.as_str().as_bytes() == text)
        }
        _ => None,
    }
}

/// The id in a key of formats 1 to 3.
pub(super) fn parse_legacy_link_id(bytes: &[u8]) -> Option<LinkId> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

const SIGN: u64 = 1 << 63;

/// Maps a time to an unsigned number, and keeps the order.
const fn ordered(at: Timestamp) -> u64 {
    (at.as_millis() as u64) ^ SIGN
}

pub(super) fn encode_link(head: &Head, labels: &Labels, record: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_LENGTH_MAX + record.len() / 2);
    value.push(HEAD_VERSION);
    value.push(state_byte(head.state));
    value.extend_from_slice(&head.partition.to_be_bytes());
    value.extend_from_slice(&head.version.to_be_bytes());
    value.push(labels.flags() | if head.deadline.is_some() { HAS_DEADLINE } else { 0 });
    value.extend(head.deadline.into_iter().flat_map(|at| at.as_millis().to_be_bytes()));
    labels.encode(&mut value);
    packing::pack(record, &mut value);
    value
}

/// The head and the labels of a link.
pub(super) fn decode_head(key: &[u8], value: &[u8]) -> Result<(Head, Labels), StoreError> {
    split_head(key, value).map(|(head, labels, _packed)| (head, labels))
}

/// The head and the labels of a link, and its packed record.
fn split_head<'a>(key: &[u8], value: &'a [u8]) -> Result<(Head, Labels, &'a [u8]), StoreError> {
    let short = || corrupt(key, "shorter than a head");
    let (start, rest) = value.split_first_chunk::<HEAD_START>().ok_or_else(short)?;
    let [start @ .., flags] = start;
    let (deadline, rest) = if flags & HAS_DEADLINE == 0 {
        (None, rest)
    } else {
        let (deadline, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        (Some(Timestamp::from_millis(i64::from_be_bytes(*deadline))), rest)
    };
    let (labels, rest) = Labels::decode(*flags, rest).ok_or_else(short)?;
    Ok((decode_head_start(key, start, HEAD_VERSION, deadline)?, labels, rest))
}

fn decode_head_start(
    key: &[u8],
    start: &[u8; HEAD_START - 1],
    expected_version: u8,
    deadline: Option<Timestamp>,
) -> Result<Head, StoreError> {
    let [version, state, l0, l1, v0, v1, v2, v3, v4, v5, v6, v7] = *start;
    if version != expected_version {
        return Err(corrupt(key, "a head of an unknown version"));
    }
    let state = parse_state_byte(state).ok_or_else(|| corrupt(key, "an unknown state"))?;
    let version = u64::from_be_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
    Ok(Head { state, partition: u16::from_be_bytes([l0, l1]), version, deadline })
}

pub(super) fn decode_link(key: &[u8], value: &[u8]) -> Result<(StoredLink, Labels), StoreError> {
    let (head, labels, packed) = split_head(key, value)?;
    let record = packing::unpack(packed).ok_or_else(|| corrupt(key, "its record cannot be unpacked"))?;
    Ok((StoredLink { head, record }, labels))
}

/// A link of formats 1 to 3.
pub(super) fn decode_legacy_link(key: &[u8], value: &[u8]) -> Result<StoredLink, StoreError> {
    let short = || corrupt(key, "shorter than a head");
    let (start, rest) = value.split_first_chunk().ok_or_else(short)?;
    let (deadline, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    // A reserved byte is in front of the record.
    let (_reserved, record) = rest.split_first().ok_or_else(short)?;
    let deadline = i64::from_be_bytes(*deadline);
    let deadline = (deadline != NO_DEADLINE).then(|| Timestamp::from_millis(deadline));
    Ok(StoredLink { head: decode_head_start(key, start, LEGACY_HEAD_VERSION, deadline)?, record: record.to_vec() })
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
    fn an_id_has_one_key_and_uuids_keep_their_order() {
        let ids = [
            "00000000-0000-4000-8000-000000000000",
            "16f68516-bcbc-4cf7-b815-c500d4204e28",
            "a6f68516-bcbc-4cf7-b815-c500d4204e28",
            "-",
            "0",
            "0123456789abcdef",
            "A",
            "link-1",
        ];
        let ids = ids.map(|id| id.parse::<LinkId>().unwrap());
        let keys: Vec<_> = ids.iter().map(id_key).collect();
        assert!(keys.is_sorted() && keys[0].len() == 17);
        assert!(ids.iter().zip(&keys).all(|(id, key)| parse_link_id(key).as_ref() == Some(id)));
        let uuid_as_text = [&[ID_OF_TEXT], ids[1].as_str().as_bytes()].concat();
        for not_a_key in [&b""[..], b"\0short", b"\x01", b"\x01 a", b"\x02a", &uuid_as_text] {
            assert_eq!(parse_link_id(not_a_key), None, "{}", not_a_key.escape_ascii());
        }
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
            .flat_map(|at| ["a", "b"].map(|link| deadline_key(Timestamp::from_millis(at), &id_key(&id(link)))))
            .collect();
        assert!(keys.is_sorted());
        let (at, link) = parse_deadline_key(&keys[1]).unwrap();
        assert_eq!((at, link), (Timestamp::from_millis(-1), id("b")));
        assert!(keys[3] < deadline_end(Timestamp::default()) && deadline_end(Timestamp::default()) <= keys[4]);
    }
}
