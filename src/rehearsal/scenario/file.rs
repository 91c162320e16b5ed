//! Reads a scenario file. A mistake is an error with file, line and column; an unknown field is a mistake.

use std::collections::BTreeMap;

use belvo_sandbox::SandboxConfig;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::actions::{
    Action, BelvoAction, BelvoSettings, DeliveryFault, Expectation, KINDS, KINDS_WITH_VERB, LinkSetup, Name, Step,
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

/// The file as TOML. The inner tables keep the positions of their values, for error messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    title: String,
    why: String,
    #[serde(default)]
    relink: RelinkTable,
    belvo: Option<Spanned<Table>>,
    links: BTreeMap<Name, Spanned<Table>>,
    scenario: ScenarioTable,
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
struct ScenarioTable {
    steps: Vec<Spanned<Table>>,
}

impl Scenario {
    /// Reads a scenario; `file` is used only in error messages.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let source = Source { file, text };
        let document: Document = toml::from_str(text).map_err(|error| {
            let message = error.message().trim_end();
            let old = message.starts_with("unknown field `story`").then(|| renamed("story")).flatten();
            source.error(&error.span().unwrap_or_default(), old.unwrap_or_else(|| message.to_owned()))
        })?;
        let belvo = document.belvo.as_ref().map(|table| source.read("[belvo]", table)).transpose()?;
        let mut links = Vec::new();
        for (name, table) in &document.links {
            links.push((name.clone(), source.read::<LinkSetup>("a link", table)?));
        }
        let names = &document.links;
        let steps =
            document.scenario.steps.iter().map(|table| read_step(source, table, names)).collect::<Result<_, _>>()?;
        let mut endings = Vec::new();
        for (name, table) in &document.end {
            if !names.contains_key(name) {
                return Err(source.error(&table.span(), format!("[end] names `{name}`, which is not in [links]")));
            }
            endings.push((name.clone(), source.read::<Expectation>("an ending", table)?));
        }
        if let Some(name) = names.keys().find(|name| !document.end.contains_key(*name)) {
            let problem = format!("[end] has no entry for `{name}`");
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

    /// The title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The mistake that a program without this case makes.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// `[relink.policy]`: the policy settings that relink needs for this scenario. These settings shorten waits from
    /// minutes to milliseconds.
    pub fn policy(&self) -> &toml::Table {
        &self.policy
    }

    /// The configuration of the sandbox for this scenario.
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

/// Reads a step; `names` are the links of the file.
fn read_step(
    source: Source<'_>,
    table: &Spanned<Table>,
    names: &BTreeMap<Name, Spanned<Table>>,
) -> Result<Step, ScenarioError> {
    let fields = table.get_ref();
    if let Some((name, span)) = fields.iter().find_map(|(name, value)| Some((renamed(name)?, value.span()))) {
        return Err(source.error(&span, name));
    }
    let mut kinds = KINDS.into_iter().filter(|kind| fields.contains_key(*kind));
    let (kind, other) = (kinds.next(), kinds.next());
    let Some(kind) = kind.filter(|kind| other.is_none() || *kind == "expect") else {
        let problem = format!("a step has exactly one of {}", KINDS.join(", "));
        return Err(source.error(&table.span(), problem));
    };
    let action = source.read_as("this step", table, |value| arranged(value, kind))?;
    for key in ["link", "expect"] {
        if let Some((name, span)) = fields.get(key).and_then(|name| Some((name.get_ref().as_str()?, name.span())))
            && !names.contains_key(name)
        {
            return Err(source.error(&span, format!("`{name}` is not in [links]")));
        }
    }
    if let Action::Belvo(BelvoAction::Mishandles { webhook, delay: Some(_), .. }) = &action
        && *webhook != DeliveryFault::Delayed
    {
        return Err(source.error(&table.span(), "`delay` is only for `webhook = \"delayed\"`"));
    }
    Ok(Step { line: source.line_of(&table.span()), text: source.text_of(table.span()), action })
}

/// Converts `{belvo = "refreshes", link = …}` to `{belvo: {refreshes: {link: …}}}`, and `{notice = "…", link = …}` to
/// `{notice: {notice: "…", link: …}}`, as serde represents an enum.
fn arranged(mut fields: Value, kind: &str) -> Value {
    let mut inner = fields.clone();
    if KINDS_WITH_VERB.contains(&kind)
        && let Some(verb) = fields.get(kind).and_then(Value::as_str).map(str::to_owned)
    {
        if let Value::Object(fields) = &mut fields {
            fields.remove(kind);
        }
        inner = Value::Object(Map::from_iter([(verb, fields)]));
    }
    Value::Object(Map::from_iter([(kind.to_owned(), inner)]))
}

/// The error for a key of version 0.1 that has a new name.
fn renamed(key: &str) -> Option<String> {
    let new = match key {
        "story" => "`[scenario]`",
        "hear" => "`notice`",
        "settled" => "`idle`",
        "unheard" => "`reported = false`",
        _other => return None,
    };
    Some(format!("`{key}` is now {new}; see scenarios/README.md"))
}
