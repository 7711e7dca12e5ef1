//! A listener for every port of every Service that has a cluster address.
//!
//! Routes whose parent is the Service (Gateway API for mesh) replace what such a listener does with HTTP; without one, all
//! goes to the Service's own endpoints. Those of another namespace replace it for the callers of that namespace, whatever
//! routes the Service's own namespace has. Headless Services and ExternalName have no address to listen on.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use kube::Resource;
use proxy::snapshot::{
    Action, Admits, BackendId, CallerRules, Filter, Forwarded, Guard, HostMatch, Listener, ListenerProtocol, Match,
    Rule, Timeouts, VirtualHost, Weighted,
};

use super::admission::Admission;
use super::backends::Backends;
use super::egress;
use super::index::key;
use super::outside;
use super::peers;
use super::speech::{Speech, speech, transport};
use super::traffic::Traffic;
use super::{FALLBACK_OFFSET, Notice, PRIVILEGED};
use crate::handle::SERVICE_PREFIX;
use crate::identity::TrustDomain;

/// A listener of a Service's port, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePortPlan {
    /// The Service, for Events.
    pub service: ObjectReference,
    /// The cluster address.
    pub address: IpAddr,
    /// The declared port.
    pub port: u16,
    /// The listener's id in the snapshot.
    pub listener: Arc<str>,
}

/// What Services make.
#[derive(Default)]
pub(super) struct Made {
    pub(super) listeners: Vec<Listener>,
    pub(super) ports: Vec<ServicePortPlan>,
    pub(super) notices: Vec<Notice>,
    taken: HashSet<SocketAddr>,
    named: HashSet<BackendId>,
}

/// What callers of a port are asked for, and what they are shown.
struct Asks {
    admits: Admits,
    shows: Option<Arc<str>>,
}

/// Rules that replace a Service port's own, by Service and port.
pub(super) type Overrides<'w> = BTreeMap<(&'w str, &'w str, u16), ByCallers>;

/// Rules by how the identities of the callers begin whom they are for; none for all others.
pub(super) type ByCallers = BTreeMap<Option<Arc<str>>, Vec<Rule>>;

impl Made {
    pub(super) fn add<'w>(
        &mut self,
        service: &'w Service,
        backends: &mut Backends<'w>,
        traffic: &Traffic,
        overrides: &mut Overrides<'w>,
        admission: &Admission<'w>,
    ) {
        let Some(spec) = &service.spec else { return };
        // The DNS server itself listens there, and the way out is no way to endpoints.
        let own = crate::dns::is_own(service) || egress::is_own(service);
        if outside::external(service).is_some() || own {
            return;
        }
        let addresses = addresses(spec.cluster_ips.as_deref().unwrap_or_default(), spec.cluster_ip.as_deref());
        if addresses.is_empty() {
            return;
        }
        for port in spec.ports.iter().flatten() {
            if transport(port) != "TCP" {
                self.notices.push(unsupported(service, port));
                continue;
            }
            let Ok(number @ 1..) = u16::try_from(port.port) else { continue };
            let backend = backends.of_port(service, port);
            let (namespace, name) = key(&service.metadata);
            let asks = Asks {
                admits: admission.of(service, port, backends.index()),
                shows: admission.shows(service, backends.index()),
            };
            let secured = backends.has_tls(service, port);
            let mut rules = overrides.remove(&(namespace, name, number)).unwrap_or_default();
            for address in &addresses {
                // The same rules again for a second address; all but dual-stack Services have one.
                let rules = if addresses.len() > 1 { rules.clone() } else { std::mem::take(&mut rules) };
                let bind = SocketAddr::new(*address, number);
                self.listen(
                    service,
                    (port, secured),
                    (bind, &asks),
                    &backend,
                    (traffic, backends.rewrite(&backend)),
                    rules,
                );
            }
        }
    }

    fn listen(
        &mut self,
        service: &Service,
        (port, secured): (&ServicePort, bool),
        (bind, asks): (SocketAddr, &Asks),
        backend: &BackendId,
        (traffic, rewrite): (&Traffic, Option<&Filter>),
        mut rules: ByCallers,
    ) {
        if !self.taken.insert(bind) {
            let note = format!("{bind} belongs to another Service already; this one is not served there");
            self.notices.push(Notice::warning(service.object_ref(&()), "AddressTaken", note));
            return;
        }
        let id: Arc<str> = match bind.ip() {
            IpAddr::V4(_) => format!("{SERVICE_PREFIX}{backend}").into(),
            IpAddr::V6(_) => format!("{SERVICE_PREFIX}{backend}/ipv6").into(),
        };
        let protocol = match speech(port) {
            Speech::Http | Speech::H2c | Speech::WebSocket => ListenerProtocol::Http,
            // A caller may leave TLS to the proxy; one that speaks it itself reaches the program.
            Speech::Tls if secured => ListenerProtocol::Sniff { tcp: Arc::clone(backend) },
            Speech::Tcp | Speech::Tls => ListenerProtocol::Tcp { backend: Arc::clone(backend) },
            Speech::Unknown => ListenerProtocol::Sniff { tcp: Arc::clone(backend) },
        };
        let for_all = rules.remove(&None);
        let (hosts, for_callers) = match protocol {
            ListenerProtocol::Tcp { .. } => (Vec::new(), Vec::new()),
            _ => {
                let rules_for_all = for_all.unwrap_or_else(|| vec![straight(backend, traffic, rewrite)]);
                let own =
                    rules.into_iter().filter_map(|(callers, rules)| Some(CallerRules { callers: callers?, rules }));
                (vec![VirtualHost { host: HostMatch::Any, rules: rules_for_all }], own.collect())
            }
        };
        self.ports.push(ServicePortPlan {
            service: service.object_ref(&()),
            address: bind.ip(),
            port: bind.port(),
            listener: Arc::clone(&id),
        });
        let fallback = (bind.port() < PRIVILEGED).then(|| SocketAddr::new(bind.ip(), bind.port() + FALLBACK_OFFSET));
        let (namespace, name) = key(&service.metadata);
        // Once, however many addresses a Service has.
        let first = self.named.insert(Arc::clone(backend));
        let peer_name = first.then(|| peers::name(namespace, name, bind.port()));
        self.listeners.push(Listener {
            id,
            bind,
            fallback,
            protocol,
            forwarded: Forwarded::Append,
            admits: asks.admits,
            peer_name,
            shows: asks.shows.clone(),
            hosts,
            for_callers,
        });
    }
}

/// How the identities of a namespace's Pods begin.
pub(super) fn callers_of(namespace: &str, domain: &TrustDomain) -> Arc<str> {
    format!("spiffe://{domain}/ns/{namespace}/").into()
}

/// All to the Service's own endpoints.
pub(super) fn straight(backend: &BackendId, traffic: &Traffic, rewrite: Option<&Filter>) -> Rule {
    Rule {
        id: Arc::clone(backend),
        matches: Match::default(),
        filters: Vec::new(),
        action: Action::Forward {
            backends: vec![Weighted {
                backend: Arc::clone(backend),
                weight: 1,
                filters: rewrite.cloned().into_iter().collect(),
                policy: traffic.of(backend, backend),
            }],
        },
        timeouts: Timeouts::default(),
        client: None,
        guard: Guard::default(),
    }
}

fn addresses(cluster_ips: &[String], cluster_ip: Option<&str>) -> Vec<IpAddr> {
    let listed = cluster_ips.iter().map(String::as_str);
    let mut found: Vec<IpAddr> = listed.chain(cluster_ip).filter_map(|address| address.parse().ok()).collect();
    let mut seen = HashSet::new();
    found.retain(|address| seen.insert(*address));
    found
}

fn unsupported(service: &Service, port: &ServicePort) -> Notice {
    let note = format!(
        "port {} is {}, which is not served yet: nothing listens on it; the TCP ports of this Service are served",
        port.port,
        transport(port)
    );
    Notice::warning(service.object_ref(&()), "UnsupportedProtocol", note)
}
