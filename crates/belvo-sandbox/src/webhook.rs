//! The content of a webhook, in the shapes that Belvo has used over the years.
//!
//! As at Belvo, bodies contain no time, no sequence and no attempt counter. For the delivery see
//! [`super::dispatcher`]. Next: [`super::family`] for the codes and data of each resource.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::family;
use crate::link::Link;

/// Which generation of Belvo's envelope to send (webhook docs, several versions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadShape {
    /// All fields.
    #[default]
    Current,
    /// The envelope of 2022 and 2023, without `process_type`.
    Mid,
    /// The envelope of 2021 and 2022, without `process_type`, `request_id` and `external_id`.
    Oldest,
}

/// A bank's correction of earlier transactions (webhook docs, Transactions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// The transactions were changed.
    Updated,
    /// The transactions were deleted.
    Deleted,
}

impl Correction {
    fn code(self) -> &'static str {
        match self {
            Self::Updated => "transactions_updated",
            Self::Deleted => "transactions_deleted",
        }
    }
}

/// A webhook without its envelope.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Webhook {
    /// The family: `LINK`, `CONSENT`, `ACCOUNTS`, …
    pub(crate) webhook_type: String,
    /// The reason: `historical_update` or `recurrent_update`; the docs have no table of the values.
    pub(crate) process_type: Option<String>,
    /// The code.
    pub(crate) webhook_code: String,
    /// The link it is about.
    pub(crate) link_id: Uuid,
    /// The id of its refresh; the consent family has none.
    pub(crate) request_id: Option<Uuid>,
    /// The customer's id of the user; it may be null.
    pub(crate) external_id: Option<String>,
    /// Counts and reasons, never the data itself.
    pub(crate) data: Value,
}

impl Webhook {
    /// LINK family: the scheduled refresh could not log in (webhook docs, Links).
    pub(crate) fn invalid_credentials(link: &Link, request_id: Uuid, message: &str) -> Self {
        let data = json!({"error_code": "login_error", "error_message": message, "status": 400});
        Self::recurrent(link, "LINK", "invalid_credentials", request_id, data)
    }

    /// LINK family: the bank required a token at the scheduled refresh. The docs show no session in it.
    pub(crate) fn token_required(link: &Link, request_id: Uuid) -> Self {
        let data = json!({
            "error_code": "token_required",
            "error_message": "A MFA token is required by the institution to login",
            "status": 428,
        });
        Self::recurrent(link, "LINK", "token_required", request_id, data)
    }

    /// LINK family: an asynchronous DELETE is finished. Only the name is documented.
    pub(crate) fn link_deleted(link: &Link, request_id: Uuid) -> Self {
        Self { process_type: None, ..Self::recurrent(link, "LINK", "link_deleted", request_id, json!({})) }
    }

    /// Resource families after a creation, a repair, or `refresh/`: a resource without collected data has its first history.
    pub(crate) fn historical(link: &Link, resources: &[String], request_id: Uuid, now: i64) -> Vec<Self> {
        let mut webhooks = Vec::new();
        for resource in resources {
            for (code, data) in family::history(resource, !link.collected.contains(resource), now) {
                webhooks.push(Self {
                    process_type: Some("historical_update".into()),
                    ..Self::recurrent(link, resource, code, request_id, data)
                });
            }
        }
        webhooks
    }

    /// Resource families after a scheduled refresh with new data.
    pub(crate) fn new_data(link: &Link, resources: &[String], request_id: Uuid) -> Vec<Self> {
        let news = resources.iter().filter_map(|resource| Some((resource, family::news(resource)?)));
        news.map(|(resource, (code, data))| Self::recurrent(link, resource, code, request_id, data)).collect()
    }

    /// TRANSACTIONS family: the bank corrected some of them. Single links get this webhook too.
    pub(crate) fn corrected(link: &Link, correction: Correction, request_id: Uuid) -> Self {
        Self::recurrent(link, "TRANSACTIONS", correction.code(), request_id, json!({"count": 2}))
    }

    fn recurrent(link: &Link, webhook_type: &str, code: &str, request_id: Uuid, data: Value) -> Self {
        Self {
            webhook_type: webhook_type.into(),
            process_type: Some("recurrent_update".into()),
            webhook_code: code.into(),
            link_id: link.id,
            request_id: Some(request_id),
            external_id: link.external_id.clone(),
            data,
        }
    }

    /// The body, in the shape of its generation.
    pub(crate) fn to_body(&self, webhook_id: &str, shape: PayloadShape) -> Value {
        let mut body = Map::new();
        body.insert("webhook_id".into(), json!(webhook_id));
        body.insert("webhook_type".into(), json!(self.webhook_type));
        if let (PayloadShape::Current, Some(process_type)) = (shape, &self.process_type) {
            body.insert("process_type".into(), json!(process_type));
        }
        body.insert("webhook_code".into(), json!(self.webhook_code));
        body.insert("link_id".into(), json!(self.link_id));
        if shape != PayloadShape::Oldest {
            if let Some(request_id) = self.request_id {
                body.insert("request_id".into(), json!(request_id));
            }
            body.insert("external_id".into(), json!(self.external_id));
        }
        body.insert("data".into(), self.data.clone());
        Value::Object(body)
    }
}
