//! What a Pod needs before its first container: ports, told in its annotation, and volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{Patch, PatchParams};
use resources::names::NO_POD_NETWORK;
use serde_json::json;

use crate::container::{RESOLVER, Setup};
use crate::context::Context;
use crate::network::{self, Sandbox, SandboxError};
use crate::{claims, hosts, ports, resolver, volumes};

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error("{0}")]
    Volume(#[from] volumes::VolumeError),
    /// A claim is about to get its volume.
    #[error("{0}")]
    Unbound(volumes::VolumeError),
    #[error("{0}")]
    Port(#[from] ports::PortError),
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    #[error(
        "nothing listens in the pod network yet after {limit:?}: neither Services nor the DNS server would answer this Pod, so its \
         containers are not started; it is tried again. The log (-v) says what the data plane waits for"
    )]
    Deaf { limit: Duration },
    #[error("can't {what}: {source}")]
    Api { what: &'static str, source: Box<kube::Error> },
    #[error("can't write {path}: {source}")]
    File { path: String, source: std::io::Error },
}

impl SetupError {
    /// As upstream names it in an Event.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            SetupError::Volume(_) | SetupError::Unbound(_) => "FailedMount",
            _ => "FailedCreatePodSandBox",
        }
    }

    /// As the Pod's condition names it.
    pub(super) fn condition(&self) -> &'static str {
        match self {
            SetupError::Sandbox(_) => NO_POD_NETWORK,
            _ => self.reason(),
        }
    }

    /// Most likely over in a moment: no news before that.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, SetupError::Unbound(_))
    }
}

/// Makes everything be there; done again, it changes nothing.
pub(super) async fn prepare(context: &Context, pod: &Arc<Pod>, directory: &Path) -> Result<Setup, SetupError> {
    let file = |source| SetupError::File { path: directory.display().to_string(), source };
    std::fs::create_dir_all(directory).map_err(file)?;
    let isolated = is_isolated(context, pod).await?;
    let recorded = ports::recorded(pod);
    // In a network of its own every port is as declared.
    let ports = if isolated { BTreeMap::new() } else { context.ports.allocate(pod, &recorded)? };
    if ports != recorded {
        tell_ports(context, pod, &ports::record(&ports)).await?;
    }
    let claimed = claimed(context, pod).await?;
    fill(context, pod, directory).await?;
    let mut places = volumes::places(pod, directory);
    places.extend(claimed);
    let sandbox =
        if isolated { Some(Arc::new(listened(context, context.network.sandbox(pod).await?).await?)) } else { None };
    let setup = Setup { directory: directory.to_owned(), ports, places, sandbox };
    write_hosts(context, pod, &setup).map_err(file)?;
    write_resolver(context, pod, &setup).map_err(file)?;
    Ok(setup)
}

/// A Pod's network once there is somebody to call in it: the first one is there before the data plane has heard of it.
async fn listened(context: &Context, sandbox: Sandbox) -> Result<Sandbox, SetupError> {
    let limit = context.settings.pod_network_limit;
    let served = tokio::time::timeout(limit, context.traffic.serves_pod_network()).await;
    served.map(|()| sandbox).map_err(|_| SetupError::Deaf { limit })
}

/// Asks the API, not a cache: a RuntimeClass that was made just before its Pod must be found.
async fn is_isolated(context: &Context, pod: &Pod) -> Result<bool, SetupError> {
    let handler = match network::foreign_class(pod) {
        None => None,
        Some(class) => {
            let api: Api<RuntimeClass> = Api::all(context.client.clone());
            let found = api.get_opt(class).await;
            let found = found
                .map_err(|source| SetupError::Api { what: "look up its RuntimeClass", source: Box::new(source) })?;
            found.map(|class| class.handler)
        }
    };
    Ok(network::is_wanted(pod, handler.as_deref(), context.settings.isolated)?)
}

async fn tell_ports(context: &Context, pod: &Pod, record: &str) -> Result<(), SetupError> {
    let meta = &pod.metadata;
    let api: Api<Pod> = Api::namespaced(context.client.clone(), meta.namespace.as_deref().unwrap_or("default"));
    let patch =
        json!({ "metadata": { "uid": meta.uid, "annotations": { resources::names::PORTS_ANNOTATION: record } } });
    let name = meta.name.as_deref().unwrap_or_default();
    let told = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    told.map(drop)
        .map_err(|source| SetupError::Api { what: "tell the Pod's ports in its annotation", source: Box::new(source) })
}

/// Where the Pod's claims lie, once all have been bound.
async fn claimed(context: &Context, pod: &Pod) -> Result<BTreeMap<String, PathBuf>, SetupError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut places = BTreeMap::new();
    for (name, claim) in claims::used(pod) {
        let wrong =
            |why: &dyn std::fmt::Display| volumes::VolumeError { volume: name.to_owned(), why: why.to_string() };
        let located = claims::locate(&context.client, &context.volumes, namespace, claim).await;
        let (place, kind) = located.map_err(|error| match error {
            claims::Unready::Unbound(_) => SetupError::Unbound(wrong(&error)),
            _ => SetupError::Volume(wrong(&error)),
        })?;
        volumes::make(name, &volumes::Source::Host(place.clone(), kind), &place)?;
        places.insert(name.to_owned(), place);
    }
    Ok(places)
}

/// Makes the volumes, or brings their files up to date.
pub(super) async fn fill(context: &Context, pod: &Pod, directory: &Path) -> Result<(), SetupError> {
    let (maps, secrets) = volumes::references(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let lookups = context
        .lookups(namespace, maps, secrets)
        .await
        .map_err(|source| SetupError::Api { what: "look up what its volumes refer to", source: Box::new(source) })?;
    let places = volumes::places(pod, directory);
    for (name, source) in volumes::plan(pod, &lookups)? {
        if let Some(place) = places.get(&name) {
            volumes::make(&name, &source, place)?;
        }
    }
    Ok(())
}

/// Writes the Pod's hosts file, or brings it up to date.
pub(super) fn write_hosts(context: &Context, pod: &Pod, setup: &Setup) -> std::io::Result<()> {
    let machine = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let services: Vec<Arc<_>> = context.services.state();
    hosts::write(&setup.directory.join("hosts"), &hosts::text(pod, setup.address(), &services, &machine))
}

/// Writes the Pod's resolv.conf, where it is to have one.
fn write_resolver(context: &Context, pod: &Pod, setup: &Setup) -> std::io::Result<()> {
    let machine = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let cluster = match setup.sandbox {
        Some(_) => context.traffic.pod_nameserver(),
        None => context.traffic.nameserver(),
    };
    match resolver::text(pod, cluster, &machine) {
        Some(text) => hosts::write(&setup.directory.join(RESOLVER), &text),
        None => Ok(()),
    }
}
