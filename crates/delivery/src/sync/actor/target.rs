//! What the repositories say an application is to be: resolved, fetched, checked and rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::Shared;
use crate::sync::application::{Application, Source};
use crate::sync::credentials::decoded;
use crate::sync::engine::decide::Content;
use crate::sync::git::{Commit, Credential, Export, Keys, Reference, Resolved, Verdict, Wanted};
use crate::sync::here;
use crate::sync::manifests::{self, Made};
use crate::sync::programs::{self, Tree};
use crate::sync::repository::{Known, Repository};

/// A content, rendered.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub(crate) content: Content,
    pub(crate) objects: Arc<Vec<Value>>,
    pub(crate) made: Made,
    pub(crate) commit: Value,
    pub(crate) flux_revision: String,
    /// The programs that it names: image and digest.
    pub(crate) programs: BTreeSet<(String, String)>,
}

/// The repositories of an application, followed.
#[derive(Default)]
pub(crate) struct Sources {
    followed: Vec<(Source, Arc<Repository>, watch::Receiver<Arc<Known>>)>,
}

/// Why there is no target.
#[derive(Debug, Clone)]
pub(crate) enum NoTarget {
    /// It was not looked yet.
    NotYet,
    /// It cannot be had, and may be had by trying again.
    Later(String),
    /// The content is wrong; only other content helps.
    Wrong(Option<Content>, String),
    /// Its programs have to be made first.
    Make(Content, Vec<Order>),
}

/// Programs that are to be made of a commit.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) repository: Arc<Repository>,
    pub(crate) tree: Arc<Tree>,
    pub(crate) images: BTreeSet<String>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Order({:?} of {})", self.images, self.tree.commit)
    }
}

impl Sources {
    /// Follows what the application names now.
    pub(crate) fn follow(&mut self, shared: &Shared, application: &Application) -> Result<(), String> {
        let mut followed = Vec::new();
        for source in &application.sources {
            let repository = shared.repositories.get(&source.url, source.secret.as_ref(), source.interval);
            let repository = repository.map_err(|error| error.to_string())?;
            let mut known = repository.subscribe();
            known.mark_unchanged();
            followed.push((source.clone(), repository, known));
        }
        // The new ones are held before the old ones go, so that what is in both goes on.
        self.followed = followed;
        Ok(())
    }

    pub(crate) fn poke(&self) {
        self.followed.iter().for_each(|(_, repository, _)| repository.poke());
    }

    /// Resolves when one of the repositories has something new.
    pub(crate) async fn changed(&mut self) {
        if self.followed.is_empty() {
            return std::future::pending().await;
        }
        let all = self.followed.iter_mut().map(|(_, _, known)| Box::pin(known.changed()));
        let (ended, _, rest) = futures::future::select_all(all).await;
        drop(rest);
        if ended.is_err() {
            std::future::pending().await
        }
    }

    /// What is wrong with reaching a repository, though what was seen before goes on.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.followed.iter().find_map(|(_, _, known)| Some(known.borrow().error.as_ref()?.to_string()))
    }

    /// The commits that are wanted now.
    pub(crate) fn resolve(&self) -> Result<Vec<Resolved>, NoTarget> {
        let one = |(source, _, known): &(Source, Arc<Repository>, watch::Receiver<Arc<Known>>)| {
            let known = known.borrow();
            let Some(refs) = &known.refs else {
                let said = known.error.as_ref().map(ToString::to_string);
                return Err(said.map_or(NoTarget::NotYet, NoTarget::Later));
            };
            refs.resolve(&source.wanted).map_err(|reason| {
                let shown = crate::sync::git::shown(&source.url);
                NoTarget::Later(format!("{shown} has no revision {:?}: {reason}", wanted(source)))
            })
        };
        self.followed.iter().map(one).collect()
    }

    /// The commits that are wanted, with another revision of the first source.
    pub(crate) fn resolve_at(&self, revision: &str) -> Result<Vec<Resolved>, NoTarget> {
        let mut all = self.resolve()?;
        let Some((source, _, known)) = self.followed.first() else { return Ok(all) };
        let known = known.borrow();
        let Some(refs) = &known.refs else { return Err(NoTarget::NotYet) };
        all[0] = refs.resolve(&Wanted::Any(revision.to_owned())).map_err(|reason| {
            let shown = crate::sync::git::shown(&source.url);
            NoTarget::Later(format!("{shown} has no revision {revision:?}: {reason}"))
        })?;
        Ok(all)
    }

    /// Fetches and renders commits.
    pub(crate) async fn render(
        &self,
        shared: &Shared,
        application: &Application,
        resolved: &[Resolved],
    ) -> Result<Rendered, NoTarget> {
        let content = content(application, resolved);
        let wrong = |reason: String| NoTarget::Wrong(Some(content.clone()), reason);
        let mut objects = Vec::new();
        let mut made = Made::Directory;
        let mut first: Option<Commit> = None;
        let (mut orders, mut programs) = (Vec::new(), BTreeSet::new());
        for ((source, repository, known), resolved) in self.followed.iter().zip(resolved) {
            let credential = known.borrow().credential.clone();
            let commit = obtain(repository, resolved, &credential).await.map_err(NoTarget::Later)?;
            verify(shared, source, repository, &commit).await.map_err(wrong)?;
            let values = values(shared, application, source).await.map_err(NoTarget::Later)?;
            let mut read = read(shared, source, repository, &commit, &values).await.map_err(wrong)?;
            if let (Some(tree), true) = (read.tree.take(), builds(shared, application, source)) {
                let (named, images) = resolve(shared, application, &tree, &mut read.objects).map_err(wrong)?;
                programs.extend(named);
                if !images.is_empty() {
                    orders.push(Order { repository: Arc::clone(repository), tree: Arc::new(tree), images });
                }
            }
            objects.extend(read.objects);
            made = read.made;
            first.get_or_insert(commit);
        }
        crate::fault::point("push.rendered");
        if !orders.is_empty() {
            return Err(NoTarget::Make(content, orders));
        }
        let commit = first.map_or(
            Value::Null,
            |commit| json!({ "author": commit.author, "date": commit.date, "message": commit.message }),
        );
        let flux_revision = resolved.first().map(Resolved::flux_revision).unwrap_or_default();
        Ok(Rendered { content, objects: Arc::new(objects), made, commit, flux_revision, programs })
    }

    /// The commits of a content that was there before, where it was built as it is now.
    pub(crate) fn again(&self, application: &Application, content: &Content) -> Option<Vec<Resolved>> {
        let commit = |one: &String| Resolved { commit: one.clone(), reference: Reference::Commit };
        let resolved: Vec<Resolved> = content.revisions.iter().map(commit).collect();
        (self::content(application, &resolved) == *content).then_some(resolved)
    }
}

fn wanted(source: &Source) -> String {
    match &source.wanted {
        Wanted::Any(text)
        | Wanted::Branch(text)
        | Wanted::Tag(text)
        | Wanted::Semver(text)
        | Wanted::Name(text)
        | Wanted::Commit(text) => text.clone(),
    }
}

/// The content that commits make with all that an application says of them.
pub(crate) fn content(application: &Application, resolved: &[Resolved]) -> Content {
    let mut digest = Sha256::new();
    for source in &application.sources {
        digest.update(format!("{} {} {:?}", source.url, source.path, source.build));
    }
    digest.update(format!("{} {:?} {:?}", application.namespace, application.policy.options, application.account));
    let parameters = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Content { revisions: resolved.iter().map(|one| one.commit.clone()).collect(), parameters }
}

async fn obtain(repository: &Repository, resolved: &Resolved, credential: &Credential) -> Result<Commit, String> {
    repository.mirror.obtain(resolved, credential).await.map_err(|error| error.to_string())
}

async fn verify(shared: &Shared, source: &Source, repository: &Repository, commit: &Commit) -> Result<(), String> {
    let Some((namespace, name)) = &source.verify else { return Ok(()) };
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    let secret =
        shared.api.get(&path).await.map_err(|error| format!("cannot read the keys that may sign commits: {error}"))?;
    let keys = Keys::of(decoded(&secret).into_values());
    match repository.mirror.verify(&commit.sha, &keys).await.map_err(|error| error.to_string())? {
        Verdict::Good(_) => Ok(()),
        Verdict::Bad(why) => Err(format!(
            "commit {} is refused: it is not signed by one of the keys in Secret {name}: {why}",
            &commit.sha[..12.min(commit.sha.len())]
        )),
    }
}

/// The variables that are put into manifests.
async fn values(
    shared: &Shared,
    application: &Application,
    source: &Source,
) -> Result<BTreeMap<String, String>, String> {
    let Some(substitute) = &source.build.substitute else { return Ok(BTreeMap::new()) };
    let mut values = BTreeMap::new();
    for (kind, name, optional) in &substitute.from {
        let plural = match kind.as_str() {
            "ConfigMap" => "configmaps",
            "Secret" => "secrets",
            other => return Err(format!("spec.postBuild.substituteFrom: {other:?} is neither ConfigMap nor Secret")),
        };
        let path = format!("/api/v1/namespaces/{}/{plural}/{name}", application.id.namespace);
        match shared.api.find(&path).await.map_err(|error| error.to_string())? {
            Some(object) if kind == "Secret" => values.extend(decoded(&object)),
            Some(object) => {
                let data = object["data"].as_object().into_iter().flatten();
                values.extend(data.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))));
            }
            None if *optional => {}
            None => {
                return Err(format!(
                    "spec.postBuild.substituteFrom: there is no {kind} {name} in {}",
                    application.id.namespace
                ));
            }
        }
    }
    // What is written in the Kustomization itself counts most.
    values.extend(substitute.values.clone());
    Ok(values)
}

/// A directory that goes when dropped.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What was read of one source.
struct Read {
    objects: Vec<Value>,
    made: Made,
    /// What programs can be made of, where there are recipes.
    tree: Option<Tree>,
}

/// Whether the recipes of a source are built.
fn builds(shared: &Shared, application: &Application, source: &Source) -> bool {
    application.build.unwrap_or_else(|| here::is_here(&source.url, shared.remote.get()))
}

/// Writes the digests of a commit's programs into the objects; all of them, and the images whose programs are not there yet.
fn resolve(
    shared: &Shared,
    application: &Application,
    tree: &Tree,
    objects: &mut [Value],
) -> Result<(BTreeMap<String, String>, BTreeSet<String>), String> {
    let Some(made) = &shared.programs else { return Ok(Default::default()) };
    let images = programs::images(objects);
    let digests = made.digests(tree, &images)?;
    programs::stamp(objects, &digests, &application.policy.options);
    let missing = digests.iter().filter(|(image, digest)| !made.has(image, digest));
    let missing = missing.map(|(image, _)| image.clone()).collect();
    Ok((digests, missing))
}

async fn read(
    shared: &Shared,
    source: &Source,
    repository: &Repository,
    commit: &Commit,
    values: &BTreeMap<String, String>,
) -> Result<Read, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let scratch = Scratch(shared.trees.join(name));
    let export =
        repository.mirror.export(&commit.sha, &source.path, &scratch.0).await.map_err(|error| error.to_string())?;
    let tree = if shared.programs.is_some() { tree(source, commit, &export) } else { None };
    let (root, source, values) = (export.root.clone(), source.clone(), values.clone());
    // Building reads files and may take its time.
    let built = tokio::task::spawn_blocking(move || manifests::read(&root, &source, &values)).await;
    let outcome = built.unwrap_or_else(|error| Err(format!("building the manifests broke: {error}")));
    let (objects, made) = outcome.map_err(|reason| match export.left_out.first() {
        Some(left) => format!("{reason} (left out of the repository: {}: {})", left.path, left.reason),
        None => reason,
    })?;
    Ok(Read { objects, made, tree })
}

/// The commit as programs are made of it, where it has recipes.
fn tree(source: &Source, commit: &Commit, export: &Export) -> Option<Tree> {
    let parts: Vec<&str> = source.path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let manifests = parts.join("/");
    let recipe = programs::places(&manifests).into_iter().find(|place| export.files.contains_key(place))?;
    let text = std::fs::read_to_string(export.root.join(&recipe)).ok()?;
    let (repository, commit) = (source.url.clone(), commit.sha.clone());
    Some(Tree { repository, commit, manifests, recipe, text, files: export.files.clone() })
}
