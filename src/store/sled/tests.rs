//! The store on disk: the copy of an older format, compactions, and damages while it is open.

use strum::VariantArray;

use super::*;
use crate::store::Put;
use crate::store::content::{Content, seal};
use crate::store::format::{CONTENT_KEY, FORMAT_KEY, FORMAT_WITHOUT_CHECKSUMS, FORMAT_WITHOUT_COUNTS, Head};

const CACHE: u64 = 1 << 20;

/// Opens a database of sled alone. The threads of sled release the lock of a dropped one some moments later.
fn open_raw(path: impl AsRef<Path>) -> sled::Db {
    for _ in 0..200 {
        match sled::open(&path) {
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("sled has not released its lock within 2 s")
}

/// Writes a database of an older relink, with one link.
fn write_legacy(path: &Path, id: &str, format_version: u16) {
    let db = open_raw(path);
    // The head: version 1, state valid, partition 3, link version 7, deadline 5, reserved.
    let mut value = vec![1, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0];
    value.extend_from_slice(br#"{"institution":"erebor"}"#);
    db.insert([b"l", id.as_bytes()].concat(), value).unwrap();
    db.insert([&format::state_prefix(StateName::Valid), id.as_bytes()].concat(), Vec::new()).unwrap();
    db.insert([&b"d"[..], &(5_u64 | 1 << 63).to_be_bytes(), id.as_bytes()].concat(), Vec::new()).unwrap();
    db.insert(FORMAT_KEY, &format_version.to_be_bytes()).unwrap();
    db.flush().unwrap();
}

#[test]
fn a_store_of_an_older_relink_is_copied_unless_it_has_an_old_spelling_of_a_link_id() {
    for (id, is_kept) in
        [("link_1", true), ("16f68516-bcbc-4cf7-b815-c500d4204e28", true), ("16f68516bcbc4cf7b815c500d4204e28", false)]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        write_legacy(&path, id, 1);
        let opened = SledStore::open(&path, CACHE).unwrap();
        assert_eq!(opened.quarantined.is_none(), is_kept, "{id}: {:?}", opened.quarantined);
        assert_eq!(opened.store.count().unwrap()[&StateName::Valid], u64::from(is_kept));
        assert_eq!(opened.store.due(Timestamp::from_millis(5), 9).unwrap().len(), usize::from(is_kept));
        assert!(!path.join("db").exists(), "the old database is gone");
        drop(opened);
        assert!(SledStore::open(&path, CACHE).unwrap().quarantined.is_none());
    }
}

#[test]
fn an_older_store_whose_indexes_do_not_fit_is_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    write_legacy(&path, "link_1", FORMAT_WITHOUT_CHECKSUMS);
    {
        let db = open_raw(&path);
        db.remove(b"llink_1").unwrap();
        db.flush().unwrap();
    }
    let (aside, why) = SledStore::open(&path, CACHE).unwrap().quarantined.unwrap();
    assert!(why.contains("indexes") && aside.join("db").exists(), "{why}");
}

/// Writes a store of format 3, the one of 0.2, with three links.
fn write_format_3(path: &Path, is_complete: bool) {
    let directory = path.join("1");
    std::fs::create_dir_all(&directory).unwrap();
    let db = open_raw(directory);
    let mut content = Content::default();
    let mut put = |key: &[u8], payload: &[u8]| {
        let value = seal(key, payload);
        content.add(key, &value);
        db.insert(key, value).unwrap();
    };
    for (n, state) in [(1, StateName::Valid), (2, StateName::Invalid), (3, StateName::Valid)] {
        // The head: version 1, state, partition 3, link version 7, deadline 5, reserved.
        let mut value = vec![1, format::state_byte(state), 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0];
        value.extend_from_slice(format!(r#"{{"institution":"erebor","external_id":"user-{n}"}}"#).as_bytes());
        let id: LinkId = format!("link-{n}").parse().unwrap();
        put(&format::legacy_link_key(&id), &value);
        let deadline_key = format::deadline_key(Timestamp::from_millis(5), id.as_str().as_bytes());
        for key in [format::legacy_state_key(state, &id), deadline_key] {
            db.insert(key, Vec::new()).unwrap();
        }
    }
    put(POSITION_KEY, &format::encode_position(&Position { stream_created_ns: 1, sequence: 9, witness: None }));
    let mut links = LinksDigest::default();
    (1..=3).for_each(|n| links.replace(&format!("link-{n}").parse().unwrap(), None, 7));
    let numbers = [content.entries_count, content.bytes, content.sum, links.links_count, links.sum()];
    let mut recorded: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    recorded.push(u8::from(is_complete));
    db.insert(CONTENT_KEY, seal(CONTENT_KEY, &recorded)).unwrap();
    db.insert(FORMAT_KEY, seal(FORMAT_KEY, &FORMAT_WITHOUT_COUNTS.to_be_bytes())).unwrap();
    db.flush().unwrap();
}

#[test]
fn a_store_of_format_3_is_copied_and_not_read_again_from_the_stream() {
    for is_complete in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        write_format_3(&path, is_complete);
        // Another start has ended before its copy was complete.
        std::fs::create_dir(path.join("2")).unwrap();
        std::fs::write(path.join("2/incomplete"), "").unwrap();
        for _start in 0..2 {
            let opened = SledStore::open(&path, CACHE).unwrap();
            assert_eq!(opened.quarantined, None);
            let store = opened.store;
            assert_eq!(store.check_complete().is_ok(), is_complete);
            assert_eq!(store.position().unwrap().map(|position| position.sequence), Some(9));
            assert_eq!(store.due(Timestamp::from_millis(5), 9).unwrap().len(), 3);
            let query = |state, external_id: Option<&str>| {
                let (institution, external_id) = (Some("erebor".to_owned()), external_id.map(str::to_owned));
                let ids =
                    store.page(&Query { state, institution, external_id, limit: 9, ..Query::default() }).unwrap().ids;
                ids.iter().map(LinkId::to_string).collect::<Vec<_>>()
            };
            assert_eq!(query(None, None), ["link-1", "link-2", "link-3"]);
            assert_eq!(query(Some(StateName::Valid), None), ["link-1", "link-3"]);
            assert_eq!(query(None, Some("user-2")), ["link-2"]);
            assert_eq!(store.count_by_institution(9).unwrap()[0].by_state, store.count().unwrap());
            let link = store.get(&"link-3".parse().unwrap()).unwrap().unwrap();
            assert_eq!((link.head.version, link.head.partition, link.head.state), (7, 3, StateName::Valid));
            assert!(!path.join("1").exists(), "the database of format 3 is gone");
        }
    }
}

#[test]
fn a_damaged_store_of_format_3_is_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let id: LinkId = "link-2".parse().unwrap();
    let of_link = [
        format::legacy_link_key(&id),
        format::legacy_state_key(StateName::Invalid, &id),
        format::deadline_key(Timestamp::from_millis(5), id.as_str().as_bytes()),
    ];
    // The whole link is missing, or only a key of an index.
    for (removed, problem) in [(&of_link[..], "entries are missing"), (&of_link[2..], "indexes")] {
        write_format_3(&path, true);
        {
            // The threads of the sled that wrote it may still hold its lock.
            directories::wait_until_free(&path.join("1")).unwrap();
            let db = open_raw(path.join("1"));
            removed.iter().for_each(|key| drop(db.remove(key).unwrap()));
            db.flush().unwrap();
        }
        let opened = SledStore::open(&path, CACHE).unwrap();
        let (aside, why) = opened.quarantined.unwrap();
        assert!(why.contains(problem) && aside.join("db").exists(), "{why}");
        assert_eq!(opened.store.count().unwrap()[&StateName::Valid], 0);
        drop(opened.store);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

fn put(n: usize, version: u64) -> Put {
    let state = StateName::VARIANTS[(n + usize::try_from(version).unwrap()) % StateName::VARIANTS.len()];
    let deadline = Some(Timestamp::from_millis(i64::try_from(version).unwrap()));
    let head = Head { state, partition: 3, version, deadline };
    Put::of_record(format!("link-{n}").parse().unwrap(), head, incompressible(n, version))
}

/// 400 bytes that are stored as they are.
fn incompressible(n: usize, version: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(n as u64 ^ version << 32);
    std::iter::repeat_with(|| random.u8(..)).take(400).collect()
}

#[test]
fn a_compaction_keeps_what_is_written_meanwhile() {
    const LINKS: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let store =
        SledStore::open_with(&path, CACHE, SizeLimit { factor: 0, floor_bytes: 0 }, LINKS_AT_OPEN_MAX).unwrap().store;
    store.apply(&Changes { puts: (0..LINKS).map(|n| put(n, 1)).collect(), ..Changes::default() }).unwrap();
    store.set_complete().unwrap();
    let before = store.database().number();
    // The writer writes until the compactions are over.
    let is_over = AtomicBool::new(false);
    let versions = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut version = 1;
            while !is_over.load(Ordering::Relaxed) {
                version += 1;
                let puts = (0..LINKS).step_by(7).map(|n| put(n, version)).collect();
                let sequence = version;
                let position = Some(Position { stream_created_ns: 1, sequence, witness: None });
                store.apply(&Changes { puts, position, ..Changes::default() }).unwrap();
            }
            version
        });
        for _ in 0..5 {
            store.checkpoint().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert_eq!(store.database().number(), before + 5, "each checkpoint has compacted the store");
    let check = |store: &SledStore| {
        let page = store.page(&Query { limit: usize::MAX, ..Query::default() }).unwrap();
        assert_eq!(page.links.len(), LINKS);
        for (id, link) in page.ids.iter().zip(&page.links) {
            let n: usize = id.as_str().trim_start_matches("link-").parse().unwrap();
            assert_eq!(link.head.version, if n.is_multiple_of(7) { versions } else { 1 });
        }
        assert_eq!(store.position().unwrap().unwrap().sequence, versions);
    };
    check(&store);
    drop(store);
    let opened = SledStore::open(&path, CACHE).unwrap();
    assert_eq!(opened.quarantined, None);
    check(&opened.store);
    let numbers = std::fs::read_dir(&path).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(numbers, 1, "only the newest database is left");
}

#[test]
fn a_store_that_is_damaged_while_it_is_open_is_replaced_for_every_handle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let store = SledStore::open(&path, CACHE).unwrap().store;
    let reader = store.clone();
    let fill = |store: &SledStore| {
        let puts: Vec<_> = (0..6_000).map(|n| put(n, 1)).collect();
        for puts in puts.chunks(100) {
            store.apply(&Changes { puts: puts.to_vec(), ..Changes::default() }).unwrap();
        }
    };
    for round in 1..=REPLACED_MAX + 1 {
        fill(&store);
        store.checkpoint().unwrap();
        store.set_complete().unwrap();
        reader.check_complete().unwrap();
        // The cache is smaller than the content, so a reader meets the damage.
        let file = path.join(store.database().number().to_string()).join("db");
        let length = std::fs::metadata(&file).unwrap().len();
        let damaged = std::fs::File::options().write(true).open(&file).unwrap();
        std::io::Write::write_all(&mut &damaged, &vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
        let failed = reader.page(&Query { limit: usize::MAX, ..Query::default() }).unwrap_err();
        assert!(matches!(failed, StoreError::Damaged(_)), "{failed}");
        assert!(matches!(store.position(), Err(StoreError::Damaged(_))) && store.damage().is_some());
        if round > REPLACED_MAX {
            break;
        }
        assert!(store.replace_damaged().unwrap().join("db").exists());
        assert_eq!((reader.position().unwrap(), reader.damage()), (None, None));
        assert!(matches!(reader.check_complete(), Err(StoreError::Incomplete)));
    }
    // A process does not go on for ever like this. The next start does not open the damaged database.
    let failed = store.replace_damaged().unwrap_err();
    assert!(matches!(failed, StoreError::DamagedAgain { .. }), "{failed}");
    let marked = store.shared.root.find().unwrap().newest.unwrap();
    assert!(store.shared.root.is_marked_damaged(marked));
}

#[test]
fn a_store_of_a_newer_relink_is_refused_and_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    {
        let store = SledStore::open(&path, CACHE).unwrap().store;
        let newer = seal(FORMAT_KEY, &(FORMAT + 1).to_be_bytes());
        store.database().guarded(|db| Ok(db.insert(FORMAT_KEY, newer)?)).unwrap();
        store.checkpoint().unwrap();
    }
    let error = SledStore::open(&path, CACHE).unwrap_err();
    assert!(matches!(error, StoreError::FutureFormat { .. }), "{error}");
    assert!(path.join("1").join("db").exists());
}

/// Opens a store whose indexes are checked in the background, runs `commit` meanwhile, and returns the damage that the check finds.
fn checked_in_background(path: &Path, commit: impl Fn(&SledStore, u64)) -> Option<String> {
    let store = SledStore::open_with(path, CACHE, SIZE_LIMIT, 0).unwrap().store;
    assert!(store.database().index_check().is_some(), "the check takes many steps");
    let mut version = 2;
    while store.database().index_check().is_some() && store.damage().is_none() {
        commit(&store, version);
        version += 1;
    }
    store.damage()
}

#[test]
fn the_indexes_of_a_large_store_are_checked_while_it_changes() {
    const LINKS: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    {
        let store = SledStore::open(&path, CACHE).unwrap().store;
        store.apply(&Changes { puts: (0..LINKS).map(|n| put(n, 1)).collect(), ..Changes::default() }).unwrap();
        store.set_complete().unwrap();
        assert!(store.database().number() > 1, "it was a rebuild");
    }
    let commit = |store: &SledStore, version: u64| {
        let puts = (0..LINKS).step_by(700).map(|n| put(n, version)).collect();
        store.apply(&Changes { puts, ..Changes::default() }).unwrap();
    };
    assert_eq!(checked_in_background(&path, commit), None);
    {
        let store = SledStore::open(&path, CACHE).unwrap().store;
        let key = store.database().guarded(|db| Ok(db.scan_prefix(b"s").keys().last().unwrap()?)).unwrap();
        store.database().guarded(|db| Ok(db.remove(key)?)).unwrap();
        store.checkpoint().unwrap();
    }
    let damage = checked_in_background(&path, |_store, _version| std::thread::yield_now());
    assert!(damage.is_some_and(|why| why.contains("indexes")));
}

/// All that a reader can get from a store.
fn everything(store: &dyn Store) -> impl PartialEq + std::fmt::Debug + use<> {
    let page = |query| store.page(&query).unwrap();
    let all = Query { limit: usize::MAX, ..Query::default() };
    let of_bank = Query { institution: Some("bank-3".to_owned()), ..all.clone() };
    let of_user = Query { external_id: Some("user-5".to_owned()), state: Some(StateName::Valid), ..all.clone() };
    let counts = (store.count().unwrap(), store.count_by_institution(99).unwrap(), store.links_digest().unwrap());
    let rest = (store.offsets().unwrap(), store.incidents().unwrap(), store.position().unwrap());
    let due = store.due(Timestamp::from_millis(i64::MAX - 1), usize::MAX).unwrap();
    (page(all).links, page(of_bank).ids, page(of_user).ids, counts, rest, (due, store.next_deadline().unwrap()))
}

/// Commits of a read of the stream: each link in its newest state, and some in an older one or with another deadline.
fn read_of(links: usize, random: &mut fastrand::Rng) -> Vec<Changes> {
    let mut puts = Vec::new();
    for n in 0..links {
        for version in [random.u64(2..9), random.u64(1..9)] {
            let Put { mut head, .. } = put(n, version);
            head.deadline = random.bool().then(|| Timestamp::from_millis(random.i64(-9..9)));
            let record = format!(r#"{{"institution":"bank-{}","external_id":"user-{}","v":{version}}}"#, n % 7, n % 11);
            // A retimed put has the same record.
            puts.push(Put::of_record(format!("{:032x}", n * 0x9e37).parse().unwrap(), head, record.into_bytes()));
        }
    }
    let offset = |sequence| CommittedOffset { stream_created_ns: 1, sequence, stored_at_ns: 1, journals: Vec::new() };
    let commit = |(n, puts): (u64, &[Put])| Changes {
        puts: puts.to_vec(),
        offsets: vec![(3, offset(n)), (u16::try_from(n).unwrap(), offset(n))],
        position: Some(Position { stream_created_ns: 1, sequence: n, witness: None }),
        ..Changes::default()
    };
    (1..).zip(puts.chunks(600)).map(commit).collect()
}

#[test]
fn a_rebuild_gives_the_same_store_as_single_commits_wherever_it_is_read_and_restarted() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut store = SledStore::open(&path, CACHE).unwrap().store;
        let expected = super::super::MemoryStore::default();
        let mut commits = read_of(random.usize(1_000..2_000), &mut random);
        // The first messages of the stream may be few.
        commits[0].puts.truncate(random.usize(..600));
        let restarted_at = random.usize(..commits.len());
        for (n, commit) in commits.iter().enumerate() {
            if n == restarted_at {
                // As a crash of the process: what is not durable is read again.
                drop(store);
                store = SledStore::open(&path, CACHE).unwrap().store;
                let reached = store.position().unwrap().map_or(0, |position| position.sequence);
                let reached = usize::try_from(reached).unwrap();
                commits[reached..n].iter().for_each(|commit| store.apply(commit).unwrap());
            }
            store.apply(commit).unwrap();
            expected.apply(commit).unwrap();
            assert_eq!(store.position().unwrap(), commit.position);
            assert!(matches!(store.check_complete(), Err(StoreError::Incomplete)));
            if random.u8(..4) == 0 {
                assert_eq!(store.count().unwrap(), expected.count().unwrap(), "round {round}: a read meanwhile");
            }
        }
        let end = Changes { is_end_of_read: true, ..Changes::default() };
        store.apply(&end).unwrap();
        assert!(!store.shared.is_rebuilding.load(Ordering::SeqCst));
        store.set_complete().unwrap();
        store.checkpoint().unwrap();
        assert_eq!(everything(&store), everything(&expected), "round {round}");
        drop(store);
        let opened = SledStore::open(&path, CACHE).unwrap();
        assert_eq!(opened.quarantined, None);
        opened.store.check_complete().unwrap();
        assert_eq!(everything(&opened.store), everything(&expected), "round {round}, opened again");
    }
}

#[test]
fn a_rebuild_fills_the_pages_of_sled() {
    const LINKS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let size_of = |name: &str, commit: usize| {
        let store = SledStore::open(&directory.path().join(name), CACHE).unwrap().store;
        let puts: Vec<_> = (0..LINKS).map(|n| put(n * 7_919 % LINKS, 1)).collect();
        for puts in puts.chunks(commit) {
            store.apply(&Changes { puts: puts.to_vec(), ..Changes::default() }).unwrap();
        }
        store.set_complete().unwrap();
        store.checkpoint().unwrap();
        let database = store.database();
        (database.disk_bytes(), database.content().bytes)
    };
    let ((rebuilt, content), (committed, _)) = (size_of("rebuilt", 1_000), size_of("committed", 100));
    assert!(rebuilt * 10 < committed * 9, "{rebuilt} bytes after a rebuild, {committed} after commits of {content}");
}

#[cfg(unix)]
#[test]
fn a_rebuild_that_cannot_write_leaves_the_store_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let store = SledStore::open(&path, CACHE).unwrap().store;
    let puts = (0..1_000).map(|n| put(n, 1)).collect();
    store.apply(&Changes { puts, ..Changes::default() }).unwrap();
    // The next database cannot be created: its directory is gone.
    let elsewhere = directory.path().join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    let before = store.database().number();
    assert!(store.count().is_err());
    std::fs::rename(&elsewhere, &path).unwrap();
    assert_eq!((store.database().number(), store.damage()), (before, None));
    assert_eq!((store.position().unwrap(), store.count().unwrap()[&StateName::Valid]), (None, 0));
}

/// The largest size of a store under a load of small commits.
fn largest_under_load(size_limit: SizeLimit) -> u64 {
    const LINKS: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open_with(&directory.path().join("s"), CACHE, size_limit, LINKS_AT_OPEN_MAX).unwrap().store;
    let mut random = fastrand::Rng::with_seed(7);
    let mut largest = 0;
    for version in 1..=3_000 {
        let puts = (0..4).map(|_| put(random.usize(..LINKS), version)).collect();
        store.apply(&Changes { puts, ..Changes::default() }).unwrap();
        if version.is_multiple_of(50) {
            store.checkpoint().unwrap();
            largest = largest.max(store.database().disk_bytes());
        }
    }
    largest
}

#[test]
fn the_size_of_the_files_has_a_bound() {
    // The content has 500 kB. sled grows its file by segments of 512 KiB.
    let (factor, floor_bytes) = (2, 1 << 20);
    let bound = factor * 500_000 + floor_bytes;
    let unbounded = largest_under_load(SizeLimit { factor: u64::MAX, floor_bytes });
    let bounded = largest_under_load(SizeLimit { factor, floor_bytes });
    assert!(unbounded > bound && bounded <= bound, "{unbounded} without a bound, {bounded} with {bound}");
}
