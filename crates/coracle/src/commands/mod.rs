//! One file a command. A command parses nothing and prints what it found; its decisions are in pure modules.

mod apply;
mod break_glass;
mod build;
mod completion;
mod config;
mod delete;
mod describe;
mod down;
mod drift;
mod export;
mod get;
mod git;
mod git_hook;
mod history;
mod import;
mod kubeconfig;
mod lock;
mod logs;
mod plan;
mod release;
mod results;
mod rollback;
mod serve;
mod status;
mod synced;
mod top;
mod trace;
mod trust;
mod up;
pub(crate) mod version;
mod why;

use crate::cli::{Cli, Command};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the command to its end.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    log_to_stderr(cli.verbose);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads(&cli.command)).enable_all().build()?;
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up(arguments) => up::run(arguments).await,
            Command::Down(arguments) => down::run(arguments).await,
            Command::Serve(arguments) => serve::run(arguments).await,
            Command::Plan(arguments) => plan::run(arguments).await,
            Command::Build(arguments) => build::run(&arguments),
            Command::Apply(arguments) => Box::pin(apply::run(arguments)).await,
            Command::History(arguments) => history::run(arguments).await,
            Command::Rollback(arguments) => Box::pin(rollback::run(arguments)).await,
            Command::Lock(arguments) => lock::run(arguments).await,
            Command::Drift(arguments) => drift::run(arguments).await,
            Command::Import(arguments) => import::run(arguments).await,
            Command::Export(arguments) => export::run(arguments).await,
            Command::Config(arguments) => config::run(arguments).await,
            Command::Get(arguments) => get::run(arguments).await,
            Command::Describe(arguments) => describe::run(arguments).await,
            Command::Logs(arguments) => logs::run(arguments).await,
            Command::Delete(arguments) => delete::run(arguments).await,
            Command::Status(arguments) => status::run(arguments).await,
            Command::Git(arguments) => git::run(&arguments),
            Command::BreakGlass(arguments) => break_glass::run(arguments).await,
            Command::GitHook(arguments) => git_hook::run(&arguments),
            Command::Top(arguments) => top::run(arguments).await,
            Command::Trace(arguments) => trace::run(arguments).await,
            Command::Trust(arguments) => trust::run(arguments).await,
            Command::Why(arguments) => why::run(arguments).await,
            Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
            Command::Version(arguments) => version::run(&arguments),
            Command::Completion(arguments) => completion::run(&arguments),
        }
    });
    // A read of a terminal's stdin cannot be taken back; it must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

/// A client command needs no pool of threads; the platform gets one a core.
fn threads(command: &Command) -> usize {
    match command {
        Command::Up(_) | Command::Serve(_) => std::thread::available_parallelism().map_or(2, usize::from).max(2),
        _ => 1,
    }
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        // Failed requests reach the person as errors, once. Who was refused, and by which policy, is always written down.
        0 => "warn,kube_client=off,proxy::access=info",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // Only the first subscriber of a process counts, and this is it.
    let _ = subscriber.try_init();
}

/// `KIND/NAME …`, `KIND NAME…`, `KIND[,KIND]`: each kind that is meant, with a name where one is given.
pub(crate) fn references(words: &[String]) -> anyhow::Result<Vec<(String, Option<String>)>> {
    if words.iter().any(|word| word.contains('/')) {
        let split = |word: &String| match word.split_once('/') {
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok((kind.to_owned(), Some(name.to_owned()))),
            _ => Err(crate::exit::bad_input(format!("{word:?} is not KIND/NAME, and the others are; write all alike"))),
        };
        return words.iter().map(split).collect();
    }
    let Some((kinds, names)) = words.split_first() else {
        return Err(crate::exit::bad_input("say what is meant: KIND, or KIND/NAME"));
    };
    let kinds = kinds.split(',').filter(|kind| !kind.is_empty());
    Ok(if names.is_empty() {
        kinds.map(|kind| (kind.to_owned(), None)).collect()
    } else {
        kinds.flat_map(|kind| names.iter().map(move |name| (kind.to_owned(), Some(name.clone())))).collect()
    })
}

/// Prints a line on stdout; a reader that went away ends the program quietly, as a pipe's writer should. Only for commands that do nothing
/// but tell, and for last words: others go on to their end ([`tell`]).
pub(crate) fn say(line: &str) {
    match print(line) {
        Ok(true) => {}
        Ok(false) => std::process::exit(0),
        Err(error) => {
            crate::exit::report(&error);
            std::process::exit(1);
        }
    }
}

/// Prints a line on stdout. A reader that went away is no error: what is done is done all the same, and ends as it ends.
pub(crate) fn tell(line: &str) -> anyhow::Result<()> {
    print(line).map(drop)
}

/// Whether somebody reads on.
fn print(line: &str) -> anyhow::Result<bool> {
    use anyhow::Context;
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to stdout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_in_each_form() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let read = |text: &str| {
            references(&words(text)).map(|found| {
                let show = |(kind, name): (String, Option<String>)| format!("{kind}:{}", name.unwrap_or_default());
                found.into_iter().map(show).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(read("pods").unwrap(), "pods:");
        assert_eq!(read("pods,svc").unwrap(), "pods: svc:");
        assert_eq!(read("pod a b").unwrap(), "pod:a pod:b");
        assert_eq!(read("pod/a svc/b").unwrap(), "pod:a svc:b");
        assert!(read("pod/a b").is_err());
    }
}
