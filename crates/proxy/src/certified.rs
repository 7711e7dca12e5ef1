//! Connections of clients that show a certificate: other proxies', and workloads' own.
//!
//! Invariants: who the client is comes from its certificate alone, whatever its address; whoever is not believed gets no byte of
//! an answer, and the reason is in the log.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::access;
use crate::balance::Backend;
use crate::connection::{Ended, serve_plain};
use crate::identity::{Client, Identity};
use crate::listen::Slot;
use crate::passthrough;
use crate::peer;
use crate::prefixed::Prefixed;
use crate::rejection::{End, Rejection};
use crate::route::{Protocol, Table};
use crate::service::Shared;
use crate::snapshot::Admits;
use crate::tunnel;

/// The bytes of a connection, whatever is below.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Whether a listener serves such a client.
pub(crate) fn admits(table: &Table, identity: Option<&Arc<Identity>>, certified: bool) -> bool {
    match table.admits {
        Admits::Anybody => true,
        Admits::Known => identity.is_some(),
        Admits::Certified => certified && identity.is_some(),
    }
}

/// Resets a connection, so that the client cannot take its end for an answer.
pub(crate) fn turn_away(shared: &Shared, table: &Table, client: &Client, stream: &TcpStream) {
    let caller = client.identity.as_ref().map_or("nobody that is known", |identity| &identity.id);
    let (wanted, reason) = match table.admits {
        Admits::Certified => ("a certificate", Rejection::NoCertificate),
        Admits::Known | Admits::Anybody => ("a known identity", Rejection::NoIdentity),
    };
    shared.audit.count(&table.id, reason.word());
    if let Some(left_out) = shared.refused.one(End::Client, reason) {
        tracing::warn!(target: "proxy::refused", listener = &*table.id, peer = %client.peer, caller, reason = reason.word(), left_out,
            "a connection was refused: {wanted} is asked for here, and it came with none");
    }
    // Where it fails, the connection ends in the ordinary way, without an answer all the same.
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a refused connection could not be reset");
    }
}

/// Counts and writes down who (by the socket, where that is known) was refused, and why: `said` names whom it posed as.
fn refuse(shared: &Shared, table: &Table, client: &Client, reason: Rejection, said: &dyn std::fmt::Display) -> Ended {
    let caller = client.identity.as_ref().map_or("nobody that is known", |identity| &identity.id);
    shared.audit.count(&table.id, "certificate_refused");
    if let Some(left_out) = shared.refused.one(End::Client, reason) {
        tracing::warn!(target: "proxy::refused", listener = &*table.id, peer = %client.peer, caller, reason = reason.word(), left_out,
            "a connection was refused: {said}");
    }
    Ok(())
}

/// The first bytes of TLS: a handshake record.
pub(crate) fn is_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x16, 0x03])
}

/// The handshake; who the client is, and the name it asked for. None where the connection is over.
async fn accept(
    shared: &Shared,
    slot: &Slot,
    table: &Table,
    client: &Client,
    stream: impl Io + 'static,
) -> Result<Option<(Box<dyn Io>, Option<Arc<Identity>>, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(peers) = &shared.peers else { return Ok(None) };
    let handshake = TlsAcceptor::from(peers.server(table.shows.as_ref())).accept(stream);
    let stream = tokio::select! {
        stream = tokio::time::timeout(shared.settings.handshake_timeout, handshake) => stream?,
        () = slot.life.forced() => return Ok(None),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            refuse(shared, table, client, peer::why(&error), &error)?;
            return Ok(None);
        }
    };
    let session = stream.get_ref().1;
    let name = session.server_name().unwrap_or_default().to_ascii_lowercase();
    match peers.client(session.peer_certificates()) {
        Ok(identity) => Ok(Some((Box::new(stream), identity, name))),
        Err(distrust) => {
            refuse(shared, table, client, distrust.reason, &distrust)?;
            Ok(None)
        }
    }
}

/// Serves a connection at a listener for other proxies.
pub(crate) async fn serve_mesh(shared: &Arc<Shared>, slot: &Arc<Slot>, stream: TcpStream, client: Client) -> Ended {
    let table = slot.table.load_full();
    let Some((stream, identity, name)) = accept(shared, slot, &table, &client, stream).await? else { return Ok(()) };
    let client = Client { identity, ..client };
    let Some(slot) = slot.named(&name, shared) else {
        return refuse(
            shared,
            &table,
            &client,
            Rejection::NoService,
            &format_args!("there is no service {name:?} here"),
        );
    };
    let table = slot.table.load_full();
    if !admits(&table, client.identity.as_ref(), true) {
        return refuse(
            shared,
            &table,
            &client,
            Rejection::NoIdentity,
            &"the other proxy speaks for nobody that is known",
        );
    }
    serve_within(shared, &slot, &table, stream, client).await
}

/// Serves what is within TLS, as what comes without is.
async fn serve_within(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    table: &Table,
    stream: Box<dyn Io>,
    client: Client,
) -> Ended {
    match &table.protocol {
        Protocol::Sniff(backend) => serve_plain(shared, slot, stream, client, Some(backend)).await,
        Protocol::Tcp(backend) => {
            if let Some(admitted) = access::admits(&shared.audit, &client, None, backend) {
                let carried = tunnel::Carried::new(backend, &client, tunnel::Bytes::Open);
                tunnel::carry(shared, slot, admitted, carried, stream).await;
            }
            Ok(())
        }
        _ => serve_plain(shared, slot, stream, client, None).await,
    }
}

/// Serves a client of a service's own listener that began with TLS. Where anything may be spoken, TLS that does not ask for the
/// service by its peer name is somebody's own, and passes through; where only certificates count, all TLS is for them.
pub(crate) async fn serve_tls_at_service(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    (prefix, stream): (Bytes, TcpStream),
    client: Client,
    otherwise: Option<&Arc<Backend>>,
) -> Ended {
    let table = slot.table.load_full();
    let mut stream = Prefixed::new(prefix, stream);
    let mut read = Bytes::new();
    if let Some(backend) = otherwise.filter(|_| table.admits != Admits::Certified) {
        let limit = shared.settings.handshake_timeout;
        let Some((bytes, name)) = tokio::time::timeout(limit, passthrough::hello(&mut stream)).await?? else {
            return Ok(());
        };
        if table.peer_name.as_deref() != Some(&name) {
            if !admits(&table, client.identity.as_ref(), false) {
                turn_away(shared, &table, &client, stream.get_ref());
                return Ok(());
            }
            if let Some(admitted) = access::admits(&shared.audit, &client, None, backend) {
                let carried =
                    tunnel::Carried { host: &name, ..tunnel::Carried::new(backend, &client, tunnel::Bytes::Sealed) };
                tunnel::carry(shared, slot, admitted, carried, Prefixed::new(bytes, stream)).await;
            }
            return Ok(());
        }
        read = bytes;
    }
    let stream = Prefixed::new(read, stream);
    let Some((stream, identity, _)) = accept(shared, slot, &table, &client, stream).await? else { return Ok(()) };
    let client = Client { identity, scheme: "https", ..client };
    if !admits(&table, client.identity.as_ref(), true) {
        return refuse(
            shared,
            &table,
            &client,
            Rejection::NoIdentity,
            &"its certificate is that of a proxy that speaks for nobody",
        );
    }
    serve_within(shared, slot, &table, stream, client).await
}
