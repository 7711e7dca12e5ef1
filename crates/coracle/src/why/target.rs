//! What is asked about: a Service, or a URL, from a workload. Pure.

use super::{is, text};
use serde_json::Value;

/// Where a request is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Service, by number or name of its port, or the only or first one.
    Service { namespace: String, name: String, port: Option<String> },
    /// A Gateway, by what its clients call it.
    Gateway { host: String, port: u16 },
}

impl Default for Target {
    fn default() -> Self {
        Self::Gateway { host: String::new(), port: 80 }
    }
}

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) target: Target,
    pub(crate) host: String,
    pub(crate) path: String,
}

impl Target {
    /// Reads `NAME`, `NAME:PORT`, `NAMESPACE/NAME`, `service/NAME` or a URL. A URL's host is a Service where it is the name or
    /// address of one.
    pub(crate) fn parse(words: &str, namespace: &str, services: &[Value]) -> Result<Parsed, String> {
        match words.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => Self::url(scheme, rest, namespace, services),
            Some((scheme, _)) => Err(format!("{scheme} is no scheme that is routed; write http:// or https://")),
            None => {
                let (namespace, rest) = match words.split_once('/') {
                    Some(("service" | "services" | "svc", rest)) => (namespace, rest),
                    Some((namespace, rest)) => (namespace, rest),
                    None => (namespace, words),
                };
                let (name, port) = match rest.split_once(':') {
                    Some((name, port)) => (name, Some(port.to_owned())),
                    None => (rest, None),
                };
                if name.is_empty() || namespace.is_empty() || name.contains('/') {
                    return Err(format!("{words:?} is neither a Service (NAME, NAMESPACE/NAME, NAME:PORT) nor a URL"));
                }
                let target = Self::Service { namespace: namespace.to_owned(), name: name.to_owned(), port };
                Ok(Parsed { target, host: format!("{name}.{namespace}"), path: "/".to_owned() })
            }
        }
    }

    fn url(scheme: &str, rest: &str, namespace: &str, services: &[Value]) -> Result<Parsed, String> {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let uri: http::uri::Authority = authority.parse().map_err(|_| format!("{authority:?} is no host"))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let host = uri.host().to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let target = match of_host(&host, namespace, services) {
            Some((namespace, name)) => Self::Service { namespace, name, port: Some(port.to_string()) },
            None => Self::Gateway { host: host.clone(), port },
        };
        Ok(Parsed { target, host, path })
    }
}

/// The Service that a host is the name or address of. A name that says that it is a Service's is taken for one.
fn of_host(host: &str, namespace: &str, services: &[Value]) -> Option<(String, String)> {
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let there = |namespace: &str, name: &str| services.iter().any(|service| is(service, namespace, name));
    match labels.as_slice() {
        [name, namespace, "svc", ..] => Some(((*namespace).to_owned(), (*name).to_owned())),
        [name, namespace] if there(namespace, name) => Some(((*namespace).to_owned(), (*name).to_owned())),
        [name] if there(namespace, name) => Some((namespace.to_owned(), (*name).to_owned())),
        _ => {
            let found = services.iter().find(|service| text(service, "/spec/clusterIP") == host)?;
            Some((text(found, "/metadata/namespace").to_owned(), text(found, "/metadata/name").to_owned()))
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `NAMESPACE/NAME` of the workload.
    pub(crate) workload: String,
    /// Its SPIFFE ID; none where it stays outside of the mesh.
    pub(crate) identity: Option<String>,
}

/// The label by which a Pod stays outside of the mesh.
const INJECT: &str = "sidecar.istio.io/inject";

/// The workload of that name (`NAME` or `NAMESPACE/NAME`, of a workload or a Pod), as its Pods make it known in a trust domain.
pub(crate) fn caller(words: &str, namespace: &str, pods: &[Value], trust_domain: &str) -> Result<Caller, String> {
    let (namespace, name) = words.split_once('/').unwrap_or((namespace, words));
    let own = |pod: &&Value| {
        text(pod, "/metadata/namespace") == namespace && (text(pod, "/metadata/name") == name || workload(pod) == name)
    };
    let missing = || {
        let others: Vec<&str> =
            pods.iter().filter(|pod| text(pod, "/metadata/namespace") == namespace).map(workload).collect();
        let known =
            if others.is_empty() { "it has no Pods at all".to_owned() } else { format!("there are {}", names(others)) };
        format!("no Pod of a workload {name} is in namespace {namespace}; {known}")
    };
    let pod = pods.iter().find(own).ok_or_else(missing)?;
    let outside = ["labels", "annotations"].iter().any(|field| pod["metadata"][field][INJECT] == "false");
    let account = match text(pod, "/spec/serviceAccountName") {
        "" => "default",
        account => account,
    };
    let identity = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}");
    Ok(Caller { workload: format!("{namespace}/{}", workload(pod)), identity: (!outside).then_some(identity) })
}

fn names(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// The name of what made a Pod: its Deployment's, where a ReplicaSet stands between.
fn workload(pod: &Value) -> &str {
    let owner = pod.pointer("/metadata/ownerReferences/0");
    let Some(owner) = owner else { return text(pod, "/metadata/name") };
    let name = text(owner, "/name");
    let hash = text(pod, "/metadata/labels/pod-template-hash");
    match name.strip_suffix(hash).and_then(|name| name.strip_suffix('-')) {
        Some(deployment) if text(owner, "/kind") == "ReplicaSet" && !hash.is_empty() => deployment,
        _ => name,
    }
}
