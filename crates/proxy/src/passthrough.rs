//! TLS that goes where its server name says: all bytes as they came, or what is in them where it is for us to end it.
//!
//! Invariants: of TLS that is not ours only the client's first message is read, with limits of size and time, and nothing of it
//! is answered or changed; a handshake has its limit too.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::access;
use crate::balance::Backend;
use crate::connection::Ended;
use crate::identity::Client;
use crate::listen::Slot;
use crate::prefixed::Prefixed;
use crate::route::{Guard, Protocol};
use crate::service::Shared;
use crate::tunnel;

/// The longest first message of a client.
const LONGEST: usize = 64 * 1024;

/// Hands a connection on.
pub(crate) async fn serve(shared: &Arc<Shared>, slot: &Slot, mut stream: TcpStream, client: &Client) -> Ended {
    let hello = tokio::select! {
        hello = tokio::time::timeout(shared.settings.handshake_timeout, hello(&mut stream)) => hello??,
        () = slot.life.forced() => return Ok(()),
    };
    let Some((bytes, name)) = hello else { return Ok(()) };
    match backend(slot, &name) {
        Some((backend, guard)) => {
            if let Some(admitted) = access::admits(&shared.audit, client, Some(&guard), &backend) {
                let carried =
                    tunnel::Carried { host: &name, ..tunnel::Carried::new(&backend, client, tunnel::Bytes::Sealed) };
                tunnel::carry(shared, slot, admitted, carried, Prefixed::new(bytes, stream)).await;
            }
        }
        None => tracing::debug!(listener = &*slot.table.load().id, name, "nobody has this server name"),
    }
    Ok(())
}

/// Ends TLS, and hands on what is in it.
pub(crate) async fn serve_ended(
    shared: &Arc<Shared>,
    slot: &Slot,
    stream: TcpStream,
    client: Client,
    config: Arc<ServerConfig>,
) -> Ended {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::select! {
        stream = tokio::time::timeout(shared.settings.handshake_timeout, handshake) => stream??,
        () = slot.life.forced() => return Ok(()),
    };
    let name = stream.get_ref().1.server_name().unwrap_or_default().to_ascii_lowercase();
    let Some((backend, guard)) = backend(slot, &name) else {
        tracing::debug!(listener = &*slot.table.load().id, name, "nobody has this server name");
        return Ok(());
    };
    if let Some(admitted) = access::admits(&shared.audit, &client, Some(&guard), &backend) {
        let carried = tunnel::Carried { host: &name, ..tunnel::Carried::new(&backend, &client, tunnel::Bytes::Open) };
        tunnel::carry(shared, slot, admitted, carried, stream).await;
    }
    Ok(())
}

/// The backend for a server name, as it is now, and who may go there.
fn backend(slot: &Slot, name: &str) -> Option<(Arc<Backend>, Arc<Guard>)> {
    let table = slot.table.load();
    let Protocol::Tls(_, names) = &table.protocol else { return None };
    let name = names.find(name)?;
    let (_, total) = name.backends.last()?;
    let drawn = fastrand::u64(..*total);
    let drawn = name.backends.iter().find(|(_, until)| drawn < *until);
    drawn.map(|(backend, _)| (Arc::clone(backend), Arc::clone(&name.guard)))
}

/// All that was read, and the server name in lower case; empty where the client sent none. None where the client went away.
pub(crate) async fn hello(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(Bytes, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes = BytesMut::with_capacity(4096);
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    while bytes.len() < LONGEST {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
        while seen < bytes.len() {
            let taken = acceptor.read_tls(&mut &bytes[seen..])?;
            if taken == 0 {
                break;
            }
            seen += taken;
            // What comes after the first message is no affair of ours.
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().unwrap_or_default().to_ascii_lowercase();
                    return Ok(Some((bytes.freeze(), name)));
                }
                Ok(None) => {}
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    Err("the client's first message is longer than any should be".into())
}
