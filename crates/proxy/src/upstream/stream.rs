//! A connection to an endpoint: plain, TLS as the backend's owner asks for it, or mutual TLS to another proxy or to a program
//! that shows who it is.
//!
//! Invariant: an endpoint of a backend with TLS is never sent anything in the clear.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::endpoint::Endpoint;
use crate::identity::Speaker;
use crate::network::{self, Network};
use crate::peer::{self, Peers, Server};
use crate::rejection::{End, Rejections};
use crate::secured::ClientCertificate;

/// The bytes of a connection to an endpoint.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Stream {
    /// What both sides have agreed to speak, where they have.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Tells the other end now what has been read, and not with what is written next, or after a while. It is no more than a hint.
    pub(crate) fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        {
            let stream = match self {
                Self::Plain(stream) => stream,
                Self::Tls(stream) => stream.get_ref().0,
            };
            if let Err(error) = stream.set_quickack(true) {
                tracing::trace!("what was read is acknowledged later: {error}");
            }
        }
    }
}

/// How connections to endpoints are made.
pub(crate) struct Dial<'a> {
    pub(crate) limit: Duration,
    pub(crate) peers: Option<&'a Arc<Peers>>,
    pub(crate) network: Option<&'a Arc<dyn Network>>,
    /// How many refusals are written down.
    pub(crate) refused: &'a Rejections,
    /// Who is spoken for where the other end asks for a certificate.
    pub(crate) speaker: Speaker<'a>,
}

impl Dial<'_> {
    /// Connects, the handshake included, with a limit of time. A server that asks for a certificate is shown `client`.
    pub(crate) async fn to(
        &self,
        endpoint: &Endpoint,
        alpn: Option<&[u8]>,
        client: Option<&ClientCertificate>,
    ) -> io::Result<Stream> {
        let connect = async {
            let stream = self.plain(endpoint).await?;
            match (&endpoint.peer, &endpoint.secure) {
                (None, Some(secure)) => Ok(Stream::Tls(Box::new(secure.connect(stream, alpn, client).await?))),
                _ => self.over(stream, endpoint, alpn).await,
            }
        };
        // On the heap: most requests make no connection, and none should be larger for it.
        self.timely(Box::pin(connect)).await
    }

    /// Connects for bytes that are TLS already, made for the program itself.
    pub(crate) async fn as_it_is(&self, endpoint: &Endpoint) -> io::Result<Stream> {
        self.timely(Box::pin(async {
            let stream = self.plain(endpoint).await?;
            match endpoint.peer {
                Some(_) => self.over(stream, endpoint, None).await,
                // The program's own TLS is within, and it would read no other around that.
                None => Ok(Stream::Plain(stream)),
            }
        }))
        .await
    }

    async fn plain(&self, endpoint: &Endpoint) -> io::Result<TcpStream> {
        let network = self.network.filter(|_| !endpoint.by_name);
        let stream = network::connect(network, endpoint.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// What is spoken where the backend asks for nothing.
    async fn over(&self, stream: TcpStream, endpoint: &Endpoint, alpn: Option<&[u8]>) -> io::Result<Stream> {
        let server = match (&endpoint.peer, &endpoint.expects) {
            (None, None) => return Ok(Stream::Plain(stream)),
            (Some(name), _) => Server::Proxy(name),
            (None, Some(id)) => Server::Workload(id),
        };
        let Some(peers) = self.peers else {
            return Err(io::Error::other("it speaks mutual TLS, and this proxy has no certificates"));
        };
        let stream = peers.connect(stream, server, self.speaker, alpn).await.inspect_err(|error| {
            let reason = peer::why(error);
            if let Some(left_out) = self.refused.one(End::Server, reason) {
                tracing::warn!(target: "proxy::refused", peer = %endpoint.address, ?server, speaker = ?self.speaker, reason = reason.word(), left_out,
                    "no connection by mutual TLS: {error}");
            }
        })?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn timely(&self, connect: impl Future<Output = io::Result<Stream>>) -> io::Result<Stream> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", self.limit));
        tokio::time::timeout(self.limit, connect).await.map_err(late)?
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
