//! The arena of every built-in kind, made from the machine-readable types on first use.
//!
//! Invariants: built once in a process; one generator visits each definition once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use resources::k8s::api as k;
use resources::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use resources::k8s::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::arena::{Arena, List as ListFact, Node, NodeId};
use super::{Facts, Shape};
use crate::kinds;

/// Prefix of references inside the generator's output.
const DEFINITIONS: &str = "#/$defs/";

/// Bodies of subresources and options: kinds that are decoded but are no resource of their own.
const BODIES: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io/v1", "TokenRequest", "io.k8s.api.authentication.v1.TokenRequest"),
    ("autoscaling/v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
    ("policy/v1", "Eviction", "io.k8s.api.policy.v1.Eviction"),
    ("v1", "DeleteOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
    ("v1", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
];

/// Definition of a kind: a served one, or a body. `DeleteOptions` belongs to every group.
pub(super) fn definition_of(api_version: &str, kind: &str) -> Option<String> {
    if let Some(found) = kinds::find(api_version, kind) {
        return Some(found.schema.to_owned());
    }
    BODIES
        .iter()
        .find(|(version, name, _)| *name == kind && (*version == api_version || *name == "DeleteOptions"))
        .map(|(_, _, definition)| (*definition).to_owned())
}

/// Visits types.
macro_rules! resources {
    ($generator:expr, $wanted:expr, $($kind:ty),* $(,)?) => {
        $(
            if $wanted(&<$kind as schemars::JsonSchema>::schema_name()) {
                $generator.subschema_for::<$kind>();
            }
        )*
    };
}

/// Visits the wanted definitions. Every row of the table of kinds is named here (tested).
fn visit(generator: &mut SchemaGenerator, wanted: &dyn Fn(&str) -> bool) {
    resources!(
        generator,
        wanted,
        k::core::v1::ConfigMap,
        k::core::v1::Endpoints,
        k::core::v1::Event,
        k::core::v1::LimitRange,
        k::core::v1::Namespace,
        k::core::v1::Node,
        k::core::v1::PersistentVolumeClaim,
        k::core::v1::PersistentVolume,
        k::core::v1::Pod,
        k::core::v1::PodTemplate,
        k::core::v1::ReplicationController,
        k::core::v1::ResourceQuota,
        k::core::v1::Secret,
        k::core::v1::ServiceAccount,
        k::core::v1::Service,
        k::apps::v1::ControllerRevision,
        k::apps::v1::DaemonSet,
        k::apps::v1::Deployment,
        k::apps::v1::ReplicaSet,
        k::apps::v1::StatefulSet,
        k::batch::v1::CronJob,
        k::batch::v1::Job,
        k::autoscaling::v1::HorizontalPodAutoscaler,
        k::autoscaling::v2::HorizontalPodAutoscaler,
        k::policy::v1::PodDisruptionBudget,
        k::rbac::v1::ClusterRoleBinding,
        k::rbac::v1::ClusterRole,
        k::rbac::v1::RoleBinding,
        k::rbac::v1::Role,
        k::networking::v1::IngressClass,
        k::networking::v1::Ingress,
        k::networking::v1::IPAddress,
        k::networking::v1::NetworkPolicy,
        k::networking::v1::ServiceCIDR,
        k::discovery::v1::EndpointSlice,
        k::coordination::v1::Lease,
        k::events::v1::Event,
        k::storage::v1::StorageClass,
        k::node::v1::RuntimeClass,
        k::scheduling::v1::PriorityClass,
        k::admissionregistration::v1::MutatingWebhookConfiguration,
        k::admissionregistration::v1::ValidatingAdmissionPolicy,
        k::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        k::admissionregistration::v1::ValidatingWebhookConfiguration,
        CustomResourceDefinition,
    );
    resources!(
        generator,
        wanted,
        k::core::v1::Binding,
        k::authentication::v1::SelfSubjectReview,
        k::authentication::v1::TokenReview,
        k::authentication::v1::TokenRequest,
        k::authorization::v1::LocalSubjectAccessReview,
        k::authorization::v1::SelfSubjectAccessReview,
        k::authorization::v1::SelfSubjectRulesReview,
        k::authorization::v1::SubjectAccessReview,
        k::autoscaling::v1::Scale,
        k::policy::v1::Eviction,
        meta::DeleteOptions,
        meta::ListMeta,
        meta::Status,
    );
}

/// The JSON documents of the wanted definitions and of all they refer to, with descriptions.
pub(crate) fn generate(wanted: &dyn Fn(&str) -> bool) -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    visit(&mut generator, wanted);
    generator.take_definitions(false)
}

/// The arena of all built-in kinds.
pub(super) fn arena() -> &'static Arc<Arena> {
    static ARENA: OnceLock<Arc<Arena>> = OnceLock::new();
    ARENA.get_or_init(|| Arc::new(build(&generate(&|_| true))))
}

/// The arena with one node that allows everything.
pub(super) fn anything() -> &'static Arc<Arena> {
    static ARENA: OnceLock<Arc<Arena>> = OnceLock::new();
    ARENA.get_or_init(|| {
        let mut arena = Arena::default();
        arena.push(Node::new(Shape::Any));
        Arc::new(arena)
    })
}

/// Definitions whose published type says less or other than what they hold.
fn special(definition: &str) -> Option<Node> {
    let (_, name) = definition.rsplit_once('.')?;
    let extensions = definition.starts_with("io.k8s.apiextensions-apiserver.");
    let shape = match name {
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" if extensions => {
            Shape::Any
        }
        "FieldsV1" | "RawExtension" => Shape::Object,
        "Quantity" => {
            let mut node = Node::new(Shape::IntOrString);
            node.format = Some("quantity".into());
            return Some(node);
        }
        _ => return None,
    };
    let mut node = Node::new(shape);
    node.preserve_unknown = true;
    Some(node)
}

struct Builder {
    arena: Arena,
    facts: Facts,
    leaves: HashMap<(Shape, Option<Box<str>>), NodeId>,
}

fn build(definitions: &Map<String, Value>) -> Arena {
    let mut builder = Builder { arena: Arena::default(), facts: Facts::load(), leaves: HashMap::new() };
    let mut todo = Vec::new();
    for (name, definition) in definitions {
        let id = builder.arena.push(Node::new(Shape::Any));
        builder.arena.name(name, id);
        todo.push((name, definition, id));
    }
    for (name, definition, id) in &todo {
        let mut node = special(name).unwrap_or_else(|| builder.read(name, definition));
        node.map_atomic |= Facts::structure_is_atomic(name);
        *builder.arena.node_mut(*id) = node;
    }
    // Fields that differ from their shared definition need it complete, so they come last.
    for (name, definition, id) in &todo {
        builder.copy_shared(name, definition, *id);
    }
    builder.arena
}

impl Builder {
    /// The node of one (inline) schema; `definition` is the name facts about its fields are filed under.
    fn read(&mut self, definition: &str, schema: &Value) -> Node {
        let format = schema.get("format").and_then(Value::as_str);
        if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) || format == Some("int-or-string") {
            return Node::new(Shape::IntOrString);
        }
        let mut node = Node::new(match schema.get("type").and_then(Value::as_str) {
            Some("string") => Shape::String,
            Some("integer") => Shape::Integer,
            Some("number") => Shape::Number,
            Some("boolean") => Shape::Boolean,
            Some("array") => Shape::List,
            Some("object") if schema.get("additionalProperties").is_some() => Shape::Map,
            Some("object") => Shape::Object,
            _ => Shape::Any,
        });
        node.format = format.map(Into::into);
        if let Some(Value::Array(required)) = schema.get("required") {
            node.required = required.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        if let Some(Value::Object(properties)) = schema.get("properties") {
            let fields = properties
                .iter()
                .map(|(name, property)| {
                    let id = self.field(definition, name, property);
                    (name.as_str().into(), id)
                })
                .collect();
            node.set_fields(fields);
        }
        node.items = schema.get("items").map(|s| self.child(definition, s));
        node.values = schema.get("additionalProperties").filter(|s| s.is_object()).map(|s| self.child(definition, s));
        node
    }

    fn field(&mut self, definition: &str, name: &str, schema: &Value) -> NodeId {
        let fact = self.facts.get(definition, name);
        let id = self.child(definition, schema);
        if reference(schema).is_some() || fact == super::facts::Fact::default() {
            return id;
        }
        let mut node = self.arena.node(id).clone();
        node.list = match fact.apply_keys {
            Some(keys) => ListFact::Map(keys.names().into()),
            None if fact.set => ListFact::Set,
            None => ListFact::Atomic,
        };
        node.map_atomic = fact.atomic;
        node.merge_list = fact.merge;
        node.merge_key = fact.merge_key.map(Into::into);
        node.retain_keys = fact.retain_keys;
        node.default = fact.default.map(|d| Box::new(Value::from(d)));
        self.arena.push(node)
    }

    /// A referred definition, a shared leaf, or a node of its own.
    fn child(&mut self, definition: &str, schema: &Value) -> NodeId {
        if let Some(id) = reference(schema).and_then(|name| self.arena.root(name)) {
            return id;
        }
        let node = self.read(definition, schema);
        let leaf = node.fields.is_empty() && node.items.is_none() && node.values.is_none();
        if !leaf {
            return self.arena.push(node);
        }
        let key = (node.shape, node.format.clone());
        if let Some(id) = self.leaves.get(&key) {
            return *id;
        }
        let id = self.arena.push(node);
        self.leaves.insert(key, id);
        id
    }

    /// Gives fields with facts of their own a copy of the definition they share with others.
    fn copy_shared(&mut self, definition: &str, schema: &Value, id: NodeId) {
        let Some(Value::Object(properties)) = schema.get("properties") else {
            return;
        };
        let mut changed: Vec<(String, NodeId)> = Vec::new();
        for (name, property) in properties {
            let fact = self.facts.get(definition, name);
            if !(fact.retain_keys || fact.granular) {
                continue;
            }
            let Some(shared) = reference(property).and_then(|r| self.arena.root(r)) else {
                continue;
            };
            let mut node = self.arena.node(shared).clone();
            node.retain_keys = fact.retain_keys;
            node.map_atomic &= !fact.granular;
            changed.push((name.clone(), self.arena.push(node)));
        }
        for (name, copy) in changed {
            let node = self.arena.node_mut(id);
            for field in &mut node.fields {
                if *field.0 == *name {
                    field.1 = copy;
                }
            }
        }
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(DEFINITIONS)
}
