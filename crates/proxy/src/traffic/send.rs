//! The path of a request that has a policy: try, judge, and try again where that is wanted, safe and within the budget.
//!
//! Invariants: an answer is thrown away only once it is certain that another try is made; every try is known to the
//! breaker before it begins and however it ends; nothing waits beyond the request's own limit of time. What a request is made of, and how it is
//! offered to an endpoint, is its sender's affair ([`Tries`]); this module must not know it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{HeaderMap, Response, StatusCode};

use super::Traffic;
use super::admit::Entered;
use super::breaker::{Call, Transition};
use super::counts::PolicyEvent;
use super::gate::Place;
use super::retry::{self, Outcome};
use crate::answer::Fault;
use crate::body::Body;
use crate::deadline;
use crate::endpoint::Ticket;
use crate::forward::{self, Miss, Unasked};
use crate::observe::Observation;
use crate::request::Caller;
use crate::route::{Choice, Rule};

/// A time that is enough to blame a backend for, where it is the caller who set it.
const FAIR: Duration = Duration::from_millis(100);

/// A request that is offered to endpoints, one try after the other.
pub(crate) trait Tries {
    /// What is sent.
    type Request;
    /// The head of an answer, with a body that streams.
    type Answer;

    /// The request, from its beginning; None where it cannot be sent any more.
    fn take(&mut self) -> Option<Self::Request>;

    /// Takes a request back of which nothing has been sent.
    fn put_back(&mut self, unsent: Self::Request);

    /// Whether it could be sent again, though some of it has been.
    fn repeats(&self) -> bool;

    /// Offers the request to one endpoint.
    async fn attempt(
        &mut self,
        ticket: Ticket,
        request: Self::Request,
        times: Times,
    ) -> Result<Self::Answer, Miss<Self::Request>>;

    /// How a try ended that brought this answer.
    fn outcome(answer: &Self::Answer) -> Outcome;

    /// When it came, which is about now.
    fn came(answer: &Self::Answer) -> Instant;

    /// Says that an answer was kept for a while, and is given now.
    fn kept(&self, answer: &mut Self::Answer);

    /// Whether it is the client who is waited for, as far as that can be told. Others may wait for how a probe ends.
    fn awaits_client(&self, probe: bool) -> bool;
}

/// The times of one try.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) began: Instant,
    /// How long the backend may take, and whether that is only what is usual, as nobody has said so.
    pub(crate) limit: Option<Duration>,
    pub(crate) usual: bool,
    /// When the request must have been answered.
    pub(crate) deadline: Option<Instant>,
    /// Whether others wait for how it ends.
    pub(crate) probe: bool,
}

/// Sends a request by its policy and brings back the head of the answer.
pub(crate) async fn send<T: Tries>(
    caller: &Caller,
    rule: &Rule,
    choice: &Choice,
    traffic: &Traffic,
    entered: Entered,
    tries: &mut T,
    seen: &mut Observation,
) -> Result<T::Answer, Fault> {
    let Entered { ticket, timed: _timed, key, until } = entered;
    let began = Instant::now();
    let call = traffic.call(began)?;
    let settings = &caller.shared.settings;
    let breaker = traffic.breaker.as_ref().map(|breaker| breaker.settings().call_timeout);
    let per_try = rule.timeouts.backend_request.or(traffic.timeouts.per_try).or(breaker);
    let within = rule.timeouts.request.or(traffic.timeouts.request);
    if let Some((_, budget)) = &traffic.retries {
        budget.request(began);
    }
    let mut sending = Sending {
        choice,
        traffic,
        tries,
        endpoints: settings.attempts as usize,
        leaves: until,
        deadline: within.map(|limit| seen.started + limit).into_iter().chain(until).min(),
        per_try,
        usual: settings.response_timeout,
        retries: 0,
        key,
        place: ticket.place.clone(),
        offered: Vec::new(),
        seen,
        next: Some(Next { call, ticket, began }),
    };
    sending.run().await
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
    pub(super) fn ended(&self, call: Option<Call>, outcome: Outcome, now: Instant) {
        let Some(transition) = call.and_then(|call| call.end(outcome.failed(), now)) else { return };
        self.counts.add(match transition {
            Transition::Opened => PolicyEvent::BreakerOpened,
            Transition::Closed => PolicyEvent::BreakerClosed,
        });
    }
}

impl Traffic {
    /// Tells the balancer how a try at an endpoint ended.
    pub(super) fn note(&self, address: Option<&SocketAddr>, outcome: Outcome, now: Instant) {
        if let (Some(balancer), Some(address)) = (&self.balancer, address)
            && balancer.note(*address, outcome.failed(), now)
        {
            self.counts.add(PolicyEvent::Ejected);
        }
    }
}

/// A request on its way.
struct Sending<'a, T> {
    choice: &'a Choice,
    traffic: &'a Traffic,
    tries: &'a mut T,
    /// How many endpoints a try offers it to.
    endpoints: usize,
    /// When its caller will wait no more, where it said so.
    leaves: Option<Instant>,
    /// When it must have been answered.
    deadline: Option<Instant>,
    /// How long a try may take, where that is said, and where not.
    per_try: Option<Duration>,
    usual: Option<Duration>,
    /// How often it has been sent again.
    retries: u32,
    /// What decides to which endpoint it goes.
    key: Option<u64>,
    /// What it holds of what a policy lets only so many have.
    place: Option<Place>,
    /// The endpoints that the last try offered it to, after the one that had failed in the try before.
    offered: Vec<SocketAddr>,
    seen: &'a mut Observation,
    /// None while it is under way.
    next: Option<Next>,
}

/// What the next endpoint is asked with. It is kept here, as each function on the way would have a place of its own for it.
struct Next {
    call: Option<Call>,
    ticket: Ticket,
    began: Instant,
}

/// How a try ended, and what the caller gets if it was the last.
type Tried<A> = (Outcome, Result<A, Fault>);

impl<T: Tries> Sending<'_, T> {
    async fn run(&mut self) -> Result<T::Answer, Fault> {
        loop {
            let (outcome, mut result) = self.reach().await?;
            let Some(wait) = self.again(outcome) else { return result };
            // The answer is kept meanwhile: there may be no better one.
            tokio::time::sleep(wait).await;
            self.next = self.another();
            if self.next.is_none() {
                if let Ok(answer) = &mut result {
                    self.tries.kept(answer);
                }
                return result;
            }
            self.retries += 1;
            self.traffic.counts.add(PolicyEvent::Retried);
        }
    }

    /// Whether to try again, and after what time.
    fn again(&self, outcome: Outcome) -> Option<Duration> {
        let (settings, budget) = self.traffic.retries.as_ref()?;
        if self.retries >= settings.attempts || !outcome.is_one_of(&settings.on) || !self.tries.repeats() {
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
    async fn reach(&mut self) -> Result<Tried<T::Answer>, Fault> {
        let before = self.offered.len();
        let mut why = None;
        let gone = || Fault::new(StatusCode::BAD_GATEWAY, "upstream_closed", "The request cannot be sent again.");
        loop {
            let (Some(request), Some(Next { call, ticket, began })) = (self.tries.take(), self.next.take()) else {
                return Err(gone());
            };
            let address = ticket.endpoint.address;
            self.offered.push(address);
            self.seen.attempts(address, began);
            let probe = call.as_ref().is_some_and(Call::is_probe);
            let times = Times {
                began,
                limit: self.limit(began),
                usual: self.per_try.is_none(),
                deadline: self.deadline,
                probe,
            };
            let why = match self.tries.attempt(ticket, request, times).await {
                Ok(answer) => {
                    let outcome = T::outcome(&answer);
                    self.ended(call, &address, outcome, T::came(&answer));
                    return Ok((outcome, Ok(answer)));
                }
                Err(Miss::Broken(fault)) => {
                    let (outcome, fault) = self.judge(fault, began, probe);
                    self.seen.missed(fault.reason);
                    self.ended(call, &address, outcome, Instant::now());
                    return Ok((outcome, Err(fault)));
                }
                Err(Miss::Untouched(unsent, missed, reason)) => {
                    tracing::debug!(%address, reason, "an endpoint could not be asked");
                    self.seen.missed(&reason);
                    self.tries.put_back(unsent);
                    self.ended(call, &address, of_unasked(missed), Instant::now());
                    *why.insert(missed.and(why))
                }
            };
            let tried = |why: Unasked| Ok((of_unasked(why), Err(why.fault(self.choice))));
            let more = self.offered.len() - before < self.endpoints;
            let Some(ticket) = more.then(|| self.further(before)).flatten() else { return tried(why) };
            let began = Instant::now();
            let Ok(call) = self.traffic.call(began) else { return tried(why) };
            self.next = Some(Next { call, ticket, began });
        }
    }

    /// Whose fault it is that a try brought no answer, and what is said of it.
    fn judge(&self, fault: Fault, began: Instant, probe: bool) -> (Outcome, Fault) {
        match fault.reason {
            forward::BY_CLIENT => (Outcome::ByClient, fault),
            "timeout" => {
                let waited_for = self.tries.awaits_client(probe);
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

    /// Chooses an endpoint that is not among those tried.
    fn pick(&self, tried: &[SocketAddr]) -> Option<Ticket> {
        let mut ticket = self.choice.pick(tried, self.key)?;
        ticket.place.clone_from(&self.place);
        Some(ticket)
    }

    /// An endpoint that this try has not asked, and if there is one, that has not failed in the try before.
    fn further(&self, before: usize) -> Option<Ticket> {
        let again = || (before > 0).then(|| self.pick(&self.offered[before..])).flatten();
        self.pick(&self.offered).or_else(again)
    }

    /// Another endpoint than those of the last try, if there is one; else another than the one that failed in it, and else any.
    fn another(&mut self) -> Option<Next> {
        let failed = self.offered.last().copied();
        let last = failed.as_slice();
        let ticket = [&self.offered, last, &[]].into_iter().find_map(|tried| self.pick(tried))?;
        self.offered.clear();
        self.offered.extend(failed);
        let began = Instant::now();
        let call = self.traffic.call(began).ok()?;
        Some(Next { call, ticket, began })
    }

    /// Tells breaker and balancer how a try at an endpoint ended.
    fn ended(&self, call: Option<Call>, address: &SocketAddr, outcome: Outcome, now: Instant) {
        if matches!(outcome, Outcome::ByClient | Outcome::Misunderstood) {
            // Neither good nor bad: the call is given back.
            return;
        }
        self.traffic.ended(call, outcome, now);
        self.traffic.note(Some(address), outcome, now);
    }

    /// How long a try may take now.
    fn limit(&self, now: Instant) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        match (left, self.per_try.or(self.usual)) {
            (Some(left), Some(per_try)) => Some(left.min(per_try)),
            (left, per_try) => left.or(per_try),
        }
    }
}

/// How a try ended that asked nobody.
fn of_unasked(why: Unasked) -> Outcome {
    match why {
        Unasked::Unreached => Outcome::Unreached,
        Unasked::NotHttp2 => Outcome::Misunderstood,
        Unasked::Unreadable => Outcome::Reset,
    }
}

/// How a try ended that brought such an answer.
pub(crate) fn outcome(response: &Response<Body>) -> Outcome {
    Outcome::Answer(response.status(), grpc_status(response.headers()))
}

/// The gRPC status in the head of an answer: of one that has no body.
fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
