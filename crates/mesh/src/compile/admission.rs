//! Whose connections a Service's ports take: `PeerAuthentication` of Istio, and `mesh.coracle.dev/mtls: always`.
//!
//! Precedence is Istio's: a port of a workload before the workload, that before its namespace, that before the root namespace; the
//! oldest of those that are alike. A Service asks for an identity as soon as one of the Pods behind it does, as one socket
//! cannot tell which of them a connection will reach.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use proxy::snapshot::Admits;
use resources::istio::{MutualTlsMode, PeerAuthentication};
use resources::names::MTLS_ANNOTATION;

use super::index::{Index, key};
use crate::identity::SYSTEM_NAMESPACE;
use crate::world::World;

/// Where a policy without a selector holds for every namespace: ours, and the one that Istio's manifests name.
const ROOTS: [&str; 2] = [SYSTEM_NAMESPACE, "istio-system"];

type Labels = BTreeMap<String, String>;

/// All that decides whose connections are taken.
pub(super) struct Admission<'w> {
    /// By namespace, oldest first; those for all of it, and those for some workloads.
    wide: HashMap<&'w str, &'w PeerAuthentication>,
    narrow: HashMap<&'w str, Vec<&'w PeerAuthentication>>,
    pods: HashMap<(&'w str, &'w str), &'w Pod>,
    always: HashMap<&'w str, bool>,
}

impl<'w> Admission<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut policies: Vec<_> = world.peer_authentications.iter().collect();
        policies.sort_by_key(|policy| (policy.creation_timestamp().map(|time| time.0), key(&policy.metadata)));
        let mut admission = Self {
            wide: HashMap::new(),
            narrow: HashMap::new(),
            pods: world.pods.iter().map(|pod| (key(&pod.metadata), &**pod)).collect(),
            always: world.namespaces.iter().map(|ns| (key(&ns.metadata).1, always(ns.annotations()))).collect(),
        };
        for policy in policies {
            let (namespace, _) = key(&policy.metadata);
            match &policy.spec.selector {
                Some(selector) if !selector.match_labels.is_empty() => {
                    admission.narrow.entry(namespace).or_default().push(policy);
                }
                _ => drop(admission.wide.entry(namespace).or_insert(policy)),
            }
        }
        admission
    }

    /// Whose connections a port takes.
    pub(super) fn of(&self, service: &Service, port: &ServicePort, index: &Index<'w>) -> Admits {
        let (namespace, name) = key(&service.metadata);
        if always(service.annotations()) || self.always.get(namespace).is_some_and(|always| *always) {
            return Admits::Certified;
        }
        if self.wide.is_empty() && self.narrow.is_empty() {
            return Admits::Anybody;
        }
        let slices = index.slices(namespace, name);
        let mut workloads = self.behind(namespace, slices, port);
        if workloads.is_empty() {
            let empty = Labels::new();
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or(empty);
            workloads.push((selector, declared(port)));
        }
        let strict =
            |(labels, port): &(Labels, Option<i32>)| self.mode(namespace, labels, *port) == MutualTlsMode::Strict;
        if workloads.iter().any(strict) { Admits::Known } else { Admits::Anybody }
    }

    /// The labels and ports of the Pods behind a Service's port.
    fn behind(&self, namespace: &str, slices: &[&EndpointSlice], port: &ServicePort) -> Vec<(Labels, Option<i32>)> {
        let mut found = Vec::new();
        for slice in slices {
            let named = |candidate: &&k8s_openapi::api::discovery::v1::EndpointPort| {
                candidate.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
            };
            // In a slice, the number may be the host's; the policy means the one that the Pod declares.
            let written = slice.ports.iter().flatten().find(named).and_then(|port| port.port);
            let number = declared(port).or(written);
            let targets = slice.endpoints.iter().filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.as_deref());
            let pods = targets.filter_map(|pod| self.pods.get(&(namespace, pod)));
            found.extend(pods.map(|pod| (pod.labels().clone(), number)));
        }
        found
    }

    /// What is asked of callers of a workload's port.
    fn mode(&self, namespace: &str, labels: &Labels, port: Option<i32>) -> MutualTlsMode {
        let chosen = |policy: &&&PeerAuthentication| {
            let selector = policy.spec.selector.as_ref();
            selector.is_some_and(|s| s.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value)))
        };
        let own = self.narrow.get(namespace).and_then(|policies| policies.iter().find(chosen)).copied();
        let root = ROOTS.iter().find_map(|root| self.wide.get(root)).copied();
        let of_port = port.and_then(|port| own?.spec.port_level_mtls.get(&port.to_string()).map(|mtls| mtls.mode));
        let whole = |policy: Option<&PeerAuthentication>| policy.and_then(|p| p.spec.mtls.as_ref()).map(|m| m.mode);
        [of_port, whole(own), whole(self.wide.get(namespace).copied()), whole(root)]
            .into_iter()
            .flatten()
            .find(|mode| *mode != MutualTlsMode::Unset)
            .unwrap_or(MutualTlsMode::Permissive)
    }
}

fn always(annotations: &Labels) -> bool {
    annotations.get(MTLS_ANNOTATION).is_some_and(|value| value == "always")
}

/// The number on which the workload listens, where the Service says it.
fn declared(port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(_)) => None,
        None => Some(port.port),
    }
}
