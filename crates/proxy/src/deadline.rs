//! How long a caller of gRPC waits: the header `grpc-timeout`.
//!
//! Invariants: what is no such time is none, as the next hop judges it again; a request without the header costs one look at its
//! headers at most.

use std::pin::Pin;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::answer::Fault;

pub(crate) const REASON: &str = "deadline";

const HEADER: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long a call may take, where its caller says so: up to eight digits and a unit.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// What is said when it has passed. The caller has most likely left by then; it is for the records.
pub(crate) fn passed() -> Fault {
    Fault::new(StatusCode::GATEWAY_TIMEOUT, REASON, "The call was not answered in the time that its caller gave it.")
}

/// The same of an answer that had begun by then: what its call ends with.
pub(crate) fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static("4"));
    let message = "The answer was not whole in the time that the caller gave the call.";
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}

/// It has passed in the midst of an answer that cannot say so.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not whole in the time that the caller gave the call")]
pub(crate) struct Passed;

/// What comes of work that is given up at its caller's deadline.
pub(crate) async fn before<T>(
    until: Option<Instant>,
    work: Pin<&mut impl Future<Output = Result<T, Fault>>>,
) -> Result<T, Fault> {
    match until {
        None => work.await,
        Some(until) => tokio::time::timeout_at(until.into(), work).await.unwrap_or_else(|_| Err(passed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_all_else_is_none() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("00000250m", Some(Duration::from_millis(250))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("123456789S", None),
            ("1 S", None),
        ] {
            let headers = HeaderMap::from_iter([(HEADER, text.parse().expect("a value"))]);
            assert_eq!(of(&headers), expected, "{text:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }
}
