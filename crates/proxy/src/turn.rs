//! Whose time it is that a try takes: the backend's, or that of a client whose body is still to come.
//!
//! Invariants: the backend has the whole limit from when it last took something of the request; a client that sends nothing is not waited
//! for longer than it may be silent, and as a probe no longer than the limit. Time is an argument of what decides.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::incoming::Watch;

/// The times of one try.
pub(crate) struct Turn {
    pub(crate) began: Instant,
    /// How long the backend may take.
    pub(crate) limit: Duration,
    /// How long the client may send nothing while it is waited for.
    pub(crate) silence: Duration,
    /// When it ends, whoever is waited for.
    pub(crate) last: Option<Instant>,
    /// Whether others wait for how it ends.
    pub(crate) probe: bool,
    /// Whether either side may wait for the other, so that nobody can tell whose time it is.
    pub(crate) blind: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// To look again by then.
    Look(Instant),
    /// Nothing: the time is over.
    Late,
    /// Nothing: the client has not sent in time.
    Silent,
}

/// Whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Late,
    /// The client's, who has not sent.
    Silent,
}

impl Turn {
    /// One that begins now, and has the limit that is usual where nobody set one: what goes on has no end.
    pub(crate) fn usual(limit: Duration, blind: bool) -> Self {
        Self { began: Instant::now(), limit, silence: limit, last: None, probe: false, blind }
    }

    /// Waits for the answer to a request whose body is watched.
    pub(crate) async fn wait<T>(&self, watch: &Watch, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Over> {
        let mut until = self.first();
        loop {
            if let Ok(done) = tokio::time::timeout_at(until.into(), work.as_mut()).await {
                return Ok(done);
            }
            until = match self.next(watch.state(), Instant::now()) {
                Next::Look(until) => until,
                Next::Late => return Err(Over::Late),
                Next::Silent => return Err(Over::Silent),
            };
        }
    }

    /// When to look for the first time.
    fn first(&self) -> Instant {
        self.by(self.began + self.step())
    }

    /// What comes next, where the client has been waited for since then, or has last sent something then.
    fn next(&self, (waits, since): (bool, Instant), now: Instant) -> Next {
        if self.last.is_some_and(|last| last <= now) {
            return Next::Late;
        }
        let since = since.max(self.began);
        let (end, word) = match waits && !self.blind {
            true if self.probe => (self.began + self.limit.min(self.silence), Next::Silent),
            true => (since + self.silence, Next::Silent),
            false => (since + self.limit, Next::Late),
        };
        if end <= now { word } else { Next::Look(self.by(end.min(now + self.step()))) }
    }

    /// It may change meanwhile who is waited for.
    fn step(&self) -> Duration {
        self.limit.min(self.silence)
    }

    fn by(&self, time: Instant) -> Instant {
        self.last.map_or(time, |last| last.min(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_time() {
        let began = Instant::now() + Duration::from_secs(10);
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let before = began - Duration::from_secs(5);
        let seconds = Duration::from_secs;
        let turn = |limit, probe| Turn {
            began,
            limit: seconds(limit),
            silence: seconds(60),
            last: Some(at(300)),
            probe,
            blind: false,
        };
        let (plain, probe, long) = (turn(3, false), turn(3, true), turn(200, false));
        let blind = Turn { blind: true, ..turn(100, false) };
        for (of, waits, since, now, expected) in [
            // The backend's time is over when the limit is, from the client's last part on.
            (&plain, false, before, at(3), Next::Late),
            (&plain, false, at(2), at(3), Next::Look(at(5))),
            (&plain, false, at(40), at(43), Next::Late),
            // The client's is as long as it may be silent.
            (&plain, true, at(1), at(3), Next::Look(at(6))),
            (&plain, true, at(1), at(60), Next::Look(at(61))),
            (&plain, true, at(1), at(61), Next::Silent),
            (&plain, true, at(50), at(61), Next::Look(at(64))),
            // However long the backend's is.
            (&long, true, at(0), at(60), Next::Silent),
            (&long, false, at(0), at(60), Next::Look(at(120))),
            (&long, false, at(0), at(180), Next::Look(at(200))),
            // Others wait for a probe.
            (&probe, true, at(2), at(3), Next::Silent),
            (&probe, true, at(2), at(4), Next::Silent),
            (&probe, false, at(2), at(3), Next::Look(at(5))),
            // Where nobody can tell, there is one limit, from what was sent last.
            (&blind, true, at(0), at(60), Next::Look(at(100))),
            (&blind, true, at(50), at(100), Next::Look(at(150))),
            (&blind, false, at(50), at(150), Next::Late),
            (&blind, true, at(50), at(150), Next::Late),
            // All of it has an end.
            (&plain, true, at(299), at(300), Next::Late),
            (&plain, true, at(298), at(299), Next::Look(at(300))),
        ] {
            assert_eq!(of.next((waits, since), now), expected, "{waits} {:?} {:?}", since - before, now - before);
        }
        assert_eq!([plain.first(), long.first()], [at(3), at(60)]);
        assert_eq!(Turn { last: Some(at(1)), ..turn(3, false) }.first(), at(1));
    }
}
