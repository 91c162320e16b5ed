//! The events of background tasks: jobs are delivered, reconciler steps start, and the external calls of tasks are answered or fail.

use std::time::Duration;

use serde_json::{Value, json};

use super::background::{Answer, BackgroundTasks, Ended, Outcome, PendingCall};
use super::belvo::OutgoingWebhook;
use super::bug_injector::Bug;
use super::checkers::{Checked, GroundTruth};
use super::fault::Fault;
use super::publishers::LINKS_AT_BELVO;
use super::world::{Event, World};
use crate::belvo::{Question, Reply};
use crate::contract::{Address, At, HistoryEntry, HistoryKind, InputKind};
use crate::engine::Delivery;
use crate::jobs::{JOBS_AT_ONCE_MAX, Next};
use crate::nats::history::{HistoryError, LinkHistory};
use crate::nats::inputs::NewInput;
use crate::nats::publisher::PublishError;
use crate::node::Phase;

/// The timeouts of a call to Belvo and of a publish.
const CALL_TIMEOUT_MS: i64 = 30_000;
const PUBLISH_TIMEOUT_MS: i64 = 10_000;

/// The longest time that a job can stay open without a fault. The monthly quota of refreshes is not part of this simulation.
const JOB_LIFE_MS: i64 = 6 * 3_600_000;

/// The `ce-source` of the reconciler's messages.
const SWEEPS: &str = "/relink/reconciler";

/// The pause before the reconciler checks again whether the node is running.
const READY_PAUSE_MS: i64 = 30_000;

/// An event of the background tasks of a process.
pub(super) enum BackgroundEvent {
    /// The jobs consumer delivers the jobs that are due.
    HandOutJobs,
    /// An acknowledgement of a job arrives: final, or with a redelivery after `again_ms` milliseconds.
    JobAcknowledged { id: String, again_ms: Option<i64> },
    /// A check whether a step of the reconciler is due.
    Sweep { process: u32 },
    /// A request arrives at Belvo, which may answer.
    Ask { process: u32, task: u64, question: Question, answer: Option<Answer<Reply, String>> },
    /// An input arrives at the input stream, which may confirm it.
    Put { process: u32, task: u64, input: NewInput, answer: Option<Answer<(), PublishError>> },
    /// A call of a task completes.
    Complete { process: u32, task: u64, completion: Completion },
    /// A scheduled event of Belvo is due.
    Belvo,
}

/// The result of a call, in transit.
pub(super) enum Completion {
    Asked(Answer<Reply, String>, Result<Reply, String>),
    Put(Answer<(), PublishError>, Result<(), PublishError>),
    History(Answer<LinkHistory, HistoryError>, Result<LinkHistory, HistoryError>),
}

impl Completion {
    /// Sends the result; the task may have been dropped.
    fn send(self) {
        match self {
            Self::Asked(answer, completion) => drop(answer.send(completion)),
            Self::Put(answer, completion) => drop(answer.send(completion)),
            Self::History(answer, completion) => drop(answer.send(completion)),
        }
    }
}

impl World {
    pub(super) fn handle_background_event(&mut self, event: BackgroundEvent) -> Checked {
        match event {
            BackgroundEvent::HandOutJobs => {
                self.handing_out_jobs_ms = None;
                return self.hand_out_jobs();
            }
            BackgroundEvent::JobAcknowledged { id, again_ms } => {
                let next_ms = again_ms.map(|pause_ms| self.now_ms + pause_ms);
                self.jetstream.jobs.acknowledge(&id, next_ms);
                self.hand_out_jobs_later();
            }
            BackgroundEvent::Sweep { process } => return self.sweep(process),
            BackgroundEvent::Ask { process, task, question, answer } => {
                self.ask_belvo(process, task, &question, answer)
            }
            BackgroundEvent::Put { process, task, input, answer } => return self.put(process, task, input, answer),
            BackgroundEvent::Complete { process, task, completion } => {
                completion.send();
                return self.poll_task(process, task);
            }
            BackgroundEvent::Belvo => {
                self.belvo_at_ms = None;
                self.advance_belvo();
            }
        }
        Ok(())
    }

    /// Starts the background tasks of a process, if relink has keys for Belvo. With several processes it is not decided yet which one runs
    /// the reconciler, so none does.
    pub(super) fn start_background(&mut self, id: u32) {
        let (Some(client), Some(process)) = (&self.client, self.processes.get(&id)) else { return };
        let seed = self.options.seed.wrapping_add(u64::from(id));
        let sweeps = !self.is_shared && self.options.bug != Some(Bug::SweepsDisabled);
        self.background
            .insert(id, BackgroundTasks::new(client, &process.store, &self.policy, sweeps, self.now_ms, seed));
        self.schedule_next_step(id);
        self.hand_out_jobs_later();
    }

    pub(super) fn hand_out_jobs_later(&mut self) {
        let Some(at_ms) = self.jetstream.jobs.next_ms().filter(|_| !self.background.is_empty()) else { return };
        let at_ms = at_ms.max(self.now_ms) + self.random.delay_ms(self.latency_ms);
        if self.handing_out_jobs_ms.is_none_or(|before_ms| at_ms < before_ms) {
            self.handing_out_jobs_ms = Some(at_ms);
            self.later(at_ms - self.now_ms, Event::Background(BackgroundEvent::HandOutJobs));
        }
    }

    fn hand_out_jobs(&mut self) -> Checked {
        loop {
            let has_room =
                |(id, tasks): (&u32, &BackgroundTasks)| (tasks.jobs_count() < JOBS_AT_ONCE_MAX).then_some(*id);
            let free: Vec<u32> = self.background.iter().filter_map(has_room).collect();
            // All workers are busy, or the server is down: try again later.
            if free.is_empty() || self.now_ms < self.server_up_at_ms {
                self.hand_out_jobs_in(1_000);
                return Ok(());
            }
            let id = *self.random.pick(&free);
            let Some(job) = self.jetstream.jobs.hand_out(self.now_ms) else { break };
            let (name, body, tries, stored_at_ms) = (job.id.clone(), job.body.clone(), job.tries, job.stored_at_ms);
            self.counts.jobs += 1;
            let Some(tasks) = self.background.get_mut(&id) else { break };
            let task = tasks.begin_job(&name, body, tries, stored_at_ms);
            self.log(|| format!("process {id} receives job {name}, delivery {tries}"));
            self.poll_task(id, task)?;
        }
        self.hand_out_jobs_later();
        Ok(())
    }

    fn hand_out_jobs_in(&mut self, pause_ms: i64) {
        if self.jetstream.jobs.next_ms().is_some() && !self.background.is_empty() {
            self.handing_out_jobs_ms = Some(self.now_ms + pause_ms);
            self.later(pause_ms, Event::Background(BackgroundEvent::HandOutJobs));
        }
    }

    fn schedule_next_step(&mut self, id: u32) {
        let next = self.background.get(&id).and_then(|tasks| tasks.next_step(self.now_ms));
        if let Some((_, at_ms)) = next {
            self.later(at_ms - self.now_ms, Event::Background(BackgroundEvent::Sweep { process: id }));
        }
    }

    fn sweep(&mut self, id: u32) -> Checked {
        let phase = self.processes.get(&id).map(|process| process.node.phase());
        let now_ms = self.now_ms;
        let Some(tasks) = self.background.get_mut(&id) else { return Ok(()) };
        let Some((step, _)) = tasks.next_step(now_ms).filter(|(_, at_ms)| *at_ms <= now_ms) else { return Ok(()) };
        if phase != Some(Phase::Running) {
            self.later(READY_PAUSE_MS, Event::Background(BackgroundEvent::Sweep { process: id }));
            return Ok(());
        }
        let Some(task) = tasks.begin_step(step) else { return Ok(()) };
        self.counts.sweeps += 1;
        self.poll_task(id, task)
    }

    /// Polls a task, then handles its calls and its result.
    fn poll_task(&mut self, id: u32, task: u64) -> Checked {
        let now_ms = self.now_ms;
        let Some(tasks) = self.background.get_mut(&id) else { return Ok(()) };
        let (calls, ended) = tasks.poll(task, now_ms);
        for call in calls {
            self.dispatch(id, task, call);
        }
        let Some(Ended { outcome, job, lacks_report }) = ended else { return Ok(()) };
        match (outcome, job) {
            (Outcome::Step(step, schedule, pause), _) => {
                self.log(|| format!("process {id} ends its {step:?}"));
                if let Some(tasks) = self.background.get_mut(&id) {
                    tasks.end_step(step, schedule, pause, now_ms);
                }
                self.schedule_next_step(id);
            }
            (Outcome::Job(next), Some(job)) => return self.end_job(id, job, next, lacks_report),
            (Outcome::Job(_), None) => return Err("a task finished a job that was not assigned to it".to_owned()),
        }
        Ok(())
    }

    fn end_job(&mut self, id: u32, job: String, next: Next, lacks_report: bool) -> Checked {
        self.log(|| format!("process {id} ends job {job}: {next:?}"));
        let next = match next {
            Next::GivenUp if self.options.bug == Some(Bug::JobNeverGivenUp) => Next::Again(Duration::from_secs(300)),
            next => next,
        };
        if next == Next::Ended && lacks_report {
            return Err(format!("job {job} is acknowledged without a report on the input stream"));
        }
        if next == Next::GivenUp {
            self.counts.given_up += 1;
        }
        let again_ms = match next {
            Next::Again(pause) => Some(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX / 2)),
            Next::Ended | Next::GivenUp => None,
        };
        if self.fault_mix.occurs(Fault::JobAckLost, &mut self.random) || self.now_ms < self.server_up_at_ms {
            self.counts.lost += 1;
        } else {
            let after_ms = self.random.delay_ms(self.latency_ms);
            self.later(after_ms, Event::Background(BackgroundEvent::JobAcknowledged { id: job, again_ms }));
        }
        self.hand_out_jobs_later();
        Ok(())
    }

    fn dispatch(&mut self, process: u32, task: u64, call: PendingCall) {
        match call {
            PendingCall::Ask(question, answer) => self.send_question(process, task, question, answer),
            PendingCall::Put(input, answer) => self.send_input(process, task, input, answer),
            PendingCall::History(link, answer) => {
                let completion = Completion::History(answer, Ok(self.history(link.as_str())));
                self.soon(Event::Background(BackgroundEvent::Complete { process, task, completion }));
            }
        }
    }

    fn send_question(&mut self, process: u32, task: u64, question: Question, answer: Answer<Reply, String>) {
        let faults = (
            self.fault_mix.occurs(Fault::BelvoTimesOut, &mut self.random),
            self.fault_mix.occurs(Fault::BelvoThrottles, &mut self.random),
            self.fault_mix.occurs(Fault::BelvoFails, &mut self.random),
        );
        self.log(|| format!("process {process} asks {} {}", question.method, question.target));
        let reply = match faults {
            (true, ..) => {
                self.counts.lost += 1;
                let completion = Completion::Asked(answer, Err("timed out".to_owned()));
                self.later(CALL_TIMEOUT_MS, Event::Background(BackgroundEvent::Complete { process, task, completion }));
                if self.random.one_in(2) {
                    self.soon(Event::Background(BackgroundEvent::Ask { process, task, question, answer: None }));
                }
                return;
            }
            (_, true, _) => {
                let seconds = self.random.within(1, 60).to_string();
                Reply { status: 429, retry_after: Some(seconds), body: error("too_many_requests") }
            }
            (.., true) => {
                let page = || b"<html>gateway error</html>".to_vec();
                let replies = [
                    (500, error("unexpected_error")),
                    (503, page()),
                    (404, page()),
                    (200, page()),
                    (200, b"{}".to_vec()),
                ];
                let (status, body) = self.random.pick(&replies).clone();
                Reply { status, retry_after: None, body }
            }
            _ => {
                self.soon(Event::Background(BackgroundEvent::Ask { process, task, question, answer: Some(answer) }));
                return;
            }
        };
        self.counts.lost += 1;
        self.soon(Event::Background(BackgroundEvent::Complete {
            process,
            task,
            completion: Completion::Asked(answer, Ok(reply)),
        }));
    }

    /// Handles a request that has reached Belvo.
    fn ask_belvo(&mut self, process: u32, task: u64, question: &Question, answer: Option<Answer<Reply, String>>) {
        self.advance_belvo();
        let lags = self.fault_mix.occurs(Fault::BelvoLags, &mut self.random);
        let is_wrong_account = self.now_ms < self.wrong_account_until_ms;
        let reply = self.publishers.reply(question, is_wrong_account, lags);
        if is_wrong_account && question.target.contains("id__in=") && self.options.bug == Some(Bug::MissingLinksRemoved)
        {
            self.remove_missing_links(process, task);
        }
        self.schedule_belvo();
        if let Some(answer) = answer {
            self.soon(Event::Background(BackgroundEvent::Complete {
                process,
                task,
                completion: Completion::Asked(answer, reply),
            }));
        }
    }

    /// Advances Belvo's clock to the present time and sends its webhooks.
    pub(super) fn advance_belvo(&mut self) {
        for webhook in self.publishers.belvo.advance(self.now_ms) {
            let OutgoingWebhook { link, ref body, .. } = webhook;
            let is_lost = self.fault_mix.occurs(Fault::WebhookLost, &mut self.random);
            let delivery = self.publishers.message(link, "webhook", body.clone());
            let through_journal = self.random.one_in(2);
            let is_taken = match through_journal {
                _ if is_lost => false,
                true => self.accept(delivery.clone()),
                false => self.now_ms >= self.server_up_at_ms,
            };
            self.publishers.belvo.record_outcome(webhook, is_taken);
            if is_taken && !through_journal {
                self.soon(Event::Publish(delivery));
            }
        }
        self.schedule_belvo();
    }

    fn schedule_belvo(&mut self) {
        let Some(at_ms) = self.publishers.belvo.next_event_ms() else { return };
        if self.belvo_at_ms.is_none_or(|before_ms| at_ms < before_ms) {
            self.belvo_at_ms = Some(at_ms);
            self.later(at_ms - self.now_ms, Event::Background(BackgroundEvent::Belvo));
        }
    }

    /// Publishes an input with the guarantees of the publisher: stored, not stored, or unknown. The caller decides about a retry.
    fn send_input(&mut self, process: u32, task: u64, input: NewInput, answer: Answer<(), PublishError>) {
        self.log(|| format!("process {process} publishes {} {}", input.kind, input.link));
        let (is_lost, which) = (self.fault_mix.occurs(Fault::PublishLost, &mut self.random), self.random.below(3));
        let is_down = self.now_ms < self.server_up_at_ms;
        let unknown = || Err(PublishError::Unavailable { cause: "no response".to_owned() });
        match which {
            _ if self.suppresses_mute(&input) => {
                let completion = Completion::Put(answer, Ok(()));
                self.soon(Event::Background(BackgroundEvent::Complete { process, task, completion }));
            }
            _ if self.options.bug == Some(Bug::JobAcknowledgedBeforeReport) => {
                self.soon(Event::Background(BackgroundEvent::Put { process, task, input, answer: None }));
                self.later(
                    0,
                    Event::Background(BackgroundEvent::Complete {
                        process,
                        task,
                        completion: Completion::Put(answer, Ok(())),
                    }),
                );
            }
            _ if !is_lost && !is_down => {
                self.soon(Event::Background(BackgroundEvent::Put { process, task, input, answer: Some(answer) }));
            }
            0 if !is_down => {
                self.counts.lost += 1;
                let completion = Completion::Put(answer, Err(PublishError::Busy));
                self.later(0, Event::Background(BackgroundEvent::Complete { process, task, completion }));
            }
            which => {
                self.counts.lost += 1;
                let completion = Completion::Put(answer, unknown());
                self.later(
                    PUBLISH_TIMEOUT_MS,
                    Event::Background(BackgroundEvent::Complete { process, task, completion }),
                );
                if which == 1 && !is_down {
                    self.soon(Event::Background(BackgroundEvent::Put { process, task, input, answer: None }));
                }
            }
        }
    }

    /// Handles an input that has reached the input stream.
    fn put(&mut self, process: u32, task: u64, input: NewInput, answer: Option<Answer<(), PublishError>>) -> Checked {
        if self.now_ms < self.server_up_at_ms {
            if let Some(answer) = answer {
                let completion =
                    Completion::Put(answer, Err(PublishError::Unavailable { cause: "the server is down".to_owned() }));
                self.later(
                    PUBLISH_TIMEOUT_MS,
                    Event::Background(BackgroundEvent::Complete { process, task, completion }),
                );
            }
            return Ok(());
        }
        self.background.get_mut(&process).into_iter().for_each(|tasks| tasks.is_reported(task));
        let (reports_missing, is_from_sweep) = (reports_missing(&input), input.source == SWEEPS);
        let delivery = self.delivery(input);
        let is_there =
            self.publishers.belvo.find(&delivery.link).and_then(|link| self.publishers.belvo.status(link)).is_some();
        if is_from_sweep && reports_missing && is_there {
            return Err(format!("a sweep reports {} as deleted, but Belvo has it", delivery.link));
        }
        self.publish(delivery);
        if let Some(answer) = answer {
            self.soon(Event::Background(BackgroundEvent::Complete {
                process,
                task,
                completion: Completion::Put(answer, Ok(())),
            }));
        }
        Ok(())
    }

    /// Reports every link as missing, as a sweep without the missing guard would.
    fn remove_missing_links(&mut self, process: u32, task: u64) {
        for link in 0..LINKS_AT_BELVO {
            let Ok(id) = self.publishers.belvo.name(link).parse() else { continue };
            let at = self.now();
            let body =
                json!({"observed_at": at.to_string(), "source": "sweep", "outcome": "missing"}).to_string().into();
            let input = NewInput { kind: InputKind::Observation, link: id, source: SWEEPS, at, id: None, body };
            self.later(0, Event::Background(BackgroundEvent::Put { process, task, input, answer: None }));
        }
    }

    fn suppresses_mute(&self, input: &NewInput) -> bool {
        self.options.bug == Some(Bug::AdoptionNotMuted) && input.kind == InputKind::Command
    }

    fn delivery(&self, input: NewInput) -> Delivery {
        let NewInput { kind, link, id, body, source, .. } = input;
        let link = self.publishers.belvo.find(link.as_str()).unwrap_or(usize::MAX);
        let mut delivery = self.publishers.message(link, kind.as_str(), Value::Null);
        delivery.payload = body.into();
        delivery.headers.push(("ce-source".to_owned(), source.to_owned()));
        delivery.headers.extend(id.map(|id| ("ce-id".to_owned(), id)));
        delivery
    }

    /// Checks at the end that every job is finished, and that relink's state of each link agrees with Belvo's status.
    pub(super) fn check_ground_truth(&self) -> Checked {
        if self.client.is_none() {
            return Ok(());
        }
        if let Some(job) = self.jetstream.jobs.open_before(self.now_ms - JOB_LIFE_MS) {
            let (id, tries) = (&job.id, job.tries);
            return Err(format!("job {id} is neither finished nor given up after {tries} tries"));
        }
        self.checkers.check_superseded()?;
        // With several processes there are no sweeps.
        let links = (0..LINKS_AT_BELVO).filter(|link| !self.is_shared && self.publishers.refused != Some(*link));
        for link in links {
            let name = self.publishers.belvo.name(link);
            let (status, link) = (self.publishers.belvo.status(link), self.checkers.link(&name));
            GroundTruth { name: &name, status, link, had_wrong_account: self.had_wrong_account }.check()?;
        }
        Ok(())
    }

    /// The states of a link on the output stream.
    fn history(&self, link: &str) -> LinkHistory {
        let states = (1..).zip(&self.jetstream.output.messages).filter_map(|(sequence, stored)| {
            let Address::State(of) = &stored.message.address else { return None };
            let body = serde_json::from_slice(&stored.message.body).ok().filter(|_| of.as_str() == link)?;
            let (kind, stored_at) = (HistoryKind::State, At(stored.message.at));
            Some(HistoryEntry { kind, name: None, message_id: None, sequence, stored_at, body })
        });
        LinkHistory { entries: states.collect(), truncated: false }
    }
}

fn reports_missing(input: &NewInput) -> bool {
    let body: Value = serde_json::from_slice(&input.body).unwrap_or_default();
    input.kind == InputKind::Observation && body["outcome"] == "missing"
}

/// A response body with an error of Belvo.
pub(super) fn error(code: &str) -> Vec<u8> {
    json!([{"code": code, "message": "as the faults will", "request_id": "0"}]).to_string().into_bytes()
}
