//! What a bank has, as Belvo would list it. The numbers are made up from the link's id, the same each time.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::sandbox::clock::{belvo_date, belvo_time};
use crate::sandbox::link::Link;

/// What the bank has: one owner, two accounts, a dozen transactions on each.
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
        _ => (0..2).flat_map(|index| (0..12).map(move |number| transaction(link, index, number))).collect(),
    }
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
        "currency": if link.institution.country == "BR" { "BRL" } else { "MXN" },
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
        "currency": if link.institution.country == "BR" { "BRL" } else { "MXN" },
        "description": if inflow { "ABONO NOMINA" } else { "COMPRA" },
        "type": if inflow { "INFLOW" } else { "OUTFLOW" },
        "status": "PROCESSED",
    })
}

/// A number that belongs to the link.
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
