//! Planted bugs: the test of the test. A saboteur stands between a node and its driver, and changes what they say to each other.
//!
//! What goes in and out of a node are values, so nothing of what is shipped has to be touched for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::jetstream::FOLLOWS_ANYTHING;
use crate::contract::{Address, At, Commit, NoticeName, RefusedBody};
use crate::engine::{Message, Outgoing};
use crate::link::{Policy, Settings, Timestamp};
use crate::node::{BatchId, Closing, Input, Limit, Output, ReaderId, RequestId};
use crate::store::{Changes, MemoryStore, Put, Store};

/// A bug that the simulation must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Deliveries are acknowledged when they arrive.
    AcknowledgeBeforeCommit,
    /// Batches are not guarded by fences.
    NoFence,
    /// A committed offset is believed without looking at which stream it speaks of.
    IdentityIgnored,
    /// The settle window of the machine is off.
    SettleWindowOff,
    /// Bad news about a link that is known to be broken prompts again.
    PromptOnEveryWebhook,
    /// What is under way is forgotten before the store has it.
    OverlayDropped,
    /// Dead letters are stored after the commit that counts them.
    DeadLettersAfterCommit,
    /// The store is written before the commit is stored.
    AppliedBeforeCommitted,
    /// Committed offsets are left out of the batch.
    OffsetNotInBatch,
    /// A commit does not wait for the one before.
    NextNotWaiting,
    /// A delivery that comes again is taken for a new one.
    RedeliveryNotSkipped,
    /// A fence is taken for one's own, whoever wrote it.
    FenceOfAnotherBelieved,
    /// A commit that nobody knows the outcome of is taken for one that failed.
    UnknownOutcomeIgnored,
    /// Catching up ends with the first piece.
    CatchUpStopsEarly,
    /// A node is not woken for its timers.
    NeverWoken,
    /// A hole in the deliveries is not seen.
    HoleNotSeen,
    /// A reader begins one message too late.
    RewoundTooFar,
    /// A store that knows more than the stream is kept.
    StoreAheadKept,
    /// A commit is stored whether or not the one before is still there.
    CommitsNotChained,
    /// Whether the stream still has what the store knows is told from its length alone.
    WitnessIgnored,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::AcknowledgeBeforeCommit,
        Self::NoFence,
        Self::IdentityIgnored,
        Self::SettleWindowOff,
        Self::PromptOnEveryWebhook,
        Self::OverlayDropped,
        Self::DeadLettersAfterCommit,
        Self::AppliedBeforeCommitted,
        Self::OffsetNotInBatch,
        Self::NextNotWaiting,
        Self::RedeliveryNotSkipped,
        Self::FenceOfAnotherBelieved,
        Self::UnknownOutcomeIgnored,
        Self::CatchUpStopsEarly,
        Self::NeverWoken,
        Self::HoleNotSeen,
        Self::RewoundTooFar,
        Self::StoreAheadKept,
        Self::CommitsNotChained,
        Self::WitnessIgnored,
    ];

    /// The policy that a node with this bug keeps.
    pub(super) fn policy(bug: Option<Self>, policy: &Policy) -> Policy {
        if bug != Some(Self::SettleWindowOff) {
            return policy.clone();
        }
        let settings = Settings { settle_window: std::time::Duration::from_millis(1), ..policy.settings().clone() };
        Policy::new(settings).expect("a settle window may be short")
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What the driver of a sabotaged node does.
pub(super) enum Act {
    /// What the node asked for, or did not.
    Do(Output),
    /// Hand it in.
    Tell(Input),
    /// Write the store, without a word to the node.
    Write(Changes),
}

/// A bug at work in one process.
#[derive(Default)]
pub(super) struct Saboteur {
    bug: Option<Bug>,
    owner: String,
    policy: Policy,
    /// Outputs that wait, and for how many more inputs.
    held: Vec<(u32, Output)>,
    letters: BTreeMap<BatchId, Output>,
    puts: BTreeMap<BatchId, Vec<Put>>,
    /// How many messages more or fewer than the node thinks a batch has.
    surplus: BTreeMap<BatchId, i64>,
    under_way: Option<BatchId>,
    sent_early: BTreeSet<BatchId>,
    answered_early: BTreeMap<BatchId, Input>,
    ends: BTreeMap<RequestId, u64>,
    counts: BTreeMap<ReaderId, (u64, u64)>,
}

impl Saboteur {
    pub(super) fn new(bug: Option<Bug>, owner: String, policy: Policy) -> Self {
        Self { bug, owner, policy, ..Self::default() }
    }

    /// What becomes of what the node wants done.
    pub(super) fn output(&mut self, output: Output) -> Vec<Act> {
        let Some(bug) = self.bug else { return vec![Act::Do(output)] };
        match (bug, output) {
            (Bug::NoFence, Output::StageBatch { batch, mut messages }) => {
                messages.iter_mut().for_each(|sent| sent.fence = None);
                vec![Act::Do(Output::StageBatch { batch, messages })]
            }
            (Bug::OffsetNotInBatch, Output::StageBatch { batch, mut messages }) => {
                let before = messages.len();
                messages.retain(|sent| !matches!(sent.message.address, Address::Mark(_)));
                self.surplus.insert(batch, -i64::try_from(before - messages.len()).unwrap_or(0));
                vec![Act::Do(Output::StageBatch { batch, messages })]
            }
            (Bug::PromptOnEveryWebhook, Output::StageBatch { batch, messages }) => {
                let before = messages.len();
                let messages: Vec<Outgoing> = messages.into_iter().flat_map(prompted_again).collect();
                self.surplus.insert(batch, i64::try_from(messages.len() - before).unwrap_or(0));
                vec![Act::Do(Output::StageBatch { batch, messages })]
            }
            (Bug::AppliedBeforeCommitted, Output::StageBatch { batch, messages }) => {
                let states = messages.iter().filter(|sent| matches!(sent.message.address, Address::State(_)));
                let puts = states.filter_map(|sent| Put::of_state_message(&sent.message.body, &self.policy).ok());
                self.puts.insert(batch, puts.collect());
                vec![Act::Do(Output::StageBatch { batch, messages })]
            }
            (Bug::AppliedBeforeCommitted, Output::CommitBatch { batch, closing }) => {
                let puts = self.puts.remove(&batch).unwrap_or_default();
                vec![
                    Act::Write(Changes { puts, ..Changes::default() }),
                    Act::Do(Output::CommitBatch { batch, closing }),
                ]
            }
            (Bug::OverlayDropped, Output::Apply { request, changes }) => {
                self.held.push((3, Output::Apply { request, changes }));
                vec![Act::Tell(Input::Applied { request })]
            }
            (Bug::DeadLettersAfterCommit, output @ Output::StoreDeadLetters { batch, .. }) => {
                self.letters.insert(batch, output);
                vec![Act::Tell(Input::DeadLettersStored { batch })]
            }
            (Bug::NextNotWaiting, Output::CommitBatch { batch, closing }) => {
                self.under_way = Some(batch);
                match (self.answered_early.remove(&batch), self.sent_early.contains(&batch)) {
                    (Some(answer), _) => vec![Act::Tell(answer)],
                    (None, true) => Vec::new(),
                    (None, false) => vec![Act::Do(Output::CommitBatch { batch, closing })],
                }
            }
            (Bug::CatchUpStopsEarly, Output::ReadOutput { request, after, up_to }) => {
                self.ends.insert(request, up_to);
                vec![Act::Do(Output::ReadOutput { request, after, up_to })]
            }
            (Bug::CommitsNotChained, Output::CommitBatch { batch, mut closing }) => {
                closing.follows = FOLLOWS_ANYTHING;
                vec![Act::Do(Output::CommitBatch { batch, closing })]
            }
            (Bug::NeverWoken, Output::WakeAt { .. }) => Vec::new(),
            (Bug::RewoundTooFar, Output::Rewind { reader, partition, behind }) => {
                vec![Act::Do(Output::Rewind { reader, partition, behind: behind + 1 })]
            }
            (Bug::StoreAheadKept, Output::RestartStore { request }) => {
                vec![Act::Tell(Input::StoreRestarted { request, kept_at: None })]
            }
            (_, output) => vec![Act::Do(output)],
        }
    }

    /// What becomes of what the node is told.
    pub(super) fn input(&mut self, input: Input, store: &MemoryStore) -> Vec<Act> {
        let Some(bug) = self.bug else { return vec![Act::Tell(input)] };
        let mut acts: Vec<Act> = Vec::new();
        let held = std::mem::take(&mut self.held);
        for (left, output) in held {
            if left == 0 {
                acts.push(Act::Do(output));
            } else {
                self.held.push((left - 1, output));
            }
        }
        match (bug, input) {
            (Bug::AcknowledgeBeforeCommit, Input::Delivered { deliveries }) => {
                let receipts = deliveries.iter().map(|delivered| delivered.delivery.receipt.clone()).collect();
                acts.extend([Act::Do(Output::Acknowledge { receipts }), Act::Tell(Input::Delivered { deliveries })]);
            }
            (Bug::RedeliveryNotSkipped, Input::Delivered { mut deliveries }) => {
                for delivered in &mut deliveries {
                    let (_, last) = self.counts.entry(delivered.reader).or_default();
                    if delivered.delivery.sequence <= *last {
                        delivered.delivery.sequence = *last + 1;
                    }
                    *last = delivered.delivery.sequence;
                }
                acts.push(Act::Tell(Input::Delivered { deliveries }));
            }
            (Bug::HoleNotSeen, Input::Delivered { mut deliveries }) => {
                for delivered in &mut deliveries {
                    let (count, _) = self.counts.entry(delivered.reader).or_default();
                    *count += 1;
                    delivered.nth = *count;
                }
                acts.push(Act::Tell(Input::Delivered { deliveries }));
            }
            (Bug::IdentityIgnored, Input::InputFacts { request, mut stream }) => {
                let marks = store.marks().unwrap_or_default();
                for mark in marks.values() {
                    stream.created_ns = mark.stream_created_ns;
                    stream.last_sequence = stream.last_sequence.max(mark.sequence);
                }
                acts.push(Act::Tell(Input::InputFacts { request, stream }));
            }
            (Bug::IdentityIgnored, Input::InputLookedUp { request, .. }) => {
                acts.push(Act::Tell(Input::InputLookedUp { request, stored_at_ns: None }));
            }
            (Bug::DeadLettersAfterCommit, input @ Input::BatchCommitted { batch, .. }) => {
                acts.extend(self.letters.remove(&batch).map(Act::Do));
                acts.push(Act::Tell(input));
            }
            (Bug::NextNotWaiting, Input::BatchStaged { batch }) => {
                if self.under_way.is_some() {
                    self.sent_early.insert(batch);
                    acts.push(Act::Do(Output::CommitBatch { batch, closing: self.closing_early(batch) }));
                }
                acts.push(Act::Tell(Input::BatchStaged { batch }));
            }
            (Bug::NextNotWaiting, input) => {
                let answered = answered_batch(&input);
                match answered {
                    Some(batch) if self.under_way == Some(batch) => {
                        self.under_way = None;
                        acts.push(Act::Tell(input));
                    }
                    Some(batch) if self.sent_early.contains(&batch) => {
                        self.answered_early.insert(batch, input);
                    }
                    Some(_) | None => acts.push(Act::Tell(input)),
                }
            }
            (Bug::WitnessIgnored, Input::OutputLookedUp { request, .. }) => {
                let position = store.position().ok().flatten();
                let owner = position.and_then(|position| Some(position.witness?.owner));
                acts.push(Act::Tell(Input::OutputLookedUp { request, owner }));
            }
            (Bug::FenceOfAnotherBelieved, Input::FencesRead { request, mut fences }) => {
                fences.values_mut().for_each(|fence| fence.owner.clone_from(&self.owner));
                acts.push(Act::Tell(Input::FencesRead { request, fences }));
            }
            (Bug::UnknownOutcomeIgnored, Input::BatchUnknown { batch, .. }) => {
                acts.push(Act::Tell(Input::BatchTooLarge { batch, limit: Limit::Messages }));
            }
            (Bug::CatchUpStopsEarly, Input::OutputRead { request, messages, reached }) => {
                let reached = self.ends.get(&request).copied().unwrap_or(reached);
                acts.push(Act::Tell(Input::OutputRead { request, messages, reached }));
            }
            (Bug::NeverWoken, Input::Tick) => {}
            (_, Input::BatchCommitted { batch, last_sequence, messages_count }) => {
                let surplus = self.surplus.remove(&batch).unwrap_or(0);
                let messages_count = messages_count.saturating_add_signed(-surplus);
                acts.push(Act::Tell(Input::BatchCommitted { batch, last_sequence, messages_count }));
            }
            (_, input) => acts.push(Act::Tell(input)),
        }
        acts
    }
}

impl Saboteur {
    /// The end of a batch that is committed before the node asks for it.
    fn closing_early(&self, batch: BatchId) -> Closing {
        let (writer, id) = (self.owner.replace(' ', "-"), format!("commit.early.{}.{}", self.owner, batch.0));
        let commit = Commit { owner: self.owner.clone(), sent_at: At(Timestamp::default()) };
        let body = serde_json::to_vec(&commit).unwrap_or_default();
        let message = Message { address: Address::Commit(writer), id, at: Timestamp::default(), body };
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

/// A prompt in front of a refusal of bad news that was known already.
fn prompted_again(sent: Outgoing) -> Vec<Outgoing> {
    let Address::Refused(link) = &sent.message.address else { return vec![sent] };
    let body: Option<RefusedBody> = serde_json::from_slice(&sent.message.body).ok();
    if body.is_none_or(|body| body.reason != "already_known") {
        return vec![sent];
    }
    let Message { id, at, body, .. } = &sent.message;
    let address = Address::Notice(NoticeName::UpdateRequired, link.clone());
    let message = Message { address, id: format!("{id}.again"), at: *at, body: body.clone() };
    vec![Outgoing { lane: sent.lane, fence: None, message }, sent]
}
