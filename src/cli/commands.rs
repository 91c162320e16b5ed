//! The commands of an operator: `relink verify|mute|unmute|snooze|unsupersede|release|forget LINK`.
//!
//! relink stores a command and handles it like every other input. So the program waits until the command, by the id of its message,
//! appears in the history of the link, and prints what it changed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{RelinkArgs, RunningRelink};
use super::moment::span as parse_span;
use super::output::{line, print, print_json};
use super::sentences::{of_state, word_of};
use crate::clock;
use crate::contract::{At, Because, HistoryEntry, HistoryKind, Record};
use crate::link::LinkId;
use crate::printable::{counted, printable};

pub(super) const EXAMPLES: &str = "\
Examples:
  relink mute LINK --by ana --reason 'the user called us'
  relink snooze LINK --for 3days       no reminder for three days
  relink verify LINK                   read the link from Belvo now
  relink unsupersede LINK              ask the user about the old link again
  relink release LINK                  prompt the user in spite of a mute or an incident
  relink forget LINK --yes             remove the link from relink for ever
LINK is Belvo's id of the link. `relink why LINK` shows what a command has changed.";

/// How long a command may take to appear in the history.
const HANDLED_WITHIN: Duration = Duration::from_secs(10);

/// The pause between two looks at the history.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// The longest snooze: a mistyped span should not silence a link for ever without a word.
const SNOOZE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// The reason of a refusal that leaves the link as the operator wants it.
const ALREADY_KNOWN: &str = "already_known";

/// A command about one link.
#[derive(Args, Debug)]
pub(super) struct CommandArgs {
    /// Belvo's id of the link
    #[arg(value_name = "LINK")]
    link: LinkId,
    /// Why the command is given
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who gives the command
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    relink: RelinkArgs,
}

#[derive(Args, Debug)]
pub(super) struct SnoozeArgs {
    /// No reminder before this time, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "span", required_unless_present = "span")]
    until: Option<String>,
    /// No reminder for this span, such as 3days or 12h
    #[arg(long = "for", value_name = "SPAN", value_parser = parse_span)]
    span: Option<Duration>,
    #[command(flatten)]
    command: CommandArgs,
}

#[derive(Args, Debug)]
pub(super) struct ForgetArgs {
    /// Confirms that the link is removed from relink for ever
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    command: CommandArgs,
}

pub(super) async fn snooze(args: SnoozeArgs) -> anyhow::Result<ExitCode> {
    let until = match (args.until, args.span) {
        (Some(until), _) => until,
        (None, Some(Duration::ZERO)) => {
            bail!("--for must be longer than 0 s. To end a snooze, give --until with a time that has passed")
        }
        (None, Some(span)) if span > SNOOZE_MAX => {
            bail!("--for may be at most 366 days. `relink mute` stops the reminders until `relink unmute`")
        }
        (None, Some(span)) => clock::now().after(span).to_string(),
        (None, None) => bail!("--until or --for is required"),
    };
    send("snooze", Some(until), args.command).await
}

pub(super) async fn forget(args: ForgetArgs) -> anyhow::Result<ExitCode> {
    if !args.yes {
        bail!("relink removes the link for ever and ignores all later messages about it; confirm this with --yes");
    }
    send("forget", None, args.command).await
}

/// Sends a command, and waits until it is handled.
pub(super) async fn send(command: &str, until: Option<String>, args: CommandArgs) -> anyhow::Result<ExitCode> {
    let CommandArgs { link, reason, by, relink } = args;
    let relink = RunningRelink::of(relink)?;
    let link = link.as_str();
    let fields = [("command", Some(command.to_owned())), ("until", until), ("reason", reason), ("by", by)];
    let body: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
    let answer = relink.post(&format!("/v1/links/{link}/commands"), &Value::Object(body)).await?;
    let message_id = answer["message_id"].as_str().context("the answer of relink has no message_id")?;
    let handled = wait_until_handled(&relink, link, message_id).await;
    if relink.json {
        let handled = handled.as_ref().map(serde_json::to_value).transpose()?;
        print_json(&json!({"stored": answer, "handled": handled}))?;
    } else {
        print(&outcome(command, handled.as_ref()))?;
    }
    let is_refused = handled.as_ref().is_some_and(|entry| {
        entry.kind == HistoryKind::Refused && entry.body["reason"].as_str() != Some(ALREADY_KNOWN)
    });
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The state or the refusal that the command led to; `None` if it is not handled in time.
async fn wait_until_handled(relink: &RunningRelink, link: &str, message_id: &str) -> Option<HistoryEntry> {
    let search = async {
        loop {
            // A history that cannot be read now may be readable at the next look.
            if let Ok(history) = relink.history(link).await
                && let Some(entry) = history.entries.into_iter().find(|entry| is_result(entry, message_id))
            {
                return entry;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    tokio::time::timeout(HANDLED_WITHIN, search).await.ok()
}

fn is_result(entry: &HistoryEntry, message_id: &str) -> bool {
    let origin = match entry.kind {
        HistoryKind::State => &entry.body["because"]["origin"],
        HistoryKind::Refused => &entry.body["origin"],
        HistoryKind::Notice | HistoryKind::Observed | HistoryKind::Job => return false,
    };
    origin["message_id"].as_str() == Some(message_id)
}

fn outcome(command: &str, handled: Option<&HistoryEntry>) -> String {
    let mut text = String::new();
    let Some(entry) = handled else {
        let seconds = HANDLED_WITHIN.as_secs();
        line(
            &mut text,
            format_args!(
                "{command}: relink has stored the command and has not handled it within {seconds} s; see `relink why`"
            ),
        );
        return text;
    };
    if entry.kind == HistoryKind::Refused {
        let detail = printable(entry.body["detail"].as_str().unwrap_or("?"));
        line(&mut text, format_args!("{command}: nothing has changed: {detail}"));
        return text;
    }
    match serde_json::from_value::<Record>(entry.body.clone()) {
        Ok(record) => {
            let Record { state, sent, .. } = &record;
            line(&mut text, format_args!("{command}: done. The link is {}. {}", word_of(*state), of_state(*state)));
            if record.version == 1 {
                // It is no error: a link may be muted before its first webhook comes.
                let link = printable(&record.link_id);
                line(
                    &mut text,
                    format_args!(
                        "relink did not know the link {link} before: the command has created it. Check the id; `relink forget` \
                         removes a link that was created by mistake."
                    ),
                );
            }
            if !sent.is_empty() {
                let count = counted(sent.len(), "message");
                line(&mut text, format_args!("Published: {count}; see `relink why`"));
            }
        }
        Err(_newer) => {
            let at = serde_json::from_value::<Because>(entry.body["because"].clone());
            let at = at.map_or_else(|_| entry.stored_at, |because: Because| because.at);
            let At(at) = at;
            line(&mut text, format_args!("{command}: done, at {at}"));
        }
    }
    text
}
