//! What a request meets before it is sent: limits, shedding, faults that are wanted, and the gate.
//!
//! Invariants: what is refused has cost its backend nothing; what waits holds no endpoint meanwhile, so that the wait keeps no
//! endpoint from being let go.

use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::Traffic;
use super::counts::PolicyEvent;
use super::gate::{Place, Shut};
use super::shed::Timed;
use crate::answer::{Fault, Kind};
use crate::body::Body;
use crate::endpoint::Ticket;
use crate::policy::{Fallback, FallbackOn, Injection, RateKey};
use crate::request::Caller;
use crate::route::{Choice, Rule};

/// A request that has been let through.
pub(crate) struct Entered {
    pub(super) ticket: Ticket,
    pub(super) timed: Option<Timed>,
    /// What decides to which endpoint it goes, where something does.
    pub(super) key: Option<u64>,
    /// When its caller will wait no more, where it said so.
    pub(crate) until: Option<Instant>,
}

impl Traffic {
    /// Lets a request through, perhaps after a wait, or says why not.
    pub(crate) async fn admit(
        &self,
        caller: &Caller,
        rule: &Rule,
        choice: &Choice,
        ticket: Option<Ticket>,
        headers: &HeaderMap,
        started: Instant,
    ) -> Result<Entered, Fault> {
        self.within_limits(caller, headers)?;
        let waiting = self.gate.as_ref().map_or(0, |gate| gate.waiting());
        let timed = match &self.shedder {
            None => None,
            Some(shedder) => Some(shedder.enter(headers, waiting, Instant::now()).ok_or_else(|| {
                self.counts.add(PolicyEvent::Shed);
                let detail = "There is more to do than can be done in good time.";
                Fault::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after(Duration::from_secs(1))
            })?),
        };
        let mut ticket = ticket;
        if let Some(injections) = &self.injections {
            for injection in injections.iter().filter(|injection| is_meant(injection, headers)) {
                ticket = None;
                Box::pin(self.inject(injection)).await?;
            }
        }
        let mut place = None;
        if let Some(gate) = &self.gate {
            place = gate.try_enter();
            if place.is_none() {
                ticket = None;
                let within = rule.timeouts.request.or(self.timeouts.request);
                let left = within.map(|limit| limit.saturating_sub(started.elapsed()));
                // In boxes, as what seldom waits is part of every request's memory else.
                place = Some(Box::pin(self.wait(left)).await?);
            }
        }
        let key = self.key(caller, headers);
        let ticket = ticket.or_else(|| choice.pick(&[], key));
        let mut ticket = ticket.ok_or_else(|| choice.no_endpoint())?;
        ticket.place = place;
        Ok(Entered { ticket, timed, key, until: None })
    }

    fn within_limits(&self, caller: &Caller, headers: &HeaderMap) -> Result<(), Fault> {
        if self.limiters.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for limiter in &self.limiters {
            let limit = limiter.settings();
            let key = match &limit.key {
                RateKey::All => "",
                RateKey::Identity => caller.identity.as_ref().map_or("", |identity| &*identity.id),
                RateKey::ClientAddress => caller.address.to_str().unwrap_or_default(),
                RateKey::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default(),
            };
            let Err(wait) = limiter.take(key, now) else { continue };
            self.counts.add(PolicyEvent::RateLimited);
            return Err(too_many(&limit.name, limit.requests, limit.per, wait));
        }
        Ok(())
    }

    /// Does to a request what is wanted.
    async fn inject(&self, injection: &Injection) -> Result<(), Fault> {
        self.counts.add(PolicyEvent::Injected);
        if let Some(delay) = injection.delay {
            tokio::time::sleep(delay).await;
        }
        let Some((status, grpc)) = injection.abort else { return Ok(()) };
        let fault = Fault::new(status, "fault_injected", "A policy wants this request to fail.");
        Err(fault.in_grpc(grpc))
    }

    /// Waits for a place.
    async fn wait(&self, left: Option<Duration>) -> Result<Place, Fault> {
        let Some(gate) = &self.gate else {
            return Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", "There is no place."));
        };
        let entered = gate.enter(left).await;
        if entered.as_ref().err() != Some(&Shut::Full) {
            self.counts.add(PolicyEvent::Queued);
        }
        entered.map_err(|shut| {
            self.counts.add(PolicyEvent::QueueFull);
            let (reason, detail) = match shut {
                Shut::Full => ("queue_full", "As many requests as may are under way and waiting."),
                Shut::Late => ("queue_timeout", "The request waited for its turn for as long as it may."),
            };
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail).retry_after(Duration::from_secs(1))
        })
    }

    /// What is answered instead of a refusal, where something is.
    pub(crate) fn fall_back(&self, fault: &Fault, kind: Kind) -> Option<Response<Body>> {
        let fallback = self.fallback.as_ref()?;
        if kind == Kind::Grpc || !covers(fallback, fault.reason) {
            return None;
        }
        self.counts.add(PolicyEvent::FellBack);
        let mut response = Response::new(Body::shared(&fallback.body));
        *response.status_mut() = fallback.status;
        for (name, value) in &fallback.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        let why = HeaderValue::from_static(fault.reason);
        response.headers_mut().insert(HeaderName::from_static("x-coracle-fallback"), why);
        Some(response)
    }
}

/// Whether a fault is wanted for this request.
fn is_meant(injection: &Injection, headers: &HeaderMap) -> bool {
    let has = |(name, value): &(HeaderName, HeaderValue)| headers.get_all(name).iter().any(|is| is == value);
    injection.headers.iter().all(has) && fastrand::u32(..100) < injection.percent
}

/// Over the limit (RFC 6585, 4), with the fields of draft-ietf-httpapi-ratelimit-headers.
fn too_many(name: &str, requests: u32, per: Duration, wait: Duration) -> Fault {
    let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "There were more requests than are allowed.");
    let fields = [
        ("ratelimit-policy", format!("\"{name}\";q={requests};w={}", seconds(per).max(1))),
        ("ratelimit", format!("\"{name}\";r=0;t={}", seconds(wait).max(1))),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)));
    fields.fold(fault.retry_after(wait), |fault, (name, value)| fault.with(HeaderName::from_static(name), value))
}

fn covers(fallback: &Fallback, reason: &str) -> bool {
    fallback.on.iter().any(|on| match on {
        FallbackOn::NoEndpoint => reason == "no_endpoint",
        FallbackOn::CircuitOpen => reason == "circuit_open",
        FallbackOn::Unreachable => matches!(reason, "connect_failed" | "upstream_closed" | "upstream_protocol"),
        FallbackOn::Timeout => reason == "timeout",
        FallbackOn::Overloaded => matches!(reason, "queue_full" | "queue_timeout" | "overloaded"),
        FallbackOn::RateLimited => reason == "rate_limited",
    })
}
