//! `GET /openapi.json` and `GET /openapi`: the description of the HTTP API, for programs and for people. It needs no credentials and has no
//! data.
//!
//! `schemas` makes the document; the file is in the binary, and a test compares the two.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

use super::SharedServer;

const DOCUMENT: &str = include_str!("../../schemas/openapi.json");

/// The page has a style in a file of its own, and no script.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(DOCUMENT).expect("the committed document is JSON");
    page(&document).into_string()
});

pub(super) fn routes() -> Router<SharedServer> {
    Router::new()
        .route("/openapi.json", get(async || answer("application/json", DOCUMENT)))
        .route("/openapi", get(async || answer("text/html; charset=utf-8", PAGE.as_str())))
        // The page has relative addresses, so this one cannot show it.
        .route("/openapi/", get(async || Redirect::permanent("../openapi")))
        .route("/openapi.css", get(async || answer("text/css; charset=utf-8", include_str!("openapi/style.css"))))
}

fn answer(media_type: &'static str, content: &'static str) -> Response {
    let fixed = [
        (CONTENT_TYPE, media_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (fixed, content).into_response()
}

fn page(document: &Value) -> Markup {
    let paths = document["paths"].as_object().into_iter().flatten();
    let operations: Vec<(&str, &str, &Value)> = paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect();
    let tags = document["tags"].as_array().into_iter().flatten();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "The HTTP API of relink" }
                link rel="stylesheet" href="openapi.css";
            }
            body {
                main {
                    h1 { "The HTTP API of relink " (text(&document["info"]["version"])) }
                    @for paragraph in text(&document["info"]["description"]).split("\n\n") { p { (prose(paragraph)) } }
                    p { "For programs: " a href="openapi.json" { "openapi.json" } ", OpenAPI 3.1." }
                    @for tag in tags {
                        @let name = text(&tag["name"]);
                        section {
                            h2 id=(name) { (name) }
                            p { (prose(text(&tag["description"]))) }
                            @for (path, method, operation) in &operations {
                                @if operation["tags"][0] == tag["name"] { (self::operation(path, method, operation)) }
                            }
                        }
                    }
                    h2 id="schemas" { "Bodies" }
                    @for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
                        (self::schema(name, schema))
                    }
                }
            }
        }
    }
}

fn operation(path: &str, method: &str, operation: &Value) -> Markup {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    html! {
        article id=(text(&operation["operationId"])) {
            h3 { code { (method.to_uppercase()) " " (path) } }
            p { strong { (prose(text(&operation["summary"]))) ". " } (prose(text(&operation["description"]))) }
            dl {
                @for parameter in parameters {
                    dt { code { (text(&parameter["name"])) } " (" (text(&parameter["in"])) ")" }
                    dd { (prose(text(&parameter["description"]))) }
                }
                @if body.is_object() {
                    dt { "Body" }
                    dd { (type_of(body)) }
                }
                @for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                    dt { code { (status) } }
                    dd {
                        (prose(text(&response["description"]))) " "
                        (type_of(&response["content"]["application/json"]["schema"]))
                    }
                }
            }
        }
    }
}

fn schema(name: &str, schema: &Value) -> Markup {
    let required = |field: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == field));
    let fields = schema["properties"].as_object().into_iter().flatten();
    let variants = schema["oneOf"].as_array().or(schema["enum"].as_array()).into_iter().flatten();
    html! {
        article id=(format!("schema-{name}")) {
            h3 { code { (name) } }
            p { (prose(text(&schema["description"]))) }
            dl {
                @for (field, of) in fields {
                    dt { code { (field) } @if !required(field) { " (optional)" } }
                    dd { (type_of(of)) " " (prose(text(&of["description"]))) }
                }
                @for variant in variants {
                    @if let Some(word) = variant["const"].as_str().or(variant.as_str()) {
                        dt { code { (word) } }
                        dd { (prose(text(&variant["description"]))) }
                    }
                }
            }
        }
    }
}

/// The type of a value, with a link to its schema.
fn type_of(schema: &Value) -> Markup {
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    let mut all =
        std::iter::once(schema).chain(alternatives).chain([&schema["items"], &schema["additionalProperties"]]);
    let reference = all.find_map(|one| one["$ref"].as_str()?.rsplit('/').next());
    html! {
        @match reference {
            Some(name) => a href=(format!("#schema-{name}")) { (name) },
            None => @if let Some(name) = schema["type"].as_str() { em { (name) } },
        }
        @if schema["type"] == "array" && reference.is_some() { " (a list)" }
    }
}

/// A text whose parts between backticks are code.
fn prose(text: &str) -> Markup {
    // Without its other half, a backtick is a letter.
    let is_closed = text.matches('`').count().is_multiple_of(2);
    html! {
        @if is_closed {
            @for (at, part) in text.split('`').enumerate() {
                @if !at.is_multiple_of(2) { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
