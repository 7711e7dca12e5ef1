//! The command line of what is recorded about requests, and of the commands that show what goes on.

use super::{Answer, Form, Place, Target};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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
Example:
  coracle status -o json   # exit code 0 when all is ready, else 1")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) answer: Answer,
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

The id of a request is in its header x-request-id, and in that of what a Gateway answered.")]
pub(crate) struct Trace {
    /// Id of a request or of a trace
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) answer: Answer,
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
    pub(crate) at: Place,
    #[command(flatten)]
    pub(crate) answer: Answer,
}
