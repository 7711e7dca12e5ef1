//! `coracle down`: ends a running Coracle in order, and with `--purge` deletes its data.

use crate::cli::Down;
use crate::{colour, connect, data_dir, exit};
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) async fn run(arguments: Down) -> anyhow::Result<ExitCode> {
    let data = connect::data_of(&arguments.target)?;
    match data_dir::running(&data) {
        Some(holder) => stop(&data, holder.pid, Duration::from_secs(arguments.timeout)).await?,
        None if arguments.purge && data.is_dir() => {}
        None => {
            return Err(exit::not_running(format!("no Coracle is running with the data directory {}", data.display())));
        }
    }
    if arguments.purge {
        purge(&data)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn stop(data: &Path, pid: u32, limit: Duration) -> anyhow::Result<()> {
    eprintln!("stopping Coracle (process {pid}) and what it started…");
    let pid = i32::try_from(pid).context("the lock file names an impossible process id")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot signal process {pid}"))?;
    let waited = data.to_owned();
    let free = tokio::task::spawn_blocking(move || data_dir::wait_until_free(&waited));
    match tokio::time::timeout(limit, free).await {
        Ok(done) => done.context("waiting for the end")??,
        Err(_) => anyhow::bail!(
            "process {pid} has not ended after {} s; wait on with --timeout, or end it with `kill -9 {pid}` (its children end with it)",
            limit.as_secs()
        ),
    }
    eprintln!("{}", colour::good("stopped"));
    Ok(())
}

/// Deletes the directory, if it is one that Coracle made.
fn purge(data: &Path) -> anyhow::Result<()> {
    if !data.join("lock").is_file() {
        return Err(exit::bad_input(format!(
            "{} is not a data directory of Coracle; nothing was deleted",
            data.display()
        )));
    }
    std::fs::remove_dir_all(data).with_context(|| format!("cannot delete {}", data.display()))?;
    eprintln!("deleted {}", data.display());
    Ok(())
}
