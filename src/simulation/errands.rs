//! The way between the crews, Belvo and the streams: jobs are handed out, steps begin, and what their tasks wait for is granted or not.

use std::time::Duration;

use serde_json::{Value, json};

use super::bank::LINKS_AT_BELVO;
use super::belvo::Letter;
use super::chance::Trouble;
use super::checkers::{Checked, Truth};
use super::crew::{Answer, Crew, Ended, Outcome, Wish};
use super::saboteur::Bug;
use super::world::{Event, World};
use crate::belvo::{Question, Reply};
use crate::contract::{Address, At, InputKind};
use crate::engine::Delivery;
use crate::jobs::{JOBS_AT_ONCE_MAX, Next};
use crate::nats::history::{HistoryEntry, HistoryError, HistoryKind, LinkHistory};
use crate::nats::inputs::NewInput;
use crate::nats::publisher::PublishError;
use crate::node::Phase;

/// After this a call to Belvo is given up, and so is a publish.
const CALL_TIMEOUT_MS: i64 = 30_000;
const PUBLISH_TIMEOUT_MS: i64 = 10_000;

/// The longest that Belvo makes a job wait where nothing is wrong: the quota of a month is none of this simulation's.
const JOB_LIFE_MS: i64 = 6 * 3_600_000;

/// The source of what the reconciler publishes.
const SWEEPS: &str = "/relink/reconciler";

/// A step waits so long for a node that does not run.
const READY_PAUSE_MS: i64 = 30_000;

/// Something that happens between a crew and what it works with.
pub(super) enum Errand {
    /// The consumer of the jobs hands out what is due.
    HandOutJobs,
    /// An acknowledgement of a job arrives: nothing more, or again after so many milliseconds.
    JobAcknowledged { id: String, again_ms: Option<i64> },
    /// It is looked whether a step of the reconciler is due.
    Sweep { crew: u32 },
    /// A question arrives at Belvo, which answers or not.
    Ask { crew: u32, task: u64, question: Question, answer: Option<Answer<Reply, String>> },
    /// An input of a crew arrives at the input stream, which answers or not.
    Put { crew: u32, task: u64, input: NewInput, answer: Option<Answer<(), PublishError>> },
    /// A task is told what it waits for.
    Tell { crew: u32, task: u64, told: Told },
    /// Belvo does something by itself.
    Belvo,
}

/// An answer on its way.
pub(super) enum Told {
    Asked(Answer<Reply, String>, Result<Reply, String>),
    Put(Answer<(), PublishError>, Result<(), PublishError>),
    History(Answer<LinkHistory, HistoryError>, Result<LinkHistory, HistoryError>),
}

impl Told {
    /// Whoever waited may be gone.
    fn send(self) {
        match self {
            Self::Asked(answer, told) => drop(answer.send(told)),
            Self::Put(answer, told) => drop(answer.send(told)),
            Self::History(answer, told) => drop(answer.send(told)),
        }
    }
}

impl World {
    pub(super) fn run_errand(&mut self, errand: Errand) -> Checked {
        match errand {
            Errand::HandOutJobs => {
                self.handing_out_jobs_ms = None;
                return self.hand_out_jobs();
            }
            Errand::JobAcknowledged { id, again_ms } => {
                let next_ms = again_ms.map(|pause_ms| self.now_ms + pause_ms);
                self.jetstream.jobs.acknowledge(&id, next_ms);
                self.hand_out_jobs_later();
            }
            Errand::Sweep { crew } => return self.sweep(crew),
            Errand::Ask { crew, task, question, answer } => self.ask_belvo(crew, task, &question, answer),
            Errand::Put { crew, task, input, answer } => return self.put(crew, task, input, answer),
            Errand::Tell { crew, task, told } => {
                told.send();
                return self.go_on(crew, task);
            }
            Errand::Belvo => {
                self.belvo_at_ms = None;
                self.live_at_belvo();
            }
        }
        Ok(())
    }

    /// A process has a crew if relink has keys for Belvo; which of several processes sweeps is not settled.
    pub(super) fn start_crew(&mut self, id: u32) {
        let (Some(client), Some(process)) = (&self.client, self.processes.get(&id)) else { return };
        let seed = self.options.seed.wrapping_add(u64::from(id));
        let sweeps = !self.is_shared && self.options.bug != Some(Bug::NeverSwept);
        self.crews.insert(id, Crew::new(client, &process.store, &self.policy, sweeps, self.now_ms, seed));
        self.look_at_steps_later(id);
        self.hand_out_jobs_later();
    }

    pub(super) fn hand_out_jobs_later(&mut self) {
        let Some(at_ms) = self.jetstream.jobs.next_ms().filter(|_| !self.crews.is_empty()) else { return };
        let at_ms = at_ms.max(self.now_ms) + self.chance.delay_ms(self.latency_ms);
        if self.handing_out_jobs_ms.is_none_or(|before_ms| at_ms < before_ms) {
            self.handing_out_jobs_ms = Some(at_ms);
            self.later(at_ms - self.now_ms, Event::Errand(Errand::HandOutJobs));
        }
    }

    fn hand_out_jobs(&mut self) -> Checked {
        loop {
            let has_room = |(id, crew): (&u32, &Crew)| (crew.jobs_count() < JOBS_AT_ONCE_MAX).then_some(*id);
            let free: Vec<u32> = self.crews.iter().filter_map(has_room).collect();
            // Whoever has room again asks again.
            if free.is_empty() || self.now_ms < self.server_up_at_ms {
                self.hand_out_jobs_in(1_000);
                return Ok(());
            }
            let id = *self.chance.pick(&free);
            let Some(job) = self.jetstream.jobs.hand_out(self.now_ms) else { break };
            let (name, body, tries, stored_at_ms) = (job.id.clone(), job.body.clone(), job.tries, job.stored_at_ms);
            self.counts.jobs += 1;
            let Some(crew) = self.crews.get_mut(&id) else { break };
            let task = crew.begin_job(&name, body, tries, stored_at_ms);
            self.say(|| format!("crew {id} is given job {name}, for the {tries}th time"));
            self.go_on(id, task)?;
        }
        self.hand_out_jobs_later();
        Ok(())
    }

    fn hand_out_jobs_in(&mut self, pause_ms: i64) {
        if self.jetstream.jobs.next_ms().is_some() && !self.crews.is_empty() {
            self.handing_out_jobs_ms = Some(self.now_ms + pause_ms);
            self.later(pause_ms, Event::Errand(Errand::HandOutJobs));
        }
    }

    fn look_at_steps_later(&mut self, id: u32) {
        let next = self.crews.get(&id).and_then(|crew| crew.next_step(self.now_ms));
        if let Some((_, at_ms)) = next {
            self.later(at_ms - self.now_ms, Event::Errand(Errand::Sweep { crew: id }));
        }
    }

    fn sweep(&mut self, id: u32) -> Checked {
        let phase = self.processes.get(&id).map(|process| process.node.phase());
        let now_ms = self.now_ms;
        let Some(crew) = self.crews.get_mut(&id) else { return Ok(()) };
        let Some((step, _)) = crew.next_step(now_ms).filter(|(_, at_ms)| *at_ms <= now_ms) else { return Ok(()) };
        if phase != Some(Phase::Running) {
            self.later(READY_PAUSE_MS, Event::Errand(Errand::Sweep { crew: id }));
            return Ok(());
        }
        let Some(task) = crew.begin_step(step) else { return Ok(()) };
        self.counts.sweeps += 1;
        self.go_on(id, task)
    }

    /// A task goes on, as far as it comes.
    fn go_on(&mut self, id: u32, task: u64) -> Checked {
        let now_ms = self.now_ms;
        let Some(crew) = self.crews.get_mut(&id) else { return Ok(()) };
        let (wishes, ended) = crew.poll(task, now_ms);
        for wish in wishes {
            self.grant(id, task, wish);
        }
        let Some(Ended { outcome, job, reports_count }) = ended else { return Ok(()) };
        match (outcome, job) {
            (Outcome::Step(step, schedule, pause), _) => {
                self.say(|| format!("crew {id} ends its {step:?}"));
                if let Some(crew) = self.crews.get_mut(&id) {
                    crew.end_step(step, schedule, pause, now_ms);
                }
                self.look_at_steps_later(id);
            }
            (Outcome::Job(next), Some(job)) => return self.end_job(id, job, next, reports_count),
            (Outcome::Job(_), None) => return Err("a task did a job that nobody gave it".to_owned()),
        }
        Ok(())
    }

    fn end_job(&mut self, id: u32, job: String, next: Next, reports_count: usize) -> Checked {
        self.say(|| format!("crew {id} ends job {job}: {next:?}"));
        let next = match next {
            Next::GivenUp if self.options.bug == Some(Bug::JobNeverGivenUp) => Next::Again(Duration::from_secs(300)),
            next => next,
        };
        if next == Next::Ended && reports_count == 0 {
            return Err(format!("job {job} is acknowledged, and nothing of it is on the input stream"));
        }
        if next == Next::GivenUp {
            self.counts.given_up += 1;
        }
        let again_ms = match next {
            Next::Again(pause) => Some(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX / 2)),
            Next::Ended | Next::GivenUp => None,
        };
        if self.mix.strikes(Trouble::JobAckLost, &mut self.chance) || self.now_ms < self.server_up_at_ms {
            self.counts.lost += 1;
        } else {
            let after_ms = self.chance.delay_ms(self.latency_ms);
            self.later(after_ms, Event::Errand(Errand::JobAcknowledged { id: job, again_ms }));
        }
        self.hand_out_jobs_later();
        Ok(())
    }

    fn grant(&mut self, crew: u32, task: u64, wish: Wish) {
        match wish {
            Wish::Ask(question, answer) => self.carry_question(crew, task, question, answer),
            Wish::Put(input, answer) => self.carry_input(crew, task, input, answer),
            Wish::History(link, answer) => {
                let told = Told::History(answer, Ok(self.history(link.as_str())));
                self.soon(Event::Errand(Errand::Tell { crew, task, told }));
            }
        }
    }

    fn carry_question(&mut self, crew: u32, task: u64, question: Question, answer: Answer<Reply, String>) {
        let dice = (
            self.mix.strikes(Trouble::BelvoSilent, &mut self.chance),
            self.mix.strikes(Trouble::BelvoThrottles, &mut self.chance),
            self.mix.strikes(Trouble::BelvoFails, &mut self.chance),
        );
        self.say(|| format!("crew {crew} asks {} {}", question.method, question.target));
        let reply = match dice {
            (true, ..) => {
                self.counts.lost += 1;
                let told = Told::Asked(answer, Err("timed out".to_owned()));
                self.later(CALL_TIMEOUT_MS, Event::Errand(Errand::Tell { crew, task, told }));
                if self.chance.one_in(2) {
                    self.soon(Event::Errand(Errand::Ask { crew, task, question, answer: None }));
                }
                return;
            }
            (_, true, _) => {
                let seconds = self.chance.within(1, 60).to_string();
                Reply { status: 429, retry_after: Some(seconds), body: error("too_many_requests") }
            }
            (.., true) => {
                let page = || b"<html>the gateway is not well</html>".to_vec();
                let replies = [
                    (500, error("unexpected_error")),
                    (503, page()),
                    (404, page()),
                    (200, page()),
                    (200, b"{}".to_vec()),
                ];
                let (status, body) = self.chance.pick(&replies).clone();
                Reply { status, retry_after: None, body }
            }
            _ => {
                self.soon(Event::Errand(Errand::Ask { crew, task, question, answer: Some(answer) }));
                return;
            }
        };
        self.counts.lost += 1;
        self.soon(Event::Errand(Errand::Tell { crew, task, told: Told::Asked(answer, Ok(reply)) }));
    }

    /// A question is at Belvo.
    fn ask_belvo(&mut self, crew: u32, task: u64, question: &Question, answer: Option<Answer<Reply, String>>) {
        self.live_at_belvo();
        let lags = self.mix.strikes(Trouble::BelvoLags, &mut self.chance);
        let is_astray = self.now_ms < self.astray_until_ms;
        let reply = self.bank.reply(question, is_astray, lags);
        if is_astray && question.target.contains("id__in=") && self.options.bug == Some(Bug::MissingBelieved) {
            self.believe_missing(crew, task);
        }
        self.belvo_later();
        if let Some(answer) = answer {
            self.soon(Event::Errand(Errand::Tell { crew, task, told: Told::Asked(answer, reply) }));
        }
    }

    /// What Belvo has done by itself until now: its webhooks leave.
    pub(super) fn live_at_belvo(&mut self) {
        for letter in self.bank.belvo.live(self.now_ms) {
            let Letter { link, ref body, .. } = letter;
            let is_lost = self.mix.strikes(Trouble::WebhookLost, &mut self.chance);
            let is_taken = !is_lost && self.now_ms >= self.server_up_at_ms;
            let delivery = is_taken.then(|| self.bank.said(link, "webhook", body.clone()));
            self.bank.belvo.settle(letter, is_taken);
            if let Some(delivery) = delivery {
                self.soon(Event::Publish(delivery));
            }
        }
        self.belvo_later();
    }

    fn belvo_later(&mut self) {
        let Some(at_ms) = self.bank.belvo.next_event_ms() else { return };
        if self.belvo_at_ms.is_none_or(|before_ms| at_ms < before_ms) {
            self.belvo_at_ms = Some(at_ms);
            self.later(at_ms - self.now_ms, Event::Errand(Errand::Belvo));
        }
    }

    /// What the publisher promises: stored, or not stored, or nobody knows. Its caller repeats or gives up, as it likes.
    fn carry_input(&mut self, crew: u32, task: u64, input: NewInput, answer: Answer<(), PublishError>) {
        self.say(|| format!("crew {crew} publishes {} {}", input.kind, input.link));
        let (is_lost, which) = (self.mix.strikes(Trouble::PublishLost, &mut self.chance), self.chance.below(3));
        let is_down = self.now_ms < self.server_up_at_ms;
        let unknown = || Err(PublishError::Unavailable { cause: "no answer came".to_owned() });
        match which {
            _ if self.drops_mute(&input) => {
                let told = Told::Put(answer, Ok(()));
                self.soon(Event::Errand(Errand::Tell { crew, task, told }));
            }
            _ if self.options.bug == Some(Bug::JobAcknowledgedBeforeReport) => {
                self.soon(Event::Errand(Errand::Put { crew, task, input, answer: None }));
                self.later(0, Event::Errand(Errand::Tell { crew, task, told: Told::Put(answer, Ok(())) }));
            }
            _ if !is_lost && !is_down => {
                self.soon(Event::Errand(Errand::Put { crew, task, input, answer: Some(answer) }));
            }
            0 if !is_down => {
                self.counts.lost += 1;
                let told = Told::Put(answer, Err(PublishError::Busy));
                self.later(0, Event::Errand(Errand::Tell { crew, task, told }));
            }
            which => {
                self.counts.lost += 1;
                let told = Told::Put(answer, unknown());
                self.later(PUBLISH_TIMEOUT_MS, Event::Errand(Errand::Tell { crew, task, told }));
                if which == 1 && !is_down {
                    self.soon(Event::Errand(Errand::Put { crew, task, input, answer: None }));
                }
            }
        }
    }

    /// An input of a crew is at the input stream.
    fn put(&mut self, crew: u32, task: u64, input: NewInput, answer: Option<Answer<(), PublishError>>) -> Checked {
        if self.now_ms < self.server_up_at_ms {
            if let Some(answer) = answer {
                let told = Told::Put(answer, Err(PublishError::Unavailable { cause: "the server is away".to_owned() }));
                self.later(PUBLISH_TIMEOUT_MS, Event::Errand(Errand::Tell { crew, task, told }));
            }
            return Ok(());
        }
        self.crews.get_mut(&crew).into_iter().for_each(|crew| crew.is_reported(task));
        let (says_missing, is_from_sweep) = (says_missing(&input), input.source == SWEEPS);
        let delivery = self.delivery(input);
        let is_there = self.bank.belvo.find(&delivery.link).and_then(|link| self.bank.belvo.status(link)).is_some();
        if is_from_sweep && says_missing && is_there {
            return Err(format!("a sweep says that {} is gone, and Belvo has it", delivery.link));
        }
        self.publish(delivery);
        if let Some(answer) = answer {
            self.soon(Event::Errand(Errand::Tell { crew, task, told: Told::Put(answer, Ok(())) }));
        }
        Ok(())
    }

    /// A sweep that takes every link for deleted that it does not see.
    fn believe_missing(&mut self, crew: u32, task: u64) {
        for link in 0..LINKS_AT_BELVO {
            let Ok(id) = self.bank.belvo.name(link).parse() else { continue };
            let at = self.now();
            let body =
                json!({"observed_at": at.to_string(), "source": "sweep", "outcome": "missing"}).to_string().into();
            let input = NewInput { kind: InputKind::Observation, link: id, source: SWEEPS, at, id: None, body };
            self.later(0, Event::Errand(Errand::Put { crew, task, input, answer: None }));
        }
    }

    fn drops_mute(&self, input: &NewInput) -> bool {
        self.options.bug == Some(Bug::AdoptionPrompts) && input.kind == InputKind::Command
    }

    fn delivery(&self, input: NewInput) -> Delivery {
        let NewInput { kind, link, id, body, source, .. } = input;
        let link = self.bank.belvo.find(link.as_str()).unwrap_or(usize::MAX);
        let mut delivery = self.bank.said(link, kind.as_str(), Value::Null);
        delivery.payload = body.into();
        delivery.headers.push(("ce-source".to_owned(), source.to_owned()));
        delivery.headers.extend(id.map(|id| ("ce-id".to_owned(), id)));
        delivery
    }

    /// At rest: every job has come to an end, and relink holds of each link what Belvo says.
    pub(super) fn check_truth(&self) -> Checked {
        if self.client.is_none() {
            return Ok(());
        }
        if let Some(job) = self.jetstream.jobs.open_before(self.now_ms - JOB_LIFE_MS) {
            let (id, tries) = (&job.id, job.tries);
            return Err(format!("job {id} is neither done nor given up after {tries} tries"));
        }
        // Which of several processes sweeps is not settled.
        let links = (0..LINKS_AT_BELVO).filter(|link| !self.is_shared && self.bank.refused != Some(*link));
        for link in links {
            let name = self.bank.belvo.name(link);
            let (status, held) = (self.bank.belvo.status(link), self.checkers.link(&name));
            Truth { name: &name, status, held, was_astray: self.was_astray }.check()?;
        }
        Ok(())
    }

    /// What the output stream still has of a link.
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

fn says_missing(input: &NewInput) -> bool {
    let body: Value = serde_json::from_slice(&input.body).unwrap_or_default();
    input.kind == InputKind::Observation && body["outcome"] == "missing"
}

/// An error in Belvo's words.
pub(super) fn error(code: &str) -> Vec<u8> {
    json!([{"code": code, "message": "as the dice will", "request_id": "0"}]).to_string().into_bytes()
}
