//! What a container's spec and its image's recipe come to: a command, in a place, with an environment. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use crate::env::expand;
use crate::recipe::{Found, Lease, Recipe, Recipes, Shelf, image_name};

/// Why a container can't be started as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// As upstream names it: ErrImagePull, CreateContainerConfigError, CreateContainerError.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refused {
    /// What refers to something that is not there or not right.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Refused { reason: "CreateContainerConfigError", message: message.into() }
    }
}

/// The recipe of a container's image; `None` for the host's own programs. A program of a commit is meant by its digest; without
/// one the recipes that Coracle was started with go first.
///
/// Whoever runs it keeps the lease for as long.
pub(crate) fn recipe(
    container: &Container,
    recipes: &Recipes,
    shelf: &Shelf,
) -> Result<Option<(Recipe, Lease)>, Refused> {
    let image = container.image.as_deref().unwrap_or_default();
    if image_name(image) == resources::names::HOST_IMAGE {
        return Ok(None);
    }
    let known = recipes.lookup(image);
    if let Some(recipe) = known.filter(|_| !image.contains('@')) {
        return Ok(Some((recipe.clone(), Lease::default())));
    }
    let found = shelf.lookup(image);
    if let Found::Program(recipe, lease) = found {
        return Ok(Some((*recipe, lease)));
    }
    let reason = match container.image_pull_policy.as_deref() {
        Some("Never") => "ErrImageNeverPull",
        _ => "ErrImagePull",
    };
    if matches!(found, Found::Gone) {
        let message = format!(
            "the program of image \"{image}\" is not kept any more: only the newest of each repository are, and those that Pods \
             use; push or sync the commit again, which builds it"
        );
        return Err(Refused { reason, message });
    }
    if let Some(recipe) = known {
        return Ok(Some((recipe.clone(), Lease::default())));
    }
    let file = recipes.file().unwrap_or(Path::new(crate::recipe::FILE));
    let message = format!(
        "image \"{image}\" has no recipe here: say how to run it under `images:` in {}, as \"{}\" with a `command`, or use \
         the image {} with a `command` of this machine",
        file.display(),
        image_name(image),
        resources::names::HOST_IMAGE,
    );
    Err(Refused { reason, message })
}

/// How an image's recipe is told in a status.
pub(crate) fn image_id(recipe: Option<&Recipe>) -> String {
    recipe.map_or_else(|| format!("host://{}", resources::names::HOST_IMAGE), |r| format!("recipe://{}", r.name))
}

/// The command line: a container's `command` takes the place of the recipe's `command` and `args`, its `args` of the recipe's
/// `args` alone.
pub(crate) fn command(
    container: &Container,
    recipe: Option<&Recipe>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<String>, Refused> {
    let own = container.command.as_deref().filter(|c| !c.is_empty());
    let own_args = container.args.as_deref().filter(|a| !a.is_empty());
    let from = |part: fn(&Recipe) -> &[String]| recipe.map(part).unwrap_or_default();
    let program = own.unwrap_or_else(|| from(|r| &r.command));
    let args = match (own_args, own) {
        (Some(args), _) => args,
        (None, Some(_)) => &[],
        (None, None) => from(|r| &r.args),
    };
    let line: Vec<String> = program.iter().chain(args).map(|w| expand(w, &|name| env.get(name).cloned())).collect();
    if program.is_empty() {
        let message = match recipe {
            Some(recipe) => format!(
                "no command specified: give the container a `command`, or the recipe images.\"{}\" one",
                recipe.name
            ),
            None => format!(
                "no command specified: the image {} needs the container's `command`",
                resources::names::HOST_IMAGE
            ),
        };
        return Err(Refused { reason: "CreateContainerError", message });
    }
    Ok(line)
}

/// Where the program starts.
pub(crate) fn working_dir(container: &Container, recipe: Option<&Recipe>) -> PathBuf {
    match container.working_dir.as_deref().filter(|d| !d.is_empty()) {
        Some(own) => PathBuf::from(own),
        None => recipe.map_or_else(|| PathBuf::from("/"), |r| r.working_dir.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: serde_json::Value) -> Container {
        let mut value = value;
        value["name"] = json!("c");
        serde_json::from_value(value).expect("a container")
    }

    fn recipes() -> Recipes {
        let text =
            "images:\n  shop/a:\n    command: [run, a]\n    args: [-v, $(PORT)]\n    workingDir: bin\n  bare: {}\n";
        Recipes::parse(text, Path::new("/w/coracle.yaml")).expect("valid")
    }

    #[test]
    fn a_containers_own_words_come_first() {
        let env = BTreeMap::from([("PORT".to_owned(), "41000".to_owned())]);
        let recipes = recipes();
        for (spec, expected) in [
            (json!({"image": "shop/a:1"}), vec!["run", "a", "-v", "41000"]),
            (json!({"image": "shop/a", "args": ["-q"]}), vec!["run", "a", "-q"]),
            (json!({"image": "shop/a", "command": ["other"]}), vec!["other"]),
            (
                json!({"image": "shop/a", "command": ["other"], "args": ["$(PORT)", "$$(PORT)"]}),
                vec!["other", "41000", "$(PORT)"],
            ),
            (json!({"image": "coracle.dev/host", "command": ["sleep", "1"]}), vec!["sleep", "1"]),
        ] {
            let container = container(spec.clone());
            let recipe = recipe(&container, &recipes, &Shelf::default()).expect("known").unzip().0;
            assert_eq!(command(&container, recipe.as_ref(), &env).expect("a command"), expected, "{spec}");
        }
        let known = container(json!({"image": "shop/a"}));
        let found = recipe(&known, &recipes, &Shelf::default()).expect("known").unzip().0;
        assert_eq!(working_dir(&known, found.as_ref()), Path::new("/w/bin"));
    }

    #[test]
    fn what_can_not_run_names_the_ways_out() {
        let recipes = recipes();
        let unknown =
            recipe(&container(json!({"image": "shop/b:2"})), &recipes, &Shelf::default()).expect_err("unknown");
        assert_eq!(unknown.reason, "ErrImagePull");
        for part in ["shop/b:2", "images:", "/w/coracle.yaml", "coracle.dev/host"] {
            assert!(unknown.message.contains(part), "{}", unknown.message);
        }
        let never =
            recipe(&container(json!({"image": "shop/b", "imagePullPolicy": "Never"})), &recipes, &Shelf::default());
        assert_eq!(never.expect_err("unknown").reason, "ErrImageNeverPull");
        for image in ["coracle.dev/host", "bare"] {
            let container = container(json!({"image": image}));
            let recipe = recipe(&container, &recipes, &Shelf::default()).expect("known").unzip().0;
            assert_eq!(
                command(&container, recipe.as_ref(), &BTreeMap::new()).expect_err("none").reason,
                "CreateContainerError"
            );
        }
    }
}
