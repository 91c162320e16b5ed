//! Runs Belvo's official SDKs, unchanged, against the sandbox.
//!
//! The SDKs are installed from their registries into cargo's temporary folder, once. If that fails, the test fails with
//! the reason; it is never skipped. The scripts are `sdk/python.py` and `sdk/node.mjs`.
#![expect(clippy::unwrap_used, reason = "a panic names the line of the test")]

#[path = "../../../tests/foreign/belvo_sdk.rs"]
mod belvo_sdk;
#[path = "../../../tests/foreign/mod.rs"]
mod foreign;

use std::path::{Path, PathBuf};

use belvo_sandbox::{AccessMode, LinkStatus, Sandbox, SandboxConfig};
use tokio::process::Command;

use belvo_sdk::{node_sdk, python_sdk};
use foreign::run;

/// A sandbox with 130 links: 100 valid, 20 invalid, 10 that require a token.
async fn populated() -> Sandbox {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let control = sandbox.control();
    for number in 0..130 {
        let link =
            control.add_link("erebor_mx_retail", AccessMode::Recurrent, Some(&format!("user-{number}"))).unwrap();
        match number {
            0..20 => control.set_status(link, LinkStatus::Invalid).unwrap(),
            20..30 => control.set_status(link, LinkStatus::TokenRequired).unwrap(),
            _ => {}
        }
    }
    sandbox
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

#[tokio::test]
async fn the_python_sdk_works_with_the_sandbox() {
    let folder = python_sdk().await;
    let sandbox = populated().await;
    let mut python = Command::new(folder.join("venv/bin/python"));
    python.arg(script("python.py")).arg(sandbox.url()).env("NO_PROXY", "127.0.0.1").env_remove("BELVO_API_URL");
    if let Err(said) = run(&mut python).await {
        panic!("{said}");
    }
    sandbox.shutdown().await;
}

#[tokio::test]
async fn the_node_sdk_works_with_the_sandbox() {
    let folder = node_sdk().await;
    let sandbox = populated().await;
    let mut node = Command::new("node");
    node.arg(script("node.mjs"))
        .arg(sandbox.url())
        .arg(&folder)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("BELVO_API_URL");
    if let Err(said) = run(&mut node).await {
        panic!("{said}");
    }
    sandbox.shutdown().await;
}
