//! The random source of a run, the kinds of faults, and the fault mix of a seed.

use std::collections::BTreeMap;

use clap::ValueEnum;
use strum::{Display, VariantArray};

/// The random source. The same seed gives the same numbers.
pub(super) struct RandomSource(fastrand::Rng);

impl RandomSource {
    pub(super) fn of(seed: u64) -> Self {
        // Seeds are small consecutive numbers; the multiplication makes their first random numbers independent.
        Self(fastrand::Rng::with_seed(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A number below `end`; 0 if `end` is 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { self.0.usize(..end) }
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn within(&mut self, low: i64, high: i64) -> i64 {
        self.0.i64(low..=high.max(low))
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.0.f64() < probability
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A delay up to `usual` milliseconds; sometimes up to 10 or 100 times as long.
    pub(super) fn delay_ms(&mut self, usual: i64) -> i64 {
        let scale = match self.below(50) {
            0 => 100,
            1..5 => 10,
            _ => 1,
        };
        self.within(0, usual * scale)
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, ValueEnum, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Fault {
    /// A process crashes between any two steps; its host keeps running.
    Crash,
    /// A host crashes: the store is reset to the last checkpoint.
    HostCrash,
    /// A process crashes and its disk is lost: the store is empty.
    StoreLost,
    /// A process crashes and restarts with an old copy of its store.
    StoreOutdated,
    /// A write to the store fails.
    StoreFails,
    /// A process shuts down gracefully and restarts.
    Stop,
    /// Another process takes all partitions while the owner keeps running.
    TakeOver,
    /// A partition moves from one process to another.
    PartitionMoved,
    /// A request does not reach the server.
    RequestLost,
    /// The server executes a request, and its response is lost.
    AnswerLost,
    /// The server executes a request after the sender's timeout.
    RequestLate,
    /// The latency of every message is high.
    Slow,
    /// The server drops a staged batch.
    StagedExpires,
    /// The server limits a batch to a few messages.
    BatchLimit,
    /// The record of some links is larger than the maximum message size.
    MessageLimit,
    /// An acknowledgement is lost, so a handled message is delivered again.
    AckLost,
    /// A delivery to a reader is lost.
    DeliveryLost,
    /// The pull request of a stopped reader still receives messages.
    SecondReader,
    /// A process gets the input `StartOver`, as if a stream had been created again.
    StartsOver,
    /// A reader fails.
    ReaderFails,
    /// A consumer is deleted and created again.
    ConsumerDeleted,
    /// The server restarts.
    ServerRestarts,
    /// The server's host crashes, and the input stream loses the messages that were not synced.
    InputTailLost,
    /// The host of the server and of all processes crashes, and the output stream loses the messages that were not synced.
    OutputTailLost,
    /// The server's host crashes while the processes keep running, and the output stream loses the messages that were not synced.
    OutputTailLostAlone,
    /// At the end of the run the output stream loses the last state of a link, as by a damaged file, and all stores are lost.
    StateLost,
    /// The input stream is deleted and created again later.
    InputRecreated,
    /// The input stream is restored from a backup, which may lack its last messages.
    InputRestored,
    /// The output stream is deleted while no process runs, and created again.
    OutputRecreated,
    /// The output stream is deleted while processes run, and created again.
    OutputRecreatedAlone,
    /// Handled messages expire from the input stream.
    InputAges,
    /// The time jumps forward by up to five days.
    TimeJump,
    /// The clock of a host gets an offset of up to ten minutes, or of 400 days.
    ClockSkew,
    /// The clock of the server is wrong for a while, by up to ten minutes or by 400 days.
    ServerClockJump,
    /// A publisher publishes a message twice.
    DuplicateInputs,
    /// Messages that cannot be read.
    UnreadableInputs,
    /// A call to Belvo times out.
    BelvoTimesOut,
    /// Belvo answers with the previous status of a link.
    BelvoLags,
    /// Belvo, or a gateway in front of it, answers with a temporary error.
    BelvoFails,
    /// Belvo answers 429.
    BelvoThrottles,
    /// Belvo refuses every call about one link permanently.
    BelvoRefuses,
    /// Once per run, for a while, the calls go to another Belvo account, which has none of the links.
    BelvoWrongAccount,
    /// A webhook does not arrive; Belvo retries it a few times.
    WebhookLost,
    /// The acknowledgement of a job is lost.
    JobAckLost,
    /// A publish of a job, a sweep or a journal fails, or its outcome is unknown.
    PublishLost,
    /// NATS refuses a message of a journal, now and later.
    PublishRefused,
    /// The disk of a journal is full for a while, or does not sync.
    JournalDiskFails,
    /// The disk of a journal changes a bit.
    JournalDamaged,
}

impl Fault {
    /// The faults that are injected on a timer, every few seconds. The others affect an operation in progress.
    pub(super) const SPONTANEOUS: [Self; 27] = [
        Self::Crash,
        Self::HostCrash,
        Self::StoreLost,
        Self::StoreOutdated,
        Self::StoreFails,
        Self::Stop,
        Self::TakeOver,
        Self::PartitionMoved,
        Self::StartsOver,
        Self::ReaderFails,
        Self::ConsumerDeleted,
        Self::ServerRestarts,
        Self::InputTailLost,
        Self::OutputTailLost,
        Self::OutputTailLostAlone,
        Self::InputRecreated,
        Self::InputRestored,
        Self::OutputRecreated,
        Self::OutputRecreatedAlone,
        Self::InputAges,
        Self::TimeJump,
        Self::ClockSkew,
        Self::ServerClockJump,
        Self::StagedExpires,
        Self::BelvoWrongAccount,
        Self::JournalDiskFails,
        Self::JournalDamaged,
    ];
}

/// The kinds of faults of a run, each with its probability.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultMix(BTreeMap<Fault, f64>);

impl FaultMix {
    /// Each seed has its own mix: some seeds have two kinds of faults with a high probability, some have all kinds. Faults that always
    /// occur together would not be tested apart.
    pub(super) fn of(random: &mut RandomSource) -> Self {
        let keep = match random.below(16) {
            0 => 0.0,
            1..5 => 2.0 / 32.0,
            5..11 => 0.25,
            11..14 => 0.5,
            _ => 1.0,
        };
        let rates = [0.03, 0.15, 0.5];
        let mut fault_mix = BTreeMap::new();
        for &fault in Fault::VARIANTS {
            let (kept, rate) = (random.happens(keep), *random.pick(&rates));
            if kept {
                fault_mix.insert(fault, rate);
            }
        }
        Self(fault_mix)
    }

    /// Restricts the mix to `faults`; a fault that the mix lacks gets the probability 0.15.
    pub(super) fn set(&mut self, faults: &[Fault]) {
        self.0.retain(|fault, _| faults.contains(fault));
        faults.iter().for_each(|fault| {
            self.0.entry(*fault).or_insert(0.15);
        });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.0.contains_key(&fault)
    }

    pub(super) fn all(&self) -> Vec<Fault> {
        self.0.keys().copied().collect()
    }

    /// Whether the fault occurs now. A random number is drawn even if the mix lacks the fault, so that a run without it changes little.
    pub(super) fn occurs(&self, fault: Fault, random: &mut RandomSource) -> bool {
        let drawn = random.0.f64();
        self.0.get(&fault).is_some_and(|rate| drawn < *rate)
    }
}
