//! Reads the bytes of every message as JSON.
//!
//! ```text
//!   bytes ─▶ decompressed ─▶ decoded ─▶ repaired ─▶ JSON ─▶ unwrapped
//!            gzip, zlib      BOMs,      lone        serde_json    a text that
//!            by their magic  UTF-16,    surrogates,               holds JSON
//!                            Latin-1    raw control
//!                                       characters,
//!                                       long numbers
//! ```
//!
//! JSON is UTF-8 (RFC 8259), and Belvo sends UTF-8. Systems between Belvo and relink may change it: gateways compress,
//! editors add a byte order mark, languages with UTF-16 texts split a surrogate pair, old systems write Latin-1. The
//! stream keeps the unchanged bytes, and messages arrive over NATS and over HTTP, so this is the only reader.
//!
//! Valid JSON keeps its meaning, with one exception: a number with too many digits for serde_json becomes the text of
//! its digits, because some customers use such numbers as ids. If a key occurs twice, the last value counts. The reader
//! never panics, and reads at most [`TEXT_BYTES_MAX`] of a compressed body.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use serde_json::Value;

use super::undecodable::Undecodable;

mod repair;

/// The largest decompressed body, in bytes. The HTTP server has the same limit for uncompressed bodies.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// How many levels of texts that contain JSON are read.
const WRAPPINGS_MAX: usize = 4;

/// Reads bytes as JSON of any shape.
///
/// # Errors
/// [`Undecodable`]: the body is empty, or cannot be read as JSON.
pub fn read_json(bytes: &[u8]) -> Result<Value, Undecodable> {
    let bytes = decompress(bytes)?;
    let mut value = parse(&decode(&bytes))?;
    for _ in 0..WRAPPINGS_MAX {
        match unwrapped(&value) {
            Some(inner) => value = inner,
            None => break,
        }
    }
    Ok(value)
}

/// The object or the array in a text that contains JSON.
pub(super) fn unwrapped(value: &Value) -> Option<Value> {
    let text = value.as_str()?.trim();
    text.starts_with(['{', '[']).then(|| parse(text).ok())?
}

/// Decompresses gzip or zlib. Both formats are recognised by their first bytes, with which no JSON begins.
///
/// # Errors
/// [`Undecodable::Compressed`]: the data is damaged. [`Undecodable::TooLarge`]: the decompressed body is too large.
pub fn decompress(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Undecodable> {
    match bytes {
        [0x1f, 0x8b, ..] => inflate(MultiGzDecoder::new(bytes)).map(Cow::Owned),
        // RFC 1950: compression method 8, and the first two bytes are a multiple of 31.
        [0x78, flags, ..] if u16::from_be_bytes([0x78, *flags]).is_multiple_of(31) => {
            inflate(ZlibDecoder::new(bytes)).map(Cow::Owned)
        }
        _plain => Ok(Cow::Borrowed(bytes)),
    }
}

/// Decompresses a raw deflate stream, which some senders call `Content-Encoding: deflate`. A raw deflate stream cannot
/// be recognised by its first bytes.
///
/// # Errors
/// The errors of [`decompress`].
pub fn decompress_bare(bytes: &[u8]) -> Result<Vec<u8>, Undecodable> {
    inflate(DeflateDecoder::new(bytes))
}

fn inflate(decoder: impl Read) -> Result<Vec<u8>, Undecodable> {
    let mut plain = Vec::new();
    // Reads one byte more than allowed, to find out whether there is more.
    let read = decoder.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(length) if length > TEXT_BYTES_MAX => Err(Undecodable::TooLarge { max: TEXT_BYTES_MAX }),
        Ok(_) => Ok(plain),
        Err(_damaged) => Err(Undecodable::Compressed),
    }
}

/// Decodes bytes. JSON begins with an ASCII character, so UTF-16 is recognised by the first two bytes even without a
/// byte order mark. Bytes that are not UTF-8 are read as Latin-1, each by itself, so that one wrong byte does not
/// change the others.
fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let text: String =
            char::decode_utf16(units).map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Cow::Owned(text)
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => decode_bytes(rest),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0, first, ..] if *first != 0 => utf16(bytes, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes),
        _utf8 => decode_bytes(bytes),
    }
}

fn decode_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().copied().map(char::from));
    }
    Cow::Owned(text)
}

fn parse(text: &str) -> Result<Value, Undecodable> {
    // A second byte order mark, and the zero byte with which some languages end a text.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
    if text.trim().is_empty() {
        return Err(Undecodable::Empty);
    }
    // Almost every text is JSON without a number that has to be repaired, and to search for what is wrong takes as long as to read it.
    if let Ok(value) = serde_json::from_str(text)
        && is_exact(&value)
    {
        return Ok(value);
    }
    serde_json::from_str(&repair::repair(text))
        .map_err(|error| Undecodable::NotJson { line: error.line(), column: error.column() })
}

/// Whether serde_json has kept every number exactly: it reads an integer of up to 64 bits as one, and any other number as an `f64`.
pub(super) fn is_exact(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
    }
}

#[cfg(test)]
mod tests;
