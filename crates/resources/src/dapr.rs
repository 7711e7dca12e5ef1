//! Dapr's `Resiliency` (`dapr.io/v1alpha1`), as far as it speaks of what calls between services may cost.
//!
//! Only what is translated has types; the rest is kept as it came, so that it can be named.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Named policies, and to whom they apply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resiliency {
    /// As of every object.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: ResiliencySpec,
    /// The callers for which it holds; all where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

impl kube::Resource for Resiliency {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Resiliency".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "dapr.io".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "resiliencies".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What a Resiliency wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResiliencySpec {
    /// Policies by name.
    pub policies: ResiliencyPolicies,
    /// Which policies apply to whom.
    pub targets: ResiliencyTargets,
}

/// Policies by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResiliencyPolicies {
    /// Limits of time, such as `5s`.
    pub timeouts: BTreeMap<String, Value>,
    /// When calls are made again.
    pub retries: BTreeMap<String, ResiliencyRetry>,
    /// When calls are refused.
    pub circuit_breakers: BTreeMap<String, ResiliencyCircuitBreaker>,
}

/// When calls are made again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResiliencyRetry {
    /// `constant` or `exponential`.
    pub policy: Option<String>,
    /// The wait, where it is constant.
    pub duration: Option<String>,
    /// The longest wait, where it is not.
    pub max_interval: Option<String>,
    /// How many times; -1 is without end.
    pub max_retries: Option<i64>,
    /// After which statuses.
    pub matching: Option<ResiliencyMatching>,
}

/// After which statuses calls are made again: numbers and ranges with commas between.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResiliencyMatching {
    /// Of HTTP.
    #[serde(rename = "httpStatusCodes")]
    pub http: Option<String>,
    /// Of gRPC.
    #[serde(rename = "gRPCStatusCodes")]
    pub grpc: Option<String>,
}

/// When calls are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResiliencyCircuitBreaker {
    /// How many calls are let through to see.
    pub max_requests: Option<u32>,
    /// After what time counts begin anew.
    pub interval: Option<String>,
    /// How long calls are refused.
    pub timeout: Option<String>,
    /// A condition such as `consecutiveFailures >= 5`.
    pub trip: Option<String>,
}

/// Which policies apply to whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResiliencyTargets {
    /// Services, by name.
    pub apps: BTreeMap<String, ResiliencyApp>,
    /// Kinds of actors.
    pub actors: BTreeMap<String, Value>,
    /// Components.
    pub components: BTreeMap<String, Value>,
}

/// The names of the policies of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResiliencyApp {
    /// Among the timeouts.
    pub timeout: Option<String>,
    /// Among the retries.
    pub retry: Option<String>,
    /// Among the circuit breakers.
    pub circuit_breaker: Option<String>,
}
