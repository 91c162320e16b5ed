//! A process: a node, its store, and its driver as far as one is needed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::saboteur::{Bug, Saboteur};
use crate::link::{Policy, Timestamp};
use crate::node::{Input, Node, NodeOptions, Output, ReaderId, Recorded, replay};
use crate::store::MemoryStore;

pub(super) struct Process {
    pub(super) id: u32,
    pub(super) node: Node<MemoryStore>,
    pub(super) store: MemoryStore,
    /// The store as it was some time ago.
    pub(super) store_before: MemoryStore,
    /// How far its clock is ahead.
    pub(super) skew_ms: i64,
    /// The reader of each partition, and when its last delivery arrives.
    pub(super) readers: BTreeMap<u16, (ReaderId, i64)>,
    /// What is for the store, in order.
    pub(super) writes: VecDeque<Output>,
    /// When it hears of the last of them.
    pub(super) heard_of_writes_ms: i64,
    /// Which wake is the last that was asked for.
    pub(super) wakes_count: u64,
    /// Its timers that cannot be handled.
    pub(super) set_aside: BTreeSet<String>,
    pub(super) saboteur: Saboteur,
    pub(super) is_stopping: bool,
    /// What went in and came out, in some runs.
    recording: Option<Recording>,
}

/// A log of a node's inputs, and its outputs as text.
struct Recording {
    options: NodeOptions,
    store: MemoryStore,
    inputs: String,
    outputs: Vec<String>,
}

impl Process {
    pub(super) fn new(
        id: u32,
        store: MemoryStore,
        partitions_count: u16,
        policy: &Policy,
        bug: Option<Bug>,
        is_recorded: bool,
    ) -> Self {
        let owner = format!("process {id}");
        let saboteur = Saboteur::new(bug, owner.clone(), policy.clone());
        let options = NodeOptions {
            owner,
            writer: format!("process-{id}"),
            partitions_count,
            policy: Bug::policy(bug, policy),
            plan_ahead_min: 1,
        };
        let recording = is_recorded.then(|| {
            let (inputs, outputs) = Default::default();
            Recording { options: options.clone(), store: store.copy(), inputs, outputs }
        });
        Self {
            recording,
            id,
            node: Node::new(options, store.clone()),
            store_before: MemoryStore::default(),
            store,
            skew_ms: 0,
            readers: BTreeMap::new(),
            writes: VecDeque::new(),
            heard_of_writes_ms: 0,
            wakes_count: 0,
            set_aside: BTreeSet::new(),
            saboteur,
            is_stopping: false,
        }
    }

    /// Hands an input in.
    ///
    /// # Errors
    /// What the node said when it panicked: one of its own assertions.
    pub(super) fn handle(&mut self, now_ms: i64, input: Input) -> Result<(), String> {
        let now = Timestamp::from_millis(now_ms + self.skew_ms);
        if let Some(recording) = &mut self.recording {
            recording.inputs.push_str(&Recorded::line(now, &input));
            recording.inputs.push('\n');
        }
        catch_unwind(AssertUnwindSafe(|| self.node.handle(now, input)))
            .map_err(|panic| format!("process {} panicked: {}", self.id, said_in(&*panic)))
    }

    /// The next thing that the node wants done.
    pub(super) fn poll(&mut self) -> Option<Output> {
        let output = self.node.poll_output()?;
        if let Some(recording) = &mut self.recording {
            recording.outputs.push(format!("{output:?}"));
        }
        Some(output)
    }

    /// A log of what went in comes to the same outputs, byte for byte.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn replay(self) -> Result<(), String> {
        let Some(Recording { options, store, inputs, outputs }) = self.recording else { return Ok(()) };
        let replayed = replay(options, store, &inputs).map_err(|error| format!("process {}: {error}", self.id))?;
        let Some(at) = (0..replayed.len().max(outputs.len())).find(|at| replayed.get(*at) != outputs.get(*at)) else {
            return Ok(());
        };
        let (then, now) = (outputs.get(at), replayed.get(at));
        Err(format!("the log of process {} replays to {now:?}, and it was {then:?}", self.id))
    }

    pub(super) fn is_reading(&self, partition: u16, reader: ReaderId) -> bool {
        self.readers.get(&partition).is_some_and(|(id, _)| *id == reader)
    }
}

/// The words of a panic.
pub(super) fn said_in(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
