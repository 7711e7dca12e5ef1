//! Why a workload does not become healthy, from its newest Pods: what the node says of them, and their own last log line.

use crate::api::{Api, escape};
use crate::mask;
use crate::newest;
use crate::object::{self, ObjectId};
use serde_json::Value;
use std::time::Duration;

/// How many restarts of a container that is not ready count as failing for good.
pub(crate) const RESTARTS_THAT_FAIL: i64 = 2;
/// How long the first line of a log that is still empty is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest line that is told, characters.
const WORDS: usize = 500;
/// The longest log that is read, bytes.
const LOG_LIMIT: usize = 64 * 1024;

/// Why the workload fails; nothing while it may still succeed. With `anything`, also what may pass is told.
pub(super) async fn of(api: &Api, id: &ObjectId, anything: bool) -> Option<String> {
    let pods = newest_pods(api, id).await?;
    let threshold = if anything { 0 } else { RESTARTS_THAT_FAIL };
    let (pod, trouble) = pods.iter().find_map(|pod| Some((pod, trouble(pod, threshold)?)))?;
    let mut said = format!("pod {}: {}", object::name(pod), trouble.what);
    if let Some(container) = trouble.container
        && let Some(line) = last_words(api, pod, &container).await
    {
        said.push_str(&format!("; its last words: {line}"));
    }
    Some(said)
}

/// Whether a Pod will not become ready by itself, as far as it says so.
pub(super) fn is_troubled(pod: &Value) -> bool {
    trouble(pod, RESTARTS_THAT_FAIL).is_some()
}

/// The Pods that the newest state of a workload made.
async fn newest_pods(api: &Api, id: &ObjectId) -> Option<Vec<Value>> {
    let plural = match id.kind.as_str() {
        "Pod" => {
            return Some(vec![api.get(&format!("/api/v1/namespaces/{}/pods/{}", id.namespace, id.name)).await.ok()?]);
        }
        "Job" => "/apis/batch/v1/namespaces/{}/jobs",
        "Deployment" => "/apis/apps/v1/namespaces/{}/deployments",
        "StatefulSet" => "/apis/apps/v1/namespaces/{}/statefulsets",
        "DaemonSet" => "/apis/apps/v1/namespaces/{}/daemonsets",
        "ReplicaSet" => "/apis/apps/v1/namespaces/{}/replicasets",
        _ => return None,
    };
    let workload = api.get(&format!("{}/{}", plural.replace("{}", &id.namespace), id.name)).await.ok()?;
    let labels = workload["spec"]["selector"]["matchLabels"].as_object()?;
    let selector: Vec<String> =
        labels.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?))).collect();
    let query = format!("labelSelector={}", escape(&selector.join(",")));
    let sets = if id.kind == "Deployment" {
        api.list(&format!("/apis/apps/v1/namespaces/{}/replicasets", id.namespace), &query).await.ok()?
    } else {
        Vec::new()
    };
    let pods = api.list(&format!("/api/v1/namespaces/{}/pods", id.namespace), &query).await.ok()?;
    Some(newest::pods(&workload, sets.iter(), pods.iter())?.into_iter().cloned().collect())
}

struct Trouble {
    what: String,
    /// The container whose log may say more.
    container: Option<String>,
}

/// Why a Pod will not become ready by itself, where it can be told.
fn trouble(pod: &Value, restarts_that_fail: i64) -> Option<Trouble> {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut unfit = conditions.filter(|c| c["type"] == "PodScheduled" && c["reason"] == "Unschedulable");
    // Many clusters make a node for it then; that nobody did is told in the end.
    if let Some(unfit) = unfit.next().filter(|_| restarts_that_fail == 0) {
        return Some(Trouble { what: unfit["message"].as_str().unwrap_or_default().to_owned(), container: None });
    }
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    statuses.into_iter().find_map(|status| container_trouble(status, restarts_that_fail))
}

fn container_trouble(status: &Value, restarts_that_fail: i64) -> Option<Trouble> {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let name = text(&status["name"]);
    let waiting = &status["state"]["waiting"];
    let reason = text(&waiting["reason"]);
    if reason.starts_with("Err")
        || reason.starts_with("ImagePull")
        || reason.ends_with("Error")
        || reason == "InvalidImageName"
    {
        return Some(Trouble {
            what: format!("container {name}: {reason}: {}", text(&waiting["message"])),
            container: None,
        });
    }
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let ended = ["state", "lastState"].iter().map(|s| &status[*s]["terminated"]).find(|t| t.is_object())?;
    let code = ended["exitCode"].as_i64().unwrap_or(0);
    if status["ready"] == true || restarts < restarts_that_fail || code == 0 && restarts_that_fail == 0 {
        return None;
    }
    let said = Some(mask::without_passwords(&text(&ended["message"]))).filter(|message| !message.is_empty());
    let said = said.map_or_else(String::new, |message| format!(": {message}"));
    let what = format!("container {name}: its program ends with exit code {code} (restarted {restarts} times){said}");
    Some(Trouble { what, container: Some(name) })
}

/// The last line that a container wrote, without the passwords of URLs in it, in this life or the one before. What it wrote may come a moment after word of its
/// end: then the API tells of it.
pub(crate) async fn last_words(api: &Api, pod: &Value, container: &str) -> Option<String> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/log", object::namespace(pod), object::name(pod));
    let query = format!("container={}&tailLines=5", escape(container));
    for previous in [false, true] {
        match api.text(&format!("{path}?{query}&previous={previous}"), LOG_LIMIT).await {
            Ok(log) => {
                if let Some(line) = last_of(&log) {
                    return Some(line);
                }
            }
            // Who may not read it is told nothing of it, whichever life it is of.
            Err(error) if error.code == Some(403) => return None,
            Err(_) => {}
        }
    }
    let path = format!("{path}?{query}&follow=true");
    last_of(&tokio::time::timeout(PATIENCE, api.first_text(&path)).await.ok()?.ok()?)
}

fn last_of(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| !line.trim().is_empty())?.trim();
    // Before it is cut: a password that lost its host is not known as one.
    let line = mask::without_passwords(line);
    let mut shown: String = line.chars().take(WORDS).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_tells_why_it_fails() {
        let crashing = |restarts: i64| {
            json!({"status": {"containerStatuses": [{"name": "c", "ready": false, "restartCount": restarts,
                "lastState": {"terminated": {"exitCode": 3}}}]}})
        };
        let told = |pod: &Value| trouble(pod, RESTARTS_THAT_FAIL).map(|trouble| trouble.what);
        assert_eq!(told(&crashing(1)), None, "once may happen");
        assert!(told(&crashing(2)).unwrap().contains("exit code 3"));
        let last = json!({"status": {"containerStatuses": [{"name": "c", "ready": false, "restartCount": 2,
            "lastState": {"terminated": {"exitCode": 3, "message": "redis://:hunter2@h"}}}]}});
        assert!(told(&last).unwrap().ends_with(": redis://:(sensitive)@h"), "what it left as its message");
        let image = json!({"status": {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "m"}}}]}});
        assert_eq!(told(&image).unwrap(), "container c: ImagePullBackOff: m");
        let unfit = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}]}});
        assert_eq!(told(&unfit), None, "a node may yet be made for it");
        assert_eq!(trouble(&unfit, 0).unwrap().what, "full");
        assert_eq!(last_of("one\n two \n\n").as_deref(), Some("two"));
        let url = "cannot reach postgres://web:hunter2@db/x: refused";
        assert_eq!(last_of(url).as_deref(), Some("cannot reach postgres://web:(sensitive)@db/x: refused"));
        let cut = format!("{} redis://:hunter2-hunter2@h", "x".repeat(WORDS - 20));
        assert!(!last_of(&cut).unwrap().contains("hunter"), "masked before it is cut");
        assert_eq!(last_of(&"x".repeat(WORDS + 1)).unwrap().chars().count(), WORDS + 1, "cut, and a sign of it");
    }
}
