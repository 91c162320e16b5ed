//! The one reader of bytes: whichever way a message came, this makes JSON of it.
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
//! JSON is UTF-8 (RFC 8259), and Belvo sends it so. What stands between does not always: gateways compress, editors add
//! a byte order mark, languages with UTF-16 texts cut a pair in half, old systems write Latin-1. The stream keeps the
//! bytes as they came, and a message may come over NATS as well as over HTTP, so both are read here and nowhere else.
//!
//! Whatever is JSON means here what it means elsewhere, with one exception: a number that a machine's number cannot hold
//! digit for digit becomes the text of its digits, because some people's ids are such numbers. Of a key that is there
//! twice the last counts. It never panics, and takes no more than [`TEXT_BYTES_MAX`] from a compressed body.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use serde_json::Value;

use super::undecodable::Undecodable;

mod repair;

/// The most that a compressed body may hold, in bytes; the HTTP server takes no more uncompressed either.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// How often a text that holds JSON may hold such a text again.
const WRAPPINGS_MAX: usize = 4;

/// Reads bytes as JSON of any shape.
///
/// # Errors
/// [`Undecodable`] if there is nothing, or nothing that can be read as JSON.
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

/// The object or the array that a text holds as JSON.
pub(super) fn unwrapped(value: &Value) -> Option<Value> {
    let text = value.as_str()?.trim();
    text.starts_with(['{', '[']).then(|| parse(text).ok())?
}

/// Takes off gzip or zlib, which are recognised by their first bytes: no JSON begins with these.
///
/// # Errors
/// [`Undecodable::Compressed`] if it is damaged, [`Undecodable::TooLarge`] if it holds too much.
pub fn decompress(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Undecodable> {
    match bytes {
        [0x1f, 0x8b, ..] => inflate(MultiGzDecoder::new(bytes)).map(Cow::Owned),
        // RFC 1950: compression method 8, and the two bytes are a multiple of 31.
        [0x78, flags, ..] if u16::from_be_bytes([0x78, *flags]).is_multiple_of(31) => {
            inflate(ZlibDecoder::new(bytes)).map(Cow::Owned)
        }
        _plain => Ok(Cow::Borrowed(bytes)),
    }
}

/// Takes off a deflate without any frame, which cannot be recognised: some senders call it `Content-Encoding: deflate`.
///
/// # Errors
/// Like [`decompress`].
pub fn decompress_bare(bytes: &[u8]) -> Result<Vec<u8>, Undecodable> {
    inflate(DeflateDecoder::new(bytes))
}

fn inflate(decoder: impl Read) -> Result<Vec<u8>, Undecodable> {
    let mut plain = Vec::new();
    // One more than may be, to see that there is more.
    let read = decoder.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(length) if length > TEXT_BYTES_MAX => Err(Undecodable::TooLarge { max: TEXT_BYTES_MAX }),
        Ok(_) => Ok(plain),
        Err(_damaged) => Err(Undecodable::Compressed),
    }
}

/// Bytes as text, in whatever encoding they are. A text of JSON begins with a character of ASCII, so UTF-16 shows in the
/// first two bytes even without its mark. What is no UTF-8 is Latin-1, byte by byte: one bad byte spoils no other.
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
    // A mark that came twice, and the zero with which some languages end a text.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
    if text.trim().is_empty() {
        return Err(Undecodable::Empty);
    }
    serde_json::from_str(&repair::repair(text))
        .map_err(|error| Undecodable::NotJson { line: error.line(), column: error.column() })
}

#[cfg(test)]
mod tests;
