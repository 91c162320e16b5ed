//! `relink institutions`: the state of each institution, its evidence, its incident, and its links by state.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{RelinkArgs, RunningRelink};
use super::output::{DIM, json_text, line, terminal_width};
use super::sentences::span;
use super::tables::{Column, table_of};
use super::watching::{Output, print_each};
use crate::clock;
use crate::contract::{At, INSTITUTIONS_ON_PAGE};
use crate::link::Timestamp;
use crate::printable::{counted, printable_json};

pub(super) const EXAMPLES: &str = "\
Examples:
  relink institutions                  every institution with its links
  relink institutions --state down     those that are down
  relink institutions --not-operational --watch
                                       those with trouble, again every two seconds
An institution is down if many of its links fail together, if Belvo's API answers the calls about several of its links that it is down, or if \
Belvo's status page says so. Prompts of its links are deferred meanwhile: this is its incident.";

const COLUMNS: [Column; 7] = [
    Column::always("INSTITUTION"),
    Column::always("STATE").whole(),
    Column::optional("FOR", 2).whole(),
    Column::optional("CAUSE", 1),
    Column::optional("INCIDENT", 3),
    Column::always("LINKS").right(),
    Column::optional("BY STATE", 4),
];

#[derive(Args, Debug)]
pub(super) struct InstitutionsArgs {
    /// Only this institution; the whole name
    #[arg(long, value_name = "NAME")]
    institution: Option<String>,
    /// Only institutions in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<StateArg>,
    /// Only institutions that are degraded or down
    #[arg(long, conflicts_with = "state")]
    not_operational: bool,
    /// Print them again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    relink: RelinkArgs,
}

/// The states of an institution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateArg {
    /// It works
    Operational,
    /// Something does not work, and prompts are sent
    Degraded,
    /// It does not work, and prompts are deferred
    Down,
}

impl StateArg {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Operational => "operational",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

pub(super) async fn run(args: InstitutionsArgs) -> anyhow::Result<ExitCode> {
    let InstitutionsArgs { institution, state, not_operational, watch, relink } = args;
    let relink = RunningRelink::of(relink)?;
    let shown = async || {
        let mut institutions = read(&relink).await?;
        institutions.retain(|one| {
            institution.as_deref().is_none_or(|name| one["institution"] == name)
                && state.is_none_or(|state| one["state"] == state.as_str())
                && (!not_operational || one["state"] != StateArg::Operational.as_str())
        });
        Ok(if relink.json {
            Output::Json(json_text(&json!({"institutions": institutions})))
        } else {
            Output::Text(table(&institutions, clock::now(), terminal_width()))
        })
    };
    print_each(watch, shown).await
}

/// The institutions, each with its `incident` of the summary, or null.
async fn read(relink: &RunningRelink) -> anyhow::Result<Vec<Value>> {
    let (_, max) = INSTITUTIONS_ON_PAGE;
    let mut answer = relink.get(&format!("/v1/institutions?limit={max}")).await?;
    let summary = relink.get("/v1/summary").await?;
    let Value::Array(mut institutions) = answer["institutions"].take() else {
        anyhow::bail!("the answer of relink has no institutions");
    };
    let incidents = summary["incidents"].as_array().context("the answer of relink has no incidents")?;
    let incidents: BTreeMap<_, _> =
        incidents.iter().filter_map(|incident| Some((incident["institution"].as_str()?, incident))).collect();
    for one in &mut institutions {
        let incident = one["institution"].as_str().and_then(|name| incidents.get(name));
        let incident = incident.map(|of| json!({"began_at": of["began_at"], "links_count": of["links_count"]}));
        if let Value::Object(one) = one {
            one.insert("incident".to_owned(), json!(incident));
        }
    }
    Ok(institutions)
}

fn table(institutions: &[Value], now: Timestamp, width: Option<u16>) -> String {
    if institutions.is_empty() {
        return "no institution matches\n".to_owned();
    }
    let rows: Vec<_> = institutions.iter().map(|one| row(&printable_json(one), now)).collect();
    let mut text = table_of(&COLUMNS, &rows, width);
    line(&mut text, format_args!("{DIM}{}{DIM:#}", counted(institutions.len(), "institution")));
    text
}

fn row(one: &Value, now: Timestamp) -> [String; 7] {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let since = |value: &Value| {
        let at = serde_json::from_value::<At>(value.clone()).ok();
        at.map_or_else(|| "-".to_owned(), |At(at)| span(now.as_millis().saturating_sub(at.as_millis())))
    };
    let cause = match one["cause"].as_str() {
        Some("failing_links") => "many links failed together".to_owned(),
        Some("outage_errors") => "Belvo's API reports it down".to_owned(),
        Some("status_page") => "Belvo's status page".to_owned(),
        Some(newer) => newer.to_owned(),
        None => "-".to_owned(),
    };
    let incident = match &one["incident"] {
        Value::Object(of) => {
            let count = of.get("links_count").and_then(Value::as_u64).unwrap_or(0);
            let began = of.get("began_at").map_or_else(|| "?".to_owned(), since);
            if count == 0 {
                format!("for {began}")
            } else {
                format!("for {began}, {} at its begin", counted(count, "link"))
            }
        }
        _ => "-".to_owned(),
    };
    let by_state: Vec<_> =
        one["by_state"].as_object().into_iter().flatten().map(|(state, count)| format!("{count} {state}")).collect();
    let links = one["links_count"].as_u64().map_or_else(|| "?".to_owned(), |count| count.to_string());
    [text(&one["institution"]), text(&one["state"]), since(&one["since"]), cause, incident, links, by_state.join(", ")]
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::{HOSTILE, is_safe};
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_090_000_000);

    #[test]
    fn a_table_fits_the_terminal() {
        let began_at = "2023-11-15T20:13:20.000Z";
        let institutions = [
            json!({"institution": "erebor_mx_retail", "state": "down", "since": began_at, "cause": "failing_links",
                "links_count": 1_210, "by_state": {"valid": 1_190, "invalid": 20},
                "incident": {"began_at": began_at, "links_count": 12}}),
            json!({"institution": "gotham_br", "state": "degraded", "since": began_at, "cause": "status_page",
                "links_count": 3, "by_state": {"valid": 3}, "incident": null}),
            json!({"institution": "itau_br", "state": "operational", "links_count": 0, "by_state": {}}),
        ];
        let mut all = String::new();
        for width in [120, 80, 50] {
            let text = anstream::adapter::strip_str(&table(&institutions, NOW, Some(width))).to_string();
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            line(&mut all, format_args!("width {width}\n{text}"));
        }
        insta::assert_snapshot!(all);
        assert_eq!(table(&[], NOW, None), "no institution matches\n");
    }

    #[test]
    fn a_text_from_outside_forges_no_line() {
        let one = json!({"institution": HOSTILE, "state": HOSTILE, "since": HOSTILE, "cause": HOSTILE,
            "by_state": {HOSTILE: HOSTILE}, "incident": {"began_at": HOSTILE, "links_count": HOSTILE}});
        let text = table(&[one, json!(HOSTILE)], NOW, None);
        assert!(is_safe(&text) && text.lines().count() == 4, "{text:?}");
    }
}
