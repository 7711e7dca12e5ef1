//! The roles of this program's own parts: each gets what it does, and nothing else.
//!
//! The controllers have the names and (where they do the same) the rules of Kubernetes' own. The node has upstream's role by
//! binding, as there is no authorizer of its own kind for nodes.

use super::Grant::{self, Named, On};
use super::{Holder, READ, READ_WRITE, Role};

const EVENTS: Grant = On("create patch update", "core events.k8s.io", "events");
const GATEWAY: &str = "gateway.networking.k8s.io";
const DEFINITIONS: &str = "apiextensions.k8s.io";

/// What puts Pods there for an object of its own needs.
const PODS: Grant = On("create delete get list patch update watch", "core", "pods");

const CONTROLLERS: &[Role] = &[
    Role::new(
        "system:controller:deployment-controller",
        &[
            On("get list watch update patch", "apps", "deployments"),
            On("update patch", "apps", "deployments/status"),
            On("create delete get list patch update watch", "apps", "replicasets"),
            On("get list patch update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:replicaset-controller",
        &[
            On("get list watch update patch", "apps", "replicasets"),
            On("update patch", "apps", "replicasets/status"),
            PODS,
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:statefulset-controller",
        &[
            On("get list watch update patch", "apps", "statefulsets"),
            On("update patch", "apps", "statefulsets/status"),
            PODS,
            On("create delete get list patch update watch", "apps", "controllerrevisions"),
            On("create delete get list patch update watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:daemon-set-controller",
        &[
            On("get list watch update patch", "apps", "daemonsets"),
            On("update patch", "apps", "daemonsets/status"),
            On("get list watch", "core", "nodes"),
            PODS,
            On("create", "core", "pods/binding"),
            On("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:job-controller",
        &[On("get list update patch watch", "batch", "jobs"), On("update patch", "batch", "jobs/status"), PODS, EVENTS],
    ),
    Role::new(
        "system:controller:cronjob-controller",
        &[
            On("get list watch update patch", "batch", "cronjobs"),
            On("update patch", "batch", "cronjobs/status"),
            On("create delete get list patch update watch", "batch", "jobs"),
            On("delete get list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:horizontal-pod-autoscaler",
        &[
            On("get list watch update patch", "autoscaling", "horizontalpodautoscalers"),
            On("update patch", "autoscaling", "horizontalpodautoscalers/status"),
            On("get update patch", "*", "*/scale"),
            On("get list watch", "core", "pods"),
            On("get list", "metrics.k8s.io", "pods"),
            Grant::Read("/metrics /coracle/*"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:disruption-controller",
        &[
            On("get list watch", "apps", "deployments replicasets statefulsets"),
            On("get list watch", "core", "replicationcontrollers"),
            On("get list watch patch update", "policy", "poddisruptionbudgets"),
            On("update patch", "policy", "poddisruptionbudgets/status"),
            On("get list watch", "core", "pods"),
            On("patch update", "core", "pods/status"),
            On("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:resourcequota-controller",
        &[On(READ, "*", "*"), On("update patch", "core", "resourcequotas/status"), EVENTS],
    ),
    Role::new(
        "system:controller:endpointslice-controller",
        &[
            On("get list watch", "core", "services pods nodes"),
            On("create delete get list patch update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:endpoint-controller",
        &[
            On("get list watch", "core", "services pods"),
            On("get list watch", "discovery.k8s.io", "endpointslices"),
            On("create delete get list patch update watch", "core", "endpoints"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:namespace-controller",
        &[
            On("delete get list watch patch update", "core", "namespaces"),
            On("update patch", "core", "namespaces/finalize namespaces/status"),
            On("delete deletecollection get list", "*", "*"),
        ],
    ),
    Role::new(
        "system:controller:service-account-controller",
        &[On("create get list watch", "core", "serviceaccounts")],
    ),
    Role::new(
        "system:controller:root-ca-certificate-publisher",
        &[
            On("create get list watch", "core", "configmaps"),
            Named("patch update", "core", "configmaps", "kube-root-ca.crt"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:generic-garbage-collector",
        &[On("delete get list patch update watch", "*", "*"), EVENTS],
    ),
    Role::new(
        "system:controller:pod-garbage-collector",
        &[
            On("delete get list watch", "core", "pods"),
            On("get list watch", "core", "nodes"),
            On("patch", "core", "pods/status"),
        ],
    ),
    Role::new(
        "system:controller:ttl-after-finished-controller",
        &[On("delete get list watch", "batch", "jobs"), EVENTS],
    ),
];

const OTHERS: &[Role] = &[
    // The caches that the controllers share, and the graph of owners, which is of every kind that there is.
    Role::new("system:coracle:workloads-cache", &[On("get list watch", "*", "*")]),
    Role::new("system:coracle:event-recorder", &[On("create patch update get", "core events.k8s.io", "events")]),
    Role::new(
        "system:kube-scheduler",
        &[
            On("get list watch", "core", "nodes namespaces persistentvolumeclaims persistentvolumes"),
            On("get list watch delete", "core", "pods"),
            On("create", "core", "bindings pods/binding"),
            On("patch update", "core", "pods/status"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:node",
        &[
            On("create get list watch patch update", "core", "nodes"),
            On("patch update", "core", "nodes/status"),
            On("get list watch create delete patch update", "core", "pods"),
            On("patch update", "core", "pods/status"),
            On("create", "core", "pods/eviction serviceaccounts/token"),
            On("get list watch", "core", "services endpoints secrets configmaps serviceaccounts"),
            On("get list watch patch update", "core", "persistentvolumeclaims"),
            On("patch update", "core", "persistentvolumeclaims/status persistentvolumes/status"),
            On("create delete get list patch update watch", "core", "persistentvolumes"),
            On("create get list watch", "storage.k8s.io", "storageclasses"),
            On("create get", "node.k8s.io", "runtimeclasses"),
            On("create get list patch update delete watch", "coordination.k8s.io", "leases"),
            On("create", "authentication.k8s.io", "tokenreviews"),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:coracle:mesh",
        &[
            On("get list watch", "core", "services endpoints pods nodes namespaces secrets configmaps"),
            On("create patch update", "core", "services services/status"),
            On("get list watch", "discovery.k8s.io", "endpointslices"),
            On("get list watch create patch update", GATEWAY, "*"),
            On("get list watch patch update", "mesh.coracle.dev", "*"),
            On("get list watch", "dapr.io security.istio.io networking.istio.io networking.k8s.io", "*"),
            On("patch update", "dapr.io security.istio.io networking.istio.io networking.k8s.io", "*/status"),
            On("get list watch create patch update", DEFINITIONS, "customresourcedefinitions"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:coracle:identity",
        &[
            On("get list watch", "core", "pods"),
            On("get create patch", "core", "namespaces"),
            On("get list watch create patch update", "core", "configmaps"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:coracle:sync",
        &[
            On(
                READ_WRITE,
                "argoproj.io source.toolkit.fluxcd.io kustomize.toolkit.fluxcd.io notification.toolkit.fluxcd.io",
                "*",
            ),
            On("get list watch create patch update", DEFINITIONS, "customresourcedefinitions"),
            // What is live is compared with what is wanted, whatever its kind; to look for drift, an apply is rehearsed, which
            // is a write to the authorizer.
            On("get list watch create patch", "*", "*"),
            On("create patch update", "core", "namespaces"),
            On("create patch update delete", "core", "configmaps secrets"),
            On(READ_WRITE, "coordination.k8s.io", "leases"),
            On("create", "authentication.k8s.io", "tokenreviews"),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
            // Applications act as accounts, and these get what their projects allow.
            On("impersonate create patch update delete", "core", "serviceaccounts"),
            On(
                "create patch update delete bind escalate",
                super::GROUP,
                "roles rolebindings clusterroles clusterrolebindings",
            ),
            EVENTS,
        ],
    ),
];

pub(super) fn roles() -> impl Iterator<Item = &'static Role> {
    CONTROLLERS.iter().chain(OTHERS)
}

/// Who has which role: the controllers by their names, then the others.
pub(super) fn bindings() -> impl Iterator<Item = (&'static str, Vec<Holder>)> {
    let controllers = CONTROLLERS.iter().filter_map(|role| {
        let account = role.name.strip_prefix("system:controller:")?;
        Some((role.name, vec![Holder::Account(account)]))
    });
    let others = [
        ("system:coracle:workloads-cache", vec![Holder::Account("workloads-cache")]),
        ("system:coracle:event-recorder", vec![Holder::Account("event-recorder")]),
        ("system:kube-scheduler", vec![Holder::Account("default-scheduler")]),
        ("system:node", vec![Holder::Group("system:nodes")]),
        ("system:coracle:mesh", vec![Holder::User("system:coracle:mesh")]),
        ("system:coracle:identity", vec![Holder::User("system:coracle:identity")]),
        ("system:coracle:sync", vec![Holder::User("system:coracle:sync")]),
    ];
    controllers.chain(others)
}
