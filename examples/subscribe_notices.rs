//! Prompts the user of a link that needs repair: `cargo run --example subscribe_notices [NATS_URL] [COUNT]`
//!
//! One durable pull consumer on the stream `KV_links`. The server stores its position, so this program may be stopped and
//! started at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.
//!
//! A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
//! yesterday's. So this program reads the state of each link before it prompts: a user whose link works again gets no
//! message.
//!
//! This example does not use relink's crate: copy it into your own program.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, AckKind};
use async_nats::{ConnectOptions, ServerAddr};
use futures::StreamExt;
use serde_json::Value;

const SUBJECT: &str = "link.notice.update_required.*";
const DURABLE: &str = "prompts-rust";

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let count = arguments.next().map_or(Ok(usize::MAX), |count| count.parse())?;

    // async-nats ignores a user and a password in the address, so they are passed on.
    let address: ServerAddr = url.parse()?;
    let options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.into(), password.into()),
        (Some(token), None) => ConnectOptions::with_token(token.into()),
        (None, _) => ConnectOptions::new(),
    };
    let context = jetstream::new(options.connect(address).await?);
    let stream = context.get_stream("KV_links").await?;
    let config = pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        filter_subject: SUBJECT.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer(DURABLE, config).await?;

    // Each notice arrives at least once, with a stable id. Store the ids together with your reaction to the notices, in the
    // same transaction; the set in memory is only an illustration.
    let mut seen = HashSet::new();
    let mut messages = consumer.messages().await?;
    while seen.len() < count {
        let Some(message) = messages.next().await else { break };
        let message = message?;
        let id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
        let id = id.map(|id| id.as_str().to_owned()).unwrap_or_default();
        if !seen.contains(&id) {
            let notice: Value = serde_json::from_slice(&message.payload)?;
            let state = state_now(&stream, notice["link_id"].as_str().unwrap_or_default()).await?;
            if state["version"].as_u64() < version_of(&id) {
                // The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
                message.ack_with(AckKind::Nak(Some(Duration::from_secs(1)))).await?;
                continue;
            }
            if still_needs_its_user(&notice, &state) {
                prompt(&id, &notice, &state);
            } else {
                eprintln!("no prompt for {id}: that outage is over, or under repair");
            }
            seen.insert(id);
        }
        // Acknowledge last: a notice without an acknowledgement is delivered again.
        message.double_ack().await?;
    }
    Ok(())
}

/// Whether the outage of this notice is still open, and its user is not repairing the link. An episode is one outage.
/// The episodes of a link are numbered, so the number shows whether the notice is about the open episode. If the episode
/// is superseded, the user has connected the bank anew.
fn still_needs_its_user(notice: &Value, state: &Value) -> bool {
    let number = &state["episode"]["number"];
    let is_superseded = state["episode"]["superseded_by"].is_string();
    number.is_u64() && *number == notice["episode"]["number"] && !is_superseded && state["state"] != "updating"
}

/// The version of the link that sent this notice; notice ids are `<link>.<version>.<n>`.
fn version_of(id: &str) -> Option<u64> {
    id.rsplit('.').nth(1)?.parse().ok()
}

/// Your part: an e-mail, a push message, a banner. `action` is the required action of the user.
fn prompt(id: &str, notice: &Value, state: &Value) {
    let shown = serde_json::json!({
        "id": id,
        "type": notice["type"],
        "link_id": notice["link_id"],
        "external_id": notice["external_id"],
        "institution": notice["institution"],
        "action": notice["action"],
        "state_now": state["state"],
    });
    println!("{shown}");
}

/// The state of a link at this moment: the last message on its subject.
async fn state_now(stream: &Stream, link_id: &str) -> Result<Value, async_nats::Error> {
    let last = match stream.get_last_raw_message_by_subject(&format!("$KV.links.{link_id}")).await {
        Ok(last) => last,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(Value::Null),
        Err(error) => return Err(error.into()),
    };
    Ok(serde_json::from_slice(&last.payload)?)
}
