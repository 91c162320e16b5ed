//! The machine of an institution: its table, its hysteresis, the end of each outage, and replay.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use relink::institution::{Cause, Change, Evidence, Institution, LIFE, Level, PageStatus, Settings, State, next};
use relink::link::{LinkId, Timestamp};
use strum::VariantArray;

use crate::world::{MINUTE, START, shift};

const WINDOW: Duration = Duration::from_secs(600);
const SETTINGS: Settings = Settings { links: 5, window: WINDOW };

#[test]
fn the_table_of_the_states() {
    use Level::{Calm, Outage, Trouble};
    use State::{Degraded, Down, Operational};
    let table = [
        (Operational, [Operational, Degraded, Down]),
        (Degraded, [Operational, Degraded, Down]),
        (Down, [Operational, Operational, Down]),
    ];
    assert_eq!(table.map(|(state, _)| state), *State::VARIANTS);
    for (state, row) in table {
        assert_eq!([Calm, Trouble, Outage].map(|level| next(state, level)), row, "{state:?}");
    }
}

fn link(n: usize) -> LinkId {
    format!("link-{n}").parse().unwrap()
}

fn at(millis: i64) -> Timestamp {
    shift(START, millis)
}

/// An outage error of each of these links, at once.
fn errors(institution: &mut Institution, links: std::ops::Range<usize>, millis: i64) -> Vec<Change> {
    let mut changes = Vec::new();
    for n in links {
        changes.extend(institution.observe(Evidence::OutageError(&link(n)), at(millis), at(millis), &SETTINGS));
    }
    changes
}

fn page(institution: &mut Institution, status: PageStatus, millis: i64) -> Vec<Change> {
    institution.observe(Evidence::Page(status), at(millis), at(millis), &SETTINGS)
}

/// Passes each deadline until `millis`. Returns the changes and their times.
fn pass(institution: &mut Institution, millis: i64) -> Vec<(Timestamp, State)> {
    let mut changes = Vec::new();
    while let Some(deadline) = institution.deadline(&SETTINGS).filter(|deadline| *deadline <= at(millis)) {
        changes.extend(institution.pass_time(deadline, &SETTINGS).iter().map(|change| (deadline, change.to)));
    }
    changes
}

#[test]
fn outage_errors_of_distinct_links_make_it_degraded_and_then_down() {
    let mut bank = Institution::default();
    assert_eq!(errors(&mut bank, 0..1, 0), []);
    assert_eq!(errors(&mut bank, 0..1, 1), [], "the same link again");
    let degraded = errors(&mut bank, 1..2, 2);
    assert_eq!((degraded.len(), degraded[0].to, degraded[0].cause), (1, State::Degraded, Cause::OutageErrors));
    let down = errors(&mut bank, 2..5, 3);
    assert_eq!((down.len(), down[0].from, down[0].to), (1, State::Degraded, State::Down));
    assert_eq!((down[0].error_links, bank.cause()), (5, Some(Cause::OutageErrors)));
    // Two errors in a window are a quarter of the threshold, so the institution stays down.
    assert_eq!(pass(&mut bank, 9 * MINUTE), []);
    assert_eq!(errors(&mut bank, 7..9, 9 * MINUTE), []);
    assert_eq!(pass(&mut bank, 60 * MINUTE), [(at(19 * MINUTE), State::Operational)]);
    assert!(bank.deadline(&SETTINGS).is_none());
}

#[test]
fn old_errors_of_a_backlog_are_no_outage() {
    let mut bank = Institution::default();
    for n in 0..20 {
        let received = at(3 * MINUTE * i64::try_from(n).unwrap());
        let changes = bank.observe(Evidence::OutageError(&link(n)), received, at(600 * MINUTE), &SETTINGS);
        assert!(changes.iter().all(|change| change.to != State::Down), "four links in ten minutes");
    }
    // Partitions are not read in the order of time.
    let mut bank = Institution::default();
    let times = [5, 4, 3, 2, 1].map(|minute| at(minute * MINUTE));
    for (n, received) in times.into_iter().enumerate() {
        bank.observe(Evidence::OutageError(&link(n)), received, at(600 * MINUTE), &SETTINGS);
    }
    assert_eq!(bank.state(), State::Down);
}

#[test]
fn each_report_of_the_status_page_counts_at_once() {
    let mut bank = Institution::default();
    assert_eq!(page(&mut bank, PageStatus::Partial, 0)[0].to, State::Degraded);
    assert_eq!(page(&mut bank, PageStatus::Major, MINUTE)[0].to, State::Down);
    let states = |changes: Vec<Change>| changes.iter().map(|change| change.to).collect::<Vec<_>>();
    assert_eq!(states(page(&mut bank, PageStatus::Partial, 2 * MINUTE)), [State::Operational, State::Degraded]);
    // An older report that arrives late does not count.
    assert_eq!(bank.observe(Evidence::Page(PageStatus::Major), at(0), at(4 * MINUTE), &SETTINGS), []);
    assert_eq!(states(page(&mut bank, PageStatus::Operational, 5 * MINUTE)), [State::Operational]);
    assert_eq!(bank.observe(Evidence::Page(PageStatus::Major), at(0), at(6 * MINUTE), &SETTINGS), []);
}

#[test]
fn a_report_that_is_withdrawn_is_no_longer_the_cause() {
    let mut bank = Institution::default();
    page(&mut bank, PageStatus::Major, 0);
    assert_eq!(errors(&mut bank, 0..5, MINUTE), [], "it is down already");
    let changes = page(&mut bank, PageStatus::Operational, 2 * MINUTE);
    assert_eq!(
        changes.iter().map(|change| (change.to, change.cause)).collect::<Vec<_>>(),
        [(State::Operational, Cause::StatusPage), (State::Down, Cause::OutageErrors),]
    );
}

#[test]
fn a_page_that_never_reports_the_end_counts_for_a_day() {
    let mut bank = Institution::default();
    page(&mut bank, PageStatus::Major, 0);
    assert_eq!(pass(&mut bank, 3 * 24 * 60 * MINUTE), [(at(0).after(LIFE), State::Operational)]);
}

#[test]
fn after_a_restart_the_state_holds_and_ends() {
    for (cause, end) in [
        (Cause::FailingLinks, at(0).after(LIFE)),
        (Cause::OutageErrors, at(0).after(WINDOW)),
        (Cause::StatusPage, at(-60 * MINUTE).after(LIFE)),
    ] {
        let mut bank = Institution::restored(State::Down, cause, at(-60 * MINUTE));
        assert_eq!((bank.pass_time(at(0), &SETTINGS), bank.state()), (Vec::new(), State::Down));
        assert_eq!(pass(&mut bank, 48 * 60 * MINUTE), [(end, State::Operational)], "{cause:?}");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Error { link: usize },
    Incident { is_on: bool },
    Page { status: PageStatus },
    Deadline,
    Wait,
}

fn action() -> impl Strategy<Value = (Action, i64)> {
    let status = prop_oneof![Just(PageStatus::Operational), Just(PageStatus::Partial), Just(PageStatus::Major)];
    let action = prop_oneof![
        8 => (0..9usize).prop_map(|link| Action::Error { link }),
        2 => any::<bool>().prop_map(|is_on| Action::Incident { is_on }),
        3 => status.prop_map(|status| Action::Page { status }),
        3 => Just(Action::Deadline),
        2 => Just(Action::Wait),
    ];
    (action, prop_oneof![5 => 0..3 * MINUTE, 2 => 0..60 * MINUTE, 1 => 0..30 * 60 * MINUTE])
}

/// Applies the actions. Returns the changes of each, with its time.
fn play(bank: &mut Institution, actions: &[(Action, i64)]) -> Vec<(Timestamp, Action, Vec<Change>)> {
    let mut now = at(0);
    let mut played = Vec::new();
    for (action, wait) in actions {
        now = shift(now, *wait);
        let changes = match action {
            Action::Error { link: n } => bank.observe(Evidence::OutageError(&link(*n)), now, now, &SETTINGS),
            Action::Incident { is_on } => bank.observe(Evidence::Incident(*is_on), now, now, &SETTINGS),
            Action::Page { status } => bank.observe(Evidence::Page(*status), now, now, &SETTINGS),
            Action::Deadline => {
                now = bank.deadline(&SETTINGS).unwrap_or(now).max(now);
                bank.pass_time(now, &SETTINGS)
            }
            Action::Wait => bank.pass_time(now, &SETTINGS),
        };
        played.push((now, action.clone(), changes));
    }
    played
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// An outage that nobody has withdrawn ends only after a window without evidence for it, so it never flaps. The end of an incident of
    /// links counts at once, because the incident has a calm window of its own.
    #[test]
    fn it_never_flaps_within_the_hysteresis(actions in vec(action(), 1..80)) {
        // The last report of an outage, and the last change to `down`.
        let (mut shown_at, mut rose_at): (Option<Timestamp>, Option<Timestamp>) = (None, None);
        // The last error of each link, the last error with which enough links had one, and the state.
        let (mut errors, mut error_at, mut state) = (BTreeMap::new(), None::<Timestamp>, State::Operational);
        for (now, action, changes) in play(&mut Institution::default(), &actions) {
            if let Action::Error { link } = action {
                errors.insert(link, now);
                let recent = errors.values().filter(|at: &&Timestamp| now < at.after(WINDOW)).count();
                error_at = if recent >= SETTINGS.links { Some(now) } else { error_at };
            }
            let before = state;
            state = changes.last().map_or(state, |change| change.to);
            if error_at.is_some_and(|at| now < at.after(WINDOW)) {
                prop_assert_eq!(state, State::Down, "{:?} {:?}", now, action);
            }
            // An outage whose cause changes has not ended.
            let (fell, rose) = (before == State::Down && state != before, state == State::Down && state != before);
            let shows = matches!(action, Action::Page { status: PageStatus::Major } | Action::Incident { is_on: true });
            let withdraws = matches!(action, Action::Page { .. } | Action::Incident { .. }) && !shows;
            if fell && !withdraws {
                prop_assert!(shown_at.is_none_or(|shown| shown.after(WINDOW) <= now), "{now:?} {action:?} {shown_at:?}");
                prop_assert!(rose_at.is_none_or(|rose| rose.after(WINDOW) <= now), "{now:?} {action:?} {rose_at:?}");
            }
            if withdraws {
                (shown_at, rose_at) = (None, None);
            } else if rose {
                rose_at = Some(now);
            }
            if shows {
                shown_at = Some(now);
            }
        }
    }

    /// Without new evidence an institution is operational again within a bound, by its deadlines alone.
    #[test]
    fn every_state_but_operational_ends(actions in vec(action(), 1..80)) {
        let mut bank = Institution::default();
        let last = play(&mut bank, &actions).last().map_or(at(0), |(now, ..)| *now);
        let bound = last.after(LIFE);
        let mut now = last;
        while let Some(deadline) = bank.deadline(&SETTINGS) {
            prop_assert!(deadline <= bound, "{deadline:?} is after {bound:?}");
            let before = bank.clone();
            now = now.max(deadline);
            bank.pass_time(now, &SETTINGS);
            prop_assert!(bank != before, "a deadline makes progress");
        }
        prop_assert_eq!(bank.state(), State::Operational);
    }

    /// The same evidence at the same times gives the same institution, and each change is in the table.
    #[test]
    fn a_replay_gives_the_same_institution(actions in vec(action(), 1..80)) {
        let (mut first, mut second) = (Institution::default(), Institution::default());
        let played = play(&mut first, &actions);
        let changes = |played: &[(Timestamp, Action, Vec<Change>)]| -> Vec<Change> {
            played.iter().flat_map(|(_, _, changes)| changes.clone()).collect()
        };
        prop_assert_eq!(changes(&played), changes(&play(&mut second, &actions)));
        prop_assert_eq!(&first, &second);
        let mut state = State::Operational;
        for change in changes(&played) {
            prop_assert_eq!(change.from, state);
            let levels = [Level::Calm, Level::Trouble, Level::Outage];
            prop_assert!(levels.iter().any(|&level| next(state, level) == change.to));
            prop_assert_ne!(change.from, change.to);
            state = change.to;
        }
        prop_assert_eq!(state, first.state());
        prop_assert_eq!(first.cause().is_none(), state == State::Operational);
    }
}
