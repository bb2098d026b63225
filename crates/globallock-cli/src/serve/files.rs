//! The page: files that are part of the program, and what a browser may do with them.

use axum::body::Body;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::view::refused;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The files: their paths, types and texts.
const FILES: [(&str, &str, &str); 9] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", JAVASCRIPT, include_str!("page/page.js")),
    ("/table.js", JAVASCRIPT, include_str!("page/table.js")),
    ("/lock.js", JAVASCRIPT, include_str!("page/lock.js")),
    ("/breaking.js", JAVASCRIPT, include_str!("page/breaking.js")),
    ("/model.js", JAVASCRIPT, include_str!("page/model.js")),
    ("/text.js", JAVASCRIPT, include_str!("page/text.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// What each answer tells the browser: to load nothing from elsewhere, to run nothing but the files above, to
/// make no markup of text, and to show this in no other page.
pub(super) const SECURITY: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

/// The file at this path.
pub(super) fn file(path: &str) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|(known, ..)| *known == path) else {
        return refused(StatusCode::NOT_FOUND, "there is nothing at this path");
    };
    let mut response = Response::new(Body::from(*text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // The next version of the program has other files at the same paths.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
