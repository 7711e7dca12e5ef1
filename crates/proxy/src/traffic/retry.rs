//! Whether, when and how often a request is sent again.
//!
//! Invariants: nothing is repeated that repeating could change, unless its sender marked it with a key; retries are never
//! more than the budget's share of what callers ask for, whatever fails. Time and chance are arguments.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;

use super::window::Window;
use crate::policy::{self, RetryOn};

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With an answer, and the gRPC status in its head where there is one.
    Answer(StatusCode, Option<u8>),
    /// No connection could be made.
    Unreached,
    /// The connection ended, or what came was no answer.
    Reset,
    /// No answer in time.
    TimedOut,
    /// The client's own part did not come: it says nothing of the backend.
    ByClient,
    /// The backend does not speak what the request needs: it may be well all the same.
    Misunderstood,
}

/// gRPC statuses that tell of a backend that is not well: unknown, deadline exceeded, internal, unavailable, data loss.
const UNWELL: [u8; 5] = [2, 4, 13, 14, 15];

impl Outcome {
    /// Whether it says that the backend is not well.
    pub(crate) fn failed(self) -> bool {
        match self {
            Self::Answer(_, Some(grpc)) if grpc != 0 => UNWELL.contains(&grpc),
            Self::Answer(status, _) => status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED,
            Self::Unreached | Self::Reset | Self::TimedOut => true,
            Self::ByClient | Self::Misunderstood => false,
        }
    }

    /// Whether it is among those after which to try again. What the proxy itself would answer counts as that answer.
    pub(crate) fn is_one_of(self, on: &[RetryOn]) -> bool {
        let status = match self {
            Self::Answer(status, _) => status,
            Self::Unreached | Self::Reset => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::ByClient | Self::Misunderstood => return false,
        };
        on.iter().any(|on| match on {
            RetryOn::ServerError => status.is_server_error(),
            RetryOn::GatewayError => matches!(status.as_u16(), 502..=504),
            RetryOn::ConnectFailure => self == Self::Unreached,
            RetryOn::Reset => self == Self::Reset,
            RetryOn::Timeout => self == Self::TimedOut,
            RetryOn::Status(wanted) => matches!(self, Self::Answer(is, _) if is == *wanted),
            RetryOn::Grpc(wanted) => matches!(self, Self::Answer(_, Some(is)) if is == *wanted),
        })
    }
}

/// Whether a request may be sent again: its method says so, or its sender, by giving it a key.
pub(crate) fn is_safe(method: &Method, headers: &HeaderMap) -> bool {
    const KEY: &str = "idempotency-key";
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
        || headers.get(KEY).is_some_and(|key| !key.is_empty())
}

/// How long to wait before a retry (0 is the first): half of it fixed, the other half as `chance` (0 to 1) has it, so that callers that
/// failed together don't come back together.
pub(crate) fn wait(settings: &policy::Retries, retry: u32, chance: f64) -> Duration {
    let whole = settings.base.saturating_mul(1_u32.checked_shl(retry).unwrap_or(u32::MAX)).min(settings.max);
    whole / 2 + (whole / 2).mul_f64(chance.clamp(0.0, 1.0))
}

/// A budget that many requests share.
pub(crate) struct Budget {
    settings: policy::Budget,
    spent: Mutex<Window>,
}

const REQUESTS: usize = 0;
const RETRIES: usize = 1;

impl Budget {
    pub(crate) fn new(settings: policy::Budget) -> Self {
        Self { settings, spent: Mutex::new(Window::new(settings.interval, Instant::now())) }
    }

    pub(crate) fn settings(&self) -> &policy::Budget {
        &self.settings
    }

    /// Takes note of a caller's request.
    pub(crate) fn request(&self, now: Instant) {
        self.spent.lock().add(REQUESTS, now);
    }

    /// Takes a retry out of the budget, if one is left.
    pub(crate) fn spend(&self, now: Instant) -> bool {
        let mut spent = self.spent.lock();
        let may = within(&self.settings, spent.sums(now));
        if may {
            spent.add(RETRIES, now);
        }
        may
    }
}

fn within(settings: &policy::Budget, [requests, retries]: [u64; 2]) -> bool {
    let always = (settings.interval.as_millis() * u128::from(settings.min_per_second) / 1_000).max(1);
    let always = if settings.min_per_second == 0 { 0 } else { always };
    let share = u128::from(requests) * u128::from(settings.percent) / 100;
    u128::from(retries) < share.max(always)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_what_is_safe_is_repeated() {
        let key = |value: &'static str| {
            HeaderMap::from_iter([("idempotency-key".parse().expect("a name"), HeaderValue::from_static(value))])
        };
        for (method, headers, safe) in [
            (Method::GET, HeaderMap::new(), true),
            (Method::PUT, HeaderMap::new(), true),
            (Method::DELETE, HeaderMap::new(), true),
            (Method::POST, HeaderMap::new(), false),
            (Method::PATCH, HeaderMap::new(), false),
            (Method::POST, key("7f3"), true),
            (Method::PATCH, key("7f3"), true),
            (Method::POST, key(""), false),
        ] {
            assert_eq!(is_safe(&method, &headers), safe, "{method} {headers:?}");
        }
    }

    #[test]
    fn conditions() {
        use RetryOn::{ConnectFailure, GatewayError, Grpc, Reset, ServerError, Status, Timeout};
        let answer = |status: u16| Outcome::Answer(StatusCode::from_u16(status).expect("a status"), None);
        let grpc = |code| Outcome::Answer(StatusCode::OK, Some(code));
        let all = [
            answer(200),
            answer(429),
            answer(500),
            answer(503),
            Outcome::Unreached,
            Outcome::Reset,
            Outcome::TimedOut,
            grpc(14),
        ];
        for (on, expected) in [
            (ServerError, [false, false, true, true, true, true, true, false]),
            (GatewayError, [false, false, false, true, true, true, true, false]),
            (ConnectFailure, [false, false, false, false, true, false, false, false]),
            (Reset, [false, false, false, false, false, true, false, false]),
            (Timeout, [false, false, false, false, false, false, true, false]),
            (Status(StatusCode::TOO_MANY_REQUESTS), [false, true, false, false, false, false, false, false]),
            (Grpc(14), [false, false, false, false, false, false, false, true]),
            (Grpc(8), [false; 8]),
        ] {
            assert_eq!(all.map(|outcome| outcome.is_one_of(&[on])), expected, "{on:?}");
        }
        assert_eq!(all.map(Outcome::failed), [false, false, true, true, true, true, true, true]);
        assert!(!grpc(5).failed() && !grpc(0).failed() && !answer(501).failed());
    }

    fn settings() -> policy::Retries {
        policy::Retries {
            attempts: 3,
            on: Vec::new(),
            base: Duration::from_millis(20),
            max: Duration::from_millis(100),
            budget: policy::Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 0 },
            max_body: 0,
        }
    }

    #[test]
    fn waits_double_and_are_spread() {
        for (retry, least, most) in [(0, 10, 20), (1, 20, 40), (2, 40, 80), (3, 50, 100), (40, 50, 100)] {
            assert_eq!(wait(&settings(), retry, 0.0), Duration::from_millis(least), "{retry}");
            assert_eq!(wait(&settings(), retry, 1.0), Duration::from_millis(most), "{retry}");
        }
    }

    #[test]
    fn a_budget_bounds_what_is_sent_when_all_fails() {
        let start = Instant::now();
        for (percent, min_per_second, requests, most) in
            [(20, 0, 1_000, 200), (20, 10, 100, 100), (20, 10, 10_000, 2_000), (0, 1, 1_000, 10), (100, 0, 50, 50)]
        {
            let budget = Budget::new(policy::Budget { percent, min_per_second, interval: Duration::from_secs(10) });
            // All within one window; each request fails and would be repeated three times.
            let mut spent = 0;
            for n in 0..requests {
                let now = start + Duration::from_secs(9) * n / requests;
                budget.request(now);
                spent += (0..3).filter(|_| budget.spend(now)).count();
            }
            assert_eq!(spent, most, "{percent} % and {min_per_second} a second of {requests}");
        }
    }

    #[test]
    fn a_budget_comes_back() {
        let start = Instant::now();
        let budget = Budget::new(policy::Budget { percent: 0, min_per_second: 1, interval: Duration::from_secs(10) });
        assert_eq!((0..20).filter(|_| budget.spend(start)).count(), 10);
        assert!(!budget.spend(start + Duration::from_secs(9)));
        assert!(budget.spend(start + Duration::from_secs(11)));
    }
}
