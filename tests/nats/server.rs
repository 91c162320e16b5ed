//! The nats-server that relink starts: restarts, crashes of relink, and the search for its binary.

use crate::support::{STOP_LIMIT, TestNats, message, server_source, within};
use relink::nats::server::{NatsServer, ServerError, min_version_check};
use relink::nats::server_binary::{MINIMUM, ServerSource, locate};

#[tokio::test]
async fn a_restart_continues_the_store_on_the_same_port() {
    let nats = TestNats::start_with(|options| options.monitor = true).await;
    nats.ensure(2).await;
    assert!(min_version_check(&nats.client).expect("new enough") >= MINIMUM);
    assert!(nats.server.monitor_url().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
    nats.batches().publish_atomic(vec![message("$KV.links.a", "1")]).await.expect("stored");
    let mut options = nats.server.options().clone();
    options.port = nats.server.port();
    let url = nats.server.url().to_owned();
    nats.server.stop(STOP_LIMIT).await.expect("stopped");
    for _ in 0..2 {
        let server = NatsServer::start(options.clone()).await.expect("it starts again");
        assert_eq!(server.url(), url);
        let client = async_nats::connect(&url).await.expect("connects");
        let stream = async_nats::jetstream::new(client).get_stream("KV_links").await.expect("the stream is there");
        assert_eq!(stream.get_raw_message(1).await.expect("the message is there").payload, "1");
        server.kill().await.expect("the server can be killed");
    }
}

#[tokio::test]
async fn two_servers_cannot_use_one_store() {
    let nats = TestNats::start().await;
    let error = NatsServer::start(nats.server.options().clone()).await.expect_err("it is in use");
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
}

/// After relink was killed with SIGKILL, the server still runs and holds its lock, and relink's own lock is free.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_of_a_killed_process_is_stopped_first() {
    let nats = TestNats::start_with_streams(2).await;
    nats.batches().publish_atomic(vec![message("$KV.links.a", "1")]).await.expect("stored");
    let options = nats.server.options().clone();
    nats.server.stop(STOP_LIMIT).await.expect("stopped");
    let lock = std::fs::File::create(options.store_dir.join("server.lock")).expect("the lock file");
    lock.try_lock().expect("free");
    let mut orphan = std::process::Command::new(&options.binary)
        .arg("--config")
        .arg(options.store_dir.join("nats-server.conf"))
        .stdin(lock)
        .spawn()
        .expect("an orphan");
    // The server runs once it has written its pid file.
    let pid_file = options.store_dir.join("nats-server.pid");
    within("the orphan's start", async {
        while !std::fs::read_to_string(&pid_file).is_ok_and(|pid| pid.trim() == orphan.id().to_string()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let reaper = tokio::task::spawn_blocking(move || orphan.wait());
    let server = NatsServer::start(options).await.expect("the server starts on the same store");
    assert!(reaper.await.expect("no panic").is_ok(), "the orphan has ended");
    let client = async_nats::connect(server.url()).await.expect("connects");
    assert!(async_nats::jetstream::new(client).get_stream("KV_links").await.is_ok());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let binary = locate(server_source()).await.expect("a nats-server");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut options = relink::nats::server::ServerOptions::new(binary, dir.path());
    options.port = Some(port);
    let error = NatsServer::start(options).await.expect_err("the port is taken").to_string();
    assert!(error.contains(&format!("the port {port} of 127.0.0.1 is in use")), "{error}");
}

#[tokio::test]
async fn the_error_of_a_failed_start_has_the_end_of_the_log() {
    let binary = locate(server_source()).await.expect("a nats-server");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("jetstream"), "not a directory").expect("a file");
    let options = relink::nats::server::ServerOptions::new(binary, dir.path());
    let error = NatsServer::start(options).await.expect_err("the server has no directory");
    assert!(
        matches!(&error, ServerError::Exited { log_tail, .. } if log_tail.contains("is not a directory")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_searches_for_a_server_find_the_same_binary() {
    // On a new machine, one of the four searches installs a server, and the others wait.
    let source = server_source();
    let all = futures::future::join_all((0..4).map(|_| locate(source.clone()))).await;
    let first = all[0].as_ref().expect("there is one, or it can be installed").clone();
    assert!(all.iter().all(|found| found.as_ref().is_ok_and(|path| *path == first)));
    // An installed server is found later, also if an installation is not allowed.
    let found = locate(ServerSource { may_install: false, ..source }).await;
    assert_eq!(found.expect("it is still there"), first);
}
