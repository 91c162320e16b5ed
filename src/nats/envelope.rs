//! The envelope: CloudEvents 1.0 in the NATS binding, binary mode: attributes as headers, data as the body.
//!
//! The subject says where a message belongs; the envelope says what it is, so that a subscriber behind a wildcard, a mirror or a
//! dump can still tell.

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_TTL;
use uuid::Uuid;

use crate::contract::{Address, InputKind, SCHEMA_VERSION};
use crate::engine::Message;
use crate::link::{LinkId, Timestamp};
use crate::nats::subject::Subjects;

/// Who publishes what leaves relink.
const SOURCE: &str = "/relink";

/// How long the last message of a commit is kept (`Nats-TTL`, nats-server 2.11): each process has a subject of its own, which must not stay
/// for ever. A process that commits nothing for so long takes its fences anew.
const COMMIT_TTL: &str = "720h";

/// The subject of a message for the output stream.
pub fn subject(subjects: &Subjects, address: &Address) -> String {
    match address {
        Address::State(link) => subjects.state(link.as_str()),
        Address::Notice(name, link) => subjects.notice(name.as_str(), link.as_str()),
        Address::Job(name, link) => subjects.job(name.as_str(), link.as_str()),
        Address::Refused(link) => subjects.refused(link.as_str()),
        Address::Mark(lane) => subjects.mark(*lane),
        Address::Fence(lane) => subjects.fence(*lane),
        Address::Commit(writer) => subjects.commit(writer),
        Address::Incident(institution) => subjects.incident(institution),
    }
}

/// The headers of a message for the output stream.
pub fn headers(message: &Message) -> HeaderMap {
    let (kind, link) = match &message.address {
        Address::State(link) => ("link.state".to_owned(), Some(link)),
        Address::Notice(name, link) => (format!("link.notice.{}", name.as_str()), Some(link)),
        Address::Job(name, link) => (format!("link.job.{}", name.as_str()), Some(link)),
        Address::Refused(link) => ("link.refused".to_owned(), Some(link)),
        Address::Mark(_) => ("link.mark".to_owned(), None),
        Address::Fence(_) => ("link.fence".to_owned(), None),
        Address::Commit(_) => ("link.commit".to_owned(), None),
        Address::Incident(_) => ("link.incident".to_owned(), None),
    };
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", message.id.as_str());
    headers.insert("ce-source", SOURCE);
    headers.insert("ce-type", format!("relink.{kind}"));
    if let Some(link) = link {
        headers.insert("ce-subject", link.as_str());
    }
    headers.insert("ce-time", message.at.to_string());
    headers.insert("ce-dataschema", dataschema(&message.address));
    headers.insert("content-type", "application/json");
    if matches!(message.address, Address::Commit(_)) {
        headers.insert(NATS_MESSAGE_TTL, COMMIT_TTL);
    }
    headers
}

/// The headers of an input about `link` that `source` heard at `at`; its body stays byte for byte what the sender wrote.
///
/// Each publish has an id of its own: whether it repeats a fact is decided by the link's record, not by ids.
pub fn input_headers(kind: InputKind, link: &LinkId, source: &str, at: Timestamp) -> HeaderMap {
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

/// Which schema of `schemas/` a body follows, and which version of it.
fn dataschema(address: &Address) -> String {
    let schema = match address {
        Address::State(_) => "link.state",
        Address::Notice(..) => "link.notice",
        Address::Job(..) => "link.job",
        Address::Refused(_) => "link.refused",
        Address::Mark(_) => "link.mark",
        Address::Fence(_) => "link.fence",
        Address::Commit(_) => "link.commit",
        Address::Incident(_) => "link.incident",
    };
    format!("urn:relink:schema:{schema}:{SCHEMA_VERSION}")
}
