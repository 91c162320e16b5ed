//! THE PUBLISHED CONTRACT: `schemas/` as this program would write it, for those who do not read Rust.
//!
//! A JSON Schema for every message, made from the types of [`crate::contract`]; an example of each, made by running the
//! engine over a [`story`]; and an AsyncAPI document over them. Nothing in them is written by hand, so nothing can fall
//! behind the code: a test compares the committed files with [`documents`].
//!
//! It must never: depend on a clock, on chance or on a running server. The same program always writes the same files.
//!
//! Next: `schemas/README.md`, which people read; `nats::envelope`, which puts the URNs of these schemas on messages.

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use crate::contract::{
    ApiError, Command, Commit, Fence, IncidentBody, InputKind, JobBody, Mark, NoticeBody, Observation, Record,
    RefusedBody, SCHEMA_VERSION, Webhook, Widget,
};

mod asyncapi;
pub mod story;

use story::Example;

/// A message's schema.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageSchema {
    /// The message, such as `belvo.webhook` or `link.notice`: the part of [`MessageSchema::urn`] that names it.
    pub name: String,
    /// What its body looks like.
    pub schema: Value,
}

impl MessageSchema {
    /// The schema's `$id`, and the `ce-dataschema` of the messages that follow it.
    pub fn urn(&self) -> String {
        format!("urn:relink:schema:{}:{SCHEMA_VERSION}", self.name)
    }

    /// The name of its file.
    pub fn file(&self) -> String {
        format!("{}.v{SCHEMA_VERSION}.schema.json", self.name)
    }

    /// What the message is, in a sentence or two.
    pub fn description(&self) -> &str {
        self.schema["description"].as_str().unwrap_or_default()
    }
}

/// The schema of every message: what may be said to relink, then what it says.
pub fn schemas() -> Vec<MessageSchema> {
    let inputs = InputKind::ALL.into_iter().map(|kind| {
        let schema = match kind {
            InputKind::Webhook => read::<Webhook>(),
            InputKind::ApiError => read::<ApiError>(),
            InputKind::Widget => read::<Widget>(),
            InputKind::Observation => read::<Observation>(),
            InputKind::Command => read::<Command>(),
        };
        (format!("belvo.{kind}"), schema)
    });
    let outputs = [
        ("link.state", written::<Record>()),
        ("link.notice", written::<NoticeBody>()),
        ("link.job", written::<JobBody>()),
        ("link.refused", written::<RefusedBody>()),
        ("link.incident", written::<IncidentBody>()),
        ("link.mark", written::<Mark>()),
        ("link.commit", written::<Commit>()),
        ("link.fence", written::<Fence>()),
    ];
    let outputs = outputs.into_iter().map(|(name, schema)| (name.to_owned(), schema));
    inputs.chain(outputs).map(|(name, schema)| finish(name, schema)).collect()
}

/// Every file of `schemas/` but its README: its path below that directory, and what is in it.
pub fn documents() -> Vec<(String, String)> {
    let schemas = schemas();
    let examples = story::examples();
    let mut documents: Vec<(String, String)> =
        schemas.iter().map(|schema| (schema.file(), text(&schema.schema))).collect();
    documents.extend(examples.iter().map(|example| (example_file(example), text(&example.body))));
    documents.push(("asyncapi.json".to_owned(), text(&asyncapi::document(&schemas, &examples))));
    documents
}

/// Writes every document below `directory`, which is created if it is missing. Gives the files written.
///
/// # Errors
/// The first that cannot be written.
pub fn write(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory.join("examples"))?;
    let mut written = Vec::new();
    for (name, contents) in documents() {
        let path = directory.join(name);
        std::fs::write(&path, contents)?;
        written.push(path);
    }
    Ok(written)
}

fn example_file(example: &Example) -> String {
    match &example.variant {
        Some(variant) => format!("examples/{}.{variant}.json", example.name),
        None => format!("examples/{}.json", example.name),
    }
}

/// The schema of a body others write and we read: what may be left out is optional.
fn read<T: JsonSchema>() -> Schema {
    settings().for_deserialize().into_generator().into_root_schema_for::<T>()
}

/// The schema of a body we write: what we always write is required.
fn written<T: JsonSchema>() -> Schema {
    let generator: SchemaGenerator = settings().for_serialize().into_generator();
    generator.into_root_schema_for::<T>()
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12()
}

/// Gives a schema its identity, and its texts one line each.
fn finish(name: String, mut schema: Schema) -> MessageSchema {
    RecursiveTransform(unwrap_lines).transform(&mut schema);
    let message = MessageSchema { name, schema: Value::Null };
    schema.insert("$id".to_owned(), message.urn().into());
    // The published examples are whole files, see `examples/`.
    schema.remove("examples");
    MessageSchema { schema: schema.to_value(), ..message }
}

/// A doc comment is wrapped where the source is wrapped; a description is not.
fn unwrap_lines(schema: &mut Schema) {
    let Some(Value::String(description)) = schema.get_mut("description") else { return };
    let paragraphs: Vec<String> = description.split("\n\n").map(|lines| lines.replace('\n', " ")).collect();
    *description = paragraphs.join("\n\n");
}

/// JSON as it is kept in files.
fn text(value: &Value) -> String {
    format!("{value:#}\n")
}
