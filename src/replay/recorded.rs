//! What relink has recorded on `KV_links`: the state of each link at the start of the span, and the messages that were published in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Span;
use crate::contract::{At, IncidentBody, JobName, NoticeName};
use crate::link::{LinkId, Timestamp};

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SentKind {
    /// A notice of this type.
    Notice(&'static str),
    /// A question to Belvo about the link (the job `verify`).
    Question,
}

impl SentKind {
    /// The name in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice(name) => name,
            Self::Question => "verify",
        }
    }
}

/// A message about a link, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The link.
    pub link: LinkId,
    /// What was sent.
    pub kind: SentKind,
    /// What distinguishes it from others of its kind: the number of a reminder, the resource of data.
    pub which: String,
    /// The episode that it belongs to.
    pub episode: Option<u64>,
    /// The end of the consent that it is about: such a message belongs to no episode.
    pub consent_end: Option<String>,
    /// The input that led to it; `None`: a timer.
    pub input: Option<u64>,
    /// The time of its transition.
    pub at: Timestamp,
}

impl Sent {
    /// The message with this body; `None` if the body has no time.
    pub fn of(kind: SentKind, link: LinkId, body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let because = &body["because"];
        let At(at) = serde_json::from_value(because["at"].clone()).ok()?;
        let which = ["number", "resource"].into_iter().find_map(|field| match &body[field] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        let step = body["rung_secs"].as_u64().map(|secs| humantime::format_duration(Duration::from_secs(secs)));
        let which = which.or(step.map(|step| format!("{step} before the end")));
        Some(Self {
            link,
            kind,
            which: which.unwrap_or_default(),
            episode: body["episode"]["number"].as_u64(),
            consent_end: body["due_at"].as_str().map(str::to_owned),
            input: because["origin"]["input_sequence"].as_u64(),
            at,
        })
    }
}

/// The state from which the replay of a link starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The JSON of the record.
    pub record: Vec<u8>,
    /// When the link got this state.
    pub at: Timestamp,
    /// The input that led to it; `None`: a timer.
    pub input: Option<u64>,
    version: u64,
}

/// The fields of a record that are needed here.
#[derive(Deserialize)]
struct State {
    version: u64,
    updated_at: At,
    because: Cause,
}

#[derive(Deserialize)]
struct Cause {
    origin: Origin,
}

#[derive(Deserialize)]
struct Origin {
    #[serde(default)]
    input_sequence: Option<u64>,
}

/// What was recorded, collected message by message in the order of the stream.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The span.
    pub span: Span,
    /// The state of each link at the start of the span, or, if the stream no longer has it, the first state that it has.
    pub starts: BTreeMap<LinkId, Start>,
    /// The last message about each institution before the span.
    pub incidents: BTreeMap<String, IncidentBody>,
    /// The messages that were published in the span, and within its tolerance behind it.
    pub sent: Vec<Sent>,
    /// How many states could not be read.
    pub unreadable_count: u64,
    /// How many messages each subject keeps; `None`: all of them.
    per_subject: Option<usize>,
    /// The kept messages of each link and kind, and the time of the first one.
    kept: BTreeMap<(LinkId, SentKind), (usize, Timestamp)>,
}

impl Recorded {
    /// A recording without messages. A subject of the stream keeps `per_subject` messages; `None`: all of them.
    pub const fn new(span: Span, per_subject: Option<usize>) -> Self {
        Self {
            span,
            starts: BTreeMap::new(),
            incidents: BTreeMap::new(),
            sent: Vec::new(),
            unreadable_count: 0,
            per_subject,
            kept: BTreeMap::new(),
        }
    }

    /// Adds the next state of a link.
    pub fn state(&mut self, link: LinkId, record: &[u8]) {
        let Ok(State { version, updated_at: At(at), because }) = serde_json::from_slice(record) else {
            self.unreadable_count += 1;
            return;
        };
        // The first state within the span is a start only if none before it is kept.
        if at >= self.span.from && self.starts.contains_key(&link) {
            return;
        }
        let start = Start { record: record.to_vec(), at, input: because.origin.input_sequence, version };
        self.starts.insert(link, start);
    }

    /// Adds the next message about an institution.
    pub fn incident(&mut self, body: &[u8]) {
        let Ok(body) = serde_json::from_slice::<IncidentBody>(body) else { return };
        if body.at.0 < self.span.from {
            self.incidents.insert(body.institution.clone(), body);
        }
    }

    /// Adds the next notice.
    pub fn notice(&mut self, name: &str, link: LinkId, body: &[u8]) {
        if let Some(kind) = notice_kind(name) {
            self.add(kind, link, body);
        }
    }

    /// Adds the next job. Only questions to Belvo are compared.
    pub fn job(&mut self, name: &str, link: LinkId, body: &[u8]) {
        if name == <&str>::from(JobName::Verify) {
            self.add(SentKind::Question, link, body);
        }
    }

    fn add(&mut self, kind: SentKind, link: LinkId, body: &[u8]) {
        let Some(sent) = Sent::of(kind, link, body) else {
            self.unreadable_count += 1;
            return;
        };
        let kept = self.kept.entry((sent.link.clone(), kind)).or_insert((0, sent.at));
        kept.0 += 1;
        if sent.at >= self.span.from && sent.at < self.span.to.after(self.span.tolerance) {
            self.sent.push(sent);
        }
    }

    /// Whether the state at the start of the span is no longer kept, so that the replay of the link begins later. The replay of a link that
    /// was created within the span needs no state.
    pub(super) fn begins_later(&self, start: &Start) -> bool {
        start.at >= self.span.from && start.version != 1
    }

    /// The time from which the messages of a kind about a link are recorded without a gap.
    pub(super) fn complete_from(&self, link: &LinkId, kind: SentKind) -> Timestamp {
        let of_link = self.starts.get(link).filter(|start| self.begins_later(start));
        let of_link = of_link.map_or(self.span.from, |start| start.at.after(Duration::from_millis(1)));
        let kept = self.kept.get(&(link.clone(), kind));
        let of_kind = kept.filter(|(count, _)| self.per_subject.is_some_and(|max| *count >= max)).map(|(_, at)| *at);
        of_kind.map_or(of_link, |at| of_link.max(at))
    }

    /// The links whose replay begins later.
    pub fn begun_later(&self) -> BTreeSet<&LinkId> {
        let later = self.starts.iter().filter(|(_, start)| self.begins_later(start));
        later.map(|(link, _)| link).collect()
    }
}

/// The kind of a notice; `None` for a type that this version does not know.
pub(super) fn notice_kind(name: &str) -> Option<SentKind> {
    use strum::VariantArray as _;
    let known = NoticeName::VARIANTS.iter().find(|known| known.as_str() == name)?;
    Some(SentKind::Notice(known.as_str()))
}
