//! One request of an HTTP/2 connection and its answer.
//!
//! Invariants: a client that takes its request back ends all that is done for it, and so does one that takes nothing of its answer; an answer that can't be sent whole ends in a
//! reset, so that nobody takes a part for the whole; an answer may come before its request has ended, which is then read no
//! further (RFC 9113, section 8.1).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Body;

use super::direct::{Framed, Frames, Parsed};
use super::{Pipe, Received, date};
use crate::downstream::{self, Passed, Passing};
use crate::headers::make_lawful;
use crate::incoming::Incoming;
use crate::observe::Seen;
use crate::patience::Patience;
use crate::request::{self, Caller};
use crate::upstream::{BodyError, RequestBody};

/// Answers a request, and gives back what it waited with.
pub(super) async fn answer(
    caller: Arc<Caller>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    mut patience: Patience,
) -> Patience {
    // Until the answer's last part is on its way, not only its first.
    let _active = request::Active::begin(&caller);
    match begin(&caller, request) {
        Begun::Passing(passing) => pass(&caller, passing, respond, &mut patience).await,
        // In a box, as it is much larger.
        Begun::Asked(request) => Box::pin(serve(&caller, request, respond)).await,
    }
    patience
}

/// What is done about a request.
enum Begun {
    /// It is passed on as it came.
    Passing(Box<Passing>),
    Asked(Box<Request<RecvStream>>),
}

fn begin(caller: &Arc<Caller>, request: Request<RecvStream>) -> Begun {
    let parsed = if caller.shared.settings.by_hand { Parsed::of(&request) } else { None };
    match parsed.and_then(|parsed| downstream::begin(caller, &parsed)) {
        Some(passing) => Begun::Passing(passing),
        None => Begun::Asked(Box::new(request)),
    }
}

/// Waits for an answer; None where the client takes its request back before.
async fn unless_reset<T>(
    mut answered: Pin<&mut impl Future<Output = T>>,
    respond: &mut SendResponse<Bytes>,
) -> Option<T> {
    poll_fn(|cx| {
        if let Poll::Ready(answered) = answered.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await
}

/// Passes a request on as it came.
async fn pass(caller: &Caller, passing: Box<Passing>, mut respond: SendResponse<Bytes>, patience: &mut Patience) {
    caller.begun.fetch_add(1, Ordering::Relaxed);
    let (unread, stalled) = (passing.is_head(), caller.shared.settings.stalled);
    let passed = if passing.meets_policy() {
        let passed = Box::pin(downstream::pass_by_policy(caller, passing, patience, Frames));
        unless_reset(pin!(passed), &mut respond).await
    } else {
        let passed = pin!(downstream::pass(caller, passing, patience, Frames));
        unless_reset(passed, &mut respond).await
    };
    match passed {
        Some(Passed::Made(Framed { head, body }, None)) => {
            let ended = body.is_empty();
            if let Some(stream) = head_sent(head, ended, respond) {
                pipe(Pipe::new(RequestBody::Empty, stream).after(body, true), stalled, |_, _| false).await;
            }
        }
        Some(Passed::Made(Framed { head, body }, Some((_, rest)))) => {
            if let Some(stream) = head_sent(head, false, respond) {
                pipe(Pipe::new(rest, stream).after(body, false), stalled, Seen::drive).await;
            }
        }
        Some(Passed::Other(response)) => send(response, unread, stalled, respond).await,
        None => {}
    }
}

/// Answers any other.
async fn serve(caller: &Arc<Caller>, request: Box<Request<RecvStream>>, mut respond: SendResponse<Bytes>) {
    let unread = *request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let body = Incoming::Http2(Received::new(body, &parts.headers));
    let answered = unless_reset(pin!(request::answered(caller, parts, body)), &mut respond).await;
    if let Some(response) = answered {
        send(response, unread, caller.shared.settings.stalled, respond).await;
    }
}

async fn send(response: Response<Seen>, unread: bool, stalled: Duration, respond: SendResponse<Bytes>) {
    let (mut head, body) = response.into_parts();
    make_lawful(&mut head.headers);
    head.headers.entry(DATE).or_insert_with(date::now);
    let ended = unread || body.is_end_stream();
    if !ended && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if let Some(stream) = head_sent(Response::from_parts(head, ()), ended, respond) {
        pipe(Pipe::new(body, stream), stalled, Seen::drive).await;
    }
}

/// Sends a head. Brings back where its body goes, if there is any.
fn head_sent(head: Response<()>, ended: bool, mut respond: SendResponse<Bytes>) -> Option<SendStream<Bytes>> {
    match respond.send_response(head, ended) {
        Ok(stream) => Some(stream).filter(|_| !ended),
        Err(error) => {
            tracing::debug!(%error, "an answer cannot be sent over HTTP/2");
            respond.send_reset(Reason::INTERNAL_ERROR);
            None
        }
    }
}

/// Sends a body to a client that may take so long to take any of it.
async fn pipe<B>(pipe: Pipe<B>, stalled: Duration, meanwhile: impl Fn(&mut B, &mut Context<'_>) -> bool)
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut pipe = pipe.ending_after(stalled);
    poll_fn(|cx| pipe.poll(cx, &meanwhile)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every<F>(_: impl Fn(Arc<Caller>, Request<RecvStream>, SendResponse<Bytes>, Patience) -> F) -> usize {
        size_of::<F>()
    }

    fn any_other<'a, F>(_: impl Fn(&'a Arc<Caller>, Box<Request<RecvStream>>, SendResponse<Bytes>) -> F) -> usize {
        size_of::<F>()
    }

    /// It is copied once or twice for each request.
    #[test]
    fn what_waits_for_an_answer_is_small() {
        let (every, any_other) = (every(answer), any_other(serve));
        assert!(every <= 2 * 1024 && any_other <= 6 * 1024, "{every} {any_other}");
    }
}
