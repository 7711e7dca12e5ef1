//! One kustomization built: what it names is gathered, generated, composed and transformed, layer by layer.
//!
//! Names are made final and references mended once, by the outermost kustomization.
//!
//! Invariants: a base is finished before its overlay touches it; a component changes what its user has gathered so far.
//! It must not know: how files are reached, how steps work.

use super::config::{self, Config};
use super::error::{At, Error, Result, fail};
use super::generate::{self, Kind};
use super::load::Loader;
use super::names;
use super::origin::{self, Origin};
use super::plugins;
use super::read;
use super::resource::{self, Resource};
use super::resources::Resources;
use super::schema::Known;
use super::settings::{Settings, Sort};
use super::steps::{self, Step};
use super::transform;
use super::vars::{self, Vars};
use super::{FILE_NAMES, order, remote};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What a kustomization has gathered, and the rules that come with it.
#[derive(Default)]
struct Gathered {
    resources: Resources,
    config: Arc<Config>,
    vars: Vars,
}

impl Gathered {
    fn merge(&mut self, other: Gathered) -> Result<()> {
        self.resources.add_all(other.resources.into_list())?;
        self.config = Config::merge(&self.config, &other.config)?;
        vars::add(&mut self.vars, other.vars.into_values())
    }
}

/// One kustomization.
struct Target<'a> {
    loader: Rc<Loader<'a>>,
    settings: Settings,
    file: &'static str,
    /// Kept when the outermost kustomization asks for it.
    origin: Option<Origin>,
    known: Rc<Known>,
}

/// Builds the kustomization in the loader's folder.
pub(super) fn build(loader: Rc<Loader<'_>>) -> Result<Vec<Resource>> {
    let known = Rc::new(Known::default());
    let mut target = Target::load(loader, None, &known)?;
    target.set_schema(true)?;
    let metadata = target.settings.build_metadata.clone();
    target.origin = (!metadata.is_empty()).then(Origin::default);
    let sort = target.settings.sort.clone();
    let root = target.loader.root().display().to_string();
    let built = target.finish(&metadata, sort.as_ref());
    built.at(|| root)
}

impl<'a> Target<'a> {
    fn load(loader: Rc<Loader<'a>>, origin: Option<Origin>, known: &Rc<Known>) -> Result<Self> {
        let found: Vec<&'static str> = FILE_NAMES.into_iter().filter(|name| loader.has(name)).collect();
        let root = loader.root().display();
        let file = match found[..] {
            [file] => file,
            [] => return fail(format!("there is no kustomization.yaml in {root}; make one, or name another folder")),
            _ => return fail(format!("there are several kustomizations in {root}: {}; keep one", found.join(", "))),
        };
        let settings = loader.bytes(file).and_then(read::utf8).and_then(|text| Settings::parse(&text));
        let settings = settings.at(|| loader.root().join(file).display().to_string())?;
        Ok(Self { loader, settings, file, origin, known: known.clone() })
    }

    fn set_schema(&self, outermost: bool) -> Result<()> {
        let openapi = self.settings.openapi.as_ref();
        let get = |name: &str| openapi.and_then(|fields| fields.get(name));
        let file = get("path").map(|path| self.loader.text(path).at(|| "openapi".to_owned())).transpose()?;
        let version = get("version").map(String::as_str);
        self.known.set(version, file.as_deref(), outermost)
    }

    fn finish(mut self, metadata: &[String], sort: Option<&Sort>) -> Result<Vec<Resource>> {
        let mut gathered = self.gather(Gathered::default())?;
        transform::add_hashes(&mut gathered.resources)?;
        names::mend(&mut gathered.resources, &gathered.config.name_reference)?;
        vars::resolve(&mut gathered.resources, &gathered.vars, &gathered.config.var_reference)?;
        let mut resources = gathered.resources.into_list();
        resources.retain(|resource| {
            resource.annotation("config.kubernetes.io/local-config").is_none_or(|value| value == "false")
        });
        order::sort(&mut resources, sort)?;
        let asked = |name: &str| metadata.iter().any(|option| option == name);
        for resource in &mut resources {
            if asked("managedByLabel") {
                let mut labels = resource.labels();
                labels.insert("app.kubernetes.io/managed-by".to_owned(), "kustomize-(devel)".to_owned());
                resource.set_labels(&labels);
            }
            resource.finish(asked("originAnnotations"), asked("transformerAnnotations"));
        }
        Ok(resources)
    }

    /// Everything this kustomization consists of, transformed. A component begins with what its user has.
    fn gather(&mut self, gathered: Gathered) -> Result<Gathered> {
        let resources = self.settings.resources.clone();
        let mut gathered = self.gather_resources(gathered, &resources, "resources")?;
        gathered.config = Config::merge(&gathered.config, &self.own_config()?)?;
        self.generate(&mut gathered)?;
        for path in self.settings.components.clone() {
            gathered = self.enter(gathered, &path, true).at(|| format!("components: {path}"))?;
        }
        self.transform(&mut gathered)?;
        self.validate(&mut gathered.resources)?;
        vars::mark(&mut gathered.resources, &self.settings.vars)?;
        vars::add(&mut gathered.vars, self.settings.vars.iter().cloned())?;
        Ok(gathered)
    }

    fn own_config(&self) -> Result<Arc<Config>> {
        let mut config = config::builtin();
        for path in &self.settings.configurations {
            let more = self.loader.text(path).and_then(|text| Config::parse(&text));
            config = Config::merge(&config, &Arc::new(more.at(|| format!("configurations: {path}"))?))?;
        }
        for path in &self.settings.crds {
            let more = self.loader.text(path).and_then(|text| config::from_crds(&text));
            config = Config::merge(&config, &Arc::new(more.at(|| format!("crds: {path}"))?))?;
        }
        Ok(config)
    }

    fn gather_resources(&mut self, mut gathered: Gathered, paths: &[String], field: &str) -> Result<Gathered> {
        for path in paths {
            // What is neither a folder nor a repository is taken as a file, so that its own error is reported.
            let base = if remote::is_url(path) { !remote::is_file(path) } else { self.loader.is_base(path) };
            if !base {
                self.add_file(&mut gathered.resources, path).at(|| format!("{field}: {path}"))?;
            } else {
                gathered = self.enter(gathered, path, false).at(|| format!("{field}: {path}"))?;
            }
        }
        Ok(gathered)
    }

    fn add_file(&self, resources: &mut Resources, path: &str) -> Result<()> {
        let text = self.loader.bytes(path).and_then(read::utf8)?;
        let mut found = resource::parse(&text, &self.known)?;
        if let Some(origin) = &self.origin {
            let text = origin.join(path).text();
            found.iter_mut().for_each(|resource| resource.set_annotation(resource::ORIGIN, &text));
        }
        resources.add_all(found)
    }

    /// Builds a base or a component and adds it.
    fn enter(&mut self, mut gathered: Gathered, path: &str, component: bool) -> Result<Gathered> {
        let loader = self.loader.enter(path)?;
        let origin = self.origin.as_ref().map(|origin| origin.join(path));
        let mut target = Target::load(loader, origin, &self.known)?;
        target.set_schema(false)?;
        let place = target.loader.root().display().to_string();
        match (component, target.settings.component) {
            (true, false) => fail(format!("{place} is no Component; name it under `resources`")),
            (false, true) => fail(format!("{place} is a Component; name it under `components`")),
            (true, true) => target.gather(gathered),
            (false, false) => {
                let base = target.gather(Gathered::default())?;
                gathered.merge(base)?;
                Ok(gathered)
            }
        }
    }

    fn generate(&mut self, gathered: &mut Gathered) -> Result<()> {
        let kinds = [
            (Kind::ConfigMap, &self.settings.config_maps, "ConfigMapGenerator"),
            (Kind::Secret, &self.settings.secrets, "SecretGenerator"),
        ];
        for (kind, items, name) in kinds {
            let origin = self.origin.as_ref().map(|origin| origin.builtin(self.file, name));
            for item in items {
                let mut made = generate::generate(kind, item, &self.loader, &self.known)?;
                if let Some(origin) = &origin {
                    origin::note(&mut made, origin);
                }
                gathered.resources.absorb(made).at(|| name.to_owned())?;
            }
        }
        for config in self.plugins("generators")? {
            let mut made = plugins::generate(&config, &self.loader, &self.known)?;
            if let Some(origin) = Origin::of_plugin(&config) {
                origin::note(&mut made, &origin);
            }
            gathered.resources.absorb(made).at(|| "generators".to_owned())?;
        }
        Ok(())
    }

    /// The objects that configure generators, transformers or validators: written inline, in files or in bases.
    fn plugins(&mut self, field: &str) -> Result<Vec<Resource>> {
        let items = match field {
            "generators" => self.settings.generators.clone(),
            "transformers" => self.settings.transformers.clone(),
            _ => self.settings.validators.clone(),
        };
        let mut gathered = Gathered::default();
        let mut paths = Vec::new();
        for item in items {
            let Ok(mut found) = resource::parse(&item, &self.known) else {
                paths.push(item);
                continue;
            };
            if let Some(origin) = &self.origin {
                let text = origin.join(self.file).text();
                found.iter_mut().for_each(|resource| resource.set_annotation(resource::ORIGIN, &text));
            }
            gathered.resources.add_all(found)?;
        }
        Ok(self.gather_resources(gathered, &paths, field)?.resources.into_list())
    }

    fn transform(&mut self, gathered: &mut Gathered) -> Result<()> {
        let own = steps::of(&self.settings, &gathered.config, &self.loader, &self.known)?;
        let mut all: Vec<(Option<Origin>, Step)> = Vec::new();
        for (name, step) in own {
            all.push((self.origin.as_ref().map(|origin| origin.builtin(self.file, name)), step));
        }
        for config in self.plugins("transformers")? {
            let step = plugins::step(&config, "transformers", &self.loader, &self.known)?;
            all.push((Origin::of_plugin(&config), step));
        }
        for (origin, step) in &all {
            step.apply(&mut gathered.resources)?;
            if let Some(origin) = origin {
                gathered.resources.iter_mut().for_each(|resource| origin::note_step(resource, origin));
            }
            gathered.resources.drop_gone();
        }
        Ok(())
    }

    /// A validator is a transformer that must change nothing but one label.
    fn validate(&mut self, resources: &mut Resources) -> Result<()> {
        for config in self.plugins("validators")? {
            let step = plugins::step(&config, "validators", &self.loader, &self.known)?;
            let before: Vec<_> = resources.iter().map(content).collect::<Result<_>>()?;
            step.apply(resources)?;
            let after: Vec<_> = resources.iter().map(content).collect::<Result<_>>()?;
            if before != after {
                return Err(Error::new(format!(
                    "validators: {} {} changes resources; name it under `transformers`",
                    config.kind(),
                    config.name()
                )));
            }
        }
        Ok(())
    }
}

/// A resource as it is compared by validators.
fn content(resource: &Resource) -> Result<serde_json::Value> {
    let mut resource = resource.clone();
    let mut labels: BTreeMap<String, String> = resource.labels();
    if labels.remove("validated-by").is_some() {
        resource.set_labels(&labels);
    }
    resource.node.to_json()
}
