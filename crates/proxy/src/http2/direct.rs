//! Requests of HTTP/2 that may be passed on as they came ([`crate::downstream::begin`]), and the form of what was made of their answers: a head for
//! `h2`, and the beginning of a body.
//!
//! Invariants: pure but for the date; a request of this kind has ended with its head, says nothing about framing, and is for the host that its
//! `:authority` names and no header. What is made of an answer is what [`stream`](super::stream) makes of one that was read into a map.

use bytes::Bytes;
use h2::RecvStream;
use http::header::{COOKIE, DATE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Response, Version};

use super::date;
use crate::downstream::{Form, Passable, Says};
use crate::headers::{REQUEST_ID, make_lawful};
use crate::known::{Known, known};
use crate::lines;
use crate::observe::Whom;
use crate::upstream;

/// About how long a header is.
const LINE: usize = 48;

/// A request whose head was everything.
pub(super) struct Parsed<'a> {
    request: &'a Request<RecvStream>,
    target: &'a str,
    host: &'a str,
    says: Says<'a>,
}

impl<'a> Parsed<'a> {
    /// None where there is more to think about.
    pub(super) fn of(request: &'a Request<RecvStream>) -> Option<Self> {
        let plain = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
        if !(plain && request.body().is_end_stream()) {
            return None;
        }
        let host = request.uri().authority()?.as_str();
        let target = request.uri().path_and_query()?.as_str();
        let mut says = Says::default();
        for (name, value) in request.headers() {
            let value = value.as_bytes();
            match known(name.as_str().as_bytes()) {
                Known::Host
                | Known::ContentLength
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Expect
                | Known::Trailer
                | Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection => return None,
                Known::Te if value != b"trailers" => return None,
                Known::RequestId => says.id = says.id.or(Some(value)),
                Known::Accept => says.accept = says.accept.or(Some(value)),
                Known::ContentType => says.content_type = says.content_type.or(Some(value)),
                Known::Forwarded => says.forwarded = true,
                Known::TraceParent => {
                    says.traces = says.trace.is_some();
                    says.trace = says.trace.or(Some(value));
                }
                _ => {}
            }
        }
        target.starts_with('/').then_some(Self { request, target, host, says })
    }
}

impl Passable for Parsed<'_> {
    fn method(&self) -> &Method {
        self.request.method()
    }

    fn target(&self) -> &str {
        self.target
    }

    fn host(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn says(&self) -> &Says<'_> {
        &self.says
    }

    fn size(&self) -> usize {
        self.target.len() + self.host.len() + LINE * self.request.headers().len()
    }

    fn pass(&self, mut goes: impl FnMut(&[u8], &[u8]) -> bool, into: &mut Vec<u8>) {
        lines::say(b"host", &[self.host.as_bytes()], into);
        let mut cookies = false;
        for (name, value) in self.request.headers() {
            if *name == COOKIE {
                cookies = true;
            } else if goes(name.as_str().as_bytes(), value.as_bytes()) {
                lines::say(name.as_str().as_bytes(), &[value.as_bytes()], into);
            }
        }
        if cookies {
            // They may come apart; HTTP/1.1 must have them together.
            let all: Vec<&[u8]> = self.request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
            lines::say(b"cookie", &[&all.join(&b"; "[..])], into);
        }
    }

    fn headers(&self) -> Option<&HeaderMap> {
        Some(self.request.headers())
    }

    fn whom(&self) -> (Whom, Version) {
        (Whom::Read(self.request.uri().clone(), None), self.request.version())
    }
}

/// A head of HTTP/2, and whatever has come of the body.
pub(super) struct Frames;

/// An answer in that form.
pub(super) struct Framed {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
}

impl Form for Frames {
    type Made = Framed;

    fn make(&self, plain: &upstream::Plain<'_, '_>, body: &[u8], name: Option<&[u8]>) -> Framed {
        // Apart from the body, as the other side's table of headers may keep a part of it for long.
        let mut head = Response::new(());
        *head.status_mut() = plain.status;
        *head.headers_mut() = headers(plain, name);
        Framed { head, body: Bytes::copy_from_slice(body) }
    }

    fn kept(&self, _: &mut Framed) {}
}

/// The headers of a plain answer, without what is of one connection; `name` is the id that the client is told if there is none.
fn headers(plain: &upstream::Plain<'_, '_>, name: Option<&[u8]>) -> HeaderMap {
    let all = Bytes::copy_from_slice(plain.head());
    let mut headers = HeaderMap::with_capacity(plain.fields.len() + 2);
    let (mut dated, mut named, mut odd) = (false, false, false);
    for field in plain.fields {
        match known(field.name.as_bytes()) {
            Known::Connection | Known::KeepAlive | Known::ProxyConnection => continue,
            Known::Date => dated = true,
            Known::RequestId => named = true,
            Known::Te => odd = true,
            _ => {}
        }
        let start = (field.value.as_ptr() as usize).wrapping_sub(plain.bytes.as_ptr() as usize);
        // A value of no length may be anywhere.
        let value = if field.value.is_empty() { Bytes::new() } else { all.slice(start..start + field.value.len()) };
        // What was parsed is proper.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_maybe_shared(value))
        {
            headers.append(name, value);
        }
    }
    if odd && headers.contains_key(TE) {
        make_lawful(&mut headers);
    }
    if let Some(Ok(mut id)) = name.filter(|_| !named).map(HeaderValue::from_bytes) {
        // What is new in every answer has no place in the tables of HTTP/2.
        id.set_sensitive(true);
        headers.insert(REQUEST_ID, id);
    }
    if !dated {
        headers.insert(DATE, date::now());
    }
    headers
}
