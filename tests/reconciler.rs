//! What the webhooks missed, on real parts: relink in process, a real nats-server, and the sandbox as Belvo.
//!
//! No webhook ever reaches relink here, so whatever it knows it learnt by sweeping. Sweeps are driven one at a time;
//! the run loop's first one comes long after these tests have ended.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use belvo_sandbox::{AccessMode, Control, LinkStatus, Sandbox, SandboxConfig};
use futures::StreamExt;
use relink::config::{BelvoKeys, Config};
use relink::link::{Policy, PolicySettings};
use relink::reconciler::{Reconciler, Swept};
use relink::service::Service;
use reqwest::StatusCode;
use serde_json::{Value, json};
use support::{server_source, within};
use uuid::Uuid;

const TOKEN: &str = "token-of-the-test";

/// What relink has said: the last record of each link, and how many notices of each name.
#[derive(Default)]
struct Said {
    records: BTreeMap<String, Value>,
    notices: BTreeMap<String, usize>,
}

impl Said {
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

/// relink with a Belvo that sends no webhooks.
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

    /// Stops relink and starts it again on the same data.
    async fn restart(&mut self) {
        let config = self.config.clone();
        // One at a time: a store has one owner.
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

    /// Links that relink knows to be valid.
    async fn known_links(&self, count: usize) -> Vec<Uuid> {
        let links = self.links(count);
        let swept = self.reconciler().survey().await.unwrap();
        assert_eq!((swept.read_count, swept.adopted_count, swept.drifted_count), (count, count, 0));
        self.wait_for("valid", count).await;
        links
    }

    /// How many messages the input stream has ever taken.
    async fn inputs(&self) -> u64 {
        self.context.get_stream("BELVO").await.unwrap().cached_info().state.last_sequence
    }

    /// Waits until all that relink has said so far fits, and gives it.
    async fn wait(&self, what: &str, fits: impl Fn(&Said) -> bool) -> Said {
        let stream = self.context.get_stream("LINKS").await.unwrap();
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
        let search = async {
            let mut messages = consumer.messages().await.unwrap();
            let (mut said, mut last) = (Said::default(), None);
            loop {
                let message = messages.next().await.unwrap().unwrap();
                let mut words = message.subject.split('.').skip(1);
                match (words.next().unwrap(), words.next().unwrap()) {
                    ("state", link) => {
                        let record: Value = serde_json::from_slice(&message.payload).unwrap();
                        last = Some((link.to_owned(), record["version"].clone()));
                        said.records.insert(link.to_owned(), record);
                    }
                    ("notice", name) => *said.notices.entry(name.to_owned()).or_default() += 1,
                    _other => {}
                }
                // To the end of what is there: a step's notices come with its state, in one batch.
                if message.info().unwrap().pending == 0 && fits(&said) {
                    return (said, last.unwrap());
                }
            }
        };
        let (said, (link, version)) = within(what, search).await;
        // A commit is in the store a moment after it is in the stream, and sweeps look there.
        let url = format!("http://{}/v1/links/{link}", self.service.http_address());
        let in_store = async || {
            let answer = self.http.get(&url).bearer_auth(TOKEN).send().await.unwrap();
            answer.json::<Value>().await.unwrap()["version"].as_u64() >= version.as_u64()
        };
        within("the store", async { while !in_store().await {} }).await;
        said
    }

    async fn wait_for(&self, state: &str, count: usize) -> Said {
        self.wait(&format!("{count} links {state}"), |said| said.in_state(state) == count).await
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
    let client = async_nats::connect(service.nats_url()).await.unwrap();
    (service, jetstream::new(client))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_webhook_is_found_and_so_is_a_repair_elsewhere() {
    let bench = Bench::start().await;
    let links = bench.known_links(3).await;

    bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
    bench.control.set_status(links[1], LinkStatus::TokenRequired).unwrap();
    let swept = bench.reconciler().sweep_broken().await.unwrap();
    assert_eq!((swept.drifted_count, swept.adopted_count), (2, 0));
    bench.wait_for("token_required", 1).await;
    let told = bench.wait_for("invalid", 1).await;
    assert_eq!(told.notices("update_required"), 2);

    let before = bench.inputs().await;
    assert_eq!(bench.reconciler().sweep_broken().await.unwrap().drifted_count, 0, "it is known by now");
    assert_eq!(bench.reconciler().sweep_held().await.unwrap().drifted_count, 0);
    assert_eq!(bench.inputs().await, before);

    bench.control.repair(links[0]).unwrap();
    let swept = bench.reconciler().sweep_held().await.unwrap();
    assert_eq!((swept.read_count, swept.drifted_count), (2, 1));
    let told = bench.wait_for("valid", 2).await;
    assert_eq!((told.notices("recovered"), told.notices("update_required")), (1, 2));

    let metrics = bench.metrics().await;
    for (from, to) in [("valid", "invalid"), ("valid", "token_required"), ("invalid", "valid")] {
        let line = format!("relink_drift_total{{institution=\"erebor_mx_retail\",from=\"{from}\",to=\"{to}\"}}");
        assert!(metrics.contains(&line), "{line}");
    }
    assert!(metrics.contains("relink_sweep_ended_at_seconds{step=\"held\"}"));
    for described in ["relink_drift_total", "relink_sweep_seconds", "relink_incidents", "relink_inputs_total"] {
        assert!(metrics.contains(&format!("# HELP {described} ")), "{described} says what it is");
    }
    assert_eq!(bench.summary().await["drift_by_institution"], json!({"erebor_mx_retail": 3}));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agreement_is_silent_on_every_road_and_on_every_page() {
    let bench = Bench::start().await;
    let links = bench.known_links(1_203).await;
    bench.control.set_status(links[7], LinkStatus::Invalid).unwrap();
    bench.reconciler().sweep_broken().await.unwrap();
    bench.wait_for("invalid", 1).await;

    let before = bench.inputs().await;
    let swept = bench.reconciler().survey().await.unwrap();
    assert_eq!(swept, Swept { read_count: 1_203, ..Swept::default() }, "two pages, and nothing new in them");
    bench.reconciler().sweep_broken().await.unwrap();
    bench.reconciler().sweep_held().await.unwrap();
    bench.reconciler().rotate().await.unwrap();
    assert_eq!(bench.inputs().await, before);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rotation_sees_every_link_and_finds_what_nobody_lists() {
    let bench = Bench::start().await;
    let links = bench.known_links(120).await;
    // A status that no list of broken links has, and a link that no list has.
    bench.control.set_status(links[3], LinkStatus::Invalid).unwrap();
    bench.delete_at_belvo(links[60]).await;

    // It begins anywhere: to the end, then once around.
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
    let told = bench.wait_for("removed", 1).await;
    assert_eq!((told.notices("update_required"), told.notices("removed")), (1, 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_broken_links_is_adopted_without_a_storm() {
    let mut bench = Bench::start().await;
    let links = bench.links(50);
    for link in &links[..20] {
        bench.control.set_status(*link, LinkStatus::Invalid).unwrap();
    }
    // One that its operator muted long ago: it is none of the reconciler's.
    let (status, _) = bench.post(&format!("/v1/links/{}/commands", links[30]), &json!({"command": "mute"})).await;
    assert!(status.is_success(), "{status}");
    bench.wait_for("unconfirmed", 1).await;
    bench.control.set_status(links[30], LinkStatus::TokenRequired).unwrap();

    let swept = bench.reconciler().survey().await.unwrap();
    assert_eq!((swept.adopted_count, swept.drifted_count), (49, 1));
    bench.wait_for("token_required", 1).await;
    let told = bench.wait_for("invalid", 20).await;
    assert_eq!(told.notices("update_required"), 0, "nobody is prompted");

    for _ in 0..3 {
        assert!(bench.reconciler().release_adopted().await.unwrap());
    }
    let told = bench.wait("three prompts", |said| said.notices("update_required") == 3).await;
    let waiting = links[..20].iter().copied().find(|link| told.is_muted(*link)).unwrap();

    // One is repaired before its turn: it is unmuted, and its user hears of no outage that is over.
    bench.control.repair(waiting).unwrap();
    assert_eq!(bench.reconciler().sweep_held().await.unwrap().drifted_count, 1);
    bench.wait_for("invalid", 19).await;

    bench.restart().await;
    let mut released = 3;
    while bench.reconciler().release_adopted().await.unwrap() {
        released += 1;
    }
    assert_eq!(released, 19);
    let told =
        bench.wait("all are released", |said| said.records.values().filter(|it| it["muted"] == true).count() == 1);
    let told = told.await;
    assert_eq!((told.notices("update_required"), told.is_muted(links[30])), (19, true));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monthly_wipe_is_no_deletion() {
    for count in [3, 30] {
        let bench = Bench::start().await;
        let links = bench.known_links(count).await;
        bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
        bench.reconciler().sweep_broken().await.unwrap();
        bench.wait_for("invalid", 1).await;
        assert_eq!(bench.control.wipe(), count);

        let before = bench.inputs().await;
        assert_eq!(bench.reconciler().sweep_held().await.unwrap().held_count, 1);
        let mut held = 0;
        loop {
            let swept = bench.reconciler().rotate().await.unwrap();
            held += swept.held_count;
            if swept.round_ended && held >= count {
                break;
            }
        }
        assert_eq!(bench.inputs().await, before, "nothing is said of any of them");

        // Somebody asks about one of them: the job does not believe it, either.
        let path = format!("/v1/links/{}/commands", links[1]);
        assert!(bench.post(&path, &json!({"command": "verify"})).await.0.is_success());
        let put_off = "relink_jobs_total{job=\"verify\",outcome=\"later\"}";
        within("the job is put off", async { while !bench.metrics().await.contains(put_off) {} }).await;
        let told = bench.wait("the question", |said| !said.records[&links[1].to_string()]["verify_asked_at"].is_null());
        assert_eq!(told.await.notices("removed"), 0);
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_leave_a_part_of_the_budget_to_users() {
    let bench = Bench::start_with(|config| config.belvo.requests_per_30s = 4).await;
    let links = bench.links(1);
    bench.control.set_status(links[0], LinkStatus::Invalid).unwrap();
    bench.reconciler().survey().await.unwrap();
    bench.wait_for("invalid", 1).await;
    for _ in 0..2 {
        bench.reconciler().survey().await.unwrap();
    }
    // Three of four are gone, and no sweep may have the last.
    let path = format!("/v1/links/{}/update", links[0]);
    let (status, _) = bench.post(&path, &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, problem) = bench.post(&path, &json!({})).await;
    assert!(status.is_server_error() && problem.to_string().contains("budget"), "{status}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consents_are_followed_without_a_webhook() {
    let bench = Bench::start().await;
    let add = |_| bench.control.add_link("ofmockbank_br_retail", AccessMode::Recurrent, None).unwrap();
    let links: Vec<Uuid> = (0..2).map(add).collect();
    bench.reconciler().survey().await.unwrap();
    bench.wait_for("valid", 2).await;

    // One ends in three days, which is nearer than the notice; the other has ended.
    bench.control.consent_about_to_expire(links[0], Duration::from_secs(3 * 86_400)).unwrap();
    bench.control.expire_consent(links[1]).unwrap();
    let swept = bench.reconciler().sweep_consents().await.unwrap();
    assert_eq!((swept.read_count, swept.drifted_count), (2, 1));
    let told = bench.wait("both are told", |said| {
        let told = said.notices("consent_expiring") == 1 && said.notices("update_required") == 1;
        // The notices of a step come before its state.
        told && said.in_state("invalid") == 1 && said.records[&links[0].to_string()]["consent"]["announced"] == true
    });
    let told = told.await;
    assert_eq!(told.records[&links[1].to_string()]["episode"]["cause"], "consent_ended");
    let consent = &told.records[&links[0].to_string()]["consent"];
    assert_eq!(consent["institution_display_name"], "OF Mock Bank");

    let again = bench.reconciler().sweep_consents().await.unwrap();
    assert_eq!((again.read_count, again.drifted_count), (2, 0));

    // Renewed in Belvo's portal, where no app is told.
    bench.control.renew_consent(links[1]).unwrap();
    let swept = bench.reconciler().sweep_consents().await.unwrap();
    assert_eq!(swept.drifted_count, 1);
    let healed = bench.wait_for("valid", 2).await;
    assert_eq!((healed.notices("recovered"), healed.notices("update_required")), (1, 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_reads_the_consent_beside_the_link() {
    let bench = Bench::start().await;
    let link = bench.control.add_link("ofmockbank_br_retail", AccessMode::Recurrent, None).unwrap();
    bench.reconciler().survey().await.unwrap();
    bench.wait_for("valid", 1).await;
    // It learns that there is a consent, and its id.
    bench.reconciler().sweep_consents().await.unwrap();
    let told = bench.wait("the consent", |said| said.records.values().all(|record| !record["consent"].is_null())).await;
    assert!(told.records[&link.to_string()]["consent"]["id"].is_string());

    // The consent has ended, and the link's own status shows nothing of it.
    bench.control.expire_consent(link).unwrap();
    bench.control.set_status(link, LinkStatus::Valid).unwrap();
    let commands = format!("/v1/links/{link}/commands");
    assert!(bench.post(&commands, &json!({"command": "verify"})).await.0.is_success());
    let told = bench.wait_for("invalid", 1).await;
    assert_eq!(told.records[&link.to_string()]["episode"]["cause"], "consent_ended");

    // A claim of a renewal is proven by the consent.
    bench.control.renew_consent(link).unwrap();
    let widget = format!("/v1/links/{link}/widget");
    assert!(bench.post(&widget, &json!({"event": "success"})).await.0.is_success());
    let told = bench.wait_for("valid", 1).await;
    assert_eq!((told.notices("update_required"), told.notices("recovered")), (1, 1));
    bench.end().await;
}
