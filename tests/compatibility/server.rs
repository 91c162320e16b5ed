//! An upgraded relink on a real nats-server whose streams hold the data of one version.

use std::collections::BTreeMap;

use relink::clock;
use relink::contract::without_secrets;
use relink::nats::commit::Fences;
use relink::nats::dead_letter::DeadLetters;
use relink::nats::replica::catch_up;
use relink::nats::subject::Subjects;
use relink::store::MemoryStore;

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

/// The partitions are taken over, and an empty store is rebuilt from LINKS.
pub(crate) async fn take_over(corpus: &Corpus, version: &Version) {
    let (nats, subjects, policy) = (TestNats::start_with_streams(PARTITIONS).await, Subjects::default(), policy(true));
    let lines = corpus.lines(LINKS);
    fill(&nats, &lines).await;
    let fences = Fences::take(&nats.batches(), &subjects, PARTITIONS, "upgraded", clock::now()).await.unwrap();
    let stream = nats.context.get_stream("LINKS").await.unwrap();
    let store = MemoryStore::default();
    let caught_up = catch_up(&stream, REBUILT_FROM, fences.last_sequence(), &subjects, &policy, &store).await;
    match (caught_up, version.messages) {
        (Ok(_), Promise::Reads) => {}
        (Err(error), Promise::Refuses(saying)) if error.to_string().contains(saying) => return,
        (caught_up, promise) => panic!("{}: {promise:?}, and catching up came to {caught_up:?}", version.name),
    }
    assert_eq!(everything(&store), everything(&rebuild(&lines, &policy).unwrap()), "{}", version.name);
}

/// Dead letters are listed with the message they were made of, and can be replayed if it was an input.
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
        // What 0.1.0 set aside kept an open MFA session; from then on none is kept.
        let unchanged = kept.payload() == input.payload();
        let cleaned = without_secrets(&input.payload()).is_some_and(|cleaned| kept.payload() == cleaned);
        assert!(kept.subject == input.subject && (unchanged || cleaned), "{place}");
        assert_eq!(kept.headers, input.headers, "{place}");
        let is_input = Subjects::default().parse_input(&subject).is_some();
        assert_eq!(dead_letters.replay(sequence).await.is_ok(), is_input, "{place}");
    }
}
