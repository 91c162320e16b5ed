//! Readers of single text fields, shared by the readers of bodies.

use std::borrow::Cow;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::contract::limits::TEXT_BYTES_MAX;

/// The fields of an object.
pub(super) trait Fields {
    /// The name and the value of each field.
    fn entries(&self) -> impl Iterator<Item = (&str, &Value)>;
}

impl Fields for Map<String, Value> {
    fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// A request id in one form. Webhooks write a UUID with dashes, API errors write 32 hexadecimal digits.
pub(super) fn normalise_request_id(id: &str) -> String {
    match Uuid::try_parse(id) {
        Ok(uuid) => uuid.simple().encode_lower(&mut Uuid::encode_buffer()).to_owned(),
        Err(_) => id.to_owned(),
    }
}

/// A text field, without surrounding blanks. `None` if it is missing, empty, too long or not a text. The digits of a
/// number are accepted.
pub(super) fn text(body: &Map<String, Value>, key: &str) -> Option<String> {
    text_of(body.get(key)?)
}

/// The text of a value, as [`text`] reads it.
pub(super) fn text_of(value: &Value) -> Option<String> {
    text_in(value).map(Cow::into_owned)
}

/// Like [`text_of`], without a copy of the text.
pub(super) fn text_in(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => short(text).map(Cow::Borrowed),
        // No number is longer than the limit.
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A text without surrounding blanks. `None` if it is empty or too long.
pub(super) fn short(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty() && text.len() <= TEXT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_has_one_form() {
        let plain = "4363b08b51eb43509c745df5ac92a7f6";
        for id in [plain, "4363b08b-51eb-4350-9c74-5df5ac92a7f6", "4363B08B-51EB-4350-9C74-5DF5AC92A7F6"] {
            assert_eq!(normalise_request_id(id), plain);
        }
        assert_eq!(normalise_request_id("something else"), "something else");
    }
}
