//! The heads of answers, as bytes, and where their bodies end.
//!
//! Invariants: pure but for the date; what ends an answer is decided here and nowhere else, from the body that there is, never from
//! a header that somebody has set.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{StatusCode, response};
use hyper::ext::ReasonPhrase;

use super::date;
use crate::known::{Known, known};
use crate::lines;
use crate::upstream::Plain;

/// What is known of a body before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Known(u64),
    Unknown,
}

/// How the client learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, and no word about it.
    Nothing,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
}

impl Framing {
    /// Whether anything follows the head.
    pub(super) fn has_body(self) -> bool {
        !matches!(self, Self::Nothing | Self::Length(0))
    }
}

/// What an answer needs to know of its request and its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct To {
    /// Whether the request was HEAD.
    pub(super) head: bool,
    /// Whether the connection ends with it.
    pub(super) last: bool,
}

/// Writes a head. Says how the body goes on from there, and whether the connection ends with it.
pub(super) fn write(head: &response::Parts, size: Size, to: To, into: &mut Vec<u8>) -> (Framing, bool) {
    // Interim answers are nobody's last word.
    let status = if head.status.is_informational() { StatusCode::INTERNAL_SERVER_ERROR } else { head.status };
    let mut last = to.last || status != head.status;
    let silent = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match size {
        _ if silent || to.head => Framing::Nothing,
        _ if status != head.status => Framing::Length(0),
        Size::Known(bytes) => Framing::Length(bytes),
        Size::Unknown => Framing::Chunked,
    };
    status_line(head, status, into);
    let (mut lengthy, mut dated, mut said) = (false, false, false);
    for (name, value) in &head.headers {
        match *name {
            TRANSFER_ENCODING => continue,
            CONTENT_LENGTH if silent || lengthy || framing == Framing::Chunked => continue,
            CONTENT_LENGTH => {
                lengthy = true;
                if let Framing::Length(bytes) = framing {
                    length(bytes, into);
                    continue;
                }
            }
            TRAILER if framing != Framing::Chunked => continue,
            CONNECTION if closes(value) => (last, said) = (true, true),
            DATE => dated = true,
            _ => {}
        }
        lines::say(name.as_str().as_bytes(), &[value.as_bytes()], into);
    }
    if last && !said {
        into.extend_from_slice(b"connection: close\r\n");
    }
    match (framing, size) {
        (Framing::Length(bytes), _) if !lengthy => length(bytes, into),
        // What a GET would have brought.
        (Framing::Nothing, Size::Known(bytes)) if !lengthy && !silent && bytes > 0 => length(bytes, into),
        (Framing::Chunked, _) => into.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        _ => {}
    }
    if !dated {
        say_date(into);
    }
    into.extend_from_slice(b"\r\n");
    (framing, last)
}

/// Writes the head of an endpoint's plain answer, whose length its headers say, as it came. `last` says whether the connection ends with it,
/// and `name` the id of its request, where the client is told it and the endpoint says none.
pub(super) fn write_plain(plain: &Plain<'_, '_>, last: bool, name: Option<&[u8]>, into: &mut Vec<u8>) {
    if plain.status == StatusCode::OK && plain.reason.is_empty() {
        into.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        let own = Some(plain.reason.as_bytes()).filter(|reason| !reason.is_empty());
        status_in_full(plain.status, own, into);
    }
    let (mut dated, mut named) = (false, false);
    for field in plain.fields {
        match known(field.name.as_bytes()) {
            // Of one connection, or said anew.
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::ContentLength => continue,
            Known::Date => dated = true,
            Known::RequestId => named = true,
            _ => {}
        }
        lines::pass(plain.bytes, field, into);
    }
    if last {
        into.extend_from_slice(b"connection: close\r\n");
    }
    length(plain.length, into);
    if let Some(id) = name.filter(|_| !named) {
        lines::say(b"x-request-id", &[id], into);
    }
    if !dated {
        say_date(into);
    }
    into.extend_from_slice(b"\r\n");
}

fn say_date(into: &mut Vec<u8>) {
    into.extend_from_slice(b"date: ");
    date::write(into);
    into.extend_from_slice(b"\r\n");
}

fn status_line(head: &response::Parts, status: StatusCode, into: &mut Vec<u8>) {
    let own = head.extensions.get::<ReasonPhrase>().filter(|_| status == head.status);
    if status == StatusCode::OK && own.is_none() {
        return into.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    status_in_full(status, own.map(ReasonPhrase::as_bytes), into);
}

fn status_in_full(status: StatusCode, own: Option<&[u8]>, into: &mut Vec<u8>) {
    into.extend_from_slice(b"HTTP/1.1 ");
    into.extend_from_slice(status.as_str().as_bytes());
    into.push(b' ');
    into.extend_from_slice(own.unwrap_or_else(|| status.canonical_reason().unwrap_or("<none>").as_bytes()));
    into.extend_from_slice(b"\r\n");
}

fn length(bytes: u64, into: &mut Vec<u8>) {
    let (mut digits, mut first, mut rest) = ([0; 20], 20, bytes);
    while rest > 0 || first == 20 {
        first -= 1;
        digits[first] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
    lines::say(b"content-length", &[&digits[first..]], into);
}

fn closes(connection: &HeaderValue) -> bool {
    let said = connection.as_bytes().split(|byte| *byte == b',');
    said.map(<[u8]>::trim_ascii).any(|one| one.eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::{Method, Response};

    use super::*;
    use crate::{headers, upstream};

    const PLAIN: To = To { head: false, last: false };

    fn written(status: u16, headers: &[(&str, &str)], size: Size, to: To) -> (String, Framing, bool) {
        let mut response = Response::builder().status(status).header("date", "now");
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (parts, ()) = response.body(()).expect("an answer").into_parts();
        let mut bytes = Vec::new();
        let (framing, last) = write(&parts, size, to, &mut bytes);
        (String::from_utf8(bytes).expect("text").replace("date: now\r\n", "").replace("\r\n", "|"), framing, last)
    }

    #[test]
    fn where_a_body_ends_is_said_once() {
        let (known, unknown) = (Size::Known(3), Size::Unknown);
        let head = To { head: true, last: false };
        for (status, headers, size, to, expected, framing) in [
            (200, &[][..], known, PLAIN, "HTTP/1.1 200 OK|content-length: 3||", Framing::Length(3)),
            (
                200,
                &[("content-length", "3"), ("a", "b")],
                known,
                PLAIN,
                "HTTP/1.1 200 OK|content-length: 3|a: b||",
                Framing::Length(3),
            ),
            // A filter may say what it likes.
            (
                200,
                &[("content-length", "9"), ("content-length", "8")],
                known,
                PLAIN,
                "HTTP/1.1 200 OK|content-length: 3||",
                Framing::Length(3),
            ),
            (
                200,
                &[("content-length", "9")],
                unknown,
                PLAIN,
                "HTTP/1.1 200 OK|transfer-encoding: chunked||",
                Framing::Chunked,
            ),
            (
                200,
                &[("transfer-encoding", "gzip"), ("trailer", "x")],
                unknown,
                PLAIN,
                "HTTP/1.1 200 OK|trailer: x|transfer-encoding: chunked||",
                Framing::Chunked,
            ),
            (
                200,
                &[("transfer-encoding", "chunked"), ("trailer", "x")],
                known,
                PLAIN,
                "HTTP/1.1 200 OK|content-length: 3||",
                Framing::Length(3),
            ),
            (200, &[], Size::Known(0), PLAIN, "HTTP/1.1 200 OK|content-length: 0||", Framing::Length(0)),
            (204, &[("content-length", "3")], known, PLAIN, "HTTP/1.1 204 No Content||", Framing::Nothing),
            (304, &[("etag", "e")], unknown, PLAIN, "HTTP/1.1 304 Not Modified|etag: e||", Framing::Nothing),
            (
                200,
                &[("content-length", "9")],
                Size::Known(0),
                head,
                "HTTP/1.1 200 OK|content-length: 9||",
                Framing::Nothing,
            ),
            (200, &[], known, head, "HTTP/1.1 200 OK|content-length: 3||", Framing::Nothing),
            (200, &[], unknown, head, "HTTP/1.1 200 OK||", Framing::Nothing),
            (404, &[], known, PLAIN, "HTTP/1.1 404 Not Found|content-length: 3||", Framing::Length(3)),
            (599, &[], known, PLAIN, "HTTP/1.1 599 <none>|content-length: 3||", Framing::Length(3)),
        ] {
            assert_eq!(
                written(status, headers, size, to),
                (expected.to_owned(), framing, false),
                "{status} {headers:?}"
            );
        }
    }

    /// What is written of an endpoint's answer from where it landed, and what of the same as others know it, as lines in order.
    fn both(text: &str, last: bool) -> (Vec<String>, Vec<String>) {
        let (mut room, mut ours, mut others) = (upstream::room(), Vec::new(), Vec::new());
        let plain = upstream::plain(text.as_bytes(), &Method::GET, &mut room).expect("plain");
        write_plain(&plain, last, Some(b"id"), &mut ours);
        let read = upstream::read(&mut BytesMut::from(text), &Method::GET).expect("readable").expect("whole");
        let mut parts = read.parts;
        headers::strip(&mut parts.headers);
        headers::name(&mut parts.headers, &HeaderValue::from_static("id"));
        let framing = write(&parts, Size::Known(plain.length), To { head: false, last }, &mut others);
        assert_eq!(framing, (Framing::Length(plain.length), last));
        let lines = |head: Vec<u8>| {
            let text = String::from_utf8(head).expect("text");
            // The second may have passed in between.
            let mut lines: Vec<String> = text
                .split("\r\n")
                .map(|line| {
                    if line.starts_with("date: ") && !line.ends_with("theirs") { "date" } else { line }.to_owned()
                })
                .collect();
            lines[1..].sort();
            lines
        };
        (lines(ours), lines(others))
    }

    #[test]
    fn a_plain_answer_is_written_as_any_other() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: x\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 Fine\r\ncontent-length: 007\r\nDate: theirs\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\nKeep-Alive: timeout=5\r\n\r\n",
            "HTTP/1.1 599 \r\ncontent-length: 1\r\nproxy-connection: x\r\nconnection: keep-alive\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 299 Odd\r\nset-cookie: a=1\r\nempty:\r\nSet-Cookie: b=2\r\ncontent-length: 1024\r\n\r\n",
        ] {
            for last in [false, true] {
                let (ours, others) = both(text, last);
                assert_eq!(ours, others, "{text:?}");
            }
        }
    }

    #[test]
    fn lengths_are_decimal() {
        for bytes in [0, 7, 10, 1024, 9_007_199_254_740_993, u64::MAX] {
            let mut text = Vec::new();
            length(bytes, &mut text);
            assert_eq!(text, format!("content-length: {bytes}\r\n").into_bytes());
        }
    }

    #[test]
    fn the_end_of_a_connection_is_said_once() {
        let closing = To { head: false, last: true };
        let said = "HTTP/1.1 200 OK|connection: close|content-length: 0||".to_owned();
        let none = Size::Known(0);
        assert_eq!(written(200, &[], none, closing), (said.clone(), Framing::Length(0), true));
        assert_eq!(written(200, &[("connection", "close")], none, PLAIN), (said.clone(), Framing::Length(0), true));
        assert_eq!(written(200, &[("connection", "close")], none, closing), (said, Framing::Length(0), true));
        let (_, framing, last) = written(103, &[], Size::Known(5), PLAIN);
        assert_eq!((framing, last), (Framing::Length(0), true));
    }

    #[test]
    fn there_is_a_date_and_the_endpoints_own_reason() {
        let mut response = Response::new(());
        response.extensions_mut().insert(ReasonPhrase::from_static(b"Fine"));
        let (parts, ()) = response.into_parts();
        let mut bytes = Vec::new();
        write(&parts, Size::Known(0), PLAIN, &mut bytes);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("HTTP/1.1 200 Fine\r\n") && text.contains("\r\ndate: "), "{text}");
    }
}
