//! Eviction: a deletion of a Pod that asks the disruption budgets first.

use std::sync::Arc;

use rules::select::LabelSelector;
use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::intake;
use crate::object;
use crate::server::{Place, Server};
use crate::status::{Answer, Failure};
use crate::verb::delete;

/// `POST` to `pods/NAME/eviction`.
pub(super) async fn evict(server: &Arc<Server>, call: &mut Call, (resource, target): Place<'_>) -> Answer<Reply> {
    let eviction = intake::value(call)?.0;
    let name = target.name.as_deref().unwrap_or_default();
    let claimed = object::name(&eviction);
    if !claimed.is_empty() && claimed != name {
        return Err(Failure::bad_request(format!(
            "the name of the eviction ({claimed}) does not match the name on the URL ({name})"
        )));
    }
    let options = delete::from(&eviction["deleteOptions"], call)?;
    call.rehearsed = options.dry;
    let namespace = target.namespace.as_deref();
    let entry = server.store.get(&resource.key(namespace, name)).0;
    let pod = object::read(resource, &entry.ok_or_else(|| Failure::not_found(resource, name))?)?;
    for budget in budgets(server, namespace)? {
        match verdict(&budget, &pod) {
            Verdict::Elsewhere => {}
            Verdict::Allowed => {}
            Verdict::Unknown => call.warn(format!(
                "PodDisruptionBudget {} has no status, because nothing acts on budgets yet in this version; it does not hold this eviction up",
                object::name(&budget)
            )),
            Verdict::Refused(why) => {
                return Err(Failure::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.")
                    .with_cause("DisruptionBudget", &why));
            }
        }
    }
    delete::one(server, call, resource, namespace, name, &options).await?;
    Ok(Reply::Plain(
        201,
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }),
    ))
}

fn budgets(server: &Server, namespace: Option<&str>) -> Answer<Vec<Value>> {
    let catalog = server.catalog.load();
    let Some(resource) = catalog.get("policy", "v1", "poddisruptionbudgets") else { return Ok(Vec::new()) };
    let listing = server
        .store
        .list(&resource.keys_in(namespace), None, 0, None)
        .map_err(|error| Failure::internal(format!("listing disruption budgets: {error}")))?;
    listing.entries.iter().map(|entry| object::read(resource, entry)).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Elsewhere,
    Allowed,
    Unknown,
    Refused(String),
}

/// What a budget says about the eviction of a Pod.
fn verdict(budget: &Value, pod: &Value) -> Verdict {
    let selected =
        LabelSelector::from_object(&budget["spec"]["selector"]).is_ok_and(|selector| selector.matches_object(pod));
    if !selected {
        return Verdict::Elsewhere;
    }
    let status = &budget["status"];
    let Some(allowed) = status["disruptionsAllowed"].as_i64() else { return Verdict::Unknown };
    if allowed > 0 || !rules::pods::is_ready(pod) {
        return Verdict::Allowed;
    }
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    Verdict::Refused(format!(
        "The disruption budget {} needs {} healthy pods and has {} currently",
        object::name(budget),
        number("desiredHealthy"),
        number("currentHealthy")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_hold_ready_pods() {
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        let pod = json!({ "metadata": { "labels": { "app": "a" } }, "status": { "conditions": ready } });
        let budget = |app: &str, status: Value| json!({ "metadata": { "name": "b" }, "spec": { "selector": { "matchLabels": { "app": app } } }, "status": status });
        assert_eq!(verdict(&budget("x", json!({ "disruptionsAllowed": 0 })), &pod), Verdict::Elsewhere);
        assert_eq!(verdict(&budget("a", Value::Null), &pod), Verdict::Unknown);
        assert_eq!(verdict(&budget("a", json!({ "disruptionsAllowed": 1 })), &pod), Verdict::Allowed);
        let held =
            verdict(&budget("a", json!({ "disruptionsAllowed": 0, "desiredHealthy": 2, "currentHealthy": 2 })), &pod);
        assert_eq!(held, Verdict::Refused("The disruption budget b needs 2 healthy pods and has 2 currently".into()));
    }
}
