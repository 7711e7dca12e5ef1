//! Whose an address is, as far as that decides who may be led there: by a name, or by the way out.
//!
//! Invariants: the ranges of this machine and of the network beside it are never taken for the outside, also before there is
//! that network; what cannot be found out counts as this machine's.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use crate::network::Network;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Nobody's: unspecified, multicast, broadcast.
    Nobody,
    /// Link-local, where machines keep what is theirs alone.
    Link,
    /// A program's in the network beside the machine's own, which is reached by what guards it.
    Network,
    /// This machine's.
    Machine,
    /// Somebody else's: outside.
    Outside,
}

impl Whose {
    /// Why an address is not outside; none where it is.
    pub(crate) fn not_outside(self) -> Option<&'static str> {
        match self {
            Self::Nobody => Some("it is no address of anybody"),
            Self::Link => Some("it is link-local, where machines keep what is theirs alone"),
            Self::Network => Some("it is of the pod network, whose programs are called by their Services"),
            Self::Machine => Some("it is the machine itself, which is not outside"),
            Self::Outside => None,
        }
    }
}

/// Tells whose an address is.
pub(crate) fn whose(address: IpAddr, network: Option<&Arc<dyn Network>>) -> Whose {
    judge(address, |address| network.is_some_and(|network| network.covers(address)), bound)
}

fn judge(address: IpAddr, covers: impl Fn(IpAddr) -> bool, bind: impl Fn(IpAddr) -> io::Result<()>) -> Whose {
    let address = address.to_canonical();
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Whose::Nobody;
    }
    if link_local {
        return Whose::Link;
    }
    if address.is_loopback() {
        return Whose::Machine;
    }
    if covers(address) {
        return Whose::Network;
    }
    match bind(address) {
        // The one answer that means that the machine does not have it. Any other (no descriptor is left, say) is none.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Whose::Outside,
        _ => Whose::Machine,
    }
}

/// A socket can be bound to what is this machine's.
fn bound(address: IpAddr) -> io::Result<()> {
    UdpSocket::bind((address, 0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_somebodys() {
        let covers = |address: IpAddr| address.to_string().starts_with("10.244.");
        let bind = |address: IpAddr| match address.to_string().as_str() {
            "192.168.1.5" => Ok(()),
            "192.0.2.9" => Err(io::Error::from_raw_os_error(24)),
            _ => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        for (address, expected) in [
            ("0.0.0.0", Whose::Nobody),
            ("::", Whose::Nobody),
            ("224.0.0.1", Whose::Nobody),
            ("255.255.255.255", Whose::Nobody),
            ("169.254.169.254", Whose::Link),
            ("::ffff:169.254.169.254", Whose::Link),
            ("fe80::1", Whose::Link),
            ("127.0.0.1", Whose::Machine),
            ("127.96.4.7", Whose::Machine),
            ("::1", Whose::Machine),
            ("::ffff:127.0.0.1", Whose::Machine),
            ("192.168.1.5", Whose::Machine),
            ("::ffff:192.168.1.5", Whose::Machine),
            // Whether it is ours is not known: no descriptor is left.
            ("192.0.2.9", Whose::Machine),
            ("10.244.0.7", Whose::Network),
            ("::ffff:10.244.255.1", Whose::Network),
            ("192.0.2.1", Whose::Outside),
            ("2001:db8::1", Whose::Outside),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(judge(address, covers, bind), expected, "{address}");
        }
    }

    #[test]
    fn the_system_tells_what_is_of_this_machine() {
        assert_eq!(whose("127.0.0.9".parse().expect("an address"), None), Whose::Machine);
        assert_eq!(whose("192.0.2.1".parse().expect("an address"), None), Whose::Outside);
    }
}
