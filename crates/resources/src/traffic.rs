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
