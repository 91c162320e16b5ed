//! The bytes of a record in a segment file, and the search for records in a damaged file.
//!
//! ```text
//!   0      4        8          16          20           24
//!   ├──────┼────────┼──────────┼───────────┼────────────┼──────────────┐
//!   │ RLJ1 │ length │  number  │ check of  │  check of  │     body     │   numbers are little endian
//!   │      │ (u32)  │  (u64)   │ the body  │ 0..20      │ length bytes │   a check is a CRC-32
//!   └──────┴────────┴──────────┴───────────┴────────────┴──────────────┘
//! ```
//!
//! Each check begins with the salt of the journal, which is random and part of the file's name. So a sender cannot write a body that
//! contains a valid record, which a search in a damaged file would find.
//!
//! A body is one line of JSON ([`Entry`] without its payload), and then the payload as it was received.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::contract::DeadReason;
use crate::link::Timestamp;

/// The first bytes of each record; they contain the version of this format.
const MARKER: [u8; 4] = *b"RLJ1";

/// The length of a record without its body, in bytes.
pub(super) const HEADER_BYTES: usize = 24;

/// The largest body, in bytes: an HTTP body of 1 MiB, and its headers. A larger length is damage.
pub(super) const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The random start of all checks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(pub(super) u32);

/// One message that the journal keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When relink received it.
    pub at: Timestamp,
    /// The subject of the input stream; of a dead letter, the subject or the path that the sender used.
    pub subject: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub payload: Bytes,
    /// `Some`: the message cannot be handled, and becomes a dead letter with this reason.
    pub dead: Option<Dead>,
}

/// Why a message becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// The reason, for programs.
    pub reason: DeadReason,
    /// The reason, for people.
    pub detail: String,
}

/// The line of JSON before the payload.
#[derive(Serialize, Deserialize)]
struct Line {
    at_ms: i64,
    subject: String,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dead: Option<Dead>,
}

impl Entry {
    /// The body of the entry's record.
    pub(super) fn encode(self) -> Vec<u8> {
        let Self { at, subject, headers, payload, dead } = self;
        let line = Line { at_ms: at.as_millis(), subject, headers, dead };
        let mut body = serde_json::to_vec(&line).expect("the line has string keys and no failing serializers");
        body.push(b'\n');
        body.extend_from_slice(&payload);
        body
    }

    /// Reads a body. `None` if it has another form, which a newer relink may have written.
    pub(super) fn decode(body: &Bytes) -> Option<Self> {
        let end = body.iter().position(|byte| *byte == b'\n')?;
        let Line { at_ms, subject, headers, dead } = serde_json::from_slice(&body[..end]).ok()?;
        Some(Self { at: Timestamp::from_millis(at_ms), subject, headers, payload: body.slice(end + 1..), dead })
    }
}

/// The check of a body. Callers compute it before the record has its number.
pub(super) fn check_of(salt: Salt, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.0.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Appends a record to `file`.
pub(super) fn write(file: &mut Vec<u8>, salt: Salt, number: u64, body: &[u8], check: u32) {
    let start = file.len();
    let length = u32::try_from(body.len()).expect("a body is at most BODY_BYTES_MAX long");
    file.extend_from_slice(&MARKER);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&number.to_le_bytes());
    file.extend_from_slice(&check.to_le_bytes());
    let header_check = check_of(salt, &file[start..start + 20]);
    file.extend_from_slice(&header_check.to_le_bytes());
    file.extend_from_slice(body);
}

/// A record at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) number: u64,
    /// The length of the whole record, in bytes.
    pub(super) length: usize,
}

/// What is at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A whole record.
    Record(Found),
    /// The bytes end before the record does.
    Incomplete,
    /// No record.
    Damaged,
}

/// Reads the start of `bytes`.
pub(super) fn read(bytes: &[u8], salt: Salt) -> Start {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        let is_start = bytes.iter().zip(MARKER).all(|(byte, expected)| *byte == expected);
        return if is_start { Start::Incomplete } else { Start::Damaged };
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..4] != MARKER || word(20) != check_of(salt, &header[..20]) {
        return Start::Damaged;
    }
    let length = word(4) as usize;
    if length > BODY_BYTES_MAX {
        return Start::Damaged;
    }
    let Some(body) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Start::Incomplete };
    if word(16) != check_of(salt, body) {
        return Start::Damaged;
    }
    let number = u64::from(word(8)) | u64::from(word(12)) << 32;
    Start::Record(Found { number, length: HEADER_BYTES + length })
}

/// Whether bytes without a whole record are the start of a write that a crash has interrupted. The file system may have written the
/// length of the file before the content: then the bytes end with zeros.
pub(super) fn is_torn(bytes: &[u8], salt: Salt) -> bool {
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    read(&bytes[..written], salt) == Start::Incomplete
}

/// The offset of the first whole record in `bytes` with a number above `after`; `None` if there is none.
pub(super) fn find(bytes: &[u8], salt: Salt, after: u64) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(MARKER.len()).position(|window| window == MARKER) {
        let at = from + at;
        if matches!(read(&bytes[at..], salt), Start::Record(found) if found.number > after) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: Salt = Salt(0x5a17);

    fn entry(payload: &[u8]) -> Entry {
        Entry {
            at: Timestamp::from_millis(1_785_000_000_123),
            subject: "belvo.webhook.link-1".to_owned(),
            headers: vec![("ce-id".to_owned(), "é\n1".to_owned())],
            payload: Bytes::copy_from_slice(payload),
            dead: None,
        }
    }

    fn record(number: u64, body: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        write(&mut file, SALT, number, body, check_of(SALT, body));
        file
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(payload in proptest::collection::vec(any::<u8>(), 0..2_000), is_dead: bool) {
            let dead = is_dead.then(|| Dead { reason: DeadReason::Malformed, detail: "not JSON\n".to_owned() });
            let written = Entry { dead, ..entry(&payload) };
            let body = Bytes::from(written.clone().encode());
            prop_assert_eq!(Entry::decode(&body), Some(written));
        }

        #[test]
        fn a_changed_record_is_never_read(number: u64, body in proptest::collection::vec(any::<u8>(), 0..200), at: usize, bit in 0..8_u8) {
            let mut file = record(number, &body);
            let at = at % file.len();
            file[at] ^= 1 << bit;
            prop_assert!(!matches!(read(&file, SALT), Start::Record(_)));
        }

        #[test]
        fn a_cut_record_is_incomplete(body in proptest::collection::vec(any::<u8>(), 0..200), cut: usize) {
            let file = record(7, &body);
            prop_assert_eq!(read(&file[..cut % file.len()], SALT), Start::Incomplete);
        }

        #[test]
        fn a_write_that_a_crash_has_interrupted_is_torn_and_a_damaged_record_is_not(
            body in proptest::collection::vec(1_u8.., 1..200), cut: usize, zeros in 0..300_usize, bit in 0..8_u8
        ) {
            let mut file = record(7, &body);
            let cut = cut % file.len();
            let mut torn = file[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            prop_assert!(is_torn(&torn, SALT));
            // One changed bit makes no zero at the end here.
            *file.last_mut().unwrap() = 0b11;
            file[cut] ^= 1 << bit;
            file.resize(file.len() + zeros, 0);
            prop_assert!(!is_torn(&file, SALT));
        }

        #[test]
        fn the_search_finds_the_next_record_and_no_older_one(garbage in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut file = garbage.clone();
            file.extend(record(4, b"old"));
            let expected = file.len();
            file.extend(record(6, b"new"));
            prop_assert_eq!(find(&file, SALT, 5), Some(expected));
            prop_assert_eq!(find(&file, SALT, 6), None);
        }
    }

    #[test]
    fn a_record_inside_a_body_is_not_found_because_a_sender_does_not_know_the_salt() {
        let mut forged = Vec::new();
        write(&mut forged, Salt(0), 9, b"forged", check_of(Salt(0), b"forged"));
        assert_eq!(find(&forged, SALT, 0), None);
    }
}
