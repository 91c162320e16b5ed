//! Belvo's official SDKs, unchanged: installed from their registries once.

use std::path::PathBuf;

use tokio::process::Command;

use crate::foreign::{installed, run};

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
