//! Many requests at once: refused ones do not fill the log, and lists do not keep others waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relink::http::Limits;
use relink::store::{MemoryStore, Page, Query, Store, StoreError};
use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bench::{API_TOKEN, Bench, WEBHOOK_SECRET, answer};
use crate::capture;
use crate::support::store::{ChangedStore, Operations};
use crate::support::within;

const ENVIRONMENT: &[(&str, &str)] = &[("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET), ("RELINK_API_TOKENS", API_TOKEN)];

#[tokio::test]
async fn a_flood_of_refused_requests_is_sampled_in_the_log() {
    const REQUESTS: u64 = 300;
    let bench = Bench::new().await;
    for n in 0..REQUESTS {
        answer(bench.request(Method::GET, &format!("/flood/{n}"))).await.problem(404, "not-found");
    }
    let long = answer(bench.request(Method::GET, &format!("/flood/{}", "x".repeat(10_000)))).await;
    assert!(long.problem(404, "not-found")["detail"].as_str().unwrap().len() < 300, "{}", long.text);
    let ours = || {
        let log = capture::log();
        log.lines().filter(|line| line.contains("/flood/")).map(str::to_owned).collect::<Vec<_>>()
    };
    let count = |line: &String| {
        let number = line.split("requests.count=").nth(1)?.split_whitespace().next()?;
        number.parse::<u64>().ok()
    };
    let is_complete = async {
        while ours().iter().map(|line| count(line).unwrap_or(1)).sum::<u64>() < REQUESTS + 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("a count of all requests in the log", is_complete).await;
    let (counts, single): (Vec<_>, Vec<_>) = ours().into_iter().partition(|line| count(line).is_some());
    assert_eq!(single.len(), 10, "the first requests are logged one by one");
    assert!(counts.len() < 30, "{counts:?}");
    let metrics = answer(bench.request(Method::GET, "/metrics")).await;
    assert!(metrics.text.contains("relink_http_requests_total"), "the metrics count all");
}

/// A store whose lists wait until they may be read.
#[derive(Clone, Default)]
struct Slow {
    is_released: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
}

impl Operations for Slow {
    fn page(&self, links: &MemoryStore, query: &Query) -> Result<Page, StoreError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        while !self.is_released.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        links.page(query)
    }
}

#[tokio::test]
async fn many_lists_are_read_two_at_a_time_and_abandoned_ones_are_not_read() {
    let store = ChangedStore::<Slow>::default();
    let Slow { is_released, running, most_running } = store.operations.clone();
    let bench = Bench::limited(ENVIRONMENT, store.clone(), store.links.clone(), Limits::new(0)).await;
    bench.put("a", "erebor", relink::link::State::Valid { suspicion: None });
    let request =
        format!("GET /v1/links?institution=erebor HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_TOKEN}\r\n\r\n");
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(bench.url.trim_start_matches("http://")).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    within("the lists to be read", async {
        while running.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The summary needs no turn.
    let summary = bench.get("/v1/summary").await;
    assert_eq!((summary.status, &summary.body["links_count"]), (200, &1.into()), "{}", summary.text);
    drop(clients);
    is_released.store(true, Ordering::SeqCst);
    let links = bench.get("/v1/links?institution=erebor").await;
    assert_eq!((links.status, links.body["links"].as_array().map(Vec::len)), (200, Some(1)), "{}", links.text);
    assert!(most_running.load(Ordering::SeqCst) <= 2, "two reads run at the same time");
}
