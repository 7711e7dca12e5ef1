//! Installs Gateway API's definitions, those of our own kinds, and the GatewayClass through the API, as anyone else would.
//!
//! Invariants: nothing is written where what is there already says the same, so a second start costs only reads; a newer
//! release of Gateway API is never replaced by this one.

use std::time::Duration;

use futures::future;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Resource, ResourceExt};
use resources::gateway::gatewayclasses::GatewayClass;
use resources::names::{EGRESS_PORT, EGRESS_SERVICE};
use serde_json::Value;

use crate::crds::{self, BUNDLE_VERSION, BUNDLE_VERSION_ANNOTATION};
use crate::error::InstallError;
use crate::own_service;

/// The name under which the fields are owned.
const MANAGER: &str = "coracle";
/// How long a definition may take until it is served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// Installs the definitions of Gateway API's standard channel, those of our own kinds and the GatewayClass `coracle`, and waits until the kinds are
/// served. Costs only reads where all is there already.
///
/// # Errors
///
/// Names the object that could not be read or written, or the definition that did not come to be served.
pub async fn install(client: Client) -> Result<(), InstallError> {
    let definitions: Vec<_> = crds::crds().into_iter().chain(crds::own_crds()).collect();
    let foreign = crds::foreign_crds();
    let ours = future::try_join_all(definitions.iter().map(|crd| install_definition(&client, crd)));
    let theirs = future::try_join_all(foreign.iter().map(|crd| install_where_absent(&client, crd)));
    future::try_join(ours, theirs).await?;
    ensure::<GatewayClass>(&client, "GatewayClass", &crate::class::gateway_class()).await?;
    let ports = serde_json::json!([{"name": "http-proxy", "port": EGRESS_PORT, "targetPort": EGRESS_PORT}]);
    own_service::ensure(client, EGRESS_SERVICE, &ports, None).await?;
    Ok(())
}

/// Installs a definition of somebody else's, unless it is there: whoever the kind belongs to knows it better.
async fn install_where_absent(client: &Client, crd: &CustomResourceDefinition) -> Result<(), InstallError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = crd.name_any();
    let there = api.get_metadata_opt(&name).await.map_err(|source| InstallError::Request {
        verb: "get",
        kind: "CustomResourceDefinition",
        name,
        source: Box::new(source),
    })?;
    if there.is_none() { install_definition(client, crd).await } else { Ok(()) }
}

async fn install_definition(client: &Client, crd: &CustomResourceDefinition) -> Result<(), InstallError> {
    let live = ensure(client, "CustomResourceDefinition", crd).await?;
    if established(&live) {
        return Ok(());
    }
    let name = crd.name_any();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let wait = await_condition(api, &name, conditions::is_crd_established());
    let reason = match tokio::time::timeout(ESTABLISHED_WITHIN, wait).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the API server has not reported it as such".to_owned(),
    };
    Err(InstallError::NotEstablished { name, limit: ESTABLISHED_WITHIN, reason })
}

/// Brings a cluster-scoped object to what is wanted, and returns it as it is then.
async fn ensure<K>(client: &Client, kind: &'static str, wanted: &K) -> Result<DynamicObject, InstallError>
where
    K: Resource<DynamicType = ()> + serde::Serialize,
{
    let name = wanted.meta().name.clone().unwrap_or_default();
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let failed = |verb, source| InstallError::Request { verb, kind, name: name.clone(), source: Box::new(source) };
    let mut wanted =
        serde_json::to_value(wanted).map_err(|source| InstallError::Encode { name: name.clone(), source })?;
    strip_nulls(&mut wanted);
    if let Some(live) = api.get_opt(&name).await.map_err(|source| failed("get", source))? {
        let is = serde_json::to_value(&live).map_err(|source| InstallError::Encode { name: name.clone(), source })?;
        if contains(&is, &wanted) || newer(&live) {
            return Ok(live);
        }
    }
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&wanted)).await.map_err(|source| failed("apply", source))
}

fn established(crd: &DynamicObject) -> bool {
    let conditions = crd.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

/// Whether somebody has installed a later release of Gateway API than ours.
fn newer(live: &DynamicObject) -> bool {
    let ours = version(BUNDLE_VERSION);
    live.annotations().get(BUNDLE_VERSION_ANNOTATION).is_some_and(|theirs| version(theirs) > ours)
}

/// `v1.5.1` as numbers; what follows a `-` is left out.
fn version(text: &str) -> Vec<u32> {
    let release = text.trim_start_matches('v').split('-').next().unwrap_or_default();
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Whether all that `wanted` says is so in `is`, which may say more.
fn contains(is: &Value, wanted: &Value) -> bool {
    match (is, wanted) {
        (Value::Object(is), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| is.get(key).is_some_and(|is| contains(is, value)))
        }
        (Value::Array(is), Value::Array(wanted)) => {
            is.len() == wanted.len() && is.iter().zip(wanted).all(|(is, wanted)| contains(is, wanted))
        }
        (Value::Number(is), Value::Number(wanted)) => is == wanted || is.as_f64() == wanted.as_f64(),
        _ => is == wanted,
    }
}

/// A `null` means absent. An apply would otherwise say that it wants the field to be gone.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_api_adds_is_no_difference() {
        let wanted = json!({"spec": {"names": {"kind": "Gateway"}, "versions": [{"name": "v1", "minimum": 1.0}]}});
        for (is, same) in [
            (
                json!({"spec": {"names": {"kind": "Gateway", "singular": "gateway"}, "versions": [{"name": "v1", "minimum": 1}], "conversion": {"strategy": "None"}}, "status": {}}),
                true,
            ),
            (json!({"spec": {"names": {"kind": "Gate"}, "versions": [{"name": "v1", "minimum": 1}]}}), false),
            (json!({"spec": {"names": {"kind": "Gateway"}, "versions": []}}), false),
            (json!({"spec": {"names": {"kind": "Gateway"}}}), false),
        ] {
            assert_eq!(contains(&is, &wanted), same, "{is}");
        }
    }

    #[test]
    fn later_releases_are_told_from_earlier_ones() {
        for (theirs, later) in [
            ("v1.5.1", false),
            ("v1.5.0", false),
            ("v1.4.9", false),
            ("v1.6.0-rc.1", true),
            ("v1.5.2", true),
            ("v2.0", true),
            ("?", false),
        ] {
            assert_eq!(version(theirs) > version(BUNDLE_VERSION), later, "{theirs}");
        }
    }
}
