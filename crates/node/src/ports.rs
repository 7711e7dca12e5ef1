//! Hands out the ports of this machine on which Pods' programs listen.
//!
//! Ports come from below the range that the kernel takes for outgoing connections: one of those may take a port between
//! its allocation here and the program's own bind. No port is handed out twice while its Pod is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use parking_lot::Mutex;
use std::os::fd::AsRawFd;

/// Below the kernel's range for outgoing connections and Kubernetes' for node ports.
pub(crate) const RANGE: std::ops::Range<u16> = 20_000..30_000;
/// How many ports are tried before the kernel is asked for any.
const TRIES: usize = 200;

/// Where a Coracle shows others on this machine that a port is its own before a program listens on it: as a UDP port of
/// this loopback address, which nothing else uses.
const CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 95, 255, 254);

/// Which Pod has which port.
#[derive(Clone, Default)]
pub(crate) struct Ports {
    taken: Arc<Mutex<HashMap<u16, Taken>>>,
}

struct Taken {
    owner: String,
    /// Held as long as the port is; none where the port was asked for by number, or claims can't be made.
    _claim: Option<UdpSocket>,
}

/// A port can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    #[error(
        "host port {port} of container {container} is taken by another Pod or process; free it or take another hostPort"
    )]
    InUse { container: String, port: u16 },
    #[error("no port of this machine is free for containerPort {port} of container {container}")]
    NoneFree { container: String, port: u16 },
}

impl Ports {
    /// A host port for each container port of a Pod; those it had are kept where they are free.
    pub(crate) fn allocate(&self, pod: &Pod, before: &BTreeMap<u16, u16>) -> Result<BTreeMap<u16, u16>, PortError> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
        let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        let mut taken = self.taken.lock();
        let mut map = BTreeMap::new();
        for (container, port, fixed) in containers.flat_map(|c| declared(c, host_network)) {
            if map.contains_key(&port) {
                continue;
            }
            let free = |p: u16| taken.get(&p).is_none_or(|by| by.owner == uid);
            let host = match fixed {
                Some(fixed) if free(fixed) && bindable(fixed) => {
                    taken.insert(fixed, Taken { owner: uid.clone(), _claim: None });
                    fixed
                }
                Some(fixed) => return Err(PortError::InUse { container: container.to_owned(), port: fixed }),
                None => {
                    let mine: BTreeSet<u16> = map.values().copied().collect();
                    let claimed = |p: u16| {
                        let usable = free(p) && !mine.contains(&p) && bindable(p);
                        // What this Pod has already it need not claim again.
                        let had = usable && taken.contains_key(&p);
                        if had { Some((p, None)) } else { usable.then(|| claim(p)).flatten().map(|c| (p, Some(c))) }
                    };
                    let kept = before.get(&port).copied().and_then(claimed);
                    let tried = || (0..TRIES).map(|_| fastrand::u16(RANGE)).find_map(claimed);
                    let (host, claim) = kept
                        .or_else(tried)
                        .or_else(|| any().and_then(claimed))
                        .ok_or_else(|| PortError::NoneFree { container: container.to_owned(), port })?;
                    if let Some(claim) = claim {
                        taken.insert(host, Taken { owner: uid.clone(), _claim: claim });
                    }
                    host
                }
            };
            map.insert(port, host);
        }
        Ok(map)
    }

    /// The Pod has ended; its ports are free again.
    pub(crate) fn release(&self, uid: &str) {
        self.taken.lock().retain(|_, by| by.owner != uid);
    }
}

/// What the annotation on a Pod says; anything else than a map of ports counts as nothing.
pub(crate) fn recorded(pod: &Pod) -> BTreeMap<u16, u16> {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(resources::names::PORTS_ANNOTATION));
    let map: BTreeMap<String, u16> = text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    map.into_iter().filter_map(|(k, v)| Some((k.parse().ok()?, v))).collect()
}

/// The annotation's value.
pub(crate) fn record(map: &BTreeMap<u16, u16>) -> String {
    let map: BTreeMap<String, u16> = map.iter().map(|(k, v)| (k.to_string(), *v)).collect();
    serde_json::Value::from_iter(map).to_string()
}

/// Container, container port, and the host port that it must be, if any. UDP and SCTP ports are numbered alike.
fn declared(container: &Container, host_network: bool) -> impl Iterator<Item = (&str, u16, Option<u16>)> {
    container.ports.iter().flatten().filter_map(move |port| {
        let number = u16::try_from(port.container_port).ok()?;
        let fixed = port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
        Some((container.name.as_str(), number, fixed.or_else(|| host_network.then_some(number))))
    })
}

fn bound(port: u16) -> nix::Result<u16> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    Ok(nix::sys::socket::getsockname::<SockaddrIn>(fd.as_raw_fd())?.port())
}

/// Whether a program could listen there now. Bound on all addresses, so that a listener on any of them is noticed, but never
/// listened on.
fn bindable(port: u16) -> bool {
    // A port that only root may have is the program's own affair: it says so itself, better than we could.
    matches!(bound(port), Ok(_) | Err(nix::Error::EACCES))
}

/// Claims a port among the Coracles of this machine; none where another has it. Inside, none where claims can't be made at
/// all (the address is not to be had), in which case being bindable must do.
fn claim(port: u16) -> Option<Option<UdpSocket>> {
    match UdpSocket::bind((CLAIMS, port)) {
        Ok(socket) => Some(Some(socket)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
        Err(_) => Some(None),
    }
}

fn any() -> Option<u16> {
    bound(0).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, ports: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"uid": uid}, "spec": {"containers": [{"name": "c", "ports": ports}]}}),
        )
        .expect("a pod")
    }

    #[test]
    fn no_port_is_handed_out_twice_until_its_pod_is_gone() {
        let ports = Ports::default();
        let mut seen = BTreeSet::new();
        for n in 0..200 {
            let map = ports.allocate(
                &pod(&n.to_string(), json!([{"containerPort": 80}, {"containerPort": 81}])),
                &BTreeMap::new(),
            );
            for port in map.expect("free").into_values() {
                assert!(seen.insert(port), "{port} twice");
            }
        }
        let wanted = |uid: &str| pod(uid, json!([{"containerPort": 80}]));
        let kept = sooner_or_later(|| {
            let first = ports.allocate(&wanted("a"), &BTreeMap::new()).expect("free");
            assert_ne!(ports.allocate(&wanted("b"), &first).expect("free"), first);
            ports.release("a");
            let again = ports.allocate(&wanted("c"), &first).expect("free");
            ports.release("b");
            ports.release("c");
            again == first
        });
        assert!(kept, "it is free again");
    }

    /// Whether something comes to be, though others of this machine may take the same port in between.
    fn sooner_or_later(comes: impl Fn() -> bool) -> bool {
        (0..50).any(|_| comes())
    }

    #[test]
    fn two_coracles_on_a_machine_never_hand_out_the_same_port() {
        let (one, other) = (Ports::default(), Ports::default());
        let wanted = |uid: &str| pod(uid, json!([{"containerPort": 80}]));
        let kept = sooner_or_later(|| {
            let first = one.allocate(&wanted("a"), &BTreeMap::new()).expect("free");
            assert_ne!(other.allocate(&wanted("b"), &first).expect("free"), first, "nothing listens there yet");
            assert_eq!(one.allocate(&wanted("a"), &first).expect("free"), first, "its own it keeps");
            one.release("a");
            let again = other.allocate(&wanted("c"), &first).expect("free");
            other.release("b");
            other.release("c");
            again == first
        });
        assert!(kept, "it is free again");
    }

    #[test]
    fn a_host_port_is_that_one_or_none() {
        let free = sooner_or_later(|| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bound");
            let port = listener.local_addr().expect("an address").port();
            let wanted = pod("a", json!([{"containerPort": 80, "hostPort": port}]));
            let error = Ports::default().allocate(&wanted, &BTreeMap::new()).expect_err("taken");
            assert_eq!(error, PortError::InUse { container: "c".to_owned(), port });
            drop(listener);
            Ports::default().allocate(&wanted, &BTreeMap::new()) == Ok(BTreeMap::from([(80, port)]))
        });
        assert!(free, "once nobody has it");
    }

    #[test]
    fn the_annotation_reads_back() {
        let map = BTreeMap::from([(80, 20_001), (8080, 20_002)]);
        assert_eq!(record(&map), r#"{"80":20001,"8080":20002}"#);
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"annotations": {"coracle.dev/ports": record(&map)}}}))
                .expect("a pod");
        assert_eq!(recorded(&pod), map);
    }
}
