//! Outages of NATS while relink runs, with real processes: relink goes on by itself, or it ends with a sentence; it never hangs.

use std::process::ExitStatus;

use crate::support::binary::Relink;
use crate::support::{TestNats, webhook, within};

fn link(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

async fn ended(mut relink: Relink) -> ExitStatus {
    within("the end of relink", relink.child.wait()).await.expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_while_nats_is_gone() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let mut relink = Relink::serve(nats.server.url(), &data, &[]).await;
    let client = crate::support::binary::client();
    assert_eq!(relink.webhook(&client, webhook(&link(1), "token_required", 1)).await, Some(200));
    nats.server.kill().await.expect("killed");
    // The partitions notice it, and the journal has a message that NATS will not store before the stop.
    relink.wait_for_log("partitions stopped; they will start again after their committed offsets").await;
    assert_eq!(relink.webhook(&client, webhook(&link(2), "token_required", 2)).await, Some(200));
    relink.signal("TERM").await;
    assert!(ended(relink).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_knows_is_answered_while_nats_hangs() {
    const AS_OF: &str = "relink-as-of";
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    let client = crate::support::binary::client();
    let get = async |path: &str| {
        let request = client.get(format!("{}{path}", relink.url)).bearer_auth(crate::support::binary::API_TOKEN);
        request.send().await.expect("an answer")
    };
    assert_eq!(relink.webhook(&client, webhook(&link(1), "token_required", 1)).await, Some(200));
    relink.wait_for_link(&client, &link(1)).await;
    let server = nats.server.pid().to_string();
    crate::support::binary::signal("STOP", &server).await;
    // The client believes to be connected.
    let reads = async {
        let answer = get(&format!("/v1/links/{}", link(1))).await;
        assert_eq!(answer.status(), 200);
        let as_of = answer.headers()[AS_OF].to_str().expect("a text").to_owned();
        for path in
            [format!("/v1/links/{}/history", link(1)), "/v1/dead-letters".to_owned(), "/v1/dead-letters/1".to_owned()]
        {
            let answer = get(&path).await;
            assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true), "{path}");
        }
        as_of
    };
    let as_of = within("the answers", reads).await;
    // The mark does not advance while nothing is known about `KV_links`.
    relink.wait_until_not_ready(&client, "partition").await;
    let answer = get("/v1/summary").await;
    assert_eq!((answer.status().as_u16(), answer.headers()[AS_OF].to_str().expect("a text")), (200, as_of.as_str()));
    crate::support::binary::signal("CONT", &server).await;
    relink.wait_until_ready().await;
    let advanced = async {
        while get("/v1/summary").await.headers()[AS_OF].to_str().expect("a text") <= as_of.as_str() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within("the store to follow the stream again", advanced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_once_after_the_loss_of_nats_ends() {
    let nats = TestNats::start().await;
    let relink = Relink::serve(nats.server.url(), &nats.dir.path().join("relink"), &[]).await;
    nats.server.kill().await.expect("killed");
    relink.signal("HUP").await;
    assert!(ended(relink).await.success());
}

/// Waits until a nats-server has ended.
async fn has_ended(pid: &str) {
    let gone = async {
        while crate::support::binary::is_alive(pid).await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the end of nats-server", gone).await;
}

/// Starts relink with its own nats-server. Returns the id of the server's process too.
async fn with_its_own_server(data: &std::path::Path) -> (Relink, String) {
    let binary = crate::support::nats_server().await;
    let binary = binary.to_str().expect("UTF-8");
    let relink = Relink::serve("", data, &[("RELINK_NATS_SERVER", binary)]).await;
    let pid = server_pid(data);
    (relink, pid)
}

fn server_pid(data: &std::path::Path) -> String {
    std::fs::read_to_string(data.join("nats/nats-server.pid")).unwrap_or_default().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_nats_server_is_started_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut relink, first) = with_its_own_server(dir.path()).await;
    let client = crate::support::binary::client();
    assert_eq!(relink.webhook(&client, webhook(&link(1), "token_required", 1)).await, Some(200));
    crate::support::binary::signal("KILL", &first).await;
    relink.wait_for_log("relink's own nats-server ended; relink starts it again").await;
    relink.store_webhook(&client, webhook(&link(2), "token_required", 2)).await;
    relink.wait_until_ready().await;
    relink.wait_for_link(&client, &link(2)).await;
    let second = server_pid(dir.path());
    assert_ne!(first, second);
    relink.signal("TERM").await;
    assert!(ended(relink).await.success());
    has_ended(&second).await;
}

/// A nats-server goes on to confirm messages for its deleted files.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_directory_of_its_own_nats_server_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut relink, _) = with_its_own_server(dir.path()).await;
    let client = crate::support::binary::client();
    assert_eq!(relink.webhook(&client, webhook(&link(1), "token_required", 1)).await, Some(200));
    relink.wait_for_link(&client, &link(1)).await;
    // The server may write one more file while its directory is removed.
    let remove = || std::fs::remove_dir_all(dir.path().join("nats"));
    while remove().is_err_and(|error| error.kind() == std::io::ErrorKind::DirectoryNotEmpty) {}
    relink.wait_for_log("relink's own nats-server does not work; relink restarts it").await;
    relink.wait_for_log("the output stream is new or was purged").await;
    relink.wait_until_ready().await;
    relink.wait_for_link(&client, &link(1)).await;
    relink.signal("TERM").await;
    assert!(ended(relink).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_ends_again_and_again_ends_relink() {
    let dir = tempfile::tempdir().expect("a directory");
    let (relink, _) = with_its_own_server(dir.path()).await;
    let mut child = relink.child;
    let killed = async {
        let mut last = String::new();
        loop {
            if let Some(status) = child.try_wait().expect("a status") {
                return status;
            }
            let pid = server_pid(dir.path());
            if !pid.is_empty() && pid != last {
                crate::support::binary::try_signal("KILL", &pid).await;
                last = pid;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let status = within("the end of relink", killed).await;
    assert_eq!(status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_relink_and_its_server_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut relink, server) = with_its_own_server(dir.path()).await;
    // A server that hangs does not end by itself.
    crate::support::binary::signal("STOP", &server).await;
    relink.signal("TERM").await;
    relink.wait_for_log("relink is stopping").await;
    relink.signal("INT").await;
    assert_eq!(ended(relink).await.code(), Some(130));
    has_ended(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_killed_by_a_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let (relink, server) = with_its_own_server(dir.path()).await;
    crate::support::binary::signal("STOP", &server).await;
    relink.signal("TERM").await;
    assert!(ended(relink).await.success());
    has_ended(&server).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn nohup_keeps_relink_running() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let relink = Relink::spawn(&["nohup", env!("CARGO_BIN_EXE_relink"), "serve"], nats.server.url(), &data, &[]).await;
    relink.wait_until_ready().await;
    relink.signal("HUP").await;
    let client = crate::support::binary::client();
    assert_eq!(relink.webhook(&client, webhook(&link(1), "token_required", 1)).await, Some(200));
    relink.wait_for_link(&client, &link(1)).await;
    relink.signal("TERM").await;
    assert!(ended(relink).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_of_a_consumer_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = crate::support::binary::client();
    let (relink, _) = with_its_own_server(dir.path()).await;
    for n in 0..12 {
        assert_eq!(relink.webhook(&client, webhook(&link(n), "token_required", n)).await, Some(200));
        relink.wait_for_link(&client, &link(n)).await;
    }
    relink.signal("TERM").await;
    assert!(ended(relink).await.success());
    let streams = dir.path().join("nats/jetstream/$G/streams");
    for state in ["BELVO/obs/relink-0/o.dat", "BELVO/obs/relink-2/o.dat", "KV_links/obs/relink-jobs/o.dat"] {
        std::fs::write(streams.join(state), "garbage").expect("the state of a consumer");
    }
    let (relink, _) = with_its_own_server(dir.path()).await;
    for n in 12..24 {
        assert_eq!(relink.webhook(&client, webhook(&link(n), "token_required", n)).await, Some(200));
        relink.wait_for_link(&client, &link(n)).await;
    }
    // No input was handled a second time.
    for n in 0..12 {
        assert_eq!(relink.wait_for_link(&client, &link(n)).await["version"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_is_replaced() {
    let nats = TestNats::start().await;
    let client = crate::support::binary::client();
    let first = Relink::serve(nats.server.url(), &nats.dir.path().join("first"), &[]).await;
    assert_eq!(first.webhook(&client, webhook(&link(1), "token_required", 1)).await, Some(200));
    first.wait_for_link(&client, &link(1)).await;
    first.signal("STOP").await;
    // The first process still has a pull at every partition.
    let second = Relink::serve(nats.server.url(), &nats.dir.path().join("second"), &[]).await;
    for n in 2..14 {
        assert_eq!(second.webhook(&client, webhook(&link(n), "token_required", n)).await, Some(200));
    }
    for n in 1..14 {
        second.wait_for_link(&client, &link(n)).await;
    }
    first.signal("CONT").await;
    assert_eq!(ended(first).await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_graceful_stop_the_next_start_goes_on() {
    let nats = TestNats::start().await;
    let data = nats.dir.path().join("relink");
    let client = crate::support::binary::client();
    for (round, signal) in ["TERM", "INT", "TERM"].into_iter().enumerate() {
        let relink = Relink::serve(nats.server.url(), &data, &[]).await;
        assert_eq!(relink.webhook(&client, webhook(&link(round), "token_required", round)).await, Some(200));
        relink.signal(signal).await;
        assert!(ended(relink).await.success());
    }
    let relink = Relink::serve(nats.server.url(), &data, &[]).await;
    for round in 0..3 {
        assert_eq!(relink.wait_for_link(&client, &link(round)).await["version"], 1);
    }
}
