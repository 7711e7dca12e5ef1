//! `TrafficPolicy` of group `mesh.coracle.dev`: what requests may cost, and what is done when a backend is not well.
//!
//! Invariants: defaults are in the schema, so that what is followed can be read from the object; durations are written as Gateway
//! API writes them (GEP-2257), such as `500ms` or `1m30s`; shares are whole percentages.

use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicyStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What requests may cost, and what is done when a backend is not well; attached to Services, routes or a whole namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mesh.coracle.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    shortname = "tpol",
    status = "BackendTlsPolicyStatus",
    derive = "Default",
    derive = "PartialEq",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// What the policy is for, in its own namespace. A Service, an HTTPRoute, a GRPCRoute, or the Namespace itself.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TrafficPolicyTargetRef>,
    /// Limits of time. A route's own timeouts win over these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TrafficPolicyTimeouts>,
    /// When requests are sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<TrafficPolicyRetries>,
    /// When calls are refused because most have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<TrafficPolicyCircuitBreaker>,
    /// When an endpoint is left alone because it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_ejection: Option<TrafficPolicyOutlierEjection>,
    /// How many requests there may be at once, and how many more may wait: a bulkhead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<TrafficPolicyConcurrency>,
    /// How many requests there may be in a time; all of these limits hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub rate_limits: Option<Vec<TrafficPolicyRateLimit>>,
    /// When requests are turned away early because there is too much to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_shedding: Option<TrafficPolicyLoadShedding>,
    /// How an endpoint is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<TrafficPolicyLoadBalancing>,
    /// What is done to requests to see how others bear it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub faults: Option<Vec<TrafficPolicyFault>>,
    /// What is answered where there is no answer from the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<TrafficPolicyFallback>,
}

/// An object in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyTargetRef {
    /// The group: empty for Service and Namespace, gateway.networking.k8s.io for routes.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Service, HTTPRoute, GRPCRoute or Namespace.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name; for Namespace the policy's own.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// A part of it: a Service's port by name or number, or a route's rule by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// Limits of time; expiry answers 504.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyTimeouts {
    /// From the request to the head of the answer, with all tries and waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub request: Option<String>,
    /// The same for one try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub per_try: Option<String>,
}

/// When requests are sent again: those with an idempotent method or an Idempotency-Key only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyRetries {
    /// How many times at most, beside the first try.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// After what: 5xx, gateway-error (502, 503, 504), connect-failure, reset, timeout, a status such as 429, or a gRPC status
    /// such as grpc-unavailable.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 63)))]
    pub on: Vec<String>,
    /// The waits between tries.
    pub backoff: TrafficPolicyBackoff,
    /// What share of all requests retries may be.
    pub budget: TrafficPolicyBudget,
    /// How much of a request's body is kept so that it can be sent again; requests with more are sent once.
    #[schemars(range(min = 0, max = 1_048_576))]
    pub max_body_bytes: u32,
}

impl Default for TrafficPolicyRetries {
    fn default() -> Self {
        let on = ["gateway-error", "connect-failure", "reset", "timeout", "grpc-unavailable"];
        Self {
            attempts: 2,
            on: on.map(str::to_owned).to_vec(),
            backoff: TrafficPolicyBackoff::default(),
            budget: TrafficPolicyBudget::default(),
            max_body_bytes: 65_536,
        }
    }
}

/// The waits between tries: each about twice the one before, half of it left to chance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyBackoff {
    /// The first wait.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub base: String,
    /// The longest wait.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub max: String,
}

impl Default for TrafficPolicyBackoff {
    fn default() -> Self {
        Self { base: "25ms".to_owned(), max: "1s".to_owned() }
    }
}

/// How many retries there may be beside callers' own requests: the greater of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyBudget {
    /// Percent of the requests within the interval.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// How far back requests count.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub interval: String,
    /// Retries a second that there may always be.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_per_second: u32,
}

impl Default for TrafficPolicyBudget {
    fn default() -> Self {
        Self { percent: 20, interval: "10s".to_owned(), min_per_second: 10 }
    }
}

/// When calls are refused because most have failed: for a while, then a few are let through to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyCircuitBreaker {
    /// The percentage of failures at which the circuit opens.
    #[schemars(range(min = 1, max = 100))]
    pub failure_rate: u32,
    /// How many calls there must have been before that means anything.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum_calls: u32,
    /// How far back calls count.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub window: String,
    /// So many failures in a row open it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub consecutive_failures: Option<u32>,
    /// A call without an answer for so long has failed; timeouts.perTry and a route's own timeouts win over this.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub call_timeout: String,
    /// How long the circuit stays open.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub open_for: String,
    /// How many calls are let through after that; when all succeed the circuit closes, when one fails it opens again.
    #[schemars(range(min = 1, max = 1_000))]
    pub probes: u32,
}

impl Default for TrafficPolicyCircuitBreaker {
    fn default() -> Self {
        Self {
            failure_rate: 50,
            minimum_calls: 10,
            window: "30s".to_owned(),
            consecutive_failures: None,
            call_timeout: "3s".to_owned(),
            open_for: "15s".to_owned(),
            probes: 3,
        }
    }
}

/// When an endpoint is left alone because it fails. It comes back by itself, and is left alone for longer each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyOutlierEjection {
    /// So many failures in a row.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub consecutive_failures: u32,
    /// So many percent of failures within the window as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_rate: Option<u32>,
    /// How many requests there must have been before that rate means anything.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum_requests: u32,
    /// How far back requests count.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub window: String,
    /// For how long the first time; so much more each time after that.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub base_time: String,
    /// For how long at most.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub max_time: String,
    /// How many percent of the endpoints at most; one of several may always be.
    #[schemars(range(min = 1, max = 100))]
    pub max_percent: u32,
}

impl Default for TrafficPolicyOutlierEjection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: None,
            minimum_requests: 10,
            window: "10s".to_owned(),
            base_time: "30s".to_owned(),
            max_time: "5m".to_owned(),
            max_percent: 50,
        }
    }
}

/// How many requests there may be at once. One counts until the body of its answer has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyConcurrency {
    /// How many are let through.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// How many more may wait.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub queue: u32,
    /// How long each of those waits at most.
    #[serde(default = "one_second")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub max_wait: String,
}

fn one_second() -> String {
    "1s".to_owned()
}

/// How many requests there may be in a time, for each key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyRateLimit {
    /// What answers call it; the names of a policy's limits differ.
    #[serde(default = "default_name")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// So many requests...
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// ... in so long a time.
    #[serde(default = "one_second")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub per: String,
    /// How many may come at once after a quiet while; as many as `requests` where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// Whose requests are counted together: All (the default), Identity, ClientIP, or Header.
    #[serde(default)]
    pub key: TrafficPolicyRateKey,
    /// The header, where the key is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
}

fn default_name() -> String {
    "default".to_owned()
}

/// Whose requests a rate limit counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the words say it, and a text for each would make them several schemas")]
pub enum TrafficPolicyRateKey {
    #[default]
    All,
    Identity,
    ClientIP,
    Header,
}

/// When requests are turned away early: those with the lowest priority first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyLoadShedding {
    /// Answers shall not take longer than this on average.
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub latency_target: String,
    /// No more requests than this shall wait in the queue of `concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub queue_target: Option<u32>,
    /// The header with the priority, written as RFC 9218 has it.
    #[serde(default = "priority")]
    #[schemars(length(min = 1, max = 256))]
    pub priority_header: String,
}

fn priority() -> String {
    "priority".to_owned()
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyLoadBalancing {
    /// PeakEWMA (the default), LeastRequest, RoundRobin or ConsistentHash.
    #[serde(default)]
    pub algorithm: TrafficPolicyAlgorithm,
    /// What makes requests go to the same endpoint, for ConsistentHash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<TrafficPolicyHashOn>,
    /// Over how long a time an endpoint that is new comes to its full share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub slow_start: Option<String>,
}

/// By what an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the words say it, and a text for each would make them several schemas")]
pub enum TrafficPolicyAlgorithm {
    #[default]
    PeakEWMA,
    LeastRequest,
    RoundRobin,
    ConsistentHash,
}

/// What makes requests go to the same endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyHashOn {
    /// Header, Cookie or SourceIP.
    #[serde(rename = "type")]
    pub kind: TrafficPolicyHashType,
    /// The name of the header or cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
}

/// Where the key of a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the words say it, and a text for each would make them several schemas")]
pub enum TrafficPolicyHashType {
    Header,
    Cookie,
    #[default]
    SourceIP,
}

/// What is done to some requests to see how others bear it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyFault {
    /// How many percent of the requests that match.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// Headers with their values that a request must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<TrafficPolicyHeader>,
    /// They wait so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub delay: Option<String>,
    /// And are answered by the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<TrafficPolicyAbort>,
}

/// A header and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficPolicyHeader {
    /// Its name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// How the proxy answers a request that is to fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyAbort {
    /// The status.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The gRPC status for calls of gRPC, by number; unavailable where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
}

/// What is answered where there is no answer from the backend. Calls of gRPC are told the reason all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyFallback {
    /// Why there is none: no-endpoint, circuit-open, unreachable, timeout, overloaded, rate-limited.
    #[schemars(length(min = 1, max = 6), inner(length(min = 1, max = 63)))]
    pub on: Vec<String>,
    /// The status.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<TrafficPolicyHeader>,
    /// The body.
    #[schemars(length(max = 65_536))]
    pub body: String,
}

impl Default for TrafficPolicyFallback {
    fn default() -> Self {
        let on = ["no-endpoint", "circuit-open", "unreachable", "timeout", "overloaded"];
        Self { on: on.map(str::to_owned).to_vec(), status: 200, headers: Vec::new(), body: String::new() }
    }
}
