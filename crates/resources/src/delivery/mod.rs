//! The definitions of the kinds that say what is to be in sync with Git: Argo CD's `Application` and `AppProject`, Flux's
//! `GitRepository`, `Kustomization` and `Receiver`.
//!
//! The schemas are our own wording of the fields that are acted on; fields beyond them are kept as they are, so that a manifest
//! for the original passes unchanged. No IO.

use serde_json::{Value, json};

/// On each definition: which revision of these schemas it is.
pub const REVISION_ANNOTATION: &str = "coracle.dev/definition-revision";
/// Counts up with every change of a schema.
const REVISION: &str = "2";

/// Every definition, as JSON ready to be applied.
#[must_use]
pub fn definitions() -> Vec<Value> {
    vec![application(), app_project(), git_repository(), kustomization(), receiver()]
}

/// A kind's names and columns.
struct Naming {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    /// Name, type and path.
    columns: &'static [(&'static str, &'static str, &'static str)],
    status: bool,
}

fn definition(naming: &Naming, schema: Value) -> Value {
    let Naming { group, version, kind, plural, short, columns, status } = naming;
    let columns: Vec<Value> =
        columns.iter().map(|(name, kind, path)| json!({ "name": name, "type": kind, "jsonPath": path })).collect();
    let mut version = json!({ "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
        "additionalPrinterColumns": columns });
    if *status {
        version["subresources"] = json!({ "status": {} });
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}"), "labels": { "app.kubernetes.io/managed-by": "coracle" },
            "annotations": { REVISION_ANNOTATION: REVISION } },
        "spec": { "group": group, "scope": "Namespaced", "versions": [version],
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List"),
                "shortNames": short } },
    })
}

/// An object of these fields and any others.
fn object(fields: Value) -> Value {
    json!({ "type": "object", "properties": fields, "x-kubernetes-preserve-unknown-fields": true })
}

fn required(mut schema: Value, names: &[&str]) -> Value {
    schema["required"] = json!(names);
    schema
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn number() -> Value {
    json!({ "type": "integer", "format": "int64" })
}

fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn anything() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn texts() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

fn root(fields: Value) -> Value {
    let mut properties = json!({ "apiVersion": text(), "kind": text(), "metadata": { "type": "object" } });
    if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), fields) {
        all.extend(more);
    }
    json!({ "type": "object", "required": ["spec"], "properties": properties })
}

fn argo_source() -> Value {
    object(json!({
        "repoURL": text(), "path": text(), "targetRevision": text(), "chart": text(), "ref": text(),
        "directory": object(json!({ "recurse": flag(), "include": text(), "exclude": text() })),
        "kustomize": anything(), "helm": anything(), "plugin": anything(),
    }))
}

fn application() -> Value {
    let automated = object(json!({ "enabled": flag(), "prune": flag(), "selfHeal": flag(), "allowEmpty": flag() }));
    let backoff = object(json!({ "duration": text(), "maxDuration": text(), "factor": number() }));
    let policy = object(json!({ "automated": automated, "syncOptions": list(text()),
        "retry": object(json!({ "limit": number(), "backoff": backoff })) }));
    let ignore = object(json!({ "group": text(), "kind": text(), "name": text(), "namespace": text(),
        "jsonPointers": list(text()), "jqPathExpressions": list(text()), "managedFieldsManagers": list(text()) }));
    let spec = required(
        object(json!({
            "project": text(), "source": argo_source(), "sources": list(argo_source()),
            "destination": object(json!({ "server": text(), "name": text(), "namespace": text() })),
            "syncPolicy": policy, "ignoreDifferences": list(ignore), "revisionHistoryLimit": number(),
        })),
        &["destination"],
    );
    let naming = Naming {
        group: "argoproj.io",
        version: "v1alpha1",
        kind: "Application",
        plural: "applications",
        short: &["app", "apps"],
        columns: &[
            ("Sync Status", "string", ".status.sync.status"),
            ("Health Status", "string", ".status.health.status"),
            ("Revision", "string", ".status.sync.revision"),
        ],
        // As in Argo CD: the status is written like any other field.
        status: false,
    };
    definition(&naming, root(json!({ "spec": spec, "operation": anything(), "status": anything() })))
}

fn app_project() -> Value {
    let kinds = || list(object(json!({ "group": text(), "kind": text() })));
    let spec = object(json!({
        "description": text(), "sourceRepos": list(text()),
        "destinations": list(object(json!({ "server": text(), "name": text(), "namespace": text() }))),
        "clusterResourceWhitelist": kinds(), "clusterResourceBlacklist": kinds(),
        "namespaceResourceWhitelist": kinds(), "namespaceResourceBlacklist": kinds(),
        "destinationServiceAccounts":
            list(object(json!({ "server": text(), "namespace": text(), "defaultServiceAccount": text() }))),
        "syncWindows": list(object(json!({ "kind": text(), "schedule": text(), "duration": text(), "timeZone": text(),
            "applications": list(text()), "namespaces": list(text()), "clusters": list(text()), "manualSync": flag(),
            "useAndOperator": flag() }))),
    }));
    let naming = Naming {
        group: "argoproj.io",
        version: "v1alpha1",
        kind: "AppProject",
        plural: "appprojects",
        short: &["appproj", "appprojs"],
        columns: &[],
        status: false,
    };
    definition(&naming, root(json!({ "spec": spec, "status": anything() })))
}

const READY: &[(&str, &str, &str)] = &[
    ("Age", "date", ".metadata.creationTimestamp"),
    ("Ready", "string", r#".status.conditions[?(@.type=="Ready")].status"#),
    ("Status", "string", r#".status.conditions[?(@.type=="Ready")].message"#),
];

fn git_repository() -> Value {
    let reference =
        object(json!({ "branch": text(), "tag": text(), "semver": text(), "name": text(), "commit": text() }));
    let secret = || object(json!({ "name": text() }));
    let spec = required(
        object(json!({
            "url": text(), "interval": text(), "timeout": text(), "ref": reference, "secretRef": secret(), "ignore": text(),
            "suspend": flag(), "verify": object(json!({ "mode": text(), "provider": text(), "secretRef": secret() })),
            "recurseSubmodules": flag(), "provider": text(),
        })),
        &["url", "interval"],
    );
    let naming = Naming {
        group: "source.toolkit.fluxcd.io",
        version: "v1",
        kind: "GitRepository",
        plural: "gitrepositories",
        short: &["gitrepo"],
        columns: READY,
        status: true,
    };
    definition(&naming, root(json!({ "spec": spec, "status": anything() })))
}

fn receiver() -> Value {
    let target = object(json!({ "apiVersion": text(), "kind": text(), "name": text(), "namespace": text(),
        "matchLabels": texts() }));
    let spec = required(
        object(json!({
            "type": text(), "interval": text(), "events": list(text()), "resources": list(required(target, &["kind", "name"])),
            "secretRef": required(object(json!({ "name": text() })), &["name"]), "suspend": flag(), "resourceFilter": text(),
        })),
        &["type", "resources", "secretRef"],
    );
    let naming = Naming {
        group: "notification.toolkit.fluxcd.io",
        version: "v1",
        kind: "Receiver",
        plural: "receivers",
        short: &[],
        columns: READY,
        status: true,
    };
    definition(&naming, root(json!({ "spec": spec, "status": anything() })))
}

fn kustomization() -> Value {
    let named = || object(json!({ "apiVersion": text(), "kind": text(), "name": text(), "namespace": text() }));
    let from = object(json!({ "kind": text(), "name": text(), "optional": flag() }));
    let image = object(json!({ "name": text(), "newName": text(), "newTag": text(), "digest": text() }));
    let spec = required(
        object(json!({
            "interval": text(), "retryInterval": text(), "timeout": text(), "path": text(), "prune": flag(), "sourceRef": named(),
            "targetNamespace": text(), "wait": flag(), "force": flag(), "suspend": flag(), "dependsOn": list(named()),
            "patches": list(object(json!({ "patch": text(), "target": anything() }))), "images": list(image),
            "components": list(text()), "namePrefix": text(), "nameSuffix": text(), "serviceAccountName": text(),
            "commonMetadata": object(json!({ "labels": texts(), "annotations": texts() })),
            "postBuild": object(json!({ "substitute": texts(), "substituteFrom": list(from) })),
            "healthChecks": list(named()), "deletionPolicy": text(),
        })),
        &["interval", "prune", "sourceRef"],
    );
    let naming = Naming {
        group: "kustomize.toolkit.fluxcd.io",
        version: "v1",
        kind: "Kustomization",
        plural: "kustomizations",
        short: &["ks"],
        columns: READY,
        status: true,
    };
    definition(&naming, root(json!({ "spec": spec, "status": anything() })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

    #[test]
    fn every_definition_is_one_and_takes_fields_that_it_does_not_know() {
        for definition in definitions() {
            let name = definition["metadata"]["name"].clone();
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            assert_eq!(schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"], true, "{name}");
            serde_json::from_value::<CustomResourceDefinition>(definition).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
