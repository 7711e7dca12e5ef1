//! The command line of commands about objects, as kubectl has them.

use super::{Answer, Place};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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
    pub(crate) at: Place,
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
    pub(crate) at: Place,
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
    pub(crate) at: Place,
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
  coracle delete pods -l app=orders
  coracle delete -f deploy/ -o json | jq '.objects[].result'   deleted or missing")]
pub(crate) struct Delete {
    /// KIND/NAME, or KIND and NAMEs, or KIND with -l
    #[arg(value_name = "KIND/NAME", required_unless_present = "files")]
    pub(crate) what: Vec<String>,
    /// What a manifest names; may be repeated
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "what")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) at: Place,
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
    #[command(flatten)]
    pub(crate) answer: Answer,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        for (text, wanted) in [("90", Some(90)), ("30s", Some(30)), ("5m", Some(300)), ("2h", Some(7200))] {
            assert_eq!(seconds(text).ok(), wanted, "{text}");
        }
        for text in ["", "m", "5d", "-1", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
