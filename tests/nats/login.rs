//! Every login and TLS setting, tried against a real nats-server that requires it.

#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::binary::{Relink, client};
use crate::support::{server_source, within};
use async_nats::Client;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use relink::config::{Config, Sources};
use relink::nats::server_binary::locate;
use serde_json::{Value, json};

/// A nats-server with JetStream and more configuration.
pub(crate) struct Server {
    pub(crate) folder: tempfile::TempDir,
    /// `127.0.0.1:<port>`
    pub(crate) host: String,
    _process: tokio::process::Child,
}

impl Server {
    async fn start(folder: tempfile::TempDir, more: &str) -> Self {
        let store = folder.path().join("js").display().to_string();
        let config = format!("listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: \"{store}\" }}\n{more}\n");
        Self::run(folder, &config, &[]).await
    }

    /// Starts a server with this configuration, in which port -1 is a free one, and this environment.
    pub(crate) async fn run(folder: tempfile::TempDir, config: &str, environment: &[(String, String)]) -> Self {
        let binary = locate(server_source()).await.unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!("ports_file_dir: \"{}\"\nlog_file: \"{}\"\n{config}", path("."), path("log"));
        std::fs::write(path("conf"), config).unwrap();
        let mut process = tokio::process::Command::new(&binary);
        process.args(["--config", &path("conf")]).envs(environment.iter().cloned()).kill_on_drop(true);
        let mut process = process.spawn().unwrap();
        let name = binary.file_name().unwrap().to_string_lossy().into_owned();
        let ports = folder.path().join(format!("{name}_{}.ports", process.id().unwrap()));
        let host = within("the start of nats-server", async {
            loop {
                let ports = std::fs::read(&ports).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
                if let Some(url) = ports.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
                    break url.rsplit_once('/').unwrap().1.to_owned();
                }
                if let Some(status) = process.try_wait().unwrap() {
                    panic!("nats-server ended ({status}): {}", std::fs::read_to_string(path("log")).unwrap());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { host: host.await, folder, _process: process }
    }

    /// Connects with the configuration of relink.
    async fn connect(&self, user_info: &str, settings: &[(&str, &Path)]) -> Result<Client, String> {
        let url = format!("nats://{user_info}{}", self.host);
        let settings = settings.iter().map(|(name, path)| (OsString::from(name), path.as_os_str().to_owned()));
        let environment = settings.chain([("RELINK_NATS_URL".into(), url.into())]).collect();
        let loaded = Config::load(&Sources { environment, ..Sources::default() }).map_err(|error| error.to_string())?;
        let access = loaded.config.nats.access.expect("there is an address");
        within("a connection", access.connect("test")).await.map_err(|error| error.to_string())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn the_user_and_the_password_of_the_address_reach_nats() {
    let server = Server::start(folder(), r#"authorization { user: "ana", password: "p@ss/w%rd" }"#).await;
    server.connect("ana:p%40ss%2Fw%25rd@", &[]).await.unwrap();
    for wrong in ["", "ana:guess@", "token@"] {
        server.connect(wrong, &[]).await.unwrap_err();
    }
}

#[tokio::test]
async fn the_token_of_the_address_reaches_nats() {
    let server = Server::start(folder(), r#"authorization { token: "s3cret" }"#).await;
    server.connect("s3cret@", &[]).await.unwrap();
    for wrong in ["", "guess@", "ana:s3cret@"] {
        server.connect(wrong, &[]).await.unwrap_err();
    }
}

#[tokio::test]
async fn an_nkey_signs_the_login() {
    let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let server = Server::start(folder(), &users).await;
    let right = server.write("nkey", &format!("{}\n", key.seed().unwrap()));
    server.connect("", &[("RELINK_NATS_NKEY", &right)]).await.unwrap();
    let wrong = server.write("other", &other.seed().unwrap());
    server.connect("", &[("RELINK_NATS_NKEY", &wrong)]).await.unwrap_err();
    server.connect("", &[]).await.unwrap_err();
    let two = server.connect("ana:b@", &[("RELINK_NATS_NKEY", &right)]).await.unwrap_err();
    assert!(two.contains("give one login"), "{two}");
}

/// An account of NATS with its operator, as the tool `nsc` makes them.
struct Account {
    operator: KeyPair,
    account: KeyPair,
}

impl Account {
    fn new() -> Self {
        Self { operator: KeyPair::new_operator(), account: KeyPair::new_account() }
    }

    fn jwt(issuer: &KeyPair, subject: &str, expires_at: Option<i64>, nats: &Value) -> String {
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut claims = json!({"jti": uuid::Uuid::new_v4(), "iat": now(), "iss": issuer.public_key(), "name": "test",
            "sub": subject, "nats": nats});
        if let Some(at) = expires_at {
            claims["exp"] = at.into();
        }
        let text = format!("{}.{}", encoded(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encoded(&claims));
        let signature = URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
        format!("{text}.{signature}")
    }

    /// The configuration of the server.
    fn config(&self) -> String {
        let (operator, account) = (self.operator.public_key(), self.account.public_key());
        let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        // JetStream needs a system account.
        let system = KeyPair::new_account().public_key();
        let system_nats = json!({"type": "account", "version": 2});
        let system_jwt = Self::jwt(&self.operator, &system, None, &system_nats);
        let operator_jwt = Self::jwt(&self.operator, &operator, None, &json!({"type": "operator", "version": 2}));
        let account_nats = json!({"type": "account", "version": 2, "limits": unlimited});
        let account_jwt = Self::jwt(&self.operator, &account, None, &account_nats);
        format!(
            "operator: {operator_jwt}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {account}: {account_jwt}, {system}: {system_jwt} }}\n"
        )
    }

    /// The content of a credentials file of a new user.
    fn credentials(&self, expires_at: Option<i64>) -> String {
        let user = KeyPair::new_user();
        let nats = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let jwt = Self::jwt(&self.account, &user.public_key(), expires_at, &nats);
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    relink::clock::now().as_millis() / 1000
}

#[tokio::test]
async fn a_renewed_credentials_file_is_read_at_the_next_connect() {
    let account = Account::new();
    let server = Server::start(folder(), &account.config()).await;
    server.connect("", &[]).await.unwrap_err();
    let file = server.write("user.creds", &account.credentials(Some(now() + 3)));
    let client = server.connect("", &[("RELINK_NATS_CREDENTIALS", &file)]).await.unwrap();
    server.write("user.creds", &account.credentials(None));
    // The server closes the connection when the old JWT expires.
    within("another connection, with the new file", async {
        while client.statistics().connects.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    within("an answer", client.flush()).await.unwrap();
    let missing = server.connect("", &[("RELINK_NATS_CREDENTIALS", Path::new("/nowhere"))]).await.unwrap_err();
    assert!(missing.contains("is not a file"), "{missing}");
}

/// The files of an authority, a server on 127.0.0.1, and a client, all signed by the authority.
fn certificates(folder: &Path) -> [PathBuf; 5] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority_pem = write("ca.pem", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    let signed = |name: &str, of: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![of.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        [write(&format!("{name}.pem"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem())]
    };
    let [server, server_key] = signed("server", "127.0.0.1");
    let [client, client_key] = signed("client", "relink.example");
    [authority_pem, server, server_key, client, client_key]
}

/// The configuration of a server that requires a client certificate.
fn tls_config(files: &[PathBuf; 5]) -> String {
    let [authority, server, key, ..] = files;
    format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        server.display(),
        key.display(),
        authority.display()
    )
}

#[tokio::test]
async fn tls_checks_both_sides() {
    let folder = folder();
    let files = certificates(folder.path());
    let server = Server::start(folder, &tls_config(&files)).await;
    let [authority, _, _, certificate, key] = &files;
    let (authority, certificate, key) = (
        ("RELINK_NATS_TLS_CA", &**authority),
        ("RELINK_NATS_TLS_CERTIFICATE", &**certificate),
        ("RELINK_NATS_TLS_KEY", &**key),
    );
    server.connect("", &[authority, certificate, key]).await.unwrap();
    server.connect("", &[certificate, key]).await.unwrap_err();
    server.connect("", &[authority]).await.unwrap_err();
    let half = server.connect("", &[authority, certificate]).await.unwrap_err();
    assert!(half.contains("also needs nats.tls_key"), "{half}");

    // A server without TLS gets no login in clear text.
    let plain = Server::start(self::folder(), "").await;
    plain.connect("", &[authority]).await.unwrap_err();
    plain.connect("", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relink_serves_with_a_credentials_file_and_tls() {
    let folder = folder();
    let (files, account) = (certificates(folder.path()), Account::new());
    let server = Server::start(folder, &format!("{}{}", tls_config(&files), account.config())).await;
    let [authority, _, _, certificate, key] = files.each_ref().map(|path| path.to_str().unwrap());
    let credentials = server.write("user.creds", &account.credentials(None));
    let settings = [
        ("RELINK_NATS_CREDENTIALS", credentials.to_str().unwrap()),
        ("RELINK_NATS_TLS_CA", authority),
        ("RELINK_NATS_TLS_CERTIFICATE", certificate),
        ("RELINK_NATS_TLS_KEY", key),
    ];
    let data_dir = server.folder.path().join("data");
    let mut relink = Relink::serve(&format!("tls://{}", server.host), &data_dir, &settings).await;
    let webhook = json!({"webhook_id": "w-1", "webhook_type": "LINK", "webhook_code": "token_required",
        "link_id": "16f68516-bcbc-4cf7-b815-c500d4204e28", "data": {}});
    assert_eq!(within("an answer", relink.webhook(&client(), webhook.to_string())).await, Some(200));
    relink.signal("TERM").await;
    assert!(within("the stop", relink.child.wait()).await.unwrap().success());
}
