//! The calls of the Workload API: who may make them, and the streams that they answer with.
//!
//! Invariants: a stream sends what is in use at once, and again whenever that changes for the caller; it ends with the caller, or
//! with the server.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming};
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::identity::handle::Handle;
use crate::identity::spiffe::SpiffeId;

/// The longest question, how long one may take to come, and how many audiences a token may have.
const LONGEST: usize = 64 * 1024;
const ASKED_WITHIN: Duration = Duration::from_secs(10);
const AUDIENCES: usize = 16;

/// gRPC's status codes, as far as they are used.
mod code {
    pub(super) const OK: u8 = 0;
    pub(super) const INVALID_ARGUMENT: u8 = 3;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const UNAVAILABLE: u8 = 14;
}

/// What a call answers with.
type Frames = BoxStream<'static, Frame<Bytes>>;

/// The body of an answer.
pub(super) struct Answer(Option<Frames>);

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Some(frames) => frames.poll_next_unpin(cx).map(|frame| frame.map(Ok)),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

fn grpc(headers: &mut HeaderMap, status: u8, message: &str) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    // Percent-encoding is for what is no ASCII, and nothing here is.
    if let Ok(message) = HeaderValue::from_str(&message.replace('%', "%25")) {
        headers.insert("grpc-message", message);
    }
}

fn response(frames: Option<Frames>) -> Response<Answer> {
    let mut response = Response::new(Answer(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer that is only a status.
fn refusal(status: u8, message: &str) -> Response<Answer> {
    let mut response = response(None);
    grpc(response.headers_mut(), status, message);
    response
}

/// Answers a call of the workload `id`.
pub(super) async fn answer(
    request: Request<Incoming>,
    id: Option<SpiffeId>,
    pid: Option<i32>,
    handle: Handle,
    stop: CancellationToken,
) -> Response<Answer> {
    if request.method() != Method::POST {
        return refusal(code::INVALID_ARGUMENT, "this is gRPC: calls are POST");
    }
    // SPIFFE Workload Endpoint, section 4: without it, some other server may have been made to ask.
    if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return refusal(code::INVALID_ARGUMENT, "the metadata workload.spiffe.io: true is missing");
    }
    let call = request.uri().path().strip_prefix("/SpiffeWorkloadAPI/").unwrap_or_default().to_owned();
    let Some(id) = id else {
        let process = pid.map_or_else(|| "the process".to_owned(), |pid| format!("process {pid}"));
        let message = format!("{process} is in no Pod of this instance's mesh, so it has no identity");
        return refusal(code::PERMISSION_DENIED, &message);
    };
    match call.as_str() {
        "FetchX509SVID" => follow(&handle, &stop, move |handle| {
            let svid = handle.svid(&id)?;
            Some(wire::svid_response(&svid, &handle.bundles()))
        }),
        "FetchX509Bundles" => follow(&handle, &stop, |handle| {
            Some(handle.bundles()).filter(|bundles| !bundles.is_empty()).map(|bundles| wire::bundles_response(&bundles))
        }),
        "FetchJWTBundles" => follow(&handle, &stop, |handle| {
            Some(wire::token_bundles_response(&handle.bundles())).filter(|message| !message.is_empty())
        }),
        "FetchJWTSVID" => match asked(request.into_body()).await {
            Ok(texts) => fetch_token(&texts, &id, &handle),
            Err(why) => refusal(code::INVALID_ARGUMENT, why),
        },
        "ValidateJWTSVID" => match asked(request.into_body()).await {
            Ok(texts) => validate(&texts, &handle),
            Err(why) => refusal(code::INVALID_ARGUMENT, why),
        },
        _ => refusal(code::UNIMPLEMENTED, "the Workload API has no such call"),
    }
}

/// The texts of a question, by their field's number.
async fn asked(body: Incoming) -> Result<Vec<(u64, String)>, &'static str> {
    let body = tokio::time::timeout(ASKED_WITHIN, Limited::new(body, LONGEST).collect());
    let body = body.await.map_err(|_| "the question did not come in time")?;
    let body = body.map_err(|_| "the question broke off, or is longer than any should be")?.to_bytes();
    wire::unframed(&body).and_then(wire::texts).ok_or("the question is no message of the Workload API")
}

/// A JWT-SVID of the caller, for the audiences that it names.
fn fetch_token(asked: &[(u64, String)], id: &SpiffeId, handle: &Handle) -> Response<Answer> {
    const AUDIENCE: u64 = 1;
    const WHOSE: u64 = 2;
    let texts = |number: u64| asked.iter().filter(move |(of, text)| *of == number && !text.is_empty());
    if texts(WHOSE).any(|(_, other)| other != id.as_str()) {
        return refusal(code::PERMISSION_DENIED, "the caller has no such identity");
    }
    let audiences: Vec<String> = texts(AUDIENCE).map(|(_, text)| text.clone()).collect();
    if audiences.is_empty() || audiences.len() > AUDIENCES {
        return refusal(code::INVALID_ARGUMENT, "a token is for at least one audience, and at most 16");
    }
    match handle.token(id, &audiences) {
        Ok(token) => message(&wire::token_response(id, &token)),
        Err(error) => {
            tracing::warn!(%id, %error, "no token was issued");
            refusal(code::UNAVAILABLE, "no token can be signed now; the instance's log says why")
        }
    }
}

/// Whether a token is to be believed.
fn validate(asked: &[(u64, String)], handle: &Handle) -> Response<Answer> {
    let text = |number: u64| asked.iter().find(|(of, _)| *of == number).map(|(_, text)| text.as_str());
    let (Some(audience), Some(token)) = (text(1).filter(|audience| !audience.is_empty()), text(2)) else {
        return refusal(code::INVALID_ARGUMENT, "an audience and a token are needed");
    };
    match handle.validate(token, audience) {
        Ok((id, claims)) => message(&wire::validated_response(&id, &claims)),
        Err(why) => refusal(code::INVALID_ARGUMENT, &why),
    }
}

/// An answer of one message.
fn message(message: &[u8]) -> Response<Answer> {
    let mut trailers = HeaderMap::new();
    grpc(&mut trailers, code::OK, "");
    let frames = [Frame::data(wire::framed(message)), Frame::trailers(trailers)];
    response(Some(stream::iter(frames).boxed()))
}

/// A stream of what `look` sees, now and whenever it is something else. What is not there yet is waited for.
fn follow(
    handle: &Handle,
    stop: &CancellationToken,
    look: impl Fn(&Handle) -> Option<Vec<u8>> + Send + 'static,
) -> Response<Answer> {
    let messages = changes(handle.clone(), look).take_until(stop.clone().cancelled_owned());
    let ending = stream::once(async {
        let mut trailers = HeaderMap::new();
        grpc(&mut trailers, code::UNAVAILABLE, "the instance ends; ask again");
        Frame::trailers(trailers)
    });
    response(Some(messages.map(|message| Frame::data(wire::framed(&message))).chain(ending).boxed()))
}

fn changes(
    handle: Handle,
    look: impl Fn(&Handle) -> Option<Vec<u8>> + Send + 'static,
) -> impl Stream<Item = Vec<u8>> + Send {
    stream::unfold((handle, look, None::<Vec<u8>>), |(mut handle, look, last)| async move {
        loop {
            handle.seen();
            match look(&handle) {
                Some(now) if last.as_ref() != Some(&now) => return Some((now.clone(), (handle, look, Some(now)))),
                _ => handle.changed().await.ok()?,
            }
        }
    })
}
