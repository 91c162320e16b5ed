//! Programs in other languages: installed from their registries once, and run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// Runs a program to its end. What it said: on its standard output, or, if it failed, everywhere.
pub(crate) async fn run(command: &mut Command) -> Result<String, String> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{shown}: {}\n{}", output.status, String::from_utf8_lossy(&said)))
}

/// One installation at a time: two tests of one program may want the same folder.
static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A folder that `fill` has filled, now or in an earlier run.
pub(crate) async fn installed(package: &str, fill: impl AsyncFnOnce(&Path) -> Result<(), String>) -> PathBuf {
    let name: String = package.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let done = folder.join("installed");
    let _alone = INSTALLING.lock().await;
    if !done.exists() {
        std::fs::create_dir_all(&folder).expect("cargo's temporary folder can be written");
        if let Err(error) = fill(&folder).await {
            panic!("{package} cannot be installed, so nothing is known about it. This test needs it.\n{error}");
        }
        std::fs::write(done, package).expect("cargo's temporary folder can be written");
    }
    folder
}
