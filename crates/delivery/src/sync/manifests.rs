//! From a written-out commit to the objects that it wants: kustomizations (with what an application lays over them), plain
//! directories, and variables put in afterwards.
//!
//! Invariants: nothing outside of the written-out commit is read; everything is refused whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::application::{Build, Source};
use super::front::project::matches;
use crate::{kustomize, object, render};

/// The annotation or label that keeps variables out of an object.
const NO_SUBSTITUTION: &str = "kustomize.toolkit.fluxcd.io/substitute";
/// How deep directories are read.
const DEPTH: usize = 32;

/// How manifests came to be, as Argo CD calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// By a kustomization.
    Kustomize,
    /// As they are.
    Directory,
}

impl Made {
    /// The word of `status.sourceType`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kustomize => "Kustomize",
            Self::Directory => "Directory",
        }
    }
}

/// Reads the objects that one source wants. `root` is the written-out commit; files may be added to it.
///
/// # Errors
///
/// A sentence, with paths from the repository's root.
pub fn read(root: &Path, source: &Source, values: &BTreeMap<String, String>) -> Result<(Vec<Value>, Made), String> {
    let path = source.path.trim_start_matches("./").trim_matches('/');
    let dir = root.join(path);
    if !dir.is_dir() {
        return Err(format!("the repository has no directory {path:?} at this revision (spec.source.path)"));
    }
    let short =
        |text: String| text.replace(&format!("{}/", root.display()), "").replace(&root.display().to_string(), ".");
    let build = &source.build;
    let kustomized = kustomize::is_kustomization(&dir) || !build.overlay.is_empty();
    let objects = if kustomized {
        let dir = overlaid(root, path, build).map_err(|error| short(format!("cannot lay the overlay: {error}")))?;
        kustomize::build(&dir, &kustomize::Options::default()).map_err(|error| short(error.to_string()))?
    } else {
        let files = files(&dir, build).map_err(short)?;
        if files.is_empty() {
            Vec::new()
        } else {
            render::render_all(&files).map_err(|error| short(error.to_string()))?
        }
    };
    let made = if kustomized { Made::Kustomize } else { Made::Directory };
    match &build.substitute {
        Some(_) if !values.is_empty() => {
            let put = |mut object: Value| {
                if !keeps_out(&object) {
                    substitute(&mut object, values)?;
                }
                Ok(object)
            };
            Ok((objects.into_iter().map(put).collect::<Result<_, String>>()?, made))
        }
        _ => Ok((objects, made)),
    }
}

/// The directory to build: the one that is there, or one of ours above it with the overlay's fields.
fn overlaid(root: &Path, path: &str, build: &Build) -> std::io::Result<PathBuf> {
    let dir = root.join(path);
    if !kustomize::is_kustomization(&dir) {
        let names = files(&dir, build).map_err(std::io::Error::other)?;
        let names: Vec<String> = names
            .iter()
            .filter_map(|file| file.strip_prefix(&dir).ok())
            .map(|file| file.display().to_string())
            .collect();
        let text =
            json!({ "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names });
        std::fs::write(dir.join("kustomization.yaml"), text.to_string())?;
    }
    if build.overlay.is_empty() {
        return Ok(dir);
    }
    let base = if path.is_empty() { "..".to_owned() } else { format!("../{path}") };
    // The root cannot be a base of a directory inside itself, so such a base moves down first.
    let (own, base) = if path.is_empty() {
        let (own, inner) = (root.join("coracle-overlay"), root.join("coracle-base"));
        std::fs::create_dir_all(&inner)?;
        for entry in std::fs::read_dir(root)?.flatten() {
            if entry.path() != inner && entry.path() != own {
                std::fs::rename(entry.path(), inner.join(entry.file_name()))?;
            }
        }
        (own, "../coracle-base".to_owned())
    } else {
        (root.join(".coracle-overlay"), base)
    };
    std::fs::create_dir_all(&own)?;
    let mut overlay = build.overlay.clone();
    relative_to(&mut overlay, &base);
    overlay.insert("apiVersion".to_owned(), "kustomize.config.k8s.io/v1beta1".into());
    overlay.insert("kind".to_owned(), "Kustomization".into());
    overlay.insert("resources".to_owned(), json!([base]));
    std::fs::write(own.join("kustomization.yaml"), Value::Object(overlay).to_string())?;
    Ok(own)
}

/// Paths in an overlay are meant from the source's own directory.
fn relative_to(overlay: &mut serde_json::Map<String, Value>, base: &str) {
    if let Some(Value::Array(components)) = overlay.get_mut("components") {
        for component in components {
            if let Some(path) = component.as_str().filter(|path| !path.contains("://")) {
                *component = format!("{base}/{path}").into();
            }
        }
    }
    if let Some(Value::Array(patches)) = overlay.get_mut("patches") {
        for patch in patches {
            if let Some(path) = patch["path"].as_str() {
                patch["path"] = format!("{base}/{path}").into();
            }
        }
    }
}

/// The manifest files of a directory, by name.
fn files(dir: &Path, build: &Build) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    collect(dir, dir, build, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(top: &Path, dir: &Path, build: &Build, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("cannot read {}: {error}", dir.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            if build.recurse && depth < DEPTH && !name.starts_with('.') {
                collect(top, &path, build, depth + 1, found)?;
            }
            continue;
        }
        let manifest = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        let shown = path.strip_prefix(top).unwrap_or(&path).display().to_string();
        let fits = |globs: &[String]| globs.iter().any(|glob| matches(glob, &shown) || matches(glob, &name));
        let wanted = (build.include.is_empty() || fits(&build.include)) && !fits(&build.exclude);
        // Recipes stand beside manifests and are none.
        if manifest && wanted && name != "coracle.yaml" && !name.starts_with('.') {
            found.push(path);
        }
    }
    Ok(())
}

fn keeps_out(object: &Value) -> bool {
    [object::annotation(object, NO_SUBSTITUTION), object::label(object, NO_SUBSTITUTION)].contains(&Some("disabled"))
}

/// Puts values in for `${NAME}`, `${NAME:=else}` and `${NAME:-else}`; `$$` is a dollar sign. What has no value is empty.
fn substitute(value: &mut Value, values: &BTreeMap<String, String>) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains('$') => {
            let whole = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
            let put = expand(text, values)?;
            // Flux does this on the text, in which such a value has no quotes any more.
            let typed = whole.then(|| serde_json::from_str::<Value>(&put).ok()).flatten();
            *value = typed.filter(|typed| typed.is_number() || typed.is_boolean()).unwrap_or_else(|| put.into());
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| substitute(item, values))?,
        Value::Object(fields) => fields.values_mut().try_for_each(|field| substitute(field, values))?,
        _ => {}
    }
    Ok(())
}

fn expand(text: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let Some(end) = inner.find('}') else { return Err(format!("{text:?} has ${{ without }}")) };
            let (name, default) = match inner[..end].split_once(':') {
                Some((name, default)) => match default.strip_prefix(['=', '-']) {
                    Some(default) => (name, Some(default)),
                    None => {
                        return Err(format!(
                            "{text:?}: only ${{NAME}}, ${{NAME:=else}} and ${{NAME:-else}} are supported"
                        ));
                    }
                },
                None => (&inner[..end], None),
            };
            let valid = |c: char| c == '_' || c.is_ascii_alphanumeric();
            if name.is_empty() || !name.chars().all(valid) {
                return Err(format!("{text:?}: {name:?} is no name of a variable"));
            }
            let value = values.get(name).map(String::as_str).filter(|value| !value.is_empty()).or(default);
            out.push_str(value.unwrap_or_default());
            rest = &inner[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::git::Wanted;

    fn source(path: &str, build: Build) -> Source {
        let wanted = Wanted::Any(String::new());
        Source { url: "/x".into(), wanted, path: path.into(), secret: None, build, interval: None, verify: None }
    }

    #[test]
    fn variables_are_put_in_as_flux_does() {
        let values = BTreeMap::from([("colour".to_owned(), "red".to_owned()), ("count".to_owned(), "3".to_owned())]);
        let mut object = json!({ "a": "is ${colour}", "b": "${count}", "c": "${size:=small} ${size:-x}", "d": "$${colour} $x", "e": "${none}" });
        substitute(&mut object, &values).expect("it is right");
        assert_eq!(object, json!({ "a": "is red", "b": 3, "c": "small x", "d": "${colour} $x", "e": "" }));
        for bad in ["${", "${a/b/c}", "${a b}"] {
            assert!(substitute(&mut json!(bad), &values).is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_are_read_as_far_as_asked() {
        let root = tempfile::tempdir().expect("a folder");
        let manifest = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        for (path, name) in
            [("app/a.yaml", "a"), ("app/deep/b.yml", "b"), ("app/skip.yaml", "c"), ("other/d.yaml", "d")]
        {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
            std::fs::write(file, manifest(name)).expect("a file");
        }
        std::fs::write(root.path().join("app/coracle.yaml"), "images: {}\n").expect("a file");
        let names = |build: Build| {
            let (objects, made) = read(root.path(), &source("./app", build), &BTreeMap::new()).expect("it is right");
            assert_eq!(made, Made::Directory);
            objects.iter().map(|one| object::name(one).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(Build::default()), ["a", "c"]);
        assert_eq!(names(Build { recurse: true, ..Build::default() }), ["a", "b", "c"]);
        assert_eq!(names(Build { exclude: vec!["skip*".into()], ..Build::default() }), ["a"]);
        assert_eq!(names(Build { include: vec!["deep/*".into()], recurse: true, ..Build::default() }), ["b"]);
        let error = read(root.path(), &source("none", Build::default()), &BTreeMap::new()).expect_err("not there");
        assert!(error.contains("no directory \"none\""), "{error}");
        std::fs::write(root.path().join("other/bad.yaml"), "a: [\n").expect("a file");
        let error = read(root.path(), &source("other", Build::default()), &BTreeMap::new()).expect_err("bad");
        assert!(error.contains("bad.yaml") && !error.contains(&*root.path().to_string_lossy()), "{error}");
    }
}
