//! What the streams say about every input, and the checks of it.
//!
//! The ledger is read from the streams only; it does not ask relink. It allows exactly the losses of `docs/guarantees.md`: when the harness
//! has deleted a stream, see [`Deletion`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use relink::contract::{CommittedOffset, JOURNAL_HEADER, PromptWord, Record, RefusedBody, StateWord};
use serde_json::Value;

use super::figures::Figures;
use super::load::Accepted;
use super::promised::Damage;
use super::streams::{News, Stored};

/// The time of a step is the one at which its input was stored, which is never long before.
const CLOCK_TOLERANCE_MS: u64 = 300_000;

/// An input: the identity of its stream, and its sequence.
type Key = (String, u64);

#[derive(Debug)]
struct Input {
    stored_ms: i64,
    partition: u16,
    /// Its state or its refusal is on `KV_links`.
    is_decided: bool,
    /// The refusal is one that also has a dead letter: relink does not know the code.
    is_unknown: bool,
    dead_letters: usize,
    /// The record of a journal that it was published from; a crash may publish a record again.
    record: Option<String>,
}

/// A stream that the harness has deleted in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The inputs that were not handled are lost. They are the last ones of each partition.
    Inputs,
    /// The messages since the last read are lost. relink continues after the offsets that it has published again; inputs after them are
    /// handled again, so their messages may have an id of the deleted stream.
    Outputs,
    /// The dead letters since the last read are lost.
    DeadLetters,
}

/// All that was read from the streams of one pair of processes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    inputs: BTreeMap<Key, Input>,
    /// The inputs by sequence and storing time, which is how states and refusals name them.
    by_time: HashMap<(u64, i64), Key>,
    pub(super) by_marker: HashMap<String, Vec<Key>>,
    /// The first copy of each record of a journal that has an outcome, and the outcome; `None`: none has one.
    records: HashMap<String, Option<(Key, String)>>,
    /// A repeated record that changes its link is counted, and is no violation.
    pub(crate) counts_changes: bool,
    /// The identity of `BELVO`, and its last sequence that was read.
    input_stream: (String, u64),
    /// The ids of the messages on the present `KV_links`, and on the deleted ones.
    ids: HashSet<String>,
    deleted_ids: HashSet<String>,
    /// relink publishes the contents of its store on a new `KV_links`, until it takes the first fence.
    is_restoring: bool,
    restored_offsets: HashMap<u16, CommittedOffset>,
    offsets: HashMap<u16, CommittedOffset>,
    offsets_before_deletion: HashMap<u16, CommittedOffset>,
    /// The highest committed offset of each partition of each `BELVO`.
    handled: HashMap<(u16, String), u64>,
    versions: HashMap<String, u64>,
    /// The last decided input of each link.
    last_inputs: HashMap<String, Key>,
    /// The last state of each link, as relink's HTTP API shows it.
    pub(crate) states: BTreeMap<String, Value>,
    /// The ids of the prompts of each episode.
    prompts: HashMap<String, BTreeSet<String>>,
    /// The episodes that were opened on the present `KV_links`.
    opened_episodes: BTreeSet<String>,
    /// The bodies of the dead letters that were no input, by sequence.
    pub(super) http_dead_letters: BTreeMap<u64, Vec<u8>>,
    /// The bodies of the dead letters with the reason `damaged_journal`.
    pub(super) damaged_letters: HashSet<Vec<u8>>,
    /// The damage of all rounds; that of this round is not checked yet.
    pub(super) damages: Vec<Damage>,
    pub(crate) damage: Option<Damage>,
    has_read_outputs: bool,
    has_read_inputs: bool,
    pub(crate) deletion: Option<(Deletion, i64)>,
    pub(crate) figures: Figures,
}

/// A message on `KV_links`, as far as the checks need it.
struct Output<'a> {
    message: &'a Stored,
    id: String,
    /// The id is one of a deleted `KV_links`.
    is_again: bool,
}

impl Ledger {
    fn is_deleted(&self, deletion: Deletion) -> bool {
        self.deletion.is_some_and(|(deleted, _)| deleted == deletion)
    }

    /// Takes the new messages of `BELVO`. They must be read after those of `KV_links`, so that every decided input is known.
    pub(crate) fn take_inputs(&mut self, news: News) -> Result<()> {
        if news.is_new {
            ensure!(!self.has_read_inputs || self.is_deleted(Deletion::Inputs), "BELVO is another stream");
            self.input_stream = (news.identity.clone(), 0);
            self.has_read_inputs = true;
        }
        for message in news.messages {
            let key = (news.identity.clone(), message.sequence);
            self.input_stream.1 = message.sequence;
            let mut words = message.subject.split('.').skip(1);
            let partition = words.next().and_then(|word| word.parse().ok()).context("a partition in a subject")?;
            self.by_time.insert((message.sequence, message.stored_ms), key.clone());
            if let Some(marker) = marker(&message) {
                self.by_marker.entry(marker).or_default().push(key.clone());
            }
            let stored_ms = message.stored_ms;
            let record = message.header(JOURNAL_HEADER).map(str::to_owned);
            if let Some(record) = &record
                && self.records.insert(record.clone(), None).is_some()
            {
                self.figures.records_again += 1;
            }
            let input = Input { stored_ms, partition, is_decided: false, is_unknown: false, dead_letters: 0, record };
            ensure!(self.inputs.insert(key, input).is_none(), "BELVO has a sequence twice");
            self.figures.inputs += 1;
        }
        Ok(())
    }

    /// Takes the new messages of `RELINK_DEAD`.
    pub(crate) fn take_dead_letters(&mut self, news: News) -> Result<()> {
        if news.is_new {
            self.http_dead_letters.clear();
            self.inputs.values_mut().for_each(|input| input.dead_letters = input.dead_letters.min(1));
        }
        for message in news.messages {
            self.figures.dead_letters += 1;
            let Some(stream) = message.header("Relink-Dead-Stream").map(str::to_owned) else {
                if message.header("Relink-Dead-Reason") == Some("damaged_journal") {
                    self.damaged_letters.insert(message.body.clone());
                }
                self.http_dead_letters.insert(message.sequence, message.body);
                continue;
            };
            let sequence = message.header("Relink-Dead-Sequence").context("a sequence")?.parse()?;
            let Some(input) = self.inputs.get_mut(&(stream.clone(), sequence)) else {
                // The input was stored and handled between the last read and the deletion of its stream.
                ensure!(self.is_deleted(Deletion::Inputs), "a dead letter of the unknown input {sequence} of {stream}");
                continue;
            };
            input.dead_letters += 1;
            let is_again = self.deletion.is_some_and(|(deletion, _)| deletion == Deletion::DeadLetters);
            ensure!(input.dead_letters == 1 || is_again, "input {sequence} has {} dead letters", input.dead_letters);
        }
        Ok(())
    }

    /// Takes the new messages of `KV_links`.
    pub(crate) fn take_outputs(&mut self, news: News) -> Result<()> {
        if news.is_new {
            ensure!(!self.has_read_outputs || self.is_deleted(Deletion::Outputs), "KV_links is another stream");
            self.deleted_ids.extend(std::mem::take(&mut self.ids));
            self.is_restoring = self.has_read_outputs;
            self.has_read_outputs = true;
            self.offsets_before_deletion = std::mem::take(&mut self.offsets);
            self.restored_offsets.clear();
            self.versions.clear();
            self.last_inputs.clear();
            self.states.clear();
            self.opened_episodes.clear();
        }
        for message in &news.messages {
            self.take_output(message).with_context(|| {
                let body = String::from_utf8_lossy(&message.body);
                format!("message {} of KV_links, on {}: {body}", message.sequence, message.subject)
            })?;
        }
        Ok(())
    }

    fn take_output(&mut self, message: &Stored) -> Result<()> {
        let words: Vec<&str> = message.subject.split('.').collect();
        let kind = if words[0] == "$KV" { "state" } else { words[1] };
        if kind == "fence" {
            self.is_restoring = false;
            return Ok(());
        }
        let id = message.header("ce-id").context("no ce-id")?.to_owned();
        ensure!(self.ids.insert(id.clone()), "the id {id} was published twice");
        let is_again = !self.is_restoring && self.deleted_ids.contains(&id);
        let output = Output { message, id, is_again };
        match kind {
            "state" => self.take_state(&output),
            "refused" => {
                let refused: RefusedBody = serde_json::from_slice(&message.body)?;
                let Some(sequence) = refused.origin.input_sequence else { return Ok(()) };
                let received_ms = refused.origin.received_at.0.as_millis();
                let is_unknown = refused.reason == "unknown";
                let kind = if is_unknown { OutcomeKind::Unknown } else { OutcomeKind::Refused };
                self.decided(&output, &refused.link_id, sequence, received_ms, kind, &refused.reason)
            }
            "notice" if words[2] == "update_required" => self.take_prompt(&output),
            "offset" => self.take_offset(words[2].parse()?, serde_json::from_slice(&message.body)?),
            _ => Ok(()),
        }
    }

    fn take_state(&mut self, output: &Output<'_>) -> Result<()> {
        let record = Record::parse(&output.message.body)?;
        let before = self.versions.insert(record.link_id.clone(), record.version);
        if self.is_restoring {
            ensure!(before.is_none(), "a state was restored twice");
        } else {
            let expected = before.unwrap_or(0) + 1;
            ensure!(record.version == expected, "version {} instead of {expected}", record.version);
        }
        // Deadlines are counted from this time, so a wrong clock of relink's host must not reach it.
        let at_ms = record.because.at.0.as_millis();
        let is_near = at_ms.abs_diff(output.message.stored_ms) < CLOCK_TOLERANCE_MS;
        ensure!(self.is_restoring || is_near, "a step of {at_ms} ms was stored at {} ms", output.message.stored_ms);
        // The step that opens an episode publishes its prompt, if its state says so. The prompt of a link that was never read waits for a
        // read, and that of a link that breaks again in the millisecond of its last message for the shortest pause.
        let is_broken = |state| matches!(state, StateWord::Invalid | StateWord::TokenRequired);
        let opens = is_broken(record.state) && !is_broken(record.because.from);
        let is_sent = |prompt| matches!(prompt, Some(PromptWord::Sent));
        let opened = record.episode.as_ref().filter(|episode| opens && is_sent(episode.prompt));
        if let Some(episode) = opened.filter(|_| !self.is_restoring) {
            self.opened_episodes.insert(episode.id.clone());
        }
        let mut shown: Value = serde_json::from_slice(&output.message.body)?;
        shown.as_object_mut().context("an object")?.remove("recent");
        self.states.insert(record.link_id.clone(), shown);
        let origin = &record.because.origin;
        let Some(sequence) = origin.input_sequence else { return Ok(()) };
        self.decided(
            output,
            &record.link_id,
            sequence,
            origin.received_at.0.as_millis(),
            OutcomeKind::Changed,
            "changed",
        )
    }

    /// An input of this link has its state or its refusal.
    fn decided(
        &mut self,
        output: &Output<'_>,
        link: &str,
        sequence: u64,
        received_ms: i64,
        kind: OutcomeKind,
        what: &str,
    ) -> Result<()> {
        let key = self.by_time.get(&(sequence, received_ms));
        if self.is_restoring {
            // The state may be older than the round, also of an input that was handled just before the deletion of its stream.
            if let Some(input) = key.and_then(|key| self.inputs.get_mut(key)) {
                input.is_decided = true;
            }
            return Ok(());
        }
        let Some(key) = key else {
            // The input was stored and handled between the last read and the deletion of its stream.
            ensure!(self.is_deleted(Deletion::Inputs), "the input {sequence} of {received_ms} ms is not in BELVO");
            return Ok(());
        };
        let input = self.inputs.get_mut(key).with_context(|| format!("input {sequence} is of an earlier round"))?;
        let restored = self.restored_offsets.get(&input.partition).map_or(0, |offset| offset.sequence);
        if output.is_again {
            ensure!(
                self.deletion.is_some_and(|(deletion, _)| deletion == Deletion::Outputs) && sequence > restored,
                "{} was published again, although its input {sequence} is handled up to {restored}",
                output.id
            );
            self.figures.published_again += 1;
        } else {
            ensure!(!input.is_decided, "input {sequence} has two outcomes, the second is {}", output.id);
            self.figures.decided += 1;
        }
        (input.is_decided, input.is_unknown) = (true, kind == OutcomeKind::Unknown);
        if let Some(first) = input.record.as_ref().and_then(|record| self.records.get_mut(record)) {
            let (first, outcome) = first.get_or_insert_with(|| (key.clone(), what.to_owned()));
            if first != key && kind == OutcomeKind::Changed {
                ensure!(
                    self.counts_changes,
                    "input {sequence} changes {link}, but its record of the journal has the outcome {outcome} as {first:?}"
                );
                *self.figures.changes_by_repeats.entry(outcome.clone()).or_default() += 1;
            }
        }
        let before = self.last_inputs.insert(link.to_owned(), key.clone());
        if let Some((stream, before)) = before.filter(|(stream, _)| *stream == key.0) {
            ensure!(before < sequence, "{link}: input {sequence} after {before} of {stream}");
        }
        Ok(())
    }

    fn take_prompt(&mut self, output: &Output<'_>) -> Result<()> {
        let notice: Value = serde_json::from_slice(&output.message.body)?;
        let episode = notice["episode"]["id"].as_str().context("a prompt without an episode")?.to_owned();
        let prompts = self.prompts.entry(episode.clone()).or_default();
        prompts.insert(output.id.clone());
        ensure!(prompts.len() == 1, "the episode {episode} has several prompts: {prompts:?}");
        self.figures.prompts += 1;
        Ok(())
    }

    fn take_offset(&mut self, partition: u16, offset: CommittedOffset) -> Result<()> {
        if self.is_restoring {
            self.restored_offsets.insert(partition, offset.clone());
        }
        let stream = format!("BELVO@{}", offset.stream_created_ns);
        let handled = self.handled.entry((partition, stream)).or_default();
        *handled = offset.sequence.max(*handled);
        let before = self.offsets.insert(partition, offset.clone());
        if let Some(before) = before.filter(|before| before.stream_created_ns == offset.stream_created_ns) {
            ensure!(before.sequence < offset.sequence, "partition {partition} went back: {before:?}, {offset:?}");
        }
        Ok(())
    }

    /// The inputs of the present `BELVO` that have no outcome yet, and should get one.
    pub(crate) fn undecided(&self) -> Vec<u64> {
        let is_present = |key: &Key| key.0 == self.input_stream.0;
        let waiting = self.inputs.iter().filter(|(key, input)| is_present(key) && !input.has_outcome());
        waiting.filter(|(key, input)| !self.is_lost(key, input)).map(|(key, _)| key.1).collect()
    }

    /// Whether the outcome of an input is lost, as documented, because the harness has deleted a stream.
    fn is_lost(&self, key: &Key, input: &Input) -> bool {
        let Some((deletion, deleted_ms)) = self.deletion else { return false };
        let up_to = |offsets: &HashMap<u16, CommittedOffset>| {
            offsets.get(&input.partition).filter(|offset| is_of(offset, &key.0)).map_or(0, |offset| offset.sequence)
        };
        let handled = self.handled.get(&(input.partition, key.0.clone())).copied().unwrap_or(0);
        match deletion {
            Deletion::Inputs => key.0 != self.input_stream.0 && key.1 > handled,
            // Handled after the last read, and before the deletion.
            Deletion::Outputs => key.1 <= up_to(&self.restored_offsets) && key.1 > up_to(&self.offsets_before_deletion),
            Deletion::DeadLetters => key.1 <= handled && input.stored_ms <= deleted_ms,
        }
    }

    /// The checks after a round, when every input should have its outcome.
    pub(crate) fn check(&mut self, accepted: &[Accepted]) -> Result<()> {
        for answer in accepted {
            self.check_accepted(answer)?;
        }
        self.check_damage()?;
        self.figures.accepted += accepted.len() as u64;
        for (key, input) in &self.inputs {
            if !input.has_outcome() {
                ensure!(self.is_lost(key, input), "the input {} of {} has no outcome", key.1, key.0);
                self.figures.lost_by_deletion += 1;
            }
            let has_both = input.is_decided && input.dead_letters > 0;
            ensure!(!has_both || input.is_unknown, "the input {} of {} has two outcomes", key.1, key.0);
        }
        for episode in &self.opened_episodes {
            ensure!(self.prompts.contains_key(episode), "the episode {episode} has no prompt");
        }
        // The next rounds need only what can still change.
        self.inputs.retain(|key, input| key.0 == self.input_stream.0 && input.has_outcome());
        self.deletion = None;
        Ok(())
    }
}

/// What relink did with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutcomeKind {
    /// It changed its link.
    Changed,
    /// It was refused.
    Refused,
    /// It was refused because relink does not know its code.
    Unknown,
}

/// Whether an offset belongs to the stream with this identity.
fn is_of(offset: &CommittedOffset, stream: &str) -> bool {
    stream.ends_with(&format!("@{}", offset.stream_created_ns))
}

impl Input {
    fn has_outcome(&self) -> bool {
        self.is_decided || self.dead_letters > 0
    }
}

/// The marker that the harness has given a message: its id, or the id of the webhook in its body.
fn marker(message: &Stored) -> Option<String> {
    let id = message.header("ce-id").filter(|id| id.starts_with("harness-")).map(str::to_owned);
    id.or_else(|| {
        let body: Value = serde_json::from_slice(&message.body).ok()?;
        body["webhook_id"].as_str().map(str::to_owned)
    })
}
