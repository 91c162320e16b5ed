//! A running sandbox: its server, its dispatcher and its schedule.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::clock::SandboxTime;
use crate::config::{SandboxConfig, WebhookDelivery};
use crate::control::Control;
use crate::error::SandboxError;
use crate::shared::{self, Shared};
use crate::{api, dispatcher, tls};

/// A running sandbox. Dropping it stops it; [`Sandbox::shutdown`] also waits for that.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Sandbox {
    /// Listens, and starts the dispatcher and the schedule.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        let address = config.listen;
        let failed = |source| SandboxError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tls::install();
        // Belvo treats any response but 2xx as a failure; the docs do not say that it follows redirects.
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none());
        let client = client.build().map_err(SandboxError::Client)?;

        let shared = Arc::new(Shared::new(config));
        let tasks = TaskTracker::new();
        if shared.config.delivery == WebhookDelivery::Send {
            tasks.spawn(dispatcher::run(Arc::clone(&shared), client));
        }
        if shared.config.schedule && shared.config.time == SandboxTime::Wall {
            tasks.spawn(shared::run_schedule(Arc::clone(&shared)));
        }
        let router = api::router(Arc::clone(&shared));
        let stop = shared.stop.clone();
        tasks.spawn(async move {
            let server = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
            if let Err(error) = server.await {
                tracing::error!(%error, "the sandbox's server ended");
            }
        });
        tasks.close();
        Ok(Self { address, shared, tasks })
    }

    /// The base URL, to be used in place of Belvo's.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The configuration of the sandbox.
    pub fn config(&self) -> &SandboxConfig {
        &self.shared.config
    }

    /// The control API, in process.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Finishes the calls in progress, then stops. Queued webhooks are lost.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
