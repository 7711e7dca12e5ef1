//! Tells a pusher what becomes of the push: which Applications follow the repository, how far they are, what is live or why not.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};

use crate::api::ApplyMode;
use crate::sync::actor::{Stage, Standing};
use crate::sync::application::AppId;
use crate::sync::engine::compare::MANAGER;
use crate::sync::service::Handle;

/// Where manifests are looked for in a repository that no Application follows yet.
const PLACES: [&str; 4] = ["deploy", "manifests", "k8s", "kubernetes"];

/// How many lines of builds a pusher is told.
const BUILD_LINES: usize = 1000;

/// A branch that was pushed.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    /// `main`.
    pub(super) branch: String,
    /// The commit that it names now.
    pub(super) commit: String,
}

/// Whether a URL means the repository in a directory.
fn means(url: &str, directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let local = crate::sync::file_events::local_path(url).is_some_and(|path| path == directory);
    // However this server is reached, its path says which repository is meant.
    local || url.starts_with("http://127.0.0.1") && url.ends_with(&format!("/git/{name}"))
}

/// Whether an application follows the repository in a directory.
fn follows(standing: &Standing, directory: &Path) -> bool {
    standing.repositories.iter().any(|url| means(url, directory))
}

/// What builds say, as far as a pusher is told.
struct Builds {
    said: broadcast::Receiver<(String, String)>,
    left: usize,
}

/// The pusher is gone.
struct Away;

impl Builds {
    /// Tells everything that waits.
    async fn pass_on(&mut self, directory: &Path, lines: &mpsc::Sender<String>) -> Result<(), Away> {
        loop {
            let line = match self.said.try_recv() {
                Ok(line) => Ok(line),
                Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            };
            self.say(line, directory, lines).await?;
        }
    }

    async fn say(
        &mut self,
        line: Result<(String, String), RecvError>,
        directory: &Path,
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Away> {
        let text = match line {
            Ok((url, text)) if means(&url, directory) => text,
            Ok(_) => return Ok(()),
            Err(RecvError::Lagged(count)) => format!("… {count} lines of a build are left out"),
            Err(RecvError::Closed) => return Err(Away),
        };
        let text = match self.left {
            0 => return Ok(()),
            1 => format!("… {BUILD_LINES} lines of builds are shown, and no more"),
            _ => text,
        };
        self.left -= 1;
        lines.send(text).await.map_err(|_| Away)
    }
}

/// Makes an Application for a repository that nobody follows.
async fn adopt(handle: &Handle, directory: &Path, pushed: &Pushed, folders: &[String]) -> Result<String, String> {
    let name = directory.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let path = PLACES.iter().find(|place| folders.iter().any(|folder| folder == *place)).copied().unwrap_or(".");
    let mode = ApplyMode { manager: MANAGER, force: true, dry_run: false };
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "argocd" } });
    let api = handle.api();
    let failed = |error: crate::api::ApiError| error.to_string();
    if api.find("/api/v1/namespaces/argocd").await.map_err(failed)?.is_none() {
        api.apply("/api/v1/namespaces/argocd", &namespace, mode).await.map_err(failed)?;
    }
    let application = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": { "name": name, "namespace": "argocd" },
        "spec": {
            "project": "default",
            "source": { "repoURL": directory.display().to_string(), "path": path, "targetRevision": pushed.branch },
            "destination": { "server": "https://kubernetes.default.svc", "namespace": "default" },
            "syncPolicy": { "automated": { "prune": true, "selfHeal": true } },
        },
    });
    let object = format!("/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/{name}");
    api.apply(&object, &application, mode).await.map_err(failed)?;
    Ok(format!(
        "no Application followed this repository; made application/{name} in argocd (path {path}, namespace default)"
    ))
}

/// Whether anything in the cluster follows the repository in a directory, ready or not.
async fn is_followed(handle: &Handle, directory: &Path) -> Result<bool, String> {
    let api = handle.api();
    let failed = |error: crate::api::ApiError| error.to_string();
    let applications = api.list("/apis/argoproj.io/v1alpha1/applications", "").await.map_err(failed)?;
    let repositories = api.list("/apis/source.toolkit.fluxcd.io/v1/gitrepositories", "").await.map_err(failed)?;
    let here = |url: &serde_json::Value| url.as_str().is_some_and(|url| means(url, directory));
    let named = |one: &serde_json::Value| {
        let mut sources = one["spec"]["sources"].as_array().into_iter().flatten();
        here(&one["spec"]["source"]["repoURL"]) || sources.any(|source| here(&source["repoURL"]))
    };
    Ok(applications.iter().any(named) || repositories.iter().any(|one| here(&one["spec"]["url"])))
}

/// Has a push looked at, and makes an Application where nothing follows the repository; what is to be said of that.
pub(super) async fn follow(
    handle: &Handle,
    directory: &Path,
    pushed: &[Pushed],
    folders: &[String],
) -> Result<Option<String>, String> {
    handle.poke(|url| means(url, directory));
    let Some(first) = pushed.first() else { return Ok(None) };
    if is_followed(handle, directory).await? {
        return Ok(None);
    }
    let said = adopt(handle, directory, first, folders).await?;
    crate::fault::point("push.adopted");
    Ok(Some(said))
}

/// Says what becomes of a push, a line at a time, until every application that follows it is through, or `limit` has
/// passed. `begun` is called once it is sure that the push will be looked at.
pub(super) async fn tell(
    handle: &Handle,
    directory: &Path,
    pushed: &[Pushed],
    folders: &[String],
    begun: impl FnOnce(),
    limit: Duration,
    lines: &mpsc::Sender<String>,
) {
    let mut standings = handle.standings();
    let mut builds = Builds { said: handle.said(), left: BUILD_LINES };
    let said = follow(handle, directory, pushed, folders).await;
    begun();
    let said = said.unwrap_or_else(|reason| {
        Some(format!("no Application follows this repository, and none could be made: {reason}"))
    });
    if let Some(said) = said
        && lines.send(said).await.is_err()
    {
        return;
    }
    let mut told: BTreeMap<AppId, Standing> = BTreeMap::new();
    let talk = async {
        loop {
            let now: Vec<(AppId, Standing)> = {
                let all = standings.borrow_and_update();
                let ours = all.iter().filter(|(_, standing)| follows(standing, directory));
                ours.map(|(id, standing)| (id.clone(), standing.clone())).collect()
            };
            // What builds said before they stood so.
            if builds.pass_on(directory, lines).await.is_err() {
                return;
            }
            for (id, standing) in &now {
                if told.get(id) == Some(standing) || !is_about(standing, pushed) {
                    continue;
                }
                told.insert(id.clone(), standing.clone());
                if lines.send(line(id, standing)).await.is_err() {
                    return;
                }
            }
            let through = |(_, standing): &(AppId, Standing)| {
                is_about(standing, pushed) && matches!(standing.stage, Stage::Live | Stage::Failed | Stage::Held)
            };
            if !now.is_empty() && now.iter().all(through) {
                return;
            }
            tokio::select! {
                changed = standings.changed() => if changed.is_err() { return },
                line = builds.said.recv() => if builds.say(line, directory, lines).await.is_err() { return },
            }
        }
    };
    if tokio::time::timeout(limit, talk).await.is_err() {
        let late =
            format!("not through after {} s; it goes on, and `coracle get applications -A` shows how", limit.as_secs());
        let _ = lines.send(late).await;
    }
}

/// Whether what is said is about what was pushed. An application of another branch has nothing new to say, and is through.
fn is_about(standing: &Standing, pushed: &[Pushed]) -> bool {
    standing.revisions.iter().any(|revision| pushed.iter().any(|one| one.commit == *revision))
}

fn line(id: &AppId, standing: &Standing) -> String {
    let word = match standing.stage {
        Stage::Live => "live",
        Stage::Failed => "FAILED",
        Stage::Held => "held",
        Stage::Working | Stage::Unknown => "…",
    };
    format!("{word} {}/{}: {}", id.kind().to_lowercase(), id.name, standing.message)
}
