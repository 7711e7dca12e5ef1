//! Flux's `GitRepository` (source.toolkit.fluxcd.io/v1) and `Kustomization` (kustomize.toolkit.fluxcd.io/v1), as its
//! documentation describes the fields.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::text;
use crate::object;
use crate::sync::application::{
    AppId, Application, Automated, Build, Deletion, Front, Options, Policy, Retry, Source, Substitute, duration,
};
use crate::sync::git::Wanted;

/// The finalizer that holds a Kustomization until its objects are gone.
pub const FINALIZER: &str = "finalizers.fluxcd.io";

/// A repository as a GitRepository says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Repository {
    /// What every source of it has; the path is the Kustomization's.
    pub source: Source,
    /// Whether nothing is to be fetched for now.
    pub suspended: bool,
    /// The last request for a look.
    pub requested: Option<String>,
}

fn time(value: &Value, place: &str, wrong: &mut Vec<String>) -> Option<Duration> {
    let text = value.as_str()?;
    let read = duration(text);
    if read.is_none() {
        wrong.push(format!("{place}: {text:?} is no time; write 30s, 5m or 1h"));
    }
    read
}

/// Reads a GitRepository.
///
/// # Errors
///
/// Everything that keeps it from working, a sentence each.
pub fn repository(object: &Value) -> Result<Repository, Vec<String>> {
    let spec = &object["spec"];
    let mut wrong = Vec::new();
    let namespace = object::namespace(object).to_owned();
    for (name, why) in [
        ("recurseSubmodules", "submodules are not followed; name the other repository as a source of its own"),
        ("include", "repositories are not put into each other"),
        ("proxySecretRef", "proxies are not supported"),
    ] {
        if !matches!(spec[name], Value::Null | Value::Bool(false)) {
            wrong.push(format!("spec.{name}: {why}"));
        }
    }
    if !matches!(text(spec, "provider"), "" | "generic") {
        wrong.push(format!("spec.provider: {:?} is not supported; write generic and a Secret", text(spec, "provider")));
    }
    let reference = &spec["ref"];
    let of = |name: &str| Some(text(reference, name).to_owned()).filter(|text| !text.is_empty());
    // The order of precedence is Flux's.
    let wanted = of("commit").map(Wanted::Commit).or_else(|| of("name").map(Wanted::Name));
    let wanted = wanted.or_else(|| of("semver").map(Wanted::Semver)).or_else(|| of("tag").map(Wanted::Tag));
    let wanted =
        wanted.or_else(|| of("branch").map(Wanted::Branch)).unwrap_or_else(|| Wanted::Branch("master".to_owned()));
    if text(spec, "url").is_empty() {
        wrong.push("spec.url is missing: name the repository".to_owned());
    }
    let interval = time(&spec["interval"], "spec.interval", &mut wrong);
    let secret = |value: &Value| Some((namespace.clone(), value["name"].as_str()?.to_owned()));
    let verify = &spec["verify"];
    if !verify.is_null() && !matches!(text(verify, "mode"), "" | "HEAD" | "head") {
        wrong.push(format!(
            "spec.verify.mode: {:?} is not supported; commits are verified (HEAD)",
            text(verify, "mode")
        ));
    }
    let source = Source {
        url: text(spec, "url").to_owned(),
        wanted,
        path: String::new(),
        secret: secret(&spec["secretRef"]),
        build: Build { recurse: true, ..Build::default() },
        interval,
        verify: secret(&verify["secretRef"]),
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let requested = requested_at(object).map(str::to_owned);
    Ok(Repository { source, suspended: spec["suspend"] == true, requested })
}

/// The GitRepository that a Kustomization names: namespace and name.
#[must_use]
pub fn source_of(object: &Value) -> Option<(String, String)> {
    let reference = &object["spec"]["sourceRef"];
    let namespace = Some(text(reference, "namespace")).filter(|text| !text.is_empty());
    (text(reference, "kind") == "GitRepository").then(|| {
        (namespace.unwrap_or_else(|| object::namespace(object)).to_owned(), text(reference, "name").to_owned())
    })
}

/// Reads a Kustomization with the repository that it names.
///
/// # Errors
///
/// Everything that keeps it from working, a sentence each.
pub fn kustomization(object: &Value, repository: &Repository) -> Result<Application, Vec<String>> {
    let spec = &object["spec"];
    let mut wrong = Vec::new();
    let own = object::namespace(object).to_owned();
    refuse_unsupported(spec, &mut wrong);
    let interval = time(&spec["interval"], "spec.interval", &mut wrong);
    let retry = time(&spec["retryInterval"], "spec.retryInterval", &mut wrong).or(interval);
    let deadline = time(&spec["timeout"], "spec.timeout", &mut wrong).or(interval);
    let target = text(spec, "targetNamespace").to_owned();
    let wait = spec["wait"] == true || spec["healthChecks"].as_array().is_some_and(|all| !all.is_empty());
    let depends_on = spec["dependsOn"].as_array().into_iter().flatten().map(|one| {
        let namespace = Some(text(one, "namespace")).filter(|text| !text.is_empty()).unwrap_or(&own);
        (namespace.to_owned(), text(one, "name").to_owned())
    });
    let depends_on = depends_on.collect();
    let deletion = match text(spec, "deletionPolicy") {
        "" | "MirrorPrune" if spec["prune"] == true => Deletion::Delete,
        "" | "MirrorPrune" | "Orphan" => Deletion::Orphan,
        "Delete" | "WaitForTermination" => Deletion::Delete,
        other => {
            wrong.push(format!(
                "spec.deletionPolicy: {other:?} is none of MirrorPrune, Delete, WaitForTermination, Orphan"
            ));
            Deletion::Orphan
        }
    };
    let account = Some(text(spec, "serviceAccountName")).filter(|name| !name.is_empty());
    let source = Source {
        path: text(spec, "path").to_owned(),
        build: Build {
            overlay: overlay(spec),
            generate: true,
            recurse: true,
            substitute: substitute(spec),
            ..Build::default()
        },
        ..repository.source.clone()
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let first = retry.unwrap_or(Duration::from_secs(60));
    let automated = Automated { prune: spec["prune"] == true, self_heal: true, allow_empty: false };
    Ok(Application {
        id: AppId { front: Front::Flux, namespace: own.clone(), name: object::name(object).to_owned() },
        project: String::new(),
        sources: vec![source],
        namespace: if target.is_empty() { own.clone() } else { target },
        account: account.map(|name| format!("system:serviceaccount:{own}:{name}")),
        policy: Policy {
            automated: Some(automated),
            // Flux tries again for ever, every so often.
            retry: Retry { limit: -1, first, factor: 1, longest: first },
            options: Options { force: spec["force"] == true, ..Options::default() },
            deadline: deadline.unwrap_or(Duration::from_secs(300)),
            wait,
            deletion,
        },
        ignore: Vec::new(),
        history: 5,
        depends_on,
        suspended: spec["suspend"] == true || repository.suspended,
        warnings: Vec::new(),
        build: super::build(object),
    })
}

fn refuse_unsupported(spec: &Value, wrong: &mut Vec<String>) {
    for (name, why) in [
        ("decryption", "encrypted manifests are not decrypted"),
        ("kubeConfig", "only this cluster is served"),
        ("healthCheckExprs", "health expressions are not evaluated; use wait or healthChecks"),
        ("ignore", "fields cannot be left out here"),
    ] {
        if !spec[name].is_null() {
            wrong.push(format!("spec.{name}: {why}"));
        }
    }
    if text(&spec["sourceRef"], "kind") != "GitRepository" {
        wrong.push(format!(
            "spec.sourceRef.kind: {:?} is not supported; use a GitRepository",
            text(&spec["sourceRef"], "kind")
        ));
    }
}

/// The fields of a Kustomization as a kustomization file has them.
fn overlay(spec: &Value) -> Map<String, Value> {
    let mut overlay = Map::new();
    for name in ["namePrefix", "nameSuffix", "patches", "components", "images"] {
        if !spec[name].is_null() {
            overlay.insert(name.to_owned(), spec[name].clone());
        }
    }
    if !text(spec, "targetNamespace").is_empty() {
        overlay.insert("namespace".to_owned(), spec["targetNamespace"].clone());
    }
    let metadata = &spec["commonMetadata"];
    if metadata["labels"].is_object() {
        overlay.insert("labels".to_owned(), json!([{ "pairs": metadata["labels"], "includeSelectors": false }]));
    }
    if metadata["annotations"].is_object() {
        overlay.insert("commonAnnotations".to_owned(), metadata["annotations"].clone());
    }
    overlay
}

fn substitute(spec: &Value) -> Option<Substitute> {
    let post = &spec["postBuild"];
    if !post.is_object() {
        return None;
    }
    let pairs = post["substitute"].as_object().into_iter().flatten();
    let values = pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
    let from = post["substituteFrom"].as_array().into_iter().flatten();
    let from = from.map(|one| (text(one, "kind").to_owned(), text(one, "name").to_owned(), one["optional"] == true));
    Some(Substitute { values, from: from.collect() })
}

/// The objects whose health is asked for by name, where not all is: kind, namespace, name.
#[must_use]
pub fn health_checks(object: &Value) -> Vec<(String, String, String)> {
    let all = object["spec"]["healthChecks"].as_array().into_iter().flatten();
    all.map(|one| (text(one, "kind").to_owned(), text(one, "namespace").to_owned(), text(one, "name").to_owned()))
        .collect()
}

/// The annotation by which Flux's command line asks for a look at once.
#[must_use]
pub fn requested_at(object: &Value) -> Option<&str> {
    object::annotation(object, "reconcile.fluxcd.io/requestedAt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: &str, spec: Value) -> Value {
        json!({ "kind": kind, "metadata": { "name": "shop", "namespace": "flux-system" }, "spec": spec })
    }

    #[test]
    fn references_follow_fluxs_precedence() {
        for (reference, wanted) in [
            (json!({}), Wanted::Branch("master".into())),
            (json!({ "branch": "main" }), Wanted::Branch("main".into())),
            (json!({ "branch": "main", "tag": "v1" }), Wanted::Tag("v1".into())),
            (json!({ "tag": "v1", "semver": "1.x" }), Wanted::Semver("1.x".into())),
            (json!({ "semver": "1.x", "name": "refs/pull/1/head" }), Wanted::Name("refs/pull/1/head".into())),
            (json!({ "name": "x", "commit": "0" }), Wanted::Commit("0".into())),
        ] {
            let object = with("GitRepository", json!({ "url": "https://x/y", "interval": "1m", "ref": reference }));
            assert_eq!(repository(&object).expect("it is right").source.wanted, wanted);
        }
    }

    #[test]
    fn a_kustomization_is_read_with_its_repository() {
        let source =
            with("GitRepository", json!({ "url": "https://x/y", "interval": "1m", "secretRef": { "name": "key" } }));
        let source = repository(&source).expect("it is right");
        let object = with(
            "Kustomization",
            json!({
                "interval": "10m", "retryInterval": "20s", "timeout": "2m", "path": "./deploy", "prune": true, "wait": true,
                "sourceRef": { "kind": "GitRepository", "name": "shop" }, "targetNamespace": "shop",
                "dependsOn": [{ "name": "base" }], "namePrefix": "my-", "serviceAccountName": "deployer",
                "commonMetadata": { "labels": { "team": "a" } },
                "postBuild": { "substitute": { "colour": "red" }, "substituteFrom": [{ "kind": "ConfigMap", "name": "vars" }] },
            }),
        );
        let read = kustomization(&object, &source).expect("it is right");
        assert_eq!(read.namespace, "shop");
        assert_eq!(read.depends_on, [("flux-system".to_owned(), "base".to_owned())]);
        assert_eq!(read.sources[0].secret, Some(("flux-system".to_owned(), "key".to_owned())));
        assert_eq!(read.policy.deadline, Duration::from_secs(120));
        assert_eq!(read.policy.retry.pause(9), Some(Duration::from_secs(20)));
        assert_eq!(read.account.as_deref(), Some("system:serviceaccount:flux-system:deployer"));
        assert_eq!(read.sources[0].build.overlay["namespace"], "shop");
        assert_eq!(read.policy.deletion, Deletion::Delete);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let source = repository(&with("GitRepository", json!({ "url": "https://x/y" }))).expect("it is right");
        let reference = json!({ "kind": "GitRepository", "name": "shop" });
        for (spec, words) in [
            (json!({ "sourceRef": reference, "decryption": {} }), "spec.decryption"),
            (json!({ "sourceRef": reference, "interval": "often" }), "no time"),
            (json!({ "sourceRef": { "kind": "Bucket", "name": "b" } }), "Bucket"),
            (json!({ "sourceRef": reference, "deletionPolicy": "Maybe" }), "Maybe"),
        ] {
            let error = kustomization(&with("Kustomization", spec), &source).expect_err("refused").join("; ");
            assert!(error.contains(words), "{error}");
        }
        let error =
            repository(&with("GitRepository", json!({ "recurseSubmodules": true }))).expect_err("refused").join("; ");
        assert!(error.contains("submodules") && error.contains("spec.url"), "{error}");
    }
}
