//! One Pod's part of the network: its namespace and its address, and whether it is to have them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use resources::names::{ISOLATED_RUNTIME, PLAIN_RUNTIME};
use tokio::net::{TcpSocket, TcpStream};

use super::{Block, Held, Order, PodNetwork};
use crate::shim::Network as Names;

/// A Pod's namespace and address, which it has until this is dropped.
pub(crate) struct Sandbox {
    network: PodNetwork,
    address: Ipv4Addr,
    namespace: OwnedFd,
    held: Arc<Held>,
}

/// A Pod cannot have what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error(
        "no network namespace for this Pod: {0}. Allow user namespaces (sysctl user.max_user_namespaces above 0; \
         kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0 where these exist), or run the \
         Pod as plain processes (runtimeClassName: {PLAIN_RUNTIME}, or none without --pod-network isolated)"
    )]
    NoNamespace(String),
    #[error(
        "runtimeClassName {ISOLATED_RUNTIME} and hostNetwork exclude each other: leave one of them out; on the machine's network \
         the Pod's programs are plain processes"
    )]
    HostNetwork,
    #[error(
        "hostPort {port} of container {container} is not served for a Pod with a network of its own: leave it out and reach the \
         Pod by a Service or a Gateway, or run it as plain processes (runtimeClassName: {PLAIN_RUNTIME})"
    )]
    HostPort { container: String, port: i32 },
    #[error(
        "runtimeClassName {class}: there is no such RuntimeClass. Name {ISOLATED_RUNTIME} (a network of its own) or {PLAIN_RUNTIME} \
         (plain processes), leave it out, or make a RuntimeClass whose handler is one of these"
    )]
    NoClass { class: String },
    #[error(
        "runtimeClassName {class} asks for the handler {handler}, which this node has not. Name {ISOLATED_RUNTIME} (a network of its own) \
         or {PLAIN_RUNTIME} (plain processes), leave it out, or use a RuntimeClass whose handler is one of these"
    )]
    NoHandler { class: String, handler: String },
    #[error(
        "the pod network {block} has {address} in it, which this machine has itself, on {interface}: start Coracle with a block of \
         addresses that nothing here uses (--pod-cidr)"
    )]
    Overlap { block: Block, interface: String, address: Ipv4Addr },
    #[error("all addresses of the pod network are taken; delete some Pods")]
    NoAddress,
}

/// The RuntimeClass of a Pod whose handler only the object itself tells.
pub(crate) fn foreign_class(pod: &Pod) -> Option<&str> {
    let class = pod.spec.as_ref()?.runtime_class_name.as_deref()?;
    (!["", ISOLATED_RUNTIME, PLAIN_RUNTIME].contains(&class)).then_some(class)
}

/// Whether a Pod is to have a network namespace of its own; `otherwise` where it does not say. `handler` is that of its
/// [`foreign_class`], none where there is no such RuntimeClass.
pub(crate) fn is_wanted(pod: &Pod, handler: Option<&str>, otherwise: bool) -> Result<bool, SandboxError> {
    let Some(spec) = &pod.spec else { return Ok(false) };
    let on_host = spec.host_network.unwrap_or(false);
    let said = match foreign_class(pod) {
        None => spec.runtime_class_name.as_deref().filter(|class| !class.is_empty()),
        Some(class) => Some(handler.ok_or_else(|| SandboxError::NoClass { class: class.to_owned() })?),
    };
    let wanted = match said {
        None => otherwise && !on_host,
        Some(ISOLATED_RUNTIME) if on_host => return Err(SandboxError::HostNetwork),
        Some(ISOLATED_RUNTIME) => true,
        Some(PLAIN_RUNTIME) => false,
        Some(handler) => {
            let class = spec.runtime_class_name.clone().unwrap_or_default();
            return Err(SandboxError::NoHandler { class, handler: handler.to_owned() });
        }
    };
    if !wanted {
        return Ok(false);
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        let ports = container.ports.iter().flatten();
        if let Some(port) = ports.filter_map(|port| port.host_port).find(|port| *port != 0) {
            return Err(SandboxError::HostPort { container: container.name.clone(), port });
        }
    }
    Ok(true)
}

impl PodNetwork {
    /// A namespace for a Pod, at the address that it had before where that is free.
    pub(crate) async fn sandbox(&self, pod: &Arc<Pod>) -> Result<Sandbox, SandboxError> {
        let block = self.state.block;
        if let Some((interface, address)) = crate::machine::address_in(&block) {
            return Err(SandboxError::Overlap { block, interface, address });
        }
        let before = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let address = self.state.addresses.lock().take(before).ok_or(SandboxError::NoAddress)?;
        let asked = Instant::now();
        let made = self.ask(|reply| Order::Pod { address, reply }).await;
        tracing::debug!(%address, took = ?asked.elapsed(), made = made.is_ok(), "a network for a Pod");
        let made = made.and_then(|mut made| made.pop().ok_or_else(|| "the helper gave none".to_owned()));
        let held = self.state.held.borrow().clone();
        match (made, held) {
            (Ok(namespace), Some(held)) => {
                self.state.pods.lock().insert(address, Arc::clone(pod));
                Ok(Sandbox { network: self.clone(), address, namespace, held })
            }
            (made, _) => {
                self.state.addresses.lock().give(address);
                Err(SandboxError::NoNamespace(made.err().unwrap_or_default()))
            }
        }
    }
}

impl Sandbox {
    pub(crate) fn address(&self) -> IpAddr {
        self.address.into()
    }

    pub(crate) fn network(&self) -> &PodNetwork {
        &self.network
    }

    /// Connects to a port of the Pod, as one of its own programs would.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let namespace = self.namespace.try_clone()?;
        let made = self.network.ask(|reply| Order::Inside { namespace, reply }).await.map_err(io::Error::other)?;
        let socket = made.into_iter().next().ok_or_else(|| io::Error::other("the helper gave no socket"))?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// What the Pod's shims enter.
    pub(crate) fn names(&self) -> Names {
        self.held.names(&self.namespace)
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sandbox({})", self.address)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.network.state.pods.lock().remove(&self.address);
        self.network.state.addresses.lock().give(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_has_a_network_of_its_own_where_it_or_the_command_line_says_so() {
        let port = json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]);
        let unknown = |class: &str| Err(SandboxError::NoClass { class: class.to_owned() });
        for (spec, by_default, expected) in [
            (json!({"runtimeClassName": ""}), true, Ok(true)),
            (json!({"runtimeClassName": "Isolated"}), false, unknown("Isolated")),
            (json!({"runtimeClassName": "another", "hostNetwork": true}), true, unknown("another")),
            (json!({}), false, Ok(false)),
            (json!({}), true, Ok(true)),
            (json!({"runtimeClassName": "isolated"}), false, Ok(true)),
            (json!({"runtimeClassName": "plain"}), true, Ok(false)),
            (json!({"hostNetwork": true}), true, Ok(false)),
            (json!({"hostNetwork": true, "runtimeClassName": "isolated"}), false, Err(SandboxError::HostNetwork)),
            (json!({"containers": port}), false, Ok(false)),
            (
                json!({"containers": port, "runtimeClassName": "isolated"}),
                false,
                Err(SandboxError::HostPort { container: "c".to_owned(), port: 8080 }),
            ),
        ] {
            let mut spec = spec;
            if spec["containers"].is_null() {
                spec["containers"] = json!([]);
            }
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
            assert_eq!(is_wanted(&pod, None, by_default), expected, "{spec} {by_default}");
        }
    }

    #[test]
    fn the_handler_of_a_class_says_how_a_pod_runs() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "runtimeClassName": "mine"}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        assert_eq!(foreign_class(&pod), Some("mine"));
        assert_eq!(is_wanted(&pod, Some("isolated"), false), Ok(true));
        assert_eq!(is_wanted(&pod, Some("plain"), true), Ok(false));
        for by_default in [false, true] {
            let refused = is_wanted(&pod, Some("runsc"), by_default).expect_err("it is not had").to_string();
            assert!(["mine", "runsc", "isolated", "plain"].iter().all(|word| refused.contains(word)), "{refused}");
        }
    }

    #[test]
    fn a_refusal_names_both_ways_out() {
        let text = SandboxError::NoNamespace("can't have a user namespace: EPERM".to_owned()).to_string();
        assert!(text.contains("user.max_user_namespaces") && text.contains("runtimeClassName: plain"), "{text}");
    }
}
