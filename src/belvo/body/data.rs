//! The `data` of a webhook: an object in almost every one.
//!
//! Its fields are a list here, and not a map of serde_json, because a usual webhook lends the list the names of its
//! fields. The map and the copies of the names took a fifth of the time of a webhook.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use crate::belvo::fields::Fields;
use crate::belvo::payload::is_exact;

/// The `data` of a webhook.
#[derive(Clone)]
pub enum Data<'a> {
    /// The fields of an object, each name once, in the order of the names.
    Fields(Vec<(Cow<'a, str>, Cow<'a, Value>)>),
    /// Anything but an object; null if the message has no `data`.
    Other(Cow<'a, Value>),
}

impl<'a> Data<'a> {
    /// This value as `data`.
    pub fn of(value: Cow<'a, Value>) -> Self {
        let mut fields: Vec<(Cow<'a, str>, Cow<'a, Value>)> = match value {
            Cow::Borrowed(Value::Object(map)) => {
                map.iter().map(|(name, value)| (name.into(), Cow::Borrowed(value))).collect()
            }
            Cow::Owned(Value::Object(map)) => {
                map.into_iter().map(|(name, value)| (name.into(), Cow::Owned(value))).collect()
            }
            other => return Self::Other(other),
        };
        // serde_json has the fields in this order, unless a crate switches on its feature `preserve_order`.
        fields.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Self::Fields(fields)
    }

    /// A field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries().find(|entry| entry.0 == name).map(|(_, value)| value)
    }
}

/// No fields if it is no object.
impl Fields for Data<'_> {
    fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        let fields = match self {
            Self::Fields(fields) => fields.as_slice(),
            Self::Other(_) => &[],
        };
        fields.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl Default for Data<'_> {
    fn default() -> Self {
        Self::Other(Cow::Owned(Value::Null))
    }
}

/// Reads the `data` of a usual webhook: null, or an object whose names are without escapes and occur once, and whose
/// numbers serde_json keeps exactly. Anything else is an error here.
impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Usual;

        impl<'de> Visitor<'de> for Usual {
            type Value = Data<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null or an object")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Data::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                // Most have one to five fields.
                let mut fields = Vec::with_capacity(6);
                while let Some((name, value)) = map.next_entry::<&str, Value>()? {
                    if !is_exact(&value) {
                        return Err(A::Error::custom("a number that is not exact"));
                    }
                    fields.push((Cow::Borrowed(name), Cow::Owned(value)));
                }
                fields.sort_unstable_by(|one, other| one.0.cmp(&other.0));
                if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                    return Err(A::Error::custom("a field twice"));
                }
                Ok(Data::Fields(fields))
            }
        }

        deserializer.deserialize_any(Usual)
    }
}
