//! Ages as kubectl shows them: two units at most, coarser as they grow.

use jiff::Timestamp;
use serde_json::Value;

/// A span of seconds in Kubernetes' short form: `45s`, `5m12s`, `3h20m`, `2d4h`, `1y30d`.
pub fn human_duration(seconds: i64) -> String {
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Whole seconds between two times.
pub(super) fn seconds_between(from: &str, to: Timestamp) -> Option<i64> {
    let from: Timestamp = from.parse().ok()?;
    Some((to.duration_since(from).as_millis() / 1000) as i64)
}

/// How long ago a time was; `<unknown>` when there is none.
pub(super) fn since(at: &Value, now: Timestamp) -> String {
    at.as_str().and_then(|at| seconds_between(at, now)).map_or_else(|| "<unknown>".to_owned(), human_duration)
}
