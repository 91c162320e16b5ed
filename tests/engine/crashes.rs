//! Whole stories, with crashes between any two steps: nothing is lost, nothing is said twice, and a replaced owner gets nothing in.
//!
//! A failing case is shrunk and printed with all its turns, and its seed is kept in `crashes.regressions` beside this file, to be
//! tried first from then on: commit it. `PROPTEST_RNG_SEED=7` makes a run repeatable, `PROPTEST_CASES=100000` makes it long.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use relink::contract::{IncidentBody, IncidentNews, Mark};
use relink::link::{LinkId, Policy, Prompt, Settings, Timestamp};
use relink::store::{MemoryStore, Query, Store, StoredLink};

use crate::bus::{Bus, INPUT_CREATED_NS, LANES};
use crate::inputs::{START, Said, policy};
use crate::process::Process;
use crate::reference;

/// `PROPTEST_CASES` can only ask for more.
const CASES_MIN: u32 = 512;
const TURNS_MAX: usize = 150;
const LINKS: u8 = 5;
/// So many have been read from Belvo when a story begins, so that their institution is known.
const LINKS_KNOWN: u8 = 3;

/// One thing that happens. `who` is the owner of the lanes, or the one it replaced if that still runs.
#[derive(Clone, Debug)]
enum Turn {
    /// Somebody publishes; a small `request` makes repeats likely.
    Publish {
        said: Index,
        link: u8,
        request: u32,
    },
    /// What was published once is published again: Belvo retries.
    PublishAgain {
        which: Index,
    },
    /// Time passes.
    Wait {
        millis: i64,
    },
    Pull {
        who: Who,
        lane: u16,
        count: usize,
    },
    PullAgain {
        who: Who,
        lane: u16,
        nth: usize,
    },
    Plan {
        who: Who,
    },
    /// The server stores or refuses what is in flight.
    ServerDecides {
        who: Who,
    },
    /// The answer of the server arrives.
    Hear {
        who: Who,
    },
    /// It never does, or NATS is away for a while: the process starts its lanes over.
    LoseAnswer,
    /// One step of the bookkeeping behind a commit.
    Finish {
        who: Who,
    },
    Checkpoint,
    /// The process dies and is started again; what was on its way may still arrive.
    Crash {
        store: Survives,
        back: u64,
        halfway: bool,
    },
    /// Another process takes the lanes while the owner goes on.
    TakeOver {
        store: Survives,
    },
    /// A batch of a process that is gone reaches the server after all.
    GhostArrives,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Owner,
    Replaced,
}

/// What a crash leaves of the store.
#[derive(Clone, Copy, Debug)]
enum Survives {
    /// The process died, the host did not.
    Everything,
    /// The host died.
    Checkpoint,
    /// The disk died.
    Nothing,
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![5 => Just(Who::Owner), 1 => Just(Who::Replaced)]
}

fn survives() -> impl Strategy<Value = Survives> {
    prop_oneof![Just(Survives::Everything), Just(Survives::Checkpoint), Just(Survives::Nothing)]
}

fn turn() -> impl Strategy<Value = Turn> {
    let millis = prop_oneof![6 => 0..5_000_i64, 2 => 0..1_200_000_i64, 1 => 0..400_000_000_i64];
    prop_oneof![
        24 => (any::<Index>(), 0..LINKS, 0..40_u32)
            .prop_map(|(said, link, request)| Turn::Publish { said, link, request }),
        3 => any::<Index>().prop_map(|which| Turn::PublishAgain { which }),
        6 => millis.prop_map(|millis| Turn::Wait { millis }),
        18 => (who(), 0..LANES, 1..6_usize).prop_map(|(who, lane, count)| Turn::Pull { who, lane, count }),
        3 => (who(), 0..LANES, any::<u8>())
            .prop_map(|(who, lane, nth)| Turn::PullAgain { who, lane, nth: nth.into() }),
        18 => who().prop_map(|who| Turn::Plan { who }),
        18 => who().prop_map(|who| Turn::ServerDecides { who }),
        18 => who().prop_map(|who| Turn::Hear { who }),
        24 => who().prop_map(|who| Turn::Finish { who }),
        3 => Just(Turn::Checkpoint),
        2 => Just(Turn::LoseAnswer),
        3 => (survives(), 0..4_u64, any::<bool>())
            .prop_map(|(store, back, halfway)| Turn::Crash { store, back, halfway }),
        2 => survives().prop_map(|store| Turn::TakeOver { store }),
        3 => Just(Turn::GhostArrives),
    ]
}

/// The streams and everybody at work on them.
struct World {
    policy: Policy,
    now: Timestamp,
    bus: Bus,
    owners_count: u32,
    owner: Process,
    replaced: Option<Process>,
}

impl World {
    fn new(can_verify: bool) -> Self {
        // Here one link that fails is an incident, and one calm minute its end, so that stories have many.
        let minute = std::time::Duration::from_secs(60);
        let defaults = policy(can_verify).settings().clone();
        let settings = Settings { incident_links: 1, incident_window: minute, incident_wait: minute, ..defaults };
        let (policy, mut bus) = (Policy::new(settings).unwrap(), Bus::default());
        for link in 0..LINKS_KNOWN {
            bus.publish(Said::SeenValid.about(link, 0, START), START);
        }
        let owner = Process::start(&mut bus, 1, MemoryStore::default(), &policy, START, 0);
        Self { policy, now: START, bus, owners_count: 1, owner, replaced: None }
    }

    /// Runs one step of a process; one that hears it has been replaced ends.
    fn at(&mut self, who: Who, act: impl FnOnce(&mut Process, &mut Bus)) {
        match who {
            Who::Owner => act(&mut self.owner, &mut self.bus),
            Who::Replaced => {
                if let Some(replaced) = &mut self.replaced {
                    act(replaced, &mut self.bus);
                }
            }
        }
    }

    fn start(&mut self, store: MemoryStore, back: u64) -> Process {
        self.owners_count += 1;
        Process::start(&mut self.bus, self.owners_count, store, &self.policy, self.now, back)
    }

    fn survivor(&self, survives: Survives) -> MemoryStore {
        match survives {
            Survives::Everything => {
                // A copy: the old process may go on with its own.
                self.owner.store.checkpoint().unwrap();
                self.owner.store.durable()
            }
            Survives::Checkpoint => self.owner.store.durable(),
            Survives::Nothing => MemoryStore::default(),
        }
    }

    fn take(&mut self, turn: Turn) {
        let now = self.now;
        match turn {
            Turn::Publish { said, link, request } => {
                let message = said.get(&Said::ALL).about(link, request, now);
                self.bus.publish(message, now);
            }
            Turn::PublishAgain { which } => {
                if !self.bus.input.is_empty() {
                    let message = which.get(&self.bus.input).clone();
                    self.bus.publish(message, now);
                }
            }
            Turn::Wait { millis } => self.now = Timestamp::from_millis(now.as_millis() + millis),
            Turn::Pull { who, lane, count } => self.at(who, |process, bus| process.pull(bus, lane, count)),
            Turn::PullAgain { who, lane, nth } => self.at(who, |process, bus| process.pull_again(bus, lane, nth)),
            Turn::Plan { who } => self.at(who, |process, bus| process.plan(bus, now)),
            Turn::ServerDecides { who } => self.at(who, |process, bus| process.server_decides(bus)),
            Turn::Hear { who: Who::Owner } => self.owner.hear().expect("the owner of a lane is not refused"),
            Turn::Hear { who: Who::Replaced } => {
                self.replaced.take_if(|replaced| replaced.hear().is_err());
            }
            Turn::LoseAnswer => self.owner.start_over(&mut self.bus, now),
            Turn::Finish { who } => self.at(who, |process, _| process.finish()),
            Turn::Checkpoint => self.owner.store.checkpoint().unwrap(),
            Turn::Crash { store, back, halfway } => {
                let store = self.survivor(store);
                self.bus.ghosts.extend(self.owner.leave());
                if halfway {
                    // It crashes a second time, while it catches up.
                    self.bus.catch_up(&store, &self.policy, 1);
                }
                self.owner = self.start(store, back);
            }
            Turn::TakeOver { store } => {
                let store = self.survivor(store);
                let next = self.start(store, 0);
                let replaced = std::mem::replace(&mut self.owner, next);
                self.replaced = Some(replaced);
            }
            Turn::GhostArrives => {
                if let Some(ghost) = self.bus.ghosts.pop() {
                    // Its process has gone or taken its lanes again: either way the fences are others now.
                    self.bus.commit(ghost).unwrap_err();
                }
            }
        }
    }

    /// Lets everything come to an end and looks at it.
    fn check(mut self) {
        self.owner.run_dry(&mut self.bus, self.now);
        // What is doubted is believed, what waits is looked at, and no institution is in trouble for ever.
        for _ in 0..12 {
            self.now = self.now.after(std::time::Duration::from_secs(3600));
            self.owner.plan(&mut self.bus, self.now);
            self.owner.run_dry(&mut self.bus, self.now);
        }
        let (links, incidents) = reference::check(&self.bus, &self.policy);
        let stored = everything(&self.owner.store);
        let told: Vec<_> = stored.0.iter().map(|stored| stored.parse().unwrap().link().unwrap()).collect();
        assert_eq!(told, links.into_values().collect::<Vec<_>>());
        for mark in stored.2.iter().map(|(_, mark)| mark) {
            assert_eq!(mark.stream_created_ns, INPUT_CREATED_NS);
        }
        assert!(incidents.values().all(|latest| latest.news == IncidentNews::Ended), "{incidents:?}");
        let prompts = told.iter().filter_map(|link| Some(link.state.episode()?.prompt));
        assert!(prompts.into_iter().all(|prompt| matches!(prompt, Prompt::Sent | Prompt::Held)), "{told:?}");
        assert_eq!(stored.3, incidents.into_values().collect::<Vec<_>>());
        let rebuilt = MemoryStore::default();
        self.bus.catch_up(&rebuilt, &self.policy, usize::MAX);
        assert_eq!(everything(&rebuilt), stored, "a store rebuilt from the stream is another one");
    }
}

type Everything = (Vec<StoredLink>, Vec<LinkId>, Vec<(u16, Mark)>, Vec<IncidentBody>);

/// What is to be told of a store: its links, its timers, its marks, its incidents.
fn everything(store: &MemoryStore) -> Everything {
    let page = store.page(&Query { limit: usize::MAX, ..Query::default() }).unwrap();
    let due = store.due(Timestamp::from_millis(i64::MAX - 1), usize::MAX).unwrap();
    (page.links, due, store.marks().unwrap().into_iter().collect(), store.incidents().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(CASES_MIN),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_and_nothing_is_said_twice(can_verify in any::<bool>(), turns in vec(turn(), 1..TURNS_MAX)) {
        let mut world = World::new(can_verify);
        for turn in turns {
            world.take(turn);
        }
        world.check();
    }
}
