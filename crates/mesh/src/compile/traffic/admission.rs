//! The parts of a TrafficPolicy that say which requests are let through and what others get, read into the proxy's.

use std::collections::HashSet;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use proxy::policy::{Concurrency, Fallback, FallbackOn, Injection, RateKey, RateLimit, Shedding};
use resources::traffic::{
    TrafficPolicyConcurrency, TrafficPolicyFallback, TrafficPolicyFault, TrafficPolicyHeader,
    TrafficPolicyLoadShedding, TrafficPolicyRateKey, TrafficPolicyRateLimit,
};

use super::read::positive;

pub(super) fn concurrency(concurrency: &TrafficPolicyConcurrency) -> Result<Concurrency, String> {
    Ok(Concurrency {
        limit: concurrency.limit as usize,
        queue: concurrency.queue as usize,
        max_wait: positive("concurrency.maxWait", &concurrency.max_wait)?,
    })
}

pub(super) fn limits(limits: &[TrafficPolicyRateLimit]) -> Result<Vec<RateLimit>, String> {
    let mut names = HashSet::new();
    let read = |(at, limit): (usize, &TrafficPolicyRateLimit)| {
        if !names.insert(limit.name.clone()) {
            return Err(format!("spec.rateLimits[{at}].name {:?} is another limit's name too", limit.name));
        }
        let field = format!("rateLimits[{at}].header");
        let key = match (limit.key, limit.header.as_deref()) {
            (TrafficPolicyRateKey::All, None) => RateKey::All,
            (TrafficPolicyRateKey::Identity, None) => RateKey::Identity,
            (TrafficPolicyRateKey::ClientIP, None) => RateKey::ClientAddress,
            (TrafficPolicyRateKey::Header, Some(name)) => RateKey::Header(header_name(&field, name)?),
            (TrafficPolicyRateKey::Header, None) => return Err(format!("spec.{field} is needed for the key Header")),
            (_, Some(_)) => return Err(format!("spec.{field} is for the key Header only")),
        };
        Ok(RateLimit {
            name: limit.name.as_str().into(),
            requests: limit.requests,
            per: positive(&format!("rateLimits[{at}].per"), &limit.per)?,
            burst: limit.burst.unwrap_or(limit.requests),
            key,
        })
    };
    limits.iter().enumerate().map(read).collect()
}

pub(super) fn shedding(shedding: &TrafficPolicyLoadShedding) -> Result<Shedding, String> {
    Ok(Shedding {
        latency: positive("loadShedding.latencyTarget", &shedding.latency_target)?,
        waiting: shedding.queue_target.map(|most| most as usize),
        header: header_name("loadShedding.priorityHeader", &shedding.priority_header)?,
    })
}

pub(super) fn injections(faults: &[TrafficPolicyFault]) -> Result<Vec<Injection>, String> {
    let read = |(at, fault): (usize, &TrafficPolicyFault)| {
        if fault.delay.is_none() && fault.abort.is_none() {
            return Err(format!("spec.faults[{at}] has neither delay nor abort"));
        }
        let abort = fault.abort.as_ref().map(|abort| {
            let status = status(&format!("faults[{at}].abort.status"), abort.status)?;
            Ok::<_, String>((status, abort.grpc_status.unwrap_or(14)))
        });
        Ok(Injection {
            percent: fault.percent,
            headers: headers(&format!("faults[{at}].headers"), &fault.headers)?,
            delay: fault.delay.as_deref().map(|text| positive(&format!("faults[{at}].delay"), text)).transpose()?,
            abort: abort.transpose()?,
        })
    };
    faults.iter().enumerate().map(read).collect()
}

pub(super) fn fallback(fallback: &TrafficPolicyFallback) -> Result<Fallback, String> {
    let on = |(at, word): (usize, &String)| {
        Ok(match word.as_str() {
            "no-endpoint" => FallbackOn::NoEndpoint,
            "circuit-open" => FallbackOn::CircuitOpen,
            "unreachable" => FallbackOn::Unreachable,
            "timeout" => FallbackOn::Timeout,
            "overloaded" => FallbackOn::Overloaded,
            "rate-limited" => FallbackOn::RateLimited,
            other => {
                return Err(format!(
                    "spec.fallback.on[{at}] {other:?} is none of no-endpoint, circuit-open, unreachable, timeout, overloaded, rate-limited"
                ));
            }
        })
    };
    Ok(Fallback {
        on: fallback.on.iter().enumerate().map(on).collect::<Result<_, String>>()?,
        status: status("fallback.status", fallback.status)?,
        headers: headers("fallback.headers", &fallback.headers)?,
        body: fallback.body.as_str().into(),
    })
}

fn status(field: &str, number: u16) -> Result<StatusCode, String> {
    StatusCode::from_u16(number).map_err(|_| format!("spec.{field} {number} is no status"))
}

pub(super) fn header_name(field: &str, name: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(name).map_err(|_| format!("spec.{field} {name:?} is no name of a header"))
}

fn headers(field: &str, headers: &[TrafficPolicyHeader]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    /// What the proxy itself writes, as it depends on the body or the connection.
    const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "upgrade"];
    let read = |(at, header): (usize, &TrafficPolicyHeader)| {
        let name = header_name(&format!("{field}[{at}].name"), &header.name)?;
        if FRAMING.contains(&name.as_str()) {
            return Err(format!("spec.{field}[{at}].name {name} is the proxy's own to write"));
        }
        let value = HeaderValue::try_from(&header.value)
            .map_err(|_| format!("spec.{field}[{at}].value {:?} is no value of a header", header.value))?;
        Ok((name, value))
    };
    headers.iter().enumerate().map(read).collect()
}
