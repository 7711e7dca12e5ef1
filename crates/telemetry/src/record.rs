//! One request and what became of it, as it is written to the access log and shown in a trace.
//!
//! Invariant: the JSON of a record is read back as the same record.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// One request at one hop. Field names are those of the access log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When its head had been read.
    #[serde(with = "instant")]
    pub time: SystemTime,
    /// The request's id, which every hop has.
    pub request_id: String,
    /// The trace, as 32 hexadecimal digits.
    pub trace_id: String,
    /// This hop's span, as 16 hexadecimal digits.
    pub span_id: String,
    /// The caller's span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// Whether the trace is sampled; a request that failed is recorded all the same.
    pub sampled: bool,
    /// The workload that called.
    pub source: String,
    /// Its identity, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// The address that called.
    pub client: String,
    /// The Service that was meant.
    pub destination: String,
    /// `http` or `https`.
    pub scheme: String,
    /// `1.1` or `2`, as the client spoke.
    pub protocol: String,
    /// The method.
    pub method: String,
    /// The host that was asked for.
    pub host: String,
    /// The path, without the query, which may hold secrets.
    pub path: String,
    /// The status that the client got.
    pub status: u16,
    /// The status within gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Why the proxy answered by itself, or why the answer broke off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The listener that it came in by.
    pub listener: String,
    /// The rule.
    pub route: String,
    /// The Service port that it went to.
    pub backend: String,
    /// The endpoint that answered or was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// How many endpoints it was sent to.
    pub attempts: u32,
    /// The attempts that brought no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<Missed>,
    /// Milliseconds until the answer had ended.
    #[serde(rename = "durationMs", with = "milliseconds")]
    pub duration: Duration,
    /// Milliseconds until there was the head of an answer.
    #[serde(rename = "headMs", with = "milliseconds")]
    pub head: Duration,
    /// Milliseconds of that which were spent waiting for endpoints.
    #[serde(rename = "upstreamMs", default, skip_serializing_if = "Option::is_none", with = "maybe_milliseconds")]
    pub upstream_time: Option<Duration>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
}

/// An attempt that brought no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missed {
    /// Where it was sent to.
    pub upstream: String,
    /// Milliseconds after the request's beginning.
    #[serde(rename = "afterMs", with = "milliseconds")]
    pub after: Duration,
    /// Why.
    pub reason: String,
}

impl Record {
    /// Whether it ended otherwise than it should.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status >= 500 || self.reason.is_some()
    }

    /// When it ended.
    #[must_use]
    pub fn end(&self) -> SystemTime {
        self.time + self.duration
    }
}

/// Something that becomes a record, away from where it happened.
pub trait ToRecord: Send + 'static {
    /// Makes the record.
    fn to_record(self) -> Record;
}

impl ToRecord for Record {
    fn to_record(self) -> Record {
        self
    }
}

/// RFC 3339 with microseconds.
mod instant {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let timestamp = jiff::Timestamp::try_from(*time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        serializer.collect_str(&format_args!("{timestamp:.6}"))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = std::borrow::Cow::<'d, str>::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>().map(SystemTime::from).map_err(de::Error::custom)
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_micros() as f64 / 1_000.0)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(milliseconds / 1_000.0)
            .map(|time| Duration::from_micros((time.as_nanos() as f64 / 1_000.0).round() as u64))
            .map_err(de::Error::custom)
    }
}

mod maybe_milliseconds {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::milliseconds::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::milliseconds::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record of a hop that began and ended so many milliseconds after some time.
    pub(crate) fn hop(span: u64, parent: Option<u64>, ends: [&str; 2], milliseconds: [u64; 2]) -> Record {
        let [began, ended] = milliseconds.map(Duration::from_millis);
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + began,
            request_id: "r-1".into(),
            trace_id: format!("{:032x}", 7),
            span_id: format!("{span:016x}"),
            parent_span_id: parent.map(|parent| format!("{parent:016x}")),
            sampled: true,
            source: ends[0].into(),
            source_id: None,
            client: "127.0.0.1".into(),
            destination: ends[1].into(),
            scheme: "http".into(),
            protocol: "1.1".into(),
            method: "GET".into(),
            host: "orders:8080".into(),
            path: "/x".into(),
            status: 200,
            grpc_status: None,
            reason: None,
            listener: "l".into(),
            route: "r".into(),
            backend: "b".into(),
            upstream: Some("127.0.0.1:9".into()),
            attempts: 1,
            missed: Vec::new(),
            duration: ended - began,
            head: ended - began,
            upstream_time: Some(ended - began),
            request_bytes: 0,
            response_bytes: 5,
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was() {
        let mut record = hop(1, Some(2), ["gateway", "shop/orders"], [3, 1_234]);
        record.missed = vec![Missed {
            upstream: "127.0.0.1:1".into(),
            after: Duration::from_micros(1_234),
            reason: "refused".into(),
        }];
        record.reason = Some("timeout".into());
        let text = serde_json::to_string(&record).expect("JSON");
        assert!(
            text.contains(r#""time":"2023-11-14T22:13:20.003000Z""#) && text.contains(r#""durationMs":1231.0"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Record>(&text).expect("a record"), record);
        record.upstream_time = None;
        let text = serde_json::to_string(&record).expect("JSON");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("a record"), record);
    }
}
