//! The network between the processes and the server: a request may be lost or late, and so may its response.

use std::time::Duration;

use super::bug_injector::{Bug, DriverAction};
use super::checkers::Checked;
use super::fault::Fault;
use super::jetstream::Stored;
use super::process::Process;
use super::publishers::TOO_LARGE;
use super::world::{Event, World};
use crate::contract::Address;
use crate::engine::{Message, Outgoing};
use crate::nats::dead_letter::InputPosition;
use crate::nats::stream::StreamIdentity;
use crate::node::{BatchId, Closing, End, FenceToTake, Input, Limit, Note, Output, PartitionEnd, RequestId};
use crate::store::{Changes, MemoryStore, Store};

/// The timeout of a request.
const TIMEOUT_MS: i64 = 10_000;

/// The time after which a server drops an idle batch.
const BATCH_IDLE_MS: i64 = 10_000;

/// How far a timer may be ahead of the server: a measurement of its clock is not exact.
pub(super) const CLOCK_DEVIATION: Duration = Duration::from_secs(10);

/// The number of messages of the output stream in one chunk.
const PIECE: usize = 5;

impl World {
    /// Passes an input to a process and starts the outputs that follow.
    pub(super) fn receive(&mut self, id: u32, input: Input) -> Checked {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        let actions = process.bug_injector.input(input, &process.store);
        self.act(id, actions)
    }

    fn act(&mut self, id: u32, actions: Vec<DriverAction>) -> Checked {
        for act in actions {
            match act {
                DriverAction::Perform(output) => self.perform(id, output)?,
                DriverAction::Deliver(input) => self.handle_input(id, input)?,
                DriverAction::Write(changes) => self.apply(id, &changes)?,
            }
        }
        Ok(())
    }

    fn handle_input(&mut self, id: u32, input: Input) -> Checked {
        let now_ms = self.now_ms;
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        let is_shown = self.trace.is_on() && input != Input::Tick;
        let shown = is_shown.then(|| shown(&format!("{input:?}")));
        let handled = process.handle(now_ms, input);
        if let Some(shown) = shown {
            self.log(|| format!("process {id} <- {shown}"));
        }
        handled?;
        while let Some(output) = self.processes.get_mut(&id).and_then(Process::poll) {
            if self.trace.is_on() && !matches!(output, Output::WakeAt { .. }) {
                let shown = shown_output(&output);
                self.log(|| format!("process {id} -> {shown}"));
            }
            let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
            let actions = process.bug_injector.output(output);
            self.act(id, actions)?;
        }
        Ok(())
    }

    /// Performs an output of a node, or sends it to the server.
    fn perform(&mut self, id: u32, output: Output) -> Checked {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        match output {
            Output::Apply { .. } | Output::RestartStore { .. } | Output::Checkpoint { .. } => {
                process.writes.push_back(output);
                let is_first = process.writes.len() == 1;
                if self.writes_at_once {
                    return self.write(id);
                }
                if is_first {
                    let after_ms = self.random.delay_ms(5);
                    self.later(after_ms, Event::Write(id));
                }
            }
            Output::WakeAt { at } => {
                process.wakes_count += 1;
                let (nth, skew_ms) = (process.wakes_count, process.skew_ms);
                let after_ms = at.as_millis().saturating_sub(self.now_ms + skew_ms);
                self.later(after_ms, Event::Wake { process: id, nth });
            }
            Output::Note(Note::TimerSetAside { of }) => drop(process.set_aside.insert(of)),
            Output::Note(Note::TimersHeldTooLong { .. }) => self.checkers.timers_held_too_long(),
            Output::Note(_) => {}
            Output::Rewind { partition, .. } | Output::StopReader { partition } => {
                if let Some((reader, _)) = process.readers.remove(&partition) {
                    let lingers = self.fault_mix.occurs(Fault::SecondReader, &mut self.random);
                    let after_ms = if lingers { self.random.within(1_000, 30_000) } else { 0 };
                    self.later(after_ms, Event::EndPull { process: id, reader });
                }
                if let Output::Rewind { reader, .. } = output {
                    let now_ms = self.now_ms;
                    if let Some(process) = self.processes.get_mut(&id) {
                        process.readers.insert(partition, (reader, now_ms));
                    }
                    self.send(id, output);
                }
            }
            Output::Acknowledge { receipts } => {
                for receipt in receipts {
                    let numbers: Vec<i64> = receipt.split(' ').filter_map(|number| number.parse().ok()).collect();
                    let [partition, sequence, stored_at_ns] = numbers[..] else {
                        return Err(format!("{receipt} is not a receipt"));
                    };
                    let (partition, sequence) = (partition as u16, sequence as u64);
                    self.checkers.acknowledged(partition, sequence, stored_at_ns, &self.jetstream)?;
                    if !self.fault_mix.occurs(Fault::AckLost, &mut self.random) {
                        self.soon(Event::Acknowledge { partition, sequence });
                    }
                }
            }
            Output::DiscardBatch { batch } => self.soon(Event::Expire { process: id, batch }),
            Output::PartitionEnded { partition, why } => {
                // A fence of an ended process arrived late: the partition is still assigned to this process.
                if why == PartitionEnd::Taken && self.assigned[usize::from(partition)] == id {
                    let after_ms = self.random.within(500, 4_000);
                    self.later(after_ms, Event::Gain { process: id, partitions: vec![partition] });
                }
            }
            Output::End { why } => return self.end(id, &why),
            Output::TakeFences { ref fences, .. } => {
                self.checkers.takes(id, fences, &self.jetstream)?;
                self.send(id, output);
            }
            Output::ReadOutputFacts { .. }
            | Output::LookUpOutput { .. }
            | Output::ReadFences { .. }
            | Output::ReadOutput { .. }
            | Output::ReadInputFacts { .. }
            | Output::LookUpInput { .. }
            | Output::FindInput { .. }
            | Output::ReadStreamTime { .. }
            | Output::ReadInputEnds { .. }
            | Output::StoreDeadLetters { .. }
            | Output::StageBatch { .. }
            | Output::CommitBatch { .. } => self.send(id, output),
        }
        Ok(())
    }

    /// Handles the end of a process that its node has decided.
    fn end(&mut self, id: u32, why: &End) -> Checked {
        let store = match why {
            End::Stopped | End::Fenced => self.processes.get(&id).map(|process| process.store.copy()),
            End::Store { .. } => self.processes.get(&id).map(|process| process.store.durable()),
            End::Record { problem } => return Err(format!("process {id} ends: {problem}")),
        };
        self.remove(id);
        self.start_later(id, store.unwrap_or_default());
        Ok(())
    }

    /// Removes a process with its connection.
    pub(super) fn remove(&mut self, id: u32) {
        self.background.remove(&id);
        let Some(process) = self.processes.remove(&id) else { return };
        for (reader, _) in process.readers.values().copied() {
            let lingers = self.fault_mix.occurs(Fault::SecondReader, &mut self.random);
            let after_ms = if lingers { self.random.within(1_000, 30_000) } else { 0 };
            self.later(after_ms, Event::EndPull { process: id, reader });
        }
        self.close_journal(id);
        self.ended.push(process);
    }

    /// Schedules a restart, if the process still has partitions.
    pub(super) fn start_later(&mut self, instead_of: u32, store: MemoryStore) {
        if self.assigned.contains(&instead_of) && self.starting.insert(instead_of) {
            let after_ms = self.random.delay_ms(500);
            self.later(after_ms, Event::Start { instead_of, store });
        }
    }

    /// Performs one write to the store of a process.
    pub(super) fn write(&mut self, id: u32) -> Checked {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        let Some(output) = process.writes.pop_front() else { return Ok(()) };
        let is_more = !process.writes.is_empty();
        let store = process.store.clone();
        let failed = |error: &dyn std::fmt::Display| format!("the store of process {id}: {error}");
        let answer = match output {
            Output::Apply { request, changes } => {
                self.apply(id, &changes)?;
                Input::Applied { request }
            }
            Output::Checkpoint { request } => {
                store.checkpoint().map_err(|error| failed(&error))?;
                Input::Checkpointed { request }
            }
            Output::RestartStore { request } => {
                store.restart_empty().map_err(|error| failed(&error))?;
                Input::StoreRestarted { request, kept_at: None }
            }
            other => unreachable!("{other:?} is not for the store"),
        };
        if self.writes_at_once {
            return self.receive(id, answer);
        }
        if is_more {
            let after_ms = self.random.delay_ms(5);
            self.later(after_ms, Event::Write(id));
        }
        // The node learns about its writes in their order.
        let at_ms = self.now_ms + self.random.delay_ms(3);
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        process.last_write_reported_ms = process.last_write_reported_ms.max(at_ms);
        let after_ms = process.last_write_reported_ms - self.now_ms;
        self.later(after_ms, Event::Receive { process: id, input: answer });
        Ok(())
    }

    fn apply(&mut self, id: u32, changes: &Changes) -> Checked {
        self.checkers.applied(changes)?;
        let Some(process) = self.processes.get(&id) else { return Ok(()) };
        process.store.apply(changes).map_err(|error| format!("the store of process {id}: {error}"))
    }

    /// Sends a request. The request or its response may be lost or late.
    fn send(&mut self, id: u32, output: Output) {
        let faults = (
            self.fault_mix.occurs(Fault::RequestLost, &mut self.random),
            self.fault_mix.occurs(Fault::AnswerLost, &mut self.random),
            self.fault_mix.occurs(Fault::RequestLate, &mut self.random),
        );
        let is_down = self.now_ms < self.server_up_at_ms;
        if !is_down && faults == (false, false, false) {
            self.soon(Event::Arrive { process: id, output, is_answered: true });
            return;
        }
        self.counts.lost += 1;
        let patience_ms = self.random.within(1, TIMEOUT_MS);
        self.later(patience_ms, Event::Receive { process: id, input: unanswered(&output, "no response") });
        match faults {
            _ if is_down => {}
            (true, ..) => {}
            (_, true, _) => self.soon(Event::Arrive { process: id, output, is_answered: false }),
            _ => self.arrive_late(id, output, patience_ms),
        }
    }

    /// Schedules a late request, as from the buffer of a client after a reconnect. A commit arrives with its staged messages, which are in
    /// the buffer too.
    fn arrive_late(&mut self, id: u32, output: Output, patience_ms: i64) {
        let after_ms = patience_ms + self.random.delay_ms(4_000);
        match output {
            Output::CommitBatch { batch, closing } => {
                if let Some(batch) = self.jetstream.output.take_staged(id, batch) {
                    self.later(after_ms, Event::LateBatch { process: id, batch, closing });
                }
            }
            output => self.later(after_ms, Event::Arrive { process: id, output, is_answered: false }),
        }
    }

    /// Handles a request that has reached the server.
    pub(super) fn arrive(&mut self, id: u32, output: Output, is_answered: bool) -> Checked {
        if self.now_ms < self.server_up_at_ms {
            if is_answered {
                self.soon(Event::Receive { process: id, input: unanswered(&output, "the server is down") });
            }
            return Ok(());
        }
        let answers = self.answers(id, output)?;
        // The chunks of one response keep their order.
        let mut after_ms = 0;
        for input in answers.into_iter().filter(|_| is_answered) {
            after_ms += self.random.delay_ms(self.latency_ms);
            self.later(after_ms, Event::Receive { process: id, input });
        }
        Ok(())
    }

    fn answers(&mut self, id: u32, output: Output) -> Result<Vec<Input>, String> {
        let (input, stream) = (&self.jetstream.input, &self.jetstream.output);
        Ok(vec![match output {
            Output::ReadOutputFacts { request } => Input::OutputFacts { request, stream: stream.facts() },
            Output::ReadInputFacts { request } => Input::InputFacts { request, stream: input.facts() },
            Output::ReadFences { request, partitions } => {
                Input::FencesRead { request, fences: stream.fences(&partitions) }
            }
            Output::LookUpInput { request, sequence } => {
                let stored_at_ns = input.get(sequence).map(|delivery| delivery.stored_at_ns);
                Input::InputLookedUp { request, stored_at_ns }
            }
            Output::FindInput { request, after_ns } => {
                Input::InputFound { request, sequence: input.first_after(after_ns) }
            }
            Output::ReadStreamTime { request } => {
                let host_at_ms = self.now_ms + self.processes.get(&id).map_or(0, |process| process.host_skew_ms);
                Input::StreamTime { request, stream_at_ns: self.server_now_ms() * 1_000_000, host_at_ms }
            }
            Output::ReadInputEnds { request, partitions } => self.input_ends(id, request, partitions),
            Output::LookUpOutput { request, sequence } => {
                Input::OutputLookedUp { request, owner: stream.owner_of(sequence) }
            }
            Output::TakeFences { request, fences, closing } => self.take_fences(id, request, fences, closing)?,
            Output::ReadOutput { request, after, up_to } => {
                let Some((messages, reached)) = stream.read(after, up_to) else {
                    return Ok(vec![Input::RequestFailed {
                        request,
                        problem: "the stream does not reach that far".to_owned(),
                    }]);
                };
                let pieces = messages.chunks(PIECE).map(|piece| {
                    let reached = piece.last().map_or(reached, |last| last.sequence);
                    Input::OutputRead { request, messages: piece.to_vec(), reached }
                });
                return Ok(pieces.collect());
            }
            Output::Rewind { reader, partition, behind } => return Ok(self.reset(id, reader, partition, behind)),
            Output::StoreDeadLetters { batch, input_created_ns, letters } => {
                let stream = StreamIdentity { stream: "BELVO".to_owned(), created_ns: input_created_ns.into() };
                for letter in letters {
                    let (sequence, stored_at_ns) = (letter.delivery.sequence, letter.delivery.stored_at_ns);
                    let place = InputPosition { stream: stream.clone(), sequence, stored_at_ns };
                    let by_sequence =
                        (self.options.bug == Some(Bug::DeadLetterIdBySequence)).then(|| sequence.to_string());
                    let id = by_sequence.unwrap_or_else(|| place.dead_letter_id());
                    self.jetstream.dead_letters.store(id, letter, self.now_ms);
                }
                Input::DeadLettersStored { batch }
            }
            Output::StageBatch { batch, messages } => self.stage(id, batch, messages),
            Output::CommitBatch { batch, closing } => match self.jetstream.output.take_staged(id, batch) {
                Some(messages) => self.commit(id, batch, messages, closing)?,
                None => Input::BatchFailed { batch, problem: "the server does not have the whole batch".to_owned() },
            },
            other => unreachable!("{other:?} is not for the server"),
        }])
    }

    fn stage(&mut self, id: u32, batch: BatchId, messages: Vec<Outgoing>) -> Input {
        if messages.len() >= self.batch_messages_max {
            return Input::BatchTooLarge { batch, limit: Limit::Messages };
        }
        let is_too_large =
            |sent: &Outgoing| sent.message.body.windows(TOO_LARGE.len()).any(|window| window == TOO_LARGE.as_bytes());
        if messages.iter().any(is_too_large) {
            return Input::BatchTooLarge { batch, limit: Limit::MessageBytes };
        }
        self.jetstream.output.stage(id, batch, messages);
        self.later(BATCH_IDLE_MS, Event::Expire { process: id, batch });
        Input::BatchStaged { batch }
    }

    fn commit(&mut self, id: u32, batch: BatchId, messages: Vec<Outgoing>, closing: Closing) -> Result<Input, String> {
        let messages_count = messages.len() as u64 + 1;
        match self.jetstream.output.store(id, messages, closing) {
            Ok(last_sequence) => {
                self.counts.commits += 1;
                self.stored(id, messages_count)?;
                Ok(Input::BatchCommitted { batch, last_sequence, messages_count })
            }
            Err(_refused) => {
                self.counts.refused += 1;
                self.log(|| format!("the server refuses batch {} of process {id}", batch.0));
                Ok(Input::BatchRefused { batch })
            }
        }
    }

    /// Commits a batch that arrives after the timeout of its sender, who gets no response.
    pub(super) fn late_batch(&mut self, id: u32, batch: Vec<Outgoing>, closing: Closing) -> Checked {
        self.log(|| format!("a batch of process {id} arrives after its timeout"));
        self.commit(id, BatchId(0), batch, closing).map(drop)
    }

    fn take_fences(
        &mut self,
        id: u32,
        request: RequestId,
        fences: Vec<FenceToTake>,
        closing: Option<Message>,
    ) -> Result<Input, String> {
        let count = fences.len() as u64 + u64::from(closing.is_some());
        match self.jetstream.output.take(id, fences, closing) {
            Ok((fences, closing)) => {
                self.stored(id, count)?;
                Ok(Input::FencesTaken { request, fences, closing })
            }
            Err(_refused) => Ok(Input::FencesRefused { request }),
        }
    }

    /// Checks the last `count` messages of the output stream, which a process has stored, and registers their jobs.
    fn stored(&mut self, id: u32, count: u64) -> Checked {
        let messages = &self.jetstream.output.messages;
        let batch = &messages[messages.len() - usize::try_from(count).unwrap_or(0)..];
        if self.trace.is_on() {
            let ids: Vec<&str> = batch.iter().map(|stored| stored.message.id.as_str()).collect();
            let line = format!("stored up to {}: {}", messages.len(), ids.join(", "));
            self.trace.record(self.run_ms(), || line);
        }
        // While the clock of the server is wrong, nobody can know it.
        let latest = (!self.had_server_skew).then(|| self.now().after(CLOCK_DEVIATION));
        let host = self.journals.host_of.get(&id).copied();
        self.checkers.stored(batch, latest, host, &self.jetstream)?;
        let is_job = |stored: &&Stored| matches!(stored.message.address, Address::Job(..));
        for Stored { message, .. } in batch.iter().filter(is_job) {
            self.jetstream.jobs.store(message.id.clone(), message.body.to_vec(), self.now_ms);
        }
        self.hand_out_jobs_later();
        Ok(())
    }
}

/// The input that a driver reports for a missing response.
fn unanswered(output: &Output, problem: &str) -> Input {
    let problem = problem.to_owned();
    match output {
        Output::CommitBatch { batch, .. } => Input::BatchUnknown { batch: *batch, problem },
        Output::StoreDeadLetters { batch, .. } | Output::StageBatch { batch, .. } => {
            Input::BatchFailed { batch: *batch, problem }
        }
        Output::Rewind { reader, .. } => Input::ReaderFailed { reader: *reader, problem },
        Output::ReadOutputFacts { request }
        | Output::TakeFences { request, .. }
        | Output::LookUpOutput { request, .. }
        | Output::ReadFences { request, .. }
        | Output::ReadOutput { request, .. }
        | Output::ReadInputFacts { request }
        | Output::LookUpInput { request, .. }
        | Output::FindInput { request, .. }
        | Output::ReadStreamTime { request }
        | Output::ReadInputEnds { request, .. } => Input::RequestFailed { request: *request, problem },
        other => unreachable!("{other:?} is not for the server"),
    }
}

fn shown_output(output: &Output) -> String {
    match output {
        Output::StageBatch { batch, messages } => {
            let ids: Vec<String> = messages.iter().map(|sent| sent.message.id.clone()).collect();
            format!("StageBatch {} {ids:?}", batch.0)
        }
        Output::Apply { request, changes } => {
            let puts: Vec<String> = changes.puts.iter().map(|put| format!("{}.{}", put.id, put.head.version)).collect();
            format!("Apply {} {puts:?} {:?} {:?}", request.0, changes.offsets, changes.position)
        }
        Output::StoreDeadLetters { batch, letters, .. } => {
            let sequences: Vec<u64> = letters.iter().map(|letter| letter.delivery.sequence).collect();
            format!("StoreDeadLetters {} {sequences:?}", batch.0)
        }
        Output::TakeFences { request, fences, .. } => {
            let fences: Vec<_> = fences.iter().map(|fence| (fence.partition, fence.expects)).collect();
            format!("TakeFences {} {fences:?}", request.0)
        }
        output => shown(&format!("{output:?}")),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(400).collect()
}
