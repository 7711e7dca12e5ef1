//! Which addresses and ports a Service reaches, Pod by Pod.
//!
//! Invariants: a Pod that has ended is no target. A container port is reached at the port that the node noted for it in the
//! Pod's annotation, and at itself when none is noted. A named port that a Pod doesn't have is left out for that Pod alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use resources::names::PORTS_ANNOTATION;

use super::{is_headless, publishes_not_ready, selector, selects};
use crate::pods;

/// One port as endpoints have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// One Pod as a target of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) address: String,
    pub(crate) family: Family,
    pub(crate) ports: Vec<Port>,
    /// May get new requests.
    pub(crate) ready: bool,
    /// Passes its readiness probe.
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

/// The address families that a Service wants.
pub(crate) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let declared: Vec<Family> = spec
        .and_then(|spec| spec.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if !declared.is_empty() {
        return declared;
    }
    let cluster_ip: Option<IpAddr> = spec.and_then(|spec| spec.cluster_ip.as_ref()?.parse().ok());
    match cluster_ip {
        Some(IpAddr::V6(_)) => vec![Family::V6],
        _ => vec![Family::V4],
    }
}

/// The targets of a Service among the Pods of its namespace, by name.
pub(crate) fn targets<'a>(service: &Service, all: &[&'a Pod]) -> Vec<Target<'a>> {
    let Some(wanted) = selector(service) else { return Vec::new() };
    let families = families(service);
    let publish = publishes_not_ready(service);
    let mut targets = Vec::new();
    for pod in all.iter().filter(|pod| selects(wanted, pod) && !pods::has_ended(pod)) {
        let serving = pods::is_ready(pod);
        let terminating = pods::is_going(pod);
        for family in &families {
            let Some(address) = address(pod, *family) else { continue };
            targets.push(Target {
                pod,
                address,
                family: *family,
                ports: ports(service, pod),
                ready: publish || (serving && !terminating),
                serving,
                terminating,
            });
        }
    }
    targets
}

fn address(pod: &Pod, family: Family) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    all.into_iter()
        .find(|text| match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => family == Family::V4,
            Ok(IpAddr::V6(_)) => family == Family::V6,
            Err(_) => false,
        })
        .map(str::to_owned)
}

fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let noted = noted_ports(pod);
    let declared = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let mut ports: Vec<Port> = declared
        .into_iter()
        .flatten()
        .filter_map(|port| {
            let container_port = container_port(port, pod)?;
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: noted.get(&container_port).copied().unwrap_or(container_port),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// The port in the Pod that a Service's port stands for.
fn container_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            // Init containers that keep running (sidecars) serve as well.
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|declared| {
                    declared.name.as_deref() == Some(name.as_str())
                        && declared.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|declared| declared.container_port)
        }
    }
}

/// What the node noted: container port to the port it is reached at.
fn noted_ports(pod: &Pod) -> BTreeMap<i32, i32> {
    let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(PORTS_ANNOTATION));
    let noted: BTreeMap<String, i32> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    noted.into_iter().filter_map(|(port, host)| Some((port.parse().ok()?, host))).collect()
}

/// The host name under which a headless Service knows the Pod.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| named && !name.is_empty())
}

/// The labels that a Service's endpoints carry, apart from those of their controller.
pub(crate) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(super::HEADLESS);
    if is_headless(service) {
        labels.insert(super::HEADLESS.to_owned(), String::new());
    }
    labels
}
