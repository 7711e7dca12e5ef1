//! Tells a task which of its parts has something to do.
//!
//! A connection and its requests are parts of one task. Were they polled with the task's own waker, every wake-up would mean
//! to look at all of them, and a part that wakes another while the task runs would have it run once more for nothing.
//!
//! Invariant: a ring is never lost: whoever rings while nobody is at the desk wakes the task, and who leaves the desk looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;

/// Where the task is that looks after the bells.
pub(crate) struct Desk {
    task: Mutex<Waker>,
    /// Whether it runs, and will look at the bells by itself.
    attended: AtomicBool,
}

/// The bell of one part.
pub(crate) struct Bell {
    desk: Arc<Desk>,
    rung: AtomicBool,
}

impl Desk {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { task: Mutex::new(Waker::noop().clone()), attended: AtomicBool::new(false) })
    }

    /// A bell that has been rung already, so that its part is looked at first of all.
    pub(crate) fn bell(self: &Arc<Self>) -> Arc<Bell> {
        Arc::new(Bell { desk: Arc::clone(self), rung: AtomicBool::new(true) })
    }

    /// The task runs.
    pub(crate) fn attend(&self, cx: &Context<'_>) {
        let mut task = self.task.lock();
        if !task.will_wake(cx.waker()) {
            task.clone_from(cx.waker());
        }
        drop(task);
        self.attended.store(true, Ordering::SeqCst);
    }

    /// The task is about to wait. What rang meanwhile wakes it again.
    pub(crate) fn leave(&self, bells: &[&Bell], cx: &Context<'_>) {
        self.attended.store(false, Ordering::SeqCst);
        if bells.iter().any(|bell| bell.rung.load(Ordering::SeqCst)) {
            cx.waker().wake_by_ref();
        }
    }
}

impl Bell {
    /// Whether it has been rung since it was asked last.
    pub(crate) fn take(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) && !self.desk.attended.load(Ordering::SeqCst) {
            self.desk.task.lock().wake_by_ref();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_rings_wakes_the_task_only_while_it_waits() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let count = || woken.0.load(Ordering::SeqCst);
        let desk = Desk::new();
        let (one, other) = (desk.bell(), desk.bell());
        assert!(one.take() && other.take(), "both are looked at first of all");
        desk.attend(&cx);
        one.ring();
        assert_eq!(count(), 0, "the task runs");
        assert!(one.take() && !one.take() && !other.take());
        other.ring();
        desk.leave(&[&one, &other], &cx);
        assert_eq!(count(), 1, "what rang too late to be looked at");
        assert!(other.take());
        one.ring();
        one.ring();
        assert_eq!(count(), 2, "once is enough");
        assert!(one.take());
        one.ring();
        assert_eq!(count(), 3);
    }
}
