//! Why a sandbox does not start, and why the control API refuses a call.

use std::net::SocketAddr;

use uuid::Uuid;

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address is taken or not ours.
    #[error("the sandbox cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The client for webhooks could not be made.
    #[error("the sandbox cannot make its webhook client: {0}")]
    Client(#[source] reqwest::Error),
}

/// Why the control API refuses a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no link of this id.
    #[error("there is no link {0}")]
    NoSuchLink(Uuid),
    /// There is no institution of this name.
    #[error("there is no institution {0}; GET /api/institutions/ lists them")]
    NoSuchInstitution(String),
    /// Belvo's scheduler passes single links over.
    #[error("link {0} is single: Belvo refreshes recurrent links only")]
    NotRecurrent(Uuid),
    /// The institution has no such resource.
    #[error("the institution has no {0}; GET /api/institutions/ lists what it has")]
    NoSuchResource(String),
    /// A refresh of a broken link cannot succeed.
    #[error("link {0} is not valid: only a repair can make its refresh succeed")]
    NotValid(Uuid),
    /// Belvo's error reference has no such code.
    #[error("Belvo documents no error `{0}`; GET /sandbox/codes lists those it does")]
    NoSuchCode(String),
    /// The link hangs on no consent.
    #[error("link {0} has no consent")]
    NoConsent(Uuid),
    /// There is no such delivery, or it is forgotten.
    #[error("there is no delivery {0}")]
    NoSuchDelivery(u64),
    /// The sandbox stopped while it was being waited for.
    #[error("the sandbox has stopped")]
    Stopped,
}
