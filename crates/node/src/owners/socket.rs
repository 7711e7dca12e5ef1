//! From the two addresses of a TCP connection to the number (inode) that names one of its sockets.
//!
//! The kernel is asked for exactly that connection by its socket diagnostics (netlink, sock_diag(7)); where those are not to be
//! had, its list of all connections is read.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `SOCK_DIAG_BY_FAMILY`, linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`, linux/netlink.h.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// The lengths of `nlmsghdr` and `inet_diag_req_v2`, linux/inet_diag.h.
const HEADER: usize = 16;
const QUESTION: usize = 56;
/// Where `idiag_inode` lies in an answer, behind the header.
const INODE: usize = 68;

/// The inode of the socket that is bound to `own` and connected to `other`.
pub(super) fn inode(own: SocketAddr, other: SocketAddr) -> Option<u64> {
    let (own, other) = (plain(own), plain(other));
    let found = match diagnosed(own, other) {
        Ok(found) => found,
        Err(error) => {
            tracing::trace!(%error, "socket diagnostics are not to be had; all connections are listed instead");
            listed(own, other)
        }
    };
    // Zero: the socket is nobody's any more.
    found.filter(|inode| *inode != 0)
}

/// An IPv4 address in the form of IPv6 is an IPv4 address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn diagnosed(own: SocketAddr, other: SocketAddr) -> io::Result<Option<u64>> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers before the question's call returns; the limit is for kernels that don't.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
    sendto(netlink.as_raw_fd(), &question(own, other), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read(&answer[..length])
}

/// A `nlmsghdr` and an `inet_diag_req_v2`. Numbers are the machine's, ports and addresses the network's.
fn question(own: SocketAddr, other: SocketAddr) -> [u8; HEADER + QUESTION] {
    let mut bytes = [0; HEADER + QUESTION];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &(HEADER as u32 + QUESTION as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST.to_ne_bytes());
    let family = if own.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    put(HEADER, &[family as u8, TCP]);
    // In every state.
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    put(HEADER + 8, &own.port().to_be_bytes());
    put(HEADER + 10, &other.port().to_be_bytes());
    for (at, address) in [(HEADER + 12, own), (HEADER + 28, other)] {
        match address.ip() {
            IpAddr::V4(address) => put(at, &address.octets()),
            IpAddr::V6(address) => put(at, &address.octets()),
        }
    }
    // No interface, and no cookie.
    put(HEADER + 48, &[0xff; 8]);
    bytes
}

fn read(answer: &[u8]) -> io::Result<Option<u64>> {
    let number = |at: usize| answer.get(at..at + 4).and_then(|part| part.try_into().ok()).map(u32::from_ne_bytes);
    let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is too short");
    let kind = answer.get(4..6).and_then(|part| part.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(BY_FAMILY) {
        return number(HEADER + INODE).map(|inode| Some(u64::from(inode))).ok_or_else(short);
    }
    // Anything else is an error message, which begins with the negative number of the error.
    let code = number(HEADER).ok_or_else(short)?.cast_signed();
    let error = io::Error::from_raw_os_error(code.wrapping_neg());
    if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

/// The same from `/proc/net/tcp` and `tcp6`.
fn listed(own: SocketAddr, other: SocketAddr) -> Option<u64> {
    let files = [("/proc/net/tcp", false), ("/proc/net/tcp6", true)];
    files.into_iter().filter(|(_, six)| *six || own.is_ipv4()).find_map(|(file, six)| {
        let text = std::fs::read_to_string(file).ok()?;
        let (own, other) = (written(own, six), written(other, six));
        text.lines().find_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let pair = (fields.next()?, fields.next()?);
            // Behind the two: state, queues, timer, retransmissions, user, timeout, inode.
            (pair == (own.as_str(), other.as_str())).then(|| fields.nth(6)?.parse().ok()).flatten()
        })
    })
}

/// An address as these files write it: words of four bytes as the machine has them, in hexadecimal.
fn written(address: SocketAddr, six: bool) -> String {
    let bytes: Vec<u8> = match (address.ip(), six) {
        (IpAddr::V4(address), false) => address.octets().to_vec(),
        (IpAddr::V4(address), true) => address.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(address), _) => Ipv6Addr::octets(&address).to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        format!("{word:08X}")
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn number(stream: &TcpStream) -> u64 {
        let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
        std::fs::metadata(path).expect("an open socket").ino()
    }

    /// What the list of all says of a connection. It is not made at once: where others come and go meanwhile, one may be missing in it.
    fn looked_up(own: SocketAddr, other: SocketAddr) -> Option<u64> {
        (0..1000).find_map(|_| listed(own, other))
    }

    #[test]
    fn both_ways_find_exactly_the_one_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let at = listener.local_addr().expect("an address");
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().expect("an address"), at.port());
        for target in [at, mapped] {
            let client = TcpStream::connect(target).expect("connected");
            let (server, peer) = listener.accept().expect("accepted");
            assert_eq!(diagnosed(plain(peer), at).expect("diagnostics"), Some(number(&client)), "{target}");
            assert_eq!(diagnosed(at, plain(peer)).expect("diagnostics"), Some(number(&server)), "{target}");
            assert_eq!(looked_up(plain(peer), at), Some(number(&client)), "{target}");
            assert_eq!(looked_up(at, plain(peer)), Some(number(&server)), "{target}");
            assert_eq!(inode(peer, at), Some(number(&client)));
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let at = listener.local_addr().expect("an address");
        let nobody: SocketAddr = "127.0.0.9:1".parse().expect("an address");
        assert_eq!(diagnosed(nobody, at).expect("diagnostics"), None);
        assert_eq!(listed(nobody, at), None);
        assert!(read(&[0; 10]).is_err() && read(&[]).is_err());
    }
}
