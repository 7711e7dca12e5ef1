//! The command line as users type it.

mod delivery;
mod git;
mod objects;
mod seen;
mod start;
mod trust;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub(crate) use delivery::{
    Apply, Build, Config, Drift, Export, History, Import, Lock, LockCommand, Plan, Release, Rollback, Wanted,
};
pub(crate) use git::{BreakGlass, Git, GitCommand, GitHook, GitOptions};
pub(crate) use objects::{Cascade, Delete, Describe, Get, GetOutput, Logs};
pub(crate) use seen::{AccessLogMode, Seen, Status, Top, Trace, Why};
pub(crate) use start::{Down, Mtls, PodNetwork, Serve, Start, Up, UpOutput};
pub(crate) use trust::{BundleForm, EndpointProfile, Trust, TrustAdd, TrustCommand};

const EXAMPLES: &str = "\
Examples:
  coracle up examples/shop                 start everything in that directory and show its logs
  coracle get pods                         what runs
  coracle logs -f orders-6c9d-x2x4         one Pod's log
  export KUBECONFIG=$(coracle kubeconfig)  and then kubectl works
  coracle down                             stop it; --purge also deletes its data

Exit codes: 0 done, 1 failed, 2 wrong input and nothing changed, 3 no running Coracle found.";

/// A whole cloud-native architecture in one binary: a Kubernetes API, controllers, a node and a gateway.
#[derive(Debug, Parser)]
#[command(name = "coracle", version = crate::commands::version::LONG, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// More words on stderr; twice for all of them
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build, start and apply what a directory holds, wait until it is ready, then show its logs until Ctrl-C
    Up(Up),
    /// Stop a running Coracle and everything it started
    Down(Down),
    /// Start Coracle without any manifests
    Serve(Serve),
    /// Show what applying a directory would change, field by field, and change nothing
    Plan(Plan),
    /// Build a kustomization and print its objects
    Build(Build),
    /// Apply a directory as a set, a saved plan, or manifests from files or stdin (-)
    Apply(Apply),
    /// The revisions of a set: what was applied, when, by whom, and how it ended
    History(History),
    /// Put an earlier revision of a set back: workloads, routes and configuration at once
    Rollback(Rollback),
    /// Who is applying which set, and ending that
    Lock(Lock),
    /// What of a set is no longer as it was applied: which field, by whom, when
    Drift(Drift),
    /// Take a live object into a set, and write its manifest
    Import(Import),
    /// Print clean manifests of what lives, ready to be applied elsewhere
    Export(Export),
    /// What a variable is in each environment, since when and by whom; `config check` holds environments against each other, `config
    /// diff` manifests against what lives
    Config(Config),
    /// List objects, or show some
    Get(Get),
    /// Show one object in full, with its events
    Describe(Describe),
    /// Print a container's log
    Logs(Logs),
    /// Delete objects by name, by label or by manifest
    Delete(Delete),
    /// What is running, and what is not yet ready and why
    Status(Status),
    /// The running Coracle as a Git remote
    Git(Git),
    /// Suspend Git syncing, act by hand with every act recorded, hand back
    BreakGlass(BreakGlass),
    /// What git's hooks call
    #[command(hide = true)]
    GitHook(GitHook),
    /// Who calls whom, how often, how well and how fast: a live table
    Top(Top),
    /// The hops of one request as a tree, and which of them was slow; or the last requests
    Trace(Trace),
    /// Whom this instance trusts: its bundle, and those of others
    Trust(Trust),
    /// Which listener, rule, policies and endpoints a request would meet, and what is broken
    Why(Why),
    /// Print the path of the kubeconfig of a running Coracle
    Kubeconfig(Kubeconfig),
    /// Print the version
    Version(Version),
    /// Print a completion script for a shell
    Completion(Completion),
}

/// Where a running Coracle is found.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Data directory of the Coracle to talk to [default: ./.coracle, else the only one running]
    #[arg(long, value_name = "DIR", env = "CORACLE_DATA", global = true)]
    pub(crate) data: Option<PathBuf>,
    /// Kubeconfig of any cluster to talk to instead
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of a kubeconfig [its file: --kubeconfig, else KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// Which namespace is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Scope {
    /// Namespace [default: the kubeconfig context's, else default]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

/// Where a running Coracle is found, and which namespace of it is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// How to answer.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Answer {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Form,
}

/// The form of an answer that people or scripts read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Form {
    /// For people
    #[default]
    Text,
    /// For scripts
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  export KUBECONFIG=$(coracle kubeconfig)
  kubectl get pods")]
pub(crate) struct Kubeconfig {
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  coracle version -o json")]
pub(crate) struct Version {
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle completion bash > ~/.local/share/bash-completion/completions/coracle
  coracle completion zsh > \"${fpath[1]}/_coracle\"")]
pub(crate) struct Completion {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Whoever asks for help finds something to type.
    #[test]
    fn every_command_has_an_example() {
        let silent = |command: &clap::Command| {
            !command.get_after_help().is_some_and(|help| help.to_string().contains("Example"))
        };
        let all = Cli::command();
        let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
        let without: Vec<&str> = shown.filter(|command| silent(command)).map(clap::Command::get_name).collect();
        assert!(without.is_empty(), "no examples in the help of {without:?}");
    }
}
