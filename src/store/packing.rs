//! The packed form of a record in the store: the JSON of the stream, compressed.
//!
//! ```text
//! 0:u8 │ the JSON
//! 1:u8 │ length of the JSON:u32 │ LZ4 block of the JSON, with the dictionary `records.dictionary` in front of it
//! ```
//!
//! Most of a record are the names of its fields and a few words, so a dictionary with them saves two thirds of a record, and takes a few
//! microseconds. A change of one byte of the dictionary makes every stored record unreadable: another dictionary needs another number in
//! the first byte, and a new version of the store's format. A test compares its checksum.

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// Text as in records, the most frequent last.
const DICTIONARY: &[u8] = include_bytes!("records.dictionary");

/// Appends the packed form of a record.
pub(super) fn pack(record: &[u8], packed: &mut Vec<u8>) {
    let length = u32::try_from(record.len()).ok();
    let compressed = length.map(|length| (length, compress_with_dict(record, DICTIONARY)));
    match compressed.filter(|(_, compressed)| compressed.len() + 4 < record.len()) {
        Some((length, compressed)) => {
            packed.push(LZ4);
            packed.extend_from_slice(&length.to_be_bytes());
            packed.extend_from_slice(&compressed);
        }
        None => {
            packed.push(PLAIN);
            packed.extend_from_slice(record);
        }
    }
}

/// The record of a packed form; `None` if it is none.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    match packed.split_first()? {
        (&PLAIN, record) => Some(record.to_vec()),
        (&LZ4, rest) => {
            let (length, compressed) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            // LZ4 makes at most 255 bytes of one, so a damaged length reserves no more memory than that.
            let is_possible = length / 255 <= compressed.len();
            let record = is_possible.then(|| decompress_with_dict(compressed, length, DICTIONARY).ok()).flatten()?;
            (record.len() == length).then_some(record)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_this_format() {
        assert_eq!((DICTIONARY.len(), crc32fast::hash(DICTIONARY)), (4_251, 0x83a89aff));
    }

    #[test]
    fn a_record_takes_less_than_half_of_its_json() {
        let examples = ["valid", "invalid", "token_required", "unconfirmed", "updating", "removed"].map(|state| {
            let path = format!("{}/schemas/examples/link.state.{state}.json", env!("CARGO_MANIFEST_DIR"));
            let example: crate::contract::Record =
                serde_json::from_slice(&std::fs::read(path).unwrap()).expect("an example is a record");
            serde_json::to_vec(&example).unwrap()
        });
        for record in examples {
            let mut packed = Vec::new();
            pack(&record, &mut packed);
            assert!(packed.len() * 2 < record.len(), "{} of {}", packed.len(), record.len());
            assert_eq!(unpack(&packed), Some(record));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_packed_and_unpacked(
            record in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(b'a'..b'd', 0..5_000),
                "[\"a-z:,{}0-9-]{0,400}".prop_map(String::into_bytes),
            ],
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut packed = rest.clone();
            pack(&record, &mut packed);
            prop_assert!(packed.starts_with(&rest) && packed.len() <= rest.len() + record.len() + 1);
            prop_assert_eq!(unpack(&packed[rest.len()..]), Some(record));
        }

        #[test]
        fn damaged_bytes_are_no_record_and_no_panic(mut packed in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&packed);
            if let Some(first) = packed.first_mut() {
                *first = LZ4;
            }
            let _ = unpack(&packed);
        }
    }
}
