//! The settings of NATS and of its streams: `[nats]`, `RELINK_NATS_*`.

use std::path::{Path, PathBuf};

use super::address::is_http;
use super::reader::Reader;
use super::{HOUR, NatsConfig, NatsUrl};
use crate::nats::connection::{Access, Login, TlsFiles};
use crate::nats::stream::{PARTITIONS_MAX, StreamSettings};
use crate::nats::subject::Subjects;

/// Reads the settings. `None` if one of them is wrong; then it has been noted.
pub(super) fn read(reader: &mut Reader) -> Option<NatsConfig> {
    let url = reader.addresses("nats.url").map(NatsUrl);
    let access = read_access(reader, url.as_ref());
    let server = reader.text("nats.server").map(PathBuf::from);
    if server.as_deref().is_some_and(is_missing) {
        reader.reject(
            "nats.server",
            "is not a file; give the path of a nats-server, or remove it to use the one on PATH",
        );
    }
    let port = u16::try_from(reader.number("nats.port", 0..=65_535)).ok().filter(|port| *port > 0);
    let monitor_url = reader.secret("nats.monitor_url").map(NatsUrl);
    if monitor_url.as_ref().is_some_and(|url| url.expose().any(|address| !is_http(address))) {
        reader.reject("nats.monitor_url", "must be an address such as http://127.0.0.1:8222");
    }
    let streams = StreamSettings {
        partitions: u16::try_from(reader.number("nats.partitions", 1..=i64::from(PARTITIONS_MAX))).unwrap_or(1),
        replicas: usize::try_from(reader.number("nats.replicas", 1..=5)).unwrap_or(1),
        history_count: reader.number("nats.history", 1..=10_000),
        bytes_max: i64::try_from(reader.bytes("nats.stream_max_bytes", 0..=STREAM_BYTES_MAX))
            .ok()
            .filter(|bytes| *bytes > 0),
        input_age_max: reader.span_within("nats.input_max_age", HOUR..=3650 * 24 * HOUR),
        ..StreamSettings::default()
    };
    let (input, output) = (reader.text("nats.prefix_input")?, reader.text("nats.prefix_output")?);
    let subjects = Subjects::new(&input, &output)
        .map_err(|error| reader.reject("nats.prefix_input", format!("and nats.prefix_output: {error}")))
        .ok()?;
    Some(NatsConfig { url, access, server, port, monitor_url, subjects, streams })
}

/// The largest limit of a stream: a pebibyte.
const STREAM_BYTES_MAX: u64 = 1 << 50;

/// How to connect to the NATS at `url`. The files are checked also if there is no `url`.
fn read_access(reader: &mut Reader, url: Option<&NatsUrl>) -> Option<Access> {
    let mut file = |key, what: &str| {
        let path = reader.text(key).map(PathBuf::from)?;
        if !path.is_file() {
            reader.reject(key, format!("is not a file; give the path of {what}"));
        }
        Some(path)
    };
    let credentials = file("nats.credentials", "a .creds file");
    let nkey = file("nats.nkey", "a file with the seed of an NKey");
    let authorities = file("nats.tls_ca", "a PEM file with certificates");
    let certificate = file("nats.tls_certificate", "a PEM file with a certificate");
    let key = file("nats.tls_key", "a PEM file with a private key");
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            reader.reject("nats.tls_certificate", "also needs nats.tls_key (RELINK_NATS_TLS_KEY)");
            None
        }
        (None, Some(_)) => {
            reader.reject("nats.tls_key", "also needs nats.tls_certificate (RELINK_NATS_TLS_CERTIFICATE)");
            None
        }
    };
    let access = Access::of_urls(url?.expose()).map_err(|error| reader.reject("nats.url", error)).ok()?;
    let login = match (access.login().clone(), credentials, nkey) {
        (login, None, None) => login,
        (Login::None, Some(path), None) => Login::CredentialsFile(path),
        (Login::None, None, Some(path)) => Login::NkeyFile(path),
        _several => {
            let problem = "has a user or a token, or nats.credentials and nats.nkey are both set; give one login";
            reader.reject("nats.url", problem);
            Login::None
        }
    };
    Some(access.with_login(login).with_tls(TlsFiles { authorities, client }))
}

/// A name without a directory is looked up on `PATH` later.
fn is_missing(path: &Path) -> bool {
    path.components().count() > 1 && !path.is_file()
}
