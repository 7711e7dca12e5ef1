//! Look-ups over the picture of the cluster, made once for each compilation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use resources::gateway::referencegrants::ReferenceGrant;
use resources::names::{EGRESS_LOCAL_ANNOTATION, SERVICE_NAME_LABEL};

use crate::world::World;

/// An object as ReferenceGrants speak of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'s> {
    pub(super) group: &'s str,
    pub(super) kind: &'s str,
    pub(super) namespace: &'s str,
    pub(super) name: &'s str,
}

#[derive(Default)]
pub(super) struct Index<'w> {
    services: HashMap<(&'w str, &'w str), &'w Service>,
    slices: HashMap<(&'w str, &'w str), Vec<&'w EndpointSlice>>,
    secrets: HashMap<(&'w str, &'w str), &'w Secret>,
    opaque: HashMap<(&'w str, &'w str), &'w Secret>,
    config_maps: HashMap<(&'w str, &'w str), &'w ConfigMap>,
    labels: HashMap<&'w str, &'w BTreeMap<String, String>>,
    /// The namespaces whose Services may send to names of this machine.
    local: HashSet<&'w str>,
    grants: HashMap<&'w str, Vec<&'w ReferenceGrant>>,
}

impl<'w> Index<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut index = Self::default();
        for service in &world.services {
            index.services.insert(key(&service.metadata), service);
        }
        for slice in &world.slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
                index.slices.entry((key(&slice.metadata).0, service)).or_default().push(slice);
            }
        }
        for secret in &world.secrets {
            index.secrets.insert(key(&secret.metadata), secret);
        }
        index.opaque = world.opaque.iter().map(|secret| (key(&secret.metadata), &**secret)).collect();
        index.config_maps = world.config_maps.iter().map(|map| (key(&map.metadata), &**map)).collect();
        for namespace in &world.namespaces {
            if let Some(labels) = &namespace.metadata.labels {
                index.labels.insert(key(&namespace.metadata).1, labels);
            }
        }
        let local = world.namespaces.iter().filter(|namespace| {
            let annotations = namespace.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(EGRESS_LOCAL_ANNOTATION)).is_some_and(|value| value == "true")
        });
        index.local = local.map(|namespace| key(&namespace.metadata).1).collect();
        for grant in &world.grants {
            index.grants.entry(key(&grant.metadata).0).or_default().push(grant);
        }
        index
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&'w Service> {
        self.services.get(&(namespace, name)).copied()
    }

    pub(super) fn slices<'a>(&'a self, namespace: &'a str, service: &'a str) -> &'a [&'w EndpointSlice] {
        self.slices.get(&(namespace, service)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn secret(&self, namespace: &str, name: &str) -> Option<&'w Secret> {
        self.secrets.get(&(namespace, name)).copied()
    }

    /// A Secret of type Opaque.
    pub(super) fn opaque(&self, namespace: &str, name: &str) -> Option<&'w Secret> {
        self.opaque.get(&(namespace, name)).copied()
    }

    /// All ConfigMaps of a namespace.
    pub(super) fn config_maps_of(&self, namespace: &str) -> impl Iterator<Item = &'w ConfigMap> {
        self.config_maps.iter().filter(move |((of, _), _)| *of == namespace).map(|(_, map)| *map)
    }

    pub(super) fn config_map(&self, namespace: &str, name: &str) -> Option<&'w ConfigMap> {
        self.config_maps.get(&(namespace, name)).copied()
    }

    /// Whether names that Services of a namespace send to may stand for this machine.
    pub(super) fn may_be_local(&self, namespace: &str) -> bool {
        self.local.contains(namespace)
    }

    /// The labels of a namespace; None where it has none.
    pub(super) fn namespace_labels(&self, namespace: &str) -> Option<&'w BTreeMap<String, String>> {
        self.labels.get(namespace).copied()
    }

    /// Whether `from` may refer to `to`: always within a namespace, else where a grant in `to`'s namespace says so.
    pub(super) fn permitted(&self, from: Subject<'_>, to: Subject<'_>) -> bool {
        from.namespace == to.namespace
            || self.grants.get(to.namespace).into_iter().flatten().any(|grant| {
                let source = grant.spec.from.iter().any(|source| {
                    source.group == from.group && source.kind == from.kind && source.namespace == from.namespace
                });
                source
                    && grant.spec.to.iter().any(|target| {
                        target.group == to.group
                            && target.kind == to.kind
                            && target.name.as_deref().is_none_or(|name| name.is_empty() || name == to.name)
                    })
            })
    }
}

/// Namespace and name of an object; empty where it has none.
pub(crate) fn key(metadata: &kube::api::ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// The order of age, then of name: `(seconds since 1970, namespace, name)`. What has no time yet is youngest.
pub(super) fn seniority(metadata: &kube::api::ObjectMeta) -> (i64, &str, &str) {
    let created = metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    let (namespace, name) = key(metadata);
    (created, namespace, name)
}

/// The positions of `objects`, oldest first.
pub(super) fn by_age<K: kube::Resource>(objects: &[Arc<K>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by(|left, right| seniority(objects[*left].meta()).cmp(&seniority(objects[*right].meta())));
    order
}
