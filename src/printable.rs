//! Text from outside, made safe for terminals and logs.
//!
//! Ids, names and messages come from Belvo, from callers and from other programs. A terminal interprets some
//! characters: they move the cursor, change colours, reorder or hide text, so a sender could forge lines of relink's
//! output. [`printable`] replaces each of them by an escape such as `\u{1b}`, and leaves letters of every script as
//! they are. All output for people passes through this file. JSON output has JSON's
//! escapes and stays exact ([`exact_json`]).
//!
//! Escaped are: control characters (C0, DEL, C1), line and paragraph separators, direction marks and other format
//! characters, blanks other than the space, variation selectors and fillers, private and unassigned characters, and
//! more than `MARKS_MAX` combining marks in a row.

use std::fmt::{Display, Write};

use serde_json::Value;

/// The longest text in short outputs, in characters.
pub const LENGTH_MAX: usize = 300;

/// The number of combining marks that one letter may have.
const MARKS_MAX: usize = 3;

/// The text on one line, of at most [`LENGTH_MAX`] characters.
pub fn printable(text: &str) -> String {
    shortened(text, LENGTH_MAX)
}

/// The text on one line, of at most `length_max` characters, followed by the number of omitted ones.
pub fn shortened(text: &str, length_max: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(length_max) else { return escaped(text, &[], &escape) };
    let mut shown = escaped(&text[..end], &[], &escape);
    let _infallible = write!(shown, "… ({} more)", text[end..].chars().count());
    shown
}

/// A number with its noun: "1 link", "2 links".
pub fn counted<N: Display + From<u8> + PartialEq>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The text without a limit on its length; line breaks and tabs are kept.
pub fn printable_lines(text: &str) -> String {
    escaped(text, &['\n', '\t'], &escape)
}

/// A JSON value with [`printable`] applied to every text and key.
pub fn printable_json(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(text)),
        Value::Array(items) => Value::Array(items.iter().map(printable_json).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (printable(key), printable_json(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// The JSON text of a value, with line breaks and indents. The value is exact: JSON's own escapes leave some characters that a terminal
/// interprets (C1, direction marks), so these become `\\uXXXX` too, which every reader of JSON decodes.
pub fn exact_json(value: &Value) -> String {
    // The pretty form of a value that is in memory cannot fail: its keys are texts.
    safe_json(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// The same on one line.
pub fn exact_json_line(value: &Value) -> String {
    safe_json(&value.to_string())
}

/// A JSON text in which the characters that a terminal interprets are JSON's escapes.
pub fn safe_json(text: &str) -> String {
    escaped(text, &['\n'], &|c| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

/// The text with every unsafe character replaced by `escape`, except those of `kept`.
pub fn escaped(text: &str, kept: &[char], escape: &dyn Fn(char) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        marks = if is_mark(c) { marks + 1 } else { 0 };
        // A mark at the beginning would combine with the character printed before it.
        let is_heap = marks > MARKS_MAX || (marks > 0 && shown.is_empty());
        if kept.contains(&c) || (is_safe(c) && !is_heap) {
            shown.push(c);
        } else {
            shown.push_str(&escape(c));
        }
    }
    shown
}

fn escape(c: char) -> String {
    match c {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        c => c.escape_unicode().to_string(),
    }
}

/// Whether a terminal only shows the character.
fn is_safe(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // Invisible letters and marks: joiners, fillers, vowels without a shape, variation selectors, the blank of
        // braille.
        '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{fffc}'
        | '\u{e0000}'..='\u{e0fff}' => false,
        c => is_shown_by_debug(c),
    }
}

/// Whether Rust's table counts the character as printable; control, format, separator, private and unassigned
/// characters are not. The character is tested after a letter, because Rust escapes a mark at the beginning.
fn is_shown_by_debug(c: char) -> bool {
    let text: String = ['a', c].into_iter().collect();
    text.escape_debug().nth(1) == Some(c)
}

/// Whether the character is a printable combining mark.
fn is_mark(c: char) -> bool {
    !c.is_ascii() && c.escape_debug().len() > 1 && is_shown_by_debug(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_script_are_unchanged() {
        for text in [
            "",
            "erebor_mx_retail",
            "Banco do Brasil – Agência 7",
            "naïve “quotes” 100 % \\o/ '\"`$;",
            "e\u{301}le\u{301}ve",
            "銀行",
            "Сбербанк",
            "بنك",
            "बैंक",
            "🏦 ✓ → …",
        ] {
            assert_eq!(printable(text), text);
            assert_eq!(printable_lines(text), text);
        }
    }

    #[test]
    fn characters_that_a_terminal_interprets_or_hides_are_escaped() {
        for (text, shown) in [
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "\\u{1b}[2J\\u{1b}]0;x\\u{7}"),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\u{0}\u{8}\u{b}\u{c}\u{7f}", "\\u{0}\\u{8}\\u{b}\\u{c}\\u{7f}"),
            ("\u{85}\u{90}\u{9b}31m\u{9f}", "\\u{85}\\u{90}\\u{9b}31m\\u{9f}"),
            ("\u{202e}lived\u{2066}\u{200f}\u{61c}", "\\u{202e}lived\\u{2066}\\u{200f}\\u{61c}"),
            ("a\u{200b}b\u{200d}\u{2060}\u{feff}\u{ad}", "a\\u{200b}b\\u{200d}\\u{2060}\\u{feff}\\u{ad}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("a\u{a0}b\u{3000}", "a\\u{a0}b\\u{3000}"),
            ("\u{3164}\u{115f}\u{fe0f}\u{e0041}\u{2800}", "\\u{3164}\\u{115f}\\u{fe0f}\\u{e0041}\\u{2800}"),
            ("\u{e000}\u{fffe}\u{10ffff}", "\\u{e000}\\u{fffe}\\u{10ffff}"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable("a\u{301}\u{301}\u{301}\u{301}"), "a\u{301}\u{301}\u{301}\\u{301}");
        assert_eq!(printable("\u{301}a"), "\\u{301}a");
        assert_eq!(printable_lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
    }

    #[test]
    fn no_character_is_dangerous_after_escaping() {
        for c in '\0'..=char::MAX {
            let shown = printable(&format!("a{c}"));
            let is_dangerous = |c: char| {
                c.is_control()
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert!(!shown.contains(is_dangerous), "{c:?}");
            assert!(!c.is_alphanumeric() || c.len_utf8() > 2 || shown.contains(c), "{c:?} is a letter");
        }
    }

    #[test]
    fn a_long_text_is_shortened_and_the_rest_is_counted() {
        assert_eq!(shortened("éééé", 3), "ééé… (1 more)");
        assert_eq!(shortened("ééé", 3), "ééé");
        assert!(printable(&"x".repeat(1 << 20)).chars().count() < LENGTH_MAX + 30);
    }

    #[test]
    fn json_is_exact_and_safe_on_a_terminal() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(4_096) {
            let text: String = some.iter().flat_map(|&c| ['a', c]).collect();
            let value = serde_json::json!({text: 7});
            let shown = exact_json(&value);
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value, "{:?}", some[0]);
            let unsafe_one = shown.chars().find(|&c| c != '\n' && !c.is_ascii_graphic() && !is_safe(c));
            assert_eq!(unsafe_one, None);
        }
        let marks = Value::from("a\u{301}\u{301}\u{301}\u{301}");
        assert_eq!(serde_json::from_str::<Value>(&exact_json(&marks)).unwrap(), marks);
    }

    #[test]
    fn texts_in_json_are_escaped() {
        let value = serde_json::json!({"a\u{1b}": ["\u{9b}", 7, null, {"b": "\n"}]});
        assert_eq!(printable_json(&value), serde_json::json!({"a\\u{1b}": ["\\u{9b}", 7, null, {"b": "\\n"}]}));
    }
}
