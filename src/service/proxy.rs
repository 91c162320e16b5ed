//! The proxy for Belvo's API, as a part of the service: its listener, and the task that stores its reports.

use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::stop::StopBudget;
use super::{Task, spawn};
use crate::config::Config;
use crate::http::proxy::{Proxy, router};
use crate::http::{self, Limits};
use crate::journal::Journal;

/// The bound port of the proxy. It is bound early: if it is in use, relink ends before it takes the partitions.
pub(super) struct BoundProxy {
    listener: TcpListener,
    connections_max: usize,
}

/// The running proxy.
pub(super) struct RunningProxy {
    address: SocketAddr,
    calls: Task<()>,
    reports: Task<()>,
}

impl BoundProxy {
    /// Binds the port; `None` if there is no proxy.
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(proxy) = config.proxy else { return Ok(None) };
        let listener = TcpListener::bind(proxy.listen).await.with_context(|| {
            format!("cannot listen on {}: choose another address with RELINK_PROXY_LISTEN", proxy.listen)
        })?;
        Ok(Some(Self { listener, connections_max: proxy.connections_max }))
    }

    /// Passes calls on until the stop.
    pub(super) fn start(
        self,
        config: &Config,
        journal: &Journal,
        stop: CancellationToken,
    ) -> anyhow::Result<RunningProxy> {
        let address = self.listener.local_addr()?;
        let (proxy, reports) =
            Proxy::new(config, journal).map_err(|error| anyhow!("the proxy cannot be started: {error}"))?;
        let limits = Limits::of_proxy(self.connections_max);
        let calls = spawn(http::serve(self.listener, router(proxy), limits, stop));
        tracing::info!(proxy.address = %address, "relink passes calls on to Belvo's API");
        Ok(RunningProxy { address, calls, reports: spawn(reports.run()) })
    }
}

impl RunningProxy {
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when one of its tasks has ended by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            _ended = &mut self.calls => anyhow!("the proxy ended"),
            _ended = &mut self.reports => anyhow!("the reports of the proxy ended"),
        }
    }

    /// Finishes open calls, and then stores the last reports.
    pub(super) async fn stop(self, budget: &StopBudget) {
        if !self.calls.is_finished() {
            let _aborted = budget.wait("the proxy", 6, self.calls).await;
        }
        if !self.reports.is_finished() {
            let _aborted = budget.wait("the reports of the proxy", 5, self.reports).await;
        }
    }
}
