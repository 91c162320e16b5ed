//! A proxy in the environment: relink's own addresses and those of this machine never go through it, Belvo does.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::sync::{Arc, Mutex};

use crate::support::binary::{API_TOKEN, Relink, client, inherited};
use crate::support::{TestNats, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// A proxy that records the start of each request, and refuses it.
struct Proxy {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let into = Arc::clone(&into);
                tokio::spawn(async move {
                    let mut start = vec![0; 4096];
                    let length = stream.read(&mut start).await.unwrap_or(0);
                    into.lock().unwrap().push(String::from_utf8_lossy(&start[..length]).into_owned());
                    let refused = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _client_may_be_gone = stream.write_all(refused).await;
                });
            }
        });
        Self { url, requests }
    }

    /// The variables that send everything to this proxy.
    fn environment(&self) -> Vec<(&str, &str)> {
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let all = names.map(|name| (name, self.url.as_str()));
        all.into_iter().chain([("NO_PROXY", ""), ("no_proxy", "")]).collect()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_calls_to_belvo_go_through_a_proxy() {
    let proxy = Proxy::start().await;
    let nats = TestNats::start_with(|options| options.monitor = true).await;
    let belvo = [
        ("RELINK_NATS_MONITOR_URL", nats.server.monitor_url().unwrap()),
        ("RELINK_BELVO_URL", "http://belvo.example"),
        ("RELINK_BELVO_SECRET_ID", "id"),
        ("RELINK_BELVO_SECRET_PASSWORD", "password"),
    ];
    let settings = [&belvo[..], &proxy.environment()].concat();
    // relink logs it when it has read the monitor of NATS, which happens before it listens.
    let mut relink = Relink::serve_after(
        "the NATS server syncs every write to its disk",
        nats.server.url(),
        &nats.dir.path().join("data"),
        &settings,
    )
    .await;
    let update = client().post(format!("{}/v1/links/{LINK}/update", relink.url)).bearer_auth(API_TOKEN).send();
    assert_eq!(within("a call to Belvo", update).await.unwrap().status().as_u16(), 502);
    let mut why = Command::new(env!("CARGO_BIN_EXE_relink"));
    why.args(["why", LINK, "--url", &relink.url]).env_clear().envs(inherited());
    why.env("RELINK_API_TOKENS", API_TOKEN).envs(proxy.environment());
    let printed = within("relink why", why.output()).await.unwrap();
    let problem = String::from_utf8_lossy(&printed.stderr);
    assert!(problem.contains("relink does not know the link"), "{problem}");
    relink.signal("TERM").await;
    within("the stop", relink.child.wait()).await.unwrap();
    assert!(!proxy.requests().is_empty(), "Belvo was called");
    for request in proxy.requests() {
        let is_for_belvo = request.lines().next().is_some_and(|line| line.contains("http://belvo.example/"));
        assert!(is_for_belvo && !request.contains(API_TOKEN), "{request}");
    }
}
