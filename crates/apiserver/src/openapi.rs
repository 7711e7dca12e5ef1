//! OpenAPI documents: which there are, and each of them when somebody asks for it.
//!
//! Invariants: a document's address has a hash that changes with its definitions, so that clients may keep it; documents
//! are made when asked for, and only a bounded number is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use rules::openapi::{OpenApiResource, v2_document, v3_document};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::call::Reply;
use crate::catalog::{Catalog, Resource};
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
    pub(crate) fn v2(&self, catalog: &Catalog, accept: Option<&str>) -> Answer<Reply> {
        let accepts = |media: &str| accept.is_none_or(|accept| accept.is_empty() || accept.contains(media));
        if accepts("application/json") || accepts("*/*") {
            // It is as large as all others together and asked for by few, so it is not kept.
            let resources: Vec<OpenApiResource<'_>> =
                catalog.resources().iter().map(|resource| described(resource)).collect();
            let body = v2_document(&resources).to_string().into();
            return Ok(Reply::Made { media: "application/json", tag: None, body });
        }
        if accepts(V2_PROTOBUF) {
            return Ok(Reply::Made { media: V2_PROTOBUF_ANSWER, tag: None, body: Bytes::from_static(V2_EMPTY) });
        }
        Err(Failure::not_acceptable("application/json"))
    }
}

/// What kubectl asks for `/openapi/v2` in.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The same as a media type that is well-formed; upstream answers with this one, too.
const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A document of that type without paths and definitions: `swagger` (field 1) and `info` (field 2) with `title` and
/// `version`. kubectl looks there for kinds that the newer documents do not have, and takes what it does not find for
/// unknown; without an answer it would not even get as far as to say that there is no such kind.
const V2_EMPTY: &[u8] = b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.33.0";

fn document(catalog: &Catalog, group: &str, version: &str) -> Value {
    let resources: Vec<OpenApiResource<'_>> =
        catalog.of_version(group, version).map(|resource| described(resource)).collect();
    v3_document(&crate::catalog::api_version(group, version), &resources)
}

fn described(resource: &Resource) -> OpenApiResource<'_> {
    OpenApiResource {
        group: &resource.group,
        version: &resource.version,
        kind: &resource.kind,
        list_kind: &resource.list_kind,
        plural: &resource.plural,
        namespaced: resource.namespaced,
        status: resource.status,
        scale: resource.scale.is_some(),
        create_only: resource.review,
        schema_name: &resource.schema_name,
        custom: resource.custom.as_ref().map(|custom| &custom.open_api),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_index_leads_to_a_document() {
        let catalog = Catalog::new(&Catalog::builtins(), &[]);
        let documents = Documents::default();
        let Reply::Plain(200, index) = index(&catalog) else { panic!("an index") };
        let paths = index["paths"].as_object().expect("paths");
        assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
        for path in paths.keys() {
            let Ok(Reply::Made { body, tag, .. }) = documents.group(&catalog, path) else { panic!("{path}") };
            let document: Value = serde_json::from_slice(&body).expect("JSON");
            assert!(document["paths"].as_object().is_some_and(|paths| !paths.is_empty()), "{path}");
            let address = paths[path]["serverRelativeURL"].as_str().unwrap_or_default();
            assert!(address.ends_with(&tag.expect("a tag")), "{address}");
        }
        assert!(documents.kept.lock().len() <= KEPT);
        assert!(documents.group(&catalog, "apis/none/v1").is_err());
    }
}
