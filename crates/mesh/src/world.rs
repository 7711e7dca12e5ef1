//! A picture of everything in the cluster that decides what the proxy serves, as plain data.
//!
//! Invariant: the compiler sees nothing else, so the same picture always compiles to the same result.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use resources::access::AccessPolicy;
use resources::dapr::Resiliency;
use resources::gateway::backendtlspolicies::BackendTlsPolicy;
use resources::gateway::gatewayclasses::GatewayClass;
use resources::gateway::gateways::Gateway;
use resources::gateway::httproutes::HttpRoute;
use resources::gateway::listenersets::ListenerSet;
use resources::gateway::referencegrants::ReferenceGrant;
use resources::istio::PeerAuthentication;
use resources::traffic::TrafficPolicy;

use crate::compile::Served;

/// The objects, each list in order of namespace and name.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Every GatewayClass, also those of others.
    pub classes: Vec<Arc<GatewayClass>>,
    /// Every Gateway, also those of others.
    pub gateways: Vec<Arc<Gateway>>,
    /// Every ListenerSet, also those of others.
    pub sets: Vec<Arc<ListenerSet>>,
    /// Every HTTPRoute.
    pub routes: Vec<Arc<HttpRoute>>,
    /// Every GRPCRoute, in the form of an HTTPRoute.
    pub grpc_routes: Vec<Arc<HttpRoute>>,
    /// Every TLSRoute, in the form of an HTTPRoute.
    pub tls_routes: Vec<Arc<HttpRoute>>,
    /// Every ReferenceGrant.
    pub grants: Vec<Arc<ReferenceGrant>>,
    /// Every Service.
    pub services: Vec<Arc<Service>>,
    /// Every EndpointSlice.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Every Namespace.
    pub namespaces: Vec<Arc<Namespace>>,
    /// The Secrets that may hold certificates.
    pub secrets: Vec<Arc<Secret>>,
    /// The Secrets of type Opaque.
    pub opaque: Vec<Arc<Secret>>,
    /// The ConfigMaps, with what of them may be key sets or certificates.
    pub config_maps: Vec<Arc<ConfigMap>>,
    /// Every BackendTLSPolicy.
    pub backend_tls: Vec<Arc<BackendTlsPolicy>>,
    /// Every AccessPolicy.
    pub access: Vec<Arc<AccessPolicy>>,
    /// Every Pod; its labels count alone.
    pub pods: Vec<Arc<Pod>>,
    /// Every PeerAuthentication.
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
    /// The release of Gateway API that is installed, where its definitions say so.
    pub bundle_version: Option<String>,
    /// Every Resiliency of Dapr's.
    pub resiliencies: Vec<Arc<Resiliency>>,
    /// Every TrafficPolicy.
    pub traffic: Vec<Arc<TrafficPolicy>>,
    /// What the proxy has refused before.
    pub rejected: Rejected,
}

/// Parts that looked right but that the proxy refused (an expression that it cannot read, a certificate that does not fit
/// its key). They are left out, and say so, until the object changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Rule id and generation of its route, to the reason.
    pub rules: BTreeMap<(String, i64), String>,
    /// Id of an AccessPolicy, to what it was and the reason.
    pub policies: BTreeMap<String, (proxy::access::Policy, String)>,
    /// Namespace, name and resource version of a Secret, to the reason.
    pub certificates: BTreeMap<(String, String, String), String>,
    /// The certificates that it did not refuse and serves, for where others of the same Secrets are unfit.
    pub served: Served,
}

impl World {
    /// The highest resourceVersion of its EndpointSlices; 0 without any. Versions are numbers that rise in one order for all objects.
    #[must_use]
    pub(crate) fn newest_slice(&self) -> u64 {
        let versions = self.slices.iter().filter_map(|slice| slice.metadata.resource_version.as_ref()?.parse().ok());
        versions.max().unwrap_or(0)
    }
}

impl Rejected {
    /// How many refusals are remembered at most. What is forgotten is refused, and learned, again.
    const LIMIT: usize = 1024;

    /// Remembers that a rule was refused. False where that was known, so that nothing is gained by compiling again.
    pub fn rule(&mut self, id: &str, generation: i64, reason: String) -> bool {
        if self.rules.len() >= Self::LIMIT {
            self.rules.clear();
        }
        self.rules.insert((id.to_owned(), generation), reason).is_none()
    }

    /// Remembers that a policy was refused as it was. False where that was known.
    pub fn policy(&mut self, id: &str, policy: proxy::access::Policy, reason: String) -> bool {
        if self.policies.len() >= Self::LIMIT {
            self.policies.clear();
        }
        let known = self.policies.get(id).is_some_and(|(before, _)| *before == policy);
        self.policies.insert(id.to_owned(), (policy, reason));
        !known
    }

    /// Remembers that a certificate was refused. False where that was known.
    pub fn certificate(&mut self, secret: (String, String, String), reason: String) -> bool {
        if self.certificates.len() >= Self::LIMIT {
            self.certificates.clear();
        }
        self.certificates.insert(secret, reason).is_none()
    }
}
