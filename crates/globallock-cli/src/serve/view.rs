//! Answers in JSON.

use axum::body::Body;
use axum::http::header;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use globallock::Error;
use serde::Serialize;
use serde_json::json;

/// An answer in JSON.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    // Only what has no form in JSON could fail, and nothing here is such.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer that says why there is no other.
pub(super) fn refused(status: StatusCode, why: &str) -> Response {
    answer(status, &json!({ "error": why }))
}

/// What the store has answered instead of what was asked.
pub(super) fn failed(error: &Error) -> Response {
    let status = match error {
        Error::InvalidName { .. } => StatusCode::BAD_REQUEST,
        Error::Unavailable { .. } | Error::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    refused(status, &error.to_string())
}
