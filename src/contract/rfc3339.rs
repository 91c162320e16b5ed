//! Times in bodies from outside, for `#[serde(with = "rfc3339")]`. The `Timestamp` of the core has no serde.
//!
//! This module writes RFC 3339. It reads every form that [`Timestamp`] reads, and numbers: seconds or milliseconds
//! since 1970.

use std::fmt;

use serde::{Deserialize, Deserializer, Serializer, de};

use crate::link::Timestamp;

/// A time in one of the forms that are read.
struct Read(Timestamp);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Time;
        impl de::Visitor<'_> for Time {
            type Value = Read;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time such as 2026-11-22T10:15:00Z")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Read, E> {
                text.parse().map(Read).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Read, E> {
                self.visit_str(&count.to_string())
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Read, E> {
                self.visit_str(&count.to_string())
            }
            fn visit_f64<E: de::Error>(self, count: f64) -> Result<Read, E> {
                self.visit_str(&count.to_string())
            }
        }
        from.deserialize_any(Time)
    }
}

pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    Read::deserialize(from).map(|Read(at)| at)
}

/// For a time that may be absent.
pub(super) mod option {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Read;
    use crate::link::Timestamp;

    pub(in crate::contract) fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => to.collect_str(at),
            None => to.serialize_none(),
        }
    }

    pub(in crate::contract) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<Read>::deserialize(from)?.map(|Read(at)| at))
    }
}
