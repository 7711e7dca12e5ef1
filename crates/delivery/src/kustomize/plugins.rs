//! Transformers and generators that are configured by objects of their own: those built in, and no others.
//!
//! Invariants: a plugin that would run a program or a container is refused by its name. It must not know: how steps work.

use super::error::{At, Result, fail};
use super::fields::{Field, Fields};
use super::fieldspec::FieldSpecs;
use super::generate::{self, Kind};
use super::load::Loader;
use super::patch::{Json, Prepared, Strategic};
use super::read::{self, Twice};
use super::replace;
use super::resource::Resource;
use super::schema::Known;
use super::settings::{self, GeneratorOptions};
use super::steps::Step;
use super::transform::{End, Namespace, Subjects, ValueAdd};
use std::rc::Rc;

fn refuse<T>(resource: &Resource, what: &str) -> Result<T> {
    let kind = resource.kind();
    if resource.api_version() == "builtin" {
        return fail(format!("{what}: the plugin {kind} is not supported; write what it makes into files instead"));
    }
    fail(format!(
        "{what}: {kind} ({}) is a plugin that runs a program or a container, which is not done; only built-in ones are",
        resource.api_version()
    ))
}

/// The object that a generator makes.
pub(super) fn generate(config: &Resource, loader: &Loader<'_>, known: &Rc<Known>) -> Result<Resource> {
    let kind = match config.kind() {
        "ConfigMapGenerator" if config.api_version() == "builtin" => Kind::ConfigMap,
        "SecretGenerator" if config.api_version() == "builtin" => Kind::Secret,
        _ => return refuse(config, "generators"),
    };
    let value = config.node.to_json()?;
    let place = || format!("generators: {} {}", config.kind(), config.name());
    let fields = Field::root(&value, true).open().at(place)?;
    let mut wanted = settings::generator_of(&fields, &GeneratorOptions::default()).at(place)?;
    if wanted.name.is_empty() {
        config.name().clone_into(&mut wanted.name);
    }
    if wanted.namespace.is_empty() {
        config.namespace().clone_into(&mut wanted.namespace);
    }
    generate::generate(kind, &wanted, loader, known)
}

/// The step that a transformer's object describes.
pub(super) fn step(config: &Resource, what: &str, loader: &Loader<'_>, known: &Rc<Known>) -> Result<Step> {
    if config.api_version() != "builtin" {
        return refuse(config, what);
    }
    let value = config.node.to_json()?;
    let read = || -> Result<Option<Step>> {
        let fields = Field::root(&value, true).open()?;
        read_step(config.kind(), &fields, loader, known)
    };
    match read().at(|| format!("{what}: {} {}", config.kind(), config.name()))? {
        Some(step) => Ok(step),
        None => refuse(config, what),
    }
}

fn specs(fields: &Fields<'_>) -> Result<FieldSpecs> {
    fields.each("fieldSpecs", settings::field_spec)
}

fn needed_specs(fields: &Fields<'_>) -> Result<FieldSpecs> {
    if fields.get("fieldSpecs").is_none() {
        return fail("`fieldSpecs` is missing");
    }
    specs(fields)
}

fn read_step(kind: &str, fields: &Fields<'_>, loader: &Loader<'_>, known: &Rc<Known>) -> Result<Option<Step>> {
    Ok(Some(match kind {
        "AnnotationsTransformer" => Step::Entries(fields.text_map("annotations")?, specs(fields)?),
        "LabelTransformer" => Step::Entries(fields.text_map("labels")?, specs(fields)?),
        "PrefixTransformer" => Step::Affix(End::Prefix, fields.text("prefix")?, needed_specs(fields)?),
        "SuffixTransformer" => Step::Affix(End::Suffix, fields.text("suffix")?, needed_specs(fields)?),
        "PrefixSuffixTransformer" => Step::Several(vec![
            Step::Affix(End::Prefix, fields.text("prefix")?, needed_specs(fields)?),
            Step::Affix(End::Suffix, fields.text("suffix")?, needed_specs(fields)?),
        ]),
        "HashTransformer" => Step::Hash,
        "ImageTagTransformer" => {
            Step::Images(fields.one("imageTag", settings::image)?.unwrap_or_default(), specs(fields)?)
        }
        "ReplicaCountTransformer" => {
            Step::Replicas(fields.one("replica", settings::replica)?.unwrap_or_default(), specs(fields)?)
        }
        "NamespaceTransformer" => Step::Namespace(namespace(fields)?),
        "PatchTransformer" => Step::Patch(Box::new(Prepared::read(&settings::patch_of(fields)?, loader, known)?)),
        "PatchJson6902Transformer" => {
            let mut patch = settings::Patch { path: fields.text("path")?, ..settings::Patch::default() };
            patch.patch = fields.text("jsonOp")?;
            patch.target = fields.one("target", settings::selector)?;
            Step::Json(Json::read(&patch, loader)?)
        }
        "PatchStrategicMergeTransformer" => {
            let mut items = fields.texts("paths")?;
            items.extend(Some(fields.text("patches")?).filter(|text| !text.is_empty()));
            Step::Strategic(Strategic::read(&items, loader, known)?)
        }
        "ReplacementTransformer" => {
            Step::Replacements(replace::read(&fields.each("replacements", settings::replacement)?, loader)?)
        }
        "ValueAddTransformer" => Step::ValueAdd(value_add(fields, loader)?),
        _ => return Ok(None),
    }))
}

fn namespace(fields: &Fields<'_>) -> Result<Namespace> {
    let metadata = fields.one("metadata", |field| field.open()?.text("namespace"))?;
    let subjects = match fields.text("setRoleBindingSubjects")?.as_str() {
        "" | "defaultOnly" => Subjects::NamedDefault,
        "allServiceAccounts" => Subjects::ServiceAccounts,
        "none" => Subjects::None,
        other => {
            return fail(format!(
                "setRoleBindingSubjects: `{other}` is none of defaultOnly, allServiceAccounts and none"
            ));
        }
    };
    Ok(Namespace {
        name: metadata.unwrap_or_default(),
        specs: specs(fields)?,
        unset_only: fields.flag("unsetOnly")?,
        subjects,
    })
}

type Additions = Vec<(Option<super::selector::Selector>, ValueAdd)>;

fn value_add(fields: &Fields<'_>, loader: &Loader<'_>) -> Result<Additions> {
    let mut value = fields.text("value")?.trim().to_owned();
    if value.is_empty() {
        value = loader.root().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    }
    let mut found = additions(fields, &value)?;
    let path = fields.text("targetFilePath")?;
    if !path.is_empty() {
        let more = read::configuration(&loader.text(&path)?, Twice::LastWins)?;
        found.extend(additions(&Field::root(&more, true).open()?, &value).at(|| path.clone())?);
    }
    if found.is_empty() {
        return fail("`targets` is missing");
    }
    Ok(found)
}

fn additions(fields: &Fields<'_>, value: &str) -> Result<Additions> {
    fields.each("targets", |field| {
        let fields = field.open()?;
        let path = fields.text("fieldPath")?;
        if path.is_empty() {
            return fail(format!("{}: `fieldPath` is missing", field.path()));
        }
        let Ok(position) = usize::try_from(fields.whole("filePathPosition")?) else {
            return fail(format!("{}: `filePathPosition` is negative", field.path()));
        };
        Ok((fields.one("selector", settings::selector)?, ValueAdd { value: value.to_owned(), path, position }))
    })
}
