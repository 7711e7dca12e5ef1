//! Marks the claims that a protected StatefulSet makes by itself, whenever one comes to be: `TEMPLATE-SET-ORDINAL`.
//!
//! Invariants: what somebody has marked already, in either way, is left alone; where the StatefulSet says that its claims go with it
//! (`persistentVolumeClaimRetentionPolicy`), they do. Nothing polls, and of claims only their metadata is read.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use resources::names::PROTECT;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::MANAGER;
use crate::api::Api;
use crate::object;

/// The beginnings of the names of a protected StatefulSet's claims.
fn prefixes(set: &Value) -> Vec<String> {
    let keeps = |when: &str| set["spec"]["persistentVolumeClaimRetentionPolicy"][when] != "Delete";
    if object::annotation(set, PROTECT) != Some("true") || !keeps("whenDeleted") || !keeps("whenScaled") {
        return Vec::new();
    }
    let templates = set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    templates.map(|template| format!("{}-{}-", object::name(template), object::name(set))).collect()
}

/// Whether a claim is one of these, and nobody has said anything about it.
fn is_bare(claim: &Value, prefixes: &[String]) -> bool {
    let name = object::name(claim);
    let ordinal = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit());
    object::annotation(claim, PROTECT).is_none()
        && claim["metadata"]["deletionTimestamp"].is_null()
        && prefixes.iter().any(|prefix| name.strip_prefix(prefix.as_str()).is_some_and(ordinal))
}

/// Marks claims until stopped.
pub(crate) async fn run(client: kube::Client, stop: CancellationToken) {
    let api = Api::over(client.clone());
    let sets: kube::Api<StatefulSet> = kube::Api::all(client.clone());
    let claims: kube::Api<PartialObjectMeta<PersistentVolumeClaim>> = kube::Api::all(client);
    let mut sets = watcher(sets, watcher::Config::default()).default_backoff().boxed();
    let mut claims = watcher(claims, watcher::Config::default()).default_backoff().boxed();
    // By namespace: the beginnings by set, and the claims that are there by name.
    let mut wanted: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut there: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    loop {
        let namespace = tokio::select! {
            () = stop.cancelled() => return,
            Some(event) = sets.next() => match event {
                Ok(watcher::Event::InitApply(set) | watcher::Event::Apply(set)) => {
                    let set = serde_json::to_value(&set).unwrap_or_default();
                    let namespace = object::namespace(&set).to_owned();
                    wanted.entry(namespace.clone()).or_default().insert(object::name(&set).to_owned(), prefixes(&set));
                    namespace
                }
                // What it had claimed stays marked.
                Ok(watcher::Event::Delete(set)) => {
                    let (namespace, name) = (set.metadata.namespace.unwrap_or_default(), set.metadata.name.unwrap_or_default());
                    wanted.entry(namespace).or_default().remove(&name);
                    continue;
                }
                _ => continue,
            },
            Some(event) = claims.next() => match event {
                Ok(watcher::Event::InitApply(claim) | watcher::Event::Apply(claim)) => {
                    let claim = json!({ "metadata": claim.metadata });
                    let namespace = object::namespace(&claim).to_owned();
                    there.entry(namespace.clone()).or_default().insert(object::name(&claim).to_owned(), claim);
                    namespace
                }
                Ok(watcher::Event::Delete(claim)) => {
                    let (namespace, name) = (claim.metadata.namespace.unwrap_or_default(), claim.metadata.name.unwrap_or_default());
                    there.entry(namespace).or_default().remove(&name);
                    continue;
                }
                _ => continue,
            },
        };
        let prefixes: Vec<String> =
            wanted.get(&namespace).into_iter().flat_map(BTreeMap::values).flatten().cloned().collect();
        for (name, claim) in there.get(&namespace).into_iter().flatten().filter(|(_, claim)| is_bare(claim, &prefixes))
        {
            let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
            let patch = json!({ "metadata": { "annotations": { PROTECT: "true" }, "uid": object::uid(claim) } });
            match api.merge(&path, &patch, MANAGER).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => {
                    tracing::warn!(namespace, name, %error, "a claim of a protected StatefulSet could not be marked; its next change tries again");
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_a_protected_set_are_known_by_their_names() {
        let set = |protect: &str, retention: Value| {
            json!({ "metadata": { "name": "db", "annotations": { PROTECT: protect } }, "spec": {
                "persistentVolumeClaimRetentionPolicy": retention,
                "volumeClaimTemplates": [{ "metadata": { "name": "data" } }, { "metadata": { "name": "log" } }] } })
        };
        assert_eq!(prefixes(&set("true", json!({}))), ["data-db-", "log-db-"]);
        assert!(prefixes(&set("false", json!({}))).is_empty());
        assert!(prefixes(&set("true", json!({ "whenScaled": "Delete" }))).is_empty());
        let all = prefixes(&set("true", json!({ "whenDeleted": "Retain" })));
        let claim =
            |name: &str, annotations: Value| json!({ "metadata": { "name": name, "annotations": annotations } });
        for (name, annotations, bare) in [
            ("data-db-0", json!({}), true),
            ("log-db-12", json!({}), true),
            ("data-db-0", json!({ PROTECT: "true" }), false),
            ("data-db-0", json!({ PROTECT: "false" }), false),
            ("data-db-", json!({}), false),
            ("data-db-x", json!({}), false),
            ("data-other-0", json!({}), false),
        ] {
            assert_eq!(is_bare(&claim(name, annotations), &all), bare, "{name}");
        }
    }
}
