//! `/v1/dead-letters`: the list without payloads, one dead letter with its payload, and the replay of one.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::SharedServer;
use super::parameters::{Query, SequenceInPath};
use super::problem::{Kind, Problem};
use crate::contract::At;
use crate::link::Timestamp;
use crate::nats::dead_letter::{DeadLetterError, StoredLetter};
use crate::outbound::{ResendError, Resent};

/// The number of dead letters on a page: the default and the maximum.
const PAGE: (usize, usize) = (100, 1_000);

pub(super) async fn list(State(server): State<SharedServer>, query: Query) -> Result<Json<Value>, Problem> {
    query.only(&["after", "limit"])?;
    let limit = query.limit(PAGE.0, PAGE.1)?;
    let letters = server.dead_letters.list(query.parse("after")?.unwrap_or(0), limit).await?;
    let total = server.dead_letters.count().await?;
    let next = (letters.len() == limit).then(|| letters.last().map(|letter| letter.sequence));
    let letters: Vec<_> = letters.iter().map(summary).collect();
    Ok(Json(json!({"dead_letters": letters, "next": next, "total": total})))
}

pub(super) async fn show(
    State(server): State<SharedServer>,
    SequenceInPath(sequence): SequenceInPath,
) -> Result<Json<Value>, Problem> {
    let letter = server.dead_letters.get(sequence).await?;
    let mut shown = summary(&letter);
    let headers = letter.headers.iter().map(|(name, values)| {
        let values: Vec<_> = values.iter().map(|value| value.as_str()).collect();
        (name.to_string(), Value::from(values.join(", ")))
    });
    shown["headers"] = Value::Object(headers.collect());
    match std::str::from_utf8(&letter.payload) {
        Ok(text) => shown["payload"] = Value::from(text),
        Err(_) => shown["payload_base64"] = Value::from(STANDARD.encode(&letter.payload)),
    }
    Ok(Json(shown))
}

pub(super) async fn replay(
    State(server): State<SharedServer>,
    SequenceInPath(sequence): SequenceInPath,
) -> Result<Json<Value>, Problem> {
    let letter = server.dead_letters.get(sequence).await?;
    if let Some(sent) = server.targets.resend(&letter).await {
        let Resent { target, status } = sent?;
        tracing::info!(dead_letter.sequence = sequence, target.name = target, "a dead letter was sent over HTTP again");
        return Ok(Json(json!({"dead_letter": sequence, "target": target, "status": status})));
    }
    let input = server.dead_letters.replay(sequence).await?;
    tracing::info!(dead_letter.sequence = sequence, input.sequence = input, "a dead letter was replayed");
    Ok(Json(json!({"dead_letter": sequence, "sequence": input})))
}

fn summary(letter: &StoredLetter) -> Value {
    let at = Timestamp::from_millis(i64::try_from(letter.at_ns / 1_000_000).unwrap_or(i64::MAX));
    json!({
        "sequence": letter.sequence,
        "at": At(at),
        "subject": letter.subject,
        "reason": letter.reason,
        "detail": letter.detail,
        "bytes": letter.payload.len(),
        "truncated_from": letter.truncated_from,
        "input_stream": letter.input_stream,
        "input_sequence": letter.input_sequence,
    })
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        match &error {
            DeadLetterError::NotFound { .. } => Self::new(Kind::NotFound, format!("{error}.")),
            DeadLetterError::NotReplayable { .. } => Self::new(Kind::NotReplayable, format!("{error}.")),
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
