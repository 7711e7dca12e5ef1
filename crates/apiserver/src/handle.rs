//! What the rest of the program holds on to: where the server is, and how to talk to it without a socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::body::{Body, BoxError};
use crate::server::Server;

/// A running (or about to run) API server. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) kubeconfig: Arc<PathBuf>,
    pub(crate) ca_pem: Arc<str>,
}

impl Handle {
    /// The address that is listened on, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's URL as in the kubeconfig.
    pub fn url(&self) -> String {
        crate::kubeconfig::url(self.address)
    }

    /// The kubeconfig of the administrator (mode 0600).
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// The certificate authority that signed the server's certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Resolves once what must be there before serving is there; never, where the server ended before.
    pub async fn ready(&self) {
        let mut ready = self.server.ready.subscribe();
        // The sender lives as long as the server that this handle holds.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// What the server carries at the moment.
    pub fn load(&self) -> Load {
        let limits = &self.server.settings.limits;
        Load {
            requests: limits.requests.saturating_sub(self.server.requests.available_permits()),
            streams: limits.streams.saturating_sub(self.server.streams.available_permits()),
            revision: self.server.store.revision(),
        }
    }

    /// The server as a service in this process, for requests made as `user` (say `system:node:coracle`). They take the
    /// same way as requests over TLS, and may what the roles of this user allow; only the credential is replaced by this name.
    /// `system:admin` is the administrator.
    pub fn service_as(&self, user: &str) -> InProcess {
        InProcess { server: self.server.clone(), user: Arc::new(crate::identity::User::part(user)) }
    }
}

/// What an API server carries at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests under way, watches and logs not counted.
    pub requests: usize,
    /// Watches and log streams under way.
    pub streams: usize,
    /// The store's revision: how many writes there have been.
    pub revision: u64,
}

/// The API server as a `tower` service, for `kube::Client::new`.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<Server>,
    user: Arc<crate::identity::User>,
}

impl<B> tower::Service<http::Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (server, user) = (self.server.clone(), self.user.clone());
        Box::pin(async move { Ok(server.serve(request, Some(user)).await) })
    }
}
