//! Reads what a kustomization names, and nothing beyond its own folder.
//!
//! Invariants: a file is in or below the folder of the kustomization that names it, links followed; a base is never a folder
//! that is being built already, nor one above; what came from a repository stays within it. Each rule is checked on the
//! canonical path. It must not know: YAML.

use super::Options;
use super::error::{At, Error, Result, fail};
use super::files::{Disk, Files, join};
use super::read::utf8;
use super::remote::{self, Repository, Spec};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where one kustomization reads from.
pub(super) struct Loader<'a> {
    files: &'a dyn Files,
    root: PathBuf,
    /// The repository's folder, and how it was named, when this is its entry.
    repository: Option<(PathBuf, String)>,
    parent: Option<Rc<Loader<'a>>>,
    shared: Rc<Shared>,
}

/// What all loaders of a build have in common.
#[derive(Default)]
struct Shared {
    offline: bool,
    /// Clones live as long as the build.
    clones: RefCell<Vec<(Spec, Rc<Repository>)>>,
}

static DISK: Disk = Disk;

impl<'a> Loader<'a> {
    /// The loader of the folder to build.
    pub(super) fn new(files: &'a dyn Files, dir: &Path, options: &Options) -> Result<Rc<Self>> {
        let unreadable = |error| Error::new(format!("cannot read the folder {}: {error}", dir.display()));
        let root = files.canonical(dir).map_err(unreadable)?;
        if !files.is_dir(&root) {
            return fail(format!("{} is not a folder; name the folder that holds the kustomization", dir.display()));
        }
        let shared = Rc::new(Shared { offline: options.offline, ..Shared::default() });
        Ok(Rc::new(Self { files, root, repository: None, parent: None, shared }))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a file is there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.locate(path).is_ok()
    }

    /// Whether a path names a folder or a repository.
    pub(super) fn is_base(&self, path: &str) -> bool {
        if matches!(Spec::parse(path), Ok(None)) { self.files.is_dir(&join(&self.root, path)) } else { !self.has(path) }
    }

    /// A file's text.
    pub(super) fn text(&self, path: &str) -> Result<String> {
        self.bytes(path).and_then(utf8).at(|| path.to_owned())
    }

    /// A file's content.
    pub(super) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        if remote::is_url(path) {
            self.online(path)?;
            return remote::download(path);
        }
        let file = self.locate(path)?;
        self.files.read(&file).map_err(|error| Error::new(format!("cannot read {}: {error}", file.display())))
    }

    fn locate(&self, path: &str) -> Result<PathBuf> {
        let wanted = join(&self.root, path);
        let file = self
            .files
            .canonical(&wanted)
            .map_err(|error| Error::new(format!("cannot read {}: {error}", wanted.display())))?;
        if self.files.is_dir(&file) {
            return fail(format!("{} is a folder, where a file is wanted", wanted.display()));
        }
        if !file.starts_with(&self.root) {
            let root = self.root.display();
            return fail(format!(
                "{} is outside {root}; a kustomization reads only files below its own folder",
                file.display()
            ));
        }
        Ok(file)
    }

    fn online(&self, what: &str) -> Result<()> {
        if self.shared.offline {
            return fail(format!("{what} is on the network, and this build may not use it"));
        }
        Ok(())
    }

    /// The loader of a base or component: a folder, or a repository's.
    pub(super) fn enter(self: &Rc<Self>, path: &str) -> Result<Rc<Self>> {
        if path.is_empty() {
            return fail("an empty path names nothing; take it out");
        }
        if let Some(spec) = Spec::parse(path)? {
            return self.enter_repository(path, spec);
        }
        if Path::new(path).is_absolute() {
            return fail(format!("{path} is absolute; name the folder relative to the kustomization"));
        }
        let wanted = join(&self.root, path);
        let root = self
            .files
            .canonical(&wanted)
            .map_err(|error| Error::new(format!("cannot read the folder {}: {error}", wanted.display())))?;
        if !self.files.is_dir(&root) {
            return fail(format!("{} is not a folder", wanted.display()));
        }
        if let Some(repository) = self.lineage().find_map(|loader| loader.repository.as_ref())
            && !root.starts_with(&repository.0)
        {
            return fail(format!("{} is outside the repository it was named in", root.display()));
        }
        if let Some(loader) = self.lineage().find(|loader| loader.root.starts_with(&root)) {
            return fail(format!(
                "{} contains {}, which is being built already; a base cannot be its overlay's own folder or one above",
                root.display(),
                loader.root.display()
            ));
        }
        let (files, shared) = (self.files, self.shared.clone());
        Ok(Rc::new(Self { files, root, repository: None, parent: Some(self.clone()), shared }))
    }

    fn lineage(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |loader| loader.parent.as_deref())
    }

    fn enter_repository(self: &Rc<Self>, path: &str, spec: Spec) -> Result<Rc<Self>> {
        let again = |loader: &Self| loader.repository.as_ref().is_some_and(|(_, named)| named.starts_with(path));
        if self.lineage().any(again) {
            return fail(format!("{path} is being built already"));
        }
        self.online(path)?;
        let repository = self.clone_of(spec.clone())?;
        let folder = repository.folder().to_owned();
        let wanted = folder.join(&spec.path);
        let root = DISK
            .canonical(&wanted)
            .map_err(|_| Error::new(format!("there is no folder {} in {}", spec.path, spec.repository)))?;
        if !DISK.is_dir(&root) || !root.starts_with(&folder) {
            return fail(format!("{} in {} is not a folder of the repository", spec.path, spec.repository));
        }
        Ok(Rc::new(Self {
            files: &DISK,
            root,
            repository: Some((folder, path.to_owned())),
            parent: Some(self.clone()),
            shared: self.shared.clone(),
        }))
    }

    fn clone_of(&self, spec: Spec) -> Result<Rc<Repository>> {
        let mut clones = self.shared.clones.borrow_mut();
        if let Some((_, clone)) = clones.iter().find(|(known, _)| known.same_commit(&spec)) {
            return Ok(clone.clone());
        }
        let clone = Rc::new(Repository::fetch(&spec)?);
        clones.push((spec, clone.clone()));
        Ok(clone)
    }
}
