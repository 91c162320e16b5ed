//! Every later version of relink reads the data of earlier versions, or refuses it with a clear error.
//!
//! Each directory next to this file has the data of one version, written by that version's own code (`corpus` lists the files). Each
//! row of [`VERSIONS`] says what today's relink does with it. A directory never changes; its row has its hash.
//!
//! **When you change the format of a record, a message or the store**, keep the old directories as they are, and
//! 1. write the new format as a new version: `RELINK_WRITE_CORPUS=v0.3 cargo test --test compatibility`;
//! 2. add its row, with the hash that the failing test prints;
//! 3. if an older version loses a field on purpose, name it in [`Version::gone`]; if it is refused, declare that with
//!    [`Promise::Refuses`]. Data that is read differently, or not at all, fails here.

#![expect(clippy::unwrap_used, reason = "a panic shows where a test failed")]

#[path = "../support/mod.rs"]
mod support;

#[expect(dead_code, reason = "the machine's tests use all of it")]
#[path = "../machine/world.rs"]
mod world;

mod check;
mod corpus;
mod records;
mod script;
mod server;
mod write;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use relink::store::{SledStore, StoreError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use check::problems;
use corpus::{Corpus, LINKS, RECORDS};

/// Every released version, oldest first.
const VERSIONS: &[Version] = &[
    Version {
        name: "v0.1",
        digest: "674562465fee1e344b777092a7b98fc4f2e1d1c639d5d594dc6e451f77d6a54a",
        messages: Promise::Reads,
        store: Promise::Reads,
        gone: &[GONE_FALLBACK],
        renamed: RENAMED_SINCE_0_1,
    },
    Version {
        name: "v0.2",
        digest: "d30747eaae1bba4ce711e0eb185b51caef70118d16ad7f21e2699cff7e172c53",
        messages: Promise::Reads,
        store: Promise::Reads,
        gone: &[],
        renamed: RENAMED_SINCE_0_2,
    },
];

/// The state after a failed attempt, a field that is no longer stored.
const GONE_FALLBACK: (&str, &str) = ("update.fallback", "it follows from the cause of the episode");

/// Fields that relink 0.2 and later write with another name, and values that they write with another word.
const RENAMED_SINCE_0_1: &[Renamed] = &[
    Renamed::Field { path: "lane", to: "partition" },
    Renamed::Field { path: "because.origin.heard_at", to: "received_at" },
    Renamed::Field { path: "because.origin.unread", to: "unreadable_fields" },
    Renamed::Field { path: "origin.heard_at", to: "received_at" },
    Renamed::Field { path: "origin.unread", to: "unreadable_fields" },
    Renamed::Field { path: "silence_probed_until", to: "stale_probed_until" },
    Renamed::Field { path: "silence_reported", to: "stale_reported" },
    Renamed::Field { path: "asks", to: "refresh_quota" },
    Renamed::Field { path: "episode.prompt_waits_until", to: "prompt_deferred_until" },
    Renamed::Field { path: "held_count", to: "deferred_count" },
    Renamed::Field { path: "why", to: "reason" },
    Renamed::Value { path: "episode.prompt", from: "held", to: "muted" },
    Renamed::Value { path: "episode.prompt", from: "waiting", to: "deferred" },
    Renamed::Value { path: "type", from: "silent", to: "stale" },
    RECENT_AS_TEXT,
];

/// What relink 0.3 and later write in another way.
const RENAMED_SINCE_0_2: &[Renamed] = &[RECENT_AS_TEXT];

const RECENT_AS_TEXT: Renamed = Renamed::Form { path: "recent", to: records::recent_as_text };

/// The number of partitions of the runs that wrote the streams.
const PARTITIONS: u16 = 2;

const CACHE_BYTES: u64 = 16 << 20;

/// The data of a version, and what this relink does with it.
#[derive(Clone, Copy)]
struct Version {
    /// The name of its directory.
    name: &'static str,
    /// The [`Corpus::digest`] of its directory.
    digest: &'static str,
    /// The promise for records and messages on the streams.
    messages: Promise,
    /// The promise for the directory of the store. If it is refused, the store is rebuilt from the stream.
    store: Promise,
    /// Fields that this relink no longer keeps, as paths in a body, each with the reason why nothing is lost.
    gone: &'static [(&'static str, &'static str)],
    /// Fields and values that have another name in this relink.
    renamed: &'static [Renamed],
}

/// A name of an older version, and today's name. `path` is the path in a body, in the older version's names.
#[derive(Clone, Copy)]
enum Renamed {
    Field {
        path: &'static str,
        to: &'static str,
    },
    Value {
        path: &'static str,
        from: &'static str,
        to: &'static str,
    },
    /// The value has another form.
    Form {
        path: &'static str,
        to: fn(&Value) -> Value,
    },
}

/// The promise of this relink for data of an older or a newer version.
#[derive(Clone, Copy, Debug)]
enum Promise {
    /// This relink reads the data, directly or with a migration.
    Reads,
    /// This relink refuses the data with an error that contains this text.
    Refuses(&'static str),
}

impl Version {
    fn corpus(&self) -> Corpus {
        Corpus { directory: root().join(self.name) }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compatibility")
}

fn newest() -> &'static Version {
    VERSIONS.last().expect("there is a version")
}

#[test]
fn no_version_is_edited_or_missing() {
    let directories = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let directories: BTreeSet<_> = directories.map(|path| path.file_name().unwrap().to_owned()).collect();
    let rows = VERSIONS.iter().map(|version| version.name.into()).collect();
    assert_eq!(directories, rows, "every directory must have a row in VERSIONS, and every row a directory");
    for version in VERSIONS {
        let digest = version.corpus().digest();
        assert_eq!(
            digest, version.digest,
            "{} was edited, but a version must never change: add a new version",
            version.name
        );
    }
}

#[test]
fn every_version_is_read_or_refused_as_its_row_says() {
    for version in VERSIONS {
        assert_eq!(problems(&version.corpus(), version), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_on_the_streams_of_every_version() {
    for version in VERSIONS {
        server::take_over(&version.corpus(), version).await;
        server::read_dead_letters(&version.corpus(), version).await;
    }
}

/// Without `RELINK_WRITE_CORPUS` the version is written to a temporary directory, which tests the writer of the next version.
#[tokio::test(flavor = "multi_thread")]
async fn data_of_this_version_is_read_by_this_version() {
    #[expect(clippy::disallowed_methods, reason = "a test reads its own variable")]
    let named = std::env::var("RELINK_WRITE_CORPUS").ok();
    let temporary = tempfile::tempdir().unwrap();
    let (directory, walks_count) = match &named {
        Some(name) => {
            let plain =
                name.starts_with('v') && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '.');
            assert!(plain, "RELINK_WRITE_CORPUS must be the name of the new version, such as v0.3");
            (root().join(name), records::WALKS_TO_KEEP)
        }
        None => (temporary.path().join("today"), records::WALKS_TO_TRY),
    };
    let corpus = write::write(&directory, walks_count).await;
    let today =
        Version { name: "today", digest: "", messages: Promise::Reads, store: Promise::Reads, gone: &[], renamed: &[] };
    assert_eq!(problems(&corpus, &today), Vec::<String>::new());
    server::take_over(&corpus, &today).await;
    server::read_dead_letters(&corpus, &today).await;
}

/// A copy of the newest version with changed records.
fn changed(directory: &Path, change: impl Fn(&mut Value)) -> Corpus {
    let copy = newest().corpus().copy_to(directory);
    let rewrite = |record: String| {
        let mut record: Value = serde_json::from_str(&record).unwrap();
        change(&mut record);
        record.to_string()
    };
    copy.write(RECORDS, &copy.records().into_iter().map(rewrite).collect::<Vec<_>>());
    copy
}

/// A value of the store: the first 8 bytes of a SHA-256 over the key and the payload, then the payload.
fn with_checksum(key: &str, payload: &[u8]) -> Vec<u8> {
    let hash = Sha256::new().chain_update((key.len() as u64).to_be_bytes()).chain_update(key).chain_update(payload);
    [&hash.finalize()[..8], payload].concat()
}

#[test]
fn data_of_a_newer_version_is_refused_with_a_clear_error() {
    let temporary = tempfile::tempdir().unwrap();
    let newer = changed(&temporary.path().join("newer"), |record| record["schema_version"] = json!(999));
    newer.write_lines(LINKS, &[]);
    let refused = Version { messages: Promise::Refuses("written by a newer relink"), ..*newest() };
    let expected = Vec::<String>::new();
    let of_records = |problems: Vec<String>| {
        problems.into_iter().filter(|problem| problem.contains(": record ")).collect::<Vec<_>>()
    };
    assert_eq!(of_records(problems(&newer, &refused)), expected);
    assert_ne!(of_records(problems(&newer, newest())), expected, "the promise to read them is broken");

    // Since 0.2 each database of the store has its own directory. Its format version is a value with a checksum.
    let store = newer.store();
    let database = sled::open(store.join("1")).unwrap();
    database.insert("f", with_checksum("f", &u16::MAX.to_be_bytes())).unwrap();
    database.flush().unwrap();
    drop(database);
    let error = SledStore::open(&store, CACHE_BYTES).unwrap_err();
    assert!(matches!(&error, StoreError::FutureFormat { found: u16::MAX, .. }), "{error}");
    assert!(error.to_string().contains("written by a newer relink") && store.exists(), "{error}");
    let refused = Version { store: Promise::Refuses("written by a newer relink"), ..refused };
    assert_eq!(problems(&newer, &refused), expected);
}

#[test]
fn a_field_that_is_lost_is_noticed() {
    let temporary = tempfile::tempdir().unwrap();
    // An unknown field has the same effect here as a renamed field in a later version.
    let older = changed(&temporary.path().join("older"), |record| {
        if let Some(episode) = record["episode"].as_object_mut() {
            episode.insert("severity".to_owned(), json!("high"));
        }
    });
    let lost = problems(&older, newest());
    assert!(lost.iter().any(|problem| problem.ends_with("`episode.severity` is lost or changed")), "{lost:?}");
    let known = Version { gone: &[GONE_FALLBACK, ("episode.severity", "it followed from the cause")], ..*newest() };
    let lost = problems(&older, &known);
    assert!(!lost.iter().any(|problem| problem.contains(": record ")), "{lost:?}");
}
