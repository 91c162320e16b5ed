//! The real binary is killed while it sends notices and forwarded webhooks: what it has accepted arrives, and a repeat has the same id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relink::nats::stream::{OutboundConsumer, StreamSettings, ensure_all};
use relink::nats::subject::Subjects;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::capture;
use crate::receiver::{Received, Receiver};
use crate::support::binary::{Relink, client};
use crate::support::{TestNats, webhook, within};

const LINKS: usize = 24;
/// How many requests each target answers before the crash. The next ones are open when relink is killed: 8, which is its limit.
const ANSWERED: usize = 10;
const OPEN: usize = 8;

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A target, and the requests that it has accepted.
struct Accepting {
    receiver: Receiver,
    accepted: Arc<Mutex<Vec<Received>>>,
    /// All requests that have arrived.
    arrived: Vec<Received>,
}

impl Accepting {
    /// A target that leaves requests open after the first ones.
    async fn start() -> Self {
        let accepted = Arc::<Mutex<Vec<Received>>>::default();
        let list = Arc::clone(&accepted);
        let receiver = Receiver::start(move |received| {
            let mut list = list.lock().unwrap();
            (list.len() < ANSWERED).then(|| {
                list.push(received.clone());
                200
            })
        });
        Self { receiver: receiver.await, accepted, arrived: Vec::new() }
    }

    fn accept_everything(&self) {
        let list = Arc::clone(&self.accepted);
        self.receiver.answer_with(move |received| {
            list.lock().unwrap().push(received.clone());
            Some(200)
        });
    }

    async fn wait_for(&mut self, is_reached: impl Fn(&Self) -> bool) {
        while !is_reached(self) {
            let received = self.receiver.next().await;
            self.arrived.push(received);
        }
    }

    /// The names of what was accepted, as `name` reads them.
    fn accepted(&self, name: impl Fn(&Received) -> Option<String>) -> BTreeSet<String> {
        self.accepted.lock().unwrap().iter().filter_map(name).collect()
    }

    /// How often each id has arrived, and with which bodies.
    fn by_id(&self, header: &str) -> BTreeMap<String, Vec<Received>> {
        let mut by_id = BTreeMap::<_, Vec<_>>::new();
        for received in &self.arrived {
            by_id.entry(received.header(header).to_owned()).or_default().push(received.clone());
        }
        by_id
    }
}

fn body(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap()
}

fn link_of_prompt(received: &Received) -> Option<String> {
    let body = body(received);
    (body["type"] == "update_required").then(|| body["link_id"].as_str().unwrap().to_owned())
}

fn link_of_webhook(received: &Received) -> Option<String> {
    body(received)["link_id"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_deliveries_loses_nothing_and_repeats_have_the_same_id() {
    // Before the log that `TestNats` would start.
    capture::start();
    let nats = TestNats::start().await;
    // As relink declares them, with a shorter wait for what the killed process had: relink leaves the wait as it is.
    let settings = StreamSettings {
        partitions: 4,
        outbound: vec![OutboundConsumer::Notices, OutboundConsumer::Webhooks],
        outbound_ack_wait: Duration::from_secs(1),
        ..StreamSettings::default()
    };
    ensure_all(&nats.context, &Subjects::default(), &settings).await.unwrap();
    let (mut notices, mut webhooks) = (Accepting::start().await, Accepting::start().await);
    let data = nats.dir.path().join("relink");
    let (notices_url, webhooks_url) = (notices.receiver.url(), webhooks.receiver.url());
    let settings = [
        ("RELINK_NOTICES_URL", notices_url.as_str()),
        ("RELINK_NOTICES_SECRETS", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
        ("RELINK_FORWARD_URL", webhooks_url.as_str()),
    ];
    let nats_url = nats.server.url_with_login();
    let mut relink = Relink::serve(nats_url.expose_secret(), &data, &settings).await;
    let client = client();
    for n in 0..LINKS {
        assert_eq!(relink.webhook(&client, webhook(&link(n), "token_required", n)).await, Some(200));
    }
    for target in [&mut notices, &mut webhooks] {
        target.wait_for(|target| target.arrived.len() == ANSWERED + OPEN).await;
    }
    // One that relink accepts just before its end.
    assert_eq!(relink.webhook(&client, webhook(&link(LINKS), "token_required", LINKS)).await, Some(200));
    within("the kill", relink.child.kill()).await.unwrap();
    for target in [&notices, &webhooks] {
        target.accept_everything();
    }

    let mut relink = Relink::serve(nats_url.expose_secret(), &data, &settings).await;
    let all: BTreeSet<String> = (0..=LINKS).map(link).collect();
    notices.wait_for(|target| target.accepted(link_of_prompt) == all).await;
    webhooks.wait_for(|target| target.accepted(link_of_webhook) == all).await;
    relink.signal("TERM").await;
    assert!(relink.ended().await.success(), "{:?}", relink.seen);

    for (target, header) in [(&mut notices, "webhook-id"), (&mut webhooks, "relink-message-id")] {
        let rest = target.receiver.rest();
        target.arrived.extend(rest);
        let by_id = target.by_id(header);
        assert!(!by_id.contains_key(""), "each request has an id");
        // Each id is one message, and each link has one: a repeat has the id of the first attempt.
        assert!(by_id.values().all(|received| received.iter().all(|one| one.body == received[0].body)), "{header}");
        let links: Vec<_> = by_id.values().filter_map(|received| link_of_webhook(&received[0])).collect();
        assert_eq!((links.len(), links.into_iter().collect::<BTreeSet<_>>()), (all.len(), all.clone()), "{header}");
        let repeated = by_id.values().filter(|received| received.len() > 1).count();
        assert!(repeated >= OPEN, "{repeated} messages were sent again; {OPEN} had no answer ({header})");
    }
}
