//! Copies of requests to a second backend, whose answers are thrown away.
//!
//! Invariants: the request itself never waits for its copies and never fails with them: a copy that cannot keep up is given
//! up; there are only so many copies at once, each with only so much in memory and so much time; copies don't hold
//! up the end of a listener. Each is counted as an edge of its own, by what became of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, request};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::access;
use crate::body::Body;
use crate::endpoint::Ticket;
use crate::forward::{self, Miss};
use crate::observe::counts_by;
use crate::request::Caller;
use crate::route::Rule;
use crate::snapshot::BackendProtocol;
use crate::stats::Edge;
use crate::upstream::{BodyError, RequestBody};

/// How many copies there may be at once; further ones are not made.
pub(crate) const MOST: usize = 256;
/// How many parts of a body wait for a copy; a part is as large as what is read from a socket at once.
const WAITING: usize = 16;
/// How long a copy may take in all.
const WITHIN: Duration = Duration::from_secs(15);

/// A part of a body, as a copy gets it.
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// A body on its way that is copied to others.
pub(crate) struct Tee {
    body: RequestBody,
    copies: Vec<mpsc::Sender<Part>>,
}

impl Tee {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.pass(|| match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(data), _) => Some(Part::Data(data.clone())),
                    (None, Some(trailers)) => Some(Part::Trailers(trailers.clone())),
                    (None, None) => None,
                });
                if self.body.is_end_stream() {
                    // Nobody may ask again.
                    self.pass(|| Some(Part::End));
                    self.copies.clear();
                }
            }
            Poll::Ready(None) => {
                self.pass(|| Some(Part::End));
                self.copies.clear();
            }
            // A copy whose end never comes is broken off.
            Poll::Ready(Some(Err(_))) => self.copies.clear(),
            Poll::Pending => {}
        }
        polled
    }

    /// Gives a part to every copy; one that has no room left is given up.
    fn pass(&mut self, part: impl Fn() -> Option<Part>) {
        self.copies.retain(|copy| part().is_none_or(|part| copy.try_send(part).is_ok()));
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a copy.
pub(crate) struct Copy {
    parts: mpsc::Receiver<Part>,
    hint: SizeHint,
    ended: bool,
}

impl Copy {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.parts.poll_recv(cx).map(|part| match part {
            Some(Part::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Part::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err("the request that this one is a copy of broke off, or was faster".into()))
            }
        })
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Sends the copies of a request that are due. Returns the body that the request itself goes on with.
pub(crate) fn copy(
    caller: &Arc<Caller>,
    rule: &Rule,
    parts: &request::Parts,
    body: RequestBody,
    grpc: bool,
) -> RequestBody {
    let mut copies = Vec::new();
    let hint = body.size_hint();
    for mirror in &rule.mirrors {
        if fastrand::u32(..mirror.denominator) >= mirror.numerator {
            continue;
        }
        let Ok(permit) = Arc::clone(&caller.shared.mirrors).try_acquire_owned() else {
            tracing::debug!(backend = &*mirror.backend.id, "too many copies under way; this request is not copied");
            continue;
        };
        if !access::admits_copy(caller, rule, &mirror.backend, parts) {
            continue;
        }
        let Some(mut ticket) = mirror.backend.pick(&[]) else { continue };
        ticket.client.clone_from(&mirror.client);
        let body = match body {
            RequestBody::Empty => RequestBody::Empty,
            _ => {
                let (sender, receiver) = mpsc::channel(WAITING);
                copies.push(sender);
                RequestBody::Copy(Copy { parts: receiver, hint, ended: false })
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = parts.headers.clone();
        let http2 = match mirror.backend.protocol() {
            BackendProtocol::Http1 => false,
            BackendProtocol::H2c => true,
            BackendProtocol::Auto => grpc,
        };
        let own = Arc::clone(caller);
        let edge = mirror.counter.edge(caller.identity.as_deref());
        let mut fate = Fate::begun(edge, hint.exact().unwrap_or_default());
        caller.slot.tasks.spawn(async move {
            tokio::select! {
                sent = tokio::time::timeout(WITHIN, send(&own, ticket, request, http2, &mut fate)) => {
                    if sent.is_err() {
                        tracing::debug!("a copy of a request took too long");
                        fate.ended(StatusCode::GATEWAY_TIMEOUT);
                    }
                }
                () = own.slot.life.draining() => {}
            }
            drop(permit);
        });
    }
    match body {
        RequestBody::Stream(_) | RequestBody::Counted(..) if !copies.is_empty() => {
            RequestBody::Teed(Box::new(Tee { body, copies }))
        }
        body => body,
    }
}

/// What becomes of a copy, for its edge.
struct Fate {
    edge: Arc<Edge>,
    began: Instant,
    request_bytes: u64,
    response_bytes: u64,
    /// How long its answer's head took.
    head: Option<Duration>,
    counted: bool,
}

impl Fate {
    fn begun(edge: Arc<Edge>, request_bytes: u64) -> Self {
        Self { edge, began: Instant::now(), request_bytes, response_bytes: 0, head: None, counted: false }
    }

    /// Counts it, once.
    fn ended(&mut self, status: StatusCode) {
        if !std::mem::replace(&mut self.counted, true) {
            self.edge.answered(status, self.head.unwrap_or_else(|| self.began.elapsed()));
            self.edge.carried(self.request_bytes, self.response_bytes);
        }
    }
}

async fn send(caller: &Caller, ticket: Ticket, request: Request<RequestBody>, http2: bool, fate: &mut Fate) {
    let sent = if http2 {
        forward::over_http2(caller, ticket, Box::new(request)).await
    } else {
        forward::over_http1(caller, ticket, Box::new(request)).await
    };
    let response = match sent {
        Ok(response) => response,
        Err(Miss::Broken(fault)) => return fate.ended(fault.status),
        Err(Miss::Untouched(..)) => return fate.ended(StatusCode::BAD_GATEWAY),
    };
    fate.head = Some(fate.began.elapsed());
    let (head, mut body): (_, Body) = response.into_parts();
    let mut trailers = None;
    // Read to its end, so that the connection can be used again; nothing is kept.
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        fate.response_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        trailers = frame.into_trailers().ok().or(trailers);
    }
    fate.ended(counts_by(head.status, &head.headers, trailers.as_ref()));
}
