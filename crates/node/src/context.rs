//! What every Pod's worker shares: the settings and the doors to the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::Api;
use kube::api::ListParams;
use kube::runtime::reflector::Store;

use tokio::sync::Notify;

use crate::config::{Settings, Traffic};
use crate::container::Running;
use crate::env::{HOST, Lookups};
use crate::events::Recorder;
use crate::logs::Logs;
use crate::network::PodNetwork;
use crate::owners::Owners;
use crate::ports::Ports;

/// Shared by all Pods of the node.
pub(crate) struct Context {
    pub settings: Settings,
    pub client: kube::Client,
    pub traffic: Arc<dyn Traffic>,
    pub logs: Arc<Logs>,
    pub running: Running,
    pub ports: Ports,
    pub network: PodNetwork,
    pub owners: Owners,
    pub events: Recorder,
    /// All Services, as the watch last told them.
    pub services: Store<Service>,
    /// The directory of all Pods.
    pub root: Arc<Path>,
    /// The directory of all provisioned volumes.
    pub volumes: Arc<Path>,
    /// Told when Pods that use claims have changed.
    pub claim_users: Arc<Notify>,
}

impl Context {
    /// Asks the API, not a cache: a ConfigMap that was made just before its Pod must be found.
    pub(crate) async fn lookups(
        &self,
        namespace: &str,
        maps: BTreeSet<String>,
        secrets: BTreeSet<String>,
    ) -> Result<Lookups, kube::Error> {
        let mut lookups = Lookups::default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        for name in maps {
            let found = api.get_opt(&name).await?;
            lookups.config_maps.insert(name, found);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        for name in secrets {
            let found = api.get_opt(&name).await?;
            lookups.secrets.insert(name, found);
        }
        Ok(lookups)
    }

    /// The Services that a container of a namespace is told of.
    pub(crate) async fn services(&self, namespace: &str) -> Result<Vec<Service>, kube::Error> {
        let own: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let mut all = own.list(&ListParams::default()).await?.items;
        if namespace != "default" {
            let default: Api<Service> = Api::namespaced(self.client.clone(), "default");
            all.extend(default.get_opt("kubernetes").await?);
        }
        Ok(crate::env::services_for(namespace, all))
    }
}

/// What of this process's environment programs get.
pub(crate) fn host_environment() -> BTreeMap<String, String> {
    HOST.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}
