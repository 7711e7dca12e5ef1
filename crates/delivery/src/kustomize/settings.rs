//! What a kustomization file says, with its deprecated spellings turned into today's.
//!
//! Invariants: an unknown field is refused; what is not supported is refused by its name. It must not know: files, resources.

use super::error::{Result, fail};
use super::fields::{Field, Fields};
use super::fieldspec::{FieldSpec, FieldSpecs};
use super::id::{Gvk, ResId};
use super::read::{self, Twice};
use super::selector::Selector;
use std::collections::BTreeMap;

/// A `kustomization.yaml`.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) component: bool,
    pub(super) openapi: Option<BTreeMap<String, String>>,
    pub(super) name_prefix: String,
    pub(super) name_suffix: String,
    pub(super) namespace: String,
    pub(super) common_labels: BTreeMap<String, String>,
    pub(super) labels: Vec<Labels>,
    pub(super) common_annotations: BTreeMap<String, String>,
    pub(super) patches_strategic: Vec<String>,
    pub(super) patches_json: Vec<Patch>,
    pub(super) patches: Vec<Patch>,
    pub(super) images: Vec<Image>,
    pub(super) replacements: Vec<Replacement>,
    pub(super) replicas: Vec<Replica>,
    pub(super) vars: Vec<Var>,
    pub(super) sort: Option<Sort>,
    pub(super) resources: Vec<String>,
    pub(super) components: Vec<String>,
    pub(super) crds: Vec<String>,
    pub(super) config_maps: Vec<Generator>,
    pub(super) secrets: Vec<Generator>,
    pub(super) configurations: Vec<String>,
    pub(super) generators: Vec<String>,
    pub(super) transformers: Vec<String>,
    pub(super) validators: Vec<String>,
    pub(super) build_metadata: Vec<String>,
}

/// An item of `labels`.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    pub(super) pairs: BTreeMap<String, String>,
    pub(super) selectors: bool,
    pub(super) templates: bool,
    pub(super) fields: FieldSpecs,
}

/// An item of `patches`, `patchesJson6902`.
#[derive(Debug, Clone, Default)]
pub(super) struct Patch {
    pub(super) path: String,
    pub(super) patch: String,
    pub(super) target: Option<Selector>,
    pub(super) options: BTreeMap<String, bool>,
}

/// An item of `images`.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) new_name: String,
    pub(super) tag_suffix: String,
    pub(super) new_tag: String,
    pub(super) digest: String,
}

/// An item of `replicas`.
#[derive(Debug, Clone, Default)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) count: i64,
}

/// An item of `replacements`: a file, or what it would say.
#[derive(Debug, Clone, Default)]
pub(super) struct Replacement {
    pub(super) path: String,
    pub(super) source: Option<Source>,
    pub(super) targets: Option<Vec<Target>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    pub(super) id: ResId,
    pub(super) field_path: String,
    pub(super) options: FieldOptions,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    pub(super) select: Option<Selector>,
    pub(super) reject: Vec<Selector>,
    pub(super) field_paths: Vec<String>,
    pub(super) options: FieldOptions,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FieldOptions {
    pub(super) delimiter: String,
    pub(super) index: i64,
    pub(super) create: bool,
}

/// An item of `vars`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Var {
    pub(super) name: String,
    pub(super) gvk: Gvk,
    pub(super) object: String,
    pub(super) namespace: String,
    pub(super) field_path: String,
}

/// `sortOptions`.
#[derive(Debug, Clone, Default)]
pub(super) struct Sort {
    pub(super) order: String,
    pub(super) legacy: Option<(Vec<String>, Vec<String>)>,
}

/// An item of `configMapGenerator` or `secretGenerator`, with `generatorOptions` in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Generator {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) behavior: String,
    pub(super) literals: Vec<String>,
    pub(super) files: Vec<String>,
    pub(super) envs: Vec<String>,
    /// A Secret's type.
    pub(super) kind: String,
    pub(super) options: GeneratorOptions,
}

#[derive(Debug, Clone, Default)]
pub(super) struct GeneratorOptions {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) no_hash: bool,
    pub(super) immutable: bool,
}

const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "openapi",
    "namePrefix",
    "nameSuffix",
    "namespace",
    "commonLabels",
    "labels",
    "commonAnnotations",
    "patchesStrategicMerge",
    "patchesJson6902",
    "patches",
    "images",
    "imageTags",
    "replacements",
    "replicas",
    "vars",
    "sortOptions",
    "resources",
    "components",
    "crds",
    "bases",
    "configMapGenerator",
    "secretGenerator",
    "helmGlobals",
    "helmCharts",
    "helmChartInflationGenerator",
    "generatorOptions",
    "configurations",
    "generators",
    "transformers",
    "validators",
    "buildMetadata",
];

impl Settings {
    /// Reads a kustomization file.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value = read::configuration(text, Twice::LastWins)?;
        let empty = |value: &serde_json::Value| value.is_null() || value == "";
        let content = value.as_object().into_iter().flatten();
        if content.filter(|(key, _)| *key != "apiVersion" && *key != "kind").all(|(_, value)| empty(value)) {
            return fail("the kustomization is empty; name what it consists of under `resources`");
        }
        let fields = Field::root(&value, false).fields(FIELDS)?;
        let component = check_type(&fields)?;
        for name in ["helmCharts", "helmChartInflationGenerator"] {
            if fields.get(name).is_some_and(|charts| charts.list().is_ok_and(|charts| !charts.is_empty())) {
                return fail(format!(
                    "{name}: Helm charts are not supported; render the chart to a file and name that under `resources`"
                ));
            }
        }
        fields.one("metadata", |field| field.fields(&["name", "namespace", "labels", "annotations"]).map(drop))?;
        let mut settings = Self { component, ..Self::default() };
        settings.read_transformations(&fields)?;
        settings.read_inputs(&fields)?;
        Ok(settings)
    }

    fn read_transformations(&mut self, fields: &Fields<'_>) -> Result<()> {
        self.openapi = fields.one("openapi", Field::text_map)?;
        self.name_prefix = fields.text("namePrefix")?;
        self.name_suffix = fields.text("nameSuffix")?;
        self.namespace = fields.text("namespace")?;
        self.common_labels = fields.text_map("commonLabels")?;
        self.labels = fields.each("labels", labels)?;
        self.common_annotations = fields.text_map("commonAnnotations")?;
        self.patches_strategic = fields.texts("patchesStrategicMerge")?;
        self.patches_json = fields.each("patchesJson6902", patch)?;
        self.patches = fields.each("patches", patch)?;
        self.images = fields.each("images", image)?;
        self.images.extend(fields.each("imageTags", image)?);
        self.replacements = fields.each("replacements", replacement)?;
        self.replicas = fields.each("replicas", replica)?;
        self.vars = fields.each("vars", var)?;
        self.sort = fields.one("sortOptions", sort)?;
        self.build_metadata = fields.texts("buildMetadata")?;
        Ok(())
    }

    fn read_inputs(&mut self, fields: &Fields<'_>) -> Result<()> {
        self.resources = fields.texts("resources")?;
        self.resources.extend(fields.texts("bases")?);
        self.components = fields.texts("components")?;
        self.crds = fields.texts("crds")?;
        let global = fields.one("generatorOptions", generator_options)?.unwrap_or_default();
        self.config_maps = fields.each("configMapGenerator", |field| generator(field, false, &global))?;
        self.secrets = fields.each("secretGenerator", |field| generator(field, true, &global))?;
        self.configurations = fields.texts("configurations")?;
        self.generators = fields.texts("generators")?;
        self.transformers = fields.texts("transformers")?;
        self.validators = fields.texts("validators")?;
        Ok(())
    }
}

fn check_type(fields: &Fields<'_>) -> Result<bool> {
    let (kind, api_version) = (fields.text("kind")?, fields.text("apiVersion")?);
    let (component, wanted) = match kind.as_str() {
        "" | "Kustomization" => (false, "kustomize.config.k8s.io/v1beta1"),
        "Component" => (true, "kustomize.config.k8s.io/v1alpha1"),
        other => return fail(format!("kind: `{other}` is neither Kustomization nor Component")),
    };
    if !api_version.is_empty() && api_version != wanted {
        return fail(format!("apiVersion: `{api_version}` is not that of this kind; write {wanted}"));
    }
    Ok(component)
}

fn gvk(fields: &Fields<'_>) -> Result<Gvk> {
    Ok(Gvk { group: fields.text("group")?, version: fields.text("version")?, kind: fields.text("kind")? })
}

/// A field specification.
pub(super) fn field_spec(field: &Field<'_>) -> Result<FieldSpec> {
    let fields = field.fields(&["group", "version", "kind", "path", "create"])?;
    Ok(FieldSpec { gvk: gvk(&fields)?, path: fields.text("path")?, create: fields.flag("create")? })
}

fn labels(field: &Field<'_>) -> Result<Labels> {
    let fields = field.fields(&["pairs", "includeSelectors", "includeTemplates", "fields"])?;
    Ok(Labels {
        pairs: fields.text_map("pairs")?,
        selectors: fields.flag("includeSelectors")?,
        templates: fields.flag("includeTemplates")?,
        fields: fields.each("fields", field_spec)?,
    })
}

/// A selector.
pub(super) fn selector(field: &Field<'_>) -> Result<Selector> {
    let known = ["group", "version", "kind", "name", "namespace", "labelSelector", "annotationSelector"];
    let fields = field.fields(&known)?;
    Ok(Selector {
        gvk: gvk(&fields)?,
        name: fields.text("name")?,
        namespace: fields.text("namespace")?,
        labels: fields.text("labelSelector")?,
        annotations: fields.text("annotationSelector")?,
    })
}

fn patch(field: &Field<'_>) -> Result<Patch> {
    patch_of(&field.fields(&["path", "patch", "target", "options"])?)
}

/// The parts of a patch.
pub(super) fn patch_of(fields: &Fields<'_>) -> Result<Patch> {
    Ok(Patch {
        path: fields.text("path")?,
        patch: fields.text("patch")?,
        target: fields.one("target", selector)?,
        options: fields.one("options", Field::flag_map)?.unwrap_or_default(),
    })
}

/// An image and what becomes of it.
pub(super) fn image(field: &Field<'_>) -> Result<Image> {
    let fields = field.fields(&["name", "newName", "tagSuffix", "newTag", "digest"])?;
    Ok(Image {
        name: fields.text("name")?,
        new_name: fields.text("newName")?,
        tag_suffix: fields.text("tagSuffix")?,
        new_tag: fields.text("newTag")?,
        digest: fields.text("digest")?,
    })
}

/// A workload and how often it runs.
pub(super) fn replica(field: &Field<'_>) -> Result<Replica> {
    let fields = field.fields(&["name", "count"])?;
    Ok(Replica { name: fields.text("name")?, count: fields.whole("count")? })
}

/// A replacement.
pub(super) fn replacement(field: &Field<'_>) -> Result<Replacement> {
    let fields = field.fields(&["path", "source", "targets"])?;
    let targets = fields.get("targets").map(|list| list.list()?.iter().map(target).collect()).transpose()?;
    Ok(Replacement { path: fields.text("path")?, source: fields.one("source", source)?, targets })
}

fn source(field: &Field<'_>) -> Result<Source> {
    let known = ["group", "version", "kind", "name", "namespace", "fieldPath", "options"];
    let fields = field.fields(&known)?;
    let id =
        ResId { gvk: gvk(&fields)?, name: fields.text("name")?, namespace: fields.text("namespace")?, cluster: false };
    let options = fields.one("options", field_options)?.unwrap_or_default();
    Ok(Source { id, field_path: fields.text("fieldPath")?, options })
}

fn target(field: &Field<'_>) -> Result<Target> {
    let fields = field.fields(&["select", "reject", "fieldPaths", "options"])?;
    Ok(Target {
        select: fields.one("select", selector)?,
        reject: fields.each("reject", selector)?,
        field_paths: fields.texts("fieldPaths")?,
        options: fields.one("options", field_options)?.unwrap_or_default(),
    })
}

fn field_options(field: &Field<'_>) -> Result<FieldOptions> {
    let fields = field.fields(&["delimiter", "index", "encoding", "create"])?;
    Ok(FieldOptions {
        delimiter: fields.text("delimiter")?,
        index: fields.whole("index")?,
        create: fields.flag("create")?,
    })
}

fn var(field: &Field<'_>) -> Result<Var> {
    let fields = field.fields(&["name", "objref", "fieldref"])?;
    let mut found = Var { name: fields.text("name")?, field_path: "metadata.name".to_owned(), ..Var::default() };
    if let Some(object) = fields.get("objref") {
        let object = object.fields(&["apiVersion", "group", "version", "kind", "name", "namespace"])?;
        found.gvk = gvk(&object)?;
        let api_version = object.text("apiVersion")?;
        match api_version.split('/').collect::<Vec<_>>()[..] {
            [""] => {}
            [version] => version.clone_into(&mut found.gvk.version),
            [group, version] => {
                group.clone_into(&mut found.gvk.group);
                version.clone_into(&mut found.gvk.version);
            }
            _ => {}
        }
        found.object = object.text("name")?;
        found.namespace = object.text("namespace")?;
    }
    if let Some(reference) = fields.get("fieldref") {
        let path = reference.fields(&["fieldPath"])?.text("fieldPath")?;
        if !path.is_empty() {
            found.field_path = path;
        }
    }
    Ok(found)
}

/// An order.
pub(super) fn sort(field: &Field<'_>) -> Result<Sort> {
    let fields = field.fields(&["order", "legacySortOptions"])?;
    let legacy = fields.one("legacySortOptions", |field| {
        let fields = field.fields(&["orderFirst", "orderLast"])?;
        Ok((fields.texts("orderFirst")?, fields.texts("orderLast")?))
    })?;
    Ok(Sort { order: fields.text("order")?, legacy })
}

fn generator_options(field: &Field<'_>) -> Result<GeneratorOptions> {
    let fields = field.fields(&["labels", "annotations", "disableNameSuffixHash", "immutable"])?;
    Ok(GeneratorOptions {
        labels: fields.text_map("labels")?,
        annotations: fields.text_map("annotations")?,
        no_hash: fields.flag("disableNameSuffixHash")?,
        immutable: fields.flag("immutable")?,
    })
}

fn generator(field: &Field<'_>, secret: bool, global: &GeneratorOptions) -> Result<Generator> {
    let mut known = vec!["name", "namespace", "behavior", "literals", "files", "envs", "env", "options"];
    if secret {
        known.push("type");
    }
    generator_of(&field.fields(&known)?, global)
}

/// The parts of a generator. What it says itself goes before what is said for all, but one cannot say no for another's yes.
pub(super) fn generator_of(fields: &Fields<'_>, global: &GeneratorOptions) -> Result<Generator> {
    let mut options = fields.one("options", generator_options)?.unwrap_or_default();
    for (own, all) in [(&mut options.labels, &global.labels), (&mut options.annotations, &global.annotations)] {
        for (key, value) in all {
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    options.no_hash |= global.no_hash;
    options.immutable |= global.immutable;
    let mut envs = fields.texts("envs")?;
    let env = fields.text("env")?;
    if !env.is_empty() {
        envs.push(env);
    }
    Ok(Generator {
        name: fields.text("name")?,
        namespace: fields.text("namespace")?,
        behavior: fields.text("behavior")?,
        literals: fields.texts("literals")?,
        files: fields.texts("files")?,
        envs,
        kind: fields.text("type")?,
        options,
    })
}
