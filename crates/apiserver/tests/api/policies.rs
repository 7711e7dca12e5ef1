//! ValidatingAdmissionPolicies, as they hold for every client.

use http::Method;
use serde_json::{Value, json};

use crate::support::*;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

fn policy(name: &str, resources: &[&str], operations: &[&str], validation: Value) -> Value {
    let rule =
        json!({ "apiGroups": ["", "apps"], "apiVersions": ["*"], "operations": operations, "resources": resources });
    json!({ "metadata": { "name": name },
        "spec": { "matchConstraints": { "resourceRules": [rule] }, "validations": [validation] } })
}

fn binding(name: &str, actions: &[&str]) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "policyName": name, "validationActions": actions } })
}

#[tokio::test]
async fn a_tag_that_moves_is_refused_where_images_are_to_be_pinned() {
    let server = Harness::start().await;
    let example =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/policies/pinned-images.yaml"))
            .expect("the example");
    for (path, part) in [POLICIES, BINDINGS].into_iter().zip(example.split("\n---\n")) {
        let (code, made) = server.typed(Method::POST, path, "application/yaml", part.to_owned()).await;
        assert_eq!(code, 201, "{made}");
    }
    let with = |name: &str, image: &str| {
        let mut one = deployment(name);
        one["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        one
    };
    assert_eq!(server.post(DEPLOYMENTS, with("before", "shop/web:latest")).await.0, 201, "nobody asked for it yet");
    server.merge("/api/v1/namespaces/default", json!({ "metadata": { "labels": { "images": "pinned" } } })).await;
    let (code, refused) = server.post(DEPLOYMENTS, with("web", "shop/web:latest")).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refused["message"],
        "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'pinned-images' with binding 'pinned-images' \
         denied request: pin these images by digest, release or commit: shop/web:latest"
    );
    for fine in
        ["shop/web:1.4.2", "shop/web:v2.0.0-rc.1", "shop/web:3f9a1bc", &format!("shop/web@sha256:{}", "0".repeat(64))]
    {
        let name = format!("w{}", fine.len());
        assert_eq!(server.post(DEPLOYMENTS, with(&name, fine)).await.0, 201, "{fine}");
    }
    let patch =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "main", "image": "shop/web:main" }] } } } });
    assert_eq!(server.merge(&format!("{DEPLOYMENTS}/before"), patch).await.0, 403, "a change is held to it as well");
    server.stop().await;
}

#[tokio::test]
async fn deletions_dry_runs_and_applies_are_asked_about_too() {
    let server = Harness::start().await;
    server.make(CONFIG_MAPS, json!({ "metadata": { "name": "kept", "annotations": { "keep": "yes" } } })).await;
    let keep = "!has(oldObject.metadata.annotations) || !('keep' in oldObject.metadata.annotations)";
    let kept =
        policy("keep", &["configmaps"], &["DELETE"], json!({ "expression": keep, "message": "it is to be kept" }));
    server.make(POLICIES, kept).await;
    server.make(BINDINGS, binding("keep", &["Deny"])).await;
    let (code, refused) = server.delete(&format!("{CONFIG_MAPS}/kept"), Value::Null).await;
    assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (422, &json!("Invalid")));
    assert_eq!(server.delete(CONFIG_MAPS, Value::Null).await.0, 422, "with others as well");
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/kept")).await.0, 200);

    let short = json!({ "expression": "size(object.metadata.name) < 5", "message": "too long a name" });
    server.make(POLICIES, policy("short", &["configmaps"], &["CREATE"], short)).await;
    server.make(BINDINGS, binding("short", &["Deny"])).await;
    let long = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "longer" } });
    assert_eq!(server.post(&format!("{CONFIG_MAPS}?dryRun=All"), long.clone()).await.0, 422);
    assert_eq!(server.apply(&format!("{CONFIG_MAPS}/longer"), "me", long).await.0, 422);
    server.delete(&format!("{BINDINGS}/short"), Value::Null).await;
    assert_eq!(server.post(CONFIG_MAPS, json!({ "metadata": { "name": "longer" } })).await.0, 201, "no longer bound");
    server.stop().await;
}

#[tokio::test]
async fn parameters_are_looked_up_and_a_policy_that_cannot_be_read_is_refused() {
    let server = Harness::start().await;
    let mut most = policy(
        "most",
        &["deployments"],
        &["CREATE"],
        json!({ "expression": "object.spec.replicas <= int(params.data.most)" }),
    );
    most["spec"]["paramKind"] = json!({ "apiVersion": "v1", "kind": "ConfigMap" });
    server.make(POLICIES, most).await;
    let mut bound = binding("most", &["Deny"]);
    bound["spec"]["paramRef"] = json!({ "name": "limits", "parameterNotFoundAction": "Deny" });
    server.make(BINDINGS, bound).await;
    let (code, refused) = server.post(DEPLOYMENTS, deployment("a")).await;
    assert!(
        code == 422 && refused["message"].as_str().is_some_and(|text| text.contains("no params found")),
        "{refused}"
    );
    let limits = |most: &str| json!({ "metadata": { "name": "limits" }, "data": { "most": most } });
    server.make(CONFIG_MAPS, limits("1")).await;
    assert_eq!(server.post(DEPLOYMENTS, deployment("a")).await.0, 422);
    server.merge(&format!("{CONFIG_MAPS}/limits"), limits("2")).await;
    assert_eq!(server.post(DEPLOYMENTS, deployment("a")).await.0, 201);

    let broken = policy("broken", &["pods"], &["CREATE"], json!({ "expression": "object.spec." }));
    let (code, refused) = server.post(POLICIES, broken).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.validations[0].expression")));
    server.stop().await;
}
