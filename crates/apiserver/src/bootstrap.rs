//! What is to be there before anyone is served: the system namespaces, the first roles, and the Service of this server itself.
//!
//! Invariant: a server whose store works starts. Only the namespaces must be there; what else can't be put in its place is said, as it can
//! be mended through the server alone.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::RunError;
use crate::object;
use crate::roles;
use crate::route::Target;
use crate::server::Server;
use crate::verb::change::{Change, Part, change};
use crate::verb::create;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing; what is there stays as it is, but for the addresses of this server.
pub(crate) async fn run(server: &Arc<Server>, address: SocketAddr) -> Result<(), RunError> {
    for name in NAMESPACES {
        ensure(server, "namespaces", None, &json!({ "metadata": { "name": name } }), |_| None).await?;
    }
    roles::install(server).await;
    let port = address.port();
    let ports = json!([{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }]);
    let service = json!({
        "metadata": { "name": "kubernetes", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": { "type": "ClusterIP", "clusterIP": server.addresses.first().to_string(), "sessionAffinity": "None", "ports": ports },
    });
    ensure(server, "services", Some("default"), &service, |current| replace(current, "/spec/ports", &ports))
        .await
        .unwrap_or_else(say);
    let slice = json!({
        "metadata": { "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    let ports = slice["ports"].clone();
    ensure(server, "endpointslices", Some("default"), &slice, |current| replace(current, "/ports", &ports))
        .await
        .unwrap_or_else(say);
    let subsets = json!([{ "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] }]);
    let endpoints = json!({ "metadata": { "name": "kubernetes", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } }, "subsets": subsets });
    ensure(server, "endpoints", Some("default"), &endpoints, |current| replace(current, "/subsets", &subsets))
        .await
        .unwrap_or_else(say);
    Ok(())
}

fn say(error: RunError) {
    tracing::error!(%error, "the API's own Service is not whole, and programs may not find the API by its name; mend what stands in its way, then start again");
}

/// The object with another value at `pointer`; `None` when it has that value.
fn replace(current: &Value, pointer: &str, value: &Value) -> Option<Value> {
    if current.pointer(pointer) == Some(value) {
        return None;
    }
    let mut new = current.clone();
    *new.pointer_mut(pointer)? = value.clone();
    Some(new)
}

async fn ensure(
    server: &Arc<Server>,
    plural: &str,
    namespace: Option<&str>,
    wanted: &Value,
    correct: impl Fn(&Value) -> Option<Value> + Send + Sync,
) -> Result<(), RunError> {
    let catalog = server.catalog.load_full();
    let group = if plural == "endpointslices" { "discovery.k8s.io" } else { "" };
    let name = object::name(wanted).to_owned();
    let failed = |reason: String| RunError::Bootstrap { object: format!("{plural} {name}"), reason };
    let resource = catalog.get(group, "v1", plural).ok_or_else(|| failed("the kind is not served".into()))?;
    let mut call = Call::internal("coracle-bootstrap", jiff::Timestamp::now());
    let mut target = Target { namespace: namespace.map(str::to_owned), name: Some(name.clone()), ..Target::default() };
    let how = Change { part: Part::Whole, applied: false };
    let found = change(server, &mut call, (resource, &target), how, &mut |_, current| {
        Ok(correct(current).unwrap_or_else(|| current.clone()))
    })
    .await
    .map_err(|failure| failed(failure.message))?;
    if found.is_some() {
        return Ok(());
    }
    let mut body = wanted.clone();
    body["apiVersion"] = resource.api_version.as_str().into();
    body["kind"] = resource.kind.as_str().into();
    create::place(resource, &target, &mut body).map_err(|failure| failed(failure.message))?;
    target.name = None;
    create::insert(server, &mut call, (resource, &target), body, false)
        .await
        .map_err(|failure| failed(failure.message))?;
    Ok(())
}
