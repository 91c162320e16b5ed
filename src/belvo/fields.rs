//! Readers of single text fields, shared by the readers of bodies.

use serde_json::{Map, Value};

use crate::contract::limits::TEXT_BYTES_MAX;

/// A request id in one form. Webhooks write a UUID with dashes, API errors write 32 hexadecimal digits.
pub(super) fn normalise_request_id(id: &str) -> String {
    match uuid::Uuid::try_parse(id) {
        Ok(uuid) => uuid.simple().to_string(),
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
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty() && text.len() <= TEXT_BYTES_MAX).then_some(text)
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
