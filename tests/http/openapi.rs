//! The description of the HTTP API: every answer in these tests is compared with it, and both of its addresses answer.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::Validator;
use relink::contract::Operation;
use reqwest::Method;
use serde_json::{Value, json};
use strum::VariantArray;

use crate::bench::{API_TOKEN, Answer, Bench, LINK, answer};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../schemas/openapi.json")).unwrap());

/// Checks that the document has the status of an answer, and that the body has the schema of that status. Paths and methods that the
/// document does not have are ignored.
pub(crate) fn check(method: &Method, path: &str, answer: &Answer) {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let Some(operation) = paths.iter().find(|(pattern, _)| matches(pattern, path)) else { return };
    let operation = &operation.1[method.as_str().to_lowercase()];
    // The proxy has an address of its own, where a path may have the same name.
    if operation.is_null() || answer.body["type"] == "urn:relink:problem:not-belvos" {
        return;
    }
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "openapi.json has no {} of {method} {path}: {}", answer.status, answer.text);
    let response = response["$ref"].as_str().map_or(response, |reference| DOCUMENT.pointer(&reference[1..]).unwrap());
    let media_type = answer.headers["content-type"].to_str().unwrap();
    let schema = &response["content"][media_type]["schema"];
    assert!(schema.is_object(), "openapi.json has no {media_type} for {} of {method} {path}", answer.status);
    // The schema of a stream is that of each event.
    let bodies: Vec<Value> = match media_type {
        "text/event-stream" => {
            let data = answer.text.lines().filter_map(|line| line.strip_prefix("data: "));
            data.map(|event| serde_json::from_str(event).unwrap()).collect()
        }
        _ => vec![answer.body.clone()],
    };
    let validator = validator(schema);
    for body in &bodies {
        let errors: Vec<String> = validator.iter_errors(body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{} of {method} {path}: {errors:?}: {body}", answer.status);
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(wanted), Some(part)) if wanted == part || (wanted.starts_with('{') && !part.is_empty()) => {}
            _ => return false,
        }
    }
}

fn validator(schema: &Value) -> Validator {
    let mut whole =
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"]});
    whole.as_object_mut().unwrap().extend(schema.as_object().unwrap().clone());
    jsonschema::validator_for(&whole).unwrap()
}

/// The method and the address of a request for the operation, which does not wait.
pub(crate) fn request_for(operation: Operation) -> (Method, String) {
    let row = operation.row();
    let path = row.path.replace("{id}", LINK).replace("{sequence}", "1").replace("events", "events?wait=0");
    let method = match row.method {
        relink::contract::Method::Get => Method::GET,
        relink::contract::Method::Post => Method::POST,
    };
    (method, path)
}

#[tokio::test]
async fn every_operation_of_the_document_has_a_route() {
    let bench = Bench::new().await;
    for operation in Operation::VARIANTS {
        let (method, path) = request_for(*operation);
        let answered = answer(bench.request(method.clone(), &path).bearer_auth(API_TOKEN)).await;
        let is_missing = answered.status == 405 || answered.text.contains("no resource at");
        assert!(!is_missing, "{method} {path}: {}", answered.text);
    }
}

#[tokio::test]
async fn the_document_and_its_page_are_served_without_credentials() {
    let bench = Bench::with(&[]).await;
    let served = answer(bench.request(Method::GET, "/openapi.json")).await;
    assert_eq!(served.body, *DOCUMENT);
    for path in ["/openapi.json", "/openapi", "/openapi.css", "/console"] {
        let types = answer(bench.request(Method::GET, path)).await.headers.get_all("content-type").iter().count();
        assert_eq!(types, 1, "{path}");
    }
    let page = answer(bench.request(Method::GET, "/openapi")).await;
    assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    for operation in Operation::VARIANTS {
        assert!(page.text.contains(&format!("id=\"{}\"", operation.as_str())), "{}", operation.as_str());
    }
    let ids: BTreeSet<&str> = page.text.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for target in page.text.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(target), "the page has a link to #{target}, which is not there");
    }
}
