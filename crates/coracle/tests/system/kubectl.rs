//! The real kubectl against the shop, command by command.

use crate::harness::{Coracle, eventually, root};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

struct Kubectl<'a> {
    coracle: &'a Coracle,
}

impl Kubectl<'_> {
    /// Must succeed; stdout.
    fn ok(&self, words: &str) -> String {
        let arguments: Vec<&str> = words.split_whitespace().collect();
        self.ok_with(&arguments)
    }

    fn ok_with(&self, arguments: &[&str]) -> String {
        let output = self.coracle.kubectl(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?}\n{out}\n{err}");
        out.into_owned()
    }

    fn json(&self, words: &str) -> Value {
        let text = self.ok(&format!("{words} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("kubectl {words}: {e}: {text}"))
    }

    /// Must fail; stderr.
    fn refused(&self, words: &str) -> String {
        let arguments: Vec<&str> = words.split_whitespace().collect();
        let output = self.coracle.kubectl(&arguments);
        assert!(!output.status.success(), "kubectl {words} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts one that goes on; its lines.
    fn follow(&self, words: &str) -> (Child, std::io::Lines<BufReader<std::process::ChildStdout>>) {
        let mut child = Command::new("kubectl")
            .args(words.split_whitespace())
            .env("KUBECONFIG", self.coracle.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        (child, lines)
    }
}

impl Kubectl<'_> {
    /// Waits until it says all of this: what is written beside, as Events are, comes in its own time.
    fn comes_to_say(&self, words: &str, parts: &[&str]) {
        eventually(&format!("kubectl {words} says {parts:?}"), || {
            let text = self.ok(words);
            if parts.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text) }
        });
    }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text}\nlacks {part:?}");
    }
}

fn shop() -> String {
    root().join("examples/shop").to_str().expect("UTF-8").to_owned()
}

/// The shop's manifests alone, without the recipe file that kubectl would refuse.
fn shop_manifests() -> String {
    let files = ["00-config", "10-services", "20-workloads", "30-gateway"];
    files.map(|file| format!("-f {}/{file}.yaml", shop())).join(" ")
}

#[test]
#[ignore = "needs kubectl"]
fn reading_and_describing() {
    let coracle = Coracle::up(std::path::Path::new(&shop()));
    let k = Kubectl { coracle: &coracle };
    has(&k.ok("version"), &["Server Version: v1.33"]);
    has(&k.ok("get pods -o wide"), &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "orders-"]);
    has(
        &k.ok("get all"),
        &["pod/orders-", "service/orders", "deployment.apps/orders", "replicaset.apps/orders-", "job.batch/migrate"],
    );
    has(
        &k.ok("get deploy,svc,cm,secret,gateway,httproute,crd,ns,nodes,endpointslices,leases -A"),
        &["shop", "kube-system", "coracle"],
    );
    has(&k.ok("get deployment orders -o yaml"), &["kind: Deployment", "replicas: 3", "availableReplicas: 3"]);
    assert_eq!(k.json("get pods -l app=orders")["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(k.json("get pods --field-selector status.phase=Running,metadata.namespace=default")["kind"], "List");
    has(&k.ok("get deploy orders -o jsonpath={.status.readyReplicas}"), &["3"]);
    has(&k.ok("get pods --sort-by=.metadata.name"), &["bff-"]);
    has(&k.ok("get nodes -o wide"), &["coracle", "Ready"]);
    k.comes_to_say(
        "describe deployment orders",
        &["StrategyType", "RollingUpdate", "ScalingReplicaSet", "NewReplicaSet"],
    );
    k.comes_to_say(
        "describe pods -l app=orders",
        &["Container ID", "State:", "Running", "Readiness:", "Events:", "Started", "Scheduled"],
    );
    for what in [
        "node coracle",
        "service orders",
        "job migrate",
        "gateway shop",
        "httproute shop",
        "configmap shop",
        "secret payments",
        "namespace default",
        "crd gateways.gateway.networking.k8s.io",
        "endpointslices",
        "replicasets",
    ] {
        assert!(!k.ok(&format!("describe {what}")).is_empty(), "{what}");
    }
    has(&k.ok("explain deployment.spec.strategy"), &["rollingUpdate", "FIELDS"]);
    has(&k.ok("explain httproute.spec.rules"), &["backendRefs"]);
    has(&k.ok("explain pod.spec.containers.livenessProbe --recursive"), &["httpGet", "failureThreshold"]);
    has(&k.ok("api-resources"), &["deployments", "deploy", "apps/v1", "httproutes", "gateway.networking.k8s.io/v1"]);
    has(&k.ok("api-versions"), &["apps/v1", "batch/v1"]);
    k.comes_to_say("events", &["Scheduled", "Started"]);
    k.comes_to_say("get events", &["ScalingReplicaSet"]);
    has(&k.ok("cluster-info"), &["Kubernetes control plane"]);
    has(&k.ok("auth whoami"), &["Username"]);
    has(&k.ok("auth can-i create pods"), &["yes"]);
    has(&k.ok("get --raw /readyz"), &["ok"]);
    has(&k.refused("get pod none"), &["Error from server (NotFound): pods \"none\" not found"]);
}

#[test]
#[ignore = "needs kubectl"]
fn applying_and_changing() {
    let coracle = Coracle::up(std::path::Path::new(&shop()));
    let k = Kubectl { coracle: &coracle };
    has(
        &k.ok(&format!("apply {}", shop_manifests())),
        &["deployment.apps/orders", "httproute.gateway.networking.k8s.io/shop"],
    );
    let again = k.ok(&format!("apply {}", shop_manifests()));
    // kubectl says "configured", against any server, of custom kinds whose lists got defaults and of a Secret's stringData;
    // what counts is that nothing changed.
    let always = |line: &&str| line.contains("gateway.networking") || line.starts_with("secret/");
    let builtin: String = again.lines().filter(|line| !always(line)).collect();
    assert!(!builtin.contains("configured") && !again.contains("created"), "a second apply changes nothing: {again}");
    let versions =
        || k.ok("get deploy,svc,cm,secret,gateway,httproute -o jsonpath={.items[*].metadata.resourceVersion}");
    // A status may still be written by those whose it is.
    eventually("an apply changes nothing", || {
        let before = versions();
        k.ok(&format!("apply {}", shop_manifests()));
        let after = versions();
        if after == before { Ok(()) } else { Err(format!("{before}\n{after}")) }
    });
    has(&k.ok(&format!("apply --server-side --force-conflicts {}", shop_manifests())), &["serverside-applied"]);
    let diff = coracle.kubectl(&["diff", "-f", &format!("{}/20-workloads.yaml", shop())]);
    assert_eq!(
        diff.status.code(),
        Some(0),
        "no difference: {}{}",
        String::from_utf8_lossy(&diff.stdout),
        String::from_utf8_lossy(&diff.stderr)
    );

    has(&k.ok("create configmap made --from-literal=a=b"), &["configmap/made created"]);
    has(&k.ok("create secret generic hidden --from-literal=a=b"), &["secret/hidden created"]);
    has(&k.ok("create namespace other"), &["namespace/other created"]);
    has(&k.ok("create deployment web --image=shop:1.0 --replicas=2 -- /work/none"), &["deployment.apps/web created"]);
    has(&k.ok("create serviceaccount robot"), &["created"]);
    has(&k.ok("create job once --image=coracle.dev/host -- true"), &["job.batch/once created"]);
    k.ok("wait --for=condition=complete job/once --timeout=300s");
    has(&k.refused("create configmap made --from-literal=a=b"), &["already exists"]);
    has(&k.ok("create configmap dry --from-literal=a=b --dry-run=server"), &["created (server dry run)"]);
    has(&k.refused("get configmap dry"), &["NotFound"]);
    k.ok("delete deployment web");

    has(&k.ok("label deployment orders tier=back"), &["labeled"]);
    has(&k.ok("annotate deployment orders note=hello"), &["annotated"]);
    has(&k.ok("get deployment -l tier=back"), &["orders"]);
    has(&k.ok("label deployment orders tier-"), &["unlabeled"]);
    k.ok_with(&["patch", "configmap", "made", "--type=merge", "-p", r#"{"data":{"c":"d"}}"#]);
    k.ok_with(&["patch", "configmap", "made", "--type=json", "-p", r#"[{"op":"remove","path":"/data/a"}]"#]);
    assert_eq!(k.json("get configmap made")["data"], serde_json::json!({"c": "d"}));
    k.ok_with(&[
        "patch",
        "deployment",
        "bff",
        "-p",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"bff","env":[{"name":"EXTRA","value":"1"}]}]}}}}"#,
    ]);
    let bff = k.json("get deployment bff");
    let container = &bff["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "shop:1.0", "merged by name: {container}");
    assert!(container["env"].as_array().map_or(0, Vec::len) >= 5, "merged by name: {container}");
    k.ok("rollout status deployment/bff --timeout=300s");

    let output = Command::new("kubectl")
        .args(["edit", "configmap", "made"])
        .env("KUBECONFIG", coracle.kubeconfig())
        .env("KUBE_EDITOR", "sed -i s/c:.d/c:\\ edited/")
        .output()
        .expect("kubectl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(k.json("get configmap made")["data"]["c"], "edited");

    let bad = format!("{}/bad.yaml", coracle.data().display());
    std::fs::write(&bad, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndato: {}\n").expect("writable");
    has(&k.refused(&format!("apply -f {bad}")), &["unknown field \"dato\""]);
    std::fs::write(&bad, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {replicas: -1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}\n").expect("writable");
    has(&k.refused(&format!("apply -f {bad}")), &["spec.replicas", "Invalid value"]);
}

#[test]
#[ignore = "needs kubectl"]
fn rolling_out_and_scaling() {
    let coracle = Coracle::up(std::path::Path::new(&shop()));
    let k = Kubectl { coracle: &coracle };
    has(&k.ok("scale deployment/orders --replicas=4"), &["scaled"]);
    k.ok("rollout status deployment/orders --timeout=300s");
    eventually("four are ready", || {
        let ready = k.ok("get deploy orders -o jsonpath={.status.readyReplicas}");
        if ready == "4" { Ok(()) } else { Err(ready) }
    });
    has(&k.ok("set image deployment/orders orders=shop:2.0"), &["image updated"]);
    has(&k.ok("rollout status deployment/orders --timeout=300s"), &["successfully rolled out"]);
    has(&k.ok("rollout history deployment/orders"), &["REVISION", "1", "2"]);
    has(&k.ok("rollout history deployment/orders --revision=2"), &["shop:2.0"]);
    has(&k.ok("rollout undo deployment/orders"), &["rolled back"]);
    k.ok("rollout status deployment/orders --timeout=300s");
    assert_eq!(k.ok("get deploy orders -o jsonpath={.spec.template.spec.containers[0].image}"), "shop:1.0");
    has(&k.ok("rollout restart deployment/orders"), &["restarted"]);
    k.ok("rollout status deployment/orders --timeout=300s");
    has(&k.ok("rollout pause deployment/orders"), &["paused"]);
    k.ok("set env deployment/orders X=1");
    has(&k.ok("rollout resume deployment/orders"), &["resumed"]);
    k.ok("rollout status deployment/orders --timeout=300s");
    k.ok("wait --for=condition=Available deployment/orders --timeout=300s");
    k.ok("wait --for=condition=Ready pod -l app=orders --timeout=300s");
    let log = k.ok("logs deployment/orders --tail=2 --timestamps");
    has(&log, &["\"service\":\"orders\"", "T"]);
    let (mut child, mut lines) = k.follow("logs -f deployment/storefront");
    has(&lines.next().expect("a first line").expect("UTF-8"), &["listening"]);
    k.ok("delete pod -l app=storefront");
    has(&lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"), &["drain"]);
    assert!(child.wait().expect("kubectl ends with its Pod").success());
    let (mut child, mut lines) = k.follow("get configmaps -w --no-headers");
    k.ok("create configmap watched --from-literal=a=b");
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("watched")));
    child.kill().expect("ours");
    child.wait().expect("ours");
}

#[test]
#[ignore = "needs kubectl"]
fn deleting_with_each_propagation() {
    let coracle = Coracle::up(std::path::Path::new(&shop()));
    let k = Kubectl { coracle: &coracle };
    has(&k.ok("delete deployment storefront --cascade=orphan"), &["deleted"]);
    has(&k.ok("get rs -l app=storefront -o name"), &["replicaset.apps/storefront-"]);
    has(&k.ok("delete deployment users --cascade=foreground"), &["deleted"]);
    assert_eq!(k.ok("get rs,pods -l app=users -o name"), "");
    has(&k.ok("delete deployment payments --cascade=background"), &["deleted"]);
    k.ok("wait --for=delete pod -l app=payments --timeout=300s");
    k.ok("create namespace doomed");
    k.ok("-n doomed create configmap inside --from-literal=a=b");
    k.ok("-n doomed create deployment d --image=coracle.dev/host -- sleep 1000");
    has(&k.ok("delete namespace doomed --timeout=300s"), &["deleted"]);
    has(&k.refused("get namespace doomed"), &["NotFound"]);
    let pod = k.ok("get pods -l app=orders -o name");
    let pod = pod.lines().next().expect("a Pod").to_owned();
    has(&k.ok(&format!("delete {pod} --grace-period=0 --force")), &["deleted"]);
    k.ok("wait --for=condition=Available deployment/orders --timeout=300s");
    k.ok(&format!("delete {}", shop_manifests().replace("-f ", "--ignore-not-found -f ")));
}

#[test]
#[ignore = "needs kubectl and python3"]
fn overlays_of_the_user_service() {
    let recipes = root().join("examples/user-service/coracle.yaml");
    let coracle = Coracle::serve(&["--recipes", recipes.to_str().expect("UTF-8")]);
    let k = Kubectl { coracle: &coracle };
    let overlay = |name: &str| root().join("examples/user-service/overlays").join(name).display().to_string();
    for (name, replicas) in [("dev", "1"), ("prod", "3")] {
        k.ok(&format!("apply -k {}", overlay(name)));
        k.ok(&format!("-n {name} rollout status deployment/user-service --timeout=300s"));
        assert_eq!(k.ok(&format!("-n {name} get deploy user-service -o jsonpath={{.status.readyReplicas}}")), replicas);
        has(&k.ok(&format!("-n {name} logs deployment/user-service")), &[&format!("\"environment\": \"{name}\"")]);
        let diff = coracle.kubectl(&["diff", "-k", &overlay(name)]);
        assert_eq!(diff.status.code(), Some(0), "{}", String::from_utf8_lossy(&diff.stdout));
    }
    k.ok(&format!("delete -k {}", overlay("dev")));
    has(&k.refused("get namespace dev"), &["NotFound"]);
}
