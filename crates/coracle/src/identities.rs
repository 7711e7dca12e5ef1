//! Wires identities: the authority and its files in the data directory, who keeps certificates, and what the proxy gets of it.
//!
//! An authority that cannot be opened does not keep the platform from starting: what was issued before goes on within its grace,
//! and the alarm says why.

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use mesh::identity::federation::{BundleEndpoint, Follower};
use mesh::identity::workload_api::{Attestor, WorkloadApi};
use mesh::identity::{self, Authority, Away, Clock, Handle, Issuer, Keeper, Policy, SpiffeId, Steward, TrustDomain};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How identities are kept.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) domain: TrustDomain,
    pub(crate) grace: SignedDuration,
    /// Where the bundle is served.
    pub(crate) bundle_listen: Option<SocketAddr>,
}

/// Identities that have not been started.
pub(crate) struct Identities {
    keeper: (Keeper, Handle),
    clock: Clock,
}

impl Identities {
    /// Opens what is in the data directory, or begins anew there.
    pub(crate) fn open(data: &Path, settings: Settings) -> Self {
        let folder = data.join("identity");
        let policy = Policy { grace: settings.grace, ..Policy::default() };
        let clock: Clock = Arc::new(Timestamp::now);
        let authority =
            Authority::open(folder.join("authority.json"), settings.domain.clone(), policy.clone(), Timestamp::now());
        let issuer: Arc<dyn Issuer> = match authority {
            Ok(authority) => Arc::new(authority),
            Err(error) => Arc::new(Away(error.to_string().into())),
        };
        let cache = folder.join("certificates.json");
        let settings = identity::Settings { cache, domain: settings.domain, policy };
        Self { keeper: identity::build(settings, issuer, Arc::clone(&clock)), clock }
    }

    /// What gives out certificates.
    pub(crate) fn handle(&self) -> Handle {
        self.keeper.1.clone()
    }

    /// Who keeps them.
    pub(crate) fn steward(self, client: kube::Client) -> Steward {
        Steward::new(self.keeper, client, self.clock)
    }
}

/// The variable that tells programs where the Workload API is (SPIFFE Workload Endpoint, section 4).
const ENDPOINT: &str = "SPIFFE_ENDPOINT_SOCKET";

fn socket(data: &Path) -> PathBuf {
    data.join("identity/workload.sock")
}

/// What programs are told about identities.
pub(crate) fn environment(data: &Path) -> BTreeMap<String, String> {
    [(ENDPOINT.to_owned(), format!("unix://{}", socket(data).display()))].into()
}

/// The node's view of whose process asks.
struct PodAttestor {
    node: node::Handle,
    domain: TrustDomain,
}

impl Attestor for PodAttestor {
    fn attest(&self, pid: i32) -> Option<SpiffeId> {
        let pod = self.node.pod_of_process(pid)?;
        let known = identity::in_mesh(&pod.labels, &pod.annotations);
        known.then(|| self.domain.account(&pod.namespace, &pod.service_account).ok())?
    }
}

/// The Workload API; none where its socket cannot be made, which is said and keeps nobody else from starting.
pub(crate) fn workload_api(data: &Path, handle: Handle, node: node::Handle) -> Option<WorkloadApi> {
    let domain = handle.domain().clone();
    let bound = WorkloadApi::bind(socket(data), handle, Arc::new(PodAttestor { node, domain }));
    bound.inspect_err(|error| tracing::error!("{error}")).ok()
}

/// Binds the endpoint of our bundle, where one is asked for.
pub(crate) async fn bundle_endpoint(at: Option<SocketAddr>, handle: Handle) -> anyhow::Result<Option<BundleEndpoint>> {
    match at {
        Some(at) => Ok(Some(BundleEndpoint::bind(at, handle).await?)),
        None => Ok(None),
    }
}

/// Keeps certificates, serves the Workload API and the bundle and follows those of others until `stop`, or until one of them fails.
pub(crate) async fn run(
    steward: Steward,
    api: Option<WorkloadApi>,
    (endpoint, follower): (Option<BundleEndpoint>, Follower),
    stop: CancellationToken,
) -> Result<(), mesh::RunError> {
    let both = stop.child_token();
    let serving = async {
        if let Some(api) = api {
            api.run(both.clone()).await;
        }
    };
    let keeping = async {
        let kept = steward.run(both.clone()).await;
        both.cancel();
        kept
    };
    let handing_on = async {
        if let Some(endpoint) = endpoint {
            endpoint.run(both.clone()).await;
        }
    };
    tokio::join!(keeping, serving, handing_on, follower.run(both.clone())).0
}

/// Reads the trust domain of a command line.
pub(crate) fn domain(text: &str) -> anyhow::Result<TrustDomain> {
    text.parse()
        .with_context(|| format!("--trust-domain {text}"))
        .map_err(|error| crate::exit::bad_input(format!("{error:#}")))
}
