//! Starts relink's own nats-server, or connects to another NATS and makes its streams ready.
//!
//! If the other NATS cannot be reached, relink starts anyway: the HTTP server takes inputs into the journal, and everything else begins
//! when NATS can be reached. A wrong login, a wrong server or wrong streams end relink, because only an operator can change them.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State;
use async_nats::jetstream::{self, Context};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Task;
use super::background::Background;
use super::own_server::{self, OwnServer, ServerStatus};
use super::readiness;
use crate::config::Config;
use crate::nats::connection::{Access, AccessError};
use crate::nats::server::{NatsServer, ServerError, ServerOptions, min_version_check};
use crate::nats::server_binary::{ServerSource, locate};
use crate::nats::server_health::ServerMonitor;
use crate::nats::server_login::{self, ServerLogin};
use crate::nats::{durability, stream};

/// How often relink looks whether NATS can be reached, and how often it says that it cannot.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOKS_PER_LINE: u32 = 20;

/// The usual port of NATS.
const USUAL_PORT: u16 = 4222;

/// A connection, and what is behind it.
pub(super) struct Bus {
    pub(super) client: async_nats::Client,
    pub(super) own_server: Option<OwnServer>,
    pub(super) status: Option<watch::Receiver<ServerStatus>>,
    /// Whether the streams are ready.
    pub(super) is_ready: watch::Receiver<bool>,
    /// Makes them ready later; it ends only with an error.
    pub(super) waiting: Option<Task<anyhow::Result<()>>>,
}

/// Starts or reaches NATS.
///
/// # Errors
/// The settings of NATS cannot be used, or relink's own server cannot be started.
pub(super) async fn start(config: &Config, source: ServerSource, background: &Background) -> anyhow::Result<Bus> {
    let monitor_url = config.nats.monitor_url.as_ref().and_then(|url| url.expose().next());
    if let Some(server) = start_server(config, source).await? {
        let access = Access::of_urls([server.url_with_login().expose_secret()])?;
        let client = connect(background, &access).await.with_context(|| cannot_connect(&access))?;
        durability::warn_of_an_old_server(min_version_check(&client)?);
        let context = jetstream::new(client.clone());
        let server = own_server::ensure_streams(server, &context, &config.nats.subjects, &config.nats.streams).await?;
        let own_server = OwnServer::supervise(server);
        let status = Some(own_server.status());
        return Ok(Bus { client, own_server: Some(own_server), status, is_ready: ready(), waiting: None });
    }
    let monitor = monitor_url.map(ServerMonitor::new).transpose().map_err(anyhow::Error::msg)?;
    let status = monitor.map(readiness::watch_server);
    let access = config.nats.access.clone().map_or_else(|| Access::of_urls([]), Ok)?;
    match connect(background, &access).await {
        Ok(client) => {
            make_ready(&client, config).await?;
            Ok(Bus { client, own_server: None, status, is_ready: ready(), waiting: None })
        }
        Err(error) if error.is_unreachable() => {
            tracing::warn!(
                %error,
                "NATS at {access} cannot be reached; relink takes inputs into its journal, and begins its other work when it can be reached"
            );
            let client = connect_later(background, &access).await.with_context(|| cannot_connect(&access))?;
            let (sender, is_ready) = watch::channel(false);
            let waiting = super::spawn(wait_until_ready(client.clone(), config.clone(), sender));
            Ok(Bus { client, own_server: None, status, is_ready, waiting: Some(waiting) })
        }
        Err(error) => Err(error).with_context(|| cannot_connect(&access)),
    }
}

/// The task that reads and writes the connection runs in the background too.
async fn connect(background: &Background, access: &Access) -> Result<async_nats::Client, AccessError> {
    let access = access.clone();
    background.run(async move { access.connect("relink").await }).await
}

async fn connect_later(background: &Background, access: &Access) -> Result<async_nats::Client, AccessError> {
    let access = access.clone();
    background.run(async move { access.connect_later("relink").await }).await
}

fn ready() -> watch::Receiver<bool> {
    // The value stays readable without its sender.
    watch::channel(true).1
}

fn cannot_connect(access: &Access) -> String {
    format!(
        "cannot connect to NATS at {access}: check that it is running, and that RELINK_NATS_URL and the settings of \
         the login and of TLS (RELINK_NATS_…) are right"
    )
}

async fn wait_until_ready(
    client: async_nats::Client,
    config: Config,
    is_ready: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let mut looks_count = 0;
    loop {
        while client.connection_state() != State::Connected {
            looks_count += 1;
            if looks_count % LOOKS_PER_LINE == 0 {
                tracing::warn!("NATS can still not be reached; relink takes inputs into its journal");
            }
            sleep(LOOK_EVERY).await;
        }
        match make_ready(&client, &config).await {
            Ok(()) => break,
            // The connection was lost again.
            Err(error) if client.connection_state() != State::Connected => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the streams could not be made ready; relink tries it again"
                );
            }
            Err(error) => return Err(error),
        }
    }
    tracing::info!("NATS can be reached, and its streams are ready");
    is_ready.send_replace(true);
    std::future::pending().await
}

/// Checks the server and declares the streams.
async fn make_ready(client: &async_nats::Client, config: &Config) -> anyhow::Result<()> {
    durability::warn_of_an_old_server(min_version_check(client)?);
    let context: Context = jetstream::new(client.clone());
    stream::ensure_all(&context, &config.nats.subjects, &config.nats.streams).await?;
    let monitor_url = config.nats.monitor_url.as_ref().and_then(|url| url.expose().next());
    durability::warn_where_promises_cannot_be_kept(monitor_url, config.nats.streams.replicas).await;
    Ok(())
}

/// A connection for a program that works on the streams while relink is stopped, and relink's own nats-server, if that is configured: it
/// runs only with relink, so it is started here. The caller stops it.
///
/// # Errors
/// There is no connection.
pub(super) async fn connect_alone(
    config: &Config,
    source: ServerSource,
    name: &str,
) -> anyhow::Result<(async_nats::Client, Option<NatsServer>)> {
    let Some(server) = start_server(config, source).await? else {
        return Ok((super::connect(config, name).await?, None));
    };
    let access = Access::of_urls([server.url_with_login().expose_secret()])?;
    let client = access.connect(name).await.with_context(|| cannot_connect(&access))?;
    Ok((client, Some(server)))
}

async fn start_server(config: &Config, source: ServerSource) -> anyhow::Result<Option<NatsServer>> {
    if config.nats.url.is_some() {
        return Ok(None);
    }
    let binary = locate(source).await.context(
        "no NATS is configured and none could be started: set RELINK_NATS_URL to the address of yours, or RELINK_NATS_SERVER to the path of a nats-server",
    )?;
    let mut options = ServerOptions::new(binary, config.store.data_dir.join("nats"));
    // The supervisor reads the server's health from its monitor.
    options.monitor = true;
    options.login = Some(ServerLogin::in_directory(&options.store_dir));
    let server = start_on_port(options, config.nats.port).await?;
    let url_file = server_login::url_file(&server.options().store_dir);
    tracing::info!(
        nats.url = server.url(),
        nats.url_file = %url_file.display(),
        "relink has started its own nats-server on a loopback address; the file has its address with the password"
    );
    Ok(Some(server))
}

/// Starts the server on this port, or, without one, on the port of its last start, so that the addresses that users wrote down stay right.
/// The first start uses the usual port of NATS. If another program uses that port, a free one is chosen.
async fn start_on_port(mut options: ServerOptions, port: Option<u16>) -> anyhow::Result<NatsServer> {
    let last = server_login::last_port(&options.store_dir);
    options.port = Some(port.or(last).unwrap_or(USUAL_PORT));
    match NatsServer::start(options.clone()).await {
        Err(ServerError::PortInUse { port: used }) if port.is_none() => {
            if last.is_some() {
                tracing::warn!(
                    port = used,
                    "the port of relink's nats-server is in use by another program, so it gets another one: give its clients the new address"
                );
            }
            options.port = None;
            Ok(NatsServer::start(options).await?)
        }
        started => Ok(started?),
    }
}
