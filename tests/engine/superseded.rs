//! A link whose user has a newer working link at the same institution prompts nobody, whichever of the two events comes
//! first, and in whichever plan.

use std::collections::VecDeque;

use relink::contract::{Address, NoticeName};
use relink::engine::{Delivery, Engine};
use relink::link::{Policy, PolicySettings, Supersede};
use relink::store::MemoryStore;
use serde_json::{Value, json};

use crate::inputs::{INPUT_CREATED_NS, START, delivery};
use crate::plans::{HOUR, Plans, at};

const DAY: i64 = 24 * HOUR;

struct Relink {
    plans: Plans,
    sequence: u64,
}

impl Relink {
    fn new(supersede: Supersede) -> Self {
        // All links have one `external_id`; the rule for persons has tests of its own.
        let (can_verify, per_person) = (true, false);
        let settings =
            PolicySettings { can_verify, per_person, incident_links: 2, supersede, ..PolicySettings::default() };
        let policy = Policy::new(settings).unwrap();
        let engine = Engine::new(MemoryStore::default(), policy, INPUT_CREATED_NS, &[(0, 0)].into()).unwrap();
        Self { plans: Plans::of(engine), sequence: 0 }
    }

    /// A relink that knows an old link (`a`) and a newer one (`b`) of the same user, both working.
    fn with_two_links(supersede: Supersede) -> Self {
        let mut relink = Self::new(supersede);
        let inputs = [found("a", "valid", 1, 0), found("b", "valid", 2, 0)].map(|input| relink.input(input, 0));
        relink.plans.commit(inputs.into(), 0);
        relink
    }

    fn input(&mut self, (kind, link, body): (&str, String, Value), millis: i64) -> Delivery {
        self.sequence += 1;
        let stored_at_ns = (START.as_millis() + millis) * 1_000_000;
        Delivery { sequence: self.sequence, stored_at_ns, ..delivery(kind, &link, body.to_string()) }
    }

    fn receive(&mut self, input: (&str, String, Value), millis: i64) {
        let input = self.input(input, millis);
        self.plans.commit([input].into(), millis);
    }

    fn notices(&self, name: NoticeName, link: &str) -> Vec<&Value> {
        let is_wanted =
            |address: &Address| matches!(address, Address::Notice(found, id) if *found == name && id.as_str() == link);
        self.plans.published.iter().filter(|(address, _)| is_wanted(address)).map(|(_, body)| body).collect()
    }

    /// How many prompts, reminders and `superseded` the user of the old link got.
    fn notified(&self) -> [usize; 3] {
        [NoticeName::UpdateRequired, NoticeName::Reminder, NoticeName::Superseded]
            .map(|name| self.notices(name, "a").len())
    }
}

/// The successor that is found for `a` if a plan whose write is open has broken another link.
fn successor_while_a_write_is_open(has_landed: bool) -> Value {
    let mut relink = Relink::new(Supersede::ExternalId);
    let mut known: Vec<_> = (1..=70).map(|age| found(&format!("b{age:02}"), "valid", age, 0)).collect();
    known.push(found("a", "valid", 0, 0));
    for (_, _, body) in &mut known {
        // More links have this external id than a look-up reads.
        body["link"]["institution_user_id"] = Value::Null;
    }
    let known = known.into_iter().map(|input| relink.input(input, 0)).collect();
    relink.plans.commit(known, 0);
    let first = relink.input(rejected("b01"), HOUR);
    let open = relink.plans.plan([first].into(), HOUR);
    if has_landed {
        relink.plans.apply(&open);
    }
    let second = relink.input(rejected("a"), HOUR);
    relink.plans.plan([second].into(), HOUR);
    relink.notices(NoticeName::Superseded, "a")[0]["by"].clone()
}

/// An observation of a link that was created `age` hours after the first one.
fn found(link: &str, status: &str, age: i64, millis: i64) -> (&'static str, String, Value) {
    let resource = json!({"id": link, "status": status, "institution": "erebor", "institution_user_id": "u1",
        "external_id": "maria", "access_mode": "single", "created_at": at((age - 1_000) * HOUR).to_string()});
    let body = json!({"observed_at": at(millis).to_string(), "source": "verify", "outcome": "found", "link": resource});
    ("observation", link.to_owned(), body)
}

fn rejected(link: &str) -> (&'static str, String, Value) {
    let body = json!({"webhook_id": "w", "webhook_type": "LINK", "webhook_code": "invalid_credentials", "link_id": link,
        "request_id": "r", "data": {}});
    ("webhook", link.to_owned(), body)
}

#[test]
fn a_link_that_breaks_while_its_successor_works_prompts_nobody() {
    let mut relink = Relink::with_two_links(Supersede::InstitutionUserId);
    relink.receive(rejected("a"), HOUR);
    assert_eq!(relink.notified(), [0, 0, 1]);
    let notice = relink.notices(NoticeName::Superseded, "a")[0].clone();
    assert_eq!((&notice["by"], &notice["because"]["successor_id"]), (&json!("b"), &json!("b")));
    assert_eq!(notice["episode"]["prompts_count"], 0);
    for day in 1..12 {
        relink.plans.commit(VecDeque::new(), day * DAY);
    }
    relink.receive(rejected("b"), 12 * DAY);
    assert_eq!(relink.notified(), [0, 0, 1], "the newer link is the one to repair");
    assert_eq!(relink.notices(NoticeName::UpdateRequired, "b").len(), 1);
    assert_eq!(relink.plans.record("a").episode.unwrap().superseded_by.as_deref(), Some("b"));
}

#[test]
fn the_old_link_never_supersedes_the_new_one() {
    let mut relink = Relink::with_two_links(Supersede::ExternalId);
    relink.receive(rejected("b"), HOUR);
    assert_eq!(relink.notices(NoticeName::UpdateRequired, "b").len(), 1);
    relink.receive(rejected("a"), 2 * HOUR);
    assert_eq!(relink.notified(), [1, 0, 0], "two broken links do not supersede each other");
}

#[test]
fn the_policy_can_turn_it_off() {
    let mut relink = Relink::with_two_links(Supersede::Never);
    relink.receive(rejected("a"), HOUR);
    assert_eq!(relink.notified(), [1, 0, 0]);
}

#[test]
fn a_successor_in_a_plan_that_is_not_stored_yet_is_found() {
    let mut relink = Relink::new(Supersede::InstitutionUserId);
    relink.receive(found("a", "valid", 1, 0), 0);
    // Both in one plan, and in two plans of which the first is in flight.
    let queue = [found("b", "valid", 2, HOUR), rejected("a")].map(|input| relink.input(input, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    assert_eq!(relink.notified(), [0, 0, 1]);

    let mut relink = Relink::new(Supersede::InstitutionUserId);
    relink.receive(found("a", "valid", 1, 0), 0);
    let first = relink.input(found("b", "valid", 2, HOUR), HOUR);
    let in_flight = relink.plans.plan([first].into(), HOUR);
    let second = relink.input(rejected("a"), HOUR);
    let next = relink.plans.plan([second].into(), HOUR);
    assert_eq!(relink.notified(), [0, 0, 1]);
    for plan in [in_flight, next] {
        relink.plans.apply(&plan);
        relink.plans.engine.record_commit(&plan);
    }
    // The store still has the working successor, and the plan in flight has broken it.
    let mut relink = Relink::with_two_links(Supersede::InstitutionUserId);
    let queue = [rejected("b"), rejected("a")].map(|input| relink.input(input, HOUR));
    relink.plans.commit(queue.into(), HOUR);
    assert_eq!(relink.notified(), [1, 0, 0]);
}

#[test]
fn the_successor_does_not_depend_on_the_moment_of_a_write() {
    let [before, after] = [false, true].map(successor_while_a_write_is_open);
    assert_eq!(before, after, "a recorded log of inputs must replay to the same plans");
}

#[test]
fn the_successor_is_found_when_the_old_link_is_read_for_the_first_time() {
    let mut relink = Relink::new(Supersede::InstitutionUserId);
    relink.receive(rejected("a"), 0);
    relink.receive(found("b", "valid", 2, HOUR), HOUR);
    relink.receive(found("a", "invalid", 1, 2 * HOUR), 2 * HOUR);
    assert_eq!(relink.notified(), [1, 0, 1], "when it broke, nothing was known of it");
    for day in 1..12 {
        relink.plans.commit(VecDeque::new(), day * DAY);
    }
    assert_eq!(relink.notified(), [1, 0, 1]);
}

#[test]
fn a_reminder_that_is_due_finds_the_successor_that_no_job_has_found() {
    let mut relink = Relink::new(Supersede::InstitutionUserId);
    relink.receive(found("a", "valid", 1, 0), 0);
    relink.receive(rejected("a"), HOUR);
    // The job that this proof asks for is lost.
    relink.receive(found("b", "valid", 2, 2 * HOUR), 2 * HOUR);
    assert_eq!(relink.notified(), [1, 0, 0]);
    for day in 1..12 {
        relink.plans.commit(VecDeque::new(), day * DAY);
    }
    assert_eq!(relink.notified(), [1, 0, 1]);
}

#[test]
fn an_operator_makes_it_prompt_again_and_no_look_up_undoes_it() {
    let mut relink = Relink::with_two_links(Supersede::InstitutionUserId);
    relink.receive(rejected("a"), HOUR);
    relink.receive(("command", "a".to_owned(), json!({"command": "unsupersede", "by": "support"})), 2 * HOUR);
    assert_eq!(relink.notified(), [1, 0, 1]);
    for day in 1..12 {
        relink.plans.commit(VecDeque::new(), day * DAY);
    }
    assert_eq!(relink.notified(), [1, 3, 1]);
    assert_eq!(relink.plans.record("a").not_superseded_by, ["b"]);
}

#[test]
fn superseded_links_are_no_incident() {
    for (user, expected) in [("u1", 0), ("u2", 1)] {
        let mut relink = Relink::new(Supersede::InstitutionUserId);
        for (link, age) in [("a", 1), ("c", 2), ("d", 3), ("b", 4)] {
            let (kind, link, mut body) = found(link, "valid", age, 0);
            if link == "b" {
                body["link"]["institution_user_id"] = user.into();
            }
            relink.receive((kind, link, body), 0);
        }
        for link in ["d", "c", "a"] {
            relink.receive(rejected(link), HOUR);
        }
        // The newest one breaks first, so only `b` can be a successor.
        assert_eq!(relink.plans.engine.incidents_count(), expected, "{user}");
    }
}
