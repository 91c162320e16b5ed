//! Removes secrets from messages before they are stored: the ids of Belvo's open MFA sessions, passwords and
//! `Authorization` headers.
//!
//! An answer with status 428 contains the id of the MFA session that waits for the user's token. Until the session
//! expires, its id gives access to the user's account. relink never resumes a session, so it does not store the id; it
//! keeps the time at which the session expires. HTTP clients wrap errors in other objects, and in texts that contain
//! JSON, so secrets are searched at every depth.
//!
//! Nothing else is changed: a payload without a secret keeps its bytes.

use serde_json::{Map, Value};

/// The text that replaces a secret.
const REMOVED: &str = "removed";

/// How many levels of texts within texts are read as JSON. Clients produce up to two; each level doubles the escape
/// characters. Below that, the names of secrets are searched as in any other text.
const LAYERS_MAX: usize = 4;

/// The most quotes, colons and backslashes between a name and its value in a text.
const GAP_MAX: usize = 4096;

/// The shortest value that is treated as a session id in a text that is not JSON. Belvo's ids have 32 characters.
const SESSION_LENGTH_MIN: usize = 8;

/// The payload without its secrets; `None` if no secret is found, so that the payload can be used unchanged.
pub fn without_secrets(payload: &[u8]) -> Option<Vec<u8>> {
    if let Ok(mut value) = serde_json::from_slice::<Value>(payload) {
        return clean(&mut value, 0).then(|| value.to_string().into_bytes());
    }
    // In a text with damaged characters, some characters are lost; that is better than a stored session.
    in_text(&String::from_utf8_lossy(payload), 0).map(String::into_bytes)
}

/// The JSON value without its secrets.
pub fn without_session(mut body: Value) -> Value {
    clean(&mut body, 0);
    body
}

/// Whether a field of this name contains an MFA session.
pub fn is_session(name: &str) -> bool {
    let name = squeezed(name);
    let name = ["uuid", "id", "token", "key", "s"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.ends_with("session")
}

/// Whether a field of this name contains the data from which the user's token is made.
fn is_token_data(name: &str) -> bool {
    squeezed(name).ends_with("tokengenerationdata")
}

/// Whether a field of this name contains a key or a password. The error objects of HTTP clients contain the request
/// with its headers and its body.
fn is_key(name: &str) -> bool {
    is_one_of(name, &["authorization", "password", "password2", "secretpassword"])
}

/// A name without separators and in lower case, so that `tokenGenerationData`, `token_generation_data` and
/// `Token-Generation-Data` are equal.
pub fn squeezed(name: &str) -> String {
    // Most names are ASCII, and every field of every message is looked at several times.
    if name.is_ascii() {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        return letters.map(|letter| letter.to_ascii_lowercase()).collect();
    }
    letters(name).collect()
}

/// Whether [`squeezed`] would make `wanted` of the name.
pub fn is_named(name: &str, wanted: &str) -> bool {
    if name.is_ascii() {
        let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
        return letters.map(|letter| letter.to_ascii_lowercase()).eq(wanted.bytes());
    }
    letters(name).eq(wanted.chars())
}

/// Whether [`is_named`] is true for one of `wanted`.
pub fn is_one_of(name: &str, wanted: &[&str]) -> bool {
    wanted.iter().any(|wanted| is_named(name, wanted))
}

fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase)
}

/// Removes the secrets from a JSON value in place. Returns whether there were any.
fn clean(value: &mut Value, layer: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => match in_text(text, layer) {
            Some(cleaned) => {
                *text = cleaned;
                true
            }
            None => false,
        },
        // A pair of name and value, as clients write form data and headers.
        Value::Array(items) if matches!(&items[..], [Value::String(name), value] if is_session(name) && !value.is_null()) =>
        {
            items[1] = REMOVED.into();
            true
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| clean(item, layer) | found),
        Value::Object(fields) => clean_fields(fields, layer),
    }
}

fn clean_fields(fields: &mut Map<String, Value>, layer: usize) -> bool {
    let before = fields.len();
    fields.retain(|name, _| !is_token_data(name));
    let mut found = fields.len() < before;
    // `{"name": "session", "value": …}`
    let names_session = ["name", "key", "field"].iter().any(|key| {
        let name = fields.get(*key).and_then(Value::as_str);
        name.is_some_and(|name| is_session(name) || is_key(name))
    });
    if let Some(value) = fields.get_mut("value").filter(|value| names_session && !value.is_null()) {
        *value = REMOVED.into();
        found = true;
    }
    for (name, value) in fields.iter_mut() {
        if is_session(name) || is_key(name) {
            // If a name occurs twice, serde_json keeps only the last value, but the bytes contain both. So a null
            // counts as found too.
            found = true;
            if !value.is_null() {
                *value = REMOVED.into();
            }
        } else {
            found |= clean(value, layer);
        }
    }
    found
}

/// The first JSON value in a text, with the text before it and the text after it, as in `RequestError: [{…}] at
/// index.js`.
pub fn json_in(text: &str) -> Option<(&str, Value, &str)> {
    let parse = |start: usize| {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter();
        let value: Value = values.next()?.ok()?;
        Some((&text[..start], value, &text[start + values.byte_offset()..]))
    };
    let first = text.find(|c: char| !(c.is_whitespace() || c == '\u{feff}'))?;
    if text[first..].starts_with('"') {
        // A JSON text that is the whole text. Otherwise the quotes are part of a sentence.
        let whole = parse(first).filter(|(.., behind)| behind.trim().is_empty());
        if whole.is_some() {
            return whole;
        }
    }
    let mut braces: Vec<usize> = ['[', '{'].into_iter().filter_map(|brace| text.find(brace)).collect();
    braces.sort_unstable();
    braces.into_iter().find_map(parse)
}

/// A text without its secrets; `None` if no secret is found.
fn in_text(text: &str, layer: usize) -> Option<String> {
    let found = if layer < LAYERS_MAX { json_in(text) } else { None };
    let Some((before, mut value, behind)) = found.filter(|(before, ..)| !names_a_secret(before)) else {
        return in_words(text);
    };
    let inside = &text[before.len()..text.len() - behind.len()];
    let cleaned =
        [in_words(before), clean(&mut value, layer + 1).then(|| value.to_string()), in_text(behind, layer + 1)];
    if cleaned.iter().all(Option::is_none) {
        return None;
    }
    let parts = cleaned.into_iter().zip([before, inside, behind]);
    Some(parts.map(|(cleaned, text)| cleaned.unwrap_or_else(|| text.to_owned())).collect())
}

/// Whether the JSON after these words may be a secret, because the words end with its name.
fn names_a_secret(mut words: &str) -> bool {
    let mut last = "";
    while let Some((start, end)) = next_word(words) {
        last = &words[start..end];
        if is_token_data(last) {
            return true;
        }
        words = &words[end..];
    }
    is_session(last)
}

/// Removes the value after each name of a secret from a text that is not JSON.
fn in_words(text: &str) -> Option<String> {
    let mut cleaned = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some((start, end)) = next_word(rest) {
        let (word, behind) = (&rest[start..end], &rest[end..]);
        if is_token_data(word) {
            // The end of the value is not known, so the rest of the text is removed.
            return Some(cleaned + &rest[..start] + REMOVED);
        }
        cleaned.push_str(&rest[..end]);
        rest = behind;
        if !is_session(word) {
            continue;
        }
        match cut_behind(behind) {
            Some(Cut::ToTheEnd(start)) => return Some(cleaned + &behind[..start] + REMOVED),
            Some(Cut::Value(start, end)) => {
                found = true;
                cleaned.push_str(&behind[..start]);
                cleaned.push_str(REMOVED);
                rest = &behind[end..];
            }
            None => {}
        }
    }
    found.then(|| cleaned + rest)
}

/// The part of the text after the name of a session that has to be removed.
enum Cut {
    /// The value between these positions.
    Value(usize, usize),
    /// Everything from this position on, because the end of the value is not known.
    ToTheEnd(usize),
}

fn cut_behind(behind: &str) -> Option<Cut> {
    let gap = behind.find(|c: char| !(c.is_whitespace() || "\"'\\:=>{[".contains(c))).unwrap_or(behind.len());
    let between = &behind[..gap];
    if gap <= GAP_MAX && between.contains([':', '=']) {
        if between.contains(['{', '[']) {
            return Some(Cut::ToTheEnd(gap));
        }
        let is_end = |c: char| c.is_whitespace() || "\"'\\,;&<>)}]".contains(c);
        let end = behind[gap..].find(is_end).map_or(behind.len(), |length| gap + length);
        let value = &behind[gap..end];
        if matches!(value, "null" | "None" | REMOVED) {
            return None;
        }
        // A word in quotes is always a value. A word in a sentence is a value only if it looks like a session id.
        let is_quoted = between.trim_end().ends_with(['"', '\'']) && !value.is_empty();
        let looks_like_one = value.len() >= SESSION_LENGTH_MIN && value.contains(|c: char| c.is_ascii_digit());
        if is_quoted || looks_like_one {
            return Some(Cut::Value(gap, end));
        }
    }
    // The value may be escaped, percent-encoded or in another form: look for the 32 hexadecimal digits of a session id.
    hex_run(behind).map(|(start, end)| Cut::Value(start, end))
}

/// The first run of hexadecimal digits near the beginning of a text that is long enough for an id of Belvo.
fn hex_run(text: &str) -> Option<(usize, usize)> {
    const NEAR: usize = 96;
    const DIGITS_MIN: usize = 24;
    let mut start = None;
    for (at, letter) in text.char_indices().chain([(text.len(), ' ')]) {
        match (start, letter.is_ascii_hexdigit()) {
            (None, true) if at > NEAR => return None,
            (None, true) => start = Some(at),
            (Some(from), false) if at - from >= DIGITS_MIN => return Some((from, at)),
            (_, false) => start = None,
            (Some(_), true) => {}
        }
    }
    None
}

/// The start and the end of the next word, made of the characters that a name can have.
fn next_word(text: &str) -> Option<(usize, usize)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let start = text.find(is_part)?;
    let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |length| start + length);
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SESSION: &str = "2675b703b9d4451f8d4861a3eee54449";
    const TOKEN_DATA: &str = "51248120";

    /// The body of Belvo's answer with status 428.
    fn belvos() -> Value {
        json!([{"code": "token_required", "message": "A MFA token is required by the institution to login",
            "request_id": "8c7b283c6efa449c9c028a16b5c249fa", "session": SESSION, "expiry": 9600,
            "link": "30cb4806-6e00-48a4-91c9-ca55968576c8",
            "token_generation_data": {"instructions": "x", "type": "numeric", "value": TOKEN_DATA}}])
    }

    fn cleaned(payload: &str) -> String {
        String::from_utf8(without_secrets(payload.as_bytes()).expect(payload)).unwrap()
    }

    fn assert_clean(payload: &str) {
        let cleaned = cleaned(payload);
        assert!(!cleaned.contains(&SESSION[..8]) && !cleaned.contains(TOKEN_DATA), "{payload}\n{cleaned}");
        assert!(cleaned.contains("9600") && cleaned.contains("token_required"), "{cleaned}");
        assert_eq!(self::cleaned(&cleaned), cleaned, "cleaning it again changes nothing");
    }

    #[test]
    fn a_session_is_removed_from_every_wrapper() {
        let body = belvos();
        let as_text = Value::from(body.to_string());
        let twice = Value::from(as_text.to_string());
        for body in [body, as_text, twice] {
            for wrapped in [
                body.clone(),
                json!([[body]]),
                json!({"http_status": 428, "body": body}),
                json!({"statusCode": 428, "detail": body}),
                json!({"errors": body}),
                json!({"error": {"response": {"status": 428, "data": body}}, "config": {"headers": {"Authorization": "x"}}}),
                json!({"a": {"b": [{"c": {"d": [[[{"e": body}]]]}}]}}),
            ] {
                assert_clean(&wrapped.to_string());
            }
        }
    }

    #[test]
    fn a_session_is_removed_from_texts_that_are_not_json() {
        let body = belvos();
        let python = body.to_string().replace('"', "'");
        let cut_off = &body.to_string()[..body.to_string().len() - 3];
        for text in [
            format!("RequestError: 428 {body}"),
            python,
            cut_off.to_owned(),
            json!({"body": format!("428: {body}")}).to_string(),
            json!({"body": json!({"x": format!("428: {body}")}).to_string()}).to_string(),
        ] {
            let cleaned = cleaned(&text);
            assert!(!cleaned.contains(&SESSION[..8]) && !cleaned.contains(TOKEN_DATA), "{text}\n{cleaned}");
        }
        assert_eq!(cleaned(&format!("PATCH ?session={SESSION}&link=x")), "PATCH ?session=removed&link=x");
        for text in [
            json!({"form": [["session", SESSION]]}).to_string(),
            json!({"form": [{"name": "session", "value": SESSION}]}).to_string(),
            "[{'code': 'token_required', 'session': 'anything at all', 'link': None}]".to_owned(),
            "[ { code: 'token_required', session: 'secret' } ]".to_owned(),
            "[{\"code\":\"token_required\",\"session\":\"cutoff\",\"li".to_owned(),
            format!("&quot;session&quot;: &quot;{SESSION}&quot;"),
            format!("%22session%22%3A%20%22{SESSION}%22"),
            format!("<session>{SESSION}</session>"),
            format!("[session] => {SESSION}"),
            format!("s:7:\"session\";s:32:\"{SESSION}\";"),
            format!("('session', '{SESSION}')"),
            format!("the MFA session {SESSION} is open"),
        ] {
            let cleaned = cleaned(&text);
            let secrets = [SESSION, "anything", "'secret'", "cutoff"];
            assert!(!secrets.iter().any(|secret| cleaned.contains(secret)), "{text}\n{cleaned}");
        }
        assert_eq!(cleaned(&format!("MFASession = {SESSION};")), "MFASession = removed;");
        assert_eq!(cleaned(&format!("session = {{\"id\": \"{SESSION}\"}}")), "session = {\"removed");
        assert_eq!(
            cleaned(&format!("[400] a: {{\"session\": \"{SESSION}\"}}, [1]")),
            "[400] a: {\"session\":\"removed\"}, [1]"
        );
    }

    #[test]
    fn every_spelling_of_a_secret_field_is_recognised() {
        for name in
            ["session", "Session", "SESSION", "session_id", "sessionId", "mfa_session", "mfaSession", "session-token"]
        {
            assert_eq!(cleaned(&json!({name: SESSION}).to_string()), json!({name: "removed"}).to_string());
            assert_eq!(cleaned(&json!({name: {"id": SESSION}}).to_string()), json!({name: "removed"}).to_string());
        }
        for name in ["token_generation_data", "tokenGenerationData", "Token-Generation-Data"] {
            assert_eq!(cleaned(&json!({name: {"value": 1}, "x": 1}).to_string()), r#"{"x":1}"#);
        }
    }

    #[test]
    fn a_payload_without_a_secret_keeps_its_bytes() {
        for payload in [
            r#"{ "code":"session_expired", "message":"The session has expired: log in again" }"#,
            r#"[{"code": "too_many_sessions", "expiry": 1e3, "session_expires_in": 9600}]"#,
            r#""a text: {\"code\": \"x\"}""#,
            "<html>session</html>",
            "",
            "{",
            "\u{0}{broken",
        ] {
            assert_eq!(without_secrets(payload.as_bytes()), None, "{payload}");
        }
        assert_eq!(without_secrets(&[b'{', 0xff, 0]), None);
    }

    proptest! {
        #[test]
        fn a_session_is_found_under_any_nesting(turns in prop::collection::vec(0..4_u8, 0..12)) {
            let mut value = json!({"session": SESSION, "expiry": 1});
            for turn in turns {
                value = match turn {
                    0 => json!([value]),
                    1 => json!({"detail": value}),
                    2 => json!({"session_expired": [value, 1]}),
                    _ if value.to_string().len() < 20_000 => Value::from(value.to_string()),
                    _ => value,
                };
            }
            let cleaned = cleaned(&value.to_string());
            prop_assert!(!cleaned.contains(SESSION), "{}", cleaned);
        }

        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..256), text in "(session|\\PC|[\"':={}\\[\\]]){0,40}") {
            let _any = without_secrets(&payload);
            let _any = without_secrets(text.as_bytes());
        }
    }
}
