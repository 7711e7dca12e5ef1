//! Argo CD's `Application` (argoproj.io/v1alpha1), as its documentation describes the fields.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{text, texts};
use crate::object;
use crate::sync::application::{
    AppId, Application, Automated, Build, Deletion, Front, Ignore, Options, Policy, Retry, Source, duration,
};
use crate::sync::git::Wanted;

/// The finalizer that asks for the objects to go with the Application.
pub const FINALIZER: &str = "resources-finalizer.argocd.argoproj.io";
/// How long a revision may take until it is healthy, as `5m`.
pub const DEADLINE: &str = "coracle.dev/health-deadline";
/// The Secret (in the Application's namespace) with the keys of which one must have signed the commit.
pub const VERIFY: &str = "coracle.dev/verify-commits";

/// How long a revision may take where nothing is said.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);
/// How many syncs are remembered where nothing is said, as in Argo CD.
const HISTORY: usize = 10;
/// The most that may be asked for.
const MOST_HISTORY: usize = 100;

/// Reads an Application.
///
/// # Errors
///
/// Everything that keeps it from working, a sentence each.
pub fn read(object: &Value) -> Result<Application, Vec<String>> {
    let spec = &object["spec"];
    let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
    let namespace = text(&spec["destination"], "namespace").to_owned();
    destination(&spec["destination"], &mut wrong);
    let verify = object::annotation(object, VERIFY);
    let verify = verify.map(|name| (object::namespace(object).to_owned(), name.to_owned()));
    let listed = spec["sources"].as_array().filter(|all| !all.is_empty());
    let written = listed.cloned().unwrap_or_else(|| vec![spec["source"].clone()]);
    let mut sources = Vec::new();
    for (index, source) in written.iter().enumerate() {
        let place = if listed.is_some() { format!("spec.sources[{index}]") } else { "spec.source".to_owned() };
        match self::source(source, &place, &mut warnings) {
            Ok(source) => sources.push(Source { verify: verify.clone(), ..source }),
            Err(reason) => wrong.push(reason),
        }
    }
    let policy = policy(object, &mut wrong, &mut warnings);
    without_effect(spec, &mut warnings);
    let ignore = spec["ignoreDifferences"].as_array().into_iter().flatten();
    let ignore = ignore.enumerate().map(|(index, one)| self::ignore(index, one, &mut wrong)).collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let project = Some(text(spec, "project")).filter(|name| !name.is_empty()).unwrap_or("default");
    let history = spec["revisionHistoryLimit"].as_u64().and_then(|limit| usize::try_from(limit).ok());
    Ok(Application {
        id: AppId {
            front: Front::Argo,
            namespace: object::namespace(object).to_owned(),
            name: object::name(object).to_owned(),
        },
        project: project.to_owned(),
        sources,
        namespace,
        account: None,
        policy,
        ignore,
        history: history.unwrap_or(HISTORY).min(MOST_HISTORY),
        depends_on: Vec::new(),
        suspended: false,
        warnings,
        build: super::build(object),
    })
}

/// Fields that nobody knows, as a misspelt one is: Argo CD's definition lets them through.
fn without_effect(spec: &Value, warnings: &mut Vec<String>) {
    const SOURCE: &str = "repoURL path targetRevision chart helm kustomize directory plugin ref name";
    let known = [
        ("", "project source sources destination syncPolicy ignoreDifferences info revisionHistoryLimit"),
        ("/destination", "server namespace name"),
        ("/source", SOURCE),
        ("/source/directory", "recurse include exclude jsonnet"),
        ("/syncPolicy", "automated syncOptions retry"),
        ("/syncPolicy/automated", "prune selfHeal allowEmpty enabled"),
        ("/syncPolicy/retry", "limit backoff"),
        ("/syncPolicy/retry/backoff", "duration factor maxDuration"),
    ];
    let mut check = |place: String, value: &Value, known: &str| {
        let names = value.as_object().into_iter().flatten().map(|(name, _)| name);
        let unknown = names.filter(|name| !known.split(' ').any(|one| one == name.as_str()));
        warnings.extend(unknown.map(|name| format!("{place}.{name} has no effect here")));
    };
    for (pointer, names) in known {
        check(format!("spec{}", pointer.replace('/', ".")), spec.pointer(pointer).unwrap_or(&Value::Null), names);
    }
    for (index, source) in spec["sources"].as_array().into_iter().flatten().enumerate() {
        check(format!("spec.sources[{index}]"), source, SOURCE);
    }
    for (index, one) in spec["ignoreDifferences"].as_array().into_iter().flatten().enumerate() {
        let known = "group kind name namespace jsonPointers jqPathExpressions managedFieldsManagers";
        check(format!("spec.ignoreDifferences[{index}]"), one, known);
    }
}

fn destination(destination: &Value, wrong: &mut Vec<String>) {
    let (server, name) = (text(destination, "server"), text(destination, "name"));
    let here = ["", "https://kubernetes.default.svc", "in-cluster"];
    if !here.contains(&server) || !here.contains(&name) {
        let other = if here.contains(&server) { name } else { server };
        wrong.push(format!(
            "spec.destination: {other:?} is another cluster, and only this one is served: write server: https://kubernetes.default.svc"
        ));
    }
}

fn source(source: &Value, place: &str, warnings: &mut Vec<String>) -> Result<Source, String> {
    let url = text(source, "repoURL");
    if !text(source, "chart").is_empty() || source["helm"].is_object() || url.starts_with("oci://") {
        return Err(format!(
            "{place}: Helm charts are not built yet; render the chart into the repository, or use kustomize or plain manifests"
        ));
    }
    if source["plugin"].is_object() {
        return Err(format!(
            "{place}.plugin: config management plugins run programs of their own and are not supported"
        ));
    }
    if !text(source, "ref").is_empty() {
        return Err(format!("{place}.ref: sources that only give values to a Helm chart are not supported"));
    }
    if url.is_empty() {
        return Err(format!("{place}.repoURL is missing: name the repository"));
    }
    let directory = &source["directory"];
    if directory["jsonnet"].as_object().is_some_and(|all| !all.is_empty()) {
        return Err(format!("{place}.directory.jsonnet: jsonnet is not supported"));
    }
    let mut build = Build {
        recurse: directory["recurse"] == true,
        include: globs(text(directory, "include")),
        exclude: globs(text(directory, "exclude")),
        ..Build::default()
    };
    if source["kustomize"].is_object() {
        build.overlay = overlay(&source["kustomize"], place, warnings)?;
    }
    Ok(Source {
        url: url.to_owned(),
        wanted: Wanted::Any(text(source, "targetRevision").to_owned()),
        path: text(source, "path").to_owned(),
        secret: None,
        build,
        interval: None,
        verify: None,
    })
}

/// `*.yaml` or `{a.yaml,b.yaml}`.
fn globs(text: &str) -> Vec<String> {
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let all = inner.map_or_else(|| vec![text], |inner| inner.split(',').collect());
    all.into_iter().map(str::trim).filter(|glob| !glob.is_empty()).map(str::to_owned).collect()
}

/// The fields of `source.kustomize` as a kustomization has them.
fn overlay(kustomize: &Value, place: &str, warnings: &mut Vec<String>) -> Result<Map<String, Value>, String> {
    let mut overlay = Map::new();
    let included = kustomize["labelWithoutSelector"] == true;
    for (name, value) in kustomize.as_object().into_iter().flatten() {
        match name.as_str() {
            "namePrefix" | "nameSuffix" | "namespace" | "patches" | "components" | "commonAnnotations" => {
                overlay.insert(name.clone(), value.clone());
            }
            "commonLabels" if included => {
                let label = json!([{ "pairs": value, "includeSelectors": false, "includeTemplates": kustomize["labelIncludeTemplates"] == true }]);
                overlay.insert("labels".to_owned(), label);
            }
            "commonLabels" => drop(overlay.insert(name.clone(), value.clone())),
            "images" => drop(overlay.insert(name.clone(), images(value, place)?)),
            "replicas" => {
                let all = value.as_array().into_iter().flatten();
                let one = |one: &Value| {
                    let count = one["count"].as_i64().or_else(|| one["count"].as_str()?.parse().ok());
                    count.map(|count| json!({ "name": one["name"], "count": count }))
                };
                let all: Option<Vec<Value>> = all.map(one).collect();
                let all = all.ok_or_else(|| format!("{place}.kustomize.replicas: count is no number"))?;
                overlay.insert(name.clone(), all.into());
            }
            "labelWithoutSelector" | "labelIncludeTemplates" => {}
            "version"
            | "kubeVersion"
            | "apiVersions"
            | "forceCommonLabels"
            | "forceCommonAnnotations"
            | "ignoreMissingComponents" => {
                warnings.push(format!("{place}.kustomize.{name} has no effect here"));
            }
            _ => return Err(format!("{place}.kustomize.{name} is not supported")),
        }
    }
    Ok(overlay)
}

/// `NAME[=NEW][:TAG|@DIGEST]`, as Argo CD writes images.
fn images(value: &Value, place: &str) -> Result<Value, String> {
    let mut all = Vec::new();
    for image in texts(value) {
        let (name, new) = image.split_once('=').map_or((None, image.as_str()), |(name, new)| (Some(name), new));
        let (base, digest) = new.split_once('@').map_or((new, None), |(base, digest)| (base, Some(digest)));
        // A colon before the last slash belongs to a registry's port.
        let tag_at = base.rfind(':').filter(|at| !base[*at..].contains('/'));
        let (base, tag) = tag_at.map_or((base, None), |at| (&base[..at], Some(&base[at + 1..])));
        if base.is_empty() {
            return Err(format!("{place}.kustomize.images: {image:?} names no image"));
        }
        let mut entry = json!({ "name": name.unwrap_or(base) });
        if name.is_some() {
            entry["newName"] = base.into();
        }
        match (tag, digest) {
            (_, Some(digest)) => entry["digest"] = digest.into(),
            (Some(tag), None) => entry["newTag"] = tag.into(),
            (None, None) => {}
        }
        all.push(entry);
    }
    Ok(all.into())
}

fn policy(object: &Value, wrong: &mut Vec<String>, warnings: &mut Vec<String>) -> Policy {
    let written = &object["spec"]["syncPolicy"];
    let automated = &written["automated"];
    let on = |name: &str| automated[name] == true;
    let mut options = Options::default();
    for option in texts(&written["syncOptions"]) {
        if let Err(reason) = options.set(&option) {
            warnings.push(reason);
        }
    }
    let retry = &written["retry"];
    let mut policy = Policy {
        automated: (automated.is_object() && automated["enabled"] != false).then(|| Automated {
            prune: on("prune"),
            self_heal: on("selfHeal"),
            allow_empty: on("allowEmpty"),
        }),
        retry: Retry::default(),
        options,
        deadline: DEFAULT_DEADLINE,
        wait: false,
        deletion: Deletion::Delete,
    };
    if let Some(limit) = retry["limit"].as_i64() {
        policy.retry.limit = limit;
    }
    let mut time = |value: &Value, place: &str, into: &mut Duration| {
        let Some(text) = value.as_str() else { return };
        match duration(text) {
            Some(time) => *into = time,
            None => wrong.push(format!("{place}: {text:?} is no time; write 30s, 5m or 1h")),
        }
    };
    time(&retry["backoff"]["duration"], "spec.syncPolicy.retry.backoff.duration", &mut policy.retry.first);
    time(&retry["backoff"]["maxDuration"], "spec.syncPolicy.retry.backoff.maxDuration", &mut policy.retry.longest);
    time(&object["metadata"]["annotations"][DEADLINE], DEADLINE, &mut policy.deadline);
    if let Some(factor) = retry["backoff"]["factor"].as_u64() {
        policy.retry.factor = u32::try_from(factor).unwrap_or(u32::MAX);
    }
    policy
}

fn ignore(index: usize, one: &Value, wrong: &mut Vec<String>) -> Ignore {
    if one["jqPathExpressions"].as_array().is_some_and(|all| !all.is_empty()) {
        wrong.push(format!(
            "spec.ignoreDifferences[{index}].jqPathExpressions: jq is not supported; write jsonPointers or managedFieldsManagers"
        ));
    }
    let own = |name: &str| text(one, name).to_owned();
    Ignore {
        group: own("group"),
        kind: own("kind"),
        name: own("name"),
        namespace: own("namespace"),
        pointers: texts(&one["jsonPointers"]),
        managers: texts(&one["managedFieldsManagers"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(spec: Value) -> Value {
        json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
            "metadata": { "name": "shop", "namespace": "argocd" }, "spec": spec })
    }

    #[test]
    fn a_stock_manifest_is_read() {
        let object = application(json!({
            "project": "team", "destination": { "server": "https://kubernetes.default.svc", "namespace": "shop" },
            "source": { "repoURL": "https://example.com/a.git", "path": "deploy", "targetRevision": "main",
                "directory": { "recurse": true, "include": "{*.yaml,*.yml}" } },
            "syncPolicy": { "automated": { "prune": true, "selfHeal": true }, "syncOptions": ["CreateNamespace=true"],
                "retry": { "limit": 2, "backoff": { "duration": "1s", "factor": 3, "maxDuration": "1m" } } },
            "ignoreDifferences": [{ "group": "apps", "kind": "Deployment", "jsonPointers": ["/spec/replicas"] }],
        }));
        let read = read(&object).expect("it is right");
        assert_eq!((read.project.as_str(), read.namespace.as_str()), ("team", "shop"));
        assert_eq!(read.sources[0].build.include, ["*.yaml", "*.yml"]);
        assert_eq!(read.policy.automated, Some(Automated { prune: true, self_heal: true, allow_empty: false }));
        assert!(read.policy.options.create_namespace && read.warnings.is_empty());
        assert_eq!((read.policy.retry.limit, read.policy.retry.factor), (2, 3));
        assert!(read.ignore[0].means(&json!({ "apiVersion": "apps/v1", "kind": "Deployment" })));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let source = |source: Value| json!({ "source": source });
        for (spec, words) in [
            (source(json!({ "repoURL": "https://x", "chart": "redis" })), "Helm"),
            (source(json!({ "repoURL": "https://x", "helm": {} })), "Helm"),
            (source(json!({ "repoURL": "https://x", "plugin": {} })), "plugins"),
            (source(json!({})), "repoURL is missing"),
            (
                json!({ "source": { "repoURL": "/x" }, "destination": { "server": "https://10.0.0.1" } }),
                "another cluster",
            ),
            (json!({ "source": { "repoURL": "/x" }, "ignoreDifferences": [{ "jqPathExpressions": [".a"] }] }), "jq"),
            (json!({ "source": { "repoURL": "/x", "kustomize": { "colour": 1 } } }), "kustomize.colour"),
            (
                json!({ "source": { "repoURL": "/x" }, "syncPolicy": { "retry": { "backoff": { "duration": "soon" } } } }),
                "no time",
            ),
        ] {
            let error = read(&application(spec.clone())).expect_err("refused").join("; ");
            assert!(error.contains(words), "{spec}: {error}");
        }
        let odd =
            application(json!({ "source": { "repoURL": "/x" }, "syncPolicy": { "syncOptions": ["Magic=true"] } }));
        assert!(read(&odd).expect("it works without").warnings[0].contains("Magic"));
        let misspelt = json!({ "source": { "repoURL": "/x", "pathh": "a" }, "syncPolicy": { "automated": { "prunee": true },
            "managedNamespaceMetadata": {} } });
        let wanted =
            ["spec.source.pathh", "spec.syncPolicy.managedNamespaceMetadata", "spec.syncPolicy.automated.prunee"];
        let wanted = wanted.map(|place| format!("{place} has no effect here"));
        assert_eq!(read(&application(misspelt)).expect("it works without").warnings, wanted);
        assert_eq!(read(&odd).expect("it works without").policy.automated, None);
    }

    #[test]
    fn images_are_read_as_argo_writes_them() {
        for (image, wanted) in [
            ("nginx:1.2", json!({ "name": "nginx", "newTag": "1.2" })),
            ("a=host:5000/b:2", json!({ "name": "a", "newName": "host:5000/b", "newTag": "2" })),
            ("a@sha256:00", json!({ "name": "a", "digest": "sha256:00" })),
            ("a=b", json!({ "name": "a", "newName": "b" })),
        ] {
            assert_eq!(images(&json!([image]), "x").expect("an image")[0], wanted, "{image}");
        }
        assert!(images(&json!(["a=:1"]), "x").is_err());
    }
}
