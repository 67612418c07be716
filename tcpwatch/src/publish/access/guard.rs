//! The layer around all paths: passwords, and the headers of the configuration.

use axum::{
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Access, passwords::Verdict};
use crate::publish::hosts::Listening;

const CHALLENGE: [(HeaderName, &str); 1] =
    [(WWW_AUTHENTICATE, "Basic realm=\"tcpwatch\", charset=\"UTF-8\"")];

/// Answers only requests with a user's password, on every path. A header of tcpwatch itself stays.
pub(in crate::publish) async fn guard(
    State(access): State<Access>,
    request: Request,
    next: Next,
) -> Response {
    if request.extensions().get() == Some(&Listening::Privately) {
        return next.run(request).await;
    }
    let Some((shared, terms)) = access.terms().await else { return next.run(request).await };
    let authorization: Option<HeaderValue> = request.headers().get(AUTHORIZATION).cloned();
    let mut response = match shared.passwords.check(&terms.users, authorization.as_ref()).await {
        Verdict::Granted => next.run(request).await,
        Verdict::Denied => {
            let text = "a user name and a password are needed\n";
            (StatusCode::UNAUTHORIZED, CHALLENGE, text).into_response()
        }
        Verdict::Busy => {
            let text = "too many passwords wait for their check\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    };
    for (name, value) in &terms.headers {
        response.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    response
}
