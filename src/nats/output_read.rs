//! Reads the output stream, for catching up.
//!
//! A few messages are read by requests, because a consumer of a stream with a million subjects takes the server half a second to create.
//! A pull consumer reads more. If the connection is closed meanwhile, a message that the client cannot parse may be the reason
//! (`foreign.rs`). Then the next messages are read one by one, such messages are stepped over, and the pull goes on behind them. The marker
//! with which a key-value client deletes a key is stepped over too.

use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;

use super::foreign::{self, Walk};
use super::limit::{REQUEST_TIMEOUT, reconnected, within};
use super::pull::{Pulled, next_message, reading};
use super::raw_message::{self, RawMessage, Wanted};
use super::streams_read::Streams;
use super::subject::{OutputSubject, Subjects};
use crate::node::{Input, OutputKind, OutputMessage, RequestId};

/// The most messages of the output stream in one `OutputRead`.
const CHUNK_MESSAGES: usize = 1_000;

/// How many messages are read one by one behind the last one that cannot be parsed.
const LOOK_AHEAD: usize = 16;

/// The most messages that are read by requests, and how many requests are open at once. A node that starts again after a clean end has its
/// own fences to read.
const BY_REQUEST_MAX: u64 = 100;
const REQUESTS_AT_ONCE: usize = 16;

/// How many pulls in a row may be interrupted without progress.
const IDLE_MAX: u32 = 2;

/// Reads the messages of the output stream after `after`, or the last message of each subject, and hands them over in chunks, up to the
/// sequence `up_to`.
///
/// # Errors
/// The error text of a request, or of a read that makes no progress.
pub(super) async fn read_output(
    streams: &Streams,
    request: RequestId,
    after: Option<u64>,
    up_to: u64,
    handed_over: &mpsc::Sender<Input>,
) -> Result<(), String> {
    let (is_rebuild, messages, reached) = (after.is_none(), Vec::new(), after.unwrap_or(0));
    let mut read = OutputRead { streams, request, is_rebuild, up_to, handed_over, messages, reached };
    if after.is_some_and(|after| up_to.saturating_sub(after) <= BY_REQUEST_MAX) {
        read.by_requests().await?;
    }
    let mut deliver_policy = after.map_or(DeliverPolicy::LastPerSubject, |_| behind(read.reached));
    let mut idle = 0;
    while read.reached < up_to {
        let reached_before = read.reached;
        let Err(problem) = read.pull(deliver_policy).await? else { return Ok(()) };
        let has_stepped = read.step_over().await?;
        idle = if has_stepped || read.reached > reached_before { 0 } else { idle + 1 };
        if idle > IDLE_MAX {
            return Err(problem);
        }
        tracing::warn!(
            problem,
            read.sequence = read.reached,
            "the read of the output stream was interrupted and continues"
        );
        // No longer only the last messages: the one that ended the pull may be far away among them, but the next one of all is near.
        deliver_policy = behind(read.reached);
    }
    Ok(())
}

fn behind(sequence: u64) -> DeliverPolicy {
    DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 }
}

/// An open read.
struct OutputRead<'a> {
    streams: &'a Streams,
    request: RequestId,
    /// Whether it reads the last message of each subject.
    is_rebuild: bool,
    up_to: u64,
    handed_over: &'a mpsc::Sender<Input>,
    /// The messages that are not handed over yet.
    messages: Vec<OutputMessage>,
    reached: u64,
}

impl OutputRead<'_> {
    /// Reads the messages up to `up_to` by a request each. The stream may have lost the last of them to newer ones of the same subjects; then
    /// a pull reads those.
    async fn by_requests(&mut self) -> Result<(), String> {
        let Streams { context, subjects, .. } = self.streams;
        let stream = subjects.output_stream();
        let read =
            async |sequence| within(REQUEST_TIMEOUT, raw_message::read(context, &stream, &Wanted::at(sequence))).await;
        let mut arriving = stream::iter(self.reached + 1..=self.up_to).map(read).buffered(REQUESTS_AT_ONCE);
        while let Some(message) = arriving.next().await {
            let Some(message) = message? else { continue };
            let kind = kind(subjects, &message.subject);
            // No message of another subject is relink's own state, whatever its headers are.
            if kind == OutputKind::Other || foreign::may_be_own(&message) {
                let RawMessage { sequence, payload, .. } = message;
                self.push(OutputMessage { sequence, kind, body: payload }).await;
                continue;
            }
            foreign::report(&message);
            let in_its_place = self.in_place_of(&message.subject, message.sequence).await?;
            self.push(in_its_place).await;
        }
        Ok(())
    }

    /// Pulls messages. The inner error is the reason why the pull was interrupted.
    async fn pull(&mut self, deliver_policy: DeliverPolicy) -> Result<Result<(), String>, String> {
        let Streams { context, subjects, .. } = self.streams;
        let failed = |error: &dyn std::fmt::Display| format!("cannot read the output stream: {error}");
        let config = reading(read_filter(subjects), deliver_policy);
        let mut reconnected = std::pin::pin!(reconnected(&context.client()));
        let begun = Pulled::begin(context, &subjects.output_stream(), config, reconnected.as_mut()).await;
        let (mut arriving, _pending) = begun.map_err(|error| failed(&error))?;
        while self.reached < self.up_to {
            let message = match next_message(&mut arriving, reconnected.as_mut(), &failed).await {
                Ok(message) => message,
                Err(problem) => return Ok(Err(problem)),
            };
            let info = message.info().map_err(|error| failed(&error))?;
            let sequence = info.stream_sequence;
            if foreign::is_deletion(message.headers.as_ref()) {
                foreign::report_at(sequence, &message.subject);
                let in_its_place = self.in_place_of(&message.subject, sequence).await?;
                self.push(in_its_place).await;
                continue;
            }
            let kind = kind(subjects, &message.subject);
            self.push(OutputMessage { sequence, kind, body: message.message.payload }).await;
        }
        Ok(Ok(()))
    }

    /// Reads the next messages one by one, up to the last one that cannot be parsed, if there is one near. Returns whether there was.
    async fn step_over(&mut self) -> Result<bool, String> {
        let Streams { context, subjects, .. } = self.streams;
        let mut walk = Walk::new(context, subjects.output_stream(), read_filter(subjects), self.reached + 1);
        let (mut parsable, mut has_stepped) = (Vec::new(), false);
        while parsable.len() < LOOK_AHEAD {
            let Some(message) = walk.next().await?.filter(|message| message.sequence <= self.up_to) else { break };
            if foreign::may_be_own(&message) {
                parsable.push(message);
                continue;
            }
            has_stepped = true;
            for message in std::mem::take(&mut parsable) {
                let RawMessage { subject, sequence, payload, .. } = message;
                self.push(OutputMessage { sequence, kind: kind(subjects, &subject), body: payload }).await;
            }
            foreign::report(&message);
            let in_its_place = self.in_place_of(&message.subject, message.sequence).await?;
            self.push(in_its_place).await;
        }
        Ok(has_stepped)
    }

    /// What the store gets in place of a message that was stepped over. A rebuild reads only the last message of each subject, so this one
    /// hides relink's own message before it.
    async fn in_place_of(&self, subject: &str, sequence: u64) -> Result<OutputMessage, String> {
        let Streams { context, subjects, .. } = self.streams;
        let hidden = if self.is_rebuild {
            foreign::last_own_before(context, subjects.output_stream(), subject, sequence, foreign::may_be_own).await?
        } else {
            None
        };
        let (kind, body) =
            hidden.map_or((OutputKind::Other, Bytes::new()), |own| (kind(subjects, subject), own.payload));
        Ok(OutputMessage { sequence, kind, body })
    }

    async fn push(&mut self, message: OutputMessage) {
        self.reached = message.sequence;
        self.messages.push(message);
        if self.messages.len() >= CHUNK_MESSAGES || self.reached >= self.up_to {
            let (request, reached) = (self.request, self.reached);
            let input = Input::OutputRead { request, messages: std::mem::take(&mut self.messages), reached };
            // A closed channel means that the node has ended.
            let _ = self.handed_over.send(input).await;
        }
    }
}

fn kind(subjects: &Subjects, subject: &str) -> OutputKind {
    match subjects.parse_output(subject) {
        Some(OutputSubject::State { .. }) => OutputKind::State,
        Some(OutputSubject::Offset { partition }) => OutputKind::Offset(partition),
        Some(OutputSubject::Incident { .. }) => OutputKind::Incident,
        Some(OutputSubject::Commit { .. }) => OutputKind::Commit,
        Some(_) | None => OutputKind::Other,
    }
}

/// The subjects of the output stream that catching up reads. Fences and the last messages of commits change nothing in the store, but a
/// read ends at one of them, and the last messages of commits have the digest of all links.
fn read_filter(subjects: &Subjects) -> Vec<String> {
    vec![
        subjects.state_wildcard(),
        subjects.incident_wildcard(),
        subjects.offset_wildcard(),
        subjects.offset_wildcard_0_1(),
        subjects.fence_wildcard(),
        subjects.commit_wildcard(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Address;
    use crate::nats::envelope;

    /// A read that could not see the message at which it ends would wait for the next one.
    #[test]
    fn the_filter_has_every_message_that_is_applied_and_every_message_at_which_a_read_ends() {
        let subjects = Subjects::default();
        let filter = read_filter(&subjects);
        for address in [
            Address::State("a".parse().unwrap()),
            Address::Incident("erebor".to_owned()),
            Address::Offset(3),
            Address::Fence(3),
            Address::Commit("writer-1".to_owned()),
        ] {
            let subject = envelope::subject(&subjects, &address);
            let (start, _last_token) = subject.rsplit_once('.').unwrap();
            assert!(filter.contains(&format!("{start}.*")), "{subject}");
        }
    }
}
