//! Tells a pusher what becomes of the push: which Applications follow the repository, how far they are, what is live or why not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};

use crate::api::ApplyMode;
use crate::object;
use crate::sync::actor::{Stage, Standing};
use crate::sync::application::{AppId, Front};
use crate::sync::engine::compare::MANAGER;
use crate::sync::front::{argo, flux};
use crate::sync::git::{Refs, Wanted};
use crate::sync::here;
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

/// What is listened to from before a push is looked at, so that nothing is missed.
pub(super) struct Listening {
    standings: watch::Receiver<BTreeMap<AppId, Standing>>,
    /// What every application was about then.
    before: BTreeMap<AppId, Vec<String>>,
    builds: Builds,
    remote: Option<SocketAddr>,
}

/// Begins to listen.
pub(super) fn listen(handle: &Handle) -> Listening {
    let standings = handle.standings();
    let before = standings.borrow().iter().map(|(id, standing)| (id.clone(), standing.revisions.clone())).collect();
    let builds = Builds { said: handle.said(), left: BUILD_LINES };
    Listening { standings, before, builds, remote: handle.remote() }
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
    async fn pass_on(
        &mut self,
        means: &(dyn Fn(&str) -> bool + Sync),
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Away> {
        loop {
            let line = match self.said.try_recv() {
                Ok(line) => Ok(line),
                Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            };
            self.say(line, means, lines).await?;
        }
    }

    async fn say(
        &mut self,
        line: Result<(String, String), RecvError>,
        means: &(dyn Fn(&str) -> bool + Sync),
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Away> {
        let text = match line {
            Ok((url, text)) if means(&url) => text,
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

/// Who follows a repository, ready or not.
#[derive(Default)]
struct Followers {
    /// Whether anything names the repository.
    any: bool,
    /// What each application wants of it.
    all: BTreeMap<AppId, Vec<Wanted>>,
}

async fn followers(handle: &Handle, directory: &Path) -> Result<Followers, String> {
    let (api, remote) = (handle.api(), handle.remote());
    let failed = |error: crate::api::ApiError| error.to_string();
    let here = |url: &str| here::means(url, directory, remote.as_ref());
    let names = |url: &Value| url.as_str().is_some_and(here);
    let mut found = Followers::default();
    for object in api.list("/apis/argoproj.io/v1alpha1/applications", "").await.map_err(failed)? {
        let mut sources = object["spec"]["sources"].as_array().into_iter().flatten();
        if !names(&object["spec"]["source"]["repoURL"]) && !sources.any(|source| names(&source["repoURL"])) {
            continue;
        }
        found.any = true;
        // One that is wrong follows nothing, and says why in its status.
        if let Ok(application) = argo::read(&object) {
            let wanted = application.sources.iter().filter(|source| here(&source.url)).map(|one| one.wanted.clone());
            found.all.insert(application.id.clone(), wanted.collect());
        }
    }
    let mut sources = BTreeMap::new();
    for object in api.list("/apis/source.toolkit.fluxcd.io/v1/gitrepositories", "").await.map_err(failed)? {
        if names(&object["spec"]["url"]) {
            found.any = true;
            let key = (object::namespace(&object).to_owned(), object::name(&object).to_owned());
            sources.extend(flux::repository(&object).ok().map(|repository| (key, repository.source.wanted)));
        }
    }
    if !sources.is_empty() {
        for object in api.list("/apis/kustomize.toolkit.fluxcd.io/v1/kustomizations", "").await.map_err(failed)? {
            let (namespace, name) = (object::namespace(&object).to_owned(), object::name(&object).to_owned());
            if let Some(wanted) = flux::source_of(&object).and_then(|key| sources.get(&key)) {
                found.all.insert(AppId { front: Front::Flux, namespace, name }, vec![wanted.clone()]);
            }
        }
    }
    Ok(found)
}

/// Has a push looked at, and makes an Application where nothing follows the repository; what is to be said of that.
pub(super) async fn follow(
    handle: &Handle,
    directory: &Path,
    pushed: &[Pushed],
    folders: &[String],
) -> Result<Option<String>, String> {
    let remote = handle.remote();
    handle.poke(|url| here::means(url, directory, remote.as_ref()));
    let Some(first) = pushed.first() else { return Ok(None) };
    if followers(handle, directory).await?.any {
        return Ok(None);
    }
    let said = adopt(handle, directory, first, folders).await?;
    crate::fault::point("push.adopted");
    Ok(Some(said))
}

/// Those whose wanted revision is one of the pushed commits.
async fn awaited(handle: &Handle, directory: &Path, pushed: &[Pushed], refs: &Refs) -> Result<BTreeSet<AppId>, String> {
    let is_pushed = |wanted: &Wanted| {
        refs.resolve(wanted).is_ok_and(|resolved| pushed.iter().any(|one| one.commit == resolved.commit))
    };
    let all = followers(handle, directory).await?.all.into_iter();
    Ok(all.filter(|(_, wanted)| wanted.iter().any(is_pushed)).map(|(id, _)| id).collect())
}

/// Says what becomes of a push, a line at a time, until every application that wants one of its commits is through, or `limit` has
/// passed.
pub(super) async fn tell(
    mut listening: Listening,
    handle: &Handle,
    directory: &Path,
    pushed: &[Pushed],
    refs: &Refs,
    limit: Duration,
    lines: &mpsc::Sender<String>,
) {
    let awaited = match awaited(handle, directory, pushed, refs).await {
        Ok(awaited) => awaited,
        Err(reason) => return drop(lines.send(format!("it cannot be told what becomes of it: {reason}")).await),
    };
    if awaited.is_empty() {
        let branches = pushed.iter().map(|one| one.branch.as_str()).collect::<Vec<_>>().join(", ");
        let said = format!("no Application follows {branches}; it is kept, and nothing is brought");
        return drop(lines.send(said).await);
    }
    let talk = talk(&mut listening, directory, pushed, &awaited, lines);
    if tokio::time::timeout(limit, talk).await.is_err() {
        let late =
            format!("not through after {} s; it goes on, and `coracle get applications -A` shows how", limit.as_secs());
        let _ = lines.send(late).await;
    }
}

async fn talk(
    listening: &mut Listening,
    directory: &Path,
    pushed: &[Pushed],
    awaited: &BTreeSet<AppId>,
    lines: &mpsc::Sender<String>,
) {
    let Listening { standings, before, builds, remote } = listening;
    let means = |url: &str| here::means(url, directory, remote.as_ref());
    let mut told: BTreeMap<AppId, Standing> = BTreeMap::new();
    loop {
        let now: Vec<(AppId, Standing)> = {
            let all = standings.borrow_and_update();
            awaited.iter().filter_map(|id| Some((id.clone(), all.get(id)?.clone()))).collect()
        };
        // What builds said before they stood so.
        if builds.pass_on(&means, lines).await.is_err() {
            return;
        }
        let mut through = 0;
        for (id, standing) in &now {
            let at = place(standing, before.get(id), pushed);
            through += usize::from(at != Place::Under);
            let said = match at {
                Place::Newer => "… a newer commit has taken its place".to_owned(),
                Place::Through => line(id, standing),
                Place::Under if is_about(standing, pushed) => line(id, standing),
                Place::Under => continue,
            };
            if told.get(id) == Some(standing) {
                continue;
            }
            told.insert(id.clone(), standing.clone());
            if lines.send(said).await.is_err() {
                return;
            }
        }
        if through == awaited.len() {
            return;
        }
        tokio::select! {
            changed = standings.changed() => if changed.is_err() { return },
            line = builds.said.recv() => if builds.say(line, &means, lines).await.is_err() { return },
        }
    }
}

/// How far an application is with a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is on its way, or nothing was seen of it yet.
    Under,
    /// It has ended, well or not.
    Through,
    /// Something newer is brought.
    Newer,
}

fn place(standing: &Standing, before: Option<&Vec<String>>, pushed: &[Pushed]) -> Place {
    let ended = matches!(standing.stage, Stage::Live | Stage::Failed | Stage::Held);
    let nothing = standing.revisions.is_empty();
    match (is_about(standing, pushed), ended) {
        (true, true) => Place::Through,
        (true, false) => Place::Under,
        // It cannot even say which commit it is about.
        (false, _) if nothing && standing.stage == Stage::Failed => Place::Through,
        (false, _) if nothing || before.is_none_or(|before| *before == standing.revisions) => Place::Under,
        (false, _) => Place::Newer,
    }
}

/// Whether what is said is about what was pushed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pusher_waits_for_its_own_commit_alone() {
        let pushed = [Pushed { branch: "main".to_owned(), commit: "new".to_owned() }];
        let standing = |revisions: &[&str], stage| Standing {
            revisions: revisions.iter().map(|one| (*one).to_owned()).collect(),
            stage,
            ..Standing::default()
        };
        let old = Some(vec!["old".to_owned()]);
        for (revisions, stage, before, wanted) in [
            (&["new"][..], Stage::Working, &old, Place::Under),
            (&["new"], Stage::Live, &old, Place::Through),
            (&["new"], Stage::Held, &None, Place::Through),
            (&["old"], Stage::Live, &old, Place::Under),
            (&["newer"], Stage::Working, &old, Place::Newer),
            (&["newer"], Stage::Live, &None, Place::Under),
            (&[], Stage::Unknown, &None, Place::Under),
            (&[], Stage::Failed, &None, Place::Through),
            (&[], Stage::Failed, &old, Place::Through),
        ] {
            assert_eq!(place(&standing(revisions, stage), before.as_ref(), &pushed), wanted, "{revisions:?} {stage:?}");
        }
    }
}
