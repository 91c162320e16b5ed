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

/// Belvo's SDK for Python, unchanged. Returns the directory with the environment `venv`.
pub(crate) async fn python_sdk() -> PathBuf {
    const SDK: &str = "belvo-python==0.39.1";
    installed(SDK, async |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv"))).await?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SDK];
        run(Command::new(folder.join("venv/bin/python")).args(pip)).await.map(drop)
    })
    .await
}

/// Belvo's SDK for JavaScript, unchanged. Returns the directory with `node_modules`.
pub(crate) async fn node_sdk() -> PathBuf {
    const SDK: &str = "belvo@0.28.0";
    installed(SDK, async |folder| {
        std::fs::write(folder.join("package.json"), "{\"private\": true}\n").map_err(|error| error.to_string())?;
        let npm = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", SDK];
        run(Command::new("npm").args(npm).current_dir(folder)).await.map(drop)
    })
    .await
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
