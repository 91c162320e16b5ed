//! `relink doctor`: one line for each thing that relink depends on, and what to do where something is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Args;
use serde_json::{Value, json};

use super::output::{DIM, line, print, print_json};
use crate::config::{Config, Loaded, Sources};
use crate::os;
use crate::printable::{counted, printable};
use crate::service::doctor::{Check, Verdict, examine, refused};

pub(super) const EXAMPLES: &str = "\
Examples:
  relink doctor                        with the settings in RELINK_*, as for the service
  relink doctor --config relink.toml --json
                                       with the file of the service, for a program
It works with and without a running relink, and changes nothing: it writes and removes one file in the data directory. \
Run it as the user that runs relink.
Exit codes: 0 without a problem (warnings are none), 1 with a problem, 78 if the configuration cannot be used.";

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of the service (RELINK_DATA_DIR)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let flags = args.data_dir.map(|directory| ("--data-dir", directory)).into_iter().collect();
    let sources = Sources::of_process(args.config, flags);
    let Loaded { config, warnings, .. } = match Config::load(&sources) {
        Ok(loaded) => loaded,
        Err(error) => {
            if args.json {
                let _code = print_json(&as_json(&[refused(&error)]))?;
            }
            return Err(error.into());
        }
    };
    let server = sources.server_source(config.nats.server.clone(), false);
    let checks = examine(&config, warnings, server).await;
    if args.json {
        print_json(&as_json(&checks))?
    } else {
        print(&report(&checks))?
    };
    let has_problem = checks.iter().any(|check| check.verdict == Verdict::Problem);
    Ok(if has_problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(checks: &[Check]) -> Value {
    let rows: Vec<Value> = checks
        .iter()
        .map(|Check { name, verdict, text, advice }| {
            json!({"name": name, "verdict": <&str>::from(*verdict), "text": text, "advice": advice})
        })
        .collect();
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    json!({"verdict": <&str>::from(worst), "checks": rows})
}

fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { name, verdict, text: found, advice } in checks {
        let colour = match verdict {
            Verdict::Ok => AnsiColor::Green,
            Verdict::Warning => AnsiColor::Yellow,
            Verdict::Problem => AnsiColor::Red,
        };
        let (style, word) = (colour.on_default(), <&str>::from(*verdict));
        line(&mut text, format_args!("{style}{word:<8}{style:#} {name:<15} {}", printable(found)));
        if let Some(advice) = advice {
            line(&mut text, format_args!("{:<24} {DIM}-> {}{DIM:#}", "", printable(advice)));
        }
    }
    let count = |wanted: Verdict| checks.iter().filter(|check| check.verdict == wanted).count();
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    let (problems, warnings) = (counted(problems, "problem"), counted(warnings, "warning"));
    line(&mut text, format_args!("{}: {problems}, {warnings}", counted(checks.len(), "check")));
    text
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::{HOSTILE, is_safe};
    use super::*;

    #[test]
    fn a_text_from_outside_forges_no_line() {
        let check = Check {
            name: "NATS",
            verdict: Verdict::Problem,
            text: HOSTILE.to_owned(),
            advice: Some(HOSTILE.to_owned()),
        };
        let text = report(&[check]);
        assert!(is_safe(&text) && text.ends_with("1 check: 1 problem, 0 warnings\n"), "{text:?}");
    }
}
