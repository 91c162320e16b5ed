//! Repairs texts that are almost JSON. Valid JSON is not changed, except for long numbers.
//!
//! | part of the text | replaced by | reason |
//! |---|---|---|
//! | half of a surrogate pair, such as `\ud83d` alone | `\ufffd` | a language with UTF-16 texts cut a text within a character |
//! | a control character within a string, such as a line break | its escape | the JSON was built by string concatenation |
//! | `NaN`, `Infinity`, `-Infinity` | `null` | Python and JavaScript write them |
//! | a number that serde_json cannot keep exactly, such as one of twenty digits | the text of its digits | it may be an id |
//!
//! This file reads tokens, not the grammar; the parser decides whether the result is JSON.

use std::borrow::Cow;

use serde_json::Number;

/// The most digits of an integer that always fits into 64 bits.
const DIGITS_SAFE: usize = 18;

/// The repaired text; the same text if there is nothing to repair.
pub(super) fn repair(text: &str) -> Cow<'_, str> {
    let mut repair = Repair { text, taken: 0, result: String::new() };
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'"' => repair.string(at + 1),
            b'-' | b'0'..=b'9' => repair.number(at),
            b'A'..=b'Z' => repair.word(at, at),
            _other => at + 1,
        };
    }
    repair.finish()
}

struct Repair<'a> {
    text: &'a str,
    /// The end of the part that has been copied to `result`.
    taken: usize,
    result: String,
}

impl<'a> Repair<'a> {
    /// Repairs a string after its opening quote. Returns the end of the string.
    fn string(&mut self, mut at: usize) -> usize {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' if bytes.get(at + 1) == Some(&b'u') => at = self.escape(at),
                b'\\' => at += 2,
                control @ 0..=0x1f => {
                    self.replace(at, at + 1, &format!("\\u{control:04x}"));
                    at += 1;
                }
                _other => at += 1,
            }
        }
        at
    }

    /// Repairs `\uXXXX`: half of a surrogate pair is replaced.
    fn escape(&mut self, at: usize) -> usize {
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
        };
        match unit(at) {
            Some(0xd800..=0xdbff) if unit(at + 6).is_some_and(|next| (0xdc00..=0xdfff).contains(&next)) => at + 12,
            Some(0xd800..=0xdfff) => {
                self.replace(at, at + 6, "\\ufffd");
                at + 6
            }
            Some(_character) => at + 6,
            None => at + 2,
        }
    }

    fn number(&mut self, start: usize) -> usize {
        let rest = &self.text.as_bytes()[start..];
        let is_of_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let end = start + rest.iter().take_while(is_of_number).count();
        let number = &self.text[start..end];
        if number == "-" {
            return self.word(start, end);
        }
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_small = digits.len() <= DIGITS_SAFE && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_safe = is_small && number != "-0";
        if !is_safe
            && is_number(number)
            && number.parse::<Number>().map(|read| read.to_string()).as_deref().ok() != Some(number)
        {
            self.replace(start, end, &format!("\"{number}\""));
        }
        end
    }

    /// Repairs a token outside of a string that begins at `word`. The replaced part begins at `start`.
    fn word(&mut self, start: usize, word: usize) -> usize {
        let rest = &self.text.as_bytes()[word..];
        let end = word + rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        if ["NaN", "Infinity"].contains(&&self.text[word..end]) {
            self.replace(start, end, "null");
        }
        end.max(start + 1)
    }

    fn replace(&mut self, start: usize, end: usize, with: &str) {
        self.result.push_str(&self.text[self.taken..start]);
        self.result.push_str(with);
        self.taken = end;
    }

    fn finish(mut self) -> Cow<'a, str> {
        if self.taken == 0 {
            return Cow::Borrowed(self.text);
        }
        self.result.push_str(&self.text[self.taken..]);
        Cow::Owned(self.result)
    }
}

/// Whether the text is a JSON number of any size (RFC 8259, section 6).
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(is_digits)
        && exponent.is_none_or(|exponent| is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}
