//! The first step: keeps one program and all its descendants, until none is left.
//!
//! Invariant: this process ends only when it has no descendants any more. The orders it takes only decide how soon.

use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use super::{Order, Report, START, SUBCOMMAND, read_config, reap, say};

/// How often what is still alive is killed again.
const AGAIN: Duration = Duration::from_millis(50);
/// When what can't be killed (another user's) is given up.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Where the program stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Main {
    /// The second step has not turned into it yet.
    Starting,
    Running,
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
    },
}

struct Supervisor {
    socket: UnixStream,
    main: Pid,
    state: Main,
    /// It was said that the program runs.
    announced: bool,
    /// The program was asked to end, so its group may take its time even when its leader is gone.
    asked: bool,
    killing: Option<Instant>,
    failed: Option<String>,
}

pub(super) fn run(socket: UnixStream) -> io::Result<()> {
    // Not found by the name of the main executable, and out of the reach of a terminal's Ctrl-C.
    let _ = prctl::set_name(c"pod-shim");
    let _ = nix::unistd::setsid();
    prctl::set_child_subreaper(true)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut input = BufReader::new(socket.try_clone()?);
    let (_, line) = read_config(&mut input)?;
    let (progress, main) = match spawn(&line) {
        Ok(spawned) => spawned,
        Err(error) => {
            say(&socket, &Report::Failed(format!("can't start the second step of the shim: {error}")));
            return Ok(());
        }
    };
    let supervisor =
        Supervisor { socket, main, state: Main::Starting, announced: false, asked: false, killing: None, failed: None };
    supervisor.keep(input, BufReader::new(progress), &signals)
}

/// Starts the second step; its socket says how far it got, and closes when it turned into the program.
fn spawn(config: &str) -> io::Result<(UnixStream, Pid)> {
    use std::io::Write;
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new("/proc/self/exe")
        .args([SUBCOMMAND, START])
        .env_clear()
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()?;
    (&ours).write_all(config.as_bytes())?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok((ours, Pid::from_raw(pid)))
}

impl Supervisor {
    fn keep(
        mut self,
        mut input: BufReader<UnixStream>,
        progress: BufReader<UnixStream>,
        signals: &SignalFd,
    ) -> io::Result<()> {
        let mut progress = Some(progress);
        let mut connected = true;
        loop {
            if self.over() {
                return self.end();
            }
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if connected {
                fds.push(PollFd::new(input.get_ref().as_fd(), PollFlags::POLLIN));
            }
            if let Some(progress) = &progress {
                fds.push(PollFd::new(progress.get_ref().as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, self.patience()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
            let (orders, news) = (connected && ready(1), progress.is_some() && ready(1 + usize::from(connected)));
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo != Signal::SIGCHLD as u32 {
                    self.kill();
                }
            }
            if news {
                self.hear(&mut progress);
            }
            if orders {
                connected = self.obey(&mut input);
            }
            self.reap();
            // It may have ended between the look at the sockets and now; what it said last comes first.
            while progress.is_some() && matches!(self.state, Main::Ended { .. }) {
                self.hear(&mut progress);
            }
            if self.killing.is_some() {
                self.kill_all();
            }
        }
    }

    /// How long to sleep when nothing happens: for good, unless something must be killed or looked at again.
    fn patience(&self) -> PollTimeout {
        if self.killing.is_some() || matches!(self.state, Main::Ended { .. }) {
            PollTimeout::try_from(AGAIN).unwrap_or(PollTimeout::ZERO)
        } else {
            PollTimeout::NONE
        }
    }

    /// What the second step says. Its silence (a closed socket) means that it has become the program, or is gone.
    fn hear(&mut self, progress: &mut Option<BufReader<UnixStream>>) {
        let Some(input) = progress else { return };
        loop {
            let mut line = String::new();
            match input.read_line(&mut line) {
                Ok(0) | Err(_) => {
                    *progress = None;
                    if self.failed.is_none() && !self.announced {
                        self.announced = true;
                        say(&self.socket, &Report::Started(self.main.as_raw()));
                    }
                    if self.state == Main::Starting {
                        self.state = Main::Running;
                    }
                    return;
                }
                Ok(_) => match serde_json::from_str(&line) {
                    Ok(Report::Failed(why)) => self.failed = Some(why),
                    Ok(report) => say(&self.socket, &report),
                    Err(_) => {}
                },
            }
            if input.buffer().is_empty() {
                return;
            }
        }
    }

    /// One order, or the end of the one who gives them. Returns whether there may be more.
    fn obey(&mut self, input: &mut BufReader<UnixStream>) -> bool {
        loop {
            let mut line = String::new();
            match input.read_line(&mut line) {
                Ok(0) | Err(_) => {
                    self.kill();
                    return false;
                }
                Ok(_) => match serde_json::from_str(&line) {
                    Ok(Order::Terminate) => {
                        self.asked = true;
                        let _ = killpg(self.main, Signal::SIGTERM);
                    }
                    Ok(Order::Kill) | Err(_) => self.kill(),
                },
            }
            if input.buffer().is_empty() {
                return true;
            }
        }
    }

    fn kill(&mut self) {
        self.killing.get_or_insert_with(Instant::now);
    }

    fn reap(&mut self) {
        loop {
            let ended = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                _ => return,
            };
            if ended.0 == self.main {
                self.state = Main::Ended { code: ended.1, signal: ended.2 };
            }
        }
    }

    /// Whether nothing is left. When the program has ended by itself, what it left behind is killed at once; when it was
    /// asked to, its group (a shell's child, say) has until the order to kill.
    fn over(&mut self) -> bool {
        if !matches!(self.state, Main::Ended { .. }) {
            return false;
        }
        if self.asked && self.killing.is_none() && killpg(self.main, None::<Signal>).is_ok() {
            return false;
        }
        self.kill();
        self.kill_all();
        self.reap();
        let alone = matches!(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
        alone || self.killing.is_some_and(|since| since.elapsed() > GIVE_UP)
    }

    fn kill_all(&self) {
        for process in reap::tree(getpid().as_raw()) {
            process.kill();
        }
    }

    fn end(self) -> io::Result<()> {
        let report = match (self.failed, self.state) {
            (Some(why), _) => Report::Failed(why),
            (None, Main::Ended { code, signal }) => Report::Exited { code, signal },
            (None, _) => Report::Exited { code: None, signal: None },
        };
        say(&self.socket, &report);
        Ok(())
    }
}
