//! Optional fields whose zero differs from their absence (`replicas: 0`, `automountServiceAccountToken: false`).
//!
//! The wire does not tell them apart from fields that merely are zero, so they are listed here, reviewed by hand.
//! Fields the schema requires are always written and need no entry.
//!
//! Invariant: every entry names a message and fields of the table (tested), sorted by message.

/// Message (without `io.k8s.`) and its fields.
pub(super) const POINTERS: &[(&str, &[&str])] = &[
    (
        "api.admissionregistration.v1.MutatingWebhook",
        &["timeoutSeconds"],
    ),
    (
        "api.admissionregistration.v1.ServiceReference",
        &["path", "port"],
    ),
    (
        "api.admissionregistration.v1.ValidatingWebhook",
        &["timeoutSeconds"],
    ),
    (
        "api.admissionregistration.v1.WebhookClientConfig",
        &["url"],
    ),
    ("api.apps.v1.DaemonSetSpec", &["revisionHistoryLimit"]),
    ("api.apps.v1.DaemonSetStatus", &["collisionCount"]),
    (
        "api.apps.v1.DeploymentSpec",
        &["progressDeadlineSeconds", "replicas", "revisionHistoryLimit"],
    ),
    ("api.apps.v1.DeploymentStatus", &["collisionCount", "terminatingReplicas"]),
    ("api.apps.v1.ReplicaSetSpec", &["replicas"]),
    ("api.apps.v1.ReplicaSetStatus", &["terminatingReplicas"]),
    ("api.apps.v1.RollingUpdateStatefulSetStrategy", &["partition"]),
    (
        "api.apps.v1.StatefulSetSpec",
        &["replicas", "revisionHistoryLimit"],
    ),
    ("api.apps.v1.StatefulSetStatus", &["collisionCount"]),
    ("api.authentication.v1.TokenRequestSpec", &["expirationSeconds"]),
    (
        "api.autoscaling.v1.HorizontalPodAutoscalerSpec",
        &["minReplicas", "targetCPUUtilizationPercentage"],
    ),
    (
        "api.autoscaling.v1.HorizontalPodAutoscalerStatus",
        &["currentCPUUtilizationPercentage", "observedGeneration"],
    ),
    (
        "api.autoscaling.v2.HPAScalingRules",
        &["stabilizationWindowSeconds"],
    ),
    (
        "api.autoscaling.v2.HorizontalPodAutoscalerSpec",
        &["minReplicas"],
    ),
    (
        "api.autoscaling.v2.HorizontalPodAutoscalerStatus",
        &["observedGeneration"],
    ),
    ("api.autoscaling.v2.MetricTarget", &["averageUtilization"]),
    (
        "api.autoscaling.v2.MetricValueStatus",
        &["averageUtilization"],
    ),
    (
        "api.batch.v1.CronJobSpec",
        &[
            "failedJobsHistoryLimit",
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "suspend",
            "timeZone",
        ],
    ),
    (
        "api.batch.v1.JobSpec",
        &[
            "activeDeadlineSeconds",
            "backoffLimit",
            "backoffLimitPerIndex",
            "completions",
            "managedBy",
            "manualSelector",
            "maxFailedIndexes",
            "parallelism",
            "suspend",
            "ttlSecondsAfterFinished",
        ],
    ),
    ("api.batch.v1.JobStatus", &["failedIndexes", "ready", "terminating"]),
    (
        "api.batch.v1.PodFailurePolicyOnExitCodesRequirement",
        &["containerName"],
    ),
    ("api.batch.v1.SuccessPolicyRule", &["succeededCount", "succeededIndexes"]),
    (
        "api.coordination.v1.LeaseSpec",
        &["holderIdentity", "leaseDurationSeconds", "leaseTransitions", "preferredHolder"],
    ),
    ("api.core.v1.AzureDiskVolumeSource", &["fsType", "readOnly"]),
    (
        "api.core.v1.AzureFilePersistentVolumeSource",
        &["secretNamespace"],
    ),
    ("api.core.v1.CSIVolumeSource", &["fsType", "readOnly"]),
    ("api.core.v1.ClientIPConfig", &["timeoutSeconds"]),
    (
        "api.core.v1.ClusterTrustBundleProjection",
        &["name", "optional", "signerName"],
    ),
    ("api.core.v1.ConfigMap", &["immutable"]),
    ("api.core.v1.ConfigMapEnvSource", &["optional"]),
    ("api.core.v1.ConfigMapKeySelector", &["optional"]),
    ("api.core.v1.ConfigMapProjection", &["optional"]),
    (
        "api.core.v1.ConfigMapVolumeSource",
        &["defaultMode", "optional"],
    ),
    ("api.core.v1.ContainerStatus", &["started"]),
    ("api.core.v1.DownwardAPIVolumeFile", &["mode"]),
    ("api.core.v1.DownwardAPIVolumeSource", &["defaultMode"]),
    ("api.core.v1.EndpointAddress", &["nodeName"]),
    ("api.core.v1.EndpointPort", &["appProtocol"]),
    ("api.core.v1.FCVolumeSource", &["lun"]),
    ("api.core.v1.GRPCAction", &["service"]),
    ("api.core.v1.HostPathVolumeSource", &["type"]),
    ("api.core.v1.ISCSIPersistentVolumeSource", &["initiatorName"]),
    ("api.core.v1.ISCSIVolumeSource", &["initiatorName"]),
    ("api.core.v1.KeyToPath", &["mode"]),
    ("api.core.v1.LocalVolumeSource", &["fsType"]),
    (
        "api.core.v1.PersistentVolumeClaimSpec",
        &["storageClassName", "volumeAttributesClassName"],
    ),
    (
        "api.core.v1.PersistentVolumeClaimStatus",
        &["currentVolumeAttributesClassName"],
    ),
    (
        "api.core.v1.PersistentVolumeSpec",
        &["volumeAttributesClassName"],
    ),
    ("api.core.v1.PodDNSConfigOption", &["value"]),
    (
        "api.core.v1.PodSecurityContext",
        &["fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser"],
    ),
    (
        "api.core.v1.PodSpec",
        &[
            "activeDeadlineSeconds",
            "automountServiceAccountToken",
            "enableServiceLinks",
            "hostUsers",
            "priority",
            "runtimeClassName",
            "setHostnameAsFQDN",
            "shareProcessNamespace",
            "terminationGracePeriodSeconds",
        ],
    ),
    ("api.core.v1.PortStatus", &["error"]),
    ("api.core.v1.Probe", &["terminationGracePeriodSeconds"]),
    ("api.core.v1.ProjectedVolumeSource", &["defaultMode"]),
    ("api.core.v1.ReplicationControllerSpec", &["replicas"]),
    ("api.core.v1.SeccompProfile", &["localhostProfile"]),
    ("api.core.v1.Secret", &["immutable"]),
    ("api.core.v1.SecretEnvSource", &["optional"]),
    ("api.core.v1.SecretKeySelector", &["optional"]),
    ("api.core.v1.SecretProjection", &["optional"]),
    ("api.core.v1.SecretVolumeSource", &["defaultMode", "optional"]),
    (
        "api.core.v1.SecurityContext",
        &[
            "allowPrivilegeEscalation",
            "privileged",
            "readOnlyRootFilesystem",
            "runAsGroup",
            "runAsNonRoot",
            "runAsUser",
        ],
    ),
    ("api.core.v1.ServiceAccount", &["automountServiceAccountToken"]),
    (
        "api.core.v1.ServiceAccountTokenProjection",
        &["expirationSeconds"],
    ),
    ("api.core.v1.ServicePort", &["appProtocol"]),
    (
        "api.core.v1.ServiceSpec",
        &[
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "trafficDistribution",
        ],
    ),
    ("api.core.v1.Toleration", &["tolerationSeconds"]),
    ("api.core.v1.TopologySpreadConstraint", &["minDomains"]),
    ("api.core.v1.TypedLocalObjectReference", &["apiGroup"]),
    ("api.core.v1.TypedObjectReference", &["apiGroup", "namespace"]),
    ("api.core.v1.WindowsSecurityContextOptions", &["hostProcess"]),
    ("api.discovery.v1.Endpoint", &["hostname", "nodeName", "zone"]),
    (
        "api.discovery.v1.EndpointConditions",
        &["ready", "serving", "terminating"],
    ),
    ("api.discovery.v1.EndpointPort", &["appProtocol", "name", "port"]),
    (
        "api.networking.v1.IngressClassParametersReference",
        &["apiGroup", "namespace", "scope"],
    ),
    ("api.networking.v1.IngressPortStatus", &["error"]),
    ("api.networking.v1.IngressSpec", &["ingressClassName"]),
    ("api.networking.v1.NetworkPolicyPort", &["endPort"]),
    ("api.storage.v1.StorageClass", &["allowVolumeExpansion"]),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion",
        &["deprecationWarning"],
    ),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceScale",
        &["labelSelectorPath"],
    ),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        &[
            "maxItems",
            "maxLength",
            "maxProperties",
            "maximum",
            "minItems",
            "minLength",
            "minProperties",
            "minimum",
            "multipleOf",
            "x-kubernetes-list-type",
            "x-kubernetes-map-type",
            "x-kubernetes-preserve-unknown-fields",
        ],
    ),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference",
        &["path", "port"],
    ),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule",
        &["optionalOldSelf"],
    ),
    (
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.WebhookClientConfig",
        &["url"],
    ),
    (
        "apimachinery.pkg.apis.meta.v1.DeleteOptions",
        &[
            "gracePeriodSeconds",
            "ignoreStoreReadErrorWithClusterBreakingPotential",
            "orphanDependents",
            "propagationPolicy",
        ],
    ),
    (
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        &["deletionGracePeriodSeconds"],
    ),
    (
        "apimachinery.pkg.apis.meta.v1.OwnerReference",
        &["blockOwnerDeletion", "controller"],
    ),
    (
        "apimachinery.pkg.apis.meta.v1.Preconditions",
        &["resourceVersion", "uid"],
    ),
];

/// Whether the field's zero is a value of its own.
pub(super) fn is_pointer(message: &str, field: &str) -> bool {
    POINTERS
        .binary_search_by_key(&message, |(name, _)| name)
        .is_ok_and(|at| POINTERS[at].1.contains(&field))
}
