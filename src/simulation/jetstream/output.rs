//! The output stream: atomic batches, and the fences that guard them.

use std::collections::BTreeMap;

use super::super::fault::RandomSource;
use crate::contract::{Address, Commit, Fence, Record};
use crate::engine::{Message, Outgoing};
use crate::link::LinkId;
use crate::node::{BatchId, Closing, FenceFacts, FenceToTake, OutputKind, OutputMessage, StreamFacts};

/// A message that is stored. The sequence of a message is its place plus one.
#[derive(Clone, Debug)]
pub(in crate::simulation) struct Stored {
    /// The process that sent it.
    pub(in crate::simulation) owner: u32,
    pub(in crate::simulation) partition: u16,
    pub(in crate::simulation) message: Message,
    /// The number of its batch.
    pub(in crate::simulation) batch: u64,
}

pub(in crate::simulation) struct OutputStream {
    created_ns: i64,
    pub(in crate::simulation) messages: Vec<Stored>,
    /// The sequence of the last fence of each partition.
    fences: BTreeMap<u16, u64>,
    staged: BTreeMap<(u32, BatchId), Vec<Outgoing>>,
    /// The sequence of the state that was lost in the middle of the stream.
    lost_state: Option<u64>,
    batches_count: u64,
}

/// Replaces the expected sequence of the writer's last message, for an injected bug: the server then checks nothing.
pub(in crate::simulation) const FOLLOWS_ANYTHING: u64 = u64::MAX;

/// A fence, or the writer's last commit, does not have the expected sequence.
#[derive(Debug)]
pub(in crate::simulation) struct Refused;

impl OutputStream {
    pub(super) fn new(created_ns: i64) -> Self {
        Self {
            created_ns,
            messages: Vec::new(),
            fences: BTreeMap::new(),
            staged: BTreeMap::new(),
            lost_state: None,
            batches_count: 0,
        }
    }

    pub(in crate::simulation) fn facts(&self) -> StreamFacts {
        StreamFacts { created_ns: self.created_ns, last_sequence: self.messages.len() as u64 }
    }

    /// Stores a batch; returns the sequence of its last message.
    pub(in crate::simulation) fn store(
        &mut self,
        owner: u32,
        mut batch: Vec<Outgoing>,
        Closing { follows, message }: Closing,
    ) -> Result<u64, Refused> {
        let moved = |sent: &Outgoing| sent.fence.is_some_and(|fence| fence != self.fence(sent.partition));
        let is_lost = follows != FOLLOWS_ANYTHING && follows != self.last_of(&message.address);
        if batch.iter().any(moved) || is_lost {
            return Err(Refused);
        }
        let partition = batch.first().map_or(0, |sent| sent.partition);
        batch.push(Outgoing { partition, fence: None, message });
        self.batches_count += 1;
        let batch_number = self.batches_count;
        let stored = |Outgoing { partition, message, .. }| Stored { owner, partition, message, batch: batch_number };
        self.messages.extend(batch.into_iter().map(stored));
        Ok(self.messages.len() as u64)
    }

    /// Stores fences, all or none.
    pub(in crate::simulation) fn take(
        &mut self,
        owner: u32,
        fences: Vec<FenceToTake>,
        closing: Option<Message>,
    ) -> Result<(BTreeMap<u16, u64>, Option<u64>), Refused> {
        let moved = |fence: &FenceToTake| fence.expects.is_some_and(|expects| expects != self.fence(fence.partition));
        if fences.iter().any(moved) {
            return Err(Refused);
        }
        self.batches_count += 1;
        let mut taken = BTreeMap::new();
        let partition = fences.first().map_or(0, |fence| fence.partition);
        for FenceToTake { partition, message, .. } in fences {
            self.messages.push(Stored { owner, partition, message, batch: self.batches_count });
            taken.insert(partition, self.messages.len() as u64);
        }
        self.fences.extend(&taken);
        let closing = closing.map(|message| {
            self.messages.push(Stored { owner, partition, message, batch: self.batches_count });
            self.messages.len() as u64
        });
        Ok((taken, closing))
    }

    /// The sequence of the last message on a subject; 0 for none.
    fn last_of(&self, address: &Address) -> u64 {
        self.messages.iter().rposition(|stored| stored.message.address == *address).map_or(0, |at| at as u64 + 1)
    }

    /// The owner in the body of a fence or commit message.
    pub(in crate::simulation) fn owner_of(&self, sequence: u64) -> Option<String> {
        let Message { address, body, .. } = &self.stored(sequence)?.message;
        match address {
            Address::Fence(_) => serde_json::from_slice(body).ok().map(|Fence { owner, .. }| owner),
            Address::Commit(_) => serde_json::from_slice(body).ok().map(|Commit { owner, .. }| owner),
            _other => None,
        }
    }

    /// The sequence of a partition's last fence; 0 for none.
    pub(in crate::simulation) fn fence(&self, partition: u16) -> u64 {
        self.fences.get(&partition).copied().unwrap_or(0)
    }

    pub(in crate::simulation) fn stored(&self, sequence: u64) -> Option<&Stored> {
        self.messages.get(usize::try_from(sequence).ok()?.checked_sub(1)?)
    }

    /// The last fences of these partitions.
    pub(in crate::simulation) fn fences(&self, partitions: &[u16]) -> BTreeMap<u16, FenceFacts> {
        let facts = |&partition: &u16| {
            let sequence = self.fence(partition);
            let Fence { owner, .. } = serde_json::from_slice(&self.stored(sequence)?.message.body).ok()?;
            Some((partition, FenceFacts { sequence, owner }))
        };
        partitions.iter().filter_map(facts).collect()
    }

    pub(in crate::simulation) fn stage(&mut self, owner: u32, batch: BatchId, messages: Vec<Outgoing>) {
        self.staged.insert((owner, batch), messages);
    }

    pub(in crate::simulation) fn take_staged(&mut self, owner: u32, batch: BatchId) -> Option<Vec<Outgoing>> {
        self.staged.remove(&(owner, batch))
    }

    /// Drops staged batches: after ten idle seconds, a reconnect, or a restart of the server.
    pub(in crate::simulation) fn forget_staged(&mut self, of: impl Fn(u32) -> bool) {
        self.staged.retain(|(owner, _), _| !of(*owner));
    }

    /// The messages after `after`, or the last message of each subject; and the sequence that the read has reached.
    pub(in crate::simulation) fn read(&self, after: Option<u64>, up_to: u64) -> Option<(Vec<OutputMessage>, u64)> {
        let all = (1..).zip(&self.messages);
        let all = all.filter(|(at, stored)| is_read(&stored.message.address) && Some(*at) != self.lost_state);
        let mut unread: Vec<(u64, &Stored)> = match after {
            Some(after) => all.filter(|(sequence, _)| *sequence > after).collect(),
            None => {
                let last: BTreeMap<String, (u64, &Stored)> =
                    all.map(|next| (subject(&next.1.message.address), next)).collect();
                last.into_values().collect()
            }
        };
        unread.sort_by_key(|(sequence, _)| *sequence);
        // A replaced fence is not the last message of its subject; its replacement has a higher sequence.
        let end = unread.iter().position(|(sequence, _)| *sequence >= up_to)?;
        unread.truncate(end + 1);
        let message = |&(sequence, stored): &(u64, &Stored)| {
            let kind = match stored.message.address {
                Address::State(_) => OutputKind::State,
                Address::Offset(partition) => OutputKind::Offset(partition),
                Address::Incident(_) => OutputKind::Incident,
                Address::Notice(..)
                | Address::Observed(..)
                | Address::Job(..)
                | Address::Refused(_)
                | Address::Fence(_) => OutputKind::Other,
                Address::Commit(_) => OutputKind::Commit,
            };
            OutputMessage { sequence, kind, body: stored.message.body.clone() }
        };
        Some((unread.iter().map(message).collect(), unread[end].0))
    }

    /// Loses the last state of a link with an earlier state; returns the link and the lost version. `None` if there is no such link, or if
    /// the stream has no digest of its states: the last commit of a process is replaced by its first message after it has started over.
    pub(in crate::simulation) fn lose_state(&mut self, random: &mut RandomSource) -> Option<(LinkId, u64)> {
        let mut states: BTreeMap<&LinkId, Vec<u64>> = BTreeMap::new();
        let mut commits: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
        for (sequence, Stored { message, .. }) in (1..).zip(&self.messages) {
            match &message.address {
                Address::State(link) => states.entry(link).or_default().push(sequence),
                Address::Commit(writer) => {
                    let commit: Commit = serde_json::from_slice(&message.body).ok()?;
                    commits.insert(writer, (sequence, commit.links.is_some()));
                }
                _other => {}
            }
        }
        let last_digest =
            commits.into_values().filter(|(_, has_digest)| *has_digest).map(|(sequence, _)| sequence).max();
        let last_state = states.values().flatten().max();
        if last_digest.as_ref() < last_state {
            return None;
        }
        let lost: Vec<(&LinkId, u64)> =
            states.into_iter().filter(|(_, all)| all.len() > 1).map(|(link, all)| (link, all[all.len() - 1])).collect();
        let (link, sequence) = (!lost.is_empty()).then(|| *random.pick(&lost))?;
        let record = Record::parse(&self.stored(sequence)?.message.body).ok()?;
        let lost = (link.clone(), record.version);
        self.lost_state = Some(sequence);
        Some(lost)
    }

    /// Removes the last batches, each as a whole.
    pub(in crate::simulation) fn lose_tail(&mut self, batches_count: usize) {
        for _ in 0..batches_count {
            let Some(last) = self.messages.last().map(|stored| stored.batch) else { break };
            let end = self.messages.iter().rposition(|stored| stored.batch != last).map_or(0, |place| place + 1);
            self.messages.truncate(end);
        }
        self.staged.clear();
        self.fences.clear();
        for (sequence, stored) in (1..).zip(&self.messages) {
            if let Address::Fence(partition) = stored.message.address {
                self.fences.insert(partition, sequence);
            }
        }
    }

    pub(in crate::simulation) fn recreate(&mut self, created_ns: i64) {
        *self = Self::new(created_ns);
    }
}

fn is_read(address: &Address) -> bool {
    !matches!(address, Address::Notice(..) | Address::Observed(..) | Address::Job(..) | Address::Refused(_))
}

/// A text that identifies the subject.
fn subject(address: &Address) -> String {
    match address {
        Address::State(link) => format!("state.{link}"),
        Address::Notice(name, link) => format!("notice.{}.{link}", name.as_str()),
        Address::Observed(name, link) => format!("observed.{}.{link}", name.as_str()),
        Address::Job(name, link) => format!("job.{}.{link}", name.as_str()),
        Address::Refused(link) => format!("refused.{link}"),
        Address::Offset(partition) => format!("offset.{partition}"),
        Address::Fence(partition) => format!("fence.{partition}"),
        Address::Commit(writer) => format!("commit.{writer}"),
        Address::Incident(token) => format!("incident.{token}"),
    }
}
