//! Keeps the bundles of other trust domains up to date whose ConfigMaps say where they are served.
//!
//! Invariants: the ConfigMap is what counts, so that a restart, a person and `coracle trust` see the same; it is written only where
//! a bundle has changed, and only while it asks for the one that was fetched; one fetch at a time, and none more often than every 30 s of
//! one source.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::{Fetched, fetch};
use super::schedule::{Followed, RETRY, Schedule, followed};
use crate::identity::handle::Handle;
use crate::identity::steward::FOREIGN;
use crate::identity::{BUNDLE_KEY, BUNDLE_LABEL, SYSTEM_NAMESPACE};

/// The key of a bundle's ConfigMap with the URL where the bundle is served.
pub const ENDPOINT_KEY: &str = "endpoint";
/// The key that says how the server proves who it is: `https_spiffe` (where it is absent) or `https_web`.
pub const PROFILE_KEY: &str = "endpoint-profile";
/// The key with the SPIFFE ID of the server; the proxy's of that trust domain where it is absent.
pub const ENDPOINT_ID_KEY: &str = "endpoint-spiffe-id";
/// The key with the authorities for `https_web`, PEM; the system's where it is absent.
pub const ENDPOINT_CA_KEY: &str = "endpoint-ca";

const MANAGER: &str = "coracle-federation";
/// How long a write to the API may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How often what was fetched is written although its ConfigMap has changed meanwhile.
const TRIES: usize = 3;

/// Follows bundles.
pub struct Follower {
    client: Client,
    handle: Handle,
    schedule: Schedule,
}

impl Follower {
    /// A follower that asks in nobody's name and believes by what `handle` knows.
    #[must_use]
    pub fn new(client: Client, handle: Handle) -> Self {
        Self { client, handle, schedule: Schedule::default() }
    }

    /// Follows until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let labelled = Config::default().labels(&format!("{BUNDLE_LABEL}={FOREIGN}"));
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let mut seen = watcher(maps, labelled).default_backoff().boxed();
        loop {
            let due = self.schedule.next();
            // With nobody to ask, only the watch can bring something.
            let wait = due.as_ref().map_or_else(|| Instant::now() + Duration::from_secs(3600), |(_, due)| *due);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(event) = seen.next() => self.take(event),
                () = tokio::time::sleep_until(wait) => if let Some((name, _)) = due {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = self.ask(&name).boxed() => {}
                    }
                },
            }
        }
    }

    fn take(&mut self, event: Result<watcher::Event<ConfigMap>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.schedule.begin(),
            Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => {
                let name = map.name_any();
                let wanted = followed(&map).unwrap_or_else(|reason| {
                    tracing::error!(name, reason, "a trust bundle's endpoint is left out: the bundle is not refreshed");
                    None
                });
                self.schedule.put(name, wanted, Instant::now());
            }
            Ok(watcher::Event::Delete(map)) => self.schedule.remove(&map.name_any()),
            Ok(watcher::Event::InitDone) => self.schedule.settle(),
            Err(error) => tracing::warn!(%error, "the watch of followed bundles was interrupted and is begun again"),
        }
    }

    /// Asks for one bundle, and writes it down where it has changed.
    async fn ask(&mut self, name: &str) {
        let Some(followed) = self.schedule.ask(name, Instant::now()) else { return };
        let again = match fetch(&followed.source, &self.handle).await {
            Ok(fetched) => {
                let again = fetched.again;
                let known = followed.known.as_ref() == Some(&fetched.bundle);
                if known || self.write(name, followed, &fetched).await { again } else { RETRY }
            }
            Err(error) => {
                tracing::warn!(domain = %followed.domain, "{error}");
                RETRY
            }
        };
        self.schedule.again(name, Instant::now(), again);
    }

    /// Writes a bundle into the ConfigMap that it was fetched for. Where that has changed meanwhile it is read again, and the
    /// bundle is dropped unless it still asks for the same.
    async fn write(&self, name: &str, followed: Followed, fetched: &Fetched) -> bool {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let (domain, sequence) = (followed.domain.clone(), fetched.sequence);
        let mut of = followed;
        for _ in 0..TRIES {
            let patch = json!({
                "metadata": { "uid": of.uid, "resourceVersion": of.version },
                "data": { BUNDLE_KEY: fetched.bundle.to_spiffe().to_string() },
            });
            let error = match within(maps.patch(name, &params, &Patch::Merge(&patch))).await {
                Ok(_) => {
                    let roots = fetched.bundle.roots().len();
                    tracing::info!(%domain, sequence, roots, "a trust bundle was fetched and has changed");
                    return true;
                }
                Err(error) => error,
            };
            if !matches!(&error, kube::Error::Api(answer) if answer.code == 409 || answer.code == 404) {
                tracing::warn!(%domain, %error, "a trust bundle that was fetched cannot be written");
                return false;
            }
            let now = match within(maps.get_opt(name)).await {
                Ok(map) => map.and_then(|map| followed_still(&of, &map)),
                Err(error) => {
                    tracing::warn!(%domain, %error, "the ConfigMap that a trust bundle was fetched for cannot be read");
                    return false;
                }
            };
            let Some(now) = now else {
                tracing::info!(%domain, name, "a trust bundle that was fetched is dropped: its ConfigMap asks for another now");
                return false;
            };
            of = now;
        }
        tracing::warn!(%domain, name, "a trust bundle that was fetched is dropped: its ConfigMap changes all the time");
        false
    }
}

/// What a ConfigMap asks for now, if that is the same as before.
fn followed_still(before: &Followed, map: &ConfigMap) -> Option<Followed> {
    let foreign = map.labels().get(BUNDLE_LABEL).is_some_and(|of| of == FOREIGN);
    let now = followed(map).ok().flatten().filter(|_| foreign)?;
    ((&now.domain, &now.source) == (&before.domain, &before.source)).then_some(now)
}

/// Gives up after [`WRITE_WITHIN`].
async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let late = |_| kube::Error::Service(format!("no answer within {} s", WRITE_WITHIN.as_secs()).into());
    tokio::time::timeout(WRITE_WITHIN, call).await.map_err(late)?
}
