//! Simulates a small fleet for ten days with every kind of fault: relink loses no outage, prompts at most once in each, asks nobody in
//! vain as far as it could know, and has the correct state of every link at the end. The same seed gives the same report, byte for byte.

#![expect(clippy::unwrap_used, reason = "a panic names the line of the test")]

use relink::rehearsal::fleet::{FleetOptions, InjectedBug, Report, simulate};

async fn fleet(links: usize, days: u32, seed: u64) -> Report {
    // Quiet hours in every second run.
    let options = FleetOptions { links, days, seed, quiet_hours: seed.is_multiple_of(2), ..FleetOptions::default() };
    simulate(options, |_day| {}).await.unwrap()
}

fn assert_good(report: &Report) {
    let seed = report.seed;
    assert!(report.is_good(), "{:#?}\n{}", report.failures, report.table());
    assert_eq!(report.belvo.jobs_abandoned, 0, "seed {seed}");
    assert!(report.belvo.most_in_30s <= 80, "seed {seed}: {:?}", report.belvo);
    // The counters show that the run exercised something.
    assert!(report.outages > 30 && report.time_to_recover.count > 20, "seed {seed}: {report:?}");
    assert!(report.without_relink.lost + report.without_relink.repeated > 0, "seed {seed}: the run is too easy");
    assert!(
        report.without_relink.asked_in_vain.values().any(|asked| asked.other > 10),
        "seed {seed}: the run is too easy"
    );
    // Mail scanners opened the links, and nothing followed; people and scanners saw the page that was right.
    let scans = &report.scans;
    assert!(scans.links > 10 && scans.looks > scans.links, "seed {seed}: {scans:?}");
    assert_eq!((scans.tokens_minted, scans.effects, scans.wrong_pages), (0, 0, 0), "seed {seed}: {scans:?}");
    for view in ["needs_you", "checking", "head"] {
        assert!(scans.pages.contains_key(view), "seed {seed}: nobody saw {view}: {scans:?}");
    }
    let (sweep_ms, night_ms) = (3_600_000, if report.quiet_hours { 11 * 3_600_000 } else { 0 });
    assert!(report.time_to_detect.max < 3 * sweep_ms + night_ms, "seed {seed}: {:?}", report.time_to_detect);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outage_is_lost_and_none_is_prompted_twice() {
    for run in [1, 7, 8].map(|seed| tokio::spawn(fleet(300, 10, seed))) {
        assert_good(&run.await.unwrap());
    }
}

#[tokio::test]
async fn a_page_that_mints_a_token_when_it_is_opened_is_found() {
    let bug = Some(InjectedBug::PageMintsWhenOpened);
    let options = FleetOptions { links: 100, days: 4, seed: 5, bug, ..FleetOptions::default() };
    let report = simulate(options, |_day| {}).await.unwrap();
    assert!(!report.is_good() && report.scans.tokens_minted > 0, "{:?}", report.scans);
    assert!(
        report.failures.iter().any(|failure| failure.contains("scanned: a mail scanner")),
        "{:#?}",
        report.failures
    );
}

#[tokio::test]
async fn one_seed_gives_one_report() {
    let (first, second) = (fleet(100, 6, 9).await, fleet(100, 6, 9).await);
    assert!(first.outages > 5, "{first:?}");
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&second).unwrap());
    assert_eq!(first.table(), second.table());
}
