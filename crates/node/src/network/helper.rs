//! The helper: a small process that stands in the mesh's network namespace, where Coracle itself cannot go without being root.
//!
//! It is to a node what the pause container is to a Pod, and it keeps nothing: sockets and namespaces that it makes are handed
//! over, so that another helper can take its place. Single-threaded and synchronous; it ends when its socket does.
//!
//! Invariant: between two questions it is in the mesh's namespace, or it ends.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::netlink::{Netlink, Route, Setting, TABLE_LOCAL, TABLE_MAIN};
use super::plan::{Block, line};
use super::wire::{Answer, Ask, Kind, MOST, receive, send};

/// The Pod's end of its line.
const INTERFACE: &str = "eth0";
const OWN_USER: &str = "/proc/self/ns/user";
const OWN_NET: &str = "/proc/self/ns/net";

/// Says what was attempted.
fn attempt<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("can't {what}: {}", error.into()))
}

/// Serves whoever is at the other end of `control`, until they are gone.
pub(crate) fn run(control: &impl AsFd) -> io::Result<()> {
    let _ = prctl::set_name(c"pod-network");
    // Out of the reach of a terminal's Ctrl-C.
    let _ = nix::unistd::setsid();
    let mut mesh: Option<Mesh> = None;
    while let Some((ask, mut beside)) = receive::<Ask>(control)? {
        let answer = match (&ask, &mesh) {
            (Ask::Begin { address, there }, None) => begin(control, *address, there.as_ref()).map(|(made, beside)| {
                mesh = Some(made);
                beside
            }),
            (Ask::Sockets { kind, count }, Some(_)) => sockets(*kind, *count),
            (Ask::Inside, Some(mesh)) => {
                let made = match beside.pop() {
                    Some(namespace) => attempt("enter the Pod's network", setns(namespace, CloneFlags::CLONE_NEWNET))
                        .and_then(|()| sockets(Kind::Tcp, 1)),
                    None => Err("no namespace came along".to_owned()),
                };
                setns(&mesh.namespace, CloneFlags::CLONE_NEWNET)?;
                made
            }
            (Ask::Pod { address, services }, Some(mesh)) => {
                let made = pod(mesh, *address, *services);
                setns(&mesh.namespace, CloneFlags::CLONE_NEWNET)?;
                made.and_then(|namespace| join_mesh(mesh, *address).map(|()| vec![namespace]))
            }
            _ => Err(format!("{ask:?} is out of turn")),
        };
        match answer {
            Ok(beside) => {
                let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
                send(control, &Answer::Done, &beside)?;
            }
            Err(why) => send(control, &Answer::Failed(why), &[])?,
        }
    }
    Ok(())
}

/// Where all lines to Pods end.
struct Mesh {
    namespace: File,
    address: Ipv4Addr,
}

/// Makes or enters the mesh's namespace. Gives it, and it and its user namespace for others to keep.
fn begin(
    control: &impl AsFd,
    address: Ipv4Addr,
    there: Option<&(PathBuf, PathBuf)>,
) -> Result<(Mesh, Vec<OwnedFd>), String> {
    if let Some((user, net)) = there {
        let (user, net) = (attempt("open its user namespace", File::open(user))?, attempt("open it", File::open(net))?);
        attempt("enter its user namespace", setns(user, CloneFlags::CLONE_NEWUSER))?;
        attempt("enter it", setns(net, CloneFlags::CLONE_NEWNET))?;
    } else {
        attempt("have a user namespace", unshare(CloneFlags::CLONE_NEWUSER))?;
        attempt("tell so", send(control, &Answer::Unshared, &[]))?;
        match attempt("hear that its users are known", receive::<Ask>(control))? {
            Some((Ask::Mapped, _)) => {}
            _ => return Err("its users were not said".to_owned()),
        }
        attempt("have a network namespace", unshare(CloneFlags::CLONE_NEWNET))?;
        let mut netlink = attempt("speak netlink", Netlink::open())?;
        let loopback = attempt("find its loopback interface", if_nametoindex("lo"))?;
        attempt("start its loopback interface", netlink.up(loopback))?;
        attempt("give it its address", netlink.address(loopback, address))?;
    }
    let open = |path: &str| attempt("keep it", File::open(Path::new(path)));
    let namespace = open(OWN_NET)?;
    let beside = vec![OwnedFd::from(open(OWN_USER)?), OwnedFd::from(open(OWN_NET)?)];
    Ok((Mesh { namespace, address }, beside))
}

fn sockets(kind: Kind, count: usize) -> Result<Vec<OwnedFd>, String> {
    let kind = match kind {
        Kind::Tcp => SockType::Stream,
        Kind::Udp => SockType::Datagram,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    (0..count.min(MOST)).map(|_| attempt("make a socket", socket(AddressFamily::Inet, kind, flags, None))).collect()
}

/// Makes a Pod's namespace and its end of the line. This process is in the Pod's namespace then.
fn pod(mesh: &Mesh, address: Ipv4Addr, services: Block) -> Result<OwnedFd, String> {
    // What is left of a Pod that had this address, and whose namespace the kernel has not taken down yet.
    let mut netlink = attempt("speak netlink", Netlink::open())?;
    attempt("take down an earlier line", netlink.remove(&line(address)))?;
    attempt("have a network namespace", unshare(CloneFlags::CLONE_NEWNET))?;
    let namespace = attempt("keep it", File::open(OWN_NET))?;
    let mut netlink = attempt("speak netlink", Netlink::open())?;
    attempt("make a line to it", netlink.pair(INTERFACE, &line(address), mesh.namespace.as_fd()))?;
    let loopback = attempt("find its loopback interface", if_nametoindex("lo"))?;
    attempt("start its loopback interface", netlink.up(loopback))?;
    let index = attempt("find its interface", if_nametoindex(INTERFACE))?;
    attempt("give it its address", netlink.address(index, address))?;
    let settings = [(Setting::Forwarding, 0), (Setting::RouteLoopback, 1)];
    attempt("set up its interface", netlink.set(index, &settings))?;
    attempt("start its interface", netlink.up(index))?;
    let way = |to, gateway, table| Route { to, by: index, gateway, source: address, table };
    let to_mesh = Block { network: mesh.address, prefix: 32 };
    attempt("add its way to the mesh", netlink.route(way(to_mesh, None, TABLE_MAIN)))?;
    // In the table that is looked at first, where all loopback addresses are this machine's otherwise.
    attempt("add its way to Services", netlink.route(way(services, Some(mesh.address), TABLE_LOCAL)))?;
    // Its programs are not root over it, and ports are its own.
    for (file, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
        // Where these can't be set, a program is told so when it needs them.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{file}"), value);
    }
    Ok(OwnedFd::from(namespace))
}

/// Sets up the mesh's end of the line to a Pod. Nothing is passed on to others, and what a Pod sends bears its own address.
fn join_mesh(mesh: &Mesh, address: Ipv4Addr) -> Result<(), String> {
    let mut netlink = attempt("speak netlink", Netlink::open())?;
    let index = attempt("find the line to it", if_nametoindex(line(address).as_str()))?;
    let settings = [(Setting::Forwarding, 0), (Setting::ReversePath, 1), (Setting::RouteLoopback, 1)];
    attempt("set up the line to it", netlink.set(index, &settings))?;
    attempt("start the line to it", netlink.up(index))?;
    let to = Block { network: address, prefix: 32 };
    let way = Route { to, by: index, gateway: None, source: mesh.address, table: TABLE_MAIN };
    attempt("add the way to it", netlink.route(way))
}
