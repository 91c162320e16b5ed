//! Compares two JSON Schemas and finds what breaks a program that was written for the older one.
//!
//! It knows the keywords that the schemas of relink have; a test checks that there are no others. Two crates were tried: `json-schema-diff`
//! 0.1.8 reads draft 07 only and names itself a work in progress, and `vld::diff` compares the branches of `oneOf` by their position and
//! knows only the direction of a request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Who writes the messages of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Clients: relink must go on accepting everything that it accepted.
    ByClients,
    /// relink: it must write nothing that a client does not expect.
    ByRelink,
}

/// The keywords that bound a value, and whether a larger value allows more.
const BOUNDS: &[(&str, bool)] = &[
    ("minimum", false),
    ("maximum", true),
    ("minLength", false),
    ("maxLength", true),
    ("minItems", false),
    ("maxItems", true),
];

/// The keywords of which every difference may break a program.
const FORMS: &[&str] = &["format", "pattern"];

/// Every other keyword that is compared, or that says nothing about the values.
const OTHERS: &[&str] = &[
    "$defs",
    "$id",
    "$ref",
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "default",
    "deprecated",
    "description",
    "enum",
    "examples",
    "items",
    "oneOf",
    "properties",
    "required",
    "title",
    "type",
];

/// A document and the schemas in it.
pub(crate) struct Schemas<'a> {
    pub(crate) old: &'a Value,
    pub(crate) new: &'a Value,
}

/// One comparison.
struct Comparison<'a> {
    schemas: &'a Schemas<'a>,
    written: Written,
    breaks: Vec<String>,
    /// The pairs of references that are being compared, so that a schema that contains itself ends.
    open: BTreeSet<(String, String)>,
}

/// What breaks programs between two schemas of these documents, each as a path and a clause.
pub(crate) fn breaks(schemas: &Schemas<'_>, old: &Value, new: &Value, written: Written, path: &str) -> Vec<String> {
    let mut comparison = Comparison { schemas, written, breaks: Vec::new(), open: BTreeSet::new() };
    comparison.compare(old, new, path);
    comparison.breaks
}

/// The keywords below a schema that this file does not know.
pub(crate) fn unknown_keywords(schema: &Value) -> BTreeSet<String> {
    let mut unknown = BTreeSet::new();
    let Value::Object(fields) = schema else { return unknown };
    for (keyword, value) in fields {
        let is_known = OTHERS.contains(&keyword.as_str())
            || FORMS.contains(&keyword.as_str())
            || BOUNDS.iter().any(|(bound, _)| bound == keyword);
        if !is_known {
            unknown.insert(keyword.clone());
        }
        let below: Vec<&Value> = match (keyword.as_str(), value) {
            ("properties" | "$defs", Value::Object(schemas)) => schemas.values().collect(),
            ("oneOf" | "anyOf", Value::Array(schemas)) => schemas.iter().collect(),
            ("items" | "additionalProperties", schema) => vec![schema],
            _ => Vec::new(),
        };
        unknown.extend(below.into_iter().flat_map(unknown_keywords));
    }
    unknown
}

impl Comparison<'_> {
    fn note(&mut self, path: &str, what: impl std::fmt::Display) {
        self.breaks.push(format!("{path}: {what}"));
    }

    fn compare(&mut self, old: &Value, new: &Value, path: &str) {
        let reference = |schema: &Value| schema["$ref"].as_str().unwrap_or_default().to_owned();
        let pair = (reference(old), reference(new));
        let is_recursive = !pair.0.is_empty() && !pair.1.is_empty();
        if is_recursive && !self.open.insert(pair.clone()) {
            return;
        }
        let (old, new) = (alternatives(self.schemas.old, old), alternatives(self.schemas.new, new));
        for (name, schema) in &old {
            match partner(&new, name) {
                Some(other) => self.compare_one(schema, other, &at(path, name, old.len())),
                None if self.written == Written::ByClients => {
                    self.note(path, format_args!("{name} is no longer accepted"));
                }
                None => {}
            }
        }
        if self.written == Written::ByRelink {
            for name in new.keys().filter(|name| partner(&old, name).is_none()) {
                self.note(path, format_args!("{name} may be written now"));
            }
        }
        if is_recursive {
            self.open.remove(&pair);
        }
    }

    /// Compares two schemas without alternatives.
    fn compare_one(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, path: &str) {
        self.compare_bounds(old, new, path);
        let none = Map::new();
        let fields =
            |schema: &Map<String, Value>| schema.get("properties").and_then(Value::as_object).unwrap_or(&none).clone();
        let (old_fields, new_fields) = (fields(old), fields(new));
        for (name, schema) in &old_fields {
            match new_fields.get(name) {
                Some(other) => self.compare(schema, other, &format!("{path}.{name}")),
                None => self.note(&format!("{path}.{name}"), "the field is removed"),
            }
        }
        let required = |schema: &Map<String, Value>| -> BTreeSet<String> {
            let names = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (old_required, new_required) = (required(old), required(new));
        match self.written {
            Written::ByClients => {
                for name in new_required.difference(&old_required) {
                    self.note(&format!("{path}.{name}"), "the field is required now");
                }
            }
            Written::ByRelink => {
                for name in old_required.difference(&new_required).filter(|name| new_fields.contains_key(*name)) {
                    self.note(&format!("{path}.{name}"), "the field may be absent now");
                }
            }
        }
        let is_closed = |schema: &Map<String, Value>| schema.get("additionalProperties") == Some(&Value::Bool(false));
        match self.written {
            Written::ByClients if is_closed(new) && !is_closed(old) => self.note(path, "other fields are refused now"),
            Written::ByRelink if is_closed(old) => {
                for name in new_fields.keys().filter(|name| !old_fields.contains_key(*name)) {
                    self.note(&format!("{path}.{name}"), "the field is new, and no other fields were allowed");
                }
            }
            Written::ByClients | Written::ByRelink => {}
        }
        for (keyword, step) in [("items", "[]"), ("additionalProperties", ".*")] {
            let schema = |schema: &Map<String, Value>| schema.get(keyword).filter(|value| value.is_object()).cloned();
            if let (Some(old), Some(new)) = (schema(old), schema(new)) {
                self.compare(&old, &new, &format!("{path}{step}"));
            }
        }
    }

    fn compare_bounds(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, path: &str) {
        for (keyword, larger_allows_more) in BOUNDS {
            let bound = |schema: &Map<String, Value>| schema.get(*keyword).and_then(Value::as_f64);
            let (old, new) = (bound(old), bound(new));
            // Without a bound, everything is allowed.
            let allowance = |bound: Option<f64>| {
                bound.map_or(f64::INFINITY, |bound| if *larger_allows_more { bound } else { -bound })
            };
            let allows_less = allowance(new) < allowance(old);
            let allows_more = allowance(new) > allowance(old);
            let is_break = if self.written == Written::ByClients { allows_less } else { allows_more };
            if is_break {
                self.note(path, format_args!("{keyword} has changed from {old:?} to {new:?}"));
            }
        }
        for keyword in FORMS {
            let (old, new) = (old.get(*keyword), new.get(*keyword));
            // Who wrote for the older form may write what the newer one refuses, and the other way round.
            let has_promise = if self.written == Written::ByClients { new.is_some() } else { old.is_some() };
            if old != new && has_promise {
                self.note(path, format_args!("{keyword} has changed"));
            }
        }
    }
}

/// The path of an alternative; one that is alone adds nothing.
fn at(path: &str, name: &str, count: usize) -> String {
    if count == 1 { path.to_owned() } else { format!("{path}<{name}>") }
}

/// The schema that allows the alternative `name`: the same one, or every value of its type.
fn partner<'a>(all: &'a BTreeMap<String, Map<String, Value>>, name: &str) -> Option<&'a Map<String, Value>> {
    let number_of = |text: &str| text.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    let general = if name.starts_with('"') {
        "string"
    } else if number_of(name) {
        "integer"
    } else {
        "any value"
    };
    all.get(name).or_else(|| all.get(general)).or_else(|| all.get("any value"))
}

/// The alternatives of a schema, by a name: the type, the value of a constant, or, of an object, its constant fields.
fn alternatives(document: &Value, schema: &Value) -> BTreeMap<String, Map<String, Value>> {
    let mut named = BTreeMap::new();
    for alternative in flat(document, schema) {
        let name = name_of(document, &alternative);
        let mut unique = name.clone();
        let mut count = 1;
        while named.contains_key(&unique) {
            count += 1;
            unique = format!("{name} {count}");
        }
        named.insert(unique, alternative);
    }
    named
}

/// The schema as a list of schemas without references and alternatives.
fn flat(document: &Value, schema: &Value) -> Vec<Map<String, Value>> {
    let Value::Object(schema) = schema else {
        // `true` allows everything.
        return if schema == &json!(false) { Vec::new() } else { vec![Map::new()] };
    };
    let mut rest = schema.clone();
    for keyword in ["description", "title", "examples", "default", "$defs", "$id", "$schema", "deprecated"] {
        rest.remove(keyword);
    }
    if let Some(reference) = rest.remove("$ref") {
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).unwrap_or_default();
        let target = document.pointer(pointer).cloned().unwrap_or(Value::Bool(true));
        return joined(&rest, flat(document, &target));
    }
    for keyword in ["oneOf", "anyOf"] {
        if let Some(Value::Array(all)) = rest.remove(keyword) {
            return joined(&rest, all.iter().flat_map(|one| flat(document, one)).collect());
        }
    }
    if let Some(Value::Array(values)) = rest.remove("enum") {
        return values.into_iter().map(|value| with(&rest, "const", value)).collect();
    }
    if let Some(Value::Array(types)) = rest.get("type").cloned() {
        return types.into_iter().map(|name| with(&rest, "type", name)).collect();
    }
    vec![rest]
}

fn with(schema: &Map<String, Value>, keyword: &str, value: Value) -> Map<String, Value> {
    let mut schema = schema.clone();
    schema.insert(keyword.to_owned(), value);
    schema
}

/// Each of the alternatives together with the keywords beside them.
fn joined(beside: &Map<String, Value>, alternatives: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    let join = |mut alternative: Map<String, Value>| {
        for (keyword, value) in beside {
            match (keyword.as_str(), alternative.get_mut(keyword), value) {
                ("properties", Some(Value::Object(fields)), Value::Object(more)) => fields.extend(more.clone()),
                ("required", Some(Value::Array(names)), Value::Array(more)) => names.extend(more.clone()),
                _ => drop(alternative.insert(keyword.clone(), value.clone())),
            }
        }
        alternative
    };
    alternatives.into_iter().map(join).collect()
}

fn name_of(document: &Value, schema: &Map<String, Value>) -> String {
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("any value");
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let constants = fields.filter_map(|(name, field)| {
        let field = flat(document, field);
        let value = field.first().filter(|_| field.len() == 1)?.get("const")?.clone();
        Some(format!("{name}={value}"))
    });
    std::iter::once(kind.to_owned()).chain(constants).collect::<Vec<_>>().join(" ")
}
