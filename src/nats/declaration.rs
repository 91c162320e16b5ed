//! The declaration of one stream or consumer, and its comparison with the existing one.
//!
//! relink compares only the fields that it depends on, by their names in the JetStream API. An operator is free to set the others
//! (placement, compression, a size limit).
//!
//! relink must never edit an existing stream or consumer. The error has the `nats` command that an operator can run.
//! Next: `stream.rs` declares all of them.

use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::{ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{self, ConsumerCreateStrictErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use serde::Serialize;
use serde_json::Value;

/// One stream or consumer that must exist.
#[derive(Debug, Clone)]
pub struct Declaration {
    wanted: Wanted,
    /// The fields to compare in addition to [`STREAM_FIELDS`], as named in the JetStream API.
    fields: &'static [&'static str],
    /// What is lost if it is deleted, for the log.
    loss: &'static str,
}

#[derive(Debug, Clone)]
enum Wanted {
    Stream(Box<stream::Config>),
    Consumer { stream: String, config: Box<pull::Config> },
}

/// The fields that are compared for every stream.
const STREAM_FIELDS: [&str; 3] = ["storage", "retention", "num_replicas"];

/// The fields with a span of time: NATS has nanoseconds.
const SPANS: [&str; 3] = ["max_age", "ack_wait", "inactive_threshold"];

/// The value of a field, for an operator.
fn shown(field: &str, value: &Value) -> String {
    match value.as_u64().filter(|_| SPANS.contains(&field)) {
        Some(nanos) => humantime::format_duration(Duration::from_nanos(nanos)).to_string(),
        None => value.to_string(),
    }
}

/// The result of [`Declaration::ensure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was missing, and was created.
    Created,
    /// It exists as declared.
    Matching,
    /// It is a consumer as declared, but an operator has paused it.
    Paused {
        /// The rest of the pause, in seconds.
        seconds: u64,
    },
}

/// A field that differs from the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field's name in the JetStream API.
    pub field: &'static str,
    /// The value at the server, as JSON (durations in nanoseconds).
    pub found: String,
    /// The declared value, as JSON.
    pub wanted: String,
    /// How an operator can repair it.
    pub advice: String,
}

impl Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} is {}, wanted {}: {}", self.field, self.found, self.wanted, self.advice)
    }
}

/// The reason why a stream or consumer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The settings contradict themselves.
    #[error("the stream settings cannot be used: {detail}")]
    Settings {
        /// The setting to change.
        detail: String,
    },
    /// It exists, but differs from its declaration.
    #[error("the {kind} {name} is not as relink needs it: {}", join(differences))]
    Differs {
        /// `stream` or `consumer`.
        kind: &'static str,
        /// The name; for a consumer, the stream's name comes first.
        name: String,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// The streams of relink 0.2 are still there.
    #[error(
        "NATS has {} of relink 0.2, and relink 0.3 keeps its outputs in another stream: stop every relink, check that this log \
         does not call the store damaged, run {}, and start relink again with the same data directory; it publishes the last state of every \
         link from its store on the new stream, and the history of the links is lost (docs/operations.md, upgrade from 0.2)",
        of_streams(streams),
        remove_commands(streams)
    )]
    OfVersion02 {
        /// The streams to remove.
        streams: Vec<String>,
    },
    /// The input stream was created for another number of partitions.
    #[error(
        "the stream {stream} was created with {found} partitions, but the configuration says {wanted}; the number is fixed at creation, \
         because it decides which partition a link belongs to: set it back to {found}, or use another input prefix for a new installation"
    )]
    Partitions {
        /// The input stream.
        stream: String,
        /// Its number of partitions.
        found: u16,
        /// The configured number.
        wanted: u16,
    },
    /// The server cannot create the consumer, because it cannot read or write the consumer's own state.
    #[error(
        "NATS cannot store the state of the consumer {consumer} of the stream {stream}: {detail}. If its disk has room, the state is          damaged: stop the nats-server, remove the directory streams/{stream}/obs/{consumer} in its store, and start it again; nothing is          lost, because relink knows where the consumer must continue"
    )]
    ConsumerState {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// The server's words.
        detail: String,
    },
    /// A request to JetStream failed.
    #[error("cannot {action} the {kind} {name}: {detail}")]
    Api {
        /// The verb of the request.
        action: &'static str,
        /// `stream` or `consumer`.
        kind: &'static str,
        /// The name of the stream or consumer.
        name: String,
        /// The error text.
        detail: String,
    },
}

impl StreamError {
    pub(crate) fn api(action: &'static str, kind: &'static str, name: &str, error: &dyn Display) -> Self {
        Self::Api { action, kind, name: name.to_owned(), detail: error.to_string() }
    }

    /// Whether the server has refused to create something that is missing.
    pub(crate) fn is_of_create(&self) -> bool {
        matches!(self, Self::ConsumerState { .. } | Self::Api { action: "create", .. })
    }
}

fn of_streams(streams: &[String]) -> String {
    let noun = if streams.len() == 1 { "the stream" } else { "the streams" };
    format!("{noun} {}", streams.join(" and "))
}

fn remove_commands(streams: &[String]) -> String {
    streams.iter().map(|name| format!("`nats stream rm {name}`")).collect::<Vec<_>>().join(" and ")
}

/// Whether the server has answered that there is no such stream.
pub(crate) fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn join(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Declaration {
    pub(crate) fn stream(config: stream::Config, fields: &'static [&'static str], loss: &'static str) -> Self {
        Self { wanted: Wanted::Stream(Box::new(config)), fields, loss }
    }

    pub(crate) fn consumer(
        stream: String,
        config: pull::Config,
        fields: &'static [&'static str],
        loss: &'static str,
    ) -> Self {
        Self { wanted: Wanted::Consumer { stream, config: Box::new(config) }, fields, loss }
    }

    /// What is lost if it is deleted, as one clause.
    pub fn loss(&self) -> &'static str {
        self.loss
    }

    /// The name; for a consumer, the stream's name comes first.
    pub fn name(&self) -> String {
        match &self.wanted {
            Wanted::Stream(config) => config.name.clone(),
            Wanted::Consumer { stream, config } => {
                format!("{stream}/{}", config.durable_name.as_deref().unwrap_or_default())
            }
        }
    }

    /// Creates it if it is missing, and compares it otherwise. Two nodes that start together may both call this.
    ///
    /// # Errors
    /// [`StreamError`]; existing streams and consumers are unchanged.
    pub async fn ensure(&self, context: &jetstream::Context) -> Result<Ensured, StreamError> {
        if let Some(ensured) = self.matches(context).await? {
            return Ok(ensured);
        }
        if self.create(context).await? {
            tracing::info!(stream.name = %self.name(), "created a stream or consumer in JetStream");
            return Ok(Ensured::Created);
        }
        // Another process has created it in the meantime, so it is compared like any existing one.
        self.matches(context).await?.ok_or_else(|| self.error("create", &"another process deletes it again"))
    }

    /// Compares it, and creates nothing. `None` if it does not exist.
    ///
    /// # Errors
    /// [`StreamError`], also if it differs from the declaration.
    pub(crate) async fn matches(&self, context: &jetstream::Context) -> Result<Option<Ensured>, StreamError> {
        match &self.wanted {
            Wanted::Stream(wanted) => match context.get_stream(&wanted.name).await {
                Ok(found) => {
                    self.compare(&found.cached_info().config, wanted.as_ref()).map(|()| Some(Ensured::Matching))
                }
                Err(error) if is_missing(&error.kind()) => Ok(None),
                Err(error) => Err(self.error("read", &error)),
            },
            Wanted::Consumer { stream, config } => {
                let durable = config.durable_name.as_deref().unwrap_or_default();
                let stream = context.get_stream_no_info(stream).await.map_err(|error| self.error("read", &error))?;
                match stream.consumer_info(durable).await {
                    Ok(found) => {
                        let wanted = jetstream::consumer::IntoConsumerConfig::into_consumer_config(config.as_ref());
                        self.compare(&found.config, &wanted)?;
                        let seconds = found.pause_remaining.unwrap_or_default().as_secs();
                        Ok(Some(if found.paused { Ensured::Paused { seconds } } else { Ensured::Matching }))
                    }
                    Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
                    Err(error) => Err(self.error("read", &error)),
                }
            }
        }
    }

    /// Whether this call created it; `false` if another process has created it in the meantime.
    async fn create(&self, context: &jetstream::Context) -> Result<bool, StreamError> {
        match &self.wanted {
            Wanted::Stream(config) => match context.create_stream(config.as_ref()).await {
                Ok(_) => Ok(true),
                Err(error) => match error.kind() {
                    CreateStreamErrorKind::JetStream(refusal)
                        if refusal.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                    {
                        Ok(false)
                    }
                    _ => Err(self.error("create", &error)),
                },
            },
            Wanted::Consumer { stream, config } => {
                let found = context.get_stream_no_info(stream).await.map_err(|error| self.error("create", &error))?;
                match found.create_consumer_strict(config.as_ref().clone()).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => Ok(false),
                    Err(error) if is_of_consumer_state(&error.kind()) => Err(StreamError::ConsumerState {
                        stream: stream.clone(),
                        consumer: config.durable_name.clone().unwrap_or_default(),
                        detail: error.to_string(),
                    }),
                    Err(error) => Err(self.error("create", &error)),
                }
            }
        }
    }

    fn compare<T: Serialize>(&self, found: &T, wanted: &T) -> Result<(), StreamError> {
        let json = |config: &T| serde_json::to_value(config).map_err(|error| self.error("read", &error));
        let (found, wanted) = (json(found)?, json(wanted)?);
        let common: &[&'static str] = if matches!(self.wanted, Wanted::Stream(_)) { &STREAM_FIELDS } else { &[] };
        let mut differences = Vec::new();
        for field in common.iter().chain(self.fields).copied() {
            // A missing field has its default value, on both sides.
            let (found, wanted) = (found.get(field).unwrap_or(&Value::Null), wanted.get(field).unwrap_or(&Value::Null));
            if found == wanted {
                continue;
            }
            if let (Some(found), Some(wanted)) = (partitions(found), partitions(wanted)) {
                return Err(StreamError::Partitions { stream: self.name(), found, wanted });
            }
            let advice = self.advice(field, wanted);
            let [found, wanted] = [found, wanted].map(|value| shown(field, value));
            differences.push(Difference { field, found, wanted, advice });
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(StreamError::Differs { kind: self.kind(), name: self.name(), differences })
    }

    /// The `nats` command that repairs a difference, or other advice if no command can.
    fn advice(&self, field: &str, wanted: &Value) -> String {
        let name = self.name().replace('/', " ");
        let kind = self.kind();
        let Some(flag) = flag(field).filter(|_| !wanted.is_null()) else {
            return match &self.wanted {
                Wanted::Stream(_) => format!(
                    "this cannot be edited: take a copy with `nats stream backup {name} DIR`, then either choose another \
                     prefix or run `nats stream rm {name}`, which deletes its messages, and start relink again"
                ),
                Wanted::Consumer { .. } => format!(
                    "run `nats consumer rm {name}` and start relink again, which creates it again; partitions continue after \
                     their committed offsets, and the last job of each link is delivered again"
                ),
            };
        };
        match wanted {
            Value::Bool(true) => format!("run `nats {kind} edit {name} --{flag}`"),
            Value::Array(values) => {
                let values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
                format!("run `nats {kind} edit {name} --{flag}='{}'`", values.join(","))
            }
            Value::String(value) => format!("run `nats {kind} edit {name} --{flag}='{value}'`"),
            Value::Number(nanos) if matches!(field, "max_age" | "duplicate_window" | "ack_wait") => {
                let seconds = nanos.as_u64().unwrap_or_default() / 1_000_000_000;
                format!(
                    "run `nats {kind} edit {name} --{flag}={seconds}s`, or set relink's configuration to the value at the server"
                )
            }
            other => {
                format!(
                    "run `nats {kind} edit {name} --{flag}={other}`, or set relink's configuration to the value at the server"
                )
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self.wanted {
            Wanted::Stream(_) => "stream",
            Wanted::Consumer { .. } => "consumer",
        }
    }

    fn error(&self, action: &'static str, error: &dyn Display) -> StreamError {
        StreamError::api(action, self.kind(), &self.name(), error)
    }
}

/// Whether the server could not read or write the state of a consumer (10012). It also keeps a damaged state for ever, because it finds it
/// again at each attempt.
fn is_of_consumer_state(kind: &ConsumerCreateStrictErrorKind) -> bool {
    // The code is one of many reasons.
    let is_state = |refusal: &jetstream::Error| {
        refusal.error_code() == ErrorCode::CONSUMER_CREATE && refusal.to_string().contains("store for consumer")
    };
    matches!(kind, ConsumerCreateStrictErrorKind::JetStream(refusal) if is_state(refusal))
}

/// The flag of `nats stream edit` or `nats consumer edit` for a field; `None` where the server does not allow an edit.
fn flag(field: &str) -> Option<&'static str> {
    Some(match field {
        "subjects" => "subjects",
        "max_age" => "max-age",
        "max_msgs_per_subject" => "max-msgs-per-subject",
        "num_replicas" => "replicas",
        "duplicate_window" => "dupe-window",
        "allow_atomic" => "allow-batch",
        "allow_direct" => "allow-direct",
        "allow_msg_ttl" => "allow-msg-ttl",
        "filter_subject" => "filter",
        "ack_wait" => "wait",
        "max_ack_pending" => "max-pending",
        "max_deliver" => "max-deliver",
        _ => return None,
    })
}

/// The `P` of a transform to `…{{partition(P,2)}}…`.
fn partitions(transform: &Value) -> Option<u16> {
    let destination = transform.get("dest")?.as_str()?;
    destination.split_once("{{partition(")?.1.split_once(',')?.0.parse().ok()
}
