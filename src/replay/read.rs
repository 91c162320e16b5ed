//! Reads a recording from NATS and replays it.

use std::ops::ControlFlow;

use super::Span;
use super::compare::Comparison;
use super::machine::{Replay, ReplayError};
use super::recorded::Recorded;
use crate::engine::Delivery;
use crate::institution::Components;
use crate::link::{LinkId, Policy};
use crate::nats::recorded::{RecordedMessage, Recordings};
use crate::nats::subject::{OutputSubject, Subjects};

/// The recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// NATS does not answer, or a stream is missing.
    #[error("{0}")]
    Nats(String),
    /// The inputs of the span are not all kept.
    #[error(
        "the inputs before {first_at} are no longer kept (RELINK_INPUT_MAX_AGE): choose a --from at or after that time"
    )]
    Gone {
        /// When the first input that is kept was stored.
        first_at: String,
    },
    /// The replay itself failed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// Replays the recording of this span with another policy. `progress` gets lines for people.
///
/// # Errors
/// [`ReadError`].
pub async fn run(
    recordings: &Recordings,
    span: Span,
    policy: Policy,
    components: Components,
    mut progress: impl FnMut(String),
) -> Result<Comparison, ReadError> {
    let subjects = recordings.subjects();
    let (input, output) = (subjects.input_stream(), subjects.output_stream());
    let inputs = recordings.extent(&input).await.map_err(ReadError::Nats)?;
    match inputs.first_at {
        Some(first_at) if inputs.is_cut && span.from < first_at => {
            return Err(ReadError::Gone { first_at: first_at.to_string() });
        }
        Some(_) | None => {}
    }
    let outputs = recordings.extent(&output).await.map_err(ReadError::Nats)?;
    let mut states = Recorded::new(span, outputs.per_subject);
    let filters = vec![
        subjects.state_wildcard(),
        subjects.notice_wildcard(),
        subjects.observed_wildcard(),
        subjects.job_wildcard(),
        subjects.incident_wildcard(),
    ];
    let each = |message: RecordedMessage| {
        take(&mut states, subjects, &message);
        ControlFlow::Continue(())
    };
    recordings.read(&output, filters, None, each).await.map_err(ReadError::Nats)?;
    progress(format!("{} links and {} messages are recorded", states.starts.len(), states.sent.len()));
    let mut replay = Replay::new(states, policy, components)?;
    let mut failed = None;
    let each = |message: RecordedMessage| match delivery(subjects, message) {
        Some(delivery) if delivery.stored_at() >= span.to => ControlFlow::Break(()),
        Some(delivery) => match replay.input(delivery) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
        None => ControlFlow::Continue(()),
    };
    let all = vec![subjects.stored_inputs()];
    recordings.read(&input, all, Some(span.from), each).await.map_err(ReadError::Nats)?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    Ok(Comparison::of(replay.finish()?))
}

fn take(states: &mut Recorded, subjects: &Subjects, message: &RecordedMessage) {
    // A key-value client marks a key as deleted by a message without a body.
    if message.payload.is_empty() {
        return;
    }
    let id = |link: &str| link.parse::<LinkId>().ok();
    match subjects.parse_output(&message.subject) {
        Some(OutputSubject::State { link_id }) => {
            id(link_id).into_iter().for_each(|link| states.state(link, &message.payload));
        }
        Some(OutputSubject::Notice { notice, link_id } | OutputSubject::Observed { notice, link_id }) => {
            id(link_id).into_iter().for_each(|link| states.notice(notice, link, &message.payload));
        }
        Some(OutputSubject::Job { job, link_id }) => {
            id(link_id).into_iter().for_each(|link| states.job(job, link, &message.payload));
        }
        Some(OutputSubject::Incident { .. }) => states.incident(&message.payload),
        Some(
            OutputSubject::Refused { .. }
            | OutputSubject::Fence { .. }
            | OutputSubject::Offset { .. }
            | OutputSubject::Commit { .. },
        )
        | None => {}
    }
}

/// The delivery of a recorded input, as its partition gets it.
fn delivery(subjects: &Subjects, message: RecordedMessage) -> Option<Delivery> {
    let RecordedMessage { subject, sequence, stored_at_ns, headers, payload } = message;
    let input = subjects.parse_input(&subject)?;
    let (partition, kind, link) = (input.partition, input.kind.as_str().to_owned(), input.link_id.to_owned());
    Some(Delivery { partition, sequence, stored_at_ns, subject, kind, link, headers, payload, receipt: String::new() })
}
