//! The OpenAPI 3.1 document of the HTTP API, from the table of its operations in `contract`.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use strum::VariantArray;

use super::unwrap_lines;
use crate::contract::{
    Access, Answer, Method, Operation, Parameter, ParameterKind, ProblemBody, Row, Scope, Shape, StateWord,
};

/// Where the document has its schemas.
const SCHEMAS: &str = "/components/schemas";

const ABOUT: &str = "Every error is an `application/problem+json` (RFC 9457). relink ignores fields that it does not know, and refuses \
    unknown parameters of a query. Within `/v1`, answers only gain optional fields.\n\nWhat relink sends on NATS is in `asyncapi.json`.";

/// The statuses of problems that every operation can have.
const COMMON_PROBLEMS: [(u16, &str); 2] = [
    (500, "relink failed, which is a bug."),
    (503, "relink cannot do this now; `Retry-After` says when to try again."),
];

/// The document.
pub(super) fn document() -> Value {
    let mut generators = Generators::new();
    let mut paths = Map::new();
    for operation in Operation::VARIANTS {
        let row = operation.row();
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[method(row.method)] = generators.operation(*operation, &row);
    }
    let problem = generators.written(|generator| generator.subschema_for::<ProblemBody>());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "relink",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "description": ABOUT,
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "report", "description": "Report to relink what your application sees."},
            {"name": "read", "description": "Links, institutions and dead letters."},
            {"name": "repair", "description": "The repair of a link by its user."},
            {"name": "operate", "description": "Commands of operators."},
            {"name": "webhooks", "description": "For Belvo."},
            {"name": "monitoring", "description": "For load balancers and monitoring."},
        ],
        "paths": paths,
        "components": {
            "schemas": generators.definitions(),
            "responses": {
                "Problem": {
                    "description": "The request has failed.",
                    "content": {"application/problem+json": {"schema": problem}},
                },
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": scopes()},
                "webhookSecret": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "The whole value is one of RELINK_WEBHOOK_SECRETS.",
                },
                "statusSecret": {
                    "type": "apiKey", "in": "query", "name": "secret",
                    "description": "One of RELINK_STATUS_WEBHOOK_SECRETS.",
                },
            },
        },
    })
}

fn scopes() -> String {
    let scopes: Vec<_> = Scope::VARIANTS.iter().map(|scope| format!("`{scope}`")).collect();
    format!(
        "One of RELINK_API_TOKENS, which may do everything, or of RELINK_NAMED_API_TOKENS, which have scopes: {}.",
        scopes.join(", ")
    )
}

const fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Post => "post",
    }
}

/// The schemas of requests and of answers: in an answer, a field that is always written is required.
struct Generators {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Generators {
    fn new() -> Self {
        let settings = || SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = SCHEMAS.into());
        Self {
            read: settings().for_deserialize().into_generator(),
            written: settings().for_serialize().into_generator(),
        }
    }

    fn written(&mut self, shape: Shape) -> Value {
        shape(&mut self.written).to_value()
    }

    /// All schemas that the document refers to.
    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.written.take_definitions(true);
        for (name, schema) in self.read.take_definitions(true) {
            let same = all.get(&name).is_none_or(|written| *written == schema);
            assert!(same, "the schema {name} of requests is not that of answers");
            all.insert(name, schema);
        }
        for schema in all.values_mut() {
            let mut plain = Schema::try_from(schema.take()).expect("a definition is a schema");
            RecursiveTransform(unwrap_lines).transform(&mut plain);
            // The examples of messages are files of their own.
            plain.remove("examples");
            *schema = plain.to_value();
        }
        all
    }

    fn operation(&mut self, operation: Operation, row: &Row) -> Value {
        let (tag, security) = match row.access {
            Access::Token(scope) => (scope.to_string(), json!([{"token": []}])),
            Access::WebhookSecret => ("webhooks".to_owned(), json!([{"webhookSecret": []}])),
            Access::StatusSecret => ("webhooks".to_owned(), json!([{"statusSecret": []}, {"webhookSecret": []}])),
            Access::Open => ("monitoring".to_owned(), json!([])),
        };
        let mut object = json!({
            "operationId": operation.as_str(),
            "tags": [tag],
            "summary": row.summary,
            "security": security,
            "responses": self.responses(operation, row),
        });
        let mut parameters: Vec<Value> = path_parameters(row.path).collect();
        // The secret of the status page is a credential and no parameter.
        let query = row.query.iter().filter(|_| row.access != Access::StatusSecret);
        parameters.extend(query.map(|parameter| self.parameter(parameter)));
        if !parameters.is_empty() {
            object["parameters"] = parameters.into();
        }
        let scope = operation.scope().map(|scope| format!("Needs a token with the scope `{scope}`."));
        let about: Vec<String> =
            [row.about.to_owned()].into_iter().filter(|about| !about.is_empty()).chain(scope).collect();
        if !about.is_empty() {
            object["description"] = about.join(" ").into();
        }
        if let Some(body) = row.body {
            object["requestBody"] = json!({
                "required": !body.may_be_empty,
                "content": {"application/json": {"schema": (body.shape)(&mut self.read)}},
            });
        }
        object
    }

    fn responses(&mut self, operation: Operation, row: &Row) -> Map<String, Value> {
        let mut responses = Map::new();
        for Answer { status, about, body, is_stream } in row.answers {
            let media_type = if *is_stream { "text/event-stream" } else { "application/json" };
            let mut response = json!({
                "description": about,
                "content": {media_type: {"schema": self.written(*body)}},
            });
            if operation.is_from_store() {
                response["headers"] = json!({"Relink-As-Of": {
                    "description": "The answer has every change that was in `KV_links` at this time; absent while relink catches up \
                        after its start.",
                    "schema": {"type": "string", "format": "date-time"},
                }});
            }
            responses.insert(status.to_string(), response);
        }
        for (status, about) in problems(row) {
            let mut response = json!({"$ref": "#/components/responses/Problem"});
            response["description"] = about.into();
            responses.insert(status.to_string(), response);
        }
        responses
    }

    fn parameter(&mut self, parameter: &Parameter) -> Value {
        let schema = match parameter.kind {
            ParameterKind::Text => json!({"type": "string"}),
            ParameterKind::State => self.read.subschema_for::<StateWord>().to_value(),
            // An empty value counts as none.
            ParameterKind::Link => json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{0,64}$"}),
            ParameterKind::Number => sequence(),
            ParameterKind::Seconds { max } => json!({"type": "integer", "minimum": 0, "maximum": max, "default": max}),
            ParameterKind::Limit { default, max } => {
                json!({"type": "integer", "minimum": 1, "maximum": max, "default": default})
            }
        };
        json!({"name": parameter.name, "in": "query", "description": parameter.about, "schema": schema})
    }
}

/// The statuses of problems, and what each means.
fn problems(row: &Row) -> Vec<(u16, &'static str)> {
    let mut all = COMMON_PROBLEMS.to_vec();
    all.push((400, "A parameter has a wrong value, or the body is not JSON."));
    match row.access {
        Access::Token(_) => {
            all.push((401, "There is no valid token."));
            all.push((403, "The token does not have the scope."));
        }
        Access::WebhookSecret | Access::StatusSecret => all.push((401, "The secret is missing or wrong.")),
        Access::Open => {}
    }
    if row.body.is_some() {
        all.extend([
            (408, "The body took too long to arrive."),
            (413, "The body is too large."),
            (415, "The body is not JSON, or has an unknown compression."),
            (422, "The body has the wrong shape."),
        ]);
    }
    all.extend(row.problems.iter().map(|&status| match status {
        404 => (status, "There is none with this id."),
        409 => (status, "It cannot be replayed."),
        _ => (status, "Belvo, or the HTTP target, refused the request or did not answer."),
    }));
    all.sort_unstable();
    all
}

fn path_parameters(path: &'static str) -> impl Iterator<Item = Value> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let (about, schema) = match name {
            "sequence" => ("The number of the dead letter.", sequence()),
            _id => ("Belvo's id of the link.", link_id()),
        };
        json!({"name": name, "in": "path", "required": true, "description": about, "schema": schema})
    })
}

fn sequence() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u64::MAX})
}

fn link_id() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"})
}
