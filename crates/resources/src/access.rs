//! `AccessPolicy` of group `mesh.coracle.dev`: who may call what.
//!
//! Invariants: no default is filled in by the types, so that what was written can be told from what was not; a field that is
//! unknown is an error of the API's, not of this type.

use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicyStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may call what: attached to Services, routes, Gateways or a whole namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mesh.coracle.dev",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    shortname = "apol",
    status = "BackendTlsPolicyStatus",
    derive = "Default",
    derive = "PartialEq",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicySpec {
    /// What the policy governs, in its own namespace.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<AccessPolicyTargetRef>,
    /// Who may do what. Deny wins; once any policy of a target allows something, or has no rules, what no rule allows is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AccessPolicyRule>,
}

/// An object in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyTargetRef {
    /// The group: empty for Service and Namespace, gateway.networking.k8s.io for the others.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Service, HTTPRoute, GRPCRoute, Gateway or Namespace.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name; for Namespace the policy's own.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// A part of it: a Service's port, a route's rule or a Gateway's listener, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// One rule. All of its conditions must hold; one that is absent always does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyRule {
    /// For logs and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Allow (the default) or Deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<AccessPolicyAction>,
    /// Callers; any of those listed is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<AccessPolicyFrom>,
    /// Methods such as GET; any of them is meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub methods: Vec<String>,
    /// Paths; any of them is meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<AccessPolicyPath>,
    /// Headers; all of them must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<AccessPolicyHeader>,
}

/// What becomes of what a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessPolicyAction {
    #[default]
    #[allow(missing_docs, reason = "the words say it, and a text for each would make them several schemas")]
    Allow,
    #[allow(missing_docs, reason = "as above")]
    Deny,
}

/// Callers of a rule; any of those listed is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyFrom {
    /// Service accounts, as NAMESPACE/NAME or as NAME in the policy's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub service_accounts: Vec<String>,
    /// Namespaces, with all of their service accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub namespaces: Vec<String>,
    /// SPIFFE IDs; `*` stands for anything within a segment, `**` for anything at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub spiffe_ids: Vec<String>,
    /// Gateways that the request came through, as NAMESPACE/NAME or as NAME in the policy's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub gateways: Vec<String>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyPath {
    /// How the value is meant; PathPrefix where it is absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<AccessPolicyPathType>,
    /// The path, the prefix or the expression.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a path is meant, in Gateway API's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the words say it, and a text for each would make them several schemas")]
pub enum AccessPolicyPathType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

/// A condition on a header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyHeader {
    /// The header's name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// How the value is meant; Exact where it is absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<AccessPolicyHeaderType>,
    /// The value or the expression; where it is absent the header has to be there, whatever it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
}

/// How a header's value is meant, in Gateway API's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the words say it, and a text for each would make them several schemas")]
pub enum AccessPolicyHeaderType {
    #[default]
    Exact,
    RegularExpression,
}
