//! The calls of the Workload API: who may make them, and the streams that they answer with.
//!
//! Invariants: a stream sends what is in use at once, and again whenever that changes for the caller; it ends with the caller, or
//! with the server.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::{Body, Frame, Incoming};
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::identity::handle::Handle;
use crate::identity::spiffe::SpiffeId;

/// gRPC's status codes, as far as they are used.
mod code {
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
pub(super) fn answer(
    request: &Request<Incoming>,
    id: Option<&SpiffeId>,
    pid: Option<i32>,
    handle: &Handle,
    stop: &CancellationToken,
) -> Response<Answer> {
    if request.method() != Method::POST {
        return refusal(code::INVALID_ARGUMENT, "this is gRPC: calls are POST");
    }
    // SPIFFE Workload Endpoint, section 4: without it, some other server may have been made to ask.
    if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return refusal(code::INVALID_ARGUMENT, "the metadata workload.spiffe.io: true is missing");
    }
    let call = request.uri().path().strip_prefix("/SpiffeWorkloadAPI/").unwrap_or_default();
    let Some(id) = id else {
        let process = pid.map_or_else(|| "the process".to_owned(), |pid| format!("process {pid}"));
        let message = format!("{process} is in no Pod of this instance's mesh, so it has no identity");
        return refusal(code::PERMISSION_DENIED, &message);
    };
    match call {
        "FetchX509SVID" => {
            let id = id.clone();
            follow(handle, stop, move |handle| {
                let svid = handle.svid(&id)?;
                Some(wire::svid_response(&svid, &handle.bundles()))
            })
        }
        "FetchX509Bundles" => follow(handle, stop, |handle| {
            Some(handle.bundles()).filter(|bundles| !bundles.is_empty()).map(|bundles| wire::bundles_response(&bundles))
        }),
        "FetchJWTSVID" | "FetchJWTBundles" | "ValidateJWTSVID" => {
            refusal(code::UNIMPLEMENTED, "JWT-SVIDs are not issued here; X.509-SVIDs are")
        }
        _ => refusal(code::UNIMPLEMENTED, "the Workload API has no such call"),
    }
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
