//! What an operator decides, read once at the start.
//!
//! One precedence: **flags, then the environment, then the file (`--config FILE`, TOML), then the default**. Every
//! value is checked here and has its type afterwards; nothing else reads the environment. Unknown names are refused,
//! in the file and among
//! `RELINK_*`; empty variables count as not set, and so do those that Kubernetes makes up for a service named `relink`.
//!
//! - `catalogue`: every setting there is, as a table
//! - `layers`: collects the values and remembers where each came from; the only file that reads the environment
//! - `reader`: text into types; `show`: the resolved whole for `check-config`

mod catalogue;
mod layers;
mod reader;
mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ServerAddr;
use secrecy::{ExposeSecret, SecretString};

pub use catalogue::{Kind, SETTINGS, Setting, help};
use layers::Layers;
pub use layers::{Origin, Sources};
use reader::Reader;

use crate::link::{Policy, PolicySettings};
use crate::nats::server_binary::ServerSource;
use crate::nats::stream::{PARTITIONS_MAX, StreamSettings};
use crate::nats::subject::Subjects;

const HOUR: Duration = Duration::from_secs(3600);

/// The configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The HTTP door.
    pub http: HttpConfig,
    /// The bus.
    pub nats: NatsConfig,
    /// The disk.
    pub store: StoreConfig,
    /// The bank side.
    pub belvo: BelvoConfig,
    /// What the webhooks missed.
    pub reconciler: ReconcilerConfig,
    /// The log.
    pub log: LogConfig,
    /// How patient the machine is: `[policy]`, `RELINK_POLICY_*`. `can_verify` is derived from `belvo`.
    pub policy: Policy,
}

/// The HTTP door.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// `RELINK_LISTEN`: where it listens.
    pub listen: SocketAddr,
    /// `RELINK_WEBHOOK_SECRETS`: whole `Authorization` values that Belvo may send.
    pub webhook_secrets: Vec<SecretString>,
    /// `RELINK_API_TOKENS`: bearer tokens for `/v1`.
    pub api_tokens: Vec<SecretString>,
    /// `RELINK_ALLOW_OPEN_WEBHOOKS`: start even though anybody could post webhooks.
    pub allow_open_webhooks: bool,
}

/// The bus.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `RELINK_NATS_URL`: what to connect to; `None` runs a server of our own. May hold a password.
    pub url: Option<NatsUrl>,
    /// `RELINK_NATS_CREDENTIALS`: a credentials file.
    pub credentials: Option<PathBuf>,
    /// `RELINK_NATS_SERVER`: the nats-server to run when there is no `url`.
    pub server: Option<PathBuf>,
    /// `RELINK_NATS_MONITOR_URL`: where the server tells about itself.
    pub monitor_url: Option<NatsUrl>,
    /// `RELINK_PREFIX_INPUT`, `RELINK_PREFIX_OUTPUT`: all subjects and stream names.
    pub subjects: Subjects,
    /// `RELINK_PARTITIONS`, `RELINK_REPLICAS`, `RELINK_HISTORY`, `RELINK_INPUT_MAX_AGE`: how streams are declared.
    pub streams: StreamSettings,
}

/// One or several addresses, perhaps with a user and a password in them.
#[derive(Clone, Debug)]
pub struct NatsUrl(SecretString);

impl NatsUrl {
    /// The addresses, with whatever secret they hold.
    pub fn expose(&self) -> impl Iterator<Item = &str> {
        self.0.expose_secret().split(',').map(str::trim).filter(|address| !address.is_empty())
    }
}

impl std::fmt::Display for NatsUrl {
    /// Without users and passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show::hide_user(self.0.expose_secret()))
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `RELINK_DATA_DIR`: below it lie the store and relink's own NATS.
    pub data_dir: PathBuf,
    /// `RELINK_CACHE_BYTES`: memory for the store's cache.
    pub cache_bytes: u64,
}

/// The bank side.
#[derive(Clone, Debug)]
pub struct BelvoConfig {
    /// Where and with what Belvo can be asked; `None` if nobody said.
    pub keys: Option<BelvoKeys>,
    /// `RELINK_BELVO_WIDGET_URL`: where the hosted widget lives.
    pub widget_url: String,
    /// `RELINK_BELVO_PORTAL_URL`: where consents are renewed.
    pub portal_url: String,
    /// `RELINK_BELVO_REQUESTS_PER_30S`: how many requests may leave in any 30 seconds.
    pub requests_per_30s: usize,
}

/// What the webhooks missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconcilerConfig {
    /// `RELINK_SWEEP_EVERY`: from one sweep of the broken links to the next.
    pub sweep_every: Duration,
    /// `RELINK_ROTATION`: how long it takes to look at every link.
    pub rotation: Duration,
    /// `RELINK_ADOPTION_PER_HOUR`: how many adopted links are released an hour; 0: none by itself.
    pub adoption_per_hour: u32,
}

/// What it takes to ask Belvo: all of it or nothing.
#[derive(Clone, Debug)]
pub struct BelvoKeys {
    /// `RELINK_BELVO_URL`.
    pub url: String,
    /// `RELINK_BELVO_SECRET_ID`.
    pub secret_id: SecretString,
    /// `RELINK_BELVO_SECRET_PASSWORD`.
    pub secret_password: SecretString,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `RELINK_LOG`: what is logged, as `tracing-subscriber` spells it.
    pub filter: String,
    /// `RELINK_LOG_FORMAT`.
    pub format: LogFormat,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The configuration cannot be used. Says everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  - {}", .problems.join("\n  - "))]
pub struct ConfigError {
    /// Each with where the value came from and what would be right.
    pub problems: Vec<String>,
}

/// A configuration, and the account of it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// It as TOML, secrets hidden, the origin of every value beside it.
    pub report: String,
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem there is.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut reader = Reader { layers: Layers::collect(sources) };
        let config = read(&mut reader);
        let Reader { layers } = reader;
        match config {
            Some(config) if layers.problems.is_empty() => Ok(Loaded { config, report: show::report(&layers) }),
            _ => Err(ConfigError { problems: layers.problems }),
        }
    }

    /// The configuration of somebody who decided nothing.
    pub fn defaults() -> Self {
        Self::load(&Sources::default()).expect("the defaults are in range, as a test holds").config
    }

    /// What `serve` asks for beyond well-formed values.
    ///
    /// # Errors
    /// [`ConfigError`] if webhooks would be open to anybody and nobody said that they may.
    pub fn check_for_serving(&self) -> Result<(), ConfigError> {
        if self.http.webhook_secrets.is_empty() && !self.http.allow_open_webhooks {
            let problem = "nobody may post webhooks: set RELINK_WEBHOOK_SECRETS (http.webhook_secrets) to the whole \
                           Authorization value that is typed into Belvo's dashboard, such as `Bearer …`; or, to let \
                           anybody \
                           post them, say so with RELINK_ALLOW_OPEN_WEBHOOKS=true";
            return Err(ConfigError { problems: vec![problem.to_owned()] });
        }
        Ok(())
    }
}

impl Sources {
    /// Where a nats-server may come from: the named one (else `RELINK_NATS_SERVER`), `PATH`, or the user's cache
    /// directory.
    pub fn server_source(&self, named: Option<PathBuf>, may_install: bool) -> ServerSource {
        let directory = |name: &str| self.variable(name).map(PathBuf::from);
        let cache_dir = directory("XDG_CACHE_HOME")
            .or_else(|| directory("LOCALAPPDATA"))
            .or_else(|| directory("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("relink");
        let explicit = named.or_else(|| directory("RELINK_NATS_SERVER"));
        ServerSource { explicit, path_var: self.variable("PATH").cloned(), cache_dir, may_install }
    }
}

/// `None` only beside a problem.
fn read(reader: &mut Reader) -> Option<Config> {
    let http = HttpConfig {
        listen: reader
            .parsed("http.listen", "an address and a port such as 127.0.0.1:8480")
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        webhook_secrets: reader.secrets("http.webhook_secrets"),
        api_tokens: reader.secrets("http.api_tokens"),
        allow_open_webhooks: reader.switch("http.allow_open_webhooks"),
    };
    let nats = read_nats(reader);
    let store = StoreConfig {
        data_dir: reader.text("store.data_dir").map(PathBuf::from).unwrap_or_default(),
        cache_bytes: reader.bytes("store.cache_bytes", 1 << 20..=1 << 40),
    };
    let belvo = read_belvo(reader);
    let reconciler = ReconcilerConfig {
        sweep_every: reader.span_within("reconciler.sweep_every", Duration::from_secs(60)..=7 * 24 * HOUR),
        rotation: reader.span_within("reconciler.rotation", HOUR..=365 * 24 * HOUR),
        adoption_per_hour: u32::try_from(reader.number("reconciler.adoption_per_hour", 0..=36_000)).unwrap_or(0),
    };
    let log = read_log(reader);
    let policy = read_policy(reader, belvo.keys.is_some());
    Some(Config { http, nats: nats?, store, belvo, reconciler, log, policy: policy? })
}

fn read_nats(reader: &mut Reader) -> Option<NatsConfig> {
    let url = reader.secret("nats.url").map(NatsUrl);
    if let Some(url) = &url
        && url.expose().any(|address| address.parse::<ServerAddr>().is_err())
    {
        reader.reject("nats.url", "must be addresses such as nats://127.0.0.1:4222, several with commas between them");
    }
    let credentials = reader.text("nats.credentials").map(PathBuf::from);
    if credentials.as_deref().is_some_and(|path| !path.is_file()) {
        reader.reject("nats.credentials", "names no file; give the path of a .creds file");
    }
    let server = reader.text("nats.server").map(PathBuf::from);
    if server.as_deref().is_some_and(is_missing) {
        reader.reject(
            "nats.server",
            "names no file; give the path of a nats-server, or leave it out to use the one on PATH",
        );
    }
    let monitor_url = reader.secret("nats.monitor_url").map(NatsUrl);
    if monitor_url.as_ref().is_some_and(|url| url.expose().any(|address| !is_http(address))) {
        reader.reject("nats.monitor_url", "must be an address such as http://127.0.0.1:8222");
    }
    let streams = StreamSettings {
        partitions: u16::try_from(reader.number("nats.partitions", 1..=i64::from(PARTITIONS_MAX))).unwrap_or(1),
        replicas: usize::try_from(reader.number("nats.replicas", 1..=5)).unwrap_or(1),
        history_count: reader.number("nats.history", 1..=10_000),
        input_age_max: reader.span_within("nats.input_max_age", HOUR..=3650 * 24 * HOUR),
        ..StreamSettings::default()
    };
    let (input, output) = (reader.text("nats.prefix_input")?, reader.text("nats.prefix_output")?);
    let subjects = Subjects::new(&input, &output)
        .map_err(|error| reader.reject("nats.prefix_input", format!("and nats.prefix_output: {error}")))
        .ok()?;
    Some(NatsConfig { url, credentials, server, monitor_url, subjects, streams })
}

/// A bare name is looked up on `PATH` by whoever runs it.
fn is_missing(path: &Path) -> bool {
    path.components().count() > 1 && !path.is_file()
}

fn read_belvo(reader: &mut Reader) -> BelvoConfig {
    let parts = ["belvo.url", "belvo.secret_id", "belvo.secret_password"];
    let missing: Vec<_> = parts.into_iter().filter(|key| !reader.layers.found.contains_key(key)).collect();
    if let (1..=2, Some(given)) = (missing.len(), parts.into_iter().find(|key| !missing.contains(key))) {
        let names: Vec<_> = missing.iter().map(|key| format!("{key} ({})", catalogue::setting(key).variable)).collect();
        reader.reject(given, format!("needs {} beside it: to ask Belvo takes all three, or none", names.join(" and ")));
    }
    let url = reader.text("belvo.url").map(|url| url.trim_end_matches('/').to_owned());
    let keys = match (url, reader.secret("belvo.secret_id"), reader.secret("belvo.secret_password")) {
        (Some(url), Some(secret_id), Some(secret_password)) => Some(BelvoKeys { url, secret_id, secret_password }),
        _ => None,
    };
    if keys.as_ref().is_some_and(|keys| !is_http(&keys.url)) {
        reader.reject("belvo.url", "must be an address without user or path, such as https://sandbox.belvo.com");
    }
    let page = |reader: &mut Reader, key, problem| {
        let url = reader.text(key).unwrap_or_default();
        if !is_http(&url) {
            reader.reject(key, problem);
        }
        url
    };
    let widget_url = page(reader, "belvo.widget_url", "must be an address such as https://widget.belvo.io/");
    let portal_url = page(reader, "belvo.portal_url", "must be an address such as https://meuportal.belvo.com/");
    let requests_per_30s = usize::try_from(reader.number("belvo.requests_per_30s", 1..=100_000)).unwrap_or(1);
    BelvoConfig { keys, widget_url, portal_url, requests_per_30s }
}

fn is_http(address: &str) -> bool {
    reqwest::Url::parse(address)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty())
}

fn read_log(reader: &mut Reader) -> LogConfig {
    let filter = reader.text("log.filter").unwrap_or_default();
    if let Err(error) = filter.parse::<tracing_subscriber::EnvFilter>() {
        reader.reject("log.filter", format!("must be a filter such as info or relink=debug,info: {error}"));
    }
    let format = match reader.text("log.format").as_deref() {
        Some("json") => LogFormat::Json,
        Some("text") | None => LogFormat::Text,
        Some(_) => {
            reader.reject("log.format", "must be text or json");
            LogFormat::Text
        }
    };
    LogConfig { filter, format }
}

fn read_policy(reader: &mut Reader, can_verify: bool) -> Option<Policy> {
    let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let settings = PolicySettings {
        can_verify,
        update_wait_max: reader.span("policy.update_wait_max"),
        verify_wait: reader.span("policy.verify_wait"),
        verify_attempts_max: count(reader.number("policy.verify_attempts_max", 1..=100)),
        settle_window: reader.span("policy.settle_window"),
        repeat_window: reader.span("policy.repeat_window"),
        reminders: reader.spans("policy.reminders"),
        reminder_pause: reader.span("policy.reminder_pause"),
        refresh_wait: reader.span("policy.refresh_wait"),
        refresh_attempts_max: count(reader.number("policy.refresh_attempts_max", 1..=100)),
        consent_refreshes_max: count(reader.number("policy.consent_refreshes_max", 0..=100)),
        consent_notice: reader.span("policy.consent_notice"),
        stale_after_intervals: count(reader.number("policy.stale_after_intervals", 1..=100)),
        incident_wait: reader.span("policy.incident_wait"),
        incident_links: count(reader.number("policy.incident_links", 0..=1_000_000)),
        incident_window: reader.span("policy.incident_window"),
    };
    let had_problems = !reader.layers.problems.is_empty();
    match Policy::new(settings) {
        Ok(policy) => Some(policy),
        // A span that could not be read is zero here, and has been reported already.
        Err(_) if had_problems => None,
        Err(bad) => {
            let key =
                SETTINGS.iter().map(|setting| setting.key).find(|key| key.strip_prefix("policy.") == Some(bad.setting));
            reader.reject(key.unwrap_or("policy"), bad.problem);
            None
        }
    }
}
