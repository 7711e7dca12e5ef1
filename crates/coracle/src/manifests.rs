//! Manifests as files: found, read, and checked whole before anything is changed.
//!
//! The check needs no running API: syntax, duplicate and unknown fields, mistyped values and the rules of built-in
//! kinds, the Gateway API's kinds and of CustomResourceDefinitions among the manifests themselves. All that is wrong is
//! said at once, each with file and object.

use crate::exit;
use anyhow::Context;
use resources::names;
use rules::decode;
use rules::schema::Schema;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest manifest file that is read, bytes.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;
/// The most files that a directory may hold.
const FILES_LIMIT: usize = 2_000;

/// One object of a manifest file.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Where it was read, for messages.
    pub(crate) source: String,
    pub(crate) object: Value,
    duplicates: Vec<String>,
}

impl Manifest {
    pub(crate) fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str().filter(|n| !n.is_empty())
    }

    /// `deployment/orders (20-workloads.yaml)`, for messages.
    pub(crate) fn label(&self) -> String {
        format!("{}/{} ({})", self.kind().to_lowercase(), self.name(), self.source)
    }
}

/// Reads files, directories (their own *.yaml, *.yml and *.json, by name) and `-` for stdin.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().take(FILE_LIMIT).read_to_string(&mut text).context("cannot read stdin")?;
            parse("stdin", &text, &mut manifests, &mut problems);
            continue;
        }
        for file in files(path)? {
            let text = read_file(&file)?;
            let shown = file.strip_prefix(path).ok().filter(|p| !p.as_os_str().is_empty()).unwrap_or(&file);
            parse(&shown.display().to_string(), &text, &mut manifests, &mut problems);
        }
    }
    if problems.is_empty() { Ok(manifests) } else { Err(refusal(&problems)) }
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = |error: std::io::Error| exit::bad_input(format!("cannot read {}: {error}", path.display()));
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && !is_ours_or_kustomizes(&file) && file.is_file() {
            found.push(file);
        }
    }
    if found.len() > FILES_LIMIT {
        return Err(exit::bad_input(format!("{} holds more than {FILES_LIMIT} manifest files", path.display())));
    }
    found.sort();
    Ok(found)
}

/// Files that are not manifests though they look so by their ending.
fn is_ours_or_kustomizes(file: &Path) -> bool {
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    matches!(name, "coracle.yaml" | "kustomization.yaml" | "kustomization.yml")
}

fn read_file(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(FILE_LIMIT + 1).read_to_string(&mut text))
        .map_err(|error| exit::bad_input(format!("cannot read {}: {error}", file.display())))?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(exit::bad_input(format!("{} is larger than {} MiB", file.display(), FILE_LIMIT >> 20)));
    }
    Ok(text)
}

fn parse(source: &str, text: &str, manifests: &mut Vec<Manifest>, problems: &mut Vec<String>) {
    let documents = match decode::documents(text) {
        Ok(documents) => documents,
        Err(error) => return problems.push(format!("{source}: {error}")),
    };
    for document in documents {
        if document.value.is_null() {
            continue;
        }
        let items = match document.value["kind"].as_str() {
            Some("List") => document.value["items"].as_array().cloned().unwrap_or_default(),
            _ => vec![document.value.clone()],
        };
        for object in items {
            let manifest = Manifest { source: source.to_owned(), object, duplicates: document.duplicates.clone() };
            if manifest.api_version().is_empty() || manifest.kind().is_empty() {
                problems
                    .push(format!("{source}: a document has no apiVersion or no kind, so it is no Kubernetes object"));
            } else {
                manifests.push(manifest);
            }
        }
    }
}

fn refusal(problems: &[String]) -> anyhow::Error {
    let noun = if problems.len() == 1 { "this is" } else { "these are" };
    exit::bad_input(format!("{noun} wrong, and nothing was changed:\n  {}", problems.join("\n  ")))
}

/// The kinds that are known without asking an API, and what their objects look like.
struct Known {
    custom: BTreeMap<(String, String), Schema>,
}

impl Known {
    /// The Gateway API's kinds and what the manifests define themselves.
    fn of(manifests: &[Manifest]) -> Self {
        let gateway = mesh::crds()
            .into_iter()
            .chain(mesh::own_crds())
            .chain(mesh::foreign_crds())
            .filter_map(|crd| serde_json::to_value(crd).ok());
        let gateway = gateway.chain(resources::delivery::definitions());
        let own = manifests.iter().filter(|m| m.kind() == "CustomResourceDefinition").map(|m| m.object.clone());
        let mut custom = BTreeMap::new();
        for crd in gateway.chain(own) {
            let (Some(group), Some(kind)) = (crd["spec"]["group"].as_str(), crd["spec"]["names"]["kind"].as_str())
            else {
                continue;
            };
            for version in crd["spec"]["versions"].as_array().into_iter().flatten() {
                let Some(name) = version["name"].as_str() else { continue };
                // A schema that does not read is refused by the API with its reason; here it only checks nothing.
                let schema = Schema::from_crd(&version["schema"]["openAPIV3Schema"]).unwrap_or_else(|_| Schema::any());
                custom.insert((format!("{group}/{name}"), kind.to_owned()), schema);
            }
        }
        Self { custom }
    }

    fn schema(&self, api_version: &str, kind: &str) -> Option<(Schema, bool)> {
        if let Some(schema) = Schema::builtin(api_version, kind) {
            return Some((schema, true));
        }
        self.custom.get(&(api_version.to_owned(), kind.to_owned())).map(|schema| (schema.clone(), false))
    }
}

/// What to make of a kind that is known neither here nor among the manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It is wrong: there is no API yet that could know it.
    Refused,
    /// The API may know it.
    LeftToTheApi,
}

/// Checks everything that can be checked without an API.
pub(crate) fn check(manifests: &[Manifest], unknown: Unknown) -> anyhow::Result<()> {
    let known = Known::of(manifests);
    let mut problems = Vec::new();
    let mut seen = BTreeMap::new();
    for manifest in manifests {
        let label = manifest.label();
        problems.extend(wrong(manifest, &known, unknown).into_iter().map(|problem| format!("{label}: {problem}")));
        let identity =
            (manifest.api_version(), manifest.kind(), manifest.namespace().unwrap_or("default"), manifest.name());
        if let Some(earlier) = seen.insert(identity, manifest) {
            problems.push(format!("{label}: the same object is also in {}", earlier.source));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(refusal(&problems)) }
}

fn wrong(manifest: &Manifest, known: &Known, unknown: Unknown) -> Vec<String> {
    let mut problems: Vec<String> = manifest.duplicates.clone();
    if manifest.name().is_empty() {
        problems.push("metadata.name is missing".to_owned());
    }
    let Some((schema, builtin)) = known.schema(manifest.api_version(), manifest.kind()) else {
        if unknown == Unknown::LeftToTheApi {
            return problems;
        }
        problems.push(format!(
            "no kind {} is known in {}; is its CustomResourceDefinition among the manifests?",
            manifest.kind(),
            manifest.api_version()
        ));
        return problems;
    };
    let report = decode::check_fields(&manifest.object, &schema);
    problems.extend(report.unknown);
    problems.extend(report.mistyped.iter().map(ToString::to_string));
    if !problems.is_empty() {
        return problems;
    }
    let mut object = manifest.object.clone();
    if builtin {
        let kind = rules::kinds::find(manifest.api_version(), manifest.kind());
        if manifest.namespace().is_none() && kind.is_some_and(|kind| kind.namespaced) {
            object["metadata"]["namespace"] = "default".into();
        }
        rules::defaults::apply(manifest.api_version(), manifest.kind(), &mut object);
        let errors = rules::validate::create(manifest.api_version(), manifest.kind(), &object);
        problems.extend(errors.iter().map(ToString::to_string));
    } else {
        decode::apply_schema_defaults(&mut object, &schema);
        problems.extend(decode::validate_schema(&object, &schema).iter().map(ToString::to_string));
    }
    problems
}

/// The images that the manifests' containers name, each with the first object that names it. Images that need no recipe
/// are left out.
pub(crate) fn images(manifests: &[Manifest]) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    for manifest in manifests {
        let template = match manifest.kind() {
            "Pod" => &manifest.object["spec"],
            "CronJob" => &manifest.object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
            _ => &manifest.object["spec"]["template"]["spec"],
        };
        for list in ["initContainers", "containers"] {
            for container in template[list].as_array().into_iter().flatten() {
                let Some(image) = container["image"].as_str() else { continue };
                let name = image.split('@').next().unwrap_or(image);
                let name = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
                if name != names::HOST_IMAGE {
                    images.entry(image.to_owned()).or_insert_with(|| manifest.label());
                }
            }
        }
    }
    images
}

/// The recipe file of a directory: `coracle.yaml` in it, or in the nearest directory above that has one, up to the
/// repository's root.
pub(crate) fn recipe_file(directory: &Path) -> Option<PathBuf> {
    let directory = directory.canonicalize().ok()?;
    for folder in directory.ancestors() {
        let file = folder.join("coracle.yaml");
        if file.is_file() {
            return Some(file);
        }
        if folder.join(".git").exists() {
            break;
        }
    }
    None
}

/// The objects that a directory's kustomization builds.
pub(crate) fn build(directory: &Path) -> anyhow::Result<Vec<Manifest>> {
    let objects = delivery::kustomize::build(directory, &delivery::kustomize::Options::default());
    let objects = objects.map_err(|error| exit::bad_input(format!("{error}; nothing was changed")))?;
    let source = format!("built from {}", directory.display());
    let manifest = |object| Manifest { source: source.clone(), object, duplicates: Vec::new() };
    Ok(objects.into_iter().map(manifest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Manifest>, String> {
        let (mut manifests, mut problems) = (Vec::new(), Vec::new());
        parse("a.yaml", text, &mut manifests, &mut problems);
        if problems.is_empty() { Ok(manifests) } else { Err(problems.join("\n")) }
    }

    fn refused(text: &str) -> String {
        match parsed(text) {
            Err(problems) => problems,
            Ok(manifests) => {
                check(&manifests, Unknown::Refused).map(|()| "accepted".to_owned()).unwrap_or_else(|e| e.to_string())
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        let cases: &[(&str, &[&str])] = &[
            ("a: [1\n", &["a.yaml", "line"]),
            ("just: text\n", &["a.yaml", "no apiVersion"]),
            (&format!("{config}date: {{}}\n"), &["configmap/a (a.yaml)", "unknown field \"date\""]),
            (&format!("{config}data: {{x: '1'}}\ndata: {{x: '2'}}\n"), &["duplicate", "data"]),
            (&format!("{config}data: {{x: 1}}\n"), &["configmap/a", "data"]),
            (&format!("{config}---\n{config}"), &["the same object is also in a.yaml"]),
            ("apiVersion: x.io/v1\nkind: Odd\nmetadata: {name: a}\n", &["no kind Odd", "CustomResourceDefinition"]),
            ("apiVersion: v1\nkind: ConfigMap\n", &["metadata.name is missing"]),
        ];
        for (text, wanted) in cases {
            let message = refused(text);
            for part in *wanted {
                assert!(message.contains(part), "{text}\n gave {message}\n which lacks {part}");
            }
        }
        assert_eq!(refused(&format!("{config}data: {{x: '1'}}\n")), "accepted");
    }

    #[test]
    fn images_are_found_in_templates_and_the_hosts_own_left_out() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {initContainers: [{name: i, image: a:1}], containers: [{name: c, image: coracle.dev/host}, {name: e, image: b}]}}}\n";
        let found: Vec<String> = images(&parsed(text).unwrap()).into_keys().collect();
        assert_eq!(found, ["a:1", "b"]);
    }

    #[test]
    fn a_list_is_its_items() {
        let text = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}, {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]\n";
        assert_eq!(parsed(text).unwrap().len(), 2);
    }
}
