//! Manifests from where they are: a file, a directory, stdin, or a kustomization.
//!
//! Invariants: what is wrong in any file refuses the whole, and all that is wrong is said at once; the same object twice
//! is wrong. A directory with a kustomization is built by it, and never read as loose files as well.

use crate::kustomize;
use crate::object::{self, ObjectId};
use rules::decode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest manifest file that is read, bytes.
const FILE_LIMIT: u64 = 64 * 1024 * 1024;
/// The most files that a directory may hold.
const FILES_LIMIT: usize = 20_000;

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifests are wrong; every problem with its file.
    #[error("{} wrong, and nothing was changed:\n  {}", if .0.len() == 1 { "this is" } else { "these are" }, .0.join("\n  "))]
    Wrong(Vec<String>),
    /// The kustomization cannot be built.
    #[error("cannot build the kustomization in {}: {reason}", path.display())]
    Kustomization {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Renders one source: a directory (with or without a kustomization), a file, or `-` for stdin.
///
/// # Errors
/// See [`RenderError`].
pub fn render(path: &Path) -> Result<Vec<Value>, RenderError> {
    render_all(&[path.to_owned()])
}

/// Renders several sources into one set.
///
/// # Errors
/// See [`RenderError`].
pub fn render_all(paths: &[PathBuf]) -> Result<Vec<Value>, RenderError> {
    let mut read = Reader::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            let taken = std::io::stdin().take(FILE_LIMIT).read_to_string(&mut text);
            taken.map_err(|source| RenderError::Unreadable { path: path.clone(), source })?;
            read.document("stdin", &text);
            continue;
        }
        if kustomize::is_kustomization(path) {
            let source = path.display().to_string();
            built(path)?.into_iter().for_each(|object| read.object(&source, object));
            continue;
        }
        for file in files(path)? {
            let shown = file.strip_prefix(path).ok().filter(|p| !p.as_os_str().is_empty()).unwrap_or(&file);
            read.document(&shown.display().to_string(), &read_file(&file)?);
        }
    }
    read.finish()
}

fn built(path: &Path) -> Result<Vec<Value>, RenderError> {
    let refused =
        |error: kustomize::Error| RenderError::Kustomization { path: path.to_owned(), reason: error.to_string() };
    kustomize::build(path, &kustomize::Options::default()).map_err(refused)
}

#[derive(Default)]
struct Reader {
    objects: Vec<Value>,
    problems: Vec<String>,
    seen: BTreeMap<ObjectId, String>,
}

impl Reader {
    fn document(&mut self, source: &str, text: &str) {
        let documents = match decode::documents(text) {
            Ok(documents) => documents,
            Err(error) => return self.problems.push(format!("{source}: {error}")),
        };
        for document in documents {
            self.problems.extend(document.duplicates.iter().map(|duplicate| format!("{source}: {duplicate}")));
            match document.value {
                Value::Null => {}
                mut list
                    if list["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && list["items"].is_array() =>
                {
                    if let Value::Array(items) = list["items"].take() {
                        items.into_iter().for_each(|item| self.object(source, item));
                    }
                }
                object => self.object(source, object),
            }
        }
    }

    fn object(&mut self, source: &str, object: Value) {
        if object::api_version(&object).is_empty() || object::kind(&object).is_empty() {
            let what = format!("{source}: a document has no apiVersion or no kind, so it is no Kubernetes object");
            return self.problems.push(what);
        }
        let id = ObjectId::of(&object);
        if id.name.is_empty() {
            let more = if object["metadata"]["generateName"].is_string() {
                "; generateName makes a new object each time, which no plan can follow"
            } else {
                ""
            };
            return self.problems.push(format!("{source}: a {} has no metadata.name{more}", id.kind));
        }
        if let Some(earlier) = self.seen.insert(id.clone(), source.to_owned()) {
            self.problems.push(format!("{source}: {id} is also in {earlier}"));
        }
        self.objects.push(object);
    }

    fn finish(self) -> Result<Vec<Value>, RenderError> {
        if self.problems.is_empty() { Ok(self.objects) } else { Err(RenderError::Wrong(self.problems)) }
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, RenderError> {
    let unreadable = |source: std::io::Error| RenderError::Unreadable { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // Recipes stand beside manifests and are none.
        if manifest && file.file_name().is_none_or(|name| name != "coracle.yaml") && file.is_file() {
            found.push(file);
        }
    }
    if found.len() > FILES_LIMIT {
        let many = format!("{} holds more than {FILES_LIMIT} manifest files", path.display());
        return Err(RenderError::Wrong(vec![many]));
    }
    found.sort();
    Ok(found)
}

fn read_file(file: &Path) -> Result<String, RenderError> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(FILE_LIMIT + 1).read_to_string(&mut text))
        .map_err(|source| RenderError::Unreadable { path: file.to_owned(), source })?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(RenderError::Wrong(vec![format!("{} is larger than {} MiB", file.display(), FILE_LIMIT >> 20)]));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Result<usize, String> {
        let mut reader = Reader::default();
        reader.document("a.yaml", text);
        reader.finish().map(|objects| objects.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn all_that_is_wrong_is_named_with_its_file() {
        let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        let cases: &[(&str, &str)] = &[
            ("a: [1\n", "a.yaml: "),
            ("just: text\n", "no apiVersion"),
            (&format!("{config}data: {{}}\ndata: {{}}\n"), "data"),
            (&format!("{config}---\n{config}"), "configmap/a is also in a.yaml"),
            ("apiVersion: v1\nkind: ConfigMap\n", "has no metadata.name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n", "generateName"),
        ];
        for (text, wanted) in cases {
            let said = rendered(text).unwrap_err();
            assert!(said.contains(wanted), "{text} gave {said}");
        }
        assert_eq!(rendered(config), Ok(1));
        let list =
            "apiVersion: v1\nkind: ConfigMapList\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}]\n";
        assert_eq!(rendered(&format!("{list}---\n")), Ok(1));
    }
}
