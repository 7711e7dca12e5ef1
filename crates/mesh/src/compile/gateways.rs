//! Gateways of our classes: which of their listeners serve, and merged into which sockets.
//!
//! Listeners on one port share a socket, whichever Gateways they belong to, and are told apart by host name. Within a
//! Gateway two listeners with the same port, protocol and hostname conflict, and neither serves. Across Gateways they
//! are merged; where protocols differ, the younger Gateway gets an address of its own, while there are any.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy::secured::{ClientCertificate, Clients};
use proxy::snapshot::{
    Action, Certificate, Forwarded, Guard, HostMatch, Listener, ListenerProtocol, Rule, ServerName, VirtualHost,
};
use resources::gateway::gateways::Gateway;

use super::access::Policies;
use super::addresses::{self, Own};
use super::certificates::{self, Found, SecretVersion};
use super::hosts;
use super::index::{Index, by_age, key};
use super::kind::RouteKind;
use super::listeners::{Lane, Protocol};
use super::routes::{Candidate, Compiled};
use super::sets::Set;
use super::verdict::{Fault, reason};
use super::{FALLBACK_OFFSET, PRIVILEGED};
use crate::config::Settings;
use crate::handle::GATEWAY_PREFIX;
use crate::world::World;

/// A Gateway and its listeners.
pub(super) struct Owned<'w> {
    pub(super) gateway: &'w Gateway,
    /// Which Gateway it belongs to, where it is a ListenerSet.
    pub(super) parent: Option<usize>,
    pub(super) lanes: Vec<Lane>,
    /// Why the Gateway as a whole cannot be accepted or programmed.
    pub(super) fault: Option<Fault>,
    /// Where it is served: what it asks for, and once all are known what it has got.
    addresses: Vec<IpAddr>,
    /// What it shows to backends that ask for a certificate.
    pub(super) client: Result<Option<Arc<ClientCertificate>>, Fault>,
}

/// The positions of a Gateway and of a listener in it.
type ListenerPlace = (usize, usize);

/// A socket, and all that is served on it.
pub(super) struct Group {
    pub(super) id: Arc<str>,
    port: u16,
    protocol: Protocol,
    bind: SocketAddr,
    fallback: Option<SocketAddr>,
    /// What its clients are asked to show.
    clients: Option<Clients>,
    /// The distinct hostnames of its listeners.
    listeners: Vec<HostMatch>,
    /// By Secret, so that one that several listeners name is there once.
    certificates: BTreeMap<SecretVersion, (Found, Vec<HostMatch>)>,
    /// What routes have put there, and by which listeners.
    hosts: BTreeMap<HostMatch, Vec<(Candidate, ListenerPlace)>>,
    /// Why it cannot be bound at all.
    pub(super) unavailable: Option<String>,
}

/// All Gateways of ours, oldest first.
pub(super) struct Gateways<'w> {
    pub(super) owned: Vec<Owned<'w>>,
    pub(super) groups: Vec<Group>,
    /// By whether it is a ListenerSet, namespace and name.
    positions: HashMap<(bool, &'w str, &'w str), usize>,
}

impl<'w> Gateways<'w> {
    pub(super) fn new(
        world: &'w World,
        sets: &'w [Set],
        index: &Index<'w>,
        settings: &Settings,
        classes: &HashSet<&str>,
    ) -> Self {
        let mut gateways = Self { owned: Vec::new(), groups: Vec::new(), positions: HashMap::new() };
        for position in by_age(&world.gateways) {
            let gateway: &'w Gateway = &world.gateways[position];
            if !classes.contains(gateway.spec.gateway_class_name.as_str()) {
                continue;
            }
            let listeners = gateway.spec.listeners.iter();
            let mut lanes: Vec<Lane> = listeners
                .map(|listener| Lane::new("Gateway", (gateway, gateway), listener, index, &world.rejected))
                .collect();
            mark_conflicts(&mut lanes);
            let (addresses, fault) = match whole(gateway) {
                Ok(addresses) => (addresses, None),
                Err(fault) => (Vec::new(), Some(fault)),
            };
            let (namespace, name) = key(&gateway.metadata);
            gateways.positions.insert((false, namespace, name), gateways.owned.len());
            gateways.owned.push(Owned {
                gateway,
                parent: None,
                lanes,
                fault,
                addresses,
                client: certificates::client(gateway, index, &world.rejected),
            });
        }
        for set in sets {
            gateways.add_set(set, index, world);
        }
        gateways.group(settings);
        gateways
    }

    /// Adds a ListenerSet. Its listeners give way to those of its Gateway, and of older sets.
    fn add_set(&mut self, set: &'w Set, index: &Index<'w>, world: &World) {
        let Some(parent) = self.position(false, &set.parent.0, &set.parent.1) else { return };
        let gateway = &set.gateway;
        let (listeners, home) = (gateway.spec.listeners.iter(), self.owned[parent].gateway);
        let mut lanes: Vec<Lane> = listeners
            .map(|listener| Lane::new("ListenerSet", (gateway, home), listener, index, &world.rejected))
            .collect();
        mark_conflicts(&mut lanes);
        let siblings = self
            .owned
            .iter()
            .enumerate()
            .filter(|(at, owned)| *at == parent || (owned.parent == Some(parent) && owned.fault.is_none()));
        let before: Vec<&Lane> =
            siblings.flat_map(|(_, owned)| &owned.lanes).filter(|lane| lane.conflict.is_none()).collect();
        // A port has one protocol over TCP, also where it would be one that is not served.
        let over_tcp = |lane: &&mut Lane| lane.protocol.is_some() || lane.written_protocol == "TCP";
        for lane in lanes.iter_mut().filter(over_tcp) {
            let same = before.iter().filter(|other| other.port == lane.port && other.protocol.is_some());
            let mut same = same.filter(|other| other.protocol != lane.protocol || other.host == lane.host);
            if let Some(other) = same.next() {
                let why =
                    if other.protocol == lane.protocol { reason::HOSTNAME_CONFLICT } else { reason::PROTOCOL_CONFLICT };
                let message = format!("listener {}, which comes first, has port {} too", other.name, lane.port);
                lane.conflict = Some(Fault::new(why, message));
            }
        }
        let fault = set.fault.clone().or_else(|| {
            let message = format!("Gateway {}/{} is not accepted", set.parent.0, set.parent.1);
            self.owned[parent].fault.as_ref().map(|_| Fault::new(reason::PARENT_NOT_ACCEPTED, message))
        });
        let (namespace, name) = key(&gateway.metadata);
        self.positions.insert((true, namespace, name), self.owned.len());
        self.owned.push(Owned {
            gateway,
            parent: Some(parent),
            lanes,
            fault,
            addresses: Vec::new(),
            client: self.owned[parent].client.clone(),
        });
    }

    /// The position of a Gateway, or ListenerSet, of ours.
    pub(super) fn position(&self, set: bool, namespace: &str, name: &str) -> Option<usize> {
        self.positions.get(&(set, namespace, name)).copied()
    }

    /// Merges the listeners that can serve into sockets, and gives each socket its address.
    fn group(&mut self, settings: &Settings) {
        let mut own = Own::new(settings, self.owned.iter().flat_map(|owned| owned.addresses.iter().copied()));
        for position in 0..self.owned.len() {
            let owned = &self.owned[position];
            if owned.fault.is_some() {
                continue;
            }
            let addresses = match owned.parent {
                Some(parent) => self.owned[parent].addresses.clone(),
                None if owned.addresses.is_empty() => {
                    vec![self.shared_or_own(owned, settings.gateway_address, &mut own)]
                }
                None => owned.addresses.clone(),
            };
            self.owned[position].addresses.clone_from(&addresses);
            for address in addresses {
                self.join(position, address, settings.gateway_address);
            }
        }
        self.assign(settings);
    }

    /// The address that Gateways share, or another one where a listener of this Gateway cannot be told from what is there.
    fn shared_or_own(&self, owned: &Owned<'_>, shared: IpAddr, own: &mut Own<'_>) -> IpAddr {
        let mut groups = owned.lanes.iter().filter_map(|lane| Some((lane, self.group_at(shared, lane.port)?)));
        // Who must not be let in at a port must not come to others' listeners there either.
        let fits = |lane: &Lane, group: usize| {
            if lane.shut() { false } else { !lane.valid() || self.groups[group].takes(lane) }
        };
        let apart = groups.all(|(lane, group)| fits(lane, group));
        if apart { shared } else { own.take(owned.gateway).unwrap_or(shared) }
    }

    fn group_at(&self, address: IpAddr, port: u16) -> Option<usize> {
        self.groups.iter().position(|group| group.bind.ip() == address && group.port == port)
    }

    /// Puts the listeners of one owner on their sockets of an address.
    fn join(&mut self, owner: usize, address: IpAddr, shared: IpAddr) {
        for position in 0..self.owned[owner].lanes.len() {
            let lane = &self.owned[owner].lanes[position];
            let Some(protocol) = lane.protocol.filter(|_| lane.valid()) else { continue };
            let group = self.group_at(address, lane.port).unwrap_or_else(|| {
                self.groups.push(Group::new(lane, protocol, address, address == shared));
                self.groups.len() - 1
            });
            if self.groups[group].takes(lane) {
                self.groups[group].join(lane);
                self.owned[owner].lanes[position].groups.push(group);
            } else {
                let message =
                    format!("port {} is served with another protocol, or for other clients, by another one", lane.port);
                self.owned[owner].lanes[position].conflict = Some(Fault::new(reason::PROTOCOL_CONFLICT, message));
            }
        }
    }

    /// The first HTTP socket gets the port that was asked for; the others theirs, where that is still free.
    fn assign(&mut self, settings: &Settings) {
        let is_first = |group: &Group| group.protocol == Protocol::Http && group.bind.ip() == settings.gateway_address;
        let first = self.groups.iter().position(is_first);
        let mut taken = HashSet::new();
        if let (Some(first), Some(port)) = (first, settings.first_gateway_port) {
            self.groups[first].bind.set_port(port);
            taken.insert(self.groups[first].bind);
        }
        let wanted: HashSet<SocketAddr> = self.groups.iter().map(|group| group.bind).collect();
        for (position, group) in self.groups.iter_mut().enumerate() {
            if Some(position) == first && settings.first_gateway_port.is_some() {
                continue;
            }
            if !taken.insert(group.bind) {
                group.unavailable =
                    Some(format!("{} is taken by the first HTTP listener, whose port was set at start", group.bind));
            }
            // Only a privileged port can be refused for want of permission.
            let fallback = group.port.checked_add(FALLBACK_OFFSET).filter(|_| group.port < PRIVILEGED);
            let fallback = fallback.map(|port| SocketAddr::new(group.bind.ip(), port));
            group.fallback = fallback.filter(|address| !wanted.contains(address));
        }
    }

    /// Puts a route's candidates on the hosts that it shares with a listener; the names that belong to a more specific
    /// listener are left out.
    pub(super) fn attach(
        &mut self,
        kind: RouteKind,
        gateway: usize,
        lane: usize,
        shared: &[HostMatch],
        candidates: &[Candidate],
    ) {
        let position = (gateway, lane);
        let lane = &mut self.owned[gateway].lanes[lane];
        lane.attached += 1;
        lane.hosts.extend(shared.iter().map(|host| (kind, host.clone())));
        for group in &lane.groups {
            let group = &mut self.groups[*group];
            for host in shared {
                if hosts::owner(&group.listeners, host) == Some(&lane.host) {
                    let placed = candidates.iter().map(|candidate| (*candidate, position));
                    group.hosts.entry(host.clone()).or_default().extend(placed);
                }
            }
        }
    }

    /// The proxy's listeners, and which Secret each of their certificates is from.
    pub(super) fn listeners(
        &mut self,
        routes: &[Compiled],
        policies: &mut Policies<'w>,
    ) -> (Vec<Listener>, BTreeMap<Arc<str>, Vec<SecretVersion>>) {
        let mut sources = BTreeMap::new();
        let served = self.groups.iter_mut().filter(|group| group.unavailable.is_none());
        let mut doors = Doors { owned: &self.owned, policies };
        let listeners = served.map(|group| group.listener(routes, &mut doors, &mut sources)).collect();
        (listeners, sources)
    }
}

impl Group {
    /// A socket of the address that Gateways share goes by its port alone.
    fn new(lane: &Lane, protocol: Protocol, address: IpAddr, shared: bool) -> Self {
        let port = lane.port;
        let bind = SocketAddr::new(address, port);
        let id = if shared { format!("{GATEWAY_PREFIX}{port}") } else { format!("{GATEWAY_PREFIX}{bind}") };
        Self {
            id: id.into(),
            port,
            protocol,
            bind,
            fallback: None,
            clients: lane.clients.clone(),
            listeners: Vec::new(),
            certificates: BTreeMap::new(),
            hosts: BTreeMap::new(),
            unavailable: None,
        }
    }

    /// Whether a listener can share the socket.
    fn takes(&self, lane: &Lane) -> bool {
        lane.protocol == Some(self.protocol) && lane.clients == self.clients
    }

    fn join(&mut self, lane: &Lane) {
        if !self.listeners.contains(&lane.host) {
            self.listeners.push(lane.host.clone());
        }
        for found in &lane.certificates {
            let entry = self.certificates.entry(found.secret.clone());
            let (_, hosts) = entry.or_insert_with(|| (found.clone(), Vec::new()));
            if !hosts.contains(&lane.host) {
                hosts.push(lane.host.clone());
            }
        }
    }

    fn listener(
        &mut self,
        routes: &[Compiled],
        doors: &mut Doors<'_, '_>,
        sources: &mut BTreeMap<Arc<str>, Vec<SecretVersion>>,
    ) -> Listener {
        // A listener without routes still has its hostname, so that requests to it don't reach a wider listener's routes.
        for host in &self.listeners {
            self.hosts.entry(host.clone()).or_default();
        }
        if matches!(self.protocol, Protocol::Tls | Protocol::EndedTls) {
            return self.by_server_name(routes, doors, sources);
        }
        let hosts = std::mem::take(&mut self.hosts).into_iter().map(|(host, mut placed)| {
            placed.sort_unstable();
            placed.dedup();
            let rules = placed.chunk_by(|one, other| one.0 == other.0).map(|same| {
                let guard = doors.guard(same.iter().map(|(_, lane)| *lane));
                let candidate = same[0].0;
                let client = doors.client(same.iter().map(|(_, lane)| *lane));
                Rule { client, ..routes[candidate.route].rule(candidate, guard.through, guard.places) }
            });
            let rules = rules.collect();
            VirtualHost { host, rules }
        });
        let hosts = hosts.collect();
        let protocol = match self.protocol {
            Protocol::Https => ListenerProtocol::Https {
                certificates: self.certificates(sources),
                clients: self.clients.clone(),
                apart: if self.listeners.len() > 1 { self.listeners.clone() } else { Vec::new() },
            },
            Protocol::Http | Protocol::Tls | Protocol::EndedTls => ListenerProtocol::Http,
        };
        Listener {
            id: Arc::clone(&self.id),
            bind: self.bind,
            fallback: self.fallback,
            protocol,
            forwarded: Forwarded::Replace,
            admits: proxy::snapshot::Admits::Anybody,
            peer_name: None,
            shows: None,
            for_callers: Vec::new(),
            hosts,
        }
    }

    /// A listener that hands TLS, or what is in it, on by its server name: of the routes for one name, the oldest has it.
    fn by_server_name(
        &mut self,
        routes: &[Compiled],
        doors: &mut Doors<'_, '_>,
        sources: &mut BTreeMap<Arc<str>, Vec<SecretVersion>>,
    ) -> Listener {
        let names = std::mem::take(&mut self.hosts).into_iter().map(|(host, mut placed)| {
            placed.sort_unstable();
            let first = placed.first().map(|(first, _)| *first);
            let lanes = placed.iter().filter(|(candidate, _)| Some(*candidate) == first).map(|(_, lane)| *lane);
            let guard = doors.guard(lanes);
            let rule = first.map(|first| routes[first.route].rule(first, guard.through, guard.places));
            let (backends, guard) = match rule.map(|rule| (rule.action, rule.guard)) {
                Some((Action::Forward { backends }, guard)) => (backends, guard),
                Some((Action::Respond { .. }, guard)) => (Vec::new(), guard),
                None => (Vec::new(), Guard::default()),
            };
            ServerName { host, backends, guard }
        });
        let names = names.collect();
        let ends = self.protocol == Protocol::EndedTls;
        let certificates = if ends { self.certificates(sources) } else { Vec::new() };
        Listener {
            id: Arc::clone(&self.id),
            bind: self.bind,
            fallback: self.fallback,
            protocol: ListenerProtocol::Tls { certificates, names },
            forwarded: Forwarded::Replace,
            admits: proxy::snapshot::Admits::Anybody,
            peer_name: None,
            shows: None,
            for_callers: Vec::new(),
            hosts: Vec::new(),
        }
    }

    /// The certificates, those for every name first: the first is the one for clients that send no name.
    fn certificates(&self, sources: &mut BTreeMap<Arc<str>, Vec<SecretVersion>>) -> Vec<Certificate> {
        let mut ordered: Vec<_> = self.certificates.iter().collect();
        ordered.sort_by_key(|(_, (_, hosts))| !hosts.contains(&HostMatch::Any));
        sources.insert(Arc::clone(&self.id), ordered.iter().map(|(secret, _)| (*secret).clone()).collect());
        let certificates = ordered.into_iter().map(|(_, (found, hosts))| Certificate {
            hosts: if hosts.contains(&HostMatch::Any) { Vec::new() } else { hosts.clone() },
            chain: Arc::clone(&found.chain),
            key: Arc::clone(&found.key),
        });
        certificates.collect()
    }
}

/// The listeners of Gateways as what requests come through.
struct Doors<'d, 'w> {
    owned: &'d [Owned<'w>],
    policies: &'d mut Policies<'w>,
}

impl Doors<'_, '_> {
    /// What those who come through these listeners have shown for them: by the oldest Gateway that has something to show.
    fn client(&self, mut lanes: impl Iterator<Item = (usize, usize)>) -> Option<Arc<ClientCertificate>> {
        lanes.find_map(|(gateway, _)| self.owned[gateway].client.as_ref().ok()?.clone())
    }

    /// Who may come through these listeners, given as positions of Gateway and listener.
    fn guard(&mut self, lanes: impl Iterator<Item = (usize, usize)>) -> Guard {
        let mut guard = Guard::default();
        for (gateway, lane) in lanes {
            let owned = &self.owned[gateway];
            let (namespace, name) = key(&self.owned[owned.parent.unwrap_or(gateway)].gateway.metadata);
            let through: Arc<str> = format!("{namespace}/{name}").into();
            if !guard.through.contains(&through) {
                guard.through.push(through);
            }
            guard.places.extend(self.policies.of_listener(self.owned, gateway, &owned.lanes[lane].name));
        }
        guard
    }
}

/// Marks every listener that another one of the same Gateway cannot be told from.
fn mark_conflicts(lanes: &mut [Lane]) {
    for position in 0..lanes.len() {
        let lane = &lanes[position];
        let others = || lanes.iter().enumerate().filter(|(other, _)| *other != position).map(|(_, other)| other);
        let same_port = || others().filter(|other| other.port == lane.port && other.protocol.is_some());
        let conflict = if lane.protocol.is_none() {
            None
        } else if let Some(other) = same_port().find(|other| other.protocol != lane.protocol) {
            let message = format!("listener {} has port {} too, with another protocol", other.name, lane.port);
            Some(Fault::new(reason::PROTOCOL_CONFLICT, message))
        } else {
            same_port().find(|other| other.host == lane.host).map(|other| {
                let host = hosts::display(&lane.host);
                let message = format!("listener {} has port {} and hostname {host} too", other.name, lane.port);
                Fault::new(reason::HOSTNAME_CONFLICT, message)
            })
        };
        lanes[position].conflict = conflict;
    }
}

/// The addresses that a Gateway asks for, or what is wrong with it apart from its listeners.
fn whole(gateway: &Gateway) -> Result<Vec<IpAddr>, Fault> {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    if infrastructure.is_some_and(|infrastructure| infrastructure.parameters_ref.is_some()) {
        let message = "spec.infrastructure.parametersRef is not supported; there are no parameters to set";
        return Err(Fault::new(reason::INVALID_PARAMETERS, message));
    }
    addresses::asked(gateway)
}
