//! What is decided about a write beyond the object itself: a list of functions, tried in order.
//!
//! Each may change the object or refuse it. They run after defaulting and before validation, for creations and updates.

use resources::names::{ISOLATED_RUNTIME, PLAIN_RUNTIME};
use rules::field::FieldError;
use serde_json::Value;

use crate::addresses::Reservation;
use crate::call::Call;
use crate::catalog::Resource;
use crate::object;
use crate::server::Server;
use crate::status::{Answer, Failure};

/// A write that is to be admitted.
pub(crate) struct Write<'a> {
    pub(crate) server: &'a Server,
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: Option<&'a str>,
    /// What there is now; `None` for a creation.
    pub(crate) old: Option<&'a Value>,
}

type Step = fn(&Write<'_>, &mut Call, &mut Value) -> Answer<()>;

/// The decisions, in order.
const STEPS: &[Step] = &[
    namespace_lifecycle,
    definition_lifecycle,
    service_account,
    runtime_class,
    not_acted_on,
    crate::definitions::admit,
    crate::policy::admit,
    crate::grants::admit,
    crate::protection::carry,
];

/// Runs every decision. What is reserved for the object is returned, to be kept once the object is stored.
pub(crate) fn admit(write: &Write<'_>, call: &mut Call, object: &mut Value) -> Answer<Option<Reservation>> {
    for step in STEPS {
        step(write, call, object)?;
    }
    service_addresses(write, object)
}

/// Nothing is made in a namespace that is not there or is going away.
fn namespace_lifecycle(write: &Write<'_>, _: &mut Call, object: &mut Value) -> Answer<()> {
    let (None, true, Some(namespace)) = (write.old, write.resource.namespaced, write.namespace) else { return Ok(()) };
    let catalog = write.server.catalog.load();
    let namespaces = catalog.core("namespaces");
    let Some(entry) = write.server.store.get(&namespaces.key(None, namespace)).0 else {
        return Err(Failure::not_found(namespaces, namespace));
    };
    let found = object::read(namespaces, &entry)?;
    if object::is_terminating(&found) {
        return Err(Failure::namespace_terminating(write.resource, object::name(object), namespace));
    }
    Ok(())
}

/// Nothing is made of a kind whose definition is going away.
fn definition_lifecycle(write: &Write<'_>, _: &mut Call, object: &mut Value) -> Answer<()> {
    match &write.resource.custom {
        Some(custom) if custom.terminating && write.old.is_none() => {
            let why = "create not allowed while custom resource definition is terminating";
            Err(Failure::new(
                405,
                "MethodNotAllowed",
                format!("{} \"{}\": {why}", write.resource.qualified(), object::name(object)),
            ))
        }
        _ => Ok(()),
    }
}

/// A Pod runs as a service account; one that is named must exist.
fn service_account(write: &Write<'_>, _: &mut Call, object: &mut Value) -> Answer<()> {
    if !write.resource.is("", "pods") || write.old.is_some() {
        return Ok(());
    }
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return Ok(());
    }
    let name = spec["serviceAccountName"].as_str().or_else(|| spec["serviceAccount"].as_str()).unwrap_or_default();
    let name = if name.is_empty() { "default" } else { name }.to_owned();
    spec["serviceAccountName"] = name.as_str().into();
    spec["serviceAccount"] = name.as_str().into();
    // The default account of a new namespace may be a moment away; nothing is mounted from it, so nobody waits for it.
    let namespace = write.namespace.unwrap_or_default();
    if name != "default" && write.server.account_uid(namespace, &name).is_none() {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
        return Err(Failure::forbidden(write.resource, object::name(object), &why));
    }
    Ok(())
}

/// The class that a Pod is to run by must exist; those of every node need no object. Neither overhead nor scheduling is taken over.
fn runtime_class(write: &Write<'_>, _: &mut Call, object: &mut Value) -> Answer<()> {
    if !write.resource.is("", "pods") || write.old.is_some() {
        return Ok(());
    }
    let class = object["spec"]["runtimeClassName"].as_str().unwrap_or_default();
    if ["", ISOLATED_RUNTIME, PLAIN_RUNTIME].contains(&class) {
        return Ok(());
    }
    let catalog = write.server.catalog.load();
    let classes = catalog.get("node.k8s.io", "v1", "runtimeclasses");
    if classes.is_some_and(|classes| write.server.store.get(&classes.key(None, class)).0.is_some()) {
        return Ok(());
    }
    let why = format!(
        "pod rejected: RuntimeClass \"{class}\" not found; name {ISOLATED_RUNTIME} (a network of its own) or {PLAIN_RUNTIME} (plain \
         processes), leave it out, or make a RuntimeClass whose handler is one of these"
    );
    Err(Failure::forbidden(write.resource, object::name(object), &why))
}

/// Says so when nothing will come of an object.
fn not_acted_on(write: &Write<'_>, call: &mut Call, _: &mut Value) -> Answer<()> {
    if let Some(deprecation) = write.resource.custom.as_ref().and_then(|custom| custom.deprecation.as_deref()) {
        call.warn(deprecation);
    }
    if write.old.is_none() && !write.resource.acted_on && write.resource.custom.is_none() {
        call.warn(format!("{} is stored but nothing acts on it yet in this version", write.resource.kind));
    }
    Ok(())
}

/// Services get their ClusterIP and node ports.
fn service_addresses(write: &Write<'_>, object: &mut Value) -> Answer<Option<Reservation>> {
    if !write.resource.is("", "services") {
        return Ok(None);
    }
    if let Some(old) = write.old {
        carry_addresses(old, object);
    }
    let key = write.resource.key(write.namespace, object::name(object));
    let refuse = |errors: Vec<FieldError>| {
        Failure::invalid(write.resource, object["metadata"]["name"].as_str().unwrap_or_default(), &errors)
    };
    let mut assigned = object.clone();
    let reservation = write.server.addresses.assign(&key, &mut assigned).map_err(refuse)?;
    *object = assigned;
    Ok(Some(reservation))
}

/// A Service that does not name its addresses in an update keeps them, as long as its type has any.
fn carry_addresses(old: &Value, new: &mut Value) {
    let kind = |service: &Value| service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let (before, after) = (kind(old), kind(new));
    if after == "ExternalName" {
        if before != "ExternalName"
            && new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
            && let Some(spec) = new["spec"].as_object_mut()
        {
            spec.retain(|name, _| {
                !matches!(name.as_str(), "clusterIP" | "clusterIPs" | "ipFamilies" | "ipFamilyPolicy")
            });
        }
        return;
    }
    if before != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let unset = new["spec"][field].as_str().is_none_or(str::is_empty)
                && new["spec"][field].as_array().is_none_or(Vec::is_empty);
            if unset && !old["spec"][field].is_null() {
                new["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    let exposes = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let Some(ports) = new["spec"]["ports"].as_array_mut() else { return };
    for port in ports {
        let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        let earlier =
            old["spec"]["ports"].as_array().into_iter().flatten().find(same).map(|other| other["nodePort"].clone());
        let unset = port["nodePort"].as_u64().unwrap_or(0) == 0;
        match earlier {
            Some(number) if exposes(&after) && unset && !number.is_null() => port["nodePort"] = number,
            // kubectl sends the old number back when only the type changes.
            Some(number) if !exposes(&after) && exposes(&before) && number == port["nodePort"] => {
                if let Some(map) = port.as_object_mut() {
                    map.remove("nodePort");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_keep_their_addresses() {
        let old = json!({ "spec": { "type": "NodePort", "clusterIP": "127.96.0.9", "clusterIPs": ["127.96.0.9"],
            "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30001 }] } });
        let after = |spec: Value| {
            let mut new = json!({ "spec": spec });
            carry_addresses(&old, &mut new);
            new["spec"].take()
        };
        let kept = after(
            json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 81, "protocol": "TCP" }] }),
        );
        assert_eq!((&kept["clusterIP"], &kept["ports"][0]["nodePort"]), (&json!("127.96.0.9"), &json!(30001)));
        assert!(kept["ports"][1]["nodePort"].is_null());
        let inner =
            after(json!({ "type": "ClusterIP", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30001 }] }));
        assert!(inner["ports"][0]["nodePort"].is_null());
        let outer = after(
            json!({ "type": "ExternalName", "externalName": "x", "clusterIP": "127.96.0.9", "clusterIPs": ["127.96.0.9"] }),
        );
        assert_eq!(outer.get("clusterIP"), None);
    }
}
