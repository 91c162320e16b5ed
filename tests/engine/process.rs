//! A process of relink: what `nats::node` does with the engine, one step at a time, so that it can be stopped between any two.

use std::collections::{BTreeMap, VecDeque};

use relink::engine::{Delivery, Engine, MESSAGES_MAX, Plan};
use relink::link::{Policy, Timestamp};
use relink::store::{MemoryStore, Position, Store};

use crate::bus::{Batch, Bus, Fenced, INPUT_CREATED_NS, LANES, OUTPUT_CREATED_NS};

/// One process, between two of its steps.
pub(crate) struct Process {
    owner: u32,
    pub(crate) store: MemoryStore,
    engine: Engine<MemoryStore>,
    fences: BTreeMap<u16, u64>,
    /// Per lane, what has been pulled.
    pulled: BTreeMap<u16, u64>,
    queue: VecDeque<Delivery>,
    staged: Option<(Plan, Batch)>,
    in_flight: Option<Flight>,
    finishing: Option<Finishing>,
}

struct Flight {
    plan: Plan,
    progress: Progress,
}

enum Progress {
    Sent(Batch),
    Answered(Result<u64, Fenced>),
}

struct Finishing {
    plan: Plan,
    position: Option<Position>,
    applied: bool,
}

impl Process {
    /// Takes every lane, catches up, and reads on from `back` messages before the marks.
    pub(crate) fn start(
        bus: &mut Bus,
        owner: u32,
        store: MemoryStore,
        policy: &Policy,
        now: Timestamp,
        back: u64,
    ) -> Self {
        let fences = bus.take_fences(owner, now);
        bus.catch_up(&store, policy, usize::MAX);
        let handled = handled(&store);
        let engine = Engine::new(store.clone(), policy.clone(), INPUT_CREATED_NS, &handled).unwrap();
        let pulled = handled.into_iter().map(|(lane, handled)| (lane, handled.saturating_sub(back))).collect();
        Self {
            owner,
            store,
            engine,
            fences,
            pulled,
            queue: VecDeque::new(),
            staged: None,
            in_flight: None,
            finishing: None,
        }
    }

    /// What a process does that could not make sure of a commit: it forgets what is under way and takes its lanes again.
    pub(crate) fn start_over(&mut self, bus: &mut Bus, now: Timestamp) {
        bus.ghosts.extend(self.leave());
        self.fences = bus.take_fences(self.owner, now);
        bus.catch_up(&self.store, self.engine.policy(), usize::MAX);
        let handled = handled(&self.store);
        self.engine =
            Engine::new(self.store.clone(), self.engine.policy().clone(), INPUT_CREATED_NS, &handled).unwrap();
        self.pulled = handled;
    }

    pub(crate) fn pull(&mut self, bus: &Bus, lane: u16, count: usize) {
        for _ in 0..count {
            let pulled = self.pulled.entry(lane).or_default();
            let Some(next) = bus.next_input(lane, *pulled) else { return };
            *pulled = next.sequence;
            self.queue.push_back(next.clone());
        }
    }

    /// The server sends something again that this process has had before.
    pub(crate) fn pull_again(&mut self, bus: &Bus, lane: u16, nth: usize) {
        let pulled = self.pulled.get(&lane).copied().unwrap_or(0);
        let old: Vec<_> = bus.input.iter().filter(|old| old.lane == lane && old.sequence <= pulled).collect();
        if !old.is_empty() {
            self.queue.push_back(old[nth % old.len()].clone());
        }
    }

    /// Plans what has been pulled, publishes its dead letters and stages its batch.
    pub(crate) fn plan(&mut self, bus: &mut Bus, now: Timestamp) {
        if self.staged.is_some() || self.finishing.is_some() {
            return;
        }
        let mut plan = self.engine.plan(&mut self.queue, now).unwrap();
        assert!(plan.messages.len() <= MESSAGES_MAX);
        bus.dead.append(&mut plan.dead);
        if plan.messages.is_empty() {
            self.finishing = Some(Finishing { plan, position: None, applied: false });
            return;
        }
        let messages = std::mem::take(&mut plan.messages);
        let messages = messages.into_iter().map(|outgoing| (outgoing.lane, outgoing.message)).collect();
        self.staged = Some((plan, Batch { owner: self.owner, fences: self.fences.clone(), messages }));
        if self.in_flight.is_none() {
            self.commit_staged();
        }
    }

    fn commit_staged(&mut self) {
        if let Some((plan, batch)) = self.staged.take() {
            self.in_flight = Some(Flight { plan, progress: Progress::Sent(batch) });
        }
    }

    /// The server decides about the batch in flight; the process does not know yet.
    pub(crate) fn server_decides(&mut self, bus: &mut Bus) {
        if let Some(Flight { plan, progress: Progress::Sent(batch) }) =
            self.in_flight.take_if(|flight| flight.is_undecided())
        {
            let progress = Progress::Answered(bus.commit(batch));
            self.in_flight = Some(Flight { plan, progress });
        }
    }

    /// The answer arrives, and the next batch goes out before anything else.
    ///
    /// # Errors
    /// The process has been replaced.
    pub(crate) fn hear(&mut self) -> Result<(), Fenced> {
        if self.finishing.is_some() {
            return Ok(());
        }
        let Some(flight) = self.in_flight.take_if(|flight| !flight.is_undecided()) else { return Ok(()) };
        let Flight { plan, progress: Progress::Answered(answer) } = flight else { return Ok(()) };
        let position = Position { stream_created_ns: OUTPUT_CREATED_NS, sequence: answer? };
        self.commit_staged();
        self.finishing = Some(Finishing { plan, position: Some(position), applied: false });
        Ok(())
    }

    /// One step of the bookkeeping behind a commit: first the store, then the engine.
    pub(crate) fn finish(&mut self) {
        match &mut self.finishing {
            Some(finishing) if !finishing.applied => {
                self.store.apply(&finishing.plan.changes(finishing.position)).unwrap();
                finishing.applied = true;
            }
            Some(finishing) => {
                self.engine.settle(&finishing.plan);
                self.finishing = None;
            }
            None => {}
        }
    }

    /// Forgets everything under way. A batch that the server has not decided about may still reach it.
    pub(crate) fn leave(&mut self) -> Option<Batch> {
        self.queue.clear();
        self.staged = None;
        self.finishing = None;
        match self.in_flight.take()?.progress {
            Progress::Sent(batch) => Some(batch),
            Progress::Answered(_) => None,
        }
    }

    /// Runs without any trouble until there is nothing left to do.
    pub(crate) fn run_dry(&mut self, bus: &mut Bus, now: Timestamp) {
        for _ in 0..10_000 {
            (0..2).for_each(|_| self.finish());
            self.server_decides(bus);
            self.hear().unwrap();
            (0..2).for_each(|_| self.finish());
            (0..LANES).for_each(|lane| self.pull(bus, lane, usize::MAX));
            let idle = self.in_flight.is_none() && self.queue.is_empty();
            let is_due = self.engine.next_deadline().is_some_and(|at| at <= now);
            if idle && !is_due && self.store.due(now, 1).unwrap().is_empty() {
                return;
            }
            self.plan(bus, now);
        }
        panic!("it goes round in circles at {now}: {:?}", self.store.due(now, 10));
    }
}

impl Flight {
    fn is_undecided(&self) -> bool {
        matches!(self.progress, Progress::Sent(_))
    }
}

fn handled(store: &MemoryStore) -> BTreeMap<u16, u64> {
    let marks = store.marks().unwrap();
    (0..LANES).map(|lane| (lane, marks.get(&lane).map_or(0, |mark| mark.sequence))).collect()
}
