//! How endpoints are asked what is passed on as it came, and what becomes of their answers: those of the plain form are made the client's where
//! they have landed, all others are read into maps.
//!
//! Invariants: attempts, limits of time and reasons are those of `forward.rs`, and with a policy those of `traffic/`, which decides here as there;
//! nothing of an answer is written to the client before it is certain that it is the one.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Response, StatusCode};

use super::onward::Head;
use crate::answer::Fault;
use crate::body::{self, Body, Lease};
use crate::endpoint::Ticket;
use crate::forward::{self, Miss};
use crate::observe::Observation;
use crate::patience::Patience;
use crate::request::Caller;
use crate::route::{Choice, Rule};
use crate::traffic::{self, Outcome, Times, Tries};
use crate::upstream::{self, Answer, AskError, Http1};

/// The form that an answer has for the client.
pub(crate) trait Form {
    type Made;

    /// Makes it of a plain answer, and of as much of its body as has come with it. `name` is the id of its request, where the client is told it and the
    /// endpoint says none.
    fn make(&self, plain: &upstream::Plain<'_, '_>, body: &[u8], name: Option<&[u8]>) -> Self::Made;

    /// Says that it was kept for a while, and is given now.
    fn kept(&self, made: &mut Self::Made);
}

/// What came of offering a request.
pub(super) enum Came<M> {
    Made(Made<M>, Option<Body>),
    Other(Response<Body>),
}

/// What was made of a plain answer where it had landed.
pub(super) struct Made<M> {
    pub(super) out: M,
    pub(super) status: StatusCode,
    /// How much of the body is in there, and how much is to come.
    here: u64,
    pub(super) left: u64,
    /// When it had come.
    at: Instant,
}

impl<M> Made<M> {
    /// Takes an answer, and as much of its body as has come with it.
    fn of(plain: &upstream::Plain<'_, '_>, body: &[u8], form: &impl Form<Made = M>, name: Option<&[u8]>) -> Self {
        let here = body.len() as u64;
        let out = form.make(plain, body, name);
        Self { out, status: plain.status, here, left: plain.length - here, at: Instant::now() }
    }

    /// Has it noted that this is the answer.
    pub(super) fn noted(&self, seen: &mut Observation) {
        seen.answered_plainly(self.status, self.at);
        seen.response_bytes = self.here;
    }
}

/// A request as it is offered to endpoints.
pub(super) struct Asking<'a, F> {
    pub(super) caller: &'a Caller,
    pub(super) rule: &'a Rule,
    pub(super) choice: &'a Choice,
    pub(super) method: &'a Method,
    /// Its head, as endpoints get it.
    pub(super) head: &'a Head,
    /// Whether its client is outside, where it is told the id.
    pub(super) outside: bool,
    pub(super) form: &'a F,
    pub(super) patience: &'a mut Patience,
    /// The first endpoint that is offered it, if there is any.
    pub(super) ticket: Option<Ticket>,
}

impl<F: Form> Asking<'_, F> {
    /// Offers it to endpoints as the policy wants it, where there is one.
    pub(super) async fn by_policy(&mut self, seen: &mut Observation) -> Result<Came<F::Made>, Fault> {
        let (caller, rule, choice) = (self.caller, self.rule, self.choice);
        let Some(traffic) = &choice.traffic else { return self.within(seen).await };
        // It is one that asks for no headers, or the request were not here.
        let none = HeaderMap::new();
        let entered = traffic.admit(caller, rule, choice, self.ticket.take(), &none, seen.started).await?;
        traffic::send(caller, rule, choice, traffic, entered, self, seen).await
    }

    /// Offers it to endpoints in the time that the rule allows.
    pub(super) async fn within(&mut self, seen: &mut Observation) -> Result<Came<F::Made>, Fault> {
        let Some(limit) = self.rule.timeouts.request else { return self.offer(seen).await };
        let left = limit.saturating_sub(seen.started.elapsed());
        // In a box, as few rules have a limit.
        let offered = Box::pin(tokio::time::timeout(left, self.offer(seen)));
        offered.await.map_err(|_| forward::late())?
    }

    /// Offers it to one endpoint after the other, until one has got something of it.
    async fn offer(&mut self, seen: &mut Observation) -> Result<Came<F::Made>, Fault> {
        let mut ticket = self.ticket.take().ok_or_else(|| self.choice.no_endpoint())?;
        let settings = &self.caller.shared.settings;
        let limit = self.rule.timeouts.backend_request.or(settings.response_timeout);
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut from = seen.started;
        loop {
            let address = ticket.endpoint.address;
            seen.attempts(address, from);
            let reason = match self.ask_within(ticket, limit, from).await {
                Ok(came) => return Ok(came),
                Err(Miss::Broken(fault)) => {
                    seen.missed(fault.reason);
                    return Err(fault);
                }
                Err(Miss::Untouched((), _, reason)) => reason,
            };
            tracing::debug!(%address, reason, "an endpoint could not be reached");
            seen.missed(&reason);
            tried.push(address);
            let next = if tried.len() < settings.attempts as usize { self.choice.pick(&tried, None) } else { None };
            ticket = next.ok_or_else(|| forward::unreachable(self.choice))?;
            from = Instant::now();
        }
    }

    /// Asks one endpoint, which has so long from then on.
    async fn ask_within(
        &mut self,
        ticket: Ticket,
        limit: Option<Duration>,
        from: Instant,
    ) -> Result<Came<F::Made>, Miss<()>> {
        let Self { caller, method, head, outside, form, .. } = *self;
        let asked = pin!(Ask { caller, method, head, outside, form }.of(ticket, from));
        self.patience.with(limit, from, asked).await.unwrap_or_else(|| Err(Miss::Broken(forward::late())))
    }
}

impl<F: Form> Tries for Asking<'_, F> {
    type Request = ();
    type Answer = Came<F::Made>;

    fn take(&mut self) -> Option<()> {
        Some(())
    }

    fn put_back(&mut self, (): ()) {}

    fn repeats(&self) -> bool {
        true
    }

    async fn attempt(&mut self, ticket: Ticket, (): (), times: Times) -> Result<Came<F::Made>, Miss<()>> {
        self.ask_within(ticket, times.limit, times.began).await
    }

    fn outcome(came: &Came<F::Made>) -> Outcome {
        match came {
            // One that says anything of gRPC is not plain.
            Came::Made(made, _) => Outcome::Answer(made.status, None),
            Came::Other(response) => traffic::outcome(response),
        }
    }

    fn came(came: &Came<F::Made>) -> Instant {
        match came {
            Came::Made(made, _) => made.at,
            Came::Other(_) => Instant::now(),
        }
    }

    fn kept(&self, came: &mut Came<F::Made>) {
        // What is made of all others is made when it is written.
        if let Came::Made(made, _) = came {
            made.at = Instant::now();
            self.form.kept(&mut made.out);
        }
    }

    /// All of the request was there before it began.
    fn awaits_client(&self, _: bool) -> bool {
        false
    }
}

/// What one endpoint is asked.
struct Ask<'a, F> {
    caller: &'a Caller,
    method: &'a Method,
    head: &'a Head,
    outside: bool,
    form: &'a F,
}

impl<F: Form> Ask<'_, F> {
    /// Asks over a connection that was kept, and once more over a new one where that had been closed.
    async fn of(self, ticket: Ticket, now: Instant) -> Result<Came<F::Made>, Miss<()>> {
        let (caller, settings) = (self.caller, &self.caller.shared.settings);
        let pool = ticket.endpoint.pool(caller.speaker(), ticket.client.as_deref());
        let mut kept = pool.take(Duration::MAX, now);
        loop {
            let (connection, is_new, sent) = match kept.take() {
                Some(connection) => (connection, false, now),
                None => {
                    // In a box, as few requests need a new one.
                    let dial = caller.dial();
                    let dialled = Box::pin(dial.to(&ticket.endpoint, Some(b"http/1.1"), ticket.client.as_deref()));
                    match dialled.await {
                        Ok(stream) => (Http1::new(stream, settings.pool_idle), true, Instant::now()),
                        Err(error) => return Err(Miss::unreached((), &error)),
                    }
                }
            };
            let asked = connection.ask_plainly(self.method, &self.head.bytes, |plain, body| {
                let name = self.outside.then(|| self.head.id());
                Some(Made::of(plain, body, self.form, name))
            });
            match asked.await {
                Ok(Answer::Taken(made, keeps, mut reading)) => {
                    ticket.endpoint.observe(made.at.saturating_duration_since(sent));
                    if let Some(seconds) = keeps {
                        reading.keep_for(forward::kept_for(seconds));
                    }
                    let lease = Lease { ticket, pool, pool_size: settings.pool_size };
                    if reading.ended() {
                        lease.release_at(reading.back(), made.at);
                        return Ok(Came::Made(made, None));
                    }
                    let body = Body::Read(Box::new(body::Read { reading, lease: Some(lease) }));
                    return Ok(Came::Made(made, Some(body)));
                }
                Ok(Answer::Read(parts, reading)) => {
                    let read = forward::received_of(parts, reading, (ticket, pool), settings.pool_size, sent);
                    return read.map(Came::Other).map_err(Miss::Broken);
                }
                Err(AskError::Lost(_)) if !is_new => {}
                Err(AskError::Lost(error) | AskError::Cut(error)) => {
                    return Err(Miss::broken("upstream_closed", &error));
                }
                Err(error) => return Err(Miss::broken("upstream_protocol", &error)),
            }
        }
    }
}
