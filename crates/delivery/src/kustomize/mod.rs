//! Kustomize: plain manifests, overlaid. A folder with a `kustomization.yaml` becomes a list of objects.
//!
//! Invariants: the result depends on the files alone; what is given out is what `kubectl kustomize` gives, byte for byte
//! once written by [`to_yaml`]; what is not supported is refused by its name; reading is bounded and never leaves the
//! folder's own tree.
//!
//! It must not know: any API, or what becomes of the objects.

mod config;
mod defaults;
mod error;
mod fieldpath;
mod fields;
mod fieldspec;
mod files;
mod folding;
mod generate;
mod id;
mod jsonpatch;
mod load;
mod merge;
mod names;
mod node;
mod order;
mod origin;
mod patch;
mod plugins;
mod read;
mod remote;
mod replace;
mod resource;
mod resources;
mod scalar;
mod schema;
mod selector;
mod settings;
mod steps;
mod target;
mod transform;
mod vars;
mod write;

pub use error::Error;
pub use files::{Disk, FILE_LIMIT, Files};
pub use write::to_yaml;

use error::At;
use serde_json::Value;
use std::path::Path;

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Refuse everything that would reach for the network (remote bases and files).
    pub offline: bool,
}

/// The names under which a kustomization may be written, in the order in which they are looked for.
pub const FILE_NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Whether a folder on disk holds a kustomization.
pub fn is_kustomization(dir: &Path) -> bool {
    FILE_NAMES.iter().any(|name| dir.join(name).is_file())
}

/// Builds the kustomization in a folder on disk. The objects come in the order in which kubectl prints them.
pub fn build(dir: &Path, options: &Options) -> Result<Vec<Value>, Error> {
    build_from(&Disk, dir, options)
}

/// Builds the kustomization in a folder of any tree of files.
pub fn build_from(files: &dyn Files, dir: &Path, options: &Options) -> Result<Vec<Value>, Error> {
    let resources = target::build(load::Loader::new(files, dir, options)?)?;
    resources.iter().map(|resource| resource.node.to_json().at(|| resource.id().to_string())).collect()
}
