//! The layer around all paths: passwords, and the headers of the configuration.

use axum::{
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Access, passwords::Verdict};
use crate::publish::{hosts::Listening, places::Peer};

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
    let peer = request.extensions().get().copied().unwrap_or(Peer::UNKNOWN);
    let checked = shared.passwords.check(&terms.users, authorization.as_ref(), peer).await;
    let mut response = match checked {
        Verdict::Granted => next.run(request).await,
        Verdict::Denied => {
            let text = "a user name and a password are needed\n";
            (StatusCode::UNAUTHORIZED, CHALLENGE, text).into_response()
        }
        Verdict::Busy => {
            const AFTER: [(HeaderName, &str); 1] = [(RETRY_AFTER, "1")];
            let text = "another password waits for its check\n";
            (StatusCode::SERVICE_UNAVAILABLE, AFTER, text).into_response()
        }
    };
    for (name, value) in &terms.headers {
        response.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    response
}
