//! Compares two versions of the published documents: the JSON Schemas, `asyncapi.json` and `openapi.json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json_schema::{Schemas, Written, breaks};

/// The documents of a version by the names of their files, without the examples.
pub(crate) type Documents = BTreeMap<String, Value>;

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// What breaks programs that were written for the older documents.
pub(crate) fn breaks_between(old: &Documents, new: &Documents) -> Vec<String> {
    let mut all = Vec::new();
    for (name, old) in old {
        let Some(new) = new.get(name) else {
            all.push(format!("{name}: the document is removed"));
            continue;
        };
        match name.as_str() {
            "asyncapi.json" => asyncapi(old, new, &mut all),
            "openapi.json" => openapi(old, new, &mut all),
            _ => {
                let written = if name.starts_with("belvo.") { Written::ByClients } else { Written::ByRelink };
                let path = name.split(".v").next().unwrap_or(name);
                all.extend(breaks(&Schemas { old, new }, old, new, written, path));
            }
        }
    }
    all
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The bodies are compared by their schemas, which are files of their own.
fn asyncapi(old: &Value, new: &Value, all: &mut Vec<String>) {
    for (name, channel) in entries(&old["channels"]) {
        let other = &new["channels"][name];
        if other.is_null() {
            all.push(format!("asyncapi channel {name}: it is removed"));
            continue;
        }
        if channel["address"] != other["address"] {
            all.push(format!(
                "asyncapi channel {name}: its address was {}, and is {}",
                channel["address"], other["address"]
            ));
        }
        for (id, message) in entries(&channel["messages"]) {
            if *message != other["messages"][id] {
                all.push(format!("asyncapi channel {name}: its message {id} is another one"));
            }
        }
    }
    for (id, operation) in entries(&old["operations"]) {
        let other = &new["operations"][id];
        if other.is_null() {
            all.push(format!("asyncapi operation {id}: it is removed"));
        } else if operation["action"] != other["action"] || operation["channel"] != other["channel"] {
            all.push(format!("asyncapi operation {id}: its action or its channel is another one"));
        }
    }
    for (name, message) in entries(&old["components"]["messages"]) {
        let other = &new["components"]["messages"][name];
        if !other.is_null() && message["contentType"] != other["contentType"] {
            all.push(format!("asyncapi message {name}: its content type is another one"));
        }
    }
}

fn openapi(old: &Value, new: &Value, all: &mut Vec<String>) {
    let schemas = Schemas { old, new };
    for (path, item) in entries(&old["paths"]) {
        for method in METHODS.into_iter().filter(|method| !item[method].is_null()) {
            let (operation, other) = (&item[method], &new["paths"][path][method]);
            let place = format!("{} {path}", method.to_uppercase());
            if other.is_null() {
                all.push(format!("{place}: the operation is removed"));
                continue;
            }
            parameters(&schemas, operation, other, &place, all);
            if operation["security"] != other["security"] {
                all.push(format!("{place}: it needs other credentials or another scope"));
            }
            bodies(
                &schemas,
                (&operation["requestBody"], &other["requestBody"]),
                Written::ByClients,
                &format!("{place} request"),
                all,
            );
            if other["requestBody"]["required"] == true && operation["requestBody"]["required"] != true {
                all.push(format!("{place} request: a body is required now"));
            }
            for (status, answer) in entries(&operation["responses"]).filter(|(status, _)| status.starts_with('2')) {
                let other = &other["responses"][status];
                if other.is_null() {
                    all.push(format!("{place}: it does not answer {status} any more"));
                    continue;
                }
                let pair = (resolved(old, answer), resolved(new, other));
                bodies(&schemas, pair, Written::ByRelink, &format!("{place} {status}"), all);
            }
        }
    }
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn parameters(schemas: &Schemas<'_>, old: &Value, new: &Value, place: &str, all: &mut Vec<String>) {
    let by_name = |operation: &Value, document: &Value| -> BTreeMap<String, Value> {
        let list = operation["parameters"].as_array().into_iter().flatten().map(|one| resolved(document, one).clone());
        list.map(|one| (format!("{} {}", one["in"].as_str().unwrap_or("?"), one["name"].as_str().unwrap_or("?")), one))
            .collect()
    };
    let (old_ones, new_ones) = (by_name(old, schemas.old), by_name(new, schemas.new));
    for (name, one) in &old_ones {
        match new_ones.get(name) {
            None => all.push(format!("{place} {name}: the parameter is removed")),
            Some(other) => {
                let path = format!("{place} {name}");
                all.extend(breaks(schemas, &one["schema"], &other["schema"], Written::ByClients, &path));
            }
        }
    }
    for (name, other) in &new_ones {
        let was_required = old_ones.get(name).is_some_and(|one| one["required"] == true);
        if other["required"] == true && !was_required {
            all.push(format!("{place} {name}: the parameter is required now"));
        }
    }
}

fn bodies(schemas: &Schemas<'_>, (old, new): (&Value, &Value), written: Written, place: &str, all: &mut Vec<String>) {
    for (media, content) in entries(&old["content"]) {
        let other = &new["content"][media];
        if other.is_null() {
            all.push(format!("{place}: {media} is removed"));
        } else if !content["schema"].is_null() {
            all.extend(breaks(schemas, &content["schema"], &other["schema"], written, place));
        }
    }
}
