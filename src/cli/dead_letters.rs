//! `relink dead-letters`: lists, shows, replays and drops the messages that relink could not handle.
//!
//! `bulk` acts on several of them. The service has one operation for each dead letter, so what was done is known also if the program is
//! stopped in between.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use strum::VariantArray as _;

use self::bulk::{Action, BulkArgs};
use super::client::{RelinkArgs, RunningRelink};
use super::moment::Moment;
use super::output::{DIM, line, print, print_json, terminal_width};
use super::tables::{Column, table_of};
use crate::contract::{At, DeadReason};
use crate::link::Timestamp;
use crate::printable::{counted, escaped, printable, printable_json, printable_lines};

mod bulk;

pub(super) const EXAMPLES: &str = "\
Examples:
  relink dead-letters list             all dead letters, with the reason of each
  relink dead-letters list --reason unknown_code --before 7days
  relink dead-letters show 7           one dead letter with its payload
  relink dead-letters show 7 --json    the same with the exact bytes
  relink dead-letters replay 7         publish its message again, after the cause has been removed
  relink dead-letters replay --reason unknown_code --dry-run
                                       what would be replayed, for example after an upgrade of relink
  relink dead-letters drop --reason no_link --before 30days --by ana --why 'a test of the gateway'
                                       remove them for ever; relink asks first, unless --yes is given";

#[derive(Args, Debug)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
    #[command(flatten)]
    relink: RelinkArgs,
}

#[derive(Subcommand, Debug)]
enum DeadLettersCommand {
    /// List dead letters, the oldest first
    List {
        #[command(flatten)]
        filter: Filter,
    },
    /// Show one dead letter with its payload
    Show {
        /// Sequence of the dead letter
        sequence: u64,
    },
    /// Publish the original messages of dead letters again, as new inputs, or send them over HTTP again; the dead letters stay
    Replay(BulkArgs),
    /// Remove dead letters for ever; relink's log names each of them
    Drop {
        #[command(flatten)]
        bulk: BulkArgs,
        /// Why the messages are not needed, for the log
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
        /// Who drops them, for the log
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

/// The dead letters that are meant. Without a filter, all of them.
#[derive(Args, Debug, Default)]
struct Filter {
    /// Only dead letters with this reason, such as unknown_code
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only dead letters that were stored before this time: a time, a date, or how long ago
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    before: Option<Moment>,
}

impl Filter {
    const fn is_empty(&self) -> bool {
        self.reason.is_none() && self.before.is_none()
    }

    /// The dead letters that match, in their order.
    ///
    /// # Errors
    /// No dead letter can have the reason.
    fn of(&self, letters: Vec<Value>) -> anyhow::Result<Vec<Value>> {
        let before: Option<Timestamp> = self.before.map(Moment::time);
        let is_wanted = |letter: &Value| {
            // A time that cannot be read is not known to be before anything.
            let at = serde_json::from_value::<At>(letter["at"].clone()).ok().map(|At(at)| at);
            self.reason.as_ref().is_none_or(|reason| letter["reason"].as_str() == Some(reason))
                && before.is_none_or(|before| at.is_some_and(|at| at < before))
        };
        // A newer relink may have a reason that this program does not know.
        let has_reason = |reason: &str| letters.iter().any(|letter| letter["reason"].as_str() == Some(reason));
        if let Some(reason) = self.reason.as_ref().filter(|reason| !has_reason(reason)) {
            let known: Vec<&str> = DeadReason::VARIANTS.iter().map(|known| known.as_str()).collect();
            if !known.contains(&reason.as_str()) {
                bail!("no dead letter has the reason `{}`; the reasons are {}", printable(reason), known.join(", "));
            }
        }
        Ok(letters.into_iter().filter(is_wanted).collect())
    }
}

pub(super) async fn run(args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    let relink = match args.command {
        DeadLettersCommand::List { .. } | DeadLettersCommand::Show { .. } => RunningRelink::of(args.relink)?,
        DeadLettersCommand::Replay(_) | DeadLettersCommand::Drop { .. } => RunningRelink::operating(args.relink)?,
    };
    match args.command {
        DeadLettersCommand::List { filter } => {
            let letters = filter.of(relink.dead_letters().await?)?;
            if relink.json {
                print_json(&json!({"dead_letters": letters}))
            } else if letters.is_empty() && !filter.is_empty() {
                print("no dead letter matches\n")
            } else {
                print(&list_text(&letters, terminal_width()))
            }
        }
        DeadLettersCommand::Show { sequence } => {
            let letter = relink.get(&format!("/v1/dead-letters/{sequence}")).await?;
            if relink.json { print_json(&letter) } else { print(&show(&letter)) }
        }
        DeadLettersCommand::Replay(bulk) => bulk::run(&relink, bulk, Action::Replay).await,
        DeadLettersCommand::Drop { bulk, why, by } => bulk::run(&relink, bulk, Action::Drop { why, by }).await,
    }
}

/// The list of dead letters, and their number. `width` is that of the terminal.
pub(super) fn list_text(letters: &[Value], width: Option<u16>) -> String {
    list(letters, width) + &counts(letters)
}

/// The columns of the list.
const COLUMNS: [Column; 5] = [
    Column::always("NUMBER").right(),
    Column::optional("AT", 2).whole(),
    Column::always("REASON").whole(),
    Column::optional("SUBJECT", 1).whole(),
    Column::optional("DETAIL", 3),
];

/// The dead letters as a table.
fn list(letters: &[Value], width: Option<u16>) -> String {
    if letters.is_empty() {
        return String::new();
    }
    let row = |letter: &Value| {
        let field = |name: &str| printable(letter[name].as_str().unwrap_or("?"));
        let sequence = letter["sequence"].as_u64().map_or_else(|| "?".to_owned(), |sequence| sequence.to_string());
        [sequence, field("at"), field("reason"), field("subject"), field("detail")]
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    table_of(&COLUMNS, &rows, width)
}

/// How many dead letters there are, by reason, the most frequent first.
fn counts(letters: &[Value]) -> String {
    if letters.is_empty() {
        return "there are no dead letters\n".to_owned();
    }
    let mut by_reason = BTreeMap::<String, usize>::new();
    for letter in letters {
        *by_reason.entry(printable(letter["reason"].as_str().unwrap_or("?"))).or_default() += 1;
    }
    let mut by_reason: Vec<_> = by_reason.into_iter().collect();
    by_reason.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let reasons: Vec<_> = by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!("{DIM}{}: {}{DIM:#}\n", counted(letters.len(), "dead letter"), reasons.join(", "))
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
        let letters = [letter.clone(), odd.clone(), json!(null)];
        for text in [list(&letters, None), counts(&letters), show(&odd)] {
            assert!(is_safe(&text), "{text:?}");
        }
        // The line breaks of a payload are kept.
        let text = show(&letter);
        assert!(text.contains("\n      2026-01-01T00"), "the lines of a payload are indented: {text:?}");
        let body = text.replace(&DIM.render().to_string(), "").replace(&DIM.render_reset().to_string(), "");
        assert!(body.contains("\\u{1b}[2J") && !body.contains(DANGEROUS), "{text:?}");
    }
    #[test]
    fn a_list_is_counted_by_reason_and_filtered() {
        let letter = |sequence: u64, reason: &str, day: u32| {
            json!({"sequence": sequence, "at": format!("2026-11-{day}T10:00:00.000Z"), "reason": reason, "subject": "belvo.webhook.a",
                "detail": "why"})
        };
        let letters = vec![letter(1, "no_link", 20), letter(2, "unknown_code", 21), letter(3, "unknown_code", 22)];
        insta::assert_snapshot!(anstream::adapter::strip_str(&list_text(&letters, None)).to_string());
        let narrow = list_text(&letters, Some(60));
        assert!(
            anstream::adapter::strip_str(&narrow).to_string().lines().all(|line| line.chars().count() <= 60),
            "{narrow}"
        );
        let sequences = |reason: Option<&str>, before: Option<&str>| {
            let before = before.map(|before| Moment::parse(before).unwrap());
            let filter = Filter { reason: reason.map(str::to_owned), before };
            let found = filter.of(letters.clone()).unwrap();
            found.iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(sequences(None, None), [1, 2, 3]);
        assert_eq!(sequences(Some("unknown_code"), None), [2, 3]);
        assert_eq!(sequences(Some("unknown_code"), Some("2026-11-22")), [2]);
        assert_eq!(sequences(None, Some("2026-11-20T10:00:00Z")), [0; 0]);
        assert_eq!(sequences(Some("malformed"), None), [0; 0], "the reason exists, and no dead letter has it");
        let nope = Filter { reason: Some("nope".to_owned()), before: None };
        let problem = nope.of(letters.clone()).unwrap_err().to_string();
        assert!(
            problem.starts_with("no dead letter has the reason `nope`; the reasons are malformed, no_link"),
            "{problem}"
        );
    }
}
