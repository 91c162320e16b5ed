//! Prompts and reminds the users of links that need repair, or whose consent ends:
//! `cargo run --example subscribe_notices [NATS_URL] [COUNT] [FILE]`
//!
//! One durable pull consumer on the stream `KV_links`: NATS stores its position, so this program may be stopped at any time, and
//! several copies share the work. A new consumer starts at the oldest notice. So before each message it asks relink (`RELINK_URL`,
//! and `RELINK_API_TOKEN` with the scope `read`) whom the notice is still about. It ends after COUNT notices; without COUNT it does
//! not end. This example does not use relink's crate: copy it into your own program.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]
#![expect(clippy::disallowed_methods, reason = "an example has no configuration")]

use std::env;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, AckKind};
use async_nats::{ConnectOptions, ServerAddr};
use futures::StreamExt;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// All messages to users. Each of them may have other links of the person that wait, and that get no prompt of their own.
const TYPES: [&str; 4] = ["update_required", "reminder", "consent_expiring", "institution_restored"];
const DURABLE: &str = "prompts-rust";

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    // Your program has a provider of TLS already, unless it sets up its own.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let count = arguments.next().map_or(Ok(usize::MAX), |count| count.parse())?;

    // The messages to your users. Your mailer sends those whose `links` are not empty.
    let database = Connection::open(arguments.next().unwrap_or_else(|| "messages.sqlite".to_owned()))?;
    let table = "CREATE TABLE IF NOT EXISTS messages (notice_id TEXT PRIMARY KEY, external_id TEXT, links TEXT)";
    database.execute(table, [])?;

    // async-nats ignores a user and a password in the address, so they are passed on.
    let address: ServerAddr = url.parse()?;
    let options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.into(), password.into()),
        (Some(token), None) => ConnectOptions::with_token(token.into()),
        (None, _) => ConnectOptions::new(),
    };
    let stream = jetstream::new(options.connect(address).await?).get_stream("KV_links").await?;
    let config = pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        filter_subjects: TYPES.map(|name| format!("link.notice.{name}.*")).to_vec(),
        ack_policy: AckPolicy::Explicit,
        // However many notices wait for a bank, those of other banks are delivered: no limit to notices without an acknowledgement.
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    let mut messages = stream.get_or_create_consumer(DURABLE, config).await?.messages().await?;
    let relink = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let mut handled = 0;
    while handled < count {
        let Some(message) = messages.next().await.transpose()? else { break };
        let id = message.headers.as_ref().and_then(|headers| headers.get("ce-id")).ok_or("no id")?.to_string();
        let notice: Value = serde_json::from_slice(&message.payload)?;
        let now = whom_it_is_about(&relink, &notice).await?;
        if let Some(seconds) = now["check_again_secs"].as_u64() {
            // A bank is down: NATS delivers the notice again later.
            message.ack_with(AckKind::Nak(Some(Duration::from_secs(seconds)))).await?;
            continue;
        }
        // A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
        let row = params![id, notice["external_id"].as_str(), now["links"].to_string()];
        let is_new = database.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row)? == 1;
        if is_new && now["links"] == json!([]) {
            eprintln!("no message for {id}: {}", now["left_out"]);
        } else if is_new {
            let [kind, person, links] = [&notice["type"], &notice["external_id"], &now["links"]];
            println!("{}", json!({"id": id, "type": kind, "external_id": person, "links": links}));
        }
        handled += usize::from(is_new);
        // Acknowledge last: a notice without an acknowledgement is delivered again.
        message.double_ack().await?;
    }
    Ok(())
}

/// The links to write about now, and the others with the reason. If relink cannot be asked, the program ends; nothing is lost.
async fn whom_it_is_about(client: &reqwest::Client, notice: &Value) -> Result<Value, async_nats::Error> {
    let relink = env::var("RELINK_URL").unwrap_or_else(|_| "http://127.0.0.1:8480".to_owned());
    let token = env::var("RELINK_API_TOKEN").unwrap_or_default();
    let request = client.post(format!("{relink}/v1/notices/check")).bearer_auth(token).json(notice);
    Ok(request.send().await?.error_for_status()?.json().await?)
}
