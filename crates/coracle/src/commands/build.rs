//! `coracle build DIR`: a kustomization's objects, on stdout or in files.
//!
//! Everything is built before anything is written.

use crate::cli::Build;
use crate::exit;
use delivery::kustomize::{self, Options};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn run(arguments: &Build) -> anyhow::Result<ExitCode> {
    let options = Options { offline: arguments.offline };
    let objects =
        kustomize::build(&arguments.directory, &options).map_err(|error| exit::bad_input(error.to_string()))?;
    match &arguments.output {
        None => print(&kustomize::to_yaml(&objects)),
        Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            std::fs::create_dir_all(path).map_err(|error| unwritable(path, &error))?;
            for (file, object) in files(&objects) {
                write(&path.join(file), &kustomize::to_yaml(std::slice::from_ref(object)))?;
            }
        }
        Some(path) => write(path, &kustomize::to_yaml(&objects))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A reader that went away ends the program quietly.
fn print(text: &str) {
    if std::io::stdout().lock().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot write {}: {error}", path.display())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| unwritable(parent, &error))?;
    }
    std::fs::write(path, text).map_err(|error| unwritable(path, &error))
}

/// A file for each object, in a folder of its namespace when there are several.
fn files(objects: &[Value]) -> Vec<(PathBuf, &Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase().replace('/', "_");
    let namespaces: BTreeSet<String> = objects.iter().map(|object| text(&object["metadata"]["namespace"])).collect();
    let named = objects.iter().map(|object| {
        let parts = [&object["apiVersion"], &object["kind"], &object["metadata"]["name"]].map(text);
        let file = format!("{}.yaml", parts.join("_"));
        let namespace = text(&object["metadata"]["namespace"]);
        let folder = if namespaces.len() > 1 { PathBuf::from(namespace) } else { PathBuf::new() };
        (folder.join(file), object)
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_object_has_a_file_of_its_own() {
        let object = |api: &str, kind: &str, name: &str, namespace: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
        let paths = |objects: &[Value]| -> Vec<String> {
            files(objects).into_iter().map(|(path, _)| path.display().to_string()).collect()
        };
        let one = [object("apps/v1", "Deployment", "web", "a"), object("v1", "Service", "web", "a")];
        assert_eq!(paths(&one), ["apps_v1_deployment_web.yaml", "v1_service_web.yaml"]);
        let two = [object("v1", "Service", "web", "a"), object("v1", "Service", "web", "b")];
        assert_eq!(paths(&two), ["a/v1_service_web.yaml", "b/v1_service_web.yaml"]);
    }
}
