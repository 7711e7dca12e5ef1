//! `coracle apply`: a directory as a set, a saved plan, or (`-f`, `-k`) manifests by themselves.
//!
//! By themselves: server-side apply, all checked before the first is sent.

use crate::cli::Apply;
use crate::commands::release;
use crate::commands::results::Results;
use crate::connect::{self, Api};
use crate::kinds::{Kinds, Resource};
use crate::manifests::Manifest;
use crate::{colour, exit, manifests, order};
use serde_json::Value;
use std::process::ExitCode;

pub(crate) async fn run(arguments: Apply) -> anyhow::Result<ExitCode> {
    if !arguments.files.is_empty() || arguments.kustomize.is_some() {
        return by_themselves(arguments).await;
    }
    let client = connect::client_of(&arguments.wanted.at.target).await?;
    let plan = match (&arguments.plan, &arguments.directory) {
        (Some(file), _) => saved(file)?,
        (None, Some(directory)) => {
            let source = release::source_of(std::slice::from_ref(directory));
            release::plan(&client, std::slice::from_ref(directory), &arguments.wanted, &source).await?
        }
        (None, None) => return Err(exit::bad_input("say what is to be applied: a directory, --plan, -f or -k")),
    };
    let provenance = release::provenance(arguments.directory.as_deref(), &plan);
    // A saved plan was read and agreed to when it was made.
    let agreed = arguments.release.yes || arguments.plan.is_some();
    let reason = arguments.wanted.reason.clone();
    release::run(&client, &plan, &arguments.release, arguments.force_conflicts, agreed, reason, provenance).await
}

fn saved(file: &std::path::Path) -> anyhow::Result<delivery::plan::Plan> {
    let text =
        std::fs::read(file).map_err(|error| exit::bad_input(format!("cannot read {}: {error}", file.display())))?;
    let plan: delivery::plan::Plan = serde_json::from_slice(&text)
        .map_err(|error| exit::bad_input(format!("{} is no plan of `coracle plan --out`: {error}", file.display())))?;
    if plan.format != delivery::plan::FORMAT {
        let what = format!(
            "{} has the format {:?}; this version applies {}",
            file.display(),
            plan.format,
            delivery::plan::FORMAT
        );
        return Err(exit::bad_input(what));
    }
    Ok(plan)
}

async fn by_themselves(arguments: Apply) -> anyhow::Result<ExitCode> {
    let mut found = match &arguments.kustomize {
        Some(directory) => manifests::build(directory)?,
        None => manifests::read(&arguments.files)?,
    };
    if found.is_empty() {
        return Err(exit::bad_input("there is no manifest in what was given"));
    }
    manifests::check(&found, manifests::Unknown::LeftToTheApi)?;
    let client = connect::client_of(&arguments.wanted.at.target).await?;
    let api = Api::over(client.clone());
    let namespace = connect::namespace_of(&client, &arguments.wanted.at.scope);
    order::for_apply(&mut found, |manifest| &manifest.object);
    let mut applier = Applier::new(&api, &namespace, arguments.force_conflicts).await?;
    let mut results = Results::new(arguments.release.answer.output);
    let all = async {
        if !arguments.dry_run {
            // All or nothing, as far as the API can tell beforehand.
            applier.rehearse(&found).await?;
        }
        for manifest in &found {
            let outcome = applier.apply(manifest, arguments.dry_run).await?;
            let line = format!("{}/{} {}", outcome.resource.label(), manifest.name(), outcome.word);
            let namespace = manifest.namespace().unwrap_or(&namespace);
            results.add(&outcome.resource, namespace, manifest.name(), outcome.word, Some(&line));
            if outcome.word == "configured" && !arguments.dry_run {
                warn_of_owner(&client, &outcome.object, manifest).await;
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    let outcome = all.await;
    results.end(outcome)
}

/// What Git keeps is not kept as somebody else writes it.
async fn warn_of_owner(client: &kube::Client, object: &Value, manifest: &Manifest) {
    let api = delivery::api::Api::over(client.clone());
    // A warning that cannot be had keeps nobody from anything.
    if let Ok(Some(owner)) = delivery::ownership::of_object(&api, object).await {
        eprintln!(
            "{} {}/{}: {}",
            colour::error("warning:"),
            manifest.kind().to_lowercase(),
            manifest.name(),
            owner.advice()
        );
    }
}

/// What happened to one object.
pub(crate) struct Outcome {
    pub(crate) resource: Resource,
    pub(crate) word: &'static str,
    pub(crate) object: Value,
}

/// Applies manifests one after the other; asks for the kinds again when a definition came in between.
pub(crate) struct Applier<'a> {
    api: &'a Api,
    kinds: Kinds,
    namespace: &'a str,
    force: bool,
}

impl<'a> Applier<'a> {
    pub(crate) async fn new(api: &'a Api, namespace: &'a str, force: bool) -> anyhow::Result<Self> {
        Ok(Self { api, kinds: api.kinds().await?, namespace, force })
    }

    /// Asks the API about every object whose kind and namespace are there already.
    pub(crate) async fn rehearse(&self, manifests: &[Manifest]) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        let new_namespaces: Vec<&str> =
            manifests.iter().filter(|m| m.kind() == "Namespace").map(Manifest::name).collect();
        let new_kinds: Vec<&Value> = manifests
            .iter()
            .filter(|m| m.kind() == "CustomResourceDefinition")
            .map(|m| &m.object["spec"]["names"]["kind"])
            .collect();
        for manifest in manifests {
            let Some(resource) = self.kinds.of(manifest.api_version(), manifest.kind()) else {
                if !new_kinds.iter().any(|kind| *kind == manifest.kind()) {
                    problems.push(format!("{}: {}", manifest.label(), unknown(manifest)));
                }
                continue;
            };
            let namespace = manifest.namespace().unwrap_or(self.namespace);
            if resource.namespaced && new_namespaces.contains(&namespace) {
                continue;
            }
            if self.waits_for_account(manifest, manifests) {
                continue;
            }
            let path = resource.path(Some(namespace), Some(manifest.name()));
            if let Err(error) = self.api.apply(&path, &manifest.object, self.force, true).await {
                problems.push(format!("{}: {}", manifest.label(), exit::sentence(&error)));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(exit::bad_input(format!("refused, and nothing was changed:\n  {}", problems.join("\n  "))))
    }

    /// Whether a Pod runs as a ServiceAccount of these manifests, without which the API would refuse it today.
    fn waits_for_account(&self, pod: &Manifest, manifests: &[Manifest]) -> bool {
        let Some(account) = pod.object["spec"]["serviceAccountName"].as_str().filter(|_| pod.kind() == "Pod") else {
            return false;
        };
        let namespace = |manifest: &Manifest| manifest.namespace().unwrap_or(self.namespace).to_owned();
        let is_it = |one: &Manifest| one.kind() == "ServiceAccount" && one.name() == account;
        manifests.iter().any(|one| is_it(one) && namespace(one) == namespace(pod))
    }

    /// Applies one object and says what became of it.
    pub(crate) async fn apply(&mut self, manifest: &Manifest, dry_run: bool) -> anyhow::Result<Outcome> {
        if self.kinds.of(manifest.api_version(), manifest.kind()).is_none() {
            self.kinds = self.api.kinds().await?;
        }
        let Some(resource) = self.kinds.of(manifest.api_version(), manifest.kind()).cloned() else {
            return Err(exit::bad_input(format!("{}: {}", manifest.label(), unknown(manifest))));
        };
        let namespace = manifest.namespace().unwrap_or(self.namespace);
        let path = resource.path(Some(namespace), Some(manifest.name()));
        let before = match self.api.get(&path).await {
            Ok(object) => Some(object),
            Err(error) if connect::is_not_found(&error) => None,
            Err(error) => return Err(error),
        };
        let object = self
            .api
            .apply(&path, &manifest.object, self.force, dry_run)
            .await
            .map_err(|error| error.context(format!("cannot apply {}", manifest.label())))?;
        let word = match before {
            None => "created",
            Some(before) if before["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"] => {
                "unchanged"
            }
            Some(_) => "configured",
        };
        Ok(Outcome { resource, word, object })
    }
}

fn unknown(manifest: &Manifest) -> String {
    format!(
        "the API has no kind {} in {}; apply its CustomResourceDefinition first",
        manifest.kind(),
        manifest.api_version()
    )
}
