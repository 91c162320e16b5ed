//! What `relink doctor` reads from JetStream: whether the streams are as relink needs them, how full they are, and the server's time.
//!
//! Nothing is created or changed here.

use async_nats::jetstream::stream::DiscardPolicy;
use async_nats::jetstream::{self, Context};

use super::declaration::{Ensured, StreamError, is_missing};
use super::limit::{REQUEST_TIMEOUT, within};
use super::stream::{StreamSettings, declarations, limited, names, refuse_streams_of_0_2};
use super::streams_read::server_time;
use super::subject::Subjects;
use crate::link::Timestamp;

/// The streams of relink, read by one connection.
#[derive(Clone, Debug)]
pub struct Inspection {
    context: Context,
    subjects: Subjects,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// Its name.
    pub name: String,
    /// The number of its messages.
    pub messages: u64,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Its largest size, in bytes; `None`: no limit.
    pub bytes_max: Option<u64>,
    /// Whether the server deletes its oldest messages when it is full.
    pub evicts: bool,
    /// The number of its copies.
    pub replicas: usize,
    /// Whether the server is in a cluster, where there can be more copies than one.
    pub is_in_cluster: bool,
    /// The servers whose copy is not current.
    pub behind: Vec<String>,
}

impl Inspection {
    /// Reads by this connection.
    pub fn new(client: async_nats::Client, subjects: Subjects) -> Self {
        Self { context: jetstream::new(client), subjects }
    }

    /// Compares each stream and consumer with its declaration. `None`: it does not exist yet.
    pub async fn compare(&self, settings: &StreamSettings) -> Vec<(String, Result<Option<Ensured>, StreamError>)> {
        let mut compared = Vec::new();
        if let Err(error) = limited(refuse_streams_of_0_2(&self.context, &self.subjects)).await {
            compared.push((self.subjects.output_stream_0_2(), Err(error)));
        }
        for declaration in declarations(&self.subjects, settings) {
            let found = limited(declaration.matches(&self.context)).await;
            compared.push((declaration.name(), found));
        }
        compared
    }

    /// The three streams that exist.
    ///
    /// # Errors
    /// The error text of a request.
    pub async fn streams(&self) -> Result<Vec<StreamReport>, String> {
        let mut reports = Vec::new();
        for name in names(&self.subjects) {
            let found = within(REQUEST_TIMEOUT, async {
                match self.context.get_stream(&name).await {
                    Ok(stream) => Ok(Some(stream.cached_info().clone())),
                    Err(error) if is_missing(&error.kind()) => Ok(None),
                    Err(error) => Err(format!("stream {name}: {error}")),
                }
            });
            let Some(info) = found.await? else { continue };
            let (config, cluster) = (&info.config, info.cluster.as_ref());
            let copies = cluster.map(|cluster| cluster.replicas.as_slice()).unwrap_or_default();
            reports.push(StreamReport {
                messages: info.state.messages,
                bytes: info.state.bytes,
                bytes_max: u64::try_from(config.max_bytes).ok().filter(|max| *max > 0),
                evicts: (config.max_bytes > 0 || config.max_messages > 0) && config.discard == DiscardPolicy::Old,
                replicas: config.num_replicas,
                is_in_cluster: cluster.is_some_and(|cluster| cluster.name.is_some()),
                behind: copies
                    .iter()
                    .filter(|copy| copy.offline || !copy.current)
                    .map(|copy| copy.name.clone())
                    .collect(),
                name,
            });
        }
        Ok(reports)
    }

    /// The time of the server.
    ///
    /// # Errors
    /// The error text of the request, also if the input stream does not exist yet.
    pub async fn server_time(&self) -> Result<Timestamp, String> {
        let stream = self.subjects.input_stream();
        within(REQUEST_TIMEOUT, server_time(&self.context, &stream)).await.map(Timestamp::of)
    }
}
