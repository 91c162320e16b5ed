//! A process: a node, its store, and the driver state that the simulation needs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::bug_injector::{Bug, BugInjector};
use crate::link::{Policy, Timestamp};
use crate::node::{Input, Node, NodeOptions, Output, ReaderId, Recorded, replay};
use crate::store::MemoryStore;

pub(super) struct Process {
    pub(super) id: u32,
    pub(super) node: Node<MemoryStore>,
    pub(super) store: MemoryStore,
    /// A copy of the store from an earlier time.
    pub(super) store_before: MemoryStore,
    /// The offset of its own clock, which is steady: that of its host's clock when it started.
    pub(super) skew_ms: i64,
    /// The offset of its host's clock.
    pub(super) host_skew_ms: i64,
    /// The reader of each partition, and the arrival time of its last delivery.
    pub(super) readers: BTreeMap<u16, (ReaderId, i64)>,
    /// Outputs that wait for the store, in order.
    pub(super) writes: VecDeque<Output>,
    /// The time at which the node learns that the last write is done.
    pub(super) last_write_reported_ms: i64,
    /// The number of the last requested wake-up.
    pub(super) wakes_count: u64,
    /// Links whose timers were set aside.
    pub(super) set_aside: BTreeSet<String>,
    pub(super) bug_injector: BugInjector,
    pub(super) is_stopping: bool,
    /// The node's inputs and outputs, in some runs.
    recording: Option<Recording>,
}

/// A log of a node's inputs and its outputs, as text.
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
        let bug_injector = BugInjector::new(bug, owner.clone(), policy.clone());
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
            host_skew_ms: 0,
            readers: BTreeMap::new(),
            writes: VecDeque::new(),
            last_write_reported_ms: 0,
            wakes_count: 0,
            set_aside: BTreeSet::new(),
            bug_injector,
            is_stopping: false,
        }
    }

    /// Passes an input to the node.
    ///
    /// # Errors
    /// The panic message of the node, such as that of a failed assertion.
    pub(super) fn handle(&mut self, now_ms: i64, input: Input) -> Result<(), String> {
        let now = Timestamp::from_millis(now_ms + self.skew_ms);
        if let Some(recording) = &mut self.recording {
            recording.inputs.push_str(&Recorded::line(now, &input));
            recording.inputs.push('\n');
        }
        catch_unwind(AssertUnwindSafe(|| self.node.handle(now, input)))
            .map_err(|panic| format!("process {} panicked: {}", self.id, panic_message(&*panic)))
    }

    /// The next output of the node.
    pub(super) fn poll(&mut self) -> Option<Output> {
        let output = self.node.poll_output()?;
        if let Some(recording) = &mut self.recording {
            recording.outputs.push(format!("{output:?}"));
        }
        Some(output)
    }

    /// Checks that the recorded inputs replay to the same outputs, byte for byte.
    ///
    /// # Errors
    /// The first difference.
    pub(super) fn replay(self) -> Result<(), String> {
        let Some(Recording { options, store, inputs, outputs }) = self.recording else { return Ok(()) };
        let replayed = replay(options, store, &inputs).map_err(|error| format!("process {}: {error}", self.id))?;
        let Some(at) = (0..replayed.len().max(outputs.len())).find(|at| replayed.get(*at) != outputs.get(*at)) else {
            return Ok(());
        };
        let (then, now) = (outputs.get(at), replayed.get(at));
        Err(format!("the log of process {} replays to {now:?} instead of {then:?}", self.id))
    }

    pub(super) fn is_reading(&self, partition: u16, reader: ReaderId) -> bool {
        self.readers.get(&partition).is_some_and(|(id, _)| *id == reader)
    }
}

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
