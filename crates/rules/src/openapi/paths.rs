//! The operations of a document.
//!
//! Invariant: an operation carries its verb as `x-kubernetes-action` and its kind as `x-kubernetes-group-version-kind`.

use serde_json::{Map, Value, json};

use super::components::{DELETE_OPTIONS, PATCH, SCALE, STATUS};
use super::{Dialect, OpenApiResource};

/// Formats a patch may have; strategic merge patches exist for built-in kinds only.
const PATCH_FORMATS: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Adds the paths of one resource.
pub(super) fn add(resource: &OpenApiResource<'_>, dialect: Dialect, paths: &mut Map<String, Value>) {
    let base = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let plural = resource.plural;
    let everywhere = format!("{base}/{plural}");
    let collection =
        if resource.namespaced { format!("{base}/namespaces/{{namespace}}/{plural}") } else { everywhere.clone() };
    let builder = Builder { resource, dialect };
    if resource.create_only {
        paths.insert(collection, builder.item(&[("post", "post")], false, resource.namespaced));
        return;
    }
    if resource.namespaced {
        paths.insert(everywhere, builder.item(&[("get", "list")], false, false));
    }
    let many = [("get", "list"), ("post", "post"), ("delete", "deletecollection")];
    paths.insert(collection.clone(), builder.item(&many, false, resource.namespaced));
    let one = [("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")];
    let named = format!("{collection}/{{name}}");
    paths.insert(named.clone(), builder.item(&one, true, resource.namespaced));
    let part = &one[..3];
    if resource.status {
        paths.insert(format!("{named}/status"), builder.item(part, true, resource.namespaced));
    }
    if resource.scale {
        paths.insert(format!("{named}/scale"), builder.scale(part));
    }
}

struct Builder<'a> {
    resource: &'a OpenApiResource<'a>,
    dialect: Dialect,
}

impl Builder<'_> {
    /// One path with its operations, each a method and an action.
    fn item(&self, operations: &[(&str, &str)], named: bool, namespaced: bool) -> Value {
        let kind = self.resource.group_version_kind();
        self.path(operations, named, namespaced, &kind, self.resource.schema_name)
    }

    fn scale(&self, operations: &[(&str, &str)]) -> Value {
        let kind = json!({"group": "autoscaling", "kind": "Scale", "version": "v1"});
        self.path(operations, true, self.resource.namespaced, &kind, SCALE)
    }

    fn path(&self, operations: &[(&str, &str)], named: bool, namespaced: bool, kind: &Value, schema: &str) -> Value {
        let mut item = Map::new();
        for (method, action) in operations {
            item.insert((*method).to_owned(), self.operation(action, kind, schema));
        }
        let mut parameters = Vec::new();
        if named {
            let text = format!("name of the {}", self.resource.kind);
            parameters.push(self.parameter("name", "path", "string", &text, true));
        }
        if namespaced {
            let text = "object name and auth scope, such as for teams and projects";
            parameters.push(self.parameter("namespace", "path", "string", text, true));
        }
        let text = "If 'true', then the output is pretty printed.";
        parameters.push(self.parameter("pretty", "query", "string", text, false));
        item.insert("parameters".to_owned(), parameters.into());
        Value::Object(item)
    }

    fn operation(&self, action: &str, kind: &Value, schema: &str) -> Value {
        let mut operation = json!({
            "description": self.describe(action),
            "tags": [self.tag()],
            "operationId": self.operation_id(action, kind),
            "responses": self.responses(action, schema),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
        });
        let mut parameters = self.parameters(action);
        let body = match action {
            "post" | "put" => Some((schema, vec!["application/json"], true)),
            "patch" => Some((PATCH, self.patch_formats(), true)),
            "delete" | "deletecollection" => Some((DELETE_OPTIONS, vec!["application/json"], false)),
            _ => None,
        };
        if let Some((schema, formats, required)) = body {
            let reference = self.dialect.reference(schema);
            match self.dialect {
                Dialect::V3 => {
                    let content: Map<String, Value> =
                        formats.iter().map(|f| ((*f).to_owned(), json!({"schema": reference}))).collect();
                    operation["requestBody"] = json!({"content": content, "required": required});
                }
                Dialect::V2 => {
                    operation["consumes"] = json!(formats);
                    parameters.push(json!({
                        "name": "body", "in": "body", "required": required, "schema": reference,
                    }));
                }
            }
        }
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(["application/json"]);
            operation["schemes"] = json!(["https"]);
        }
        operation["parameters"] = parameters.into();
        operation
    }

    fn patch_formats(&self) -> Vec<&'static str> {
        let mut formats = PATCH_FORMATS.to_vec();
        if self.resource.custom.is_none() {
            formats.push(STRATEGIC);
        }
        formats
    }

    fn responses(&self, action: &str, schema: &str) -> Value {
        let list = self.resource.list_schema_name();
        let name = match action {
            "list" => list.as_str(),
            "delete" | "deletecollection" => STATUS,
            _ => schema,
        };
        let schema = self.dialect.reference(name);
        let ok = match self.dialect {
            Dialect::V3 => {
                json!({"description": "OK", "content": {"application/json": {"schema": schema}}})
            }
            Dialect::V2 => json!({"description": "OK", "schema": schema}),
        };
        let mut responses = json!({"200": ok, "401": {"description": "Unauthorized"}});
        if matches!(action, "post" | "put" | "patch") {
            let mut created = ok;
            created["description"] = json!("Created");
            responses["201"] = created;
        }
        responses
    }

    fn parameters(&self, action: &str) -> Vec<Value> {
        const DRY_RUN: (&str, &str, &str) = (
            "dryRun",
            "string",
            "When present, indicates that modifications should not be persisted. Valid values are: - All",
        );
        const MANAGER: (&str, &str, &str) = (
            "fieldManager",
            "string",
            "fieldManager is a name associated with the actor or entity that is making these changes.",
        );
        const VALIDATION: (&str, &str, &str) = (
            "fieldValidation",
            "string",
            "fieldValidation instructs the server on how to handle unknown or duplicate fields: Ignore, Warn or Strict.",
        );
        const FORCE: (&str, &str, &str) =
            ("force", "boolean", "Force is going to \"force\" Apply requests: conflicting fields are taken over.");
        const LIST: &[(&str, &str, &str)] = &[
            ("allowWatchBookmarks", "boolean", "Ask for events of type BOOKMARK."),
            ("continue", "string", "Continue a list where the last answer ended."),
            ("fieldSelector", "string", "Restrict the list by the objects' fields."),
            ("labelSelector", "string", "Restrict the list by the objects' labels."),
            ("limit", "integer", "The maximum number of answers of a list."),
            ("resourceVersion", "string", "Constrains what resource versions a request may be served from."),
            ("resourceVersionMatch", "string", "How resourceVersion is applied to list calls."),
            ("sendInitialEvents", "boolean", "Begin a watch with the state as events."),
            ("timeoutSeconds", "integer", "Timeout for the list or watch call."),
            ("watch", "boolean", "Watch for changes to the described resources."),
        ];
        const DELETE: &[(&str, &str, &str)] = &[
            DRY_RUN,
            ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
            ("orphanDependents", "boolean", "Deprecated: please use propagationPolicy."),
            ("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
        ];
        let chosen: &[(&str, &str, &str)] = match action {
            "list" => LIST,
            "post" | "put" => &[DRY_RUN, MANAGER, VALIDATION],
            "patch" => &[DRY_RUN, MANAGER, VALIDATION, FORCE],
            "delete" | "deletecollection" => DELETE,
            _ => &[],
        };
        chosen.iter().map(|(name, kind, text)| self.parameter(name, "query", kind, text, false)).collect()
    }

    fn parameter(&self, name: &str, place: &str, kind: &str, text: &str, required: bool) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": text});
        if required {
            parameter["required"] = json!(true);
        }
        match self.dialect {
            Dialect::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
            Dialect::V2 => {
                parameter["type"] = json!(kind);
                parameter["uniqueItems"] = json!(true);
            }
        }
        parameter
    }

    fn describe(&self, action: &str) -> String {
        let kind = self.resource.kind;
        match action {
            "list" => format!("list or watch objects of kind {kind}"),
            "post" => format!("create a {kind}"),
            "get" => format!("read the specified {kind}"),
            "put" => format!("replace the specified {kind}"),
            "patch" => format!("partially update the specified {kind}"),
            "delete" => format!("delete a {kind}"),
            _ => format!("delete collection of {kind}"),
        }
    }

    fn tag(&self) -> String {
        let group = self.resource.group.split('.').next().filter(|g| !g.is_empty());
        format!("{}_{}", group.unwrap_or("core"), self.resource.version)
    }

    fn operation_id(&self, action: &str, kind: &Value) -> String {
        let what = kind["kind"].as_str().unwrap_or_default();
        let scale = if what == self.resource.kind { "" } else { what };
        let tag = self.tag();
        format!("{action}_{tag}_{}{scale}", self.resource.kind)
    }
}
