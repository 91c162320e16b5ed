//! A store with a random damage is never believed: it has its true content, or an older content as a whole, or it is quarantined.
//!
//! Each round copies a closed store, damages one of its files, and opens it in a child process, because sled may panic in its own threads or
//! wait for ever. The child catches up like a node, so both a believed damage and a loop of failures fail the round.
//!
//! `RELINK_TEST_SEED=<n>` repeats a run; `RELINK_TEST_ROUNDS=<n>` and `RELINK_TEST_LINKS=<n>` make it longer.

#![expect(clippy::unwrap_used, reason = "a panic shows where a test failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use relink::contract::CommittedOffset;
use relink::link::{LinkId, StateName, Timestamp};
use relink::store::{Changes, Head, MemoryStore, Position, Put, Query, SledStore, Store, StoreError, StoredLink};
use strum::VariantArray;

const CACHE: u64 = 16 << 20;

/// The number of puts of one commit, as in a busy relink.
const COMMIT_PUTS: usize = 100;

/// An open store that is larger than its cache, so that it reads from its file.
const OPEN_LINKS: u64 = 4_000;
const OPEN_CACHE: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// A child that needs longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str, default: u64) -> u64 {
    setting(name).map_or(default, |value| value.parse().unwrap())
}

/// The commits that wrote the store. The position of a commit is its number, from 1.
fn commits(links: u64) -> Vec<Changes> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut versions = vec![0_u64; usize::try_from(links).unwrap()];
    let first = (0..versions.len()).collect::<Vec<_>>();
    let again = (0..versions.len()).map(|_| random.usize(..versions.len())).collect();
    let order = [first, again].concat();
    let commit = |(number, of_commit): (usize, &[usize])| {
        let mut changes = Changes::default();
        for &n in of_commit {
            versions[n] += 1;
            let state = StateName::VARIANTS[random.usize(..StateName::VARIANTS.len())];
            let deadline = random.bool().then(|| Timestamp::from_millis(random.i64(0..1_000_000)));
            let head = Head { state, partition: 3, version: versions[n], deadline };
            let record = format!("{{\"n\":{n},\"v\":{},\"filler\":\"{:0400}\"}}", versions[n], random.u64(..));
            let id: LinkId = format!("00000000-0000-4000-8000-{n:012}").parse().unwrap();
            changes.puts.push(Put::of_record(id, head, record.into_bytes()));
        }
        let sequence = number as u64 + 1;
        changes
            .offsets
            .push((3, CommittedOffset { stream_created_ns: 1, sequence, stored_at_ns: 1, journals: Vec::new() }));
        changes.position = Some(Position { stream_created_ns: 1, sequence, witness: None });
        changes
    };
    order.chunks(COMMIT_PUTS).enumerate().map(commit).collect()
}

/// All that a reader can get from a store.
type Everything = (Vec<StoredLink>, Vec<LinkId>, String);

fn everything(store: &dyn Store) -> Everything {
    try_everything(store).unwrap()
}

fn try_everything(store: &dyn Store) -> Result<Everything, StoreError> {
    let page = store.page(&Query { limit: usize::MAX, ..Query::default() })?;
    assert_eq!(page.unreadable, []);
    for (id, link) in page.ids.iter().zip(&page.links) {
        assert_eq!(store.get(id)?.as_ref(), Some(link));
    }
    let due = store.due(Timestamp::from_millis(i64::MAX - 1), usize::MAX)?;
    let rest = format!("{:?} {:?} {:?}", store.offsets()?, store.position()?, store.count()?);
    Ok((page.links, due, rest))
}

fn reached(store: &dyn Store) -> usize {
    store.position().unwrap().map_or(0, |position| usize::try_from(position.sequence).unwrap())
}

fn apply(store: &dyn Store, commits: &[Changes]) {
    commits.iter().for_each(|changes| store.apply(changes).unwrap());
}

/// Runs in the child process: `RELINK_TEST_STORE` is the damaged store.
#[test]
fn child() {
    let Some(path) = setting("RELINK_TEST_STORE").map(PathBuf::from) else { return };
    let commits = commits(number("RELINK_TEST_LINKS", 300));
    let opened = SledStore::open(&path, CACHE).unwrap();
    let store = opened.store;
    let before = reached(&store);
    let expected = MemoryStore::default();
    apply(&expected, &commits[..before]);
    assert!(everything(&store) == everything(&expected), "a damage was believed");
    // The node reads the rest from the stream.
    apply(&store, &commits[before..]);
    apply(&expected, &commits[before..]);
    assert!(everything(&store) == everything(&expected), "the store is wrong after catching up");
    store.checkpoint().unwrap();
    drop(store);
    let again = SledStore::open(&path, CACHE).unwrap();
    assert_eq!(again.quarantined, None, "a loop: the repaired store is damaged again");
    assert_eq!(reached(&again.store), commits.len());
    let result = match opened.quarantined {
        Some(_) => "quarantined",
        None if before == commits.len() => "true",
        None => "older",
    };
    report(&path, result);
}

/// The result of a child, for its parent.
fn report(path: &Path, result: &str) {
    fs::write(path.with_extension("result"), result).unwrap();
}

/// Overwrites random blocks of the database while it is open.
fn damage_open(store: &Path, random: &mut fastrand::Rng) {
    let (path, size) = files(store).into_iter().max_by_key(|(_, size)| *size).unwrap();
    let mut file = fs::File::options().write(true).open(path).unwrap();
    for _ in 0..random.usize(1..200) {
        let start = random.usize(..size - BLOCK);
        file.seek(SeekFrom::Start(start as u64)).unwrap();
        file.write_all(&[0x5a; BLOCK]).unwrap();
    }
}

/// Runs in the child process: `RELINK_TEST_OPEN_STORE` is a closed store, which is damaged while it is open.
#[test]
fn child_of_an_open_store() {
    let Some(path) = setting("RELINK_TEST_OPEN_STORE").map(PathBuf::from) else { return };
    let mut random = fastrand::Rng::with_seed(number("RELINK_TEST_SEED", 7));
    let commits = commits(OPEN_LINKS);
    let opened = SledStore::open(&path, OPEN_CACHE).unwrap();
    assert_eq!(opened.quarantined, None);
    let store = opened.store;
    let expected = MemoryStore::default();
    apply(&expected, &commits);
    damage_open(&path, &mut random);
    let mut replaced_count = 0;
    // Like a node: every error of a damage leads to an empty store, and the stream is applied again. Any read may find the damage, because
    // the cache is smaller than the store.
    let found = loop {
        let applied = commits.iter().try_for_each(|changes| store.apply(changes));
        match applied.and_then(|()| try_everything(&store)) {
            Ok(found) => break found,
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged(_)), "{error}");
                assert!(store.damage().is_some());
                store.replace_damaged().unwrap();
                replaced_count += 1;
            }
        }
    };
    assert!(found == everything(&expected), "a damage was believed");
    let is_written = store.checkpoint().is_ok();
    drop(store);
    let again = SledStore::open(&path, OPEN_CACHE).unwrap();
    let is_true = again.quarantined.is_none() && everything(&again.store) == everything(&expected);
    assert!(is_true || (replaced_count == 0 && again.quarantined.is_some()), "written: {is_written}");
    report(
        &path,
        if replaced_count > 0 {
            "replaced"
        } else if is_true {
            "unread"
        } else {
            "quarantined"
        },
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The files below a directory that are not empty, with their sizes.
fn files(directory: &Path) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), usize::try_from(entry.metadata().unwrap().len()).unwrap()));
        }
    }
    found.retain(|(_, size)| *size > 0);
    found.sort();
    found
}

/// Damages one file, and describes the damage. Half of the damages are in the largest file.
fn damage(store: &Path, random: &mut fastrand::Rng) -> String {
    let files = files(store);
    let largest = files.iter().max_by_key(|(_, size)| *size).unwrap();
    loop {
        let (file, size) = if random.bool() { largest } else { &files[random.usize(..files.len())] };
        let mut bytes = fs::read(file).unwrap();
        let length = [1, 8, 512, 4096][random.usize(..4)].min(*size);
        let start = random.usize(..=size - length);
        let damaged = &mut bytes[start..start + length];
        let before = damaged.to_vec();
        let is_random = random.bool();
        damaged.iter_mut().for_each(|byte| *byte = if is_random { random.u8(..) } else { 0 });
        if damaged == before {
            continue;
        }
        fs::write(file, &bytes).unwrap();
        let kind = if is_random { "random" } else { "zero" };
        return format!("{length} {kind} bytes at {start} of {} ({size})", file.display());
    }
}

#[test]
fn no_damage_is_believed_and_none_makes_a_loop() {
    let (rounds, links) = (number("RELINK_TEST_ROUNDS", 40), number("RELINK_TEST_LINKS", 300));
    let seed = number("RELINK_TEST_SEED", fastrand::u64(..));
    eprintln!("seed: RELINK_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    write_closed(&closed, links);
    let mut results = BTreeMap::<String, u64>::new();
    for round in 0..rounds {
        let path = directory.path().join(round.to_string()).join("store");
        copy(&closed, &path);
        let what = damage(&path, &mut random);
        let result =
            run_child("child", &path, &format!("round {round} of seed {seed}: {what}"), "RELINK_TEST_STORE", seed);
        *results.entry(result).or_default() += 1;
    }
    eprintln!("{rounds} damages: {results:?}");
    assert!(results.contains_key("quarantined"), "no damage was noticed: {results:?}");
}

/// Runs a test of this file in a process of its own, and returns its result.
fn run_child(test: &str, path: &Path, what: &str, variable: &str, seed: u64) -> String {
    let log = fs::File::create(path.with_extension("log")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("damage::{test}"), "--nocapture"])
        .env(variable, path)
        .env("RELINK_TEST_SEED", seed.to_string())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let started = relink::clock::instant();
    while child.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ended_already = child.kill();
    child.wait().unwrap();
    let result = fs::read_to_string(path.with_extension("result")).unwrap_or_else(|_| {
        let log = fs::read_to_string(path.with_extension("log")).unwrap();
        let log = log.lines().take(40).collect::<Vec<_>>().join("\n");
        panic!("{what} failed after {:?}:\n{log}", started.elapsed())
    });
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    result
}

/// Writes a store of this many links and closes it.
fn write_closed(path: &Path, links: u64) {
    let store = SledStore::open(path, CACHE).unwrap().store;
    for changes in commits(links) {
        store.apply(&changes).unwrap();
        store.checkpoint().unwrap();
    }
    store.set_complete().unwrap();
    drop(store);
    // Opening waits until sled has released the first handle.
    drop(SledStore::open(path, CACHE).unwrap());
}

#[test]
fn no_damage_of_an_open_store_is_believed() {
    let rounds = number("RELINK_TEST_ROUNDS", 8);
    let seed = number("RELINK_TEST_SEED", fastrand::u64(..));
    eprintln!("seed: RELINK_TEST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    write_closed(&closed, OPEN_LINKS);
    let mut results = BTreeMap::<String, u64>::new();
    for round in 0..rounds {
        let path = directory.path().join(round.to_string()).join("store");
        copy(&closed, &path);
        let what = format!("round {round} of seed {seed}");
        let result =
            run_child("child_of_an_open_store", &path, &what, "RELINK_TEST_OPEN_STORE", seed.wrapping_add(round));
        *results.entry(result).or_default() += 1;
    }
    eprintln!("{rounds} damages of an open store: {results:?}");
}
