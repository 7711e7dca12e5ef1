//! The command line of starting and stopping the platform.

use super::{GitOptions, Seen, Target};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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
    /// Address on which this instance's trust bundle is served to other trust domains, over https with its own SVID
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) bundle_listen: Option<std::net::SocketAddr>,
    /// Which callers of Services must show a certificate on this machine too
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) mtls: Mtls,
    /// Name of the trust domain that workloads' identities are of
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(crate) trust_domain: String,
    /// How long certificates that have expired are used and believed where no newer ones can be had, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 48, value_parser = clap::value_parser!(u16).range(0..=720))]
    pub(crate) identity_grace: u16,
    /// The network of Pods whose runtimeClassName does not say it
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    pub(crate) pod_network: PodNetwork,
    /// Addresses of Pods with networks of their own; 16 to 28 bits of prefix [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR", value_parser = node::Block::of_pods)]
    pub(crate) pod_cidr: Option<node::Block>,
    /// How long the proxy looks for a backend's answer before its thread sleeps, where answers mostly come that soon, in microseconds;
    /// 0 to sleep at once
    #[arg(long, value_name = "US", default_value_t = 50, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub(crate) proxy_glance: u16,
    #[command(flatten)]
    pub(crate) seen: Seen,
    #[command(flatten)]
    pub(crate) git: GitOptions,
}

/// On which network Pods are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum PodNetwork {
    /// The machine's own: plain processes, each containerPort on a free port of the machine
    #[default]
    Plain,
    /// A network namespace for each Pod, with the proxy as its only door
    Isolated,
}

/// Which callers of Services must show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Mtls {
    /// Those of Services and Namespaces with the annotation mesh.coracle.dev/mtls: always
    #[default]
    Auto,
    /// Those of every Service that is not annotated with mesh.coracle.dev/mtls: auto
    Always,
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
