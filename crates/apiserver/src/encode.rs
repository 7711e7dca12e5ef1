//! From replies to responses: objects, Tables, metadata alone, Status, headers. No IO.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::call::{Call, Listed, Reply};
use crate::catalog::Resource;
use crate::negotiate::{self, Form};
use crate::object::{self, Stored};
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

    /// One object. `named` says whether a Table is to name its columns (only the first of a watch does).
    pub(crate) fn object(&self, resource: &Resource, object: Value, named: bool) -> Value {
        match self.form {
            Form::Object => object,
            Form::Metadata => partial(object),
            Form::Table => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let columns = if named { columns(resource) } else { Value::Null };
                let rows = [self.row(resource, object)];
                json!({ "kind": "Table", "apiVersion": self.table_version, "metadata": metadata, "columnDefinitions": columns, "rows": rows })
            }
        }
    }

    /// Appends one stored object, as [`View::object`] would show it.
    pub(crate) fn write(&self, out: &mut Vec<u8>, resource: &Resource, stored: Stored<'_>, named: bool) -> Answer<()> {
        match self.form {
            Form::Object => object::write(out, resource, stored, false),
            Form::Metadata => write_partial(out, resource, stored),
            Form::Table => {
                let (key, bytes, revision) = stored;
                object::append(out, &self.object(resource, object::read_at(resource, key, bytes, revision)?, named))
            }
        }
    }

    /// A list, written object by object, so that at most one of them is in memory as a tree.
    fn list(&self, resource: &Resource, listed: Listed) -> Answer<Vec<u8>> {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), listed.revision.to_string().into());
        if let Some(token) = listed.continue_token {
            metadata.insert("continue".into(), token.into());
        }
        if let Some(remaining) = listed.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        let metadata = Value::Object(metadata);
        let (api_version, kind, field) = match self.form {
            Form::Object => (resource.api_version.as_str(), resource.list_kind.as_str(), "items"),
            Form::Metadata => ("meta.k8s.io/v1", "PartialObjectMetadataList", "items"),
            Form::Table => (self.table_version, "Table", "rows"),
        };
        let size = listed.items.iter().map(|entry| entry.value.len() + 64).sum();
        let mut out = Vec::with_capacity(size);
        let head = format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata}", json!(kind), json!(api_version));
        out.extend_from_slice(head.as_bytes());
        if self.form == Form::Table {
            out.extend_from_slice(format!(",\"columnDefinitions\":{}", columns(resource)).as_bytes());
        }
        out.extend_from_slice(format!(",\"{field}\":[").as_bytes());
        for (index, entry) in listed.items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.item(&mut out, resource, object::of(entry))?;
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    fn item(&self, out: &mut Vec<u8>, resource: &Resource, stored: Stored<'_>) -> Answer<()> {
        match self.form {
            // Upstream leaves the type out in lists of built-in kinds; clients fill it in.
            Form::Object => object::write(out, resource, stored, resource.custom.is_none()),
            Form::Metadata => write_partial(out, resource, stored),
            Form::Table => self.write_row(out, resource, stored),
        }
    }

    /// A row, read once for its cells; what it shows of the object is copied.
    fn write_row(&self, out: &mut Vec<u8>, resource: &Resource, stored: Stored<'_>) -> Answer<()> {
        let (key, bytes, revision) = stored;
        let cells = resource.row(&object::read_at(resource, key, bytes, revision)?, self.now);
        out.extend_from_slice(b"{\"cells\":");
        object::append(out, &Value::Array(cells))?;
        out.extend_from_slice(b",\"object\":");
        match self.include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => write_partial(out, resource, stored)?,
            Include::Object => object::write(out, resource, stored, false)?,
        }
        out.push(b'}');
        Ok(())
    }

    fn row(&self, resource: &Resource, object: Value) -> Value {
        let cells = resource.row(&object, self.now);
        let object = match self.include {
            Include::None => Value::Null,
            Include::Metadata => partial(object),
            Include::Object => object,
        };
        json!({ "cells": cells, "object": object })
    }
}

fn columns(resource: &Resource) -> Value {
    let describe = |column: rules::table::Column| {
        json!({ "name": column.name, "type": column.kind, "format": column.format, "description": column.description,
            "priority": column.priority })
    };
    resource.columns().into_iter().map(describe).collect()
}

fn write_partial(out: &mut Vec<u8>, resource: &Resource, stored: Stored<'_>) -> Answer<()> {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    object::write_metadata(out, resource, stored)?;
    out.push(b'}');
    Ok(())
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
        Reply::Stored(resource, entry) => {
            let mut out = Vec::with_capacity(entry.value.len() + 64);
            View::of(call)?.write(&mut out, &resource, object::of(&entry), true)?;
            whole(200, JSON, out)
        }
        Reply::List(resource, listed) => whole(200, JSON, View::of(call)?.list(&resource, listed)?),
        Reply::Text(code, text) => whole(code, "text/plain; charset=utf-8", text),
        Reply::Made { media, tag, body } => {
            let mut response = whole(200, media, body);
            if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&format!("\"{tag}\"")).ok()) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            response
        }
        Reply::Switch(headers) => {
            let mut response = Response::new(body::full(Bytes::new()));
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in headers {
                let value = HeaderValue::from_str(&value).map_err(|error| Failure::internal(error.to_string()))?;
                response.headers_mut().insert(name, value);
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
