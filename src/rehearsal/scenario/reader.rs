//! Reads a scenario file. A mistake in it is an error with file and line; nothing unknown is passed over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use belvo_sandbox::{AccessMode, PayloadShape, SandboxConfig};
use serde::Deserialize;
use toml::{Spanned, Table};

use super::Scenario;
use super::deeds;
use super::fields::{Fields, Place};
use super::script::{Before, Expectation, NOTICES, Part, STATES, Step};

/// A scenario file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct ScenarioError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// The file as TOML has it; the tables inside are read by hand, for better messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    title: String,
    why: String,
    #[serde(default)]
    relink: RelinkTable,
    belvo: Option<Spanned<Table>>,
    links: BTreeMap<String, Spanned<Table>>,
    story: Story,
    end: BTreeMap<String, Spanned<Table>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RelinkTable {
    #[serde(default)]
    policy: Table,
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
        let at = |span: &Range<usize>| Place { file, line: line_of(text, span.start) };
        let document: Document = toml::from_str(text).map_err(|error| {
            let place = at(&error.span().unwrap_or_default());
            place.error(error.message().trim_end())
        })?;
        let mut belvo = Setup::default();
        if let Some(table) = document.belvo {
            let place = at(&table.span());
            belvo = Setup::read(Fields::of("[belvo]", place, table.into_inner()))?;
        }
        let mut links = Vec::new();
        for (name, table) in document.links {
            let place = at(&table.span());
            links.push(read_part(name, Fields::of("a link", place, table.into_inner()))?);
        }
        let names: Vec<String> = links.iter().map(|part| part.name.clone()).collect();
        let mut steps = Vec::new();
        for table in document.story.steps {
            let (span, place) = (table.span(), at(&table.span()));
            let deed = deeds::read(Fields::of("this step", place, table.into_inner()), &names)?;
            let text = text.get(span).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            steps.push(Step { line: place.line, text, deed });
        }
        let mut endings = Vec::new();
        for (name, table) in document.end {
            let place = at(&table.span());
            if !names.contains(&name) {
                return Err(place.error(format!("[end] speaks of `{name}`, which is not in [links]")));
            }
            let mut fields = Fields::of("an ending", place, table.into_inner());
            let ending = read_expectation(name, &mut fields)?;
            fields.finish()?;
            endings.push(ending);
        }
        if let Some(name) = names.iter().find(|name| !endings.iter().any(|ending| ending.link == **name)) {
            let place = Place { file, line: line_of(text, text.len()) };
            return Err(place.error(format!("[end] does not say what becomes of `{name}`")));
        }
        let policy = document.relink.policy;
        Ok(Self { title: document.title, why: document.why.trim().to_owned(), policy, belvo, links, steps, endings })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// How Belvo differs from its usual self in this scenario.
#[derive(Clone, Debug, Default)]
pub(super) struct Setup {
    data_delay: Option<Duration>,
    webhook_retry_step: Option<Duration>,
    logins_until_invalid: Option<u32>,
    payload_shape: Option<PayloadShape>,
    /// Whether things happen by themselves while `lets_pass` lets time pass.
    schedule: bool,
}

impl Setup {
    fn read(mut fields: Fields<'_>) -> Result<Self, ScenarioError> {
        let setup = Self {
            data_delay: fields.span("data_delay")?,
            webhook_retry_step: fields.span("webhook_retry_step")?,
            logins_until_invalid: read_logins(&mut fields)?,
            payload_shape: fields.word("payload_shape")?,
            schedule: fields.switch("schedule", false)?,
        };
        fields.finish()?;
        Ok(setup)
    }

    pub(super) fn apply(&self, config: SandboxConfig) -> SandboxConfig {
        SandboxConfig {
            data_delay: self.data_delay.unwrap_or(config.data_delay),
            webhook_retry_step: self.webhook_retry_step.unwrap_or(config.webhook_retry_step),
            logins_until_invalid: self.logins_until_invalid.unwrap_or(config.logins_until_invalid),
            payload_shape: self.payload_shape.unwrap_or(config.payload_shape),
            schedule: self.schedule,
            ..config
        }
    }
}

fn read_logins(fields: &mut Fields<'_>) -> Result<Option<u32>, ScenarioError> {
    if !fields.has("logins_until_invalid") {
        return Ok(None);
    }
    let count = u32::try_from(fields.count("logins_until_invalid", 0)?).ok().filter(|&count| count > 0);
    count.map(Some).ok_or_else(|| fields.error("`logins_until_invalid` must be a number, 1 or more"))
}

fn read_part(name: String, mut fields: Fields<'_>) -> Result<Part, ScenarioError> {
    let before = match fields.one_of("before", &["known", "unheard", "absent"])?.as_deref() {
        Some("unheard") => Before::Unheard,
        Some("absent") => Before::Absent,
        Some(_) | None => Before::Known,
    };
    let part = Part {
        institution: fields.required("institution")?,
        access_mode: fields.word("access_mode")?.unwrap_or(AccessMode::Recurrent),
        external_id: Some(fields.text("external_id")?.unwrap_or_else(|| name.clone())),
        refresh_rate: fields.word("refresh_rate")?,
        consent_ends_in: fields.span("consent_ends_in")?,
        before,
        name,
    };
    fields.finish()?;
    Ok(part)
}

/// What must be true, as a step or at the end.
pub(super) fn read_expectation(link: String, fields: &mut Fields<'_>) -> Result<Expectation, ScenarioError> {
    let belvo = fields.one_of("belvo", &["valid", "invalid", "unconfirmed", "token_required", "gone"])?;
    let mut notices = Vec::new();
    for (notice, count) in fields.table("notices")? {
        if !NOTICES.contains(&notice.as_str()) {
            return Err(fields.error(format!("there is no notice `{notice}`, only {}", NOTICES.join(", "))));
        }
        let number = count.as_integer().and_then(|count| usize::try_from(count).ok());
        let wrong = || fields.error(format!("`{notice}` must be a number, 0 or more"));
        notices.push((notice.clone(), number.ok_or_else(wrong)?));
    }
    let state = fields.one_of("state", &STATES)?;
    Ok(Expectation { link, state, belvo, notices })
}
