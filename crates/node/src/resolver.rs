//! The resolv.conf of a Pod: the cluster's DNS server before the machine's own, as the Pod's `dnsPolicy` and `dnsConfig` say.
//! Pure but for the writing of files, which the caller does.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// What Kubernetes tells resolvers, so that names with up to four dots are tried below the cluster's domain first.
const NDOTS: &str = "ndots:5";
/// How many servers a resolver asks (resolv.conf(5)).
const SERVERS: usize = 3;

/// What a resolv.conf says.
#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                "nameserver" => found.servers.extend(words.take(1)),
                // The last of these counts.
                "search" | "domain" => found.search = words.collect(),
                "options" => found.options.extend(words),
                _ => {}
            }
        }
        found
    }

    fn write(&self) -> String {
        let mut text = String::from("# Written by Coracle for this Pod.\n");
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        for server in self.servers.iter().take(SERVERS) {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }

    /// Adds what a Pod says itself; an option of the same name is replaced.
    fn add(&mut self, pod: &Pod) {
        let Some(own) = pod.spec.as_ref().and_then(|spec| spec.dns_config.as_ref()) else { return };
        let append = |to: &mut Vec<String>, more: Option<&Vec<String>>| {
            for item in more.into_iter().flatten() {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        };
        append(&mut self.servers, own.nameservers.as_ref());
        append(&mut self.search, own.searches.as_ref());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            self.options.retain(|other| other.split(':').next() != Some(name));
            self.options.push(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
}

/// The text of a Pod's resolv.conf; none where the machine's own serves it. `cluster` is the cluster's DNS server, where
/// programs can reach it; `machine` the machine's file.
pub(crate) fn text(pod: &Pod, cluster: Option<IpAddr>, machine: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    let on_host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let own = spec.is_some_and(|spec| spec.dns_config.is_some());
    let mut resolver = match (policy, cluster) {
        ("None", _) => Resolver::default(),
        ("ClusterFirst", Some(server)) if !on_host => first(pod, server, machine),
        ("ClusterFirstWithHostNet", Some(server)) => first(pod, server, machine),
        _ if own => Resolver::read(machine),
        _ => return None,
    };
    resolver.add(pod);
    Some(resolver.write())
}

fn first(pod: &Pod, server: IpAddr, machine: &str) -> Resolver {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = resources::names::DOMAIN;
    let mut search = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    search.extend(Resolver::read(machine).search);
    Resolver { servers: vec![server.to_string()], search, options: vec![NDOTS.to_owned()] }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MACHINE: &str = "# comment\nnameserver 10.0.0.1\nsearch lan\noptions edns0 timeout:2\n";

    fn written(spec: serde_json::Value, cluster: Option<&str>) -> Option<String> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let text = text(&pod, cluster.map(|address| address.parse().expect("an address")), MACHINE)?;
        Some(text.lines().skip(1).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_pod_asks_whom_its_policy_says() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local lan; nameserver 127.96.0.10; options ndots:5";
        let config = json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        for (spec, reachable, expected) in [
            (json!({}), true, Some(cluster)),
            (json!({}), false, None),
            (json!({"dnsPolicy": "Default"}), true, None),
            (json!({"hostNetwork": true}), true, None),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), true, Some(cluster)),
            (
                json!({"dnsPolicy": "None", "dnsConfig": config}),
                true,
                Some("search x; nameserver 1.1.1.1; options ndots:2 edns0"),
            ),
            (
                json!({"dnsConfig": config}),
                true,
                Some(
                    "search shop.svc.cluster.local svc.cluster.local cluster.local lan x; nameserver 127.96.0.10; nameserver 1.1.1.1; options ndots:2 edns0",
                ),
            ),
            (
                json!({"dnsPolicy": "Default", "dnsConfig": config}),
                true,
                Some("search lan x; nameserver 10.0.0.1; nameserver 1.1.1.1; options timeout:2 ndots:2 edns0"),
            ),
        ] {
            let found = written(spec.clone(), reachable.then_some("127.96.0.10"));
            assert_eq!(found.as_deref(), expected, "{spec} {reachable}");
        }
    }
}
