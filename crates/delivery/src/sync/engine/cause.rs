//! What keeps a sync from going on, named: a finalizer, a missing kind or version, a permission, a webhook or policy, a quota,
//! an image, the lock of another.
//!
//! Pure: errors, objects, Pods and Events in, sentences out that say what to do next.

use serde_json::Value;

use crate::api::ApiError;
use crate::apply::RESTARTS_THAT_FAIL;
use crate::object::{self, ObjectId};

/// What a write was refused for, with what to do.
#[must_use]
pub fn of_refusal(id: &ObjectId, error: &ApiError) -> String {
    let said = &error.message;
    let lower = said.to_lowercase();
    let name = id.group_kind();
    let (cause, next) = if lower.contains("exceeded quota") {
        ("quota", "raise the ResourceQuota, or ask for less")
    } else if lower.contains("admission webhook") || lower.contains("failed calling webhook") {
        ("webhook", "look at that webhook: it refused, or does not answer")
    } else if lower.contains("validatingadmissionpolicy") || lower.contains("denied request") {
        ("policy", "change the manifest as the policy says")
    } else if error.code == Some(403) || error.code == Some(401) {
        ("permission", "let the project or the ServiceAccount's role allow it")
    } else if is_missing_kind(error) {
        ("missing kind", "install its CustomResourceDefinition in this version, in an earlier wave or beforehand")
    } else if lower.contains("field is immutable") || lower.contains("immutable") {
        (
            "immutable field",
            "replace the object: the sync option Replace=true,Force=true on it (it is deleted and made anew)",
        )
    } else if error.is_not_found() && lower.contains("namespaces") {
        ("missing namespace", "add the sync option CreateNamespace=true, or put the Namespace into the repository")
    } else if error.is_ownership_conflict() {
        ("conflict", "another manager owns the field")
    } else if error.code == Some(422) || error.code == Some(400) {
        ("invalid manifest", "correct it in the repository")
    } else {
        ("API", "it is tried again")
    };
    format!("{name} {}: {cause}: {said}; {next}", id.name)
}

/// Whether the server does not know the kind in that version.
#[must_use]
pub fn is_missing_kind(error: &ApiError) -> bool {
    let lower = error.message.to_lowercase();
    error.is_not_found()
        && (lower.contains("could not find the requested resource") || lower.contains("no matches for kind"))
}

/// A kind that the server does not have.
#[must_use]
pub fn missing_kind(id: &ObjectId, api_version: &str, other: Option<&str>) -> String {
    let hint = match other {
        Some(version) => {
            format!("; it is served as {version}: change apiVersion, or install the definition in this version")
        }
        None => "; install its CustomResourceDefinition, in an earlier wave or beforehand".to_owned(),
    };
    format!("{} {}: missing kind: the API has no {} in {api_version}{hint}", id.group_kind(), id.name, id.kind)
}

/// What holds an object that is being deleted.
#[must_use]
pub fn of_deletion(object: &Value) -> Option<String> {
    object["metadata"]["deletionTimestamp"].as_str()?;
    let finalizers = object["metadata"]["finalizers"].as_array()?;
    let names: Vec<&str> = finalizers.iter().filter_map(Value::as_str).collect();
    if names.is_empty() {
        return None;
    }
    let id = ObjectId::of(object);
    let names = names.join(", ");
    Some(format!(
        "{} {}: finalizer: its deletion waits for {names}; start what serves that finalizer, or remove it with kubectl patch",
        id.group_kind(),
        id.name
    ))
}

/// What keeps a Pod from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfPod {
    /// In words.
    pub what: String,
    /// Whether it will not pass by waiting.
    pub for_good: bool,
    /// The container whose log may say more.
    pub container: Option<String>,
}

/// What keeps a Pod from running, where that will not pass by waiting a moment.
#[must_use]
pub fn of_pod(pod: &Value) -> Option<OfPod> {
    let for_good = |what| Some(OfPod { what, for_good: true, container: None });
    let name = object::name(pod);
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    for status in all {
        let container = status["name"].as_str().unwrap_or_default();
        let waiting = &status["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        let image = status["image"].as_str().unwrap_or_default();
        match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError"
            | "NoRecipe" => {
                return for_good(format!("Pod {name}: image: {image} cannot be had ({reason}: {message})"));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return for_good(format!("Pod {name}: container {container} cannot be made ({reason}: {message})"));
            }
            "CrashLoopBackOff" => {
                let ended = &status["lastState"]["terminated"];
                let code = ended["exitCode"].as_i64().map(|code| format!(", exit code {code}")).unwrap_or_default();
                let what = format!("Pod {name}: container {container} ends again and again ({reason}{code})");
                // Programs that start together may fail once while they wait for each other.
                let for_good = status["restartCount"].as_i64().unwrap_or(0) >= RESTARTS_THAT_FAIL;
                return Some(OfPod { what, for_good, container: Some(container.to_owned()) });
            }
            _ => {}
        }
    }
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let unscheduled = conditions.clone().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
    unscheduled.map(|one| OfPod {
        what: format!("Pod {name}: not scheduled: {}", one["message"].as_str().unwrap_or_default()),
        for_good: false,
        container: None,
    })
}

/// What Events say about objects that could not make their Pods: quotas, policies, webhooks.
#[must_use]
pub fn of_event(event: &Value) -> Option<String> {
    let message = event["message"].as_str().or_else(|| event["note"].as_str()).unwrap_or_default();
    if event["type"] != "Warning" || event["reason"] != "FailedCreate" {
        return None;
    }
    let about = &event["involvedObject"];
    let name = about["name"].as_str().unwrap_or_default();
    let kind = about["kind"].as_str().unwrap_or_default();
    let lower = message.to_lowercase();
    let cause = if lower.contains("exceeded quota") {
        "quota"
    } else if lower.contains("webhook") {
        "webhook"
    } else if lower.contains("forbidden") {
        "permission"
    } else {
        "Pods"
    };
    Some(format!("{kind} {name}: {cause}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(code: u16, message: &str) -> String {
        let id =
            ObjectId { group: "apps".into(), kind: "Deployment".into(), namespace: "n".into(), name: "web".into() };
        let error = ApiError {
            attempt: "PATCH /x".into(),
            message: message.into(),
            code: Some(code),
            reason: String::new(),
            causes: Vec::new(),
        };
        of_refusal(&id, &error)
    }

    #[test]
    fn each_cause_is_named() {
        for (code, message, word) in [
            (403, "pods \"a\" is forbidden: exceeded quota: small, requested: pods=1", ": quota:"),
            (400, "admission webhook \"x.y.z\" denied the request: no", ": webhook:"),
            (500, "Internal error occurred: failed calling webhook \"x\"", ": webhook:"),
            (422, "ValidatingAdmissionPolicy 'tags' with binding 'b' denied request: mutable tag", ": policy:"),
            (403, "deployments.apps is forbidden: User \"x\" cannot patch", ": permission:"),
            (404, "the server could not find the requested resource", ": missing kind:"),
            (404, "namespaces \"n\" not found", ": missing namespace:"),
            (
                422,
                "Deployment.apps \"web\" is invalid: spec.selector: Invalid value: field is immutable",
                ": immutable field:",
            ),
            (422, "Deployment.apps \"web\" is invalid: spec.replicas: must be at least 0", ": invalid manifest:"),
            (500, "etcd is away", ": API:"),
        ] {
            let said = refused(code, message);
            assert!(said.contains(word) && said.contains("web"), "{message} gave {said}");
        }
    }

    #[test]
    fn objects_and_pods_name_theirs() {
        let stuck = json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "c",
            "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/hold"] } });
        assert!(
            of_deletion(&stuck).expect("it is stuck").contains("finalizer: its deletion waits for example.com/hold")
        );
        assert_eq!(of_deletion(&json!({ "metadata": {} })), None);
        let pod = |reason: &str| {
            json!({ "metadata": { "name": "p" }, "status": { "containerStatuses": [
            { "name": "c", "image": "shop/orders:2", "state": { "waiting": { "reason": reason, "message": "m" } } }] } })
        };
        assert!(of_pod(&pod("ErrImagePull")).expect("stuck").what.contains("image: shop/orders:2"));
        assert!(of_pod(&pod("CrashLoopBackOff")).expect("stuck").container.as_deref() == Some("c"));
        assert_eq!(of_pod(&pod("ContainerCreating")), None);
        for (restarts, for_good) in [(json!(0), false), (json!(1), false), (json!(2), true), (Value::Null, false)] {
            let mut crashing = pod("CrashLoopBackOff");
            crashing["status"]["containerStatuses"][0]["restartCount"] = restarts.clone();
            assert_eq!(of_pod(&crashing).expect("stuck").for_good, for_good, "{restarts} restarts");
        }
        let event = json!({ "type": "Warning", "reason": "FailedCreate", "message": "exceeded quota: small",
            "involvedObject": { "kind": "ReplicaSet", "name": "web-1" } });
        assert!(of_event(&event).expect("stuck").contains("quota"));
    }
}
