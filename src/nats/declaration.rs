//! One stream or consumer as relink wants it, and the comparison with the one that exists.
//!
//! Only the fields that relink depends on are compared, by their names in the JetStream API, so that an operator is
//! free to set the others (placement, compression, a size limit).
//!
//! Never: edit what exists. The error carries the `nats` command that would.
//! Next: `stream.rs` declares all of them.

use std::fmt::Display;

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
    /// What is compared beside [`STREAM_FIELDS`], as named in the JetStream API.
    fields: &'static [&'static str],
}

#[derive(Debug, Clone)]
enum Wanted {
    Stream(Box<stream::Config>),
    Consumer { stream: String, config: Box<pull::Config> },
}

/// What every stream is compared by.
const STREAM_FIELDS: [&str; 3] = ["storage", "retention", "num_replicas"];

/// What [`Declaration::ensure`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was missing, and is now there.
    Created,
    /// It was there, as wanted.
    Matching,
}

/// A field that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name in the JetStream API.
    pub field: &'static str,
    /// What the server has, as JSON (durations in nanoseconds).
    pub found: String,
    /// What relink wants, likewise.
    pub wanted: String,
    /// What to do about it.
    pub advice: String,
}

impl Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} is {}, wanted {}: {}", self.field, self.found, self.wanted, self.advice)
    }
}

/// Why a stream or consumer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The settings contradict themselves.
    #[error("the stream settings cannot be used: {detail}")]
    Settings {
        /// What to change.
        detail: String,
    },
    /// It exists, otherwise than declared.
    #[error("the {kind} {name} is not as relink needs it: {}", join(differences))]
    Differs {
        /// `stream` or `consumer`.
        kind: &'static str,
        /// Its name; a consumer's with its stream's before it.
        name: String,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// The input stream was created for another number of partitions.
    #[error(
        "the stream {stream} was created with {found} partitions and the configuration says {wanted}; the number is fixed at creation, because it decides which partition a link belongs to: set it back to {found}, or use another input prefix for a new installation"
    )]
    Partitions {
        /// The input stream.
        stream: String,
        /// Its partitions.
        found: u16,
        /// The configured number.
        wanted: u16,
    },
    /// JetStream did not do what was asked.
    #[error("cannot {action} the {kind} {name}: {detail}")]
    Api {
        /// What was asked.
        action: &'static str,
        /// `stream` or `consumer`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The answer.
        detail: String,
    },
}

impl StreamError {
    pub(crate) fn api(action: &'static str, kind: &'static str, name: &str, error: &dyn Display) -> Self {
        Self::Api { action, kind, name: name.to_owned(), detail: error.to_string() }
    }
}

fn join(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Declaration {
    pub(crate) fn stream(config: stream::Config, fields: &'static [&'static str]) -> Self {
        Self { wanted: Wanted::Stream(Box::new(config)), fields }
    }

    pub(crate) fn consumer(stream: String, config: pull::Config, fields: &'static [&'static str]) -> Self {
        Self { wanted: Wanted::Consumer { stream, config: Box::new(config) }, fields }
    }

    /// Its name; a consumer's with its stream's before it.
    pub fn name(&self) -> String {
        match &self.wanted {
            Wanted::Stream(config) => config.name.clone(),
            Wanted::Consumer { stream, config } => {
                format!("{stream}/{}", config.durable_name.as_deref().unwrap_or_default())
            }
        }
    }

    /// Creates it if it is missing, else compares it. Two nodes that start together may both call this.
    ///
    /// # Errors
    /// [`StreamError`]; nothing that existed has been touched.
    pub async fn ensure(&self, context: &jetstream::Context) -> Result<Ensured, StreamError> {
        if self.matches(context).await? {
            return Ok(Ensured::Matching);
        }
        if self.create(context).await? {
            tracing::info!(stream.name = %self.name(), "created what relink needs in JetStream");
            return Ok(Ensured::Created);
        }
        // Somebody else was faster. What they made is compared like anything that exists.
        if self.matches(context).await? {
            Ok(Ensured::Matching)
        } else {
            Err(self.error("create", &"it comes and goes"))
        }
    }

    /// Whether it exists; an error if it exists otherwise than declared.
    async fn matches(&self, context: &jetstream::Context) -> Result<bool, StreamError> {
        match &self.wanted {
            Wanted::Stream(wanted) => match context.get_stream(&wanted.name).await {
                Ok(found) => self.compare(&found.cached_info().config, wanted.as_ref()).map(|()| true),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                        Ok(false)
                    }
                    _ => Err(self.error("read", &error)),
                },
            },
            Wanted::Consumer { stream, config } => {
                let durable = config.durable_name.as_deref().unwrap_or_default();
                let stream = context.get_stream_no_info(stream).await.map_err(|error| self.error("read", &error))?;
                match stream.consumer_info(durable).await {
                    Ok(found) => {
                        let wanted = jetstream::consumer::IntoConsumerConfig::into_consumer_config(config.as_ref());
                        self.compare(&found.config, &wanted).map(|()| true)
                    }
                    Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(false),
                    Err(error) => Err(self.error("read", &error)),
                }
            }
        }
    }

    /// Whether this call created it; `false` when somebody else just did.
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
                let stream = context.get_stream_no_info(stream).await.map_err(|error| self.error("create", &error))?;
                match stream.create_consumer_strict(config.as_ref().clone()).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => Ok(false),
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
            // A field that is left out has its default, on both sides.
            let (found, wanted) = (found.get(field).unwrap_or(&Value::Null), wanted.get(field).unwrap_or(&Value::Null));
            if found == wanted {
                continue;
            }
            if let (Some(found), Some(wanted)) = (partitions(found), partitions(wanted)) {
                return Err(StreamError::Partitions { stream: self.name(), found, wanted });
            }
            let (found, advice) = (found.to_string(), self.advice(field, wanted));
            differences.push(Difference { field, found, wanted: wanted.to_string(), advice });
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(StreamError::Differs { kind: self.kind(), name: self.name(), differences })
    }

    /// The command of the `nats` client that makes it right, or what to do where none can.
    fn advice(&self, field: &str, wanted: &Value) -> String {
        let name = self.name().replace('/', " ");
        let kind = self.kind();
        let Some(flag) = flag(field).filter(|_| !wanted.is_null()) else {
            return match &self.wanted {
                Wanted::Stream(config) if config.sources.is_some() => {
                    format!("it is only a view, so run `nats stream rm {name}` and start relink again")
                }
                Wanted::Stream(_) => format!(
                    "this cannot be edited: take a copy with `nats stream backup {name} DIR`, then either choose another \
                     prefix or run `nats stream rm {name}`, which deletes its messages, and start relink again"
                ),
                Wanted::Consumer { .. } => format!(
                    "run `nats consumer rm {name}` and start relink again, which creates it anew; partitions continue behind \
                     their offset, jobs are handed out again"
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
                    "run `nats {kind} edit {name} --{flag}={seconds}s`, or set relink's configuration to what is there"
                )
            }
            other => {
                format!(
                    "run `nats {kind} edit {name} --{flag}={other}`, or set relink's configuration to what is there"
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
