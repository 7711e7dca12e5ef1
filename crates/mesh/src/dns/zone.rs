//! All names below the cluster's domain, and their records, as of one moment. Pure.
//!
//! What there is follows Kubernetes' DNS-based service discovery 1.1.0: addresses of Services, `_port._protocol` (SRV), the ready
//! endpoints of headless Services and their hostnames, ExternalName as CNAME, addresses back to names (PTR).
//!
//! Invariants: the same objects make the same zone; a name that has names below it exists, if only without records; only
//! endpoints that are ready are named.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use domain::base::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use resources::names::{DOMAIN, SERVICE_NAME_LABEL};

use crate::compile::{key, serves};
use crate::world::World;

/// How many aliases in a row are followed.
const ALIASES: usize = 8;
/// What the specification calls itself.
const VERSION: &str = "1.1.0";

/// A name as it is written in messages.
pub(super) type WireName = Name<Bytes>;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Where a service's port is reached.
    Srv {
        /// The port.
        port: u16,
        /// The host.
        target: WireName,
    },
    /// The name of an address.
    Ptr(WireName),
    /// The name is another's.
    Cname(WireName),
    /// Text.
    Txt(&'static str),
    /// The server of the zone.
    Ns(WireName),
}

/// What is found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'z> {
    /// Records of the name.
    Records(&'z [Data]),
    /// An address that its own name tells (`10-1-2-3.shop.pod.cluster.local`).
    Address(IpAddr),
    /// There is no such name.
    Nothing,
    /// It is not for this zone to say.
    Elsewhere,
}

/// The names and their records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, Vec<Data>>,
}

impl Zone {
    /// The zone of a cluster. `actual` tells on which port a Service's declared one is really reached.
    #[must_use]
    pub fn new(world: &World, actual: &dyn Fn(IpAddr, u16) -> Option<u16>) -> Self {
        let mut zone = Self::default();
        zone.put(DOMAIN, wire(&format!("ns.dns.{DOMAIN}")).map(Data::Ns));
        zone.put(&format!("dns-version.{DOMAIN}"), Some(Data::Txt(VERSION)));
        for namespace in &world.namespaces {
            let name = key(&namespace.metadata).1;
            zone.put(&format!("{name}.svc.{DOMAIN}"), None);
            zone.put(&format!("{name}.pod.{DOMAIN}"), None);
        }
        let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in &world.slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
                slices.entry((key(&slice.metadata).0, service)).or_default().push(slice);
            }
        }
        for service in &world.services {
            let mine = slices.get(&key(&service.metadata)).map(Vec::as_slice).unwrap_or_default();
            zone.service(service, mine, actual);
            if super::is_own(service) {
                let addresses = addresses(service).map(data).collect();
                zone.put_all(&format!("ns.dns.{DOMAIN}"), addresses);
            }
        }
        zone
    }

    fn service(&mut self, service: &Service, slices: &[&EndpointSlice], actual: &dyn Fn(IpAddr, u16) -> Option<u16>) {
        let (namespace, name) = key(&service.metadata);
        let full = format!("{name}.{namespace}.svc.{DOMAIN}");
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            self.put(&full, spec.external_name.as_deref().and_then(wire).map(Data::Cname));
            return;
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            self.headless(&full, slices);
            return;
        }
        let target = wire(&full);
        for address in addresses(service) {
            self.put(&full, Some(data(address)));
            self.put(&reverse(address), target.clone().map(Data::Ptr));
        }
        let first = addresses(service).next();
        for port in spec.ports.iter().flatten() {
            let (Some(label), Ok(number)) = (port.name.as_deref(), u16::try_from(port.port)) else { continue };
            let number = first.and_then(|address| actual(address, number)).unwrap_or(number);
            let owner = srv(label, port.protocol.as_deref(), &full);
            self.put(&owner, target.clone().map(|target| Data::Srv { port: number, target }));
        }
    }

    fn headless(&mut self, full: &str, slices: &[&EndpointSlice]) {
        self.put(full, None);
        for slice in slices {
            for endpoint in slice.endpoints.iter().filter(|endpoint| serves(endpoint)) {
                for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                    let named = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
                    let label = named.map_or_else(|| dashed(address), str::to_owned);
                    let host = format!("{label}.{full}");
                    self.put(full, Some(data(address)));
                    self.put(&host, Some(data(address)));
                    // Pods that share the host's address share its name too.
                    if !address.is_loopback() {
                        self.put(&reverse(address), wire(&host).map(Data::Ptr));
                    }
                    for port in slice.ports.iter().flatten() {
                        let number = port.port.and_then(|number| u16::try_from(number).ok());
                        let (Some(name), Some(port_number)) = (port.name.as_deref(), number) else { continue };
                        let target = wire(&host).map(|target| Data::Srv { port: port_number, target });
                        self.put(&srv(name, port.protocol.as_deref(), full), target);
                    }
                }
            }
        }
    }

    /// Adds a record, or just the name, and the names above it. Nothing is there twice.
    fn put(&mut self, name: &str, record: Option<Data>) {
        self.put_all(name, record.into_iter().collect());
    }

    fn put_all(&mut self, name: &str, records: Vec<Data>) {
        if name.is_empty() {
            return;
        }
        if !self.names.contains_key(name) {
            let mut above = name;
            while let Some((_, rest)) = above.split_once('.') {
                if !below(rest) || self.names.contains_key(rest) {
                    break;
                }
                self.names.insert(rest.to_owned(), Vec::new());
                above = rest;
            }
        }
        let has = self.names.entry(name.to_ascii_lowercase()).or_default();
        for record in records {
            if !has.contains(&record) {
                has.push(record);
            }
        }
    }

    /// What there is under a name, in lower case and without a dot at its end.
    #[must_use]
    pub fn find(&self, name: &str) -> Found<'_> {
        if let Some(records) = self.names.get(name) {
            return Found::Records(records);
        }
        if !below(name) {
            return Found::Elsewhere;
        }
        self.pod(name).map_or(Found::Nothing, Found::Address)
    }

    /// The address that a Pod's name tells, where its namespace exists.
    fn pod(&self, name: &str) -> Option<IpAddr> {
        let (label, rest) = name.split_once('.')?;
        let namespace = rest.strip_suffix(DOMAIN)?.strip_suffix(".pod.")?;
        if namespace.contains('.') || !self.names.contains_key(rest) {
            return None;
        }
        let four = label.replace('-', ".").parse().map(IpAddr::V4);
        four.or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6)).ok()
    }

    /// The names that lead from `name` to the one that is no alias, each with its records. Ends at a name of others'.
    pub(super) fn follow(&self, name: &str) -> Vec<(String, Found<'_>)> {
        let mut seen = BTreeSet::new();
        let mut trail = Vec::new();
        let mut at = name.to_owned();
        while trail.len() < ALIASES && seen.insert(at.clone()) {
            let found = self.find(&at);
            let next = match &found {
                Found::Records(records) => records.iter().find_map(|record| match record {
                    Data::Cname(target) => Some(text(target)),
                    _ => None,
                }),
                _ => None,
            };
            trail.push((at, found));
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        trail
    }
}

/// Whether a name is the cluster's domain or below it.
fn below(name: &str) -> bool {
    name.strip_suffix(DOMAIN).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A name as it is looked up.
pub(super) fn text(name: &impl std::fmt::Display) -> String {
    name.to_string().trim_end_matches('.').to_ascii_lowercase()
}

fn wire(name: &str) -> Option<WireName> {
    name.parse().inspect_err(|error| tracing::debug!(name, %error, "left out: this is no DNS name")).ok()
}

fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.clone()).filter(|all| !all.is_empty());
    let all = all.unwrap_or_else(|| spec.and_then(|spec| spec.cluster_ip.clone()).into_iter().collect());
    all.into_iter().filter_map(|address| address.parse().ok())
}

fn data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    }
}

fn srv(port: &str, protocol: Option<&str>, full: &str) -> String {
    format!("_{port}._{}.{full}", protocol.unwrap_or("TCP")).to_ascii_lowercase()
}

/// The name that an endpoint without one has: its address.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The name that stands for an address (RFC 1035, 3.5; RFC 3596, 2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let mut name = String::new();
            for byte in address.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 15, byte >> 4);
            }
            name + "ip6.arpa"
        }
    }
}
