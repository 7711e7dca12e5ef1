//! Dapr's Resiliency, translated where it says what a TrafficPolicy says; all else is named.
//!
//! An app is the Service of its name in the Resiliency's namespace. Only what is safe is sent again here, and within a budget;
//! Dapr sends anything again. A circuit belongs to a Service's port, not to each of its endpoints.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::StatusCode;
use proxy::policy::{Breaker, Budget, Retries, RetryOn, TryTimeouts};
use resources::dapr::{Resiliency, ResiliencyApp, ResiliencyCircuitBreaker, ResiliencyMatching, ResiliencyRetry};

use super::Parts;

/// The most retries that a TrafficPolicy can have.
const MOST_RETRIES: u32 = 10;

/// What a Resiliency wants for each app, and what of it cannot be followed.
pub(super) fn translate(resiliency: &Resiliency) -> (Vec<(&str, Parts)>, Vec<String>) {
    let mut missed = Vec::new();
    let spec = &resiliency.spec;
    let mut parts = Vec::with_capacity(spec.targets.apps.len());
    for (app, names) in &spec.targets.apps {
        parts.push((app.as_str(), one(app, names, resiliency, &mut missed)));
    }
    missed.extend(spec.targets.actors.keys().map(|name| format!("targets.actors.{name}: there are no actors")));
    missed.extend(
        spec.targets.components.keys().map(|name| format!("targets.components.{name}: there are no components")),
    );
    if !resiliency.scopes.is_empty() {
        missed.push(format!("scopes ({}): it holds for all callers", resiliency.scopes.join(", ")));
    }
    (parts, missed)
}

fn one(app: &str, names: &ResiliencyApp, resiliency: &Resiliency, missed: &mut Vec<String>) -> Parts {
    let policies = &resiliency.spec.policies;
    let mut parts = Parts::default();
    let mut note = |what: Result<(), String>| missed.extend(what.err());
    if let Some(name) = &names.timeout {
        let text = policies.timeouts.get(name).and_then(|value| value.as_str());
        note(match text.map(|text| duration(&format!("timeouts.{name}"), text)) {
            Some(Ok(limit)) => {
                parts.timeouts = TryTimeouts { request: None, per_try: Some(limit) };
                Ok(())
            }
            Some(Err(why)) => Err(why),
            None => Err(absent(app, "timeouts", name)),
        });
    }
    if let Some(name) = &names.retry {
        match policies.retries.get(name).map(|policy| retries(name, policy, &mut note)) {
            Some(Ok(retries)) => parts.retries = retries,
            Some(Err(why)) => note(Err(why)),
            None => note(Err(absent(app, "retries", name))),
        }
    }
    if let Some(name) = &names.circuit_breaker {
        match policies.circuit_breakers.get(name).map(|policy| breaker(name, policy)) {
            Some(Ok(breaker)) => parts.breaker = Some(breaker),
            Some(Err(why)) => note(Err(why)),
            None => note(Err(absent(app, "circuitBreakers", name))),
        }
    }
    parts
}

fn absent(app: &str, sort: &str, name: &str) -> String {
    format!("targets.apps.{app}: there is no {name} of plain form under policies.{sort}")
}

/// None where there are to be no retries.
fn retries(
    name: &str,
    policy: &ResiliencyRetry,
    note: &mut impl FnMut(Result<(), String>),
) -> Result<Option<Retries>, String> {
    let field = |field: &str| format!("retries.{name}.{field}");
    let (base, max) = match policy.policy.as_deref().unwrap_or("constant") {
        "constant" => {
            let wait = duration(&field("duration"), policy.duration.as_deref().unwrap_or("5s"))?;
            (wait, wait)
        }
        "exponential" => {
            let max = duration(&field("maxInterval"), policy.max_interval.as_deref().unwrap_or("60s"))?;
            (Duration::from_millis(500).min(max), max)
        }
        other => return Err(format!("{} {other:?} is neither constant nor exponential", field("policy"))),
    };
    let attempts = match policy.max_retries.unwrap_or(-1) {
        0 => return Ok(None),
        wanted => match u32::try_from(wanted) {
            Ok(attempts) if attempts <= MOST_RETRIES => attempts,
            _ => {
                note(Err(format!("{} {wanted}: there are {MOST_RETRIES} at most", field("maxRetries"))));
                MOST_RETRIES
            }
        },
    };
    Ok(Some(Retries {
        attempts,
        on: conditions(name, policy.matching.as_ref())?,
        base,
        max,
        budget: Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 },
        max_body: 65_536,
    }))
}

fn conditions(name: &str, matching: Option<&ResiliencyMatching>) -> Result<Vec<RetryOn>, String> {
    let mut on = vec![RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::Timeout];
    let (http, grpc) = matching.map_or((None, None), |m| (m.http.as_deref(), m.grpc.as_deref()));
    match http {
        None => on.push(RetryOn::ServerError),
        Some(text) => {
            for range in ranges(text).ok_or_else(|| format!("retries.{name}.matching.httpStatusCodes {text:?}"))? {
                if range == (500..=599) {
                    on.push(RetryOn::ServerError);
                } else {
                    on.extend(range.filter_map(|code| StatusCode::from_u16(code).ok()).map(RetryOn::Status));
                }
            }
        }
    }
    match grpc {
        None => on.push(RetryOn::Grpc(14)),
        Some(text) => {
            let ranges = ranges(text).ok_or_else(|| format!("retries.{name}.matching.gRPCStatusCodes {text:?}"))?;
            let codes = ranges.into_iter().flatten().filter(|code| (1..=16).contains(code));
            on.extend(codes.filter_map(|code| u8::try_from(code).ok()).map(RetryOn::Grpc));
        }
    }
    Ok(on)
}

/// Numbers and ranges with commas between, all below 1000.
fn ranges(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|number| *number < 1_000);
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('-') {
            Some((from, to)) => Some(number(from)?..=number(to)?),
            None => number(part).map(|one| one..=one),
        })
        .collect()
}

fn breaker(name: &str, policy: &ResiliencyCircuitBreaker) -> Result<Breaker, String> {
    let field = |field: &str| format!("circuitBreakers.{name}.{field}");
    let trip = policy.trip.as_deref().unwrap_or("consecutiveFailures > 5");
    let consecutive = failures(trip)
        .ok_or_else(|| format!("{} {trip:?}: only consecutiveFailures > N or >= N is understood", field("trip")))?;
    Ok(Breaker {
        // The row alone counts.
        failure_percent: 100,
        minimum_calls: u32::MAX,
        window: Duration::from_secs(60),
        consecutive: Some(consecutive),
        // Dapr knows no such limit; this is the proxy's own.
        call_timeout: Duration::from_secs(300),
        open: duration(&field("timeout"), policy.timeout.as_deref().unwrap_or("60s"))?,
        probes: policy.max_requests.unwrap_or(1).max(1),
    })
}

/// How many failures in a row a condition means.
fn failures(trip: &str) -> Option<u32> {
    let compact: String = trip.chars().filter(|c| !c.is_whitespace()).collect();
    let rest = compact.strip_prefix("consecutiveFailures")?;
    match (rest.strip_prefix(">="), rest.strip_prefix('>')) {
        (Some(number), _) => number.parse().ok().filter(|number| *number > 0),
        (None, Some(number)) => number.parse::<u32>().ok()?.checked_add(1),
        (None, None) => None,
    }
}

fn duration(field: &str, text: &str) -> Result<Duration, String> {
    let parsed: Result<resources::gateway::Duration, _> = text.parse();
    match parsed {
        Ok(duration) if !duration.is_zero() => {
            Ok(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
        }
        _ => Err(format!("{field} {text:?} is no duration such as 500ms or 1m30s")),
    }
}
