//! The AsyncAPI 3.0 document: the subjects, the message on each subject, its sender, and the delivery guarantees.
//!
//! AsyncAPI describes an application from its own side: relink *receives* the messages that others publish and *sends*
//! the messages that others subscribe to.

use serde_json::{Map, Value, json};
use strum::VariantArray;

use super::MessageSchema;
use super::examples::Example;
use crate::contract::DeadReason;

/// The delivery guarantee of every message that relink sends. docs/guarantees.md repeats it.
const GUARANTEE: &str = "The effects of an input are in the stream `KV_links` exactly once; subscribers receive them \
    at least once, with a stable id (`ce-id`). A subscriber that drops repeated ids sees each effect once.";

/// The instructions for publishers.
const PUBLISHING: &str = "Publish through JetStream and wait for its acknowledgement: only then is the message stored. \
    It may be published again; relink recognises a repeated fact. The subject names the kind of the message; the \
    CloudEvents headers are optional. A message that cannot be read is dead-lettered on `relink.dead.<reason>`.";

/// A channel: its name, its message, its subject with parameters in braces, its direction and its description.
struct Channel {
    name: &'static str,
    message: &'static str,
    address: &'static str,
    is_input: bool,
    about: &'static str,
}

const CHANNELS: [Channel; 15] = [
    input("belvo.webhook", "belvo.webhook.{link_id}", "Webhooks of Belvo."),
    input("belvo.api_error", "belvo.api_error.{link_id}", "Errors that Belvo's API answered to calls of yours."),
    input("belvo.widget", "belvo.widget.{link_id}", "Events of the Connect Widget in update mode."),
    input("belvo.observation", "belvo.observation.{link_id}", "Results of reading a link or its consent from Belvo."),
    input("belvo.command", "belvo.command.{link_id}", "Commands of an operator about a link."),
    input(
        "belvo.institution_status",
        "belvo.institution_status.status-page",
        "Webhooks of Belvo's status page, about institutions.",
    ),
    output("link.notice", "link.notice.{type}.{link_id}", "Notices about a link. Subscribe here."),
    Channel {
        name: "link.observed",
        ..output(
            "link.notice",
            "link.observed.{type}.{link_id}",
            "Notices that relink would send, while it only observes. Nobody has to act on them.",
        )
    },
    output(
        "link.state",
        "$KV.links.{link_id}",
        "The state of a link: the value of the key `link_id` in the key-value bucket `links`, with its history.",
    ),
    output("link.job", "link.job.{type}.{link_id}", "Calls to Belvo, which relink makes itself."),
    output("link.refused", "link.refused.{link_id}", "Messages that changed nothing, and the reason."),
    output(
        "link.incident",
        "link.incident.{institution}",
        "The start and the end of an incident of an institution. For operations.",
    ),
    output("link.offset", "link.offset.{partition}", "The last handled input of a partition. For relink itself."),
    output("link.fence", "link.fence.{partition}", "The owner of a partition. For relink itself."),
    output("link.commit", "link.commit.{writer}", "The last message of each commit of one process. For relink itself."),
];

const fn input(message: &'static str, address: &'static str, about: &'static str) -> Channel {
    Channel { name: message, message, address, is_input: true, about }
}

const fn output(message: &'static str, address: &'static str, about: &'static str) -> Channel {
    Channel { name: message, message, address, is_input: false, about }
}

/// The document.
pub(super) fn document(schemas: &[MessageSchema], examples: &[Example]) -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    for channel in &CHANNELS {
        let name = channel.message;
        let schema = schemas.iter().find(|schema| schema.name == name).expect("every channel's message has a schema");
        let of_name: Vec<&Example> = examples.iter().filter(|example| example.name == name).collect();
        channels.insert(channel.name.to_owned(), self::channel(channel, &of_name));
        let (id, operation) = operation(channel);
        operations.insert(id, operation);
        messages.insert(name.to_owned(), message(schema, channel.is_input, &of_name));
    }
    json!({
        "asyncapi": "3.1.0",
        "id": "urn:relink:asyncapi:1",
        "info": {
            "title": "relink",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "{}\n\n{GUARANTEE}\n\n{PUBLISHING}\n\nThe reasons of dead letters: {}. The prefixes \
                 `belvo` and `link` can be configured.",
                env!("CARGO_PKG_DESCRIPTION"),
                dead_reasons(),
            ),
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "NATS with JetStream. Inputs are the stream `BELVO`, outputs the stream `KV_links`.",
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"SentHeaders": sent_headers(), "ReceivedHeaders": received_headers()},
        },
    })
}

fn channel(channel: &Channel, examples: &[&Example]) -> Value {
    let mut parameters = Map::new();
    for token in channel.address.split('.').filter_map(|token| token.strip_prefix('{')?.strip_suffix('}')) {
        parameters.insert(token.to_owned(), parameter(token, channel.message, examples));
    }
    json!({
        "address": channel.address,
        "description": channel.about,
        "parameters": parameters,
        "messages": {(short(channel)): {"$ref": format!("#/components/messages/{}", channel.message)}},
    })
}

fn parameter(token: &str, message: &str, examples: &[&Example]) -> Value {
    match token {
        "type" => {
            let variants: Vec<&str> = examples.iter().filter_map(|example| example.variant.as_deref()).collect();
            json!({"description": format!("The `type` of the {}.", message.trim_start_matches("link.")), "enum": variants})
        }
        "institution" => json!({
            "description": "Belvo's name of the institution; a name that is not a valid token is replaced by one with a hash.",
            "examples": ["erebor_mx_retail"],
        }),
        "partition" => json!({"description": "The partition of the input stream, from 0."}),
        "writer" => json!({"description": "A name that only one process of relink has."}),
        _link_id => json!({
            "description": "Belvo's id of the link, in lower case: 1 to 64 of `A-Z a-z 0-9 _ -`.",
            "examples": ["16f68516-bcbc-4cf7-b815-c500d4204e28"],
        }),
    }
}

fn operation(channel: &Channel) -> (String, Value) {
    let (action, promise) = if channel.is_input { ("receive", PUBLISHING) } else { ("send", GUARANTEE) };
    let operation = json!({
        "action": action,
        "channel": {"$ref": format!("#/channels/{}", channel.name)},
        "messages": [{"$ref": format!("#/channels/{}/messages/{}", channel.name, short(channel))}],
        "summary": channel.about,
        "description": promise,
    });
    (format!("{action}_{}", short(channel)), operation)
}

/// The last token of a channel's name.
fn short(channel: &Channel) -> &'static str {
    channel.name.rsplit('.').next().unwrap_or(channel.name)
}

fn message(schema: &MessageSchema, is_input: bool, examples: &[&Example]) -> Value {
    let headers = if is_input { "ReceivedHeaders" } else { "SentHeaders" };
    let examples: Vec<Value> = examples
        .iter()
        .map(|example| {
            let headers: Map<String, Value> =
                example.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            let name = example.variant.as_deref().unwrap_or(&example.name);
            json!({"name": name, "headers": headers, "payload": example.body})
        })
        .collect();
    json!({
        "name": schema.name,
        "title": schema.schema["title"],
        "summary": schema.description(),
        "contentType": "application/json",
        "headers": {
            "allOf": [
                {"$ref": format!("#/components/schemas/{headers}")},
                {"type": "object", "properties": {"ce-dataschema": {"type": "string", "const": schema.urn()}}},
            ],
        },
        "payload": {"$ref": format!("./{}", schema.file())},
        "examples": examples,
    })
}

/// CloudEvents 1.0 in the NATS binding, binary mode, as relink writes it.
fn sent_headers() -> Value {
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in the NATS binding, binary mode.",
        "required": [
            "ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time", "ce-dataschema", "content-type",
        ],
        "properties": {
            "ce-specversion": {"type": "string", "const": "1.0"},
            "ce-id": {
                "type": "string",
                "description": "The same at every delivery, so drop the ids that you have seen. `<link>.<version>.<n>` for the messages of a link.",
            },
            "ce-source": {"type": "string", "const": "/relink"},
            "ce-type": {"type": "string", "description": "`relink.` and the subject without its last token."},
            "ce-subject": {"type": "string", "description": "The link id; absent if the message belongs to no link."},
            "ce-time": {"type": "string", "format": "date-time", "description": "The time of the transition."},
            "ce-dataschema": {"type": "string", "description": "The `$id` of the schema of the body."},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": traceparent("The span that the message follows from, in the form of W3C Trace Context; absent without a trace."),
            "tracestate": tracestate(),
        },
    })
}

fn traceparent(description: &str) -> Value {
    json!({"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", "description": description})
}

fn tracestate() -> Value {
    json!({"type": "string", "maxLength": 512, "description": "The `tracestate` of the input, unchanged."})
}

/// The headers of the messages that other programs publish; all of them are optional.
fn received_headers() -> Value {
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in the NATS binding, binary mode; optional. A message with an unknown version is dead-lettered.",
        "properties": {
            "ce-specversion": {"type": "string", "const": "1.0"},
            "ce-id": {"type": "string", "description": "Messages that result from this one contain the id in `because.origin`."},
            "ce-source": {"type": "string"},
            "ce-type": {"type": "string"},
            "ce-time": {"type": "string", "format": "date-time"},
            "ce-dataschema": {"type": "string"},
            "content-type": {"type": "string"},
            "traceparent": {
                "type": "string",
                "description": "W3C Trace Context: the messages that result from this one belong to the same trace. A wrong value is ignored.",
            },
            "tracestate": {"type": "string", "description": "Passed on, up to 512 bytes."},
        },
    })
}

fn dead_reasons() -> String {
    DeadReason::VARIANTS.iter().map(|reason| format!("`{}`", reason.as_str())).collect::<Vec<_>>().join(", ")
}
