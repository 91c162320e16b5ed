//! The webhooks of each resource: their codes, and the counts in them, as one table.
//!
//! Source: the webhook docs, one page for each resource. Next: [`super::webhook`], which adds the envelope.

use serde_json::{Map, Value, json};

use crate::clock::belvo_date;

/// One resource.
struct Family {
    /// The name in `fetch_resources`, which is also the type of the webhooks.
    resource: &'static str,
    /// The codes of its first history. The code of a later history is `historical_update`.
    first: &'static [&'static str],
    /// The code after a scheduled refresh with new data. Some resources have none: they are computed from others, or are
    /// always fetched completely.
    news: Option<&'static str>,
}

/// The code of most histories.
const HISTORY: &[&str] = &["historical_update"];

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    family("ACCOUNTS", HISTORY, Some("new_accounts_available")),
    family("OWNERS", HISTORY, Some("new_owners_available")),
    family("TRANSACTIONS", HISTORY, Some("new_transactions_available")),
    family("BILLS", HISTORY, Some("new_bills_available")),
    family("INVESTMENTS", HISTORY, Some("new_investments_available")),
    family("INVESTMENT_TRANSACTIONS", HISTORY, Some("new_investment_transactions_available")),
    family("INCOMES", HISTORY, None),
    family("RECURRING_EXPENSES", HISTORY, None),
    family("RISK_INSIGHTS", HISTORY, None),
    family("INVOICES", &["initial_inflow_update", "initial_outflow_update"], Some("new_invoices_available")),
    family("TAX_RETURNS", HISTORY, Some("new_tax_returns_available")),
    family("TAX_STATUS", HISTORY, None),
    // The only code that is not `new_*_available`.
    family("EMPLOYMENT_RECORDS", HISTORY, Some("employment_changes")),
    family("EMPLOYMENTS", HISTORY, Some("new_employments_available")),
];

const fn family(resource: &'static str, first: &'static [&'static str], news: Option<&'static str>) -> Family {
    Family { resource, first, news }
}

fn find(resource: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.resource == resource)
}

/// Code and data of each webhook about a history of this resource.
pub(crate) fn history(resource: &str, is_first: bool, now: i64) -> Vec<(&'static str, Value)> {
    let codes = find(resource).filter(|_| is_first).map_or(HISTORY, |family| family.first);
    let counts = counts(resource, now);
    codes.iter().flat_map(|&code| counts.iter().map(move |data| (code, data.clone()))).collect()
}

/// Code and data of the webhook after a scheduled refresh with new data.
pub(crate) fn news(resource: &str) -> Option<(&'static str, Value)> {
    let code = find(resource)?.news?;
    if code == "employment_changes" {
        return Some((code, json!({"employment_changes": ["EMPLOYED"]})));
    }
    Some((code, Value::Object(Map::from_iter([(format!("new_{}", resource.to_lowercase()), json!(3))]))))
}

/// The counts of a history, once for each webhook of it.
fn counts(resource: &str, now: i64) -> Vec<Value> {
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
        // The documentation shows no data for these.
        _ => one(json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::institution::{INSTITUTIONS, UNLISTED};

    #[test]
    fn every_resource_of_an_institution_has_its_row() {
        for institution in INSTITUTIONS.iter().chain(UNLISTED) {
            for resource in institution.resources {
                assert!(find(resource).is_some(), "{resource} of {}", institution.name);
            }
        }
    }
}
