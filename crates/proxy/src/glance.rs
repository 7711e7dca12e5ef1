//! Looking for an answer a moment longer before the thread sleeps.
//!
//! An endpoint on the same machine often answers within some ten microseconds. A thread that has gone to sleep by then has to be woken,
//! which costs more than that, most of all on a virtual machine, whose idle cores are the hypervisor's. So a thread that waits for
//! one answer and has nothing else to do asks the kernel again and again whether it is there, for a moment, if that has been worth it.
//!
//! Invariants: there is no look but for an answer that is awaited, so that an idle thread sleeps; each is limited; a thread with several
//! requests under way does not look, as others bring it back soon enough; where answers come later than a look lasts, there are
//! none but a few trials.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

thread_local! {
    /// How long a look of this thread lasts at most; zero on threads that do more than to serve connections.
    static LIMIT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// How many answers this thread waits for.
    static AWAITED: Cell<usize> = const { Cell::new(0) };
    static HABIT: Cell<Habit> = const { Cell::new(Habit::new()) };
}

/// Lets this thread look for answers, for so long each time.
pub(crate) fn allow(limit: Duration) {
    LIMIT.set(limit);
}

/// Waits for an answer, at first by looking for it where that is worth it.
pub(crate) async fn glance<F: Future>(answer: F) -> F::Output {
    let limit = LIMIT.get();
    if limit.is_zero() {
        return answer.await;
    }
    let mut answer = pin!(answer);
    let mut wait = Wait { limit, state: State::New };
    std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => {
            wait.over();
            Poll::Ready(answer)
        }
        Poll::Pending => {
            wait.goes_on(cx);
            Poll::Pending
        }
    })
    .await
}

/// What became of waiting for an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    /// During a look.
    Seen,
    /// Not during a look.
    Missed,
    /// After so long, while nobody looked.
    Slept(Duration),
}

/// Whether looking has been worth it on a thread.
#[derive(Clone, Copy, Debug)]
struct Habit {
    credit: i8,
    /// Answers since the last trial.
    since: u8,
}

impl Habit {
    /// A look in vain takes back what so many others have earned.
    const LOSS: i8 = 3;
    /// More than this is neither earned nor lost.
    const MOST: i8 = 9;
    /// Without credit, one answer of so many is looked for all the same where that may be worth it.
    const TRIAL: u8 = 16;

    const fn new() -> Self {
        Self { credit: 0, since: 0 }
    }

    /// Whether the next answer is to be looked for.
    fn wants(&mut self) -> bool {
        if self.credit > 0 {
            return true;
        }
        self.since += 1;
        let trial = self.since >= Self::TRIAL;
        if trial {
            self.since = 0;
        }
        trial
    }

    fn learn(&mut self, came: Came, limit: Duration) {
        let earned = match came {
            Came::Seen => 1,
            Came::Missed => -Self::LOSS,
            Came::Slept(after) if after <= limit => 1,
            // Being woken took a part of it, nobody knows how much.
            Came::Slept(after) if after <= limit * 4 => 0,
            Came::Slept(_) => {
                // No trial would have seen it.
                self.since = 0;
                -Self::LOSS
            }
        };
        self.credit = (self.credit + earned).clamp(-Self::MOST, Self::MOST);
    }
}

enum State {
    New,
    Looking(Instant),
    Sleeping(Instant),
    /// Nothing is to be learned of it.
    Unheeded,
}

/// One answer that is awaited.
struct Wait {
    limit: Duration,
    state: State,
}

impl Wait {
    fn learn(&self, came: Came) {
        let mut habit = HABIT.get();
        habit.learn(came, self.limit);
        HABIT.set(habit);
    }

    fn over(&self) {
        match self.state {
            State::Looking(_) => self.learn(Came::Seen),
            State::Sleeping(since) => self.learn(Came::Slept(since.elapsed())),
            State::New | State::Unheeded => {}
        }
    }

    fn begin(&mut self) {
        let others = AWAITED.get();
        AWAITED.set(others + 1);
        self.state = if others > 0 {
            State::Unheeded
        } else {
            let mut habit = HABIT.get();
            let wants = habit.wants();
            HABIT.set(habit);
            if wants { State::Looking(Instant::now()) } else { State::Sleeping(Instant::now()) }
        };
    }

    /// The answer is not there yet.
    fn goes_on(&mut self, cx: &mut Context<'_>) {
        if matches!(self.state, State::New) {
            self.begin();
        }
        let State::Looking(since) = self.state else { return };
        if AWAITED.get() > 1 {
            // There is more to do than to look.
            self.state = State::Unheeded;
        } else if since.elapsed() > self.limit {
            self.learn(Came::Missed);
            self.state = State::Unheeded;
        } else {
            // The runtime asks the kernel for events, without waiting for any, before it polls a task that has yielded so.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !matches!(self.state, State::New) {
            AWAITED.set(AWAITED.get().saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Builder;
    use tokio::sync::oneshot;

    use super::*;

    const LIMIT_HERE: Duration = Duration::from_micros(50);

    /// How many of a thousand answers are looked for, where they come so. `come` gets whether there is a look.
    fn looks(mut come: impl FnMut(bool) -> Came) -> usize {
        let mut habit = Habit::new();
        let each = |_: &usize| {
            let looks = habit.wants();
            habit.learn(come(looks), LIMIT_HERE);
            looks
        };
        (0..1_000).filter(each).count()
    }

    #[test]
    fn looks_go_on_for_as_long_as_they_are_worth_it() {
        let micros = Duration::from_micros;
        // Early, however that was found out.
        assert_eq!(looks(|looks| if looks { Came::Seen } else { Came::Slept(micros(20)) }), 999);
        // Early, but nobody who sleeps can tell: the first trial does.
        assert_eq!(looks(|looks| if looks { Came::Seen } else { Came::Slept(micros(90)) }), 985);
        // A little late: trials alone.
        assert_eq!(looks(|looks| if looks { Came::Missed } else { Came::Slept(micros(150)) }), 62);
        // Much too late: not even those.
        assert_eq!(looks(|looks| if looks { Came::Missed } else { Came::Slept(micros(900)) }), 0);
        // One in two is not enough.
        let mut number = 0;
        let half = looks(|looks| {
            number += 1;
            match (looks, number % 2 == 0) {
                (true, true) => Came::Seen,
                (true, false) => Came::Missed,
                (false, early) => Came::Slept(micros(if early { 90 } else { 150 })),
            }
        });
        assert!(half < 200, "{half}");
    }

    #[test]
    fn times_that_change_are_followed_soon() {
        let mut habit = Habit::new();
        (0..100).for_each(|_| habit.learn(Came::Seen, LIMIT_HERE));
        let vain = (0..100).filter(|_| {
            let looks = habit.wants();
            habit.learn(if looks { Came::Missed } else { Came::Slept(Duration::from_millis(5)) }, LIMIT_HERE);
            looks
        });
        assert_eq!(vain.count(), 3, "the credit of a good time is small");
        (0..10).for_each(|_| habit.learn(Came::Slept(Duration::from_micros(9)), LIMIT_HERE));
        assert!(habit.wants(), "{habit:?}");
    }

    /// What a thread does until an answer comes from elsewhere.
    #[derive(Debug, PartialEq)]
    enum Does {
        /// It asks again and again.
        Looks,
        Sleeps,
    }

    /// What it does if so many others are awaited and looks last so long. The answer comes once it has been seen.
    fn waits(limit: Duration, others: usize, credit: i8) -> Does {
        let (seen, first) = mpsc::sync_channel(1);
        let sleeps = seen.clone();
        let parked = move || drop(sleeps.try_send(Does::Sleeps));
        let runtime = Builder::new_current_thread().enable_all().on_thread_park(parked).build().expect("a runtime");
        allow(limit);
        AWAITED.set(others);
        HABIT.set(Habit { credit, since: 0 });
        let does = runtime.block_on(async {
            let (tell, told) = oneshot::channel();
            let teller = std::thread::spawn(move || {
                let does = first.recv_timeout(Duration::from_secs(60)).expect("it waits");
                let _ = tell.send(());
                does
            });
            let (mut told, mut polls) = (pin!(told), 0);
            let counted = std::future::poll_fn(|cx| {
                polls += 1;
                if polls == 3 {
                    // Nothing has woken it.
                    drop(seen.try_send(Does::Looks));
                }
                told.as_mut().poll(cx)
            });
            glance(counted).await.expect("told");
            teller.join().expect("it ends")
        });
        assert_eq!(AWAITED.get(), others, "none is left behind");
        allow(Duration::ZERO);
        does
    }

    #[test]
    fn a_thread_looks_only_where_it_may_and_for_a_limited_time() {
        let long = Duration::from_secs(600);
        assert_eq!(waits(long, 0, 1), Does::Looks);
        for (limit, others, credit) in [(Duration::ZERO, 0, 9), (long, 1, 9), (long, 0, 0)] {
            assert_eq!(waits(limit, others, credit), Does::Sleeps, "{limit:?} {others} {credit}");
        }
        waits(Duration::from_nanos(1), 0, 1);
        assert_eq!(HABIT.get().credit, 1 - Habit::LOSS, "a look that was too short is one in vain");
    }

    #[test]
    fn who_no_longer_waits_does_not_count() {
        allow(LIMIT_HERE);
        let mut waiting = Box::pin(glance(std::future::pending::<()>()));
        let mut quiet = Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut quiet).is_pending());
        assert_eq!(AWAITED.get(), 1);
        drop(waiting);
        assert_eq!(AWAITED.get(), 0);
    }
}
