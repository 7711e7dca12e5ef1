//! The command line of plan, apply and what stands around them.

use super::{Answer, Place, Target};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Which set is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetName {
    /// Name of the set of objects that belong together [default: the directory's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) set: Option<String>,
}

/// What is wanted, and how it is compared with what is there.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wanted {
    #[command(flatten)]
    pub(crate) set: SetName,
    #[command(flatten)]
    pub(crate) at: Place,
    /// Let the manifests be none, and so delete every object of the set
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Take over objects of another set, or a set of another directory
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Leave objects alone whose manifests are gone
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// A protected object that is to be deleted; may be repeated
    #[arg(long, value_name = "KIND/NAME", requires = "reason")]
    pub(crate) confirm_delete: Vec<String>,
    /// Why: for a confirmed deletion, and for others who wait
    #[arg(long, value_name = "WHY")]
    pub(crate) reason: Option<String>,
    /// Ask the API about every object, also about those that are certainly as their manifests say
    #[arg(long)]
    pub(crate) ask_all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle plan deploy/                 what would change, field by field
  coracle plan deploy/ --out plan.json   and keep it, for `coracle apply --plan plan.json`
  coracle plan overlays/prod -o json | jq .summary
  coracle plan deploy/ --context staging   on the cluster of that kubeconfig context

Exit codes: 0 nothing to do, 2 changes, 1 an error or an object that would be refused.")]
pub(crate) struct Plan {
    /// Directory with manifests or a kustomization
    #[arg(value_name = "DIR", conflicts_with = "files", required_unless_present = "files")]
    pub(crate) directory: Option<PathBuf>,
    /// File, directory, or - for stdin; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    /// Keep the plan in a file (mode 0600: it holds what the manifests hold, Secrets too)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle build overlays/prod                    the objects as YAML, as `kubectl kustomize` prints them
  coracle build overlays/prod -o prod.yaml       into a file
  coracle build overlays/prod -o out/            into a directory, a file for each object
  coracle build overlays/prod | kubectl apply -f -

A directory without a kustomization is not built. Nothing is asked of an API.")]
pub(crate) struct Build {
    /// Directory with a kustomization.yaml
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// Where to write: a file, or a directory that is there or whose name ends in / [default: stdout]
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Refuse bases and files on the network
    #[arg(long)]
    pub(crate) offline: bool,
}

/// How a plan is applied.
#[derive(Debug, Clone, Args)]
pub(crate) struct Release {
    /// Apply without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Put the last healthy revision back when this one fails
    #[arg(long)]
    pub(crate) rollback: bool,
    /// Don't wait until the objects are healthy
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long each wave may take to become healthy, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Wait this long for another who is applying the set, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) lock_wait: Option<u64>,
    /// How many revisions are kept
    #[arg(long, value_name = "N", default_value_t = delivery::history::KEPT)]
    pub(crate) keep: usize,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle apply deploy/                 show what would change, ask, apply, wait until healthy; delete what is gone
  coracle apply --plan plan.json        exactly a saved plan; refused when anything has moved since
  coracle apply deploy/ --yes --rollback   for scripts: back to the last healthy revision on failure
  coracle apply deploy/ --yes -o json | jq .state   applied, unchanged, refused or failed
  coracle apply -f deploy/              only these manifests, as kubectl does: no set, nothing is deleted
  coracle apply -k overlays/dev         the same for what a kustomization builds
  cat pod.yaml | coracle apply -f -     from stdin")]
pub(crate) struct Apply {
    /// Directory with manifests or a kustomization: plan and apply it as a set
    #[arg(value_name = "DIR", conflicts_with_all = ["files", "plan"], required_unless_present_any = ["files", "plan", "kustomize"])]
    pub(crate) directory: Option<PathBuf>,
    /// A plan kept with `coracle plan --out`
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub(crate) plan: Option<PathBuf>,
    /// File, directory, or - for stdin; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Directory with a kustomization whose objects are applied as with -f
    #[arg(short, long, value_name = "DIR", conflicts_with_all = ["directory", "files", "plan"])]
    pub(crate) kustomize: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    #[command(flatten)]
    pub(crate) release: Release,
    /// Take over fields that others own
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Ask the API what would happen, and change nothing (with -f or -k; see also `coracle plan`)
    #[arg(long, conflicts_with_all = ["directory", "plan"])]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle history shop -n default        a set, the newest revision first
  coracle history application/shop       what was synced from Git
  coracle history shop -o json | jq '.[0].cause'")]
pub(crate) struct History {
    /// The set, or an application of the Git sync (application/NAME, kustomization/NAME)
    #[arg(value_name = "SET")]
    pub(crate) set: String,
    #[command(flatten)]
    pub(crate) at: Place,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle rollback shop        to the last healthy revision that differs from the present one
  coracle rollback shop 7      to revision 7
  coracle rollback shop --yes -o json | jq .state
  coracle rollback application/shop    an application that is synced only when asked")]
pub(crate) struct Rollback {
    /// The set, or an application of the Git sync (application/NAME)
    #[arg(value_name = "SET")]
    pub(crate) set: String,
    /// The revision [default: the last healthy one before the present]
    #[arg(value_name = "REVISION")]
    pub(crate) revision: Option<u64>,
    #[command(flatten)]
    pub(crate) at: Place,
    #[command(flatten)]
    pub(crate) release: Release,
    /// Take over fields that others own
    #[arg(long)]
    pub(crate) force_conflicts: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle lock list                        who applies what now, syncs from Git included
  coracle lock release shop                end it; its holder stops at its next step
  coracle lock release application/shop -o json | jq .holder   who had it")]
pub(crate) struct Lock {
    #[command(subcommand)]
    pub(crate) what: LockCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Who is applying which set, syncs from Git included
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        answer: Answer,
    },
    /// End a lock, whoever holds it; its holder stops at its next step
    Release {
        /// The set, or application/NAME or kustomization/NAME for a sync
        #[arg(value_name = "SET")]
        set: String,
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        answer: Answer,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle drift shop               which field, by which manager, when
  coracle drift application/shop   what the sync from Git says
  coracle drift shop -o json       for scripts: condition, objects (how many), drift, pods

Exit codes: 0 as applied, 2 drifted (or not what the repository says), 1 an error, or it cannot be told.")]
pub(crate) struct Drift {
    /// The set, or an application of the Git sync (application/NAME, kustomization/NAME)
    #[arg(value_name = "SET")]
    pub(crate) set: String,
    #[command(flatten)]
    pub(crate) at: Place,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle import deployment/web --to deploy/   then `coracle plan deploy/` is empty
  coracle import service/web --to deploy/ -o json | jq -r .manifest   where it was written")]
pub(crate) struct Import {
    /// KIND/NAME of a live object
    #[arg(value_name = "KIND/NAME")]
    pub(crate) what: String,
    /// The directory of the set, where the manifest is written
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) set: SetName,
    #[command(flatten)]
    pub(crate) at: Place,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle export deployment/web service/web    some objects
  coracle export -n shop --without-secrets     everything that somebody wrote in a namespace")]
pub(crate) struct Export {
    /// KIND/NAME [default: everything in the namespace]
    #[arg(value_name = "KIND/NAME")]
    pub(crate) what: Vec<String>,
    #[command(flatten)]
    pub(crate) at: Place,
    /// Leave Secrets out; they are written in clear otherwise
    #[arg(long)]
    pub(crate) without_secrets: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle config REDIS_URL                       what it is in each namespace, since when, set by whom
  coracle config REDIS_URL overlays/dev overlays/prod   what it will be
  coracle config check                           namespaces held against each other
  coracle config check overlays/dev overlays/prod   before anything is applied
  coracle config check overlays/prod -n prod     manifests held against what lives
  coracle config diff overlays/prod -n prod      which variables would change, since when they are so, and what looks wrong

Exit codes of check and diff: 0 nothing found, 2 findings, 1 an error.")]
pub(crate) struct Config {
    /// The variable, `check` or `diff`
    #[arg(value_name = "KEY|check|diff")]
    pub(crate) key: String,
    /// Directories as environments [default: the cluster's namespaces]; for diff one, held against the namespace that it says
    #[arg(value_name = "DIR")]
    pub(crate) directories: Vec<PathBuf>,
    /// A namespace as environment, beside directories too; may be repeated [default: all that have workloads; for diff the one that the manifests say, else the context's]
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    pub(crate) namespaces: Vec<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) answer: Answer,
}
