//! Finds out that the other side of a connection is gone without having said so.
//!
//! Invariants: nobody is asked who was heard of in the last half minute; nothing is done for it while requests pass.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// After what time of silence the other side is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer; whatever it says is an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// The watch over one connection.
pub(crate) struct Pulse {
    pings: Option<PingPong>,
    clock: Pin<Box<Sleep>>,
    /// Whether an answer is waited for.
    asked: bool,
}

/// It has not answered.
#[derive(Debug, thiserror::Error)]
#[error("the other side did not answer to a ping")]
pub(crate) struct Gone;

/// What is done when the time has passed: for how long to wait again, and whether to ask before.
fn next(silent: bool, asked: bool) -> Result<(Duration, bool), Gone> {
    match (silent, asked) {
        (false, _) => Ok((SILENCE, false)),
        (true, false) => Ok((ANSWER, true)),
        (true, true) => Err(Gone),
    }
}

impl Pulse {
    pub(crate) fn new(pings: Option<PingPong>) -> Self {
        Self { pings, clock: Box::pin(sleep(SILENCE)), asked: false }
    }

    /// Looks at the clock. `heard` says whether anything came since the last look, `wanted` whether anybody cares.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut heard: impl FnMut() -> bool,
        wanted: impl Fn() -> bool,
    ) -> Result<(), Gone> {
        while self.clock.as_mut().poll(cx).is_ready() {
            let (wait, ask) = next(!heard() && wanted(), self.asked)?;
            self.asked = ask;
            if ask {
                self.ask();
            }
            self.clock.as_mut().reset(Instant::now() + wait);
        }
        Ok(())
    }

    fn ask(&mut self) {
        let Some(pings) = &mut self.pings else { return };
        // The answer to the one before is still to be taken note of.
        let _: Poll<_> = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
        if let Err(error) = pings.send_ping(Ping::opaque()) {
            tracing::debug!(%error, "a connection cannot be asked whether it is there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_silent_and_was_asked_is_gone() {
        for (silent, asked, expected) in [
            (false, false, Some((SILENCE, false))),
            (false, true, Some((SILENCE, false))),
            (true, false, Some((ANSWER, true))),
            (true, true, None),
        ] {
            assert_eq!(next(silent, asked).ok(), expected, "silent: {silent}, asked: {asked}");
        }
    }
}
