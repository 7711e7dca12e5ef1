//! Which requests are ours: told from the bytes of a head, and nothing else.
//!
//! Invariants: pure; what is taken has exactly one reading: lines end with CR LF, the version is 1.1, the target a path, the
//! method one without a body, there is one host, and no header says that anything follows or that the protocol changes. A head
//! that is not taken is left as it was, for a parser that knows the rest. Nothing is refused here.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Method, Request, Uri, request};

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

/// A request of ours.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) parts: request::Parts,
    /// Whether the client wants the connection to end with the answer.
    pub(crate) last: bool,
}

/// What the first bytes of a buffer are.
#[derive(Debug)]
pub(crate) enum Look {
    /// The beginning of what may become a request of ours.
    Partial,
    /// A request of ours, whose head was taken off.
    Ours(Box<Asked>),
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
pub(crate) fn look(buffer: &mut Bytes, limits: Limits) -> Look {
    // Empty lines before a request may be passed over; not here.
    if !buffer.first().is_some_and(u8::is_ascii_uppercase) {
        return if buffer.is_empty() { Look::Partial } else { Look::Other };
    }
    let mut fields = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let fields = &mut fields[..limits.headers.min(MOST_HEADERS)];
    let end = match request.parse_with_uninit_headers(buffer, fields) {
        Ok(httparse::Status::Complete(end)) if end <= limits.bytes => end,
        Ok(httparse::Status::Partial) if buffer.len() < limits.bytes => return Look::Partial,
        _ => return Look::Other,
    };
    match taken(&request, buffer, end) {
        Some(asked) => {
            let rest = buffer.split_off(end);
            // An empty rest would hold on to all that was read.
            *buffer = if rest.is_empty() { Bytes::new() } else { rest };
            Look::Ours(Box::new(asked))
        }
        None => Look::Other,
    }
}

/// A request of which the head ends at `end`, if it is ours.
fn taken(request: &httparse::Request<'_, '_>, bytes: &Bytes, end: usize) -> Option<Asked> {
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
    let mut headers = HeaderMap::with_capacity(request.headers.len() + ADDED);
    let (mut hosts, mut last) = (0, None);
    for field in &*request.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
        match name {
            CONTENT_LENGTH | TRANSFER_ENCODING | UPGRADE | EXPECT | TE | TRAILER => return None,
            HOST => hosts += 1,
            CONNECTION => last = Some(ends(&value).filter(|_| last.is_none())?),
            _ => {}
        }
        headers.append(name, value);
    }
    if hosts != 1 {
        return None;
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, uri, headers);
    Some(Asked { parts, last: last.unwrap_or(false) })
}

/// Whether the connection ends with the answer, by the only two things that may be said about it.
fn ends(connection: &HeaderValue) -> Option<bool> {
    let said = |what: &[u8]| connection.as_bytes().eq_ignore_ascii_case(what);
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

    fn looked(bytes: &[u8]) -> (Look, Bytes) {
        let mut buffer = Bytes::copy_from_slice(bytes);
        let look = look(&mut buffer, LIMITS);
        (look, buffer)
    }

    #[test]
    fn one_plain_form_is_taken() {
        let bytes = b"GET /a%20b?c=d HTTP/1.1\r\nHost: A.test:80\r\nX-Two: 1\r\nx-two: 2\r\nempty:\r\n\r\nGET /next";
        let (Look::Ours(asked), rest) = looked(bytes) else { panic!("not taken") };
        assert_eq!(rest, "GET /next");
        let Asked { parts, last } = *asked;
        assert_eq!((parts.method, parts.uri.to_string(), last), (Method::GET, "/a%20b?c=d".to_owned(), false));
        assert_eq!(parts.headers["host"], "A.test:80");
        assert_eq!(parts.headers.get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(parts.headers["empty"], "");
    }

    #[test]
    fn what_is_said_of_the_connection_counts() {
        for (said, expected) in [("close", true), ("Close", true), ("Keep-Alive", false)] {
            let (look, rest) = looked(format!("HEAD / HTTP/1.1\r\nhost: a\r\nconnection: {said}\r\n\r\n").as_bytes());
            assert!(matches!(look, Look::Ours(asked) if asked.last == expected && rest.is_empty()), "{said}");
        }
    }

    #[test]
    fn all_else_is_left_as_it_was() {
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
            let (look, rest) = looked(other.as_bytes());
            assert!(matches!(look, Look::Other), "{other:?}: {look:?}");
            assert_eq!(rest, other);
        }
    }

    #[test]
    fn a_head_is_waited_for_to_its_last_byte() {
        let whole = b"GET /a HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        for length in 0..whole.len() {
            let (look, rest) = looked(&whole[..length]);
            assert!(matches!(look, Look::Partial), "{length}: {look:?}");
            assert_eq!(rest, whole[..length]);
            assert!(!may_be_whole(&whole[..length], 0));
        }
        for seen in 0..whole.len() {
            assert!(may_be_whole(whole, seen), "{seen}");
        }
        assert!(matches!(looked(whole).0, Look::Ours(_)));
    }

    #[test]
    fn limits_are_those_of_the_settings() {
        let look_at =
            |text: &str, headers, bytes| look(&mut Bytes::copy_from_slice(text.as_bytes()), Limits { headers, bytes });
        let text = "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        assert!(matches!(look_at(text, 2, text.len()), Look::Ours(_)));
        assert!(matches!(look_at(text, 1, text.len()), Look::Other));
        assert!(matches!(look_at(text, 2, text.len() - 1), Look::Other));
        assert!(matches!(look_at(&text[..30], 2, 30), Look::Other), "no more than that is waited for");
    }
}
