//! The login of relink's own nats-server: other users of the machine can reach its port, so it asks for a password.
//!
//! The file `url` in the server's directory has the address with user and password, for the programs of the user that
//! runs relink; no other user can read it. The password stays the same at each start, and so does the port, if it is free.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::nats::connection::{Access, Login};
use crate::os;

/// The name of the user.
const USER: &str = "relink";

/// The login of a nats-server that relink runs.
#[derive(Clone, Debug)]
pub struct ServerLogin {
    password: SecretString,
}

impl ServerLogin {
    /// The login that the server in this directory had at its last start, or a new one.
    pub fn in_directory(directory: &Path) -> Self {
        let url = std::fs::read_to_string(url_file(directory)).unwrap_or_default();
        match Access::of_urls([url.trim()]).map(|access| access.login().clone()) {
            Ok(Login::User { password, .. }) => Self { password },
            Ok(Login::None | Login::Token(_) | Login::CredentialsFile(_) | Login::NkeyFile(_)) | Err(_) => {
                Self { password: SecretString::from(uuid::Uuid::new_v4().simple().to_string()) }
            }
        }
    }

    /// The block of the configuration of nats-server.
    pub(super) fn config(&self) -> String {
        format!("authorization {{ user: \"{USER}\", password: \"{}\" }}\n", self.password.expose_secret())
    }

    /// The address of the server with user and password.
    pub(super) fn url(&self, address: &str) -> SecretString {
        let host = address.split_once("://").map_or(address, |(_scheme, host)| host);
        format!("nats://{USER}:{}@{host}", self.password.expose_secret()).into()
    }

    /// Writes the file with the address.
    pub(super) fn write(&self, directory: &Path, address: &str) -> std::io::Result<()> {
        os::write_private(&url_file(directory), self.url(address).expose_secret())
    }
}

/// The path of the file with the address.
pub fn url_file(directory: &Path) -> PathBuf {
    directory.join("url")
}

/// The port of the server at its last start in this directory.
pub fn last_port(directory: &Path) -> Option<u16> {
    let url = std::fs::read_to_string(url_file(directory)).ok()?;
    url.trim().rsplit_once(':')?.1.parse().ok()
}
