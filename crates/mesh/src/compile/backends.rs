//! Backends: Services' ports with their ready endpoints, and references to them.
//!
//! Invariants: only endpoints that are ready and not ending get into a backend; a Service's port is one backend however many
//! rules name it; a reference that cannot be followed is the one backend that answers 500.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use proxy::snapshot::{Backend, BackendId, BackendProtocol, Endpoint, Filter};

use super::access::Policies;
use super::admission::Admission;
use super::backend_tls::{BackendTlsPolicies, Ways};
use super::index::{Index, Subject, key};
use super::kind::RouteKind;
use super::outside;
use super::peers::{self, is_peer};
use super::speech::{Speech, speech, transport};
use super::verdict::{Fault, reason};

/// The backend of every reference that cannot be followed.
const UNRESOLVED: &str = "unresolved";

/// A reference from a route to a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference<'r> {
    pub(super) group: Option<&'r str>,
    pub(super) kind: Option<&'r str>,
    pub(super) namespace: Option<&'r str>,
    pub(super) name: &'r str,
    pub(super) port: Option<i32>,
}

pub(super) struct Backends<'w> {
    index: &'w Index<'w>,
    admission: &'w Admission<'w>,
    tls: &'w BackendTlsPolicies<'w>,
    made: BTreeMap<BackendId, Backend>,
    /// What is changed about requests to backends of one name.
    hosts: HashMap<BackendId, Filter>,
    ids: HashMap<(&'w str, &'w str, u16), BackendId>,
}

impl<'w> Backends<'w> {
    pub(super) fn new(index: &'w Index<'w>, admission: &'w Admission<'w>, tls: &'w BackendTlsPolicies<'w>) -> Self {
        Self { index, admission, tls, made: BTreeMap::new(), hosts: HashMap::new(), ids: HashMap::new() }
    }

    pub(super) fn index(&self) -> &'w Index<'w> {
        self.index
    }

    /// Whether TLS is spoken to a Service's port, or would be if the policy for it could be followed.
    pub(super) fn has_tls(&self, service: &Service, port: &ServicePort) -> bool {
        let (namespace, name) = key(&service.metadata);
        u16::try_from(port.port).is_ok_and(|port| self.tls.of(namespace, name, port).is_some())
    }

    /// Takes note of the backends that a Gateway leads to.
    pub(super) fn reached<'i>(
        &self,
        ids: impl Iterator<Item = &'i BackendId>,
        gateway: (String, String),
        ways: &mut Ways,
    ) {
        for id in ids {
            let Some((service, port)) = id.rsplit_once(':') else { continue };
            let (Some((namespace, name)), Ok(port)) = (service.split_once('/'), port.parse()) else { continue };
            ways.entry((namespace.to_owned(), name.to_owned(), port)).or_default().insert(gateway.clone());
        }
    }

    /// All of them, each with the place where its callers are judged.
    pub(super) fn into_map(mut self, policies: &Policies<'_>) -> BTreeMap<BackendId, Backend> {
        for ((namespace, name, port), id) in &self.ids {
            if let Some(backend) = self.made.get_mut(id) {
                backend.place = policies.of_service(namespace, name, i32::from(*port));
            }
        }
        self.made
    }

    /// The backend of one port of a Service.
    pub(super) fn of_port(&mut self, service: &'w Service, port: &ServicePort) -> BackendId {
        let (namespace, name) = key(&service.metadata);
        let number = u16::try_from(port.port).unwrap_or_default();
        if let Some(id) = self.ids.get(&(namespace, name, number)) {
            return Arc::clone(id);
        }
        let id: BackendId = format!("{namespace}/{name}:{number}").into();
        let peer_name = peers::name(namespace, name, number);
        let port_name = port.name.as_deref().unwrap_or_default();
        let expects = |target: Option<&ObjectReference>| self.admission.expects(service, target);
        let slices = self.index.slices(namespace, name);
        let mut endpoints = endpoints(slices, port_name, &peer_name, expects);
        let mut names = outside::names(service, port, slices, self.index.may_be_local(namespace));
        if let Some(rewrite) = outside::rewrite(&names).filter(|_| endpoints.is_empty()) {
            self.hosts.insert(Arc::clone(&id), rewrite);
        }
        let mut when_empty = Backend::default().when_empty;
        match self.tls.of(namespace, name, number) {
            None => {}
            Some(Some(tls)) => {
                names.iter_mut().for_each(|name| name.tls = Some(Arc::clone(tls)));
                endpoints.iter_mut().filter(|endpoint| endpoint.peer.is_none()).for_each(|endpoint| {
                    // What the Service's owner says of its TLS comes before what is known of the program.
                    (endpoint.tls, endpoint.expects) = (Some(Arc::clone(tls)), None);
                });
            }
            Some(None) => {
                // Never in the clear: rather not at all.
                endpoints.clear();
                names.clear();
                when_empty = StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
        let protocol = match speech(port) {
            Speech::H2c => BackendProtocol::H2c,
            Speech::WebSocket => BackendProtocol::Http1,
            Speech::Http | Speech::Tcp | Speech::Tls | Speech::Unknown => BackendProtocol::Auto,
        };
        self.made.insert(Arc::clone(&id), Backend { endpoints, names, protocol, when_empty, place: None });
        self.ids.insert((namespace, name, number), Arc::clone(&id));
        id
    }

    /// What is changed about requests to a backend, whoever sends them: one of a name outside is asked by that name.
    pub(super) fn rewrite(&self, id: &BackendId) -> Option<&Filter> {
        self.hosts.get(id)
    }

    /// The backend that answers 500 to the share of a reference that cannot be followed.
    pub(super) fn unresolved(&mut self) -> BackendId {
        let id: BackendId = UNRESOLVED.into();
        self.made
            .entry(Arc::clone(&id))
            .or_insert_with(|| Backend { when_empty: StatusCode::INTERNAL_SERVER_ERROR, ..Backend::default() });
        id
    }

    /// Follows a reference made by an object of `kind` in `namespace`.
    pub(super) fn resolve(&mut self, from: Subject<'_>, to: Reference<'_>) -> Result<BackendId, Fault> {
        let (group, kind) = (to.group.unwrap_or_default(), to.kind.unwrap_or("Service"));
        let namespace = to.namespace.unwrap_or(from.namespace);
        if !group.is_empty() || kind != "Service" {
            let what = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
            let message = format!("backend {namespace}/{} is of kind {what}; only Service is supported", to.name);
            return Err(Fault::new(reason::INVALID_KIND, message));
        }
        let name = format!("Service {namespace}/{}", to.name);
        if !self.index.permitted(from, Subject { group, kind, namespace, name: to.name }) {
            let message = format!(
                "{name} is in another namespace and no ReferenceGrant in {namespace} lets a {} of {} refer to it",
                from.kind, from.namespace
            );
            return Err(Fault::new(reason::REF_NOT_PERMITTED, message));
        }
        let Some(service) = self.index.service(namespace, to.name) else {
            return Err(Fault::new(reason::BACKEND_NOT_FOUND, format!("{name} does not exist")));
        };
        self.port_of(service, to.port, &name, from.kind == RouteKind::Tls.name())
    }

    /// The backend of the referred port, checked for being one that HTTP, or just bytes, can be sent to.
    fn port_of(&mut self, service: &'w Service, port: Option<i32>, name: &str, raw: bool) -> Result<BackendId, Fault> {
        let spec = service.spec.as_ref();
        if let Some(host) = outside::external(service).filter(|host| outside::is_inside(host)) {
            let message = format!("{name} stands for {host:?}, a name of the cluster; refer to that Service itself");
            return Err(Fault::new(reason::BACKEND_NOT_FOUND, message));
        }
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let Some(wanted) = port else {
            let message = format!("a reference to {name} must give its port ({})", list(ports));
            return Err(Fault::new(reason::BACKEND_NOT_FOUND, message));
        };
        let numbered = || ports.iter().filter(|port| port.port == wanted);
        let Some(port) = numbered().find(|port| transport(port) == "TCP") else {
            return Err(match numbered().next() {
                Some(port) => Fault::new(
                    reason::UNSUPPORTED_PROTOCOL,
                    format!("port {wanted} of {name} is {}, which carries no HTTP", transport(port)),
                ),
                None => Fault::new(
                    reason::BACKEND_NOT_FOUND,
                    format!("{name} has no port {wanted} (it has {})", list(ports)),
                ),
            });
        };
        if speech(port) == Speech::Tls && !raw && !self.has_tls(service, port) {
            let protocol = port.app_protocol.as_deref().or(port.name.as_deref()).unwrap_or_default();
            let message =
                format!("port {wanted} of {name} speaks {protocol}; a BackendTLSPolicy has to say whom to trust there");
            return Err(Fault::new(reason::UNSUPPORTED_PROTOCOL, message));
        }
        Ok(self.of_port(service, port))
    }
}

fn list(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ")
}

/// The ready endpoints of the Service port called `port`, without repetitions, in order.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &str,
    peer_name: &Arc<str>,
    expects: impl Fn(Option<&ObjectReference>) -> Option<Arc<str>>,
) -> Vec<Endpoint> {
    let mut found = BTreeMap::new();
    for slice in slices.iter().filter(|slice| !outside::has_names(slice)) {
        let peer = is_peer(slice);
        for number in numbers(slice, port) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| serves(endpoint)) {
                let expects = if peer { None } else { expects(endpoint.target_ref.as_ref()) };
                let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                found.extend(addresses.map(|address| ((SocketAddr::new(address, number), peer), expects.clone())));
            }
        }
    }
    let endpoint = |((address, peer), expects): ((SocketAddr, bool), Option<Arc<str>>)| Endpoint {
        peer: peer.then(|| Arc::clone(peer_name)),
        expects,
        ..Endpoint::plain(address)
    };
    found.into_iter().map(endpoint).collect()
}

/// The numbers that a slice has for the port called `port`.
pub(super) fn numbers<'s>(slice: &'s EndpointSlice, port: &str) -> impl Iterator<Item = u16> + use<'s> {
    let port = port.to_owned();
    let named = slice.ports.iter().flatten().filter(move |candidate| {
        candidate.name.as_deref().unwrap_or_default() == port
            && candidate.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
    });
    named.filter_map(|port| port.port).filter_map(|port| u16::try_from(port).ok())
}

/// Absent readiness means ready, as the API says; what ends gets nothing new.
pub(crate) fn serves(endpoint: &SliceEndpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.is_none_or(|conditions| conditions.ready != Some(false) && conditions.terminating != Some(true))
}
