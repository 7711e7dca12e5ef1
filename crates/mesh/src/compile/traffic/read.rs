//! A TrafficPolicy's words, read into the proxy's. An error names the field.
//!
//! What the schema holds already is not checked again: the API has refused what is out of bounds.

use std::time::Duration;

use http::StatusCode;
use proxy::policy::{Algorithm, Balancing, Breaker, Budget, HashOn, Outliers, Retries, RetryOn, TryTimeouts};
use resources::traffic::{
    TrafficPolicyAlgorithm, TrafficPolicyCircuitBreaker, TrafficPolicyHashOn, TrafficPolicyHashType,
    TrafficPolicyLoadBalancing, TrafficPolicyOutlierEjection, TrafficPolicyRetries, TrafficPolicySpec,
    TrafficPolicyTimeouts,
};

use super::{Parts, admission};

/// Reads a policy.
pub(super) fn parts(spec: &TrafficPolicySpec) -> Result<Parts, String> {
    let parts = Parts {
        timeouts: spec.timeouts.as_ref().map(timeouts).transpose()?.unwrap_or_default(),
        retries: spec.retries.as_ref().map(retries).transpose()?,
        breaker: spec.circuit_breaker.as_ref().map(breaker).transpose()?,
        concurrency: spec.concurrency.as_ref().map(admission::concurrency).transpose()?,
        limits: spec.rate_limits.as_deref().map(admission::limits).transpose()?,
        shedding: spec.load_shedding.as_ref().map(admission::shedding).transpose()?,
        balancing: spec.load_balancing.as_ref().map(balancing).transpose()?,
        outliers: spec.outlier_ejection.as_ref().map(outliers).transpose()?,
        injections: spec.faults.as_deref().map(admission::injections).transpose()?,
        fallback: spec.fallback.as_ref().map(admission::fallback).transpose()?,
    };
    if parts == Parts::default() {
        return Err("spec says nothing but what it is for; give it one of its other fields".to_owned());
    }
    Ok(parts)
}

fn timeouts(timeouts: &TrafficPolicyTimeouts) -> Result<TryTimeouts, String> {
    let read = TryTimeouts {
        request: timeouts.request.as_deref().map(|text| positive("timeouts.request", text)).transpose()?,
        per_try: timeouts.per_try.as_deref().map(|text| positive("timeouts.perTry", text)).transpose()?,
    };
    if let (Some(request), Some(per_try)) = (read.request, read.per_try)
        && per_try > request
    {
        return Err("spec.timeouts.perTry cannot be longer than spec.timeouts.request".to_owned());
    }
    Ok(read)
}

fn retries(retries: &TrafficPolicyRetries) -> Result<Retries, String> {
    let base = positive("retries.backoff.base", &retries.backoff.base)?;
    let max = positive("retries.backoff.max", &retries.backoff.max)?;
    if max < base {
        return Err("spec.retries.backoff.max cannot be shorter than spec.retries.backoff.base".to_owned());
    }
    Ok(Retries {
        attempts: retries.attempts,
        on: retries.on.iter().enumerate().map(|(at, word)| condition(at, word)).collect::<Result<_, _>>()?,
        base,
        max,
        budget: Budget {
            percent: retries.budget.percent,
            interval: positive("retries.budget.interval", &retries.budget.interval)?,
            min_per_second: retries.budget.min_per_second,
        },
        max_body: retries.max_body_bytes as usize,
    })
}

fn condition(position: usize, word: &str) -> Result<RetryOn, String> {
    let wrong = || {
        format!(
            "spec.retries.on[{position}] {word:?} is none of 5xx, gateway-error, connect-failure, reset, timeout, a status from 400 to 599, or grpc-unavailable and its like"
        )
    };
    Ok(match word {
        "5xx" => RetryOn::ServerError,
        "gateway-error" => RetryOn::GatewayError,
        "connect-failure" => RetryOn::ConnectFailure,
        "reset" => RetryOn::Reset,
        "timeout" => RetryOn::Timeout,
        other => match other.strip_prefix("grpc-") {
            Some(name) => RetryOn::Grpc(grpc_status(name).ok_or_else(wrong)?),
            None => {
                let status = other.parse().ok().and_then(|status: u16| StatusCode::from_u16(status).ok());
                let error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
                RetryOn::Status(status.filter(error).ok_or_else(wrong)?)
            }
        },
    })
}

/// The number of a gRPC status by its name in small letters with hyphens; OK is none to try again after.
fn grpc_status(name: &str) -> Option<u8> {
    const NAMES: [&str; 16] = [
        "cancelled",
        "unknown",
        "invalid-argument",
        "deadline-exceeded",
        "not-found",
        "already-exists",
        "permission-denied",
        "resource-exhausted",
        "failed-precondition",
        "aborted",
        "out-of-range",
        "unimplemented",
        "internal",
        "unavailable",
        "data-loss",
        "unauthenticated",
    ];
    NAMES.iter().position(|known| *known == name).and_then(|position| u8::try_from(position + 1).ok())
}

fn breaker(breaker: &TrafficPolicyCircuitBreaker) -> Result<Breaker, String> {
    Ok(Breaker {
        failure_percent: breaker.failure_rate,
        minimum_calls: breaker.minimum_calls,
        window: positive("circuitBreaker.window", &breaker.window)?,
        consecutive: breaker.consecutive_failures,
        call_timeout: positive("circuitBreaker.callTimeout", &breaker.call_timeout)?,
        open: positive("circuitBreaker.openFor", &breaker.open_for)?,
        probes: breaker.probes,
    })
}

fn outliers(outliers: &TrafficPolicyOutlierEjection) -> Result<Outliers, String> {
    let base = positive("outlierEjection.baseTime", &outliers.base_time)?;
    let max = positive("outlierEjection.maxTime", &outliers.max_time)?;
    if max < base {
        let message = "spec.outlierEjection.maxTime cannot be shorter than spec.outlierEjection.baseTime";
        return Err(message.to_owned());
    }
    Ok(Outliers {
        consecutive: Some(outliers.consecutive_failures),
        failure_percent: outliers.failure_rate,
        minimum_requests: outliers.minimum_requests,
        window: positive("outlierEjection.window", &outliers.window)?,
        base,
        max,
        max_percent: outliers.max_percent,
    })
}

fn balancing(balancing: &TrafficPolicyLoadBalancing) -> Result<Balancing, String> {
    let algorithm = match (balancing.algorithm, &balancing.hash_on) {
        (TrafficPolicyAlgorithm::PeakEWMA, None) => Algorithm::PeakEwma,
        (TrafficPolicyAlgorithm::LeastRequest, None) => Algorithm::LeastRequest,
        (TrafficPolicyAlgorithm::RoundRobin, None) => Algorithm::RoundRobin,
        (TrafficPolicyAlgorithm::ConsistentHash, Some(on)) => Algorithm::ConsistentHash(hash_on(on)?),
        (TrafficPolicyAlgorithm::ConsistentHash, None) => {
            return Err("spec.loadBalancing.hashOn is needed for ConsistentHash".to_owned());
        }
        (_, Some(_)) => return Err("spec.loadBalancing.hashOn is for ConsistentHash only".to_owned()),
    };
    let slow_start = balancing.slow_start.as_deref();
    let slow_start = slow_start.map(|text| positive("loadBalancing.slowStart", text)).transpose()?;
    if slow_start.is_some() && matches!(algorithm, Algorithm::ConsistentHash(_)) {
        return Err("spec.loadBalancing.slowStart cannot be had with ConsistentHash".to_owned());
    }
    Ok(Balancing { algorithm, slow_start })
}

fn hash_on(on: &TrafficPolicyHashOn) -> Result<HashOn, String> {
    const FIELD: &str = "loadBalancing.hashOn.name";
    match (on.kind, on.name.as_deref()) {
        (TrafficPolicyHashType::Header, Some(name)) => Ok(HashOn::Header(admission::header_name(FIELD, name)?)),
        (TrafficPolicyHashType::Cookie, Some(name)) => Ok(HashOn::Cookie(name.into())),
        (TrafficPolicyHashType::SourceIP, None) => Ok(HashOn::ClientAddress),
        (TrafficPolicyHashType::SourceIP, Some(_)) => Err(format!("spec.{FIELD} is not for SourceIP")),
        (_, None) => Err(format!("spec.{FIELD} is needed for Header and Cookie")),
    }
}

/// A duration that is not zero.
pub(super) fn positive(field: &str, text: &str) -> Result<Duration, String> {
    let duration: resources::gateway::Duration = text
        .parse()
        .map_err(|error| format!("spec.{field} {text:?} is not a duration such as 500ms or 1m30s: {error}"))?;
    if duration.is_zero() {
        return Err(format!("spec.{field} cannot be zero; leave it out to have no such limit"));
    }
    // The format has five digits a part at most, so this never saturates.
    Ok(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}
