//! OpenAPI documents: which there are, and each of them when somebody asks for it.
//!
//! Invariants: a document's address has a hash that changes with its definitions, so that clients may keep it; documents
//! are made when asked for, and only a bounded number is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::call::Reply;
use crate::catalog::Catalog;
use crate::status::{Answer, Failure};

/// How many documents are kept.
const KEPT: usize = 8;

/// The documents that were asked for last.
#[derive(Default)]
pub(crate) struct Documents {
    kept: Mutex<VecDeque<(String, Bytes)>>,
}

/// `/openapi/v3`
pub(crate) fn index(catalog: &Catalog) -> Reply {
    let mut paths = Map::new();
    for group in catalog.groups() {
        for version in &group.versions {
            let path = path(&group.name, version);
            let address = format!("/openapi/v3/{path}?hash={}", hash(catalog, &group.name, version));
            paths.insert(path, json!({ "serverRelativeURL": address }));
        }
    }
    Reply::Plain(200, json!({ "paths": paths }))
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn hash(catalog: &Catalog, group: &str, version: &str) -> String {
    let api_version = crate::catalog::api_version(group, version);
    let stamp = catalog.stamp(&api_version).unwrap_or_default();
    let digest = Sha256::new()
        .chain_update(env!("CARGO_PKG_VERSION"))
        .chain_update(resources::names::KUBERNETES_VERSION.2)
        .chain_update(&api_version)
        .chain_update(stamp.to_le_bytes())
        .finalize();
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

impl Documents {
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    pub(crate) fn group(&self, catalog: &Catalog, path: &str) -> Answer<Reply> {
        let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["api", version] => (String::new(), (*version).to_owned()),
            ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
            _ => return Err(Failure::no_such_path()),
        };
        if catalog.of_version(&group, &version).next().is_none() {
            return Err(Failure::no_such_path());
        }
        let hash = hash(catalog, &group, &version);
        let body = self.kept(&format!("{path} {hash}"), || document(catalog, &group, &version));
        Ok(Reply::Made { media: "application/json", tag: Some(hash), body })
    }

    fn kept(&self, key: &str, make: impl FnOnce() -> Value) -> Bytes {
        if let Some((_, body)) = self.kept.lock().iter().find(|(name, _)| name == key) {
            return body.clone();
        }
        let body = Bytes::from(make().to_string());
        let mut kept = self.kept.lock();
        kept.retain(|(name, _)| name != key);
        kept.push_back((key.to_owned(), body.clone()));
        while kept.len() > KEPT {
            kept.pop_front();
        }
        body
    }

    /// `/openapi/v2`
    pub(crate) fn v2(&self, _: &Catalog, _: Option<&str>) -> Answer<Reply> {
        Err(Failure::no_such_path())
    }
}

fn document(catalog: &Catalog, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for resource in catalog.of_version(group, version) {
        let base = path(group, version);
        let place = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        paths.insert(format!("/{base}/{place}{}/{{name}}", resource.plural), json!({ "patch": {
            "parameters": [{ "in": "query", "name": "fieldValidation", "schema": { "type": "string" } }],
            "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": resource.kind } } }));
    }
    json!({ "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.33.0" }, "paths": paths, "components": { "schemas": {} } })
}
