//! The commands of an operator: `relink verify|mute|unmute|snooze|unsupersede|release|forget LINK`.
//!
//! relink stores a command and handles it like every other input. So the program waits until the command, by the id of its message,
//! appears in the history of the link, and prints what it changed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::client::{FORBIDDEN, History, NOT_FOUND, RelinkArgs, RunningRelink, status_of};
use super::links::next_of_broken;
use super::moment::span as parse_span;
use super::output::{line, print, print_json, wrong_argument};
use super::refusals::{is_about_no_link, is_so_already, of_refused, why_refused};
use super::sentences::{at, of_job, of_notice, of_observed, word_of};
use crate::clock;
use crate::contract::{At, Because, HistoryEntry, HistoryKind, JobName, Record, StateWord};
use crate::link::{EventName, LinkId, Timestamp};
use crate::printable::{counted, printable, printable_json};
use crate::wording::of_state;

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

/// The commands that make sense only for a link that relink knows: with a mistyped id they would create a link, or change nothing. `verify`
/// reads a link that relink does not know yet, and a link may be forgotten before its first message comes.
const OF_KNOWN_LINKS: [&str; 5] = ["mute", "unmute", "snooze", "unsupersede", "release"];

/// The commands about the messages to the user of a broken link: the operator wants to know what comes next.
const ABOUT_MESSAGES: [&str; 5] = ["mute", "unmute", "snooze", "unsupersede", "release"];

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
#[group(id = "end", required = true, multiple = false, args = ["until", "span"])]
pub(super) struct SnoozeArgs {
    /// No reminder before this time, such as 2026-12-01T00:00:00Z; one that has passed ends the snooze
    #[arg(long, value_name = "TIME")]
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
        (Some(until), _) => {
            let latest = clock::now().after(SNOOZE_MAX);
            if until.parse::<Timestamp>().is_ok_and(|until| until > latest) {
                wrong_argument(
                    "--until may be at most 366 days ahead. `relink mute` stops the reminders until `relink unmute`",
                )
            }
            until
        }
        (None, Some(Duration::ZERO)) => {
            wrong_argument("--for must be longer than 0 s. To end a snooze, give --until with a time that has passed")
        }
        (None, Some(span)) if span > SNOOZE_MAX => {
            wrong_argument("--for may be at most 366 days. `relink mute` stops the reminders until `relink unmute`")
        }
        (None, Some(span)) => clock::now().after(span).to_string(),
        (None, None) => wrong_argument("--until or --for is required"),
    };
    send("snooze", Some(until), args.command).await
}

pub(super) async fn forget(args: ForgetArgs) -> anyhow::Result<ExitCode> {
    if !args.yes {
        wrong_argument(
            "relink removes the link for ever and ignores all later messages about it; confirm this with --yes",
        );
    }
    send("forget", None, args.command).await
}

/// Sends a command, and waits until it is handled.
pub(super) async fn send(command: &str, until: Option<String>, args: CommandArgs) -> anyhow::Result<ExitCode> {
    let CommandArgs { link, reason, by, relink } = args;
    let relink = RunningRelink::operating(relink)?;
    let link = link.as_str();
    let fields = [("command", Some(command.to_owned())), ("until", until), ("reason", reason), ("by", by)];
    let body: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
    check_link(&relink, link, OF_KNOWN_LINKS.contains(&command)).await?;
    let answer = relink.post(&format!("/v1/links/{link}/commands"), &Value::Object(body)).await?;
    let message_id = answer["message_id"].as_str().context("the answer of relink has no message_id")?;
    let until = Instant::now() + HANDLED_WITHIN;
    let handled = wait_for(&relink, link, until, |history| Handled::find(history, message_id)).await;
    // The command only orders the read. What it is for is the answer of Belvo.
    let order = handled.as_ref().filter(|handled| handled.orders_a_read());
    let read = match order {
        Some(order) => Some(wait_for(&relink, link, until, |history| order.answer(history)).await),
        None => None,
    };
    if relink.json {
        let handled = handled.as_ref().map(|handled| serde_json::to_value(&handled.result)).transpose()?;
        let read = read.as_ref().map(serde_json::to_value).transpose()?;
        print_json(&json!({"stored": answer, "handled": handled, "read": read}))?;
    } else {
        let is_done = handled.as_ref().is_some_and(|handled| handled.result.kind == HistoryKind::State);
        // Without an answer, the output only lacks what happens next.
        let next = if is_done && ABOUT_MESSAGES.contains(&command) {
            next_of_broken(&relink, link).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let now = clock::now();
        print(&match &read {
            Some(None) if relink.are_keys_refused().await => {
                format!(
                    "{command}: Belvo refuses relink's API keys, so relink cannot read the link; `relink doctor` says more\n"
                )
            }
            Some(read) => outcome_of_read(command, read.as_ref(), now),
            None => outcome(command, handled.as_ref(), &next, now),
        })?;
    }
    // What is not handled in time may still be handled, but nobody knows with which result.
    let is_failure = handled.as_ref().is_none_or(Handled::is_failure)
        || read.is_some_and(|read| read.as_ref().is_none_or(Read::is_of_no_link));
    Ok(if is_failure { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Fails if the token may not read, because then nobody would see what the command led to, and if relink does not know a link that has to be
/// known. Another error is left to the command, whose answer explains it.
async fn check_link(relink: &RunningRelink, link: &str, must_be_known: bool) -> anyhow::Result<()> {
    match relink.get(&format!("/v1/links/{link}")).await {
        Err(error) if status_of(&error) == Some(FORBIDDEN) => bail!(
            "{error} A command of this program needs the scope `read` too: it looks the link up, and shows what the command led to. Nothing \
             has changed."
        ),
        Err(error) if must_be_known && status_of(&error) == Some(NOT_FOUND) => bail!(
            "{error} Nothing has changed. Check the id; `relink verify {link}` reads a link from Belvo that relink does not know yet"
        ),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The state or the refusal that a command led to, with the messages of the same commit.
struct Handled {
    result: HistoryEntry,
    messages: Vec<HistoryEntry>,
}

impl Handled {
    fn find(history: &History, message_id: &str) -> Option<Self> {
        let result = history.entries.iter().find(|entry| is_result(entry, message_id))?.clone();
        let sent = result.body["sent"].as_array().cloned().unwrap_or_default();
        let is_sent = |entry: &&HistoryEntry| {
            entry.message_id.as_ref().is_some_and(|id| sent.iter().any(|sent| sent.as_str() == Some(id)))
        };
        let messages = history.entries.iter().filter(|entry| entry.kind != HistoryKind::State).filter(is_sent);
        Some(Self { messages: messages.cloned().collect(), result })
    }

    /// Whether the command made relink order a read of the link from Belvo.
    fn orders_a_read(&self) -> bool {
        self.messages.iter().any(|message| {
            message.kind == HistoryKind::Job && message.name.as_deref() == Some(JobName::Verify.as_str())
        })
    }

    /// What a read after the command has found: the state of the link after it, or why it changed nothing.
    fn answer(&self, history: &History) -> Option<Read> {
        let mut later = history.entries.iter().filter(|entry| entry.sequence > self.result.sequence);
        let answer = later.find(|entry| origin_of(entry).is_some_and(|of| of["kind"] == "observation"))?;
        let mut states = history.entries.iter().filter(|entry| entry.kind == HistoryKind::State);
        let state = states.rfind(|entry| entry.sequence <= answer.sequence)?;
        Some(Read { answer: answer.clone(), state: state.clone() })
    }

    /// Whether relink refused the command, and the link is not as the operator wants it.
    fn is_failure(&self) -> bool {
        self.result.kind == HistoryKind::Refused && !is_so_already(&self.result.body)
    }
}

/// What a read of a link has found.
#[derive(Serialize)]
struct Read {
    /// The state or the refusal that the answer of Belvo led to.
    answer: HistoryEntry,
    /// The state of the link after it.
    state: HistoryEntry,
}

impl Read {
    /// Whether neither relink nor Belvo knew the link: the command is the first message about it.
    fn is_of_no_link(&self) -> bool {
        let body = &self.state.body;
        body["because"]["event"] == EventName::ObservedMissing.as_str() && body["version"].as_u64() <= Some(2)
    }
}

/// What `find` finds in the history of the link; `None` if it finds nothing in time.
async fn wait_for<T>(
    relink: &RunningRelink,
    link: &str,
    until: Instant,
    find: impl Fn(&History) -> Option<T>,
) -> Option<T> {
    let search = async {
        loop {
            // A history that cannot be read now may be readable at the next look.
            if let Ok(history) = relink.history(link).await
                && let Some(found) = find(&history)
            {
                return found;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    timeout_at(until, search).await.ok()
}

fn is_result(entry: &HistoryEntry, message_id: &str) -> bool {
    origin_of(entry).is_some_and(|origin| origin["message_id"].as_str() == Some(message_id))
}

/// What led to a state or a refusal.
fn origin_of(entry: &HistoryEntry) -> Option<&Value> {
    match entry.kind {
        HistoryKind::State => Some(&entry.body["because"]["origin"]),
        HistoryKind::Refused => Some(&entry.body["origin"]),
        HistoryKind::Notice | HistoryKind::Observed | HistoryKind::Job => None,
    }
}

/// What a read has found; `None` if it was not answered in time.
fn outcome_of_read(command: &str, read: Option<&Read>, now: Timestamp) -> String {
    let mut text = String::new();
    let Some(Read { answer, state }) = read else {
        let seconds = HANDLED_WITHIN.as_secs();
        line(
            &mut text,
            format_args!(
                "{command}: Belvo has not answered within {seconds} s. relink tries again, and `relink why` will have the answer; \
                 `relink doctor` checks Belvo"
            ),
        );
        return text;
    };
    if read.is_some_and(Read::is_of_no_link) {
        let what = "Belvo does not know this id, and relink did not know it either; check it";
        line(&mut text, format_args!("{command}: {what}. relink keeps it as a removed link."));
        return text;
    }
    if answer.kind == HistoryKind::Refused {
        line(&mut text, format_args!("{command}: {}", of_refused(&printable_json(&answer.body))));
    }
    match serde_json::from_value::<Record>(state.body.clone()) {
        Ok(record) => done(&mut text, command, &record, now),
        Err(_newer) => line(&mut text, format_args!("{command}: done, at {}", state.stored_at.0)),
    }
    text
}

/// What a command has changed, and what happens `next` with the link.
fn outcome(command: &str, handled: Option<&Handled>, next: &[String], now: Timestamp) -> String {
    let mut text = String::new();
    let Some(handled) = handled else {
        let seconds = HANDLED_WITHIN.as_secs();
        line(
            &mut text,
            format_args!(
                "{command}: relink has stored the command and has not handled it within {seconds} s; see `relink why`"
            ),
        );
        return text;
    };
    let entry = &handled.result;
    if entry.kind == HistoryKind::Refused {
        let why = printable(why_refused(&entry.body));
        if is_about_no_link(&entry.body) {
            line(&mut text, format_args!("{command}: relink does not know this link, and nothing has changed: {why}"));
        } else {
            line(&mut text, format_args!("{command}: nothing has changed: {why}"));
        }
        return text;
    }
    match serde_json::from_value::<Record>(entry.body.clone()) {
        Ok(record) => {
            done(&mut text, command, &record, now);
            published(&mut text, &record, &handled.messages);
            for step in next {
                line(&mut text, format_args!("{step}"));
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

/// What the command has changed.
fn done(text: &mut String, command: &str, record: &Record, now: Timestamp) {
    let (state, link) = (record.state, printable(&record.link_id));
    if state == StateWord::Removed {
        line(text, format_args!("{command}: done. {}", of_state(state)));
    } else {
        line(text, format_args!("{command}: done. The link is {}. {}", word_of(state), of_state(state)));
    }
    match (command, record.snoozed_until) {
        // For a broken link, what happens next says more.
        ("mute", _) if record.episode.is_none() => {
            line(text, format_args!("Its user gets no prompt and no reminder until `relink unmute {link}`."))
        }
        ("snooze", Some(At(until))) if until > now => {
            if record.episode.is_none() {
                line(text, format_args!("Its user gets no reminder before {}.", at(until, now)));
            } else {
                let rest = "The snooze ends with this outage: a later one has its prompt and reminders. `relink mute` stops all messages.";
                line(text, format_args!("{rest}"));
            }
        }
        ("snooze", Some(At(until))) => {
            line(text, format_args!("The snooze has ended: {} has passed.", at(until, now)));
        }
        _ => {}
    }
    if record.version == 1 {
        // It is no error: a link may be verified or forgotten before its first webhook comes.
        let rest = if state == StateWord::Removed {
            "It ignores all messages about it from now on.".to_owned()
        } else {
            format!(
                "The command has created it. Check the id; `relink forget {link} --yes` removes a link that was created by mistake."
            )
        };
        line(text, format_args!("relink did not know the link {link} before. {rest}"));
    }
}

/// The messages of the command.
fn published(text: &mut String, record: &Record, messages: &[HistoryEntry]) {
    for message in messages {
        let (name, body) = (printable(message.name.as_deref().unwrap_or("?")), printable_json(&message.body));
        let what = match message.kind {
            HistoryKind::Observed => of_observed(&name, &body),
            HistoryKind::Job => of_job(&name, &body),
            HistoryKind::Notice | HistoryKind::State | HistoryKind::Refused => of_notice(&name, &body),
        };
        line(text, format_args!("relink {what}."));
    }
    if messages.iter().any(|message| message.kind == HistoryKind::Observed) {
        line(text, format_args!("relink only observes: this is recorded, and nothing is sent to the user."));
    }
    let others = record.sent.len().saturating_sub(messages.len());
    if others > 0 {
        line(text, format_args!("Also: {}; see `relink why`.", counted(others, "message")));
    }
}
