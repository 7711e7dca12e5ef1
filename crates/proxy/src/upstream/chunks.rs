//! Takes a chunked body apart (RFC 9112, 7.1).
//!
//! Invariants: pure; a line ends with CR LF and nothing else; lengths of lines and of trailers are bounded.

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::head::Unreadable;

/// The longest line before a chunk, with extensions, which mean nothing here.
const MOST_LINE: usize = 4 * 1024;
/// How many bytes trailers may have.
const MOST_TRAILERS: usize = 16 * 1024;
const MOST_FIELDS: usize = 64;

/// Where in a body we are.
#[derive(Debug, Default)]
pub(super) enum Chunks {
    /// Before the length of a chunk.
    #[default]
    Line,
    /// In a chunk of which so much is still to come.
    Data(u64),
    /// Before the end of its line.
    After,
    Trailers,
    Ended,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// There must come more bytes first.
    More,
}

impl Chunks {
    /// Whether all of the body has been seen.
    pub(super) fn ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Takes the next part off the front of what was read.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Step, Unreadable> {
        loop {
            match self {
                Self::Line => {
                    let Some(line) = line(buffer)? else { return Ok(Step::More) };
                    *self = match size(&line)? {
                        0 => Self::Trailers,
                        size => Self::Data(size),
                    };
                }
                Self::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Step::More);
                    }
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    *left -= most as u64;
                    if *left == 0 {
                        *self = Self::After;
                    }
                    return Ok(Step::Data(buffer.split_to(most).freeze()));
                }
                Self::After => {
                    if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                        return Err(Unreadable("a chunk of the answer is longer than it says"));
                    }
                    if buffer.len() < 2 {
                        return Ok(Step::More);
                    }
                    drop(buffer.split_to(2));
                    *self = Self::Line;
                }
                Self::Trailers => return self.trailers(buffer),
                Self::Ended => return Ok(Step::End),
            }
        }
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Step, Unreadable> {
        let improper = Unreadable("the trailers of the answer are improper");
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let (end, fields) = match httparse::parse_headers(buffer, &mut fields) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) if buffer.len() <= MOST_TRAILERS => return Ok(Step::More),
            _ => return Err(improper),
        };
        let mut trailers = HeaderMap::new();
        for field in fields {
            match (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value)) {
                (Ok(name), Ok(value)) => drop(trailers.append(name, value)),
                _ => return Err(improper),
            }
        }
        drop(buffer.split_to(end));
        *self = Self::Ended;
        Ok(if trailers.is_empty() { Step::End } else { Step::Trailers(trailers) })
    }
}

/// Takes a line off the front, without its end.
fn line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Unreadable> {
    let Some(end) = buffer.iter().take(MOST_LINE).position(|b| *b == b'\n') else {
        let long = buffer.len() >= MOST_LINE;
        return if long { Err(Unreadable("a chunk of the answer has no length")) } else { Ok(None) };
    };
    let mut line = buffer.split_to(end + 1);
    line.truncate(end);
    match line.split_last() {
        Some((b'\r', before)) if !before.contains(&b'\r') => {
            line.truncate(end - 1);
            Ok(Some(line))
        }
        _ => Err(Unreadable("a line before a chunk of the answer does not end as it must")),
    }
}

/// The length that a line says; extensions follow a semicolon.
fn size(line: &[u8]) -> Result<u64, Unreadable> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let size = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    size.ok_or(Unreadable("a chunk of the answer has no proper length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body that comes in pieces of `piece` bytes; what is left of it, or why it cannot be read.
    fn read(body: &[u8], piece: usize) -> Result<(String, Option<HeaderMap>, usize), &'static str> {
        let (mut chunks, mut buffer) = (Chunks::default(), BytesMut::new());
        let (mut text, mut trailers, mut coming) = (String::new(), None, body.chunks(piece));
        loop {
            match chunks.next(&mut buffer).map_err(|Unreadable(why)| why)? {
                Step::Data(data) => text.push_str(std::str::from_utf8(&data).expect("text")),
                Step::Trailers(found) => trailers = Some(found),
                Step::End => return Ok((text, trailers, buffer.len() + coming.map(<[u8]>::len).sum::<usize>())),
                Step::More => buffer.extend_from_slice(coming.next().ok_or("cut")?),
            }
        }
    }

    #[test]
    fn bodies_are_put_together_however_they_come() {
        let body = b"3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\n\r\nHTTP";
        for piece in 1..=body.len() {
            assert_eq!(read(body, piece), Ok(("abc0123456789".into(), None, 4)), "{piece}");
        }
    }

    #[test]
    fn trailers_follow() {
        for piece in [1, 7, 100] {
            let (text, trailers, left) = read(b"1\r\na\r\n0\r\nGrpc-Status: 0\r\n\r\n", piece).expect("readable");
            assert_eq!((text.as_str(), left), ("a", 0));
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
        }
    }

    #[test]
    fn what_is_improper_is_refused() {
        for body in [
            &b"\r\na\r\n0\r\n\r\n"[..],
            b"+1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b"1 1\r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\r\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"11111111111111111\r\na",
            b"0\r\n bad\r\n\r\n",
        ] {
            for piece in [1, 100] {
                let refused = read(body, piece).expect_err("improper");
                assert_ne!(refused, "cut", "{:?}", String::from_utf8_lossy(body));
            }
        }
        assert_eq!(read(&[b'1'; 2 * MOST_LINE], 100), Err("a chunk of the answer has no length"));
        assert_eq!(read(b"5\r\nabc", 100), Err("cut"));
    }
}
