//! Interfaces, addresses and routes of the network namespace in which a socket was made, by rtnetlink(7). Blocking.
//!
//! Only the messages that the pod network needs. Every change is acknowledged by the kernel before the next.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::plan::Block;

// linux/rtnetlink.h and linux/netlink.h
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const REQUEST_ACKNOWLEDGED: u16 = 1 | 4;
const CREATE_EXCLUSIVE: u16 = 0x400 | 0x200;
const NESTED: u16 = 1 << 15;
const ERROR: u16 = 2;
const HEADER: usize = 16;
// linux/if_link.h and linux/veth.h
const IFNAME: u16 = 3;
const LINKINFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PEER: u16 = 1;
const AF_SPEC: u16 = 26;
const INET_CONF: u16 = 1;
const NET_NS_FD: u16 = 28;
const UP: u32 = 1;
// linux/if_addr.h and linux/rtnetlink.h
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const DESTINATION: u16 = 1;
const OUT_INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const PREFERRED_SOURCE: u16 = 7;
const STATIC: u8 = 4;
const UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const INET: u8 = 2;

/// The table in which the kernel looks first, and the one for ordinary routes.
pub(super) const TABLE_LOCAL: u8 = 255;
pub(super) const TABLE_MAIN: u8 = 254;

/// What of an interface's IPv4 configuration is set here; the numbers are those of linux/ip.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Pass on what is for others.
    Forwarding = 1,
    /// Take only what would be answered by the same interface.
    ReversePath = 8,
    /// Route loopback addresses like others.
    RouteLoopback = 26,
}

/// A conversation with the kernel about one network namespace.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A way to some addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub to: Block,
    pub by: u32,
    pub gateway: Option<Ipv4Addr>,
    pub source: Ipv4Addr,
    pub table: u8,
}

impl Netlink {
    /// About the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a pair of joined interfaces: one here, the other in another namespace.
    pub(super) fn pair(&mut self, name: &str, other: &str, there: BorrowedFd<'_>) -> io::Result<()> {
        let mut message = Message::new(NEW_LINK, CREATE_EXCLUSIVE);
        message.link(0, 0);
        message.text(IFNAME, name);
        message.nest(LINKINFO, |info| {
            info.text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(PEER, |peer| {
                    peer.link(0, 0);
                    peer.text(IFNAME, other);
                    peer.attribute(NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.ask(message)
    }

    /// Takes an interface away; none of that name is as good.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut message = Message::new(DELETE_LINK, 0);
        message.link(0, 0);
        message.text(IFNAME, name);
        match self.ask(message) {
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
            other => other,
        }
    }

    /// Lets an interface work.
    pub(super) fn up(&mut self, index: u32) -> io::Result<()> {
        let mut message = Message::new(NEW_LINK, 0);
        message.link(index, UP);
        self.ask(message)
    }

    /// Configures an interface.
    pub(super) fn set(&mut self, index: u32, settings: &[(Setting, u32)]) -> io::Result<()> {
        let mut message = Message::new(SET_LINK, 0);
        message.link(index, 0);
        message.nest(AF_SPEC, |spec| {
            spec.nest(u16::from(INET), |inet| {
                inet.nest(INET_CONF, |conf| {
                    for (setting, value) in settings {
                        conf.attribute(*setting as u16, &value.to_ne_bytes());
                    }
                });
            });
        });
        self.ask(message)
    }

    /// Gives an interface an address, alone in its network.
    pub(super) fn address(&mut self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut message = Message::new(NEW_ADDRESS, CREATE_EXCLUSIVE);
        message.bytes(&[INET, 32, 0, SCOPE_UNIVERSE]);
        message.bytes(&index.to_ne_bytes());
        message.attribute(LOCAL, &address.octets());
        message.attribute(ADDRESS, &address.octets());
        self.ask(message)
    }

    /// Adds a way.
    pub(super) fn route(&mut self, route: Route) -> io::Result<()> {
        let scope = if route.gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        let mut message = Message::new(NEW_ROUTE, CREATE_EXCLUSIVE);
        message.bytes(&[INET, route.to.prefix, 0, 0, route.table, STATIC, scope, UNICAST]);
        message.bytes(&0_u32.to_ne_bytes());
        message.attribute(DESTINATION, &route.to.network.octets());
        message.attribute(OUT_INTERFACE, &route.by.to_ne_bytes());
        if let Some(gateway) = route.gateway {
            message.attribute(GATEWAY, &gateway.octets());
        }
        message.attribute(PREFERRED_SOURCE, &route.source.octets());
        self.ask(message)
    }

    fn ask(&mut self, message: Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(done) = acknowledged(&answer[..length], self.sequence) {
                return done;
            }
        }
    }
}

/// What an acknowledgement says; none where it is another message's.
fn acknowledged(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let number = |at: usize| answer.get(at..at + 4).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != ERROR || number(8)? != sequence.cast_signed() {
        return None;
    }
    Some(match number(HEADER)? {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    })
}

/// A message in the making. Numbers are the machine's, addresses the network's.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST_ACKNOWLEDGED | flags).to_ne_bytes());
        Self(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// `ifinfomsg`.
    fn link(&mut self, index: u32, flags: u32) {
        self.bytes(&[0; 4]);
        self.bytes(&index.to_ne_bytes());
        self.bytes(&flags.to_ne_bytes());
        self.bytes(&flags.to_ne_bytes()); // of these, which change
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // None is longer than a name.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes(&length.to_ne_bytes());
        self.bytes(&kind.to_ne_bytes());
        self.bytes(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let begun = self.0.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.0.len() - begun).unwrap_or(u16::MAX);
        self.0[begun..begun + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_tell_their_length_and_begin_at_multiples_of_four() {
        let mut message = Message::new(NEW_LINK, CREATE_EXCLUSIVE);
        message.link(7, UP);
        message.nest(LINKINFO, |info| info.text(INFO_KIND, "veth"));
        let bytes = message.finish(9);
        assert_eq!(bytes.len(), 16 + 16 + 4 + 12);
        assert_eq!(bytes[..4], 48_u32.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x605_u16.to_ne_bytes());
        assert_eq!(bytes[8..12], 9_u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 7_u32.to_ne_bytes());
        assert_eq!(bytes[32..36], [16_u16.to_ne_bytes(), (LINKINFO | NESTED).to_ne_bytes()].concat());
        assert_eq!(bytes[36..40], [9_u16.to_ne_bytes(), INFO_KIND.to_ne_bytes()].concat());
        assert_eq!(&bytes[40..48], b"veth\0\0\0\0");
    }

    #[test]
    fn an_acknowledgement_is_told_from_other_messages() {
        let answer = |kind: u16, sequence: u32, error: i32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        assert!(matches!(acknowledged(&answer(ERROR, 3, 0), 3), Some(Ok(()))));
        let refused = acknowledged(&answer(ERROR, 3, -1), 3).expect("its own").expect_err("refused");
        assert_eq!(refused.raw_os_error(), Some(1));
        for other in [answer(ERROR, 2, 0), answer(NEW_LINK, 3, 0), vec![0; 5]] {
            assert!(acknowledged(&other, 3).is_none(), "{other:?}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_cannot_be_set_up() {
        let mut netlink = Netlink::open().expect("the kernel speaks netlink");
        let error = netlink.set(0x7fff_fff0, &[(Setting::Forwarding, 0)]).expect_err("there is none");
        assert!(
            [Errno::ENODEV as i32, Errno::EPERM as i32].contains(&error.raw_os_error().expect("a number")),
            "{error}"
        );
    }
}
