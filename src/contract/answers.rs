//! The bodies of the HTTP API's answers. `openapi.json` has their schemas.
//!
//! A client ignores fields that it does not know: within `/v1`, an answer only gains optional fields.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::incident::IncidentCause;
use super::rfc3339::At;
use super::shown_link::ShownLink;
use super::words::is_false;

/// A page of links.
#[derive(Serialize, JsonSchema)]
pub struct LinksPage {
    /// The links, in the order of their ids.
    pub links: Vec<ShownLink>,
    /// The ids of links on this page whose records cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// The value of `after` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// All messages about a link that `KV_links` still has.
#[derive(Serialize, JsonSchema)]
pub struct HistoryOfLink {
    /// Belvo's id of the link.
    pub link_id: String,
    /// The messages, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Whether there are more messages than an answer may have; then the oldest ones are missing.
    pub truncated: bool,
}

/// One message about a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// The kind of the message.
    pub kind: HistoryKind,
    /// The type of a notice or a job.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The `ce-id` of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The sequence in `KV_links`.
    pub sequence: u64,
    /// When `KV_links` stored it.
    pub stored_at: At,
    /// The body, as JSON.
    pub body: Value,
}

/// The kinds of message about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistoryKind {
    /// The link's state after an event.
    State,
    /// A notice to subscribers.
    Notice,
    /// A notice that was not sent, because relink only observes.
    Observed,
    /// A job: a call to Belvo.
    Job,
    /// A refused event.
    Refused,
}

/// A message about a link or an institution, as `GET /v1/events` sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamEvent {
    /// The sequence in `KV_links`; the `id` of the event.
    pub sequence: u64,
    /// When `KV_links` stored it.
    pub stored_at: At,
    /// The kind of the message.
    pub kind: EventKind,
    /// The type of a notice or a job, or what has changed at an institution.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Belvo's id of the link; absent for an institution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Belvo's name of the institution, if the message has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub institution: Option<String>,
    /// The `ce-id` of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The body, as JSON.
    pub body: Value,
}

/// The kinds of message that `GET /v1/events` sends.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EventKind {
    /// A link's state after an event.
    State,
    /// A notice to subscribers.
    Notice,
    /// A notice that was not sent, because relink only observes.
    Observed,
    /// A job: a call to Belvo.
    Job,
    /// A refused event.
    Refused,
    /// The state of an institution has changed.
    Incident,
}

/// The links in numbers, and what operators look at first.
#[derive(Serialize, JsonSchema)]
pub struct Summary {
    /// The number of all links.
    pub links_count: u64,
    /// The number of links in each state.
    pub by_state: BTreeMap<&'static str, u64>,
    /// The links of each institution by state, without zeros, in the order of the names.
    pub by_institution: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// The institutions with an incident now.
    pub incidents: Vec<IncidentSummary>,
    /// How many transitions only a sweep has found since the start, by institution; absent without Belvo keys,
    /// because then there are no sweeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_by_institution: Option<BTreeMap<String, u64>>,
    /// relink only observes: it sends no notice, and changes nothing at Belvo.
    #[serde(default, skip_serializing_if = "is_false")]
    pub observe: bool,
}

/// A current incident. The number of its deferred prompts is published when it ends.
#[derive(Serialize, JsonSchema)]
pub struct IncidentSummary {
    /// Belvo's name of the institution.
    pub institution: String,
    /// When the incident began.
    pub began_at: At,
    /// How many links had failed when the incident began.
    pub links_count: u64,
}

/// What relink has done in the last hours.
#[derive(Serialize, JsonSchema)]
pub struct ActivitySummary {
    /// When the first period of the answer began, that is, the first period in which something happened within the hours that were asked for
    /// and since the start of relink. A whole multiple of `period_secs`, so up to one period before the first event. `null` if nothing has
    /// happened.
    pub since: Option<At>,
    /// The length of a period, in seconds.
    pub period_secs: u64,
    /// The periods in which something happened, oldest first.
    pub periods: Vec<ActivityPeriod>,
    /// The number of transitions of each kind, in all periods.
    pub transitions: Vec<TransitionCount>,
    /// The number of notices of each type, in all periods. In observe mode these are recorded and not published.
    pub notices: BTreeMap<&'static str, u64>,
    /// How many outages began.
    pub outages_count: u64,
    /// The messages that asked a user for a repair: first the prompts, then the first reminders, and so on.
    pub prompts: Vec<u64>,
    /// How long the outages had lasted when their prompts were published.
    pub time_to_prompt: TimeSpans,
    /// How long the outages lasted that ended with a proof that the link works.
    pub time_to_repair: TimeSpans,
}

/// What happened in one period.
#[derive(Serialize, JsonSchema)]
pub struct ActivityPeriod {
    /// When the period began.
    pub at: At,
    /// How many outages began.
    pub outages_count: u64,
    /// How many users were prompted.
    pub prompts_count: u64,
    /// How many links recovered.
    pub recovered_count: u64,
    /// How long half of the outages lasted at most that ended in this period, in seconds; `null` if none ended.
    pub repair_p50_secs: Option<f64>,
}

/// How many links went from one state to another.
#[derive(Serialize, JsonSchema)]
pub struct TransitionCount {
    /// The state before.
    pub from: &'static str,
    /// The state after.
    pub to: &'static str,
    /// How many.
    pub count: u64,
}

/// Quantiles of time spans.
#[derive(Serialize, JsonSchema)]
pub struct TimeSpans {
    /// The number of spans.
    pub count: u64,
    /// Half of the spans are not longer, in seconds; `null` without any span.
    pub p50_secs: Option<f64>,
    /// Nine tenths of the spans are not longer, in seconds; `null` without any span.
    pub p90_secs: Option<f64>,
}

/// The state of each institution.
#[derive(Serialize, JsonSchema)]
pub struct InstitutionsList {
    /// The institutions, in the order of their names.
    pub institutions: Vec<InstitutionSummary>,
}

/// An institution that has links, or had an incident.
#[derive(Default, Serialize, JsonSchema)]
pub struct InstitutionSummary {
    /// Belvo's name of the institution.
    pub institution: String,
    /// `operational`, `degraded` or `down`.
    pub state: &'static str,
    /// When the state began; absent if it never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<At>,
    /// The evidence; absent while it is operational.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<IncidentCause>,
    /// The number of its links.
    pub links_count: u64,
    /// Its links by state, without zeros.
    pub by_state: BTreeMap<&'static str, u64>,
}

/// A page of dead letters.
#[derive(Serialize, JsonSchema)]
pub struct DeadLettersPage {
    /// The dead letters without their bytes, oldest first.
    pub dead_letters: Vec<DeadLetterSummary>,
    /// The value of `after` for the next page; null on the last page.
    pub next: Option<u64>,
    /// The number of all dead letters.
    pub total: u64,
}

/// A message that relink could not handle.
#[derive(Serialize, JsonSchema)]
pub struct DeadLetterSummary {
    /// Its number, from 1.
    pub sequence: u64,
    /// When it was stored.
    pub at: At,
    /// The subject of the message.
    pub subject: String,
    /// Why it could not be handled, for programs.
    pub reason: String,
    /// Why it could not be handled, for people.
    pub detail: String,
    /// The size of the stored body, in bytes.
    pub bytes: usize,
    /// The size of the body before it was cut; null if it is complete.
    pub truncated_from: Option<u64>,
    /// The stream that the message is from; null if it never was in one.
    pub input_stream: Option<String>,
    /// The sequence of the message in that stream.
    pub input_sequence: Option<u64>,
}

/// A dead letter with its body.
#[derive(Serialize, JsonSchema)]
pub struct ShownDeadLetter {
    /// What the list has too.
    #[serde(flatten)]
    pub summary: DeadLetterSummary,
    /// The headers of the message.
    pub headers: BTreeMap<String, String>,
    /// The body, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The body in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// A dead letter was published as input again, or sent over HTTP again.
#[derive(Serialize, JsonSchema)]
pub struct Replayed {
    /// The number of the dead letter.
    pub dead_letter: u64,
    /// The sequence of the new input in `BELVO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The HTTP target that has accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<&'static str>,
    /// The status that the target answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// A dead letter was removed.
#[derive(Serialize, JsonSchema)]
pub struct Dropped {
    /// The number of the dead letter. No other one gets it.
    pub dead_letter: u64,
    /// The subject of the message.
    pub subject: String,
    /// Why it could not be handled.
    pub reason: String,
    /// The `ce-id` of the message, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// The message is stored.
#[derive(Serialize, JsonSchema)]
pub struct Stored {
    /// Belvo's id of the link; absent in the answer to a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Where it is stored.
    #[serde(flatten)]
    pub receipt: Receipt,
}

/// The proof that a message is stored: one of the three numbers.
#[derive(Serialize, JsonSchema)]
pub struct Receipt {
    /// Its number in the journal on the disk of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<u64>,
    /// Its sequence in the stream `BELVO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The number of the dead letter, if it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<u64>,
    /// Its `ce-id`, which relink names in everything that follows from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// The error is not about a link, so nothing is stored.
#[derive(Serialize, JsonSchema)]
pub struct NotStored {
    /// Always null.
    pub link_id: Option<String>,
    /// What the error means.
    pub meaning: ErrorMeaning,
}

/// What an error of Belvo's API means.
#[derive(Serialize, JsonSchema)]
pub struct ErrorMeaning {
    /// The class, such as `rate_limited`.
    pub class: &'static str,
    /// Belvo's code.
    pub code: String,
}

/// A widget token, for one click of the user. It is valid for ten minutes and must not be stored.
#[derive(Serialize, JsonSchema)]
pub struct MintedToken {
    /// Belvo's id of the link.
    pub link_id: String,
    /// The token, for Belvo's JavaScript widget.
    pub access: String,
    /// Belvo's refresh token, if it sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// How long the token is valid, in seconds.
    pub expires_in: u64,
    /// The address of the hosted widget, or of the portal for a consent.
    pub widget_url: String,
    /// Where the start of the attempt is stored.
    #[serde(flatten)]
    pub receipt: Receipt,
}

/// The address of webhooks is right.
#[derive(Serialize, JsonSchema)]
pub struct AddressCheck {
    /// A sentence for people.
    pub status: &'static str,
}

/// relink is alive.
#[derive(Serialize, JsonSchema)]
pub struct Alive {
    /// `alive`
    pub status: &'static str,
    /// The version of relink.
    pub version: &'static str,
}

/// relink does its work.
#[derive(Serialize, JsonSchema)]
pub struct Ready {
    /// `ready`
    pub status: &'static str,
    /// What waits in the journal for NATS.
    pub journal: JournalWaiting,
    /// What is wrong although relink stores and decides, each as one clause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What waits in the journal for NATS.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct JournalWaiting {
    /// The number of messages.
    pub waiting: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Since when the oldest one waits.
    pub oldest_at: Option<At>,
}

/// An error, as `application/problem+json` (RFC 9457). Some kinds of problem have more members.
#[derive(Serialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct ProblemBody {
    /// The kind of problem, for programs: `urn:relink:problem:` and a word that never changes.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem, for people.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
    /// The id of this answer, which is in the log too.
    pub instance: String,
    /// The wrong field, as a JSON pointer (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}
