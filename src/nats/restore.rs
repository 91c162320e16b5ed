//! Fills a new output stream from the store.
//!
//! If `KV_links` was deleted, the store still has the last state of every link, the committed offsets and the incidents. The node would
//! throw the store away, because it belongs to another stream, and handle all inputs again: every link would start at version 1, and the
//! ids of its notices (`ce-id`) would come a second time, so that subscribers drop them as known. So before the node takes the fences of a
//! new stream, the driver publishes the contents of the store on it. The node then reads its states from the stream as after any loss of
//! the store. The history of the links is lost.
//!
//! A purge of the stream has the same effect as a deletion, and is repaired in the same way.
//!
//! A stream is new if no process has taken a fence on it. Each batch is refused once a process has taken one, so a restore can neither be
//! mixed with the commits of another process nor follow them. A restore that was interrupted is repeated, without the batches that are
//! stored already.

use std::time::Duration;

use super::batch::{BatchMessage, Batches};
use super::commit::to_batch_message;
use super::streams_read::Streams;
use crate::contract::{Address, institution_token};
use crate::engine::Message;
use crate::link::LinkId;
use crate::node::StreamFacts;
use crate::store::{Page, Query, Store, StoredLink, pages};

/// The most messages of one batch.
const BATCH_MESSAGES: usize = 500;

/// The time limit of a whole restore: a million links take about a minute.
pub(super) const RESTORE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Publishes the contents of the store, if the output stream is new and the store belongs to an earlier one, or if the stream was purged.
/// Returns whether it did.
///
/// # Errors
/// The error text of a request or of the store.
pub(super) async fn restore<S: Store>(
    store: &S,
    streams: &Streams,
    batches: &Batches,
    output: StreamFacts,
) -> Result<bool, String> {
    let blocking = |error: crate::store::StoreError| error.to_string();
    let position = tokio::task::block_in_place(|| store.position()).map_err(blocking)?;
    let Some(position) = position else { return Ok(false) };
    let Streams { subjects, .. } = streams;
    if streams.last_output(&subjects.fence_wildcard()).await?.is_some() {
        return Ok(false);
    }
    // A stream with a size limit may have deleted the fences only.
    let is_same_stream = position.stream_created_ns == output.created_ns;
    if is_same_stream && streams.last_output(&subjects.state_wildcard()).await?.is_some() {
        return Ok(false);
    }
    let (mut links_count, mut unreadable_count) = (0_u64, 0_u64);
    let mut all_pages = pages(store, Query { limit: BATCH_MESSAGES, ..Query::default() });
    while let Some(page) = tokio::task::block_in_place(|| all_pages.next()) {
        let Page { links, unreadable, .. } = page.map_err(blocking)?;
        unreadable_count += unreadable.len() as u64;
        let mut messages = Vec::with_capacity(links.len());
        for link in links {
            match state_message(link) {
                Some(message) => messages.push(to_batch_message(&streams.subjects, message)),
                None => unreadable_count += 1,
            }
        }
        links_count += messages.len() as u64;
        publish(streams, batches, messages).await?;
    }
    let (incidents, offsets) =
        tokio::task::block_in_place(|| Ok((store.incidents()?, store.offsets()?))).map_err(blocking)?;
    let incidents = incidents.into_iter().map(|body| Message {
        address: Address::Incident(institution_token(&body.institution)),
        id: body.message_id(),
        at: body.at.0,
        body: serde_json::to_vec(&body).expect("bodies have string keys and no failing serializers").into(),
        trace: None,
    });
    // The offsets come last: the inputs up to them are the ones whose results have been published before.
    let offsets = offsets.into_iter().map(|(partition, offset)| Message::of_offset(partition, &offset));
    let messages: Vec<BatchMessage> =
        incidents.chain(offsets).map(|message| to_batch_message(&streams.subjects, message)).collect();
    for messages in messages.chunks(BATCH_MESSAGES) {
        publish(streams, batches, messages.to_vec()).await?;
    }
    tracing::warn!(
        links_count,
        unreadable_count,
        "the output stream is new or was purged: relink has published the last states of its links on it again, from its store"
    );
    Ok(true)
}

/// The state message that the record came from; `None` if the record cannot be read.
fn state_message(link: StoredLink) -> Option<Message> {
    let record = link.parse().ok()?;
    let id: LinkId = record.link_id.parse().ok()?;
    let message_id = format!("{id}.{}.0", record.version);
    Some(Message {
        address: Address::State(id),
        id: message_id,
        at: record.because.at.0,
        body: link.record.into(),
        trace: None,
    })
}

async fn publish(streams: &Streams, batches: &Batches, mut messages: Vec<BatchMessage>) -> Result<(), String> {
    let Some(first) = messages.first_mut() else { return Ok(()) };
    // A batch is stored as a whole, and a repeated restore makes the same batches: the store does not change before the fences are taken.
    if streams.last_output(&first.subject).await?.is_some_and(|body| body == first.payload) {
        return Ok(());
    }
    *first = std::mem::take(first).expecting(streams.subjects.fence(0), 0);
    batches
        .publish_atomic(messages)
        .await
        .map(drop)
        .map_err(|error| format!("cannot restore the output stream: {error}"))
}
