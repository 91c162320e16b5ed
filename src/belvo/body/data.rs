//! The `data` of a webhook: an object in almost every one.
//!
//! Its fields are a list here, and not a map of serde_json, because a usual webhook lends the list the names of its
//! fields. The map and the copies of the names took a fifth of the time of a webhook.

use std::borrow::Cow;

use serde_json::Value;

use crate::belvo::fields::Fields;

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
