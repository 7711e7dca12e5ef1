//! Recipes: what an image means on this machine, as `coracle.yaml` beside the manifests says it under `images:`.
//!
//! Invariants: a file is taken whole or refused whole, with the line of what is wrong; an image is looked up by its name
//! alone, so that a tag in a manifest never matters here; a digest does where a [`Shelf`] has programs of that name.
//!
//! It must not know Pods: merging a recipe with a container's own `command` is `container::launch`'s affair.

mod build;
mod digest;
mod fingerprint;
mod name;
mod shelf;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

pub use build::{BuildFailed, BuildProgress};
pub use digest::Tree;
pub(crate) use name::image_name;
pub(crate) use shelf::{Found, Lease};
pub use shelf::{MakeError, Shelf};

/// The name of the file that holds recipes.
pub const FILE: &str = "coracle.yaml";

/// How one image is run as a process of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The image's name, without tag.
    pub name: String,
    /// What an image's entrypoint is: a container's `command` replaces it.
    pub command: Vec<String>,
    /// What an image's default arguments are: a container's `args` (or `command`) replace them.
    pub args: Vec<String>,
    /// The directory that the program starts in, absolute.
    pub working_dir: PathBuf,
    /// Environment that every container of this image gets, below the container's own.
    pub env: BTreeMap<String, String>,
    /// The shell command that makes the program, if it must be made.
    pub build: Option<String>,
    /// The paths (or globs) that the build depends on; empty = not known, so the build runs every time.
    pub inputs: Vec<String>,
}

/// The recipes of one `coracle.yaml`. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recipes {
    images: Arc<BTreeMap<String, Recipe>>,
    file: Option<Arc<Path>>,
}

/// Why a `coracle.yaml` was refused.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}:{line}:{column}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A recipe can't work as written.
    #[error("{path}: images.\"{image}\": {message}")]
    Recipe {
        /// The file.
        path: PathBuf,
        /// Which recipe.
        image: String,
        /// What is wrong and what to write instead.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    images: Option<BTreeMap<String, Option<Written>>>,
}

/// A recipe as users write it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    working_dir: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    build: Option<String>,
    #[serde(default)]
    inputs: Vec<String>,
}

impl Recipes {
    /// No recipes at all: only `coracle.dev/host` runs.
    pub fn empty() -> Self {
        Recipes::default()
    }

    /// Reads a `coracle.yaml`. Paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let read = |source| RecipeError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let absolute = std::path::absolute(path).map_err(read)?;
        Recipes::parse(&text, &absolute)
    }

    /// As [`Recipes::load`], from text that was read already.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let file = if text.trim().is_empty() {
            File { images: None }
        } else {
            serde_saphyr::from_str::<File>(text).map_err(|error| refused(path, &error))?
        };
        let mut images = BTreeMap::new();
        for (key, written) in file.images.unwrap_or_default() {
            let recipe = written.unwrap_or_default().check(&key, directory, path)?;
            images.insert(recipe.name.clone(), recipe);
        }
        Ok(Recipes { images: Arc::new(images), file: Some(Arc::from(path)) })
    }

    /// The recipe of an image; its tag and digest are ignored.
    pub fn lookup(&self, image: &str) -> Option<&Recipe> {
        self.images.get(&image_name(image))
    }

    /// The names of all images that have a recipe.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// The file that they were read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl Written {
    fn check(self, key: &str, directory: &Path, path: &Path) -> Result<Recipe, RecipeError> {
        let wrong = |message: String| RecipeError::Recipe { path: path.to_owned(), image: key.to_owned(), message };
        let name = image_name(key);
        if name.is_empty() {
            return Err(wrong("the image's name is empty".to_owned()));
        }
        if name::has_tag(key) {
            return Err(wrong(format!(
                "recipes are keyed by the image's name without tag or digest; write \"{name}\""
            )));
        }
        if name == resources::names::HOST_IMAGE {
            return Err(wrong(
                "this image is the host's own programs and takes no recipe; choose another name".to_owned(),
            ));
        }
        if self.command.first().is_some_and(String::is_empty) {
            return Err(wrong("command: the program's name is empty".to_owned()));
        }
        if let Some(bad) = self.env.keys().find(|k| k.is_empty() || k.contains(['=', '\0'])) {
            return Err(wrong(format!("env: \"{bad}\" is no name of an environment variable")));
        }
        if !self.inputs.is_empty() && self.build.is_none() {
            return Err(wrong("inputs say when to build again, but there is no build".to_owned()));
        }
        Ok(Recipe {
            name,
            command: self.command,
            args: self.args,
            working_dir: normal(&directory.join(self.working_dir.unwrap_or_default())),
            env: self.env,
            build: self.build.filter(|b| !b.trim().is_empty()),
            inputs: self.inputs,
        })
    }
}

/// Takes `.` and `..` out of a path, without asking the file system.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

fn refused(path: &Path, error: &serde_saphyr::Error) -> RecipeError {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let text = error.without_snippet().to_string();
    RecipeError::Invalid { path: path.to_owned(), line, column, message: text }
}

#[cfg(test)]
mod tests;
