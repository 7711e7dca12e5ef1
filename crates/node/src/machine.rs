//! The machine that this node is: its size, and the Node object and Lease that tell it.
//!
//! Heartbeats are rare on purpose: node and control plane are one process here, so nobody waits for them to tell whether the
//! node lives, and an idle Coracle should use no CPU.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use resources::names::{ISOLATED_RUNTIME, PLAIN_RUNTIME};
use serde_json::{Value, json};

use crate::env::ADDRESS;
use crate::network::Block;

/// How often the Lease and the Node's heartbeat are renewed.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(600);
/// As a kubelet's default.
const PODS: u32 = 110;

/// How many CPUs there are.
pub(crate) fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

/// How much memory there is, in bytes.
pub(crate) fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// An address of this machine that is one of these, and the interface that has it.
pub fn address_in(block: &Block) -> Option<(String, Ipv4Addr)> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    let found = all.filter_map(|one| Some((one.interface_name, one.address?.as_sockaddr_in()?.ip())));
    found.into_iter().find(|(_, address)| block.covers((*address).into()))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default()
}

fn os_image() -> String {
    let text = read("/etc/os-release");
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

fn hostname() -> String {
    read("/proc/sys/kernel/hostname")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels that every node has.
fn labels(name: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", architecture().to_owned()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("beta.kubernetes.io/arch", architecture().to_owned()),
    ])
}

fn status(ready: bool, since: Timestamp, now: Timestamp) -> Value {
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        json!({
            "type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since,
        })
    };
    let size =
        json!({ "cpu": cpus().to_string(), "memory": format!("{}Ki", memory() / 1024), "pods": PODS.to_string() });
    json!({
        "capacity": size,
        "allocatable": size,
        "addresses": [
            { "type": "InternalIP", "address": ADDRESS },
            { "type": "Hostname", "address": hostname() },
        ],
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            if ready {
                condition("Ready", true, "KubeletReady", "coracle runs Pods as processes of this machine")
            } else {
                condition("Ready", false, "KubeletNotReady", "coracle is shutting down")
            },
        ],
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "osImage": os_image(),
            "kernelVersion": read("/proc/sys/kernel/osrelease"), "machineID": read("/etc/machine-id"),
            "bootID": read("/proc/sys/kernel/random/boot_id"), "systemUUID": read("/etc/machine-id"),
            "containerRuntimeVersion": format!("process://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": resources::names::KUBERNETES_VERSION.2,
            "kubeProxyVersion": resources::names::KUBERNETES_VERSION.2,
        },
    })
}

/// Makes the Node object, or takes over the one of an earlier life.
pub(crate) async fn register(client: &kube::Client, name: &str, now: Timestamp) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let meta = json!({ "name": name, "labels": labels(name), "annotations": { "node.alpha.kubernetes.io/ttl": "0" } });
    let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": meta });
    let made = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    match nodes.create(&PostParams::default(), &made).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(&object)).await?;
        }
        Err(error) => return Err(error),
    }
    report(client, name, true, now, now).await
}

/// Makes the classes by which a Pod says how it is to run, unless they are there.
pub(crate) async fn make_classes(client: &kube::Client) -> Result<(), kube::Error> {
    let api: Api<RuntimeClass> = Api::all(client.clone());
    for name in [ISOLATED_RUNTIME, PLAIN_RUNTIME] {
        let class = RuntimeClass {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            handler: name.to_owned(),
            ..RuntimeClass::default()
        };
        match api.create(&PostParams::default(), &class).await {
            Err(kube::Error::Api(answer)) if answer.reason == "AlreadyExists" => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Tells the Node's status.
pub(crate) async fn report(
    client: &kube::Client,
    name: &str,
    ready: bool,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({ "status": status(ready, since, now) });
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Renews the node's Lease.
pub(crate) async fn renew(client: &kube::Client, name: &str, now: Timestamp) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": HEARTBEAT.as_secs() * 3,
        "renewTime": format!("{now:.6}"),
    });
    let lease =
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name }, "spec": spec });
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec }))).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let made = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            leases.create(&PostParams::default(), &made).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}
