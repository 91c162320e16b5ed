//! What a webhook says, in the shapes Belvo has used over the years.
//!
//! Bodies carry no time, no sequence and no attempt counter, because Belvo's carry none. Delivery is not here: see
//! [`super::courier`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::clock::belvo_date;
use super::link::Link;

/// Which generation of Belvo's envelope to send (webhook docs, several versions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadShape {
    /// All fields.
    #[default]
    Current,
    /// 2022–23: no `process_type`.
    Mid,
    /// 2021–22: no `process_type`, `request_id` or `external_id`.
    Oldest,
}

/// A webhook before it is put in its envelope.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Webhook {
    /// The family: `LINK`, `CONSENT`, `ACCOUNTS`, …
    pub(crate) webhook_type: String,
    /// Why it was sent: `historical_update` or `recurrent_update`; the table of values is in no copy of the docs.
    pub(crate) process_type: Option<String>,
    /// What happened.
    pub(crate) webhook_code: String,
    /// The link it is about.
    pub(crate) link_id: Uuid,
    /// The refresh it belongs to; the consent family has none.
    pub(crate) request_id: Option<Uuid>,
    /// What the customer calls the user; Belvo may leave it null.
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

    /// LINK family: the scheduled refresh was asked for a token. The docs show no session in it.
    pub(crate) fn token_required(link: &Link, request_id: Uuid) -> Self {
        let data = json!({
            "error_code": "token_required",
            "error_message": "A MFA token is required by the institution to login",
            "status": 428,
        });
        Self::recurrent(link, "LINK", "token_required", request_id, data)
    }

    /// Sent when an asynchronous DELETE is through. Only its name is documented.
    pub(crate) fn link_deleted(link: &Link, request_id: Uuid) -> Self {
        Self { process_type: None, ..Self::recurrent(link, "LINK", "link_deleted", request_id, json!({})) }
    }

    /// Resource families after a creation, a repair, or `refresh/`: one webhook per resource, two for tax returns.
    pub(crate) fn historical(link: &Link, resources: &[String], request_id: Uuid, now: i64) -> Vec<Self> {
        let mut webhooks = Vec::new();
        for resource in resources {
            for data in historical_data(resource, now) {
                webhooks.push(Self {
                    process_type: Some("historical_update".into()),
                    ..Self::recurrent(link, resource, "historical_update", request_id, data)
                });
            }
        }
        webhooks
    }

    /// Resource families after a scheduled refresh that found something.
    pub(crate) fn new_data(link: &Link, resources: &[String], request_id: Uuid) -> Vec<Self> {
        resources
            .iter()
            .filter(|resource| *resource != "TAX_STATUS")
            .map(|resource| {
                if resource == "EMPLOYMENT_RECORDS" {
                    // The one that is no `new_*_available` (webhook docs, Employment records).
                    let data = json!({"employment_changes": ["EMPLOYED"]});
                    return Self::recurrent(link, resource, "employment_changes", request_id, data);
                }
                let name = resource.to_lowercase();
                let mut data = Map::new();
                data.insert(format!("new_{name}"), json!(3));
                let code = format!("new_{name}_available");
                Self::recurrent(link, resource, &code, request_id, Value::Object(data))
            })
            .collect()
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

/// The counts of the `historical_update` of one resource, once per webhook of it.
fn historical_data(resource: &str, now: i64) -> Vec<Value> {
    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
    let (first, last) = (belvo_date(now - YEAR_MS), belvo_date(now));
    let one = |data: Value| vec![data];
    match resource {
        "ACCOUNTS" => one(json!({"total_accounts": 2})),
        "OWNERS" => one(json!({"total_owners": 1})),
        "TRANSACTIONS" => one(json!({
            "total_transactions": 24, "total_inflow_transactions": 8, "total_outflow_transactions": 16,
            "first_transaction_date": first, "last_transaction_date": last,
        })),
        "BILLS" => one(json!({"total_bills": 12})),
        "RECURRING_EXPENSES" => one(json!({"total_recurring_expenses": 4})),
        "RISK_INSIGHTS" => one(json!({"total_risk_insights": 1})),
        "INVOICES" => one(json!({"total_invoices": 30, "first_invoice_date": first, "last_invoice_date": last})),
        "TAX_RETURNS" => ["yearly", "monthly"]
            .map(|kind| {
                json!({
                    "type": kind, "total_tax_returns": 3,
                    "first_tax_return_year": &first[..4], "last_tax_return_year": &last[..4],
                })
            })
            .to_vec(),
        "EMPLOYMENT_RECORDS" => one(json!({"total_employment_record_profiles": 1})),
        "EMPLOYMENTS" => one(json!({"total_employments": 1})),
        _ => one(json!({})),
    }
}
