//! Requests as all but the plainest are offered to endpoints: with a map of headers, and a body that may have to be sent again.
//!
//! Invariant: time in which it is the client who is waited for is not the endpoint's.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};

use super::is_safe;
use super::replay::Script;
use super::retry::Outcome;
use super::send::{Times, Tries, outcome};
use super::{Retries, Traffic};
use crate::body::Body;
use crate::endpoint::Ticket;
use crate::forward::{self, Miss, Outgoing};
use crate::incoming::Watch;
use crate::request::Caller;
use crate::route::Choice;
use crate::turn::Turn;
use crate::upstream::RequestBody;

/// A request on its way.
pub(crate) struct Offer<'a> {
    caller: &'a Arc<Caller>,
    script: Script,
    upgrade: forward::Upgrade,
    http2: bool,
    /// Tells whether it is the client who is waited for.
    watch: Option<Arc<Watch>>,
    /// Whether its time is not the backend's. In calls of gRPC either side may wait for the other's part, and nobody can tell.
    patient: bool,
}

impl<'a> Offer<'a> {
    pub(crate) fn new(caller: &'a Arc<Caller>, choice: &Choice, traffic: &Traffic, outgoing: Outgoing) -> Self {
        let Outgoing { request, upgrade, grpc, watch } = outgoing;
        let http2 = forward::over_http2_is_right(choice, upgrade.is_some(), grpc);
        let script = match &traffic.retries {
            Some((Retries { max_body, .. }, _))
                if upgrade.is_none() && is_safe(request.method(), request.headers()) =>
            {
                Script::again(request, *max_body)
            }
            _ => Script::once(request),
        };
        Self { caller, script, upgrade, http2, watch, patient: !(grpc && http2) }
    }
}

impl Tries for Offer<'_> {
    type Request = Box<Request<RequestBody>>;
    type Answer = Response<Body>;

    fn take(&mut self) -> Option<Self::Request> {
        self.script.take()
    }

    fn put_back(&mut self, unsent: Self::Request) {
        self.script.put_back(unsent);
    }

    fn repeats(&self) -> bool {
        self.script.repeats()
    }

    async fn attempt(
        &mut self,
        ticket: Ticket,
        request: Self::Request,
        times: Times,
    ) -> Result<Response<Body>, Miss<Self::Request>> {
        let Times { limit, usual, deadline: last, probe, .. } = times;
        // Where nobody set a limit, the usual one is for requests that stand still.
        let watch = self.watch.clone().filter(|_| self.patient || usual);
        let own = if watch.is_some() { None } else { limit };
        let (settings, blind) = (&self.caller.shared.settings, !self.patient);
        let sent = pin!(forward::attempt(self.caller, ticket, request, &mut self.upgrade, self.http2, own));
        let (Some(watch), Some(limit)) = (watch, limit) else { return sent.await };
        let turn = Turn { began: Instant::now(), limit, silence: settings.header_timeout, last, probe, blind };
        turn.wait(&watch, sent).await.unwrap_or_else(|over| Err(Miss::Broken(forward::over_time(over))))
    }

    fn outcome(answer: &Response<Body>) -> Outcome {
        outcome(answer)
    }

    fn came(_: &Response<Body>) -> Instant {
        Instant::now()
    }

    /// Its head is written when it is given.
    fn kept(&self, _: &mut Response<Body>) {}

    fn awaits_client(&self, probe: bool) -> bool {
        (self.patient || probe) && self.watch.as_ref().is_some_and(|watch| watch.waits())
    }
}
