//! Declares relink's streams and consumers. No other file does.
//!
//! | stream | holds | consumers |
//! |---|---|---|
//! | `BELVO` | inputs, by partition (a hash of the link id) | `relink-<p>`: partition *p*, in order, acknowledged up to a message; [`OutboundConsumer`] |
//! | `KV_links` | outputs: states, notices, jobs, refusals, incidents, fences, offsets | `relink-jobs`: calls to Belvo, one by one; [`OutboundConsumer`] |
//! | `RELINK_DEAD` | dead letters | |
//!
//! The output stream is the key-value bucket `links`: the state of a link is the value of a key, so key-value clients of NATS read the
//! states, and nothing is copied for them.
//!
//! relink creates a missing stream or consumer. It compares an existing one in the fields that it depends on; the error for a difference
//! names the command that repairs it.
//!
//! relink must never edit or delete an existing stream or consumer, because a restart must not undo an operator's decision.
//! Next: `declaration.rs` has the comparison; `subject.rs` has the names.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PriorityPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, Info, StorageType, SubjectTransform};
use async_nats::jetstream::{self};

use crate::nats::declaration::{Declaration, Ensured, StreamError, is_missing};
use crate::nats::limit::{REQUEST_TIMEOUT, within_or};
use crate::nats::subject::Subjects;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most partitions. Each partition needs a consumer and a task; 16 partitions together handle about 28 000 events a second.
pub const PARTITIONS_MAX: u16 = 1_024;

/// The priority group of a partition consumer that is pinned to one client. The value is from version 0.1, and existing consumers have it.
pub const PARTITION_GROUP: &str = "lane";

/// The consumer of jobs.
pub const JOBS_CONSUMER: &str = "relink-jobs";

/// The most jobs that are delivered or deferred at once: enough for several jobs per link of a large fleet.
const JOBS_PENDING_MAX: i64 = 1_000_000;

/// The most messages that an outbound consumer has delivered and that are not acknowledged: relink keeps them in memory.
pub const OUTBOUND_PENDING_MAX: usize = 2_000;

/// A consumer of the messages that relink sends over HTTP. It exists only if the settings name an address for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutboundConsumer {
    /// Notices and incidents.
    Notices,
    /// The webhooks of Belvo.
    Webhooks,
}

impl OutboundConsumer {
    /// The name of the consumer.
    pub const fn durable(self) -> &'static str {
        match self {
            Self::Notices => "relink-notices",
            Self::Webhooks => "relink-webhooks",
        }
    }

    /// The stream that it reads.
    pub fn stream(self, subjects: &Subjects) -> String {
        match self {
            Self::Notices => subjects.output_stream(),
            Self::Webhooks => subjects.input_stream(),
        }
    }

    /// The subjects that it reads. No subject matches two of them.
    pub fn filters(self, subjects: &Subjects) -> Vec<String> {
        match self {
            Self::Notices => vec![subjects.notice_wildcard(), subjects.incident_wildcard()],
            Self::Webhooks => vec![subjects.stored_webhooks()],
        }
    }
}

/// The settings of streams and consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// The number of partitions, 1 to [`PARTITIONS_MAX`]. It is fixed when the input stream is created, because another number would send
    /// the next inputs of a link to another partition.
    pub partitions: u16,
    /// The number of copies of every stream in a NATS cluster, 1 to 5.
    pub replicas: usize,
    /// How long an input is kept, so that it can be read again after a loss of data.
    pub input_age_max: Duration,
    /// The number of messages that each output subject keeps: the length of a link's history.
    pub history_count: i64,
    /// The largest size of a new stream, in bytes; `None`: no limit. A full stream refuses new messages, because a deleted message could be
    /// the only state of a link.
    pub bytes_max: Option<i64>,
    /// After this time without an acknowledgement, JetStream delivers a message of a partition again.
    pub partition_ack_wait: Duration,
    /// The most messages of a partition that are delivered and not acknowledged.
    pub partition_pending_max: i64,
    /// With several nodes: after this time without a pull, JetStream gives the partition to another node (pinned-client priority group).
    /// It must be longer than `partition_ack_wait`; otherwise the new owner gets new messages before the unacknowledged messages of the
    /// old owner. `None` for one node.
    pub partition_takeover: Option<Duration>,
    /// After this time without an acknowledgement, JetStream delivers a job again.
    pub job_ack_wait: Duration,
    /// The consumers of messages that relink sends over HTTP.
    pub outbound: Vec<OutboundConsumer>,
    /// After this time without a sign of life, JetStream delivers a message of such a consumer again.
    pub outbound_ack_wait: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            partitions: 16,
            replicas: 1,
            input_age_max: 30 * DAY,
            history_count: 64,
            bytes_max: None,
            partition_ack_wait: Duration::from_secs(30),
            partition_pending_max: 10_000,
            partition_takeover: None,
            job_ack_wait: Duration::from_secs(60),
            outbound: Vec::new(),
            outbound_ack_wait: Duration::from_secs(30),
        }
    }
}

impl StreamSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`StreamError::Settings`], which names the setting to change.
    pub fn validate(&self) -> Result<(), StreamError> {
        let wrong = |detail: &str| Err(StreamError::Settings { detail: detail.to_owned() });
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return wrong("the number of partitions must be 1 to 1024");
        }
        if !(1..=5).contains(&self.replicas) {
            return wrong("the number of replicas must be 1 to 5");
        }
        if self.history_count < 1 || self.partition_pending_max < 1 {
            return wrong("the history and the pending limit of a partition must be at least 1");
        }
        if self.partition_takeover.is_some_and(|takeover| takeover <= self.partition_ack_wait) {
            return wrong("a partition's take-over time must be longer than its acknowledgement wait");
        }
        Ok(())
    }
}

/// The durable consumer of a partition.
pub fn partition_consumer(partition: u16) -> String {
    format!("relink-{partition}")
}

/// What the server knows of the consumer of a partition.
///
/// # Errors
/// The error text of the client.
pub(super) async fn partition_info(
    context: &jetstream::Context,
    subjects: &Subjects,
    partition: u16,
) -> Result<consumer::Info, String> {
    let (stream, name) = (subjects.input_stream(), partition_consumer(partition));
    let consumer: Result<PullConsumer, _> = context.get_consumer_from_stream(&name, &stream).await;
    consumer.map(|consumer| consumer.cached_info().clone()).map_err(|error| format!("consumer {name}: {error}"))
}

/// The names of the three streams.
pub fn names(subjects: &Subjects) -> [String; 3] {
    [subjects.input_stream(), subjects.output_stream(), subjects.dead_stream()]
}

/// All streams and consumers of relink, in the order in which they must be created.
pub fn declarations(subjects: &Subjects, settings: &StreamSettings) -> Vec<Declaration> {
    let mut all =
        vec![input_stream(subjects, settings), output_stream(subjects, settings), dead_stream(subjects, settings)];
    all.extend((0..settings.partitions).map(|partition| declared_consumer(subjects, settings, partition)));
    all.push(jobs(subjects, settings));
    all.extend(settings.outbound.iter().map(|consumer| outbound(subjects, settings, *consumer)));
    all
}

/// Creates every missing stream and consumer, and compares the existing ones.
///
/// # Errors
/// The first [`StreamError`]. Streams that were created before it stay, and the next start continues with the others.
pub async fn ensure_all(
    context: &jetstream::Context,
    subjects: &Subjects,
    settings: &StreamSettings,
) -> Result<(), StreamError> {
    settings.validate()?;
    limited(refuse_streams_of_0_2(context, subjects)).await?;
    ensure_each(context, &declarations(subjects, settings)).await?;
    warn_of_evictions(context, &subjects.output_stream()).await
}

/// An operator may limit the size of the output stream. If it then deletes its oldest messages, it forgets links.
async fn warn_of_evictions(context: &jetstream::Context, name: &str) -> Result<(), StreamError> {
    let stream = context.get_stream(name).await.map_err(|error| StreamError::api("read", "stream", name, &error))?;
    let config = &stream.cached_info().config;
    let is_limited = config.max_bytes > 0 || config.max_messages > 0;
    if is_limited && config.discard == DiscardPolicy::Old {
        tracing::error!(
            stream.name = name,
            stream.max_bytes = config.max_bytes,
            stream.max_messages = config.max_messages,
            "the size of the stream is limited, and NATS deletes its oldest messages when it is full: relink would forget the links whose \
             states are deleted. Remove the limit, or let NATS refuse new messages instead: `nats stream edit {name} --discard=new`"
        );
    }
    Ok(())
}

async fn ensure_each(context: &jetstream::Context, all: &[Declaration]) -> Result<(), StreamError> {
    for declaration in all {
        if let Ensured::Paused { seconds } = limited(declaration.ensure(context)).await? {
            tracing::warn!(stream.name = %declaration.name(), seconds, "a consumer of relink is paused, so its messages wait");
        }
    }
    Ok(())
}

/// The consumers that the server cannot create because of their state ([`StreamError::ConsumerState`]), as stream and consumer.
pub async fn consumers_with_damaged_state(
    context: &jetstream::Context,
    subjects: &Subjects,
    settings: &StreamSettings,
) -> Vec<(String, String)> {
    let mut damaged = Vec::new();
    for declaration in declarations(subjects, settings) {
        if let Err(StreamError::ConsumerState { stream, consumer, .. }) = limited(declaration.ensure(context)).await {
            damaged.push((stream, consumer));
        }
    }
    damaged
}

/// relink 0.2 had its outputs in `LINKS`, and a copy of the states in `KV_links`. These streams must be removed by an operator, because the
/// new output stream has the name of one and the subjects of the other.
pub(crate) async fn refuse_streams_of_0_2(
    context: &jetstream::Context,
    subjects: &Subjects,
) -> Result<(), StreamError> {
    let [notices, _states] = &subjects.output_wildcards()[..] else { return Ok(()) };
    let is_old_output = |config: &stream::Config| config.subjects.contains(notices);
    let is_old_copy = |config: &stream::Config| config.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    let mut found = Vec::new();
    for (name, is_old) in [
        (subjects.output_stream_0_2(), &is_old_output as &(dyn Fn(&stream::Config) -> bool + Sync)),
        (subjects.output_stream(), &is_old_copy),
    ] {
        match context.get_stream(&name).await {
            Ok(stream) if is_old(&stream.cached_info().config) => found.push(name),
            Ok(_) => {}
            Err(error) if is_missing(&error.kind()) => {}
            Err(error) => return Err(StreamError::api("read", "stream", &name, &error)),
        }
    }
    if found.is_empty() { Ok(()) } else { Err(StreamError::OfVersion02 { streams: found }) }
}

/// Awaits a request with a time limit.
pub(crate) async fn limited<T>(request: impl Future<Output = Result<T, StreamError>>) -> Result<T, StreamError> {
    let late = || StreamError::api("read", "stream or consumer", "of relink", &"NATS did not answer in time");
    within_or(REQUEST_TIMEOUT, late, request).await
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
        ..base(subjects.input_stream(), "Inputs about links: webhooks, API errors, observations.", settings)
    };
    let fields = &["subjects", "subject_transform", "max_age", "max_msgs_per_subject", "allow_atomic"];
    Declaration::stream(
        config,
        fields,
        "inputs that were not handled yet are lost; a sweep finds the changes of their links, if relink has Belvo's keys",
    )
}

fn output_stream(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = stream::Config {
        subjects: subjects.output_wildcards(),
        max_messages_per_subject: settings.history_count,
        allow_atomic_publish: true,
        allow_direct: true,
        allow_message_ttl: true,
        discard: DiscardPolicy::New,
        // Every key-value client can read such a bucket. A rollup would let any client delete all messages of a key or of the stream.
        allow_rollup: false,
        // Operators must be able to remove a message that another program has published.
        deny_delete: false,
        ..base(
            subjects.output_stream(),
            "Outputs of relink. The key-value bucket has the state of every link; only relink may write it.",
            settings,
        )
    };
    let fields = &["subjects", "max_msgs_per_subject", "max_age", "allow_atomic", "allow_direct", "allow_msg_ttl"];
    Declaration::stream(
        config,
        fields,
        "the history of all links is lost; relink publishes their last states again from its store",
    )
}

fn dead_stream(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = stream::Config {
        subjects: vec![subjects.dead_wildcard()],
        // After a crash between a dead letter and its commit, the node stores the letter again, long before an hour is over.
        duplicate_window: Duration::from_secs(60 * 60),
        allow_direct: true,
        // Not compared: a stream of an older relink does not take batches, and its letters are published one by one.
        allow_atomic_publish: true,
        ..base(
            subjects.dead_stream(),
            "Messages that relink could not handle, with their bytes and the reason.",
            settings,
        )
    };
    Declaration::stream(config, &["subjects", "duplicate_window", "allow_direct"], "all dead letters are lost")
}

fn base(name: String, description: &str, settings: &StreamSettings) -> stream::Config {
    stream::Config {
        name,
        description: Some(description.to_owned()),
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: settings.bytes_max.unwrap_or(-1),
        discard: settings.bytes_max.map_or(DiscardPolicy::Old, |_| DiscardPolicy::New),
        ..stream::Config::default()
    }
}

fn declared_consumer(subjects: &Subjects, settings: &StreamSettings, partition: u16) -> Declaration {
    let mut config = pull::Config {
        durable_name: Some(partition_consumer(partition)),
        filter_subject: subjects.partition(partition),
        ack_policy: AckPolicy::All,
        ack_wait: settings.partition_ack_wait,
        max_ack_pending: settings.partition_pending_max,
        max_deliver: -1,
        ..pull::Config::default()
    };
    if let Some(takeover) = settings.partition_takeover {
        config.priority_policy = PriorityPolicy::PinnedClient;
        config.priority_groups = vec![PARTITION_GROUP.to_owned()];
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
    let loss = "nothing is lost, because the partition continues after its committed offset";
    Declaration::consumer(subjects.input_stream(), config, fields, loss)
}

fn jobs(subjects: &Subjects, settings: &StreamSettings) -> Declaration {
    let config = pull::Config {
        durable_name: Some(JOBS_CONSUMER.to_owned()),
        filter_subject: subjects.job_wildcard(),
        // A consumer that was deleted and created again delivers the last job of each link, and not all earlier ones.
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.job_ack_wait,
        // Deferred jobs count as pending. With the server's default of 1000, a thousand deferred jobs would block all other jobs.
        max_ack_pending: JOBS_PENDING_MAX,
        max_deliver: -1,
        ..pull::Config::default()
    };
    let fields = &["filter_subject", "ack_policy", "ack_wait", "max_deliver"];
    let loss = "nothing is lost, but the last job of each link is done again";
    Declaration::consumer(subjects.output_stream(), config, fields, loss)
}

fn outbound(subjects: &Subjects, settings: &StreamSettings, consumer: OutboundConsumer) -> Declaration {
    let mut config = pull::Config {
        durable_name: Some(consumer.durable().to_owned()),
        // Otherwise the first start would send the notices of outages that are long over.
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.outbound_ack_wait,
        max_ack_pending: i64::try_from(OUTBOUND_PENDING_MAX).expect("a small number"),
        max_deliver: -1,
        ..pull::Config::default()
    };
    match <[String; 1]>::try_from(consumer.filters(subjects)) {
        Ok([filter]) => config.filter_subject = filter,
        Err(filters) => config.filter_subjects = filters,
    }
    let fields = &["filter_subject", "filter_subjects", "ack_policy", "max_ack_pending", "max_deliver"];
    let loss = match consumer {
        OutboundConsumer::Notices => "notices that the HTTP address for notices does not have yet are not sent to it",
        OutboundConsumer::Webhooks => "webhooks that were not forwarded yet are not forwarded",
    };
    Declaration::consumer(consumer.stream(subjects), config, fields, loss)
}

/// The identity of a stream. A stream that is deleted and created again has the same name, and assigns sequences from 1 again; only its
/// creation time is different.
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

/// A stream's identity, and its first and last sequence. A reader must compare them with the values of its last read, because after a
/// host crash a stream may have lost its last messages, and assigns their sequences again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamExtent {
    /// The identity of the stream.
    pub identity: StreamIdentity,
    /// The first sequence that the stream still has.
    pub first_sequence: u64,
    /// The last sequence that the stream has assigned; 0 in a new stream.
    pub last_sequence: u64,
}

/// Reads a stream's identity and extent from the server.
///
/// # Errors
/// [`StreamError::Api`] if the stream does not exist or the server does not answer.
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
