//! The example of NATS permissions (`deploy/nats/nats.conf`): relink, a publisher and a subscriber do their work with
//! it, and each is refused everything else.

#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::fs;
use std::path::Path;

use async_nats::jetstream::{self, Context, consumer::PullConsumer};
use async_nats::{Client, ConnectOptions};
use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::login::Server;
use crate::support::binary::{API_TOKEN, Relink, client};
use crate::support::within;

fn deployed(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats").join(file)).unwrap()
}

/// Starts nats-server with the deployed file; only its addresses and its directory are changed.
async fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("js").display().to_string();
    let mut config = deployed("nats.conf");
    for (deployed, here) in [("0.0.0.0:4222", "127.0.0.1:-1"), ("0.0.0.0:8222", "127.0.0.1:-1"), ("/data", &store)] {
        assert!(config.contains(&format!("\"{deployed}\"")), "nats.conf has no {deployed}");
        config = config.replace(&format!("\"{deployed}\""), &format!("\"{here}\""));
    }
    let users = ["RELINK", "PUBLISHER", "SUBSCRIBER", "OPERATOR"];
    let passwords: Vec<_> =
        users.iter().map(|user| (format!("NATS_PASSWORD_{user}"), password(&user.to_lowercase()))).collect();
    Server::run(folder, &config, &passwords).await
}

fn password(user: &str) -> String {
    format!("password-of-{user}")
}

/// A client that does what deploy/README.md says: it has an inbox of its own.
async fn connect(server: &Server, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.to_owned(), password(user));
    let options = options.custom_inbox_prefix(format!("_INBOX_{user}"));
    within("a connection", options.connect(&server.host)).await.unwrap()
}

/// The lines of nats-server's log about refused requests.
fn violations(server: &Server) -> Vec<String> {
    let log = fs::read_to_string(server.folder.path().join("log")).unwrap();
    log.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
}

/// Checks that NATS refuses to let this user publish or subscribe. It speaks the protocol itself, because the server's answers
/// to these requests are errors that a client library only logs.
async fn assert_refused(server: &Server, user: &str, publish: &[&str], subscribe: &[&str]) {
    let mut stream = BufReader::new(TcpStream::connect(&server.host).await.unwrap());
    let mut requests = format!("CONNECT {{\"user\":\"{user}\",\"pass\":\"{}\",\"verbose\":false}}\r\n", password(user));
    for subject in publish {
        requests += &format!("PUB {subject} 2\r\n{{}}\r\n");
    }
    for (id, subject) in (1..).zip(subscribe) {
        requests += &format!("SUB {subject} {id}\r\n");
    }
    stream.get_mut().write_all(format!("{requests}PING\r\n").as_bytes()).await.unwrap();
    let mut answers = String::new();
    let answered = async {
        while !answers.contains("PONG\r\n") {
            assert_ne!(stream.read_line(&mut answers).await.unwrap(), 0, "the server closed the connection: {answers}");
        }
    };
    within("the answers", answered).await;
    for (kind, subjects) in [("Publish", publish), ("Subscription", subscribe)] {
        for subject in subjects {
            let refusal = format!("-ERR 'Permissions Violation for {kind} to \"{subject}\"'");
            assert!(answers.contains(&refusal), "{user}: no {kind} violation of {subject}: {answers}");
        }
    }
}

/// The operator creates the consumer of the subscriber from the deployed file.
async fn create_consumer(operator: &Client) {
    let config: Value = serde_json::from_str(&deployed("notifier.json")).unwrap();
    let subject = format!("$JS.API.CONSUMER.CREATE.KV_links.notifier.{}", config["filter_subject"].as_str().unwrap());
    let body = json!({"stream_name": "KV_links", "config": config, "action": "create"}).to_string();
    let answer = within("an answer", operator.request(subject, body.into())).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// Reads notices until one of this type, and acknowledges each.
async fn notice(subscriber: &Context, wanted: &str) -> Value {
    let consumer: PullConsumer = subscriber.get_consumer_from_stream("notifier", "KV_links").await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let search = async {
        loop {
            let message = messages.next().await.unwrap().unwrap();
            message.double_ack().await.unwrap();
            let notice: Value = serde_json::from_slice(&message.payload).unwrap();
            if notice["type"] == wanted {
                return notice;
            }
        }
    };
    within(wanted, search).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_works_with_the_example_of_permissions_and_no_more() {
    let server = start().await;
    let belvo = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let link = belvo.control().create_link("erebor_mx_retail", AccessMode::Recurrent, Some("ana")).unwrap().to_string();
    let belvo_url = belvo.url();
    let settings = [
        ("RELINK_BELVO_URL", belvo_url.as_str()),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
    ];
    let nats_url = format!("nats://relink:{}@{}", password("relink"), server.host);
    let data_dir = server.folder.path().join("data");
    let mut relink = Relink::serve(&nats_url, &data_dir, &settings).await;

    let operator = connect(&server, "operator").await;
    create_consumer(&operator).await;
    let publisher = jetstream::new(connect(&server, "publisher").await);
    let subscriber = jetstream::new(connect(&server, "subscriber").await);

    // The publisher reports an error of Belvo's API; the subscriber gets the notice and reads the state.
    let report = json!({"http_status": 428, "link_id": link, "method": "POST", "path": "/api/transactions/",
        "body": [{"code": "token_required", "message": "A MFA token is required"}]});
    // relink reads the link before its first prompt, and finds it broken at Belvo too.
    let id = link.parse().unwrap();
    belvo.control().set_status(id, LinkStatus::TokenRequired).unwrap();
    let stored = publisher.publish(format!("belvo.api_error.{link}"), report.to_string().into()).await.unwrap();
    within("an acknowledgement", stored.into_future()).await.unwrap();
    let prompt = notice(&subscriber, "update_required").await;
    assert_eq!((&prompt["link_id"], &prompt["action"]), (&json!(link), &json!("provide_token")));
    let request = format!("$JS.API.DIRECT.GET.KV_links.$KV.links.{link}");
    let state = within("an answer", subscriber.client().request(request, "".into())).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&state.payload).unwrap()["state"], "token_required");

    // A command makes a job: relink reads the link from Belvo, where it is valid again.
    belvo.control().set_status(id, LinkStatus::Valid).unwrap();
    let verify = operator.request(format!("belvo.command.{link}"), json!({"command": "verify"}).to_string().into());
    within("an acknowledgement", verify).await.unwrap();
    assert_eq!(notice(&subscriber, "recovered").await["proof"], "observed");

    // Histories, dead letters, their replay, and a rebuild of the store.
    let http = client();
    let answered = async |relink: &Relink, request: reqwest::RequestBuilder| {
        let answer = within("an answer", request.bearer_auth(API_TOKEN).send()).await.unwrap();
        assert!(answer.status().is_success(), "{}: {:?}", answer.status(), relink.seen);
        answer.json::<Value>().await.unwrap()
    };
    let of = |relink: &Relink, path: &str| format!("{}/v1/{path}", relink.url);
    let unknown =
        json!({"webhook_id": "w-1", "webhook_type": "NEW", "webhook_code": "new", "link_id": link, "data": {}});
    assert_eq!(relink.webhook(&http, unknown.to_string()).await, Some(200));
    let letters = async {
        loop {
            let list = answered(&relink, http.get(of(&relink, "dead-letters"))).await;
            if !list["dead_letters"].as_array().unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("a dead letter", letters).await;
    answered(&relink, http.post(of(&relink, "dead-letters/1/replay"))).await;
    answered(&relink, http.post(of(&relink, "dead-letters/1/drop"))).await;
    let history = answered(&relink, http.get(of(&relink, &format!("links/{link}/history")))).await;
    assert!(history["entries"].as_array().unwrap().len() > 2, "{history}");
    relink.signal("TERM").await;
    assert!(relink.ended().await.success());
    fs::remove_dir_all(data_dir.join("store")).unwrap();
    let relink = Relink::serve(&nats_url, &data_dir, &settings).await;
    assert_eq!(answered(&relink, http.get(of(&relink, &format!("links/{link}")))).await["state"], "valid");

    // Nothing of this was refused.
    assert_eq!(violations(&server), Vec::<String>::new());

    let every_stream =
        ["$JS.API.STREAM.DELETE.BELVO", "$JS.API.STREAM.PURGE.KV_links", "$JS.API.STREAM.UPDATE.KV_links"];
    let eavesdrop = [">", "_INBOX.>", "link.>", "belvo.>", "$KV.>"];
    assert_refused(&server, "relink", &every_stream, &["link.>", "belvo.>"]).await;
    let forged = [&format!("$KV.links.{link}"), &format!("link.notice.recovered.{link}"), "relink.dead.x"];
    let command = format!("belvo.command.{link}");
    let read = ["$JS.API.STREAM.MSG.GET.BELVO", "$JS.API.STREAM.MSG.GET.KV_links", "$JS.API.STREAM.INFO.BELVO"];
    let consume = ["$JS.API.CONSUMER.CREATE.BELVO", "$JS.API.CONSUMER.CREATE.KV_links.x.link.notice.>"];
    let others = ["$JS.API.CONSUMER.MSG.NEXT.KV_links.relink-jobs", "$JS.ACK.BELVO.relink-0.1.1.1.1.0"];
    let none: Vec<&str> = [&every_stream[..], &forged, &[&command], &read, &consume, &others].concat();
    assert_refused(&server, "publisher", &none, &eavesdrop).await;
    let webhook = format!("belvo.webhook.{link}");
    assert_refused(&server, "subscriber", &[&none[..], &[&webhook]].concat(), &eavesdrop).await;
    assert_refused(&server, "operator", &forged, &eavesdrop).await;
    assert!(!violations(&server).is_empty(), "the log shows refused requests");
}
