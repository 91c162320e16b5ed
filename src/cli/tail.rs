//! `relink tail`: prints what relink decides and publishes, as it happens.
//!
//! relink ends each answer after some time; the program asks again behind the last message, so none is missing.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::AnsiColor;
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Deserialize as _;
use serde_json::Value;
use strum::VariantArray as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::client::{NOT_FOUND, RelinkArgs, RunningRelink, is_for_ever, is_of_request, status_of};
use super::output::{BOLD, DIM, colour_of, line, note_retry, reaches_reader};
use super::refusals::of_refused;
use super::sentences::{of_job, of_notice, of_observed, of_transition, word_of};
use crate::contract::{Because, EventKind, IncidentCause, StreamEvent};
use crate::link::LinkId;
use crate::printable::{exact_json_line, printable, printable_json};

pub(super) const EXAMPLES: &str = "\
Examples:
  relink tail                                          all that happens, from now on
  relink tail --kind notice                            only notices
  relink tail --type update_required,reminder          only these notices
  relink tail --institution erebor_mx_retail
  relink tail --kind observed                          what relink would have sent, in observe mode
  relink tail --link LINK --after 0 --no-follow        what the stream still has about one link
Each line of --json is one message.";

/// Nobody reads standard output any more, as after `| head`.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct NoReader;

/// How long to wait before the next attempt if relink does not answer, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

#[derive(Args, Debug)]
pub(super) struct TailArgs {
    /// Only messages about this link
    #[arg(long, value_name = "LINK")]
    link: Option<String>,
    /// Only messages about this institution, by Belvo's name
    #[arg(long, value_name = "NAME")]
    institution: Option<String>,
    /// Only these kinds of message, with commas between them
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = PossibleValuesParser::new(EventKind::VARIANTS.iter().map(<&str>::from)))]
    kind: Vec<String>,
    /// Only these types of notice or job
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<String>,
    /// Begin behind this sequence of KV_links; 0: with the oldest message that the stream still has
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// End when all that is there is printed
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    relink: RelinkArgs,
}

pub(super) async fn run(args: TailArgs, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let follow = async {
        let mut tail = EventReader { last: args.after, is_connected: false };
        let json = args.relink.is_json();
        let mut show = |event: Value| {
            let text = if json { exact_json_line(&event) + "\n" } else { shown(&event) };
            if reaches_reader(&text)? { Ok(()) } else { Err(NoReader.into()) }
        };
        let wanted_link = args.link.clone();
        let query = [
            ("link", args.link),
            ("institution", args.institution),
            ("kind", (!args.kind.is_empty()).then(|| args.kind.join(","))),
            ("type", args.types),
            ("wait", args.no_follow.then(|| "0".to_owned())),
        ];
        let query: Vec<(&str, String)> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let relink = RunningRelink::of(args.relink)?;
        if let Some(link) = &wanted_link {
            note_unknown(&relink, link).await;
        }
        let mut pause = RETRY.0;
        loop {
            match tail.read(&relink, &query, &mut show).await {
                Ok(()) if args.no_follow => return Ok(ExitCode::SUCCESS),
                Ok(()) => pause = RETRY.0,
                Err(error) if error.is::<NoReader>() => return Ok(ExitCode::SUCCESS),
                // relink never answered, refuses the request, or the disk behind standard output is full: to wait does not help.
                Err(error) if !tail.is_connected || !is_of_request(&error) || is_for_ever(&error) => {
                    return Err(error);
                }
                Err(error) => {
                    note_retry(&error);
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    };
    tokio::select! {
        ended = follow => ended,
        () = shutdown.cancelled() => Ok(ExitCode::SUCCESS),
    }
}

/// Says that relink has no such link: a mistyped id shows nothing for ever. Its first message may still come.
async fn note_unknown(relink: &RunningRelink, link: &str) {
    // relink refuses an id that is none.
    let Ok(link) = link.parse::<LinkId>() else { return };
    let answer = relink.get(&format!("/v1/links/{link}")).await;
    if answer.is_err_and(|error| status_of(&error) == Some(NOT_FOUND)) {
        let note = format!(
            "relink does not know the link {} yet; check the id, or wait for its first message",
            printable(link.as_str())
        );
        let _closed_terminal = writeln!(anstream::stderr(), "relink tail: {note}");
    }
}

/// Reads `GET /v1/events`, one answer after the other.
pub(super) struct EventReader {
    /// The id of the last event.
    pub(super) last: Option<u64>,
    /// Whether relink has answered once.
    pub(super) is_connected: bool,
}

impl EventReader {
    /// Gives all events that the stream has now to `show`. The query must have `wait=0`.
    pub(super) async fn read_all(
        relink: &RunningRelink,
        query: &[(&str, String)],
        show: &mut impl FnMut(Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut reader = Self { last: Some(0), is_connected: false };
        // An answer ends after some time, with or without the last message.
        let mut reached = None;
        while reached != reader.last {
            reached = reader.last;
            reader.read(relink, query, show).await?;
        }
        Ok(())
    }

    /// Gives the events of one answer to `show`.
    pub(super) async fn read(
        &mut self,
        relink: &RunningRelink,
        query: &[(&str, String)],
        show: &mut impl FnMut(Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut response = relink.events(query, self.last).await?;
        self.is_connected = true;
        let (mut buffer, mut data) = (Vec::new(), String::new());
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                let text = String::from_utf8_lossy(&buffer[..end]).trim_end_matches('\r').to_owned();
                buffer.drain(..=end);
                self.take(&text, &mut data, show)?;
            }
        }
        Ok(())
    }

    /// Takes one line of the form of server-sent events. relink writes each message on one line.
    fn take(
        &mut self,
        text: &str,
        data: &mut String,
        show: &mut impl FnMut(Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let value = |prefix: &str| text.strip_prefix(prefix).map(|value| value.strip_prefix(' ').unwrap_or(value));
        if let Some(id) = value("id:") {
            self.last = id.parse().ok().or(self.last);
        } else if let Some(more) = value("data:") {
            data.push_str(more);
        } else if text.is_empty() && !data.is_empty() {
            let read = std::mem::take(data);
            // A message of a newer relink may have a kind that this one does not know.
            if let Ok(event) = serde_json::from_str(&read) {
                show(event)?;
            }
        }
        Ok(())
    }
}

/// One message as one line.
fn shown(event: &Value) -> String {
    let mut text = String::new();
    // Every text of a message comes from outside.
    let Ok(event) = serde_json::from_value::<StreamEvent>(printable_json(event)) else {
        line(&mut text, format_args!("{DIM}a message that this version of relink cannot read{DIM:#}"));
        return text;
    };
    let link = event.link_id.as_deref().unwrap_or("-");
    let at = event.stored_at.0;
    let name = event.name.as_deref().unwrap_or("?");
    let of = event.institution.as_deref().map(|name| format!("  {DIM}{name}{DIM:#}")).unwrap_or_default();
    let published = |text: &mut String, colour: AnsiColor, what: String| {
        let style = colour.on_default();
        line(text, format_args!("{at}  {link}  {style}{name}{style:#}  relink {what}{of}"));
    };
    match event.kind {
        EventKind::State => match serde_json::from_value::<Because>(event.body["because"].clone()) {
            Ok(because) => {
                let (from, to) = (word_of(because.from), word_of(because.to));
                let colour = colour_of(to);
                let what = if from == to { "stays ".to_owned() } else { format!("{from} → ") };
                let why = of_transition(&because);
                line(&mut text, format_args!("{at}  {link}  {what}{colour}{to}{colour:#}  {why}{of}"));
            }
            Err(_) => line(&mut text, format_args!("{at}  {link}  a state that this version of relink cannot read")),
        },
        EventKind::Notice => published(&mut text, AnsiColor::Yellow, of_notice(name, &event.body)),
        EventKind::Observed => published(&mut text, AnsiColor::Yellow, of_observed(name, &event.body)),
        EventKind::Job => published(&mut text, AnsiColor::Cyan, of_job(name, &event.body)),
        EventKind::Refused => {
            let why = of_refused(&event.body);
            line(&mut text, format_args!("{at}  {link}  {DIM}nothing changed{DIM:#}  {why}"));
        }
        EventKind::Incident => {
            let institution = event.institution.as_deref().unwrap_or("?");
            let what = of_incident(name, &event.body["cause"]);
            line(&mut text, format_args!("{at}  {BOLD}institution {institution} {what}{BOLD:#}"));
        }
    }
    text
}

/// What has happened to an institution, by the type and the cause of the message about it.
fn of_incident(name: &str, cause: &Value) -> String {
    let what = match name {
        "began" => "is down",
        "ended" => "is not down any more",
        "degraded" => "has trouble",
        "recovered" => "has no trouble any more",
        other => return other.to_owned(),
    };
    let evidence = match IncidentCause::deserialize(cause).ok() {
        Some(IncidentCause::FailingLinks) => "many of its links failed together",
        Some(IncidentCause::OutageErrors) => "errors of Belvo's API",
        Some(IncidentCause::StatusPage) => "Belvo's status page",
        None => return what.to_owned(),
    };
    format!("{what} (evidence: {evidence})")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::output::tests::{HOSTILE, is_safe};
    use super::*;

    #[test]
    fn a_text_from_outside_forges_no_line() {
        for kind in ["state", "notice", "observed", "job", "refused", "incident", HOSTILE] {
            let event = json!({
                "sequence": 1, "stored_at": "2026-11-22T10:15:00Z", "kind": kind, "type": HOSTILE, "link_id": HOSTILE,
                "institution": HOSTILE, "body": {"detail": HOSTILE, "event": HOSTILE, "action": HOSTILE},
            });
            let text = shown(&event);
            assert!(is_safe(&text) && text.lines().count() == 1, "{kind}: {text:?}");
        }
    }

    #[test]
    fn events_are_read_line_by_line_and_an_id_alone_moves_the_place() {
        let mut tail = EventReader { last: None, is_connected: true };
        let (mut data, mut shown) = (String::new(), Vec::new());
        let mut show = |event| {
            shown.push(event);
            Ok(())
        };
        for line in [": keep-alive", "id: 7", "data: {\"kind\":", "data:\"x\"}", "", "id:12", ""] {
            tail.take(line, &mut data, &mut show).expect("it is shown");
        }
        assert_eq!((tail.last, data.as_str(), shown), (Some(12), "", vec![json!({"kind": "x"})]));
    }
}
