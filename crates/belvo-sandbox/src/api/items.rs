//! The items of each resource list, with the most used fields. The numbers
//! are derived from the link's id, so they are constant.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::{belvo_date, belvo_time};
use crate::link::Link;

/// The number of items of a resource: the length of [`items`].
pub(super) fn count(resource: &str) -> usize {
    match resource {
        "accounts" | "investments" => 2,
        "bills" => 12,
        "investment-transactions" | "tax-returns" => 6,
        "invoices" => 30,
        "recurring-expenses" => 4,
        "transactions" => 24,
        _ => 1,
    }
}

/// The list behind `GET /api/<resource>/`.
pub(super) fn items(resource: &str, link: &Link) -> Vec<Value> {
    match resource {
        "accounts" => (0..2).map(|index| account(link, index)).collect(),
        "owners" => vec![json!({
            "id": derived(link, 1, 0),
            "link": link.id,
            "collected_at": belvo_time(link.created_at),
            "display_name": "Carmen Ejemplo",
            "email": "carmen.ejemplo@example.com",
            "phone_number": "+52-000-000-0000",
            "document_id": {"document_type": "NAT_ID", "document_number": "EJEM000000"},
        })],
        "bills" => (0..12).map(|number| bill(link, number)).collect(),
        "invoices" => (0..30).map(|number| invoice(link, number)).collect(),
        "tax-returns" => {
            let kinds = ["yearly", "monthly"].into_iter().zip([0, 3]);
            kinds.flat_map(|(kind, from)| (from..from + 3).map(move |number| tax_return(link, kind, number))).collect()
        }
        "tax-status" => vec![json!({
            "id": derived(link, 6, 0),
            "link": link.id,
            "collected_at": belvo_time(link.created_at),
            "rfc": "EJEM000000XX0",
            "official_name": "Carmen Ejemplo",
            "tax_payer_information": {"name": "Carmen Ejemplo", "status": "ACTIVO"},
        })],
        "employment-records" => vec![json!({
            "id": derived(link, 7, 0),
            "link": link.id,
            "collected_at": belvo_time(link.created_at),
            "personal_data": {"official_name": "Carmen Ejemplo"},
            "employment_records": [{"employer": "Ejemplo SA de CV", "start_date": "2019-03-01", "end_date": null}],
        })],
        "employments" => vec![json!({
            "id": derived(link, 9, 0),
            "link": link.id,
            "collected_at": belvo_time(link.created_at),
            "personal_information": {"full_name": "Carmen Ejemplo"},
            "summary": {"total_employments": 1},
        })],
        "investments" => (0..2).map(|number| holding(link, 10, number, "balance_gross")).collect(),
        "investment-transactions" => (0..6).map(|number| holding(link, 11, number, "amount")).collect(),
        "incomes" => vec![holding(link, 12, 0, "average_monthly_income")],
        "recurring-expenses" => (0..4).map(|number| holding(link, 13, number, "average_transaction_amount")).collect(),
        "risk-insights" => vec![json!({
            "id": derived(link, 14, 0),
            "link": link.id,
            "accounts": [derived(link, 2, 0), derived(link, 2, 1)],
            "collected_at": belvo_time(link.created_at),
        })],
        "transactions" => {
            (0..2).flat_map(|index| (0..12).map(move |number| transaction(link, index, number))).collect()
        }
        _ => Vec::new(),
    }
}

fn bill(link: &Link, number: u32) -> Value {
    const MONTH_MS: i64 = 30 * 24 * 3600 * 1000;
    json!({
        "id": derived(link, 4, number),
        // The second account is a credit card.
        "account": {"id": derived(link, 2, 1), "link": link.id},
        "collected_at": belvo_time(link.created_at),
        "due_date": belvo_date(link.created_at - MONTH_MS * i64::from(number)),
        "total_amount": 100.0 + f64::from((seed(link) / 11 + number * 97) % 700),
        "currency": currency(link),
    })
}

/// Something with an account and an amount.
fn holding(link: &Link, kind: u8, number: u32, amount: &str) -> Value {
    json!({
        "id": derived(link, kind, number),
        "account": {"id": derived(link, 2, 0), "link": link.id},
        "collected_at": belvo_time(link.created_at),
        amount: 200.0 + f64::from((seed(link) / 17 + number * 61) % 5_000),
        "currency": currency(link),
    })
}

fn invoice(link: &Link, number: u32) -> Value {
    const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
    json!({
        "id": derived(link, 5, number),
        "link": link.id,
        "collected_at": belvo_time(link.created_at),
        "type": if number.is_multiple_of(3) { "INFLOW" } else { "OUTFLOW" },
        "invoice_date": belvo_date(link.created_at - WEEK_MS * i64::from(number)),
        "total_amount": 500.0 + f64::from((seed(link) / 13 + number * 211) % 9_000),
        "currency": currency(link),
        "status": "Vigente",
    })
}

fn tax_return(link: &Link, kind: &str, number: u32) -> Value {
    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
    let filed_on = belvo_date(link.created_at - YEAR_MS * i64::from(number % 3 + 1));
    json!({
        "id": derived(link, 8, number),
        "link": link.id,
        "collected_at": belvo_time(link.created_at),
        "type": kind,
        "ejercicio": &filed_on[..4],
        "fecha_presentacion": filed_on,
    })
}

fn account(link: &Link, index: u32) -> Value {
    let (category, name) = [("CHECKING_ACCOUNT", "Cuenta corriente"), ("CREDIT_CARD", "Tarjeta")][index as usize % 2];
    let balance = 1_000.0 + f64::from(seed(link) % 9_000) + f64::from(index);
    json!({
        "id": derived(link, 2, index),
        "link": link.id,
        "institution": {"name": link.institution.name, "type": link.institution.kind},
        "collected_at": belvo_time(link.created_at),
        "category": category,
        "name": name,
        "number": format!("{:010}", seed(link) % 1_000_000 + index),
        "currency": currency(link),
        "balance": {"current": balance, "available": balance},
    })
}

fn transaction(link: &Link, index: u32, number: u32) -> Value {
    const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
    let inflow = number.is_multiple_of(3);
    json!({
        "id": derived(link, 3, index * 100 + number),
        "account": {"id": derived(link, 2, index), "link": link.id},
        "collected_at": belvo_time(link.created_at),
        "value_date": belvo_date(link.created_at - WEEK_MS * i64::from(number)),
        "accounting_date": belvo_time(link.created_at - WEEK_MS * i64::from(number)),
        "amount": 50.0 + f64::from((seed(link) / 7 + number * 131) % 900),
        "currency": currency(link),
        "description": if inflow { "ABONO NOMINA" } else { "COMPRA" },
        "type": if inflow { "INFLOW" } else { "OUTFLOW" },
        "status": "PROCESSED",
    })
}

fn currency(link: &Link) -> &'static str {
    match link.institution.country {
        "BR" => "BRL",
        "CO" => "COP",
        _ => "MXN",
    }
}

/// A number derived from the link's id.
fn seed(link: &Link) -> u32 {
    link.id.as_fields().0
}

/// An id that belongs to the link: the same each time it is asked for.
fn derived(link: &Link, kind: u8, index: u32) -> Uuid {
    let mut bytes = *link.id.as_bytes();
    bytes[10] ^= kind;
    for (byte, part) in bytes[12..].iter_mut().zip(index.to_be_bytes()) {
        *byte ^= part;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
