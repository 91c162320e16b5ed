//! The dedup keys of a link in its record: one text, because a list of objects was most of a record and of the time to write it.
//!
//! ```text
//!   0           8            16
//!   ├───────────┼────────────┼── the next fact, up to RECENT_KEYS_MAX
//!   │ key (u64) │ time (i64, │    numbers are little endian; the whole is base64 without padding
//!   │           │  in ms)    │
//!   └───────────┴────────────┴──
//! ```
//!
//! 0.2 and earlier wrote a list: `[{"key": "036b4110f518520f", "at": "2026-11-02T15:00:00.000Z"}]`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::rfc3339::At;
use crate::link::{DedupKey, RECENT_KEYS_MAX, RecentFact, Timestamp};

/// The length of a fact, in bytes.
const FACT_BYTES: usize = 16;

/// The dedup keys of recently accepted messages, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentFacts(pub Vec<RecentFact>);

/// A fact as 0.2 wrote it.
#[derive(Deserialize)]
struct Listed {
    key: String,
    at: At,
}

impl RecentFacts {
    /// Whether there is no fact.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for RecentFacts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.len() * FACT_BYTES);
        for RecentFact { key, at } in &self.0 {
            bytes.extend_from_slice(&key.0.to_le_bytes());
            bytes.extend_from_slice(&at.as_millis().to_le_bytes());
        }
        serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for RecentFacts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Facts;
        impl<'de> Visitor<'de> for Facts {
            type Value = Vec<RecentFact>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("dedup keys in base64, or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let bytes = STANDARD_NO_PAD.decode(text).map_err(E::custom)?;
                let (facts, []) = bytes.as_chunks::<FACT_BYTES>() else {
                    return Err(E::custom("the last dedup key is incomplete"));
                };
                let fact = |fact: &[u8; FACT_BYTES]| {
                    let [k0, k1, k2, k3, k4, k5, k6, k7, t0, t1, t2, t3, t4, t5, t6, t7] = *fact;
                    let key = DedupKey(u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]));
                    let at = Timestamp::from_millis(i64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]));
                    RecentFact { key, at }
                };
                Ok(facts.iter().map(fact).collect())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let list: Vec<Listed> = Deserialize::deserialize(SeqAccessDeserializer::new(list))?;
                let fact = |Listed { key, at }| {
                    let key = u64::from_str_radix(&key, 16).map_err(A::Error::custom)?;
                    Ok(RecentFact { key: DedupKey(key), at: at.0 })
                };
                list.into_iter().map(fact).collect()
            }
        }
        let facts = deserializer.deserialize_any(Facts)?;
        if facts.len() > RECENT_KEYS_MAX {
            return Err(D::Error::custom("too many dedup keys"));
        }
        Ok(Self(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_an_earlier_version_is_read_and_other_texts_are_refused() {
        let facts = RecentFacts(vec![
            RecentFact { key: DedupKey(0x036b_4110_f518_520f), at: "2026-11-02T15:00:00.000Z".parse().unwrap() },
            RecentFact { key: DedupKey(u64::MAX), at: "2026-11-02T15:00:01.000Z".parse().unwrap() },
        ]);
        let listed = r#"[{"key": "036b4110f518520f", "at": "2026-11-02T15:00:00.000Z"},
                         {"key": "ffffffffffffffff", "at": "2026-11-02T15:00:01.000Z"}]"#;
        assert_eq!(serde_json::from_str::<RecentFacts>(listed).unwrap(), facts);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<RecentFacts>(&text).unwrap(), facts);
        let many = RecentFacts(vec![facts.0[0]; RECENT_KEYS_MAX + 1]);
        for bad in [r#""AAAA""#, r#""?""#, "7", r#"[{"key": "x"}]"#, &serde_json::to_string(&many).unwrap()] {
            assert!(serde_json::from_str::<RecentFacts>(bad).is_err(), "{bad}");
        }
    }
}
