//! The errors of starting a sandbox and of the control API.

use std::net::SocketAddr;

use uuid::Uuid;

/// An error of starting a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address is in use, or is not an address of this machine.
    #[error("the sandbox cannot listen on {address}; is another sandbox running there?")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The HTTP client for webhooks could not be created.
    #[error("the sandbox cannot make its webhook client: {0}")]
    Client(#[source] reqwest::Error),
}

/// A refusal of the control API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No link has this id.
    #[error("there is no link {0}")]
    NoSuchLink(Uuid),
    /// No institution has this name.
    #[error("there is no institution {0}; GET /api/institutions/ lists them")]
    NoSuchInstitution(String),
    /// Belvo's scheduler does not refresh single links.
    #[error("link {0} is single: Belvo refreshes recurrent links only")]
    NotRecurrent(Uuid),
    /// The institution has no such resource.
    #[error("the institution has no {0}; GET /api/institutions/ lists its resources")]
    NoSuchResource(String),
    /// A refresh of a broken link cannot succeed.
    #[error("link {0} is not valid: only a repair can make its refresh succeed")]
    NotValid(Uuid),
    /// Belvo's error reference has no such code.
    #[error("Belvo documents no error `{0}`; GET /sandbox/codes lists those it does")]
    NoSuchCode(String),
    /// The link has no consent.
    #[error("link {0} has no consent")]
    NoConsent(Uuid),
    /// The delivery does not exist, or its record was dropped.
    #[error("there is no delivery {0}")]
    NoSuchDelivery(u64),
    /// A link that is to be restored cannot be read.
    #[error("{0}")]
    NotALink(String),
    /// The sandbox stopped during the wait.
    #[error("the sandbox has stopped")]
    Stopped,
}
