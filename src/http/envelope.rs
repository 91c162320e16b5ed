//! The envelope of what comes in through this door: CloudEvents 1.0 in the NATS binding, binary mode.
//!
//! The body stays byte for byte what the sender wrote; everything we add is a header.

use async_nats::HeaderMap;
use uuid::Uuid;

use crate::contract::InputKind;
use crate::link::{LinkId, Timestamp};

/// The headers of an input about `link` that arrived at `at`. Each delivery has an id of its own: whether it repeats
/// a fact is decided by the link's record, not by ids.
pub(super) fn headers(kind: InputKind, link: &LinkId, source: &str, at: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", Uuid::new_v4().to_string());
    headers.insert("ce-source", source);
    headers.insert("ce-type", format!("belvo.{kind}"));
    headers.insert("ce-subject", link.as_str());
    headers.insert("ce-time", at.to_string());
    headers.insert("content-type", "application/json");
    headers
}
