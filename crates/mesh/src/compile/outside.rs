//! Endpoints by name: of Services of type ExternalName, and of EndpointSlices of names (`addressType: FQDN`).
//!
//! Names of the cluster itself are none: what they stand for is called as a Service, past whoever guards it. What a name
//! outside stands for is judged when it is resolved, by the proxy.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proxy::snapshot::{Filter, NamedEndpoint};
use resources::names::DOMAIN;

use super::backends::{numbers, serves};

/// The type of slices of names.
const FQDN: &str = "FQDN";

/// The name that a Service stands for, where it is one of type ExternalName.
pub(super) fn external(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        Some(spec.external_name.as_deref().unwrap_or_default())
    } else {
        None
    }
}

/// Whether a name is the cluster's own, or none at all.
pub(super) fn is_inside(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let below = host.strip_suffix(DOMAIN).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    host.is_empty() || below || host.ends_with(".svc")
}

/// Whether a slice has names.
pub(super) fn has_names(slice: &EndpointSlice) -> bool {
    slice.address_type == FQDN
}

/// The names that a Service's port sends to, in order and without repetitions.
pub(super) fn names(
    service: &Service,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    local: bool,
) -> Vec<NamedEndpoint> {
    let own = external(service).zip(u16::try_from(port.port).ok());
    let listed = slices.iter().filter(|slice| has_names(slice)).flat_map(|slice| {
        let hosts = slice.endpoints.iter().filter(|endpoint| serves(endpoint)).flat_map(|endpoint| &endpoint.addresses);
        let numbers: Vec<u16> = numbers(slice, port.name.as_deref().unwrap_or_default()).collect();
        hosts.flat_map(move |host| numbers.clone().into_iter().map(move |number| (host.as_str(), number)))
    });
    let mut found: Vec<NamedEndpoint> = Vec::new();
    for (host, port) in own.into_iter().chain(listed).filter(|(host, _)| !is_inside(host)) {
        let host: Arc<str> = host.trim_end_matches('.').to_ascii_lowercase().into();
        let name = NamedEndpoint { host, port, local, tls: None };
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// What a request's host becomes on its way to a backend of one name alone, which knows itself by that.
pub(super) fn rewrite(names: &[NamedEndpoint]) -> Option<Filter> {
    let [name] = names else { return None };
    let host = match name.port {
        80 | 443 => Arc::clone(&name.host),
        port => format!("{}:{port}", name.host).into(),
    };
    Some(Filter::Rewrite { host: Some(host), path: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_are_told() {
        for (host, inside) in [
            ("users.shop.svc.cluster.local", true),
            ("Users.shop.svc.Cluster.Local.", true),
            ("cluster.local", true),
            ("users.shop.svc", true),
            ("", true),
            ("example.com", false),
            ("mycluster.local", false),
            ("localhost", false),
        ] {
            assert_eq!(is_inside(host), inside, "{host}");
        }
    }
}
