//! What is served, for clients to find out: groups, versions, resources, in the old and the aggregated form. Pure.

use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::catalog::{Catalog, Group, Resource, api_version};
use crate::negotiate::{self, Discovery};
use crate::status::{Answer, Failure};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2_BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// `/`
pub(crate) fn root(catalog: &Catalog) -> Reply {
    let mut paths: Vec<String> = vec!["/api".into(), "/api/v1".into(), "/apis".into()];
    for group in catalog.groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.extend(["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(String::from));
    Reply::Plain(200, json!({ "paths": paths }))
}

/// `/version`
pub(crate) fn version() -> Reply {
    let (major, minor, full) = resources::names::KUBERNETES_VERSION;
    let version = json!({
        "major": major, "minor": minor, "gitVersion": full, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    Reply::Plain(200, version)
}

/// `/api`
pub(crate) fn core_versions(catalog: &Catalog, call: &Call) -> Reply {
    aggregated(catalog, call, true).unwrap_or_else(|| {
        Reply::Plain(200, json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
    })
}

/// `/apis`
pub(crate) fn groups(catalog: &Catalog, call: &Call) -> Reply {
    aggregated(catalog, call, false).unwrap_or_else(|| {
        let groups: Vec<Value> =
            catalog.groups().iter().filter(|group| !group.name.is_empty()).map(legacy_group).collect();
        Reply::Plain(200, json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
    })
}

/// `/apis/GROUP`
pub(crate) fn group(catalog: &Catalog, name: &str) -> Answer<Reply> {
    let group = catalog.groups().iter().find(|group| group.name == name && !name.is_empty());
    let mut value = legacy_group(group.ok_or_else(Failure::no_such_path)?);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(Reply::Plain(200, value))
}

fn legacy_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| json!({ "groupVersion": api_version(&group.name, version), "version": version }))
        .collect();
    json!({ "name": group.name, "preferredVersion": versions.first(), "versions": versions })
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub(crate) fn group_version(catalog: &Catalog, group: &str, version: &str) -> Answer<Reply> {
    let mut resources = Vec::new();
    for resource in catalog.of_version(group, version) {
        resources.push(legacy_resource(resource));
        for name in resource.subresources() {
            let (group, version, kind) = subresource_kind(resource, name);
            let mut entry = json!({ "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": kind, "verbs": subresource_verbs(name) });
            if (group, version) != (resource.group.as_str(), resource.version.as_str()) {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return Err(Failure::no_such_path());
    }
    let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": resources });
    Ok(Reply::Plain(200, list))
}

fn legacy_resource(resource: &Resource) -> Value {
    let mut entry = json!({ "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": verbs(resource) });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    entry
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    match resource.review {
        true => vec!["create"],
        false => vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    }
}

fn subresource_verbs(name: &str) -> Vec<&'static str> {
    match name {
        "binding" | "eviction" | "token" => vec!["create"],
        "log" => vec!["get"],
        "attach" | "exec" | "portforward" => vec!["create", "get"],
        "finalize" => vec!["update"],
        _ => vec!["get", "patch", "update"],
    }
}

/// Group, version and kind of what a subresource takes and gives.
fn subresource_kind<'a>(resource: &'a Resource, name: &str) -> (&'a str, &'a str, &'a str) {
    match name {
        "scale" => ("autoscaling", "v1", "Scale"),
        "eviction" => ("policy", "v1", "Eviction"),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest"),
        "binding" => ("", "v1", "Binding"),
        "attach" => ("", "v1", "PodAttachOptions"),
        "exec" => ("", "v1", "PodExecOptions"),
        "portforward" => ("", "v1", "PodPortForwardOptions"),
        _ => (&resource.group, &resource.version, &resource.kind),
    }
}

fn aggregated(catalog: &Catalog, call: &Call, core: bool) -> Option<Reply> {
    let (media, api) = match negotiate::discovery(call.accept.as_deref()) {
        Discovery::V2 => (V2, "apidiscovery.k8s.io/v2"),
        Discovery::V2Beta1 => (V2_BETA1, "apidiscovery.k8s.io/v2beta1"),
        Discovery::Legacy => return None,
    };
    let items: Vec<Value> = catalog
        .groups()
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|group| aggregated_group(catalog, group))
        .collect();
    let list = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": api, "metadata": {}, "items": items });
    Some(Reply::Made { media, tag: None, body: list.to_string().into() })
}

fn aggregated_group(catalog: &Catalog, group: &Group) -> Value {
    let mut metadata = json!({ "creationTimestamp": null });
    if !group.name.is_empty() {
        metadata["name"] = group.name.as_str().into();
    }
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                catalog.of_version(&group.name, version).map(|resource| aggregated_resource(resource)).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    json!({ "metadata": metadata, "versions": versions })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |(group, version, kind): (&str, &str, &str)| json!({ "group": group, "version": version, "kind": kind });
    let mut entry = json!({
        "resource": resource.plural, "singularResource": resource.singular, "verbs": verbs(resource),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": kind((&resource.group, &resource.version, &resource.kind)),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let parts: Vec<Value> = resource
        .subresources()
        .into_iter()
        .map(|name| json!({ "subresource": name, "verbs": subresource_verbs(name), "responseKind": kind(subresource_kind(resource, name)) }))
        .collect();
    if !parts.is_empty() {
        entry["subresources"] = parts.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_resources_are_found() {
        let catalog = Catalog::new(&Catalog::builtins(), &[]);
        let Ok(Reply::Plain(200, core)) = group_version(&catalog, "", "v1") else { panic!("a list") };
        let names: Vec<&str> =
            core["resources"].as_array().expect("resources").iter().filter_map(|one| one["name"].as_str()).collect();
        for name in [
            "pods",
            "pods/log",
            "pods/status",
            "pods/eviction",
            "namespaces/finalize",
            "serviceaccounts/token",
            "services",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        let Ok(Reply::Plain(200, apps)) = group(&catalog, "apps") else { panic!("a group") };
        assert_eq!(apps["preferredVersion"]["groupVersion"], "apps/v1");
        assert!(group(&catalog, "none").is_err() && group_version(&catalog, "apps", "v9").is_err());
        let deployments = catalog.get("apps", "v1", "deployments").expect("deployments");
        let entry = aggregated_resource(deployments);
        let scale =
            entry["subresources"].as_array().and_then(|all| all.iter().find(|one| one["subresource"] == "scale"));
        assert_eq!(scale.map(|scale| &scale["responseKind"]["kind"]), Some(&json!("Scale")));
    }
}
