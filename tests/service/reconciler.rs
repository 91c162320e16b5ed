//! The reconciler with real parts: relink in process, a real nats-server, and the simulated Belvo.
//!
//! No webhook reaches relink here, so it learns everything by sweeps. Each test runs the steps itself; the first
//! scheduled step comes long after a test has ended.

#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{connect_to_own, server_source, within};
use async_nats::jetstream::{self, consumer::pull};
use belvo_sandbox::{AccessMode, Control, LinkStatus, Sandbox, SandboxConfig};
use futures::StreamExt;
use relink::config::{BelvoKeys, Config};
use relink::link::{Policy, PolicySettings};
use relink::reconciler::{Reconciler, Swept};
use relink::service::Service;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

const TOKEN: &str = "token-of-the-test";

/// The messages of relink so far: the last record of each link, and the number of notices of each name.
#[derive(Default)]
struct Published {
    records: BTreeMap<String, Value>,
    notices: BTreeMap<String, usize>,
}

impl Published {
    fn in_state(&self, state: &str) -> usize {
        self.records.values().filter(|record| record["state"] == state).count()
    }

    fn notices(&self, name: &str) -> usize {
        self.notices.get(name).copied().unwrap_or_default()
    }

    fn is_muted(&self, link: Uuid) -> bool {
        self.records[&link.to_string()]["muted"] == true
    }
}

/// relink, and a Belvo that sends it no webhooks.
struct Bench {
    sandbox: Sandbox,
    control: Control,
    config: Config,
    service: Service,
    context: jetstream::Context,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults();
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.http.allow_open_webhooks = true;
        config.http.api_tokens = vec![TOKEN.to_owned().into()];
        dir.path().clone_into(&mut config.store.data_dir);
        let (secret_id, secret_password) = ("sandbox".into(), "sandbox".into());
        config.belvo.keys = Some(BelvoKeys { url: sandbox.url(), secret_id, secret_password });
        config.policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() }).unwrap();
        change(&mut config);
        let (service, context) = serve(&config).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { control: sandbox.control(), sandbox, config, service, context, http, _dir: dir }
    }

    /// Stops relink and starts it again with the same data.
    async fn restart(&mut self) {
        let config = self.config.clone();
        // `replace` needs another service meanwhile, which has its own store: a store cannot be open twice.
        let placeholder = tempfile::tempdir().unwrap();
        let mut elsewhere = config.clone();
        placeholder.path().clone_into(&mut elsewhere.store.data_dir);
        let (other, _) = serve(&elsewhere).await;
        std::mem::replace(&mut self.service, other).stop().await.unwrap();
        let (service, context) = serve(&config).await;
        std::mem::replace(&mut self.service, service).stop().await.unwrap();
        self.context = context;
    }

    fn reconciler(&self) -> &Reconciler {
        self.service.reconciler().unwrap()
    }

    fn links(&self, count: usize) -> Vec<Uuid> {
        let add = |_| self.control.add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
        (0..count).map(add).collect()
    }

    /// Adds links and waits until relink knows them as valid.
    async fn known_links(&self, count: usize) -> Vec<Uuid> {
        let links = self.links(count);
        let swept = self.reconciler().survey().await.unwrap();
        assert_eq!((swept.read_count, swept.adopted_count, swept.drifted_count), (count, count, 0));
        self.wait_for("valid", count).await;
        links
    }

    /// The last sequence of the input stream.
    async fn inputs(&self) -> u64 {
        self.context.get_stream("BELVO").await.unwrap().cached_info().state.last_sequence
    }

    /// Waits until the messages so far fulfil a condition, and returns them.
    async fn wait(&self, what: &str, fits: impl Fn(&Published) -> bool) -> Published {
        let stream = self.context.get_stream("KV_links").await.unwrap();
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
        let search = async {
            let mut messages = consumer.messages().await.unwrap();
            let (mut published, mut last) = (Published::default(), None);
            loop {
                let message = messages.next().await.unwrap().unwrap();
                let mut words = message.subject.split('.').skip(1);
                match (words.next().unwrap(), words.next().unwrap()) {
                    // A key of the bucket `links`: its state.
                    ("links", link) => {
                        let record: Value = serde_json::from_slice(&message.payload).unwrap();
                        last = Some((link.to_owned(), record["version"].clone()));
                        published.records.insert(link.to_owned(), record);
                    }
                    ("notice", name) => *published.notices.entry(name.to_owned()).or_default() += 1,
                    _other => {}
                }
                // Only at the end of the stream: the notices of a step are in the same batch as its state.
                if message.info().unwrap().pending == 0 && fits(&published) {
                    return (published, last.unwrap());
                }
            }
        };
        let (published, (link, version)) = within(what, search).await;
        // A commit is in the store a moment after it is in the stream, and sweeps read the store.
        let url = format!("http://{}/v1/links/{link}", self.service.http_address());
        let in_store = async || {
            let answer = self.http.get(&url).bearer_auth(TOKEN).send().await.unwrap();
            answer.json::<Value>().await.unwrap()["version"].as_u64() >= version.as_u64()
        };
        within("the store", async { while !in_store().await {} }).await;
        published
    }

    async fn wait_for(&self, state: &str, count: usize) -> Published {
        self.wait(&format!("{count} links {state}"), |published| published.in_state(state) == count).await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.service.http_address());
        let answer = self.http.post(url).bearer_auth(TOKEN).json(body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn metrics(&self) -> String {
        let request = self.http.get(format!("http://{}/metrics", self.service.http_address()));
        request.send().await.unwrap().text().await.unwrap()
    }

    async fn summary(&self) -> Value {
        let request = self.http.get(format!("http://{}/v1/summary", self.service.http_address())).bearer_auth(TOKEN);
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn delete_at_belvo(&self, link: Uuid) {
        let request = self.http.delete(format!("{}/api/links/{link}/", self.sandbox.url()));
        let answer = request.basic_auth("sandbox", Some("sandbox")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }

    async fn end(self) {
        self.service.stop().await.unwrap();
        self.sandbox.shutdown().await;
    }
}

async fn serve(config: &Config) -> (Service, jetstream::Context) {
    let mut service = Service::start(config, server_source()).await.unwrap();
    within("the start", service.running()).await.unwrap();
    let client = connect_to_own(&service).await;
    (service, jetstream::new(client))
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_find_lost_webhooks_and_repairs() {
    let bench = Bench::start().await;
    let links = bench.known_links(3).await;

    bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
    bench.control.set_status(links[1], LinkStatus::TokenRequired).unwrap();
    let swept = bench.reconciler().sweep_broken().await.unwrap();
    assert_eq!((swept.drifted_count, swept.adopted_count), (2, 0));
    bench.wait_for("token_required", 1).await;
    let published = bench.wait_for("invalid", 1).await;
    assert_eq!(published.notices("update_required"), 2);

    let before = bench.inputs().await;
    assert_eq!(bench.reconciler().sweep_broken().await.unwrap().drifted_count, 0, "relink knows the change already");
    assert_eq!(bench.reconciler().sweep_known_broken().await.unwrap().drifted_count, 0);
    assert_eq!(bench.inputs().await, before);

    bench.control.repair(links[0]).unwrap();
    let swept = bench.reconciler().sweep_known_broken().await.unwrap();
    assert_eq!((swept.read_count, swept.drifted_count), (2, 1));
    let published = bench.wait_for("valid", 2).await;
    assert_eq!((published.notices("recovered"), published.notices("update_required")), (1, 2));

    let metrics = bench.metrics().await;
    for (from, to) in [("valid", "invalid"), ("valid", "token_required"), ("invalid", "valid")] {
        let line = format!("relink_drift_total{{institution=\"erebor_mx_retail\",from=\"{from}\",to=\"{to}\"}}");
        assert!(metrics.contains(&line), "{line}");
    }
    assert!(metrics.contains("relink_sweep_ended_at_seconds{step=\"known_broken\"}"));
    for described in ["relink_drift_total", "relink_sweep_seconds", "relink_incidents", "relink_inputs_total"] {
        assert!(metrics.contains(&format!("# HELP {described} ")), "{described} must have a description");
    }
    assert_eq!(bench.summary().await["drift_by_institution"], json!({"erebor_mx_retail": 3}));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_link_is_found_before_its_user_is_reminded_of_the_old_one() {
    const MINUTE: Duration = Duration::from_secs(60);
    // The reminder is due before the next sweep, or long after it.
    for (reminder, adopted_count) in [(45 * MINUTE, 1), (24 * 60 * MINUTE, 0)] {
        let bench = Bench::start_with(|config| {
            let settings = PolicySettings {
                can_verify: true,
                reminders: vec![reminder],
                reminder_pause: MINUTE,
                ..PolicySettings::default()
            };
            config.policy = Policy::new(settings).unwrap();
        })
        .await;
        let links = bench.known_links(2).await;
        bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
        bench.reconciler().sweep_broken().await.unwrap();
        bench.wait_for("invalid", 1).await;
        let newer = bench.control.add_link_of_same_user(links[0]).unwrap();

        let swept = bench.reconciler().sweep_same_users().await.unwrap();
        // The old link, and the newer one of the same user.
        assert_eq!((swept.read_count, swept.adopted_count), (2 * adopted_count, adopted_count), "{reminder:?}");
        if adopted_count > 0 {
            let is_superseded = |published: &Published| {
                published.records[&links[0].to_string()]["episode"]["superseded_by"] == newer.to_string()
            };
            let published = bench.wait("the old link is superseded", is_superseded).await;
            assert_eq!((published.notices("superseded"), published.notices("reminder")), (1, 0));
            assert_eq!(
                bench.reconciler().sweep_same_users().await.unwrap(),
                Swept::default(),
                "nobody is asked any more"
            );
        }
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_publishes_what_relink_knows() {
    let bench = Bench::start().await;
    let links = bench.known_links(1_203).await;
    bench.control.set_status(links[7], LinkStatus::Invalid).unwrap();
    bench.reconciler().sweep_broken().await.unwrap();
    bench.wait_for("invalid", 1).await;

    let before = bench.inputs().await;
    let swept = bench.reconciler().survey().await.unwrap();
    assert_eq!(swept, Swept { read_count: 1_203, ..Swept::default() }, "two pages without a change");
    bench.reconciler().sweep_broken().await.unwrap();
    bench.reconciler().sweep_known_broken().await.unwrap();
    bench.reconciler().rotate().await.unwrap();
    assert_eq!(bench.inputs().await, before);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rotation_reads_every_link_and_finds_deleted_ones() {
    let bench = Bench::start().await;
    let links = bench.known_links(120).await;
    // Only the rotation is used here. A deleted link is in no list of Belvo.
    bench.control.set_status(links[3], LinkStatus::Invalid).unwrap();
    bench.delete_at_belvo(links[60]).await;

    // The rotation begins at a random link: first to the end, then one full round.
    while !bench.reconciler().rotate().await.unwrap().round_ended {}
    let mut read_count = 0;
    loop {
        let swept = bench.reconciler().rotate().await.unwrap();
        read_count += swept.read_count;
        if swept.round_ended {
            break;
        }
    }
    assert_eq!(read_count, 119);
    bench.wait_for("invalid", 1).await;
    let published = bench.wait_for("removed", 1).await;
    assert_eq!((published.notices("update_required"), published.notices("removed")), (1, 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_links_are_adopted_muted_and_released_one_by_one() {
    let mut bench = Bench::start().await;
    let links = bench.links(50);
    for link in &links[..20] {
        bench.control.set_status(*link, LinkStatus::Invalid).unwrap();
    }
    // An operator muted this link, so adoption must not release it.
    let (status, _) = bench.post(&format!("/v1/links/{}/commands", links[30]), &json!({"command": "mute"})).await;
    assert!(status.is_success(), "{status}");
    bench.wait_for("unconfirmed", 1).await;
    bench.control.set_status(links[30], LinkStatus::TokenRequired).unwrap();

    let swept = bench.reconciler().survey().await.unwrap();
    assert_eq!((swept.adopted_count, swept.drifted_count), (49, 1));
    bench.wait_for("token_required", 1).await;
    let published = bench.wait_for("invalid", 20).await;
    assert_eq!(published.notices("update_required"), 0, "no user is prompted");

    for _ in 0..3 {
        assert!(bench.reconciler().release_adopted().await.unwrap());
    }
    let published = bench.wait("three prompts", |published| published.notices("update_required") == 3).await;
    let waiting = links[..20].iter().copied().find(|link| published.is_muted(*link)).unwrap();

    // One is repaired before its release: it is unmuted without a notice.
    bench.control.repair(waiting).unwrap();
    assert_eq!(bench.reconciler().sweep_known_broken().await.unwrap().drifted_count, 1);
    bench.wait_for("invalid", 19).await;

    bench.restart().await;
    let mut released = 3;
    while bench.reconciler().release_adopted().await.unwrap() {
        released += 1;
    }
    assert_eq!(released, 19);
    let published = bench
        .wait("all are released", |published| published.records.values().filter(|it| it["muted"] == true).count() == 1);
    let published = published.await;
    assert_eq!((published.notices("update_required"), published.is_muted(links[30])), (19, true));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_of_belvos_sandbox_is_not_a_deletion() {
    for count in [3, 30] {
        let bench = Bench::start().await;
        let links = bench.known_links(count).await;
        bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
        bench.reconciler().sweep_broken().await.unwrap();
        bench.wait_for("invalid", 1).await;
        assert_eq!(bench.control.wipe(), count);

        let before = bench.inputs().await;
        assert_eq!(bench.reconciler().sweep_known_broken().await.unwrap().unconfirmed_count, 1);
        let mut unconfirmed_count = 0;
        loop {
            let swept = bench.reconciler().rotate().await.unwrap();
            unconfirmed_count += swept.unconfirmed_count;
            if swept.round_ended && unconfirmed_count >= count {
                break;
            }
        }
        assert_eq!(bench.inputs().await, before, "nothing is published about any of them");

        // An operator requests a verification: the job does not treat the 404 as a deletion either.
        let path = format!("/v1/links/{}/commands", links[1]);
        assert!(bench.post(&path, &json!({"command": "verify"})).await.0.is_success());
        let retried = "relink_jobs_total{type=\"verify\",outcome=\"retried\"}";
        within("the job is retried", async { while !bench.metrics().await.contains(retried) {} }).await;
        let published = bench.wait("the verify request", |published| {
            !published.records[&links[1].to_string()]["verify_asked_at"].is_null()
        });
        assert_eq!(published.await.notices("removed"), 0);
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_leave_a_part_of_the_call_budget_to_users() {
    let bench = Bench::start_with(|config| config.belvo.requests_per_30s = 4).await;
    let links = bench.links(1);
    bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
    bench.reconciler().survey().await.unwrap();
    bench.wait_for("invalid", 1).await;
    bench.reconciler().survey().await.unwrap();
    // Three of four requests are used, with the check of the keys at the start, and a sweep may not use the last one.
    let path = format!("/v1/links/{}/update", links[0]);
    let (status, _) = bench.post(&path, &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    // The check of the keys may still be under way.
    bench.post(&path, &json!({})).await;
    let (status, problem) = bench.post(&path, &json!({})).await;
    assert!(status.is_server_error() && problem.to_string().contains("budget"), "{status}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_find_ending_and_ended_consents() {
    let bench = Bench::start().await;
    let add = |_| bench.control.add_link("ofmockbank_br_retail", AccessMode::Recurrent, None).unwrap();
    let links: Vec<Uuid> = (0..2).map(add).collect();
    bench.reconciler().survey().await.unwrap();
    bench.wait_for("valid", 2).await;

    // One ends in three days, which is less than a step of `consent_notices`; the other has ended.
    bench.control.consent_about_to_expire(links[0], Duration::from_secs(3 * 86_400)).unwrap();
    bench.control.expire_consent(links[1]).unwrap();
    let swept = bench.reconciler().sweep_consents().await.unwrap();
    assert_eq!((swept.read_count, swept.drifted_count), (2, 1));
    let published = bench.wait("both notices", |published| {
        let both = published.notices("consent_expiring") == 1 && published.notices("update_required") == 1;
        // The notices of a step come before its state.
        both && published.in_state("invalid") == 1
            && published.records[&links[0].to_string()]["consent"]["announced"] == true
    });
    let published = published.await;
    assert_eq!(published.records[&links[1].to_string()]["episode"]["cause"], "consent_ended");
    let consent = &published.records[&links[0].to_string()]["consent"];
    assert_eq!(consent["institution_display_name"], "OF Mock Bank");

    let again = bench.reconciler().sweep_consents().await.unwrap();
    assert_eq!((again.read_count, again.drifted_count), (2, 0));

    // Renewed in Belvo's portal, which sends no callback to an application.
    bench.control.renew_consent(links[1]).unwrap();
    let swept = bench.reconciler().sweep_consents().await.unwrap();
    assert_eq!(swept.drifted_count, 1);
    let recovered = bench.wait_for("valid", 2).await;
    assert_eq!((recovered.notices("recovered"), recovered.notices("update_required")), (1, 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_job_reads_the_consent_and_the_link() {
    let bench = Bench::start().await;
    let link = bench.control.add_link("ofmockbank_br_retail", AccessMode::Recurrent, None).unwrap();
    bench.reconciler().survey().await.unwrap();
    bench.wait_for("valid", 1).await;
    // relink learns the id of the consent.
    bench.reconciler().sweep_consents().await.unwrap();
    let published = bench
        .wait("the consent", |published| published.records.values().all(|record| !record["consent"].is_null()))
        .await;
    assert!(published.records[&link.to_string()]["consent"]["id"].is_string());

    // The consent has ended; the status of the link does not show it.
    bench.control.expire_consent(link).unwrap();
    bench.control.set_status(link, LinkStatus::Valid).unwrap();
    let commands = format!("/v1/links/{link}/commands");
    assert!(bench.post(&commands, &json!({"command": "verify"})).await.0.is_success());
    let published = bench.wait_for("invalid", 1).await;
    assert_eq!(published.records[&link.to_string()]["episode"]["cause"], "consent_ended");

    // The state of the consent is the proof of a claimed renewal.
    bench.control.renew_consent(link).unwrap();
    let widget = format!("/v1/links/{link}/widget");
    assert!(bench.post(&widget, &json!({"event": "success"})).await.0.is_success());
    let published = bench.wait_for("valid", 1).await;
    assert_eq!((published.notices("update_required"), published.notices("recovered")), (1, 1));
    bench.end().await;
}
