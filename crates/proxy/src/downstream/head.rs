//! Which requests are ours: told from the bytes of a head, and nothing else.
//!
//! Invariants: pure; what is taken has exactly one reading: lines end with CR LF, the version is 1.1, the target a path, the
//! method one without a body, there is one host, and no header says that anything follows or that the protocol changes. What is
//! not taken is for a parser that knows the rest. Nothing is refused here, and nothing copied: whoever needs headers by their names makes
//! a map of them ([`Plain::parts`]).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, request};

use crate::known::{Known, known};

/// How many headers a request of ours may have; more are hyper's affair, whatever the settings say.
const MOST_HEADERS: usize = 100;
/// Headers that the proxy adds on the way, for which there is room from the beginning.
const ADDED: usize = 6;

/// What a head may have at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) headers: usize,
    pub(crate) bytes: usize,
}

/// Room for the headers of one head.
pub(crate) type Room<'b> = [MaybeUninit<httparse::Header<'b>>; MOST_HEADERS];

/// As much as it takes.
pub(crate) fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MOST_HEADERS]
}

/// A request of ours, where it has landed.
#[derive(Debug)]
pub(crate) struct Plain<'h, 'b> {
    /// What was read, of which the first `end` bytes are its head.
    pub(crate) bytes: &'b [u8],
    pub(crate) end: usize,
    pub(crate) method: Method,
    pub(crate) target: &'b str,
    pub(crate) host: &'b [u8],
    pub(crate) fields: &'h [httparse::Header<'b>],
    /// Whether the client wants the connection to end with the answer.
    pub(crate) last: bool,
    pub(crate) says: Says<'b>,
}

/// What the proxy itself wants to know of a request, of headers of which the first counts.
#[derive(Debug, Default)]
pub(crate) struct Says<'b> {
    pub(crate) id: Option<&'b [u8]>,
    pub(crate) accept: Option<&'b [u8]>,
    pub(crate) content_type: Option<&'b [u8]>,
    /// Its trace, and whether it is said more than once.
    pub(crate) trace: Option<&'b [u8]>,
    pub(crate) traces: bool,
    /// Whether it says by whom it was forwarded, in the form that takes more than to go on.
    pub(crate) forwarded: bool,
}

/// What the first bytes that were read are.
#[derive(Debug)]
pub(crate) enum Look<'h, 'b> {
    /// The beginning of what may become a request of ours.
    Partial,
    /// A request of ours.
    Ours(Plain<'h, 'b>),
    /// Anything else.
    Other,
}

/// Whether what came after the first `seen` bytes can have ended a head.
pub(crate) fn may_be_whole(bytes: &[u8], seen: usize) -> bool {
    let new = &bytes[seen.saturating_sub(3).min(bytes.len())..];
    // A head of which the lines end otherwise is for hyper, and ends as well.
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

/// Looks at the front of what was read.
pub(crate) fn look<'h, 'b>(bytes: &'b [u8], limits: Limits, room: &'h mut Room<'b>) -> Look<'h, 'b> {
    // Empty lines before a request may be passed over; not here.
    if !bytes.first().is_some_and(u8::is_ascii_uppercase) {
        return if bytes.is_empty() { Look::Partial } else { Look::Other };
    }
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut room[..limits.headers.min(MOST_HEADERS)]) {
        Ok(httparse::Status::Complete(end)) if end <= limits.bytes => {
            taken(request, bytes, end).map_or(Look::Other, Look::Ours)
        }
        Ok(httparse::Status::Partial) if bytes.len() < limits.bytes => Look::Partial,
        _ => Look::Other,
    }
}

/// A request of which the head ends at `end`, if it is ours.
fn taken<'h, 'b>(request: httparse::Request<'h, 'b>, bytes: &'b [u8], end: usize) -> Option<Plain<'h, 'b>> {
    let method = match request.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "OPTIONS" => Method::OPTIONS,
        "DELETE" => Method::DELETE,
        _ => return None,
    };
    let target = request.path.filter(|target| target.starts_with('/'))?;
    if request.version != Some(1) || !lines_end_properly(&bytes[..end]) {
        return None;
    }
    let fields: &'h [httparse::Header<'b>] = request.headers;
    let (mut host, mut last, mut says) = (None, None, Says::default());
    for field in fields {
        match known(field.name.as_bytes()) {
            Known::ContentLength
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Expect
            | Known::Te
            | Known::Trailer => return None,
            Known::Host if host.is_some() => return None,
            Known::Host => host = Some(field.value),
            Known::Connection => last = Some(ends(field.value).filter(|_| last.is_none())?),
            Known::RequestId => says.id = says.id.or(Some(field.value)),
            Known::Accept => says.accept = says.accept.or(Some(field.value)),
            Known::ContentType => says.content_type = says.content_type.or(Some(field.value)),
            Known::Forwarded => says.forwarded = true,
            Known::TraceParent => {
                says.traces = says.trace.is_some();
                says.trace = says.trace.or(Some(field.value));
            }
            _ => {}
        }
    }
    Some(Plain { bytes, end, method, target, host: host?, fields, last: last.unwrap_or(false), says })
}

impl Plain<'_, '_> {
    /// The same as others know it, with what is kept of it in `all`, which are the bytes where it has landed. None where they would not have it.
    pub(crate) fn parts(&self, all: &Bytes) -> Option<request::Parts> {
        let uri = Uri::from_maybe_shared(self.part(all, self.target.as_bytes())).ok()?;
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri, parts.headers) = (self.method.clone(), uri, self.headers(all)?);
        Some(parts)
    }

    /// Its headers as others know them.
    pub(crate) fn headers(&self, all: &Bytes) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.fields.len() + ADDED);
        for field in self.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_maybe_shared(self.part(all, field.value)).ok()?);
        }
        Some(headers)
    }

    /// A part of the head, as a part of a copy of it.
    fn part(&self, all: &Bytes, part: &[u8]) -> Bytes {
        let start = (part.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        // A value of no length may be anywhere.
        if part.is_empty() { Bytes::new() } else { all.slice(start..start + part.len()) }
    }
}

/// Whether the connection ends with the answer, by the only two things that may be said about it.
fn ends(connection: &[u8]) -> Option<bool> {
    let said = |what: &[u8]| connection.eq_ignore_ascii_case(what);
    if said(b"close") { Some(true) } else { said(b"keep-alive").then_some(false) }
}

/// Whether each line of a head ends with CR LF, where a parser takes LF alone too.
fn lines_end_properly(head: &[u8]) -> bool {
    // All of it is looked at, whatever is found: so the processor does many at a time.
    head.iter().zip(&head[1..]).fold(true, |proper, (before, this)| proper & ((*this != b'\n') | (*before == b'\r')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { headers: 100, bytes: 64 * 1024 };

    /// What becomes of a head: of ours the parts, whether it is the last, and how much is left.
    fn looked_at(bytes: &[u8], limits: Limits) -> Result<(request::Parts, bool, usize), &'static str> {
        match look(bytes, limits, &mut room()) {
            Look::Ours(plain) => {
                let parts = plain.parts(&Bytes::copy_from_slice(bytes)).expect("what http takes as well");
                assert_eq!(parts.headers["host"].as_bytes(), plain.host);
                Ok((parts, plain.last, bytes.len() - plain.end))
            }
            Look::Partial => Err("partial"),
            Look::Other => Err("other"),
        }
    }

    fn looked(bytes: &[u8]) -> Result<(request::Parts, bool, usize), &'static str> {
        looked_at(bytes, LIMITS)
    }

    #[test]
    fn one_plain_form_is_taken() {
        let bytes = b"GET /a%20b?c=d HTTP/1.1\r\nHost: A.test:80\r\nX-Two: 1\r\nx-two: 2\r\nempty:\r\n\r\nGET /next";
        let (parts, last, left) = looked(bytes).expect("taken");
        assert_eq!(left, "GET /next".len());
        assert_eq!((parts.method, parts.uri.to_string(), last), (Method::GET, "/a%20b?c=d".to_owned(), false));
        assert_eq!(parts.headers["host"], "A.test:80");
        assert_eq!(parts.headers.get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(parts.headers["empty"], "");
    }

    #[test]
    fn what_is_said_of_the_connection_counts() {
        for (said, expected) in [("close", true), ("Close", true), ("Keep-Alive", false)] {
            let head = format!("HEAD / HTTP/1.1\r\nhost: a\r\nconnection: {said}\r\n\r\n");
            assert!(matches!(looked(head.as_bytes()), Ok((_, last, 0)) if last == expected), "{said}");
        }
    }

    #[test]
    fn names_and_values_are_the_same_to_both_parsers() {
        for byte in 0..=u8::MAX {
            let name = [b"GET / HTTP/1.1\r\nhost: a\r\nx", &[byte][..], b": v\r\n\r\n"].concat();
            // A colon ends the name.
            if byte != b':' {
                assert_eq!(looked(&name).is_ok(), HeaderName::from_bytes(&[b'x', byte]).is_ok(), "{byte}");
            }
            let value = [b"GET / HTTP/1.1\r\nhost: a\r\nx: v", &[byte][..], b"v\r\n\r\n"].concat();
            assert_eq!(looked(&value).is_ok(), HeaderValue::from_bytes(&[b'v', byte, b'v']).is_ok(), "{byte}");
        }
    }

    #[test]
    fn all_else_is_for_others() {
        for other in [
            "POST / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
            "get / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /\tx HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nCONTENT-LENGTH: 3\r\n\r\nabc",
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\ntrailer: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection:\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nconnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
        ] {
            assert_eq!(looked(other.as_bytes()).expect_err(other), "other", "{other:?}");
        }
    }

    #[test]
    fn a_head_is_waited_for_to_its_last_byte() {
        let whole = b"GET /a HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(looked(&whole[..length]).expect_err("not whole"), "partial", "{length}");
            assert!(!may_be_whole(&whole[..length], 0));
        }
        for seen in 0..whole.len() {
            assert!(may_be_whole(whole, seen), "{seen}");
        }
        assert!(looked(whole).is_ok());
    }

    #[test]
    fn limits_are_those_of_the_settings() {
        let look_at = |text: &str, headers, bytes| looked_at(text.as_bytes(), Limits { headers, bytes }).map(drop);
        let text = "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        assert_eq!(look_at(text, 2, text.len()), Ok(()));
        assert_eq!(look_at(text, 1, text.len()), Err("other"));
        assert_eq!(look_at(text, 2, text.len() - 1), Err("other"));
        assert_eq!(look_at(&text[..30], 2, 30), Err("other"), "no more than that is waited for");
    }
}
