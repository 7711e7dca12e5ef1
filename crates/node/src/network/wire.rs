//! What Coracle and the helper say to each other: one packet a message, with descriptors beside it.
//!
//! A packet of no bytes is the other side's end. Messages are small and of our own making; what is not understood ends the
//! conversation.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Block;

/// No message is longer.
const LONGEST: usize = 4096;
/// No message brings more descriptors.
pub(super) const MOST: usize = 16;

/// What the helper is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ask {
    /// Make the namespaces, or enter those that are there: the user namespace, the mesh's network namespace. The mesh has this address.
    Begin { address: Ipv4Addr, there: Option<(PathBuf, PathBuf)> },
    /// The users of its new namespace have been said.
    Mapped,
    /// Sockets of the mesh's namespace.
    Sockets { kind: Kind, count: usize },
    /// A TCP socket of the Pod's namespace that comes beside.
    Inside,
    /// A namespace for a Pod, with this address and a way to these Services.
    Pod { address: Ipv4Addr, services: Block },
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Tcp,
    Udp,
}

/// What the helper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// It is in a new user namespace, whose users must be said.
    Unshared,
    /// Done; what was asked for comes beside. After [`Ask::Begin`]: the user namespace and the mesh's.
    Done,
    /// It could not be done.
    Failed(String),
}

/// Sends a message.
pub(super) fn send<T: Serialize>(socket: impl AsFd, message: &T, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !beside.is_empty() && !control.push(SendAncillaryMessage::ScmRights(beside)) {
        return Err(io::Error::other(format!("{} descriptors are too many for one message", beside.len())));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the next message; none where the other side has ended.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut beside = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            beside.extend(descriptors);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..got.bytes])?, beside)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};

    #[test]
    fn a_message_brings_what_is_sent_beside_it() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
        let (mut near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let services = Block { network: Ipv4Addr::new(127, 96, 4, 0), prefix: 22 };
        let ask = Ask::Pod { address: Ipv4Addr::new(10, 244, 0, 2), services };
        send(&ours, &ask, &[far.as_fd()]).expect("sent");
        drop(far);
        let (heard, mut beside) = receive::<Ask>(&theirs).expect("received").expect("a message");
        assert_eq!(heard, ask);
        let mut far = std::os::unix::net::UnixStream::from(beside.pop().expect("a descriptor"));
        near.write_all(b"x").expect("written");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("read");
        assert_eq!((byte, beside.len()), (*b"x", 0));
        drop(ours);
        assert_eq!(receive::<Ask>(&theirs).expect("received").map(|(ask, _)| ask), None);
    }
}
