//! Text from outside, as people may see it: on a terminal and in a log.
//!
//! Ids, names and messages come from Belvo, from callers and from other programs. A terminal obeys some characters: it
//! moves, recolours, reorders or hides what is printed, so that a text could forge lines of relink's own. [`printable`]
//! shows each of those as an escape, such as `\u{1b}`, and leaves letters of every script as they are. Every output for
//! people goes through here; JSON has its own escapes and stays exact.
//!
//! What is obeyed or not seen: control characters (C0, DEL, C1), line and paragraph separators, direction marks and other
//! formats, blanks that are no spaces, variation selectors and fillers, private and unassigned characters, and heaps of
//! combining marks.

use std::fmt::Write;

use serde_json::Value;

/// The longest text shown where somebody has not asked for the whole, in characters.
pub const LENGTH_MAX: usize = 300;

/// So many marks may stand on one letter.
const MARKS_MAX: usize = 3;

/// One line for people, of at most [`LENGTH_MAX`] characters.
pub fn printable(text: &str) -> String {
    shortened(text, LENGTH_MAX)
}

/// One line for people, of at most `length_max` characters; how many more there are is said.
pub fn shortened(text: &str, length_max: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(length_max) else { return escaped(text, &[], &escape) };
    let mut shown = escaped(&text[..end], &[], &escape);
    let _infallible = write!(shown, "… ({} more)", text[end..].chars().count());
    shown
}

/// Several lines for people, of any length: line breaks and tabs stay what they are.
pub fn printable_lines(text: &str) -> String {
    escaped(text, &['\n', '\t'], &escape)
}

/// Every text in a JSON value, keys too, as [`printable`] shows it.
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

/// The text with every character that is not safe to print replaced by what `escape` makes of it.
pub fn escaped(text: &str, kept: &[char], escape: &dyn Fn(char) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        marks = if is_mark(c) { marks + 1 } else { 0 };
        // A mark at the beginning would stand on what was printed before.
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

/// Whether a terminal shows the character and does nothing else with it.
fn is_safe(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // Letters and marks that nobody sees: joiners, fillers, vowels without a shape, selectors, a blank of braille.
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

/// Whether Rust's own table counts it as printable; it has controls, formats, separators, private and unassigned ones as
/// not. Behind a letter, so that marks count as the letters' own.
fn is_shown_by_debug(c: char) -> bool {
    let text: String = ['a', c].into_iter().collect();
    text.escape_debug().nth(1) == Some(c)
}

/// Whether it is printable, and stands on the letter before it.
fn is_mark(c: char) -> bool {
    !c.is_ascii() && c.escape_debug().len() > 1 && is_shown_by_debug(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_script_stay() {
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
    fn what_a_terminal_obeys_or_hides_is_escaped() {
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
    fn no_character_of_all_breaks_out() {
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
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(shortened("éééé", 3), "ééé… (1 more)");
        assert_eq!(shortened("ééé", 3), "ééé");
        assert!(printable(&"x".repeat(1 << 20)).chars().count() < LENGTH_MAX + 30);
    }

    #[test]
    fn texts_inside_json() {
        let value = serde_json::json!({"a\u{1b}": ["\u{9b}", 7, null, {"b": "\n"}]});
        assert_eq!(printable_json(&value), serde_json::json!({"a\\u{1b}": ["\\u{9b}", 7, null, {"b": "\\n"}]}));
    }
}
