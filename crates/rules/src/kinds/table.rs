//! The rows of the table of built-in resources.
//!
//! Invariant: data only. Within a group the preferred version comes first.

use super::{Kind, ScalePaths};

/// What most rows have in common.
const STORED: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: None,
    acted_on: false,
    create_only: false,
    schema: "",
};

/// `scale` of every scalable kind (ReplicationController's selector is a plain map).
const SCALE: Option<ScalePaths> =
    Some(ScalePaths { spec: "spec.replicas", status: "status.replicas", selector: "spec.selector" });

/// Every served built-in resource.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.core.v1.Binding",
        ..STORED
    },
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        acted_on: true,
        schema: "io.k8s.api.core.v1.ConfigMap",
        ..STORED
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        acted_on: true,
        schema: "io.k8s.api.core.v1.Endpoints",
        ..STORED
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        acted_on: true,
        schema: "io.k8s.api.core.v1.Event",
        ..STORED
    },
    Kind {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        schema: "io.k8s.api.core.v1.LimitRange",
        ..STORED
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        acted_on: true,
        schema: "io.k8s.api.core.v1.Namespace",
        ..STORED
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        status: true,
        acted_on: true,
        schema: "io.k8s.api.core.v1.Node",
        ..STORED
    },
    Kind {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        status: true,
        acted_on: true,
        schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
        ..STORED
    },
    Kind {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        namespaced: false,
        status: true,
        acted_on: true,
        schema: "io.k8s.api.core.v1.PersistentVolume",
        ..STORED
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        acted_on: true,
        schema: "io.k8s.api.core.v1.Pod",
        ..STORED
    },
    Kind {
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        schema: "io.k8s.api.core.v1.PodTemplate",
        ..STORED
    },
    Kind {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        status: true,
        scale: SCALE,
        schema: "io.k8s.api.core.v1.ReplicationController",
        ..STORED
    },
    Kind {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        status: true,
        schema: "io.k8s.api.core.v1.ResourceQuota",
        ..STORED
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        acted_on: true,
        schema: "io.k8s.api.core.v1.Secret",
        ..STORED
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        acted_on: true,
        schema: "io.k8s.api.core.v1.ServiceAccount",
        ..STORED
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        acted_on: true,
        schema: "io.k8s.api.core.v1.Service",
        ..STORED
    },
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        schema: "io.k8s.api.apps.v1.ControllerRevision",
        ..STORED
    },
    Kind {
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        status: true,
        schema: "io.k8s.api.apps.v1.DaemonSet",
        ..STORED
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        status: true,
        scale: SCALE,
        acted_on: true,
        schema: "io.k8s.api.apps.v1.Deployment",
        ..STORED
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        status: true,
        scale: SCALE,
        acted_on: true,
        schema: "io.k8s.api.apps.v1.ReplicaSet",
        ..STORED
    },
    Kind {
        group: "apps",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        status: true,
        scale: SCALE,
        schema: "io.k8s.api.apps.v1.StatefulSet",
        ..STORED
    },
    Kind {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        status: true,
        schema: "io.k8s.api.batch.v1.CronJob",
        ..STORED
    },
    Kind {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        status: true,
        acted_on: true,
        schema: "io.k8s.api.batch.v1.Job",
        ..STORED
    },
    Kind {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        status: true,
        schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        ..STORED
    },
    Kind {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        status: true,
        schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
        ..STORED
    },
    Kind {
        group: "policy",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        status: true,
        schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
        ..STORED
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        acted_on: true,
        schema: "io.k8s.api.rbac.v1.ClusterRoleBinding",
        ..STORED
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        acted_on: true,
        schema: "io.k8s.api.rbac.v1.ClusterRole",
        ..STORED
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        acted_on: true,
        schema: "io.k8s.api.rbac.v1.RoleBinding",
        ..STORED
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        plural: "roles",
        singular: "role",
        acted_on: true,
        schema: "io.k8s.api.rbac.v1.Role",
        ..STORED
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        schema: "io.k8s.api.networking.v1.IngressClass",
        ..STORED
    },
    Kind {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        status: true,
        schema: "io.k8s.api.networking.v1.Ingress",
        ..STORED
    },
    Kind {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        namespaced: false,
        schema: "io.k8s.api.networking.v1.IPAddress",
        ..STORED
    },
    Kind {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        schema: "io.k8s.api.networking.v1.NetworkPolicy",
        ..STORED
    },
    Kind {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        status: true,
        schema: "io.k8s.api.networking.v1.ServiceCIDR",
        ..STORED
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        acted_on: true,
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        ..STORED
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        acted_on: true,
        schema: "io.k8s.api.coordination.v1.Lease",
        ..STORED
    },
    Kind {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        acted_on: true,
        schema: "io.k8s.api.events.v1.Event",
        ..STORED
    },
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        namespaced: false,
        acted_on: true,
        schema: "io.k8s.api.storage.v1.StorageClass",
        ..STORED
    },
    Kind {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        namespaced: false,
        acted_on: true,
        schema: "io.k8s.api.node.v1.RuntimeClass",
        ..STORED
    },
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        namespaced: false,
        schema: "io.k8s.api.scheduling.v1.PriorityClass",
        ..STORED
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        categories: &["api-extensions"],
        namespaced: false,
        schema: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
        ..STORED
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        categories: &["api-extensions"],
        acted_on: true,
        namespaced: false,
        status: true,
        schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        ..STORED
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        categories: &["api-extensions"],
        acted_on: true,
        namespaced: false,
        schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        ..STORED
    },
    Kind {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        categories: &["api-extensions"],
        namespaced: false,
        schema: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
        ..STORED
    },
    Kind {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        acted_on: true,
        schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        ..STORED
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        namespaced: false,
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
        ..STORED
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        namespaced: false,
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.authentication.v1.TokenReview",
        ..STORED
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        ..STORED
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        namespaced: false,
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        ..STORED
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        namespaced: false,
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        ..STORED
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        namespaced: false,
        acted_on: true,
        create_only: true,
        schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
        ..STORED
    },
];
