//! Data of earlier versions of relink is read by every later one, or refused in plain words.
//!
//! Each directory beside this file is the data of one version, written by that version's own code (`corpus` lists the files), and
//! each row of [`VERSIONS`] says what today's relink does with it. A directory never changes: its row has its hash.
//!
//! **When you change the format of a record, a message or the store**, keep the old directories as they are, and
//! 1. write the new format as a version of its own: `RELINK_WRITE_CORPUS=v0.2 cargo test --test compatibility`;
//! 2. add its row, with the hash that the failing test prints;
//! 3. if an older version loses a field on purpose, name it in [`Version::gone`]; if it is refused, say so with
//!    [`Promise::Refuses`]. There is no third way: data that is read differently, or not at all, fails here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

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

use check::problems;
use corpus::{Corpus, LINKS, RECORDS};

/// Every version that ever wrote data, oldest first.
const VERSIONS: &[Version] = &[Version {
    name: "v0.1",
    digest: "674562465fee1e344b777092a7b98fc4f2e1d1c639d5d594dc6e451f77d6a54a",
    messages: Promise::Reads,
    store: Promise::Reads,
    gone: &[GONE_FALLBACK],
}];

/// The state that a failed attempt goes back to.
const GONE_FALLBACK: (&str, &str) = ("update.fallback", "it follows from the cause of the episode");

/// How many partitions the runs behind the streams have.
const PARTITIONS: u16 = 2;

const CACHE_BYTES: u64 = 16 << 20;

/// A version's data, and what this relink does with it.
#[derive(Clone, Copy)]
struct Version {
    /// Its directory.
    name: &'static str,
    /// [`Corpus::digest`] of its directory.
    digest: &'static str,
    /// Records and messages on the streams.
    messages: Promise,
    /// The directory of the store. If it is refused, the store is rebuilt from the stream.
    store: Promise,
    /// Fields that this relink no longer keeps, as paths in a body, each with the reason why nothing is lost.
    gone: &'static [(&'static str, &'static str)],
}

/// What this relink does with data of an older, or a newer, version.
#[derive(Clone, Copy, Debug)]
enum Promise {
    /// It reads them, as they are or by a migration.
    Reads,
    /// It refuses them with an error that says this.
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
fn no_version_is_edited_or_forgotten() {
    let directories = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let directories: BTreeSet<_> = directories.map(|path| path.file_name().unwrap().to_owned()).collect();
    let rows = VERSIONS.iter().map(|version| version.name.into()).collect();
    assert_eq!(directories, rows, "every directory has a row in VERSIONS, and every row its directory");
    for version in VERSIONS {
        let digest = version.corpus().digest();
        assert_eq!(digest, version.digest, "{} was edited: a version never changes, add one", version.name);
    }
}

#[test]
fn every_version_is_read_or_refused_as_its_row_says() {
    for version in VERSIONS {
        assert_eq!(problems(&version.corpus(), version), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_every_version_are_taken_over() {
    for version in VERSIONS {
        server::take_over(&version.corpus(), version).await;
        server::read_dead_letters(&version.corpus(), version).await;
    }
}

/// Without `RELINK_WRITE_CORPUS` the version goes to a temporary directory: what writes the next one works when it is needed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_today_is_read_today() {
    #[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
    let named = std::env::var("RELINK_WRITE_CORPUS").ok();
    let temporary = tempfile::tempdir().unwrap();
    let (directory, walks_count) = match &named {
        Some(name) => {
            let plain =
                name.starts_with('v') && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '.');
            assert!(plain, "RELINK_WRITE_CORPUS is the name of the new version, such as v0.2");
            (root().join(name), records::WALKS_TO_KEEP)
        }
        None => (temporary.path().join("today"), records::WALKS_TO_TRY),
    };
    let corpus = write::write(&directory, walks_count).await;
    let today = Version { name: "today", digest: "", messages: Promise::Reads, store: Promise::Reads, gone: &[] };
    assert_eq!(problems(&corpus, &today), Vec::<String>::new());
    server::take_over(&corpus, &today).await;
    server::read_dead_letters(&corpus, &today).await;
}

/// A copy of the newest version whose records were changed.
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

#[test]
fn data_of_a_newer_version_is_refused_in_plain_words() {
    let temporary = tempfile::tempdir().unwrap();
    let newer = changed(&temporary.path().join("newer"), |record| record["schema_version"] = json!(999));
    newer.write_lines(LINKS, &[]);
    let refused = Version { messages: Promise::Refuses("written by a newer relink"), ..*newest() };
    let expected = Vec::<String>::new();
    let of_records = |problems: Vec<String>| {
        problems.into_iter().filter(|problem| problem.contains(": record ")).collect::<Vec<_>>()
    };
    assert_eq!(of_records(problems(&newer, &refused)), expected);
    assert_ne!(of_records(problems(&newer, newest())), expected, "a promise to read them is broken");

    // The format of the store is a number under a key of its own.
    let store = newer.store();
    let database = sled::open(&store).unwrap();
    database.insert("f", &u16::MAX.to_be_bytes()).unwrap();
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
    // To this relink a field that it does not know is what a renamed one would be to a later one.
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
