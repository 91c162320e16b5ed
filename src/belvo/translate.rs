//! Classifies messages: it finds the meaning of each webhook and each API error in a table. **The tables are the
//! complete classification.**
//!
//! `WEBHOOKS` has a row for each pair of type and code, `ERRORS` for each combination of HTTP status, code and message.
//! `MESSAGES` has the messages of failed logins, which occur in webhooks and in answers. A new code is a new row.
//! Sources: "Webhooks: LINK family", "Webhooks: CONSENT family", the webhook page of each resource, "API reference:
//! errors", and the guide "Belvo API errors".
//!
//! There are three rules. An error about the API keys, about one request, or about an outage of an institution never
//! becomes an event. A message that is in no row is [`Meaning::Unknown`]: it is dead-lettered and counted, and relink
//! does not guess its meaning. No input causes a panic, and no error quotes the input.
//!
//! Next: `meaning` (makes an event of a row and a body), `body` and `error_body` (read the bodies), `call` (the request
//! that an error answers), `own` (reads the bodies that relink defines).

use super::body::webhook::{WebhookBody, envelope, webhook_link};
use super::call::{self, Call, find_link, links_named};
use super::error_body::{ErrorBody, ErrorItem};
use super::informs;
use super::meaning::{self, Meaning, Unrelated};
use super::payload::read_json;
use super::undecodable::{Undecodable, same_link};
use super::{own, report};
use crate::contract::{ApiError, InputKind};
use crate::link::{Cause, DataKind, LinkId, Timestamp};
use serde_json::Value;

/// The meaning of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WebhookSays {
    /// The link cannot be used until its user repairs it.
    Breaks(Cause),
    /// The consent ends soon.
    ConsentEnds,
    /// The due date of the consent has changed.
    ConsentMoves,
    /// Belvo deleted the link.
    Deleted,
    /// Data arrived.
    Data(DataKind),
    /// The message does not show whether the link works.
    Unrelated(Unrelated),
}

/// The meaning of an API error. Some depend on the call that the error answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorSays {
    /// The link cannot be used until its user repairs it.
    Breaks(Cause),
    /// A login was refused: with the stored credentials, or with new ones if the call was to create a link.
    Refuses(Cause),
    /// An MFA token is required, for the creation of a link, for a repair, or for a link in use. The session may be
    /// open.
    WantsToken,
    /// The creation of the link was never finished.
    Unfinished,
    /// The MFA session has expired.
    SessionOver,
    /// The link may be deleted.
    Missing,
    /// The monthly quota of the person behind the link is used up.
    QuotaUsedUp,
    /// The message does not show whether the link works.
    Unrelated(Unrelated),
}

use DataKind::{Changed, Historical, New};
use WebhookSays as W;

/// The type of a webhook, its code, and its meaning. Type and code are in the form of [`as_the_table_spells`].
#[rustfmt::skip]
const WEBHOOKS: &[(&str, &str, WebhookSays)] = &[
    // A scheduled refresh of a recurrent link could not log in.
    ("LINK",    "invalid_credentials",                          W::Breaks(Cause::Credentials)),
    ("LINK",    "token_required",                               W::Breaks(Cause::Token)),
    // The answer to an asynchronous DELETE. The code is documented, the type is not.
    ("LINK",    "link_deleted",                                 W::Deleted),

    ("CONSENT", "consent_about_to_expire",                      W::ConsentEnds),
    ("CONSENT", "consent_expired",                              W::Breaks(Cause::ConsentEnded)),
    ("CONSENT", "consent_with_unrecoverable_resources",         W::Unrelated(Unrelated::PartialData)),
    ("CONSENT", "consent_with_temporarily_unavailable_resources", W::Unrelated(Unrelated::PartialData)),
    // The body is not documented. The new date is read if it is in the same place as in the other CONSENT webhooks.
    ("CONSENT", "consent_expiration_changed",                   W::ConsentMoves),

    ("ACCOUNTS",                "historical_update",            W::Data(Historical)),
    ("ACCOUNTS",                "new_accounts_available",       W::Data(New)),
    ("OWNERS",                  "historical_update",            W::Data(Historical)),
    ("OWNERS",                  "new_owners_available",         W::Data(New)),
    ("TRANSACTIONS",            "historical_update",            W::Data(Historical)),
    ("TRANSACTIONS",            "new_transactions_available",   W::Data(New)),
    ("TRANSACTIONS",            "transactions_updated",         W::Data(Changed)),
    ("TRANSACTIONS",            "transactions_deleted",         W::Data(Changed)),
    // No copy of the documentation page was found. Every other resource that Belvo fetches sends this code.
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
    // These two codes are inferred from the rest of the documentation page.
    ("INVOICES",                "historical_update",            W::Data(Historical)),
    ("INVOICES",                "new_invoices_available",       W::Data(New)),
    // Belvo sends this webhook twice, for yearly and for monthly tax returns.
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

/// In a row: any code, or no code.
const ANY: &str = "*";
/// In a row: the body is not an error of Belvo, or an old one without `code`.
const NONE: &str = "";

const fn not(class: Unrelated) -> ErrorSays {
    ErrorSays::Unrelated(class)
}

/// The rank of an error that is in no row. In a body with several errors, a known error about the link ranks higher,
/// and an error that is not about the link ranks lower.
const UNKNOWN_RANK: u8 = 50;

/// The rank of an error that says that the link may be deleted.
const MISSING_RANK: u8 = 70;

/// The messages of failed logins. The code `login_error` has several causes, so its message decides: words of the
/// message in lower case, rank as in [`ERRORS`], and meaning. The first matching row counts. A message without a
/// matching row has no meaning.
///
/// The same messages occur in the answer to a call (400, `login_error`) and in `data` of a webhook of the LINK family.
#[rustfmt::skip]
const MESSAGES: &[(&str, u8, ErrorSays)] = &[
    // "A MFA token is required by the institution, but it's not supported yet by Belvo."
    ("not supported yet by belvo",      90, Refuses(Cause::Unsupported)),
    // "The user account is locked, user needs to contact the institution to unlock it"
    ("account is locked",               85, Refuses(Cause::AccountBlocked)),
    // Other wordings of the same reason: only the institution can help.
    ("needs to contact the institution", 85, Refuses(Cause::AccountBlocked)),
    ("account is blocked",              85, Refuses(Cause::AccountBlocked)),
    ("account has been blocked",        85, Refuses(Cause::AccountBlocked)),
    ("account has been locked",         85, Refuses(Cause::AccountBlocked)),
    ("account locked",                  85, Refuses(Cause::AccountBlocked)),
    ("account blocked",                 85, Refuses(Cause::AccountBlocked)),
    // "The user account access was forbidden by the institution"
    ("access was forbidden",            85, Refuses(Cause::AccountBlocked)),
    ("forbidden by the institution",    85, Refuses(Cause::AccountBlocked)),
    // "A MFA token is required by the institution to login"
    ("token is required",               80, WantsToken),
    ("invalid credentials",             75, Refuses(Cause::Credentials)),
    ("missing credentials",             75, Refuses(Cause::Credentials)),
    // "Impossible to login, something unexpected happened while logging into the institution. Try again later."
    ("something unexpected happened",   30, not(Unrelated::Outage)),
];

/// The code of an error whose message decides.
const LOGIN_ERROR: &str = "login_error";

/// HTTP status, code, words of the message (lower case; empty for any message), rank, and meaning. The first matching
/// row counts. If a body has several errors, the one with the highest rank counts; errors that only the user can end
/// have high ranks.
#[rustfmt::skip]
const ERRORS: &[(Http, &str, &str, u8, ErrorSays)] = &[
    (Is(400), "unconfirmed_link",           "",                                95, Unfinished),
    (Is(400), "invalid_link",               "",                                80, Breaks(Cause::Credentials)),
    (Is(400), "session_expired",            "",                                70, SessionOver),
    // The session of the Open Finance Brazil widget expired before the institution was contacted.
    (Is(400), "session_expired_ob",         "",                                40, not(Unrelated::Creation)),
    (Is(400), "activation_failed",          "",                                40, not(Unrelated::Creation)),
    (Is(400), "duplicated",                 "",                                40, not(Unrelated::Creation)),
    (Is(400), "invalid_token",              "",                                40, not(Unrelated::WrongToken)),
    // The user, or Belvo itself, is logged in at the institution.
    (Is(400), "too_many_sessions",          "",                                30, not(Unrelated::Busy)),
    (Is(400), "institution_down",           "",                                30, not(Unrelated::Outage)),
    (Is(400), "institution_unavailable",    "",                                30, not(Unrelated::Outage)),
    (Is(400), "institution_inactive",       "",                                30, not(Unrelated::InstitutionOff)),
    // The monthly quota of a person in Open Finance Brazil.
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

    // The only 401 that is about the link: the user closed the accounts of the consent.
    (Is(401), "consent_without_accounts",   "",                                80, Breaks(Cause::ConsentEnded)),
    (Is(401), "authentication_failed",      "",                                10, not(Unrelated::Keys)),
    (Is(401), "not_authenticated",          "",                                10, not(Unrelated::Keys)),
    (Is(401), NONE,                         "",                                10, not(Unrelated::Keys)),

    (Is(403), "access_to_resource_denied",  "",                                10, not(Unrelated::Permission)),
    (Is(403), "access_to_production_denied", "",                               10, not(Unrelated::Permission)),
    (Is(403), "quota_limit_reached",        "",                                10, not(Unrelated::Permission)),
    // The institution blocks Belvo; Belvo's engineers are informed.
    (Is(403), "permission_denied",          "",                                10, not(Unrelated::Outage)),
    // An HTML page: more than 80 requests in 30 seconds from one address.
    (Is(403), NONE,                         "",                                10, not(Unrelated::RateLimit)),

    // The time of `credentials_storage` is over, so Belvo has deleted the credentials. This 404 does not mean that the
    // link is deleted.
    (Is(404), "expired_credentials",        "",                                80, Refuses(Cause::Credentials)),
    (Is(404), "not_found",                  "",                                70, Missing),
    (Is(404), NONE,                         "not found.",                      70, Missing),
    // "No Link matches the given query.": the message of Django, on which Belvo runs.
    (Is(404), NONE,                         "matches the given query",         70, Missing),

    (Is(405), ANY,                          "",                                10, not(Unrelated::Request)),
    (Is(408), ANY,                          "",                                30, not(Unrelated::Outage)),
    // Two refreshes of one link within ten minutes.
    (Is(409), "link_refreshed",             "",                                30, not(Unrelated::Delay)),

    // The user has not activated online banking.
    (Is(428), "activation_required",        "",                                85, Refuses(Cause::AccountBlocked)),
    (Is(428), "token_required",             "",                                80, WantsToken),
    // "Token Required": the object without `code` of the old support page.
    (Is(428), NONE,                         "",                                80, WantsToken),

    (Is(429), ANY,                          "",                                10, not(Unrelated::RateLimit)),
    (Server,  ANY,                          "",                                30, not(Unrelated::Outage)),
];

/// The result of reading a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The meaning of the message.
    pub meaning: Meaning,
    /// The paths of fields that could not be read. The message counts without them.
    pub unreadable_fields: Vec<&'static str>,
}

/// The meaning of a message on an input subject of `link`.
///
/// `received_at` is when the message was stored. It is needed because bodies contain durations, and Belvo's bodies
/// contain no times.
///
/// # Errors
/// [`Undecodable`]: the body cannot be read as its kind, or is about another link.
pub fn translate(
    kind: InputKind,
    link: &LinkId,
    payload: &[u8],
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    read(kind, link, payload, received_at).map(|reading| reading.meaning)
}

/// Like [`translate`], with the fields of the message that could not be read.
///
/// # Errors
/// The errors of [`translate`].
pub fn read(kind: InputKind, link: &LinkId, payload: &[u8], received_at: Timestamp) -> Result<Reading, Undecodable> {
    let value = read_json(payload)?;
    if kind != InputKind::Webhook {
        own::check_version(&value)?;
    }
    let unreadable_fields = informs::unread(kind, &value, received_at);
    let meaning = match kind {
        InputKind::Webhook => translate_webhook(link, &value, received_at),
        InputKind::ApiError => translate_report(link, &report::parse(value)?, received_at),
        InputKind::Widget => meaning::of_widget(link, &own::parse_widget(value)?, received_at),
        InputKind::Observation => meaning::of_observation(link, &own::parse_observation(value)?, received_at),
        InputKind::Command => meaning::of_command(&own::parse_command(value)?),
    };
    Ok(Reading { meaning: meaning?, unreadable_fields })
}

/// The link that a reported API error is about, for its subject. `None` if it names no link, or cannot be read.
pub fn link_of_api_error(payload: &[u8]) -> Option<LinkId> {
    find_link(&report::parse(read_json(payload).ok()?).ok()?)
}

/// The link that a webhook is about, for its subject.
///
/// # Errors
/// [`Undecodable`]: the webhook names no link.
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
        Some((family, code, W::Breaks(cause))) if *family == "LINK" => {
            let cause = most_telling(most_telling(*cause, &body.data), &body.beside_data);
            meaning::of_webhook(W::Breaks(cause), family, code, &body, received_at)
        }
        Some((family, code, says)) => meaning::of_webhook(*says, family, code, &body, received_at),
        None => Meaning::unknown(&["webhook", family, code]),
    })
}

/// The cause of a webhook of the LINK family: the code of the webhook says `cause`, and an error in `data` may be more
/// precise, by its message or its code. The most precise cause counts.
///
/// An error without a known cause does not change `cause`. The same holds for "something unexpected happened, try again
/// later": Belvo sends `invalid_credentials` only once, so ignoring the webhook would lose an outage, while a wrong
/// outage ends with the next read of the link.
fn most_telling(cause: Cause, data: &Value) -> Cause {
    let cause_of = |item: &ErrorItem| {
        let code = item.code.as_deref().unwrap_or_default();
        let by_code = || ERRORS.iter().find(|row| row.1 == code && !code.is_empty()).map(|row| row.4);
        match message_row(item).map(|(_rank, says)| says).or_else(by_code)? {
            Breaks(cause) | Refuses(cause) => Some(cause),
            WantsToken => Some(Cause::Token),
            Unfinished | SessionOver | Missing | QuotaUsedUp | ErrorSays::Unrelated(_) => None,
        }
    };
    let tells = |cause: &Cause| match cause {
        Cause::Credentials => 0,
        Cause::Token => 1,
        Cause::ConsentEnded => 2,
        Cause::AccountBlocked => 3,
        Cause::Unsupported => 4,
    };
    let said = ErrorBody::parse(data).items.into_iter().filter_map(|item| cause_of(&item));
    said.chain([cause]).max_by_key(tells).unwrap_or(cause)
}

/// Type and code in one form. Their spellings differ between copies of the documentation.
fn as_the_table_spells<'a>(family: &'a str, code: &'a str) -> (&'a str, &'a str) {
    match (family, code) {
        ("LINKS", code) => ("LINK", code),
        ("CONSENT", code) => ("CONSENT", code.strip_prefix("openfinance_").unwrap_or(code)),
        // The spelling on the documentation page of INVESTMENTS.
        ("ACCOUNTS", "new_investments_available") => ("INVESTMENTS", code),
        (family, code) => (family, code),
    }
}

/// The meaning of an API error for `link`. The client classifies the errors of its own calls with it too.
pub(super) fn translate_api_error(
    link: &LinkId,
    error: &ApiError,
    received_at: Timestamp,
) -> Result<Meaning, Undecodable> {
    judge(link, error, received_at, |item| row_of(error.http_status, item))
}

/// The meaning of a reported API error. More wordings than Belvo documents count as a possible deletion, because it
/// only makes relink read the link.
fn translate_report(link: &LinkId, error: &ApiError, received_at: Timestamp) -> Result<Meaning, Undecodable> {
    let may_be_gone = |item: &ErrorItem| match error.http_status {
        // 410 "Gone", with any body.
        410 => true,
        // Any text, no body, or an HTML page. An unknown code stays unknown.
        404 => item.code.is_none(),
        _other => false,
    };
    let is_of_belvo = call::is_of_belvo(&error.path);
    judge(link, error, received_at, |item| {
        let row = row_of(error.http_status, item);
        row.or_else(|| (is_of_belvo && may_be_gone(item)).then_some((MISSING_RANK, Missing)))
    })
}

/// The meaning of an API error, by the rows of its items.
fn judge(
    link: &LinkId,
    error: &ApiError,
    received_at: Timestamp,
    row_of: impl Fn(&ErrorItem) -> Option<(u8, ErrorSays)>,
) -> Result<Meaning, Undecodable> {
    if !(400..=599).contains(&error.http_status) {
        return Err(Undecodable::shape("$.http_status", "expected the status of an error, 400 to 599"));
    }
    links_named(error).try_for_each(|named| same_link(link, Some(named)))?;
    let body = ErrorBody::parse(&error.body);
    // Some HTTP statuses have a meaning without a body.
    let bare = [ErrorItem::default()];
    let items = if body.items.is_empty() { &bare } else { &body.items[..] };
    let ranked = items.iter().filter_map(|item| match row_of(item) {
        // The text in a wrapper is from the client that wrapped the error, unless it is a code of Belvo.
        _any if item.is_wrapper && item.code.is_none() => None,
        None if item.is_wrapper => None,
        Some((rank, says)) => Some((rank, Some(says), item)),
        None => Some((UNKNOWN_RANK, None, item)),
    });
    // Of errors with the same rank the first counts.
    let most_final = ranked.reduce(|first, next| if next.0 > first.0 { next } else { first });
    let (says, item) = most_final.map_or((None, &bare[0]), |(_, says, item)| (says, item));
    let code = item.code.as_deref().unwrap_or("without_code");
    match says {
        Some(says) => Ok(meaning::of_api_error(says, Call::of(error), link, error, item, received_at)),
        None if body.items.is_empty() => Err(report::nothing_found()),
        None => Ok(Meaning::unknown(&["api_error", &error.http_status.to_string(), code])),
    }
}

/// The rank and the meaning of one error.
fn row_of(status: u16, item: &ErrorItem) -> Option<(u8, ErrorSays)> {
    let code = item.code.as_deref().unwrap_or(NONE);
    if status == 400 && (code == LOGIN_ERROR || code == NONE) {
        return message_row(item);
    }
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

/// The row of the message of a failed login.
fn message_row(item: &ErrorItem) -> Option<(u8, ErrorSays)> {
    let message = item.message.as_deref()?.to_ascii_lowercase();
    let row = MESSAGES.iter().find(|(words, ..)| has_words(&message, words));
    row.map(|&(_, rank, says)| (rank, says))
}

/// Whether `message` contains the text as whole words. `invalid credentials_storage` does not contain `invalid
/// credentials`.
fn has_words(message: &str, words: &str) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    message.match_indices(words).any(|(at, _)| is_end(&message[at + words.len()..]))
}

#[cfg(test)]
mod tests;
