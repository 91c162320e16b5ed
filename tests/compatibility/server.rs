//! An upgraded relink on a real nats-server whose streams have the data of one version.

use std::collections::BTreeMap;

use relink::clock;
use relink::contract::without_secrets;
use relink::link::Policy;
use relink::nats::commit::take_fences;
use relink::nats::dead_letter::DeadLetters;
use relink::nats::subject::{OutputSubject, Subjects};
use relink::node::{End, Input, Node, NodeOptions, Output, OutputKind, OutputMessage, PLAN_AHEAD_MIN, StreamFacts};
use relink::store::{MemoryStore, Store};

use crate::check::{REBUILT_FROM, everything, policy, rebuild};
use crate::corpus::{Corpus, DEAD_LETTERS, INPUTS, LINKS, Line};
use crate::support::TestNats;
use crate::{PARTITIONS, Promise, Version};

async fn fill(nats: &TestNats, lines: &[Line]) {
    for line in lines {
        let sent = nats.context.publish_with_headers(line.subject.clone(), line.own_headers(), line.payload()).await;
        sent.unwrap().await.unwrap();
    }
}

/// The node takes the partitions, and rebuilds an empty store from KV_links.
pub(crate) async fn take_over(corpus: &Corpus, version: &Version) {
    let (nats, policy) = (TestNats::start_with_streams(PARTITIONS).await, policy(true));
    let lines = corpus.lines(LINKS);
    fill(&nats, &lines).await;
    let store = MemoryStore::default();
    match (catch_up(&nats, &policy, &store).await, version.messages) {
        (Ok(()), Promise::Reads) => {}
        (Err(why), Promise::Refuses(saying)) if format!("{why:?}").contains(saying) => return,
        (caught_up, promise) => panic!("{}: {promise:?}, but catching up gave {caught_up:?}", version.name),
    }
    assert_eq!(everything(&store), everything(&rebuild(&lines, &policy).unwrap()), "{}", version.name);
}

/// Drives the shipped node until it asks for the input stream. Then its store has caught up with the output stream.
async fn catch_up(nats: &TestNats, policy: &Policy, store: &MemoryStore) -> Result<(), End> {
    let (subjects, now) = (Subjects::default(), clock::now());
    let (owner, plan_ahead_min) = ("upgraded".to_owned(), PLAN_AHEAD_MIN);
    let writer = owner.clone();
    let options = NodeOptions { owner, writer, partitions_count: PARTITIONS, policy: policy.clone(), plan_ahead_min };
    let mut node = Node::new(options, store.clone());
    node.handle(now, Input::Gained { partitions: (0..PARTITIONS).collect() });
    while let Some(output) = node.poll_output() {
        let answer = match output {
            Output::ReadOutputFacts { request } => {
                let last_sequence = nats.read("KV_links").await.last().map_or(0, |(sequence, ..)| *sequence);
                Input::OutputFacts { request, stream: StreamFacts { created_ns: REBUILT_FROM, last_sequence } }
            }
            Output::TakeFences { request, fences, closing } => {
                let (fences, closing) = take_fences(&nats.batches(), &subjects, fences, closing).await.unwrap();
                Input::FencesTaken { request, fences, closing }
            }
            Output::ReadOutput { request, after, up_to } => {
                let behind = nats.read("KV_links").await.into_iter().filter(|(sequence, ..)| Some(*sequence) > after);
                let messages = behind.map(|(sequence, subject, _, body)| {
                    let kind = match subjects.parse_output(&subject) {
                        Some(OutputSubject::State { .. }) => OutputKind::State,
                        Some(OutputSubject::Offset { partition }) => OutputKind::Offset(partition),
                        Some(OutputSubject::Incident { .. }) => OutputKind::Incident,
                        Some(OutputSubject::Commit { .. }) => OutputKind::Commit,
                        _other => OutputKind::Other,
                    };
                    OutputMessage { sequence, kind, body }
                });
                Input::OutputRead { request, messages: messages.collect(), reached: up_to }
            }
            Output::Apply { request, changes } => {
                store.apply(&changes).unwrap();
                Input::Applied { request }
            }
            Output::Checkpoint { request } => Input::Checkpointed { request },
            Output::ReadInputFacts { .. } => return Ok(()),
            Output::End { why } => return Err(why),
            Output::Note(_) | Output::WakeAt { .. } | Output::ReadStreamTime { .. } => continue,
            other => panic!("catching up asks for {other:?}"),
        };
        node.handle(now, answer);
    }
    panic!("the node has no outputs, but has not caught up")
}

/// Dead letters are listed with their original message, and can be replayed if it was an input.
pub(crate) async fn read_dead_letters(corpus: &Corpus, version: &Version) {
    let (nats, name) = (TestNats::start_with_streams(PARTITIONS).await, version.name);
    let inputs: BTreeMap<u64, Line> = corpus.lines(INPUTS).into_iter().map(|line| (line.sequence, line)).collect();
    let lines = corpus.lines(DEAD_LETTERS);
    fill(&nats, &lines).await;
    let dead_letters = DeadLetters::new(nats.context.clone(), Subjects::default());
    let letters = dead_letters.list(0, usize::MAX).await.unwrap();
    assert_eq!(letters.len(), lines.len(), "{name}");
    for (letter, line) in letters.into_iter().zip(&lines) {
        let place = format!("{name}: dead letter {}", line.sequence);
        assert_eq!(line.subject, format!("relink.dead.{}", letter.reason), "{place}");
        assert!(!letter.detail.is_empty() && letter.truncated_from.is_none(), "{place}");
        let Some(input) = letter.input_sequence.map(|sequence| &inputs[&sequence]) else {
            assert_eq!((letter.subject.as_str(), letter.input_stream), ("/webhooks/belvo", None), "{place}");
            continue;
        };
        let sequence = letter.sequence;
        let subject = letter.subject.clone();
        let kept = Line::of((input.sequence, letter.subject, letter.headers, letter.payload));
        // A dead letter of 0.1.0 has an open MFA session; later versions remove it.
        let unchanged = kept.payload() == input.payload();
        let cleaned = without_secrets(&input.payload()).is_some_and(|cleaned| kept.payload() == cleaned);
        assert!(kept.subject == input.subject && (unchanged || cleaned), "{place}");
        assert_eq!(kept.headers, input.headers, "{place}");
        let is_input = Subjects::default().parse_input(&subject).is_some();
        assert_eq!(dead_letters.replay(sequence, None).await.is_ok(), is_input, "{place}");
    }
}
