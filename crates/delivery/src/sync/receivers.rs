//! Flux's `Receiver` (notification.toolkit.fluxcd.io/v1): a path of its own for notices, which asks the resources that it names to look.
//!
//! The path is `/hook/` and the SHA-256 of token, name and namespace, as Flux makes it. Types: `generic` (whoever knows the path),
//! `generic-hmac`, `github`, `gitlab`. What is asked is asked as anyone would: by the annotation `reconcile.fluxcd.io/requestedAt`.
//!
//! Invariants: nothing polls: a Receiver is looked at when it or a Secret of its namespace changes; a notice that is not genuine asks nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::credentials::decoded;
use super::engine::compare::MANAGER;
use super::front::{text, texts};
use super::http::webhook;
use super::report::stamp;
use crate::api::{Api, escape};
use crate::object;

/// The annotation by which Flux's controllers are asked to look.
const REQUESTED: &str = "reconcile.fluxcd.io/requestedAt";

/// How a notice shows that it is genuine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Generic,
    GenericHmac,
    GitHub,
    GitLab,
}

/// One resource, or all of some labels, that is asked to look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    group: String,
    kind: String,
    namespace: String,
    /// `*` for all that have the labels.
    name: String,
    labels: Vec<(String, String)>,
}

/// What a Receiver says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Receiver {
    namespace: String,
    name: String,
    kind: Kind,
    events: Vec<String>,
    targets: Vec<Target>,
    secret: String,
    suspended: bool,
}

/// The Receivers that are ready, by the path that each answers on.
#[derive(Default)]
pub(crate) struct Receivers {
    ready: Mutex<BTreeMap<String, Receiver>>,
}

fn read(object: &Value) -> Result<Receiver, String> {
    let spec = &object["spec"];
    let kind = match text(spec, "type") {
        "generic" => Kind::Generic,
        "generic-hmac" => Kind::GenericHmac,
        "github" => Kind::GitHub,
        "gitlab" => Kind::GitLab,
        other => return Err(format!("spec.type: {other:?} is none of generic, generic-hmac, github, gitlab")),
    };
    if !text(spec, "resourceFilter").is_empty() {
        return Err("spec.resourceFilter is not supported; name the resources, or use matchLabels".to_owned());
    }
    let own = object::namespace(object);
    let mut targets = Vec::new();
    for (index, one) in spec["resources"].as_array().into_iter().flatten().enumerate() {
        let group = match text(one, "apiVersion").split_once('/') {
            Some((group, _)) => group,
            None => "source.toolkit.fluxcd.io",
        };
        let labels = one["matchLabels"].as_object().into_iter().flatten();
        let labels: Vec<(String, String)> =
            labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        if text(one, "name") == "*" && labels.is_empty() {
            return Err(format!("spec.resources[{index}]: matchLabels are needed where the name is *"));
        }
        let namespace = Some(text(one, "namespace")).filter(|one| !one.is_empty()).unwrap_or(own);
        targets.push(Target {
            group: group.to_owned(),
            kind: text(one, "kind").to_owned(),
            namespace: namespace.to_owned(),
            name: text(one, "name").to_owned(),
            labels,
        });
    }
    if targets.is_empty() {
        return Err("spec.resources is empty: name what is to look".to_owned());
    }
    Ok(Receiver {
        namespace: own.to_owned(),
        name: object::name(object).to_owned(),
        kind,
        events: texts(&spec["events"]),
        targets,
        secret: text(&spec["secretRef"], "name").to_owned(),
        suspended: spec["suspend"] == true,
    })
}

/// The path that a Receiver answers on.
fn path_of(token: &str, name: &str, namespace: &str) -> String {
    let digest = Sha256::digest(format!("{token}{name}{namespace}"));
    format!("/hook/{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

async fn token(api: &Api, namespace: &str, secret: &str) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
    let found = api
        .get(&path)
        .await
        .map_err(|error| format!("unable to read token from secret '{namespace}/{secret}': {error}"))?;
    let token = decoded(&found).remove("token").filter(|token| !token.is_empty());
    token.ok_or_else(|| format!("invalid '{namespace}/{secret}' secret data: required field 'token'"))
}

/// Follows every Receiver until stopped.
pub(crate) async fn run(client: kube::Client, receivers: Arc<Receivers>, stop: CancellationToken) {
    let resource = ApiResource {
        group: "notification.toolkit.fluxcd.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "notification.toolkit.fluxcd.io/v1".to_owned(),
        kind: "Receiver".to_owned(),
        plural: "receivers".to_owned(),
    };
    let api = Api::over(client.clone());
    let all: kube::Api<DynamicObject> = kube::Api::all_with(client.clone(), &resource);
    let secrets: kube::Api<PartialObjectMeta<Secret>> = kube::Api::all(client);
    let mut objects = watcher(all, watcher::Config::default()).default_backoff().boxed();
    let mut secrets = watcher(secrets, watcher::Config::default()).default_backoff().boxed();
    let mut known: BTreeMap<(String, String), Value> = BTreeMap::new();
    let json = |object: DynamicObject| serde_json::to_value(&object).unwrap_or_default();
    let key = |object: &Value| (object::namespace(object).to_owned(), object::name(object).to_owned());
    loop {
        let touched = tokio::select! {
            () = stop.cancelled() => return,
            Some(event) = objects.next() => match event {
                Ok(watcher::Event::Init) => {
                    known.clear();
                    continue;
                }
                Ok(watcher::Event::InitDone) => {
                    receivers.ready.lock().retain(|_, one| known.contains_key(&(one.namespace.clone(), one.name.clone())));
                    continue;
                }
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    let object = json(object);
                    let same = known.get(&key(&object)).is_some_and(|before| before["spec"] == object["spec"]);
                    known.insert(key(&object), object.clone());
                    if same { Vec::new() } else { vec![object] }
                }
                Ok(watcher::Event::Delete(object)) => {
                    let (namespace, name) = key(&json(object));
                    known.remove(&(namespace.clone(), name.clone()));
                    receivers.ready.lock().retain(|_, one| (&one.namespace, &one.name) != (&namespace, &name));
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "the watch of Receivers is begun again");
                    continue;
                }
            },
            Some(event) = secrets.next() => match event {
                Ok(watcher::Event::Apply(secret) | watcher::Event::Delete(secret)) => {
                    let (namespace, name) = (secret.metadata.namespace.unwrap_or_default(), secret.metadata.name.unwrap_or_default());
                    let of = |one: &&Value| object::namespace(one) == namespace && one["spec"]["secretRef"]["name"] == name.as_str();
                    known.values().filter(of).cloned().collect()
                }
                _ => continue,
            },
        };
        for object in touched {
            look(&api, &receivers, &object).await;
        }
    }
}

/// Makes a Receiver ready, or says why not.
async fn look(api: &Api, receivers: &Receivers, object: &Value) {
    let (namespace, name) = (object::namespace(object), object::name(object));
    receivers.ready.lock().retain(|_, one| (one.namespace.as_str(), one.name.as_str()) != (namespace, name));
    let made = match read(object) {
        Ok(receiver) => {
            token(api, namespace, &receiver.secret).await.map(|token| (receiver, path_of(&token, name, namespace)))
        }
        Err(reason) => Err(reason),
    };
    let before = &object["status"]["conditions"][0];
    let (status, reason, message, path) = match made {
        Ok((receiver, path)) => {
            receivers.ready.lock().insert(path.clone(), receiver);
            ("True", "Succeeded", format!("Receiver initialized for path: {path}"), Some(path))
        }
        Err(reason) => ("False", "InvalidSpec", reason, None),
    };
    let since = Some(before["lastTransitionTime"].clone()).filter(|_| before["status"] == status);
    let condition = json!({ "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| stamp(Timestamp::now()).into()),
        "observedGeneration": object["metadata"]["generation"] });
    let status = json!({ "status": { "conditions": [condition], "webhookPath": path,
        "observedGeneration": object["metadata"]["generation"] } });
    let place = format!("/apis/notification.toolkit.fluxcd.io/v1/namespaces/{namespace}/receivers/{name}/status");
    if let Err(error) = api.merge(&place, &status, MANAGER).await
        && !error.is_not_found()
    {
        tracing::warn!(namespace, name, %error, "the status of a Receiver could not be written");
    }
}

/// Answers a notice, with the statuses that Flux answers.
pub(crate) async fn answer(
    api: &Api,
    receivers: &Receivers,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> (StatusCode, String) {
    let found = receivers.ready.lock().get(path).cloned();
    let Some(receiver) = found else { return (StatusCode::NOT_FOUND, "there is no such Receiver".to_owned()) };
    if receiver.suspended {
        return (StatusCode::SERVICE_UNAVAILABLE, "the Receiver is suspended".to_owned());
    }
    let genuine = match token(api, &receiver.namespace, &receiver.secret).await {
        Ok(token) => check(&receiver, headers, body, &token),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = genuine {
        tracing::warn!(receiver = receiver.name, reason, "a notice was refused");
        return (StatusCode::BAD_REQUEST, reason);
    }
    let mut failures = Vec::new();
    for target in &receiver.targets {
        failures.extend(ask(api, target).await.err());
    }
    if failures.is_empty() {
        (StatusCode::OK, "they are asked to look".to_owned())
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, failures.join("; "))
    }
}

fn check(receiver: &Receiver, headers: &HeaderMap, body: &[u8], token: &str) -> Result<(), String> {
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let event = match receiver.kind {
        Kind::Generic => return Ok(()),
        Kind::GenericHmac => return webhook::signed(said("x-signature"), "x-signature", token, body),
        Kind::GitHub => {
            let (given, header) = webhook::of_github(headers);
            webhook::signed(given, header, token, body)?;
            said("x-github-event")
        }
        Kind::GitLab => {
            if !webhook::same(said("x-gitlab-token").as_bytes(), token.as_bytes()) {
                return Err("the X-Gitlab-Token header value does not match the receiver token".to_owned());
            }
            said("x-gitlab-event")
        }
    };
    if receiver.events.is_empty() || receiver.events.iter().any(|one| one.eq_ignore_ascii_case(event)) {
        return Ok(());
    }
    Err(format!("the event '{event}' is not authorised"))
}

/// Asks one resource, or all that have its labels.
async fn ask(api: &Api, target: &Target) -> Result<(), String> {
    let failed = |error: crate::api::ApiError| error.to_string();
    let kinds = api.kinds().await.map_err(failed)?;
    let Some(resource) = kinds.of_group(&target.group, &target.kind) else {
        return Err(format!("the API has no {} in {}", target.kind, target.group));
    };
    let collection = resource.path(Some(&target.namespace), None);
    let mut names = vec![target.name.clone()];
    if target.name == "*" {
        let labels: Vec<String> = target.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let all =
            api.list(&collection, &format!("labelSelector={}", escape(&labels.join(",")))).await.map_err(failed)?;
        names = all.iter().map(|one| object::name(one).to_owned()).collect();
    }
    let at = Timestamp::now().to_string();
    let patch = json!({ "metadata": { "annotations": { REQUESTED: at } } });
    for name in names {
        api.merge(&format!("{collection}/{name}"), &patch, MANAGER).await.map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(spec: Value) -> Result<Receiver, String> {
        read(&json!({ "metadata": { "name": "r", "namespace": "apps" }, "spec": spec }))
    }

    #[test]
    fn the_path_is_fluxs() {
        // printf 'tokenrapps' | sha256sum
        assert_eq!(
            path_of("token", "r", "apps"),
            "/hook/b4a3b70e2bbe30a0e517894cf1b2cc85e1616ef6ad86d27f9842da5bbcc3271a"
        );
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let resources = json!([{ "kind": "GitRepository", "name": "shop" }]);
        for (spec, words) in [
            (json!({ "type": "harbor", "resources": resources }), "harbor"),
            (json!({ "type": "github", "resources": [] }), "spec.resources is empty"),
            (json!({ "type": "github", "resources": [{ "kind": "GitRepository", "name": "*" }] }), "matchLabels"),
            (json!({ "type": "github", "resources": resources, "resourceFilter": "true" }), "resourceFilter"),
        ] {
            let error = receiver(spec).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
        let good = receiver(json!({ "type": "generic", "resources": resources, "secretRef": { "name": "t" } }))
            .expect("right");
        assert_eq!(
            (good.targets[0].group.as_str(), good.targets[0].namespace.as_str()),
            ("source.toolkit.fluxcd.io", "apps")
        );
    }

    #[test]
    fn only_genuine_notices_of_the_right_event_pass() {
        let of = |kind: &str| {
            let resources = json!([{ "kind": "GitRepository", "name": "shop" }]);
            receiver(json!({ "type": kind, "events": ["push", "Push Hook"], "resources": resources })).expect("right")
        };
        let signature = webhook::signature("t", b"{}");
        for (kind, headers, passes) in [
            ("generic", vec![], true),
            ("generic-hmac", vec![("x-signature", signature.as_str())], true),
            ("generic-hmac", vec![("x-signature", "sha256=00")], false),
            ("generic-hmac", vec![("x-signature", "sha1=00")], false),
            ("github", vec![("x-hub-signature-256", signature.as_str()), ("x-github-event", "push")], true),
            ("github", vec![("x-hub-signature-256", signature.as_str()), ("x-github-event", "ping")], false),
            ("github", vec![("x-github-event", "push")], false),
            ("gitlab", vec![("x-gitlab-token", "t"), ("x-gitlab-event", "Push Hook")], true),
            ("gitlab", vec![("x-gitlab-token", "u"), ("x-gitlab-event", "Push Hook")], false),
        ] {
            let mut all = HeaderMap::new();
            for (name, value) in &headers {
                all.insert(http::HeaderName::from_static(name), value.parse().expect("a value"));
            }
            assert_eq!(check(&of(kind), &all, b"{}", "t").is_ok(), passes, "{kind} {headers:?}");
        }
        for (kind, header) in [("generic-hmac", "x-signature"), ("github", "x-hub-signature")] {
            let all =
                HeaderMap::from_iter([(http::HeaderName::from_static(header), "sha1=00".parse().expect("a value"))]);
            let refused = check(&of(kind), &all, b"{}", "t").expect_err("refused");
            assert!(refused.contains(header) && refused.contains("sha1"), "{refused}");
        }
    }
}
