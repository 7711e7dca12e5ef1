//! The proxy's own answers: why a request got no answer from a backend, with the id to look for.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::headers::REQUEST_ID;

/// Why a request is not answered by a backend.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    /// A word for machines.
    pub(crate) reason: &'static str,
    /// A sentence for people. It goes to the client, so it names no address.
    pub(crate) detail: Cow<'static, str>,
    /// Headers beside those that every answer has.
    pub(crate) headers: Option<Box<HeaderMap>>,
    /// The gRPC status, where it is not the one that `status` stands for.
    grpc: Option<u8>,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, detail: detail.into(), headers: None, grpc: None }
    }

    /// Adds a header to the answer.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    /// What calls of gRPC are told instead of what the status stands for.
    pub(crate) fn in_grpc(mut self, code: u8) -> Self {
        self.grpc = Some(code);
        self
    }

    /// Says when to come back: in whole seconds, as the header has no others (RFC 9110, 10.2.3).
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with(RETRY_AFTER, seconds.max(1).into())
    }

    pub(crate) fn bad_request(reason: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, detail)
    }

    /// In the form that the client understands.
    pub(crate) fn answer(&self, kind: Kind, id: &HeaderValue) -> Response<Body> {
        let mut response = self.bare(kind, id);
        if let Some(headers) = &self.headers {
            response.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        response
    }

    fn bare(&self, kind: Kind, id: &HeaderValue) -> Response<Body> {
        let id_text = id.to_str().unwrap_or_default();
        let (content_type, text) = match kind {
            Kind::Grpc => return self.grpc_answer(id),
            Kind::Json => ("application/json", self.json(id_text)),
            Kind::Text => (
                "text/plain; charset=utf-8",
                format!(
                    "{} {}\n{}\nreason: {}\nrequest id: {id_text}\n",
                    self.status.as_u16(),
                    self.title(),
                    self.detail,
                    self.reason
                ),
            ),
        };
        let mut response = Response::new(Body::text(text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response.headers_mut().insert(REQUEST_ID, id.clone());
        response
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    fn json(&self, id: &str) -> String {
        let mut json = format!("{{\"status\":{},\"reason\":\"{}\",\"message\":\"", self.status.as_u16(), self.reason);
        escape(&mut json, &self.detail);
        json.push_str("\",\"requestId\":\"");
        escape(&mut json, id);
        json.push_str("\"}\n");
        json
    }

    /// gRPC says in a header what went wrong, and is always 200.
    fn grpc_answer(&self, id: &HeaderValue) -> Response<Body> {
        let code = match self.status {
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::GATEWAY_TIMEOUT => "4",
            StatusCode::NOT_FOUND => "12",
            StatusCode::BAD_REQUEST => "13",
            StatusCode::TOO_MANY_REQUESTS => "8",
            _ => "14",
        };
        let code = self.grpc.map_or_else(|| HeaderValue::from_static(code), |code| u16::from(code).into());
        let message: String =
            self.detail.chars().map(|c| if matches!(c, ' '..='~') && c != '%' { c } else { '_' }).collect();
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), code);
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
        headers.insert(REQUEST_ID, id.clone());
        response
    }
}

fn escape(json: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => json.push(' '),
            c => json.push(c),
        }
    }
}

const GRPC: &[u8] = b"application/grpc";

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Json,
    Grpc,
}

impl Kind {
    /// What a client understands.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self::said(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes), headers.get(ACCEPT).map(HeaderValue::as_bytes))
    }

    /// The same, by the only two headers that matter.
    pub(crate) fn said(content_type: Option<&[u8]>, accept: Option<&[u8]>) -> Self {
        const JSON: &[u8] = b"application/json";
        if content_type.is_some_and(|said| said.starts_with(GRPC)) {
            Self::Grpc
        } else if accept.is_some_and(|said| said.windows(JSON.len()).any(|window| window == JSON)) {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// Whether an answer is that of a gRPC call, whose status comes in trailers. gRPC-Web is none: its trailers are in the body.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let (kind, rest) = value.as_bytes().split_at(value.len().min(GRPC.len()));
    kind.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Whether a request is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(GRPC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped() {
        let fault = Fault::new(StatusCode::BAD_GATEWAY, "refused", "a \"quoted\" \\ word");
        let expected =
            "{\"status\":502,\"reason\":\"refused\",\"message\":\"a \\\"quoted\\\" \\\\ word\",\"requestId\":\"i\"}\n";
        assert_eq!(fault.json("i"), expected);
    }

    #[test]
    fn calls_are_told_from_what_is_only_called_alike() {
        for (kind, call) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpc-web-text", false),
            ("application/grp", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_call(&headers), call, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn the_form_follows_the_request() {
        let kind = |name: &'static str, value: &'static str| {
            Kind::of(&HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]))
        };
        assert_eq!(kind("content-type", "application/grpc+proto"), Kind::Grpc);
        assert_eq!(kind("accept", "text/html, application/json"), Kind::Json);
        assert_eq!(kind("accept", "*/*"), Kind::Text);
    }
}
