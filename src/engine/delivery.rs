//! A delivery of an input message, and the checks of its subject and its headers.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::contract::limits::{MESSAGE_ID_BYTES_MAX, OPERATOR_BYTES_MAX, REASON_BYTES_MAX};
use crate::contract::{
    At, Command, DeadReason, InputKind, JOURNAL_HEADER, Origin, OriginKind, SCHEMA_VERSION, TOKEN_HEADER,
};
use crate::link::{LinkId, Timestamp};

/// An input that NATS stored so long after relink accepted it had to wait for NATS. Most are stored after some milliseconds.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// One delivery of a message from the input stream. JetStream may deliver the same message again.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The partition of the input stream.
    pub partition: u16,
    /// The sequence of the message on the input stream.
    pub sequence: u64,
    /// When the stream stored it, in nanoseconds since the Unix epoch.
    pub stored_at_ns: i64,
    /// The subject of the message.
    pub subject: String,
    /// The kind token of the subject.
    pub kind: String,
    /// The link token of the subject.
    pub link: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(with = "payload")]
    pub payload: Bytes,
    /// The subject to which an acknowledgement is published. The engine does not interpret it.
    pub receipt: String,
}

/// A delivery that is dead-lettered.
#[derive(Clone, Debug)]
pub struct DeadDelivery {
    /// The complete delivery.
    pub delivery: Delivery,
    /// The reason, for programs.
    pub reason: DeadReason,
    /// The reason, for people. The reason never quotes the body.
    pub detail: String,
}

impl fmt::Debug for Delivery {
    /// Omits the headers and the body, which may contain a password or an MFA session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Delivery");
        shown.field("partition", &self.partition).field("sequence", &self.sequence).field("subject", &self.subject);
        shown.field("payload_bytes", &self.payload.len()).finish_non_exhaustive()
    }
}

impl Delivery {
    /// When the stream stored it.
    pub const fn stored_at(&self) -> Timestamp {
        Timestamp::from_nanos(self.stored_at_ns)
    }

    /// The value of a header. The name is compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What the messages that follow from this one say of it. A text that is too long is left out, and noted in `unreadable`.
    pub(super) fn origin(&self, kind: InputKind, unreadable: &mut Vec<&'static str>) -> Origin {
        let mut short = |name: &'static str, text: Option<String>, max: usize| {
            let (kept, too_long) = match text {
                Some(text) if text.len() <= max => (Some(text), false),
                Some(_) => (None, true),
                None => (None, false),
            };
            unreadable.extend(too_long.then_some(name));
            kept
        };
        let header = |name: &str| self.header(name).map(ToOwned::to_owned);
        let message_id = short("ce-id", header("ce-id"), MESSAGE_ID_BYTES_MAX);
        let token = short(TOKEN_HEADER, header(TOKEN_HEADER), OPERATOR_BYTES_MAX);
        // Commands are rare, so it does not matter that their bodies are read twice.
        let command =
            if kind == InputKind::Command { serde_json::from_slice::<Command>(&self.payload).ok() } else { None };
        let (by, reason) = command.map_or((None, None), |command| (command.by, command.reason));
        let by = short("by", by, OPERATOR_BYTES_MAX);
        let reason = short("reason", reason, REASON_BYTES_MAX);
        // relink's journal dates its messages. Another publisher may give any time.
        let ce_time = self.header("ce-time").filter(|_| self.header(JOURNAL_HEADER).is_some());
        let accepted_at = ce_time.and_then(|at| at.parse::<Timestamp>().ok());
        Origin {
            kind: OriginKind::from(kind),
            input_sequence: Some(self.sequence),
            message_id,
            token,
            by,
            reason,
            received_at: At(self.stored_at()),
            accepted_at: accepted_at.filter(|at| at.after(LATE_AFTER) <= self.stored_at()).map(At),
            unreadable_fields: unreadable.iter().map(|&field| field.to_owned()).collect(),
        }
    }

    /// The kind as a metric label. An unknown kind is `other`, so that no text from outside becomes a label.
    pub(super) fn kind_word(&self) -> &'static str {
        self.kind.parse::<InputKind>().map_or("other", InputKind::as_str)
    }

    /// Checks the subject, and the CloudEvents headers if there are any. The subject alone is enough.
    pub(super) fn open(&self) -> Result<(InputKind, LinkId), (DeadReason, String)> {
        let unknown_subject = |problem: &dyn fmt::Display| {
            (DeadReason::UnknownSubject, format!("subject `{}`: {problem}", start_of(&self.subject)))
        };
        let kind: InputKind = self.kind.parse().map_err(|error| unknown_subject(&error))?;
        let link: LinkId = self.link.parse().map_err(|error| unknown_subject(&error))?;
        let future = |problem: String| Err((DeadReason::FutureVersion, problem));
        if let Some(version) = self.header("ce-specversion").filter(|version| *version != "1.0") {
            return future(format!("CloudEvents {}; this relink reads 1.0", start_of(version)));
        }
        if let Some(schema) = self.header("ce-dataschema") {
            let version = schema
                .rsplit([':', '/'])
                .next()
                .and_then(|version| version.trim_start_matches('v').parse::<u16>().ok());
            if version.is_some_and(|version| version > SCHEMA_VERSION) {
                return future(format!("schema {}; this relink reads version {SCHEMA_VERSION}", start_of(schema)));
            }
        }
        Ok((kind, link))
    }
}

/// The first characters of a text from outside, escaped. The detail of a dead letter is a header, so it has to be
/// short.
fn start_of(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// The serde form of a body in a log of inputs: a text if the bytes are UTF-8, else base64.
pub mod payload {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Written {
        Text(String),
        Base64(String),
    }

    /// Writes the bytes.
    ///
    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(bytes);
        let written =
            text.map_or_else(|_| Written::Base64(STANDARD.encode(bytes)), |text| Written::Text(text.to_owned()));
        written.serialize(serializer)
    }

    /// Reads the form that [`serialize`] writes.
    ///
    /// # Errors
    /// The value does not have that form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Bytes::from(text)),
            Written::Base64(text) => STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom),
        }
    }
}
