//! From the bytes of a message to its meaning, in three stages that import each other in one direction:
//!
//! ```text
//!   parse                                          classify          event
//!   payload ─▶ body, error_body, own, report  ──▶  classify    ──▶  meaning (with key)
//! ```
//!
//! A usual webhook is not read by `payload`: `body/usual.rs` makes its body of the bytes.
//!
//! Start with the tables in `classify`: a new code of Belvo is a new row. No input causes a panic, and no error quotes
//! the input.

use super::body::usual;
use super::body::webhook::{WebhookBody, envelope, webhook_link};
use super::call::{Call, find_link, links_named};
use super::classify::{ClassifiedWebhook, ErrorClass, classify_error, classify_report, classify_webhook};
use super::error_body::{ErrorBody, ErrorItem};
use super::meaning::{self, Meaning};
use super::payload::read_json;
use super::undecodable::{Undecodable, same_link};
use super::{own, report, status_page, unreadable};
use crate::contract::{ApiError, InputKind};
use crate::link::{LinkId, Timestamp};
use serde_json::Value;

/// The result of reading a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The meaning of the message.
    pub meaning: Meaning,
    /// The paths of fields that could not be read. The message counts without them.
    pub unreadable_fields: Vec<&'static str>,
}

/// The meaning of a message on an input subject of `link`.
///
/// `received_at` is when the message was stored. The time is needed because bodies contain durations, and Belvo's
/// bodies contain no times.
///
/// # Errors
/// [`Undecodable`]: the body cannot be read as its kind, or is about another link.
pub fn translate(
    kind: InputKind,
    link: &LinkId,
    payload: &[u8],
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    read(kind, link, payload, received_at).map(|reading| reading.meaning)
}

/// Like [`translate`], with the fields of the message that could not be read.
///
/// # Errors
/// The errors of [`translate`].
pub fn read(kind: InputKind, link: &LinkId, payload: &[u8], received_at: Timestamp) -> Result<Reading, Undecodable> {
    if kind == InputKind::Webhook
        && let Some(body) = usual::parse(payload, received_at)
    {
        return read_webhook(link, &body);
    }
    read_value(kind, link, read_json(payload)?, received_at)
}

/// Like [`read`], for JSON that `payload` has read: the long way for a webhook, and the only way for other messages.
fn read_value(kind: InputKind, link: &LinkId, value: Value, received_at: Timestamp) -> Result<Reading, Undecodable> {
    if !matches!(kind, InputKind::Webhook | InputKind::InstitutionStatus) {
        own::check_version(&value)?;
    }
    let mut unreadable_fields = Vec::new();
    let meaning = match kind {
        InputKind::Webhook => return read_webhook(link, &WebhookBody::parse(&value, received_at)?),
        InputKind::ApiError => translate_report(link, &report::parse(value)?, received_at),
        InputKind::Widget => meaning::of_widget(link, &own::parse_widget(value)?, received_at),
        InputKind::Observation => {
            unreadable_fields = unreadable::of_observation(&value, received_at);
            meaning::of_observation(link, &own::parse_observation(value)?, received_at)
        }
        InputKind::Command => meaning::of_command(&own::parse_command(value)?),
        InputKind::InstitutionStatus => status_page::parse(&value, received_at).map(Meaning::StatusPage),
    };
    Ok(Reading { meaning: meaning?, unreadable_fields })
}

/// The link that a reported API error is about, for its subject. `None` if it names no link, or cannot be read.
pub fn link_of_api_error(payload: &[u8]) -> Option<LinkId> {
    find_link(&report::parse(read_json(payload).ok()?).ok()?)
}

/// The link that a webhook is about, for its subject.
///
/// # Errors
/// [`Undecodable`]: the webhook names no link.
pub fn link_of_webhook(payload: &[u8]) -> Result<LinkId, Undecodable> {
    if let Some(link) = usual::link_of(payload) {
        return Ok(link);
    }
    link_in(&read_json(payload)?)
}

fn link_in(value: &Value) -> Result<LinkId, Undecodable> {
    webhook_link(envelope(value).ok_or_else(|| Undecodable::shape("$", "expected an object"))?)
}

fn read_webhook(link: &LinkId, body: &WebhookBody<'_>) -> Result<Reading, Undecodable> {
    same_link(link, Some(&body.link))?;
    let ClassifiedWebhook { family, code, class } = classify_webhook(body);
    let meaning = match class {
        Some(class) => meaning::of_webhook(class, family, code, body),
        None => Meaning::unknown(&["webhook", body.written[0], body.written[1]]),
    };
    Ok(Reading { meaning, unreadable_fields: unreadable::of_webhook(body) })
}

/// The meaning of an API error for `link`. The client reads the errors of its own calls with it too.
pub(super) fn translate_api_error(
    link: &LinkId,
    error: &ApiError,
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    translate_error(link, error, received_at, classify_error)
}

/// The meaning of a reported API error.
fn translate_report(link: &LinkId, error: &ApiError, received_at: Timestamp) -> Result<Meaning, Undecodable> {
    translate_error(link, error, received_at, classify_report)
}

/// [`classify_error`] or [`classify_report`].
type Classify = for<'a> fn(&ApiError, &'a [ErrorItem]) -> Option<(Option<ErrorClass>, &'a ErrorItem)>;

fn translate_error(
    link: &LinkId,
    error: &ApiError,
    received_at: Timestamp,
    classify: Classify,
) -> Result<Meaning, Undecodable> {
    if !(400..=599).contains(&error.http_status) {
        return Err(Undecodable::shape("$.http_status", "expected the status of an error, 400 to 599"));
    }
    let body = ErrorBody::parse(&error.body);
    links_named(error, &body).try_for_each(|named| same_link(link, Some(&named)))?;
    // Some HTTP statuses have a meaning without a body.
    let bare = [ErrorItem::default()];
    let items = if body.items.is_empty() { &bare[..] } else { &body.items[..] };
    let (class, item) = classify(error, items).unwrap_or((None, &bare[0]));
    let code = item.code.as_deref().unwrap_or("without_code");
    match class {
        Some(class) => Ok(meaning::of_api_error(class, Call::of(error), link, error, item, received_at)),
        None if body.items.is_empty() => Err(report::nothing_found()),
        None => Ok(Meaning::unknown(&["api_error", &error.http_status.to_string(), code])),
    }
}

#[cfg(test)]
mod tests;
