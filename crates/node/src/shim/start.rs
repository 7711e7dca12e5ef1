//! The second step: becomes the program.
//!
//! What fails before that is said on the control socket, which closes by itself when the program takes over (it is not
//! inherited), so that silence means success.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;
use signal_hook::consts::FORBIDDEN;

use super::{Config, Network, Report, Stdin, mounts, read_config, say, user};

pub(super) fn run(socket: UnixStream) -> io::Result<()> {
    let parent = getppid();
    heed()?;
    let mut input = BufReader::new(socket.try_clone()?);
    let (config, _) = read_config(&mut input)?;
    drop(input);
    let why = match prepare(&config, &socket) {
        Ok(()) => {
            // After everything that changes credentials, which would take it back; and a parent that died before is noticed.
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Ok(());
            }
            execute(&config)
        }
        Err(why) => why,
    };
    say(&socket, &Report::Failed(why));
    Ok(())
}

/// Makes that the program ignores no signal to begin with. What is ignored stays so when a program takes over (execve(2)), and
/// shells have what they start in the background ignore some; one that has a handler falls back to its default.
fn heed() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let heard = Arc::new(AtomicBool::new(false));
    for signal in ignored(&status).filter(|signal| !FORBIDDEN.contains(signal)) {
        signal_hook::flag::register(signal, Arc::clone(&heard))
            .map_err(|e| io::Error::other(format!("can't end that signal {signal} is ignored: {e}")))?;
    }
    Ok(())
}

/// The signals of old that a process ignores (`SigIgn` of proc_pid_status(5)). Of those above nobody is told anything by default.
fn ignored(status: &str) -> impl Iterator<Item = i32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    (1..=31).filter(move |signal| mask >> (signal - 1) & 1 == 1)
}

fn prepare(config: &Config, socket: &UnixStream) -> Result<(), String> {
    nix::unistd::setsid().map_err(|e| format!("can't become a session leader: {e}"))?;
    // Paths are the machine's: they mean nothing, or something else, where the program will be.
    let stdin = stdin(&config.stdin)?;
    if let Some(pid) = config.join {
        join(pid, config.network.as_ref())
            .map_err(|e| format!("can't see the file system as process {pid} does: {e}"))?;
    } else if let Some(network) = &config.network {
        enter(network).map_err(|e| format!("can't enter the Pod's network: {e}"))?;
        // Whoever were root in the network's own user namespace could change the network.
        user::enter_new(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
            .map_err(|e| format!("no user namespace is to be had for the container: {e}"))?;
        say_view(socket);
        if let Some(hostname) = &config.hostname {
            nix::unistd::sethostname(hostname).map_err(|e| format!("can't be called {hostname}: {e}"))?;
        }
        if let Err(why) = mounts::apply(&config.mounts, &config.staging) {
            say(socket, &Report::Plain(why));
        }
    } else if !config.mounts.is_empty()
        && let Err(why) = view(config, socket)
    {
        say(socket, &Report::Plain(why));
    }
    nix::unistd::dup2_stdin(&stdin).map_err(|e| format!("can't set standard input: {e}"))?;
    if matches!(config.stdin, Stdin::Terminal(_)) {
        let outputs = nix::unistd::dup2_stdout(&stdin).and_then(|()| nix::unistd::dup2_stderr(&stdin));
        outputs.map_err(|e| format!("can't set standard output: {e}"))?;
    }
    if let Some(soft) = config.open_files {
        let limit = getrlimit(Resource::RLIMIT_NOFILE);
        limit
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard))
            .map_err(|e| format!("can't set the limit of open files: {e}"))?;
    }
    SigSet::empty().thread_set_mask().map_err(|e| format!("can't unblock signals: {e}"))?;
    std::env::set_current_dir(&config.working_dir)
        .map_err(|e| format!("can't enter the working directory {}: {e}", config.working_dir.display()))
}

/// Opens what the program is to read. A terminal becomes that of its session, of which this process is the leader by now.
fn stdin(wanted: &Stdin) -> Result<File, String> {
    let (path, writes) = match wanted {
        Stdin::Nothing => (Path::new("/dev/null"), false),
        Stdin::Pipe(path) => (path.as_path(), false),
        Stdin::Terminal(path) => (path.as_path(), true),
    };
    let opened = File::options().read(true).write(writes).open(path);
    opened.map_err(|e| format!("can't open {} as standard input: {e}", path.display()))
}

/// Makes a private view of the file system, in a user namespace where that is what it takes.
fn view(config: &Config, socket: &UnixStream) -> Result<(), String> {
    let none = |e: &dyn std::fmt::Display| format!("no mount namespace is to be had here ({e})");
    match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => {}
        Err(Errno::EPERM) => user::enter_new(CloneFlags::CLONE_NEWNS).map_err(|e| none(&e))?,
        Err(error) => return Err(none(&error)),
    }
    say_view(socket);
    mounts::apply(&config.mounts, &config.staging)
}

/// Says which view is the program's own, before the program can take another and before anything is mounted over `/proc`.
fn say_view(socket: &UnixStream) {
    if let Ok(view) = std::fs::metadata("/proc/self/ns/mnt") {
        say(socket, &Report::View(view.ino()));
    }
}

/// Enters a Pod's network, by way of the user namespace that it belongs to.
fn enter(network: &Network) -> io::Result<()> {
    let (user, net) = (File::open(&network.user)?, File::open(&network.net)?);
    setns(user, CloneFlags::CLONE_NEWUSER)?;
    setns(net, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// Enters the namespaces of a process that was started by [`view`], or in a Pod's network.
fn join(pid: i32, network: Option<&Network>) -> io::Result<()> {
    let differs = |kind: &str| -> io::Result<Option<File>> {
        let theirs = format!("/proc/{pid}/ns/{kind}");
        let same = std::fs::read_link(&theirs)? == std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        if same { Ok(None) } else { File::open(theirs).map(Some) }
    };
    // All are opened before any is entered: the path may not be there afterwards.
    let (user, mount, name) = (differs("user")?, differs("mnt")?, differs("uts")?);
    if let Some(network) = network {
        enter(network)?;
    }
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER)?;
    }
    if let Some(name) = name {
        setns(name, CloneFlags::CLONE_NEWUTS)?;
    }
    if let Some(mount) = mount {
        setns(mount, CloneFlags::CLONE_NEWNS)?;
    }
    Ok(())
}

/// Only returns when it failed, with why.
fn execute(config: &Config) -> String {
    let Some((program, args)) = config.command.split_first() else {
        return "there is no command".to_owned();
    };
    let error = Command::new(program).args(args).env_clear().envs(config.env.iter().map(|(k, v)| (k, v))).exec();
    let why = match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') && Path::new(program).exists() => {
            "its interpreter is not there".to_owned()
        }
        io::ErrorKind::NotFound if program.contains('/') => "no such file or directory".to_owned(),
        io::ErrorKind::NotFound => "executable file not found in $PATH".to_owned(),
        _ => error.to_string(),
    };
    format!("exec: \"{program}\": {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_told_from_the_mask() {
        for (status, expected) in [
            ("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001006\n", &[2, 3, 13][..]),
            ("SigIgn:\t8000000040000001\n", &[1, 31]),
            ("SigIgn:\t0000000000000000\n", &[]),
            ("Name:\tx\n", &[]),
        ] {
            assert_eq!(ignored(status).collect::<Vec<_>>(), expected, "{status:?}");
        }
    }
}
