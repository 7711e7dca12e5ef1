//! Names that several crates must spell the same way.
//!
//! Each is part of what users see, so a change here is a change of the product's interface.

/// The name of the one Node object of a standalone Coracle.
pub const NODE: &str = "coracle";

/// Annotation on a Pod run as plain processes: a JSON object from container port (as a string) to the host port that
/// the node allocated for it, for example `{"8080":41235}`. Written before the first container starts.
pub const PORTS_ANNOTATION: &str = "coracle.dev/ports";

/// The RuntimeClass of Pods with a network namespace of their own.
pub const ISOLATED_RUNTIME: &str = "isolated";

/// The RuntimeClass of Pods that are plain processes on the machine's network.
pub const PLAIN_RUNTIME: &str = "plain";

/// Why a Pod's containers cannot start: it asks for a network of its own, and cannot have one.
pub const NO_POD_NETWORK: &str = "NoPodNetwork";

/// The GatewayClass that is there from the start.
pub const GATEWAY_CLASS: &str = "coracle";

/// `spec.controllerName` of [`GATEWAY_CLASS`].
pub const GATEWAY_CONTROLLER: &str = "coracle.dev/gateway";

/// The image that needs no recipe: the host's own programs; the container's `command` says which.
pub const HOST_IMAGE: &str = "coracle.dev/host";

/// The DNS domain of Services: `NAME.NAMESPACE.svc.cluster.local`.
pub const DOMAIN: &str = "cluster.local";

/// The Kubernetes version whose API is served, as `major`, `minor` and full version.
pub const KUBERNETES_VERSION: (&str, &str, &str) = ("1", "33", "v1.33.0+coracle");

/// Label from an EndpointSlice to its Service (discovery.k8s.io).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Annotation: `"true"` keeps an object from being deleted until somebody confirms it.
pub const PROTECT: &str = "coracle.dev/protect";

/// Annotation: the object's own name, typed by whoever confirms that a protected object is to be deleted.
pub const CONFIRM_DELETE: &str = "coracle.dev/confirm-delete";

/// Annotation: why a protected object is to be deleted.
pub const DELETE_REASON: &str = "coracle.dev/delete-reason";

/// Annotation of a manifest: the name (or NAMESPACE/NAME) that this object had before.
pub const MOVED_FROM: &str = "coracle.dev/moved-from";

/// Annotation of an object that was kept when its manifest was renamed: the name that the manifest has now.
pub const MOVED_TO: &str = "coracle.dev/moved-to";

/// Annotation on an EndpointSlice, with the value `true`: its addresses are the mesh listeners of other instances, which have
/// a Service of the same namespace, name and port.
pub const PEER_ANNOTATION: &str = "mesh.coracle.dev/peer";

/// Annotation on a Service or a Namespace. `always`: callers must show a certificate, also on this machine; `auto`: what
/// PeerAuthentications say, where the instance or the Namespace says `always`.
pub const MTLS_ANNOTATION: &str = "mesh.coracle.dev/mtls";

/// Annotation on a Service: its programs speak mutual TLS themselves. `spiffe`: with the SVID of their own service account; a
/// SPIFFE ID: with that one's.
pub const PROGRAM_TLS_ANNOTATION: &str = "mesh.coracle.dev/program-tls";

/// The namespace of what belongs to the platform itself.
pub const SYSTEM_NAMESPACE: &str = "kube-system";

/// The Service, in [`SYSTEM_NAMESPACE`], by which programs go out.
pub const EGRESS_SERVICE: &str = "egress";

/// Its port.
pub const EGRESS_PORT: u16 = 3128;

/// Annotation on a Pod: `proxy` has its programs go out by [`EGRESS_SERVICE`] (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`).
pub const EGRESS_ANNOTATION: &str = "mesh.coracle.dev/egress";

/// Annotation on a namespace: the hosts to which its Pods may go by [`EGRESS_SERVICE`], `*.example.com` with all below, by
/// commas. Without it, anywhere.
pub const EGRESS_ALLOW_ANNOTATION: &str = "mesh.coracle.dev/egress-allow";

/// Annotation on a namespace: `true` lets names outside of the cluster that its Services send to stand for this machine.
pub const EGRESS_LOCAL_ANNOTATION: &str = "mesh.coracle.dev/egress-local";
