//! What the proxy reports of the calls that pass through it, and what it never stores.

use std::io::Write;
use std::time::Duration;

use belvo_sandbox::{AccessMode, ApiFault, LinkStatus, Sandbox, SandboxConfig};
use relink::link::Timestamp;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::bench::{LINK, answer};
use crate::capture;
use crate::proxied_calls::Proxied;
use crate::support::within;

impl Proxied {
    /// The inputs as kind, link and body, once there are so many.
    async fn reported(&self, count: usize) -> Vec<(String, String, Value)> {
        let stored = async {
            loop {
                let inputs = self.bench.inputs().await;
                if inputs.len() >= count {
                    break inputs;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let inputs = within("the reports", stored).await;
        assert_eq!(inputs.len(), count, "{inputs:?}");
        let read = |(subject, headers, body): (String, async_nats::HeaderMap, bytes::Bytes)| {
            assert_eq!(headers.get("ce-source").unwrap().as_str(), "/relink/proxy");
            let (_, kind_and_link) = subject.split_once('.').unwrap();
            let (kind, link) = kind_and_link.split_once('.').unwrap();
            (kind.to_owned(), link.to_owned(), serde_json::from_slice(&body).unwrap())
        };
        inputs.into_iter().map(read).collect()
    }

    async fn call(&self, method: Method, target: &str, body: Value) -> u16 {
        let request = self.request(method, target);
        answer(if body.is_null() { request } else { request.json(&body) }).await.status
    }
}

#[tokio::test]
async fn the_answers_that_concern_a_link_are_reported_and_no_other() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let control = sandbox.control();
    let link = control.add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    let heimdall = control.add_link("heimdall_mx_retail", AccessMode::Recurrent, None).unwrap();
    let (id, on_link) = (link.to_string(), format!("/api/links/{link}/"));
    let proxied = Proxied::before(&sandbox.url()).await;
    let keys = json!({"id": "sandbox", "password": "sandbox", "scopes": "read_institutions,write_links,read_links"});
    let with_link = |body: &Value, name: &str| {
        let mut body = body.clone();
        body[name] = json!(id);
        body
    };

    // They concern no link's health.
    assert_eq!(proxied.call(Method::GET, "/api/", Value::Null).await, 200);
    assert_eq!(proxied.call(Method::GET, "/api/links/?page_size=1", Value::Null).await, 200);
    assert_eq!(proxied.call(Method::GET, &on_link, Value::Null).await, 200);
    assert_eq!(proxied.call(Method::POST, "/api/accounts/", json!({"link": id})).await, 201);
    assert_eq!(proxied.call(Method::POST, "/api/token/", keys.clone()).await, 200);
    assert_eq!(proxied.call(Method::POST, "/api/links/", json!({"institution": "narnia"})).await, 400);
    assert_eq!(
        proxied.call(Method::GET, "/api/accounts/00000000-0000-4000-8000-000000000000/", Value::Null).await,
        404
    );

    // A stranger without keys must not fill the streams.
    let stranger = proxied.bench.client.post(format!("{}/api/accounts/", proxied.url)).json(&json!({"link": id}));
    assert_eq!(answer(stranger).await.status, 401);
    control.fail_api(ApiFault::RateLimited(Duration::from_secs(1)), 1, "POST /api/accounts/").unwrap();
    assert_eq!(proxied.call(Method::POST, "/api/accounts/", json!({"link": id})).await, 429);

    let mut expected = Vec::new();
    control.set_status(link, LinkStatus::Invalid).unwrap();
    assert_eq!(proxied.call(Method::POST, "/api/owners/", json!({"link": id})).await, 400);
    expected.push(("api_error", "POST", "/api/owners/", 400, "invalid_link"));
    assert_eq!(proxied.call(Method::PATCH, &on_link, json!({"access_mode": "single"})).await, 200);
    assert_eq!(proxied.call(Method::PUT, &on_link, json!({"password": "wrong"})).await, 400);
    expected.push(("api_error", "PUT", &on_link, 400, "login_error"));
    assert_eq!(proxied.call(Method::POST, "/api/token/", with_link(&keys, "link_id")).await, 200);
    expected.push(("widget", "", "", 0, "started"));
    assert_eq!(proxied.call(Method::PUT, &on_link, json!({"password": "right"})).await, 200);
    expected.push(("widget", "", "", 0, "updated"));
    let refresh = format!("{on_link}refresh/");
    assert_eq!(proxied.call(Method::POST, &refresh, json!({})).await, 202);
    expected.push(("observation", "", "", 0, "refresh_accepted"));
    assert_eq!(proxied.call(Method::POST, &refresh, json!({})).await, 409);
    expected.push(("api_error", "POST", &refresh, 409, "link_refreshed"));
    let deleted = control.add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    assert_eq!(proxied.call(Method::DELETE, &format!("/api/links/{deleted}/"), Value::Null).await, 204);
    expected.push(("observation", "", "", 0, "missing"));

    let seen = proxied.reported(expected.len()).await;
    for ((kind, of, body), (expected, method, path, status, word)) in seen.iter().zip(&expected) {
        let id = if *word == "missing" { &deleted.to_string() } else { &id };
        assert_eq!((kind.as_str(), of), (*expected, id), "{body}");
        let said = match kind.as_str() {
            "api_error" => &body["body"][0]["code"],
            "widget" => &body["event"],
            _ => &body["outcome"],
        };
        assert_eq!(said, word, "{body}");
        if kind == "api_error" {
            assert_eq!((&body["method"], &body["path"]), (&json!(method), &json!(path)));
            assert_eq!((&body["http_status"], &body["link_id"]), (&json!(status), &json!(id)));
        }
    }
    assert!(seen[4].2["request_id"].is_string(), "{}", seen[4].2);

    // A 428 and its resumption.
    let required = answer(proxied.request(Method::POST, "/api/accounts/").json(&json!({"link": heimdall}))).await;
    assert_eq!(required.status, 428);
    let session = required.body[0]["session"].as_str().unwrap();
    let resume = json!({"session": session, "token": "1234ab", "link": heimdall});
    assert_eq!(proxied.call(Method::PATCH, "/api/accounts/", resume).await, 200);
    let seen = proxied.reported(expected.len() + 2).await;
    let [.., (_, first, error), (_, second, updated)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((first, second), (&heimdall.to_string(), first));
    assert_eq!((&error["http_status"], &error["body"][0]["session"]), (&json!(428), &json!("removed")));
    assert_eq!(updated["event"], "updated");

    let metrics = answer(proxied.bench.request(Method::GET, "/metrics")).await.text;
    assert!(metrics.contains("relink_proxy_reports_total{kind=\"api_error\",outcome=\"no_link\"}"), "{metrics}");
    sandbox.shutdown().await;
}

/// The body of the error is compressed. The client gets the bytes as they are, and relink reads a copy.
#[tokio::test]
async fn a_compressed_error_passes_untouched_and_is_read() {
    let error = json!([{"code": "invalid_link", "message": "x", "request_id": "3e7b283c6efa449c9c028a16b5c249fd"}]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(error.to_string().as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = Proxied::before(&format!("http://{}", listener.local_addr().unwrap())).await;
    let coded = gzip.clone();
    tokio::spawn(async move {
        let mut call = listener.accept().await.unwrap().0;
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            assert!(call.read_buf(&mut read).await.unwrap() > 0);
        }
        let head = format!("HTTP/1.1 400 x\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", coded.len());
        call.write_all(&[head.as_bytes(), &coded].concat()).await.unwrap();
    });
    let response = proxied.request(Method::GET, &format!("/api/accounts/?link={LINK}")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["content-encoding"]), (400, &"gzip".parse().unwrap()));
    assert_eq!(response.bytes().await.unwrap(), gzip);
    let seen = proxied.reported(1).await;
    assert_eq!((&seen[0].1, &seen[0].2["body"]), (&LINK.to_owned(), &error));
}

/// NATS is away: the calls pass, the reports are on the disk, and are published later.
#[tokio::test]
async fn calls_pass_while_nats_is_away_and_their_reports_follow() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
    sandbox.control().set_status(link, LinkStatus::Invalid).unwrap();
    let mut proxied = Proxied::before(&sandbox.url()).await;
    let (options, port) = (proxied.bench.nats.server.options().clone(), proxied.bench.nats.server.port());
    proxied.bench.nats.kill().await;
    for _ in 0..3 {
        assert_eq!(proxied.call(Method::POST, "/api/accounts/", json!({"link": link})).await, 400);
    }
    let written = async {
        while proxied.bench.journal.waiting().records < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the journal", written).await;
    assert!(proxied.bench.journal.waiting().since.is_none_or(|since| since > Timestamp::from_millis(0)));
    let again = relink::nats::server::ServerOptions { port, ..options };
    let server = relink::nats::server::NatsServer::start(again).await.unwrap();
    let unused = std::mem::replace(&mut proxied.bench.nats.server, server);
    unused.kill().await.unwrap();
    let seen = proxied.reported(3).await;
    assert!(seen.iter().all(|(kind, of, _)| kind == "api_error" && *of == link.to_string()), "{seen:?}");
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_secret_never_gets_into_the_journal_a_message_or_the_log() {
    const PASSWORD: &str = "planted-proxy-password";
    let config = SandboxConfig { secret_password: SecretString::from(PASSWORD), ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    let control = sandbox.control();
    let heimdall = control.add_link("heimdall_mx_retail", AccessMode::Recurrent, None).unwrap();
    let proxied = Proxied::before(&sandbox.url()).await;
    let call = |method, target: &str, body: Value| {
        let request = proxied.bench.client.request(method, format!("{}{target}", proxied.url));
        answer(request.basic_auth("sandbox", Some(PASSWORD)).json(&body))
    };
    let required = call(Method::POST, "/api/accounts/", json!({"link": heimdall})).await;
    let error = &required.body[0];
    let session = error["session"].as_str().unwrap().to_owned();
    let data = error["token_generation_data"]["value"].as_str().unwrap_or("planted-nothing").to_owned();
    let user = json!({"institution": "erebor_mx_retail", "username": "planted-user", "password": "wrong"});
    let resume = json!({"session": session, "token": "planted-otp", "link": heimdall});
    let keys = json!({"id": "sandbox", "password": PASSWORD, "link_id": heimdall,
        "scopes": "read_institutions,write_links,read_links"});
    let minted = call(Method::POST, "/api/token/", keys.clone()).await;
    let access = minted.body["access"].as_str().unwrap().to_owned();
    let mut statuses = vec![
        required.status,
        minted.status,
        call(Method::POST, "/api/links/", user).await.status,
        call(Method::PATCH, "/api/accounts/", resume.clone()).await.status,
        call(Method::PUT, &format!("/api/links/{heimdall}/"), json!({"password": "planted-new-password"})).await.status,
        call(Method::PATCH, "/api/accounts/", resume).await.status,
        call(Method::POST, "/v1/planted-path/", keys).await.status,
    ];
    control.fail_api(ApiFault::server_error(), 1, "PATCH /api/links/").unwrap();
    let resume = json!({"session": session, "token": "planted-otp", "link": heimdall});
    statuses.push(call(Method::PATCH, "/api/links/", resume).await.status);
    // Belvo cannot be reached.
    sandbox.shutdown().await;
    statuses
        .push(call(Method::PUT, &format!("/api/links/{heimdall}/"), json!({"password": "planted-lost"})).await.status);
    assert!(statuses.starts_with(&[428, 200, 400, 200]) && statuses.ends_with(&[500, 502]), "{statuses:?}");

    let reported = async {
        loop {
            let inputs = proxied.bench.inputs().await;
            if inputs.iter().any(|(.., body)| String::from_utf8_lossy(body).contains("unexpected_error")) {
                break inputs;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let inputs = within("the last report", reported).await;
    let mut stored: Vec<String> = inputs
        .iter()
        .map(|(subject, headers, body)| format!("{subject} {headers:?} {}", String::from_utf8_lossy(body)))
        .collect();
    for file in std::fs::read_dir(proxied.bench.directory.path()).unwrap() {
        stored.push(String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()).into_owned());
    }
    stored.push(answer(proxied.bench.request(Method::GET, "/metrics")).await.text);
    stored.extend(capture::log().lines().map(str::to_owned));
    assert!(
        stored.iter().any(|text| text.contains("a request failed") && text.contains("proxy")),
        "the log was captured"
    );
    let secrets =
        ["planted-proxy", "planted-user", "planted-otp", "planted-new", "planted-lost", &session, &access, &data];
    for secret in secrets {
        let leak = stored.iter().find(|text| has_word(text, secret));
        assert_eq!(leak, None, "{secret}");
    }
}

/// Whether the text has this word. A part of a longer number is none: the session's data is `12345`, and so are digits of times.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    // "planted-new" is the begin of a longer secret.
    let may_go_on = word.starts_with("planted");
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !is_part(before.chars().next_back()) && (may_go_on || !is_part(after.chars().next()))
    })
}
