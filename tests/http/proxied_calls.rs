//! Calls through the proxy arrive at Belvo as they were sent, and the answers as Belvo gave them.

use std::time::Duration;

use futures::StreamExt;
use relink::http::{Limits, proxy, serve};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET, answer, config};
use crate::capture;
use crate::support::within;

const KEYS: &str = "Basic c2FuZGJveDpzYW5kYm94";

/// A proxy in front of an address, with the journal of a bench.
pub(crate) struct Proxied {
    pub(crate) bench: Bench,
    pub(crate) url: String,
    /// The task that stores the reports, if it is not running.
    pub(crate) reports: Option<proxy::Reports>,
    _stop: tokio_util::sync::DropGuard,
    _served: JoinHandle<()>,
}

impl Proxied {
    pub(crate) async fn before(belvo: &str) -> Self {
        let mut proxied = Self::without_reports(belvo, Limits::of_proxy(100)).await;
        tokio::spawn(proxied.reports.take().unwrap().run());
        proxied
    }

    pub(crate) async fn without_reports(belvo: &str, limits: Limits) -> Self {
        let bench = Bench::new().await;
        let config = config(&[
            ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET),
            ("RELINK_API_TOKENS", API_TOKEN),
            ("RELINK_BELVO_URL", belvo),
            ("RELINK_BELVO_SECRET_ID", "relink's own"),
            ("RELINK_BELVO_SECRET_PASSWORD", "relink's own"),
            ("RELINK_PROXY_LISTEN", "127.0.0.1:0"),
        ]);
        let listener = TcpListener::bind(config.proxy.unwrap().listen).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (proxy, reports) = proxy::Proxy::new(&config, &bench.journal).unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, proxy::router(proxy), limits, stop.clone()));
        Self { bench, url, reports: Some(reports), _stop: stop.drop_guard(), _served: served }
    }

    pub(crate) fn request(&self, method: Method, target: &str) -> reqwest::RequestBuilder {
        self.bench.client.request(method, format!("{}{target}", self.url)).header("authorization", KEYS)
    }

    /// Sends bytes on a new connection.
    async fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }
}

/// A server at which a test reads the bytes of each call, and writes the bytes of each answer.
struct Upstream(TcpListener);

impl Upstream {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    async fn accept(&self) -> TcpStream {
        within("a call", self.0.accept()).await.unwrap().0
    }
}

/// Reads until the bytes end with `end`.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let read = async {
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        while !bytes.ends_with(end.as_bytes()) {
            stream.read_exact(&mut byte).await.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&bytes)));
            bytes.push(byte[0]);
        }
        String::from_utf8(bytes).unwrap()
    };
    within(end, read).await
}

async fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// The lines of a head: the first one, and the fields in alphabetic order, without the date.
fn lines(head: &str) -> Vec<&str> {
    let mut lines: Vec<_> = head.trim_end().split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
    lines[1..].sort_unstable();
    lines
}

const HEAD_END: &str = "\r\n\r\n";

#[tokio::test]
async fn a_call_arrives_as_it_was_sent() {
    let upstream = Upstream::start().await;
    let proxied = Proxied::before(&upstream.url()).await;
    let host = upstream.url().replace("http://", "host: ");
    let mut client = proxied
        .send(&format!(
            "POST /api/links/?a=%2C,b&c HTTP/1.1\r\nHost: relink\r\nAuthorization: {KEYS}\r\naccept: x\r\nX-Belvo-Request-Mode: async\r\n\
             Connection: keep-alive, x-mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nContent-Length: 4\r\n\r\n{{ }} "
        ))
        .await;
    let mut call = upstream.accept().await;
    let head = read_to(&mut call, HEAD_END).await;
    let authorization = format!("authorization: {KEYS}");
    let expected = [
        "POST /api/links/?a=%2C,b&c HTTP/1.1",
        "accept: x",
        &authorization,
        "content-length: 4",
        &host,
        "x-belvo-request-mode: async",
    ];
    assert_eq!(lines(&head), expected);
    assert_eq!(read_to(&mut call, "{ } ").await, "{ } ");

    // The answers follow each other on one connection.
    write(&mut call, "HTTP/1.1 302 Found\r\nLocation: https://api.belvo.com/x\r\nSet-Cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n").await;
    let head = read_to(&mut client, HEAD_END).await;
    let expected = ["content-length: 0", "location: https://api.belvo.com/x", "set-cookie: a", "set-cookie: b"];
    assert_eq!(lines(&head), [&["HTTP/1.1 302 Found"], &expected[..]].concat(), "a redirect is not followed");

    write(
        &mut client,
        "PUT /api/links/ HTTP/1.1\r\nhost: x\r\naccept: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    )
    .await;
    let head = read_to(&mut call, HEAD_END).await;
    assert_eq!(lines(&head), ["PUT /api/links/ HTTP/1.1", "accept: x", &host, "transfer-encoding: chunked"]);
    read_to(&mut call, "3\r\nabc\r\n").await;
    write(&mut client, "0\r\n\r\n").await;
    read_to(&mut call, "0\r\n\r\n").await;
    write(&mut call, "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n").await;
    assert_eq!(lines(&read_to(&mut client, HEAD_END).await), ["HTTP/1.1 304 Not Modified", "etag: \"1\""]);

    write(&mut client, "HEAD /api/accounts/ HTTP/1.1\r\nhost: x\r\naccept: x\r\n\r\n").await;
    assert_eq!(lines(&read_to(&mut call, HEAD_END).await), ["HEAD /api/accounts/ HTTP/1.1", "accept: x", &host]);
    write(&mut call, "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nconnection: close\r\n\r\n").await;
    drop(call);
    assert_eq!(lines(&read_to(&mut client, HEAD_END).await), ["HTTP/1.1 200 OK", "content-length: 1234"]);

    write(&mut client, "DELETE /api/accounts/7/ HTTP/1.1\r\nhost: x\r\naccept: x\r\n\r\n").await;
    let mut call = upstream.accept().await;
    read_to(&mut call, HEAD_END).await;
    write(&mut call, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(lines(&read_to(&mut client, HEAD_END).await), ["HTTP/1.1 204 No Content"]);

    write(
        &mut client,
        "POST /api/accounts/ HTTP/1.1\r\nhost: x\r\naccept: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    )
    .await;
    assert_eq!(read_to(&mut client, HEAD_END).await, "HTTP/1.1 100 Continue\r\n\r\n");
    write(&mut client, "{}").await;
    let head = read_to(&mut call, HEAD_END).await;
    assert_eq!(lines(&head), ["POST /api/accounts/ HTTP/1.1", "accept: x", "content-length: 2", &host]);
    read_to(&mut call, "{}").await;
    write(
        &mut call,
        "HTTP/1.1 201 Created\r\ncontent-encoding: br\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
    )
    .await;
    let head = read_to(&mut client, HEAD_END).await;
    assert_eq!(lines(&head), ["HTTP/1.1 201 Created", "content-encoding: br", "transfer-encoding: chunked"]);
    assert_eq!(read_to(&mut client, "0\r\n\r\n").await, "2\r\n[]\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_body_passes_piece_by_piece_and_its_connection_is_not_idle() {
    let upstream = Upstream::start().await;
    let short = Duration::from_millis(50);
    let proxied = Proxied::without_reports(&upstream.url(), Limits { idle: short, ..Limits::of_proxy(1) }).await;
    let mut client =
        proxied.send("POST /api/accounts/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{ \r\n").await;
    let mut call = upstream.accept().await;
    read_to(&mut call, "2\r\n{ \r\n").await;
    write(&mut client, "1\r\n}\r\n0\r\n\r\n").await;
    read_to(&mut call, "0\r\n\r\n").await;
    // An error is read by relink too, and is not held back either.
    write(&mut call, "HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\n[").await;
    read_to(&mut client, "\r\n\r\n[").await;
    // The only slot is taken: another connection does not get it while the answer is open.
    let mut other = proxied.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(4 * short).await;
    write(&mut call, "12345678]").await;
    read_to(&mut client, "12345678]").await;
    assert!(read_to(&mut other, HEAD_END).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_call() {
    let upstream = Upstream::start().await;
    let proxied = Proxied::before(&upstream.url()).await;
    let client = proxied.send("POST /api/accounts/ HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await;
    let mut call = upstream.accept().await;
    read_to(&mut call, "{}").await;
    drop(client);
    let ended = within("the end of the call", call.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");

    // The same during an answer.
    let mut client = proxied.send("GET /api/accounts/ HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut call = upstream.accept().await;
    read_to(&mut call, HEAD_END).await;
    write(&mut call, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n[\r\n").await;
    read_to(&mut client, "1\r\n[\r\n").await;
    drop(client);
    let ended = within("the end of the answer", call.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// relink blames Belvo for what Belvo did, and not for a client that hangs up in the middle of its call.
#[tokio::test]
async fn a_client_that_hangs_up_is_no_failure_of_belvo() {
    let upstream = Upstream::start().await;
    let proxied = Proxied::before(&upstream.url()).await;
    let gone = async |method: &str| {
        let metrics = answer(proxied.bench.request(Method::GET, "/metrics")).await.text;
        let name = format!("relink_proxy_calls_total{{method=\"{method}\",status=\"client_gone\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    // In the middle of the request, and while it waits for the answer. No other test has these methods.
    for (method, head, sent) in
        [("PUT", "content-length: 100", "{\"planted\": 1"), ("DELETE", "content-length: 2", "{}")]
    {
        let before = gone(method).await;
        let target = format!("/api/links/{LINK}/ HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{sent}");
        let client = proxied.send(&format!("{method} {target}")).await;
        let mut call = upstream.accept().await;
        read_to(&mut call, sent).await;
        drop(client);
        let counted = async {
            while gone(method).await == before {
                tokio::task::yield_now().await;
            }
        };
        within("the count", counted).await;
    }
    let log = capture::log();
    let blamed = log.lines().find(|line| line.contains("belvo-unreachable") && line.contains("Body stream"));
    assert!(proxied.bench.inputs().await.is_empty(), "it says nothing about the link");
    assert_eq!(blamed, None);
}

#[tokio::test]
async fn a_call_without_an_answer_is_a_502_and_is_sent_once() {
    let upstream = Upstream::start().await;
    let proxied = Proxied::before(&upstream.url()).await;
    let link = format!("/api/links/{LINK}/");
    let call = tokio::spawn(answer(proxied.request(Method::PUT, &link).json(&json!({"password": "x"}))));
    let mut first = upstream.accept().await;
    read_to(&mut first, "}").await;
    drop(first);
    let answered = call.await.unwrap();
    answered.problem(502, "belvo-unreachable");
    // The next connection is that of another call.
    let call = tokio::spawn(answer(proxied.request(Method::GET, "/api/")));
    let mut second = upstream.accept().await;
    assert!(read_to(&mut second, HEAD_END).await.starts_with("GET /api/ HTTP/1.1"));
    // An answer that ends too early is cut off for the client too.
    write(&mut second, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{").await;
    drop(second);
    assert!(call.await.is_err(), "the client sees that the body is not whole");
    drop(upstream);
    answer(proxied.request(Method::PUT, &link)).await.problem(502, "belvo-unreachable");
    assert!(proxied.bench.inputs().await.is_empty(), "it says nothing about the link");
}

#[tokio::test]
async fn a_request_that_is_not_belvos_is_refused() {
    let upstream = Upstream::start().await;
    let proxied = Proxied::before(&upstream.url()).await;
    for target in ["/", "/v1/links", "/webhooks/belvo", "/api/unknown/", "/api/links/%2e%2e/%2e%2e/admin/"] {
        let refused = answer(proxied.request(Method::POST, target).body("x".repeat(100_000))).await;
        let problem = refused.problem(403, "not-belvos");
        assert!(problem["detail"].as_str().unwrap().contains("/api/links/"), "{problem}");
    }
    for request in [
        "GET http://example.com/api/links/ HTTP/1.1\r\nhost: example.com\r\n\r\n",
        "GET /api/links/../../metrics HTTP/1.1\r\nhost: x\r\n\r\n",
        "CONNECT api.belvo.com:443 HTTP/1.1\r\nhost: api.belvo.com:443\r\n\r\n",
        "TRACE /api/links/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let head = read_to(&mut proxied.send(request).await, HEAD_END).await;
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n") && head.contains("application/problem+json"), "{head}");
    }
    // The whole address of Belvo is Belvo's, and no refused request was passed on before it.
    let target = format!("{}/api/", upstream.url());
    let mut client = proxied.send(&format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    let mut call = upstream.accept().await;
    assert!(read_to(&mut call, HEAD_END).await.starts_with("GET /api/ HTTP/1.1\r\n"));
    write(&mut call, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(read_to(&mut client, "{}").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

/// The reports are not stored, and the calls pass: a queue that is full is only counted.
#[tokio::test]
async fn calls_pass_while_no_report_can_be_stored() {
    let sandbox = belvo_sandbox::Sandbox::start(belvo_sandbox::SandboxConfig::default()).await.unwrap();
    let mut proxied = Proxied::without_reports(&sandbox.url(), Limits::of_proxy(100)).await;
    let calls = (0..600).map(|_| answer(proxied.request(Method::GET, &format!("/api/links/{LINK}/"))));
    let answers: Vec<_> = futures::stream::iter(calls).buffer_unordered(32).collect().await;
    for answered in answers {
        assert_eq!((answered.status, &answered.body[0]["code"]), (404, &json!("not_found")));
    }
    let metrics = answer(proxied.bench.request(Method::GET, "/metrics")).await.text;
    let dropped = metrics.lines().find_map(|line| {
        line.strip_prefix("relink_proxy_reports_total{kind=\"unread\",outcome=\"dropped\"} ")?.parse::<f64>().ok()
    });
    assert_eq!(dropped, Some(600.0 - 512.0), "{metrics}");
    // The reports that waited are stored.
    tokio::spawn(proxied.reports.take().unwrap().run());
    let stored = async {
        while proxied.bench.inputs().await.len() < 512 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the reports", stored).await;
    let (_, _, body) = proxied.bench.inputs().await.pop().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["http_status"], 404);
}
