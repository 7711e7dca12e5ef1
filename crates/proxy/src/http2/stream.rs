//! One request of an HTTP/2 connection and its answer.
//!
//! Invariants: a client that takes its request back ends all that is done for it, and so does one that takes nothing of its answer; an answer that can't be sent whole ends in a
//! reset, so that nobody takes a part for the whole; an answer may come before its request has ended, which is then read no
//! further (RFC 9113, section 8.1).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Body as _;

use super::{Pipe, Received, date};
use crate::headers::make_lawful;
use crate::incoming::Incoming;
use crate::observe::Seen;
use crate::request::{self, Caller};

/// Answers a request.
pub(super) async fn answer(caller: Arc<Caller>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    // Until the answer's last part is on its way, not only its first.
    let _active = request::Active::begin(&caller);
    let unread = *request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let body = Incoming::Http2(Received::new(body, &parts.headers));
    let stalled = caller.shared.settings.stalled;
    let answered = {
        let mut asked = pin!(request::serve(Arc::clone(&caller), Request::from_parts(parts, body)));
        poll_fn(|cx| {
            if let Poll::Ready(answered) = asked.as_mut().poll(cx) {
                return Poll::Ready(Some(answered));
            }
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    if let Some(Ok(response)) = answered {
        send(response, unread, stalled, respond).await;
    }
}

async fn send(response: Response<Seen>, unread: bool, stalled: Duration, mut respond: SendResponse<Bytes>) {
    let (mut head, body) = response.into_parts();
    make_lawful(&mut head.headers);
    head.headers.entry(DATE).or_insert_with(date::now);
    let ended = unread || body.is_end_stream();
    if !ended && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let stream = match respond.send_response(Response::from_parts(head, ()), ended) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "an answer cannot be sent over HTTP/2");
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
    };
    if !ended {
        let mut pipe = Pipe::new(body, stream).ending_after(stalled);
        poll_fn(|cx| pipe.poll(cx, Seen::drive)).await;
    }
}
