//! The controller: watches, compiles on every change, applies at once, tells the status writer.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt};
use proxy::{Refused, Snapshot};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::compile::{Compiled, Served, compile};
use crate::config::Settings;
use crate::crds::BUNDLE_VERSION_ANNOTATION;
use crate::dns::Zone;
use crate::error::RunError;
use crate::handle::{Handle, Published};
use crate::status::{self, Outcome};
use crate::watch::{Change, Cluster, watches};
use crate::world::{Rejected, World};
use crate::writer::{Work, Writer};

/// How often a picture is compiled again because the proxy refused a part of it that could be left out.
const CULPRITS: usize = 64;
/// How many steps of watches are taken in before what they changed is compiled.
const BURST: usize = 4096;
/// How long until a listener that could not be bound is tried again, where nothing else changes. Nobody tells when a port
/// comes free.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// The definition that tells which release of Gateway API is installed.
const GATEWAY_CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";

/// The mesh's controller. It does nothing until [`Mesh::run`].
pub struct Mesh {
    settings: Settings,
    client: Client,
    proxy: proxy::Handle,
    published: watch::Sender<Arc<Published>>,
    zone: watch::Sender<Arc<Zone>>,
    /// The highest resourceVersion of an EndpointSlice that the proxy has served by.
    endpoints: watch::Sender<u64>,
}

/// Makes the controller and the handle to it.
pub fn build(settings: Settings, client: Client, proxy: proxy::Handle) -> (Mesh, Handle) {
    let (published, receiver) = watch::channel(Arc::new(Published::default()));
    let (zone, zones) = watch::channel(Arc::new(Zone::default()));
    let (endpoints, served) = watch::channel(0);
    let handle = Handle { published: receiver, zone: zones, endpoints: served, nameserver: Arc::default() };
    (Mesh { settings, client, proxy, published, zone, endpoints }, handle)
}

impl Mesh {
    /// Feeds the proxy until `shutdown`. The proxy keeps what it serves when this ends. [`crate::install`] comes first.
    ///
    /// # Errors
    ///
    /// When the proxy is gone.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let (work, waiting) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(Writer::new(self.client.clone()).run(waiting, stop.clone()));
        let ended = self.feed(&work, &mut tasks, &shutdown).await;
        // The writer ends last, having finished what is under way.
        stop.cancel();
        while let Some(joined) = tasks.join_next().await {
            ended_well(joined)?;
        }
        ended
    }

    async fn feed(
        self,
        work: &watch::Sender<Option<Work>>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), RunError> {
        let bundle_version = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            version = installed(&self.client) => version,
        };
        let mut seen = watches(&self.client);
        let mut cluster = Cluster::default();
        let mut bound = self.proxy.subscribe_bound();
        let mut feeder = Feeder::new(self, bundle_version);
        // What arrives before every kind has been listed adds up.
        let mut change = Change::Nothing;
        loop {
            let bind_again = tokio::time::sleep(BIND_AGAIN);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(joined) = tasks.join_next() => return ended_well(joined),
                Some(step) = seen.next() => change = change.max(cluster.take(step)),
                Ok(()) = bound.changed() => feeder.hear(Arc::clone(&bound.borrow_and_update())),
                () = bind_again, if feeder.unbound() => feeder.force = true,
            }
            for _ in 0..BURST {
                let Some(Some(step)) = seen.next().now_or_never() else { break };
                change = change.max(cluster.take(step));
            }
            if !cluster.synced() || (change == Change::Nothing && !feeder.force && !feeder.heard) {
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                done = feeder.feed(&cluster, change) => work.send_replace(Some(done?)),
            };
            change = Change::Nothing;
        }
    }
}

fn ended_well(joined: Result<(), tokio::task::JoinError>) -> Result<(), RunError> {
    joined.map_err(|error| RunError::Task { task: "the status writer", reason: error.to_string() })
}

/// The release of Gateway API that the installed definitions are of.
async fn installed(client: &Client) -> Option<String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    match api.get_metadata(GATEWAY_CLASSES).await {
        Ok(definition) => definition.annotations().get(BUNDLE_VERSION_ANNOTATION).cloned(),
        Err(error) => {
            tracing::warn!(%error, "cannot read which release of Gateway API is installed");
            None
        }
    }
}

/// Brings pictures of the cluster to the proxy.
struct Feeder {
    mesh: Mesh,
    bundle_version: Option<String>,
    rejected: Rejected,
    compiled: Arc<Compiled>,
    /// What the proxy serves.
    serving: Option<Snapshot>,
    outcome: Outcome,
    /// Apply even what is being served already, to bind what could not be bound.
    force: bool,
    /// The proxy has bound, or could not bind, what it had said otherwise of when that was applied.
    heard: bool,
}

impl Feeder {
    fn new(mesh: Mesh, bundle_version: Option<String>) -> Self {
        Self {
            mesh,
            bundle_version,
            rejected: Rejected::default(),
            compiled: Arc::default(),
            serving: None,
            outcome: Outcome::default(),
            force: false,
            heard: false,
        }
    }

    /// Takes in what the proxy says of its listeners, where that is not what it said when they were applied.
    fn hear(&mut self, bound: proxy::Bound) {
        // Until something has been applied, it speaks of what an earlier life kept.
        if self.serving.is_some() && !Arc::ptr_eq(&self.outcome.bound, &bound) {
            self.outcome.bound = bound;
            self.heard = true;
        }
    }

    /// Whether a listener of what is served is not bound.
    fn unbound(&self) -> bool {
        self.outcome.bound.values().any(Result::is_err)
    }

    async fn feed(&mut self, cluster: &Cluster, change: Change) -> Result<Work, RunError> {
        let rebound = std::mem::take(&mut self.heard) || self.force;
        let mut world = Arc::new(cluster.world(self.bundle_version.clone(), self.rejected.clone()));
        if change == Change::Content || self.serving.is_none() {
            self.compiled = self.compile(&world).await?;
        }
        for _ in 0..CULPRITS {
            if !self.apply().await? {
                break;
            }
            world = Arc::new(World { rejected: self.rejected.clone(), ..World::clone(&world) });
            self.compiled = self.compile(&world).await?;
        }
        self.publish();
        self.tell_endpoints(&world);
        if change == Change::Content || rebound {
            self.name(&world).await?;
        }
        Ok(Work { compiled: Arc::clone(&self.compiled), world, outcome: self.outcome.clone() })
    }

    /// Off this task: a large picture takes long enough to keep others waiting.
    async fn compile(&self, world: &Arc<World>) -> Result<Arc<Compiled>, RunError> {
        let (world, settings) = (Arc::clone(world), self.mesh.settings.clone());
        let compiled = tokio::task::spawn_blocking(move || compile(&world, &settings)).await;
        compiled.map(Arc::new).map_err(|error| RunError::Task { task: "the compiler", reason: error.to_string() })
    }

    /// Has the proxy serve what was compiled. True where it refused a part that can be left out, so that compiling again helps.
    async fn apply(&mut self) -> Result<bool, RunError> {
        let force = std::mem::take(&mut self.force);
        if !force && self.outcome.refused.is_none() && self.serving.as_ref() == Some(&self.compiled.snapshot) {
            return Ok(false);
        }
        match self.mesh.proxy.apply(self.compiled.snapshot.clone()).await {
            Ok(applied) => {
                self.outcome = Outcome { bound: applied.bound, refused: None };
                self.serving = Some(self.compiled.snapshot.clone());
                self.rejected.served = Served::of(&self.compiled.snapshot.listeners, &self.compiled.certificates);
                Ok(false)
            }
            Err(Refused::Closed) => Err(RunError::ProxyGone),
            Err(refused) => {
                if self.leave_out(&refused) {
                    tracing::warn!(%refused, "left out: the proxy cannot serve this part");
                    return Ok(true);
                }
                tracing::error!(%refused, "the proxy refused the change and goes on with what it served before");
                self.outcome.refused = Some(refused.to_string());
                Ok(false)
            }
        }
    }

    /// Remembers the part that was refused. False where there is none to leave out.
    fn leave_out(&mut self, refused: &Refused) -> bool {
        match refused {
            Refused::BadRule { rule, reason } => match self.compiled.generation(rule) {
                Some(generation) => self.rejected.rule(rule, generation, reason.clone()),
                None => false,
            },
            Refused::BadPolicy { policy, reason } => match self.compiled.snapshot.policies.get(policy).cloned() {
                Some(as_it_was) => self.rejected.policy(policy, as_it_was, reason.clone()),
                None => false,
            },
            Refused::BadCertificate { listener, index, reason } => {
                let secret = self.compiled.certificates.get(listener).and_then(|secrets| secrets.get(*index));
                secret.is_some_and(|secret| self.rejected.certificate(secret.clone(), reason.clone()))
            }
            _ => false,
        }
    }

    /// Gives the DNS server the names of what is served now.
    async fn name(&self, world: &Arc<World>) -> Result<(), RunError> {
        let (world, published) = (Arc::clone(world), self.mesh.published.borrow().clone());
        let actual = move |address, port| published.services.get(&(address, port)).copied();
        let made = tokio::task::spawn_blocking(move || Zone::new(&world, &actual)).await;
        let zone = made.map_err(|error| RunError::Task { task: "the maker of names", reason: error.to_string() })?;
        self.mesh.zone.send_replace(Arc::new(zone));
        Ok(())
    }

    /// Says by which EndpointSlices the proxy serves, where it took them.
    fn tell_endpoints(&self, world: &World) {
        if self.outcome.refused.is_none() {
            let newest = world.newest_slice();
            self.mesh.endpoints.send_if_modified(|served| std::mem::replace(served, newest.max(*served)) < newest);
        }
    }

    fn publish(&self) {
        let gateways = self.compiled.gateways.iter().flat_map(|plan| status::addresses(plan, &self.outcome));
        let services = self.compiled.services.iter().filter_map(|port| {
            let address = self.outcome.bound.get(&port.listener)?.as_ref().ok()?;
            Some(((port.address, port.port), address.port()))
        });
        let ready = self.serving.is_some();
        let new = Published { gateways: gateways.collect(), services: services.collect(), ready };
        self.mesh.published.send_if_modified(|published| {
            let changed = **published != new;
            if changed {
                *published = Arc::new(new);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_proxy_says_of_its_listeners_later_is_heard() {
        let client =
            Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().expect("a URL"))).expect("a client");
        let (_proxy, handle) = proxy::build(proxy::Settings::default(), proxy::Dependencies::default());
        let mut feeder = Feeder::new(build(Settings::default(), client, handle).0, None);
        let (address, source) = (([127, 0, 0, 1], 80).into(), Arc::new(std::io::Error::other("taken")));
        let failed = proxy::BindError { listener: "l".into(), address, source };
        let failed: proxy::Bound = Arc::new([("l".into(), Err(failed))].into());
        feeder.hear(Arc::clone(&failed));
        assert!(!feeder.heard && !feeder.unbound(), "that is of what an earlier life kept");
        feeder.serving = Some(Snapshot::default());
        feeder.outcome.bound = Arc::new([("l".into(), Ok(address))].into());
        feeder.hear(Arc::clone(&feeder.outcome.bound));
        assert!(!feeder.heard, "that is known");
        feeder.hear(failed);
        assert!(feeder.heard && feeder.unbound(), "it is told, and tried again");
    }
}
