//! Replays or drops one dead letter, or many.
//!
//! What is to be done is shown first, and asked about: on a terminal by a question, elsewhere `--yes` is required. One dead letter that cannot
//! be replayed does not stop the others.

use std::io::{BufRead, IsTerminal as _, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::Filter;
use crate::cli::client::{RunningRelink, status_of};
use crate::cli::output::{print, print_json, terminal_width, wrong_argument};
use crate::cli::progress::Progress;
use crate::printable::{counted, printable};

/// The statuses of problems that concern one dead letter: it is gone, cannot be replayed, or its HTTP target refuses it.
const OF_ONE: [u16; 3] = [404, 409, 502];

#[derive(Args, Debug)]
pub(super) struct BulkArgs {
    /// Sequences of the dead letters
    #[arg(value_name = "SEQUENCE", conflicts_with_all = ["all", "reason", "before"])]
    sequences: Vec<u64>,
    /// All dead letters
    #[arg(long, conflicts_with_all = ["reason", "before"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Only list them
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What is done with dead letters.
pub(super) enum Action {
    Replay,
    Drop { why: Option<String>, by: Option<String> },
}

impl Action {
    const fn verb(&self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Drop { .. } => "drop",
        }
    }

    const fn done(&self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop { .. } => "dropped",
        }
    }

    async fn perform(&self, relink: &RunningRelink, sequence: u64) -> anyhow::Result<Value> {
        match self {
            Self::Replay => relink.replay(sequence).await,
            Self::Drop { why, by } => {
                let body = json!({"by": by, "reason": why});
                relink.post(&format!("/v1/dead-letters/{sequence}/drop"), &body).await
            }
        }
    }
}

pub(super) async fn run(relink: &RunningRelink, args: BulkArgs, action: Action) -> anyhow::Result<ExitCode> {
    if args.sequences.is_empty() && !args.all && args.filter.is_empty() {
        let verb = action.verb();
        wrong_argument(format_args!(
            "say which dead letters to {verb}: their SEQUENCE, or --reason, --before or --all"
        ));
    }
    let is_one = args.sequences.len() == 1;
    let letters = select(relink, &args).await?;
    let sequences: Vec<u64> = letters.iter().filter_map(|letter| letter["sequence"].as_u64()).collect();
    if args.dry_run {
        if relink.json {
            return print_json(&json!({"dry_run": true, "dead_letters": letters}));
        }
        print(&super::list(&letters, terminal_width()))?;
        let count = counted(letters.len(), "dead letter");
        return print(&format!("{}: {count}; nothing was done (--dry-run)\n", action.verb()));
    }
    if sequences.is_empty() {
        return if relink.json { print_json(&outcome(&[], &[])) } else { print("no dead letter matches\n") };
    }
    // A single replay loses nothing, and its sequence was typed.
    let is_safe = is_one && matches!(action, Action::Replay);
    if !args.yes && !is_safe && !is_confirmed(&letters, &action)? {
        print("nothing was done\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let (mut done, mut failed, mut progress) = (Vec::new(), Vec::new(), Progress::new());
    for (count, sequence) in sequences.iter().enumerate() {
        progress.show(|| format!("relink dead-letters: {count} of {} {}", sequences.len(), action.done()));
        match action.perform(relink, *sequence).await {
            Ok(answer) => done.push(answer),
            Err(error) if !is_one && status_of(&error).is_some_and(|status| OF_ONE.contains(&status)) => {
                let status = status_of(&error);
                failed.push(json!({"dead_letter": sequence, "status": status, "detail": format!("{error:#}")}));
            }
            Err(error) if is_one => return Err(error),
            Err(error) => {
                let (count, all) = (done.len(), sequences.len());
                let all = counted(all, "dead letter");
                return Err(error.context(format!("{}: {count} of {all}", action.done())));
            }
        }
    }
    drop(progress);
    if relink.json {
        // One dead letter has the answer of the HTTP API.
        print_json(&if is_one { done.remove(0) } else { outcome(&done, &failed) })?;
    } else if is_one {
        print(&sentence(&action, &done[0]))?;
    } else {
        for failure in &failed {
            let detail = printable(failure["detail"].as_str().unwrap_or("?"));
            let _closed_terminal = writeln!(anstream::stderr(), "dead letter {}: {detail}", failure["dead_letter"]);
        }
        let rest = match action {
            Action::Replay => {
                "; what relink still cannot handle becomes a dead letter again: `relink dead-letters list`"
            }
            Action::Drop { .. } => "",
        };
        let all = counted(sequences.len(), "dead letter");
        print(&format!("{}: {} of {all}{rest}\n", action.done(), done.len()))?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The dead letters that are meant, as the list has them; those with a typed sequence may not exist.
async fn select(relink: &RunningRelink, args: &BulkArgs) -> anyhow::Result<Vec<Value>> {
    if args.sequences.is_empty() {
        return args.filter.of(relink.dead_letters().await?);
    }
    let mut letters = Vec::new();
    for sequence in &args.sequences {
        letters.push(relink.get(&format!("/v1/dead-letters/{sequence}")).await?);
    }
    Ok(letters)
}

/// Asks on the terminal.
fn is_confirmed(letters: &[Value], action: &Action) -> anyhow::Result<bool> {
    let (verb, count) = (action.verb(), counted(letters.len(), "dead letter"));
    let what = match action {
        Action::Replay => format!("relink publishes the messages of {count} again"),
        Action::Drop { .. } => format!("relink removes {count} for ever"),
    };
    if !std::io::stdin().is_terminal() {
        wrong_argument(format_args!("{what}; confirm this with --yes, or look first with --dry-run"));
    }
    let question =
        format!("{}{}{what}. {verb}? [y/N] ", super::list(letters, terminal_width()), super::counts(letters));
    ask(&question, &mut std::io::stdin().lock(), &mut anstream::stderr())
}

/// Whether the answer to the question is yes. Everything else, the end of the input too, is no.
fn ask(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<bool> {
    output.write_all(question.as_bytes())?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn outcome(done: &[Value], failed: &[Value]) -> Value {
    json!({"done": done, "failed": failed})
}

/// What became of one dead letter.
fn sentence(action: &Action, answer: &Value) -> String {
    let sequence = &answer["dead_letter"];
    match (action, answer["target"].as_str(), answer["sequence"].as_u64()) {
        (Action::Drop { .. }, ..) => {
            let (reason, subject) =
                (answer["reason"].as_str().unwrap_or("?"), answer["subject"].as_str().unwrap_or("?"));
            format!("dead letter {sequence} ({}, {}) was dropped\n", printable(reason), printable(subject))
        }
        (Action::Replay, Some(target), _) => format!(
            "dead letter {sequence} was sent again to the HTTP target for {}, which has accepted it\n",
            printable(target)
        ),
        (Action::Replay, None, Some(input)) => format!("dead letter {sequence} was published again as input {input}\n"),
        (Action::Replay, None, None) => format!("dead letter {sequence} was published again\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_confirms() {
        for (typed, confirms) in [
            ("y\n", true),
            (" Y \n", true),
            ("yes\n", true),
            ("n\n", false),
            ("\n", false),
            ("", false),
            ("yep\n", false),
            ("n\ny\n", false),
        ] {
            let mut asked = Vec::new();
            assert_eq!(ask("drop? [y/N] ", &mut typed.as_bytes(), &mut asked).unwrap(), confirms, "{typed:?}");
            assert_eq!(asked, b"drop? [y/N] ");
        }
        // A terminal that sends no text is no yes.
        assert!(ask("drop?", &mut &b"\xff\n"[..], &mut Vec::new()).is_err());
    }
}
