//! The bodies of HTTP requests that are no input of relink. The inputs are in `input`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// An operator removes a dead letter for ever. The body may be empty. Both texts go to the log of relink.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {
    /// The name of the operator.
    #[serde(default)]
    pub by: Option<String>,
    /// Why the message is not needed.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A user wants to repair a link. The body may be empty.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// The language of the hosted widget: `es`, `pt` or `en`. Not for a link with a consent.
    #[serde(default)]
    #[schemars(extend("enum" = ["es", "pt", "en", null]))]
    pub locale: Option<String>,
    /// Belvo's `widget` object, which relink passes on; required for a link with a consent.
    #[serde(default)]
    pub widget: Option<Map<String, Value>>,
}
