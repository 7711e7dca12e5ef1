//! From options of the command line to what is recorded and where it goes.

use crate::cli::{AccessLogMode, Seen};
use crate::exit;
use std::path::Path;
use telemetry::{AccessLog, Destination, Otlp};

/// The access log's file in the data directory.
const FILE: &str = "access.log";

/// Which requests the proxy is to record.
pub(crate) fn recording(options: &Seen) -> anyhow::Result<proxy::Recording> {
    if !(0.0..=1.0).contains(&options.trace_ratio) {
        return Err(exit::bad_input("--trace-ratio is a share between 0 and 1"));
    }
    let all = options.access_log == AccessLogMode::All;
    Ok(proxy::Recording { all, ratio: options.trace_ratio, ..proxy::Recording::default() })
}

/// Where records are to go.
pub(crate) fn telemetry(options: &Seen, data: &Path) -> anyhow::Result<telemetry::Settings> {
    let destination = match &options.access_log_file {
        None => Destination::File(data.join(FILE)),
        Some(path) if path.as_os_str() == "-" => Destination::Stdout,
        Some(path) => Destination::File(path.clone()),
    };
    let access_log = (options.access_log != AccessLogMode::Off).then(|| AccessLog::to(destination));
    let headers = options.otlp_headers.as_deref().unwrap_or_default();
    let endpoint = options.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
    let otlp = endpoint.map(|endpoint| Otlp::parse(endpoint, headers)).transpose();
    Ok(telemetry::Settings { access_log, otlp: otlp.map_err(|error| exit::bad_input(error.to_string()))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Seen {
        Seen {
            access_log: AccessLogMode::Sampled,
            access_log_file: None,
            trace_ratio: 1.0,
            otlp_endpoint: None,
            otlp_headers: None,
        }
    }

    #[test]
    fn records_go_where_they_are_sent() {
        let made =
            |options: Seen| telemetry(&options, Path::new("/data")).map(|made| (made.access_log, made.otlp.is_some()));
        let to = |destination| Some(AccessLog::to(destination));
        assert_eq!(made(options()).unwrap(), (to(Destination::File("/data/access.log".into())), false));
        let stdout = Seen { access_log_file: Some("-".into()), otlp_endpoint: Some(String::new()), ..options() };
        assert_eq!(made(stdout).unwrap(), (to(Destination::Stdout), false));
        let off = Seen { access_log: AccessLogMode::Off, otlp_endpoint: Some("http://c:1".into()), ..options() };
        assert_eq!(made(off).unwrap(), (None, true));
        assert!(made(Seen { otlp_endpoint: Some("https://c".into()), ..options() }).is_err());
    }

    #[test]
    fn a_share_is_a_share() {
        for (ratio, good) in [(0.0, true), (1.0, true), (1.1, false), (f64::NAN, false)] {
            assert_eq!(recording(&Seen { trace_ratio: ratio, ..options() }).is_ok(), good, "{ratio}");
        }
        assert!(recording(&Seen { access_log: AccessLogMode::All, ..options() }).unwrap().all);
    }
}
