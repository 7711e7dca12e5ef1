//! Requests of HTTP/1.1 that may be passed on, and the form of what was made of their answers: bytes.
//!
//! Invariant: what is said of the connection's end is asked when an answer is made, as its listener may have begun to drain by then. It must not know of
//! HTTP/2, whose form is in `http2/direct.rs`.

use std::cell::OnceCell;

use bytes::Bytes;
use http::{HeaderMap, Method, Version};

use super::answer;
use super::asking::Form;
use super::direct::Passable;
use super::head::{Plain, Says};
use super::outlet::Outlet;
use crate::lines;
use crate::listen::Life;
use crate::observe::Whom;
use crate::upstream;

/// A request where it has landed, and a copy of it for whoever wants one.
pub(super) struct Landed<'p, 'h, 'b, A> {
    plain: &'p Plain<'h, 'b>,
    all: A,
    /// Its headers, once somebody has asked for a map.
    map: OnceCell<Option<HeaderMap>>,
}

/// Bytes of a target that mean the same to everybody.
const fn plain_targets() -> [bool; 256] {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            )
            || matches!(byte, b':' | b'@' | b'%' | b'/' | b'?');
        byte += 1;
    }
    table
}

const PLAIN_TARGET: [bool; 256] = plain_targets();

impl<'p, 'h, 'b, A> Landed<'p, 'h, 'b, A> {
    /// None where the target may mean several things.
    pub(super) fn of(plain: &'p Plain<'h, 'b>, all: A) -> Option<Self> {
        let same = plain.target.bytes().fold(true, |plain, byte| plain & PLAIN_TARGET[usize::from(byte)]);
        same.then_some(Self { plain, all, map: OnceCell::new() })
    }
}

impl<A: Fn() -> Bytes> Passable for Landed<'_, '_, '_, A> {
    fn method(&self) -> &Method {
        &self.plain.method
    }

    fn target(&self) -> &str {
        self.plain.target
    }

    fn host(&self) -> &[u8] {
        self.plain.host
    }

    fn says(&self) -> &Says<'_> {
        &self.plain.says
    }

    fn size(&self) -> usize {
        self.plain.end
    }

    fn pass(&self, mut goes: impl FnMut(&[u8], &[u8]) -> bool, into: &mut Vec<u8>) {
        for field in self.plain.fields.iter().filter(|field| goes(field.name.as_bytes(), field.value)) {
            lines::pass(self.plain.bytes, field, into);
        }
    }

    fn headers(&self) -> Option<&HeaderMap> {
        self.map.get_or_init(|| self.plain.headers(&(self.all)())).as_ref()
    }

    fn whom(&self) -> (Whom, Version) {
        (Whom::written(self.plain.target, self.plain.host), Version::HTTP_11)
    }
}

/// Lines, and whatever has come of the body.
pub(super) struct Lines<'a> {
    life: &'a Life,
    /// Whether the client wants its connection to end with the answer.
    last: bool,
}

/// An answer in that form.
pub(super) struct Written {
    pub(super) out: Outlet,
    /// Whether the connection ends with it.
    pub(super) last: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn new(life: &'a Life, last: bool) -> Self {
        Self { life, last }
    }
}

impl Form for Lines<'_> {
    type Made = Written;

    fn make(&self, plain: &upstream::Plain<'_, '_>, body: &[u8], name: Option<&[u8]>) -> Written {
        let (mut out, last) = (Outlet::new(), self.last || self.life.changed());
        answer::write_plain(plain, last, name, out.head());
        out.head().extend_from_slice(body);
        Written { out, last }
    }

    fn kept(&self, made: &mut Written) {
        made.kept(self.life.changed());
    }
}

impl Written {
    /// It is given now, and is the last if that has been decided meanwhile.
    fn kept(&mut self, last: bool) {
        if last && !self.last {
            let head = self.out.head();
            // Where its first line ends.
            let after = head.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            head.splice(after..after, *b"connection: close\r\n");
            self.last = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_kept_says_if_it_is_the_last() {
        for (was, is, expected) in [
            (false, false, "HTTP/1.1 503 No\r\na: b\r\n\r\nno\n"),
            (false, true, "HTTP/1.1 503 No\r\nconnection: close\r\na: b\r\n\r\nno\n"),
            // It has said so already.
            (true, true, "HTTP/1.1 503 No\r\na: b\r\n\r\nno\n"),
            (true, false, "HTTP/1.1 503 No\r\na: b\r\n\r\nno\n"),
        ] {
            let mut made = Written { out: Outlet::new(), last: was };
            made.out.head().extend_from_slice(b"HTTP/1.1 503 No\r\na: b\r\n\r\nno\n");
            made.kept(is);
            assert_eq!(String::from_utf8_lossy(made.out.head()), expected);
            assert!(made.last == (was || is));
        }
    }
}
