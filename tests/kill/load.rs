//! The load of a round: webhooks with Belvo's retries, messages on NATS, and poison.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::{HeaderMap, jetstream};
use belvo_sandbox::{AccessMode, Control};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::readiness::Readiness;
use super::support::binary::WEBHOOK_SECRET;
use super::world::{Acknowledge, connect};

/// How many requests are open at the same time.
const WORKERS: usize = 8;

/// How many links are broken and repaired in each round, if relink has Belvo's keys.
const REPAIRED: usize = 5;

/// The pause before a repeated request. Belvo waits longer.
const RETRY_AFTER: Duration = Duration::from_millis(25);

/// The time limit of a raw message, from the connection to the answer.
const RAW_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of the running processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    pub(crate) http: String,
    /// What relink's answers promise.
    pub(crate) acknowledge: Acknowledge,
    /// The address of NATS, with its login.
    pub(crate) nats: String,
}

/// What the workers, the sampler and the round share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    endpoints: Mutex<Endpoints>,
    pub(crate) readiness: Readiness,
    /// Requests that succeeded.
    pub(crate) done: AtomicU64,
    /// Webhooks that were refused or not answered.
    pub(crate) refused: AtomicU64,
    /// Messages to NATS that were refused or not acknowledged.
    pub(crate) refused_by_nats: AtomicU64,
}

impl Shared {
    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_endpoints(&self, change: impl FnOnce(&mut Endpoints)) {
        change(&mut self.endpoints.lock().unwrap_or_else(PoisonError::into_inner));
        self.readiness.start_again();
    }
}

/// One request of the load.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// `POST /webhooks/belvo`.
    Webhook { marker: String, body: String },
    /// A webhook that relink cannot read: it is refused, and becomes a dead letter. Each has another body.
    Unreadable { body: String },
    /// A message on NATS with an acknowledgement of JetStream.
    Publish { marker: String, subject: String, body: String },
    /// A message that a NATS client would refuse to publish. It has no acknowledgement.
    Raw { subject: String, headers: Vec<u8>, body: Vec<u8> },
}

/// A request that was answered with success.
#[derive(Clone, Debug)]
pub(crate) enum Accepted {
    /// The input has this sequence in `BELVO`; `None`: it is in the journal.
    Input { marker: String, sequence: Option<u64>, sent_ms: i64 },
    /// The dead letter has this sequence in `RELINK_DEAD`; `None`: it is in the journal.
    DeadLetter { body: String, sequence: Option<u64>, sent_ms: i64 },
}

/// Makes the requests of each round.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    count: u64,
    /// How many links of each place were deleted. A deleted link never comes back, so another one takes its place.
    deleted: HashMap<usize, u64>,
    /// Stands for Belvo, which knows every link. Without it the ids of the links are made up.
    belvo: Option<Control>,
    /// The link of each place at Belvo.
    at_belvo: HashMap<usize, String>,
}

impl Requests {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// The links are those of this Belvo.
    pub(crate) fn of(belvo: Option<Control>) -> Self {
        Self { belvo, ..Self::default() }
    }

    /// Breaks some links that Belvo says are valid, or claims that their users have repaired them: relink must ask Belvo. Returns the links
    /// too. Nothing without Belvo.
    pub(crate) fn repairs(&mut self, links: usize, is_claim: bool) -> (Vec<String>, Vec<Request>) {
        if self.belvo.is_none() {
            return Default::default();
        }
        let links: Vec<String> = (links..links + REPAIRED).map(|place| self.link(place)).collect();
        let mut requests = Vec::new();
        for link in &links {
            requests.push(if is_claim {
                self.publish(format!("belvo.widget.{link}"), r#"{"event":"success"}"#.to_owned())
            } else {
                self.webhook(link, "LINK", "invalid_credentials", json!({}))
            });
        }
        (links, requests)
    }

    fn link(&mut self, place: usize) -> String {
        if let Some(belvo) = &self.belvo {
            let add =
                || belvo.add_link("erebor_mx_retail", AccessMode::Recurrent, None).expect("a known bank").to_string();
            return self.at_belvo.entry(place).or_insert_with(add).clone();
        }
        format!("00000000-0000-4000-8000-{place:04}{:08}", self.deleted.get(&place).unwrap_or(&0))
    }

    /// The load of one round in random order: `per_link` requests about each link.
    pub(crate) fn round(&mut self, links: usize, per_link: usize, random: &mut fastrand::Rng) -> Vec<Request> {
        let mut requests: Vec<Request> = (0..links * per_link).map(|n| self.ordinary(n % links, random)).collect();
        // A few unreadable messages belong to every load.
        requests.push(self.unreadable());
        requests.push(self.poison(links, random));
        random.shuffle(&mut requests);
        requests
    }

    /// Requests that need only relink's HTTP server: a webhook about each link, and a few that it cannot read.
    pub(crate) fn webhooks(&mut self, links: usize, random: &mut fastrand::Rng) -> Vec<Request> {
        let mut requests: Vec<Request> = (0..3).map(|_| self.unreadable()).collect();
        for place in 0..links {
            let link = self.link(place);
            let code = if random.bool() { "token_required" } else { "invalid_credentials" };
            requests.push(self.webhook(&link, "LINK", code, json!({})));
        }
        random.shuffle(&mut requests);
        requests
    }

    fn unreadable(&mut self) -> Request {
        Request::Unreadable { body: format!(r#"{{"webhook_id":"{}", cut"#, self.next()) }
    }

    fn webhook(&mut self, link: &str, kind: &str, code: &str, data: Value) -> Request {
        let n = self.next();
        let marker = format!("{n:032x}");
        let body = json!({
            "webhook_id": marker, "webhook_type": kind, "process_type": "recurrent_update", "webhook_code": code,
            "link_id": link, "request_id": format!("{n:08x}-51eb-4350-9c74-5df5ac92a7f6"), "external_id": null, "data": data,
        });
        Request::Webhook { marker, body: body.to_string() }
    }

    fn ordinary(&mut self, n: usize, random: &mut fastrand::Rng) -> Request {
        let link = self.link(n);
        match random.u8(..100) {
            0..25 => self.webhook(&link, "LINK", "token_required", json!({})),
            25..50 => self.webhook(&link, "LINK", "invalid_credentials", json!({})),
            50..60 => self.webhook(&link, "TRANSACTIONS", "new_transactions_available", json!({"new_transactions": 3})),
            60..62 => self.webhook(&link, "LINK", "a_code_of_the_future", json!({})),
            62 => {
                *self.deleted.entry(n).or_default() += 1;
                self.at_belvo.remove(&n);
                self.webhook(&link, "LINK", "link_deleted", json!({}))
            }
            _ => {
                let status = ["valid", "valid", "valid", "invalid", "token_required"][random.usize(..5)];
                let now = OffsetText::now();
                let found = json!({"id": link, "status": status, "last_accessed_at": now});
                let body = json!({"observed_at": now, "outcome": "found", "link": found});
                self.publish(format!("belvo.observation.{link}"), body.to_string())
            }
        }
    }

    fn publish(&mut self, subject: String, body: String) -> Request {
        Request::Publish { marker: format!("harness-{}", self.next()), subject, body }
    }

    /// A message that no publisher should send.
    pub(crate) fn poison(&mut self, links: usize, random: &mut fastrand::Rng) -> Request {
        let link = self.link(random.usize(..links));
        let subject = format!("belvo.webhook.{link}");
        let raw = |headers: &[u8], body: &str| Request::Raw {
            subject: subject.clone(),
            headers: headers.to_vec(),
            body: body.as_bytes().to_vec(),
        };
        let readable = match self.webhook(&link, "LINK", "invalid_credentials", json!({})) {
            Request::Webhook { body, .. } => body,
            _ => String::new(),
        };
        match random.u8(..12) {
            0 => raw(b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n", &readable),
            1 => raw(b"NATS/1.0\r\nno colon\r\n\r\n", &readable),
            2 => raw(b"NATS/1.0 409 Consumer Deleted\r\n\r\n", &readable),
            3 => raw(b"NATS/1.0 503\r\n\r\n", &readable),
            4 => raw(b"NATS/1.0\r\n\r\n", "not json"),
            5 => raw(b"NATS/1.0\r\n\r\n", ""),
            6 => raw(b"NATS/1.0\r\n\r\n", &"[".repeat(10_000)),
            7 => {
                let mut headers = String::from("NATS/1.0\r\n");
                for n in 0..16 {
                    let _ = write!(headers, "X-Long-{n}: {}\r\n", "x".repeat(4_040));
                }
                headers.push_str("\r\n");
                raw(headers.as_bytes(), "not json")
            }
            8 => Request::Raw {
                subject: format!("belvo.nonsense.{link}"),
                headers: b"NATS/1.0\r\n\r\n".to_vec(),
                body: b"{}".to_vec(),
            },
            9 => {
                let at = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-23:59"];
                let found = json!({"id": link, "status": "valid", "last_accessed_at": at[random.usize(..3)]});
                let body = json!({"observed_at": at[random.usize(..3)], "outcome": "found", "link": found});
                self.publish(format!("belvo.observation.{link}"), body.to_string())
            }
            _ => {
                let due =
                    ["0001-01-01", "9999-12-31", "31/12/9999", "-253402300800000", "2026-02-30", "9223372036854775807"];
                let data = json!({"consent_id": "c", "consent_due_date": due[random.usize(..due.len())]});
                self.webhook(&link, "CONSENT", "openfinance_consent_about_to_expire", data)
            }
        }
    }
}

/// The wall clock as RFC 3339.
struct OffsetText;

impl OffsetText {
    fn now() -> String {
        let at = time::OffsetDateTime::from_unix_timestamp(relink::clock::now().as_millis() / 1_000);
        at.ok().and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
    }
}

/// A running load.
pub(crate) struct Load {
    workers: Vec<AbortOnDropHandle<()>>,
    accepted: Arc<Mutex<Vec<Accepted>>>,
}

impl Load {
    /// Sends these requests, and repeats each one until it succeeds.
    pub(crate) fn start(requests: Vec<Request>, shared: &Arc<Shared>, http: &reqwest::Client) -> Self {
        let queue = Arc::new(Mutex::new(VecDeque::from(requests)));
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let worker = |_| {
            let (queue, accepted) = (Arc::clone(&queue), Arc::clone(&accepted));
            let mut worker = Worker { shared: Arc::clone(shared), http: http.clone(), nats: None };
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(request) = next else { return };
                    let result = loop {
                        match worker.attempt(&request).await {
                            Ok(result) => break result,
                            Err(_) => sleep(RETRY_AFTER).await,
                        }
                    };
                    accepted.lock().unwrap_or_else(PoisonError::into_inner).extend(result);
                    worker.shared.done.fetch_add(1, Ordering::Relaxed);
                }
            }))
        };
        Self { workers: (0..WORKERS).map(worker).collect(), accepted }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.workers.iter().all(|worker| worker.is_finished())
    }

    pub(crate) fn accepted(&self) -> Vec<Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Worker {
    shared: Arc<Shared>,
    http: reqwest::Client,
    /// The connection to NATS, and the address that it belongs to.
    nats: Option<(String, jetstream::Context)>,
}

impl Worker {
    async fn attempt(&mut self, request: &Request) -> Result<Option<Accepted>> {
        let sent_ms = relink::clock::now().as_millis();
        match request {
            Request::Webhook { marker, body } => {
                let sequence = self.webhook(body, "sequence", 200).await?;
                Ok(Some(Accepted::Input { marker: marker.clone(), sequence, sent_ms }))
            }
            Request::Unreadable { body } => {
                let sequence = self.webhook(body, "dead_letter", 400).await?;
                Ok(Some(Accepted::DeadLetter { body: body.clone(), sequence, sent_ms }))
            }
            Request::Publish { marker, subject, body } => {
                let result = self.publish(marker, subject, body).await;
                if result.is_err() {
                    self.nats = None;
                    self.shared.refused_by_nats.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Some(Accepted::Input { marker: marker.clone(), sequence: Some(result?), sent_ms }))
            }
            Request::Raw { subject, headers, body } => {
                let url = self.shared.endpoints().nats;
                timeout(RAW_TIMEOUT, publish_raw(&url, subject, headers, body)).await??;
                Ok(None)
            }
        }
    }

    /// Posts a webhook. If the status is the expected one, returns the number in this field of the answer; `None` if relink promises only
    /// that the webhook is in its journal, and the answer says so.
    async fn webhook(&self, body: &str, field: &str, expected: u16) -> Result<Option<u64>> {
        let sent_at = Instant::now();
        let result = async {
            let Endpoints { http, acknowledge, .. } = self.shared.endpoints();
            let url = format!("{http}/webhooks/belvo");
            let field = if acknowledge == Acknowledge::Journal { "journal" } else { field };
            let request = self.http.post(url).header("authorization", WEBHOOK_SECRET);
            let answer = request.header("content-type", "application/json").body(body.to_owned()).send().await?;
            ensure!(answer.status() == expected, "status {}", answer.status());
            let answer: Value = answer.json().await?;
            let number = answer[field].as_u64().with_context(|| format!("no {field} in {answer}"))?;
            Ok((acknowledge == Acknowledge::Stream).then_some(number))
        };
        let result = result.await;
        self.shared.readiness.answered(sent_at, result.is_ok());
        if result.is_err() {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn publish(&mut self, marker: &str, subject: &str, body: &str) -> Result<u64> {
        let url = self.shared.endpoints().nats;
        let context = match &self.nats {
            Some((of, context)) if *of == url => context.clone(),
            _ => {
                let context = jetstream::new(connect(&url).await?);
                self.nats = Some((url, context.clone()));
                context
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", marker);
        let publish = context.publish_with_headers(subject.to_owned(), headers, body.to_owned().into());
        let ack = timeout(RAW_TIMEOUT, async { publish.await?.await }).await??;
        Ok(ack.sequence)
    }
}

/// Publishes one message byte by byte on a connection of its own, and waits until the server has read it.
async fn publish_raw(url: &str, subject: &str, headers: &[u8], body: &[u8]) -> Result<()> {
    let url = reqwest::Url::parse(url)?;
    let address = (url.host_str().context("a host")?, url.port().context("a port")?);
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.read_line(&mut String::new()).await?;
    let mut connect = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true});
    if let Some(password) = url.password() {
        connect["user"] = url.username().into();
        connect["pass"] = password.into();
    }
    let frame = format!("CONNECT {connect}\r\nHPUB {subject} {} {}\r\n", headers.len(), headers.len() + body.len());
    let frame = [frame.as_bytes(), headers, body, b"\r\nPING\r\n"].concat();
    stream.get_mut().write_all(&frame).await?;
    let mut line = String::new();
    while line != "PONG\r\n" {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "the connection was closed");
        ensure!(!line.starts_with("-ERR"), "refused: {line}");
    }
    Ok(())
}
