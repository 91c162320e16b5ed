//! Where a lane goes on: behind its mark, if the mark still speaks of this stream.
//!
//! A sequence number alone is not enough. A stream that was created anew starts at 1 again, and a server that lost its tail in a host
//! crash gives sequence numbers out a second time; either way new input would look old and be dropped in silence. So a mark names the
//! stream's creation and the time of the message it stands at, and both are compared here.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::StreamExt;

use super::stream::StreamExtent;
use crate::contract::Mark;

/// How long to wait for the first message behind a time: the server knows it at once, or there is none.
const FIRST_MESSAGE_WAIT: Duration = Duration::from_secs(2);

/// The sequence up to which a lane's input has been handled.
///
/// # Errors
/// What the server said, if it could not be asked.
pub async fn after_mark(input: &Stream, extent: &StreamExtent, lane: u16, mark: Option<&Mark>) -> Result<u64, String> {
    let Some(mark) = mark else { return Ok(0) };
    if i128::from(mark.stream_created_ns) != extent.identity.created_ns {
        tracing::warn!(lane, "the input stream was created anew; the lane starts at its beginning");
        return Ok(0);
    }
    if mark.sequence <= extent.last_sequence {
        match input.get_raw_message(mark.sequence).await {
            Ok(message) if message.time.unix_timestamp_nanos() == i128::from(mark.stored_at_ns) => {
                return Ok(mark.sequence);
            }
            Ok(_) => {}
            // Aged out of the stream: whatever is there is newer.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(mark.sequence),
            Err(error) => return Err(format!("cannot read message {} of the input stream: {error}", mark.sequence)),
        }
    }
    let handled = first_after(input, mark.stored_at_ns).await?.map_or(extent.last_sequence, |first| first - 1);
    tracing::error!(
        lane,
        mark.sequence,
        stream.last_sequence = extent.last_sequence,
        resumed_behind = handled,
        "the input stream lost its tail and with it what it had acknowledged; the lane goes on with what was stored since"
    );
    Ok(handled)
}

/// The first message stored after a time.
async fn first_after(input: &Stream, stored_at_ns: i64) -> Result<Option<u64>, String> {
    let start_time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(stored_at_ns) + 1)
        .map_err(|error| error.to_string())?;
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartTime { start_time },
        headers_only: true,
        ..pull::OrderedConfig::default()
    };
    let consumer = input.create_consumer(config).await.map_err(|error| error.to_string())?;
    let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
    match tokio::time::timeout(FIRST_MESSAGE_WAIT, messages.next()).await {
        Err(_) | Ok(None) => Ok(None),
        Ok(Some(message)) => {
            let message = message.map_err(|error| error.to_string())?;
            Ok(Some(message.info().map_err(|error| error.to_string())?.stream_sequence))
        }
    }
}
