//! The transformations of one kustomization in their order, each ready to be applied.
//!
//! Invariants: everything that a step reads from files is read before the first step is applied. It must not know: which
//! resources there are.

use super::config::Config;
use super::error::{At, Result};
use super::fieldspec::{FieldSpec, FieldSpecs, merge_all, merge_one};
use super::load::Loader;
use super::patch::{Json, Prepared, Strategic};
use super::replace;
use super::resources::Resources;
use super::schema::Known;
use super::selector::Selector;
use super::settings::{Image, Labels, Replacement, Replica, Settings};
use super::transform::{self, End, Namespace, ValueAdd};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One transformation.
pub(super) enum Step {
    Strategic(Strategic),
    Patch(Box<Prepared>),
    Namespace(Namespace),
    Affix(End, String, FieldSpecs),
    /// Labels or annotations.
    Entries(BTreeMap<String, String>, FieldSpecs),
    Json(Json),
    Replicas(Replica, FieldSpecs),
    Images(Image, FieldSpecs),
    Replacements(Vec<Replacement>),
    Hash,
    ValueAdd(Vec<(Option<Selector>, ValueAdd)>),
    Several(Vec<Step>),
}

impl Step {
    pub(super) fn apply(&self, resources: &mut Resources) -> Result<()> {
        match self {
            Step::Strategic(patches) => patches.apply(resources),
            Step::Patch(patch) => patch.apply(resources),
            Step::Namespace(namespace) => namespace.apply(resources).at(|| "namespace".to_owned()),
            Step::Affix(end, text, specs) => transform::affix(resources, *end, text, specs),
            Step::Entries(entries, specs) => transform::set_entries(resources, entries, specs),
            Step::Json(patch) => patch.apply(resources),
            Step::Replicas(replica, specs) => transform::replicas(resources, replica, specs),
            Step::Images(image, specs) => transform::images(resources, image, specs),
            Step::Replacements(replacements) => {
                replace::apply(replacements, resources)?;
                resources.drop_gone();
                Ok(())
            }
            Step::Hash => transform::add_hashes(resources),
            Step::ValueAdd(targets) => {
                for (selector, add) in targets {
                    let places = match selector {
                        Some(selector) => resources.select(selector)?,
                        None => (0..resources.list().len()).collect(),
                    };
                    for at in places {
                        add.apply_to(&mut resources.list_mut()[at])?;
                    }
                }
                Ok(())
            }
            Step::Several(steps) => steps.iter().try_for_each(|step| step.apply(resources)),
        }
    }
}

/// The steps that a kustomization's own fields ask for, each with the name under which it is recorded.
pub(super) fn of(
    settings: &Settings,
    config: &Config,
    loader: &Loader<'_>,
    known: &Rc<Known>,
) -> Result<Vec<(&'static str, Step)>> {
    let mut steps = Vec::new();
    if !settings.patches_strategic.is_empty() {
        let patches = Strategic::read(&settings.patches_strategic, loader, known)?;
        steps.push(("PatchStrategicMergeTransformer", Step::Strategic(patches)));
    }
    for patch in &settings.patches {
        steps.push(("PatchTransformer", Step::Patch(Box::new(Prepared::read(patch, loader, known)?))));
    }
    if !settings.namespace.is_empty() {
        let (name, specs) = (settings.namespace.clone(), config.namespace.clone());
        steps.push(("NamespaceTransformer", Step::Namespace(Namespace { name, specs, ..Namespace::default() })));
    }
    if !settings.name_prefix.is_empty() {
        let step = Step::Affix(End::Prefix, settings.name_prefix.clone(), config.name_prefix.clone());
        steps.push(("PrefixTransformer", step));
    }
    if !settings.name_suffix.is_empty() {
        let step = Step::Affix(End::Suffix, settings.name_suffix.clone(), config.name_suffix.clone());
        steps.push(("SuffixTransformer", step));
    }
    label_steps(settings, config, &mut steps)?;
    if !settings.common_annotations.is_empty() {
        let step = Step::Entries(settings.common_annotations.clone(), config.common_annotations.clone());
        steps.push(("AnnotationsTransformer", step));
    }
    for patch in &settings.patches_json {
        steps.push(("PatchJson6902Transformer", Step::Json(Json::read(patch, loader)?)));
    }
    for replica in &settings.replicas {
        steps.push(("ReplicaCountTransformer", Step::Replicas(replica.clone(), config.replicas.clone())));
    }
    for image in &settings.images {
        steps.push(("ImageTagTransformer", Step::Images(image.clone(), config.images.clone())));
    }
    if !settings.replacements.is_empty() {
        let replacements = replace::read(&settings.replacements, loader)?;
        steps.push(("ReplacementTransformer", Step::Replacements(replacements)));
    }
    Ok(steps)
}

fn label_steps(settings: &Settings, config: &Config, steps: &mut Vec<(&'static str, Step)>) -> Result<()> {
    if settings.labels.is_empty() && settings.common_labels.is_empty() {
        return Ok(());
    }
    for labels in &settings.labels {
        let specs = label_specs(labels, config).at(|| "labels".to_owned())?;
        steps.push(("LabelTransformer", Step::Entries(labels.pairs.clone(), specs)));
    }
    // Without common labels this changes nothing, and is recorded all the same.
    let step = Step::Entries(settings.common_labels.clone(), config.common_labels.clone());
    steps.push(("LabelTransformer", step));
    Ok(())
}

fn label_specs(labels: &Labels, config: &Config) -> Result<FieldSpecs> {
    let mut specs = labels.fields.clone();
    merge_all(&mut specs, &config.labels)?;
    if labels.selectors {
        merge_all(&mut specs, &config.common_labels)?;
        return Ok(specs);
    }
    if labels.templates {
        merge_all(&mut specs, &config.template_labels)?;
    }
    let own = FieldSpec { path: "metadata/labels".to_owned(), create: true, ..FieldSpec::default() };
    merge_one(&mut specs, own)?;
    Ok(specs)
}
