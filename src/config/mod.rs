//! The configuration, read once at the start.
//!
//! The precedence is: **flags, then the environment, then the file (`--config FILE`, TOML), then the default**. Every
//! value is checked and converted to its type here. Unknown names are refused, in the file and among `RELINK_*`.
//! Empty variables, and those that Kubernetes sets for a service named `relink`, count as not set.
//!
//! - `catalogue`, `policy_catalogue`: the table of all settings
//! - `layers`: collects the values and their origins; the only file that reads the environment
//! - `reader`: parses single values; `nats`, `policy`, `repair`, `outbound`: the settings of NATS, of the machine, of the repair page
//!   and of messages over HTTP; `traces`: those of traces; `show`: the report of `check-config`
//! - `warnings`: values that are valid, and are probably a mistake

mod address;
mod api_token;
mod catalogue;
mod help;
mod layers;
mod nats;
mod outbound;
mod policy;
mod policy_catalogue;
mod reader;
mod repair;
mod setting;
mod show;
mod traces;
mod warnings;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use address::{has_api_path, is_http};
pub use api_token::ApiToken;
pub use catalogue::all_settings;
pub use help::help;
use layers::Layers;
pub use layers::{Origin, Sources};
pub use outbound::OutboundConfig;
use reader::Reader;
pub use repair::{RepairConfig, WidgetPlace};
pub use setting::{Kind, Setting};
pub use show::ShownSetting;

use crate::institution::Components;
use crate::journal;
use crate::link::Policy;
use crate::nats::connection::Access;
use crate::nats::server_binary::ServerSource;
use crate::nats::stream::StreamSettings;
use crate::nats::subject::Subjects;
use crate::trace;

const HOUR: Duration = Duration::from_secs(3600);

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The HTTP server.
    pub http: HttpConfig,
    /// The journal of accepted inputs.
    pub journal: journal::Options,
    /// NATS and its streams.
    pub nats: NatsConfig,
    /// The store.
    pub store: StoreConfig,
    /// Belvo's API.
    pub belvo: BelvoConfig,
    /// The repair page; `None` if it is switched off.
    pub repair: Option<RepairConfig>,
    /// `RELINK_STATUS_COMPONENTS`: the institutions that the components of Belvo's status page stand for.
    pub status_components: Components,
    /// The proxy for Belvo's API; `None` without an address.
    pub proxy: Option<ProxyConfig>,
    /// Messages over HTTP: notices, and forwarded webhooks.
    pub outbound: OutboundConfig,
    /// The reconciler.
    pub reconciler: ReconcilerConfig,
    /// The process.
    pub service: ServiceConfig,
    /// The log.
    pub log: LogConfig,
    /// `RELINK_TRACES_*`: traces; `None` without an endpoint.
    pub traces: Option<trace::Settings>,
    /// The policy of the machine: `[policy]`, `RELINK_POLICY_*`. `can_verify` is set if there are keys for Belvo.
    pub policy: Policy,
}

/// The settings of the HTTP server.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// `RELINK_LISTEN`: the address and the port.
    pub listen: SocketAddr,
    /// `RELINK_WEBHOOK_SECRETS`: accepted `Authorization` values of webhooks.
    pub webhook_secrets: Vec<SecretString>,
    /// `RELINK_STATUS_WEBHOOK_SECRETS`: accepted secrets of webhooks of Belvo's status page. Without one its endpoint is off.
    pub status_webhook_secrets: Vec<SecretString>,
    /// `RELINK_API_TOKENS`: bearer tokens for `/v1`.
    pub api_tokens: Vec<SecretString>,
    /// `RELINK_NAMED_API_TOKENS`: bearer tokens for `/v1` with a name and scopes.
    pub named_api_tokens: Vec<ApiToken>,
    /// `RELINK_ALLOW_OPEN_WEBHOOKS`: accept webhooks without credentials.
    pub allow_open_webhooks: bool,
    /// `RELINK_CONNECTIONS_MAX`: the most open connections; 0: derived from the limit of open files.
    pub connections_max: usize,
    /// `RELINK_CONSOLE`: serve the console.
    pub console: bool,
}

/// The settings of NATS and its streams.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `RELINK_NATS_URL`: the addresses of NATS, perhaps with a password. With `None` relink runs its own
    /// nats-server.
    pub url: Option<NatsUrl>,
    /// How to connect to `url`: `RELINK_NATS_CREDENTIALS`, `RELINK_NATS_NKEY`, `RELINK_NATS_TLS_*`, or the user in
    /// `url`.
    pub access: Option<Access>,
    /// `RELINK_NATS_SERVER`: the nats-server that relink runs if there is no `url`.
    pub server: Option<PathBuf>,
    /// `RELINK_NATS_PORT_NUMBER`: the port of that nats-server; `None`: the port of its last start, or 4222, or a free one.
    pub port: Option<u16>,
    /// `RELINK_NATS_MONITOR_URL`: the HTTP monitor of the NATS server.
    pub monitor_url: Option<NatsUrl>,
    /// `RELINK_PREFIX_INPUT`, `RELINK_PREFIX_OUTPUT`: the subjects and the names of the streams.
    pub subjects: Subjects,
    /// `RELINK_PARTITIONS`, `RELINK_REPLICAS`, `RELINK_HISTORY`, `RELINK_STREAM_MAX_BYTES`, `RELINK_INPUT_MAX_AGE`: the
    /// configuration of the streams.
    pub streams: StreamSettings,
}

/// One or several addresses, perhaps with a user and a password in them.
#[derive(Clone, Debug)]
pub struct NatsUrl(SecretString);

impl NatsUrl {
    /// The addresses, with their passwords.
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

/// The settings of the store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `RELINK_DATA_DIR`: the directory of the store and of relink's own NATS.
    pub data_dir: PathBuf,
    /// `RELINK_CACHE_BYTES`: the size of the store's cache, in bytes.
    pub cache_bytes: u64,
}

/// The settings of Belvo's API.
#[derive(Clone, Debug)]
pub struct BelvoConfig {
    /// The address and the keys; `None` if they are not set.
    pub keys: Option<BelvoKeys>,
    /// `RELINK_BELVO_WIDGET_URL`: the address of the hosted widget.
    pub widget_url: String,
    /// `RELINK_BELVO_PORTAL_URL`: the address of the portal where users renew consents.
    pub portal_url: String,
    /// `RELINK_BELVO_REQUESTS_PER_30S`: the most requests to Belvo in any 30 seconds.
    pub requests_per_30s: usize,
}

/// The settings of the proxy for Belvo's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `RELINK_PROXY_LISTEN`: the address and the port.
    pub listen: SocketAddr,
    /// `RELINK_PROXY_CONNECTIONS_MAX`: the most open connections; 0: derived from the limit of open files.
    pub connections_max: usize,
}

/// The settings of the reconciler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconcilerConfig {
    /// `RELINK_SWEEP_EVERY`: the interval between sweeps of broken links.
    pub sweep_every: Duration,
    /// `RELINK_ROTATION`: the time in which every link is read once.
    pub rotation: Duration,
    /// `RELINK_ADOPTION_PER_HOUR`: how many adopted links are released per hour; 0: none.
    pub adoption_per_hour: u32,
}

/// The address of Belvo's API and the keys. All three are set, or none.
#[derive(Clone, Debug)]
pub struct BelvoKeys {
    /// `RELINK_BELVO_URL`.
    pub url: String,
    /// `RELINK_BELVO_SECRET_ID`.
    pub secret_id: SecretString,
    /// `RELINK_BELVO_SECRET_PASSWORD`.
    pub secret_password: SecretString,
}

/// The settings of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// `RELINK_STOP_TIMEOUT`: the longest time of a stop, all steps together.
    pub stop_timeout: Duration,
    /// `RELINK_OBSERVE`: send no notices, and change nothing at Belvo.
    pub observe: bool,
    /// `RELINK_WEBHOOKS_FIRST`: what handles webhooks has a lower priority than what takes them.
    pub webhooks_first: bool,
}

/// The settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `RELINK_LOG`: the filter, in the syntax of `tracing-subscriber`.
    pub filter: String,
    /// `RELINK_LOG_FORMAT`.
    pub format: LogFormat,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines of text.
    Text,
    /// One JSON object on each line.
    Json,
}

/// The configuration has errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  - {}", .problems.join("\n  - "))]
pub struct ConfigError {
    /// All problems, each with the origin of the value and the expected value.
    pub problems: Vec<String>,
}

/// A configuration and its report.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The configuration as TOML, with hidden secrets and the origin of every value.
    pub report: String,
    /// The same for programs.
    pub settings: Vec<ShownSetting>,
    /// Values that are probably a mistake, each as a sentence.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut reader = Reader { layers: Layers::collect(sources) };
        let config = read(&mut reader);
        let Reader { layers } = reader;
        match config {
            Some(config) if layers.problems.is_empty() => {
                let warnings = warnings::of(&config);
                let settings = show::settings(&layers);
                Ok(Loaded { config, report: show::report(&settings), settings, warnings })
            }
            _ => Err(ConfigError { problems: layers.problems }),
        }
    }

    /// The configuration without any sources.
    pub fn defaults() -> Self {
        Self::load(&Sources::default()).expect("the defaults are valid, which a test checks").config
    }

    /// Checks the requirements of `serve` beyond valid values.
    ///
    /// # Errors
    /// [`ConfigError`] if no webhook secret is set and open webhooks are not explicitly allowed.
    pub fn check_for_serving(&self) -> Result<(), ConfigError> {
        if self.http.webhook_secrets.is_empty() && !self.http.allow_open_webhooks {
            let problem = "no webhook secret is set: set RELINK_WEBHOOK_SECRETS (http.webhook_secrets) to the whole \
                           Authorization value that is typed into Belvo's dashboard, such as `Bearer …`; or, to \
                           accept webhooks without credentials, set RELINK_ALLOW_OPEN_WEBHOOKS=true";
            return Err(ConfigError { problems: vec![problem.to_owned()] });
        }
        Ok(())
    }
}

impl Sources {
    /// The places to look for a nats-server: `named` (or `RELINK_NATS_SERVER`), `PATH`, or the user's cache
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

/// Returns `None` only if a problem was noted.
fn read(reader: &mut Reader) -> Option<Config> {
    let api_tokens = reader.secrets("http.api_tokens");
    let http = HttpConfig {
        listen: reader
            .address("http.listen", "an address and a port such as 127.0.0.1:8480")
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        webhook_secrets: reader.secrets("http.webhook_secrets"),
        status_webhook_secrets: reader.secrets("http.status_webhook_secrets"),
        named_api_tokens: api_token::read(reader, &api_tokens),
        api_tokens,
        allow_open_webhooks: reader.switch("http.allow_open_webhooks"),
        connections_max: usize::try_from(reader.number("http.connections_max", 0..=1_000_000)).unwrap_or(0),
        console: reader.switch("http.console"),
    };
    let journal = read_journal(reader);
    let nats = nats::read(reader);
    let store = StoreConfig {
        data_dir: reader.text("store.data_dir").map(PathBuf::from).unwrap_or_default(),
        cache_bytes: reader.bytes("store.cache_bytes", 1 << 20..=1 << 40),
    };
    let belvo = read_belvo(reader);
    let repair = repair::read(reader, belvo.keys.is_some());
    let proxy = read_proxy(reader, &belvo, http.listen);
    let outbound = outbound::read(reader, &http);
    let reconciler = ReconcilerConfig {
        sweep_every: reader.span_within("reconciler.sweep_every", Duration::from_secs(60)..=7 * 24 * HOUR),
        rotation: reader.span_within("reconciler.rotation", HOUR..=365 * 24 * HOUR),
        adoption_per_hour: u32::try_from(reader.number("reconciler.adoption_per_hour", 0..=36_000)).unwrap_or(0),
    };
    let service = ServiceConfig {
        stop_timeout: reader.span_within("service.stop_timeout", Duration::from_secs(1)..=HOUR),
        observe: reader.switch("service.observe"),
        webhooks_first: reader.switch("service.webhooks_first"),
    };
    let log = read_log(reader);
    let traces = traces::read(reader);
    let policy = policy::read(reader, belvo.keys.is_some());
    let status_components = Components::parse(&reader.texts("status.components"));
    let status_components = status_components.unwrap_or_else(|problem| {
        reader.reject("status.components", problem);
        Components::default()
    });
    let (mut nats, policy) = (nats?, policy?);
    nats.streams.outbound = outbound.consumers();
    Some(Config {
        http,
        journal,
        nats,
        store,
        belvo,
        repair,
        status_components,
        proxy,
        outbound,
        reconciler,
        service,
        log,
        traces,
        policy,
    })
}

fn read_journal(reader: &mut Reader) -> journal::Options {
    journal::Options {
        acknowledge: reader.parsed("http.acknowledge", "journal or stream").unwrap_or_default(),
        bytes_max: reader.bytes("journal.max_bytes", 64 << 20..=1 << 40),
        age_max: reader.span_within("journal.max_age", Duration::from_secs(60)..=30 * 24 * HOUR),
    }
}

fn read_belvo(reader: &mut Reader) -> BelvoConfig {
    let parts = ["belvo.url", "belvo.secret_id", "belvo.secret_password"];
    let missing: Vec<_> = parts.into_iter().filter(|key| !reader.layers.found.contains_key(key)).collect();
    if let (1..=2, Some(given)) = (missing.len(), parts.into_iter().find(|key| !missing.contains(key))) {
        let names: Vec<_> = missing.iter().map(|key| format!("{key} ({})", catalogue::setting(key).variable)).collect();
        reader.reject(
            given,
            format!("also needs {}: relink needs all three to call Belvo's API, or none of them", names.join(" and ")),
        );
    }
    let url = reader.text("belvo.url").map(|url| url.trim_end_matches('/').to_owned());
    let keys = match (url, reader.secret("belvo.secret_id"), reader.secret("belvo.secret_password")) {
        (Some(url), Some(secret_id), Some(secret_password)) => Some(BelvoKeys { url, secret_id, secret_password }),
        _ => None,
    };
    // relink adds the whole path (`/api/links/…`). A path in front of it may be that of a gateway.
    if keys.as_ref().is_some_and(|keys| !is_http(&keys.url) || has_api_path(&keys.url)) {
        reader.reject(
            "belvo.url",
            "must begin with https:// (or http://) and have no user, /api, query or fragment, such as https://sandbox.belvo.com",
        );
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

fn read_proxy(reader: &mut Reader, belvo: &BelvoConfig, http: SocketAddr) -> Option<ProxyConfig> {
    let connections_max = usize::try_from(reader.number("proxy.connections_max", 0..=1_000_000)).unwrap_or(0);
    let listen = reader.address("proxy.listen", "an address and a port such as 127.0.0.1:8481")?;
    if overlap(listen, http) {
        reader.reject("proxy.listen", "is also the address of http.listen; give it a port of its own");
    }
    let Some(keys) = &belvo.keys else {
        reader.reject("proxy.listen", "also needs belvo.url (RELINK_BELVO_URL) and its keys: the calls go there");
        return None;
    };
    let upstream = reqwest::Url::parse(&keys.url).ok();
    let is_here = upstream.as_ref().is_some_and(|url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_this_machine =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == listen.ip());
        is_this_machine && listen.port() != 0 && url.port_or_known_default() == Some(listen.port())
    });
    if is_here {
        reader.reject("proxy.listen", "is the address in belvo.url: the proxy would pass each call on to itself");
    }
    Some(ProxyConfig { listen, connections_max })
}

/// Whether two listeners cannot have these addresses. An unspecified IP, such as `0.0.0.0`, is every IP of the machine; in most systems
/// `[::]` is every IPv4 too. Port 0 is a free port for each.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers =
        |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4() || ip.is_unspecified());
    let is_one_ip = one_ip == other_ip || covers(one_ip, other_ip) || covers(other_ip, one_ip);
    one.port() == other.port() && one.port() != 0 && is_one_ip
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
