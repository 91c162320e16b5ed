//! All chance of a run, from one seed; and which troubles the run knows.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The dice. The same seed throws the same numbers.
pub(super) struct Chance(fastrand::Rng);

impl Chance {
    pub(super) fn of(seed: u64) -> Self {
        // Seeds are small numbers that follow one another; their first throws should not.
        Self(fastrand::Rng::with_seed(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A number below `end`; 0 if there is none.
    pub(super) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { self.0.usize(..end) }
    }

    /// A number from `low` up to and with `high`.
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

    /// A time that is mostly short: so many milliseconds, sometimes ten or a hundred times as many.
    pub(super) fn delay_ms(&mut self, usual: i64) -> i64 {
        let scale = match self.below(50) {
            0 => 100,
            1..5 => 10,
            _ => 1,
        };
        self.within(0, usual * scale)
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// A process dies between any two steps; its host goes on.
    Crash,
    /// Its host dies with it: the store is what was last checkpointed.
    HostCrash,
    /// Its disk dies with it: the store is empty.
    StoreLost,
    /// The store is put back from an old copy.
    StoreOld,
    /// A write to the store fails.
    StoreFails,
    /// A process is stopped in order, and started again.
    Stop,
    /// Another process takes all partitions while the owner goes on.
    TakeOver,
    /// A partition moves from one process to another.
    Move,
    /// A request never reaches the server.
    RequestLost,
    /// A request is done, and its answer is lost.
    AnswerLost,
    /// A request is done long after its sender has given it up.
    RequestLate,
    /// Everything takes long.
    Slow,
    /// The server forgets a batch that is staged.
    StagedExpires,
    /// The server takes few messages in one batch.
    BatchLimit,
    /// A record of some links is larger than a message may be.
    MessageLimit,
    /// A message is delivered again although it has been acknowledged.
    AckLost,
    /// A message that was sent to a reader does not arrive.
    DeliveryLost,
    /// The pull of a reader that is gone still takes messages.
    SecondReader,
    /// A reader fails.
    ReaderFails,
    /// A consumer is deleted, and made anew.
    ConsumerDeleted,
    /// The server is away for a moment.
    ServerRestarts,
    /// The server's host dies, and the input stream loses what was not synced.
    InputTailLost,
    /// The host of everything dies, and the output stream loses what was not synced.
    OutputTailLost,
    /// The server's host dies alone, and the output stream loses what was not synced.
    OutputTailLostAlone,
    /// The input stream is deleted, and made anew some time later.
    InputMadeAnew,
    /// The output stream is deleted while no process runs, and made anew.
    OutputMadeAnew,
    /// The output stream is deleted while processes run, and made anew.
    OutputMadeAnewAlone,
    /// Messages that have been handled age out of the input stream.
    InputAges,
    /// Hours or days pass in which nothing happens.
    TimeJump,
    /// The clock of a process is wrong, and is set.
    ClockSkew,
    /// What was published is published again.
    Repeats,
    /// Messages that nobody can read.
    BadInputs,
    /// Belvo does not answer.
    BelvoSilent,
    /// Belvo answers what was true before.
    BelvoLags,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::Crash,
        Self::HostCrash,
        Self::StoreLost,
        Self::StoreOld,
        Self::StoreFails,
        Self::Stop,
        Self::TakeOver,
        Self::Move,
        Self::RequestLost,
        Self::AnswerLost,
        Self::RequestLate,
        Self::Slow,
        Self::StagedExpires,
        Self::BatchLimit,
        Self::MessageLimit,
        Self::AckLost,
        Self::DeliveryLost,
        Self::SecondReader,
        Self::ReaderFails,
        Self::ConsumerDeleted,
        Self::ServerRestarts,
        Self::InputTailLost,
        Self::OutputTailLost,
        Self::OutputTailLostAlone,
        Self::InputMadeAnew,
        Self::OutputMadeAnew,
        Self::OutputMadeAnewAlone,
        Self::InputAges,
        Self::TimeJump,
        Self::ClockSkew,
        Self::Repeats,
        Self::BadInputs,
        Self::BelvoSilent,
        Self::BelvoLags,
    ];

    /// Those that strike by themselves, every few seconds; the others strike what is being done.
    pub(super) const STRIKING: [Self; 21] = [
        Self::Crash,
        Self::HostCrash,
        Self::StoreLost,
        Self::StoreOld,
        Self::StoreFails,
        Self::Stop,
        Self::TakeOver,
        Self::Move,
        Self::ReaderFails,
        Self::ConsumerDeleted,
        Self::ServerRestarts,
        Self::InputTailLost,
        Self::OutputTailLost,
        Self::OutputTailLostAlone,
        Self::InputMadeAnew,
        Self::OutputMadeAnew,
        Self::OutputMadeAnewAlone,
        Self::InputAges,
        Self::TimeJump,
        Self::ClockSkew,
        Self::StagedExpires,
    ];
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, letter) in format!("{self:?}").chars().enumerate() {
            if letter.is_uppercase() && index > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_lowercase())?;
        }
        Ok(())
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|trouble| trouble.to_string() == text);
        named.ok_or_else(|| {
            let all: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("`{text}` is no trouble; there are {}", all.join(", "))
        })
    }
}

/// Which troubles a run knows, and how likely each is where it can strike.
#[derive(Clone, Debug, Default)]
pub(super) struct Mix(BTreeMap<Trouble, f64>);

impl Mix {
    /// A seed has a mix of its own: some have two kinds of trouble and meet them often, some have all. What always happens together is
    /// only half tested.
    pub(super) fn of(chance: &mut Chance) -> Self {
        let keep = match chance.below(16) {
            0 => 0.0,
            1..5 => 2.0 / 32.0,
            5..11 => 0.25,
            11..14 => 0.5,
            _ => 1.0,
        };
        let rates = [0.03, 0.15, 0.5];
        let mut mix = BTreeMap::new();
        for trouble in Trouble::ALL {
            let (kept, rate) = (chance.happens(keep), *chance.pick(&rates));
            if kept {
                mix.insert(trouble, rate);
            }
        }
        Self(mix)
    }

    /// These and no others; one that the seed does not know gets a rate of its own.
    pub(super) fn set(&mut self, troubles: &[Trouble]) {
        self.0.retain(|trouble, _| troubles.contains(trouble));
        troubles.iter().for_each(|trouble| {
            self.0.entry(*trouble).or_insert(0.15);
        });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.0.contains_key(&trouble)
    }

    pub(super) fn all(&self) -> Vec<Trouble> {
        self.0.keys().copied().collect()
    }

    /// Whether it strikes now. The dice are thrown whether it is known or not, so that a run without it is much the same.
    pub(super) fn strikes(&self, trouble: Trouble, chance: &mut Chance) -> bool {
        let thrown = chance.0.f64();
        self.0.get(&trouble).is_some_and(|rate| thrown < *rate)
    }
}
