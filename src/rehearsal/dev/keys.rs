//! The commands of `relink dev`: lines on standard input.
//!
//! Lines and not single keys, because a terminal that is read key by key has to be restored after a crash.

use anyhow::{Context as _, bail};
use belvo_sandbox::{AccessMode, Control, RefreshOutcome};
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::os;
use crate::printable::printable;

/// The commands, for the user.
pub(super) const HELP: &str = "Type a letter and Enter: b breaks a link (wrong password), t breaks a link (token required), \
                               r repairs a link, a lets the user of a broken link connect the bank anew, n adds a link, l lists all links, q quits. `b maria` names the link.";

/// The answer to a command.
#[derive(Debug)]
pub(super) enum Answer {
    Text(String),
    Quit,
}

/// The lines that the user types. A process in the background would be stopped by a read of its terminal, so it reads none.
pub(super) fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    if os::may_read_terminal() {
        // A read of standard input cannot be cancelled. This thread ends with the process.
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Executes one line.
///
/// # Errors
/// There is no such command or link.
pub(super) fn obey(line: &str, belvo: &Control) -> anyhow::Result<Answer> {
    let mut words = line.split_whitespace();
    let (command, name) = (words.next().unwrap_or("?"), words.next());
    let valid = |status: &str| status == "valid";
    let broken = |status: &str| matches!(status, "invalid" | "token_required");
    let text = match command {
        "b" => breaks(belvo, find(belvo, name, valid)?, RefreshOutcome::LoginError)?,
        "t" => breaks(belvo, find(belvo, name, valid)?, RefreshOutcome::TokenRequired)?,
        "r" => {
            let (link, user) = find(belvo, name, broken)?;
            belvo.repair(link)?;
            format!("{user} repairs the link {link}")
        }
        "a" => {
            let (link, user) = find(belvo, name, broken)?;
            let anew = belvo.connect_anew(link)?;
            format!("{user} connects the bank anew: the link {anew} beside {link}")
        }
        "n" => {
            let user = name.map_or_else(|| format!("user-{}", belvo.links().len() + 1), str::to_owned);
            let link = belvo.create_link("erebor_mx_retail", AccessMode::Recurrent, Some(&user))?;
            format!("{user} connects a bank: the link {link}")
        }
        "l" => belvo.links().iter().map(shown).collect::<Vec<_>>().join("\n"),
        "q" => return Ok(Answer::Quit),
        _ => HELP.to_owned(),
    };
    Ok(Answer::Text(text))
}

fn breaks(belvo: &Control, (link, user): (Uuid, String), outcome: RefreshOutcome) -> anyhow::Result<String> {
    belvo.scheduled_refresh(link, outcome)?;
    Ok(format!("the refresh of {user}'s link {link} fails"))
}

/// The named link, or the first one with a fitting status, with its user.
fn find(belvo: &Control, name: Option<&str>, fits: impl Fn(&str) -> bool) -> anyhow::Result<(Uuid, String)> {
    let links = belvo.links();
    let is_wanted = |link: &&Value| match name {
        Some(name) => link["external_id"] == name || link["id"] == name,
        None => fits(link["status"].as_str().unwrap_or_default()),
    };
    let Some(link) = links.iter().find(is_wanted) else {
        bail!("there is no such link; `l` lists all links, `n` adds one");
    };
    let id = link["id"].as_str().and_then(|id| id.parse().ok()).context("a link has an id")?;
    Ok((id, printable(link["external_id"].as_str().unwrap_or("the user"))))
}

fn shown(link: &Value) -> String {
    let text = |name: &str| printable(link[name].as_str().unwrap_or("-"));
    format!("{}  {:<10} {:<20} {}", text("id"), text("external_id"), text("institution"), text("status"))
}
