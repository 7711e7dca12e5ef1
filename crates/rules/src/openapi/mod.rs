//! OpenAPI documents: what kubectl validates and explains with, and what Terraform plans with.
//!
//! Documents are made when asked for and not kept: descriptions are by far the largest part of the schemas.
//!
//! Invariants: every `$ref` of a document resolves inside it; every served resource has its operations, its kind as
//! `x-kubernetes-group-version-kind`, and a patch operation that names `fieldValidation`. Must not know how documents are
//! cached or served.

mod components;
mod paths;

use serde_json::{Map, Value, json};

/// What a document says about one resource in one version.
#[derive(Clone, Copy, Debug)]
pub struct OpenApiResource<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// API version without the group.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Kind of lists.
    pub list_kind: &'a str,
    /// Name in paths.
    pub plural: &'a str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Whether there is a `scale` subresource.
    pub scale: bool,
    /// Whether only create is served (reviews).
    pub create_only: bool,
    /// Name of the component, e.g. `io.k8s.api.apps.v1.Deployment` or `com.example.v1.Widget`.
    pub schema_name: &'a str,
    /// A custom resource's `openAPIV3Schema`; `None` for built-ins. `Null` publishes a schema that allows everything.
    pub custom: Option<&'a Value>,
}

impl OpenApiResource<'_> {
    fn group_version_kind(&self) -> Value {
        json!({"group": self.group, "kind": self.kind, "version": self.version})
    }

    fn list_schema_name(&self) -> String {
        match self.schema_name.strip_suffix(self.kind) {
            Some(prefix) => format!("{prefix}{}", self.list_kind),
            None => format!("{}List", self.schema_name),
        }
    }
}

/// The two published versions of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{prefix}{name}")})
    }
}

/// The document of one group version (`apps/v1`, `v1`) for `/openapi/v3/...`.
pub fn v3_document(group_version: &str, resources: &[OpenApiResource<'_>]) -> Value {
    let schemas = components::all(resources, Dialect::V3);
    let mut paths = Map::new();
    for resource in resources {
        paths::add(resource, Dialect::V3, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": title_version(group_version)},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": security()},
        },
    })
}

/// The document of all resources for `/openapi/v2`.
pub fn v2_document(resources: &[OpenApiResource<'_>]) -> Value {
    let definitions = components::all(resources, Dialect::V2);
    let mut paths = Map::new();
    for resource in resources {
        paths::add(resource, Dialect::V2, &mut paths);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": security()},
        "security": [{"BearerToken": []}],
    })
}

fn title_version(group_version: &str) -> &str {
    group_version.rsplit('/').next().unwrap_or(group_version)
}

fn security() -> Value {
    json!({
        "description": "Bearer Token authentication",
        "in": "header",
        "name": "authorization",
        "type": "apiKey",
    })
}

#[cfg(test)]
mod tests;
