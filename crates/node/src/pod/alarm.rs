//! Waiting for a moment that the plan named.

use std::time::Duration;

use jiff::Timestamp;

/// Resolves at that time, or never.
pub(super) async fn sleep_until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let wait = at.duration_since(Timestamp::now());
            // A little later than told, so that the clock has passed it for sure.
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}
