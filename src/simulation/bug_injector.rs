//! Injected bugs test the simulation itself. A bug injector sits between a node and its driver and changes the values that pass.
//!
//! A node's inputs and outputs are values, so the shipped code stays unchanged. `machine_bugs` has the bugs that break a rule about users.

use std::collections::{BTreeMap, BTreeSet};

use strum::{Display, VariantArray};

use super::jetstream::FOLLOWS_ANYTHING;
use crate::contract::{Address, At, Commit, NoticeName, RefusedBody};
use crate::engine::{Message, Outgoing};
use crate::link::{EventName, Policy, Timestamp};
use crate::node::{BatchId, Closing, Input, Limit, Output, OutputKind, ReaderId, RequestId};
use crate::store::{Changes, MemoryStore, Put, Store};

/// A bug that the simulation must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, VariantArray)]
pub enum Bug {
    /// Deliveries are acknowledged when they arrive.
    AcknowledgeBeforeCommit,
    /// Batches carry no fences.
    NoFence,
    /// A committed offset is used without a check that it belongs to this stream.
    StreamIdentityIgnored,
    /// A stream with another creation time is read from its beginning, although it has been restored.
    RestoredStreamIsAnother,
    /// Times that lie in the future are never corrected.
    TimesNotCorrected,
    /// Deadlines do not wait for inputs that are accepted and not handled.
    InputsNotAwaited,
    /// Timers use the clock of the host.
    HostClockTrusted,
    /// The settle window of the machine is off.
    SettleWindowOff,
    /// Nobody looks for the successors of broken links.
    SuccessorsIgnored,
    /// Nobody learns that an institution is down.
    OutageNoticesOff,
    /// That an institution is down is announced with every step of a link.
    OutageAnnouncedAgain,
    /// That an institution works again is announced although nobody learned that it was down.
    RestoredUnannounced,
    /// Nobody learns that an institution works again.
    RestoredDropped,
    /// Each link is treated as a person of its own.
    PersonsIgnored,
    /// There is no pause between two messages to a person.
    PauseIgnored,
    /// Users get messages in quiet hours.
    QuietHoursIgnored,
    /// A prompt does not wait for Belvo's answer about another broken link of the person.
    OtherAnswerNotAwaited,
    /// A message leaves out one of the other links that wait.
    MentionDropped,
    /// Each step of a link that is known to be broken prompts again.
    PromptOnEveryWebhook,
    /// The end of a consent is announced again with every step.
    RungAnnouncedAgain,
    /// A user is reminded while he repairs the link.
    AskedWhileUpdating,
    /// A user is reminded of a link that works again.
    AskedAfterRepair,
    /// A user is reminded of a link that a newer one supersedes.
    AskedWhenSuperseded,
    /// Users are prompted while the bank is down.
    AskedInOutage,
    /// A prompt that waits for the end of an outage waits for ever.
    DeferralNeverEnds,
    /// The timer of a prompt that is postponed is forgotten.
    PostponedForgotten,
    /// Every report of an unfinished creation is announced, also a repeated one, and one about a link that works.
    UnfinishedAnnouncedAgain,
    /// The overlay of a commit is dropped before the store has its changes.
    OverlayDropped,
    /// Dead letters are stored after the commit that counts them.
    DeadLettersAfterCommit,
    /// The store is written before the commit is stored.
    AppliedBeforeCommitted,
    /// Committed offsets are left out of the batch.
    OffsetNotInBatch,
    /// A commit is sent before the outcome of the previous one is known.
    CommitsOverlap,
    /// A redelivery is treated as a new delivery.
    RedeliveryNotSkipped,
    /// A fence of another process is accepted as the node's own.
    ForeignFenceAccepted,
    /// A commit with an unknown outcome is treated as failed.
    UnknownOutcomeIgnored,
    /// Catching up ends after the first chunk.
    CatchUpStopsEarly,
    /// The node never receives a tick for its timers.
    TimersIgnored,
    /// A missing delivery is not detected.
    MissingDeliveryIgnored,
    /// A reader starts one message too late.
    RewoundTooFar,
    /// A store that is ahead of the stream is kept.
    StoreAheadKept,
    /// A commit is stored even if the previous one is no longer on the stream.
    CommitsNotChained,
    /// Only the length of the stream is compared with the store, not the witness.
    WitnessIgnored,
    /// The digests of the output stream are not compared.
    LostStatesIgnored,
    /// The id of a dead letter contains only the sequence of its input.
    DeadLetterIdBySequence,
    /// A job is acknowledged before its report is stored.
    JobAcknowledgedBeforeReport,
    /// A job that cannot succeed is retried without end.
    JobNeverGivenUp,
    /// Adopted links are not muted.
    AdoptionNotMuted,
    /// The reconciler does not run.
    SweepsDisabled,
    /// A sweep reports every link that it does not find as deleted, whatever their number.
    MissingLinksRemoved,
    /// A sender gets its answer before its message is on the disk of the journal.
    AnsweredBeforeSync,
    /// The forwarder notes a record as published before NATS has acknowledged it.
    JournalNotedTooEarly,
    /// After a failure the forwarder publishes the rest of the batch in reverse order.
    JournalBatchReversed,
    /// A record that is published again has another id.
    JournalRepeatHasAnotherId,
    /// The bytes of a damaged record are dropped.
    DamagedBytesDropped,
}

/// An action of the driver of a node with an injected bug.
pub(super) enum DriverAction {
    /// Perform an output, which the node may not have requested.
    Perform(Output),
    /// Pass an input to the node.
    Deliver(Input),
    /// Write to the store without notifying the node.
    Write(Changes),
}

/// The injected bug of one process, with its state.
#[derive(Default)]
pub(super) struct BugInjector {
    bug: Option<Bug>,
    owner: String,
    policy: Policy,
    /// Delayed outputs, and the number of inputs that they still wait for.
    delayed: Vec<(u32, Output)>,
    dead_letters: BTreeMap<BatchId, Output>,
    puts: BTreeMap<BatchId, Vec<Put>>,
    /// The difference between the real and the expected number of messages of a batch.
    count_difference: BTreeMap<BatchId, i64>,
    in_flight: Option<BatchId>,
    committed_early: BTreeSet<BatchId>,
    answered_early: BTreeMap<BatchId, Input>,
    ends: BTreeMap<RequestId, u64>,
    counts: BTreeMap<ReaderId, (u64, u64)>,
    /// Whether the input stream has another creation time than the committed offsets.
    is_another: bool,
}

impl BugInjector {
    pub(super) fn new(bug: Option<Bug>, owner: String, policy: Policy) -> Self {
        Self { bug, owner, policy, ..Self::default() }
    }

    /// Translates an output of the node into actions.
    pub(super) fn output(&mut self, output: Output) -> Vec<DriverAction> {
        let Some(bug) = self.bug else { return vec![DriverAction::Perform(output)] };
        match (bug, output) {
            (Bug::NoFence, Output::StageBatch { batch, mut messages }) => {
                messages.iter_mut().for_each(|sent| sent.fence = None);
                vec![DriverAction::Perform(Output::StageBatch { batch, messages })]
            }
            (Bug::OffsetNotInBatch, Output::StageBatch { batch, mut messages }) => {
                let before = messages.len();
                messages.retain(|sent| !matches!(sent.message.address, Address::Offset(_)));
                self.count_difference.insert(batch, -i64::try_from(before - messages.len()).unwrap_or(0));
                vec![DriverAction::Perform(Output::StageBatch { batch, messages })]
            }
            (bug, Output::StageBatch { batch, messages }) if bug.rule().is_some() => {
                let before = messages.len();
                let messages: Vec<Outgoing> = messages.into_iter().flat_map(|sent| bug.published(sent)).collect();
                let difference = i64::try_from(messages.len()).unwrap_or(0) - i64::try_from(before).unwrap_or(0);
                self.count_difference.insert(batch, difference);
                vec![DriverAction::Perform(Output::StageBatch { batch, messages })]
            }
            (bug, Output::Apply { request, mut changes }) if bug.rule().is_some() => {
                bug.forget_timers(&mut changes);
                vec![DriverAction::Perform(Output::Apply { request, changes })]
            }
            (Bug::UnfinishedAnnouncedAgain, Output::StageBatch { batch, messages }) => {
                let before = messages.len();
                let is_report =
                    |body: &RefusedBody| body.event.as_deref() == Some(EventName::CreationUnfinished.as_str());
                let again = |sent| published_again(sent, NoticeName::CreationUnfinished, is_report);
                let messages: Vec<Outgoing> = messages.into_iter().flat_map(again).collect();
                self.count_difference.insert(batch, i64::try_from(messages.len() - before).unwrap_or(0));
                vec![DriverAction::Perform(Output::StageBatch { batch, messages })]
            }
            (Bug::AppliedBeforeCommitted, Output::StageBatch { batch, messages }) => {
                let states = messages.iter().filter(|sent| matches!(sent.message.address, Address::State(_)));
                let puts = states.filter_map(|sent| Put::of_state_message(&sent.message.body, &self.policy).ok());
                self.puts.insert(batch, puts.collect());
                vec![DriverAction::Perform(Output::StageBatch { batch, messages })]
            }
            (Bug::AppliedBeforeCommitted, Output::CommitBatch { batch, closing }) => {
                let puts = self.puts.remove(&batch).unwrap_or_default();
                vec![
                    DriverAction::Write(Changes { puts, ..Changes::default() }),
                    DriverAction::Perform(Output::CommitBatch { batch, closing }),
                ]
            }
            // A change of deadlines alone is made at once: the node would plan it again and again.
            (Bug::OverlayDropped, Output::Apply { request, changes }) if !changes.offsets.is_empty() => {
                self.delayed.push((3, Output::Apply { request, changes }));
                vec![DriverAction::Deliver(Input::Applied { request })]
            }
            (Bug::DeadLettersAfterCommit, output @ Output::StoreDeadLetters { batch, .. }) => {
                self.dead_letters.insert(batch, output);
                vec![DriverAction::Deliver(Input::DeadLettersStored { batch })]
            }
            (Bug::CommitsOverlap, Output::CommitBatch { batch, closing }) => {
                self.in_flight = Some(batch);
                match (self.answered_early.remove(&batch), self.committed_early.contains(&batch)) {
                    (Some(answer), _) => vec![DriverAction::Deliver(answer)],
                    (None, true) => Vec::new(),
                    (None, false) => vec![DriverAction::Perform(Output::CommitBatch { batch, closing })],
                }
            }
            (Bug::CatchUpStopsEarly, Output::ReadOutput { request, after, up_to }) => {
                self.ends.insert(request, up_to);
                vec![DriverAction::Perform(Output::ReadOutput { request, after, up_to })]
            }
            (Bug::CommitsNotChained, Output::CommitBatch { batch, mut closing }) => {
                closing.follows = FOLLOWS_ANYTHING;
                vec![DriverAction::Perform(Output::CommitBatch { batch, closing })]
            }
            (Bug::TimersIgnored, Output::WakeAt { .. }) => Vec::new(),
            (Bug::RewoundTooFar, Output::Rewind { reader, partition, behind }) => {
                vec![DriverAction::Perform(Output::Rewind { reader, partition, behind: behind + 1 })]
            }
            (Bug::StoreAheadKept, Output::RestartStore { request }) => {
                vec![DriverAction::Deliver(Input::StoreRestarted { request, kept_at: None })]
            }
            (_, output) => vec![DriverAction::Perform(output)],
        }
    }

    /// Translates an input for the node into actions.
    pub(super) fn input(&mut self, input: Input, store: &MemoryStore) -> Vec<DriverAction> {
        let Some(bug) = self.bug else { return vec![DriverAction::Deliver(input)] };
        let mut actions: Vec<DriverAction> = Vec::new();
        let delayed = std::mem::take(&mut self.delayed);
        for (left, output) in delayed {
            if left == 0 {
                actions.push(DriverAction::Perform(output));
            } else {
                self.delayed.push((left - 1, output));
            }
        }
        match (bug, input) {
            (Bug::AcknowledgeBeforeCommit, Input::Delivered { deliveries }) => {
                let receipts = deliveries.iter().map(|delivered| delivered.delivery.receipt.clone()).collect();
                actions.extend([
                    DriverAction::Perform(Output::Acknowledge { receipts }),
                    DriverAction::Deliver(Input::Delivered { deliveries }),
                ]);
            }
            (Bug::RedeliveryNotSkipped, Input::Delivered { mut deliveries }) => {
                for delivered in &mut deliveries {
                    let (_, last) = self.counts.entry(delivered.reader).or_default();
                    if delivered.delivery.sequence <= *last {
                        delivered.delivery.sequence = *last + 1;
                    }
                    *last = delivered.delivery.sequence;
                }
                actions.push(DriverAction::Deliver(Input::Delivered { deliveries }));
            }
            (Bug::MissingDeliveryIgnored, Input::Delivered { mut deliveries }) => {
                for delivered in &mut deliveries {
                    let (count, _) = self.counts.entry(delivered.reader).or_default();
                    *count += 1;
                    delivered.nth = *count;
                }
                actions.push(DriverAction::Deliver(Input::Delivered { deliveries }));
            }
            (Bug::StreamIdentityIgnored, Input::InputFacts { request, mut stream }) => {
                let offsets = store.offsets().unwrap_or_default();
                for offset in offsets.values() {
                    stream.created_ns = offset.stream_created_ns;
                    stream.last_sequence = stream.last_sequence.max(offset.sequence);
                }
                actions.push(DriverAction::Deliver(Input::InputFacts { request, stream }));
            }
            (Bug::StreamIdentityIgnored, Input::InputLookedUp { request, .. }) => {
                actions.push(DriverAction::Deliver(Input::InputLookedUp { request, stored_at_ns: None }));
            }
            (Bug::TimesNotCorrected, Input::StreamTime { request, stream_at_ns, .. }) => {
                let host_at_ms = Timestamp::LATEST.as_millis();
                actions.push(DriverAction::Deliver(Input::StreamTime { request, stream_at_ns, host_at_ms }));
            }
            (Bug::InputsNotAwaited, Input::InputEnds { request, .. }) => {
                let (waited_ms, ends) = (0, BTreeMap::new());
                actions.push(DriverAction::Deliver(Input::InputEnds { request, waited_ms, ends }));
            }
            (Bug::HostClockTrusted, Input::StreamTime { request, host_at_ms, .. }) => {
                let stream_at_ns = host_at_ms.saturating_mul(1_000_000);
                actions.push(DriverAction::Deliver(Input::StreamTime { request, stream_at_ns, host_at_ms }));
            }
            (Bug::RestoredStreamIsAnother, Input::InputFacts { request, stream }) => {
                let offsets = store.offsets().unwrap_or_default();
                self.is_another = offsets.values().any(|offset| offset.stream_created_ns != stream.created_ns);
                actions.push(DriverAction::Deliver(Input::InputFacts { request, stream }));
            }
            (Bug::RestoredStreamIsAnother, Input::InputLookedUp { request, .. }) if self.is_another => {
                actions.push(DriverAction::Deliver(Input::InputLookedUp { request, stored_at_ns: Some(i64::MAX) }));
            }
            (Bug::RestoredStreamIsAnother, Input::InputFound { request, .. }) if self.is_another => {
                actions.push(DriverAction::Deliver(Input::InputFound { request, sequence: Some(1) }));
            }
            (Bug::DeadLettersAfterCommit, input @ Input::BatchCommitted { batch, .. }) => {
                actions.extend(self.dead_letters.remove(&batch).map(DriverAction::Perform));
                actions.push(DriverAction::Deliver(input));
            }
            (Bug::CommitsOverlap, Input::BatchStaged { batch }) => {
                if self.in_flight.is_some() {
                    self.committed_early.insert(batch);
                    actions
                        .push(DriverAction::Perform(Output::CommitBatch { batch, closing: self.closing_early(batch) }));
                }
                actions.push(DriverAction::Deliver(Input::BatchStaged { batch }));
            }
            (Bug::CommitsOverlap, input) => {
                let answered = answered_batch(&input);
                match answered {
                    Some(batch) if self.in_flight == Some(batch) => {
                        self.in_flight = None;
                        actions.push(DriverAction::Deliver(input));
                    }
                    Some(batch) if self.committed_early.contains(&batch) => {
                        self.answered_early.insert(batch, input);
                    }
                    Some(_) | None => actions.push(DriverAction::Deliver(input)),
                }
            }
            (Bug::WitnessIgnored, Input::OutputLookedUp { request, .. }) => {
                let position = store.position().ok().flatten();
                let owner = position.and_then(|position| Some(position.witness?.owner));
                actions.push(DriverAction::Deliver(Input::OutputLookedUp { request, owner }));
            }
            (Bug::ForeignFenceAccepted, Input::FencesRead { request, mut fences }) => {
                fences.values_mut().for_each(|fence| fence.owner.clone_from(&self.owner));
                actions.push(DriverAction::Deliver(Input::FencesRead { request, fences }));
            }
            (Bug::UnknownOutcomeIgnored, Input::BatchUnknown { batch, .. }) => {
                actions.push(DriverAction::Deliver(Input::BatchTooLarge { batch, limit: Limit::Messages }));
            }
            (Bug::CatchUpStopsEarly, Input::OutputRead { request, messages, reached }) => {
                let reached = self.ends.get(&request).copied().unwrap_or(reached);
                actions.push(DriverAction::Deliver(Input::OutputRead { request, messages, reached }));
            }
            (Bug::LostStatesIgnored, Input::OutputRead { request, mut messages, reached }) => {
                messages.retain(|message| message.kind != OutputKind::Commit);
                actions.push(DriverAction::Deliver(Input::OutputRead { request, messages, reached }));
            }
            (Bug::TimersIgnored, Input::Tick) => {}
            (_, Input::BatchCommitted { batch, last_sequence, messages_count }) => {
                let count_difference = self.count_difference.remove(&batch).unwrap_or(0);
                let messages_count = messages_count.saturating_add_signed(-count_difference);
                actions.push(DriverAction::Deliver(Input::BatchCommitted { batch, last_sequence, messages_count }));
            }
            (_, input) => actions.push(DriverAction::Deliver(input)),
        }
        actions
    }
}

impl BugInjector {
    /// The closing message of a batch that is committed before the node requests it.
    fn closing_early(&self, batch: BatchId) -> Closing {
        let (writer, id) = (self.owner.replace(' ', "-"), format!("commit.early.{}.{}", self.owner, batch.0));
        let commit = Commit { owner: self.owner.clone(), sent_at: At(Timestamp::default()), links: None };
        let body = serde_json::to_vec(&commit).unwrap_or_default().into();
        let message = Message { address: Address::Commit(writer), id, at: Timestamp::default(), body, trace: None };
        Closing { follows: FOLLOWS_ANYTHING, message }
    }
}

fn answered_batch(input: &Input) -> Option<BatchId> {
    match input {
        Input::BatchCommitted { batch, .. }
        | Input::BatchRefused { batch }
        | Input::BatchTooLarge { batch, .. }
        | Input::BatchFailed { batch, .. }
        | Input::BatchUnknown { batch, .. } => Some(*batch),
        _other => None,
    }
}

/// Adds a notice before a refusal that `is_cause` accepts.
fn published_again(sent: Outgoing, notice: NoticeName, is_cause: impl Fn(&RefusedBody) -> bool) -> Vec<Outgoing> {
    let Address::Refused(link) = &sent.message.address else { return vec![sent] };
    let body: Option<RefusedBody> = serde_json::from_slice(&sent.message.body).ok();
    if !body.is_some_and(|body| is_cause(&body)) {
        return vec![sent];
    }
    let Message { id, at, body, .. } = &sent.message;
    let address = Address::Notice(notice, link.clone());
    let message = Message { address, id: format!("{id}.again"), at: *at, body: body.clone(), trace: None };
    vec![Outgoing { partition: sent.partition, fence: None, message }, sent]
}
