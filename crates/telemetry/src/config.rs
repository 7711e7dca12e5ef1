//! What can be set about records: where they go, and how many may wait.

use std::time::Duration;

use crate::access_log::AccessLog;
use crate::error::SettingError;

/// Where records go.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The access log; none is written without it.
    pub access_log: Option<AccessLog>,
    /// The collector of traces; nothing is sent without it.
    pub otlp: Option<Otlp>,
}

/// How many records may wait to be looked at. They are taken in as fast as they can be written as text.
pub(crate) const QUEUE: usize = 8192;
/// How many records are looked at in one go.
pub(crate) const BATCH: usize = 512;
/// How long records wait for others before they are looked at. Until then nobody is woken for them, unless half of the queue is full or
/// somebody asks for records.
pub(crate) const LINGER: Duration = Duration::from_millis(100);
/// How long somebody who asks for records waits for those that were given before.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// How many records are kept in memory: some megabytes.
pub(crate) const RECENT: usize = 10_000;
/// How many spans may wait for the collector, as OpenTelemetry's own exporters have it.
pub(crate) const EXPORT_QUEUE: usize = 2048;
/// How long spans wait for others before they are sent.
pub(crate) const EXPORT_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take to answer.
pub(crate) const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is sent at most, and the pause after the first failure; it doubles each time.
pub(crate) const EXPORT_TRIES: u32 = 5;
pub(crate) const EXPORT_PAUSE: Duration = Duration::from_millis(500);
/// How long what waits may take to be sent when the program ends.
pub(crate) const LAST: Duration = Duration::from_secs(3);

/// A collector that speaks OTLP over HTTP (OTLP 1.x, with JSON).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    pub(crate) url: http::Uri,
    pub(crate) headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

impl Otlp {
    /// Reads a collector's address, to which `/v1/traces` is added, and headers as `name=value,name=value`, both as OpenTelemetry's
    /// variables `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_HEADERS` have them.
    ///
    /// # Errors
    /// See [`SettingError::Endpoint`].
    pub fn parse(endpoint: &str, headers: &str) -> Result<Self, SettingError> {
        let wrong = |reason: String| SettingError::Endpoint { endpoint: endpoint.to_owned(), reason };
        let url: http::Uri = format!("{}/v1/traces", endpoint.trim_end_matches('/'))
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        match (url.scheme_str(), url.host()) {
            (Some("http"), Some(_)) => {}
            (Some("https"), _) => {
                let way_out = "https is not supported yet; run a collector on this machine and let it send on";
                return Err(wrong(way_out.to_owned()));
            }
            _ => return Err(wrong("it names no host".to_owned())),
        }
        let pairs = headers.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
        });
        let headers = pairs.collect::<Option<Vec<_>>>();
        Ok(Self { url, headers: headers.ok_or_else(|| wrong("a header is not NAME=VALUE".to_owned()))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_opentelemetry_writes_them() {
        let read = |endpoint: &str, headers: &str| {
            Otlp::parse(endpoint, headers)
                .map(|otlp| (otlp.url.to_string(), otlp.headers.len()))
                .map_err(|e| e.to_string())
        };
        assert_eq!(read("http://localhost:4318", ""), Ok(("http://localhost:4318/v1/traces".into(), 0)));
        assert_eq!(read("http://c:1/x/", "a=1, api-key=x=y"), Ok(("http://c:1/x/v1/traces".into(), 2)));
        for (endpoint, headers, says) in [
            ("https://c", "", "https is not supported"),
            ("localhost:4318", "", "no address of a collector"),
            ("", "", "no address of a collector"),
            ("http://c", "nothing", "NAME=VALUE"),
        ] {
            assert!(read(endpoint, headers).is_err_and(|error| error.contains(says)), "{endpoint} {headers}");
        }
    }
}
