//! The published contract: the files of `schemas/`, for readers who do not know Rust.
//!
//! A JSON Schema for every message, made from the types of [`crate::contract`]; an example of each, made by running the
//! engine over the inputs of [`examples`]; an AsyncAPI document of the subjects, and an OpenAPI document of the HTTP API. All of them are generated, and a test compares the
//! committed files with [`documents`].
//!
//! The result does not depend on a clock, on chance or on a running server: the same program always writes the same
//! files.
//!
//! Next: `schemas/README.md`, the guide for readers; `nats::envelope`, which puts the URNs of these schemas on messages.

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;
use strum::VariantArray;

use crate::contract::{
    ApiError, Command, Commit, CommittedOffset, Fence, IncidentBody, InputKind, InstitutionStatus, JobBody, NoticeBody,
    Observation, Record, RefusedBody, SCHEMA_VERSION, Webhook, Widget,
};

mod asyncapi;
pub mod examples;
mod openapi;

use examples::Example;

/// The schema of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageSchema {
    /// The name of the message in [`MessageSchema::urn`], such as `belvo.webhook` or `link.notice`.
    pub name: String,
    /// The JSON Schema of the body.
    pub schema: Value,
}

impl MessageSchema {
    /// The `$id` of the schema, and the `ce-dataschema` of its messages.
    pub fn urn(&self) -> String {
        format!("urn:relink:schema:{}:{SCHEMA_VERSION}", self.name)
    }

    /// The name of the file.
    pub fn file(&self) -> String {
        format!("{}.v{SCHEMA_VERSION}.schema.json", self.name)
    }

    /// The description of the message.
    pub fn description(&self) -> &str {
        self.schema["description"].as_str().unwrap_or_default()
    }
}

/// The schemas of all messages: first the inputs, then the outputs.
pub fn schemas() -> Vec<MessageSchema> {
    let inputs = InputKind::VARIANTS.iter().map(|kind| {
        let schema = match kind {
            InputKind::Webhook => read::<Webhook>(),
            InputKind::ApiError => read::<ApiError>(),
            InputKind::Widget => read::<Widget>(),
            InputKind::Observation => read::<Observation>(),
            InputKind::Command => read::<Command>(),
            InputKind::InstitutionStatus => read::<InstitutionStatus>(),
        };
        (format!("belvo.{kind}"), schema)
    });
    let outputs = [
        ("link.state", written::<Record>()),
        ("link.notice", written::<NoticeBody>()),
        ("link.job", written::<JobBody>()),
        ("link.refused", written::<RefusedBody>()),
        ("link.incident", written::<IncidentBody>()),
        ("link.offset", written::<CommittedOffset>()),
        ("link.commit", written::<Commit>()),
        ("link.fence", written::<Fence>()),
    ];
    let outputs = outputs.into_iter().map(|(name, schema)| (name.to_owned(), schema));
    inputs.chain(outputs).map(|(name, schema)| finish(name, schema)).collect()
}

/// All files of `schemas/` except its README: the path below that directory, and the content.
pub fn documents() -> Vec<(String, String)> {
    let schemas = schemas();
    let examples = examples::examples();
    let mut documents: Vec<(String, String)> =
        schemas.iter().map(|schema| (schema.file(), text(&schema.schema))).collect();
    documents.extend(examples.iter().map(|example| (example_file(example), text(&example.body))));
    documents.push(("asyncapi.json".to_owned(), text(&asyncapi::document(&schemas, &examples))));
    documents.push(("openapi.json".to_owned(), text(&openapi::document())));
    documents
}

/// Writes every document below `directory`, which is created if it is missing. Returns the written files.
///
/// # Errors
/// The error of the first file that cannot be written.
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

/// The schema of a body that others write: fields that may be absent are optional.
fn read<T: JsonSchema>() -> Schema {
    settings().for_deserialize().into_generator().into_root_schema_for::<T>()
}

/// The schema of a body that relink writes: fields that are always written are required.
fn written<T: JsonSchema>() -> Schema {
    let generator: SchemaGenerator = settings().for_serialize().into_generator();
    generator.into_root_schema_for::<T>()
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12()
}

/// Adds the `$id`, and removes line breaks from descriptions.
fn finish(name: String, mut schema: Schema) -> MessageSchema {
    RecursiveTransform(unwrap_lines).transform(&mut schema);
    let message = MessageSchema { name, schema: Value::Null };
    schema.insert("$id".to_owned(), message.urn().into());
    // The published examples are files of their own, in `examples/`.
    schema.remove("examples");
    MessageSchema { schema: schema.to_value(), ..message }
}

/// Removes the line breaks of a doc comment from a description.
fn unwrap_lines(schema: &mut Schema) {
    let Some(Value::String(description)) = schema.get_mut("description") else { return };
    let paragraphs: Vec<String> = description.split("\n\n").map(|lines| lines.replace('\n', " ")).collect();
    *description = paragraphs.join("\n\n");
}

/// JSON in the form of the committed files.
fn text(value: &Value) -> String {
    format!("{value:#}\n")
}
