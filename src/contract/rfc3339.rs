//! Times in messages: RFC 3339 text, for `#[serde(with = "rfc3339")]`. The core's `Timestamp` knows nothing of serde.

use serde::{Deserialize, Deserializer, Serializer, de};

use crate::link::Timestamp;

pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

/// The same for a time that may be absent.
pub(super) mod option {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::link::Timestamp;

    pub(in crate::contract) fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => to.collect_str(at),
            None => to.serialize_none(),
        }
    }

    pub(in crate::contract) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}
