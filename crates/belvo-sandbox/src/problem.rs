//! All errors of the sandbox, as one table, and Belvo's envelope for them.
//!
//! The envelope is a JSON *array* of `{code, message, request_id, field?}` (error handling docs). The table does not
//! say what an error means for a link: the program under test has to find that out. Next: [`super::api`].

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use strum::VariantArray;
use uuid::Uuid;

use crate::error::ControlError;
use crate::login::LoginFailure;

/// Code, HTTP status and message, as in Belvo's error reference.
const KNOWN: &[(&str, u16, &str)] = &[
    ("activation_failed", 400, "The credentials provided were not accepted by the institution."),
    ("activation_required", 428, "This user doesn't have web access activated yet."),
    ("institution_down", 400, "The financial institution is down, try again later"),
    ("institution_inactive", 400, "The institution has been temporarily deactivated"),
    ("institution_unavailable", 400, "The financial institution is unavailable"),
    // Only an older copy of the docs names it, without a message.
    ("invalid_access_mode_switch", 400, "The access mode cannot be changed: the credentials are not stored any more"),
    ("invalid_credentials_storage", 400, "Recurrent links must store the credentials"),
    ("invalid_fetch_resources", 400, "Single links without stored credentials must fetch resources"),
    ("invalid_link", 400, "The link has been invalidated. You may need to update link credentials"),
    ("invalid_period", 400, "The number of days between date_from and date_to must be at least 90 days"),
    ("invalid_token", 400, "The token sent is incorrect or has expired, please try again."),
    ("operational_limits_reached", 400, "The operational limit for this resource has been reached until next month"),
    (
        "session_expired",
        400,
        "The session you are trying to resume has expired, please start again from register/retrieve endpoint",
    ),
    (
        "too_many_sessions",
        400,
        "Impossible to login, a session is already opened with the institution for these credentials",
    ),
    ("unavailable_data", 400, "The institution did not return any data for the request."),
    ("unconfirmed_link", 400, "The link creation has not been completed yet"),
    ("unsupported_operation", 400, "The resource you are trying to access is not supported by this institution"),
    ("validation_error", 400, "Bad request"),
    ("authentication_failed", 401, "Invalid Secret Keys"),
    ("consent_without_accounts", 401, "Information cannot be retrieved as the consent has no associated accounts"),
    ("access_to_resource_denied", 403, "You don't have access to this resource."),
    ("permission_denied", 403, "You do not have permission to perform this action."),
    ("quota_limit_reached", 403, "The quota limit has been reached."),
    ("expired_credentials", 404, "The credentials of this link have expired"),
    ("not_found", 404, "Not found."),
    (
        "request_timeout",
        408,
        "The request timed out, you can retry asking for less data by changing your query parameters",
    ),
    (
        "service_unavailable",
        500,
        "Belvo is unable to process the request due to an internal system issue or to an unsupported response from an \
         institution",
    ),
    (
        "unexpected_error",
        500,
        "Belvo is unable to process the request due to an internal system issue or to an unsupported response from an \
         institution",
    ),
];

/// An error response: a status and one object per error.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: u16,
    errors: Vec<Map<String, Value>>,
    retry_after_secs: Option<u64>,
    html: bool,
}

impl Problem {
    /// The error Belvo documents under this code, or nothing if it documents none.
    pub(crate) fn find(code: &str) -> Option<Self> {
        if let Some(failure) = code.strip_prefix("login_error:").and_then(|name| name.parse().ok()) {
            return Some(Self::login_error(failure));
        }
        match code {
            // The last minute of the cool-down, rounded down.
            "link_refreshed" => return Some(Self::link_refreshed(0)),
            "throttled" => return Some(Self::throttled(1)),
            "login_error" => return Some(Self::login_error(LoginFailure::InvalidCredentials)),
            // Too many requests in a row are refused by the proxy in front of the API, in HTML.
            "forbidden_html" => {
                return Some(Self { status: 403, errors: Vec::new(), retry_after_secs: None, html: true });
            }
            _ => {}
        }
        KNOWN.iter().find(|row| row.0 == code).map(|&(code, status, message)| Self::new(status, code, message))
    }
    /// [`Self::find`] for a code that a test sets.
    pub(crate) fn documented(code: &str) -> Result<Self, ControlError> {
        Self::find(code).ok_or_else(|| ControlError::NoSuchCode(code.to_owned()))
    }

    /// [`Self::find`] for the codes in this program.
    pub(crate) fn of(code: &'static str) -> Self {
        Self::find(code).expect("every code in the sandbox is in the table")
    }

    /// An error with one object.
    pub(crate) fn new(status: u16, code: &str, message: &str) -> Self {
        let mut error = Map::new();
        error.insert("code".into(), code.into());
        error.insert("message".into(), message.into());
        Self { status, errors: vec![error], retry_after_secs: None, html: false }
    }

    /// `login_error` is one code for seven conditions; only the message distinguishes them.
    pub(crate) fn login_error(failure: LoginFailure) -> Self {
        Self::new(400, "login_error", failure.message())
    }

    /// A 400 about one field of the request.
    pub(crate) fn field(field: &str, code: &str, message: &str) -> Self {
        Self::new(400, code, message).with("field", json!(field))
    }

    /// The 409 of the refresh cool-down.
    pub(crate) fn link_refreshed(wait_minutes: i64) -> Self {
        let message =
            format!("The link was refreshed recently. Please wait {wait_minutes} minutes before refreshing it again.");
        Self::new(409, "link_refreshed", &message)
    }

    /// A 429 with the time until the next try.
    pub(crate) fn throttled(secs: u64) -> Self {
        let message = format!("Request was throttled. Expected available in {secs} seconds.");
        let mut problem = Self::new(429, "throttled", &message);
        problem.retry_after_secs = Some(secs);
        problem
    }

    /// The 428: the only error that names the link and contains the session to resume. A QR code is confirmed elsewhere,
    /// and needs no token.
    pub(crate) fn token_required(link: Uuid, session: &str, expiry_secs: i64, expects_token: bool) -> Self {
        let (kind, instructions) = if expects_token {
            ("numeric", "Use this code to generate the token")
        } else {
            ("QR", "Scan this code with the application of your bank")
        };
        Self::new(428, "token_required", "A MFA token is required by the institution to login")
            .with("session", json!(session))
            .with("expiry", json!(expiry_secs))
            .with("link", json!(link))
            .with(
                "token_generation_data",
                json!({
                    "instructions": instructions,
                    "type": kind,
                    "value": "12345",
                    "expects_user_input": expects_token,
                }),
            )
    }

    /// Several invalid fields at once are several objects in one array.
    pub(crate) fn all(problems: Vec<Self>) -> Option<Self> {
        problems.into_iter().reduce(|mut first, next| {
            first.errors.extend(next.errors);
            first
        })
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        for error in &mut self.errors {
            error.insert(key.into(), value.clone());
        }
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.html {
            let body = "<html><head><title>403 Forbidden</title></head><body>403 Forbidden</body></html>";
            return (status, [(CONTENT_TYPE, HeaderValue::from_static("text/html"))], body).into_response();
        }
        let request_id = Uuid::new_v4().simple().to_string();
        let errors: Vec<Value> = self
            .errors
            .into_iter()
            .map(|mut error| {
                error.insert("request_id".into(), json!(request_id));
                Value::Object(error)
            })
            .collect();
        let mut response = (status, axum::Json(errors)).into_response();
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

/// Every error code that a test can set, with [`ApiFault::Error`](crate::ApiFault) and
/// [`Login::Answers`](crate::Login).
pub fn error_codes() -> Vec<String> {
    let known = KNOWN.iter().map(|row| row.0);
    let others = ["forbidden_html", "link_refreshed", "login_error", "throttled", "token_required"];
    let messages =
        LoginFailure::VARIANTS.iter().map(|failure| format!("login_error:{}", <&'static str>::from(failure)));
    known.chain(others).map(str::to_owned).chain(messages).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_code_once() {
        for (index, row) in KNOWN.iter().enumerate() {
            assert!(KNOWN[index + 1..].iter().all(|other| other.0 != row.0), "{} is there twice", row.0);
            assert_eq!(Problem::find(row.0).map(|problem| problem.status), Some(row.1));
        }
        assert!(Problem::find("no_such_code").is_none());
        assert_eq!(Problem::find("login_error:locked").unwrap().errors[0]["code"], "login_error");
    }

    #[test]
    fn several_problems_are_one_array() {
        let both = Problem::all(vec![
            Problem::field("username", "required", "This field is required."),
            Problem::field("password", "required", "This field is required."),
        ]);
        assert_eq!(both.map(|problem| problem.errors.len()), Some(2));
    }
}
