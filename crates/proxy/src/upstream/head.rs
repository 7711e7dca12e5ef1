//! The heads of HTTP/1 messages, as bytes: written for requests that have no body, read of answers.
//!
//! Invariants: pure; what RFC 9112 does not allow is refused instead of guessed at, as a guess about where a message ends is what
//! makes one answer look like two. What ends an answer is decided here and nowhere else.

use std::io::Write as _;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;

use crate::known::{Known, known};

/// How many headers an answer may have, and how many bytes its head.
const MOST_HEADERS: usize = 100;
const MOST_BYTES: usize = 256 * 1024;
/// Headers that may come to an answer on the way, for which there is room from the beginning.
const ADDED: usize = 2;

/// Why what came is no answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) &'static str);

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    Chunked,
    UntilClose,
}

/// The head of an answer.
pub(crate) struct Head {
    pub(crate) parts: response::Parts,
    pub(super) length: Length,
    /// Whether the connection can be used again after it.
    pub(super) keep: bool,
}

/// The head of an answer of the one form that most have, where it has landed: of HTTP/1.1, with a body of a known length and nothing that
/// needs a second thought.
#[derive(Debug)]
pub(crate) struct Plain<'h, 'b> {
    /// What was read.
    pub(crate) bytes: &'b [u8],
    pub(crate) status: StatusCode,
    /// Empty where it is the usual one.
    pub(crate) reason: &'b str,
    pub(crate) fields: &'h [httparse::Header<'b>],
    pub(crate) length: u64,
    /// Whether the connection can be used again after it, and for how many seconds the other side says that it keeps it.
    pub(super) keep: bool,
    pub(crate) keeps: Option<u64>,
    /// Where the body begins.
    pub(super) end: usize,
}

impl<'b> Plain<'_, 'b> {
    /// All of it, without what came behind it.
    pub(crate) fn head(&self) -> &'b [u8] {
        &self.bytes[..self.end]
    }
}

/// Room for the headers of one head.
pub(crate) type Room<'b> = [MaybeUninit<httparse::Header<'b>>; MOST_HEADERS];

/// As much as it takes.
pub(crate) fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MOST_HEADERS]
}

/// The head of an answer at the front of what was read, if it is whole and plain. All others are for [`read`].
pub(crate) fn plain<'h, 'b>(bytes: &'b [u8], method: &Method, room: &'h mut Room<'b>) -> Option<Plain<'h, 'b>> {
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, room);
    let Ok(httparse::Status::Complete(end)) = parsed else { return None };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok())?;
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || *method == Method::HEAD;
    if answer.version != Some(1) || status.is_informational() || bodiless || end > MOST_BYTES {
        return None;
    }
    let fields: &'h [httparse::Header<'b>] = answer.headers;
    let (mut length, mut connection, mut keeps) = (None, None, None);
    for field in fields {
        match known(field.name.as_bytes()) {
            Known::ContentLength if length.is_none() => length = Some(number(field.value)?),
            Known::Connection if connection.is_none() => connection = Some(field.value),
            Known::KeepAlive if keeps.is_none() && field.value.is_ascii() => keeps = Some(said_to_keep(field.value)),
            // Several of those, other framings, calls of gRPC.
            Known::ContentLength
            | Known::Connection
            | Known::KeepAlive
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Trailer
            | Known::GrpcStatus => return None,
            Known::ContentType if is_call(field.value) => return None,
            _ => {}
        }
    }
    let keep = match connection {
        None => true,
        Some(said) if said.eq_ignore_ascii_case(b"keep-alive") => true,
        Some(said) if said.eq_ignore_ascii_case(b"close") => false,
        // A list may name others.
        Some(_) => return None,
    };
    let reason = answer.reason.filter(|reason| status.canonical_reason() != Some(reason)).unwrap_or_default();
    Some(Plain { bytes, status, reason, fields, length: length?, keep, keeps: keeps.flatten(), end })
}

/// A length: digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

fn said_to_keep(value: &[u8]) -> Option<u64> {
    crate::headers::timeout(std::str::from_utf8(value).ok()?)
}

fn is_call(content_type: &[u8]) -> bool {
    content_type.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"))
}

/// Writes the head of a request that has no body.
pub(super) fn write<B>(request: &Request<B>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(request.method().as_str().as_bytes());
    bytes.push(b' ');
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    bytes.extend_from_slice(target.as_bytes());
    bytes.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        // There is no body, whatever a filter has made of these.
        if *name == TRANSFER_ENCODING || (*name == CONTENT_LENGTH && value != "0") {
            continue;
        }
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    // Others wait for a body where a method has a meaning for one (RFC 9110, 8.6).
    if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        // Writing to memory does not fail.
        let _ = bytes.write_all(b"content-length: 0\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Takes the head of an answer to a request with such a method off the front of what was read. None where it is not whole yet.
pub(crate) fn read(buffer: &mut BytesMut, method: &Method) -> Result<Option<Head>, Unreadable> {
    let mut fields = room();
    let mut answer = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let end = match parser.parse_response_with_uninit_headers(&mut answer, buffer, &mut fields) {
        Ok(httparse::Status::Complete(end)) if end <= MOST_BYTES => end,
        Ok(httparse::Status::Partial) if buffer.len() <= MOST_BYTES => return Ok(None),
        Ok(_) => return Err(Unreadable("the head of the answer is too long")),
        Err(httparse::Error::TooManyHeaders) => return Err(Unreadable("the answer has too many headers")),
        Err(_) => return Err(Unreadable("what came is no answer of HTTP/1")),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Unreadable("the answer has no status"))?;
    let old = answer.version == Some(0);
    let reason = answer.reason.filter(|reason| !reason.is_empty() && status.canonical_reason() != Some(reason));
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let start = buffer.as_ptr() as usize;
    let places: Vec<(HeaderName, std::ops::Range<usize>)> = answer
        .headers
        .iter()
        .map(|field| {
            let at = field.value.as_ptr() as usize - start;
            // A value of no length may be anywhere.
            let range = if field.value.is_empty() { 0..0 } else { at..at + field.value.len() };
            HeaderName::from_bytes(field.name.as_bytes()).map(|name| (name, range))
        })
        .collect::<Result<_, _>>()
        .map_err(|_| Unreadable("the answer has a header without a proper name"))?;
    let bytes = buffer.split_to(end).freeze();
    let mut headers = HeaderMap::with_capacity(places.len() + ADDED);
    for (name, range) in places {
        headers.append(name, value(&bytes, range)?);
    }
    let (length, sure) = length(status, method, old, &mut headers)?;
    let keep = sure && length != Length::UntilClose && keeps(old, &headers);
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) =
        (status, if old { Version::HTTP_10 } else { Version::HTTP_11 }, headers);
    if let Some(reason) = reason {
        parts.extensions.insert(reason);
    }
    Ok(Some(Head { parts, length, keep }))
}

fn value(bytes: &Bytes, range: std::ops::Range<usize>) -> Result<HeaderValue, Unreadable> {
    HeaderValue::from_maybe_shared(bytes.slice(range)).map_err(|_| Unreadable("the answer has an improper header"))
}

/// Where an answer ends (RFC 9112, 6.3), and whether that is beyond doubt.
fn length(
    status: StatusCode,
    method: &Method,
    old: bool,
    headers: &mut HeaderMap,
) -> Result<(Length, bool), Unreadable> {
    let mut announced = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let bytes = digits.and_then(|text| text.parse::<u64>().ok());
        let bytes = bytes.ok_or(Unreadable("the answer has an improper length"))?;
        if announced.replace(bytes).is_some_and(|before| before != bytes) {
            return Err(Unreadable("the answer has several lengths"));
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (coding, another) = (codings.next().cloned(), codings.next().is_some());
    let without = *method == Method::HEAD || status.is_informational();
    if without || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok((Length::Bytes(0), true));
    }
    if let Some(coding) = coding {
        if old || another || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Unreadable("the answer has a transfer coding other than chunked"));
        }
        // Both are an attempt at deception, or a mistake (6.1): the coding counts, and nothing after it is believed.
        return Ok((Length::Chunked, headers.remove(CONTENT_LENGTH).is_none()));
    }
    if let Some(bytes) = announced {
        if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        return Ok((Length::Bytes(bytes), true));
    }
    Ok((Length::UntilClose, true))
}

/// Whether the other side keeps the connection (RFC 9112, 9.3).
fn keeps(old: bool, headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut has = |wanted: &str| said.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted)));
    if old { has("keep-alive") } else { !has("close") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, method: &Method) -> Result<Option<(Head, usize)>, Unreadable> {
        let mut buffer = BytesMut::from(text);
        read(&mut buffer, method).map(|head| head.map(|head| (head, buffer.len())))
    }

    fn told(text: &str) -> Result<(Length, bool), &'static str> {
        match head(text, &Method::GET) {
            Ok(Some((head, _))) => Ok((head.length, head.keep)),
            Ok(None) => Err("not whole"),
            Err(Unreadable(why)) => Err(why),
        }
    }

    #[test]
    fn where_an_answer_ends() {
        let improper = Err("the answer has an improper length");
        let coding = Err("the answer has a transfer coding other than chunked");
        for (said, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP", Ok((Length::Bytes(3), true))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n", Ok((Length::Bytes(3), true))),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
                Err("the answer has several lengths"),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n", improper),
            ("HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\n", improper),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\n", improper),
            ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", improper),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", improper),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Ok((Length::Chunked, true))),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
                Ok((Length::Chunked, false)),
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", coding),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", coding),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", coding),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: x, Close\r\n\r\n", Ok((Length::Bytes(3), false))),
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", Ok((Length::Bytes(3), false))),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\n", Ok((Length::Bytes(3), true))),
            ("HTTP/1.1 200 OK\r\n\r\n", Ok((Length::UntilClose, false))),
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok((Length::Bytes(0), true))),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", Ok((Length::Bytes(0), true))),
            ("HTTP/1.1 100 Continue\r\n\r\n", Ok((Length::Bytes(0), true))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n", Err("not whole")),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", Err("what came is no answer of HTTP/1")),
            ("HTTP/1.1 200 OK\r\na : b\r\n\r\n", Err("what came is no answer of HTTP/1")),
            ("HTTP/2 200\r\n\r\n", Err("what came is no answer of HTTP/1")),
            ("SSH-2.0-OpenSSH\r\n", Err("what came is no answer of HTTP/1")),
        ] {
            assert_eq!(told(said), expected, "{said:?}");
        }
    }

    #[test]
    fn one_form_is_plain_and_means_what_the_others_do() {
        for (said, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP", Some((3, true, None))),
            (
                "HTTP/1.1 599 x\r\ncontent-length: 007\r\nconnection: Keep-Alive\r\nkeep-alive: timeout=5, max=9\r\n\r\n",
                Some((7, true, Some(5))),
            ),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", Some((0, false, None))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: x-a\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\nconnection: close\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nupgrade: x\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntrailer: x\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ngrpc-status: 0\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-type: Application/grpc+proto\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n x: folded\r\n\r\n", None),
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", None),
            ("HTTP/1.1 101 Switching Protocols\r\ncontent-length: 3\r\n\r\n", None),
            ("HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\n", None),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", None),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", None),
        ] {
            let mut fields = room();
            let found = plain(said.as_bytes(), &Method::GET, &mut fields);
            assert_eq!(found.as_ref().map(|found| (found.length, found.keep, found.keeps)), expected, "{said:?}");
            if let Some(found) = found {
                let (other, left) = head(said, &Method::GET).expect("readable").expect("whole");
                assert_eq!((other.length, other.keep), (Length::Bytes(found.length), found.keep), "{said:?}");
                assert_eq!((other.parts.status, left), (found.status, said.len() - found.end), "{said:?}");
                assert_eq!(crate::headers::keep_alive(&other.parts.headers), found.keeps, "{said:?}");
            }
            assert!(plain(said.as_bytes(), &Method::HEAD, &mut room()).is_none(), "{said:?}");
        }
    }

    #[test]
    fn an_answer_is_read_and_no_more() {
        let (head, left) =
            head("HTTP/1.1 299 Fine\r\nA: 1\r\na: 2\r\nempty:\r\ncontent-length: 2\r\n\r\nhi", &Method::GET)
                .expect("readable")
                .expect("whole");
        assert_eq!((head.parts.status.as_u16(), left), (299, 2));
        assert_eq!(head.parts.headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(head.parts.headers["empty"], "");
        assert_eq!(head.parts.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes), Some(&b"Fine"[..]));
    }

    #[test]
    fn what_answers_head_has_no_body() {
        let (head, _) =
            head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &Method::HEAD).expect("ok").expect("whole");
        assert_eq!((head.length, head.parts.headers["content-length"].as_bytes()), (Length::Bytes(0), &b"5"[..]));
    }

    #[test]
    fn heads_are_bounded() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_HEADERS + 1));
        assert_eq!(told(&many), Err("the answer has too many headers"));
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(MOST_BYTES));
        assert_eq!(told(&long), Err("the head of the answer is too long"));
    }

    #[test]
    fn requests_are_written_without_a_body() {
        let written = |request: http::request::Builder| {
            String::from_utf8(write(&request.body(()).expect("a request"))).expect("text")
        };
        assert_eq!(
            written(Request::get("/a?b").header("host", "h").header("content-length", "5")),
            "GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n"
        );
        assert_eq!(
            written(Request::post("/").header("host", "h")),
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
        );
        assert_eq!(written(Request::options("*")), "OPTIONS * HTTP/1.1\r\n\r\n");
    }
}
