//! Bytes both ways: connections that changed their protocol, and raw TCP.
//!
//! Invariants: a tunnel counts at its endpoint until it ends; it ends with either side, and at the latest with the
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
use crate::identity::Speaker;
use crate::listen::Slot;
use crate::request::Caller;
use crate::service::Shared;
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
    let slot = Arc::clone(&caller.slot);
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
        drop(ticket);
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

/// Carries the bytes of a client that has been let in to an endpoint of a backend, trying others where one cannot be reached.
pub(crate) async fn carry(
    shared: &Shared,
    slot: &Slot,
    _admitted: Admitted,
    backend: &Backend,
    speaker: Speaker<'_>,
    (bytes, client): (Bytes, impl AsyncRead + AsyncWrite + Unpin),
) {
    let mut tried = Vec::new();
    while tried.len() < shared.settings.attempts as usize {
        let Some(ticket) = backend.pick(&tried) else { break };
        let address = ticket.endpoint.address;
        let dial = shared.dial(speaker);
        let connected = match bytes {
            Bytes::Sealed => dial.as_it_is(&ticket.endpoint).await,
            Bytes::Open => dial.to(&ticket.endpoint, None, None).await,
        };
        match connected {
            Ok(server) => {
                tokio::select! {
                    () = copy(client, server) => {}
                    () = slot.life.forced() => {}
                }
                return;
            }
            Err(error) => tracing::debug!(%address, %error, "an endpoint could not be reached"),
        }
        tried.push(address);
    }
    tracing::debug!(backend = &*backend.id, tried = tried.len(), "no endpoint for a connection; it is closed");
}
