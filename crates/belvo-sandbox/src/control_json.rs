//! Reads the parts of a request to the control API, and answers with JSON if a part is invalid.
//!
//! axum's own refusals are plain text; here each is `{"error": "..."}`, like every other refusal of the control API.
//! Next: [`super::control_http`].

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::ControlError;

/// A refusal: the status and the reason.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    /// The request cannot be carried out as it is.
    pub(crate) fn bad(problem: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, problem.into())
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::NoSuchLink(_) | ControlError::NoSuchDelivery(_) => StatusCode::NOT_FOUND,
            ControlError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::NoSuchInstitution(_)
            | ControlError::NoSuchResource(_)
            | ControlError::NotALink(_)
            | ControlError::NotRecurrent(_)
            | ControlError::NotValid(_)
            | ControlError::NoSuchCode(_)
            | ControlError::NoConsent(_) => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let read = Json::from_request(request, state).await;
        read.map(|Json(body)| Self(body)).map_err(|wrong| Refusal(wrong.status(), wrong.body_text()))
    }
}

/// A part of the path.
pub(crate) struct InPath<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = Path::from_request_parts(parts, state).await;
        read.map(|Path(part)| Self(part)).map_err(|wrong| Refusal(wrong.status(), wrong.body_text()))
    }
}

/// The query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = Query::from_request_parts(parts, state).await;
        read.map(|Query(query)| Self(query)).map_err(|wrong| Refusal(wrong.status(), wrong.body_text()))
    }
}
