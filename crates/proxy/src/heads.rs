//! How long a client may take for the head of a request that hyper reads: from its first byte on, and as long until that comes. And until when it may take the
//! answer of a call that has a deadline (`taken.rs`).
//!
//! hyper asks for a timer where it begins to wait for a head, and drops it where the head is there. The bytes that come meanwhile are seen on
//! their way to it. Nobody is woken for it: the connection is polled every so often, and when [`Term::due`] says so.
//!
//! Invariants: no request is known here, and nothing of what the bytes are; a wait without a head ends as one with half of it does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;

/// The time of the head that is awaited.
pub(crate) struct Term {
    limit: Duration,
    began: Instant,
    /// Since when it is awaited, or comes, in microseconds since it began.
    since: AtomicU64,
    /// Whether one is awaited, and whether nothing of it has come.
    awaited: AtomicBool,
    unheard: AtomicBool,
    /// When the answer under way must have been taken, in microseconds since it began; zero where it has no deadline.
    answer: AtomicU64,
}

impl Term {
    /// One of a connection of which the first bytes came at `began`.
    pub(crate) fn new(limit: Duration, began: Instant) -> Self {
        Self {
            limit,
            began,
            since: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            unheard: AtomicBool::new(false),
            answer: AtomicU64::new(0),
        }
    }

    /// When the head that is awaited must be there, if one is.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.awaited.load(Ordering::Relaxed).then(|| self.end())
    }

    fn end(&self) -> Instant {
        self.began + Duration::from_micros(self.since.load(Ordering::Relaxed)) + self.limit
    }

    fn begins(&self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX / 2);
        self.since.store(micros, Ordering::Relaxed);
    }

    /// An answer begins, with the deadline of its call.
    pub(crate) fn answers_by(&self, until: Option<Instant>) {
        let micros = |until: Instant| until.saturating_duration_since(self.began).as_micros().max(1);
        let until = until.map_or(0, |until| u64::try_from(micros(until)).unwrap_or(u64::MAX / 2));
        self.answer.store(until, Ordering::Relaxed);
    }

    /// When the answer under way must have been taken, if ever.
    pub(crate) fn answer_due(&self) -> Option<Instant> {
        let micros = self.answer.load(Ordering::Relaxed);
        (micros > 0).then(|| self.began.checked_add(Duration::from_micros(micros))).flatten()
    }

    fn awaits(&self) {
        self.begins();
        // All of the answer before is on its way.
        self.answers_by(None);
        self.awaited.store(true, Ordering::Relaxed);
        self.unheard.store(true, Ordering::Relaxed);
    }

    fn heard(&self) {
        if self.unheard.load(Ordering::Relaxed) {
            self.unheard.store(false, Ordering::Relaxed);
            self.begins();
        }
    }

    fn ends(&self) {
        self.awaited.store(false, Ordering::Relaxed);
        self.unheard.store(false, Ordering::Relaxed);
    }
}

/// Gives hyper the time for heads.
pub(crate) struct HeadTimer {
    term: Arc<Term>,
    /// Whether the head is the first, of which something was there before hyper was.
    first: AtomicBool,
}

impl HeadTimer {
    /// One for a connection of which hyper reads all, also the first byte.
    pub(crate) fn from_the_start(term: &Arc<Term>) -> Self {
        Self { term: Arc::clone(term), first: AtomicBool::new(false) }
    }

    pub(crate) fn new(term: &Arc<Term>) -> Self {
        Self { term: Arc::clone(term), first: AtomicBool::new(true) }
    }
}

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        if self.first.swap(false, Ordering::Relaxed) {
            self.term.awaited.store(true, Ordering::Relaxed);
        } else {
            self.term.awaits();
        }
        Box::pin(Until(Arc::clone(&self.term)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

/// The wait for one head.
struct Until(Arc<Term>);

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.0.end() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        self.0.ends();
    }
}

impl hyper::rt::Sleep for Until {}

/// A client's connection, of which is noted when a head begins to come.
pub(crate) fn hears<S: AsyncRead>(stream: S, term: &Arc<Term>) -> InspectReader<S, impl FnMut(&[u8]) + use<S>> {
    let term = Arc::clone(term);
    InspectReader::new(stream, move |bytes: &[u8]| {
        if !bytes.is_empty() {
            term.heard();
        }
    })
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;

    use super::*;

    /// Until the clock says something else.
    fn tick(term: &Term) {
        let before = term.began.elapsed().as_micros();
        while term.began.elapsed().as_micros() == before {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte() {
        let limit = Duration::from_secs(60);
        let began = Instant::now().checked_sub(Duration::from_secs(20)).expect("the machine is up for longer");
        let term = Arc::new(Term::new(limit, began));
        let timer = HeadTimer::new(&term);
        assert_eq!(term.due(), None);
        let first = timer.sleep(limit);
        term.heard();
        assert_eq!(term.due(), Some(began + limit), "what had come of the first one was heard before");
        drop(first);
        assert_eq!(term.due(), None);
        // The body of the first, say.
        term.heard();
        assert_eq!(term.due(), None);
        let before = Instant::now() - Duration::from_micros(1);
        let second = timer.sleep_until(Instant::now() + limit);
        let idle = term.due().expect("one is awaited");
        assert!(idle >= before + limit);
        tick(&term);
        term.heard();
        let coming = term.due().expect("one is awaited");
        assert!(coming > idle, "it has its own time");
        tick(&term);
        term.heard();
        assert_eq!(term.due(), Some(coming), "which is for all of it");
        drop(second);
        // Where nothing was heard before, the first has its own time as well.
        let _first = HeadTimer::from_the_start(&term).sleep(limit);
        let idle = term.due().expect("one is awaited");
        tick(&term);
        term.heard();
        assert!(term.due() > Some(idle));
    }
}
