//! Streams and consumers that are deleted, paused or full while relink runs: relink repairs what it can, reports the rest in `/readyz`, and
//! becomes ready again by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::binary::Relink;
use crate::support::{TestNats, webhook, within};
use async_nats::jetstream::stream::{Config, Source};
use relink::contract::Record;

const RECREATED: &str = "a stream or consumer of relink was deleted while relink ran, and was created again";

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// Waits until relink has logged that it has created this one again.
async fn recreated(relink: &mut Relink, name: &str) {
    while relink.wait_for_log(RECREATED).await["stream.name"] != name {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_or_consumer_is_created_again() {
    let nats = TestNats::start().await;
    let keys = [
        ("RELINK_BELVO_URL", "http://127.0.0.1:9"),
        ("RELINK_BELVO_SECRET_ID", "a"),
        ("RELINK_BELVO_SECRET_PASSWORD", "b"),
    ];
    let mut relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &keys).await;
    let client = crate::support::binary::client();
    let mut request = 0;
    for (stream, consumer) in [
        ("BELVO", Some("relink-0")),
        ("BELVO", Some("relink-3")),
        ("KV_links", Some("relink-jobs")),
        ("RELINK_DEAD", None),
        ("KV_links", None),
        ("BELVO", None),
    ] {
        let name = match consumer {
            Some(consumer) => {
                let found = nats.context.get_stream(stream).await.expect("the stream");
                found.delete_consumer(consumer).await.expect("deleted");
                format!("{stream}/{consumer}")
            }
            None => {
                nats.context.delete_stream(stream).await.expect("deleted");
                stream.to_owned()
            }
        };
        recreated(&mut relink, &name).await;
        // Every partition handles inputs again.
        for n in 0..12 {
            request += 1;
            relink.store_webhook(&client, webhook(&link(request * 100 + n), "token_required", request)).await;
        }
        for n in 0..12 {
            relink.wait_for_link(&client, &link((request - 11 + n) * 100 + n)).await;
        }
        // The jobs are read again.
        let reads_jobs = async {
            let links = nats.context.get_stream("KV_links").await.expect("the stream");
            while !links.consumer_info("relink-jobs").await.is_ok_and(|info| info.num_waiting > 0) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        within("a pull of jobs", reads_jobs).await;
        relink.wait_until_ready().await;
    }
    relink.signal("TERM").await;
    assert!(within("the end", relink.child.wait()).await.expect("a status").success());
}

/// The states and the prompts on the output stream, by link.
async fn outputs(nats: &TestNats) -> (BTreeMap<String, Vec<u64>>, usize, BTreeSet<String>) {
    let (mut versions, mut prompts, mut ids) = (BTreeMap::<String, Vec<u64>>::new(), 0, BTreeSet::new());
    for (_, subject, headers, body) in nats.read("KV_links").await {
        if subject.starts_with("$KV.links.") {
            let record = Record::parse(&body).expect("a record");
            versions.entry(record.link_id).or_default().push(record.version);
        }
        prompts += usize::from(subject.starts_with("link.notice.update_required."));
        if let Some(id) = headers.get("ce-id").filter(|_| subject.starts_with("link.notice.")) {
            ids.insert(id.to_string());
        }
    }
    (versions, prompts, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_output_stream_is_filled_from_the_store() {
    const LINKS: usize = 30;
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let client = crate::support::binary::client();
    for n in 0..LINKS {
        relink.store_webhook(&client, webhook(&link(n), "token_required", n)).await;
    }
    for n in 0..LINKS {
        relink.wait_for_link(&client, &link(n)).await;
    }
    let (_, prompts, mut ids) = outputs(&nats).await;
    assert_eq!(prompts, LINKS);
    // Once while relink runs, and once while it is stopped.
    for round in 1..=2 {
        let is_running = round == 1;
        if !is_running {
            relink.signal("TERM").await;
            assert!(within("the end", relink.child.wait()).await.expect("a status").success());
        }
        let mut read_count = relink.seen.len();
        nats.context.delete_stream("KV_links").await.expect("deleted");
        if is_running {
            recreated(&mut relink, "KV_links").await;
        } else {
            relink = Relink::serve(nats.server.url(), &data, &[]).await;
            read_count = 0;
        }
        relink.wait_for_log_after(read_count, "the output stream is new or was purged").await;
        let (versions, prompts, _) = outputs(&nats).await;
        assert_eq!((versions.len(), prompts), (LINKS, 0));
        let code = if is_running { "invalid_credentials" } else { "link_deleted" };
        relink.store_webhook(&client, webhook(&link(0), code, 1000 + round)).await;
        let goes_on = async {
            while outputs(&nats).await.0[&link(0)].len() < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        within("the next state", goes_on).await;
        let (versions, prompts, new_ids) = outputs(&nats).await;
        let first = u64::try_from(round).expect("small");
        assert_eq!(versions[&link(0)], [first, first + 1], "versions go on");
        assert_eq!(prompts, 0, "nobody is prompted again");
        assert!(ids.is_disjoint(&new_ids), "an id was given out a second time");
        ids.extend(new_ids);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relink_goes_on_with_a_nats_server_that_lost_everything() {
    let mut nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    let client = crate::support::binary::client();
    relink.store_webhook(&client, webhook(&link(1), "token_required", 1)).await;
    relink.wait_for_link(&client, &link(1)).await;
    nats.restart_after(|store| std::fs::remove_dir_all(store.join("jetstream")).expect("removed")).await;
    relink.store_webhook(&client, webhook(&link(1), "link_deleted", 2)).await;
    let removed = async {
        while relink.wait_for_link(&client, &link(1)).await["state"] != "removed" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within("the next state", removed).await;
    relink.wait_until_ready().await;
    assert_eq!(relink.wait_for_link(&client, &link(1)).await["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consumer_is_reported_and_stays_paused() {
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    let client = crate::support::binary::client();
    let until = time::OffsetDateTime::from_unix_timestamp(4_000_000_000).expect("a time");
    let input = nats.context.get_stream("BELVO").await.expect("the stream");
    input.pause_consumer("relink-1", until).await.expect("paused");
    relink.wait_until_not_ready(&client, "the consumer BELVO/relink-1 is paused").await;
    input.resume_consumer("relink-1").await.expect("resumed");
    relink.wait_until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_its_own_nats_server_is_survived() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = crate::support::nats_server().await;
    let store_dir = dir.path().join("nats");
    std::fs::create_dir(&store_dir).expect("created");
    // A disk of its own for the server, which needs no privileges in a namespace of its own.
    let mount = format!("mount -t tmpfs -o size=48m tmpfs '{}'", store_dir.display());
    let can = tokio::process::Command::new("unshare").args(["-rm", "sh", "-c", &mount]).output().await;
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine does not let a test mount a file system of its own (unshare -rm)");
        return;
    }
    let command = format!("{mount} && exec '{}' serve", env!("CARGO_BIN_EXE_relink"));
    let binary = binary.to_str().expect("UTF-8");
    let mut relink =
        Relink::spawn(&["unshare", "-rm", "sh", "-c", &command], "", dir.path(), &[("RELINK_NATS_SERVER", binary)])
            .await;
    relink.wait_until_ready().await;
    let client = crate::support::binary::client();
    relink.store_webhook(&client, webhook(&link(1), "token_required", 1)).await;
    relink.wait_for_link(&client, &link(1)).await;
    let seen_by_relink = format!("/proc/{}/root{}/fill", relink.child.id().expect("it runs"), store_dir.display());
    let fill = || {
        use std::io::Write;
        let mut file = std::fs::File::create(&seen_by_relink).expect("a file");
        while file.write_all(&[0; 1024]).is_ok() {}
    };
    fill();
    // The journal is on another disk, so webhooks are taken.
    for request in 2..10 {
        relink.store_webhook(&client, webhook(&link(2), "token_required", request)).await;
    }
    relink.wait_until_not_ready(&client, "cannot write to its disk").await;
    std::fs::remove_file(&seen_by_relink).expect("removed");
    relink.wait_for_log("relink's own nats-server does not work; relink restarts it").await;
    relink.wait_until_ready().await;
    relink.store_webhook(&client, webhook(&link(3), "token_required", 900)).await;
    for n in [2, 3] {
        relink.wait_for_link(&client, &link(n)).await;
    }
    relink.signal("TERM").await;
    assert!(within("the end", relink.child.wait()).await.expect("a status").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_is_answered_with_503() {
    let nats = TestNats::start().await;
    // An answer that only promises the journal is 200.
    let stream = [("RELINK_HTTP_ACKNOWLEDGE", "stream")];
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &stream).await;
    let client = crate::support::binary::client();
    let mut config = nats.context.get_stream("BELVO").await.expect("the stream").cached_info().config.clone();
    config.max_messages = 1;
    config.discard = async_nats::jetstream::stream::DiscardPolicy::New;
    nats.context.update_stream(&config).await.expect("limited");
    relink.store_webhook(&client, webhook(&link(1), "token_required", 1)).await;
    let request = client.post(format!("{}/webhooks/belvo", relink.url));
    let request = request.header("authorization", crate::support::binary::WEBHOOK_SECRET);
    let answer = request.body(webhook(&link(2), "token_required", 2)).send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    relink.wait_until_not_ready(&client, "the last input was not stored").await;
    config.max_messages = -1;
    nats.context.update_stream(&config).await.expect("unlimited");
    relink.store_webhook(&client, webhook(&link(2), "token_required", 2)).await;
    relink.wait_until_ready().await;
}

/// The upgrade from 0.2, as docs/operations.md describes it.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_streams_of_0_2_are_removed_the_store_fills_the_new_stream() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let client = crate::support::binary::client();
    for n in 0..5 {
        relink.store_webhook(&client, webhook(&link(n), "token_required", n)).await;
        relink.wait_for_link(&client, &link(n)).await;
    }
    let (_, _, ids) = outputs(&nats).await;
    relink.signal("TERM").await;
    assert!(relink.ended().await.success());
    // 0.2 had the same store and the same inputs, and these two streams.
    nats.context.delete_stream("KV_links").await.expect("deleted");
    let old_stream = |name: &str| Config { name: name.to_owned(), ..Config::default() };
    let output = Config { subjects: vec!["link.>".to_owned()], ..old_stream("LINKS") };
    nats.context.create_stream(output).await.expect("created");
    let source = Source { name: "LINKS".to_owned(), ..Source::default() };
    let copy = Config { sources: Some(vec![source]), ..old_stream("KV_links") };
    nats.context.create_stream(copy).await.expect("created");

    let (status, log) = Relink::refused(nats.server.url(), &data).await;
    assert!(!status.success());
    assert!(log.contains("run `nats stream rm LINKS` and `nats stream rm KV_links`"), "{log}");
    assert!(!log.contains("panicked"), "{log}");

    for name in ["LINKS", "KV_links"] {
        nats.context.delete_stream(name).await.expect("deleted");
    }
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    relink.wait_for_log("the output stream is new or was purged").await;
    relink.store_webhook(&client, webhook(&link(0), "link_deleted", 1000)).await;
    let goes_on = async {
        while outputs(&nats).await.0.get(&link(0)).is_none_or(|versions| versions.len() < 2) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within("the next state", goes_on).await;
    let (versions, prompts, new_ids) = outputs(&nats).await;
    assert_eq!((versions.len(), &versions[&link(0)][..]), (5, &[1, 2][..]), "versions go on");
    assert_eq!(prompts, 0, "nobody is prompted again");
    assert!(ids.is_disjoint(&new_ids), "an id was given out a second time");
}

/// A key-value client that may publish deletes a key: it writes a marker behind the state, which stays on the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_does_not_hide_the_state_from_a_rebuild() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let client = crate::support::binary::client();
    for n in 0..3 {
        relink.store_webhook(&client, webhook(&link(n), "token_required", n)).await;
        relink.wait_for_link(&client, &link(n)).await;
    }
    relink.signal("TERM").await;
    assert!(relink.ended().await.success());
    let bucket = nats.context.get_key_value("links").await.expect("a bucket");
    bucket.delete(link(1)).await.expect("deleted");
    std::fs::remove_dir_all(data.join("store")).expect("the store is removed");

    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let state = relink.wait_for_link(&client, &link(1)).await;
    assert_eq!((&state["version"], &state["state"]), (&1.into(), &"token_required".into()));
    assert!(relink.seen.iter().all(|line| !line.contains("missing on the output stream")), "{:?}", relink.seen);
}
