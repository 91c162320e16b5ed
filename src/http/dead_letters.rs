//! `/v1/dead-letters`: the list without payloads, one dead letter with its payload, the replay of one, and its removal.

use axum::extract::{Request, State};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::SharedServer;
use super::auth::Caller;
use super::body;
use super::parameters::{Query, SequenceInPath};
use super::problem::{Kind, Problem};
use crate::contract::{
    At, DEAD_LETTERS_ON_PAGE, DeadLetterSummary, DeadLettersPage, DropRequest, Dropped, Replayed, ShownDeadLetter,
};
use crate::link::Timestamp;
use crate::nats::dead_letter::{DeadLetterError, StoredLetter};
use crate::outbound::{ResendError, Resent};
use crate::printable::printable;

pub(super) async fn list(State(server): State<SharedServer>, query: Query) -> Result<Json<DeadLettersPage>, Problem> {
    query.only(&["after", "limit"])?;
    let limit = query.limit(DEAD_LETTERS_ON_PAGE)?;
    let letters = server.dead_letters.list(query.number("after")?.unwrap_or(0), limit).await?;
    let total = server.dead_letters.count().await?;
    let next = letters.last().filter(|_| letters.len() == limit).map(|letter| letter.sequence);
    Ok(Json(DeadLettersPage { dead_letters: letters.iter().map(summary).collect(), next, total }))
}

pub(super) async fn show(
    State(server): State<SharedServer>,
    SequenceInPath(sequence): SequenceInPath,
) -> Result<Json<ShownDeadLetter>, Problem> {
    let letter = server.dead_letters.get(sequence).await?;
    let headers = letter.headers.iter().map(|(name, values)| {
        let values: Vec<_> = values.iter().map(|value| value.as_str()).collect();
        (name.to_string(), values.join(", "))
    });
    let (payload, payload_base64) = match std::str::from_utf8(&letter.payload) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(&letter.payload))),
    };
    Ok(Json(ShownDeadLetter { summary: summary(&letter), headers: headers.collect(), payload, payload_base64 }))
}

pub(super) async fn replay(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    SequenceInPath(sequence): SequenceInPath,
) -> Result<Json<Replayed>, Problem> {
    let token = caller.name();
    let letter = server.dead_letters.get(sequence).await?;
    if let Some(sent) = server.targets.resend(&letter).await {
        let Resent { target, status } = sent?;
        tracing::info!(
            dead_letter.sequence = sequence,
            target.name = target,
            token,
            "a dead letter was sent over HTTP again"
        );
        let (target, status) = (Some(target), Some(status));
        return Ok(Json(Replayed { dead_letter: sequence, sequence: None, target, status }));
    }
    let input = server.dead_letters.replay(sequence, token).await?;
    tracing::info!(dead_letter.sequence = sequence, input.sequence = input, token, "a dead letter was replayed");
    Ok(Json(Replayed { dead_letter: sequence, sequence: Some(input), target: None, status: None }))
}

/// Removes a dead letter. The log line is its only trace, so it is written first; a removal that fails has a second line, about the problem.
pub(super) async fn remove(
    State(server): State<SharedServer>,
    Extension(caller): Extension<Caller>,
    SequenceInPath(sequence): SequenceInPath,
    request: Request,
) -> Result<Json<Dropped>, Problem> {
    let wrong = "The body may be empty, or an object with the texts `by` and `reason`.";
    let DropRequest { by, reason } = body::optional_object(&body::read_json(request).await?, wrong)?;
    let letter = server.dead_letters.get(sequence).await?;
    let message_id = letter.headers.get("ce-id").map(|id| id.as_str().to_owned());
    tracing::info!(
        dead_letter.sequence = sequence,
        dead_letter.reason = printable(&letter.reason),
        dead_letter.subject = printable(&letter.subject),
        dead_letter.detail = printable(&letter.detail),
        message.id = message_id.as_deref().map(printable),
        input.sequence = letter.input_sequence,
        token = caller.name(),
        operator = by.as_deref().map(printable),
        reason = reason.as_deref().map(printable),
        "a dead letter is dropped by an operator"
    );
    server.dead_letters.remove(&letter).await?;
    let StoredLetter { subject, reason, .. } = letter;
    Ok(Json(Dropped { dead_letter: sequence, subject, reason, message_id }))
}

fn summary(letter: &StoredLetter) -> DeadLetterSummary {
    let at = Timestamp::from_millis(i64::try_from(letter.at_ns / 1_000_000).unwrap_or(i64::MAX));
    DeadLetterSummary {
        sequence: letter.sequence,
        at: At(at),
        subject: letter.subject.clone(),
        reason: letter.reason.clone(),
        detail: letter.detail.clone(),
        bytes: letter.payload.len(),
        truncated_from: letter.truncated_from,
        input_stream: letter.input_stream.clone(),
        input_sequence: letter.input_sequence,
    }
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        match &error {
            DeadLetterError::NotFound { .. } => Self::new(Kind::NotFound, format!("{error}.")),
            DeadLetterError::NotReplayable { .. } => Self::new(Kind::NotReplayable, format!("{error}.")),
            DeadLetterError::NotRemoved { stream, .. } => Self::new(
                Kind::Unavailable,
                format!(
                    "NATS did not confirm that the dead letter is removed. If its users have permissions, relink has to publish on \
                     `$JS.API.STREAM.MSG.DELETE.{stream}`."
                ),
            )
            .retry_after_secs(5)
            .log_detail(error),
            DeadLetterError::Publish(_) | DeadLetterError::Read { .. } => {
                Self::new(Kind::Unavailable, "NATS did not complete the request; try again.")
                    .retry_after_secs(5)
                    .log_detail(error)
            }
        }
    }
}

impl From<ResendError> for Problem {
    fn from(error: ResendError) -> Self {
        let kind = match &error {
            ResendError::NotPossible(_) => Kind::NotReplayable,
            ResendError::Refused { .. } => Kind::NotAccepted,
        };
        Self::new(kind, format!("{error}."))
    }
}
