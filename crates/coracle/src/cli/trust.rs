//! The command line of whom an instance trusts.

use super::{Answer, Target};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coracle trust bundle > here.pem                        # what another instance needs to trust this one
  coracle trust add there.pem --trust-domain there.test  # trust another one
  coracle trust add there.json --trust-domain there.test --endpoint https://10.0.0.2:8443/   # and follow it
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
        #[command(flatten)]
        answer: Answer,
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
    /// Where the bundle is served and fetched anew every few minutes: an https URL
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// How that server proves who it is
    #[arg(long, value_enum, value_name = "PROFILE", default_value_t, requires = "endpoint")]
    pub(crate) endpoint_profile: EndpointProfile,
    /// The server's SPIFFE ID, for https_spiffe [default: the proxy's of that trust domain]
    #[arg(long, value_name = "ID", requires = "endpoint")]
    pub(crate) endpoint_spiffe_id: Option<String>,
    /// Let them be of this instance's own trust domain
    #[arg(long)]
    pub(crate) same_domain: bool,
}

/// How the server of a bundle proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum EndpointProfile {
    /// By an SVID
    #[default]
    #[value(name = "https_spiffe")]
    Spiffe,
    /// By a certificate for its host's name that the system's authorities have signed
    #[value(name = "https_web")]
    Web,
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
