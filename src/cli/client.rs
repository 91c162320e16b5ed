//! The client of a running relink's HTTP API.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::header::HeaderValue;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::beside::Beside;
use super::due::Around;
use super::output::{DIM, wrong_argument};
use crate::config::{Config, Sources};
use crate::contract::{HistoryEntry, HistoryKind, INSTITUTIONS_ON_PAGE, Scope};
use crate::printable::shortened;

/// The HTTP status of a token without the scope of the request.
pub(super) const FORBIDDEN: u16 = 403;

/// The HTTP status of a link that relink does not know.
pub(super) const NOT_FOUND: u16 = 404;

/// The status of an answer that relink cannot give now.
const SERVICE_UNAVAILABLE: u16 = 503;

/// The status of a request that is allowed later.
const TOO_MANY_REQUESTS: u16 = 429;

/// The longest time of an answer with events. relink ends it after 100 seconds.
const EVENTS_WITHIN: Duration = Duration::from_secs(150);

/// The longest `detail` of a problem that is shown, in characters.
const DETAIL_LENGTH_MAX: usize = 2_000;

/// The flags that select a running relink.
#[derive(Args, Debug)]
pub(super) struct RelinkArgs {
    /// Address of relink, such as http://127.0.0.1:8480. Without it, RELINK_URL or the address of the settings
    #[arg(long, value_name = "URL", global = true, env = "RELINK_URL", hide_env = true)]
    url: Option<String>,
    /// One of its RELINK_API_TOKENS. Prefer the variable RELINK_API_TOKEN: other users of the machine can see the flags of a process
    #[arg(long, value_name = "TOKEN", global = true, env = "RELINK_API_TOKEN", hide_env = true)]
    token: Option<SecretString>,
    /// TOML file of the service, which contains the address and the token
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the answer as JSON, with the exact texts
    #[arg(long, global = true)]
    json: bool,
}

/// A connection to a running relink.
pub(super) struct RunningRelink {
    client: Client,
    url: String,
    token: SecretString,
    /// Whether the answer is printed as JSON.
    pub(super) json: bool,
}

/// Who uses a token of the settings.
#[derive(Clone, Copy)]
enum ForWhom {
    /// Somebody who may do everything that the settings allow.
    Person,
    /// A program, which should have no more than it needs.
    Program,
}

/// What decides, besides the record of a link, what happens next with it.
#[derive(Debug, Default)]
pub(super) struct Situation {
    /// relink only records the messages to users.
    pub(super) observes: bool,
    /// The institutions that are down. `None`: not known.
    pub(super) down: Option<BTreeSet<String>>,
}

impl Situation {
    /// The situation of a link at this institution.
    pub(super) fn around(&self, institution: Option<&str>) -> Around {
        let bank_is_down = self.down.as_ref().zip(institution).map(|(down, institution)| down.contains(institution));
        Around { observes: self.observes, bank_is_down, ..Around::default() }
    }
}

/// `GET /v1/links/{id}/history`
pub(super) struct History {
    pub(super) link_id: String,
    pub(super) entries: Vec<HistoryEntry>,
    pub(super) truncated: bool,
    /// How many entries this version cannot read, such as those of a newer relink. They are skipped.
    pub(super) unreadable_count: usize,
}

/// The state of a link in the store of relink, which needs no NATS.
pub(super) struct LastState {
    /// The history with this state alone.
    pub(super) history: History,
    /// What stands beside it.
    pub(super) beside: Beside,
    /// The time up to which the store has followed `KV_links`.
    pub(super) as_of: Option<String>,
}

/// relink answered, but not with a success.
#[derive(Debug, thiserror::Error)]
#[error("{url} answered {status}: {detail}")]
struct Refused {
    url: String,
    status: u16,
    detail: String,
}

/// The HTTP status with which relink refused a request; `None` for another error.
pub(super) fn status_of(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refused>().map(|refused| refused.status)
}

/// Whether relink refuses this request for ever: another attempt does not help.
pub(super) fn is_for_ever(error: &anyhow::Error) -> bool {
    status_of(error).is_some_and(|status| (400..500).contains(&status) && status != TOO_MANY_REQUESTS)
}

/// Whether relink was not reached, or answered with an error.
pub(super) fn is_of_request(error: &anyhow::Error) -> bool {
    status_of(error).is_some() || error.chain().any(|cause| cause.is::<reqwest::Error>())
}

/// Whether relink answers, but cannot answer this request now.
pub(super) fn is_unavailable(error: &anyhow::Error) -> bool {
    status_of(error) == Some(SERVICE_UNAVAILABLE)
}

impl RelinkArgs {
    /// Whether the answer is printed as JSON.
    pub(super) const fn is_json(&self) -> bool {
        self.json
    }
}

/// Refuses an address that is none, or that has a user or a password: the address is part of error messages. It is not quoted.
fn check_url(url: &str) -> anyhow::Result<()> {
    match Url::parse(url) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            bail!("--url must have no user and no password; relink takes an API token: --token or RELINK_API_TOKENS")
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        Ok(_) | Err(_) => bail!("--url must be an address such as http://127.0.0.1:8480"),
    }
}

impl RunningRelink {
    /// The relink that these flags or the settings name, to read from it: with the token that may do most of those that may read.
    pub(super) fn of(args: RelinkArgs) -> anyhow::Result<Self> {
        Self::with(args, Scope::Read, ForWhom::Person)
    }

    /// The same, to give commands and to look at their result.
    pub(super) fn operating(args: RelinkArgs) -> anyhow::Result<Self> {
        Self::with(args, Scope::Operate, ForWhom::Person)
    }

    /// The same for a program that only reads: with the token that may do least besides reading.
    pub(super) fn reading(args: RelinkArgs) -> anyhow::Result<Self> {
        Self::with(args, Scope::Read, ForWhom::Program)
    }

    fn with(args: RelinkArgs, wanted: Scope, for_whom: ForWhom) -> anyhow::Result<Self> {
        // An empty variable counts as not set, and an address may have no scheme, as in the settings.
        let token = args.token.filter(|token| !token.expose_secret().is_empty());
        let url = args.url.filter(|url| !url.is_empty());
        let url = url.map(|url| if url.contains("://") { url } else { format!("http://{url}") });
        let args = RelinkArgs { url, token, ..args };
        if let Err(error) = args.url.as_deref().map_or(Ok(()), check_url) {
            wrong_argument(format_args!("error: {error}"));
        }
        let (url, token) = match (args.url, args.token) {
            // A file that is given is read, so that a wrong path is noticed.
            (Some(url), Some(token)) if args.config.is_none() => (url, token),
            (url, token) => {
                let config = Config::load(&Sources::of_process(args.config, Vec::new()))?.config;
                let named = config.http.named_api_tokens.iter();
                // A command is followed by a look at its result.
                let fits = |scopes: &[Scope]| scopes.contains(&wanted) && scopes.contains(&Scope::Read);
                let named = named.filter(|token| fits(&token.scopes));
                // A token without a name may do everything.
                let unnamed = config.http.api_tokens.first().cloned();
                let chosen = match for_whom {
                    ForWhom::Person => {
                        let most = named.min_by_key(|token| Reverse(token.scopes.len()));
                        unnamed.or(most.map(|token| token.secret.clone()))
                    }
                    ForWhom::Program => {
                        let least = named.min_by_key(|token| token.scopes.len());
                        least.map(|token| token.secret.clone()).or(unnamed)
                    }
                };
                let token = token.or(chosen).context(
                    "a token is required: give --token, or set RELINK_API_TOKEN, or RELINK_API_TOKENS or RELINK_NAMED_API_TOKENS as for the service, with the \
                     scopes `read` and, for commands, `operate`",
                )?;
                (url.unwrap_or_else(|| format!("http://{}", config.http.listen)), token)
            }
        };
        if HeaderValue::from_str(token.expose_secret()).is_err() {
            bail!(
                "the API token must be on one line, without control characters: check --token, RELINK_API_TOKEN or RELINK_API_TOKENS"
            );
        }
        let client =
            crate::direct::client().timeout(Duration::from_secs(30)).build().context("building the HTTP client")?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), token, json: args.json })
    }

    pub(super) async fn history(&self, link: &str) -> anyhow::Result<History> {
        #[derive(Deserialize)]
        struct Response {
            link_id: String,
            entries: Vec<Value>,
            truncated: bool,
        }
        let Response { link_id, entries, truncated } =
            self.request(Method::GET, &format!("/v1/links/{link}/history")).await?;
        let count = entries.len();
        let entries: Vec<HistoryEntry> =
            entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect();
        Ok(History { link_id, unreadable_count: count - entries.len(), entries, truncated })
    }

    pub(super) async fn last_state(&self, link: &str) -> anyhow::Result<LastState> {
        let path = format!("/v1/links/{link}");
        let response = self.send(Method::GET, &path).await?;
        let as_of = response.headers().get("relink-as-of").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let record: Value = self.read(response, &path).await?;
        let link_id = record["link_id"].as_str().unwrap_or(link).to_owned();
        let beside = Beside::of(&record);
        let stored_at = serde_json::from_value(record["updated_at"].clone()).context("the record has no time")?;
        let entry = HistoryEntry {
            kind: HistoryKind::State,
            name: None,
            message_id: None,
            sequence: 0,
            stored_at,
            body: record,
        };
        let history = History { link_id, entries: vec![entry], truncated: false, unreadable_count: 0 };
        Ok(LastState { history, beside, as_of })
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
            let page: Page = self.request(Method::GET, &format!("/v1/dead-letters?limit=1000&after={from}")).await?;
            all.extend(page.dead_letters);
            // Ends even if the server repeats a page.
            after = page.next.filter(|&next| next > from);
        }
        Ok(all)
    }

    /// Replays a dead letter. The answer has the sequence of the new input.
    pub(super) async fn replay(&self, sequence: u64) -> anyhow::Result<Value> {
        self.request(Method::POST, &format!("/v1/dead-letters/{sequence}/replay")).await
    }

    /// A line that says why relink handles no inputs now, so that what it shows may be old. Empty if it does.
    pub(super) async fn why_it_may_be_old(&self) -> String {
        match self.get("/readyz").await {
            Err(error) if is_unavailable(&error) => format!("{DIM}This may be old: {error}{DIM:#}\n"),
            Ok(_) | Err(_) => String::new(),
        }
    }

    /// Whether Belvo refuses relink's API keys, as far as relink answers that.
    pub(super) async fn are_keys_refused(&self) -> bool {
        self.get("/v1/status").await.is_ok_and(|status| status["belvo"]["keys_refused"] == true)
    }

    /// Whether relink only observes, and which institutions are down now.
    pub(super) async fn situation(&self) -> anyhow::Result<Situation> {
        let (observes, (_, max)) = (self.observes().await?, INSTITUTIONS_ON_PAGE);
        let answer = self.get(&format!("/v1/institutions?limit={max}")).await?;
        let all = answer["institutions"].as_array().context("the answer of relink has no institutions")?;
        let down = all.iter().filter(|one| one["state"] == "down");
        let down = down.filter_map(|one| Some(one["institution"].as_str()?.to_owned())).collect();
        Ok(Situation { observes, down: Some(down) })
    }

    /// Whether relink only observes, and sends no message to users.
    pub(super) async fn observes(&self) -> anyhow::Result<bool> {
        Ok(self.get("/v1/summary").await?["observe"] == true)
    }

    /// The answer to a GET.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.request(Method::GET, path).await
    }

    /// The answer to `GET /v1/events`: messages behind `after`, until relink ends it.
    pub(super) async fn events(&self, query: &[(&str, String)], after: Option<u64>) -> anyhow::Result<Response> {
        let path = "/v1/events";
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query)
            .with_context(|| format!("{} is no address", self.url))?;
        let mut request = self.client.get(url).timeout(EVENTS_WITHIN);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = self.perform(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        self.read::<Value>(response, path).await.and_then(|_| anyhow::bail!("{path} was answered without events"))
    }

    /// The answer to a POST with a body.
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        let response = self.perform(request).await?;
        self.read(response, path).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str) -> anyhow::Result<T> {
        let response = self.send(method, path).await?;
        self.read(response, path).await
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Response> {
        self.perform(self.client.request(method, format!("{}{path}", self.url))).await
    }

    async fn perform(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.bearer_auth(self.token.expose_secret()).send().await.map_err(|error| {
            let error = error.without_url();
            anyhow::Error::new(error)
                .context(format!("cannot reach {}: check that `relink serve` is running there", self.url))
        })
    }

    async fn read<T: DeserializeOwned>(&self, response: Response, path: &str) -> anyhow::Result<T> {
        let status = response.status();
        let body = response.bytes().await.with_context(|| format!("reading the response of {}", self.url))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .with_context(|| format!("the response of {}{path} is not that of a relink", self.url));
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("the response has no details");
        let detail = shortened(detail, DETAIL_LENGTH_MAX).to_string();
        Err(Refused { url: self.url.clone(), status: status.as_u16(), detail }.into())
    }
}

/// The error of an answer with this status.
#[cfg(test)]
pub(super) fn refused(status: u16) -> anyhow::Error {
    Refused { url: "http://relink".to_owned(), status, detail: status.to_string() }.into()
}
