//! What Gateway API's schemas say beyond their types: list keys, defaults, patterns and bounds.
//!
//! One table of facts. A row names a field by the end of its path, so that what all routes share stands here once;
//! where several rows match a field, all apply, in order, and a later one replaces the same fact of an earlier one.
//!
//! Not here: upstream's CEL rules. What they forbid is refused by the compiler with a condition that says why.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// One fact about a field.
#[derive(Clone, Copy)]
enum Fact {
    /// A list whose items are told apart by these fields.
    Keys(&'static [&'static str]),
    /// A list of distinct scalars.
    Set,
    /// A list or a map that is replaced as one.
    Atomic,
    /// Bounds on the number of items of a list; no lower one where it is zero.
    Items(i64, i64),
    /// The most entries of a map.
    Entries(i64),
    /// Bounds on the length of a string.
    Length(i64, i64),
    /// A longest string without a shortest one.
    UpTo(i64),
    Pattern(&'static str),
    /// Bounds on a number.
    Range(i32, i32),
    /// A smallest number.
    AtLeast(i32),
    /// The value, as JSON, where the field is absent.
    Default(&'static str),
    /// The only values, as a JSON list.
    OneOf(&'static str),
}
use Fact::{AtLeast, Atomic, Default, Entries, Items, Keys, Length, OneOf, Pattern, Range, Set, UpTo};

const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const HOST: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND: &str = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const LABEL_VALUE: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
const CONTROLLER: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$";
const ADDRESS_TYPE: &str = r"^Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$";
const PROTOCOL: &str = r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$";
const HEADER: &str = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$";
const DURATION: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";
const ORIGIN: &str = r"(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)";
const URI: &str = r"^(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?";
const WELL_KNOWN_CA: &str = r"^(System|([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]))$";
const REASON: &str = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
const CONDITION_TYPE: &str =
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$";

const GATEWAY_GROUP: &str = r#""gateway.networking.k8s.io""#;
const ROOT_MATCH: &str = r#"[{"path":{"type":"PathPrefix","value":"/"}}]"#;
const ROOT_RULE: &str = r#"[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]"#;
const CORS_METHODS: &str = r#"["GET","HEAD","POST","PUT","DELETE","CONNECT","OPTIONS","TRACE","PATCH","*"]"#;
const WAITING_ACCEPTED: &str = r#"[{"type":"Accepted","status":"Unknown","reason":"Pending","message":"Waiting for controller","lastTransitionTime":"1970-01-01T00:00:00Z"}]"#;
const WAITING_BOTH: &str = r#"[{"type":"Accepted","status":"Unknown","reason":"Pending","message":"Waiting for controller","lastTransitionTime":"1970-01-01T00:00:00Z"},{"type":"Programmed","status":"Unknown","reason":"Pending","message":"Waiting for controller","lastTransitionTime":"1970-01-01T00:00:00Z"}]"#;

/// Facts of every kind: the end of a field's path, and what holds there.
const SHARED: &[(&str, &[Fact])] = &[
    // References to objects.
    (".group", &[UpTo(253), Pattern(GROUP)]),
    (".kind", &[Length(1, 63), Pattern(KIND)]),
    (".namespace", &[Length(1, 63), Pattern(LABEL)]),
    (".name", &[Length(1, 253)]),
    (".sectionName", &[Length(1, 253), Pattern(SUBDOMAIN)]),
    (".port", &[Range(1, 65_535)]),
    (".weight", &[Range(0, 1_000_000), Default("1")]),
    (".controllerName", &[Length(1, 253), Pattern(CONTROLLER)]),
    (".kinds[].group", &[Default(GATEWAY_GROUP)]),
    (".supportedKinds[].group", &[Default(GATEWAY_GROUP)]),
    (".parentRefs[].group", &[Default(GATEWAY_GROUP)]),
    (".parentRefs[].kind", &[Default(r#""Gateway""#)]),
    (".parentRef.group", &[Default(GATEWAY_GROUP)]),
    (".parentRef.kind", &[Default(r#""Gateway""#)]),
    (".ancestorRef.group", &[Default(GATEWAY_GROUP)]),
    (".ancestorRef.kind", &[Default(r#""Gateway""#)]),
    (".backendRefs[].group", &[Default(r#""""#)]),
    (".backendRefs[].kind", &[Default(r#""Service""#)]),
    (".backendRef.group", &[Default(r#""""#)]),
    (".backendRef.kind", &[Default(r#""Service""#)]),
    (".certificateRefs[].group", &[Default(r#""""#)]),
    (".certificateRefs[].kind", &[Default(r#""Secret""#)]),
    (".clientCertificateRef.group", &[Default(r#""""#)]),
    (".clientCertificateRef.kind", &[Default(r#""Secret""#)]),
    // Label selectors.
    (".selector", &[Atomic]),
    (".matchExpressions", &[Atomic]),
    (".matchExpressions[].values", &[Atomic]),
    // Conditions.
    (".conditions", &[Keys(&["type"]), Items(0, 8)]),
    (".conditions[].message", &[UpTo(32_768)]),
    (".conditions[].observedGeneration", &[AtLeast(0)]),
    (".conditions[].reason", &[Length(1, 1024), Pattern(REASON)]),
    (".conditions[].status", &[OneOf(r#"["True","False","Unknown"]"#)]),
    (".conditions[].type", &[UpTo(316), Pattern(CONDITION_TYPE)]),
    // What all routes share.
    (".spec.hostnames", &[Items(0, 16), Atomic]),
    (".spec.hostnames[]", &[Length(1, 253), Pattern(HOST)]),
    (".spec.parentRefs", &[Items(0, 32), Atomic]),
    (".spec.rules", &[Items(0, 16), Atomic]),
    (".spec.rules[].name", &[Length(1, 253), Pattern(SUBDOMAIN)]),
    (".backendRefs", &[Items(0, 16), Atomic]),
    (".matches", &[Items(0, 64), Atomic]),
    (".status.parents", &[Items(0, 32), Atomic]),
    (".status.parents[].conditions", &[Items(1, 8)]),
    (".status.ancestors", &[Items(0, 16), Atomic]),
    (".status.ancestors[].conditions", &[Items(1, 8)]),
    // Filters.
    (".filters", &[Items(0, 16), Atomic]),
    (".add", &[Items(0, 16), Keys(&["name"])]),
    (".add[].name", &[Length(1, 256), Pattern(HEADER)]),
    (".add[].value", &[Length(1, 4096)]),
    (".set", &[Items(0, 16), Keys(&["name"])]),
    (".set[].name", &[Length(1, 256), Pattern(HEADER)]),
    (".set[].value", &[Length(1, 4096)]),
    (".remove", &[Items(0, 16), Set]),
    (".fraction.denominator", &[AtLeast(1), Default("100")]),
    (".fraction.numerator", &[AtLeast(0)]),
    (".percent", &[Range(0, 100)]),
    (".headers", &[Items(0, 16), Keys(&["name"])]),
    (".headers[].name", &[Length(1, 256), Pattern(HEADER)]),
    (".headers[].type", &[Default(r#""Exact""#)]),
    (".headers[].value", &[Length(1, 4096)]),
    // Listeners, of Gateways and of ListenerSets.
    (".spec.listeners", &[Items(1, 64), Keys(&["name"])]),
    (".listeners[].name", &[Pattern(SUBDOMAIN)]),
    (".listeners[].hostname", &[Length(1, 253), Pattern(HOST)]),
    (".listeners[].protocol", &[Length(1, 255), Pattern(PROTOCOL)]),
    (".allowedRoutes", &[Default(r#"{"namespaces":{"from":"Same"}}"#)]),
    (".allowedRoutes.kinds", &[Items(0, 8), Atomic]),
    (".allowedRoutes.namespaces", &[Default(r#"{"from":"Same"}"#)]),
    (".allowedRoutes.namespaces.from", &[Default(r#""Same""#)]),
    (".tls.certificateRefs", &[Items(0, 64), Atomic]),
    (".listeners[].tls.mode", &[Default(r#""Terminate""#)]),
    (".options", &[Entries(16)]),
    (".options{}", &[Length(0, 4096)]),
    (".status.listeners", &[Items(0, 64), Keys(&["name"])]),
    (".supportedKinds", &[Items(0, 8), Atomic]),
];

const GATEWAY_CLASS: &[(&str, &[Fact])] = &[
    (".spec.description", &[UpTo(64)]),
    (".status.conditions", &[Default(WAITING_ACCEPTED)]),
    (".status.supportedFeatures", &[Items(0, 64), Keys(&["name"])]),
    (".supportedFeatures[].name", &[NO_LENGTH]),
];

/// Takes back the length that [`SHARED`] gives to every `name`.
const NO_LENGTH: Fact = Length(-1, -1);

const GATEWAY: &[(&str, &[Fact])] = &[
    (".addresses", &[Items(0, 16), Atomic]),
    (".addresses[].type", &[Length(1, 253), Pattern(ADDRESS_TYPE), Default(r#""IPAddress""#)]),
    (".spec.addresses[].value", &[UpTo(253)]),
    (".status.addresses[].value", &[Length(1, 253)]),
    (".allowedListeners.namespaces", &[Default(r#"{"from":"None"}"#)]),
    (".allowedListeners.namespaces.from", &[Default(r#""None""#)]),
    (".spec.gatewayClassName", &[Length(1, 253)]),
    (".infrastructure.annotations", &[Entries(8)]),
    (".infrastructure.annotations{}", &[Length(0, 4096)]),
    (".infrastructure.labels", &[Entries(8)]),
    (".infrastructure.labels{}", &[Length(0, 63), Pattern(LABEL_VALUE)]),
    (".caCertificateRefs", &[Items(1, 8), Atomic]),
    (".validation.mode", &[Default(r#""AllowValidOnly""#)]),
    (".frontend.perPort", &[Items(0, 64), Keys(&["port"])]),
    (".status.conditions", &[Default(WAITING_BOTH)]),
];

const HTTP_ROUTE: &[(&str, &[Fact])] = &[
    (".spec.rules", &[Items(1, 16), Default(ROOT_RULE)]),
    (".matches", &[Default(ROOT_MATCH)]),
    (".matches[].path", &[Default(r#"{"type":"PathPrefix","value":"/"}"#)]),
    (".matches[].path.type", &[Default(r#""PathPrefix""#)]),
    (".matches[].path.value", &[UpTo(1024), Default(r#""/""#)]),
    (".queryParams", &[Items(0, 16), Keys(&["name"])]),
    (".queryParams[].name", &[Length(1, 256), Pattern(HEADER)]),
    (".queryParams[].type", &[Default(r#""Exact""#)]),
    (".queryParams[].value", &[Length(1, 1024)]),
    (".timeouts.request", &[Pattern(DURATION)]),
    (".timeouts.backendRequest", &[Pattern(DURATION)]),
    (".requestRedirect.hostname", &[Length(1, 253), Pattern(SUBDOMAIN)]),
    (".requestRedirect.statusCode", &[OneOf("[301,302,303,307,308]"), Default("302")]),
    (".urlRewrite.hostname", &[Length(1, 253), Pattern(SUBDOMAIN)]),
    (".path.replaceFullPath", &[UpTo(1024)]),
    (".path.replacePrefixMatch", &[UpTo(1024)]),
    (".allowHeaders", &[Items(0, 64), Set]),
    (".allowHeaders[]", &[Length(1, 256), Pattern(HEADER)]),
    (".allowMethods", &[Items(0, 9), Set]),
    (".allowMethods[]", &[OneOf(CORS_METHODS)]),
    (".allowOrigins", &[Items(0, 64), Set]),
    (".allowOrigins[]", &[Length(1, 253), Pattern(ORIGIN)]),
    (".exposeHeaders", &[Items(0, 64), Set]),
    (".exposeHeaders[]", &[Length(1, 256), Pattern(HEADER)]),
    (".cors.maxAge", &[AtLeast(1), Default("5")]),
];

const GRPC_ROUTE: &[(&str, &[Fact])] = &[
    (".matches[].method.method", &[UpTo(1024)]),
    (".matches[].method.service", &[UpTo(1024)]),
    (".matches[].method.type", &[Default(r#""Exact""#)]),
];

const TLS_ROUTE: &[(&str, &[Fact])] =
    &[(".spec.hostnames", &[Items(1, 16)]), (".spec.rules", &[Items(1, 1)]), (".backendRefs", &[Items(1, 16)])];

const LISTENER_SET: &[(&str, &[Fact])] = &[(".status.conditions", &[Default(WAITING_BOTH)])];

const REFERENCE_GRANT: &[(&str, &[Fact])] =
    &[(".spec.from", &[Items(1, 16), Atomic]), (".spec.to", &[Items(1, 16), Atomic])];

const BACKEND_TLS_POLICY: &[(&str, &[Fact])] = &[
    (".spec.targetRefs", &[Items(1, 16), Atomic]),
    (".caCertificateRefs", &[Items(0, 8), Atomic]),
    (".validation.hostname", &[Length(1, 253), Pattern(SUBDOMAIN)]),
    (".subjectAltNames", &[Items(0, 5), Atomic]),
    (".subjectAltNames[].hostname", &[Length(1, 253), Pattern(HOST)]),
    (".subjectAltNames[].uri", &[Length(1, 253), Pattern(URI)]),
    (".wellKnownCACertificates", &[Length(1, 253), Pattern(WELL_KNOWN_CA)]),
];

/// Lays the table over the schema of `kind`.
pub(super) fn apply(kind: &str, schema: &mut JSONSchemaProps) {
    let own = match kind {
        "GatewayClass" => GATEWAY_CLASS,
        "Gateway" => GATEWAY,
        "HTTPRoute" => HTTP_ROUTE,
        "GRPCRoute" => GRPC_ROUTE,
        "TLSRoute" => TLS_ROUTE,
        "ListenerSet" => LISTENER_SET,
        "ReferenceGrant" => REFERENCE_GRANT,
        "BackendTLSPolicy" => BACKEND_TLS_POLICY,
        _ => &[],
    };
    descend(schema, &mut String::new(), own);
}

fn descend(schema: &mut JSONSchemaProps, path: &mut String, own: &[(&str, &[Fact])]) {
    for (end, facts) in SHARED.iter().chain(own) {
        if path.ends_with(end) {
            facts.iter().for_each(|fact| state(*fact, schema));
        }
    }
    let length = path.len();
    for (name, property) in schema.properties.iter_mut().flatten() {
        // The root's own `kind` and `metadata` are the API's business.
        if length == 0 && name != "spec" && name != "status" {
            continue;
        }
        path.push('.');
        path.push_str(name);
        descend(property, path, own);
        path.truncate(length);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        path.push_str("[]");
        descend(items, path, own);
        path.truncate(length);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        path.push_str("{}");
        descend(values, path, own);
        path.truncate(length);
    }
}

/// Writes one fact into the schema of its field.
fn state(fact: Fact, schema: &mut JSONSchemaProps) {
    let list = schema.type_.as_deref() == Some("array");
    match fact {
        Keys(keys) => {
            schema.x_kubernetes_list_type = Some("map".to_owned());
            schema.x_kubernetes_list_map_keys = Some(keys.iter().map(|key| (*key).to_owned()).collect());
        }
        Set => schema.x_kubernetes_list_type = Some("set".to_owned()),
        Atomic if list => schema.x_kubernetes_list_type = Some("atomic".to_owned()),
        Atomic => schema.x_kubernetes_map_type = Some("atomic".to_owned()),
        Items(least, most) => {
            schema.min_items = (least > 0).then_some(least);
            schema.max_items = Some(most);
        }
        Entries(most) => schema.max_properties = Some(most),
        Length(least, most) => {
            schema.min_length = (least >= 0).then_some(least);
            schema.max_length = (most >= 0).then_some(most);
        }
        UpTo(most) => schema.max_length = Some(most),
        Pattern(pattern) => schema.pattern = Some(pattern.to_owned()),
        Range(least, most) => {
            schema.minimum = Some(least.into());
            schema.maximum = Some(most.into());
        }
        AtLeast(least) => schema.minimum = Some(least.into()),
        Default(json) => schema.default = Some(constant(json)),
        OneOf(json) => {
            let serde_json::Value::Array(values) = constant(json).0 else {
                return;
            };
            schema.enum_ = Some(values.into_iter().map(JSON).collect());
        }
    }
}

fn constant(json: &str) -> JSON {
    JSON(serde_json::from_str(json).expect("the table's JSON is constant, and a test reads all of it"))
}
