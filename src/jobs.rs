//! Jobs: the calls to Belvo that the machine asked for, and what was seen published as input like anybody else's.
//!
//! A job is a message on `link.job.<type>.<link>`, taken from a durable consumer, so it is done **at least once**: verify reads, and a
//! refresh that was already asked for answers 409. A job never touches a link's state itself. What Belvo says of the link goes in as an
//! observation or an API error and is decided where everything is decided.
//!
//! Each job stands for itself: one that fails, or panics, is put off, and the others go on.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use crate::belvo::{CallError, Client, LinkRead, MissingGuard, RefreshAnswer, Unrelated, Verdict};
use crate::clock::Clock;
use crate::contract::{InputKind, JobBody, JobName, Observation, Outcome, Source, StateWord};
use crate::link::{LinkId, Timestamp};
use crate::metric;
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::nats::stream::JOBS_CONSUMER;
use crate::nats::subject::Subjects;

/// How many calls to Belvo may be under way at once. Belvo asks for restraint: 80 requests in 30 seconds.
const CALLS_MAX: usize = 4;

/// Belvo's advice for what may pass: 3 seconds, doubled each time (guide: API errors, retry policy). Ours goes on to a ceiling, because
/// an outage can last longer than five tries and the question stays.
const RETRY_MIN: Duration = Duration::from_secs(3);
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// After so many tries a job is given up, loudly: with the pauses above, most of a day.
const TRIES_MAX: i64 = 200;

/// How long a missing link waits while many are: the incident has to end first, or somebody has to say `forget`.
const MISSING_PAUSE: Duration = Duration::from_secs(15 * 60);

/// The pause before the consumer is opened again after a failure.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Does the jobs of one environment.
#[derive(Clone)]
pub struct Worker {
    inputs: Arc<dyn Inputs>,
    belvo: Client,
    guard: MissingGuard,
    clock: Clock,
}

/// What Belvo said.
enum Answer {
    /// It is to be published.
    Seen(Outcome),
    /// Too early: to be asked again, after a while.
    NotYet(Duration, String),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// What was seen is on the input stream.
    Reported,
    /// To be tried again, after a while.
    Later(Duration, String),
    /// It will never succeed.
    GivenUp(String),
}

/// What follows a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Ended,
    /// Another, after so long.
    Again(Duration),
    /// None; somebody has to look at it.
    GivenUp,
}

impl Worker {
    /// A worker that asks `belvo` and publishes into `inputs`; `guard` says when a 404 is believed. What it saw is
    /// dated by `clock`.
    pub fn new(inputs: Arc<dyn Inputs>, belvo: Client, guard: MissingGuard, clock: Clock) -> Self {
        Self { inputs, belvo, guard, clock }
    }

    /// Works on what the jobs' consumer hands out until `shutdown`, then finishes the calls that are under way.
    pub async fn run(self, context: jetstream::Context, subjects: Subjects, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(problem) = self.work(&context, &subjects, &shutdown).await {
                tracing::warn!(%problem, "the jobs stopped and will go on");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(REOPEN_PAUSE) => {}
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
        let consumer: PullConsumer =
            context.get_consumer_from_stream(JOBS_CONSUMER, output).await.map_err(|error| error.to_string())?;
        // Pulled no further ahead than what can be worked on: a job that waits here would count as slow and come again.
        let messages = consumer.stream().max_messages_per_batch(CALLS_MAX).messages().await;
        let messages = messages.map_err(|error| error.to_string())?;
        let work = messages.take_until(shutdown.cancelled()).map_err(|error| error.to_string());
        work.try_for_each_concurrent(CALLS_MAX, |message| async {
            self.handle(message).await;
            Ok(())
        })
        .await
    }

    async fn handle(&self, message: jetstream::Message) {
        let (tries, stored_at) = message.info().map_or((1, Timestamp::default()), |info| {
            let millis = info.published.unix_timestamp_nanos() / 1_000_000;
            (info.delivered, Timestamp::from_millis(i64::try_from(millis).unwrap_or_default()))
        });
        let (link, ack) = match parse(&message.payload) {
            Ok((job, link)) => {
                let done = self.perform(&job, &link, stored_at).await;
                (Some(link), acknowledge(&done, job.name, tries))
            }
            Err(problem) => {
                tracing::error!(%problem, "a message on a job subject is not ours and is dropped");
                (None, AckKind::Term)
            }
        };
        if let Err(error) = message.ack_with(ack).await {
            // It comes again after the acknowledgement wait, and doing it twice is harmless.
            tracing::warn!(%error, link.id = link.map(|link| link.to_string()), "a job could not be acknowledged");
        }
    }

    /// Does a job that was asked for at `stored_at`, and publishes what was seen. A bug that panics on one job puts it
    /// off like any other failure.
    pub async fn perform(&self, job: &JobBody, link: &LinkId, stored_at: Timestamp) -> Done {
        let done = AssertUnwindSafe(self.try_to_perform(job, link, stored_at)).catch_unwind().await;
        done.unwrap_or_else(|_panic| Done::Later(Duration::ZERO, "it panicked, which is a bug".to_owned()))
    }

    async fn try_to_perform(&self, job: &JobBody, link: &LinkId, stored_at: Timestamp) -> Done {
        // The question was asked by the clock of the NATS server, the answer is read by ours. An answer is never older than its question,
        // whatever the two clocks think of each other.
        let observed_at = self.clock.now().max(stored_at);
        // The consent before the link: what it says is what the link's status leaves open.
        let consent = match self.read_consent(job, link).await {
            Some(read) => self.report(read.map(Answer::Seen), link, observed_at).await,
            None => Done::Reported,
        };
        let answer = match job.name {
            JobName::Verify => self.belvo.get_link(link).await.map(|read| match read {
                LinkRead::Found(resource) => {
                    if !is_stranger(job) {
                        self.guard.note_found(link, self.clock.now());
                    }
                    Answer::Seen(Outcome::Found { link: resource })
                }
                LinkRead::Missing if self.believes_missing(job, link) => Answer::Seen(Outcome::Missing),
                LinkRead::Missing => Answer::NotYet(
                    MISSING_PAUSE,
                    "many links are missing at Belvo: an incident, not deletions".to_owned(),
                ),
            }),
            JobName::Refresh => self.belvo.refresh_link(link, &job.resources).await.map(|answer| match answer {
                RefreshAnswer::Accepted { request_id } => Answer::Seen(Outcome::RefreshAccepted { request_id }),
                RefreshAnswer::CoolingDown { wait } => Answer::NotYet(wait, "it was refreshed a moment ago".to_owned()),
            }),
        };
        match (self.report(answer, link, observed_at).await, consent) {
            // The link has been told of all the same; the consent is asked for again, and the link with it.
            (Done::Reported, unread @ Done::Later(..)) => unread,
            (done, _) => done,
        }
    }

    /// Reads the consent that the job names. None where there is nothing to say of it: not every account may read
    /// consents, and the link itself still tells something.
    async fn read_consent(&self, job: &JobBody, link: &LinkId) -> Option<Result<Outcome, CallError>> {
        match self.belvo.get_consent(link, job.consent_id.as_deref()?).await {
            Ok(consent) => consent.map(|consent| Ok(Outcome::Consent { consent })),
            Err(CallError::Permanent { why, .. }) => {
                tracing::warn!(why, "a consent cannot be read");
                None
            }
            Err(error @ (CallError::Api(_) | CallError::Transient { .. })) => Some(Err(error)),
        }
    }

    /// Publishes what Belvo answered.
    async fn report(&self, answer: Result<Answer, CallError>, link: &LinkId, observed_at: Timestamp) -> Done {
        let published = match answer {
            Ok(Answer::Seen(outcome)) => {
                let observation = Observation { schema_version: None, observed_at, source: Source::Verify, outcome };
                self.publish(InputKind::Observation, link, serde_json::to_vec(&observation)).await
            }
            Ok(Answer::NotYet(wait, why)) => return Done::Later(wait, why),
            Err(CallError::Api(error)) => self.publish(InputKind::ApiError, link, serde_json::to_vec(&*error)).await,
            Err(CallError::Transient { why, retry_after }) => return Done::Later(retry_after.unwrap_or_default(), why),
            // Somebody will mend the keys, and the question stays.
            Err(CallError::Permanent { why, class: Some(Unrelated::Keys | Unrelated::Permission) }) => {
                return Done::Later(RETRY_MAX, why);
            }
            Err(CallError::Permanent { why, .. }) => return Done::GivenUp(why),
        };
        match published {
            Ok(()) => Done::Reported,
            Err(error) => Done::Later(Duration::ZERO, error.to_string()),
        }
    }

    /// Whether a 404 is a deletion. A tombstone is for ever, so it is not while many links are missing.
    fn believes_missing(&self, job: &JobBody, link: &LinkId) -> bool {
        let now = self.clock.now();
        let verdict = if is_stranger(job) { self.guard.judge_stranger(now) } else { self.guard.judge_one(link, now) };
        if verdict == (Verdict::Incident { begins: true }) {
            tracing::error!(
                "Belvo does not know many links that relink knows; as long as that lasts, none counts as deleted"
            );
        }
        verdict == Verdict::Believable
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

/// Whether relink had nothing of the link but this question: somebody has named it, and nobody has seen it work.
fn is_stranger(job: &JobBody) -> bool {
    job.because.to == StateWord::Unconfirmed
}

fn parse(payload: &[u8]) -> Result<(JobBody, LinkId), String> {
    let job: JobBody = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let link = job.link_id.parse::<LinkId>().map_err(|error| error.to_string())?;
    Ok((job, link))
}

/// What follows after the `tries`th try.
pub fn settle(done: &Done, tries: i64) -> Next {
    match done {
        Done::Reported => Next::Ended,
        Done::GivenUp(_) => Next::GivenUp,
        Done::Later(..) if tries >= TRIES_MAX => Next::GivenUp,
        Done::Later(wait, _) => Next::Again((*wait).max(backoff(tries))),
    }
}

/// Says what follows: to the log, to the metrics, and to the consumer.
fn acknowledge(done: &Done, job: JobName, tries: i64) -> AckKind {
    let count = |outcome: &'static str| {
        metrics::counter!(metric::JOBS.name, "job" => job.as_str(), "outcome" => outcome).increment(1);
    };
    let why = match done {
        Done::Reported => "",
        Done::Later(_, why) | Done::GivenUp(why) => why,
    };
    match settle(done, tries) {
        Next::Ended => {
            count("reported");
            AckKind::Ack
        }
        Next::Again(pause) => {
            count("later");
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(job = job.as_str(), tries, why, pause_ms, "a job will be tried again");
            AckKind::Nak(Some(pause))
        }
        Next::GivenUp => {
            count("given_up");
            tracing::error!(
                job = job.as_str(),
                tries,
                why,
                "a job is given up: it was tried often, or would fail again"
            );
            AckKind::Term
        }
    }
}

fn backoff(tries: i64) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(0).min(16);
    RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_belvos_advice_up_to_a_ceiling() {
        let pauses: Vec<u64> = [1, 2, 3, 4, 5, 99].map(|tries| backoff(tries).as_secs()).to_vec();
        assert_eq!(pauses, [3, 6, 12, 24, 48, 300]);
    }
}
