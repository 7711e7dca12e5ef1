//! `coracle import KIND/NAME --to DIR`: writes the manifest, then takes the object into the directory's set.

use crate::cli::{Form, Import};
use crate::commands::{release, say};
use crate::connect::{self, MANAGER};
use crate::exit;
use anyhow::Context;
use delivery::applyset::Set;
use delivery::history::Provenance;
use delivery::object::ObjectId;
use delivery::{import, kustomize, object};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

/// The object of the directory's manifests that this one is of. One that says no namespace goes where the command says.
fn twin_of(directory: &Path, manifest: &Value) -> Option<ObjectId> {
    // What cannot be rendered yet keeps nobody from writing manifests for it.
    let wanted = ObjectId::of(manifest);
    let of = |object: Value| {
        let id = ObjectId::of(&object);
        let here = id.namespace.is_empty() || id.namespace == wanted.namespace;
        (here && (&id.group, &id.kind, &id.name) == (&wanted.group, &wanted.kind, &wanted.name)).then_some(id)
    };
    delivery::render(directory).ok()?.into_iter().find_map(of)
}

pub(crate) async fn run(arguments: Import) -> anyhow::Result<ExitCode> {
    let Some((kind, name)) = arguments.what.split_once('/') else {
        return Err(exit::bad_input(format!("{:?} is not KIND/NAME", arguments.what)));
    };
    if !arguments.to.is_dir() {
        return Err(exit::bad_input(format!("{} is no directory", arguments.to.display())));
    }
    let named = arguments.set.set.clone().or_else(|| release::derived(std::slice::from_ref(&arguments.to)));
    let named = named.ok_or_else(|| exit::bad_input("no set can be named after the directory; say --set NAME"))?;
    let client = connect::client_of(&arguments.at.target).await?;
    let namespace = connect::namespace_of(&client, &arguments.at.scope);
    let set = Set::new(namespace.clone(), named);
    let manifest = import::manifest(client.clone(), &set, kind, &namespace, name).await?;
    let file = arguments.to.join(format!("{}-{name}.yaml", object::kind(&manifest).to_lowercase()));
    if let Some(twin) = twin_of(&arguments.to, &manifest) {
        return Err(exit::bad_input(format!(
            "{} has a manifest of {twin} already; `coracle apply {}` takes the object in as that says it is to be",
            arguments.to.display(),
            arguments.to.display()
        )));
    }
    let secret = object::kind(&manifest) == "Secret";
    // Never over something that somebody wrote.
    let mut open = std::fs::OpenOptions::new();
    open.write(true).create_new(true).mode(if secret { 0o600 } else { 0o644 });
    let mut written = open.open(&file).with_context(|| format!("cannot write {}", file.display()))?;
    written.write_all(kustomize::to_yaml(std::slice::from_ref(&manifest)).as_bytes())?;
    written.sync_all()?;
    let source = release::source_of(std::slice::from_ref(&arguments.to));
    let provenance =
        Provenance { applied_by: release::who(), source, message: "import".into(), ..Provenance::default() };
    if let Err(error) = import::adopt(client, &set, &manifest, MANAGER, &provenance).await {
        // What was not taken in has no manifest.
        let _ = std::fs::remove_file(&file);
        return Err(error.into());
    }
    if arguments.answer.output == Form::Json {
        let told = json!({ "set": { "name": set.name, "namespace": set.namespace }, "object": ObjectId::of(&manifest),
            "manifest": file.display().to_string(), "secret": secret });
        say(&serde_json::to_string_pretty(&told)?);
    } else {
        say(&format!("{} is of the set {} now; its manifest is {}", arguments.what, set.name, file.display()));
    }
    if secret {
        eprintln!("the manifest holds the Secret in clear; keep it out of the repository, or encrypt it");
    }
    if kustomize::is_kustomization(&arguments.to) {
        eprintln!("name {} under `resources` of the kustomization", file.display());
    }
    Ok(ExitCode::SUCCESS)
}
