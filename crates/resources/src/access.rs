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
    /// Whose JSON Web Tokens are believed. A request with one that is not is refused, whether a rule asks for one or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<AccessPolicyJwt>,
    /// The keys that clients have. A request with one that nobody has is refused, whether a rule asks for one or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<AccessPolicyApiKeys>,
    /// A service that is asked about every request that the rules let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_authorization: Option<AccessPolicyExternal>,
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
    /// A token that spec.jwt believes must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<AccessPolicyToken>,
    /// A key that spec.apiKeys knows must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<AccessPolicyClients>,
}

/// A condition on the token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyToken {
    /// Its issuer; any of spec.jwt where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,
    /// Claims; all of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub claims: Vec<AccessPolicyClaim>,
}

/// A condition on a claim. Without any of the three the claim has to be there, whatever it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyClaim {
    /// Its name, or a path of names with dots such as realm_access.roles.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// It is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub equals: Option<String>,
    /// It is a list that has this, or a text of words of which this is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub contains: Option<String>,
    /// It is one of these, or a list that has one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub any_of: Vec<String>,
}

/// Clients, one of whose keys must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyClients {
    /// Their names, as the Secrets have them; any where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub clients: Vec<String>,
}

/// Whose JSON Web Tokens are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyJwt {
    /// The issuers.
    #[schemars(length(min = 1, max = 8))]
    pub providers: Vec<AccessPolicyProvider>,
}

/// Somebody who issues tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyProvider {
    /// What its tokens have as iss.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// Any of these must be in aud; not looked at where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub audiences: Vec<String>,
    /// What verifies its tokens.
    pub jwks: AccessPolicyJwks,
    /// Where tokens are looked for; in the header Authorization after Bearer where there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub token_from: Vec<AccessPolicyTokenFrom>,
    /// How far clocks may be apart; 60s where it is absent, 5m at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub leeway: Option<String>,
    /// Whether the service gets the token too; true where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
    /// Claims that the service gets as headers. What clients send in these headers is taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub claims_to_headers: Vec<AccessPolicyClaimHeader>,
}

/// A claim as a header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyClaimHeader {
    /// The claim's name, or a path of names with dots.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// The header's name.
    #[schemars(length(min = 1, max = 256))]
    pub header: String,
}

/// Where a token is: in a header or in a query parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyTokenFrom {
    /// The header's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
    /// What comes before the token in the header; nothing where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,
    /// The parameter's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub query: Option<String>,
}

/// A JSON Web Key Set, by exactly one of its first five fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyJwks {
    /// The set itself, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub inline: Option<String>,
    /// A ConfigMap in the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<AccessPolicyKeyRef>,
    /// A Secret of type Opaque in the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<AccessPolicyKeyRef>,
    /// Where it is fetched: an http or https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub uri: Option<String>,
    /// A Service that it is fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<AccessPolicyServiceRef>,
    /// The keys of a trust domain's bundle, our own or one that is trusted: its JWT-SVIDs, which speak of its workloads alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: Option<String>,
    /// A ConfigMap with the certificate authorities that the URL's server is verified by; the system's where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<AccessPolicyKeyRef>,
    /// How long a fetched set is kept before it is fetched again; 10m where it is absent, 10s at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub refresh: Option<String>,
    /// How long a fetch may take; 5s where it is absent, 30s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub timeout: Option<String>,
}

/// One value of a ConfigMap or a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyKeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The value's key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Something that a Service answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicyServiceRef {
    /// The Service's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace, where it is another one, whose ReferenceGrant must allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// The path and query; / where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub path: Option<String>,
}

/// A service that decides, in the manner of nginx's auth_request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyExternal {
    /// Who is asked, and with which path.
    pub service: AccessPolicyServiceRef,
    /// How long an answer may take; 5s where it is absent, 30s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub timeout: Option<String>,
    /// Whether requests pass where there is no answer; false where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
    /// Headers of the answer that the service gets. What clients send in them is taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers_to_service: Vec<String>,
}

/// The keys that clients have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyApiKeys {
    /// The header that keys come in; x-api-key where neither it nor a query is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
    /// The query parameter that keys come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub query: Option<String>,
    /// Secrets of type Opaque in the policy's namespace: client names to keys, one a line.
    #[schemars(length(min = 1, max = 16))]
    pub secrets: Vec<AccessPolicySecretRef>,
    /// Whether the service gets the key too; false where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
    /// The header in which the service gets the client's name. What clients send in it is taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub client_header: Option<String>,
}

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessPolicySecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
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
