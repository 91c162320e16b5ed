//! A bank refuses everybody: one notice to operations, prompts that wait, and what a restart in the middle changes.

use std::collections::VecDeque;

use relink::contract::{Address, IncidentBody, IncidentNews, JobName, NoticeName, Record};
use relink::engine::{Delivery, Engine, Plan};
use relink::link::{Policy, Prompt, Timestamp};
use relink::store::{MemoryStore, Position, Store};

use crate::inputs::{INPUT_CREATED_NS, OUTPUT_CREATED_NS};
use crate::inputs::{START, Said, policy};

const MINUTE: i64 = 60_000;

/// More than the twenty that are an incident.
const LINKS: u8 = 30;

/// An engine whose plans are all stored at once, and everything it has said.
struct Relink {
    engine: Engine<MemoryStore>,
    sequence: u64,
    said: Vec<(Address, Vec<u8>)>,
}

impl Relink {
    fn new(can_verify: bool) -> Self {
        Self { engine: engine(MemoryStore::default(), &policy(can_verify)), sequence: 0, said: Vec::new() }
    }

    /// As after a crash, with a store that is there or rebuilt: it is the same.
    fn restart(&mut self) {
        self.engine = engine(self.engine.store().clone(), self.engine.policy());
    }

    fn hears(&mut self, said: Said, links: std::ops::Range<u8>, millis: i64) {
        let now = at(millis);
        let queue: VecDeque<Delivery> = links
            .map(|link| {
                self.sequence += 1;
                let mut delivery = said.about(link, u32::try_from(self.sequence).unwrap(), now);
                (delivery.lane, delivery.sequence) = (0, self.sequence);
                delivery.stored_at_ns = now.as_millis() * 1_000_000;
                delivery
            })
            .collect();
        self.plan(queue, now);
    }

    /// Lets time pass, a second at a time where something is due.
    fn waits(&mut self, from: i64, to: i64) {
        (from..=to).step_by(1_000).for_each(|millis| self.plan(VecDeque::new(), at(millis)));
    }

    fn plan(&mut self, mut queue: VecDeque<Delivery>, now: Timestamp) {
        let mut plan: Plan = self.engine.plan(&mut queue, now).unwrap();
        assert!(queue.is_empty());
        let messages = std::mem::take(&mut plan.messages);
        self.said.extend(messages.into_iter().map(|out| (out.message.address, out.message.body)));
        let position =
            Position { stream_created_ns: OUTPUT_CREATED_NS, sequence: self.said.len() as u64, witness: None };
        self.engine.store().apply(&plan.changes(Some(position))).unwrap();
        self.engine.settle(&plan);
    }

    fn count(&self, wanted: impl Fn(&Address) -> bool) -> usize {
        self.said.iter().filter(|(address, _)| wanted(address)).count()
    }

    fn prompts(&self) -> usize {
        self.notices(NoticeName::UpdateRequired)
    }

    fn notices(&self, name: NoticeName) -> usize {
        self.count(|address| matches!(address, Address::Notice(notice, _) if *notice == name))
    }

    fn verifies(&self) -> usize {
        self.count(|address| matches!(address, Address::Job(JobName::Verify, _)))
    }

    fn incidents(&self) -> Vec<IncidentBody> {
        let told = self.said.iter().filter(|(address, _)| matches!(address, Address::Incident(_)));
        told.map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    fn record(&self, link: u8) -> Record {
        self.engine.store().get(&format!("link-{link}").parse().unwrap()).unwrap().unwrap().parse().unwrap()
    }
}

fn engine(store: MemoryStore, policy: &Policy) -> Engine<MemoryStore> {
    Engine::new(store, policy.clone(), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

/// A bank refuses everybody, one link a second.
fn outage(restarts: bool, can_verify: bool) -> Relink {
    let mut relink = Relink::new(can_verify);
    relink.hears(Said::SeenValid, 0..LINKS, 0);
    for link in 0..LINKS {
        relink.hears(Said::Credentials, link..link + 1, MINUTE + 1_000 * i64::from(link));
        if restarts {
            relink.restart();
        }
    }
    relink
}

#[test]
fn the_first_are_prompted_and_the_rest_wait() {
    for restarts in [false, true] {
        let relink = outage(restarts, true);
        assert_eq!(relink.prompts(), 20);
        let told = relink.incidents();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].news, told[0].links_count), (IncidentNews::Began, 20));
        assert_eq!(told[0].because.link_id.as_deref(), Some("link-19"));
        assert_eq!(relink.engine.store().incidents().unwrap(), told);
        let (told, waiting) = (relink.record(19), relink.record(20));
        assert_eq!((told.because.incident, waiting.because.incident), (false, true));
        let waiting = waiting.link().unwrap().state.episode().unwrap().clone();
        assert_eq!(waiting.prompt, Prompt::Waiting { until: waiting.opened_at.after(ten_minutes()), asked_at: None });
    }
}

fn ten_minutes() -> std::time::Duration {
    std::time::Duration::from_secs(600)
}

#[test]
fn who_works_again_is_never_prompted_and_who_does_not_is_prompted_once() {
    for restarts in [false, true] {
        let mut relink = outage(restarts, true);
        // A calm of ten minutes, and then everybody's own ten minutes; a restart in between begins the calm anew.
        relink.waits(MINUTE, 12 * MINUTE);
        let asked = if restarts {
            relink.restart();
            relink.waits(12 * MINUTE, 35 * MINUTE);
            35 * MINUTE
        } else {
            relink.waits(12 * MINUTE, 22 * MINUTE);
            22 * MINUTE
        };
        let told = relink.incidents();
        assert_eq!(told.iter().map(|body| body.news).collect::<Vec<_>>(), [IncidentNews::Began, IncidentNews::Ended]);
        assert_eq!((told[1].began_at, told[1].links_count, told[1].held_count), (told[0].at, 30, 10));
        assert_eq!((relink.prompts(), relink.verifies()), (20, 10), "Belvo is asked before anybody else is");
        relink.hears(Said::SeenValid, 20..28, asked + 1_000);
        assert_eq!((relink.prompts(), relink.notices(NoticeName::Recovered)), (20, 8));
        relink.hears(Said::SeenInvalid, 28..29, asked + 1_000);
        assert_eq!(relink.prompts(), 21, "still broken: the one prompt");
        relink.waits(asked + MINUTE, asked + 31 * MINUTE);
        assert_eq!(relink.prompts(), 22, "nobody answered about the last");
        assert_eq!((relink.verifies(), relink.notices(NoticeName::Reminder)), (10, 0));
        assert_eq!(relink.incidents().len(), 2);
    }
}

#[test]
fn without_keys_the_prompts_go_out_when_it_is_over() {
    let mut relink = outage(false, false);
    relink.waits(MINUTE, 22 * MINUTE);
    assert_eq!((relink.prompts(), relink.verifies(), relink.incidents().len()), (30, 0, 2));
}

#[test]
fn muted_links_and_ended_consents_are_no_part_of_it() {
    for said in [Said::Credentials, Said::ConsentExpired] {
        let mut relink = Relink::new(true);
        relink.hears(Said::SeenValid, 0..100, 0);
        if said == Said::Credentials {
            relink.hears(Said::Mute, 0..100, 1);
        }
        relink.hears(said, 0..100, MINUTE);
        assert_eq!(relink.incidents(), [], "{said:?}");
    }
}

#[test]
fn links_whose_institution_nobody_said_are_prompted() {
    let mut relink = Relink::new(true);
    relink.hears(Said::Credentials, 0..100, 0);
    assert_eq!((relink.prompts(), relink.incidents().len()), (100, 0));
}

#[test]
fn a_muted_link_that_is_released_in_an_incident_waits_too() {
    let mut relink = Relink::new(true);
    relink.hears(Said::SeenValid, 0..LINKS, 0);
    relink.hears(Said::Mute, 29..30, 1);
    relink.hears(Said::Credentials, 0..LINKS, MINUTE);
    let before = relink.prompts();
    relink.hears(Said::Unmute, 29..30, MINUTE + 1);
    assert_eq!(relink.prompts(), before);
    let prompt = relink.record(29).link().unwrap().state.episode().unwrap().prompt;
    assert!(matches!(prompt, Prompt::Waiting { .. }), "{prompt:?}");
}
