use super::*;
use crate::store::format::{FORMAT_KEY, FORMAT_WITHOUT_CHECKSUMS, Head};

const CACHE: u64 = 1 << 20;

/// Writes a database of an older relink, with one link.
fn write_legacy(path: &Path, id: &str, format_version: u16) {
    let db = sled::open(path).unwrap();
    let head = Head { state: StateName::Valid, partition: 3, version: 7, deadline: Some(Timestamp::from_millis(5)) };
    db.insert([b"l", id.as_bytes()].concat(), format::encode_link(&head, b"{}")).unwrap();
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
        let db = sled::open(&path).unwrap();
        db.remove(b"llink_1").unwrap();
        db.flush().unwrap();
    }
    let (aside, why) = SledStore::open(&path, CACHE).unwrap().quarantined.unwrap();
    assert!(why.contains("indexes") && aside.join("db").exists(), "{why}");
}
