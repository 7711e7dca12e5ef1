//! `coracle kubeconfig`: where kubectl finds the running Coracle.

use crate::cli::Kubeconfig;
use crate::commands::say;
use crate::connect;
use std::process::ExitCode;

pub(crate) fn run(arguments: &Kubeconfig) -> anyhow::Result<ExitCode> {
    say(&connect::kubeconfig_of(&arguments.target)?.display().to_string());
    Ok(ExitCode::SUCCESS)
}
