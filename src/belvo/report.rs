//! The reader of a reported API error: the fields of [`ApiError`], under all names that are unambiguous.
//!
//! Reports often come from existing error handlers, with `status` or `statusCode`, `url`, or the error object of an
//! HTTP client. A missing field on which the meaning depends is an error that names the field. If two fields contradict
//! each other, the outer one counts.

use serde_json::{Map, Value};

use super::call;
use super::error_body::{DEPTH_MAX, ErrorBody, field, named, status_of_error};
use super::undecodable::Undecodable;
use crate::contract::{ApiError, is_one_of};

/// The field names of the HTTP status, as `squeezed` returns them.
const STATUS: &[&str] = &["httpstatus", "httpstatuscode", "statuscode", "status"];

/// The field names of the path.
const PATH: &[&str] = &["path", "url", "uri", "endpoint"];

/// The field names of the method.
const METHOD: &[&str] = &["method", "httpmethod"];

/// The field names of the link.
const LINK: &[&str] = &["linkid", "link"];

/// Reads a report.
///
/// # Errors
/// [`Undecodable`]: the report does not contain the status, or not enough about the request.
pub(super) fn parse(value: Value) -> Result<ApiError, Undecodable> {
    let Value::Object(mut fields) = value else { return Err(Undecodable::shape("$", "expected an object")) };
    let body = match fields.remove("body") {
        None | Some(Value::Null) => bare_answer(&fields),
        Some(body) => body,
    };
    let path = named(&fields, PATH).ok_or_else(|| {
        Undecodable::shape(
            "$.path",
            "missing: the path of the request, such as `/api/transactions/` (also read as `url`)",
        )
    })?;
    let method = named(&fields, METHOD).unwrap_or_default();
    if method.is_empty() && call::needs_method(&path) {
        let problem = "missing: on this path the same error means another thing for each method";
        return Err(Undecodable::shape("$.method", problem));
    }
    Ok(ApiError {
        schema_version: None,
        http_status: status(&fields, &body)?,
        method,
        path,
        link_id: named(&fields, LINK),
        request_id: named(&fields, &["requestid"]),
        body,
    })
}

/// The body of the answer. Without a field `body` it is taken from `detail`, `errors`, `response`, or the report
/// itself.
fn bare_answer(fields: &Map<String, Value>) -> Value {
    let known = |name: &str| [STATUS, PATH, METHOD, LINK].into_iter().any(|names| is_one_of(name, names));
    let rest: Map<_, _> = fields.iter().filter(|(name, _)| !known(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let rest = Value::Object(rest);
    if ErrorBody::parse(&rest).items.is_empty() { Value::Null } else { rest }
}

/// The status of the answer: from the report, else from a wrapper in the body.
fn status(fields: &Map<String, Value>, body: &Value) -> Result<u16, Undecodable> {
    match field(fields, STATUS) {
        Some(said) => status_of_error(said)
            .ok_or_else(|| Undecodable::shape("$.http_status", "expected the status of an error, 400 to 599")),
        None => ErrorBody::parse(body).status.ok_or_else(|| {
            let problem = "missing: it was looked for as `http_status`, `status`, `statusCode` and `status_code`, here and in `body`";
            Undecodable::shape("$.http_status", problem)
        }),
    }
}

/// The error for a report without a status: its body contains no error either.
pub(super) fn nothing_found() -> Undecodable {
    let problem = format!(
        "no error of Belvo's was found in it: looked for objects with `code`, `message` or `detail`, in lists, in wrappers such as \
         `detail`, `errors` and `response`, and in texts that hold JSON, {DEPTH_MAX} levels deep"
    );
    Undecodable::shape("$.body", problem)
}
