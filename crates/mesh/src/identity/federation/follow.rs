//! Keeps the bundles of other trust domains up to date whose ConfigMaps say where they are served.
//!
//! Invariants: the ConfigMap is what counts, so that a restart, a person and `coracle trust` see the same; it is written only where
//! a bundle has changed; one fetch at a time, and none more often than every 30 s for one domain.

use std::collections::BTreeMap;
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

use super::fetch::{Fetched, Profile, Source, fetch};
use crate::identity::handle::Handle;
use crate::identity::{BUNDLE_KEY, BUNDLE_LABEL, Bundle, DOMAIN_KEY, PROXY_ACCOUNT, SYSTEM_NAMESPACE, TrustDomain};

/// The key of a bundle's ConfigMap with the URL where the bundle is served.
pub const ENDPOINT_KEY: &str = "endpoint";
/// The key that says how the server proves who it is: `https_spiffe` (where it is absent) or `https_web`.
pub const PROFILE_KEY: &str = "endpoint-profile";
/// The key with the SPIFFE ID of the server; the proxy's of that trust domain where it is absent.
pub const ENDPOINT_ID_KEY: &str = "endpoint-spiffe-id";
/// The key with the authorities for `https_web`, PEM; the system's where it is absent.
pub const ENDPOINT_CA_KEY: &str = "endpoint-ca";

const MANAGER: &str = "coracle-federation";
/// How long until the first fetch, so that those who judge the endpoint know of the bundle by then.
const FIRST: Duration = Duration::from_secs(1);
/// How long until a fetch that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// How long a write to the API may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// One bundle that is followed.
#[derive(Clone, Debug, PartialEq)]
struct Followed {
    domain: TrustDomain,
    source: Source,
    known: Option<Bundle>,
}

/// Follows bundles.
pub struct Follower {
    client: Client,
    handle: Handle,
    all: BTreeMap<String, (Followed, Instant)>,
}

fn followed(map: &ConfigMap) -> Result<Option<Followed>, String> {
    let Some(data) = &map.data else { return Ok(None) };
    let text = |key: &str| data.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
    let Some(url) = text(ENDPOINT_KEY) else { return Ok(None) };
    let domain: TrustDomain = text(DOMAIN_KEY)
        .ok_or("it has no trust-domain")?
        .parse()
        .map_err(|error: crate::identity::BadId| error.to_string())?;
    let profile = match text(PROFILE_KEY) {
        None | Some("https_spiffe") => {
            let own = domain.account(SYSTEM_NAMESPACE, PROXY_ACCOUNT).map_err(|error| error.to_string())?;
            Profile::Spiffe(text(ENDPOINT_ID_KEY).map_or_else(|| own.shared(), Into::into))
        }
        Some("https_web") => Profile::Web(text(ENDPOINT_CA_KEY).map(Into::into)),
        Some(other) => return Err(format!("{PROFILE_KEY} {other:?} is neither https_spiffe nor https_web")),
    };
    let known = text(BUNDLE_KEY).and_then(|text| Bundle::read(text.as_bytes()).ok());
    Ok(Some(Followed { domain, source: Source { url: url.to_owned(), profile }, known }))
}

impl Follower {
    /// A follower that asks in nobody's name and believes by what `handle` knows.
    #[must_use]
    pub fn new(client: Client, handle: Handle) -> Self {
        Self { client, handle, all: BTreeMap::new() }
    }

    /// Follows until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let labelled = Config::default().labels(&format!("{BUNDLE_LABEL}=foreign"));
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let mut seen = watcher(maps, labelled).default_backoff().boxed();
        loop {
            let due = self.all.iter().min_by_key(|(_, (_, due))| *due).map(|(name, (_, due))| (name.clone(), *due));
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
            Ok(watcher::Event::Init) => self.all.clear(),
            Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => self.put(&map),
            Ok(watcher::Event::Delete(map)) => drop(self.all.remove(&map.name_any())),
            Ok(watcher::Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "the watch of followed bundles was interrupted and is begun again"),
        }
    }

    fn put(&mut self, map: &ConfigMap) {
        let name = map.name_any();
        match followed(map) {
            Ok(Some(followed)) => {
                let due = match self.all.get(&name) {
                    Some((before, due)) if before.source == followed.source => *due,
                    _ => Instant::now() + FIRST,
                };
                self.all.insert(name, (followed, due));
            }
            Ok(None) => drop(self.all.remove(&name)),
            Err(reason) => {
                tracing::error!(name, reason, "a trust bundle's endpoint is left out: the bundle is not refreshed");
                self.all.remove(&name);
            }
        }
    }

    /// Asks for one bundle, and writes it down where it has changed.
    async fn ask(&mut self, name: &str) {
        let Some((followed, _)) = self.all.get(name).cloned() else { return };
        let again = match fetch(&followed.source, &self.handle).await {
            Ok(fetched) => {
                let again = fetched.again;
                let written =
                    followed.known.as_ref() == Some(&fetched.bundle) || self.write(name, &followed, &fetched).await;
                if written { again } else { RETRY }
            }
            Err(error) => {
                tracing::warn!(domain = %followed.domain, "{error}");
                RETRY
            }
        };
        if let Some((_, due)) = self.all.get_mut(name) {
            *due = Instant::now() + again;
        }
    }

    async fn write(&self, name: &str, followed: &Followed, fetched: &Fetched) -> bool {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let patch = json!({ "data": { BUNDLE_KEY: fetched.bundle.to_spiffe().to_string() } });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let (domain, sequence) = (&followed.domain, fetched.sequence);
        match tokio::time::timeout(WRITE_WITHIN, maps.patch(name, &params, &Patch::Merge(&patch))).await {
            Ok(Ok(_)) => {
                let roots = fetched.bundle.roots().len();
                tracing::info!(%domain, sequence, roots, "a trust bundle was fetched and has changed");
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%domain, %error, "a trust bundle that was fetched cannot be written");
                false
            }
            Err(_) => {
                tracing::warn!(%domain, "writing a trust bundle that was fetched takes too long");
                false
            }
        }
    }
}
