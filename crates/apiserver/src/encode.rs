//! From replies to responses: objects, Tables, metadata alone, Status, headers. No IO.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::call::{Call, Listed, Reply};
use crate::catalog::Resource;
use crate::negotiate::{self, Form};
use crate::status::{Answer, Failure};

const JSON: &str = "application/json";

/// How objects are shown to one client.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) form: Form,
    table_version: &'static str,
    include: Include,
    now: jiff::Timestamp,
}

#[derive(Clone, Copy)]
enum Include {
    None,
    Metadata,
    Object,
}

impl View {
    /// What the call's `Accept` and `includeObject` ask for.
    pub(crate) fn of(call: &Call) -> Answer<Self> {
        let accept = call.accept.as_deref();
        let form = negotiate::object(accept)
            .ok_or_else(|| Failure::not_acceptable("application/json, application/json;as=Table;g=meta.k8s.io;v=v1"))?;
        let include = match call.query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                let why = format!("Unsupported value: {other:?}: supported values: \"Metadata\", \"None\", \"Object\"");
                return Err(Failure::bad_option("TableOptions", "includeObject", &why));
            }
        };
        Ok(Self { form, table_version: negotiate::table_version(accept), include, now: call.now })
    }

    /// One object. `columns` says whether a Table is to name its columns (only the first of a watch does).
    pub(crate) fn object(&self, resource: &Resource, object: Value, columns: bool) -> Value {
        match self.form {
            Form::Object => object,
            Form::Metadata => partial(object),
            Form::Table => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let mut table = self.table(resource, vec![object], metadata);
                if !columns {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        }
    }

    fn list(&self, resource: &Resource, listed: Listed) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), listed.revision.to_string().into());
        if let Some(token) = listed.continue_token {
            metadata.insert("continue".into(), token.into());
        }
        if let Some(remaining) = listed.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        let metadata = Value::Object(metadata);
        match self.form {
            Form::Table => self.table(resource, listed.items, metadata),
            Form::Metadata => {
                let items: Vec<Value> = listed.items.into_iter().map(partial).collect();
                json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items })
            }
            Form::Object => list_of(resource, metadata, listed.items),
        }
    }

    fn table(&self, resource: &Resource, objects: Vec<Value>, metadata: Value) -> Value {
        let columns: Vec<Value> = resource
            .columns()
            .into_iter()
            .map(|column| {
                json!({ "name": column.name, "type": column.kind, "format": column.format, "description": column.description,
                    "priority": column.priority })
            })
            .collect();
        let rows: Vec<Value> = objects
            .into_iter()
            .map(|object| {
                let cells = resource.row(&object, self.now);
                let object = match self.include {
                    Include::None => Value::Null,
                    Include::Metadata => partial(object),
                    Include::Object => object,
                };
                json!({ "cells": cells, "object": object })
            })
            .collect();
        json!({ "kind": "Table", "apiVersion": self.table_version, "metadata": metadata, "columnDefinitions": columns, "rows": rows })
    }
}

/// A list object.
pub(crate) fn list_of(resource: &Resource, metadata: Value, items: Vec<Value>) -> Value {
    let items: Vec<Value> = items
        .into_iter()
        .map(|mut item| {
            // Upstream leaves them out in lists of built-in kinds; clients fill them in.
            if let (None, Some(map)) = (&resource.custom, item.as_object_mut()) {
                map.remove("apiVersion");
                map.remove("kind");
            }
            item
        })
        .collect();
    json!({ "kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": metadata, "items": items })
}

fn partial(mut object: Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"].take() })
}

/// The response to a call.
pub(crate) fn response(call: &Call, answer: Answer<Reply>) -> Response<Body> {
    let mut response = match answer.and_then(|reply| render(call, reply)) {
        Ok(response) => response,
        Err(failure) => refuse(&failure),
    };
    for text in &call.warnings {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn render(call: &Call, reply: Reply) -> Answer<Response<Body>> {
    Ok(match reply {
        Reply::Plain(code, value) => whole(code, JSON, value.to_string()),
        Reply::Object(code, resource, value) => {
            whole(code, JSON, View::of(call)?.object(&resource, value, true).to_string())
        }
        Reply::List(resource, listed) => whole(200, JSON, View::of(call)?.list(&resource, listed).to_string()),
        Reply::Text(code, text) => whole(code, "text/plain; charset=utf-8", text),
        Reply::Made { media, tag, body } => {
            let mut response = whole(200, media, body);
            if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&format!("\"{tag}\"")).ok()) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            response
        }
        Reply::Stream { media, body } => {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
            response
        }
    })
}

/// The response to a request that failed.
pub(crate) fn refuse(failure: &Failure) -> Response<Body> {
    let mut response = whole(failure.code, JSON, failure.to_value().to_string());
    if let Some(seconds) = failure.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if failure.code == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"coracle\""));
    }
    response
}

fn whole(code: u16, media: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let content = content.into();
    let mut response = Response::new(body::full(content));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
