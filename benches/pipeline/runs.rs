//! The measurements: the node, the limit, one webhook at a time, and a rebuild.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use relink::clock;
use relink::contract::{Because, Origin, OriginKind, Record};
use relink::link::{Link, Policy, PolicySettings, step};
use relink::nats::batch::{BatchMessage, StagedBatch};
use relink::nats::node::{Node, NodeError, NodeOptions};
use relink::nats::partition::{self, FromReader};
use relink::nats::subject::Subjects;
use relink::node::{Phase, ReaderId};
use relink::store::{SledStore, Store};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::load::{self, LoadInput};
use crate::measure::{Run, cpu, cpu_between};
use crate::support::{TestNats, within};

pub(crate) const PARTITIONS: u16 = 16;

const STORE_CACHE_BYTES: u64 = 128 * 1024 * 1024;

/// The batches of a node, without the headers of a batch, so that they can be committed again.
pub(crate) type Batches = Vec<Vec<BatchMessage>>;

pub(crate) struct Running {
    pub(crate) store: SledStore,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), NodeError>>,
}

impl Running {
    pub(crate) async fn start(nats: &TestNats) -> Self {
        let store = open(nats, "store");
        let options = NodeOptions {
            subjects: Subjects::default(),
            partitions: PARTITIONS,
            owner: "bench".to_owned(),
            policy: policy(),
        };
        let node = Node::new(nats.connect().await, options, store.clone());
        let mut phase = node.phase();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(node.run(shutdown.clone()));
        // Without a time limit: a rebuild of many links takes minutes.
        phase.wait_for(|phase| *phase == Phase::Running).await.map(drop).expect("the node runs");
        Self { store, shutdown, task }
    }

    /// Waits until the store has the committed offset of each of these inputs.
    pub(crate) async fn reach(&self, ends: &BTreeMap<u16, u64>) {
        let handled = || {
            let offsets = self.store.offsets().expect("the store can be read");
            ends.iter().all(|(partition, end)| offsets.get(partition).is_some_and(|offset| offset.sequence >= *end))
        };
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !handled() {
            look.tick().await;
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        within("stopping", self.task).await.expect("no panic").expect("a clean end");
    }
}

fn open(nats: &TestNats, name: &str) -> SledStore {
    SledStore::open(&nats.dir.path().join(name), STORE_CACHE_BYTES).expect("a store in a temporary directory").store
}

/// All links here are of one institution and fail within seconds. That must not be an incident, which would defer every prompt.
fn policy() -> Policy {
    let settings = PolicySettings { can_verify: true, incident_links: 0, ..PolicySettings::default() };
    Policy::new(settings).expect("the settings are in range")
}

/// A new server with all inputs.
async fn server_with(inputs: &[LoadInput]) -> TestNats {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    publish(&nats, inputs).await;
    nats
}

pub(crate) async fn publish(nats: &TestNats, inputs: &[LoadInput]) {
    let (subjects, batches) = (Subjects::default(), nats.batches());
    for slice in inputs.chunks(1_000) {
        let message = |input: &LoadInput| {
            BatchMessage::new(subjects.input(input.kind, &input.link), input.body.clone().into_bytes())
        };
        batches.publish_atomic(slice.iter().map(message).collect()).await.expect("the input is stored");
    }
}

/// The last input of each partition.
pub(crate) async fn ends(nats: &TestNats) -> BTreeMap<u16, u64> {
    let input = nats.context.get_stream("BELVO").await.expect("the stream");
    let mut ends = BTreeMap::new();
    for partition in 0..PARTITIONS {
        if let Ok(last) = input.get_last_raw_message_by_subject(&Subjects::default().partition(partition)).await {
            ends.insert(partition, last.sequence);
        }
    }
    ends
}

/// Runs the node until it has handled all inputs, and returns its batches.
pub(crate) async fn node(inputs: &[LoadInput]) -> (Run, Batches) {
    let nats = server_with(inputs).await;
    let ends = ends(&nats).await;
    // The time for taking the partitions is not measured.
    let running = Running::start(&nats).await;
    let (before, began) = (cpu(&nats), clock::instant());
    running.reach(&ends).await;
    let (took, cpu) = (began.elapsed(), cpu_between(before, cpu(&nats)));
    running.stop().await;
    let batches = committed(&nats).await;
    let messages = batches.iter().map(Vec::len).sum();
    (Run { inputs: inputs.len(), messages, batches: batches.len(), took, cpu }, batches)
}

/// Reads the node's commits from the output stream, batch by batch.
async fn committed(nats: &TestNats) -> Batches {
    let mut batches: Batches = Vec::new();
    let mut last = None;
    for (_, subject, headers, payload) in nats.read("KV_links").await {
        if subject.starts_with("link.fence.") {
            continue;
        }
        let batch = headers.get("Nats-Batch-Id").map(|id| id.as_str().to_owned());
        let mut plain = HeaderMap::new();
        for (name, values) in headers.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-")) {
            values.iter().for_each(|value| plain.append(name.clone(), value.clone()));
        }
        // A commit of one message is a plain publish and has no batch.
        if batch.is_none() || batch != last {
            batches.push(Vec::new());
        }
        last = batch;
        batches.last_mut().expect("one was pushed").push(BatchMessage::new(subject, payload).with_headers(plain));
    }
    batches
}

/// Pulls the same deliveries and commits the same batches. Each batch is staged while the one before commits.
pub(crate) async fn limit(inputs: &[LoadInput], batches: &Batches) -> Run {
    let nats = server_with(inputs).await;
    let client = nats.connect().await;
    let messages: usize = batches.iter().map(Vec::len).sum();
    let context = async_nats::jetstream::new(client.clone());
    let (queue, mut deliveries) = mpsc::channel(2_048);
    let mut partitions = JoinSet::new();
    for partition in 0..PARTITIONS {
        let reader = ReaderId(u64::from(partition));
        partitions.spawn(partition::read(context.clone(), reader, partition, 0, Subjects::default(), queue.clone()));
    }
    let (before, began) = (cpu(&nats), clock::instant());
    let publisher = relink::nats::batch::Batches::new(client.clone(), relink::nats::batch::BATCH_TIMEOUT);
    let (mut pulled, mut committed) = (0, 0);
    let mut arrived = Vec::new();
    let mut receipts: VecDeque<BTreeMap<u16, String>> = VecDeque::new();
    let mut in_flight: Option<JoinHandle<_>> = None;
    for batch in batches {
        // A batch is sent after its share of the deliveries has arrived.
        let count = batch.len();
        let due = (inputs.len() * (committed + count)).div_ceil(messages);
        let mut slice = BTreeMap::new();
        while pulled < due {
            deliveries.recv_many(&mut arrived, due - pulled).await;
            for from_reader in arrived.drain(..) {
                match from_reader {
                    FromReader::Delivered(delivered) => {
                        pulled += 1;
                        slice.insert(delivered.delivery.partition, delivered.delivery.receipt);
                    }
                    FromReader::Rewound { .. } => {}
                    FromReader::Failed(_, problem) => panic!("{problem}"),
                }
            }
        }
        let staged: StagedBatch = publisher.stage(batch.clone()).await.expect("staged");
        if let Some(answer) = in_flight.take() {
            finish(&client, answer, &mut receipts).await;
        }
        in_flight = Some(tokio::spawn(staged.commit()));
        receipts.push_back(slice);
        committed += count;
    }
    if let Some(answer) = in_flight.take() {
        finish(&client, answer, &mut receipts).await;
    }
    let (took, cpu) = (began.elapsed(), cpu_between(before, cpu(&nats)));
    Run { inputs: inputs.len(), messages, batches: batches.len(), took, cpu }
}

async fn finish<A, E: std::fmt::Debug>(
    client: &async_nats::Client,
    answer: JoinHandle<Result<A, E>>,
    receipts: &mut VecDeque<BTreeMap<u16, String>>,
) {
    answer.await.expect("no panic").expect("committed");
    for receipt in receipts.pop_front().into_iter().flat_map(BTreeMap::into_values) {
        client.publish(receipt, "+ACK".into()).await.expect("acknowledged");
    }
}

/// Publishes one webhook at a time. Returns the milliseconds from the publish until a subscriber has the notice.
pub(crate) async fn latency(count: usize) -> Vec<f64> {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    // relink reads a link that it does not know before it prompts. This bench has no Belvo, so relink gets to know the links first.
    publish(&nats, &(0..count).map(load::sighting).collect::<Vec<_>>()).await;
    let ends = ends(&nats).await;
    let running = Running::start(&nats).await;
    running.reach(&ends).await;
    let stream = nats.context.get_stream("KV_links").await.expect("the stream");
    let config = pull::OrderedConfig { filter_subject: "link.notice.>".to_owned(), ..pull::OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let mut notices = consumer.messages().await.expect("messages");
    let mut took_ms = Vec::with_capacity(count);
    for link in 0..count {
        let webhook = load::breakage(link);
        let subject = Subjects::default().input(webhook.kind, &webhook.link);
        let began = clock::instant();
        let ack = nats.context.publish(subject, webhook.body.into()).await.expect("published");
        let stored = async { ack.await.expect("stored") };
        let (_, notice) = tokio::join!(stored, within("a notice", notices.next()));
        took_ms.push(began.elapsed().as_secs_f64() * 1e3);
        let subject = notice.expect("a notice").expect("a message").subject.to_string();
        assert_eq!(subject, format!("link.notice.update_required.{}", webhook.link));
    }
    running.stop().await;
    took_ms
}

/// Starts a node with an empty store over a stream with the states of `links` links, and waits until every partition runs.
pub(crate) async fn rebuild(links: usize) -> (u64, Duration) {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    publish_states(&nats, (0..links).map(load::breakage)).await;
    let began = clock::instant();
    let running = Running::start(&nats).await;
    let took = began.elapsed();
    let count = running.store.count().expect("the store can be read").values().sum();
    running.stop().await;
    (count, took)
}

/// Publishes the state that each of these inputs gives a new link.
pub(crate) async fn publish_states(nats: &TestNats, first: impl Iterator<Item = LoadInput>) {
    let (subjects, batches) = (Subjects::default(), nats.batches());
    let mut first = first.peekable();
    while first.peek().is_some() {
        let messages = first.by_ref().take(1_000).map(|input| {
            let record = serde_json::to_vec(&record(&input)).expect("a record is JSON");
            BatchMessage::new(subjects.state(&input.link), record)
        });
        batches.publish_atomic(messages.collect()).await.expect("the states are stored");
    }
}

/// The record of a link after its first input.
fn record(input: &LoadInput) -> Record {
    let now = clock::now();
    let id = input.link.parse().expect("an id");
    let input = match relink::belvo::translate(input.kind, &id, input.body.as_bytes(), now).expect("an input") {
        relink::belvo::Meaning::Event(input) => input,
        other => panic!("{other:?} is no event"),
    };
    let step = step(&Link::unknown(id, now), &input, now, &policy()).expect("a step");
    let origin = Origin { kind: OriginKind::Webhook, input_sequence: Some(1), ..Origin::timer(now) };
    let because = Because::of(&step, &input, origin);
    Record::of(&step.link, 0, because, Vec::new())
}
