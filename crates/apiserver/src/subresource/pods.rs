//! Binding: a Pod gets its node, once.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::intake;
use crate::object;
use crate::route::Target;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};
use crate::verb::change::{Change, Part, change};

/// `POST` to `pods/NAME/binding`.
pub(super) async fn bind_named(server: &Arc<Server>, call: &mut Call, place: Place<'_>) -> Answer<Reply> {
    let binding = intake::value(call)?.0;
    let (_, target) = place;
    let claimed = object::name(&binding);
    let name = target.name.as_deref().unwrap_or_default();
    if !claimed.is_empty() && claimed != name {
        return Err(Failure::bad_request(format!(
            "the name of the binding ({claimed}) does not match the name on the URL ({name})"
        )));
    }
    assign(server, call, target.namespace.as_deref(), name, &binding).await
}

/// `POST` to `bindings`, the older way.
pub(super) async fn bind(server: &Arc<Server>, call: &mut Call, (_, target): Place<'_>) -> Answer<Reply> {
    let binding = intake::value(call)?.0;
    let name = object::name(&binding).to_owned();
    if name.is_empty() {
        return Err(Failure::bad_request("a binding names its Pod in metadata.name"));
    }
    assign(server, call, target.namespace.as_deref(), &name, &binding).await
}

async fn assign(
    server: &Arc<Server>,
    call: &mut Call,
    namespace: Option<&str>,
    name: &str,
    binding: &Value,
) -> Answer<Reply> {
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(binding["target"]["kind"].as_str(), None | Some("" | "Node")) {
        return Err(Failure::bad_request("a binding's target is a Node, with its name"));
    }
    let pods = server.catalog.load().core("pods").clone();
    let target = Target { namespace: namespace.map(str::to_owned), name: Some(name.to_owned()), ..Target::default() };
    let how = Change { part: Part::Through("binding"), applied: false };
    let uid = object::meta(binding, "uid").to_owned();
    let bound = change(server, call, (&pods, &target), how, &mut |call, current| {
        if object::is_terminating(current) {
            let why = format!("pod {name} is being deleted, cannot be assigned to a host");
            return Err(Failure::conflict(&pods, name, &why));
        }
        if let Some(other) = current["spec"]["nodeName"].as_str().filter(|other| !other.is_empty()) {
            let why = format!("pod {name} is already assigned to node {other:?}");
            return Err(Failure::conflict(&pods, name, &why));
        }
        let mut new = on_node(current, node, binding, &object::time(call.now));
        if !uid.is_empty() {
            new["metadata"]["uid"] = uid.as_str().into();
        }
        Ok(new)
    })
    .await?;
    if bound.is_none() {
        return Err(Failure::not_found(&pods, name));
    }
    Ok(Reply::Plain(
        201,
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }),
    ))
}

/// The Pod with its node, and the condition that says so.
fn on_node(pod: &Value, node: &str, binding: &Value, now: &str) -> Value {
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    if let Some(given) = binding["metadata"]["annotations"].as_object() {
        for (name, value) in given {
            new["metadata"]["annotations"][name] = value.clone();
        }
    }
    let condition =
        json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now });
    let conditions = &mut new["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(all) = conditions.as_array_mut() {
        all.retain(|one| one["type"] != "PodScheduled");
        all.push(condition);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_says_so_once() {
        let pod = json!({ "metadata": {}, "spec": {}, "status": { "conditions": [{ "type": "PodScheduled", "status": "False" }] } });
        let bound = on_node(&pod, "n", &json!({ "metadata": { "annotations": { "a": "b" } } }), "t");
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["metadata"]["annotations"]["a"], "b");
        assert_eq!(bound["status"]["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
    }
}
