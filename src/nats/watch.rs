//! Ensures relink's streams and consumers again while relink runs.
//!
//! An operator may delete one by mistake, or NATS may come back with an empty store. Without this task, relink would wait for it for ever.
//! The care is the same as at the start: what is missing is created, and what exists is never edited. What is lost is logged as an error.
//!
//! A paused consumer stays paused, because a pause is a decision of an operator: relink reports it, and `/readyz` shows it.
//!
//! Next: `stream.rs` has the declarations; `restore.rs` fills a new output stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::declaration::{Declaration, Ensured, StreamError};
use super::stream::{StreamSettings, declarations, limited};
use super::subject::Subjects;
use crate::metric;

/// The pause between two rounds.
const EVERY: Duration = Duration::from_secs(3);

/// How long the server may refuse to create a stream or consumer before relink ends.
const REFUSED_MAX: Duration = Duration::from_secs(2 * 60);

/// The task.
pub struct Watch {
    context: jetstream::Context,
    subjects: Subjects,
    declarations: Vec<Declaration>,
    problems: watch::Sender<Vec<String>>,
    created: Arc<Notify>,
    /// What has been logged and is still so.
    logged: BTreeSet<String>,
    refused_since: Option<Instant>,
}

impl Watch {
    /// Watches the streams and consumers of these settings. `created` is notified after one of
    /// the two streams of the partitions was created again.
    pub fn new(
        context: jetstream::Context,
        subjects: Subjects,
        settings: &StreamSettings,
        created: Arc<Notify>,
    ) -> Self {
        let declarations = declarations(&subjects, settings);
        let (problems, _) = watch::channel(Vec::new());
        Self { context, subjects, declarations, problems, created, logged: BTreeSet::new(), refused_since: None }
    }

    /// The problems that keep relink from storing or deciding, each as one sentence.
    pub fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.subscribe()
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// [`StreamError`]: the server has refused to create a stream or consumer for two minutes.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), StreamError> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(EVERY) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.round() => ended?,
            }
        }
    }

    /// Adds a problem to those of this round. Returns whether it is not in the log yet.
    fn is_new(&self, problem: &str, found: &mut BTreeSet<String>) -> bool {
        found.insert(problem.to_owned());
        !self.logged.contains(problem)
    }

    async fn round(&mut self) -> Result<(), StreamError> {
        let (mut problems, mut found, mut refusal, mut created) = (Vec::new(), BTreeSet::new(), None, false);
        for declaration in &self.declarations {
            let name = declaration.name();
            match limited(declaration.ensure(&self.context)).await {
                Ok(Ensured::Matching) => {}
                Ok(Ensured::Paused { seconds }) => {
                    let problem = format!("the consumer {name} is paused");
                    if self.is_new(&problem, &mut found) {
                        let command = format!("nats consumer resume {}", name.replace('/', " "));
                        tracing::warn!(
                            stream.name = name,
                            seconds,
                            "an operator has paused a consumer of relink, so its messages wait; `{command}` resumes it"
                        );
                    }
                    problems.push(problem);
                }
                Ok(Ensured::Created) => {
                    created |= name == self.subjects.input_stream() || name == self.subjects.output_stream();
                    metrics::counter!(metric::RECREATED.name, "name" => name.clone()).increment(1);
                    tracing::error!(
                        stream.name = name,
                        "a stream or consumer of relink was deleted while relink ran, and was created again: {}",
                        declaration.loss()
                    );
                }
                // relink goes on with it, but the next start will not.
                Err(
                    error @ (StreamError::Differs { .. }
                    | StreamError::Partitions { .. }
                    | StreamError::OfVersion02 { .. }
                    | StreamError::Settings { .. }),
                ) => {
                    if self.is_new(&error.to_string(), &mut found) {
                        tracing::error!(%error, "a stream or consumer of relink was changed; relink will not start with it again");
                    }
                }
                Err(error) if error.is_of_create() => {
                    problems.push(format!("{name} is missing, and NATS refuses to create it"));
                    tracing::error!(%error, "a stream or consumer of relink is missing and cannot be created");
                    refusal = refusal.or(Some(error));
                }
                Err(error) => {
                    let problem = "NATS does not answer".to_owned();
                    if self.is_new(&problem, &mut found) {
                        tracing::warn!(%error, "the streams cannot be checked, because NATS does not answer");
                    }
                    problems.push(problem);
                    break; // The others would fail too.
                }
            }
        }
        self.logged = found;
        self.problems.send_if_modified(|before| std::mem::replace(before, problems.clone()) != problems);
        if created {
            self.created.notify_one();
        }
        let Some(refusal) = refusal else {
            self.refused_since = None;
            return Ok(());
        };
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if since.elapsed() < REFUSED_MAX { Ok(()) } else { Err(refusal) }
    }
}
