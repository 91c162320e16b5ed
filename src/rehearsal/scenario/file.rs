//! Reads a scenario file. A mistake in it is an error with file, line and column; nothing unknown is passed over.

use std::collections::BTreeMap;

use belvo_sandbox::SandboxConfig;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::actions::{
    Action, BelvoAction, BelvoSettings, Expectation, FIRST_WORDS, LinkSetup, Mishandling, Name, Step, WITH_VERB,
};
use super::error::ScenarioError;
use super::table::{Source, Table};

/// A scenario, read from its file.
#[derive(Clone, Debug)]
pub struct Scenario {
    title: String,
    why: String,
    policy: toml::Table,
    belvo: BelvoSettings,
    pub(super) links: Vec<(Name, LinkSetup)>,
    pub(super) steps: Vec<Step>,
    pub(super) endings: Vec<(Name, Expectation)>,
}

/// The file as TOML has it. The tables inside keep the places of their values, for messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    title: String,
    why: String,
    #[serde(default)]
    relink: RelinkTable,
    belvo: Option<Spanned<Table>>,
    links: BTreeMap<Name, Spanned<Table>>,
    story: Story,
    end: BTreeMap<Name, Spanned<Table>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RelinkTable {
    #[serde(default)]
    policy: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    steps: Vec<Spanned<Table>>,
}

impl Scenario {
    /// Reads a scenario; `file` is only for messages.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let source = Source { file, text };
        let document: Document = toml::from_str(text)
            .map_err(|error| source.error(&error.span().unwrap_or_default(), error.message().trim_end()))?;
        let belvo = document.belvo.as_ref().map(|table| source.read("[belvo]", table)).transpose()?;
        let mut links = Vec::new();
        for (name, table) in &document.links {
            links.push((name.clone(), source.read::<LinkSetup>("a link", table)?));
        }
        let names = &document.links;
        let steps =
            document.story.steps.iter().map(|table| read_step(source, table, names)).collect::<Result<_, _>>()?;
        let mut endings = Vec::new();
        for (name, table) in &document.end {
            if !names.contains_key(name) {
                return Err(source.error(&table.span(), format!("[end] speaks of `{name}`, which is not in [links]")));
            }
            endings.push((name.clone(), source.read::<Expectation>("an ending", table)?));
        }
        if let Some(name) = names.keys().find(|name| !document.end.contains_key(*name)) {
            let problem = format!("[end] does not say what becomes of `{name}`");
            return Err(source.error(&(text.len()..text.len()), problem));
        }
        Ok(Self {
            title: document.title,
            why: document.why.trim().to_owned(),
            policy: document.relink.policy,
            belvo: belvo.unwrap_or_default(),
            links,
            steps,
            endings,
        })
    }

    /// What it is about.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The mistake of a program that it shows.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// `[relink.policy]`: the settings of `[policy]` that the relink it is played against needs, so that a wait of
    /// minutes becomes one of milliseconds.
    pub fn policy(&self) -> &toml::Table {
        &self.policy
    }

    /// The sandbox it is to be played in.
    pub fn sandbox(&self, usual: SandboxConfig) -> SandboxConfig {
        let BelvoSettings { data_delay, webhook_retry_step, logins_until_invalid, payload_shape, schedule } =
            self.belvo;
        SandboxConfig {
            data_delay: data_delay.map_or(usual.data_delay, |span| span.0),
            webhook_retry_step: webhook_retry_step.map_or(usual.webhook_retry_step, |span| span.0),
            logins_until_invalid: logins_until_invalid.map_or(usual.logins_until_invalid, |logins| logins.0),
            payload_shape: payload_shape.unwrap_or(usual.payload_shape),
            schedule,
            ..usual
        }
    }
}

/// Reads a step; `names` has the links there are.
fn read_step(
    source: Source<'_>,
    table: &Spanned<Table>,
    names: &BTreeMap<Name, Spanned<Table>>,
) -> Result<Step, ScenarioError> {
    let fields = table.get_ref();
    let mut words = FIRST_WORDS.into_iter().filter(|word| fields.contains_key(*word));
    let (word, other) = (words.next(), words.next());
    let Some(word) = word.filter(|word| other.is_none() || *word == "expect") else {
        let problem = format!("a step has exactly one of {}", FIRST_WORDS.join(", "));
        return Err(source.error(&table.span(), problem));
    };
    let action = source.read_as("this step", table, |value| arranged(value, word))?;
    for key in ["link", "expect"] {
        if let Some((name, span)) = fields.get(key).and_then(|name| Some((name.get_ref().as_str()?, name.span())))
            && !names.contains_key(name)
        {
            return Err(source.error(&span, format!("`{name}` is not in [links]")));
        }
    }
    if let Action::Belvo(BelvoAction::Mishandles { webhook, delay: Some(_), .. }) = &action
        && *webhook != Mishandling::Delayed
    {
        return Err(source.error(&table.span(), "`delay` is only for `webhook = \"delayed\"`"));
    }
    Ok(Step { line: source.line_of(&table.span()), text: source.text_of(table.span()), action })
}

/// `{belvo = "refreshes", link = …}` as `{belvo: {refreshes: {link: …}}}`, and `{hear = "…", link = …}` as
/// `{hear: {hear: "…", link: …}}`: the forms in which serde has an enum.
fn arranged(mut fields: Value, word: &str) -> Value {
    let mut inner = fields.clone();
    if WITH_VERB.contains(&word)
        && let Some(verb) = fields.get(word).and_then(Value::as_str).map(str::to_owned)
    {
        if let Value::Object(fields) = &mut fields {
            fields.remove(word);
        }
        inner = Value::Object(Map::from_iter([(verb, fields)]));
    }
    Value::Object(Map::from_iter([(word.to_owned(), inner)]))
}
