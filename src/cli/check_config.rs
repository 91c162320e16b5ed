//! `relink check-config`: the configuration with the origin of each value and, if wanted, what NATS and Belvo answer.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::ServeArgs;
use super::output::{print, print_json};
use crate::config::{Config, Loaded, ShownSetting};
use crate::printable::printable_lines;
use crate::service;

#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Also connect to NATS, and call Belvo's API with the keys; nothing is changed there
    #[arg(long)]
    probe: bool,
    /// Print the settings, the warnings and what was answered as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the configuration, the warnings and, if wanted, what NATS and Belvo answer.
pub(super) async fn run(CheckConfigArgs { serve, probe, json }: CheckConfigArgs) -> anyhow::Result<ExitCode> {
    let Loaded { config, report, settings, warnings } = Config::load(&serve.sources())?;
    if !json {
        print(&report)?;
        warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    }
    config.check_for_serving()?;
    let answers = if probe { service::probe(&config).await } else { Vec::new() };
    let has_failed = answers.iter().any(|(_, answer)| answer.is_err());
    if json {
        let settings = settings.iter().map(|setting| {
            let ShownSetting { key, variable, origin, .. } = setting;
            json!({"key": key, "variable": variable, "value": setting.json(), "origin": origin})
        });
        let settings: Vec<_> = settings.collect();
        let probes = answers.iter().map(|(what, answer)| match answer {
            Ok(text) => json!({"what": what, "is_usable": true, "text": text}),
            Err(problem) => json!({"what": what, "is_usable": false, "text": format!("{problem:#}")}),
        });
        let probes: Vec<_> = probes.collect();
        print_json(&json!({"settings": settings, "warnings": warnings, "probes": probes}))?;
    } else {
        for (what, answer) in answers {
            match answer {
                Ok(text) => note(&format!("{what}: {text}")),
                Err(problem) => note(&format!("{what}: ERROR: {problem:#}")),
            }
        }
    }
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn note(text: &str) {
    let _closed_terminal = writeln!(anstream::stderr(), "{}", printable_lines(text));
}
