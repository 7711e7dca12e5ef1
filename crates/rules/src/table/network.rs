//! Services, endpoints, ingresses and network policies.

use super::{AGE, NAME, Printer, STRING, age, labels, list, name, or, or_none, selector, text};
use serde_json::Value;

/// At most this many items of a list are shown.
const SHOWN: usize = 3;

fn shorten(all: Vec<String>, nothing: &str) -> Value {
    let more = all.len().saturating_sub(SHOWN);
    let mut shown = all.into_iter().take(SHOWN).collect::<Vec<_>>().join(",");
    if more > 0 {
        shown.push_str(&format!(" + {more} more..."));
    }
    or(shown, nothing)
}

pub(super) const SERVICE: Printer = Printer {
    headings: &[
        NAME,
        ("Type", STRING, 0),
        ("Cluster-IP", STRING, 0),
        ("External-IP", STRING, 0),
        ("Port(s)", STRING, 0),
        AGE,
        ("Selector", STRING, 1),
    ],
    cells: |obj, now| {
        let ports: Vec<String> = list(obj, "/spec/ports").iter().map(service_port).collect();
        vec![
            name(obj),
            text(obj, "/spec/type").into(),
            or_none(text(obj, "/spec/clusterIP")),
            or_none(external(obj)),
            or_none(ports.join(",")),
            age(obj, now),
            or_none(labels(&obj["spec"]["selector"])),
        ]
    },
};

fn service_port(port: &Value) -> String {
    let node =
        port["nodePort"].as_i64().filter(|number| *number > 0).map_or(String::new(), |number| format!(":{number}"));
    format!("{}{node}/{}", port["port"].as_i64().unwrap_or(0), text(port, "/protocol"))
}

fn external(service: &Value) -> String {
    let mut all: Vec<&str> = Vec::new();
    let kind = text(service, "/spec/type");
    if kind == "ExternalName" {
        return text(service, "/spec/externalName").to_owned();
    }
    if kind == "LoadBalancer" {
        for one in list(service, "/status/loadBalancer/ingress") {
            all.push(match text(one, "/ip") {
                "" => text(one, "/hostname"),
                ip => ip,
            });
        }
    }
    all.extend(list(service, "/spec/externalIPs").iter().filter_map(Value::as_str));
    if all.is_empty() && kind == "LoadBalancer" {
        return "<pending>".to_owned();
    }
    all.join(",")
}

fn with_port(ip: &str, port: &Value) -> String {
    let port = port["port"].as_i64().unwrap_or(0);
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) const ENDPOINTS: Printer = Printer {
    headings: &[NAME, ("Endpoints", STRING, 0), AGE],
    cells: |obj, now| {
        let mut all = Vec::new();
        for subset in list(obj, "/subsets") {
            let addresses = list(subset, "/addresses").iter().map(|one| text(one, "/ip"));
            let ports = list(subset, "/ports");
            for ip in addresses {
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
                all.extend(ports.iter().map(|port| with_port(ip, port)));
            }
        }
        vec![name(obj), shorten(all, "<none>"), age(obj, now)]
    },
};

pub(super) const ENDPOINT_SLICE: Printer = Printer {
    headings: &[NAME, ("AddressType", STRING, 0), ("Ports", STRING, 0), ("Endpoints", STRING, 0), AGE],
    cells: |obj, now| {
        let ports = list(obj, "/ports")
            .iter()
            .map(|port| match (port["port"].as_i64(), text(port, "/name")) {
                (Some(number), _) => number.to_string(),
                (None, "") => "*".to_owned(),
                (None, name) => name.to_owned(),
            })
            .collect();
        let addresses = list(obj, "/endpoints").iter().flat_map(|one| list(one, "/addresses"));
        let addresses = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
        vec![
            name(obj),
            text(obj, "/addressType").into(),
            shorten(ports, "<unset>"),
            shorten(addresses, "<unset>"),
            age(obj, now),
        ]
    },
};

pub(super) const INGRESS: Printer = Printer {
    headings: &[NAME, ("Class", STRING, 0), ("Hosts", STRING, 0), ("Address", STRING, 0), ("Ports", STRING, 0), AGE],
    cells: |obj, now| {
        let hosts = list(obj, "/spec/rules").iter().map(|rule| text(rule, "/host")).filter(|host| !host.is_empty());
        let addresses: Vec<&str> = list(obj, "/status/loadBalancer/ingress")
            .iter()
            .map(|one| match text(one, "/ip") {
                "" => text(one, "/hostname"),
                ip => ip,
            })
            .collect();
        let ports = if list(obj, "/spec/tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(obj),
            or_none(text(obj, "/spec/ingressClassName")),
            shorten(hosts.map(str::to_owned).collect(), "*"),
            addresses.join(",").into(),
            ports.into(),
            age(obj, now),
        ]
    },
};

pub(super) const INGRESS_CLASS: Printer = Printer {
    headings: &[NAME, ("Controller", STRING, 0), ("Parameters", STRING, 0), AGE],
    cells: |obj, now| {
        let parameters = &obj["spec"]["parameters"];
        let shown = if parameters.is_object() {
            let group = text(parameters, "/apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(parameters, "/kind"), text(parameters, "/name"))
        } else {
            String::new()
        };
        vec![name(obj), text(obj, "/spec/controller").into(), or_none(shown), age(obj, now)]
    },
};

pub(super) const NETWORK_POLICY: Printer = Printer {
    headings: &[NAME, ("Pod-Selector", STRING, 0), AGE],
    cells: |obj, now| vec![name(obj), selector(&obj["spec"]["podSelector"]), age(obj, now)],
};
