//! The variables that tell a container its Services, as a kubelet makes them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// On which port a Service's port is really reached.
pub(crate) trait Reached {
    /// `None` = as declared.
    fn port(&self, address: IpAddr, port: u16) -> Option<u16>;
}

impl<F: Fn(IpAddr, u16) -> Option<u16>> Reached for F {
    fn port(&self, address: IpAddr, port: u16) -> Option<u16> {
        self(address, port)
    }
}

/// The Services that a Pod of a namespace is told of, out of all: its namespace's, and the API's own.
pub(crate) fn services_for(namespace: &str, all: impl IntoIterator<Item = Service>) -> Vec<Service> {
    let told = |s: &Service| s.metadata.namespace.as_deref() == Some(namespace) || is_api(s);
    let mut services: Vec<Service> = all.into_iter().filter(told).collect();
    services.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
    services
}

fn is_api(service: &Service) -> bool {
    service.metadata.namespace.as_deref() == Some("default") && service.metadata.name.as_deref() == Some("kubernetes")
}

/// The address of a Service that has one.
pub(crate) fn address(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

pub(super) fn variables(
    services: &[Service],
    namespace: &str,
    links: bool,
    reached: &dyn Reached,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    // The API's Service is always told; a Service of the same name in the Pod's own namespace takes its place.
    let own = |s: &&Service| links && s.metadata.namespace.as_deref() == Some(namespace);
    for service in services.iter().filter(|s| is_api(s)).chain(services.iter().filter(own)) {
        one(service, reached, &mut env);
    }
    env
}

fn one(service: &Service, reached: &dyn Reached, env: &mut BTreeMap<String, String>) {
    let (Some(address), Some(name)) = (address(service), service.metadata.name.as_deref()) else { return };
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let actual = |port: &ServicePort| {
        let declared = u16::try_from(port.port).unwrap_or_default();
        reached.port(address, declared).unwrap_or(declared)
    };
    let url = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        format!("{protocol}://{address}:{}", actual(port))
    };
    let prefix = super::variable("", name);
    env.insert(format!("{prefix}_SERVICE_HOST"), address.to_string());
    env.insert(format!("{prefix}_SERVICE_PORT"), actual(first).to_string());
    env.insert(format!("{prefix}_PORT"), url(first));
    for port in ports {
        if let Some(name) = &port.name {
            env.insert(super::variable(&format!("{prefix}_SERVICE_PORT_"), name), actual(port).to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_uppercase();
        let each = format!("{prefix}_PORT_{}_{protocol}", port.port);
        env.insert(format!("{each}_PROTO"), protocol.to_ascii_lowercase());
        env.insert(format!("{each}_PORT"), actual(port).to_string());
        env.insert(format!("{each}_ADDR"), address.to_string());
        env.insert(each, url(port));
    }
}
