//! Copies of requests to a second backend, whose answers are thrown away.
//!
//! Invariants: the request itself never waits for its copies and never fails with them: a copy that cannot keep up is given
//! up; there are only so many copies at once, each with only so much in memory and so much time; copies don't hold
//! up the end of a listener.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, request};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::access;
use crate::body::Body;
use crate::endpoint::Ticket;
use crate::forward;
use crate::request::Caller;
use crate::route::Rule;
use crate::snapshot::BackendProtocol;
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
        caller.slot.tasks.spawn(async move {
            tokio::select! {
                sent = tokio::time::timeout(WITHIN, send(&own, ticket, request, http2)) => if sent.is_err() {
                    tracing::debug!("a copy of a request took too long");
                },
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

async fn send(caller: &Caller, ticket: Ticket, request: Request<RequestBody>, http2: bool) {
    let sent = if http2 {
        forward::over_http2(caller, ticket, request).await
    } else {
        forward::over_http1(caller, ticket, request).await
    };
    let Ok(mut response) = sent else { return };
    let body: &mut Body = response.body_mut();
    // Read to its end, so that the connection can be used again; nothing is kept.
    while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {}
}
