//! Ctrl-C and SIGTERM: the first asks for the ordered end, the second ends at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask Coracle to end.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Listens for the signal that ends the process at once, until dropped.
pub(crate) struct Impatience(tokio::task::JoinHandle<()>);

impl Drop for Impatience {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Signals {
    /// From now on the signals are ours.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The next one ends the process at once; what it started ends with it, because each shim sees it go.
    /// As long as the answer is held.
    pub(crate) fn kill_on_the_next(mut self) -> Impatience {
        Impatience(tokio::spawn(async move {
            self.next().await;
            eprintln!("ending at once");
            std::process::exit(130);
        }))
    }
}
