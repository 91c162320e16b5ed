//! The worker that does jobs: the calls to Belvo and the look-ups of other links that the machine requests. It publishes
//! the results as inputs.
//!
//! A job is a message on `link.job.<type>.<link>`, read from a durable consumer, so it is done **at least once**: a
//! verify job only reads, and Belvo answers 409 to a repeated refresh. A job does not change the state of a link.
//! Belvo's answer is published as an observation or an API error, and the machine decides about it.
//!
//! A job that fails or panics is retried later and does not block the others.

mod successor;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use crate::belvo::{Absence, CallError, Client, LinkRead, MissingGuard, RefreshAnswer, Unrelated};
use crate::clock::Clock;
use crate::contract::{ApiError, At, InputKind, JobBody, JobName, Observation, ReadOutcome, Source, StateWord};
use crate::link::{LinkId, Timestamp};
use crate::metric;
use crate::nats::envelope;
use crate::nats::foreign;
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::limit::{REQUEST_TIMEOUT, reconnected, within};
use crate::nats::publisher::PublishError;
use crate::nats::stream::JOBS_CONSUMER;
use crate::nats::subject::Subjects;
use crate::trace::{self, Span, SpanKind};

pub use successor::KnownLinks;

/// How many jobs run at once. Belvo asks for at most 80 requests in 30 seconds.
pub const JOBS_AT_ONCE_MAX: usize = 4;

/// Belvo's advice for temporary errors is a pause of 3 seconds, doubled after each attempt, and five attempts (guide:
/// API errors, retry policy). relink continues with a maximal pause, because an outage can last longer and the link
/// still needs the answer.
const RETRY_MIN: Duration = Duration::from_secs(3);
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// After this many attempts a job is given up and logged as an error: with these pauses, after most of a day.
const TRIES_MAX: i64 = 200;

/// The store has the commit of a job after some milliseconds, so the first tries follow each other soon.
const EARLY_TRIES: i64 = 10;

/// The pause of a verify job for a missing link during an incident of many missing links: the incident has to end, or
/// an operator sends `forget`.
const MISSING_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How long a pull waits for jobs before it is repeated, and the interval of the server's heartbeats. Two missed heartbeats end the pull
/// with an error. The open pull of a process that hangs takes jobs from its successor for as long.
const PULL_EXPIRES: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The pause before the worker opens the consumer again after an error.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Does jobs.
#[derive(Clone)]
pub struct Worker {
    inputs: Arc<dyn Inputs>,
    belvo: Client,
    known: KnownLinks,
    guard: MissingGuard,
    clock: Clock,
}

/// The answer of Belvo to one call.
enum Answer {
    /// An outcome to publish as an observation.
    Publish(ReadOutcome),
    /// Belvo has no answer yet: the call is retried after the pause, for this reason.
    Retry(Duration, String),
    /// The institution cannot be used. The error is published each time, because it shows how long the outage lasts.
    Outage { error: Box<ApiError>, is_transient: bool },
}

/// The result of one attempt at a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is on the input stream.
    Reported,
    /// The job is retried after at least this pause, for this reason.
    Retry(Duration, String),
    /// The store does not have the commit of the job yet. The job is repeated after this pause.
    TooEarly(Duration),
    /// The job can never succeed, for this reason.
    GivenUp(String),
}

/// The decision after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The job is done.
    Ended,
    /// The job is retried after this pause.
    Again(Duration),
    /// The job is given up; an operator has to examine it.
    GivenUp,
}

impl Worker {
    /// A worker that calls `belvo`, compares the links of `known`, and publishes to `inputs`. `guard` decides whether a
    /// 404 is a deletion. `clock` dates the observations.
    pub fn new(inputs: Arc<dyn Inputs>, belvo: Client, known: KnownLinks, guard: MissingGuard, clock: Clock) -> Self {
        Self { inputs, belvo, known, guard, clock }
    }

    /// Does the jobs of the consumer until `shutdown`, then finishes the running ones.
    pub async fn run(self, context: jetstream::Context, subjects: Subjects, shutdown: CancellationToken) {
        let mut checked = 0;
        let reader = foreign::Reader {
            stream: subjects.output_stream(),
            durable: JOBS_CONSUMER,
            filters: vec![subjects.job_wildcard()],
            is_own: true,
        };
        while !shutdown.is_cancelled() {
            if let Err(problem) = self.work(&context, &subjects, &shutdown).await {
                tracing::warn!(%problem, "the consumer of jobs failed and will be opened again");
                let pause = async {
                    tokio::time::sleep(REOPEN_PAUSE).await;
                    // A job that the client cannot parse may have closed the connection.
                    if let Err(problem) = foreign::end_unparsable(&context, &reader, &mut checked).await {
                        tracing::warn!(%problem, "the open jobs cannot be checked");
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = pause => {}
                }
            }
        }
    }

    async fn work(
        &self,
        context: &jetstream::Context,
        subjects: &Subjects,
        shutdown: &CancellationToken,
    ) -> Result<(), String> {
        let output = subjects.output_stream();
        let mut is_reconnected = false;
        let reconnected = reconnected(&context.client());
        let messages = within(REQUEST_TIMEOUT, async {
            let consumer: PullConsumer =
                context.get_consumer_from_stream(JOBS_CONSUMER, output).await.map_err(|error| error.to_string())?;
            // A pull takes no more jobs than can run: the server would redeliver a job that waits in the client for too
            // long.
            let pull = consumer.stream().max_messages_per_batch(JOBS_AT_ONCE_MAX);
            pull.expires(PULL_EXPIRES).heartbeat(HEARTBEAT).messages().await.map_err(|error| error.to_string())
        });
        let messages = tokio::select! {
            messages = messages => messages?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let ended = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = reconnected => is_reconnected = true,
            }
        };
        let work = messages.take_until(ended).map_err(|error| error.to_string());
        work.try_for_each_concurrent(JOBS_AT_ONCE_MAX, |message| async {
            self.handle(message).await;
            Ok(())
        })
        .await?;
        if is_reconnected { Err("the connection to NATS was made anew".to_owned()) } else { Ok(()) }
    }

    async fn handle(&self, message: jetstream::Message) {
        let (tries, stored_at) =
            message.info().map_or((1, Timestamp::default()), |info| (info.delivered, Timestamp::of(info.published)));
        // The trace of the step that asked for the job.
        let asked = Span::passing(message.headers.as_ref().and_then(envelope::trace_of));
        let ack = match asked.run(self.work_on(&message.payload, tries, stored_at)).await {
            Next::Ended => AckKind::Ack,
            Next::Again(pause) => AckKind::Nak(Some(pause)),
            Next::GivenUp => AckKind::Term,
        };
        let acknowledged = async { message.ack_with(ack).await.map_err(|error| error.to_string()) };
        if let Err(error) = within(REQUEST_TIMEOUT, acknowledged).await {
            // The server redelivers the job, and a repetition is harmless.
            let subject = message.subject.as_str();
            tracing::warn!(error, subject, "a job could not be acknowledged");
        }
    }

    /// Handles a message of a job subject, except the acknowledgement. `tries` counts its deliveries; `stored_at` is
    /// the time of its publish. This function does not use NATS, so a simulation can call it.
    pub async fn work_on(&self, payload: &[u8], tries: i64, stored_at: Timestamp) -> Next {
        match parse(payload) {
            Ok((job, link)) => {
                let age = self.clock.now().since(stored_at);
                let span = Span::begin_after(age, SpanKind::Consumer, trace::current(), || {
                    format!("job {}", job.name.as_str())
                });
                let outcome = span.run(self.perform(&job, &link, stored_at)).await;
                let next = decide_retry(&outcome, tries);
                describe(&span, &link, next, tries);
                record_outcome(&job, &link, &outcome, next, tries);
                next
            }
            Err(problem) => {
                tracing::error!(%problem, "a message on a job subject is not a job of relink and is dropped");
                Next::GivenUp
            }
        }
    }

    /// Does a job that was published at `stored_at`. A panic, which is a bug, counts as a failed attempt.
    pub async fn perform(&self, job: &JobBody, link: &LinkId, stored_at: Timestamp) -> Outcome {
        let outcome = AssertUnwindSafe(self.try_to_perform(job, link, stored_at)).catch_unwind().await;
        outcome.unwrap_or_else(|_panic| {
            Outcome::Retry(Duration::ZERO, "the job panicked, which is a bug in relink".to_owned())
        })
    }

    async fn try_to_perform(&self, job: &JobBody, link: &LinkId, stored_at: Timestamp) -> Outcome {
        // The job is dated by the NATS server's clock, the answer by relink's. An observation must not be older than
        // its verify request, even if relink's clock is behind.
        let observed_at = self.clock.now().max(stored_at);
        // The consent is published first, because it decides what the link's status leaves open.
        let consent = match self.read_consent(job, link).await {
            Some(read) => self.publish_answer(read.map(Answer::Publish), link, observed_at).await,
            None => Outcome::Reported,
        };
        let answer = match job.name {
            JobName::Verify => self.belvo.get_link(link).await.map(|read| match read {
                LinkRead::Found(resource) => {
                    if !is_unobserved(job) {
                        self.guard.note_found(link, self.clock.now());
                    }
                    Answer::Publish(ReadOutcome::Found { link: resource })
                }
                LinkRead::Missing if self.is_deleted(job, link) => Answer::Publish(ReadOutcome::Missing),
                LinkRead::Missing => Answer::Retry(
                    MISSING_PAUSE,
                    "many links are missing at Belvo: an incident, not deletions".to_owned(),
                ),
            }),
            JobName::FindSuperseded => return self.find_superseded(job, link, stored_at).await,
            JobName::ReadSuccessor => return self.read_successor(job, link, stored_at).await,
            JobName::Refresh => self.belvo.refresh_link(link, &job.resources).await.map(|answer| match answer {
                RefreshAnswer::Accepted { request_id } => Answer::Publish(ReadOutcome::RefreshAccepted { request_id }),
                RefreshAnswer::CoolingDown { wait } => {
                    Answer::Retry(wait, "Belvo refreshed the link a moment ago".to_owned())
                }
                RefreshAnswer::Outage { error, is_transient } => Answer::Outage { error, is_transient },
            }),
        };
        match (self.publish_answer(answer, link, observed_at).await, consent) {
            // The observation of the link is published already; the retry reads the consent and the link again.
            (Outcome::Reported, unread_consent @ Outcome::Retry(..)) => unread_consent,
            (outcome, _) => outcome,
        }
    }

    /// Reads the consent that the job names. `None` if there is no consent, or if Belvo permanently refuses to show
    /// it; the job still reads the link.
    async fn read_consent(&self, job: &JobBody, link: &LinkId) -> Option<Result<ReadOutcome, CallError>> {
        match self.belvo.get_consent(link, job.consent_id.as_deref()?).await {
            Ok(consent) => consent.map(|consent| Ok(ReadOutcome::Consent { consent })),
            Err(CallError::Permanent { why, .. }) => {
                tracing::warn!(why, "Belvo does not return the consent of a link; only the link is read");
                None
            }
            Err(error @ (CallError::Api(_) | CallError::Transient { .. })) => Some(Err(error)),
        }
    }

    /// Publishes Belvo's answer.
    async fn publish_answer(
        &self,
        answer: Result<Answer, CallError>,
        link: &LinkId,
        observed_at: Timestamp,
    ) -> Outcome {
        let published = match answer {
            Ok(Answer::Publish(outcome)) => {
                let observed_at = At(observed_at);
                let observation = Observation { schema_version: None, observed_at, source: Source::Verify, outcome };
                self.publish(InputKind::Observation, link, serde_json::to_vec(&observation)).await
            }
            Ok(Answer::Retry(wait, why)) => return Outcome::Retry(wait, why),
            Ok(Answer::Outage { error, is_transient }) => {
                let published = self.publish(InputKind::ApiError, link, serde_json::to_vec(&*error)).await;
                let why = "Belvo says that the institution cannot be used".to_owned();
                return match published {
                    Ok(()) if !is_transient => Outcome::GivenUp(why),
                    Ok(()) => Outcome::Retry(Duration::ZERO, why),
                    Err(error) => Outcome::Retry(Duration::ZERO, error.to_string()),
                };
            }
            Err(CallError::Api(error)) => self.publish(InputKind::ApiError, link, serde_json::to_vec(&*error)).await,
            Err(CallError::Transient { why, retry_after }) => {
                return Outcome::Retry(retry_after.unwrap_or_default(), why);
            }
            // An operator has to correct the keys; then the retry gets its answer.
            Err(CallError::Permanent { why, class: Some(Unrelated::Keys | Unrelated::Permission) }) => {
                return Outcome::Retry(RETRY_MAX, why);
            }
            Err(CallError::Permanent { why, .. }) => return Outcome::GivenUp(why),
        };
        match published {
            Ok(()) => Outcome::Reported,
            Err(error) => Outcome::Retry(Duration::ZERO, error.to_string()),
        }
    }

    /// Whether a 404 means that the link is deleted. A removal is final, so a 404 does not mean it while many links are
    /// missing.
    fn is_deleted(&self, job: &JobBody, link: &LinkId) -> bool {
        let now = self.clock.now();
        let absence =
            if is_unobserved(job) { self.guard.assess_unknown_link(now) } else { self.guard.assess_one(link, now) };
        if absence == (Absence::Incident { begins: true }) {
            tracing::error!(
                "Belvo does not know many links that relink knows; during this incident no link counts as deleted"
            );
        }
        absence == Absence::Deletion
    }

    async fn publish(
        &self,
        kind: InputKind,
        link: &LinkId,
        body: serde_json::Result<Vec<u8>>,
    ) -> Result<(), PublishError> {
        let body = body.expect("our bodies have string keys and no failing serializers");
        let (link, at) = (link.clone(), self.clock.now());
        self.inputs.put(NewInput { kind, link, source: "/relink/jobs", at, id: None, body }).await
    }
}

/// Whether the link is only known by its id: an input named it, and no read from Belvo has found it.
fn is_unobserved(job: &JobBody) -> bool {
    job.because.to == StateWord::Unconfirmed
}

fn parse(payload: &[u8]) -> Result<(JobBody, LinkId), String> {
    let job: JobBody = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let link = job.link_id.parse::<LinkId>().map_err(|error| error.to_string())?;
    Ok((job, link))
}

/// The decision after attempt number `tries`.
pub fn decide_retry(outcome: &Outcome, tries: i64) -> Next {
    match outcome {
        Outcome::Reported => Next::Ended,
        Outcome::GivenUp(_) => Next::GivenUp,
        Outcome::Retry(..) | Outcome::TooEarly(_) if tries >= TRIES_MAX => Next::GivenUp,
        Outcome::TooEarly(pause) => Next::Again(if tries <= EARLY_TRIES { *pause } else { backoff(tries) }),
        Outcome::Retry(wait, _) => Next::Again((*wait).max(backoff(tries))),
    }
}

/// Adds the result of an attempt to its span.
fn describe(span: &Span, link: &LinkId, next: Next, tries: i64) {
    span.set("relink.link.id", || link.to_string());
    span.set("relink.job.tries", || tries);
    let outcome = match next {
        Next::Ended => "reported",
        Next::Again(_) => "retried",
        Next::GivenUp => "given_up",
    };
    span.set("relink.outcome", || outcome);
    if next != Next::Ended {
        span.fail(|| outcome.to_owned());
    }
}

/// Logs and counts the result of an attempt.
fn record_outcome(job: &JobBody, link: &LinkId, outcome: &Outcome, next: Next, tries: i64) {
    let job = job.name.as_str();
    let why = match outcome {
        Outcome::Reported => "",
        Outcome::TooEarly(_) => "the store does not have the commit of the job yet",
        Outcome::Retry(_, why) | Outcome::GivenUp(why) => why,
    };
    let outcome = match next {
        Next::Ended => "reported",
        // A short pause is usual, and no failure.
        Next::Again(_) if matches!(outcome, Outcome::TooEarly(_)) && tries <= EARLY_TRIES => "retried",
        Next::Again(pause) => {
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(job, link.id = %link, tries, why, pause_ms, "a job failed and will be retried");
            "retried"
        }
        Next::GivenUp => {
            let message = "a job is given up: it failed too often, or cannot succeed";
            tracing::error!(job, link.id = %link, tries, why, "{message}");
            "given_up"
        }
    };
    metrics::counter!(metric::JOBS.name, "type" => job, "outcome" => outcome).increment(1);
}

fn backoff(tries: i64) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(0).min(16);
    RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_maximum() {
        let pauses: Vec<u64> = [1, 2, 3, 4, 5, 99].map(|tries| backoff(tries).as_secs()).to_vec();
        assert_eq!(pauses, [3, 6, 12, 24, 48, 300]);
    }
}
