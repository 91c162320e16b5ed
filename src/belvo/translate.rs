//! What a message means: from Belvo's codes to an event of the machine. **The two tables are the whole classification.**
//!
//! `WEBHOOKS` has a row per (type, code), `ERRORS` per (HTTP status, code, message); a new code is a new row. Sources:
//! "Webhooks: LINK family", "Webhooks: CONSENT family", the webhook page of each resource, "API reference: errors", and the guide
//! "Belvo API errors".
//!
//! Three rules. A signal about our keys, our request or an institution's outage never becomes an event. What is in no row is
//! [`Meaning::Unknown`]: kept whole, counted, never guessed at. No input panics, and no error quotes what it read.
//!
//! Next: `meaning` (how a row and a body become an event), `body` (what the bodies look like), `call` (which request an error answers).

use super::body::webhook::{WebhookBody, envelope, webhook_link};
use super::body::{ErrorBody, ErrorItem};
use super::call::{Call, links_named};
use super::informs;
use super::meaning::{self, Meaning, Unrelated};
use super::payload::read_json;
use super::undecodable::{Undecodable, parse_as, same_link};
use crate::contract::input::INPUT_SCHEMA_VERSION;
use crate::contract::{ApiError, InputKind};
use crate::link::{Cause, DataKind, LinkId, Timestamp};
use serde_json::Value;

/// What a webhook says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WebhookSays {
    /// The link cannot be used until its user acts.
    Breaks(Cause),
    /// The consent will end.
    ConsentEnds,
    /// The end of the consent has moved.
    ConsentMoves,
    /// Belvo deleted the link.
    Deleted,
    /// Data arrived.
    Data(DataKind),
    /// Nothing of whether the link works.
    Unrelated(Unrelated),
}

/// What an API error says; some depend on the call it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorSays {
    /// The link cannot be used until its user acts.
    Breaks(Cause),
    /// A login with these credentials was refused: the stored ones, unless the call was to register a new link.
    Refuses(Cause),
    /// An MFA token is wanted, in a session that may be open: of a new link, of a repair, or of a link in use.
    WantsToken,
    /// The link's creation was never finished.
    Unfinished,
    /// The MFA session is over.
    SessionOver,
    /// Perhaps the link is gone.
    Missing,
    /// The month's quota of this person's data is used up.
    QuotaUsedUp,
    /// Nothing of whether the link works.
    Unrelated(Unrelated),
}

use DataKind::{Changed, Historical, New};
use WebhookSays as W;

/// A webhook's type, its code, and what it says; spelt as [`as_the_table_spells`] has them.
#[rustfmt::skip]
const WEBHOOKS: &[(&str, &str, WebhookSays)] = &[
    // A scheduled refresh of a recurrent link could not log in.
    ("LINK",    "invalid_credentials",                          W::Breaks(Cause::Credentials)),
    ("LINK",    "token_required",                               W::Breaks(Cause::Token)),
    // The answer to an asynchronous DELETE; the name is documented, the type is not.
    ("LINK",    "link_deleted",                                 W::Deleted),

    ("CONSENT", "consent_about_to_expire",                      W::ConsentEnds),
    ("CONSENT", "consent_expired",                              W::Breaks(Cause::ConsentEnded)),
    ("CONSENT", "consent_with_unrecoverable_resources",         W::Unrelated(Unrelated::PartialData)),
    ("CONSENT", "consent_with_temporarily_unavailable_resources", W::Unrelated(Unrelated::PartialData)),
    // Its body is nowhere documented: the new date is read from it if it is where the other two have it.
    ("CONSENT", "consent_expiration_changed",                   W::ConsentMoves),

    ("ACCOUNTS",                "historical_update",            W::Data(Historical)),
    ("ACCOUNTS",                "new_accounts_available",       W::Data(New)),
    ("OWNERS",                  "historical_update",            W::Data(Historical)),
    ("OWNERS",                  "new_owners_available",         W::Data(New)),
    ("TRANSACTIONS",            "historical_update",            W::Data(Historical)),
    ("TRANSACTIONS",            "new_transactions_available",   W::Data(New)),
    ("TRANSACTIONS",            "transactions_updated",         W::Data(Changed)),
    ("TRANSACTIONS",            "transactions_deleted",         W::Data(Changed)),
    // No copy of its page was found; every other resource that can be fetched sends this.
    ("BALANCES",                "historical_update",            W::Data(Historical)),
    ("BILLS",                   "historical_update",            W::Data(Historical)),
    ("BILLS",                   "new_bills_available",          W::Data(New)),
    ("INVESTMENTS",             "historical_update",            W::Data(Historical)),
    ("INVESTMENTS",             "new_investments_available",    W::Data(New)),
    ("INVESTMENT_TRANSACTIONS", "historical_update",            W::Data(Historical)),
    ("INVESTMENT_TRANSACTIONS", "new_investment_transactions_available", W::Data(New)),
    ("INVESTMENTS_PORTFOLIOS",  "historical_update",            W::Data(Historical)),
    ("INVESTMENTS_PORTFOLIOS",  "new_investments_portfolios_available", W::Data(New)),
    ("RECEIVABLES_TRANSACTIONS", "historical_update",           W::Data(Historical)),
    ("RECEIVABLES_TRANSACTIONS", "new_receivables_transactions_available", W::Data(New)),
    ("RECURRING_EXPENSES",      "historical_update",            W::Data(Historical)),
    ("RISK_INSIGHTS",           "historical_update",            W::Data(Historical)),
    ("INCOMES",                 "historical_update",            W::Data(Historical)),
    ("INVOICES",                "initial_inflow_update",        W::Data(Historical)),
    ("INVOICES",                "initial_outflow_update",       W::Data(Historical)),
    // These two are inferred from the rest of their page.
    ("INVOICES",                "historical_update",            W::Data(Historical)),
    ("INVOICES",                "new_invoices_available",       W::Data(New)),
    // Sent twice, for the yearly and the monthly returns.
    ("TAX_RETURNS",             "historical_update",            W::Data(Historical)),
    ("TAX_RETURNS",             "new_tax_returns_available",    W::Data(New)),
    ("TAX_STATUS",              "historical_update",            W::Data(Historical)),
    ("TAX_COMPLIANCE_STATUS",   "historical_update",            W::Data(Historical)),
    ("TAX_RETENTIONS",          "historical_update",            W::Data(Historical)),
    ("FINANCIAL_STATEMENTS",    "historical_update",            W::Data(Historical)),
    ("FINANCIAL_STATEMENTS",    "new_financial_statements_available", W::Data(New)),
    ("EMPLOYMENT_RECORDS",      "historical_update",            W::Data(Historical)),
    ("EMPLOYMENT_RECORDS",      "employment_changes",           W::Data(Changed)),
    ("EMPLOYMENTS",             "historical_update",            W::Data(Historical)),
    ("EMPLOYMENTS",             "new_employments_available",    W::Data(New)),
];

/// The HTTP status of a row.
#[derive(Clone, Copy, Debug)]
enum Http {
    Is(u16),
    /// 500 to 599.
    Server,
}

use ErrorSays::{Breaks, Missing, QuotaUsedUp, Refuses, SessionOver, Unfinished, WantsToken};
use Http::{Is, Server};

/// Of a row: any code, and also none.
const ANY: &str = "*";
/// Of a row: the body is no Belvo error, or an old one without `code`.
const NONE: &str = "";

const fn not(class: Unrelated) -> ErrorSays {
    ErrorSays::Unrelated(class)
}

/// An error that is in no row, among several: outranked by what is known of the link, never hidden by what is not about it.
const UNKNOWN_RANK: u8 = 50;

/// HTTP status, code, words of the message (small letters; none: any message), rank, and what it says. The first row that fits
/// counts. Of several errors in one body, the one with the highest rank counts: the more final, the higher.
#[rustfmt::skip]
const ERRORS: &[(Http, &str, &str, u8, ErrorSays)] = &[
    (Is(400), "unconfirmed_link",           "",                                95, Unfinished),
    (Is(400), "invalid_link",               "",                                80, Breaks(Cause::Credentials)),
    // `login_error` is not one condition: the message decides, and an unknown message decides nothing.
    (Is(400), "login_error",                "not supported yet by belvo",      90, Refuses(Cause::Unsupported)),
    (Is(400), "login_error",                "account is locked",               85, Refuses(Cause::AccountBlocked)),
    (Is(400), "login_error",                "forbidden by the institution",    85, Refuses(Cause::AccountBlocked)),
    (Is(400), "login_error",                "invalid credentials",             75, Refuses(Cause::Credentials)),
    (Is(400), "login_error",                "missing credentials",             75, Refuses(Cause::Credentials)),
    (Is(400), "login_error",                "something unexpected happened",   30, not(Unrelated::Outage)),
    (Is(400), "session_expired",            "",                                70, SessionOver),
    // The widget of Open Finance Brazil ran out of time before anything was asked of the institution.
    (Is(400), "session_expired_ob",         "",                                40, not(Unrelated::Creation)),
    (Is(400), "activation_failed",          "",                                40, not(Unrelated::Creation)),
    (Is(400), "duplicated",                 "",                                40, not(Unrelated::Creation)),
    (Is(400), "invalid_token",              "",                                40, not(Unrelated::WrongToken)),
    // The user, or Belvo itself, is logged in.
    (Is(400), "too_many_sessions",          "",                                30, not(Unrelated::Busy)),
    (Is(400), "institution_down",           "",                                30, not(Unrelated::Outage)),
    (Is(400), "institution_unavailable",    "",                                30, not(Unrelated::Outage)),
    (Is(400), "institution_inactive",       "",                                30, not(Unrelated::InstitutionOff)),
    // Open Finance Brazil, per person and month.
    (Is(400), "operational_limits_reached", "",                                30, QuotaUsedUp),
    (Is(400), "unavailable_data",           "",                                20, not(Unrelated::PartialData)),
    (Is(400), "unsupported_operation",      "",                                10, not(Unrelated::Request)),
    (Is(400), "invalid_period",             "",                                10, not(Unrelated::Request)),
    (Is(400), "invalid_fetch_resources",    "",                                10, not(Unrelated::Request)),
    (Is(400), "invalid_credentials_storage", "",                               10, not(Unrelated::Request)),
    (Is(400), "invalid_access_mode_switch", "",                                10, not(Unrelated::Request)),
    (Is(400), "validation_error",           "",                                10, not(Unrelated::Request)),
    (Is(400), "parse_error",                "",                                10, not(Unrelated::Request)),
    (Is(400), "invalid",                    "",                                10, not(Unrelated::Request)),
    (Is(400), "invalid_choice",             "",                                10, not(Unrelated::Request)),
    (Is(400), "required",                   "",                                10, not(Unrelated::Request)),
    (Is(400), "null",                       "",                                10, not(Unrelated::Request)),
    (Is(400), "blank",                      "",                                10, not(Unrelated::Request)),
    (Is(400), "not_a_list",                 "",                                10, not(Unrelated::Request)),
    (Is(400), "does_not_exist",             "",                                10, not(Unrelated::Request)),
    (Is(400), "max_digits",                 "",                                10, not(Unrelated::Request)),
    (Is(400), "max_decimal_places",         "",                                10, not(Unrelated::Request)),
    (Is(400), "min_value",                  "",                                10, not(Unrelated::Request)),
    (Is(400), "already_exists",             "",                                10, not(Unrelated::Request)),

    // The one 401 that is about the link: the user closed the accounts of the consent.
    (Is(401), "consent_without_accounts",   "",                                80, Breaks(Cause::ConsentEnded)),
    (Is(401), "authentication_failed",      "",                                10, not(Unrelated::Keys)),
    (Is(401), "not_authenticated",          "",                                10, not(Unrelated::Keys)),
    (Is(401), NONE,                         "",                                10, not(Unrelated::Keys)),

    (Is(403), "access_to_resource_denied",  "",                                10, not(Unrelated::Permission)),
    (Is(403), "access_to_production_denied", "",                               10, not(Unrelated::Permission)),
    (Is(403), "quota_limit_reached",        "",                                10, not(Unrelated::Permission)),
    // Belvo is kept out by the institution; its engineers are told.
    (Is(403), "permission_denied",          "",                                10, not(Unrelated::Outage)),
    // An HTML page: more than 80 requests in 30 seconds from one address.
    (Is(403), NONE,                         "",                                10, not(Unrelated::RateLimit)),

    // `credentials_storage` ran out, so Belvo has nothing left to log in with. A 404 that is not about existence.
    (Is(404), "expired_credentials",        "",                                80, Refuses(Cause::Credentials)),
    (Is(404), "not_found",                  "",                                70, Missing),
    (Is(404), NONE,                         "not found.",                      70, Missing),

    (Is(405), ANY,                          "",                                10, not(Unrelated::Request)),
    (Is(408), ANY,                          "",                                30, not(Unrelated::Outage)),
    // Two refreshes of one link within ten minutes.
    (Is(409), "link_refreshed",             "",                                30, not(Unrelated::Delay)),

    // The user has no online banking yet.
    (Is(428), "activation_required",        "",                                85, Refuses(Cause::AccountBlocked)),
    (Is(428), "token_required",             "",                                80, WantsToken),
    // "Token Required": the bare object of the old support page.
    (Is(428), NONE,                         "",                                80, WantsToken),

    (Is(429), ANY,                          "",                                10, not(Unrelated::RateLimit)),
    (Server,  ANY,                          "",                                30, not(Unrelated::Outage)),
];

/// A message that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What it means.
    pub meaning: Meaning,
    /// Its fields that could not be read, as paths into its body. It means what it means without them.
    pub unread: Vec<&'static str>,
}

/// What a message on an input subject of `link` means.
///
/// `received_at` is when the message was stored: bodies carry spans, and Belvo's carry no time at all.
///
/// # Errors
/// [`Undecodable`] if the body cannot be read as its kind, or is about another link.
pub fn translate(
    kind: InputKind,
    link: &LinkId,
    payload: &[u8],
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    read(kind, link, payload, received_at).map(|reading| reading.meaning)
}

/// What a message means, and what of it could not be read.
///
/// # Errors
/// Like [`translate`].
pub fn read(kind: InputKind, link: &LinkId, payload: &[u8], received_at: Timestamp) -> Result<Reading, Undecodable> {
    let value = read_json(payload)?;
    let unread = informs::unread(kind, &value, received_at);
    let meaning = match kind {
        InputKind::Webhook => translate_webhook(link, &value, received_at),
        InputKind::ApiError => translate_api_error(link, &parse_own(value)?, received_at),
        InputKind::Widget => meaning::of_widget(link, &parse_own(value)?, received_at),
        InputKind::Observation => meaning::of_observation(link, &parse_own(value)?, received_at),
        InputKind::Command => meaning::of_command(&parse_own(value)?),
    };
    Ok(Reading { meaning: meaning?, unread })
}

/// The link a webhook is about, for whoever has to find its subject.
///
/// # Errors
/// [`Undecodable`] if the payload names none.
pub fn link_of_webhook(payload: &[u8]) -> Result<LinkId, Undecodable> {
    let value = read_json(payload)?;
    webhook_link(envelope(&value).ok_or_else(|| Undecodable::shape("$", "expected an object"))?)
}

fn translate_webhook(link: &LinkId, value: &Value, received_at: Timestamp) -> Result<Meaning, Undecodable> {
    let body = WebhookBody::parse(value)?;
    same_link(link, Some(body.link.clone()))?;
    let (family, code) = as_the_table_spells(&body.family, &body.code);
    let row = WEBHOOKS.iter().find(|(row_family, row_code, _)| *row_family == family && *row_code == code);
    Ok(match row {
        Some((family, code, says)) => meaning::of_webhook(*says, family, code, &body, received_at),
        None => Meaning::unknown(&["webhook", family, code]),
    })
}

/// The spellings that differ between copies of the documentation, brought to one.
fn as_the_table_spells<'a>(family: &'a str, code: &'a str) -> (&'a str, &'a str) {
    match (family, code) {
        ("LINKS", code) => ("LINK", code),
        ("CONSENT", code) => ("CONSENT", code.strip_prefix("openfinance_").unwrap_or(code)),
        // So the page of INVESTMENTS shows it.
        ("ACCOUNTS", "new_investments_available") => ("INVESTMENTS", code),
        (family, code) => (family, code),
    }
}

/// What an API error means to `link`; the client asks the same of the answers it gets.
pub(super) fn translate_api_error(
    link: &LinkId,
    error: &ApiError,
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    if !(400..=599).contains(&error.http_status) {
        return Err(Undecodable::shape("$.http_status", "expected the status of an error, 400 to 599"));
    }
    links_named(error).try_for_each(|named| same_link(link, Some(named)))?;
    let body = ErrorBody::parse(&error.body);
    let ranked = body.items.iter().map(|item| match row_of(error.http_status, item) {
        Some((rank, says)) => (rank, Some(says), item),
        None => (UNKNOWN_RANK, None, item),
    });
    // Of equals the first counts.
    let Some((_, says, item)) = ranked.reduce(|first, next| if next.0 > first.0 { next } else { first }) else {
        return Ok(Meaning::unknown(&["api_error", &error.http_status.to_string()]));
    };
    let code = item.code.as_deref().unwrap_or("without_code");
    Ok(match says {
        Some(says) => meaning::of_api_error(says, Call::of(error), link, error, item, received_at),
        None => Meaning::unknown(&["api_error", &error.http_status.to_string(), code]),
    })
}

/// What the table says of one error: rank and meaning.
fn row_of(status: u16, item: &ErrorItem) -> Option<(u8, ErrorSays)> {
    let code = item.code.as_deref().unwrap_or(NONE);
    let message = item.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let fits = |http: Http, row_code: &str, words: &str| {
        let status_fits = match http {
            Is(wanted) => status == wanted,
            Server => (500..=599).contains(&status),
        };
        status_fits && (row_code == ANY || row_code == code) && message.contains(words)
    };
    let row = ERRORS.iter().find(|&&(http, row_code, words, _, _)| fits(http, row_code, words));
    row.map(|&(_, _, _, rank, says)| (rank, says))
}

/// Reads one of our own bodies, after a look at its version.
fn parse_own<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Undecodable> {
    match value.get("schema_version").and_then(Value::as_u64) {
        Some(found) if found > INPUT_SCHEMA_VERSION => {
            Err(Undecodable::FutureVersion { found, known: INPUT_SCHEMA_VERSION })
        }
        Some(_) | None => parse_as(value),
    }
}

#[cfg(test)]
mod tests;
