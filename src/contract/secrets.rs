//! Takes out of a message what must not lie in a stream: Belvo's open MFA sessions, and keys that came along.
//!
//! A 428 names the session that waits for the user's token, and whoever has it is logged in at the user's bank until it expires.
//! relink resumes none, so it keeps none. Clients hand errors on in wrappers, and in texts that hold JSON; so every depth is looked at.
//! How long a session lives (`expiry`) matters to the machine and stays.
//!
//! Never: change anything else. A payload without a secret keeps its bytes as they came.

use serde_json::{Map, Value};

/// What stands where a secret was.
const REMOVED: &str = "removed";

/// How many texts within texts are read as JSON. A client that writes a body into a text that is in a text has two; each more doubles
/// the quotes. Deeper down the words are looked for as in any text.
const LAYERS_MAX: usize = 4;

/// The longest run of quotes, colons and backslashes between a name and its value in a text.
const GAP_MAX: usize = 4096;

/// The fewest characters of something that is taken for a session in a text that is no JSON. Belvo's have 32.
const SESSION_LENGTH_MIN: usize = 8;

/// The payload without its secrets; `None` if there are none in it, or none that can be found.
pub fn without_secrets(payload: &[u8]) -> Option<Vec<u8>> {
    if let Ok(mut value) = serde_json::from_slice::<Value>(payload) {
        return clean(&mut value, 0).then(|| value.to_string().into_bytes());
    }
    // Where letters are damaged, a letter less is better than a session.
    in_text(&String::from_utf8_lossy(payload), 0).map(String::into_bytes)
}

/// The same for JSON that has been read.
pub fn without_session(mut body: Value) -> Value {
    clean(&mut body, 0);
    body
}

/// Whether `name` is of a field that holds an MFA session.
pub fn is_session(name: &str) -> bool {
    let name = squeezed(name);
    let name = ["uuid", "id", "token", "key", "s"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.ends_with("session")
}

/// Whether it is of one that holds what a session's token is made with.
fn is_token_data(name: &str) -> bool {
    squeezed(name).ends_with("tokengenerationdata")
}

/// Whether it is of one that holds a key: error objects of HTTP clients carry the request, with its headers and its body.
fn is_key(name: &str) -> bool {
    matches!(squeezed(name).as_str(), "authorization" | "password" | "password2" | "secretpassword")
}

/// A name as all its spellings have it: `tokenGenerationData`, `token_generation_data` and `Token-Generation-Data` are one.
pub fn squeezed(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Cleans JSON in place, and says whether there was anything.
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
        // A pair, as form data and headers are often written.
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
            // A name that is there twice has the last value here and both in the bytes, so that a null is a find too.
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

/// The first JSON in a text, with what stands before and behind it: all of the text, or what begins at its first brace, as in
/// `RequestError: [{…}] at index.js`.
pub fn json_in(text: &str) -> Option<(&str, Value, &str)> {
    let parse = |start: usize| {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter();
        let value: Value = values.next()?.ok()?;
        Some((&text[..start], value, &text[start + values.byte_offset()..]))
    };
    let first = text.find(|c: char| !(c.is_whitespace() || c == '\u{feff}'))?;
    if text[first..].starts_with('"') {
        // A text in a text; else the quotes are those of a sentence.
        let whole = parse(first).filter(|(.., behind)| behind.trim().is_empty());
        if whole.is_some() {
            return whole;
        }
    }
    let mut braces: Vec<usize> = ['[', '{'].into_iter().filter_map(|brace| text.find(brace)).collect();
    braces.sort_unstable();
    braces.into_iter().find_map(parse)
}

/// A text without its secrets; `None` if it has none.
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

/// Whether the JSON behind these words may be a secret.
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

/// A text that is no JSON, or not all of it: what follows the name of a secret is cut out.
fn in_words(text: &str) -> Option<String> {
    let mut cleaned = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some((start, end)) = next_word(rest) {
        let (word, behind) = (&rest[start..end], &rest[end..]);
        if is_token_data(word) {
            // Where it ends cannot be told.
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

/// What is to be cut out of the text behind the name of a session.
enum Cut {
    /// From here to here.
    Value(usize, usize),
    /// All from here on: where it ends cannot be told.
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
        // In quotes it is a value, whatever it looks like; in a sentence it must look like a session.
        let is_quoted = between.trim_end().ends_with(['"', '\'']) && !value.is_empty();
        let looks_like_one = value.len() >= SESSION_LENGTH_MIN && value.contains(|c: char| c.is_ascii_digit());
        if is_quoted || looks_like_one {
            return Some(Cut::Value(gap, end));
        }
    }
    // Escaped, percent-encoded or in a form of its own: a session of Belvo's is 32 hexadecimal digits.
    hex_run(behind).map(|(start, end)| Cut::Value(start, end))
}

/// The first run of hexadecimal digits near the beginning of a text that is as long as an id of Belvo's.
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

/// Where the next word starts and ends: what a name may be made of.
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

    /// What Belvo answers with 428.
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
    fn no_wrapper_hides_a_session() {
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
    fn a_text_that_is_no_json_hides_none() {
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
    fn every_spelling_of_the_names() {
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
    fn what_has_no_secret_keeps_its_bytes() {
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
