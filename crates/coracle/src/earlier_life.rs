//! What the store says of an earlier life of this instance and is not true any more: no Pod of then has a process.
//!
//! Invariants: it is said before anyone can route to such a Pod or count it; what somebody else wrote is left alone. Who would say it
//! later is the controllers, but the mesh is up before they are: it would send requests to ports that may be another program's by now.

use crate::connect::Api;
use crate::readiness;
use serde_json::{Value, json};

/// The slices that our own controller keeps.
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=\
    endpointslice.kubernetes.io%2Fmanaged-by%3Dendpointslice-controller.k8s.io";

/// Says of every Pod, and of every endpoint that is one, that it is not ready.
pub(crate) async fn forget(api: &Api) -> anyhow::Result<()> {
    let pods = api.get("/api/v1/pods").await?;
    for pod in pods["items"].as_array().into_iter().flatten().filter(|pod| readiness::is_ready(pod)) {
        let condition = |name: &str| {
            json!({ "type": name, "status": "False", "reason": "ContainersNotReady",
                "message": "Coracle has started again, and the containers have not yet" })
        };
        let status = json!({ "status": { "conditions": [condition("Ready"), condition("ContainersReady")] } });
        api.patch(&format!("{}/status", path(pod, "/api/v1", "pods")), &status).await?;
    }
    let slices = api.get(SLICES).await?;
    for slice in slices["items"].as_array().into_iter().flatten() {
        if let Some(endpoints) = without_readiness(&slice["endpoints"]) {
            let path = path(slice, "/apis/discovery.k8s.io/v1", "endpointslices");
            api.merge(&path, &json!({ "endpoints": endpoints })).await?;
        }
    }
    Ok(())
}

fn path(object: &Value, group: &str, kind: &str) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{group}/namespaces/{}/{kind}/{}", text("namespace"), text("name"))
}

/// The same endpoints, of which none is ready; none where none was.
fn without_readiness(endpoints: &Value) -> Option<Value> {
    let mut endpoints = endpoints.clone();
    let mut changed = false;
    for endpoint in endpoints.as_array_mut()? {
        // What does not say is ready.
        if endpoint["conditions"]["ready"] != false {
            endpoint["conditions"]["ready"] = false.into();
            endpoint["conditions"]["serving"] = false.into();
            changed = true;
        }
    }
    changed.then_some(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_endpoint_stays_ready_and_what_is_so_already_is_not_written() {
        let one = |conditions: Value| json!({ "addresses": ["127.0.0.1"], "conditions": conditions });
        let unready = one(json!({ "ready": false, "serving": false }));
        for (before, after) in [
            (json!([]), None),
            (Value::Null, None),
            (json!([unready]), None),
            (json!([one(json!({ "ready": true, "serving": true })), unready]), Some(json!([unready, unready]))),
            (json!([one(json!({}))]), Some(json!([unready]))),
        ] {
            assert_eq!(without_readiness(&before), after, "{before}");
        }
    }
}
