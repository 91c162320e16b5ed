//! Fixtures of the tests with a real nats-server: each test has its own server and directory.
//!
//! The server comes from `$RELINK_NATS_SERVER`, from `PATH`, or is installed once into the user's cache directory.
//! Next: `nats/batch.rs` is the shortest example.

#![expect(dead_code, reason = "every test binary compiles this file and uses a part of it")]

pub(crate) mod binary;
pub(crate) mod node;
pub(crate) mod raw_client;
pub(crate) mod store;

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use relink::nats::batch::{BATCH_TIMEOUT, BatchMessage, Batches};
use relink::nats::connection::Access;
use relink::nats::server::{NatsServer, ServerOptions};
use relink::nats::server_binary::{ServerSource, locate};
use relink::nats::stream::{StreamSettings, ensure_all};
use relink::nats::subject::Subjects;
use relink::service::Service;
use secrecy::{ExposeSecret, SecretString};

/// The time limit for a nats-server to end by itself.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A nats-server for one test; it ends with the test.
#[derive(Debug)]
pub(crate) struct TestNats {
    pub(crate) server: NatsServer,
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) dir: tempfile::TempDir,
}

impl TestNats {
    /// An empty server.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// An empty server with other options.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
        let binary = nats_server().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut options = ServerOptions::new(binary, dir.path().join("nats"));
        change(&mut options);
        let server = NatsServer::start(options).await.expect("nats-server starts");
        let client = connect_to(&server.url_with_login()).await;
        Self { context: jetstream::new(client.clone()), server, client, dir }
    }

    /// Kills the server and starts it again, on the same port and directory.
    pub(crate) async fn restart(&mut self) {
        self.restart_after(|_store| {}).await;
    }

    /// Kills the server, changes its directory, and starts it again on the same port.
    pub(crate) async fn restart_after(&mut self, change: impl FnOnce(&std::path::Path)) {
        let mut options = self.server.options().clone();
        options.port = self.server.port();
        let replaced = NatsServer::start(ServerOptions::new(&options.binary, self.dir.path().join("other")));
        let running = std::mem::replace(&mut self.server, replaced.await.expect("nats-server starts"));
        running.kill().await.expect("killed");
        change(&options.store_dir);
        let other = std::mem::replace(&mut self.server, NatsServer::start(options).await.expect("nats-server starts"));
        other.stop(STOP_LIMIT).await.expect("stopped");
    }

    /// Kills the server; nothing listens on its port any more.
    pub(crate) async fn kill(&mut self) {
        let options = ServerOptions::new(&self.server.options().binary, self.dir.path().join("unused"));
        let unused = NatsServer::start(options).await.expect("nats-server starts");
        std::mem::replace(&mut self.server, unused).kill().await.expect("killed");
    }

    /// A server with the streams of the default configuration and this many partitions.
    pub(crate) async fn start_with_streams(partitions: u16) -> Self {
        let nats = Self::start().await;
        nats.ensure(partitions).await;
        nats
    }

    /// Declares the streams of the default configuration.
    pub(crate) async fn ensure(&self, partitions: u16) {
        let settings = StreamSettings { partitions, ..StreamSettings::default() };
        ensure_all(&self.context, &Subjects::default(), &settings).await.expect("the streams are declared");
    }

    pub(crate) fn batches(&self) -> Batches {
        Batches::new(self.client.clone(), BATCH_TIMEOUT)
    }

    /// Another connection, like that of another node.
    pub(crate) async fn connect(&self) -> Client {
        connect_to(&self.server.url_with_login()).await
    }

    /// Sequence, subject, headers and body of every message of a stream, oldest first.
    ///
    /// Reads by a consumer, like a partition: reading by sequence (`STREAM.MSG.GET`) keeps only the last of several
    /// headers with one name in async-nats 0.51.
    pub(crate) async fn read(&self, stream: &str) -> Vec<(u64, String, HeaderMap, bytes::Bytes)> {
        let stream = self.context.get_stream(stream).await.expect("the stream exists");
        let count = usize::try_from(stream.cached_info().state.messages).expect("a count");
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let messages = consumer.stream().messages().await.expect("a pull").take(count).map(|message| {
            let message = message.expect("a message");
            let sequence = message.info().expect("a JetStream message").stream_sequence;
            let message = message.message;
            (sequence, message.subject.to_string(), message.headers.unwrap_or_default(), message.payload)
        });
        within("reading a stream", messages.collect()).await
    }
}

/// The path of the nats-server of the tests.
pub(crate) async fn nats_server() -> PathBuf {
    locate(server_source()).await.expect("the tests need a nats-server")
}

/// A connection to the nats-server of a service that runs its own.
pub(crate) async fn connect_to_own(service: &Service) -> Client {
    connect_to(&service.own_nats_url_with_login().expect("its own nats-server")).await
}

async fn connect_to(url: &SecretString) -> Client {
    let access = Access::of_urls([url.expose_secret()]).expect("an address");
    access.connect("test").await.expect("nats-server takes connections")
}

/// The places where the tests look for nats-server.
pub(crate) fn server_source() -> ServerSource {
    let cache_dir = variable("XDG_CACHE_HOME")
        .or_else(|| variable("LOCALAPPDATA"))
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("relink");
    ServerSource {
        explicit: variable("RELINK_NATS_SERVER"),
        path_var: variable("PATH").map(PathBuf::into_os_string),
        cache_dir,
        may_install: true,
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A LINK webhook of Belvo. Two of one `request` are the same fact.
pub(crate) fn webhook(link: &str, code: &str, request: usize) -> String {
    format!(
        r#"{{"webhook_id":"{request:032x}","webhook_type":"LINK","process_type":"recurrent_update","webhook_code":"{code}",
            "link_id":"{link}","request_id":"{request:08x}-51eb-4350-9c74-5df5ac92a7f6","external_id":null,"data":{{}}}}"#
    )
}

/// A message without headers.
pub(crate) fn message(subject: impl Into<String>, body: impl Into<String>) -> BatchMessage {
    BatchMessage::new(subject, body.into().into_bytes())
}

/// Awaits with a timeout, so that a hang becomes a named failure.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than 30 s"),
    }
}
