//! The start and the end of an incident, the baseline, and a restart.

use super::*;
use crate::contract::OriginKind;
use crate::link::PolicySettings;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + millis)
}

fn policy(links: u32) -> Policy {
    Policy::new(PolicySettings { incident_links: links, ..PolicySettings::default() }).unwrap()
}

fn incidents(links: u32) -> Institutions {
    Institutions::of(&policy(links), Vec::new())
}

/// The messages about the states that have ended.
fn end(institutions: &mut Institutions, now: Timestamp) -> Vec<IncidentBody> {
    institutions.pass_time(now, 10).concat()
}

fn origin() -> Origin {
    Origin { kind: OriginKind::Webhook, input_sequence: Some(7), ..Origin::timer(at(0)) }
}

/// One link of the institution opens an episode, which is planned at the same time.
fn open(incidents: &mut Institutions, institution: &str, link: usize, millis: i64) -> Option<IncidentBody> {
    open_late(incidents, institution, link, millis, millis)
}

fn open_late(
    incidents: &mut Institutions,
    institution: &str,
    link: usize,
    millis: i64,
    planned: i64,
) -> Option<IncidentBody> {
    let link = format!("link-{link}").parse().unwrap();
    let is_deferred = incidents.down_since(Some(institution)).is_some();
    let opening = Opening { institution, link: &link, at: at(millis), is_deferred };
    incidents.opened(&opening, &origin(), at(planned)).pop()
}

/// `count` openings, one every `step` milliseconds. Returns the first that begins an incident.
fn first(incidents: &mut Institutions, count: usize, from: i64, step: i64) -> Option<(usize, IncidentBody)> {
    (0..count).find_map(|n| Some((n, open(incidents, "erebor", 1_000 + n, from + step * n as i64)?)))
}

#[test]
fn an_incident_begins_when_enough_links_fail_within_the_window() {
    let (nth, body) = first(&mut incidents(20), 40, 0, 20_000).unwrap();
    assert_eq!((nth, body.links_count, body.threshold, body.window_seconds), (19, 20, 20, 600));
    assert_eq!((body.change, body.at, body.began_at), (IncidentChange::Began, At(at(380_000)), At(at(380_000))));
    assert_eq!(body.because.link_id.as_deref(), Some("link-1019"));
    assert_eq!(body.message_id(), format!("incident.erebor.{}.began", at(380_000).as_millis()));
    // One opening every 31.6 s is nineteen in ten minutes.
    assert!(first(&mut incidents(20), 500, 0, 10 * MINUTE / 19 + 1).is_none());
}

#[test]
fn openings_count_in_any_order() {
    let mut incidents = incidents(20);
    let newest_first = (0..20).rev().map(|n| open_late(&mut incidents, "erebor", n, 1_000 * n as i64, 30_000));
    let begun: Vec<_> = newest_first.collect();
    assert_eq!(begun.iter().filter(|begun| begun.is_some()).count(), 1);
    assert_eq!(begun[19].as_ref().unwrap().links_count, 20);
}

#[test]
fn one_link_or_many_institutions_do_not_begin_an_incident() {
    let mut incidents = incidents(20);
    assert!((0..100).all(|n| open(&mut incidents, "erebor", 7, n * 1_000).is_none()));
    assert!((0..100_usize).all(|n| open(&mut incidents, &format!("bank-{}", n % 10), n, 0).is_none()));
    assert_eq!(
        (incidents.count_down(), incidents.down_since(None).is_some(), incidents.down_since(Some("erebor")).is_some()),
        (0, false, false)
    );
}

#[test]
fn no_incident_begins_when_detection_is_off() {
    let mut off = incidents(0);
    assert!(first(&mut off, 500, 0, 1).is_none());
    // An incident from before the detection was switched off ends at once.
    let began = first(&mut incidents(20), 20, 0, 1).unwrap().1;
    let mut off = Institutions::of(&policy(0), vec![began]);
    assert_eq!(end(&mut off, at(0)).len(), 1);
    assert!(off.down_since(Some("erebor")).is_none());
}

#[test]
fn the_baseline_of_an_institution_raises_its_threshold() {
    let mut incidents = incidents(20);
    // Ten openings in ten minutes, all day: the threshold is fifty.
    assert!((0..1_440).all(|n| open(&mut incidents, "erebor", n, MINUTE * n as i64).is_none()));
    let (nth, body) = first(&mut incidents, 100, 24 * HOUR, 1).unwrap();
    assert!((45..=50).contains(&body.threshold), "{}", body.threshold);
    assert_eq!(body.links_count, body.threshold);
    assert!(nth < 50);
    // A day later these openings no longer count for the baseline.
    end(&mut incidents, at(25 * HOUR));
    assert_eq!(first(&mut incidents, 100, 50 * HOUR, 1).unwrap().1.threshold, 20);
}

#[test]
fn an_incident_ends_after_a_calm_window_and_counts_its_deferred_prompts() {
    let mut incidents = incidents(20);
    first(&mut incidents, 20, 0, 0).unwrap();
    // Five openings in ten minutes are a quarter of the threshold, so the institution is not calm.
    for n in 0..30 {
        assert!(open(&mut incidents, "erebor", n, 2 * MINUTE * n as i64).is_none());
        assert_eq!(end(&mut incidents, at(2 * MINUTE * n as i64)), []);
    }
    let last_too_many = 2 * MINUTE * (29 - 4);
    assert_eq!(incidents.next_end(), Some(at(last_too_many + 10 * MINUTE)));
    assert_eq!(end(&mut incidents, at(last_too_many + 10 * MINUTE - 1)), []);
    let ended = end(&mut incidents, at(last_too_many + 10 * MINUTE)).pop().unwrap();
    assert_eq!((ended.change, ended.links_count, ended.deferred_count), (IncidentChange::Ended, 50, 30));
    assert_eq!((ended.began_at, ended.because.link_id), (At(at(0)), None));
    assert_eq!((incidents.count_down(), incidents.next_end()), (0, None));
}

#[test]
fn fewer_failures_than_a_quarter_do_not_prolong_an_incident() {
    let mut incidents = incidents(20);
    first(&mut incidents, 20, 0, 0).unwrap();
    assert!((0..4).all(|n| open(&mut incidents, "erebor", n, 9 * MINUTE).is_none()));
    assert_eq!(end(&mut incidents, at(10 * MINUTE)).len(), 1);
}

#[test]
fn an_incident_in_a_backlog_ends_only_after_the_backlog_is_read() {
    let mut incidents = incidents(20);
    let now = 5 * HOUR;
    // Nineteen openings in ten minutes, all planned at the same time.
    assert!((0..300).all(|n| open_late(&mut incidents, "erebor", n, 32_000 * n as i64, now).is_none()));
    // Two partitions, read one after the other, have ten openings each.
    let partition = |incidents: &mut Institutions, partition: usize| {
        (0..10).filter_map(|n| open_late(incidents, "gringotts", 10 * partition + n, 1_000 * n as i64, now)).count()
    };
    assert_eq!((partition(&mut incidents, 0), partition(&mut incidents, 1)), (0, 1));
    assert_eq!(end(&mut incidents, at(now)), []);
    assert_eq!(incidents.next_end(), Some(at(now + 10 * MINUTE)));
}

#[test]
fn after_a_restart_a_running_incident_goes_on_and_its_calm_window_starts_again() {
    let mut before = incidents(20);
    let began = first(&mut before, 20, 0, 0).unwrap().1;
    let mut after = Institutions::of(&policy(20), vec![began.clone()]);
    for n in 0..25 {
        let link = format!("link-{n}").parse().unwrap();
        // Twenty episodes were open when the incident began; five prompts have been deferred since.
        let (millis, is_deferred) = if n < 20 { (0, false) } else { (MINUTE, true) };
        after.remember(&Opening { institution: "erebor", link: &link, at: at(millis), is_deferred });
    }
    assert!(after.down_since(Some("erebor")).is_some() && after.next_end().is_none());
    assert!(open(&mut after, "erebor", 99, HOUR).is_none(), "it has begun already");
    assert_eq!(end(&mut after, at(HOUR)), []);
    let ended = end(&mut after, at(HOUR + 10 * MINUTE)).pop().unwrap();
    assert_eq!((ended.links_count, ended.deferred_count, ended.began_at), (26, 6, began.began_at));
    let over = Institutions::of(&policy(20), vec![ended]);
    assert_eq!(over.count_down(), 0);
}

#[test]
fn after_a_restart_the_openings_of_the_current_window_count() {
    let mut after = incidents(20);
    for n in 0..19 {
        let link = format!("link-{n}").parse().unwrap();
        after.remember(&Opening { institution: "erebor", link: &link, at: at(0), is_deferred: false });
    }
    assert!(open(&mut after, "erebor", 19, MINUTE).is_some());
}

/// The clock of the NATS server was a year ahead when the outages began, and the status page and the links show nothing new.
#[test]
fn an_outage_from_a_clock_that_was_ahead_ends_after_its_usual_time() {
    const YEAR: i64 = 365 * 24 * HOUR;
    let mut institutions = incidents(2);
    (0..2).for_each(|link| drop(open(&mut institutions, "erebor", link, YEAR)));
    let origin = Origin { received_at: At(at(YEAR)), ..origin() };
    institutions.status_page("gotham", PageStatus::Major, at(YEAR), &origin, at(YEAR));
    (0..3).for_each(|n| {
        let link = format!("link-{n}").parse().unwrap();
        drop(institutions.outage_error("banamex", &link, &origin, at(YEAR)));
    });
    let are_known = ["erebor", "gotham"].iter().all(|name| institutions.down_since(Some(name)).is_some());
    assert!(are_known && institutions.next_end() > Some(at(YEAR)));
    institutions.correct_times(at(0));
    assert!(institutions.next_end() <= Some(at(24 * HOUR)));
    let ended: BTreeSet<_> = end(&mut institutions, at(24 * HOUR)).into_iter().map(|body| body.institution).collect();
    assert!(ended.contains("erebor") && ended.contains("gotham"), "{ended:?}");
    assert_eq!((institutions.count_down(), institutions.next_end()), (0, None));
}
