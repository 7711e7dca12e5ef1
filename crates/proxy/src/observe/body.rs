//! The body of an answer on its way to the client, with the observation that ends with it.
//!
//! Invariant: the observation is finished at the body's end, not when the connection gets round to dropping it; a body that
//! is dropped before its end says who gave up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::Observation;
use crate::body::Body;
use crate::deadline;
use crate::heads::Term;
use crate::upstream::BodyError;

/// A body under observation.
pub(crate) struct Seen {
    body: Body,
    /// None once it has ended.
    observation: Option<Box<Observation>>,
    /// Nobody reads the body of an answer to HEAD, or to a change of protocol.
    unread: bool,
}

impl Seen {
    pub(crate) fn new(body: Body, observation: Box<Observation>, method: &Method, status: http::StatusCode) -> Self {
        let unread = *method == Method::HEAD
            || status.is_informational()
            || matches!(status, http::StatusCode::NO_CONTENT | http::StatusCode::NOT_MODIFIED);
        Self { body, observation: Some(observation), unread }
    }

    /// Goes on with the request, where the body can't be taken further for now.
    /// Says whether the answer has been given up meanwhile.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.body.drive(cx);
        if over {
            self.ends();
        }
        over
    }

    /// Says to a connection that hyper writes by when it has to take this.
    pub(crate) fn is_taken_by(&mut self, term: &Arc<Term>) {
        self.body.is_taken_by(term);
    }

    /// The end of it, which the proxy may have made.
    fn ends(&mut self) {
        if let (Some(observation), Some(reason)) = (&mut self.observation, self.body.given_up()) {
            observation.broke(reason);
        }
        self.observation = None;
    }
}

impl HttpBody for Seen {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(observation)) = (frame.data_ref(), &mut this.observation) {
                    observation.response_bytes += data.len() as u64;
                }
                if let (Some(trailers), Some(observation)) = (frame.trailers_ref(), &mut this.observation) {
                    observation.trailers(trailers);
                }
                this.body.is_end_stream()
            }
            Poll::Ready(Some(Err(_))) => {
                if let Some(observation) = &mut this.observation {
                    observation.broke(this.body.given_up().unwrap_or("upstream_cut"));
                }
                true
            }
            Poll::Ready(None) => true,
        };
        if ended {
            this.ends();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Some(observation) = &mut self.observation
            && !self.unread
            && !self.body.is_end_stream()
        {
            // One whose time has passed was cut off, or is left as nobody waits for it any more.
            let late = self.body.due().is_some_and(|due| due <= Instant::now());
            observation.broke(if late { deadline::REASON } else { "client_gone" });
        }
    }
}
