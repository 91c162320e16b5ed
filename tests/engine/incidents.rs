//! An incident: one message to operations, deferred prompts, and a restart during the incident.

use std::collections::VecDeque;

use relink::contract::{Address, IncidentBody, IncidentCause, IncidentChange, JobName, NoticeName, Record};
use relink::engine::{Delivery, Engine, Plan};
use relink::institution::Components;
use relink::link::{InstitutionNotices, Policy, PolicySettings, Prompt, Timestamp};
use relink::store::{MemoryStore, Position, Store};
use serde_json::json;

use crate::inputs::{INPUT_CREATED_NS, OUTPUT_CREATED_NS};
use crate::inputs::{START, Sample, policy};

const MINUTE: i64 = 60_000;

/// More links than the threshold of twenty.
const LINKS: u8 = 30;

/// An engine whose plans are committed at once, and the messages that it has published.
struct Relink {
    engine: Engine<MemoryStore>,
    sequence: u64,
    published: Vec<(Address, Vec<u8>)>,
}

impl Relink {
    fn new(can_verify: bool) -> Self {
        Self { engine: engine(MemoryStore::default(), &policy(can_verify)), sequence: 0, published: Vec::new() }
    }

    /// Restarts the engine with the same store, as after a crash.
    fn restart(&mut self) {
        self.engine = engine(self.engine.store().clone(), self.engine.policy());
    }

    fn receive(&mut self, sample: Sample, links: std::ops::Range<u8>, millis: i64) {
        let now = at(millis);
        let queue: VecDeque<Delivery> = links
            .map(|link| {
                self.sequence += 1;
                let mut delivery = sample.about(link, u32::try_from(self.sequence).unwrap(), now);
                (delivery.partition, delivery.sequence) = (0, self.sequence);
                delivery.stored_at_ns = now.as_millis() * 1_000_000;
                delivery
            })
            .collect();
        self.plan(queue, now);
    }

    /// Makes a plan for each second.
    fn pass_time(&mut self, from: i64, to: i64) {
        (from..=to).step_by(1_000).for_each(|millis| drop(self.plan(VecDeque::new(), at(millis))));
    }

    fn plan(&mut self, mut queue: VecDeque<Delivery>, now: Timestamp) -> Plan {
        let mut plan: Plan = self.engine.plan(&mut queue, now).unwrap();
        assert!(queue.is_empty());
        let activity = &plan.activity;
        assert!(activity.notices.is_empty() || activity.at.is_some(), "a step with notices is counted: {activity:?}");
        let messages = std::mem::take(&mut plan.messages);
        self.published.extend(messages.into_iter().map(|out| (out.message.address, out.message.body.to_vec())));
        let position =
            Position { stream_created_ns: OUTPUT_CREATED_NS, sequence: self.published.len() as u64, witness: None };
        self.engine.store().apply(&plan.changes(Some(position))).unwrap();
        self.engine.record_commit(&plan);
        plan
    }

    fn count(&self, wanted: impl Fn(&Address) -> bool) -> usize {
        self.published.iter().filter(|(address, _)| wanted(address)).count()
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
        let sent = self.published.iter().filter(|(address, _)| matches!(address, Address::Incident(_)));
        sent.map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    fn record(&self, link: u8) -> Record {
        self.engine.store().get(&format!("link-{link}").parse().unwrap()).unwrap().unwrap().parse().unwrap()
    }
}

/// Belvo's status page reports this status of the two components.
fn report(relink: &mut Relink, statuses: [&str; 2], millis: i64) -> Plan {
    relink.sequence += 1;
    let components = [("Erebor", statuses[0]), ("Gringotts", statuses[1])];
    let components = components.map(|(name, status)| json!({"name": name, "status": status}));
    let body = json!({"incident": {"status": "investigating", "components": components}});
    let delivery = Delivery {
        partition: 0,
        sequence: relink.sequence,
        stored_at_ns: at(millis).as_millis() * 1_000_000,
        subject: "belvo.0.institution_status.status-page".to_owned(),
        kind: "institution_status".to_owned(),
        link: "status-page".to_owned(),
        headers: Vec::new(),
        payload: body.to_string().into(),
        receipt: String::new(),
    };
    relink.plan(VecDeque::from([delivery]), at(millis))
}

fn engine(store: MemoryStore, policy: &Policy) -> Engine<MemoryStore> {
    let components = Components::parse(&["Erebor=erebor_mx_retail"]).unwrap();
    Engine::new(store, policy.clone(), INPUT_CREATED_NS, &[(0, 0)].into()).unwrap().with_components(components)
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

/// The links of an institution fail, one every second.
fn outage(restarts: bool, can_verify: bool) -> Relink {
    let mut relink = Relink::new(can_verify);
    relink.receive(Sample::SeenValid, 0..LINKS, 0);
    for link in 0..LINKS {
        relink.receive(Sample::Credentials, link..link + 1, MINUTE + 1_000 * i64::from(link));
        if restarts {
            relink.restart();
        }
    }
    relink
}

#[test]
fn the_first_links_are_prompted_and_the_other_prompts_are_deferred() {
    for restarts in [false, true] {
        let relink = outage(restarts, true);
        assert_eq!(relink.prompts(), 20);
        let sent = relink.incidents();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!((sent[0].change, sent[0].links_count), (IncidentChange::Began, 20));
        assert_eq!(sent[0].because.link_id.as_deref(), Some("link-19"));
        assert_eq!(relink.engine.store().incidents().unwrap(), sent);
        let (sent, deferred) = (relink.record(19), relink.record(20));
        assert_eq!((sent.because.incident, deferred.because.incident), (false, true));
        let deferred = deferred.link().unwrap().state.episode().unwrap().clone();
        assert_eq!(
            deferred.prompt,
            Prompt::Deferred { until: deferred.opened_at.after(ten_minutes()), asked_at: None }
        );
    }
}

fn ten_minutes() -> std::time::Duration {
    std::time::Duration::from_secs(600)
}

#[test]
fn a_link_that_works_again_is_never_prompted_and_a_broken_one_is_prompted_once() {
    for restarts in [false, true] {
        let mut relink = outage(restarts, true);
        // A calm window of ten minutes, and then up to ten minutes for each deferred prompt. A restart begins the calm
        // window again.
        relink.pass_time(MINUTE, 12 * MINUTE);
        let asked = if restarts {
            relink.restart();
            relink.pass_time(12 * MINUTE, 35 * MINUTE);
            35 * MINUTE
        } else {
            relink.pass_time(12 * MINUTE, 22 * MINUTE);
            22 * MINUTE
        };
        let sent = relink.incidents();
        assert_eq!(
            sent.iter().map(|body| body.change).collect::<Vec<_>>(),
            [IncidentChange::Began, IncidentChange::Ended]
        );
        assert_eq!((sent[1].began_at, sent[1].links_count, sent[1].deferred_count), (sent[0].at, 30, 10));
        assert_eq!((relink.prompts(), relink.verifies()), (20, 10), "Belvo is asked before the users");
        relink.receive(Sample::SeenValid, 20..28, asked + 1_000);
        assert_eq!((relink.prompts(), relink.notices(NoticeName::Recovered)), (20, 8));
        relink.receive(Sample::SeenInvalid, 28..29, asked + 1_000);
        assert_eq!(relink.prompts(), 21, "the link is still broken, so its prompt is sent");
        relink.pass_time(asked + MINUTE, asked + 31 * MINUTE);
        assert_eq!(relink.prompts(), 22, "without an answer the prompt is sent");
        assert_eq!((relink.verifies(), relink.notices(NoticeName::Reminder)), (10, 0));
        assert_eq!(relink.incidents().len(), 2);
    }
}

#[test]
fn without_keys_the_prompts_are_sent_when_the_incident_is_over() {
    let mut relink = outage(false, false);
    relink.pass_time(MINUTE, 22 * MINUTE);
    assert_eq!((relink.prompts(), relink.verifies(), relink.incidents().len()), (30, 0, 2));
}

#[test]
fn muted_links_and_ended_consents_do_not_count_for_an_incident() {
    for sample in [Sample::Credentials, Sample::ConsentExpired] {
        let mut relink = Relink::new(true);
        relink.receive(Sample::SeenValid, 0..100, 0);
        if sample == Sample::Credentials {
            relink.receive(Sample::Mute, 0..100, 1);
        }
        relink.receive(sample, 0..100, MINUTE);
        assert_eq!(relink.incidents(), [], "{sample:?}");
    }
}

#[test]
fn links_of_an_unknown_institution_are_prompted_when_nothing_has_read_them_in_time() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::Credentials, 0..100, 0);
    assert_eq!((relink.prompts(), relink.verifies(), relink.incidents().len()), (0, 100, 0));
    relink.pass_time(MINUTE, 3 * MINUTE);
    assert_eq!((relink.prompts(), relink.verifies(), relink.incidents().len()), (100, 100, 0));
}

#[test]
fn links_whose_institution_becomes_known_after_they_broke_count_for_its_incident() {
    for restarts in [false, true] {
        let mut relink = Relink::new(true);
        relink.receive(Sample::Credentials, 0..LINKS, 0);
        assert_eq!((relink.prompts(), relink.incidents().len()), (0, 0), "their institution is not known yet");
        for link in 0..LINKS {
            // A second read of the same link does not count again.
            relink.receive(Sample::SeenInvalid, link..link + 1, 1_000 * i64::from(link) + 1_000);
            relink.receive(Sample::SeenInvalid, link..link + 1, 1_000 * i64::from(link) + 1_500);
            if restarts {
                relink.restart();
            }
        }
        let sent = relink.incidents();
        assert_eq!(changes(&relink, 0), [(IncidentChange::Began, IncidentCause::FailingLinks)]);
        assert_eq!((sent[0].links_count, sent[0].because.link_id.as_deref()), (20, Some("link-19")));
        assert_eq!(relink.prompts(), 20);
        relink.pass_time(MINUTE, 30 * MINUTE);
        let ended = relink.incidents().pop().unwrap();
        // After a restart the counts may be too small.
        assert_eq!(ended.change, IncidentChange::Ended);
        assert!(restarts || ended.links_count == 30, "{ended:?}");
    }
}

#[test]
fn the_institution_that_devices_send_starts_no_incident() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::Claimed, 0..LINKS, 0);
    relink.receive(Sample::Credentials, 0..LINKS, MINUTE);
    assert_eq!((relink.record(0).institution, relink.incidents().len()), (None, 0));
}

#[test]
fn a_link_that_is_unmuted_during_an_incident_has_a_deferred_prompt() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::SeenValid, 0..LINKS, 0);
    relink.receive(Sample::Mute, 29..30, 1);
    relink.receive(Sample::Credentials, 0..LINKS, MINUTE);
    let before = relink.prompts();
    relink.receive(Sample::Unmute, 29..30, MINUTE + 1);
    assert_eq!(relink.prompts(), before);
    let prompt = relink.record(29).link().unwrap().state.episode().unwrap().prompt;
    assert!(matches!(prompt, Prompt::Deferred { .. }), "{prompt:?}");
}

/// The messages about the institution, without the first `skip`: what changed, and why.
fn changes(relink: &Relink, skip: usize) -> Vec<(IncidentChange, IncidentCause)> {
    relink.incidents()[skip..].iter().map(|body| (body.change, body.cause)).collect()
}

#[test]
fn outage_errors_of_several_links_begin_an_incident_that_ends_by_itself() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::SeenValid, 0..LINKS, 0);
    relink.receive(Sample::InstitutionDown, 0..1, MINUTE);
    relink.receive(Sample::InstitutionDown, 0..1, MINUTE + 1);
    assert_eq!(relink.incidents(), [], "one link is no evidence about its institution");
    relink.receive(Sample::InstitutionDown, 1..5, MINUTE + 2);
    let caused_by = IncidentCause::OutageErrors;
    assert_eq!(changes(&relink, 0), [(IncidentChange::Degraded, caused_by), (IncidentChange::Began, caused_by)]);
    let began = relink.incidents().pop().unwrap();
    assert_eq!((began.links_count, began.threshold, began.because.link_id.as_deref()), (5, 5, Some("link-4")));
    // The errors move no link. A link that breaks now is not prompted.
    assert_eq!(relink.record(0).version, 1);
    relink.receive(Sample::Credentials, 10..12, 2 * MINUTE);
    assert_eq!(relink.prompts(), 0);
    for restarts in 0..3 {
        relink.pass_time((2 + restarts) * MINUTE, (3 + restarts) * MINUTE);
        relink.restart();
    }
    relink.pass_time(5 * MINUTE, 16 * MINUTE);
    assert_eq!(changes(&relink, 2), [(IncidentChange::Ended, caused_by)]);
    assert_eq!(relink.incidents().pop().unwrap().deferred_count, 2);
    // Belvo is asked before the users, and without an answer the prompts are sent.
    assert_eq!(relink.prompts(), 0);
    relink.receive(Sample::SeenValid, 10..11, 16 * MINUTE);
    relink.pass_time(16 * MINUTE, 60 * MINUTE);
    assert_eq!((relink.prompts(), relink.verifies()), (1, 1));
}

#[test]
fn an_outage_error_about_a_link_of_an_unknown_institution_is_no_evidence() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::InstitutionDown, 0..LINKS, 0);
    assert_eq!(relink.incidents(), []);
}

#[test]
fn an_incident_of_links_and_outage_errors_are_one_incident() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::SeenValid, 0..LINKS, 0);
    relink.receive(Sample::Credentials, 0..20, MINUTE);
    relink.receive(Sample::InstitutionDown, 20..LINKS, 9 * MINUTE);
    assert_eq!(changes(&relink, 0), [(IncidentChange::Began, IncidentCause::FailingLinks)]);
    relink.pass_time(10 * MINUTE, 18 * MINUTE);
    assert_eq!(relink.incidents().len(), 1, "the links no longer fail, but Belvo's errors go on");
    relink.pass_time(18 * MINUTE, 20 * MINUTE);
    assert_eq!(changes(&relink, 1), [(IncidentChange::Ended, IncidentCause::FailingLinks)]);
}

#[test]
fn the_status_page_defers_prompts_of_the_institution_that_it_names() {
    let mut relink = Relink::new(true);
    relink.receive(Sample::SeenValid, 0..LINKS, 0);
    let plan = report(&mut relink, ["major_outage", "major_outage"], MINUTE);
    // The second component is not configured, which an operator has to see.
    assert_eq!(plan.dead_letters.len(), 1);
    let page = IncidentCause::StatusPage;
    assert_eq!(changes(&relink, 0), [(IncidentChange::Began, page)]);
    relink.receive(Sample::Credentials, 0..2, 2 * MINUTE);
    relink.pass_time(2 * MINUTE, 40 * MINUTE);
    assert_eq!((relink.prompts(), relink.verifies()), (0, 0));
    relink.restart();
    report(&mut relink, ["partial_outage", "operational"], 40 * MINUTE);
    assert_eq!(changes(&relink, 1), [(IncidentChange::Ended, page), (IncidentChange::Degraded, page)]);
    relink.restart();
    report(&mut relink, ["operational", "operational"], 41 * MINUTE);
    assert_eq!(changes(&relink, 3), [(IncidentChange::Recovered, page)]);
    relink.pass_time(41 * MINUTE, 90 * MINUTE);
    assert_eq!((relink.prompts(), relink.verifies()), (2, 2), "Belvo was asked, and did not answer");
}

#[test]
fn each_link_that_meets_an_outage_is_announced_once_and_restored_once_in_spite_of_restarts() {
    let mut relink = Relink::new(true);
    let notices = InstitutionNotices::All;
    let settings = PolicySettings { institution_notices: notices, ..relink.engine.policy().settings().clone() };
    relink.engine = engine(MemoryStore::default(), &Policy::new(settings).unwrap());
    let counts = |relink: &Relink| {
        [NoticeName::InstitutionDown, NoticeName::InstitutionRestored].map(|name| relink.notices(name))
    };
    relink.receive(Sample::SeenValid, 0..LINKS, 0);
    // The fifth link shows that the institution is down, so it has met the outage; the first four had no reason to.
    relink.receive(Sample::InstitutionDown, 0..5, MINUTE);
    assert_eq!(counts(&relink), [1, 0]);
    for restarts in 0..3 {
        relink.receive(Sample::InstitutionDown, 4..10, (2 + restarts) * MINUTE);
        relink.receive(Sample::Credentials, 10..12, (2 + restarts) * MINUTE + 1);
        assert_eq!(counts(&relink), [8, 0], "six links with an error, and two with a deferred prompt");
        relink.restart();
    }
    let started = relink.record(4);
    assert_eq!((started.because.event.as_str(), started.because.incident), ("outage_met", true));
    // Each link looks for the end with its own timer, and Belvo works again for one of the deferred ones.
    relink.pass_time(5 * MINUTE, 24 * MINUTE);
    relink.receive(Sample::SeenValid, 10..11, 24 * MINUTE);
    relink.pass_time(24 * MINUTE, 80 * MINUTE);
    assert_eq!(changes(&relink, 2), [(IncidentChange::Ended, IncidentCause::OutageErrors)]);
    assert_eq!((counts(&relink), relink.prompts()), ([8, 8], 1));
    assert!((0..LINKS).all(|link| relink.record(link).institution_outage.is_none()));
}
