//! Writes the data of today's relink as a version. relink's own code makes every byte.
//!
//! The streams come from a run on a real nats-server: inputs are published, planned by the engine, committed as fenced batches, and
//! applied to a sled store, as in the node. Only the times come from the script.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use async_nats::HeaderMap;
use bytes::Bytes;
use relink::contract::{Address, At, Commit, DeadReason, JobName, NoticeName};
use relink::engine::{self, DeadDelivery, Delivery, Engine};
use relink::link::{InstitutionNotices, Policy, PolicySettings, StateName, Timestamp};
use relink::nats::commit::{closing, stage, take_fences};
use relink::nats::dead_letter::{DeadLetter, DeadLetters, InputPosition};
use relink::nats::envelope;
use relink::nats::stream::{StreamIdentity, extent};
use relink::nats::subject::{OutputSubject, Subjects};
use relink::node::{Closing, FenceToTake, fence_message};
use relink::store::{Changes, Position, SledStore, Store, Witness};
use serde_json::Value;
use strum::VariantArray;

use crate::check::{meaning_of, put};
use crate::corpus::{Corpus, DEAD_LETTERS, INPUTS, LINKS, Line, RECORDS};
use crate::script::{INCIDENT_LINKS, Input, Moment, moments};
use crate::support::TestNats;
use crate::{CACHE_BYTES, PARTITIONS, records};

/// Writes a version into a directory that must not exist yet.
pub(crate) async fn write(directory: &Path, walks_count: u64) -> Corpus {
    assert!(!directory.exists(), "{} exists already, and a version must never change", directory.display());
    fs::create_dir_all(directory).unwrap();
    let corpus = Corpus { directory: directory.to_owned() };
    let records = tokio::task::spawn_blocking(move || records::lines(walks_count)).await.unwrap();
    corpus.write(RECORDS, &records);
    let policy = Policy::new(PolicySettings {
        can_verify: true,
        incident_links: INCIDENT_LINKS,
        institution_notices: InstitutionNotices::All,
        ..PolicySettings::default()
    })
    .unwrap();
    {
        let store = SledStore::open(&corpus.store(), CACHE_BYTES).unwrap().store;
        let mut run = Run::start(store.clone(), policy.clone()).await;
        let inputs = run.publish(moments()).await;
        run.play(&inputs).await;
        run.set_aside_a_request().await;
        run.write(&corpus, inputs).await;
        let puts =
            corpus.stored_records().into_iter().map(|record| put(&Bytes::from(record), &policy).unwrap()).collect();
        store.apply(&Changes { puts, ..Changes::default() }).unwrap();
        store.checkpoint().unwrap();
    }
    // Opening waits until sled has released the first handle. The second handle writes nothing.
    drop(SledStore::open(&corpus.store(), CACHE_BYTES).unwrap());
    corpus
}

struct Run {
    nats: TestNats,
    subjects: Subjects,
    letters: DeadLetters,
    fences: BTreeMap<u16, u64>,
    closed_at: u64,
    input: StreamIdentity,
    output_created_ns: i64,
    engine: Engine<SledStore>,
}

/// A moment, with its input as the server stored it.
type Stored = (Timestamp, Option<(Line, Delivery)>);

/// The owner of the fences.
const OWNER: &str = "relink-7d4b9c";

fn closing_message(at: Timestamp) -> engine::Message {
    let body = serde_json::to_vec(&Commit { owner: OWNER.to_owned(), sent_at: At(at), links: None }).unwrap();
    let id = format!("commit.{OWNER}.{}", at.as_millis());
    engine::Message { address: Address::Commit(OWNER.to_owned()), id, at, body: body.into(), trace: None }
}

impl Run {
    async fn start(store: SledStore, policy: Policy) -> Self {
        let (nats, subjects) = (TestNats::start_with_streams(PARTITIONS).await, Subjects::default());
        let began = moments()[0].at;
        let fence = |partition| {
            let message = fence_message(partition, OWNER, began);
            FenceToTake { partition, expects: None, message }
        };
        let fences = (0..PARTITIONS).map(fence).collect();
        let (fences, closed_at) =
            take_fences(&nats.batches(), &subjects, fences, Some(closing_message(began))).await.unwrap();
        let letters = DeadLetters::new(nats.context.clone(), subjects.clone());
        let input = extent(&nats.context, "BELVO").await.unwrap().identity;
        let output_created_ns = created_ns(&extent(&nats.context, "KV_links").await.unwrap().identity);
        let engine = Engine::new(store, policy, created_ns(&input), &BTreeMap::new()).unwrap();
        Self { nats, subjects, letters, fences, closed_at: closed_at.unwrap(), input, output_created_ns, engine }
    }

    /// Publishes all inputs, and returns them as the stream has stored them.
    async fn publish(&self, moments: Vec<Moment>) -> Vec<Stored> {
        for Moment { at, input } in &moments {
            let Some(Input { subject, with_headers, header, body }) = input else { continue };
            let mut headers = HeaderMap::new();
            if let Some((kind, link)) = self.subjects.parse_published(subject).filter(|_| *with_headers) {
                headers = envelope::input_headers(kind, &link.parse().unwrap(), "/relink/http", *at);
            }
            if let Some((name, value)) = header {
                headers.insert(*name, *value);
            }
            let sent = self.nats.context.publish_with_headers(subject.clone(), headers, body.clone().into()).await;
            sent.unwrap().await.unwrap();
        }
        let mut stored = self.nats.read("BELVO").await.into_iter();
        let of_moment = |moment: Moment| {
            let message = moment.input.map(|_| stored.next().unwrap());
            (moment.at, message.map(|message| (input_line(message.clone(), moment.at), delivery(message, moment.at))))
        };
        moments.into_iter().map(of_moment).collect()
    }

    async fn play(&mut self, inputs: &[Stored]) {
        for (at, input) in inputs {
            let mut queue: VecDeque<Delivery> = input.iter().map(|(_, delivery)| delivery.clone()).collect();
            loop {
                let mut plan = self.engine.plan(&mut queue, *at).unwrap();
                if plan.is_idle() {
                    break;
                }
                for DeadDelivery { delivery, reason, detail } in std::mem::take(&mut plan.dead_letters) {
                    let input = Some(InputPosition {
                        stream: self.input.clone(),
                        sequence: delivery.sequence,
                        stored_at_ns: delivery.stored_at_ns,
                    });
                    let mut headers = HeaderMap::new();
                    delivery.headers.iter().for_each(|(name, value)| headers.append(name.as_str(), value.as_str()));
                    let letter = DeadLetter {
                        subject: delivery.subject,
                        headers,
                        payload: delivery.payload,
                        reason,
                        detail,
                        input,
                    };
                    self.letters.publish(&letter).await.unwrap();
                }
                let mut guarded = BTreeSet::new();
                let mut messages = std::mem::take(&mut plan.messages);
                for outgoing in &mut messages {
                    outgoing.fence = guarded.insert(outgoing.partition).then(|| self.fences[&outgoing.partition]);
                }
                let batch = stage(&self.nats.batches(), &self.subjects, messages).await.unwrap();
                let last = Closing { follows: self.closed_at, message: closing_message(*at) };
                let sequence = batch.commit(closing(&self.subjects, last)).await.unwrap().last_sequence;
                self.closed_at = sequence;
                let witness = Some(Witness { sequence, owner: OWNER.to_owned() });
                let position = Position { stream_created_ns: self.output_created_ns, sequence, witness };
                self.engine.store().apply(&plan.changes(Some(position))).unwrap();
                self.engine.record_commit(&plan);
            }
        }
    }

    /// The HTTP server dead-letters a webhook without a link; it is never an input.
    async fn set_aside_a_request(&self) {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json");
        let payload = Bytes::from_static(br#"{"webhook_type": "LINK"}"#);
        let (subject, detail) = ("/webhooks/belvo".to_owned(), "it names no link".to_owned());
        let letter = DeadLetter { subject, headers, payload, reason: DeadReason::NoLink, detail, input: None };
        self.letters.publish(&letter).await.unwrap();
    }

    async fn write(&self, corpus: &Corpus, inputs: Vec<Stored>) {
        let lines = |messages: Vec<_>| messages.into_iter().map(Line::of).collect::<Vec<_>>();
        let inputs: Vec<Line> = inputs.into_iter().filter_map(|(_, input)| Some(input?.0)).collect();
        let (links, dead) = (lines(self.nats.read("KV_links").await), lines(self.nats.read("RELINK_DEAD").await));
        assert_complete(&links, &dead, &inputs);
        corpus.write_lines(INPUTS, &inputs);
        corpus.write_lines(LINKS, &links);
        corpus.write_lines(DEAD_LETTERS, &dead);
    }
}

type Message = (u64, String, HeaderMap, Bytes);

fn input_line(message: Message, at: Timestamp) -> Line {
    let mut line = Line::of(message);
    line.stored_at = Some(At(at));
    line.means = Some(meaning_of(&line));
    line
}

fn delivery((sequence, subject, headers, payload): Message, at: Timestamp) -> Delivery {
    let tokens: Vec<String> = subject.split('.').map(str::to_owned).collect();
    // As in `nats::partition`: a subject that is none of an input has neither kind nor link.
    let input = Subjects::default().parse_input(&subject);
    let (kind, link) = input.map_or_else(Default::default, |input| (input.kind.to_string(), input.link_id.to_owned()));
    let headers = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    let stored_at_ns = at.as_millis() * 1_000_000;
    Delivery {
        partition: tokens[1].parse().unwrap(),
        sequence,
        stored_at_ns,
        subject,
        kind,
        link,
        headers,
        payload,
        receipt: String::new(),
    }
}

fn created_ns(stream: &StreamIdentity) -> i64 {
    i64::try_from(stream.created_ns).unwrap()
}

/// Checks that the run has every kind of message.
fn assert_complete(links: &[Line], dead: &[Line], inputs: &[Line]) {
    let mut there: BTreeSet<String> = BTreeSet::new();
    for line in links.iter().chain(dead) {
        there.insert(line.subject.rsplit_once('.').unwrap().0.to_owned());
        if line.subject.starts_with("relink.dead.") {
            there.insert(line.subject.clone());
        }
        let body: Value = serde_json::from_slice(&line.payload()).unwrap_or_default();
        let is_state = matches!(Subjects::default().parse_output(&line.subject), Some(OutputSubject::State { .. }));
        let kind = if is_state { "state" } else { line.subject.split('.').nth(1).unwrap() };
        let words = ["state", "type", "reason"].map(|field| body[field].as_str().map(|word| format!("{kind}:{word}")));
        there.extend(words.into_iter().flatten());
    }
    let mut wanted: Vec<String> =
        ["fence", "offset", "refused", "incident"].map(|kind| format!("link.{kind}")).to_vec();
    wanted.extend(NoticeName::VARIANTS.iter().map(|name| format!("link.notice.{}", name.as_str())));
    wanted.extend(JobName::VARIANTS.iter().map(|name| format!("link.job.{}", name.as_str())));
    wanted.extend(StateName::VARIANTS.iter().map(|name| format!("state:{}", name.as_str())));
    wanted.extend(["incident:began", "incident:ended"].map(str::to_owned));
    wanted.extend(
        ["repeated", "already_known", "not_about_the_link", "unknown", "removed"].map(|why| format!("refused:{why}")),
    );
    let reasons = [
        DeadReason::Malformed,
        DeadReason::NoLink,
        DeadReason::UnknownSubject,
        DeadReason::FutureVersion,
        DeadReason::UnknownCode,
    ];
    wanted.extend(reasons.map(|reason| format!("relink.dead.{}", reason.as_str())));
    let missing: Vec<_> = wanted.iter().filter(|wanted| !there.contains(*wanted)).collect();
    assert!(missing.is_empty(), "the run does not produce {missing:?}");
    let unclear: Vec<_> = inputs.iter().filter(|line| line.means.is_none()).collect();
    assert!(unclear.is_empty(), "{unclear:?}");
}
