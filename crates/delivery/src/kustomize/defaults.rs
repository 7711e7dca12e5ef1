//! The places in built-in kinds that hold names, labels, annotations, images, replicas and variables.
//!
//! Invariants: these are the places that Kustomize has built in, no more; a place that is missing here is added by a
//! configuration. It must not know: resources, files.

use super::config::{Config, NameReference};
use super::fieldspec::{FieldSpec, FieldSpecs};
use super::id::Gvk;

/// Where each workload has its Pod template's `spec`.
const PODS: [(&str, &str); 8] = [
    ("Pod", "spec"),
    ("PodTemplate", "template/spec"),
    ("Deployment", "spec/template/spec"),
    ("ReplicaSet", "spec/template/spec"),
    ("DaemonSet", "spec/template/spec"),
    ("StatefulSet", "spec/template/spec"),
    ("Job", "spec/template/spec"),
    ("CronJob", "spec/jobTemplate/spec/template/spec"),
];

/// The workloads whose Pods refer to accounts, claims and classes.
const USERS: [(&str, &str); 7] = [
    ("Pod", "spec"),
    ("StatefulSet", "spec/template/spec"),
    ("Deployment", "spec/template/spec"),
    ("ReplicationController", "spec/template/spec"),
    ("CronJob", "spec/jobTemplate/spec/template/spec"),
    ("Job", "spec/template/spec"),
    ("DaemonSet", "spec/template/spec"),
];

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const POLICY: &str = "policy";
const NETWORKING: &str = "networking.k8s.io";

/// All of them.
pub(super) fn config() -> Config {
    let mut config = Config {
        name_prefix: vec![at("", "", "metadata/name")],
        name_suffix: vec![at("", "", "metadata/name")],
        namespace: vec![
            made(at("", "Namespace", "metadata/name")),
            made(at("apiregistration.k8s.io", "APIService", "spec/service/namespace")),
            at(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "spec/conversion/webhook/clientConfig/service/namespace",
            ),
        ],
        common_labels: selectors(),
        labels: Vec::new(),
        template_labels: templates("labels"),
        common_annotations: templates("annotations"),
        name_reference: name_references(),
        var_reference: variables(),
        images: ["spec", "spec/template/spec"]
            .iter()
            .flat_map(|spec| {
                ["containers", "initContainers"].map(|list| made(at("", "", &format!("{spec}/{list}[]/image"))))
            })
            .collect(),
        replicas: ["Deployment", "ReplicationController", "ReplicaSet", "StatefulSet"]
            .map(|kind| made(at("", kind, "spec/replicas")))
            .to_vec(),
    };
    config.common_labels.extend(templates("labels"));
    let lists = [&mut config.common_labels, &mut config.template_labels, &mut config.common_annotations];
    for list in lists.into_iter().chain([&mut config.namespace, &mut config.var_reference, &mut config.replicas]) {
        list.sort_by_cached_key(|spec| spec.gvk.rank());
    }
    config.name_reference.sort_by_cached_key(|reference| reference.target.rank());
    config
}

fn at(group: &str, kind: &str, path: &str) -> FieldSpec {
    let gvk = Gvk { group: group.to_owned(), version: String::new(), kind: kind.to_owned() };
    FieldSpec { gvk, path: path.to_owned(), create: false }
}

fn made(spec: FieldSpec) -> FieldSpec {
    FieldSpec { create: true, ..spec }
}

fn core(spec: FieldSpec) -> FieldSpec {
    FieldSpec { gvk: Gvk { version: "v1".to_owned(), ..spec.gvk }, ..spec }
}

/// The metadata of objects and of the Pods they make.
fn templates(field: &str) -> FieldSpecs {
    let template = format!("spec/template/metadata/{field}");
    // Annotations are for StatefulSets of any group, labels for those of apps; claims get labels only.
    let stateful = if field == "labels" { "apps" } else { "" };
    let mut specs = vec![
        made(at("", "", &format!("metadata/{field}"))),
        made(core(at("", "ReplicationController", &template))),
        made(at("", "Deployment", &template)),
        made(at("", "ReplicaSet", &template)),
        made(at("", "DaemonSet", &template)),
        made(at(stateful, "StatefulSet", &template)),
        made(at("batch", "Job", &template)),
        made(at("batch", "CronJob", &format!("spec/jobTemplate/metadata/{field}"))),
        made(at("batch", "CronJob", &format!("spec/jobTemplate/spec/template/metadata/{field}"))),
    ];
    if field == "labels" {
        specs.push(made(at("apps", "StatefulSet", "spec/volumeClaimTemplates[]/metadata/labels")));
    }
    specs
}

/// Where labels choose Pods.
fn selectors() -> FieldSpecs {
    let mut specs = vec![
        made(core(at("", "Service", "spec/selector"))),
        made(core(at("", "ReplicationController", "spec/selector"))),
        made(at("", "Deployment", "spec/selector/matchLabels")),
        made(at("", "ReplicaSet", "spec/selector/matchLabels")),
        made(at("", "DaemonSet", "spec/selector/matchLabels")),
        made(at("apps", "StatefulSet", "spec/selector/matchLabels")),
        at("batch", "Job", "spec/selector/matchLabels"),
        at("batch", "CronJob", "spec/jobTemplate/spec/selector/matchLabels"),
        at(POLICY, "PodDisruptionBudget", "spec/selector/matchLabels"),
        at(NETWORKING, "NetworkPolicy", "spec/podSelector/matchLabels"),
        at(NETWORKING, "NetworkPolicy", "spec/ingress/from/podSelector/matchLabels"),
        at(NETWORKING, "NetworkPolicy", "spec/egress/to/podSelector/matchLabels"),
    ];
    for kind in ["Deployment", "StatefulSet"] {
        for affinity in ["podAffinity", "podAntiAffinity"] {
            for term in [
                "preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm",
                "requiredDuringSchedulingIgnoredDuringExecution",
            ] {
                let path = format!("spec/template/spec/affinity/{affinity}/{term}/labelSelector/matchLabels");
                specs.push(at("apps", kind, &path));
            }
        }
        specs.push(at("apps", kind, "spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels"));
    }
    specs
}

fn reference(group: &str, version: &str, kind: &str, fields: FieldSpecs) -> NameReference {
    let target = Gvk { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() };
    NameReference { target, fields }
}

/// Fields of Pods, wherever Pods are described.
fn in_pods(fields: &[&str]) -> FieldSpecs {
    let mut specs = Vec::new();
    for (kind, spec) in PODS {
        for field in fields {
            let place = at("", kind, &format!("{spec}/{field}"));
            specs.push(if kind == "Pod" { core(place) } else { place });
        }
    }
    specs
}

fn in_users(field: &str) -> FieldSpecs {
    USERS.iter().map(|(kind, spec)| at("", kind, &format!("{spec}/{field}"))).collect()
}

fn name_references() -> Vec<NameReference> {
    let mut config_maps = in_pods(&[
        "volumes/configMap/name",
        "containers/env/valueFrom/configMapKeyRef/name",
        "initContainers/env/valueFrom/configMapKeyRef/name",
        "containers/envFrom/configMapRef/name",
        "initContainers/envFrom/configMapRef/name",
        "volumes/projected/sources/configMap/name",
    ]);
    config_maps.extend([
        at("", "Node", "spec/configSource/configMap"),
        at("", "Role", "rules/resourceNames"),
        at("", "ClusterRole", "rules/resourceNames"),
        at("", "Ingress", r"metadata/annotations/nginx.ingress.kubernetes.io\/fastcgi-params-configmap"),
    ]);
    let mut references: Vec<NameReference> = ["Deployment", "ReplicationController", "ReplicaSet", "StatefulSet"]
        .map(|kind| reference("", "", kind, vec![at("", "HorizontalPodAutoscaler", "spec/scaleTargetRef/name")]))
        .into();
    references.extend([
        reference("", "v1", "ConfigMap", config_maps),
        reference("", "v1", "Secret", secrets()),
        reference("", "v1", "Service", services()),
        reference(RBAC, "", "Role", vec![at(RBAC, "RoleBinding", "roleRef/name")]),
        reference(
            RBAC,
            "",
            "ClusterRole",
            vec![at(RBAC, "RoleBinding", "roleRef/name"), at(RBAC, "ClusterRoleBinding", "roleRef/name")],
        ),
        reference("", "v1", "ServiceAccount", accounts()),
        reference("", "v1", "PersistentVolumeClaim", in_users("volumes/persistentVolumeClaim/claimName")),
        reference(
            "",
            "v1",
            "PersistentVolume",
            vec![at("", "PersistentVolumeClaim", "spec/volumeName"), at("", "ClusterRole", "rules/resourceNames")],
        ),
        reference(
            "storage.k8s.io",
            "v1",
            "StorageClass",
            vec![
                at("", "PersistentVolume", "spec/storageClassName"),
                at("", "PersistentVolumeClaim", "spec/storageClassName"),
                at("", "StatefulSet", "spec/volumeClaimTemplates/spec/storageClassName"),
            ],
        ),
        reference("scheduling.k8s.io", "v1", "PriorityClass", in_users("priorityClassName")),
        reference(
            ADMISSION,
            "",
            "ValidatingAdmissionPolicy",
            vec![at(ADMISSION, "ValidatingAdmissionPolicyBinding", "spec/policyName")],
        ),
    ]);
    references
}

fn accounts() -> FieldSpecs {
    let mut specs = vec![at(RBAC, "RoleBinding", "subjects"), at(RBAC, "ClusterRoleBinding", "subjects")];
    specs.extend(in_users("serviceAccountName"));
    specs
}

fn services() -> FieldSpecs {
    let mut specs = vec![at("apps", "StatefulSet", "spec/serviceName")];
    specs.extend(
        [
            "spec/rules/http/paths/backend/serviceName",
            "spec/backend/serviceName",
            "spec/rules/http/paths/backend/service/name",
            "spec/defaultBackend/service/name",
        ]
        .map(|path| at("", "Ingress", path)),
    );
    specs.extend([
        at("apiregistration.k8s.io", "APIService", "spec/service/name"),
        at(ADMISSION, "ValidatingWebhookConfiguration", "webhooks/clientConfig/service"),
        at(ADMISSION, "MutatingWebhookConfiguration", "webhooks/clientConfig/service"),
    ]);
    specs
}

fn secrets() -> FieldSpecs {
    let mut specs = in_pods(&[
        "volumes/secret/secretName",
        "containers/env/valueFrom/secretKeyRef/name",
        "initContainers/env/valueFrom/secretKeyRef/name",
        "containers/envFrom/secretRef/name",
        "initContainers/envFrom/secretRef/name",
        "imagePullSecrets/name",
        "volumes/projected/sources/secret/name",
    ]);
    specs.extend(
        [
            "spec/tls/secretName",
            r"metadata/annotations/ingress.kubernetes.io\/auth-secret",
            r"metadata/annotations/nginx.ingress.kubernetes.io\/auth-secret",
            r"metadata/annotations/nginx.ingress.kubernetes.io\/auth-tls-secret",
        ]
        .map(|path| at("", "Ingress", path)),
    );
    specs.push(at("", "ServiceAccount", "imagePullSecrets/name"));
    specs.extend(
        ["secretName", "adminSecretName", "userSecretName", "secretRef"]
            .map(|field| at("", "StorageClass", &format!("parameters/{field}"))),
    );
    specs.extend([
        at("", "Role", "rules/resourceNames"),
        at("", "ClusterRole", "rules/resourceNames"),
        core(at("serving.knative.dev", "Service", "spec/template/spec/containers/env/valueFrom/secretKeyRef/name")),
        at("", "PersistentVolume", "spec/azureFile/secretName"),
    ]);
    specs
}

/// Where `$(NAME)` is looked for.
fn variables() -> FieldSpecs {
    let mut specs = Vec::new();
    for (kind, spec) in PODS.into_iter().filter(|(kind, _)| *kind != "PodTemplate") {
        for list in ["containers", "initContainers"] {
            for field in ["args", "command", "env/value", "volumeMounts/mountPath"] {
                specs.push(at("", kind, &format!("{spec}/{list}/{field}")));
            }
        }
        let server = match kind {
            // Kustomize's own path lacks a `spec`.
            "CronJob" => "spec/jobTemplate/spec/template/volumes/nfs/server".to_owned(),
            "StatefulSet" => "spec/volumeClaimTemplates/spec/nfs/server".to_owned(),
            _ => format!("{spec}/volumes/nfs/server"),
        };
        specs.push(at("", kind, &server));
    }
    specs.extend([
        at("", "Deployment", "spec/template/metadata/annotations"),
        at("", "Ingress", "spec/rules/host"),
        at("", "Ingress", "spec/tls/hosts"),
        at("", "Ingress", "spec/tls/secretName"),
        at("", "Service", "spec/ports/port"),
        at("", "Service", "spec/ports/targetPort"),
        at("", "PersistentVolume", "spec/nfs/server"),
        at("", "", "metadata/labels"),
        at("", "", "metadata/annotations"),
    ]);
    specs
}
