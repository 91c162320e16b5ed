//! Programs in other languages: installed from their registries once, and run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// Runs a program to its end. Returns its standard output, or all its output if it failed.
pub(crate) async fn run(command: &mut Command) -> Result<String, String> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(format!("{shown}: {}\n{}", output.status, String::from_utf8_lossy(&printed)))
}

/// Serialises installations: two tests may need the same directory.
static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The directory of a package, which `fill` has filled in this or an earlier run.
pub(crate) async fn installed(package: &str, fill: impl AsyncFnOnce(&Path) -> Result<(), String>) -> PathBuf {
    let name: String = package.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let done = folder.join("installed");
    let _alone = INSTALLING.lock().await;
    if !done.exists() {
        std::fs::create_dir_all(&folder).expect("cargo's temporary folder can be written");
        if let Err(error) = fill(&folder).await {
            panic!("{package} cannot be installed, and this test needs it.\n{error}");
        }
        std::fs::write(done, package).expect("cargo's temporary folder can be written");
    }
    folder
}
