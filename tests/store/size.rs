//! The store's size on the disk has a bound, whatever the number of updates.
//!
//! `RELINK_TEST_UPDATES=<n>` sets the number of updates (20,000), `RELINK_TEST_LINKS=<n>` the number of links (2,000).

#![expect(clippy::unwrap_used, reason = "a panic shows where a test failed")]

use std::fs;
use std::path::Path;

use relink::contract::CommittedOffset;
use relink::link::{LinkId, StateName, Timestamp};
use relink::store::{Changes, Head, Position, Put, Query, SledStore, Store};
use strum::VariantArray;

/// The bound of the documents: 64 MiB, and six times the content. A link of this test has less than 1,400 bytes, as in relink.
const FLOOR_BYTES: u64 = 64 << 20;
const BYTES_PER_LINK: u64 = 6 * 1_400;

/// The load that made the files grow: 500 webhooks a second, in small commits, and a checkpoint a second.
const COMMIT_PUTS: usize = 4;
const CHECKPOINT_EVERY: usize = 500;

#[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { size(&path) } else { fs::metadata(path).map_or(0, |file| file.len()) }).sum()
}

fn id(n: usize) -> LinkId {
    format!("00000000-0000-4000-8000-{n:012}").parse().unwrap()
}

#[test]
fn the_size_on_the_disk_has_a_bound() {
    let (links, updates) = (number("RELINK_TEST_LINKS", 2_000), number("RELINK_TEST_UPDATES", 20_000));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = SledStore::open(&path, 64 << 20).unwrap().store;
    let mut random = fastrand::Rng::with_seed(7);
    let mut versions = vec![0_u64; links];
    let (mut written, mut largest) = (0, 0);
    let started = relink::clock::instant();
    while written < updates {
        let mut puts = Vec::new();
        for _ in 0..COMMIT_PUTS {
            let n = random.usize(..links);
            versions[n] += 1;
            let state = StateName::VARIANTS[random.usize(..StateName::VARIANTS.len())];
            let deadline = random.bool().then(|| Timestamp::from_millis(random.i64(0..1_000_000)));
            let head = Head { state, partition: 3, version: versions[n], deadline };
            puts.push(Put::of_record(id(n), head, format!("{:01300}", random.u64(..)).into_bytes()));
        }
        written += puts.len();
        let sequence = written as u64;
        let offset = CommittedOffset { stream_created_ns: 1, sequence, stored_at_ns: 1, journals: Vec::new() };
        let position = Some(Position { stream_created_ns: 1, sequence, witness: None });
        let offsets = vec![(random.u16(..16), offset)];
        store.apply(&Changes { puts, offsets, position, ..Changes::default() }).unwrap();
        if written.is_multiple_of(CHECKPOINT_EVERY) {
            store.checkpoint().unwrap();
        }
        largest = largest.max(size(&path));
    }
    eprintln!("{written} updates of {links} links in {:?}: at most {largest} bytes", started.elapsed());
    // While the database is checked, it may grow by the next segments of sled.
    let bound = FLOOR_BYTES + BYTES_PER_LINK * links as u64 + (8 << 20);
    assert!(largest <= bound, "{largest} bytes, but the bound is {bound}");
    let page = store.page(&Query { limit: usize::MAX, ..Query::default() }).unwrap();
    let found: Vec<_> = page.ids.iter().zip(&page.links).map(|(id, link)| (id.clone(), link.head.version)).collect();
    let expected = versions.iter().enumerate().filter(|(_, version)| **version > 0);
    assert!(found.into_iter().eq(expected.map(|(n, version)| (id(n), *version))));
}

#[test]
#[ignore = "a measurement: the time of a start, which scans the whole store"]
fn the_time_to_open() {
    let links = number("RELINK_TEST_LINKS", 1_000_000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    {
        let store = SledStore::open(&path, 256 << 20).unwrap().store;
        let head = Head { state: StateName::Valid, partition: 3, version: 1, deadline: None };
        for from in (0..links).step_by(1_000) {
            let puts = (from..from + 1_000).map(|n| Put::of_record(id(n), head, format!("{n:0500}").into_bytes()));
            store.apply(&Changes { puts: puts.collect(), ..Changes::default() }).unwrap();
        }
        store.checkpoint().unwrap();
    }
    for _ in 0..3 {
        let started = relink::clock::instant();
        let opened = SledStore::open(&path, 256 << 20).unwrap();
        eprintln!("{links} links were opened and checked in {:?}", started.elapsed());
        assert_eq!(opened.quarantined, None);
    }
}
