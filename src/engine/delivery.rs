//! What comes in: one attempt to hand us a message, and the checks of its envelope.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::contract::limits::MESSAGE_ID_BYTES_MAX;
use crate::contract::{DeadReason, InputKind, SCHEMA_VERSION};
use crate::link::{LinkId, Timestamp};

/// One delivery of a message from the input stream.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The partition it came from.
    pub lane: u16,
    /// Its sequence on the input stream.
    pub sequence: u64,
    /// When the stream stored it, in nanoseconds since the Unix epoch.
    pub stored_at_ns: i64,
    /// The subject it was published on.
    pub subject: String,
    /// The kind token of the subject.
    pub kind: String,
    /// The link token of the subject.
    pub link: String,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(with = "payload")]
    pub payload: Bytes,
    /// What to acknowledge it with. Opaque here.
    pub receipt: String,
}

/// A delivery that is set aside.
#[derive(Clone, Debug)]
pub struct Dead {
    /// What was delivered, whole.
    pub delivery: Delivery,
    /// Why, for programs.
    pub reason: DeadReason,
    /// Why, for people; without the body's content.
    pub detail: String,
}

impl fmt::Debug for Delivery {
    /// Without headers and body, which may hold a password or an MFA session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Delivery");
        shown.field("lane", &self.lane).field("sequence", &self.sequence).field("subject", &self.subject);
        shown.field("payload_bytes", &self.payload.len()).finish_non_exhaustive()
    }
}

impl Delivery {
    /// When the stream stored it.
    pub const fn stored_at(&self) -> Timestamp {
        Timestamp::from_millis(self.stored_at_ns.div_euclid(1_000_000))
    }

    /// A header by its name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The sender's id of the message, if it is not too long to be kept; and whether it is.
    pub(super) fn message_id(&self) -> (Option<String>, bool) {
        match self.header("ce-id") {
            Some(id) if id.len() <= MESSAGE_ID_BYTES_MAX => (Some(id.to_owned()), false),
            Some(_) => (None, true),
            None => (None, false),
        }
    }

    /// The kind for metrics: never an outsider's text.
    pub(super) fn kind_word(&self) -> &'static str {
        self.kind.parse::<InputKind>().map_or("other", InputKind::as_str)
    }

    /// Checks subject and envelope. A plain publish without any header is fine: the subject says what it is.
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

/// The start of a text from outside, printable: a reason lies in a header of the dead letter, where there is little room.
fn start_of(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Bytes in a log of inputs: as text where they are text, else in base64.
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

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(bytes);
        let written =
            text.map_or_else(|_| Written::Base64(STANDARD.encode(bytes)), |text| Written::Text(text.to_owned()));
        written.serialize(serializer)
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// If it is not that.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Bytes::from(text)),
            Written::Base64(text) => STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom),
        }
    }
}
