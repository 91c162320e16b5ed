//! Asks a running relink over its HTTP API.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Client, Method};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{Config, Sources};
use crate::nats::history::HistoryEntry;
use crate::printable::shortened;

/// The longest detail of a problem that is shown, in characters.
const DETAIL_LENGTH_MAX: usize = 2_000;

/// Which relink to ask, and with what.
#[derive(Args, Debug)]
pub(super) struct RelinkArgs {
    /// Where it listens, such as http://127.0.0.1:8480
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// A token of its RELINK_API_TOKENS; better left to that variable, for flags are visible to everybody on the
    /// machine
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<SecretString>,
    /// The TOML file the service reads, to find address and token in
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// A running relink.
pub(super) struct Relink {
    client: Client,
    url: String,
    token: SecretString,
}

/// `GET /v1/links/{id}/history`
pub(super) struct History {
    pub(super) link_id: String,
    pub(super) entries: Vec<HistoryEntry>,
    pub(super) truncated: bool,
    /// How many entries are of a newer relink, or none at all: they hide none of the others.
    pub(super) unreadable_count: usize,
}

impl Relink {
    pub(super) fn of(args: RelinkArgs) -> anyhow::Result<Self> {
        let (url, token) = match (args.url, args.token) {
            (Some(url), Some(token)) => (url, token),
            (url, token) => {
                let config = Config::load(&Sources::of_process(args.config, Vec::new()))?.config;
                let token = token.or_else(|| config.http.api_tokens.first().cloned()).context(
                    "a token is needed: give --token, or set RELINK_API_TOKENS as for the service, whose first is used",
                )?;
                (url.unwrap_or_else(|| format!("http://{}", config.http.listen)), token)
            }
        };
        crate::tls::install();
        let client = Client::builder().timeout(Duration::from_secs(30)).build().context("building the HTTP client")?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), token })
    }

    pub(super) async fn history(&self, link: &str) -> anyhow::Result<History> {
        #[derive(Deserialize)]
        struct Answer {
            link_id: String,
            entries: Vec<Value>,
            truncated: bool,
        }
        let Answer { link_id, entries, truncated } =
            self.ask(Method::GET, &format!("/v1/links/{link}/history")).await?;
        let count = entries.len();
        let entries: Vec<HistoryEntry> =
            entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect();
        Ok(History { link_id, unreadable_count: count - entries.len(), entries, truncated })
    }

    pub(super) async fn dead_letters(&self) -> anyhow::Result<Vec<Value>> {
        #[derive(Deserialize)]
        struct Page {
            dead_letters: Vec<Value>,
            next: Option<u64>,
        }
        let mut all = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after {
            let page: Page = self.ask(Method::GET, &format!("/v1/dead-letters?limit=1000&after={from}")).await?;
            all.extend(page.dead_letters);
            // Whatever answers there, the list ends.
            after = page.next.filter(|&next| next > from);
        }
        Ok(all)
    }

    pub(super) async fn dead_letter(&self, sequence: u64) -> anyhow::Result<Value> {
        self.ask(Method::GET, &format!("/v1/dead-letters/{sequence}")).await
    }

    /// The sequence of the new input.
    pub(super) async fn replay(&self, sequence: u64) -> anyhow::Result<u64> {
        let answer: Value = self.ask(Method::POST, &format!("/v1/dead-letters/{sequence}/replay")).await?;
        answer["sequence"].as_u64().context("relink answered without a sequence")
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.url);
        let request = self.client.request(method, &url).bearer_auth(self.token.expose_secret());
        let response = request.send().await.map_err(|error| {
            let error = error.without_url();
            anyhow::Error::new(error).context(format!("asking {}: is `relink serve` running there?", self.url))
        })?;
        let status = response.status();
        let body = response.bytes().await.with_context(|| format!("reading the answer of {}", self.url))?;
        if status.is_success() {
            return serde_json::from_slice(&body).with_context(|| format!("{url} gave no answer of a relink"));
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("the answer says no more");
        bail!("{} answered {}: {}", self.url, status.as_u16(), shortened(detail, DETAIL_LENGTH_MAX));
    }
}
