//! `relink check-config`: the configuration with the origin of each value and, if wanted, what NATS and Belvo answer.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::ServeArgs;
use super::output::print;
use crate::config::{Config, Loaded};
use crate::printable::printable_lines;
use crate::service;

#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Also connect to NATS, and call Belvo's API with the keys; nothing is changed there
    #[arg(long)]
    probe: bool,
}

/// Prints the configuration, the warnings and, if wanted, what NATS and Belvo answer.
pub(super) async fn run(CheckConfigArgs { serve, probe }: CheckConfigArgs) -> anyhow::Result<ExitCode> {
    let Loaded { config, report, warnings } = Config::load(&serve.sources())?;
    print(&report)?;
    let note = |text: String| {
        let _closed_terminal = writeln!(anstream::stderr(), "{}", printable_lines(&text));
    };
    for warning in warnings {
        note(format!("warning: {warning}"));
    }
    config.check_for_serving()?;
    if !probe {
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    for (what, answer) in service::probe(&config).await {
        match answer {
            Ok(text) => note(format!("{what}: {text}")),
            Err(problem) => {
                note(format!("{what}: ERROR: {problem:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
