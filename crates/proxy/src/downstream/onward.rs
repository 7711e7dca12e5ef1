//! The head of a request as the next hop gets it, written from what asked: the bytes of HTTP/1.1, or what HTTP/2 made of its own.
//!
//! Invariants: pure; what it says is what [`headers::prepare`] and [`headers::tell`] make of the same head, in whatever order: nothing that
//! concerns a single connection goes on, and nothing that a client may not say.

use std::ops::Range;

use http::header::HeaderValue;

use super::direct::Passable;
use crate::known::{Known, known};
use crate::lines;
use crate::snapshot::Forwarded;

#[cfg(doc)]
use crate::headers;

/// How much room what is added takes, if no name is long.
const ADDED: usize = 384;

/// What the next hop is told.
pub(super) struct Told<'a> {
    /// Who calls, and how.
    pub(super) address: &'a HeaderValue,
    pub(super) scheme: &'static str,
    pub(super) believed: Forwarded,
    /// Who vouches for it.
    pub(super) vouched: Option<&'a HeaderValue>,
    pub(super) id: &'a HeaderValue,
    /// The place in the trace, and whether the trace begins here; none where traces pass untouched.
    pub(super) trace: Option<(&'a [u8], bool)>,
}

/// Whether that takes more than to pass on what came.
pub(super) fn is_rare(asked: &impl Passable, believed: Forwarded) -> bool {
    asked.says().forwarded && believed == Forwarded::Append
}

/// A head, and where in it the id is.
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    id: Range<usize>,
}

impl Head {
    pub(super) fn id(&self) -> &[u8] {
        &self.bytes[self.id.clone()]
    }
}

/// Writes the head.
pub(super) fn write(asked: &impl Passable, told: &Told<'_>) -> Head {
    let mut head = Vec::with_capacity(asked.size() + ADDED);
    head.extend_from_slice(asked.method().as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(asked.target().as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let replace = told.believed == Forwarded::Replace;
    // Whoever is believed is continued.
    let (mut chain, mut proto, mut host) = (Vec::new(), false, false);
    let goes = |name: &[u8], value: &[u8]| {
        match known(name) {
            // Of one connection.
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Http2Settings => return false,
            // Said below, or by nobody.
            Known::RequestId | Known::ClientCert => return false,
            Known::ForwardedFor | Known::ForwardedProto | Known::ForwardedHost | Known::Forwarded if replace => {
                return false;
            }
            Known::ForwardedFor => {
                chain.extend_from_slice(value);
                chain.extend_from_slice(b", ");
                return false;
            }
            Known::ForwardedProto => proto = true,
            Known::ForwardedHost => host = true,
            Known::TraceParent => return told.trace.is_none(),
            Known::TraceState => return !told.trace.is_some_and(|(_, begins)| begins),
            _ => {}
        }
        true
    };
    asked.pass(goes, &mut head);
    lines::say(b"x-forwarded-for", &[&chain, told.address.as_bytes()], &mut head);
    if !proto {
        lines::say(b"x-forwarded-proto", &[told.scheme.as_bytes()], &mut head);
    }
    if !host {
        lines::say(b"x-forwarded-host", &[asked.host()], &mut head);
    }
    lines::say(b"x-request-id", &[told.id.as_bytes()], &mut head);
    let id = head.len() - b"\r\n".len() - told.id.len()..head.len() - b"\r\n".len();
    if let Some((place, _)) = told.trace {
        lines::say(b"traceparent", &[place], &mut head);
    }
    if let Some(vouched) = told.vouched {
        lines::say(b"x-forwarded-client-cert", &[vouched.as_bytes()], &mut head);
    }
    head.extend_from_slice(b"\r\n");
    Head { bytes: head, id }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;

    use super::*;
    use crate::downstream::form::Landed;
    use crate::downstream::head::{Limits, Look, look, room};
    use crate::{headers, upstream};

    const FORMS: [Forwarded; 2] = [Forwarded::Replace, Forwarded::Append];

    /// Whether it is rare, what is written, and what the way for all other requests makes of the same, as lines in order.
    fn both(fields: &[&str], believed: Forwarded, vouched: Option<&HeaderValue>) -> (bool, Vec<String>, Vec<String>) {
        let text = format!("GET /a?b HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
        let mut room = room();
        let Look::Ours(plain) = look(text.as_bytes(), Limits { headers: 100, bytes: 4096 }, &mut room) else {
            panic!("{text:?} is not plain")
        };
        let (address, id) = (HeaderValue::from_static("10.0.0.9"), HeaderValue::from_static("id"));
        let told = Told { address: &address, scheme: "https", believed, vouched, id: &id, trace: None };
        let asked = Landed::of(&plain, Bytes::new).expect("a target that means one thing");
        let (rare, ours) = (is_rare(&asked, believed), write(&asked, &told));
        assert_eq!(ours.id(), id.as_bytes());
        let ours = ours.bytes;
        let mut parts = plain.parts(&Bytes::copy_from_slice(text.as_bytes())).expect("parts");
        let host = parts.headers.get("host").cloned();
        headers::prepare(&mut parts);
        let from = headers::From { address: &address, scheme: "https", host, id: &id, believed };
        headers::tell(&mut parts.headers, &from);
        headers::vouch(&mut parts.headers, vouched);
        let other = upstream::Http1::written(&Request::from_parts(parts, ()));
        let lines = |head: Vec<u8>| {
            let text = String::from_utf8(head).expect("text");
            let mut lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
            lines[1..].sort();
            lines
        };
        (rare, lines(ours), lines(other))
    }

    #[test]
    fn it_is_what_all_others_get() {
        let vouched = HeaderValue::from_static("URI=spiffe://a/b");
        for fields in [
            &["Host: A.test:80"][..],
            &["host: a", "Accept: */*", "X-Two: 1", "x-two: 2", "empty:"],
            &["host: a", "connection: close", "keep-alive: timeout=5", "Proxy-Connection: x", "http2-settings: AAA"],
            &["host: a", "connection: keep-alive", "cookie: a=b", "cookie: c=d"],
            &["host: a", "x-request-id: forged", "X-Request-Id: twice"],
            &["host: a", "x-forwarded-client-cert: URI=spiffe://forged", "X-Forwarded-Client-Cert: x"],
            &["host: a", "x-forwarded-for: 1.2.3.4"],
            &["x-forwarded-for: 1.2.3.4", "host: a", "X-Forwarded-For: 5.6.7.8, 9.9.9.9"],
            &["host: a", "x-forwarded-proto: http", "x-forwarded-host: forged", "x-forwarded-proto: ftp"],
            &["host: a", "traceparent: x", "tracestate: y", "te-x: 1", "x-te: 2"],
        ] {
            for believed in FORMS {
                for vouched in [None, Some(&vouched)] {
                    let (rare, ours, others) = both(fields, believed, vouched);
                    assert_eq!((rare, ours), (false, others), "{fields:?} {believed:?}");
                }
            }
        }
    }

    #[test]
    fn a_form_that_is_rare_is_left_to_others() {
        let fields = ["host: a", "forwarded: for=x"];
        assert!(both(&fields, Forwarded::Append, None).0);
        let (rare, ours, others) = both(&fields, Forwarded::Replace, None);
        assert_eq!((rare, ours), (false, others));
    }

    #[test]
    fn a_trace_goes_on_with_what_belongs_to_it() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\nTraceparent: theirs\r\ntracestate: a=1\r\n\r\n";
        for (begins, states) in [(true, 0), (false, 1)] {
            let mut room = room();
            let Look::Ours(plain) = look(text, Limits { headers: 9, bytes: 999 }, &mut room) else { panic!("plain") };
            let value = HeaderValue::from_static("x");
            let told = Told {
                address: &value,
                scheme: "http",
                believed: Forwarded::Replace,
                vouched: None,
                id: &value,
                trace: Some((b"ours", begins)),
            };
            let asked = Landed::of(&plain, Bytes::new).expect("a target that means one thing");
            let head = String::from_utf8(write(&asked, &told).bytes).expect("text");
            assert!(head.contains("\r\ntraceparent: ours\r\n") && !head.contains("theirs"), "{head}");
            assert_eq!(head.matches("tracestate").count(), states, "{head}");
        }
    }
}
