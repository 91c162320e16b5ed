//! Classifies messages: it finds the row of a webhook or of an API error in a table. **The tables are the complete
//! classification.**
//!
//! `WEBHOOKS` has a row for each pair of type and code, `ERRORS` for each combination of HTTP status, code and message.
//! `MESSAGES` has the messages of failed logins, which occur in webhooks and in answers. A new code is a new row.
//! Sources: "Webhooks: LINK family", "Webhooks: CONSENT family", the webhook page of each resource, "API reference:
//! errors", and the guide "Belvo API errors".
//!
//! There are two rules. An error about the API keys, about one request, or about an outage of an institution is
//! [`Unrelated`], so that it never becomes an event of a link (an outage is evidence about the institution). A message that is in no row has no class, and relink does not guess
//! one.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::body::webhook::WebhookBody;
use super::call;
use super::error_body::{ErrorBody, ErrorItem};
use super::unrelated::Unrelated;
use crate::contract::ApiError;
use crate::link::{Cause, DataKind};

/// The meaning of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WebhookClass {
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
pub(super) enum ErrorClass {
    /// The link cannot be used until its user repairs it.
    Breaks(Cause),
    /// A login was refused: with the stored credentials, or with new ones if the call was to create a link.
    Refuses(Cause),
    /// An MFA token is required, for the creation of a link, for a repair, or for a link in use. The session may be
    /// open.
    RequiresToken,
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
use WebhookClass as W;

/// The type of a webhook, its code, and its meaning. Type and code are in the form of [`as_the_table_spells`].
#[rustfmt::skip]
pub(super) const WEBHOOKS: &[(&str, &str, WebhookClass)] = &[
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
pub(super) enum Http {
    Is(u16),
    /// 500 to 599.
    Server,
}

use ErrorClass::{Breaks, Missing, QuotaUsedUp, Refuses, RequiresToken, SessionOver, Unfinished};
use Http::{Is, Server};

/// In a row: any code, or no code.
pub(super) const ANY: &str = "*";
/// In a row: the body is not an error of Belvo, or an old one without `code`.
pub(super) const NONE: &str = "";

const fn not(class: Unrelated) -> ErrorClass {
    ErrorClass::Unrelated(class)
}

/// The rank of an error that is in no row. In a body with several errors, a known error about the link ranks higher,
/// and an error that is not about the link ranks lower.
pub(super) const UNKNOWN_RANK: u8 = 50;

/// The rank of an error that says that the link may be deleted.
const MISSING_RANK: u8 = 70;

/// The messages of failed logins. The code `login_error` has several causes, so its message decides: words of the
/// message in lower case, rank as in [`ERRORS`], and meaning. The first matching row counts. A message without a
/// matching row has no meaning.
///
/// The same messages occur in the answer to a call (400, `login_error`) and in `data` of a webhook of the LINK family.
#[rustfmt::skip]
pub(super) const MESSAGES: &[(&str, u8, ErrorClass)] = &[
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
    ("token is required",               80, RequiresToken),
    ("invalid credentials",             75, Refuses(Cause::Credentials)),
    ("missing credentials",             75, Refuses(Cause::Credentials)),
    // "Impossible to login, something unexpected happened while logging into the institution. Try again later."
    ("something unexpected happened",   30, not(Unrelated::Outage)),
];

/// The code of an error whose message decides.
pub(super) const LOGIN_ERROR: &str = "login_error";

/// HTTP status, code, words of the message (lower case; empty for any message), rank, and meaning. The first matching
/// row counts. If a body has several errors, the one with the highest rank counts; errors that only the user can end
/// have high ranks.
#[rustfmt::skip]
pub(super) const ERRORS: &[(Http, &str, &str, u8, ErrorClass)] = &[
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
    (Is(400), "institution_down",           "",                                30, not(Unrelated::InstitutionDown)),
    (Is(400), "institution_unavailable",    "",                                30, not(Unrelated::InstitutionDown)),
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
    (Is(428), "token_required",             "",                                80, RequiresToken),
    // "Token Required": the object without `code` of the old support page.
    (Is(428), NONE,                         "",                                80, RequiresToken),

    (Is(429), ANY,                          "",                                10, not(Unrelated::RateLimit)),
    (Server,  ANY,                          "",                                30, not(Unrelated::Outage)),
];

/// The type and the code of a webhook in the form of the table, and its class.
pub(super) struct ClassifiedWebhook<'a> {
    pub(super) family: &'a str,
    pub(super) code: &'a str,
    /// `None`: the webhook is in no row.
    pub(super) class: Option<WebhookClass>,
}

/// Finds the row of a webhook. An error in a webhook of the LINK family can make its cause more precise.
pub(super) fn classify_webhook<'a>(body: &'a WebhookBody<'_>) -> ClassifiedWebhook<'a> {
    let (family, code) = as_the_table_spells(&body.family, &body.code);
    let row = WEBHOOKS.iter().find(|(row_family, row_code, _)| *row_family == family && *row_code == code);
    let class = row.map(|&(_, _, class)| match class {
        W::Breaks(cause) if family == "LINK" => {
            let cause = most_precise(cause, ErrorBody::of_data(&body.data));
            W::Breaks(most_precise(cause, ErrorBody::parse(&body.beside_data)))
        }
        class => class,
    });
    ClassifiedWebhook { family, code, class }
}

/// The cause of a webhook of the LINK family: the code of the webhook says `cause`, and an error in `data` may be more
/// precise, by its message or its code. The most precise cause counts.
///
/// An error without a known cause does not change `cause`. The same holds for "something unexpected happened, try again
/// later": Belvo sends `invalid_credentials` only once, so ignoring the webhook would lose an outage, while a wrong
/// outage ends with the next read of the link.
fn most_precise(cause: Cause, errors: ErrorBody) -> Cause {
    let cause_of = |item: &ErrorItem| {
        let code = item.code.as_deref().unwrap_or_default();
        let by_code = || ERRORS.iter().find(|row| row.1 == code && !code.is_empty()).map(|row| row.4);
        match message_row(item).map(|(_rank, class)| class).or_else(by_code)? {
            Breaks(cause) | Refuses(cause) => Some(cause),
            RequiresToken => Some(Cause::Token),
            Unfinished | SessionOver | Missing | QuotaUsedUp | ErrorClass::Unrelated(_) => None,
        }
    };
    let precision = |cause: &Cause| match cause {
        Cause::Credentials => 0,
        Cause::Token => 1,
        Cause::ConsentEnded => 2,
        Cause::AccountBlocked => 3,
        Cause::Unsupported => 4,
    };
    let causes = errors.items.into_iter().filter_map(|item| cause_of(&item));
    causes.chain([cause]).max_by_key(precision).unwrap_or(cause)
}

/// Type and code in one form. The spellings of both differ between copies of the documentation.
pub(super) fn as_the_table_spells<'a>(family: &'a str, code: &'a str) -> (&'a str, &'a str) {
    match (family, code) {
        ("LINKS", code) => ("LINK", code),
        ("CONSENT", code) => ("CONSENT", code.strip_prefix("openfinance_").unwrap_or(code)),
        // The spelling on the documentation page of INVESTMENTS.
        ("ACCOUNTS", "new_investments_available") => ("INVESTMENTS", code),
        (family, code) => (family, code),
    }
}

/// The class of an error in the answer to a call of the client, and the item that decides. No item: the body contains no
/// error of Belvo, and its status has no class. No class: the error is in no row.
pub(super) fn classify_error<'a>(
    error: &ApiError,
    items: &'a [ErrorItem],
) -> Option<(Option<ErrorClass>, &'a ErrorItem)> {
    highest(items, |item| row_of(error.http_status, item))
}

/// Like [`classify_error`], for a reported error. More wordings than Belvo documents count as a possible deletion,
/// because it only makes relink read the link.
pub(super) fn classify_report<'a>(
    error: &ApiError,
    items: &'a [ErrorItem],
) -> Option<(Option<ErrorClass>, &'a ErrorItem)> {
    let may_be_deleted = |item: &ErrorItem| match error.http_status {
        // 410 "Gone", with any body.
        410 => true,
        // Any text, no body, or an HTML page. An unknown code stays unknown.
        404 => item.code.is_none(),
        _other => false,
    };
    highest(items, |item| {
        let row = row_of(error.http_status, item);
        let is_missing = || may_be_deleted(item) && call::is_of_belvo(&error.path);
        row.or_else(|| is_missing().then_some((MISSING_RANK, Missing)))
    })
}

/// The item with the highest rank; of items with the same rank the first.
fn highest(
    items: &[ErrorItem],
    row_of: impl Fn(&ErrorItem) -> Option<(u8, ErrorClass)>,
) -> Option<(Option<ErrorClass>, &ErrorItem)> {
    let ranked = items.iter().filter_map(|item| match row_of(item) {
        // The text in a wrapper is from the client that wrapped the error, unless it is a code of Belvo.
        _any if item.is_wrapper && item.code.is_none() => None,
        None if item.is_wrapper => None,
        Some((rank, class)) => Some((rank, Some(class), item)),
        None => Some((UNKNOWN_RANK, None, item)),
    });
    let highest = ranked.reduce(|first, next| if next.0 > first.0 { next } else { first });
    highest.map(|(_rank, class, item)| (class, item))
}

/// The rank and the meaning of one error.
pub(super) fn row_of(status: u16, item: &ErrorItem) -> Option<(u8, ErrorClass)> {
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
    row.map(|&(_, _, _, rank, class)| (rank, class))
}

/// The row of the message of a failed login.
fn message_row(item: &ErrorItem) -> Option<(u8, ErrorClass)> {
    /// To prepare a search takes longer than to search one message.
    static SEARCHES: LazyLock<Vec<Finder<'static>>> =
        LazyLock::new(|| MESSAGES.iter().map(|(words, ..)| Finder::new(*words)).collect());

    let message = item.message.as_deref()?.to_ascii_lowercase();
    let row = MESSAGES.iter().zip(&*SEARCHES).find(|(_, search)| has_words(&message, search));
    row.map(|(&(_, rank, class), _)| (rank, class))
}

/// Whether `message` contains the text as whole words. `invalid credentials_storage` does not contain `invalid
/// credentials`.
fn has_words(message: &str, words: &Finder<'_>) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    words.find_iter(message.as_bytes()).any(|at| is_end(&message[at + words.needle().len()..]))
}
