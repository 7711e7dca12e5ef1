//! The command line as users type it.

mod delivery;
mod git;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub(crate) use delivery::{
    Apply, Build, Config, Drift, Export, History, Import, Lock, LockCommand, Plan, Release, Rollback, Wanted,
};
pub(crate) use git::{BreakGlass, Git, GitCommand, GitHook, GitOptions};

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
    /// What a variable is in each environment, since when and by whom; `config check` holds environments against each other
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
    /// Namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

/// How the platform is started.
#[derive(Debug, Clone, Args)]
pub(crate) struct Start {
    /// Data directory; made where needed [default: .coracle beside the manifests]
    #[arg(long, value_name = "DIR", env = "CORACLE_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Port of the API on loopback; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) api_port: u16,
    /// Port of the first HTTP listener of a Gateway, instead of what its manifest says; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub(crate) gateway_port: Option<u16>,
    /// Address on which other instances' proxies are listened for, by mutual TLS; none where this is not given
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) mesh_listen: Option<std::net::SocketAddr>,
    /// Name of the trust domain that workloads' identities are of
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(crate) trust_domain: String,
    /// How long certificates that have expired are used and believed where no newer ones can be had, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 48, value_parser = clap::value_parser!(u16).range(0..=720))]
    pub(crate) identity_grace: u16,
    #[command(flatten)]
    pub(crate) seen: Seen,
    #[command(flatten)]
    pub(crate) git: GitOptions,
}

/// What is recorded about requests.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access log and traces")]
pub(crate) struct Seen {
    /// Which requests get a line in the access log
    #[arg(long, value_enum, value_name = "WHICH", default_value_t, env = "CORACLE_ACCESS_LOG")]
    pub(crate) access_log: AccessLogMode,
    /// File of the access log, or - for stdout [default: access.log in the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log_file: Option<PathBuf>,
    /// Share of new traces that is sampled, 0 to 1, and at most 100 a second
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, env = "OTEL_TRACES_SAMPLER_ARG")]
    pub(crate) trace_ratio: f64,
    /// Collector that gets traces by OTLP over HTTP, such as http://localhost:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Headers for the collector, NAME=VALUE,NAME=VALUE
    #[arg(long, value_name = "HEADERS", env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true)]
    pub(crate) otlp_headers: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum AccessLogMode {
    /// None
    Off,
    /// Those whose trace is sampled, and all that fail
    #[default]
    Sampled,
    /// Every one
    All,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle up examples/shop
  coracle up deploy --gateway-port 0 -o json   # for scripts: one line of JSON on stdout once all is ready

The directory's *.yaml, *.yml and *.json files are applied. A coracle.yaml beside them (or in a directory above) says
how images run on this machine:
  images:
    shop/orders:
      build: cargo build --release
      command: [target/release/orders]")]
pub(crate) struct Up {
    /// Directory with Kubernetes manifests
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) start: Start,
    /// How to say that all is ready
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: UpOutput,
    /// How long to wait until all is ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Stay up although something fails to start
    #[arg(long)]
    pub(crate) keep_going: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum UpOutput {
    /// Text on stderr, logs on stdout
    #[default]
    Text,
    /// One line of JSON on stdout once ready, all else on stderr
    Json,
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
  coracle serve --recipes coracle.yaml   # then: kubectl apply -f …")]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) start: Start,
    /// Recipes for images [default: coracle.yaml in the current directory, if there]
    #[arg(long, value_name = "FILE")]
    pub(crate) recipes: Option<PathBuf>,
    /// How to say that the API is ready
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: UpOutput,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle down            stop; the data stays for the next `coracle up`
  coracle down --purge    stop, and delete every object, volume and log")]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Also delete the data directory: every object, volume and log
    #[arg(long)]
    pub(crate) purge: bool,
    /// How long to wait for the end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetOutput {
    /// JSON as the API has it
    Json,
    /// The same as YAML
    Yaml,
    /// KIND/NAME, one a line
    Name,
    /// A table with more columns
    Wide,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle get pods -o wide
  coracle get deployments,services -n shop
  coracle get deploy/orders -o yaml
  coracle get pods -l app=orders -w
  coracle get --raw /metrics")]
pub(crate) struct Get {
    /// KIND, KIND,KIND, KIND/NAME, or KIND and NAMEs
    #[arg(required_unless_present = "raw", value_name = "KIND|KIND/NAME")]
    pub(crate) what: Vec<String>,
    /// Print what the API answers to a GET of this path, as it is
    #[arg(long, value_name = "PATH", conflicts_with = "what")]
    pub(crate) raw: Option<String>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Label selector
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Form of the answer [default: a table]
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<GetOutput>,
    /// Go on with every change until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  coracle describe deploy/orders -n shop")]
pub(crate) struct Describe {
    /// KIND/NAME, or KIND and NAMEs
    #[arg(required = true, value_name = "KIND/NAME")]
    pub(crate) what: Vec<String>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle logs orders-6c9d-x2x4 --tail 20
  coracle logs deploy/orders -f
  coracle logs orders-6c9d-x2x4 --previous")]
pub(crate) struct Logs {
    /// Pod, or deployment/NAME, replicaset/NAME, job/NAME for one of its Pods
    pub(crate) pod: String,
    /// Container [default: the first]
    #[arg(short, long)]
    pub(crate) container: Option<String>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The log of the container before its last restart
    #[arg(short, long)]
    pub(crate) previous: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) tail: Option<i64>,
    /// Only what is newer than this: seconds, or 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) since: Option<i64>,
    /// With the time of each line
    #[arg(long)]
    pub(crate) timestamps: bool,
}

/// Seconds, from a number with or without a unit.
fn seconds(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write seconds, or a number with s, m or h".to_owned()),
    };
    let number: i64 = digits.parse().map_err(|_| "write seconds, or a number with s, m or h".to_owned())?;
    if number < 0 { Err("a time in the past is a positive number".to_owned()) } else { Ok(number.saturating_mul(unit)) }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle delete pod/orders-6c9d-x2x4
  coracle delete -f deploy/
  coracle delete pods -l app=orders")]
pub(crate) struct Delete {
    /// KIND/NAME, or KIND and NAMEs, or KIND with -l
    #[arg(value_name = "KIND/NAME", required_unless_present = "files")]
    pub(crate) what: Vec<String>,
    /// What a manifest names; may be repeated
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "what")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Label selector
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Seconds that a Pod has for its end; 0 ends it at once
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace_period: Option<u32>,
    /// What happens to the objects that these own
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cascade: Cascade,
    /// Don't wait until the objects are gone
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Name of a protected object that is to be deleted nevertheless; may be repeated
    #[arg(long, value_name = "NAME", requires = "reason")]
    pub(crate) confirm_delete: Vec<String>,
    /// Why a protected object is to be deleted
    #[arg(long, value_name = "WHY")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Cascade {
    /// They are deleted soon after
    #[default]
    Background,
    /// They are deleted first
    Foreground,
    /// They stay
    Orphan,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  coracle status -o json   # exit code 0 when all is ready, else 1")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Form,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle top                     until Ctrl-C
  coracle top --once -o json      one look of a second, for scripts
  coracle top --total --by-route  all since Coracle started

Times are those to the head of an answer. ERRORS are answers of 5xx.")]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Form of the answer; json is one line a look
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Form,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) interval: f64,
    /// One look, then end
    #[arg(long)]
    pub(crate) once: bool,
    /// All since Coracle started, then end
    #[arg(long)]
    pub(crate) total: bool,
    /// A row for each route
    #[arg(long)]
    pub(crate) by_route: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle trace                                     the last requests, with their ids
  coracle trace 4bf92f3577b34da6a3ce929d0e0e4736    one, by the id of the request or of the trace

The id of a request is in its header x-request-id, and in the proxy's own answers.")]
pub(crate) struct Trace {
    /// Id of a request or of a trace
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Form,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle why orders                                  a Service, by its first port
  coracle why orders:http --from web -X POST          as the workload web calls it
  coracle why http://localhost:8080/api/orders        a URL, by a Gateway

Nothing is sent. Exit codes: 0 nothing is broken, 2 something is (or the input is wrong), 1 it could not be told.")]
pub(crate) struct Why {
    /// Service (NAME, NAME:PORT, NAMESPACE/NAME) or URL
    #[arg(value_name = "SERVICE|URL")]
    pub(crate) what: String,
    /// Workload or Pod that calls, NAME or NAMESPACE/NAME [default: nobody that is known]
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) from: Option<String>,
    /// Method of the request
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// Path of the request, where the URL has none
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    pub(crate) headers: Vec<String>,
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Form,
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
Examples:
  coracle trust bundle > here.pem                        # what another instance needs to trust this one
  coracle trust add there.pem --trust-domain there.test  # trust another one
  coracle trust status")]
pub(crate) struct Trust {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: TrustCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Print the roots of this instance's trust domain
    Bundle {
        /// Form of the bundle
        #[arg(short, long, value_enum, default_value_t)]
        output: BundleForm,
    },
    /// Trust another trust domain, or replace its roots
    Add(TrustAdd),
    /// Trust another trust domain no longer; connections that are open stay until they end
    Remove {
        /// The trust domain
        trust_domain: String,
    },
    /// The trust domain, who else is trusted, and whether certificates can be had
    Status {
        /// Form of the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TrustAdd {
    /// File with the roots, as PEM or as SPIFFE's JWK Set; - is stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Whose roots they are
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: String,
    /// Let them be of this instance's own trust domain
    #[arg(long)]
    pub(crate) same_domain: bool,
}

/// The form of a trust bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum BundleForm {
    /// Certificates, one after the other
    #[default]
    Pem,
    /// SPIFFE's JWK Set
    Spiffe,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Form,
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
    fn times_are_read_with_and_without_a_unit() {
        for (text, wanted) in [("90", Some(90)), ("30s", Some(30)), ("5m", Some(300)), ("2h", Some(7200))] {
            assert_eq!(seconds(text).ok(), wanted, "{text}");
        }
        for text in ["", "m", "5d", "-1", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
