//! Prompts and reminds the users of links that need repair, or whose consent ends:
//! `cargo run --example subscribe_notices [NATS_URL] [COUNT] [FILE]`
//!
//! One durable pull consumer on the stream `KV_links`. The server stores its position, so this program may be stopped and
//! started at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.
//!
//! A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
//! yesterday's. So this program reads the state of each link before it prompts: a user whose links work again gets no
//! message. With the address of relink in `RELINK_URL`, and a token with the scope `read` in `RELINK_API_TOKEN`, it also asks
//! relink whether a newer message mentions the link, and whether its bank is down now: then the message waits.
//!
//! This example does not use relink's crate: copy it into your own program.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::sync::LazyLock;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, AckKind};
use async_nats::{ConnectOptions, ServerAddr};
use futures::StreamExt;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// All messages to users. Each of them may have other links of the person that wait, and that get no prompt of their own.
const TYPES: [&str; 4] = ["update_required", "reminder", "consent_expiring", "institution_restored"];
const DURABLE: &str = "prompts-rust";
/// While a bank is down, a notice is delivered again after this time.
const BANK_PAUSE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    // Your program has a provider of TLS already, unless it sets up its own.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
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
    let context = jetstream::new(options.connect(address).await?);
    let stream = context.get_stream("KV_links").await?;
    let config = pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        filter_subjects: TYPES.map(|name| format!("link.notice.{name}.*")).to_vec(),
        ack_policy: AckPolicy::Explicit,
        // However many notices wait for a bank, those of other banks are delivered.
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer(DURABLE, config).await?;

    let mut handled = 0;
    let mut messages = consumer.messages().await?;
    while handled < count {
        let Some(message) = messages.next().await else { break };
        let message = message?;
        let id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
        let id = id.map(|id| id.as_str().to_owned()).unwrap_or_default();
        let notice: Value = serde_json::from_slice(&message.payload)?;
        if state_now(&stream, &notice["link_id"]).await?["version"].as_u64() < version_of(&id) {
            // The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
            message.ack_with(AckKind::Nak(Some(Duration::from_secs(1)))).await?;
            continue;
        }
        let found = links_to_ask_for(&stream, &notice).await?;
        if found.iter().any(|(_link, bank_is_down)| *bank_is_down) {
            message.ack_with(AckKind::Nak(Some(BANK_PAUSE))).await?;
            continue;
        }
        let links: Vec<Value> = found.into_iter().map(|(link, _bank_is_up)| link).collect();
        // A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
        let row = params![id, notice["external_id"].as_str(), Value::from(links.clone()).to_string()];
        let is_new = database.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row)? == 1;
        if is_new && links.is_empty() {
            eprintln!("no message for {id}: what it was about is over, under repair, or in a later message");
        } else if is_new {
            println!(
                "{}",
                json!({"id": id, "type": notice["type"], "external_id": notice["external_id"], "links": links})
            );
        }
        handled += usize::from(is_new);
        // Acknowledge last: a notice without an acknowledgement is delivered again.
        message.double_ack().await?;
    }
    Ok(())
}

/// The links of this person that need the person now: the link of the notice, and others that wait. The others get no prompt of
/// their own, so check each link, also if the first one works again. Each link comes with whether its bank is down.
async fn links_to_ask_for(stream: &Stream, notice: &Value) -> Result<Vec<(Value, bool)>, async_nats::Error> {
    let mut left_out = Vec::new();
    if let Some(newer) = newer_message(notice, &state_now(stream, &notice["link_id"]).await?) {
        // Those are in the newer message.
        let mentioned = newer["mentioned"].as_array().into_iter().flatten();
        left_out = mentioned.chain([notice]).map(|link| link["link_id"].clone()).collect();
    }
    let listed = |name: &str| notice[name].as_array().cloned().unwrap_or_default();
    let mut waiting = vec![(notice.clone(), notice["episode"]["number"].clone())];
    waiting.extend(listed("also_broken").into_iter().map(|link| (link.clone(), link["episode"].clone())));
    for mut link in listed("also_ending") {
        link["action"] = "renew_consent".into();
        waiting.push((link, Value::Null));
    }
    let mut links = Vec::new();
    for (link, episode) in waiting {
        let state = state_now(stream, &link["link_id"]).await?;
        let is_newer = left_out.contains(&link["link_id"]) || newer_message(notice, &state).is_some();
        if is_newer || !still_needs_its_user(&link, &episode, &state) {
            continue;
        }
        let known = asked_of_relink(&link).await?;
        // A newer message about another link of the person mentions this link: then only that one is sent.
        if known["last_mention"]["at"].as_str() <= notice["because"]["at"].as_str() {
            let shown = ["link_id", "institution", "action", "repair_url", "due_at"];
            let shown = shown.into_iter().filter_map(|key| Some((key, link.get(key)?.clone()))).collect();
            links.push((shown, known["institution_down_since"].is_string()));
        }
    }
    Ok(links)
}

/// The last message about a link, if it is newer than the notice, as after a pause of this program: then only that one is sent.
/// Times have one form, so their texts can be compared.
fn newer_message(notice: &Value, state: &Value) -> Option<Value> {
    let is_newer = state["messaged"]["at"].as_str() > notice["because"]["at"].as_str();
    is_newer.then(|| state["messaged"].clone())
}

/// What relink knows of the link besides its state: whether a message about another link mentions it, and whether its bank is down.
#[expect(clippy::disallowed_methods, reason = "an example has no configuration")]
async fn asked_of_relink(link: &Value) -> Result<Value, async_nats::Error> {
    let Ok(relink) = std::env::var("RELINK_URL") else { return Ok(Value::Null) };
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(reqwest::Client::new);
    let request = CLIENT.get(format!("{relink}/v1/links/{}", link["link_id"].as_str().unwrap_or_default()));
    let request = request.bearer_auth(std::env::var("RELINK_API_TOKEN").unwrap_or_default());
    let answer = request.timeout(Duration::from_secs(10)).send().await?;
    let answer = answer
        .error_for_status()
        .map_err(|error| format!("{error}: check RELINK_API_TOKEN, which needs the scope `read`"))?;
    Ok(answer.json().await?)
}

/// Whether this outage is still open, and the user is not repairing the link. An episode is one outage. The episodes of a link
/// are numbered, so the number shows whether it is the outage that is open now. If the episode is superseded, the user has
/// connected the bank anew. A link without an episode works, and its consent ends at `due_at`. An operator may have muted the link.
/// An `institution_restored` may have nothing to do.
fn still_needs_its_user(link: &Value, episode: &Value, state: &Value) -> bool {
    if !state.is_object() || state["muted"] == true || state["state"] == "removed" || link["action"] == "none" {
        return false;
    }
    let now = &state["episode"];
    if episode.is_null() {
        return now.is_null() && state["consent"]["due_at"] == link["due_at"];
    }
    now["number"] == *episode && !now["superseded_by"].is_string() && state["state"] != "updating"
}

/// The version of the link that sent this notice; notice ids are `<link>.<version>.<n>`.
fn version_of(id: &str) -> Option<u64> {
    id.rsplit('.').nth(1)?.parse().ok()
}

/// The state of a link at this moment: the last message on its subject.
async fn state_now(stream: &Stream, link_id: &Value) -> Result<Value, async_nats::Error> {
    let subject = format!("$KV.links.{}", link_id.as_str().unwrap_or_default());
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(last) => Ok(serde_json::from_slice(&last.payload)?),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}
