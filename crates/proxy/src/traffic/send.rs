//! The path of a request that has a policy: try, judge, and try again where that is wanted, safe and within the budget.
//!
//! Invariants: an answer is thrown away only once it is certain that another try is made; every try is known to the
//! breaker before it begins and however it ends; nothing waits beyond the request's own limit of time.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response, StatusCode};

use super::admit::Entered;
use super::breaker::{Call, Transition};
use super::counts::PolicyEvent;
use super::gate::Place;
use super::replay::Script;
use super::retry::{self, Outcome};
use super::{Traffic, is_safe};
use crate::answer::Fault;
use crate::body::Body;
use crate::deadline;
use crate::endpoint::Ticket;
use crate::forward::{self, Miss, Outgoing};
use crate::incoming::Watch;
use crate::observe::Observation;
use crate::request::Caller;
use crate::route::{Choice, Rule};
use crate::turn::Turn;
use crate::upstream::RequestBody;

/// A time that is enough to blame a backend for, where it is the caller who set it.
const FAIR: Duration = Duration::from_millis(100);

/// Sends a request by its policy and brings back the head of the answer.
pub(crate) async fn send(
    caller: &Arc<Caller>,
    rule: &Rule,
    choice: &Choice,
    traffic: &Traffic,
    entered: Entered,
    outgoing: Outgoing,
    seen: &mut Observation,
) -> Result<Response<Body>, Fault> {
    let Entered { ticket, timed: _timed, key, until } = entered;
    let now = Instant::now();
    let call = traffic.call(now)?;
    let mut sending = Sending::new(caller, rule, choice, traffic, outgoing, seen);
    sending.key = key;
    sending.leaves = until;
    sending.deadline = sending.deadline.into_iter().chain(until).min();
    sending.place = ticket.place.clone();
    if let Some((_, budget)) = &traffic.retries {
        budget.request(now);
    }
    sending.run(call, ticket).await
}

impl Traffic {
    /// Asks the breaker for a call.
    pub(super) fn call(&self, now: Instant) -> Result<Option<Call>, Fault> {
        let Some(breaker) = &self.breaker else { return Ok(None) };
        breaker.call(now).map(Some).map_err(|left| {
            self.counts.add(PolicyEvent::RefusedByBreaker);
            let detail = "Most calls to this backend have failed lately; it is left alone for a while.";
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, "circuit_open", detail).retry_after(left)
        })
    }

    /// Tells the breaker how a call ended.
    pub(super) fn ended(&self, call: Option<Call>, outcome: Outcome) {
        let Some(transition) = call.and_then(|call| call.end(outcome.failed(), Instant::now())) else { return };
        self.counts.add(match transition {
            Transition::Opened => PolicyEvent::BreakerOpened,
            Transition::Closed => PolicyEvent::BreakerClosed,
        });
    }
}

impl Traffic {
    /// Tells the balancer how a try at an endpoint ended.
    pub(super) fn note(&self, address: Option<&SocketAddr>, outcome: Outcome) {
        if let (Some(balancer), Some(address)) = (&self.balancer, address)
            && balancer.note(*address, outcome.failed(), Instant::now())
        {
            self.counts.add(PolicyEvent::Ejected);
        }
    }
}

/// A request on its way.
struct Sending<'a> {
    caller: &'a Arc<Caller>,
    choice: &'a Choice,
    traffic: &'a Traffic,
    script: Script,
    upgrade: forward::Upgrade,
    http2: bool,
    /// Tells whether it is the client who is waited for.
    watch: Option<Arc<Watch>>,
    /// Whether its time is not the backend's. In calls of gRPC either side may wait for the other's part, and nobody can tell.
    patient: bool,
    /// When its caller will wait no more, where it said so.
    leaves: Option<Instant>,
    /// When it must have been answered.
    deadline: Option<Instant>,
    per_try: Option<Duration>,
    /// How often it has been sent again.
    retries: u32,
    /// What decides to which endpoint it goes.
    key: Option<u64>,
    /// What it holds of what a policy lets only so many have.
    place: Option<Place>,
    seen: &'a mut Observation,
}

/// How a try ended, and what the caller gets if it was the last.
type Tried = (Outcome, Result<Response<Body>, Fault>);

impl<'a> Sending<'a> {
    fn new(
        caller: &'a Arc<Caller>,
        rule: &Rule,
        choice: &'a Choice,
        traffic: &'a Traffic,
        outgoing: Outgoing,
        seen: &'a mut Observation,
    ) -> Self {
        let Outgoing { request, upgrade, grpc, watch } = outgoing;
        let breaker = traffic.breaker.as_ref().map(|breaker| breaker.settings().call_timeout);
        let per_try = rule.timeouts.backend_request.or(traffic.timeouts.per_try).or(breaker);
        let within = rule.timeouts.request.or(traffic.timeouts.request);
        let http2 = forward::over_http2_is_right(choice, upgrade.is_some(), grpc);
        let script = match &traffic.retries {
            Some((retries, _)) if upgrade.is_none() && is_safe(request.method(), request.headers()) => {
                Script::again(request, retries.max_body)
            }
            _ => Script::once(request),
        };
        Self {
            caller,
            choice,
            traffic,
            script,
            upgrade,
            http2,
            watch,
            patient: !(grpc && http2),
            leaves: None,
            deadline: within.map(|limit| seen.started + limit),
            per_try,
            retries: 0,
            key: None,
            place: None,
            seen,
        }
    }

    async fn run(&mut self, call: Option<Call>, ticket: Ticket) -> Result<Response<Body>, Fault> {
        let (mut call, mut ticket) = (call, ticket);
        loop {
            let address = ticket.endpoint.address;
            let (outcome, result) = self.reach(call, ticket).await?;
            let Some(wait) = self.again(outcome) else { return result };
            // The answer is kept meanwhile: there may be no better one.
            tokio::time::sleep(wait).await;
            let Some(next) = self.another(address) else { return result };
            call = match self.traffic.call(Instant::now()) {
                Ok(call) => call,
                Err(_) => return result,
            };
            ticket = next;
            self.retries += 1;
            self.traffic.counts.add(PolicyEvent::Retried);
        }
    }

    /// Whether to try again, and after what time.
    fn again(&self, outcome: Outcome) -> Option<Duration> {
        let (settings, budget) = self.traffic.retries.as_ref()?;
        if self.retries >= settings.attempts || !outcome.is_one_of(&settings.on) || !self.script.repeats() {
            return None;
        }
        let wait = retry::wait(settings, self.retries, fastrand::f64());
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now + wait >= deadline) {
            return None;
        }
        if !budget.spend(now) {
            self.traffic.counts.add(PolicyEvent::BudgetSpent);
            return None;
        }
        Some(wait)
    }

    /// One try: offers the request to endpoints until one has got something of it.
    async fn reach(&mut self, call: Option<Call>, ticket: Ticket) -> Result<Tried, Fault> {
        let (mut call, mut ticket) = (call, ticket);
        let mut offered: Vec<SocketAddr> = Vec::new();
        loop {
            let gone = || Fault::new(StatusCode::BAD_GATEWAY, "upstream_closed", "The request cannot be sent again.");
            let request = self.script.take().ok_or_else(gone)?;
            offered.push(ticket.endpoint.address);
            self.seen.attempts(ticket.endpoint.address);
            let (began, probe) = (Instant::now(), call.as_ref().is_some_and(Call::is_probe));
            let sent = self.attempt(ticket, request, probe).await;
            let (outcome, missed) = match sent {
                Ok(response) => {
                    let outcome = Outcome::Answer(response.status(), grpc_status(response.headers()));
                    self.ended(call, &offered, outcome);
                    return Ok((outcome, Ok(response)));
                }
                Err(Miss::Broken(fault)) => {
                    let (outcome, fault) = self.judge(fault, began, probe);
                    self.seen.missed(fault.reason);
                    self.ended(call, &offered, outcome);
                    return Ok((outcome, Err(fault)));
                }
                Err(Miss::Untouched(unsent, reason)) => {
                    tracing::debug!(reason, "an endpoint could not be reached");
                    self.seen.missed(&reason);
                    self.script.put_back(unsent);
                    (Outcome::Unreached, forward::unreachable(self.choice))
                }
            };
            self.ended(call, &offered, outcome);
            let more = offered.len() < self.caller.shared.settings.attempts as usize;
            let Some(next) = more.then(|| self.pick(&offered)).flatten() else {
                return Ok((outcome, Err(missed)));
            };
            let Ok(another) = self.traffic.call(Instant::now()) else { return Ok((outcome, Err(missed))) };
            (call, ticket) = (another, next);
        }
    }

    /// Whose fault it is that a try brought no answer, and what is said of it.
    fn judge(&self, fault: Fault, began: Instant, probe: bool) -> (Outcome, Fault) {
        match fault.reason {
            forward::BY_CLIENT => (Outcome::ByClient, fault),
            forward::NOT_HTTP2 => (Outcome::Misunderstood, fault),
            "timeout" => {
                let waited_for = (self.patient || probe) && self.watch.as_ref().is_some_and(|watch| watch.waits());
                let left = self.leaves.filter(|leaves| *leaves <= Instant::now());
                let least = self.per_try.map_or(FAIR, |limit| limit.min(FAIR));
                // A caller that leaves at once says nothing of the backend.
                let fair = left.is_none_or(|left| left.saturating_duration_since(began) >= least);
                let outcome = if waited_for || !fair { Outcome::ByClient } else { Outcome::TimedOut };
                (outcome, if left.is_some() { deadline::passed() } else { fault })
            }
            _ => (Outcome::Reset, fault),
        }
    }

    /// Offers the request to one endpoint. Time in which it is the client who is waited for is not the endpoint's.
    async fn attempt(
        &mut self,
        ticket: Ticket,
        request: Request<RequestBody>,
        probe: bool,
    ) -> Result<Response<Body>, Miss> {
        let limit = self.limit();
        // Where nobody set a limit, the usual one is for requests that stand still.
        let watch = self.watch.clone().filter(|_| self.patient || self.per_try.is_none());
        let own = if watch.is_some() { None } else { limit };
        let (settings, blind, last) = (&self.caller.shared.settings, !self.patient, self.deadline);
        let sent = pin!(forward::attempt(self.caller, ticket, request, &mut self.upgrade, self.http2, own));
        let (Some(watch), Some(limit)) = (watch, limit) else { return sent.await };
        let turn = Turn { began: Instant::now(), limit, silence: settings.header_timeout, last, probe, blind };
        turn.wait(&watch, sent).await.unwrap_or_else(|over| Err(Miss::Broken(forward::over_time(over))))
    }

    /// Chooses an endpoint that is not among those tried.
    fn pick(&self, tried: &[SocketAddr]) -> Option<Ticket> {
        let mut ticket = self.choice.pick(tried, self.key)?;
        ticket.place.clone_from(&self.place);
        Some(ticket)
    }

    /// Another endpoint than the last one, if there is one.
    fn another(&self, last: SocketAddr) -> Option<Ticket> {
        self.pick(&[last]).or_else(|| self.pick(&[]))
    }

    /// Tells breaker and balancer how a try at the last endpoint ended.
    fn ended(&self, call: Option<Call>, offered: &[SocketAddr], outcome: Outcome) {
        if matches!(outcome, Outcome::ByClient | Outcome::Misunderstood) {
            // Neither good nor bad: the call is given back.
            return;
        }
        self.traffic.ended(call, outcome);
        self.traffic.note(offered.last(), outcome);
    }

    /// How long a try may take now.
    fn limit(&self) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match (left, self.per_try.or(self.caller.shared.settings.response_timeout)) {
            (Some(left), Some(per_try)) => Some(left.min(per_try)),
            (left, per_try) => left.or(per_try),
        }
    }
}

/// The gRPC status in the head of an answer: of one that has no body.
fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
