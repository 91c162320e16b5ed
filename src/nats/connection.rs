//! How to connect to NATS: the addresses, the login, and TLS.
//!
//! The files of the login and of TLS are read at each connect and reconnect, so a renewed file is used without a
//! restart: user JWTs and certificates expire.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError, Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

/// How to connect to NATS.
#[derive(Clone, Debug)]
pub struct Access {
    addresses: Vec<ServerAddr>,
    login: Login,
    tls: TlsFiles,
}

/// The proof of identity that NATS gets.
#[derive(Clone, Debug, Default)]
pub enum Login {
    /// None.
    #[default]
    None,
    /// A user and a password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A token.
    Token(SecretString),
    /// A credentials file (`.creds`) with a user JWT and its seed.
    CredentialsFile(PathBuf),
    /// A file with the seed of an NKey.
    NkeyFile(PathBuf),
}

/// The PEM files of TLS. If one is given, relink connects only with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the authorities that may have signed the server's certificate; `None`: those of the system.
    pub authorities: Option<PathBuf>,
    /// The certificate of this client, and its private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why there is no connection to NATS.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An address has a wrong form.
    #[error("must be addresses such as nats://127.0.0.1:4222, separated by commas")]
    Address,
    /// The addresses have different users or passwords.
    #[error("has addresses with different users or passwords; relink uses one login for all servers")]
    Logins,
    /// A file cannot be used.
    #[error("cannot use {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The problem, without the content of the file.
        problem: String,
    },
    /// No server accepts the connection.
    #[error(transparent)]
    Connect(#[from] async_nats::ConnectError),
}

impl Access {
    /// The access by these addresses. They may contain a user and a password, or a token:
    /// `nats://user:password@host:4222`, `nats://token@host:4222`.
    ///
    /// # Errors
    /// [`AccessError::Address`], [`AccessError::Logins`].
    pub fn of_urls<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<Self, AccessError> {
        let mut addresses = Vec::new();
        let mut login = None;
        for url in urls {
            let (user_info, address) = split(url);
            addresses.push(address.parse().map_err(|_| AccessError::Address)?);
            if user_info.is_some() && login.is_some() && login != user_info {
                return Err(AccessError::Logins);
            }
            login = login.or(user_info);
        }
        let login = login.map(|text| match text.split_once(':') {
            Some((user, password)) => Login::User { user: decoded(user), password: decoded(password).into() },
            None => Login::Token(decoded(&text).into()),
        });
        Ok(Self { addresses, login: login.unwrap_or_default(), tls: TlsFiles::default() })
    }

    /// The same with another login.
    #[must_use]
    pub fn with_login(self, login: Login) -> Self {
        Self { login, ..self }
    }

    /// The same with these files for TLS.
    #[must_use]
    pub fn with_tls(self, tls: TlsFiles) -> Self {
        Self { tls, ..self }
    }

    /// The login.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Connects. `name` is shown in the server's list of connections. Later the client reconnects by itself.
    ///
    /// # Errors
    /// [`AccessError::File`], [`AccessError::Connect`].
    pub async fn connect(&self, name: &str) -> Result<Client, AccessError> {
        Ok(self.options(name).await?.connect(&self.addresses[..]).await?)
    }

    /// The same, without waiting for the connection: the client makes it as soon as a server can be reached.
    ///
    /// # Errors
    /// As [`Access::connect`], but not if no server can be reached.
    pub async fn connect_later(&self, name: &str) -> Result<Client, AccessError> {
        Ok(self.options(name).await?.retry_on_initial_connect().connect(&self.addresses[..]).await?)
    }

    async fn options(&self, name: &str) -> Result<ConnectOptions, AccessError> {
        crate::tls::install();
        // A file with an error is an error of the start; at a reconnect it is only logged and tried again.
        self.login.auth(&[]).await?;
        let login = self.login.clone();
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            let login = login.clone();
            async move { login.auth(&nonce).await.map_err(AuthError::new) }
        });
        let TlsFiles { authorities, client } = self.tls.clone();
        options = options.name(name).require_tls(authorities.is_some() || client.is_some());
        for path in authorities.iter().chain(client.iter().flat_map(|(certificate, key)| [certificate, key])) {
            read(path).await?;
        }
        if let Some(path) = authorities {
            options = options.add_root_certificates(path);
        }
        if let Some((certificate, key)) = client {
            options = options.add_client_certificate(certificate, key);
        }
        Ok(options)
    }
}

impl AccessError {
    /// Whether a server may be reached later, without a change of the settings.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(error) => {
                matches!(error.kind(), ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns)
            }
            Self::Address | Self::Logins | Self::File { .. } => false,
        }
    }
}

impl Login {
    /// The fields of the CONNECT message; `nonce` is the random text of the server that is to be signed.
    async fn auth(&self, nonce: &[u8]) -> Result<Auth, AccessError> {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::User { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.expose_secret().to_owned());
            }
            Self::Token(token) => auth.token = Some(token.expose_secret().to_owned()),
            Self::CredentialsFile(path) => {
                let text = read(path).await?;
                let wrong = |what: &str| unusable(path, format!("it has no {what}; give a .creds file"));
                auth.jwt = Some(behind(&text, "BEGIN NATS USER JWT").ok_or_else(|| wrong("user JWT"))?.to_owned());
                let seed = behind(&text, "BEGIN USER NKEY SEED").ok_or_else(|| wrong("seed"))?;
                auth.signature = Some(sign(path, seed, nonce)?.1);
            }
            Self::NkeyFile(path) => {
                let text = read(path).await?;
                // nsc writes the seed alone; other tools write it with the markers of a .creds file.
                let is_seed = |line: &&str| line.starts_with('S');
                let seed = behind(&text, "BEGIN USER NKEY SEED").or_else(|| text.lines().map(str::trim).find(is_seed));
                let (key, signature) = sign(path, seed.unwrap_or_default(), nonce)?;
                auth.nkey = Some(key);
                auth.signature = Some(signature);
            }
        }
        Ok(auth)
    }
}

/// The first line that is not empty behind the line with `marker`.
fn behind<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let mut lines = text.lines().skip_while(|line| !line.contains(marker)).skip(1);
    lines.find(|line| !line.trim().is_empty()).map(str::trim).filter(|line| !line.starts_with('-'))
}

/// The public key of the seed, and the signature of `nonce`.
fn sign(path: &Path, seed: &str, nonce: &[u8]) -> Result<(String, Vec<u8>), AccessError> {
    // The error of the library is not shown, because it could quote the seed.
    let wrong = || unusable(path, "its seed (a line that begins with SU) cannot be used".to_owned());
    let key = KeyPair::from_seed(seed).map_err(|_| wrong())?;
    let signature = key.sign(nonce).map_err(|_| wrong())?;
    Ok((key.public_key(), signature))
}

async fn read(path: &Path) -> Result<String, AccessError> {
    tokio::fs::read_to_string(path).await.map_err(|error| unusable(path, error.to_string()))
}

fn unusable(path: &Path, problem: String) -> AccessError {
    AccessError::File { path: path.to_owned(), problem }
}

/// The user, password or token of an address, and the address without them.
fn split(url: &str) -> (Option<String>, String) {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may contain a `/`, so without an `@` before the path the last `@` of the address counts.
    let at = rest[..end].rfind('@').or_else(|| rest.rfind('@'));
    let host = at.map_or(rest, |at| &rest[at + 1..]);
    let address = scheme.map_or_else(|| host.to_owned(), |scheme| format!("{scheme}://{host}"));
    (at.map(|at| rest[..at].to_owned()).filter(|user_info| !user_info.is_empty()), address)
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for Access {
    /// The addresses, without users and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(|address| address.as_url_str().to_owned()).collect();
        f.write_str(&addresses.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_of_an_address_is_read() {
        for (url, user, secret, address) in [
            ("nats://h:4222", None, None, "nats://h:4222"),
            ("nats://ana:p%40ss@h:4222", Some("ana"), Some("p@ss"), "nats://h:4222"),
            ("tls://ana:a/b@h:4222", Some("ana"), Some("a/b"), "tls://h:4222"),
            ("nats://t0ken@h:4222", None, Some("t0ken"), "nats://h:4222"),
            ("nats://@h:4222", None, None, "nats://h:4222"),
        ] {
            let access = Access::of_urls([url]).unwrap();
            let found = match access.login() {
                Login::User { user, password } => (Some(user.as_str()), Some(password.expose_secret())),
                Login::Token(token) => (None, Some(token.expose_secret())),
                Login::None | Login::CredentialsFile(_) | Login::NkeyFile(_) => (None, None),
            };
            assert_eq!((found, access.to_string().as_str()), ((user, secret), address), "{url}");
        }
        let two = Access::of_urls(["nats://a:b@h:1", "nats://h:2", "nats://a:b@h:3"]).unwrap();
        assert_eq!(two.to_string(), "nats://h:1,nats://h:2,nats://h:3");
        let different = Access::of_urls(["nats://a:b@h:1", "nats://a:c@h:2"]);
        assert!(matches!(different, Err(AccessError::Logins)));
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user.creds");
        for text in ["", "hunter2", "-----BEGIN NATS USER JWT-----\nhunter2\n------END NATS USER JWT------\n"] {
            std::fs::write(&path, text).unwrap();
            for login in [Login::CredentialsFile(path.clone()), Login::NkeyFile(path.clone())] {
                let error = login.auth(b"nonce").await.err().unwrap().to_string();
                assert!(error.contains("user.creds") && !error.contains("hunter2"), "{error}");
            }
        }
    }
}
