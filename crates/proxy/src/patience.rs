//! A limit of time for one wait after the other, as requests over a connection are. A timer that is made anew for each has to be entered and
//! taken out again; this one is entered once, and moved.
//!
//! Invariant: it ends a wait at its own time, not at that of one before.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long one who waits goes on doing so.
#[derive(Default)]
pub(crate) struct Patience {
    /// None until somebody has waited.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Waits for work that began at `from`, no longer than `limit` from then on. None where that was too short.
    pub(crate) async fn with<T>(
        &mut self,
        limit: Option<Duration>,
        from: std::time::Instant,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let Some(limit) = limit else { return Some(work.await) };
        // What is too far off to be told is never.
        let Some(due) = from.checked_add(limit).map(Instant::from_std) else { return Some(work.await) };
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

/// When to look again, where one looks every so often and something is due at a time of its own.
pub(crate) fn next_look(tick: Duration, due: Option<Instant>) -> Instant {
    let now = Instant::now();
    let next = now + tick;
    due.filter(|due| *due > now).map_or(next, |due| due.min(next))
}

/// When to look for the first time, where what is due may be so already.
pub(crate) fn first_look(tick: Duration, due: Option<Instant>) -> Instant {
    let now = Instant::now();
    due.map_or(now + tick, |due| due.clamp(now, now + tick))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// Waits for what comes after a while of its own, or never.
    async fn waited(patience: &mut Patience, limit: Duration, comes: bool) -> Option<u8> {
        let work = pin!(async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            if comes { 7 } else { std::future::pending().await }
        });
        let waited = pin!(patience.with(Some(limit), std::time::Instant::now(), work));
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("an end")
    }

    #[test]
    fn what_is_due_is_looked_at_then_and_what_has_passed_at_once_and_once() {
        let (tick, now) = (Duration::from_secs(1000), Instant::now());
        // How long after it was asked for, whenever that was, a look is due.
        let after = |look: fn(Duration, Option<Instant>) -> Instant, due, wait| {
            let asked = Instant::now();
            let look = look(tick, due);
            (asked + wait..=Instant::now() + wait).contains(&look)
        };
        for due in [None, Some(now + tick * 10)] {
            assert!(after(first_look, due, tick) && after(next_look, due, tick), "{due:?}");
        }
        let soon = Some(now + tick / 2);
        assert_eq!([first_look(tick, soon), next_look(tick, soon)].map(Some), [soon; 2]);
        let past = Some(now);
        assert!(after(first_look, past, Duration::ZERO) && after(next_look, past, tick));
    }

    #[tokio::test]
    async fn each_wait_ends_at_its_own_time() {
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(3600));
        let mut patience = Patience::default();
        // Neither is a short one held to the long one before it, nor a long one to the short.
        for (limit, comes) in [(long, true), (short, false), (long, true), (long, true), (short, false), (short, false)]
        {
            assert_eq!(waited(&mut patience, limit, comes).await.is_some(), comes);
        }
        let begun = std::time::Instant::now();
        assert_eq!(patience.with(None, begun, pin!(std::future::ready(7))).await, Some(7));
        // What came is taken, however late.
        assert_eq!(patience.with(Some(Duration::ZERO), begun, pin!(std::future::ready(7))).await, Some(7));
    }
}
