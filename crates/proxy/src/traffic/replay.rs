//! A request that can be sent again, with its body.
//!
//! Invariants: the body streams while it is kept, so that keeping it delays nothing; no more of it is kept than the limit
//! says, and beyond that it is sent once; only the last reader gets anything, so that two tries never share a body's bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, Version};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::upstream::{BodyError, RequestBody};

/// A request to send once, or as often as its body is still there.
pub(crate) enum Script {
    /// Empty while it is under way.
    Once(Option<Box<Request<RequestBody>>>),
    Again(Box<Again>),
}

/// A request of which everything is kept.
pub(crate) struct Again {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<Arc<Mutex<Reel>>>,
    hint: SizeHint,
}

impl Script {
    pub(crate) fn once(request: Box<Request<RequestBody>>) -> Self {
        Self::Once(Some(request))
    }

    /// Keeps a request, and of its body up to `limit` bytes.
    pub(crate) fn again(request: Box<Request<RequestBody>>, limit: usize) -> Self {
        let (parts, body) = request.into_parts();
        let hint = body.size_hint();
        if hint.lower() > limit as u64 {
            return Self::once(Box::new(Request::from_parts(parts, body)));
        }
        let reel = |source| Reel { source, kept: Vec::new(), room: Some(limit), reader: 0 };
        let body = match body {
            RequestBody::Empty => None,
            body => Some(Arc::new(Mutex::new(reel(body)))),
        };
        let (method, uri, version, headers) = (parts.method, parts.uri, parts.version, parts.headers);
        Self::Again(Box::new(Again { method, uri, version, headers, body, hint }))
    }

    /// The request, from its beginning; None where it cannot be sent any more.
    pub(crate) fn take(&mut self) -> Option<Box<Request<RequestBody>>> {
        match self {
            Self::Once(request) => request.take(),
            Self::Again(again) => again.request().map(Box::new),
        }
    }

    /// Takes a request back of which nothing has been sent.
    pub(crate) fn put_back(&mut self, unsent: Box<Request<RequestBody>>) {
        if let Self::Once(request) = self {
            *request = Some(unsent);
        }
    }

    /// Whether it could be sent again, though some of it has been.
    pub(crate) fn repeats(&self) -> bool {
        match self {
            Self::Once(_) => false,
            Self::Again(again) => again.body.as_ref().is_none_or(|reel| reel.lock().room.is_some()),
        }
    }
}

impl Again {
    fn request(&self) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(reel) => RequestBody::Again(Reader::new(reel, self.hint)?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

/// A body, and what has been read of it.
struct Reel {
    source: RequestBody,
    kept: Vec<Kept>,
    /// How many more bytes are kept; none once there were too many, or the body broke off.
    room: Option<usize>,
    /// The reader that gets what comes.
    reader: u64,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Reel {
    /// Keeps a part, or gives up keeping.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(room) = self.room else { return };
        let left = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => room.checked_sub(data.len()).inspect(|_| self.kept.push(Kept::Data(data.clone()))),
            (None, Some(trailers)) => {
                self.kept.push(Kept::Trailers(trailers.clone()));
                Some(room)
            }
            (None, None) => Some(room),
        };
        if left.is_none() {
            self.kept = Vec::new();
        }
        self.room = left;
    }
}

/// One reading of a kept body, from its beginning.
pub(crate) struct Reader {
    reel: Arc<Mutex<Reel>>,
    number: u64,
    position: usize,
    hint: SizeHint,
}

impl Reader {
    fn new(reel: &Arc<Mutex<Reel>>, hint: SizeHint) -> Option<Self> {
        let mut locked = reel.lock();
        locked.room?;
        locked.reader += 1;
        Some(Self { reel: Arc::clone(reel), number: locked.reader, position: 0, hint })
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let reel = &mut *self.reel.lock();
        if reel.reader != self.number {
            return Poll::Ready(Some(Err("the request has been sent again".into())));
        }
        if let Some(kept) = reel.kept.get(self.position) {
            self.position += 1;
            return Poll::Ready(Some(Ok(match kept.clone() {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let polled = Pin::new(&mut reel.source).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                reel.keep(frame);
                self.position += 1;
            }
            Poll::Ready(Some(Err(_))) => reel.room = None,
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let reel = self.reel.lock();
        reel.reader == self.number && self.position >= reel.kept.len() && reel.source.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.position == 0 { self.hint } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A body of parts that are there already.
    fn body(parts: &[&'static str]) -> RequestBody {
        let kept = parts.iter().map(|part| Kept::Data(Bytes::from_static(part.as_bytes()))).collect();
        let reel = Reel { source: RequestBody::Empty, kept, room: Some(0), reader: 0 };
        let reader = Reader::new(&Arc::new(Mutex::new(reel)), SizeHint::default());
        RequestBody::Again(reader.expect("there is room"))
    }

    /// Reads parts until `most` have come.
    fn read(body: &mut RequestBody, most: usize) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = String::new();
        for _ in 0..most {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_else(|_| panic!("a part is data"));
                    all.push_str(std::str::from_utf8(&data).expect("text"));
                }
                Poll::Ready(Some(Err(error))) => return format!("{all} ({error})"),
                _ => break,
            }
        }
        all
    }

    #[test]
    fn a_body_is_read_again_from_its_beginning() {
        let mut script =
            Script::again(Box::new(Request::post("/x").body(body(&["a", "b", "c"])).expect("a request")), 3);
        let mut first = script.take().expect("a request").into_body();
        assert_eq!(read(&mut first, 2), "ab");
        assert!(script.repeats());
        let again = script.take().expect("a request");
        assert_eq!((again.method(), again.uri().path()), (&Method::POST, "/x"));
        let mut again = again.into_body();
        assert_eq!(read(&mut first, 1), " (the request has been sent again)");
        assert_eq!(read(&mut again, 9), "abc");
        assert!(again.is_end_stream());
        assert_eq!(read(&mut script.take().expect("a request").into_body(), 9), "abc");
    }

    #[test]
    fn a_body_that_is_too_long_is_sent_once() {
        let mut script =
            Script::again(Box::new(Request::post("/").body(body(&["aa", "bb", "c"])).expect("a request")), 3);
        let mut first = script.take().expect("a request").into_body();
        assert_eq!(read(&mut first, 1), "aa");
        assert!(script.repeats());
        assert_eq!(read(&mut first, 9), "bbc");
        assert!(!script.repeats());
        assert!(script.take().is_none());
    }
}
