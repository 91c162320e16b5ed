//! The one place where streams and consumers are declared, and compared with what exists.
//!
//! | stream | holds | consumers |
//! |---|---|---|
//! | `BELVO` | what was said, by lane (subject transform with a hash of the link id) | `relink-<p>`: lane *p*, in order, acknowledged up to a message |
//! | `LINKS` | what was decided: states, notices, jobs, incidents, fences, marks; the commit point | `relink-jobs`: calls to Belvo, one by one |
//! | `RELINK_DEAD` | what could not be read | |
//! | `KV_links` | a view for others: the last state of every link as a key-value bucket, filled by the server itself | |
//!
//! What is missing is created. What exists is compared over the fields that relink depends on, and a difference is an
//! error that says what to do.
//!
//! Never: edit or delete what exists. An operator's decision is not undone by a restart.
//! Next: `declaration.rs` has the comparison; `subject.rs` has the names.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PriorityPolicy, pull};
use async_nats::jetstream::stream::{self, Info, Source, StorageType, SubjectTransform};
use async_nats::jetstream::{self};

use crate::nats::declaration::{Declaration, StreamError};
use crate::nats::subject::Subjects;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most lanes. A lane costs a consumer and a task; sixteen carry about 28 000 events a second between them.
pub const PARTITIONS_MAX: u16 = 1_024;

/// The priority group of a pinned lane; a consumer has exactly one.
pub const LANE_GROUP: &str = "lane";

/// The consumer that hands out jobs.
pub const JOBS_CONSUMER: &str = "relink-jobs";

/// How many jobs may be under way or put off at once: some for each link of a large fleet.
const JOBS_PENDING_MAX: i64 = 1_000_000;

/// What an operator may choose about streams and consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// How many lanes the links are spread over, 1 to [`PARTITIONS_MAX`]. Fixed when the input stream is created: another number
    /// would send a link's next message to another lane than its last.
    pub partitions: u16,
    /// Copies of every stream in a NATS cluster, 1 to 5.
    pub replicas: usize,
    /// How long an input is kept, to be read again after an accident.
    pub input_age_max: Duration,
    /// How many messages each output subject keeps: the length of a link's history.
    pub history_count: i64,
    /// How long a lane may take to acknowledge before its messages come again.
    pub lane_ack_wait: Duration,
    /// How many messages of a lane may be out without acknowledgement.
    pub lane_pending_max: i64,
    /// With several nodes: after how long without a pull a lane goes to another node (pinned-client priority group). It must
    /// be longer than `lane_ack_wait`, else the new owner sees new messages before the dead owner's. `None` on one node.
    pub lane_takeover: Option<Duration>,
    /// How long a job may take before it is handed out again.
    pub job_ack_wait: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            partitions: 16,
            replicas: 1,
            input_age_max: 30 * DAY,
            history_count: 64,
            lane_ack_wait: Duration::from_secs(30),
            lane_pending_max: 10_000,
            lane_takeover: None,
            job_ack_wait: Duration::from_secs(60),
        }
    }
}

impl StreamSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`StreamError::Settings`] with what to change.
    pub fn validate(&self) -> Result<(), StreamError> {
        let wrong = |detail: &str| Err(StreamError::Settings { detail: detail.to_owned() });
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return wrong("the number of partitions must be 1 to 1024");
        }
        if !(1..=5).contains(&self.replicas) {
            return wrong("the number of replicas must be 1 to 5");
        }
        if self.history_count < 1 || self.lane_pending_max < 1 {
            return wrong("the history and the pending limit of a lane must be at least 1");
        }
        if self.lane_takeover.is_some_and(|takeover| takeover <= self.lane_ack_wait) {
            return wrong("a lane's take-over time must be longer than its acknowledgement wait");
        }
        Ok(())
    }
}

/// The durable consumer of a lane.
pub fn lane_consumer(partition: u16) -> String {
    format!("relink-{partition}")
}

/// Everything relink needs to exist, in the order in which it must be created.
pub fn declarations(subjects: &Subjects, settings: &StreamSettings) -> Vec<Declaration> {
    let mut all = vec![
        input_stream(subjects, settings),
        output_stream(subjects, settings),
        dead_stream(subjects, settings),
        bucket_stream(subjects, settings),
    ];
    all.extend((0..settings.partitions).map(|partition| lane(subjects, settings, partition)));
    all.push(jobs(subjects, settings));
    all
}

/// Creates what is missing and compares what exists, all of it.
///
/// # Errors
/// The first [`StreamError`]; what was created before it stays, and the next start continues there.
pub async fn ensure_all(
    context: &jetstream::Context,
    subjects: &Subjects,
    settings: &StreamSettings,
) -> Result<(), StreamError> {
    settings.validate()?;
    for declaration in declarations(subjects, settings) {
        declaration.ensure(context).await?;
    }
    Ok(())
}

fn input_stream(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = stream::Config {
        subjects: vec![subjects.input_wildcard()],
        subject_transform: Some(SubjectTransform {
            source: subjects.input_wildcard(),
            destination: subjects.input_transform(settings.partitions),
        }),
        max_age: settings.input_age_max,
        allow_atomic_publish: true,
        ..base(subjects.input_stream(), "What was said about links: webhooks, API errors, observations.", settings)
    };
    let fields = &["subjects", "subject_transform", "max_age", "max_msgs_per_subject", "allow_atomic"];
    Declaration::stream(config, fields)
}

fn output_stream(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = stream::Config {
        subjects: vec![subjects.output_wildcard()],
        max_messages_per_subject: settings.history_count,
        allow_atomic_publish: true,
        allow_direct: true,
        allow_message_ttl: true,
        ..base(subjects.output_stream(), "What relink decided: states, notices and jobs of every link.", settings)
    };
    let fields = &["subjects", "max_msgs_per_subject", "max_age", "allow_atomic", "allow_direct", "allow_msg_ttl"];
    Declaration::stream(config, fields)
}

fn dead_stream(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = stream::Config {
        subjects: vec![subjects.dead_wildcard()],
        // A lane that stops between setting aside and acknowledging sets aside again, well within an hour.
        duplicate_window: Duration::from_secs(60 * 60),
        allow_direct: true,
        ..base(subjects.dead_stream(), "Messages relink could not read, with their bytes and the reason.", settings)
    };
    Declaration::stream(config, &["subjects", "duplicate_window", "allow_direct"])
}

fn bucket_stream(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let bucket = subjects.bucket();
    let transform = SubjectTransform {
        source: subjects.state_wildcard(),
        destination: format!("$KV.{bucket}.{{{{wildcard(1)}}}}"),
    };
    let source = Source { name: subjects.output_stream(), subject_transforms: vec![transform], ..Source::default() };
    let config = stream::Config {
        sources: Some(vec![source]),
        max_messages_per_subject: 1,
        allow_direct: true,
        ..base(
            format!("KV_{bucket}"),
            "The last state of every link, for any client. A view: only NATS writes it.",
            settings,
        )
    };
    Declaration::stream(config, &["sources", "max_msgs_per_subject", "allow_direct"])
}

fn base(name: String, description: &str, settings: &StreamSettings) -> stream::Config {
    stream::Config {
        name,
        description: Some(description.to_owned()),
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        ..stream::Config::default()
    }
}

fn lane(subjects: &Subjects, settings: &StreamSettings, partition: u16) -> Declaration {
    let mut config = pull::Config {
        durable_name: Some(lane_consumer(partition)),
        filter_subject: subjects.lane(partition),
        ack_policy: AckPolicy::All,
        ack_wait: settings.lane_ack_wait,
        max_ack_pending: settings.lane_pending_max,
        max_deliver: -1,
        ..pull::Config::default()
    };
    if let Some(takeover) = settings.lane_takeover {
        config.priority_policy = PriorityPolicy::PinnedClient;
        config.priority_groups = vec![LANE_GROUP.to_owned()];
        config.priority_timeout = takeover;
    }
    let fields = &[
        "filter_subject",
        "ack_policy",
        "ack_wait",
        "max_ack_pending",
        "max_deliver",
        "priority_policy",
        "priority_groups",
        "priority_timeout",
    ];
    Declaration::consumer(subjects.input_stream(), config, fields)
}

fn jobs(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = pull::Config {
        durable_name: Some(JOBS_CONSUMER.to_owned()),
        filter_subject: subjects.job_wildcard(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.job_ack_wait,
        // Jobs that are put off count as pending. A thousand of them, the server's default, would hold up all others.
        max_ack_pending: JOBS_PENDING_MAX,
        max_deliver: -1,
        ..pull::Config::default()
    };
    let fields = &["filter_subject", "ack_policy", "ack_wait", "max_deliver"];
    Declaration::consumer(subjects.output_stream(), config, fields)
}

/// Which stream a sequence number belongs to. A stream that is deleted and created again starts at 1 again: its name is the
/// same, its identity is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamIdentity {
    /// The stream's name.
    pub stream: String,
    /// When it was created, in nanoseconds since the Unix epoch (`created` of `STREAM.INFO`).
    pub created_ns: i128,
}

impl StreamIdentity {
    /// The identity of the stream that `info` describes.
    pub fn of(info: &Info) -> Self {
        Self { stream: info.config.name.clone(), created_ns: info.created.unix_timestamp_nanos() }
    }
}

impl std::fmt::Display for StreamIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}@{}", self.stream, self.created_ns)
    }
}

/// A stream's identity and how far it reaches. Compare both with what was remembered: a host crash can take a stream's
/// tail, and its sequence numbers are given out a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamExtent {
    /// Which stream.
    pub identity: StreamIdentity,
    /// The first sequence still there.
    pub first_sequence: u64,
    /// The last sequence given out; 0 in a new stream.
    pub last_sequence: u64,
}

/// Asks the server for a stream's identity and extent.
///
/// # Errors
/// [`StreamError::Api`] when the stream is not there or the server does not answer.
pub async fn extent(context: &jetstream::Context, stream: &str) -> Result<StreamExtent, StreamError> {
    let stream =
        context.get_stream(stream).await.map_err(|error| StreamError::api("read", "stream", stream, &error))?;
    let info = stream.cached_info();
    Ok(StreamExtent {
        identity: StreamIdentity::of(info),
        first_sequence: info.state.first_sequence,
        last_sequence: info.state.last_sequence,
    })
}
