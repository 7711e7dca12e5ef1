//! The command line of the Git sync.

use super::{Answer, Target};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// How repositories are followed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Git")]
pub(crate) struct GitOptions {
    /// Port of the Git remote and of webhooks on loopback; 0 takes any free one [default: 9418, else any free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) git_port: Option<u16>,
    /// How often repositories elsewhere are looked at, in seconds [default: 120 to 180; those here tell of themselves]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..))]
    pub(crate) git_poll: Option<u64>,
    /// API that is told how commits fare, in GitHub's form, such as https://api.github.com
    #[arg(long, value_name = "URL", env = "CORACLE_COMMIT_STATUS_URL")]
    pub(crate) commit_status_url: Option<String>,
    /// Token for that API
    #[arg(long, value_name = "TOKEN", env = "CORACLE_COMMIT_STATUS_TOKEN", hide_env_values = true)]
    pub(crate) commit_status_token: Option<String>,
    /// Repository there [default: as in each repository's URL]
    #[arg(long, value_name = "OWNER/REPO")]
    pub(crate) commit_status_repository: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle git add-remote shop      adds the remote `coracle` to the repository you are in
  git push coracle main            and what is committed is live
  coracle git add-remote shop -o json | jq -r .url")]
pub(crate) struct Git {
    #[command(subcommand)]
    pub(crate) what: GitCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GitCommand {
    /// Add the running Coracle as a remote of the repository here
    AddRemote {
        /// Name of the repository on the other side [default: the directory's name]
        name: Option<String>,
        /// Name of the remote here
        #[arg(long, value_name = "REMOTE", default_value = "coracle")]
        remote: String,
        /// Repository to add it to
        #[arg(long, value_name = "DIR", default_value = ".")]
        repository: PathBuf,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        answer: Answer,
    },
}

/// What git's own hooks of our repositories call.
#[derive(Debug, Args)]
pub(crate) struct GitHook {
    /// The hook: pre-receive
    pub(crate) hook: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle break-glass --reason 'the site is down' --app shop   Git no longer changes shop; act by hand
  coracle break-glass --list                                   who did what
  coracle break-glass --end                                    hand back: Git holds again

While it is open, syncing rests for what it names, and every change of those objects is recorded.")]
pub(crate) struct BreakGlass {
    /// Why; begins a session
    #[arg(long, value_name = "WHY", required_unless_present_any = ["end", "list"])]
    pub(crate) reason: Option<String>,
    /// Application (NAME or NAMESPACE/NAME) that is held [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// Hand back: end every open session (of --app, where given)
    #[arg(long, conflicts_with_all = ["reason", "list"])]
    pub(crate) end: bool,
    /// Show sessions and what was done in them
    #[arg(long, conflicts_with = "reason")]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) answer: Answer,
}
