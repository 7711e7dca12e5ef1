//! The roles for people and for programs of theirs, as Kubernetes has them.

use super::Grant::{Everything, On, Read};
use super::{Grant, Holder, READ, READ_WRITE, Role, WRITE};

const HEALTH: &str = "/healthz /livez /readyz /version /version/";
const OUR_KINDS: &str = "mesh.coracle.dev gateway.networking.k8s.io";

const VIEW: &[Grant] = &[
    On(
        READ,
        "core",
        "pods pods/status pods/log replicationcontrollers replicationcontrollers/scale replicationcontrollers/status serviceaccounts \
         services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps limitranges resourcequotas \
         resourcequotas/status bindings events namespaces namespaces/status",
    ),
    On(READ, "discovery.k8s.io", "endpointslices"),
    On(
        READ,
        "apps",
        "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status deployments \
         deployments/status deployments/scale replicasets replicasets/status replicasets/scale",
    ),
    On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    On(READ, "batch", "jobs jobs/status cronjobs cronjobs/status"),
    On(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    On(READ, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
    On(READ, "events.k8s.io", "events"),
];

const EDIT: &[Grant] = &[
    On(READ, "core", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
    On("impersonate", "core", "serviceaccounts"),
    On(
        WRITE,
        "core",
        "pods pods/attach pods/proxy pods/exec pods/portforward replicationcontrollers replicationcontrollers/scale serviceaccounts \
         services services/proxy persistentvolumeclaims configmaps secrets events",
    ),
    On("create", "core", "pods/eviction serviceaccounts/token"),
    On(
        WRITE,
        "apps",
        "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale",
    ),
    On(WRITE, "autoscaling", "horizontalpodautoscalers"),
    On(WRITE, "batch", "jobs cronjobs"),
    On(WRITE, "policy", "poddisruptionbudgets"),
    On(WRITE, "networking.k8s.io", "networkpolicies ingresses"),
    On(READ_WRITE, "coordination.k8s.io", "leases"),
];

pub(super) const ROLES: &[Role] = &[
    Role::new("cluster-admin", &[Everything]),
    Role { name: "admin", into: "", of: Some("admin"), grants: &[] },
    Role { name: "edit", into: "admin", of: Some("edit"), grants: &[] },
    Role { name: "view", into: "edit", of: Some("view"), grants: &[] },
    Role {
        name: "system:aggregate-to-admin",
        into: "admin",
        of: None,
        grants: &[
            On("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            On(READ_WRITE, super::GROUP, "roles rolebindings"),
        ],
    },
    Role { name: "system:aggregate-to-edit", into: "edit", of: None, grants: EDIT },
    Role { name: "system:aggregate-to-view", into: "view", of: None, grants: VIEW },
    Role {
        name: "system:coracle:aggregate-to-edit",
        into: "edit",
        of: None,
        grants: &[On(
            WRITE,
            OUR_KINDS,
            "gateways httproutes grpcroutes tlsroutes listenersets backendtlspolicies referencegrants trafficpolicies accesspolicies",
        )],
    },
    Role {
        name: "system:coracle:aggregate-to-view",
        into: "view",
        of: None,
        grants: &[
            On(READ, OUR_KINDS, "*"),
            On(READ, "argoproj.io", "applications appprojects"),
            On(READ, "source.toolkit.fluxcd.io kustomize.toolkit.fluxcd.io notification.toolkit.fluxcd.io", "*"),
        ],
    },
    Role::new(
        "system:discovery",
        &[Read("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    Role::new(
        "system:basic-user",
        &[
            On("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            On("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    Role::new("system:public-info-viewer", &[Read(HEALTH)]),
    Role::new(
        "system:monitoring",
        &[Read("/metrics /metrics/* /livez /livez/* /readyz /readyz/* /healthz /healthz/*")],
    ),
    Role::new("system:coracle:traffic-viewer", &[Read("/metrics /coracle/*")]),
    Role::new(
        "system:auth-delegator",
        &[
            On("create", "authentication.k8s.io", "tokenreviews"),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
];

pub(super) fn bindings() -> impl Iterator<Item = (&'static str, Vec<Holder>)> {
    [
        ("cluster-admin", vec![Holder::Group(crate::rbac::MASTERS)]),
        ("system:discovery", vec![Holder::Group(crate::rbac::AUTHENTICATED)]),
        ("system:basic-user", vec![Holder::Group(crate::rbac::AUTHENTICATED)]),
        (
            "system:public-info-viewer",
            vec![Holder::Group(crate::rbac::AUTHENTICATED), Holder::Group(crate::rbac::UNAUTHENTICATED)],
        ),
        ("system:monitoring", vec![Holder::Group("system:monitoring")]),
    ]
    .into_iter()
}
