//! `relink dead-letters`: lists, shows and replays the messages that relink could not handle.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{RelinkArgs, RunningRelink};
use super::output::{BOLD, DIM, line, print, print_json};
use crate::printable::{escaped, printable, printable_json, printable_lines};

pub(super) const EXAMPLES: &str = "\
Examples:
  relink dead-letters list             all dead letters, with the reason of each
  relink dead-letters show 7           one dead letter with its payload
  relink dead-letters show 7 --json    the same with the exact bytes
  relink dead-letters replay 7         publish its message again, after the cause has been removed";

#[derive(Args, Debug)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
    #[command(flatten)]
    relink: RelinkArgs,
}

#[derive(Subcommand, Debug)]
enum DeadLettersCommand {
    /// List all dead letters, the oldest first
    List,
    /// Show one dead letter with its payload
    Show {
        /// Sequence of the dead letter
        sequence: u64,
    },
    /// Publish the original message of a dead letter again, as a new input, or send it over HTTP again
    Replay {
        /// Sequence of the dead letter
        sequence: u64,
    },
}

pub(super) async fn run(args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    let relink = RunningRelink::of(args.relink)?;
    match args.command {
        DeadLettersCommand::List => {
            let letters = relink.dead_letters().await?;
            if relink.json { print_json(&json!({"dead_letters": letters})) } else { print(&list(&letters)) }
        }
        DeadLettersCommand::Show { sequence } => {
            let letter = relink.get(&format!("/v1/dead-letters/{sequence}")).await?;
            if relink.json { print_json(&letter) } else { print(&show(&letter)) }
        }
        DeadLettersCommand::Replay { sequence } => {
            let answer = relink.replay(sequence).await?;
            if relink.json {
                return print_json(&answer);
            }
            if let Some(target) = answer["target"].as_str() {
                let target = printable(target);
                return print(&format!(
                    "dead letter {sequence} was sent again to the HTTP target for {target}, which has accepted it\n"
                ));
            }
            let input = answer["sequence"].as_u64().context("the answer of relink has no sequence")?;
            print(&format!("dead letter {sequence} was published again as input {input}\n"))
        }
    }
}

/// The list of dead letters, one line each.
pub(super) fn list(letters: &[Value]) -> String {
    if letters.is_empty() {
        return "there are no dead letters\n".to_owned();
    }
    let mut text = String::new();
    for letter in letters {
        let field = |name: &str| printable(letter[name].as_str().unwrap_or("?"));
        let (at, reason, subject, detail) = (field("at"), field("reason"), field("subject"), field("detail"));
        let sequence = letter["sequence"].as_u64().map_or_else(|| "?".to_owned(), |sequence| sequence.to_string());
        line(
            &mut text,
            format_args!("{BOLD}{sequence:>6}{BOLD:#}  {at}  {reason:<15} {subject}  {DIM}{detail}{DIM:#}"),
        );
    }
    text
}

/// One dead letter with its payload.
pub(super) fn show(letter: &Value) -> String {
    let mut text = String::new();
    let Value::Object(fields) = letter else { return text };
    for (name, value) in fields.iter().filter(|(name, value)| !name.starts_with("payload") && !value.is_null()) {
        let value = value.as_str().map_or_else(|| printable_json(value).to_string(), printable);
        line(&mut text, format_args!("{DIM}{:<15}{DIM:#} {value}", printable(name)));
    }
    if let Some(payload) = letter["payload"].as_str() {
        // Unchanged, except characters that a terminal interprets. The HTTP API returns the exact bytes.
        // The indent keeps a line of the payload from looking like a field.
        let shown = escaped(payload, &['\n', '\t'], &|_| char::REPLACEMENT_CHARACTER.to_string());
        text.push('\n');
        for shown in shown.lines() {
            line(&mut text, format_args!("    {shown}"));
        }
    } else if let Some(payload) = letter["payload_base64"].as_str() {
        line(&mut text, format_args!("\n{DIM}not text, shown in base64:{DIM:#}\n{}", printable_lines(payload)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::output::tests::{DANGEROUS, HOSTILE, is_safe};
    use super::*;

    #[test]
    fn a_dead_letter_contains_no_forged_output() {
        let letter = json!({"sequence": 7, "at": HOSTILE, "reason": HOSTILE, "subject": HOSTILE, "detail": HOSTILE,
            "headers": {HOSTILE: HOSTILE}, HOSTILE: HOSTILE, "payload": HOSTILE});
        let odd = json!({"sequence": HOSTILE, "payload_base64": "eA=="});
        for text in [list(&[letter.clone(), odd.clone(), json!(null)]), show(&odd)] {
            assert!(is_safe(&text), "{text:?}");
        }
        // The line breaks of a payload are kept.
        let text = show(&letter);
        assert!(text.contains("\n      2026-01-01T00"), "the lines of a payload are indented: {text:?}");
        let body = text.replace(&DIM.render().to_string(), "").replace(&DIM.render_reset().to_string(), "");
        assert!(body.contains("\\u{1b}[2J") && !body.contains(DANGEROUS), "{text:?}");
    }
}
