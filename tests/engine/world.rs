//! The streams and everybody at work on them, and what happens to them.

use proptest::prelude::*;
use proptest::sample::Index;
use relink::contract::{IncidentBody, IncidentNews, Mark};
use relink::link::{LinkId, Policy, Prompt, Settings, Timestamp};
use relink::node::{End, Input};
use relink::store::{MemoryStore, Query, Store, StoredLink};

use crate::bus::{Bus, INPUT_CREATED_NS, LANES};
use crate::inputs::{START, Said, policy};
use crate::reference;
use crate::running::Running;

const LINKS: u8 = 5;
/// So many have been read from Belvo when a story begins, so that their institution is known.
const LINKS_KNOWN: u8 = 3;

pub(crate) const ALL_LANES: [u16; LANES as usize] = [0, 1, 2];

/// One thing that happens. `who` is the owner of the lanes, or the other process that runs.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
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
    /// A delivery goes to a reader that is no more.
    Miss {
        who: Who,
        lane: u16,
    },
    LaneFails {
        who: Who,
        lane: u16,
    },
    Tick {
        who: Who,
    },
    /// The server does the next thing that it was asked for.
    ServerDecides {
        who: Who,
    },
    /// The answer of the server arrives.
    Hear {
        who: Who,
    },
    /// It never does: NATS is away for a while.
    LoseAnswers {
        who: Who,
    },
    /// One step of what is for the store.
    Finish {
        who: Who,
    },
    /// The owner dies and is started again; what was on its way may still arrive.
    Crash {
        store: Survives,
        back: u64,
    },
    /// Another process takes all lanes while the owner goes on.
    TakeOver {
        store: Survives,
    },
    /// Something that was sent by a process that is gone reaches the server after all.
    GhostArrives,
    /// Another process takes some of the owner's lanes.
    Share {
        store: Survives,
        lane: u16,
    },
    /// The owner is told to give a lane up, or to take it back.
    GiveUp {
        lane: u16,
    },
    TakeBack {
        lane: u16,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Owner,
    Other,
}

/// What a crash leaves of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Survives {
    /// The process died, the host did not.
    Everything,
    /// The host died.
    Checkpoint,
    /// The disk died.
    Nothing,
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![5 => Just(Who::Owner), 2 => Just(Who::Other)]
}

fn survives() -> impl Strategy<Value = Survives> {
    prop_oneof![Just(Survives::Everything), Just(Survives::Checkpoint), Just(Survives::Nothing)]
}

/// What happens to processes that have all lanes or none.
pub(crate) fn turn() -> impl Strategy<Value = Turn> {
    let millis = prop_oneof![6 => 0..5_000_i64, 2 => 0..1_200_000_i64, 1 => 0..400_000_000_i64];
    prop_oneof![
        24 => (any::<Index>(), 0..LINKS, 0..40_u32)
            .prop_map(|(said, link, request)| Turn::Publish { said, link, request }),
        3 => any::<Index>().prop_map(|which| Turn::PublishAgain { which }),
        6 => millis.prop_map(|millis| Turn::Wait { millis }),
        18 => (who(), 0..LANES, 1..6_usize).prop_map(|(who, lane, count)| Turn::Pull { who, lane, count }),
        3 => (who(), 0..LANES, any::<u8>())
            .prop_map(|(who, lane, nth)| Turn::PullAgain { who, lane, nth: nth.into() }),
        1 => (who(), 0..LANES).prop_map(|(who, lane)| Turn::Miss { who, lane }),
        1 => (who(), 0..LANES).prop_map(|(who, lane)| Turn::LaneFails { who, lane }),
        10 => who().prop_map(|who| Turn::Tick { who }),
        40 => who().prop_map(|who| Turn::ServerDecides { who }),
        40 => who().prop_map(|who| Turn::Hear { who }),
        30 => who().prop_map(|who| Turn::Finish { who }),
        2 => who().prop_map(|who| Turn::LoseAnswers { who }),
        3 => (survives(), 0..4_u64).prop_map(|(store, back)| Turn::Crash { store, back }),
        2 => survives().prop_map(|store| Turn::TakeOver { store }),
        3 => Just(Turn::GhostArrives),
    ]
}

/// The same, and lanes that come and go one by one.
pub(crate) fn turn_of_shares() -> impl Strategy<Value = Turn> {
    prop_oneof![
        40 => turn(),
        2 => (survives(), 0..LANES).prop_map(|(store, lane)| Turn::Share { store, lane }),
        1 => (0..LANES).prop_map(|lane| Turn::GiveUp { lane }),
        1 => (0..LANES).prop_map(|lane| Turn::TakeBack { lane }),
    ]
}

pub(crate) struct World {
    policy: Policy,
    now: Timestamp,
    bus: Bus,
    owners_count: u32,
    owner: Running,
    other: Option<Running>,
}

impl World {
    /// With incidents, one link that fails is one, and one calm minute its end, so that stories have many.
    pub(crate) fn new(can_verify: bool, incidents: bool) -> Self {
        let minute = std::time::Duration::from_secs(60);
        let defaults = policy(can_verify).settings().clone();
        let incident_links = u32::from(incidents);
        let settings = Settings { incident_links, incident_window: minute, incident_wait: minute, ..defaults };
        let (policy, mut bus) = (Policy::new(settings).unwrap(), Bus::default());
        for link in 0..LINKS_KNOWN {
            bus.publish(Said::SeenValid.about(link, 0, START), START);
        }
        let owner = Running::start(1, MemoryStore::default(), &policy, START, &ALL_LANES, 0);
        Self { policy, now: START, bus, owners_count: 1, owner, other: None }
    }

    /// Runs one step of a process.
    fn at(&mut self, who: Who, act: impl FnOnce(&mut Running, &mut Bus)) {
        match who {
            Who::Owner => act(&mut self.owner, &mut self.bus),
            Who::Other => {
                if let Some(other) = &mut self.other {
                    act(other, &mut self.bus);
                }
            }
        }
    }

    fn start(&mut self, store: MemoryStore, lanes: &[u16], back: u64) -> Running {
        self.owners_count += 1;
        Running::start(self.owners_count, store, &self.policy, self.now, lanes, back)
    }

    fn survivor(&self, survives: Survives) -> MemoryStore {
        match survives {
            Survives::Everything => self.owner.store.copy(),
            Survives::Checkpoint => self.owner.store.durable(),
            Survives::Nothing => MemoryStore::default(),
        }
    }

    /// Another process begins beside the owner; the one that was there before is gone.
    fn set_other(&mut self, other: Running) {
        if let Some(gone) = self.other.replace(other) {
            self.bus.ghosts.extend(gone.leave());
        }
    }

    fn crash(&mut self, store: MemoryStore, back: u64) {
        let next = self.start(store, &ALL_LANES, back);
        let dead = std::mem::replace(&mut self.owner, next);
        self.bus.ghosts.extend(dead.leave());
    }

    pub(crate) fn take(&mut self, turn: Turn) {
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
            Turn::Pull { who, lane, count } => self.at(who, |process, bus| process.pull(bus, lane, count, now)),
            Turn::PullAgain { who, lane, nth } => self.at(who, |process, bus| process.pull_again(bus, lane, nth, now)),
            Turn::Miss { who, lane } => self.at(who, |process, bus| process.miss(bus, lane)),
            Turn::LaneFails { who, lane } => self.at(who, |process, _| process.lane_fails(lane, now)),
            Turn::Tick { who } => self.at(who, |process, _| process.handle(Input::Tick, now)),
            Turn::ServerDecides { who } => self.at(who, |process, bus| process.server_decides(bus)),
            Turn::Hear { who } => self.at(who, |process, _| process.hear(now)),
            Turn::LoseAnswers { who } => self.at(who, |process, bus| process.lose_answers(bus, now)),
            Turn::Finish { who } => self.at(who, |process, _| process.finish(now)),
            Turn::Crash { store, back } => self.crash(self.survivor(store), back),
            Turn::TakeOver { store } => {
                let next = self.start(self.survivor(store), &ALL_LANES, 0);
                let replaced = std::mem::replace(&mut self.owner, next);
                self.set_other(replaced);
            }
            Turn::GhostArrives => {
                if let Some(ghost) = self.bus.ghosts.pop() {
                    // Whether it is refused depends on what has been taken since.
                    let _ = self.bus.store(ghost);
                }
            }
            Turn::Share { store, lane } => {
                let other = self.start(self.survivor(store), &[lane], 0);
                self.set_other(other);
            }
            Turn::GiveUp { lane } => self.owner.handle(Input::Lost { partitions: vec![lane] }, now),
            Turn::TakeBack { lane } => self.owner.gain(&[lane], now),
        }
    }

    /// Lets the owner come to rest, with all lanes.
    fn come_to_rest(&mut self) {
        self.owner.gain(&ALL_LANES, self.now);
        loop {
            self.now = self.owner.run_dry(&mut self.bus, self.now);
            match self.owner.ended {
                None => return,
                // A fence that was sent long ago, by a process that is gone, has arrived late: an operator starts it again.
                Some(End::Fenced) => self.crash(self.survivor(Survives::Everything), 0),
                Some(_) => panic!("{:?}", self.owner.ended),
            }
        }
    }

    /// Lets everything come to an end and looks at it.
    pub(crate) fn check(mut self) {
        self.come_to_rest();
        // What is doubted is believed, what waits is looked at, and no institution is in trouble for ever.
        for _ in 0..12 {
            self.now = self.now.after(std::time::Duration::from_secs(3600));
            self.come_to_rest();
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
        let mut rebuilt = self.start(MemoryStore::default(), &ALL_LANES, 0);
        rebuilt.run_dry(&mut self.bus, self.now);
        assert_eq!(everything(&rebuilt.store), stored, "a store rebuilt from the stream is another one");
        for process in [Some(self.owner), self.other, Some(rebuilt)].into_iter().flatten() {
            process.recording.check();
        }
    }
}

type Everything = (Vec<StoredLink>, Vec<LinkId>, Vec<(u16, Mark)>, Vec<IncidentBody>);

/// What is to be told of a store: its links, its timers, its marks, its incidents.
fn everything(store: &MemoryStore) -> Everything {
    let page = store.page(&Query { limit: usize::MAX, ..Query::default() }).unwrap();
    let due = store.due(Timestamp::from_millis(i64::MAX - 1), usize::MAX).unwrap();
    (page.links, due, store.marks().unwrap().into_iter().collect(), store.incidents().unwrap())
}
