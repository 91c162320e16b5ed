//! The reader of the usual webhook: the envelope that Belvo documents, without anything else.
//!
//! Most messages are such webhooks, so they are read without a tree of the whole body: the texts of the envelope are
//! not copied. What this reader does not know exactly is no usual webhook, and is read by `payload` and
//! [`WebhookBody::parse`]: JSON that has to be repaired or unwrapped, a text with an escape, a field that is unknown,
//! that occurs twice, or has another type. A test reads the same bodies in both ways.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::data::Data;
use super::webhook::{WebhookBody, due_in, in_capitals, in_small_letters, with_sentence};
use crate::belvo::fields::{normalise_request_id, short};
use crate::belvo::optional::{self, FieldValue};
use crate::link::{LinkId, Timestamp};

/// The envelope. serde lends a text only if it has no escape.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    webhook_id: Option<&'a str>,
    webhook_type: &'a str,
    webhook_code: &'a str,
    link_id: &'a str,
    request_id: Option<&'a str>,
    external_id: Option<&'a str>,
    #[serde(rename = "process_type")]
    _process_type: Option<&'a str>,
    #[serde(borrow, default)]
    data: Data<'a>,
}

fn envelope(payload: &[u8]) -> Option<Envelope<'_>> {
    let text = std::str::from_utf8(payload).ok()?;
    // serde would also read the values of the fields from a list.
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// The link of a usual webhook. `None` if the webhook is not usual, or its link is no link id.
pub(in crate::belvo) fn link_of(payload: &[u8]) -> Option<LinkId> {
    envelope(payload)?.link_id.parse().ok()
}

/// Reads a usual webhook that was received at `received_at`. `None` if the webhook is not usual.
pub(in crate::belvo) fn parse(payload: &[u8], received_at: Timestamp) -> Option<WebhookBody<'_>> {
    let envelope = envelope(payload)?;
    let external_id = envelope.external_id.map_or(FieldValue::Absent, |id| optional::external_id_of(Cow::Borrowed(id)));
    let [family, code] = [short(envelope.webhook_type)?, short(envelope.webhook_code)?];
    Some(WebhookBody {
        webhook_id: envelope.webhook_id.and_then(short).map(Cow::Borrowed),
        family: in_capitals(family.into()),
        code: in_small_letters(code.into()),
        written: [family, code],
        link: envelope.link_id.parse().ok()?,
        request_id: envelope.request_id.and_then(short).map(normalise_request_id),
        external_id,
        due: due_in(&envelope.data, received_at),
        beside_data: with_sentence(Map::new(), envelope.data.get("reason").and_then(Value::as_str)),
        data: envelope.data,
        failed: false,
    })
}
