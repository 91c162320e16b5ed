//! The manual clock, and Belvo's scheduled actions.

use std::time::Duration;

use belvo_sandbox::{
    AccessMode, Control, DeliveryOutcome, LinkStatus, Login, LoginFailure, NewFleetLink, RefreshRate, SandboxConfig,
    SandboxTime, TakenWebhook, WebhookDelivery, WebhookFault,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, RECURRENT, codes};

/// 2026-01-10T00:00:00Z.
const START_MS: i64 = 1_768_003_200_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A sandbox with a schedule and a manual clock, whose webhooks the test delivers.
async fn with_manual_clock(change: impl FnOnce(&mut SandboxConfig)) -> Fixture {
    Fixture::with(|config| {
        config.time = SandboxTime::Driven { from_ms: START_MS };
        config.schedule = true;
        config.delivery = WebhookDelivery::ByHand;
        change(config);
    })
    .await
}

/// Advances to `until_ms`, from event to event, and delivers every webhook with a 200.
fn run_until(control: &Control, until_ms: i64) -> Vec<TakenWebhook> {
    let mut all = Vec::new();
    while let Some(at_ms) = control.next_event_at().filter(|at_ms| *at_ms <= until_ms) {
        control.advance_to(at_ms);
        for taken in control.take_webhooks() {
            control.record_outcome(taken.clone(), DeliveryOutcome::Answered(200));
            all.push(taken);
        }
    }
    control.advance_to(until_ms);
    all
}

fn bodies(taken: &[TakenWebhook]) -> Vec<Value> {
    taken.iter().map(|taken| taken.body.clone()).collect()
}

fn link(refresh_rate: RefreshRate) -> NewFleetLink {
    NewFleetLink {
        refresh_rate: Some(refresh_rate),
        fetch_resources: Some(vec!["ACCOUNTS".into()]),
        ..NewFleetLink::default()
    }
}

#[tokio::test]
async fn a_manual_clock_moves_only_on_request() {
    let fixture = with_manual_clock(|_| {}).await;
    assert_eq!((fixture.control.now_ms(), fixture.control.next_event_at()), (START_MS, None));
    fixture.control.advance(Duration::from_secs(60));
    fixture.control.advance_to(START_MS);
    assert_eq!(fixture.control.now_ms(), START_MS + 60_000, "it never runs backwards");
    fixture.control.advance(Duration::MAX);
    fixture.control.advance(Duration::MAX);
    let id = fixture.control.add_link("erebor_mx_retail", RECURRENT, None).unwrap();
    assert_eq!(fixture.control.link(id).unwrap()["created_at"], "9999-12-31T23:59:59.999000Z");
}

#[tokio::test]
async fn each_link_is_refreshed_by_its_rate() {
    for (rate, hours) in [
        (RefreshRate::SixHours, 6),
        (RefreshRate::TwelveHours, 12),
        (RefreshRate::Day, 24),
        (RefreshRate::Week, 7 * 24),
        (RefreshRate::ThirtyDays, 30 * 24),
    ] {
        let fixture = with_manual_clock(|_| {}).await;
        let id = fixture.control.add_fleet_link(link(rate)).unwrap();
        let single = NewFleetLink { access_mode: AccessMode::Single, ..link(rate) };
        fixture.control.add_fleet_link(single).unwrap();
        let span = hours * HOUR_MS;
        let taken = run_until(&fixture.control, START_MS + 5 * span);
        assert!(taken.iter().all(|taken| taken.link_id == id && taken.webhook_code == "new_accounts_available"));
        let first = taken[0].at_ms - START_MS;
        assert!((span..=span + span / 10).contains(&first), "{rate:?}: the first after {first} ms");
        let gaps: Vec<i64> = taken.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect();
        assert_eq!(gaps, [span; 3], "{rate:?}");
    }
}

#[tokio::test]
async fn first_refreshes_are_spread_by_the_seed() {
    let refreshes = async |seed: u64| {
        let fixture = with_manual_clock(|config| config.seed = seed).await;
        for _ in 0..200 {
            fixture.control.add_fleet_link(link(RefreshRate::SixHours)).unwrap();
        }
        run_until(&fixture.control, START_MS + 12 * HOUR_MS).iter().map(|taken| taken.at_ms / 1_000).collect::<Vec<_>>()
    };
    let (one, again, other) = (refreshes(1).await, refreshes(1).await, refreshes(2).await);
    let seconds: std::collections::BTreeSet<_> = one.iter().collect();
    assert!(seconds.len() > 150, "{} different seconds of 200 links", seconds.len());
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert!(one.is_sorted());
}

#[tokio::test]
async fn an_existing_link_keeps_its_refresh_times() {
    let fixture = with_manual_clock(|_| {}).await;
    let created_at_ms = Some(START_MS - 1_000 * DAY_MS);
    let id = fixture.control.add_fleet_link(NewFleetLink { created_at_ms, ..link(RefreshRate::Day) }).unwrap();
    assert_eq!(fixture.control.link(id).unwrap()["created_at"], "2023-04-16T00:00:00.000000Z");
    let taken = run_until(&fixture.control, START_MS + 2 * DAY_MS);
    assert_eq!(taken.len(), 2, "refreshes of the past are skipped");
    assert!(taken[0].at_ms > START_MS && taken[0].at_ms <= START_MS + DAY_MS / 10);
}

#[tokio::test]
async fn the_bank_decides_the_outcome_of_a_refresh() {
    let fixture = with_manual_clock(|_| {}).await;
    // Four refreshes in a day: the webhook of each, the data of the first, and the status of the link after them.
    let outcome = async |login: Login| {
        let id = fixture.control.add_fleet_link(link(RefreshRate::SixHours)).unwrap();
        fixture.control.set_login(id, login).unwrap();
        let taken = run_until(&fixture.control, fixture.control.now_ms() + DAY_MS + 5 * HOUR_MS);
        let status = fixture.control.status_of(id).unwrap();
        let about = taken.into_iter().filter(|taken| taken.link_id == id).collect::<Vec<_>>();
        fixture.control.set_login(id, Login::Answers("institution_down".into())).unwrap();
        (codes(&bodies(&about)), about.first().map(|taken| taken.body["data"].clone()), status)
    };
    let (received, data, status) = outcome(Login::Fails(LoginFailure::Locked)).await;
    assert_eq!(
        (received.as_slice(), status),
        (&vec!["LINK/invalid_credentials".to_owned(); 4][..], LinkStatus::Invalid)
    );
    assert_eq!(data.unwrap()["error_message"], LoginFailure::Locked.message());
    let (received, _, status) = outcome(Login::TokenRequired).await;
    assert_eq!(
        (received.as_slice(), status),
        (&vec!["LINK/token_required".to_owned(); 4][..], LinkStatus::TokenRequired)
    );
    for silent in [Login::Answers("too_many_sessions".into()), Login::Fails(LoginFailure::Unexpected)] {
        let (received, _, status) = outcome(silent).await;
        assert_eq!((received.len(), status), (0, LinkStatus::Valid));
    }
}

#[tokio::test]
async fn a_refresh_without_new_data_sends_no_webhook_and_a_repaired_link_is_refreshed_again() {
    let fixture = with_manual_clock(|_| {}).await;
    let id = fixture.control.add_fleet_link(link(RefreshRate::SixHours)).unwrap();
    fixture.control.set_fresh_data(id, false).unwrap();
    let before = fixture.control.link(id).unwrap()["last_accessed_at"].clone();
    assert_eq!(run_until(&fixture.control, START_MS + DAY_MS), []);
    assert_ne!(fixture.control.link(id).unwrap()["last_accessed_at"], before, "it was refreshed");
    fixture.control.set_fresh_data(id, true).unwrap();
    fixture.control.set_login(id, Login::Fails(LoginFailure::InvalidCredentials)).unwrap();
    assert_eq!(codes(&bodies(&run_until(&fixture.control, START_MS + 3 * DAY_MS))), ["LINK/invalid_credentials"; 8]);
    fixture.control.repair(id).unwrap();
    let received = codes(&bodies(&run_until(&fixture.control, START_MS + 4 * DAY_MS)));
    assert_eq!(received[0], "ACCOUNTS/historical_update");
    assert_eq!(received[1..], ["ACCOUNTS/new_accounts_available"; 4]);
}

#[tokio::test]
async fn heimdall_cannot_be_refreshed_without_its_user() {
    let fixture = with_manual_clock(|_| {}).await;
    let heimdall = NewFleetLink { institution: "heimdall_mx_retail".into(), ..link(RefreshRate::SixHours) };
    fixture.control.add_fleet_link(heimdall).unwrap();
    assert_eq!(
        codes(&bodies(&run_until(&fixture.control, START_MS + 2 * DAY_MS + 5 * HOUR_MS))),
        ["LINK/token_required"; 8]
    );
}

#[tokio::test]
async fn a_broken_link_is_refreshed_with_a_webhook_each_time_unless_switched_off() {
    for (repeats_while_broken, times) in [(true, 4), (false, 1)] {
        let fixture = with_manual_clock(|config| config.repeats_while_broken = repeats_while_broken).await;
        let id = fixture.control.add_fleet_link(link(RefreshRate::SixHours)).unwrap();
        let consent = NewFleetLink {
            institution: "ofmockbank_br_retail".into(),
            consent_ends_at_ms: Some(START_MS + 1),
            ..link(RefreshRate::SixHours)
        };
        fixture.control.add_fleet_link(consent).unwrap();
        assert_eq!(codes(&bodies(&run_until(&fixture.control, START_MS + 1))), ["CONSENT/openfinance_consent_expired"]);
        fixture.control.set_login(id, Login::Fails(LoginFailure::InvalidCredentials)).unwrap();
        let taken = bodies(&run_until(&fixture.control, START_MS + DAY_MS + 5 * HOUR_MS));
        assert_eq!(codes(&taken), vec!["LINK/invalid_credentials"; times], "no webhook is sent for an ended consent");
        let refreshes: std::collections::BTreeSet<_> =
            taken.iter().map(|body| body["request_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(refreshes.len(), times, "each webhook belongs to another refresh");
        assert_eq!(fixture.control.status_of(id), Ok(LinkStatus::Invalid));
        fixture.control.set_login(id, Login::Works).unwrap();
        run_until(&fixture.control, START_MS + 3 * DAY_MS);
        assert_eq!(fixture.control.status_of(id), Ok(LinkStatus::Invalid), "only the user can repair the link");
    }
}

#[tokio::test]
async fn a_single_link_that_becomes_recurrent_gets_its_history_on_the_next_day() {
    let fixture = with_manual_clock(|_| {}).await;
    let single = NewFleetLink { access_mode: AccessMode::Single, ..link(RefreshRate::Week) };
    let id = fixture.control.add_fleet_link(single).unwrap();
    let path = format!("/api/links/{id}/");
    let patch = async |mode: &str| fixture.call(Method::PATCH, &path, json!({"access_mode": mode})).await;
    assert_eq!(patch("recurrent").await.1["refresh_rate"], "7d");
    assert_eq!(patch("recurrent").await.0, 200);
    let taken = run_until(&fixture.control, START_MS + 8 * DAY_MS);
    assert_eq!(codes(&bodies(&taken)), ["ACCOUNTS/historical_update", "ACCOUNTS/new_accounts_available"]);
    assert_eq!(taken[0].at_ms, START_MS + DAY_MS);
    assert_eq!(patch("single").await.1["refresh_rate"], Value::Null);
    assert_eq!(fixture.control.next_event_at(), None);
    assert_eq!(patch("recurrent").await.0, 200);
    assert_eq!(patch("single").await.0, 200);
    assert_eq!(
        run_until(&fixture.control, START_MS + 40 * DAY_MS),
        [],
        "the link was single again before the next day"
    );
}

#[tokio::test]
async fn a_consent_is_announced_and_ends_on_its_date() {
    let fixture = with_manual_clock(|_| {}).await;
    let ends_at = START_MS + 20 * DAY_MS;
    let consent = |access_mode| NewFleetLink {
        institution: "ofmockbank_br_retail".into(),
        access_mode,
        consent_ends_at_ms: Some(ends_at),
        ..link(RefreshRate::Week)
    };
    let single = fixture.control.add_fleet_link(consent(AccessMode::Single)).unwrap();
    let id = fixture.control.add_fleet_link(consent(RECURRENT)).unwrap();
    let taken = run_until(&fixture.control, START_MS + 30 * DAY_MS);
    assert!(taken.iter().all(|taken| taken.link_id == id), "a single link gets no webhook about its consent");
    let received = codes(&bodies(&taken));
    assert_eq!(
        received,
        [
            "ACCOUNTS/new_accounts_available",
            "CONSENT/openfinance_consent_about_to_expire",
            "ACCOUNTS/new_accounts_available",
            "CONSENT/openfinance_consent_expired",
        ]
    );
    assert_eq!(taken[3].at_ms, ends_at);
    assert!(taken[1].at_ms >= ends_at - 7 * DAY_MS);
    for link in [single, id] {
        assert_eq!(fixture.control.status_of(link), Ok(LinkStatus::Invalid));
        let (_, listed) = fixture.get(&format!("/api/consents/?link_id={link}&status=EXPIRED")).await;
        assert_eq!(listed["count"], 1);
    }
    fixture.control.renew_consent(id).unwrap();
    let renewed = run_until(&fixture.control, START_MS + 30 * DAY_MS);
    assert_eq!(
        codes(&bodies(&renewed)),
        ["CONSENT/openfinance_consent_expiration_changed", "ACCOUNTS/historical_update"]
    );
    let year = run_until(&fixture.control, START_MS + 395 * DAY_MS);
    assert!(year.iter().all(|taken| !taken.webhook_code.contains("expired")), "it lasts 366 days");
    let end = run_until(&fixture.control, START_MS + 396 * DAY_MS);
    assert!(end.iter().any(|taken| taken.webhook_code == "openfinance_consent_expired"));
}

#[tokio::test]
async fn the_announcement_of_a_consents_end_can_be_switched_off() {
    let fixture = with_manual_clock(|config| config.consent_warnings = false).await;
    let id = fixture.control.add_fleet_link(NewFleetLink {
        institution: "ofmockbank_br_retail".into(),
        consent_ends_at_ms: Some(START_MS + DAY_MS),
        ..link(RefreshRate::SixHours)
    });
    assert!(id.is_ok());
    let received = codes(&bodies(&run_until(&fixture.control, START_MS + 2 * DAY_MS)));
    assert_eq!(received.last().unwrap(), "CONSENT/openfinance_consent_expired");
    assert!(!received.iter().any(|code| code.ends_with("about_to_expire")));
}

#[tokio::test]
async fn a_deleted_link_has_no_scheduled_actions() {
    let fixture = with_manual_clock(|config| config.monthly_wipe = true).await;
    let new = NewFleetLink { institution: "ofmockbank_br_retail".into(), ..link(RefreshRate::SixHours) };
    let deleted = fixture.control.add_fleet_link(new.clone()).unwrap();
    assert_eq!(fixture.call(Method::DELETE, &format!("/api/links/{deleted}/"), Value::Null).await.0, 204);
    let first_of_february = START_MS + 22 * DAY_MS;
    assert_eq!(fixture.control.next_event_at(), Some(first_of_february), "only the wipe");
    let id = fixture.control.add_fleet_link(new).unwrap();
    run_until(&fixture.control, first_of_february - 1);
    assert_eq!(fixture.control.status_of(id), Ok(LinkStatus::Valid));
    assert_eq!(run_until(&fixture.control, first_of_february), [], "no webhook is sent");
    assert!(fixture.control.status_of(id).is_err());
    assert_eq!(fixture.control.next_event_at(), Some(first_of_february + 28 * DAY_MS));
    assert_eq!(fixture.control.wipe(), 0);
    assert_eq!(
        fixture.control.next_event_at(),
        Some(first_of_february + 28 * DAY_MS),
        "a wipe by hand does not change the schedule"
    );
}

#[tokio::test]
async fn manually_delivered_webhooks_are_retried() {
    let fixture = with_manual_clock(|config| config.webhook_retry_step = Duration::from_secs(3_600)).await;
    let id = fixture.control.add_fleet_link(NewFleetLink { is_announced: true, ..link(RefreshRate::Week) }).unwrap();
    let mut at_ms = START_MS;
    for attempt in 1..=6_u32 {
        let mut taken = fixture.control.take_webhooks();
        assert_eq!(fixture.control.take_webhooks(), [], "a webhook is taken only once");
        let taken = taken.pop().unwrap();
        assert_eq!((taken.attempt, taken.at_ms, taken.link_id), (attempt, at_ms, id));
        let outcome = if attempt == 1 { DeliveryOutcome::TimedOut } else { DeliveryOutcome::Answered(500) };
        fixture.control.record_outcome(taken, outcome);
        at_ms += HOUR_MS * i64::from(attempt);
        fixture.control.advance_to(at_ms - 1);
        assert_eq!(fixture.control.take_webhooks(), []);
        fixture.control.advance_to(at_ms);
    }
    assert_eq!(fixture.control.take_webhooks(), [], "after the fifth retry the webhook is lost");
    fixture.control.outbox_idle().await.unwrap();
    assert_eq!(fixture.control.deliveries(0).len(), 6);
}

#[tokio::test]
async fn faults_apply_to_manually_delivered_webhooks() {
    let fixture = with_manual_clock(|config| config.deliveries_kept = 2).await;
    fixture.control.fail_webhooks(WebhookFault::Duplicate, 1);
    fixture.control.add_fleet_link(NewFleetLink { is_announced: true, ..link(RefreshRate::Week) }).unwrap();
    let taken = run_until(&fixture.control, START_MS);
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].body, taken[1].body);
    run_until(&fixture.control, START_MS + 8 * DAY_MS);
    let kept: Vec<u64> = fixture.control.deliveries(0).iter().map(|delivery| delivery.seq).collect();
    assert_eq!(kept, [2, 3], "the oldest record was dropped");
    assert!(fixture.control.replay(1, Duration::ZERO).is_err());
    assert!(fixture.control.replay(3, Duration::ZERO).is_ok());
}

#[tokio::test]
async fn without_a_schedule_there_are_no_scheduled_actions() {
    let fixture = with_manual_clock(|config| config.schedule = false).await;
    fixture.control.add_link("ofmockbank_br_retail", RECURRENT, None).unwrap();
    assert_eq!(fixture.control.next_event_at(), None);
    assert_eq!(run_until(&fixture.control, START_MS + 400 * DAY_MS), []);
}

#[tokio::test]
async fn time_is_moved_over_http() {
    let mut fixture = Fixture::with(|config| {
        config.time = SandboxTime::Driven { from_ms: START_MS };
        config.schedule = true;
    })
    .await;
    let body = json!({
        "institution": "ofmockbank_br_retail", "refresh_rate": "24h", "fetch_resources": ["BILLS"], "silent": true,
        "external_id": "user-1", "created_at": "2026-01-08T12:00:00Z", "consent_ends_at": "2026-01-31T12:00:00Z",
    });
    let (status, answer) = fixture.post("/sandbox/links", body.clone()).await;
    assert_eq!(status, 200, "{answer}");
    let (_, links) = fixture.get("/sandbox/links").await;
    assert_eq!(
        (&links[0]["created_at"], &links[0]["refresh_rate"]),
        (&json!("2026-01-08T12:00:00.000000Z"), &json!("24h"))
    );
    let (_, time) = fixture.get("/sandbox/time").await;
    assert_eq!(time["now"], "2026-01-10T00:00:00.000000Z");
    let next = time["next_event"].as_str().unwrap();
    assert!(next.starts_with("2026-01-10T1"), "{next}");
    let (_, time) = fixture.post("/sandbox/advance", json!({"until": next})).await;
    assert_eq!(time["now"], next);
    assert_eq!(codes(&fixture.webhooks(1).await), ["BILLS/new_bills_available"]);
    for (field, value) in [("created_at", "1871-01-01"), ("refresh_rate", "5h"), ("institution", "narnia")] {
        let mut wrong = body.clone();
        wrong[field] = json!(value);
        let (status, _) = fixture.post("/sandbox/links", wrong).await;
        assert!((400..500).contains(&status), "{field}: {status}");
    }
}

#[tokio::test]
async fn other_calls_are_answered_while_time_moves() {
    let fixture = Fixture::with(|config| {
        config.time = SandboxTime::Driven { from_ms: START_MS };
        config.schedule = true;
        config.webhook_url = None;
    })
    .await;
    fixture.control.add_fleet_link(link(RefreshRate::ThirtyDays)).unwrap();
    assert_eq!(fixture.post("/sandbox/advance", json!({"secs": 360 * 24 * 3_600})).await.0, 200);
    fixture.control.outbox_idle().await.unwrap();
    let deliveries = fixture.control.deliveries(0);
    assert_eq!(deliveries.len(), 11);
    assert!(
        deliveries[0].at.as_str() < "2026-03-01",
        "the first webhook was sent while the time was still moving: {}",
        deliveries[0].at
    );
}

#[tokio::test]
async fn with_the_system_clock_the_schedule_runs_when_time_is_advanced() {
    let mut fixture = Fixture::with(|config| config.schedule = true).await;
    let id = fixture.control.add_fleet_link(link(RefreshRate::SixHours)).unwrap();
    fixture.control.advance(Duration::from_secs(7 * 3_600));
    assert_eq!(codes(&fixture.webhooks(1).await), ["ACCOUNTS/new_accounts_available"]);
    assert!(fixture.control.next_event_at().is_some_and(|at_ms| at_ms > fixture.control.now_ms()));
    assert_eq!(fixture.control.status_of(id), Ok(LinkStatus::Valid));
}

#[tokio::test]
async fn with_the_system_clock_the_schedule_runs_without_calls() {
    let mut fixture = Fixture::with(|config| config.schedule = true).await;
    let consent_ends_at_ms = Some(fixture.control.now_ms() + 20);
    let new =
        NewFleetLink { institution: "ofmockbank_br_retail".into(), consent_ends_at_ms, ..link(RefreshRate::Week) };
    fixture.control.add_fleet_link(new).unwrap();
    assert_eq!(codes(&fixture.webhooks(1).await), ["CONSENT/openfinance_consent_expired"]);
}

#[tokio::test]
async fn a_login_failure_does_not_break_a_link_with_a_consent() {
    let fixture = with_manual_clock(|_| {}).await;
    let new = NewFleetLink { institution: "ofmockbank_br_retail".into(), ..link(RefreshRate::SixHours) };
    let id = fixture.control.add_fleet_link(new).unwrap();
    fixture.control.set_login(id, Login::Fails(LoginFailure::InvalidCredentials)).unwrap();
    assert_eq!(run_until(&fixture.control, START_MS + 2 * DAY_MS), []);
    assert_eq!(fixture.control.status_of(id), Ok(LinkStatus::Valid));
}

#[tokio::test]
async fn extreme_times_are_accepted() {
    let fixture = with_manual_clock(|_| {}).await;
    for at_ms in [i64::MIN, i64::MAX] {
        fixture.control.advance_to(at_ms);
        let id = fixture.control.add_fleet_link(NewFleetLink {
            institution: "ofmockbank_br_retail".into(),
            created_at_ms: Some(at_ms),
            consent_ends_at_ms: Some(at_ms),
            ..link(RefreshRate::ThirtyDays)
        });
        fixture.control.advance(Duration::from_secs(60));
        assert!(fixture.control.status_of(id.unwrap()).is_ok());
    }
}

#[tokio::test]
async fn an_impossible_fleet_link_is_refused() {
    let fixture = with_manual_clock(|_| {}).await;
    let nowhere = NewFleetLink { institution: "nowhere".into(), ..NewFleetLink::default() };
    assert!(fixture.control.add_fleet_link(nowhere).is_err());
    let too_much = NewFleetLink { fetch_resources: Some(vec!["INVOICES".into()]), ..NewFleetLink::default() };
    assert!(fixture.control.add_fleet_link(too_much).is_err());
    let body = json!({
        "institution": "erebor_mx_retail", "username": "u", "password": "p", "access_mode": "recurrent",
        "refresh_rate": "5h",
    });
    let (status, error) = fixture.refused(Method::POST, "/api/links/", body).await;
    assert_eq!((status, &error["code"], &error["field"]), (400, &json!("invalid_choice"), &json!("refresh_rate")));
}
