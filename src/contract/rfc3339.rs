//! The time in every body: RFC 3339, in UTC, with milliseconds. The `Timestamp` of the core has no serde.
//!
//! This module writes one form. It reads every form that [`Timestamp`] reads, and numbers: seconds or milliseconds since 1970. A
//! time beyond the years 0 to 9999 becomes the nearest time within them, so every written time can be read again.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::link::Timestamp;

/// A point in time: RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub Timestamp);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Time;
        impl de::Visitor<'_> for Time {
            type Value = At;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time such as 2026-11-22T10:15:00Z")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<At, E> {
                text.parse().map(At).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, count: u64) -> Result<At, E> {
                self.visit_str(&count.to_string())
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<At, E> {
                self.visit_str(&count.to_string())
            }
            fn visit_f64<E: de::Error>(self, count: f64) -> Result<At, E> {
                self.visit_str(&count.to_string())
            }
        }
        deserializer.deserialize_any(Time)
    }
}

impl JsonSchema for At {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "At".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "A point in time: RFC 3339, UTC, milliseconds.",
        })
    }
}
