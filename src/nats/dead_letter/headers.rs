//! The format of a dead letter: relink's own headers, the original headers, and back.

use async_nats::HeaderMap;
use async_nats::header::{HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::message::StreamMessage;
use sha2::{Digest, Sha256};

use super::{DeadLetter, StoredLetter};

const REASON: &str = "Relink-Dead-Reason";
const DETAIL: &str = "Relink-Dead-Detail";
const SUBJECT: &str = "Relink-Dead-Subject";
const STREAM: &str = "Relink-Dead-Stream";
const SEQUENCE: &str = "Relink-Dead-Sequence";
pub(super) const TRUNCATED: &str = "Relink-Dead-Truncated";
const HEADERS_DROPPED: &str = "Relink-Dead-Headers-Dropped";
const RELINK_PREFIX: &str = "Relink-Dead-";
const ORIGINAL_PREFIX: &str = "Relink-Original-";
pub(super) const SERVER_PREFIX: &str = "Nats-";

/// The longest detail, in characters, because it is stored as a header.
const DETAIL_LENGTH_MAX: usize = 512;
/// The largest size of the original headers of a letter, in bytes. JetStream stores at most 64 KiB of headers with a message (error 10097),
/// so the original headers of an input may leave no place for the letter's own ones.
const ORIGINAL_HEADERS_BYTES_MAX: usize = 56 * 1024;

pub(super) fn own_headers(letter: &DeadLetter) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(REASON, letter.reason.as_str());
    headers.insert(DETAIL, header_value(&letter.detail));
    headers.insert(SUBJECT, header_value(&letter.subject));
    if let Some(input) = &letter.input {
        headers.insert(STREAM, header_value(&input.stream.to_string()));
        headers.insert(SEQUENCE, input.sequence.to_string());
    }
    let id = match &letter.input {
        // The engine may have stored a letter for the same input.
        Some(input) if letter.reason.is_outbound() => {
            format!("{}:{}", letter.reason.as_str(), input.dead_letter_id())
        }
        Some(input) => input.dead_letter_id(),
        None => {
            let words = [letter.subject.as_str(), letter.reason.as_str(), letter.detail.as_str()];
            let mut parts: Vec<&[u8]> = words.map(str::as_bytes).to_vec();
            let mut kept: Vec<(&str, &str)> = Vec::new();
            for (name, values) in letter.headers.iter() {
                kept.extend(values.iter().map(|value| (name.as_ref(), value.as_str())));
            }
            kept.sort_unstable();
            parts.extend(kept.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
            parts.push(&letter.payload);
            let mut hash = Sha256::new();
            for part in parts {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        }
    };
    headers.insert(NATS_MESSAGE_ID, header_value(&id));
    headers
}

/// Adds the original headers. Headers on which the server would act are renamed. Headers beyond [`ORIGINAL_HEADERS_BYTES_MAX`] are counted
/// and left out.
pub(super) fn keep_original(original: &HeaderMap, headers: &mut HeaderMap) {
    let (mut bytes, mut dropped) = (0, 0_usize);
    for (name, values) in original.iter() {
        let name: &str = name.as_ref();
        let kept = if has_prefix(name, SERVER_PREFIX)
            || has_prefix(name, RELINK_PREFIX)
            || has_prefix(name, ORIGINAL_PREFIX)
        {
            format!("{ORIGINAL_PREFIX}{name}")
        } else {
            name.to_owned()
        };
        for value in values {
            let size = kept.len() + value.as_str().len() + ": \r\n".len();
            if bytes + size > ORIGINAL_HEADERS_BYTES_MAX {
                dropped += 1;
            } else {
                bytes += size;
                headers.append(kept.as_str(), value.clone());
            }
        }
    }
    if dropped > 0 {
        headers.insert(HEADERS_DROPPED, dropped.to_string());
    }
}

pub(super) fn read_letter(message: StreamMessage) -> StoredLetter {
    let ours = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
    let number = |name: &str| ours(name).and_then(|value| value.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let name: &str = name.as_ref();
        // A header that is neither relink's nor the server's is an original one, with its own name or a renamed one.
        if let Some(original) = name.strip_prefix(ORIGINAL_PREFIX) {
            values.iter().for_each(|value| headers.append(original, value.clone()));
        } else if !has_prefix(name, RELINK_PREFIX) && !has_prefix(name, SERVER_PREFIX) {
            values.iter().for_each(|value| headers.append(name, value.clone()));
        }
    }
    StoredLetter {
        sequence: message.sequence,
        at_ns: message.time.unix_timestamp_nanos(),
        subject: ours(SUBJECT).unwrap_or_default(),
        truncated_from: number(TRUNCATED),
        reason: ours(REASON).unwrap_or_default(),
        detail: ours(DETAIL).unwrap_or_default(),
        input_stream: ours(STREAM),
        input_sequence: number(SEQUENCE),
        headers,
        payload: message.payload,
    }
}

pub(super) fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Makes a text fit for a header: one line, and not too long. What a header cannot have is escaped, so that it is still known.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from(one_line(text))
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(DETAIL_LENGTH_MAX));
    for c in text.chars().take(DETAIL_LENGTH_MAX) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_header_escapes_what_it_cannot_have_and_changes_nothing_else() {
        assert_eq!(one_line("Café \u{1b}[2J?\r\nLINK"), "Café \\u{1b}[2J?\\r\\nLINK");
        assert_eq!(one_line(&"é".repeat(600)).chars().count(), 512);
    }
}
