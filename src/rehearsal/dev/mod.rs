//! `relink dev`: the service, its nats-server and relink's sandbox on fixed ports, for somebody who connects an application.
//!
//! It prints what happens, and breaks and repairs links on commands that the user types (`keys`). The data directory keeps the links, so a
//! subscriber goes on after a restart. The environment is not read, so the exports of this program do not change it.

mod keys;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use belvo_sandbox::{AccessMode, Control, SandboxConfig};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Config, Loaded, ShownSetting, Sources};
use crate::nats::server_binary::ServerSource;
use crate::os;
use crate::rehearsal::local::{Local, Screen, Tail, quoted};

/// The API token. Everything listens on loopback and has invented data only, so it need not be a secret.
const API_TOKEN: &str = "relink-dev";

/// The first links: external id and institution.
const LINKS: [(&str, &str); 3] =
    [("maria", "erebor_mx_retail"), ("joao", "gringotts_co_retail"), ("pedro", "erebor_mx_retail")];

/// The flags of `relink dev`.
#[derive(clap::Args, Debug)]
pub struct DevArgs {
    /// TOML file with settings, for example of the policy; the environment is not read
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory that keeps the links, the streams, and the port of the nats-server
    #[arg(long, value_name = "DIR", default_value = "relink-dev")]
    pub data_dir: PathBuf,
    /// Address and port of relink; loopback only
    #[arg(long, value_name = "ADDRESS", value_parser = belvo_sandbox::listen_address, default_value = "127.0.0.1:8480")]
    pub listen: SocketAddr,
    /// Address and port of the sandbox, the stand-in for Belvo; loopback only
    #[arg(long, value_name = "ADDRESS", value_parser = belvo_sandbox::listen_address, default_value = "127.0.0.1:8490")]
    pub sandbox_listen: SocketAddr,
    /// Port of nats-server [default: 4222 or, if that is in use at the first start, a free one]
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,
}

/// Runs everything until `shutdown` or the command to quit.
///
/// # Errors
/// If a part cannot be started or stopped, or has ended.
pub async fn run(args: DevArgs, server_source: ServerSource, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    if !args.listen.ip().is_loopback() || !args.sandbox_listen.ip().is_loopback() {
        bail!("`relink dev` has no secrets, so it listens on loopback addresses only; `relink serve` is for others");
    }
    os::create_private_directory(&args.data_dir)
        .with_context(|| format!("cannot use the directory {}", args.data_dir.display()))?;
    let _lock = lock(&args.data_dir)?;
    // The repair page and the proxy need a Belvo. Here it is the sandbox, which starts later.
    let belvo = [
        ("RELINK_BELVO_URL", format!("http://{}", args.sandbox_listen)),
        ("RELINK_BELVO_SECRET_ID", "sandbox".to_owned()),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox".to_owned()),
    ];
    let environment = belvo.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut sources = Sources { file: args.config.clone(), environment, ..Sources::default() };
    let config = Config::load(&sources)?.config;
    if config.repair.is_none() && args.listen.port() != 0 {
        let key = kept_secret(&args.data_dir, "repair-key")?;
        let page = [("RELINK_REPAIR_BASE_URL", format!("http://{}", args.listen)), ("RELINK_REPAIR_KEYS", key)];
        sources.environment.extend(page.map(|(name, value)| (name.into(), value.into())));
    }
    if config.http.webhook_secrets.is_empty() {
        // Other settings follow from it, such as the header of forwarded webhooks.
        let secret = format!("Bearer {}", kept_secret(&args.data_dir, "webhook-secret")?);
        sources.environment.push(("RELINK_WEBHOOK_SECRETS".into(), secret.into()));
    }
    let Loaded { mut config, settings, .. } = Config::load(&sources)?;
    // A pause of the file stays, also one of a day, which is the default.
    let is_default = |setting: &ShownSetting| setting.origin.as_deref() == Some("default");
    let is_trial_pause = settings.iter().any(|setting| setting.key == "policy.reminder_pause" && is_default(setting));
    config.http.listen = args.listen;
    config.store.data_dir = data_dir(&args.data_dir);
    config.nats.port = args.nats_port.or(config.nats.port);
    // The file appears again when everything runs, so a script can wait for it.
    let _is_missing = std::fs::remove_file(exports(&args.data_dir));
    let kept = Kept { path: args.data_dir.join("sandbox-links.json") };
    let sandbox = SandboxConfig {
        listen: args.sandbox_listen,
        schedule: true,
        requests_per_30s: Some(80),
        deliveries_at_once: 4,
        deliveries_kept: 1_000,
        // A restarted sandbox must not repeat ids that relink has seen.
        seed: fastrand::u64(..),
        ..SandboxConfig::default()
    };
    let screen = Screen::new(false);
    screen.title("relink dev: relink, its nats-server, and a stand-in for Belvo");
    let started =
        Local::start(&screen, config, is_trial_pause, sandbox, API_TOKEN.to_owned(), server_source, |belvo| {
            kept.restore(belvo)
        });
    let mut local = tokio::select! {
        started = started => started.map_err(|error| in_own_words(&error))?,
        () = shutdown.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let served = serve(&screen, &mut local, &kept, &args, &shutdown).await;
    screen.aside("Stopping.");
    // The next start has other secrets, and a script that waits for the file must not find the old ones.
    let _is_missing = std::fs::remove_file(exports(&args.data_dir));
    let stopped = kept.save(&local.sandbox.control()).and(local.stop().await);
    served.and(stopped).map(|()| ExitCode::SUCCESS)
}

async fn serve(
    screen: &Screen,
    local: &mut Local,
    kept: &Kept,
    args: &DevArgs,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let belvo = local.sandbox.control();
    let mut tail = Tail::from_now_on(local);
    introduce(screen, local, args)?;
    if belvo.links().is_empty() {
        for (user, institution) in LINKS {
            belvo.create_link(institution, AccessMode::Recurrent, Some(user))?;
        }
    }
    let mut lines = keys::lines();
    loop {
        tokio::select! {
            printed = tail.next(&local.sandbox, &local.subscriber, screen) => {
                printed?;
                kept.save(&belvo)?;
            }
            Some(line) = lines.recv() => match keys::obey(&line, &belvo) {
                Ok(keys::Answer::Quit) => return Ok(()),
                Ok(keys::Answer::Text(text)) => screen.aside(&text),
                Err(problem) => screen.problem(&format!("{problem:#}")),
            },
            // As when a `relink serve` with another store takes the streams over.
            ended = local.service.ended() => return ended,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Locks the directory for this process. A second `relink dev` would remove the file with the exports of the first one, and fail later.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `relink dev` uses the directory {}: stop it, or give this one another --data-dir, --listen and --sandbox-listen",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// What the errors of the service name, and what it is called here: this program has flags, and does not read the settings of `serve` from
/// the environment.
const OWN_WORDS: [(&str, &str); 5] = [
    ("is another sandbox running there?", "choose another address with --sandbox-listen"),
    ("RELINK_NATS_URL to the address of yours, or ", ""),
    ("RELINK_NATS_PORT_NUMBER", "--nats-port"),
    ("RELINK_DATA_DIR", "--data-dir"),
    ("RELINK_LISTEN", "--listen"),
];

fn in_own_words(error: &anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    anyhow!(OWN_WORDS.iter().fold(text, |text, (theirs, own)| text.replace(theirs, own)))
}

/// The data directory of relink.
fn data_dir(directory: &Path) -> PathBuf {
    directory.join("relink")
}

/// The file with the variables for other terminals.
fn exports(directory: &Path) -> PathBuf {
    directory.join("exports")
}

/// A secret in a file of this name. It stays the same, so that repair links and the settings of other terminals work after a restart too.
fn kept_secret(directory: &Path, name: &str) -> anyhow::Result<String> {
    let path = directory.join(name);
    if let Ok(secret) = std::fs::read_to_string(&path) {
        return Ok(secret);
    }
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    os::write_private(&path, &secret).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(secret)
}

/// Prints the commands for another terminal, and writes them into a file that a shell can read.
fn introduce(screen: &Screen, local: &Local, args: &DevArgs) -> anyhow::Result<()> {
    let directory = &args.data_dir;
    let values = [
        ("RELINK_API_TOKENS", local.api_token.clone()),
        ("RELINK_URL", format!("http://{}", local.service.http_address())),
        ("RELINK_API_TOKEN", local.api_token.clone()),
        ("RELINK_LISTEN", local.service.http_address().to_string()),
        ("RELINK_WEBHOOK_SECRETS", local.webhook_secret.clone()),
        ("RELINK_NATS_URL", local.nats_url.expose_secret().to_owned()),
        ("NATS_URL", local.nats_url.expose_secret().to_owned()),
        ("BELVO_URL", local.sandbox.url()),
        // With these, `relink doctor` and `relink replay` know the directory, Belvo and the policy of this relink.
        ("RELINK_DATA_DIR", std::path::absolute(data_dir(directory))?.display().to_string()),
        ("RELINK_BELVO_URL", local.sandbox.url()),
        ("RELINK_BELVO_WIDGET_URL", format!("{}/widget/", local.sandbox.url())),
        ("RELINK_BELVO_PORTAL_URL", format!("{}/portal/", local.sandbox.url())),
        ("RELINK_BELVO_SECRET_ID", "sandbox".to_owned()),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox".to_owned()),
        ("RELINK_POLICY_REMINDER_PAUSE", humantime::format_duration(local.reminder_pause).to_string()),
    ];
    let lines: String = values.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    let path = std::path::absolute(exports(directory))?;
    os::write_private(&path, &lines).with_context(|| format!("cannot write {}", path.display()))?;
    screen.title("In another terminal:");
    screen.text(&lines);
    screen.text(&format!("or, from the file with these lines:  . {}", quoted(&path.display().to_string())));
    screen.text(&format!(
        "Belvo's SDKs: BELVO_URL, secret id `sandbox`, secret password `sandbox`. API token of relink: `{}`.",
        local.api_token
    ));
    if let Some(file) = &args.config {
        let file = quoted(&std::path::absolute(file)?.display().to_string());
        screen.text(&format!("`relink doctor` and `relink replay` also need this file: --config {file}"));
    }
    screen.title(keys::HELP);
    Ok(())
}

/// The links of the sandbox in a file: the sandbox keeps them in memory, and relink would find all of them missing after a restart.
struct Kept {
    path: PathBuf,
}

impl Kept {
    fn restore(&self, belvo: &Control) -> anyhow::Result<()> {
        let Ok(text) = std::fs::read_to_string(&self.path) else { return Ok(()) };
        let unusable = || format!("{} cannot be used; remove the whole directory to start anew", self.path.display());
        let links: Vec<Value> = serde_json::from_str(&text).with_context(unusable)?;
        for link in &links {
            belvo.restore_link(link).with_context(unusable)?;
        }
        Ok(())
    }

    fn save(&self, belvo: &Control) -> anyhow::Result<()> {
        let links = serde_json::to_string(&belvo.kept_links())?;
        os::write_private(&self.path, &links).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_leaves_the_exports_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let error = lock(directory.path()).unwrap_err().to_string();
        assert!(error.starts_with("another `relink dev` uses the directory"), "{error}");
        drop(first);
        lock(directory.path()).unwrap();
    }

    #[test]
    fn an_error_names_the_flags_of_this_program() {
        let error =
            anyhow!("the port 4222 is in use; choose another port with RELINK_NATS_PORT_NUMBER").context("starting");
        let expected = "starting: the port 4222 is in use; choose another port with --nats-port";
        assert_eq!(in_own_words(&error).to_string(), expected);
        // The sandbox's own error, so that another text there is noticed here.
        let source = std::io::ErrorKind::AddrInUse.into();
        let error = belvo_sandbox::SandboxError::Listen { address: ([127, 0, 0, 1], 8490).into(), source };
        let error = in_own_words(&anyhow::Error::new(error)).to_string();
        let expected = "the sandbox cannot listen on 127.0.0.1:8490; choose another address with --sandbox-listen: ";
        assert!(error.starts_with(expected), "{error}");
    }
}
