//! External authorization: a service is asked, with the request's own head, whether the request may pass.
//!
//! In the manner of nginx's `auth_request`: a success lets it in, 401 and 403 refuse it, all else is no answer.
//!
//! Invariants: nothing of the body is sent; one question a request and policy, within the policy's time; no answer refuses, unless
//! the policy says otherwise.

use std::pin::Pin;
use std::sync::Arc;

use http::header::{
    CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, TE, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode, Uri, request};
use hyper::body::Body as _;

use super::compile::Policy;
use super::decide::{Reason, Verdict};
use crate::balance::Backend;
use crate::body::Body;
use crate::forward::{self, Miss};
use crate::headers;
use crate::request::Caller;
use crate::upstream::RequestBody;

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
/// How much of an answer's body is read, so that the connection can be used again.
const MOST_BODY: usize = 64 * 1024;

/// Who is asked.
pub(super) struct Asker {
    pub(super) backend: Arc<Backend>,
    pub(super) says: super::policy::External,
}

/// What the backend gets, or the refusal.
pub(super) type Answer = Result<Vec<(HeaderName, HeaderValue)>, Verdict>;

/// Asks.
pub(super) async fn ask(
    caller: &Caller,
    policy: &Policy,
    asker: &Asker,
    parts: &request::Parts,
    id: &HeaderValue,
) -> Answer {
    let exchange = exchange(caller, asker, question(caller, asker, parts, id));
    let unavailable = |why: String| {
        if asker.says.fail_open {
            tracing::warn!(target: "proxy::access", policy = &*policy.id, why, "let in without an answer, as the policy says");
            return Ok(Vec::new());
        }
        Err(Verdict { flaw: Some(why), ..Verdict::new(Reason::ExternalUnavailable, policy, None) })
    };
    let response = match tokio::time::timeout(asker.says.timeout, exchange).await {
        Ok(Ok(response)) => response,
        Ok(Err(why)) => return unavailable(why),
        Err(_) => return unavailable(format!("no answer within {:?}", asker.says.timeout)),
    };
    match response.status() {
        status if status.is_success() => {
            let copied = asker.says.to_backend.iter();
            Ok(copied.filter_map(|name| Some((name.clone(), response.headers().get(name)?.clone()))).collect())
        }
        StatusCode::UNAUTHORIZED => {
            let challenge = response.headers().get(WWW_AUTHENTICATE).cloned();
            Err(Verdict { challenge, ..Verdict::new(Reason::ExternalUnauthorized, policy, None) })
        }
        StatusCode::FORBIDDEN => Err(Verdict::new(Reason::ExternalDenied, policy, None)),
        status => unavailable(format!("the answer is {status}")),
    }
}

/// The question: the request's head, without what concerns its body or one connection, and without what would make the answer
/// something else than yes or no.
fn question(caller: &Caller, asker: &Asker, parts: &request::Parts, id: &HeaderValue) -> Request<RequestBody> {
    let mut asked: HeaderMap = parts.headers.clone();
    headers::strip(&mut asked);
    for name in
        [CONTENT_LENGTH, EXPECT, TE, RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE]
    {
        asked.remove(name);
    }
    // What only the answer may say.
    for name in &asker.says.to_backend {
        asked.remove(name);
    }
    if let (Some(authority), false) = (parts.uri.authority(), asked.contains_key(http::header::HOST))
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        asked.insert(http::header::HOST, host);
    }
    headers::vouch(&mut asked, caller.told.as_ref());
    asked.insert(headers::REQUEST_ID, id.clone());
    if let Ok(method) = HeaderValue::from_str(parts.method.as_str()) {
        asked.insert(ORIGINAL_METHOD, method);
    }
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    if let Ok(target) = HeaderValue::from_str(target) {
        asked.insert(ORIGINAL_URI, target);
    }
    let mut question = Request::new(RequestBody::Empty);
    *question.method_mut() = Method::GET;
    *question.uri_mut() = asker.says.path.parse().unwrap_or(Uri::from_static("/"));
    *question.headers_mut() = asked;
    question
}

async fn exchange(caller: &Caller, asker: &Asker, question: Request<RequestBody>) -> Result<Response<()>, String> {
    let ticket = asker.backend.pick(&[]);
    let ticket = ticket.ok_or_else(|| format!("the backend {} has no endpoint that is ready", asker.backend.id))?;
    let answer = forward::over_http1(caller, ticket, Box::new(question)).await;
    let (parts, mut body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(Miss::Untouched(_, _, why)) => return Err(why),
        Err(Miss::Broken(fault)) => return Err(fault.detail.into_owned()),
    };
    // Read to its end, so that the connection can be used again; nothing is kept.
    let (body, mut read): (&mut Body, usize) = (&mut body, 0);
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MOST_BODY {
            break;
        }
    }
    Ok(Response::from_parts(parts, ()))
}
