//! Where the forwarder publishes: a trait, so that the simulation can implement it, and NATS.

use async_nats::HeaderMap;
use futures::future::BoxFuture;

use super::format::{Dead, Entry};
use crate::nats::batch::BatchMessage;
use crate::nats::dead_letter::{DeadLetter, DeadLetters};
use crate::nats::publisher::{PublishError, Publisher};

/// Takes the messages of a journal.
pub trait Target: Send + Sync {
    /// Stores inputs, in order. Returns an outcome for each; one that failed for now is published again.
    ///
    /// If an input is not stored, the later ones must not be stored, unless it was refused for ever: a partition takes a record with a
    /// lower number than one before it for a repeat.
    fn publish(&self, entries: Vec<Entry>) -> BoxFuture<'_, Vec<Result<u64, PublishError>>>;

    /// Stores dead letters, and returns the sequence of each.
    ///
    /// # Errors
    /// The reason, for the log. Some may be stored; all of them are tried again.
    fn set_aside(&self, letters: Vec<(Entry, Dead)>) -> BoxFuture<'_, Result<Vec<u64>, String>>;
}

/// The input stream and the stream of dead letters.
pub struct NatsTarget {
    /// Publishes inputs.
    pub publisher: Publisher,
    /// Stores dead letters.
    pub dead_letters: DeadLetters,
}

impl Target for NatsTarget {
    fn publish(&self, entries: Vec<Entry>) -> BoxFuture<'_, Vec<Result<u64, PublishError>>> {
        let messages = entries.into_iter().map(|Entry { subject, headers, payload, .. }| {
            BatchMessage::new(subject, payload).with_headers(header_map(headers))
        });
        let messages = messages.collect();
        Box::pin(self.publisher.publish_all(messages))
    }

    fn set_aside(&self, letters: Vec<(Entry, Dead)>) -> BoxFuture<'_, Result<Vec<u64>, String>> {
        let letters = letters.into_iter().map(|(entry, dead)| DeadLetter {
            subject: entry.subject,
            headers: header_map(entry.headers),
            payload: entry.payload,
            reason: dead.reason,
            detail: dead.detail,
            input: None,
        });
        let letters: Vec<_> = letters.collect();
        Box::pin(async move { self.dead_letters.publish_all(&letters).await.map_err(|error| error.to_string()) })
    }
}

fn header_map(headers: Vec<(String, String)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value);
    }
    map
}
