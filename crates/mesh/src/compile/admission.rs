//! Whose connections a Service's ports take, and who answers there: `PeerAuthentication` of Istio, `mesh.coracle.dev/mtls`, and
//! `mesh.coracle.dev/program-tls`.
//!
//! Precedence is Istio's: a port of a workload before the workload, that before its namespace, that before the root namespace; the
//! oldest of those that are alike. A Service asks for an identity as soon as one of the Pods behind it does, as one socket
//! cannot tell which of them a connection will reach.
//!
//! Whether certificates are asked for is said by the Service, else by its Namespace, else by the instance. A word that is not
//! understood asks for them: nobody can tell what it meant to leave open.

use std::collections::{BTreeMap, HashMap};
use std::ops::Not;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use proxy::snapshot::Admits;
use resources::istio::{MutualTlsMode, PeerAuthentication};
use resources::names::{MTLS_ANNOTATION, PROGRAM_TLS_ANNOTATION};

use super::Notice;
use super::index::{Index, key};
use super::plan::AdmissionPlan;
use super::verdict::{Verdict, condition, reason};
use crate::config::Settings;
use crate::identity::{SYSTEM_NAMESPACE, SpiffeId, TrustDomain};
use crate::world::World;

/// The Service of the API itself.
const API: (&str, &str) = ("default", "kubernetes");
/// The value of the annotation of programs that show their own account's SVID.
const SPIFFE: &str = "spiffe";
/// Where a policy without a selector holds for every namespace: ours, and the one that Istio's manifests name.
const ROOTS: [&str; 2] = [SYSTEM_NAMESPACE, "istio-system"];

type Labels = BTreeMap<String, String>;

/// All that decides whose connections are taken.
pub(super) struct Admission<'w> {
    /// By namespace, oldest first; those for all of it, and those for some workloads.
    wide: HashMap<&'w str, &'w PeerAuthentication>,
    narrow: HashMap<&'w str, Vec<&'w PeerAuthentication>>,
    pods: HashMap<(&'w str, &'w str), &'w Pod>,
    wishes: HashMap<&'w str, Wish>,
    always: bool,
    domain: &'w TrustDomain,
    world: &'w World,
    /// The oldest first.
    sorted: Vec<&'w PeerAuthentication>,
}

/// What an annotation says about certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Always,
    Auto,
    /// It is not understood.
    Unclear,
}

impl<'w> Admission<'w> {
    pub(super) fn new(world: &'w World, settings: &'w Settings) -> Self {
        let mut policies: Vec<_> = world.peer_authentications.iter().collect();
        policies.sort_by_key(|policy| (policy.creation_timestamp().map(|time| time.0), key(&policy.metadata)));
        let mut admission = Self {
            wide: HashMap::new(),
            narrow: HashMap::new(),
            pods: world.pods.iter().map(|pod| (key(&pod.metadata), &**pod)).collect(),
            wishes: world
                .namespaces
                .iter()
                .filter_map(|ns| Some((key(&ns.metadata).1, wish(ns.annotations())?)))
                .collect(),
            always: settings.certificates_always,
            domain: &settings.trust_domain,
            world,
            sorted: policies.iter().map(|policy| &***policy).collect(),
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
        if self.certificates(service) {
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

    /// Whether callers of a Service must show certificates.
    fn certificates(&self, service: &Service) -> bool {
        let name = key(&service.metadata);
        match wish(service.annotations()).or_else(|| self.wishes.get(name.0).copied()) {
            // The API asks for credentials of its own.
            None => self.always && name != API,
            Some(wish) => wish != Wish::Auto,
        }
    }

    /// Whose certificate TLS clients of a Service are shown: that of its Pods, where all of them are the same workload.
    pub(super) fn shows(&self, service: &Service, index: &Index<'w>) -> Option<Arc<str>> {
        let (namespace, name) = key(&service.metadata);
        let endpoints = index.slices(namespace, name).iter().flat_map(|slice| &slice.endpoints);
        let mut ids = endpoints.map(|endpoint| self.identity(namespace, endpoint.target_ref.as_ref()));
        let first = ids.next()??;
        ids.all(|id| id.as_ref() == Some(&first)).then_some(first)
    }

    /// Who the program at an endpoint must be; none where it is spoken to as it is.
    pub(super) fn expects(&self, service: &Service, target: Option<&ObjectReference>) -> Option<Arc<str>> {
        match service.annotations().get(PROGRAM_TLS_ANNOTATION)?.as_str() {
            // Where nobody knows whose it is, nobody is believed.
            SPIFFE => Some(self.identity(key(&service.metadata).0, target).unwrap_or_else(|| "nobody".into())),
            id => Some(id.into()),
        }
    }

    fn identity(&self, namespace: &str, target: Option<&ObjectReference>) -> Option<Arc<str>> {
        let pod = self.pods.get(&(namespace, target?.name.as_deref()?))?;
        crate::identity::identity(self.domain, pod).map(|id| id.shared())
    }

    /// What is to be said about the PeerAuthentications.
    pub(super) fn plans(&self) -> Vec<AdmissionPlan> {
        let mut plans: Vec<AdmissionPlan> = self.sorted.iter().map(|policy| self.plan(policy)).collect();
        plans.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        plans
    }

    fn plan(&self, policy: &PeerAuthentication) -> AdmissionPlan {
        let (namespace, name) = key(&policy.metadata);
        let of = |other: &&&PeerAuthentication| {
            key(&other.metadata).0 == namespace && chosen_labels(other) == chosen_labels(policy)
        };
        let older = self.sorted.iter().find(of).map(|other| key(&other.metadata).1).filter(|other| *other != name);
        let accepted = match (slip(policy), older) {
            (Some(slip), _) => {
                let effect =
                    if closes(policy) { "all ports of these workloads are STRICT" } else { "that part does not count" };
                Verdict::no(condition::ACCEPTED, reason::INVALID, format!("{slip}; until this is mended, {effect}"))
            }
            (None, Some(older)) => {
                let message = format!(
                    "PeerAuthentication {namespace}/{older} is older and for the same workloads; it counts and this one does not"
                );
                Verdict::no(condition::ACCEPTED, reason::CONFLICTED, message)
            }
            (None, None) => Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, self.reach(policy)),
        };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        AdmissionPlan { namespace, name, generation: policy.metadata.generation, verdicts: vec![accepted] }
    }

    /// Whom a policy is for, for people.
    fn reach(&self, policy: &PeerAuthentication) -> String {
        let (namespace, _) = key(&policy.metadata);
        match chosen_labels(policy) {
            None if ROOTS.contains(&namespace) => "It is for all namespaces that say nothing else".to_owned(),
            None => format!("It is for all workloads of {namespace} for which no other says more"),
            Some(labels) => {
                let mut pods = self.pods.iter().filter(|((ns, _), _)| *ns == namespace);
                let any = pods.any(|(_, pod)| labels.iter().all(|(name, value)| pod.labels().get(name) == Some(value)));
                let now = if any { "" } else { "; there is none now" };
                format!("It is for the workloads of {namespace} with its labels{now}")
            }
        }
    }

    /// What is to be told about annotations that are not understood.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let unclear = |annotations: &Labels| wish(annotations) == Some(Wish::Unclear);
        let mtls = |about: ObjectReference| {
            let note = format!("{MTLS_ANNOTATION} is none of always and auto; it counts as always until it is mended");
            Notice::warning(about, "InvalidAnnotation", note)
        };
        let namespaces = self.world.namespaces.iter().filter(|ns| unclear(ns.annotations()));
        let services = self.world.services.iter().filter(|service| unclear(service.annotations()));
        let wrong = |service: &&Arc<Service>| {
            let value = service.annotations().get(PROGRAM_TLS_ANNOTATION);
            value.is_some_and(|value| value != SPIFFE && value.parse::<SpiffeId>().is_err())
        };
        let programs = self.world.services.iter().filter(wrong).map(|service| {
            let note = format!(
                "{PROGRAM_TLS_ANNOTATION} is neither spiffe nor a SPIFFE ID; no program is believed until it is mended"
            );
            Notice::warning(service.object_ref(&()), "InvalidAnnotation", note)
        });
        let mtls =
            namespaces.map(|ns| ns.object_ref(&())).chain(services.map(|service| service.object_ref(&()))).map(mtls);
        mtls.chain(programs).collect()
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
        let clear = own.filter(|own| !closes(own));
        let of_port = port.and_then(|port| clear?.spec.port_level_mtls.get(&port.to_string()).map(|mtls| mtls.mode));
        let whole = |policy: Option<&PeerAuthentication>| match policy {
            Some(policy) if closes(policy) => Some(MutualTlsMode::Strict),
            policy => policy.and_then(|p| p.spec.mtls.as_ref()).map(|m| m.mode),
        };
        [of_port, whole(own), whole(self.wide.get(namespace).copied()), whole(root)]
            .into_iter()
            .flatten()
            .find(|mode| *mode != MutualTlsMode::Unset)
            .unwrap_or(MutualTlsMode::Permissive)
    }
}

/// The labels by which a policy chooses workloads; none where it is for all.
fn chosen_labels(policy: &PeerAuthentication) -> Option<&Labels> {
    policy.spec.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
}

/// What is wrong with a policy, in itself.
fn slip(policy: &PeerAuthentication) -> Option<String> {
    let ports = &policy.spec.port_level_mtls;
    if let Some(port) = ports.keys().find(|port| port.parse::<u16>().is_ok_and(|port| port > 0).not()) {
        return Some(format!("spec.portLevelMtls: {port:?} is no port from 1 to 65535"));
    }
    if !ports.is_empty() && chosen_labels(policy).is_none() {
        return Some("spec.portLevelMtls: single ports need a spec.selector that says whose they are".to_owned());
    }
    let label = |text: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        bytes.len() <= 63 && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
    };
    let name = |text: &str| {
        let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
        label(name) && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(label))
    };
    let wrong = chosen_labels(policy)?.iter().find(|(key, value)| !name(key) || !(value.is_empty() || label(value)));
    wrong
        .map(|(key, value)| format!("spec.selector.matchLabels: {key}={value} is no label, so no workload can have it"))
}

/// Whether a policy that is wrong asks for an identity at all ports, as nobody can tell which one it means.
fn closes(policy: &PeerAuthentication) -> bool {
    let strict = policy.spec.port_level_mtls.values().any(|mtls| mtls.mode == MutualTlsMode::Strict);
    strict && slip(policy).is_some()
}

fn wish(annotations: &Labels) -> Option<Wish> {
    Some(match annotations.get(MTLS_ANNOTATION)?.as_str() {
        "always" => Wish::Always,
        "auto" => Wish::Auto,
        _ => Wish::Unclear,
    })
}

/// The number on which the workload listens, where the Service says it.
fn declared(port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(_)) => None,
        None => Some(port.port),
    }
}
