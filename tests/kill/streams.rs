//! Reads a stream message by message, from where the last read ended.
//!
//! The messages come from `$JS.API.STREAM.MSG.GET`, as base64: a consumer of async-nats cannot read a message whose headers are malformed,
//! and the harness publishes such messages.

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The number of requests that are open at the same time.
const REQUESTS_OPEN: usize = 32;

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub(crate) stored_ms: i64,
}

impl Stored {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The result of a read.
#[derive(Debug)]
pub(crate) struct News {
    /// The stream was created anew since the last read.
    pub(crate) is_new: bool,
    /// The name and the creation time of the stream, as dead letters name it.
    pub(crate) identity: String,
    pub(crate) messages: Vec<Stored>,
}

/// The place in a stream up to which it was read.
#[derive(Clone, Debug)]
pub(crate) struct StreamReader {
    name: &'static str,
    identity: Option<String>,
    next: u64,
}

#[derive(Deserialize)]
struct RawMessage {
    seq: u64,
    subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

impl StreamReader {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, identity: None, next: 1 }
    }

    /// All messages after the last read; `None` if the stream does not exist.
    pub(crate) async fn read(&mut self, client: &Client) -> Result<Option<News>> {
        let Some((identity, last)) = extent(client, self.name).await? else { return Ok(None) };
        let is_new = self.identity.as_ref() != Some(&identity);
        if is_new {
            self.identity = Some(identity.clone());
            self.next = 1;
        }
        let name = self.name;
        let reads = (self.next..=last).map(|sequence| message(client, name, sequence));
        let found: Vec<Option<Stored>> = futures::stream::iter(reads).buffered(REQUESTS_OPEN).try_collect().await?;
        self.next = last.max(self.next - 1) + 1;
        Ok(Some(News { is_new, identity, messages: found.into_iter().flatten().collect() }))
    }
}

/// The identity of a stream and its last sequence.
async fn extent(client: &Client, name: &str) -> Result<Option<(String, u64)>> {
    let info = request(client, format!("$JS.API.STREAM.INFO.{name}"), String::new()).await?;
    if info["error"]["code"] == 404 {
        return Ok(None);
    }
    let created = info["created"].as_str().with_context(|| format!("no creation time: {info}"))?;
    let created_ns = OffsetDateTime::parse(created, &Rfc3339)?.unix_timestamp_nanos();
    let last = info["state"]["last_seq"].as_u64().context("no last sequence")?;
    Ok(Some((format!("{name}@{created_ns}"), last)))
}

/// One message; `None` if it was deleted.
async fn message(client: &Client, name: &str, sequence: u64) -> Result<Option<Stored>> {
    let answer = request(client, format!("$JS.API.STREAM.MSG.GET.{name}"), format!(r#"{{"seq":{sequence}}}"#)).await?;
    if answer["error"]["code"] == 404 {
        return Ok(None);
    }
    if !answer["error"].is_null() {
        bail!("message {sequence} of {name}: {}", answer["error"]);
    }
    let raw = RawMessage::deserialize(&answer["message"])?;
    let headers = BASE64_STANDARD.decode(raw.hdrs)?;
    let headers = String::from_utf8_lossy(&headers);
    let headers = headers.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let stored_ns = OffsetDateTime::parse(&raw.time, &Rfc3339)?.unix_timestamp_nanos();
    Ok(Some(Stored {
        sequence: raw.seq,
        subject: raw.subject,
        headers: headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
        body: BASE64_STANDARD.decode(raw.data)?,
        stored_ms: i64::try_from(stored_ns.div_euclid(1_000_000))?,
    }))
}

async fn request(client: &Client, subject: String, body: String) -> Result<Value> {
    let answer = client.request(subject.clone(), body.into()).await.with_context(|| subject)?;
    Ok(serde_json::from_slice(&answer.payload)?)
}
