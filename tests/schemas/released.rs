//! The contract since the last release: a change that breaks a program needs a new version, and is listed where a reviewer sees it.
//!
//! `tests/schemas/v<version>/` has the documents of the last released version, as its `schemas/` had them.
//! `breaks.snap` there lists what this version breaks (`INSTA_UPDATE=always` writes it). A release copies `schemas/*.json` to a new directory
//! and changes [`RELEASED`].

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::documents::{Documents, breaks_between};
use super::json_schema::unknown_keywords;

/// The last released version.
const RELEASED: (u64, u64, u64) = (0, 2, 0);

/// The version of this program.
const THIS: &str = env!("CARGO_PKG_VERSION");

fn directory() -> PathBuf {
    let (major, minor, _) = RELEASED;
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/schemas/v{major}.{minor}"))
}

fn released() -> Documents {
    let files =
        std::fs::read_dir(directory()).expect("the released documents").map(|entry| entry.expect("a file").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        (name, serde_json::from_str(&text).expect("a document is JSON"))
    };
    files.map(read).collect()
}

/// The documents of this version.
static CURRENT: LazyLock<Documents> = LazyLock::new(|| {
    let documents = relink::schemas::documents().into_iter().filter(|(name, _)| !name.starts_with("examples/"));
    documents.map(|(name, text)| (name, serde_json::from_str(&text).expect("a document is JSON"))).collect()
});

/// Whether `version` may break what `released` had: another major version, or before 1.0 another minor version.
fn may_break(released: (u64, u64, u64), version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u64>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if major == 0 && released.0 == 0 { minor > released.1 } else { major > released.0 }
}

#[test]
fn what_breaks_programs_needs_a_new_version_and_is_listed() {
    let breaks = breaks_between(&released(), &CURRENT);
    let list = breaks.join("\n");
    assert!(
        breaks.is_empty() || may_break(RELEASED, THIS),
        "version {THIS} breaks programs that were written for {RELEASED:?}: raise the version, or take the changes back:\n{list}"
    );
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(directory());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_description("What this version breaks. Name each line in CHANGELOG.md, under the breaking changes.");
    settings.bind(|| insta::assert_snapshot!("breaks", list));
}

#[test]
fn a_new_minor_version_may_break_before_1_0_and_a_new_major_version_after_it() {
    for (released, version, may) in [
        ((0, 2, 0), "0.2.0", false),
        ((0, 2, 0), "0.2.9", false),
        ((0, 2, 0), "0.3.0", true),
        ((0, 2, 0), "0.3.0-rc.1", true),
        ((0, 9, 0), "1.0.0", true),
        ((1, 0, 0), "1.9.0", false),
        ((1, 9, 0), "2.0.0", true),
        ((1, 0, 0), "0.9.0", false),
    ] {
        assert_eq!(may_break(released, version), may, "{released:?} {version}");
    }
}

/// A keyword that the comparison does not know could change without notice.
#[test]
fn the_comparison_knows_every_keyword_of_the_schemas() {
    for (name, document) in released().into_iter().chain(CURRENT.clone()) {
        let schemas: Vec<Value> = match name.as_str() {
            "asyncapi.json" => continue,
            "openapi.json" => document["components"]["schemas"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, one)| one.clone())
                .collect(),
            _ => vec![document],
        };
        for schema in schemas {
            assert_eq!(unknown_keywords(&schema), [].into(), "{name}");
        }
    }
}

/// A document of this version, and the same after a change of one place.
fn changed(name: &str, pointer: &str, change: impl FnOnce(&mut Value)) -> (Documents, Documents) {
    let document = CURRENT.get(name).unwrap_or_else(|| panic!("no {name}"));
    let mut after = document.clone();
    change(after.pointer_mut(pointer).unwrap_or_else(|| panic!("{name} has no {pointer}")));
    ([(name.to_owned(), document.clone())].into(), [(name.to_owned(), after)].into())
}

const WEBHOOK: &str = "belvo.webhook.v1.schema.json";
const COMMAND: &str = "belvo.command.v1.schema.json";
const NOTICE: &str = "link.notice.v1.schema.json";
const STATE: &str = "link.state.v1.schema.json";
const OPENAPI: &str = "openapi.json";
const ASYNCAPI: &str = "asyncapi.json";

fn remove(name: &'static str) -> impl FnOnce(&mut Value) {
    move |value| drop(value.as_object_mut().expect("an object").remove(name).expect("it is there"))
}

fn set(name: &'static str, to: Value) -> impl FnOnce(&mut Value) {
    move |value| drop(value.as_object_mut().expect("an object").insert(name.to_owned(), to))
}

fn push(item: Value) -> impl FnOnce(&mut Value) {
    move |value| value.as_array_mut().expect("a list").push(item)
}

fn without_string(text: &'static str) -> impl FnOnce(&mut Value) {
    move |value| value.as_array_mut().expect("a list").retain(|item| item != text)
}

/// Each kind of break, made by hand, is found, and nothing else is.
#[test]
fn each_kind_of_break_is_found() {
    let command = "/paths/~1v1~1links~1{id}~1commands/post";
    let responses = format!("{command}/responses");
    let cases: Vec<(&str, (Documents, Documents), &str)> = vec![
        (
            "a field that clients send is removed",
            changed(WEBHOOK, "/properties", remove("link_id")),
            "belvo.webhook.link_id: the field is removed",
        ),
        (
            "a field that clients send is required",
            changed(WEBHOOK, "/required", push(json!("data"))),
            "belvo.webhook.data: the field is required now",
        ),
        (
            "a field that clients send is renamed",
            changed(COMMAND, "/properties", |fields| {
                let fields = fields.as_object_mut().expect("fields");
                let reason = fields.remove("reason").expect("a field");
                fields.insert("why".to_owned(), reason);
            }),
            "belvo.command.reason: the field is removed",
        ),
        (
            "the type of a field that clients send is narrower",
            changed(WEBHOOK, "/properties/link_id", |field| *field = json!({"type": "integer"})),
            "belvo.webhook.link_id: string is no longer accepted",
        ),
        (
            "a bound on a field that clients send is new",
            changed(WEBHOOK, "/properties/link_id", |field| {
                *field = json!({"type": ["string", "null"], "maxLength": 3})
            }),
            "belvo.webhook.link_id: maxLength has changed from None to Some(3.0)",
        ),
        (
            "other fields of clients are refused",
            changed(WEBHOOK, "", set("additionalProperties", json!(false))),
            "belvo.webhook: other fields are refused now",
        ),
        (
            "a field that clients read is removed",
            changed(STATE, "/properties", remove("version")),
            "link.state.version: the field is removed",
        ),
        (
            "a field that clients read may be absent",
            changed(STATE, "/required", without_string("version")),
            "link.state.version: the field may be absent now",
        ),
        (
            "a field that clients read may be null",
            changed(STATE, "/properties/version", set("type", json!(["integer", "null"]))),
            "link.state.version: null may be written now",
        ),
        (
            "a field that clients read may be larger",
            changed(STATE, "/properties/partition", remove("maximum")),
            "link.state.partition: maximum has changed from Some(65535.0) to None",
        ),
        (
            "an enumeration that clients read has a new value",
            changed(STATE, "/$defs/StateWord", add_alternative(json!({"const": "sleeping", "type": "string"}))),
            "\"sleeping\" may be written now",
        ),
        (
            "a notice that clients read is of a new type",
            changed(
                NOTICE,
                "/oneOf",
                push(json!({"type": "object", "properties": {"type": {"const": "repaired", "type": "string"}}})),
            ),
            "link.notice: object type=\"repaired\" may be written now",
        ),
        (
            "a document is removed",
            ([(STATE.to_owned(), CURRENT[STATE].clone())].into(), Documents::new()),
            "link.state.v1.schema.json: the document is removed",
        ),
        (
            "a channel is removed",
            changed(ASYNCAPI, "/channels", remove("link.notice")),
            "asyncapi channel link.notice: it is removed",
        ),
        (
            "a subject is another one",
            changed(ASYNCAPI, "/channels/link.notice", set("address", json!("x"))),
            "asyncapi channel link.notice: its address was",
        ),
        (
            "an operation of NATS is removed",
            changed(ASYNCAPI, "/operations", remove("receive_command")),
            "asyncapi operation receive_command: it is removed",
        ),
        (
            "an operation of HTTP is removed",
            changed(OPENAPI, "/paths/~1v1~1links", remove("get")),
            "GET /v1/links: the operation is removed",
        ),
        (
            "a path is removed",
            changed(OPENAPI, "/paths", remove("/v1/summary")),
            "GET /v1/summary: the operation is removed",
        ),
        (
            "a parameter is removed",
            changed(OPENAPI, "/paths/~1v1~1links/get/parameters", |list| {
                drop(list.as_array_mut().expect("a list").remove(0))
            }),
            "the parameter is removed",
        ),
        (
            "a parameter is required",
            changed(OPENAPI, "/paths/~1v1~1links/get/parameters/0", set("required", json!(true))),
            "the parameter is required now",
        ),
        (
            "an operation needs another scope",
            changed(OPENAPI, command, set("security", json!([{"other": []}]))),
            "it needs other credentials",
        ),
        (
            "a status is no longer answered",
            changed(OPENAPI, &responses, remove("202")),
            "POST /v1/links/{id}/commands: it does not answer 202 any more",
        ),
    ];
    for (what, (before, after), expected) in cases {
        let breaks = breaks_between(&before, &after);
        assert!(breaks.iter().any(|found| found.contains(expected)), "{what}: {breaks:#?}");
    }
}

/// Adds an alternative to an `enum` or a `oneOf`.
fn add_alternative(alternative: Value) -> impl FnOnce(&mut Value) {
    move |schema| match (schema.get("enum").is_some(), schema.get("oneOf").is_some()) {
        (true, _) => push(alternative["const"].clone())(&mut schema["enum"]),
        (_, true) => push(alternative)(&mut schema["oneOf"]),
        _ => panic!("no alternatives: {schema}"),
    }
}

/// Changes that every program survives.
#[test]
fn compatible_changes_pass() {
    let text = json!({"type": "string"});
    let cases: Vec<(&str, (Documents, Documents))> = vec![
        ("nothing", (CURRENT.clone(), CURRENT.clone())),
        ("a new optional field for clients", changed(WEBHOOK, "/properties", set("colour", text.clone()))),
        ("a field of clients is optional now", changed(WEBHOOK, "/required", |names| *names = json!([]))),
        ("a field of clients may be more", changed(WEBHOOK, "/properties/link_id", |field| *field = json!(true))),
        ("a new value of an enumeration for clients", changed(COMMAND, "", add_value_of_a_command())),
        ("a new field in what relink writes", changed(STATE, "/properties", set("colour", text))),
        ("a field that relink always writes now", changed(STATE, "/required", push(json!("claimed_at")))),
        ("a smaller number in what relink writes", changed(STATE, "/properties/partition", set("maximum", json!(100)))),
        ("another description", changed(STATE, "/properties/version", set("description", json!("x")))),
        ("a new channel", changed(ASYNCAPI, "/channels", set("link.new", json!({"address": "link.new"})))),
        ("a new operation", changed(OPENAPI, "/paths", set("/v2", json!({"get": {"responses": {}}})))),
        (
            "a new optional parameter",
            changed(
                OPENAPI,
                "/paths/~1v1~1links/get/parameters",
                push(json!({"in": "query", "name": "colour", "schema": {"type": "string"}})),
            ),
        ),
    ];
    for (what, (before, after)) in cases {
        assert_eq!(breaks_between(&before, &after), Vec::<String>::new(), "{what}");
    }
}

/// Adds a new command.
fn add_value_of_a_command() -> impl FnOnce(&mut Value) {
    |document| {
        let field = &document["properties"]["command"];
        let pointer = field["$ref"].as_str().and_then(|text| text.strip_prefix('#')).map(str::to_owned);
        let schema = match pointer {
            Some(pointer) => document.pointer_mut(&pointer).expect("a target"),
            None => &mut document["properties"]["command"],
        };
        add_alternative(json!({"const": "rest", "type": "string"}))(schema);
    }
}
