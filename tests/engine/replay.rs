//! A log of a node's inputs replays to the same outputs, byte for byte.

use relink::link::Timestamp;
use relink::node::{Input, NodeOptions, Output, Recorded, replay};
use relink::store::MemoryStore;

/// What went into a node and what came out, as text.
pub(crate) struct Recording {
    options: NodeOptions,
    store: MemoryStore,
    inputs: String,
    outputs: Vec<String>,
}

impl Recording {
    /// Of a node that begins over a store like this.
    pub(crate) fn of(options: NodeOptions, store: &MemoryStore) -> Self {
        Self { options, store: store.copy(), inputs: String::new(), outputs: Vec::new() }
    }

    pub(crate) fn input(&mut self, now: Timestamp, input: &Input) {
        self.inputs.push_str(&Recorded::line(now, input));
        self.inputs.push('\n');
    }

    pub(crate) fn output(&mut self, output: &Output) {
        self.outputs.push(format!("{output:?}"));
    }

    /// Replays it.
    pub(crate) fn check(self) {
        let replayed = replay(self.options, self.store, &self.inputs).unwrap();
        assert_eq!(replayed, self.outputs);
    }
}
