//! Pods that are no longer as their workload makes them: somebody patched the image of one by hand.
//!
//! An image is what can be changed of a running Pod's program. Pods of an earlier revision are held against that revision, so that a
//! rollout is no drift. Those of DaemonSets are not looked at: they do not say which revision made them.

use super::{Drift, What};
use crate::api::{Api, ApiError};
use crate::diff;
use crate::object::{self, ObjectId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What was patched of the Pods of these workloads; none where they may not be looked at.
///
/// # Errors
/// As the API answers.
pub async fn patched(api: &Api, workloads: impl Iterator<Item = &ObjectId>) -> Result<Option<Vec<Drift>>, ApiError> {
    match found(api, workloads).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code == Some(403) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn found(api: &Api, workloads: impl Iterator<Item = &ObjectId>) -> Result<Vec<Drift>, ApiError> {
    let wanted: BTreeSet<&ObjectId> =
        workloads.filter(|id| id.group == "apps" && matches!(id.kind.as_str(), "Deployment" | "StatefulSet")).collect();
    let namespaces: BTreeSet<&str> = wanted.iter().map(|id| id.namespace.as_str()).collect();
    let mut found = Vec::new();
    for namespace in namespaces {
        let apps = format!("/apis/apps/v1/namespaces/{namespace}");
        let pods = api.list(&format!("/api/v1/namespaces/{namespace}/pods"), "").await?;
        let mut makers = api.list(&format!("{apps}/replicasets"), "").await?;
        let sets = api.list(&format!("{apps}/statefulsets"), "").await?;
        let named = |kind: &str, name: &str| {
            wanted.iter().any(|id| id.kind == kind && id.namespace == namespace && id.name == name)
        };
        makers.retain(|set| {
            owner(set).is_some_and(|owner| {
                owner["kind"] == "Deployment" && named("Deployment", owner["name"].as_str().unwrap_or_default())
            })
        });
        makers.extend(sets.into_iter().filter(|set| named("StatefulSet", object::name(set))));
        let makers: BTreeMap<&str, &Value> = makers.iter().map(|maker| (object::uid(maker), maker)).collect();
        for pod in &pods {
            let maker = owner(pod).and_then(|owner| makers.get(owner["uid"].as_str()?));
            found.extend(maker.into_iter().flat_map(|maker| of_pod(pod, maker)));
        }
    }
    Ok(found)
}

fn owner(of: &Value) -> Option<&Value> {
    of["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}

/// What differs of a Pod from the template of what made it.
fn of_pod(pod: &Value, maker: &Value) -> Vec<Drift> {
    let newest = maker["status"]["updateRevision"].as_str();
    let own = object::label(pod, "controller-revision-hash");
    if own.is_some() && newest != own {
        return Vec::new();
    }
    let template = &maker["spec"]["template"]["spec"];
    let mut wanted = pod.clone();
    for list in ["initContainers", "containers"] {
        for container in wanted["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let made = template[list].as_array().into_iter().flatten().find(|made| made["name"] == container["name"]);
            if let Some(made) = made {
                container["image"] = made["image"].clone();
            }
        }
    }
    let changes = diff::changes(pod, &wanted).into_iter();
    changes
        .map(|field| {
            let by = field.owners.first();
            Drift {
                object: ObjectId { kind: "Pod".to_owned(), ..ObjectId::of(pod) },
                what: What::Changed,
                field: field.path,
                applied: field.after,
                live: field.before,
                manager: by.map(|by| by.manager.clone()).unwrap_or_default(),
                time: by.and_then(|by| by.time.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_held_against_what_made_it() {
        let pod = |image: &str, hash: Value| {
            json!({ "metadata": { "name": "web-1", "namespace": "n", "labels": { "controller-revision-hash": hash },
                "managedFields": [{ "manager": "kubectl-edit", "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1":
                    { "f:spec": { "f:containers": { "k:{\"name\":\"web\"}": { "f:image": {} } } } } }] },
                "spec": { "containers": [{ "name": "web", "image": image }, { "name": "injected", "image": "side" }] } })
        };
        let maker = json!({ "status": { "updateRevision": "new" },
            "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": "web@sha256:1" }] } } } });
        assert!(of_pod(&pod("web@sha256:1", Value::Null), &maker).is_empty());
        assert!(of_pod(&pod("web:hand", json!("old")), &maker).is_empty(), "of an earlier revision");
        let found = of_pod(&pod("web:hand", json!("new")), &maker);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            super::super::sentence(&found[0]),
            "pod/web-1 in n: .spec.containers[name=web].image was applied as \"web@sha256:1\" and is \"web:hand\" (by kubectl-edit at 2026-01-01T00:00:00Z)"
        );
    }
}
