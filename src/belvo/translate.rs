//! What a message means: from Belvo's codes to an event of the machine. **The two tables are the whole classification.**
//!
//! `WEBHOOKS` has a row per (type, code), `ERRORS` per (HTTP status, code, message); a new code is a new row. `MESSAGES` is what a failed
//! login says, in a webhook as in an answer. Sources: "Webhooks: LINK family", "Webhooks: CONSENT family", the webhook page of each
//! resource, "API reference: errors", and the guide "Belvo API errors".
//!
//! Three rules. A signal about our keys, our request or an institution's outage never becomes an event. What is in no row is
//! [`Meaning::Unknown`]: kept whole, counted, never guessed at. No input panics, and no error quotes what it read.
//!
//! Next: `meaning` (how a row and a body become an event), `body` and `error_body` (what the bodies look like), `call` (which request
//! an error answers), `own` (what relink's own callers may write).

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

/// That a link may be gone, in whatever words.
const MISSING_RANK: u8 = 70;

/// What a failed login says: `login_error` is not one condition, its message decides. Words of the message in small letters, rank as in
/// [`ERRORS`], and what it says; the first row that fits counts. An unknown message decides nothing.
///
/// The same words come as the answer to a call (400, `login_error`) and in `data` of a webhook of the LINK family.
#[rustfmt::skip]
const MESSAGES: &[(&str, u8, ErrorSays)] = &[
    // "A MFA token is required by the institution, but it's not supported yet by Belvo."
    ("not supported yet by belvo",      90, Refuses(Cause::Unsupported)),
    // "The user account is locked, user needs to contact the institution to unlock it"
    ("account is locked",               85, Refuses(Cause::AccountBlocked)),
    // The same reason in other words: only the institution can help.
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

/// HTTP status, code, words of the message (small letters; none: any message), rank, and what it says. The first row that fits
/// counts. Of several errors in one body, the one with the highest rank counts: the more final, the higher.
#[rustfmt::skip]
const ERRORS: &[(Http, &str, &str, u8, ErrorSays)] = &[
    (Is(400), "unconfirmed_link",           "",                                95, Unfinished),
    (Is(400), "invalid_link",               "",                                80, Breaks(Cause::Credentials)),
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
    // "No Link matches the given query.": how Django says it, on which Belvo runs.
    (Is(404), NONE,                         "matches the given query",         70, Missing),

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
    if kind != InputKind::Webhook {
        own::check_version(&value)?;
    }
    let unread = informs::unread(kind, &value, received_at);
    let meaning = match kind {
        InputKind::Webhook => translate_webhook(link, &value, received_at),
        InputKind::ApiError => translate_report(link, &report::parse(value)?, received_at),
        InputKind::Widget => meaning::of_widget(link, &own::parse_widget(value)?, received_at),
        InputKind::Observation => meaning::of_observation(link, &own::parse_observation(value)?, received_at),
        InputKind::Command => meaning::of_command(&own::parse_command(value)?),
    };
    Ok(Reading { meaning: meaning?, unread })
}

/// The link a reported API error is about, for whoever has to find its subject; none if it names none, or cannot be read.
pub fn link_of_api_error(payload: &[u8]) -> Option<LinkId> {
    find_link(&report::parse(read_json(payload).ok()?).ok()?)
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
        Some((family, code, W::Breaks(cause))) if *family == "LINK" => {
            let cause = most_telling(most_telling(*cause, &body.data), &body.beside_data);
            meaning::of_webhook(W::Breaks(cause), family, code, &body, received_at)
        }
        Some((family, code, says)) => meaning::of_webhook(*says, family, code, &body, received_at),
        None => Meaning::unknown(&["webhook", family, code]),
    })
}

/// What has to be mended when a webhook of the LINK family says `cause`, and the error in its `data` more: by the message of that error,
/// else by its code. Of all that is said the most telling counts.
///
/// What tells nothing leaves it to the webhook's own code. So does "something unexpected happened, try again later": Belvo sends
/// `invalid_credentials` about the link once and not again, so that dropping it would lose an outage, while believing it costs at most
/// a prompt that the next read of the link takes back.
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
    judge(link, error, received_at, |item| row_of(error.http_status, item))
}

/// The same of an error that somebody reports. That the link may be gone is taken from more words than Belvo documents: it only makes
/// relink ask.
fn translate_report(link: &LinkId, error: &ApiError, received_at: Timestamp) -> Result<Meaning, Undecodable> {
    let may_be_gone = |item: &ErrorItem| match error.http_status {
        // "Gone", whatever else it says.
        410 => true,
        // Any sentence, none at all, or a page; a code that is not known stays unknown.
        404 => item.code.is_none(),
        _other => false,
    };
    let is_of_belvo = call::is_of_belvo(&error.path);
    judge(link, error, received_at, |item| {
        let row = row_of(error.http_status, item);
        row.or_else(|| (is_of_belvo && may_be_gone(item)).then_some((MISSING_RANK, Missing)))
    })
}

/// The meaning of an error, by the row that each of its items has.
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
    // Some statuses say enough without a body.
    let bare = [ErrorItem::default()];
    let items = if body.items.is_empty() { &bare } else { &body.items[..] };
    let ranked = items.iter().filter_map(|item| match row_of(item) {
        // A wrapper's own words are those of the client that passed the error on, unless they are a code of Belvo's.
        _any if item.is_wrapper && item.code.is_none() => None,
        None if item.is_wrapper => None,
        Some((rank, says)) => Some((rank, Some(says), item)),
        None => Some((UNKNOWN_RANK, None, item)),
    });
    // Of equals the first counts.
    let most_final = ranked.reduce(|first, next| if next.0 > first.0 { next } else { first });
    let (says, item) = most_final.map_or((None, &bare[0]), |(_, says, item)| (says, item));
    let code = item.code.as_deref().unwrap_or("without_code");
    match says {
        Some(says) => Ok(meaning::of_api_error(says, Call::of(error), link, error, item, received_at)),
        None if body.items.is_empty() => Err(report::nothing_found()),
        None => Ok(Meaning::unknown(&["api_error", &error.http_status.to_string(), code])),
    }
}

/// What the tables say of one error: rank and meaning.
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

/// What the message of a failed login says.
fn message_row(item: &ErrorItem) -> Option<(u8, ErrorSays)> {
    let message = item.message.as_deref()?.to_ascii_lowercase();
    let row = MESSAGES.iter().find(|(words, ..)| has_words(&message, words));
    row.map(|&(_, rank, says)| (rank, says))
}

/// Whether `message` has these words as words: `invalid credentials_storage` is another matter.
fn has_words(message: &str, words: &str) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    message.match_indices(words).any(|(at, _)| is_end(&message[at + words.len()..]))
}

#[cfg(test)]
mod tests;
