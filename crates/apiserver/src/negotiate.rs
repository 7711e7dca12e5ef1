//! Which form of answer a client wants, from its `Accept` header. Pure.

/// A form this server can answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object or list itself.
    Object,
    /// A `meta.k8s.io/v1` Table.
    Table,
    /// Only metadata.
    Metadata,
}

/// Aggregated discovery versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discovery {
    V2,
    V2Beta1,
    Legacy,
}

struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*" | "")
    }
}

/// The clauses of an Accept header, by falling quality.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<(f32, Clause<'_>)> = accept
        .split(',')
        .take(32)
        .map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let media = pieces.next().unwrap_or_default();
            let params: Vec<_> = pieces.filter_map(|piece| piece.split_once('=')).collect();
            let quality =
                params.iter().find(|(key, _)| *key == "q").and_then(|(_, value)| value.parse().ok()).unwrap_or(1.0);
            (quality, Clause { media, params })
        })
        .collect();
    all.sort_by(|left, right| right.0.total_cmp(&left.0));
    all.into_iter().filter(|(quality, _)| *quality > 0.0).map(|(_, clause)| clause).collect()
}

/// The form for objects and lists; `None` when nothing the client takes can be had. Protobuf is never answered: a
/// client that takes it alone gets 406, and every Kubernetes client takes JSON too.
pub(crate) fn object(accept: Option<&str>) -> Option<Form> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else { return Some(Form::Object) };
    clauses(accept).iter().filter(|clause| clause.is_json()).find_map(|clause| match clause.get("as") {
        None => Some(Form::Object),
        Some(_) if clause.get("g") != Some("meta.k8s.io") => None,
        Some("Table") if matches!(clause.get("v"), Some("v1" | "v1beta1")) => Some(Form::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if clause.get("v") == Some("v1") => {
            Some(Form::Metadata)
        }
        Some(_) => None,
    })
}

/// The version of a Table that was asked for.
pub(crate) fn table_version(accept: Option<&str>) -> &'static str {
    let table = accept.map(clauses).unwrap_or_default();
    match table.iter().find(|clause| clause.get("as") == Some("Table")).and_then(|clause| clause.get("v")) {
        Some("v1beta1") => "meta.k8s.io/v1beta1",
        _ => "meta.k8s.io/v1",
    }
}

/// The form for `/api` and `/apis`.
pub(crate) fn discovery(accept: Option<&str>) -> Discovery {
    let Some(accept) = accept else { return Discovery::Legacy };
    clauses(accept)
        .iter()
        .filter(|clause| clause.is_json())
        .find_map(|clause| match (clause.get("as"), clause.get("g"), clause.get("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Some(Discovery::V2),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => Some(Discovery::V2Beta1),
            (Some(_), ..) => None,
            (None, ..) => Some(Discovery::Legacy),
        })
        .unwrap_or(Discovery::Legacy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, form) in [
            (None, Some(Form::Object)),
            (Some(""), Some(Form::Object)),
            (Some("*/*"), Some(Form::Object)),
            (Some("application/json"), Some(Form::Object)),
            (Some(table), Some(Form::Table)),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Object)),
            (Some("application/vnd.kubernetes.protobuf"), None),
            (Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Some(Form::Metadata)),
            (Some("application/json;as=Table;v=v9;g=meta.k8s.io, application/json;q=0.5"), Some(Form::Object)),
            (Some("application/json;q=0.1, application/json;as=Table;v=v1;g=meta.k8s.io"), Some(Form::Table)),
            (Some("text/html"), None),
        ] {
            assert_eq!(object(accept), form, "{accept:?}");
        }
        assert_eq!(table_version(Some("application/json;as=Table;v=v1beta1;g=meta.k8s.io")), "meta.k8s.io/v1beta1");
        assert_eq!(table_version(Some(table)), "meta.k8s.io/v1");
    }

    #[test]
    fn discovery_forms() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        for (accept, form) in [
            (None, Discovery::Legacy),
            (Some("application/json"), Discovery::Legacy),
            (Some(kubectl), Discovery::V2),
            (Some("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"), Discovery::V2Beta1),
        ] {
            assert_eq!(discovery(accept), form, "{accept:?}");
        }
    }
}
