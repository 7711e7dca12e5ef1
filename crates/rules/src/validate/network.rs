//! Services, Endpoints and EndpointSlices.

use super::{list, metadata, names, one_of, port_number, port_or_name, protocol, text};
use crate::field::{FieldError, FieldErrorKind};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

pub(super) fn service(obj: &Value, wrong: &mut Vec<FieldError>) {
    let spec = &obj["spec"];
    let kind = text(spec, "/type");
    let headless = text(spec, "/clusterIP") == "None";
    let ports = list(spec, "/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        wrong.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" if headless => {
            wrong.push(FieldError::invalid(
                "spec.clusterIP",
                "None",
                "may not be set to 'None' for LoadBalancer services",
            ));
        }
        "NodePort" if headless => {
            wrong.push(FieldError::invalid("spec.clusterIP", "None", "may not be set to 'None' for NodePort services"));
        }
        "ExternalName" => {
            let name = text(spec, "/externalName").trim_end_matches('.');
            if name.is_empty() {
                wrong.push(FieldError::required("spec.externalName", ""));
            } else {
                wrong.extend(
                    names::dns_subdomain(name)
                        .into_iter()
                        .map(|why| FieldError::invalid("spec.externalName", name, why)),
                );
            }
            if !text(spec, "/clusterIP").is_empty() {
                wrong.push(FieldError::forbidden("spec.clusterIP", "may not be set when `type` is 'ExternalName'"));
            }
        }
        _ => {}
    }
    one_of(&spec["type"], "spec.type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], wrong);
    one_of(&spec["sessionAffinity"], "spec.sessionAffinity", &["ClientIP", "None"], wrong);
    let cluster_ip = text(spec, "/clusterIP");
    if !cluster_ip.is_empty() && !headless && cluster_ip.parse::<IpAddr>().is_err() {
        wrong.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            cluster_ip,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
    metadata::labels(&spec["selector"], "spec.selector", wrong);
    service_ports(ports, wrong);
}

fn service_ports(ports: &[Value], wrong: &mut Vec<FieldError>) {
    let mut named = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        let name = text(port, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                wrong.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else {
            wrong.extend(
                names::dns_label(name).into_iter().map(|why| FieldError::invalid(format!("{path}.name"), name, why)),
            );
            if !named.insert(name) {
                wrong.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        port_number(&port["port"], &format!("{path}.port"), wrong);
        protocol(&port["protocol"], &format!("{path}.protocol"), wrong);
        if !port["targetPort"].is_null() {
            port_or_name(&port["targetPort"], &format!("{path}.targetPort"), wrong);
        }
        if !numbers.insert((text(port, "/protocol"), port["port"].as_i64())) {
            wrong.push(FieldError::duplicate(
                &*path,
                serde_json::json!({"port": port["port"], "protocol": port["protocol"]}),
            ));
        }
    }
}

pub(super) fn endpoints(obj: &Value, wrong: &mut Vec<FieldError>) {
    for (at, subset) in list(obj, "/subsets").iter().enumerate() {
        let path = format!("subsets[{at}]");
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            wrong.push(FieldError::required(&*path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (at, address) in list(subset, &format!("/{field}")).iter().enumerate() {
                let ip = text(address, "/ip");
                if ip.parse::<IpAddr>().is_err() {
                    wrong.push(FieldError::invalid(
                        format!("{path}.{field}[{at}].ip"),
                        ip,
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    ));
                }
            }
        }
        let ports = list(subset, "/ports");
        for (at, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{at}]");
            if ports.len() > 1 && text(port, "/name").is_empty() {
                wrong.push(FieldError::required(format!("{path}.name"), ""));
            }
            port_number(&port["port"], &format!("{path}.port"), wrong);
            protocol(&port["protocol"], &format!("{path}.protocol"), wrong);
        }
    }
}

pub(super) fn endpoint_slice(obj: &Value, wrong: &mut Vec<FieldError>) {
    let family = text(obj, "/addressType");
    match family {
        "" => wrong.push(FieldError::required("addressType", "")),
        _ => one_of(&obj["addressType"], "addressType", &["FQDN", "IPv4", "IPv6"], wrong),
    }
    let endpoints = list(obj, "/endpoints");
    if endpoints.len() > 1000 {
        wrong.push(FieldError::new(
            FieldErrorKind::TooMany,
            "endpoints",
            Some(endpoints.len().into()),
            "must have at most 1000 items",
        ));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{at}].addresses");
        let addresses = list(endpoint, "/addresses");
        if addresses.is_empty() {
            wrong.push(FieldError::required(&*path, "must contain at least 1 endpoint address"));
        }
        for (at, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let fits = match (family, address.parse::<IpAddr>()) {
                ("IPv4", Ok(ip)) => ip.is_ipv4(),
                ("IPv6", Ok(ip)) => ip.is_ipv6(),
                ("IPv4" | "IPv6", Err(_)) => false,
                _ => true,
            };
            if !fits {
                wrong.push(FieldError::invalid(
                    format!("{path}[{at}]"),
                    address,
                    format!("must be a valid {family} address"),
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (at, port) in list(obj, "/ports").iter().enumerate() {
        let name = text(port, "/name");
        if !seen.insert(name) {
            wrong.push(FieldError::duplicate(format!("ports[{at}].name"), name));
        }
        if !name.is_empty() {
            wrong.extend(
                names::dns_label(name)
                    .into_iter()
                    .map(|why| FieldError::invalid(format!("ports[{at}].name"), name, why)),
            );
        }
        protocol(&port["protocol"], &format!("ports[{at}].protocol"), wrong);
    }
}
