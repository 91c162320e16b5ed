//! `relink links` and `relink show`: the links as a table, and one link in plain sentences.

use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use strum::VariantArray as _;

use super::beside::record_of;
use super::client::{History, RelinkArgs, RunningRelink, Situation};
use super::due::{Around, next_in_short, next_steps};
use super::history::{began_wait, has_counted, last_command, printable_history};
use super::listing::{Field, Listed, Order, Wanted, begun_at, read};
use super::outages::{messages_to_user, messages_without_history};
use super::output::{BOLD, DIM, colour_of, json_text, line, print, print_json, terminal_width};
use super::sentences::{at, in_quotes, of_mention, span, word_of};
use super::tables::{Column, table_of};
use super::watching::{Output, print_each};
use crate::clock;
use crate::contract::{At, Mention, Record};
use crate::link::{LinkId, StateName, Timestamp};
use crate::printable::{counted, printable, printable_json};
use crate::wording::{of_cause, of_state};

pub(super) const LIST_EXAMPLES: &str = "\
Examples:
  relink links --state invalid         the links whose users have to repair them
  relink links --external-id pedro     the links of one of your users
  relink links --institution erebor_mx_retail --watch
                                       the same table again every two seconds
  relink links --state invalid --sort since
                                       those that have been broken longest first
  relink links --held                  the broken links whose users were not prompted yet
  relink links --limit 100000 --json   all links, for a program";

pub(super) const SHOW_EXAMPLES: &str = "\
Examples:
  relink show 16f68516-bcbc-4cf7-b815-c500d4204e28
                                       the state of the link, and what happens next
`relink why` shows how the link came into this state.";

/// The columns of the table. An external id may be as long as a link id, so a narrow terminal may have the institution only.
const COLUMNS: [Column; 8] = [
    Column::always("LINK").whole(),
    Column::always("STATE").whole(),
    Column::optional("FOR", 2).whole(),
    Column::one_of("INSTITUTION", 1),
    Column::one_of("EXTERNAL ID", 3),
    Column::optional("CAUSE", 5).whole(),
    Column::optional("PROMPT", 4),
    Column::always("NEXT"),
];

/// The longest name in a table on a terminal, in characters: a UUID.
const CELL_LENGTH_MAX: usize = 36;

/// The length of a name that was too long.
const SHORTENED_LENGTH: usize = 20;

/// What `--held` does not list in observe mode.
const HELD_WHILE_OBSERVING: &str = "relink only observes: it records prompts and sends none. Recorded prompts count as sent, so their links are not listed.\n";

#[derive(Args, Debug)]
pub(super) struct LinksArgs {
    /// Only links in this state
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(StateName::VARIANTS.iter().map(|state| state.as_str())))]
    state: Option<String>,
    /// Only links at this institution; the whole name
    #[arg(long, value_name = "NAME")]
    institution: Option<String>,
    /// Only links with this external id; the whole id
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Only broken links whose users were not prompted yet, because the prompt is deferred, postponed or muted
    #[arg(long, conflicts_with = "state")]
    held: bool,
    /// Sort by this field, the smallest or oldest first; all links that match are read before the first is printed
    #[arg(long, value_enum, value_name = "FIELD")]
    sort: Option<Field>,
    /// Sort the other way round
    #[arg(long, requires = "sort")]
    reverse: bool,
    /// The most links that are printed
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print the links again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    relink: RelinkArgs,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// Belvo's id of the link
    #[arg(value_name = "LINK")]
    link: LinkId,
    #[command(flatten)]
    relink: RelinkArgs,
}

pub(super) async fn list(args: LinksArgs) -> anyhow::Result<ExitCode> {
    let LinksArgs { state, institution, external_id, held, sort, reverse, limit, watch, relink } = args;
    let relink = RunningRelink::of(relink)?;
    let filters = [("state", state), ("institution", institution), ("external_id", external_id)];
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let order = sort.map(|by| Order { by, is_reversed: reverse });
    let wanted = Wanted::new(filters, limit).sorted(order).held(held);
    let listed = async || {
        let listed = read(&relink, &wanted, &mut |_count| {}).await?;
        if relink.json {
            let Listed { links, unreadable, has_more } = listed;
            return Ok(Output::Json(json_text(&json!({"links": links, "unreadable": unreadable, "more": has_more}))));
        }
        let situation = relink.situation().await?;
        let mut text = table(&listed, &situation, clock::now(), terminal_width());
        if held && situation.observes {
            text += HELD_WHILE_OBSERVING;
        }
        text += &relink.why_it_may_be_old().await;
        Ok(Output::Text(text))
    };
    print_each(watch, listed).await
}

/// The table of at most `limit` links that match; an empty filter matches all.
pub(super) async fn list_text(
    relink: &RunningRelink,
    filters: [(&str, Option<String>); 3],
    limit: usize,
) -> anyhow::Result<String> {
    let listed = read(relink, &Wanted::new(filters, limit), &mut |_count| {}).await?;
    Ok(table(&listed, &relink.situation().await?, clock::now(), None))
}

/// One link in plain sentences.
pub(super) async fn show_text(relink: &RunningRelink, link: &LinkId) -> anyhow::Result<String> {
    let link = relink.get(&format!("/v1/links/{link}")).await?;
    let known = Known::of(relink, &link).await?;
    shown(&link, &known, clock::now())
}

fn table(listed: &Listed, situation: &Situation, now: Timestamp, width: Option<u16>) -> String {
    if listed.links.is_empty() {
        return "no link matches\n".to_owned();
    }
    let mut rows: Vec<_> = listed
        .links
        .iter()
        .map(|link| row(&printable_json(link), situation.around(link["institution"].as_str()), now))
        .collect();
    if width.is_some() {
        // One long name must not take the room of a column from all the others.
        for [_, _, _, institution, external_id, ..] in &mut rows {
            shorten(institution);
            shorten(external_id);
        }
    }
    let mut text = table_of(&COLUMNS, &rows, width);
    let count = listed.links.len();
    if listed.has_more {
        line(&mut text, format_args!("{DIM}the first {}; a higher limit shows more{DIM:#}", counted(count, "link")));
    } else {
        line(&mut text, format_args!("{DIM}{}{DIM:#}", counted(count, "link")));
    }
    if !listed.unreadable.is_empty() {
        let count = listed.unreadable.len();
        line(&mut text, format_args!("records that cannot be read: {}", counted(count, "more link")));
    }
    text
}

fn row(link: &Value, around: Around, now: Timestamp) -> [String; 8] {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let since = serde_json::from_value::<At>(begun_at(link).clone())
        .map_or_else(|_| "?".to_owned(), |since| span(now.as_millis().saturating_sub(since.0.as_millis())));
    let next = record_of(link).map_or_else(
        |_newer| "?".to_owned(),
        |(record, beside)| next_in_short(&record, &beside.due, around.with(&beside, beside.mention.as_ref()), now),
    );
    let [id, state, institution, external_id] =
        ["link_id", "state", "institution", "external_id"].map(|field| text(&link[field]));
    let cause = text(&link["episode"]["cause"]);
    [id, state, since, institution, external_id, cause, prompt(&link["episode"], around.observes), next]
}

fn shorten(cell: &mut String) {
    if cell.chars().count() > CELL_LENGTH_MAX {
        *cell = cell.chars().take(SHORTENED_LENGTH - 1).chain(['…']).collect();
    }
}

/// The messages that the user of a link got about its outage.
fn prompt(episode: &Value, observes: bool) -> String {
    if !episode.is_object() {
        return "-".to_owned();
    }
    match (episode["prompt"].as_str(), episode["reminders_count"].as_u64().unwrap_or(0)) {
        (Some("deferred"), _) => "deferred".to_owned(),
        (Some("postponed"), _) => "postponed".to_owned(),
        (Some("muted" | "unidentified"), _) => "not prompted".to_owned(),
        (_, 0) if observes => "prompt recorded, not sent".to_owned(),
        (_, count) if observes => format!("prompt and {} recorded, not sent", counted(count, "reminder")),
        (_, 0) => "prompted".to_owned(),
        (_, count) => format!("prompted, {}", counted(count, "reminder")),
    }
}

pub(super) async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let relink = RunningRelink::of(args.relink)?;
    if relink.json {
        return print_json(&relink.get(&format!("/v1/links/{}", args.link)).await?);
    }
    print(&(show_text(&relink, &args.link).await? + &relink.why_it_may_be_old().await))
}

/// What `relink show` knows besides the record.
#[derive(Default)]
struct Known {
    /// The situation now.
    around: Around,
    /// The history of a broken link, if it can be read now.
    history: Option<History>,
}

impl Known {
    async fn of(relink: &RunningRelink, link: &Value) -> anyhow::Result<Self> {
        let around = relink.situation().await?.around(link["institution"].as_str());
        let Some(id) = link["link_id"].as_str().filter(|_| link["episode"].is_object()) else {
            return Ok(Self { around, history: None });
        };
        let history = relink.history(id).await.ok().map(|history| printable_history(&history));
        let muted = history.as_ref().and_then(|history| last_command(&history.entries, "mute"));
        let is_adopted = muted.is_some_and(|command| command.origin.is_adoption());
        Ok(Self { around: Around { is_adopted, ..around }, history })
    }
}

/// What happens next with a broken link, as sentences, as `relink show` has them. None for another link.
pub(super) async fn next_of_broken(relink: &RunningRelink, link: &str) -> anyhow::Result<Vec<String>> {
    let link = relink.get(&format!("/v1/links/{link}")).await?;
    let known = Known::of(relink, &link).await?;
    let now = clock::now();
    Ok(if link["episode"].is_object() { next_of(&link, &known, now)?.steps } else { Vec::new() })
}

/// What happens next with a link.
struct Next {
    /// The record of the link. Its `because` is that of the transition that began its present wait, if there is one.
    record: Record,
    /// The message about another link that mentioned this one, and has not counted yet.
    mention: Option<Mention>,
    steps: Vec<String>,
}

fn next_of(link: &Value, known: &Known, now: Timestamp) -> anyhow::Result<Next> {
    let (mut record, beside) = record_of(link)?;
    let entries = known.history.as_ref().map(|history| history.entries.as_slice()).unwrap_or_default();
    if let Some(began) = began_wait(entries, &record) {
        record.because = began;
    }
    let mention = beside.mention.clone().filter(|mention| !has_counted(entries, mention));
    let steps = next_steps(&record, &beside.due, known.around.with(&beside, mention.as_ref()), now);
    Ok(Next { record, mention, steps })
}

/// One link in plain sentences.
fn shown(link: &Value, known: &Known, now: Timestamp) -> anyhow::Result<String> {
    let Next { record, mention, steps } = next_of(link, known, now)?;
    let mut text = String::new();
    headline(&mut text, &record);
    line(&mut text, format_args!("{}", of_state(record.state)));
    if let Some(episode) = &record.episode {
        line(
            &mut text,
            format_args!(
                "Broken since {}. What is wrong: {}.",
                at(episode.opened_at.0, now),
                of_cause(episode.cause.into())
            ),
        );
        if episode.prompt_sent {
            match &known.history {
                Some(history) => messages_to_user(&mut text, history, episode.number),
                None => line(&mut text, format_args!("{}", messages_without_history(episode, known.around.observes))),
            }
        }
        if episode.attempts_count > 0 {
            line(&mut text, format_args!("Attempts of the user to repair the link: {}.", episode.attempts_count));
        }
    }
    if let Some(mention) = &mention {
        line(&mut text, format_args!("{}", of_mention(mention, now)));
    }
    if let Some(data_at) = record.data_at {
        line(
            &mut text,
            format_args!("Belvo last had access to the account at {}, as far as is proven.", at(data_at.0, now)),
        );
    }
    line(&mut text, format_args!("\n{BOLD}What happens next{BOLD:#}"));
    for step in steps {
        line(&mut text, format_args!("  {step}"));
    }
    Ok(text)
}

/// A name from outside. One that is no plain word is in quotation marks, so that it is not taken for a part of the sentence.
fn name_in_sentence(name: &str) -> String {
    let is_plain = name.chars().all(|letter| letter.is_alphanumeric() || "_-.@:+/".contains(letter));
    let name = printable(name);
    if is_plain { name } else { in_quotes(&name) }
}

/// The id of a link, its institution and user, and its state.
pub(super) fn headline(text: &mut String, record: &Record) {
    headline_at(text, record, "is");
}

/// The same, with this verb.
pub(super) fn headline_at(text: &mut String, record: &Record, verb: &str) {
    let of = [(" at ", &record.institution), (" of ", &record.external_id)];
    let of: String =
        of.iter().filter_map(|(word, name)| Some(format!("{word}{}", name_in_sentence(name.as_deref()?)))).collect();
    let state = word_of(record.state);
    let colour = colour_of(state);
    let id = printable(&record.link_id);
    line(text, format_args!("{BOLD}{id}{BOLD:#}{of} {verb} {colour}{state}{colour:#} since {}", record.since.0));
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::{HOSTILE, is_safe};
    use super::super::record_for_tests as example;
    use super::*;
    use crate::contract::HistoryKind;

    const NOW: Timestamp = Timestamp::from_millis(1_700_090_000_000);

    #[test]
    fn a_table_fits_the_terminal() {
        let mut links: Vec<_> = super::super::cases_for_tests();
        links.retain(|(state, _)| *state != "removed");
        let mut links: Vec<_> = links.into_iter().map(|(state, fields)| example(state, fields)).collect();
        links.push(example("valid", json!({"external_id": "pedro de la casa grande"})));
        links.push(example("valid", json!({"external_id": "x".repeat(300)})));
        let listed = Listed { links, unreadable: Vec::new(), has_more: true };
        let mut all = String::new();
        for width in [120, 80, 50] {
            let text =
                anstream::adapter::strip_str(&table(&listed, &Situation::default(), NOW, Some(width))).to_string();
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            let broken = |word: &str| text.matches(&word[..4]).count() != text.matches(word).count();
            for word in ["16f68516-bcbc-4cf7-b815-c500d4204e28", "erebor_mx_retail", "token_required", "unconfirmed"] {
                assert!(!broken(word), "{word} at {width}: {text}");
            }
            line(&mut all, format_args!("width {width}\n{text}"));
        }
        insta::assert_snapshot!(all);
    }

    #[test]
    fn a_table_in_a_pipe_has_one_line_for_a_link_and_no_forged_one() {
        let links = vec![example("valid", json!({"external_id": HOSTILE, "institution": HOSTILE}))];
        let text =
            table(&Listed { links, unreadable: vec![json!("x")], has_more: false }, &Situation::default(), NOW, None);
        assert!(is_safe(&text) && text.lines().count() == 4, "{text:?}");
    }

    #[test]
    fn observe_mode_says_that_no_message_was_sent() {
        let (state, fields) =
            super::super::cases_for_tests().into_iter().find(|(state, _)| *state == "invalid").unwrap();
        let link = example(state, fields);
        let listed = Listed { links: vec![link.clone()], unreadable: Vec::new(), has_more: false };
        let observing = Situation { observes: true, ..Situation::default() };
        let table = table(&listed, &observing, NOW, None);
        assert!(table.contains("prompt and 1 reminder recorded, not sent"), "{table}");
        let mut history = super::super::history::tests::outage();
        history.entries.retain(|entry| entry.name.as_deref() != Some("reminder"));
        for entry in history.entries.iter_mut().filter(|entry| entry.kind == HistoryKind::Notice) {
            entry.kind = HistoryKind::Observed;
        }
        let known = Known { around: observing.around(None), history: Some(history) };
        let text = shown(&link, &known, NOW).unwrap();
        assert!(text.contains("relink would have prompted the user at 2023-11-14T22:13:20.000Z"), "{text}");
        assert!(!text.contains("was prompted"), "{text}");
        assert!(text.contains("messages to the user are recorded, and not sent"), "{text}");
        assert!(text.contains("relink records reminder 2") && !text.contains("gets reminder"), "{text}");
    }

    #[test]
    fn a_link_is_shown_in_sentences() {
        let mut all = String::new();
        for (state, fields) in super::super::cases_for_tests() {
            all += &shown(&example(state, fields), &Known::default(), NOW).unwrap();
            all += "\n";
        }
        assert!(is_safe(&all), "{all:?}");
        insta::assert_snapshot!(anstream::adapter::strip_str(&all).to_string());
    }
}
