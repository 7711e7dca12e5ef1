//! `coracle completion SHELL`.

use crate::cli::{Cli, Completion};
use clap::CommandFactory;
use std::process::ExitCode;

pub(crate) fn run(arguments: &Completion) -> anyhow::Result<ExitCode> {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "coracle", &mut std::io::stdout().lock());
    Ok(ExitCode::SUCCESS)
}
