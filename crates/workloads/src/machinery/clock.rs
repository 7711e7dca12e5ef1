//! The time as API objects carry it: whole seconds.
//!
//! Invariants: a time written to the API reads back equal, so that comparing two statuses is comparing what they say.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The time now.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A time as an API object holds it.
pub(crate) fn stamp(at: Timestamp) -> Time {
    // A second that came out of a timestamp is always within a timestamp's range.
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// How long until `at`, nothing when it has passed.
pub(crate) fn until(at: Timestamp, now: Timestamp) -> std::time::Duration {
    let left = at.as_millisecond().saturating_sub(now.as_millisecond());
    std::time::Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

/// `at` plus some seconds; the far end of time when that can't be said.
pub(crate) fn plus(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
