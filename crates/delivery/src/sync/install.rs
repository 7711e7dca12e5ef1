//! Installs the kinds that users write, through the API, as anyone else would.
//!
//! Invariants: nothing is written where what is there says the same; a definition that somebody else installed (Argo CD, Flux)
//! is left as it is.

use std::time::Duration;

use futures::StreamExt;
use resources::delivery::definitions;
use serde_json::Value;

use crate::api::{Api, ApiError, ApplyMode};
use crate::object;

/// The name under which the fields are owned.
const MANAGER: &str = "coracle";
/// How long a definition may take until it is served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// The kinds could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A request failed.
    #[error("cannot install the definition {name}: {source}; look at it with kubectl describe crd {name}")]
    Request {
        /// The definition.
        name: String,
        /// What the API said.
        source: ApiError,
    },
    /// A definition is not served.
    #[error(
        "the definition {name} was not established within {ESTABLISHED_WITHIN:?}; look at it with kubectl describe crd {name}"
    )]
    NotEstablished {
        /// The definition.
        name: String,
    },
}

/// Installs `Application`, `AppProject`, `GitRepository` and `Kustomization`, and waits until they are served.
///
/// # Errors
///
/// Names the definition that could not be installed.
pub async fn install(client: kube::Client) -> Result<(), InstallError> {
    let api = Api::over(client);
    let all = definitions();
    futures::future::try_join_all(all.iter().map(|definition| one(&api, definition))).await.map(drop)
}

async fn one(api: &Api, definition: &Value) -> Result<(), InstallError> {
    let name = object::name(definition).to_owned();
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let failed = |source| InstallError::Request { name: name.clone(), source };
    let live = match api.find(&path).await.map_err(failed)? {
        Some(live) if !ours(&live) || same(&live, definition) => live,
        _ => {
            let mode = ApplyMode { manager: MANAGER, force: true, dry_run: false };
            api.apply(&path, definition, mode).await.map_err(failed)?
        }
    };
    if established(&live) {
        return Ok(());
    }
    let query = format!("fieldSelector=metadata.name%3D{name}");
    let waiting = async {
        loop {
            let events =
                api.watch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &query).await.map_err(failed)?;
            let mut events = Box::pin(events);
            while let Some(event) = events.next().await {
                if established(&event.map_err(failed)?["object"]) {
                    return Ok(());
                }
            }
        }
    };
    let late = |_| InstallError::NotEstablished { name: name.clone() };
    tokio::time::timeout(ESTABLISHED_WITHIN, waiting).await.map_err(late)?
}

/// Whether this program wrote it.
fn ours(live: &Value) -> bool {
    object::label(live, "app.kubernetes.io/managed-by") == Some("coracle")
}

fn same(live: &Value, definition: &Value) -> bool {
    object::annotation(live, resources::delivery::REVISION_ANNOTATION)
        == object::annotation(definition, resources::delivery::REVISION_ANNOTATION)
}

fn established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Established" && one["status"] == "True")
}
