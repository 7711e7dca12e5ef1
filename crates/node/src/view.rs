//! The Pods of this node as the API last told them, for whoever asks by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::error::LogError;
use crate::logs::Chosen;

/// Which container `kubectl logs` means when it is not said.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A look at the node's Pods.
#[derive(Clone)]
pub(crate) struct PodView {
    pub(crate) pods: Store<Pod>,
    pub(crate) root: Arc<Path>,
}

/// The directory of one Pod's volumes and logs.
pub(crate) fn pod_directory(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

impl PodView {
    /// The container that a request for logs means.
    pub(crate) fn container(&self, namespace: &str, name: &str, wanted: Option<&str>) -> Result<Chosen, LogError> {
        let missing = || LogError::NotFound { namespace: namespace.to_owned(), pod: name.to_owned() };
        let pod = self.pods.get(&ObjectRef::new(name).within(namespace)).ok_or_else(missing)?;
        let container = choose(&pod, wanted).map_err(|message| LogError::Container { message })?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        Ok(Chosen {
            pod: name.to_owned(),
            directory: pod_directory(&self.root, namespace, name, uid).join(&container),
            waiting: waiting(&pod, &container),
            container,
        })
    }
}

fn choose(pod: &Pod, wanted: Option<&str>) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let init: Vec<&str> =
        spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten().map(|c| c.name.as_str()).collect();
    let main: Vec<&str> = spec.into_iter().flat_map(|s| &s.containers).map(|c| c.name.as_str()).collect();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match wanted.filter(|w| !w.is_empty()) {
        Some(wanted) if main.contains(&wanted) || init.contains(&wanted) => Ok(wanted.to_owned()),
        Some(wanted) => Err(format!("container {wanted} is not valid for pod {name}")),
        None => {
            let default = pod.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_CONTAINER));
            match (default, main.as_slice()) {
                (Some(default), _) if main.contains(&default.as_str()) => Ok(default.clone()),
                (_, [only]) if init.is_empty() => Ok((*only).to_owned()),
                (_, all) => {
                    let more = if init.is_empty() {
                        String::new()
                    } else {
                        format!(" or one of the init containers: [{}]", init.join(" "))
                    };
                    let all = all.join(" ");
                    Err(format!("a container name must be specified for pod {name}, choose one of: [{all}]{more}"))
                }
            }
        }
    }
}

fn waiting(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let state = all.into_iter().find(|s| s.name == container)?.state.as_ref()?;
    state.waiting.as_ref()?.reason.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn the_container_that_is_meant() {
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(choose(&pod(two.clone()), Some("i")).as_deref(), Ok("i"));
        assert_eq!(choose(&pod(two.clone()), Some("x")), Err("container x is not valid for pod p".to_owned()));
        assert_eq!(
            choose(&pod(two.clone()), None),
            Err(
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
                    .to_owned()
            )
        );
        let mut chosen = two;
        chosen["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(choose(&pod(chosen), None).as_deref(), Ok("b"));
        assert_eq!(
            choose(&pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}})), None).as_deref(),
            Ok("a")
        );
    }
}
