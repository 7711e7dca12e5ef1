//! Bytes both ways: connections that changed their protocol, and raw TCP.
//!
//! Invariants: a tunnel counts at its endpoint, and as a connection of its client, until it ends; it ends with either side, and at the latest with the
//! draining of its listener.

use std::io;
use std::sync::Arc;

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use crate::access::Admitted;
use crate::balance::Backend;
use crate::endpoint::Ticket;
use crate::identity::Client;
use crate::listen::Slot;
use crate::request::{Caller, speaker};
use crate::service::Shared;
use crate::session::{Carries, Session};
use crate::upstream::RequestBody;

const BUFFER: usize = 16 * 1024;

/// Connects to an endpoint for a request that may change the protocol. The connection has a task of its own.
pub(crate) async fn dial_http(caller: &Caller, ticket: &Ticket) -> io::Result<SendRequest<RequestBody>> {
    let address = ticket.endpoint.address;
    let stream = caller.dial().to(&ticket.endpoint, Some(b"http/1.1"), ticket.client.as_deref()).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let slot = Arc::clone(&caller.slot);
    caller.slot.tasks.spawn(async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%address, %error, "connection to an endpoint ended");
            },
            () = slot.life.forced() => {}
        }
    });
    Ok(sender)
}

/// Joins the two sides of a changed protocol as soon as both have changed.
pub(crate) fn join(caller: &Caller, client: OnUpgrade, server: OnUpgrade, ticket: Ticket) {
    let (slot, held) = (Arc::clone(&caller.slot), Arc::clone(&caller.held));
    caller.slot.tasks.spawn(async move {
        let tunnel = async {
            match tokio::try_join!(client, server) {
                Ok((client, server)) => copy(TokioIo::new(client), TokioIo::new(server)).await,
                Err(error) => tracing::debug!(%error, "a change of protocol was not completed"),
            }
        };
        tokio::select! {
            () = tunnel => {}
            () = slot.life.forced() => {}
        }
        drop((ticket, held));
    });
}

async fn copy(mut client: impl AsyncRead + AsyncWrite + Unpin, mut server: impl AsyncRead + AsyncWrite + Unpin) {
    if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await {
        tracing::debug!(%error, "a tunnel broke");
    }
}

/// What the bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// TLS, made for the program itself: they go as they are.
    Sealed,
    /// Anything: a backend with TLS gets them within it.
    Open,
}

/// A client's bytes, and where they go.
pub(crate) struct Carried<'a> {
    pub(crate) backend: &'a Arc<Backend>,
    pub(crate) client: &'a Client,
    pub(crate) bytes: Bytes,
    /// The host that the client named, where it named one.
    pub(crate) host: &'a str,
}

impl<'a> Carried<'a> {
    pub(crate) fn new(backend: &'a Arc<Backend>, client: &'a Client, bytes: Bytes) -> Self {
        Self { backend, client, bytes, host: "" }
    }
}

/// Carries the bytes of a client that has been let in to an endpoint of a backend, trying others where one cannot be reached.
pub(crate) async fn carry(
    shared: &Arc<Shared>,
    slot: &Slot,
    _admitted: Admitted,
    carried: Carried<'_>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let Carried { backend, client, bytes, host } = carried;
    let table = slot.table.load_full();
    let counter = shared.counters.counter(&table.id, &backend.id, &backend.id);
    let mut session = Session::open(shared, &counter, client, Carries::bytes(bytes == Bytes::Sealed, host));
    let mut tried = Vec::new();
    while tried.len() < shared.settings.attempts as usize {
        let Some(ticket) = backend.pick(&tried) else { break };
        let address = ticket.endpoint.address;
        session.attempts(address);
        let dial = shared.dial(speaker(client.identity.as_ref(), &table));
        let connected = match bytes {
            Bytes::Sealed => dial.as_it_is(&ticket.endpoint).await,
            Bytes::Open => dial.to(&ticket.endpoint, None, None).await,
        };
        match connected {
            Ok(server) => return session.carry(stream, server, &slot.life).await,
            Err(error) => {
                tracing::debug!(%address, %error, "an endpoint could not be reached");
                session.missed(&error.to_string());
            }
        }
        tried.push(address);
    }
    session.unreached(if tried.is_empty() { "no_endpoint" } else { "connect_failed" });
    tracing::debug!(backend = &*backend.id, tried = tried.len(), "no endpoint for a connection; it is closed");
}
