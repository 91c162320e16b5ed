//! The fixture of every test: a nats-server, relink's HTTP server, a store in memory, and a client.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use relink::activity::ActivityLog;
use relink::clock::Clock;
use relink::config::{Config, Sources};
use relink::contract::{At, Because, Origin, OriginKind, Record, StateWord, SweepStatus};
use relink::http::{Limits, Parts, Server, router, serve};
use relink::journal::{self, Acknowledge, Journal, NatsTarget};
use relink::link::{Consent, DedupKey, Link, LinkId, RecentFact, State, Timestamp};
use relink::nats::dead_letter::{DeadLetters, StoredLetter};
use relink::nats::events::Events;
use relink::nats::history::Histories;
use relink::nats::lag::Lag;
use relink::nats::publisher::{Publisher, PublisherOptions};
use relink::nats::stream::{StreamSettings, ensure_all};
use relink::nats::subject::Subjects;
use relink::outbound::{Target, TargetSettings, Targets, Worker};
use relink::store::{Changes, Head, MemoryStore, Put, Store};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{TestNats, within};
use crate::{capture, openapi};

pub(crate) const WEBHOOK_SECRET: &str = "Basic dXNlcjpwYXNz";
pub(crate) const API_TOKEN: &str = "token-of-the-app";
pub(crate) const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// A running HTTP server.
pub(crate) struct Bench {
    pub(crate) nats: TestNats,
    pub(crate) store: MemoryStore,
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) not_ready: watch::Sender<Vec<String>>,
    pub(crate) drift: watch::Sender<BTreeMap<String, u64>>,
    pub(crate) steps_ended: watch::Sender<BTreeMap<&'static str, SweepStatus>>,
    /// The client of this server, which also jobs would use.
    pub(crate) belvo: Option<relink::belvo::Client>,
    pub(crate) lag: watch::Sender<Lag>,
    pub(crate) activity: ActivityLog,
    pub(crate) as_of: watch::Sender<Option<Timestamp>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    pub(crate) journal: Journal,
    /// The files of the journal.
    pub(crate) directory: TempDir,
    pub(crate) targets: Targets,
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

/// The configuration from these variables.
pub(crate) fn config(environment: &[(&str, &str)]) -> Config {
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::load(&Sources { environment: environment.collect(), ..Sources::default() }).unwrap().config
}

impl Bench {
    /// A server with one webhook secret and one API token.
    pub(crate) async fn new() -> Self {
        Self::with(&[("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET), ("RELINK_API_TOKENS", API_TOKEN)]).await
    }

    pub(crate) async fn with(environment: &[(&str, &str)]) -> Self {
        let store = MemoryStore::default();
        Self::over(environment, store.clone(), store).await
    }

    /// A server that reads `asked`; `store` is the one that [`Bench::put`] writes to.
    pub(crate) async fn over(environment: &[(&str, &str)], asked: impl Store + 'static, store: MemoryStore) -> Self {
        Self::limited(environment, asked, store, Limits::new(0)).await
    }

    /// A server with other limits for its connections.
    pub(crate) async fn limited(
        environment: &[(&str, &str)],
        asked: impl Store + 'static,
        store: MemoryStore,
        limits: Limits,
    ) -> Self {
        capture::start();
        let mut config = config(environment);
        if environment.iter().all(|(name, _)| *name != "RELINK_HTTP_ACKNOWLEDGE") {
            // A test reads the streams after an answer.
            config.journal.acknowledge = Acknowledge::Stream;
        }
        let nats = TestNats::start().await;
        // A worker that replaces another one waits for messages that the other one had.
        let outbound_ack_wait = Duration::from_secs(1);
        let streams = StreamSettings { partitions: 2, outbound_ack_wait, ..config.nats.streams.clone() };
        ensure_all(&nats.context, &Subjects::default(), &streams).await.unwrap();
        let build = |settings: &TargetSettings| Arc::new(Target::new(settings.clone(), Clock::wall()).unwrap());
        let targets = Targets {
            notices: config.outbound.notices.as_ref().map(build),
            webhooks: config.outbound.forward.as_ref().map(build),
        };
        let subjects = Subjects::default();
        // Tests without a NATS server should not wait for the ten seconds of production.
        let options = PublisherOptions { timeout: Duration::from_millis(300), ..PublisherOptions::default() };
        let (not_ready, reasons) = watch::channel(Vec::new());
        let drift = watch::Sender::<BTreeMap<String, u64>>::default();
        let (steps_ended, lag) =
            (watch::Sender::<BTreeMap<&'static str, SweepStatus>>::default(), watch::Sender::<Lag>::default());
        let as_of = watch::Sender::new(None);
        let activity = ActivityLog::default();
        let belvo = config.belvo.keys.clone().map(|keys| {
            use relink::belvo::{Budget, Client, SecretId, SecretPassword, Timeouts};
            let (id, password) = (SecretId(keys.secret_id), SecretPassword(keys.secret_password));
            let client = Client::new(&keys.url, id, password, Timeouts::default()).unwrap();
            client.with_budget(Budget::new(config.belvo.requests_per_30s))
        });
        let mut context = jetstream::new(nats.client.clone());
        context.set_timeout(Duration::from_millis(500));
        let dead_letters = DeadLetters::new(context.clone(), subjects.clone());
        let publisher = Publisher::start(nats.client.clone(), subjects.clone(), options);
        let target = NatsTarget { publisher, dead_letters: dead_letters.clone() };
        let directory = TempDir::new().unwrap();
        let (journal, forwarder) = journal::open(directory.path(), config.journal, Arc::new(target)).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(forwarder.run(CancellationToken::new()));
        let parts = Parts {
            journal: journal.clone(),
            dead_letters,
            targets: targets.clone(),
            events: Events::new(context.clone(), subjects.clone()),
            histories: Histories::new(context, subjects),
            store: Arc::new(asked),
            clock: Clock::wall(),
            belvo: belvo.clone(),
            drift: Some(drift.subscribe()),
            steps_ended: Some(steps_ended.subscribe()),
            lag: lag.subscribe(),
            activity: activity.clone(),
            as_of: as_of.subscribe(),
            commits: Default::default(),
            not_ready: reasons,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(serve(listener, router(Server::new(&config, parts)), limits, shutdown.clone()));
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Self {
            nats,
            store,
            url,
            client,
            not_ready,
            drift,
            belvo,
            steps_ended,
            lag,
            activity,
            as_of,
            shutdown,
            served,
            journal,
            directory,
            targets,
        }
    }

    /// Starts to send the messages for this target. An abort of the task is like the end of the process.
    pub(crate) fn start_worker(&self, target: &Arc<Target>, stop: CancellationToken) -> JoinHandle<()> {
        let dead_letters = DeadLetters::new(self.nats.context.clone(), Subjects::default());
        let worker =
            Worker::new(Arc::clone(target), self.nats.context.clone(), Subjects::default(), dead_letters, stop);
        tokio::spawn(worker.run())
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A webhook with the accepted `Authorization` value.
    pub(crate) fn webhook(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(Method::POST, "/webhooks/belvo").header("authorization", WEBHOOK_SECRET).body(body)
    }

    /// `GET /v1/…` with the accepted token.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path).bearer_auth(API_TOKEN)).await
    }

    /// `POST /v1/…` with the accepted token.
    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> Answer {
        answer(self.request(Method::POST, path).bearer_auth(API_TOKEN).body(body.to_string())).await
    }

    /// The messages of the input stream: subject without partition, headers, body.
    pub(crate) async fn inputs(&self) -> Vec<(String, HeaderMap, Bytes)> {
        let subjects = Subjects::default();
        let without_partition = |subject: String| {
            let stored = subjects.parse_input(&subject).unwrap();
            subjects.input(stored.kind, stored.link_id)
        };
        let stored = self.nats.read("BELVO").await;
        stored.into_iter().map(|(_, subject, headers, body)| (without_partition(subject), headers, body)).collect()
    }

    pub(crate) async fn dead_letters(&self) -> Vec<StoredLetter> {
        DeadLetters::new(self.nats.context.clone(), Subjects::default()).list(0, 100).await.unwrap()
    }

    /// Writes a link to the store.
    pub(crate) fn put(&self, id: &str, institution: &str, state: State) {
        self.put_with_consent(id, institution, state, None);
    }

    pub(crate) fn put_with_consent(&self, id: &str, institution: &str, state: State, consent: Option<Consent>) {
        let id: LinkId = id.parse().unwrap();
        let now = Timestamp::from_millis(1_700_000_000_000);
        let mut link = Link::unknown(id.clone(), now);
        // The store keeps the newest version.
        link.version = self.store.get(&id).unwrap().map_or(1, |stored| stored.head.version + 1);
        link.profile.institution = Some(institution.to_owned());
        link.profile.external_id = Some(format!("user-{id}"));
        link.profile.consent = consent.map(Box::new);
        link.recent = vec![RecentFact { key: DedupKey(7), at: now }];
        link.state = state;
        self.put_link(&link);
    }

    pub(crate) fn put_link(&self, link: &Link) {
        let (id, name) = (link.id.clone(), link.state.name());
        let record = serde_json::to_vec(&Record::of(link, 0, because(), Vec::new())).unwrap();
        let head = Head { state: name, partition: 0, version: link.version, deadline: None };
        self.store.apply(&Changes { puts: vec![Put::of_record(id, head, record)], ..Changes::default() }).unwrap();
    }
}

/// A transition from unconfirmed to valid, caused by a webhook.
pub(crate) fn because() -> Because {
    let at = At(Timestamp::from_millis(1_700_000_000_000));
    let origin = Origin {
        kind: OriginKind::Webhook,
        input_sequence: Some(1),
        message_id: Some("w-1".into()),
        ..Origin::timer(at.0)
    };
    Because {
        event: "data_arrived".into(),
        from: StateWord::Unconfirmed,
        to: StateWord::Valid,
        at,
        incident: false,
        successor_id: None,
        person: None,
        times_corrected: false,
        due: None,
        held: None,
        outage_notice_at: None,
        origin,
    }
}

/// Sends the request. Every answer must be as `openapi.json` says.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = within("an answer", client.execute(request)).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = within("an answer's body", response.text()).await.unwrap();
    let answer = Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text };
    openapi::check(&method, &path, &answer);
    answer
}

impl Answer {
    /// Checks that the response is a problem of this kind, in the form of RFC 9457.
    pub(crate) fn problem(&self, status: u16, slug: &str) -> &Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["type"], format!("urn:relink:problem:{slug}"), "{}", self.text);
        assert_eq!(self.body["status"], status);
        for member in ["title", "detail", "instance"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {}", self.text);
        }
        &self.body
    }
}
