//! Which objects a list, watch or deletecollection is about. Pure.

use std::collections::BTreeMap;

use rules::select::{FieldSelector, LabelSelector};
use serde::Deserialize;
use serde_json::Value;

use crate::catalog::Resource;
use crate::object::{self, Stored};
use crate::query::Query;
use crate::status::{Answer, Failure};

/// A label and a field selector together.
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: Option<FieldSelector>,
}

/// What label selectors look at.
#[derive(Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    labels: Option<BTreeMap<String, String>>,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`; a field that can't be selected by is refused.
    pub(crate) fn parse(query: &Query, resource: &Resource) -> Answer<Self> {
        let refuse = |error: rules::select::SelectError| Failure::bad_request(error.to_string());
        let labels = match query.get("labelSelector") {
            Some(text) => LabelSelector::parse(text).map_err(refuse)?,
            None => LabelSelector::everything(),
        };
        let fields = match query.get("fieldSelector") {
            Some(text) => {
                let selector = FieldSelector::parse(text).map_err(refuse)?;
                let selectable: Vec<&str> =
                    resource.custom.iter().flat_map(|custom| custom.selectable.iter().map(String::as_str)).collect();
                selector.check(&resource.api_version, &resource.kind, &selectable).map_err(refuse)?;
                (!selector.is_everything()).then_some(selector)
            }
            None => None,
        };
        Ok(Self { labels, fields })
    }

    /// Whether it leaves nothing out.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_none()
    }

    /// Whether the object is meant.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        (self.labels.is_everything() || self.labels.matches_object(object))
            && self.fields.as_ref().is_none_or(|fields| fields.matches(object))
    }

    /// Whether a stored object is meant. No more of it is read than has to be.
    pub(crate) fn selects(&self, resource: &Resource, (key, bytes, revision): Stored<'_>) -> Answer<bool> {
        if self.is_everything() {
            return Ok(true);
        }
        if self.fields.is_some() {
            return Ok(self.matches(&object::read_at(resource, key, bytes, revision)?));
        }
        let labelled: Labelled = serde_json::from_slice(bytes)
            .map_err(|error| Failure::internal(format!("the stored object {key} can't be read: {error}")))?;
        Ok(self.labels.matches(&labelled.metadata.labels.unwrap_or_default()))
    }

    /// The only name that can match, when there is such a one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.as_ref().and_then(|fields| fields.exact("metadata.name"))
    }
}
