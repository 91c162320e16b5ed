//! The envelope: CloudEvents 1.0 in the NATS binding, binary mode: attributes as headers, data as the body.
//!
//! The envelope repeats the type and the link of a message, so that a consumer of a mirror or of a dump, where the subject may be
//! different, can still identify the message. The headers of W3C Trace Context are added to messages that belong to a trace.

use std::sync::LazyLock;

use async_nats::header::NATS_MESSAGE_TTL;
use async_nats::{HeaderMap, HeaderValue};
use uuid::Uuid;

use crate::contract::{Address, InputKind, SCHEMA_VERSION, TraceContext};
use crate::engine::Message;
use crate::link::{LinkId, Timestamp};
use crate::nats::subject::Subjects;

/// The `ce-source` of every message on the output stream.
pub const SOURCE: &str = "/relink";

/// The `ce-source` of a webhook that came from Belvo over HTTP.
pub const WEBHOOK_SOURCE: &str = "/relink/webhooks/belvo";

/// The names of the headers, in a form that is not parsed for each message.
mod name {
    use async_nats::HeaderName;

    pub(super) const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
    pub(super) const ID: HeaderName = HeaderName::from_static("ce-id");
    pub(super) const SOURCE: HeaderName = HeaderName::from_static("ce-source");
    pub(super) const TYPE: HeaderName = HeaderName::from_static("ce-type");
    pub(super) const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
    pub(super) const TIME: HeaderName = HeaderName::from_static("ce-time");
    pub(super) const DATASCHEMA: HeaderName = HeaderName::from_static("ce-dataschema");
    pub(super) const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
}

/// How long the stream keeps a closing message (`Nats-TTL`, nats-server 2.11). Each process has its own subject for these messages, and the
/// subjects of ended processes must disappear. A process that commits nothing for this time takes its fences again.
const COMMIT_TTL: &str = "720h";

/// The subject of a message for the output stream.
pub fn subject(subjects: &Subjects, address: &Address) -> String {
    match address {
        Address::State(link) => subjects.state(link.as_str()),
        Address::Notice(name, link) => subjects.notice(name.as_str(), link.as_str()),
        Address::Observed(name, link) => subjects.observed(name.as_str(), link.as_str()),
        Address::Job(name, link) => subjects.job(name.as_str(), link.as_str()),
        Address::Refused(link) => subjects.refused(link.as_str()),
        Address::Offset(partition) => subjects.offset(*partition),
        Address::Fence(partition) => subjects.fence(*partition),
        Address::Commit(writer) => subjects.commit(writer),
        Address::Incident(institution) => subjects.incident(institution),
    }
}

/// The headers that every message about a link has, some without their values. A map that gets one header after the other grows three
/// times, which took a twentieth of relink's time; a copy of this one has its size from the start.
static OF_LINK: LazyLock<HeaderMap> = LazyLock::new(|| {
    let constant = [(name::SPECVERSION, "1.0"), (name::SOURCE, SOURCE), (name::CONTENT_TYPE, "application/json")];
    let constant = constant.map(|(name, value)| (name, HeaderValue::from(value)));
    let of_message = [name::ID, name::TYPE, name::SUBJECT, name::TIME, name::DATASCHEMA];
    constant.into_iter().chain(of_message.map(|name| (name, HeaderValue::new()))).collect()
});

/// The headers of a message for the output stream.
pub fn headers(message: &Message) -> HeaderMap {
    let (kind, link) = match &message.address {
        Address::State(link) => ("relink.link.state".to_owned(), Some(link)),
        Address::Notice(name, link) => (format!("relink.link.notice.{}", name.as_str()), Some(link)),
        Address::Observed(name, link) => (format!("relink.link.observed.{}", name.as_str()), Some(link)),
        Address::Job(name, link) => (format!("relink.link.job.{}", name.as_str()), Some(link)),
        Address::Refused(link) => ("relink.link.refused".to_owned(), Some(link)),
        Address::Offset(_) => ("relink.link.offset".to_owned(), None),
        Address::Fence(_) => ("relink.link.fence".to_owned(), None),
        Address::Commit(_) => ("relink.link.commit".to_owned(), None),
        Address::Incident(_) => ("relink.link.incident".to_owned(), None),
    };
    let mut headers = match link {
        Some(link) => {
            let mut headers = OF_LINK.clone();
            headers.insert(name::SUBJECT, link.as_str());
            headers
        }
        None => OF_LINK
            .iter()
            .filter(|(name, _)| **name != name::SUBJECT)
            .map(|(name, values)| (name.clone(), values[0].clone()))
            .collect(),
    };
    headers.insert(name::ID, message.id.as_str());
    headers.insert(name::TYPE, kind);
    headers.insert(name::TIME, message.at.to_string());
    headers.insert(name::DATASCHEMA, dataschema(&message.address));
    if matches!(message.address, Address::Commit(_)) {
        headers.insert(NATS_MESSAGE_TTL, COMMIT_TTL);
    }
    insert_trace(&mut headers, message.trace.as_ref());
    headers
}

/// Adds the trace that a message belongs to.
pub fn insert_trace(headers: &mut HeaderMap, trace: Option<&TraceContext>) {
    for (name, value) in trace.into_iter().flat_map(TraceContext::headers) {
        headers.insert(name, value);
    }
}

/// The trace that a message belongs to.
pub fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::of(|name| headers.get(name).map(|value| value.as_str()))
}

/// The headers of an input about `link` that `source` received at `at`. They leave the sender's body unchanged.
///
/// Each call gives a new id, because relink finds repeated facts by the link's record and not by ids.
pub fn input_headers(kind: InputKind, link: &LinkId, source: &str, at: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in input_attributes(kind, link, source, at) {
        headers.insert(name, value);
    }
    headers
}

/// As [`input_headers`], as texts.
pub fn input_attributes(kind: InputKind, link: &LinkId, source: &str, at: Timestamp) -> [(&'static str, String); 7] {
    [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", Uuid::new_v4().to_string()),
        ("ce-source", source.to_owned()),
        ("ce-type", format!("belvo.{kind}")),
        ("ce-subject", link.as_str().to_owned()),
        ("ce-time", at.to_string()),
        ("content-type", "application/json".to_owned()),
    ]
}

/// The schema of the body in `schemas/`, with its version.
fn dataschema(address: &Address) -> String {
    let schema = match address {
        Address::State(_) => "link.state",
        Address::Notice(..) | Address::Observed(..) => "link.notice",
        Address::Job(..) => "link.job",
        Address::Refused(_) => "link.refused",
        Address::Offset(_) => "link.offset",
        Address::Fence(_) => "link.fence",
        Address::Commit(_) => "link.commit",
        Address::Incident(_) => "link.incident",
    };
    format!("urn:relink:schema:{schema}:{SCHEMA_VERSION}")
}
