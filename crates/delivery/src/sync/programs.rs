//! Programs of commits, as far as the sync knows of them: which images a commit's recipes make, and what stands in manifests for
//! them.
//!
//! Recipes, builds and where programs are kept are another role's affair, which [`Programs`] stands for. An image whose program a
//! commit makes is written with that program's digest, as an image of a registry would be, so that a new program rolls out though
//! no manifest changed, and an unchanged one does not.
//!
//! It must not know: what a recipe says, or how programs run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::application::Options;
use super::engine::steps::HOOK;
use crate::object;

/// The file with recipes.
pub const RECIPES: &str = "coracle.yaml";
/// The annotation of an Application or Kustomization that says whether recipes are built (`enabled`, `disabled`). Where it says nothing,
/// those of repositories on this machine are: others' commands are not run for naming their URL.
pub const BUILD: &str = "coracle.dev/build";

/// The files of one commit. Paths are from the repository's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Which repository it is.
    pub repository: String,
    /// Which commit it is.
    pub commit: String,
    /// The directory of the manifests; empty for the root.
    pub manifests: String,
    /// The recipe file.
    pub recipe: String,
    /// What is written in it.
    pub text: String,
    /// Every file, with the name of its content.
    pub files: BTreeMap<String, String>,
}

/// Takes the lines of a build.
pub type Say = Box<dyn FnMut(String) + Send>;

/// Makes programs of commits and keeps them.
pub trait Programs: Send + Sync {
    /// The digest of each of these images (as manifests write them) that has a recipe.
    ///
    /// # Errors
    ///
    /// A sentence, where the recipe file is wrong.
    fn digests(&self, tree: &Tree, images: &BTreeSet<String>) -> Result<BTreeMap<String, String>, String>;

    /// Whether a program is there.
    fn has(&self, image: &str, digest: &str) -> bool;

    /// A directory for a commit that is not there yet.
    fn room(&self, commit: &str) -> PathBuf;

    /// Makes the programs of these images in a directory that the commit was written to. Dropped midway or failing, nothing is left.
    fn make(
        &self,
        tree: Arc<Tree>,
        images: BTreeSet<String>,
        directory: PathBuf,
        say: Say,
    ) -> BoxFuture<'static, Result<(), String>>;

    /// Lets go of what is neither in use (by digest) nor new.
    fn keep(&self, used: &BTreeSet<String>);
}

/// Where recipes may stand: beside the manifests, or at the repository's root.
pub(crate) fn places(manifests: &str) -> Vec<String> {
    let mut all = vec![RECIPES.to_owned()];
    if !manifests.is_empty() {
        all.insert(0, format!("{manifests}/{RECIPES}"));
    }
    all
}

/// The images of these objects.
pub(crate) fn images(objects: &mut [Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for object in objects {
        each_image(object, &mut |image| {
            found.extend(image.as_str().map(str::to_owned));
        });
    }
    found
}

/// Writes the digests to the images.
pub(crate) fn stamp(objects: &mut [Value], digests: &BTreeMap<String, String>, options: &Options) {
    for object in objects {
        if !may_change(object, options) {
            continue;
        }
        each_image(object, &mut |image| {
            let Some(text) = image.as_str() else { return };
            if let Some(digest) = digests.get(text) {
                let name = text.split('@').next().unwrap_or(text);
                *image = format!("{name}@{digest}").into();
            }
        });
    }
}

/// A Job's template and a Pod cannot change once they are there, so a digest would refuse the commit after the next. Hooks are made anew, and
/// what is replaced by force.
fn may_change(object: &Value, options: &Options) -> bool {
    if !matches!(object::kind(object), "Job" | "Pod") || object::annotation(object, HOOK).is_some() {
        return true;
    }
    let own = options.for_object(object);
    own.replace && own.force
}

fn each_image(object: &mut Value, act: &mut impl FnMut(&mut Value)) {
    let place = match (object::group(object), object::kind(object)) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") => "/spec/template/spec",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template/spec",
        ("", "Pod") => "/spec",
        _ => return,
    };
    let Some(spec) = object.pointer_mut(place) else { return };
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(image) = container.get_mut("image") {
                act(image);
            }
        }
    }
}

/// The digests that objects of these lists name.
pub(crate) fn digests_in(objects: &mut [Value]) -> BTreeSet<String> {
    images(objects).iter().filter_map(|image| Some(image.split_once('@')?.1.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_get_the_digests_of_their_programs() {
        let workload = |api: &str, kind: &str, annotations: Value| {
            json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "x", "annotations": annotations },
                "spec": { "template": { "spec": { "initContainers": [{ "image": "shop/a:1" }],
                    "containers": [{ "image": "redis:7" }, { "image": "shop/a@sha256:old" }] } } } })
        };
        let digests = BTreeMap::from([("shop/a:1", "sha256:1"), ("shop/a@sha256:old", "sha256:1")]);
        let digests = digests.into_iter().map(|(image, digest)| (image.to_owned(), digest.to_owned())).collect();
        for (kind, annotations, stamped) in [
            ("Deployment", json!({}), true),
            ("StatefulSet", json!({}), true),
            ("Job", json!({}), false),
            ("Job", json!({ HOOK: "PreSync" }), true),
            ("Job", json!({ "argocd.argoproj.io/sync-options": "Force=true,Replace=true" }), true),
            ("Job", json!({ "argocd.argoproj.io/sync-options": "Replace=true" }), false),
        ] {
            let api = if kind == "Job" { "batch/v1" } else { "apps/v1" };
            let mut all = [workload(api, kind, annotations.clone())];
            assert_eq!(images(&mut all).len(), 3);
            stamp(&mut all, &digests, &Options::default());
            let spec = &all[0]["spec"]["template"]["spec"];
            let wanted = if stamped { "shop/a:1@sha256:1" } else { "shop/a:1" };
            assert_eq!(spec["initContainers"][0]["image"], wanted, "{kind} {annotations}");
            assert_eq!(spec["containers"][0]["image"], "redis:7");
            let wanted = if stamped { "shop/a@sha256:1" } else { "shop/a@sha256:old" };
            assert_eq!(spec["containers"][1]["image"], wanted, "{kind} {annotations}");
        }
    }

    #[test]
    fn recipes_stand_beside_the_manifests_or_at_the_root() {
        assert_eq!(places("deploy"), ["deploy/coracle.yaml", "coracle.yaml"]);
        assert_eq!(places(""), ["coracle.yaml"]);
    }
}
