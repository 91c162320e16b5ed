//! `relink why`: the history of a link, by the id of the link or of a message about it. `history` formats it.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::client::{NOT_FOUND, RelinkArgs, RunningRelink, is_unavailable, status_of};
use super::history::{self, Known};
use super::output::{print, print_json};
use crate::clock;
use crate::contract::HistoryKind;
use crate::link::LinkId;

pub(super) const EXAMPLES: &str = "\
Examples:
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28.7.1     the history, with this message marked
  relink why 16f68516-bcbc-4cf7-b815-c500d4204e28 --input 0190b7a1-52f0-7c3e-a1b2-3c4d5e6f7a8b
                                                          the history, and what this webhook or report led to

The token is --token, RELINK_API_TOKEN, or one of the settings of the service. The address is --url, RELINK_URL, or http://<RELINK_LISTEN>.";

/// What to do with an id that is none of a link.
const NOT_A_LINK: &str =
    "If this is the id of an input, from the evidence of a change, give the id of the link, and this id with --input.";

#[derive(Args, Debug)]
pub(super) struct WhyArgs {
    /// A link id, or the id of a message about the link
    #[arg(value_name = "LINK_OR_MESSAGE_ID", value_parser = checked)]
    subject: String,
    /// Also mark what this input led to: the id of a webhook or a report, as the evidence of a change has it
    #[arg(long, value_name = "ID")]
    input: Option<String>,
    #[command(flatten)]
    relink: RelinkArgs,
}

pub(super) async fn run(WhyArgs { subject, input, relink }: WhyArgs) -> anyhow::Result<ExitCode> {
    let relink = RunningRelink::of(relink)?;
    if relink.json {
        let (link, _) = parts(&subject)?;
        return print_json(&relink.get(&format!("/v1/links/{link}/history")).await?);
    }
    print(&explain(&relink, &subject, input.as_deref()).await?)
}

/// The history of a link in sentences, with the message marked if `subject` is the id of one, or with what the input led to.
pub(super) async fn explain(relink: &RunningRelink, subject: &str, input: Option<&str>) -> anyhow::Result<String> {
    let (link, behind) = parts(subject)?;
    let link = link.as_str();
    // Without an answer, the next lines have the error.
    let situation = relink.situation().await.unwrap_or_default();
    let around = |link: &Value| situation.around(link["institution"].as_str());
    let history = match relink.history(link).await {
        Ok(history) => history,
        // The history is on NATS, and the last state is in the store too.
        Err(error) if is_unavailable(&error) => {
            let last = relink.last_state(link).await.map_err(|_| error)?;
            let around = last.history.entries.first().map(|entry| around(&entry.body)).unwrap_or_default();
            return history::show_last_state(last, around, clock::now());
        }
        Err(error) if status_of(&error) == Some(NOT_FOUND) => {
            let hint = link_of_outage(link).map_or_else(
                || NOT_A_LINK.to_owned(),
                |link| format!("If this is the id of an outage, give the id of the link: {link}"),
            );
            return Err(anyhow::anyhow!("{error:#} {hint}"));
        }
        Err(error) => return Err(error),
    };
    // A UUID has several spellings; message ids contain the one that relink uses.
    let message = behind.map(|behind| format!("{}.{behind}", history.link_id)).or_else(|| input.map(str::to_owned));
    // Without it, the output only lacks a time, a mention, and the state of a newer link.
    let beside = relink.last_state(link).await.map(|last| last.beside).unwrap_or_default();
    let newest = history.entries.iter().rfind(|entry| entry.kind == HistoryKind::State);
    let around = newest.map(|entry| around(&entry.body)).unwrap_or_default();
    let known = Known { beside, around, has_no_history: false };
    history::show(&history, message.as_deref(), &known, clock::now())
}

/// The link of an outage, whose id is that of the link with `-e` and a number behind it.
fn link_of_outage(id: &str) -> Option<&str> {
    let (link, number) = id.rsplit_once("-e")?;
    number.parse::<u32>().is_ok().then_some(link)
}

/// The subject, if it has the form of one.
fn checked(subject: &str) -> anyhow::Result<String> {
    parts(subject).map(|_| subject.to_owned())
}

/// The link, and what follows it in the id of a message. A message id is `<link>.<version>.<n>`, and no link id has a dot.
fn parts(subject: &str) -> anyhow::Result<(LinkId, Option<&str>)> {
    let (link, behind) = match subject.trim().split_once('.') {
        Some((link, behind)) => (link, Some(behind)),
        None => (subject.trim(), None),
    };
    Ok((link.parse()?, behind))
}
