//! Points at which a debug build ends itself as `kill -9` would, so that tests see what is left behind at every step.
//!
//! `CORACLE_FAULT=STEP` ends the process when it comes to STEP, `STEP:3` when it does for the third time. Release builds know nothing of it.

/// Every step, in the order in which a process comes to it.
pub const STEPS: [&str; 24] = [
    "apply.locked",
    "apply.noted",
    "apply.recorded",
    "apply.object",
    "apply.wave",
    "apply.deleted",
    "apply.forgotten",
    "apply.finished",
    "back.noted",
    "back.applied",
    "back.finished",
    "push.begun",
    "push.stored",
    "push.adopted",
    "push.rendered",
    "push.written",
    "push.made",
    "sync.locked",
    "sync.claimed",
    "sync.object",
    "sync.hook",
    "sync.pruned",
    "sync.done",
    "sync.told",
];

/// Comes to a step.
pub(crate) fn point(step: &'static str) {
    debug_assert!(STEPS.contains(&step), "{step} is not listed");
    #[cfg(debug_assertions)]
    armed::come_to(step);
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::sys::signal::{Signal, raise};

    static WANTED: LazyLock<Option<(String, usize)>> = LazyLock::new(|| {
        let text = std::env::var("CORACLE_FAULT").ok()?;
        let (step, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((step.to_owned(), count.parse().unwrap_or(1)))
    });
    static SEEN: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn come_to(step: &str) {
        let Some((wanted, count)) = &*WANTED else { return };
        if wanted == step && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *count {
            // It does not return.
            let _ = raise(Signal::SIGKILL);
        }
    }
}
