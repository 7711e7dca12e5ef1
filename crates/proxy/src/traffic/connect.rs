//! Opening a tunnel by a policy: what of it can be followed where only the connection is seen.
//!
//! Limits, shedding, faults and the bulkhead hold as for requests; a tunnel has its place until it ends. The breaker counts
//! attempts to connect, and a retry is another attempt: nothing has been sent by then, so it is always safe.
//!
//! Invariants: as in `send`; every wait has a limit.

use std::time::{Duration, Instant};

use http::HeaderMap;

use super::admit::Entered;
use super::counts::PolicyEvent;
use super::retry::{self, Outcome};
use crate::answer::Fault;
use crate::endpoint::Ticket;
use crate::forward;
use crate::request::Caller;
use crate::route::{Choice, Rule};
use crate::session::Session;
use crate::upstream::Stream;

/// Connects to an endpoint of a backend under its policy, and keeps what the policy lets only so many have.
pub(crate) async fn connect(
    caller: &Caller,
    rule: &Rule,
    choice: &Choice,
    session: &mut Session,
) -> Result<(Stream, Ticket), Fault> {
    let (started, none) = (Instant::now(), HeaderMap::new());
    let Some(traffic) = &choice.traffic else {
        let ticket = choice.pick(&[], None).ok_or_else(|| choice.no_endpoint())?;
        return attempt(caller, ticket, None, session).await.map_err(|_| forward::unreachable(choice));
    };
    let Entered { ticket, timed: _timed, key, .. } = traffic.admit(caller, rule, choice, None, &none, started).await?;
    let place = ticket.place.clone();
    let within = rule.timeouts.request.or(traffic.timeouts.request).map(|limit| started + limit);
    if let Some((_, budget)) = &traffic.retries {
        budget.request(started);
    }
    let (mut next, mut tried, mut retries) = (Some(ticket), Vec::new(), 0);
    while let Some(mut ticket) = next {
        let call = traffic.call(Instant::now())?;
        ticket.place.clone_from(&place);
        tried.push(ticket.endpoint.address);
        let connected = attempt(caller, ticket, traffic.timeouts.per_try, session).await;
        let outcome = if connected.is_ok() { Outcome::Answer(http::StatusCode::OK, None) } else { Outcome::Unreached };
        let now = Instant::now();
        traffic.ended(call, outcome, now);
        traffic.note(tried.last(), outcome, now);
        if let Ok(connected) = connected {
            return Ok(connected);
        }
        next = if tried.len() < caller.shared.settings.attempts as usize { choice.pick(&tried, key) } else { None };
        if next.is_none() {
            let Some(wait) = traffic.another_attempt(retries, within) else { break };
            tokio::time::sleep(wait).await;
            retries += 1;
            traffic.counts.add(PolicyEvent::Retried);
            tried.clear();
            next = choice.pick(&[], key);
        }
    }
    Err(forward::unreachable(choice))
}

/// One attempt at one endpoint.
async fn attempt(
    caller: &Caller,
    ticket: Ticket,
    limit: Option<Duration>,
    session: &mut Session,
) -> Result<(Stream, Ticket), ()> {
    session.attempts(ticket.endpoint.address);
    if let Some(why) = caller.kept_from(ticket.endpoint.address.ip()) {
        session.missed(why);
        return Err(());
    }
    let dial = caller.dial();
    let connecting = dial.as_it_is(&ticket.endpoint);
    let connected = match limit {
        Some(limit) => tokio::time::timeout(limit, connecting).await.unwrap_or_else(|late| Err(late.into())),
        None => connecting.await,
    };
    connected.map_err(|error| session.missed(&error.to_string())).map(|stream| (stream, ticket))
}

impl super::Traffic {
    /// The wait before everything is tried again, if it may be.
    fn another_attempt(&self, retries: u32, within: Option<Instant>) -> Option<Duration> {
        let (settings, budget) = self.retries.as_ref()?;
        if retries >= settings.attempts || !Outcome::Unreached.is_one_of(&settings.on) {
            return None;
        }
        let wait = retry::wait(settings, retries, fastrand::f64());
        let now = Instant::now();
        if within.is_some_and(|within| now + wait >= within) {
            return None;
        }
        if !budget.spend(now) {
            self.counts.add(PolicyEvent::BudgetSpent);
            return None;
        }
        Some(wait)
    }
}
