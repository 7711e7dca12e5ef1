//! `coracle up examples/shop`: what a newcomer does first, and the ends of it.

use crate::harness::{Coracle, eventually, fixture, get, manifests, request, root};
use crate::probes::application;
use crate::rollouts::restart;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

fn shop() -> std::path::PathBuf {
    root().join("examples/shop")
}

#[test]
fn the_shop_starts_sells_and_ends() {
    let mut coracle = Coracle::up(&shop());
    for field in ["gateway", "api", "kubeconfig", "elapsed_ms"] {
        assert!(!coracle.ready[field].is_null(), "{}", coracle.ready);
    }
    let mode = std::fs::metadata(coracle.kubeconfig()).expect("a kubeconfig").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let page = get(coracle.gateway(), "/").expect("the page");
    assert!(page.status == 200 && page.body.contains("<title>Coracle shop</title>"), "{page:?}");
    let order = request(coracle.gateway(), "POST", "/api/orders", r#"{"user":"ada","sku":"paddle","quantity":2}"#);
    let order = order.expect("an answer");
    assert_eq!(order.status, 201, "{order:?}");
    let declined = request(coracle.gateway(), "POST", "/api/orders", r#"{"user":"ada","sku":"hide","quantity":99}"#);
    assert_eq!(declined.expect("an answer").status, 402, "a charge that large is declined");
    let home: Value = serde_json::from_str(&get(coracle.gateway(), "/api/home").expect("home").body).expect("JSON");
    assert_eq!(home["users"].as_array().map(Vec::len), Some(3), "{home}");
    assert_eq!(home["orders"].as_array().map(Vec::len), Some(1), "{home}");
    let stock = home["items"].as_array().into_iter().flatten().find(|i| i["sku"] == "hide").map(|i| i["stock"].clone());
    assert_eq!(stock, Some(100_000.into()), "what was reserved for a declined charge is given back");
    assert_eq!(coracle.end(Signal::SIGINT), Some(0));
}

#[test]
fn the_commands_show_what_runs() {
    let coracle = Coracle::up(&shop());
    assert!(coracle.ok(&["get", "pods"]).starts_with("NAME "));
    assert!(coracle.ok(&["get", "deployments", "-o", "wide"]).contains("SELECTOR"));
    assert!(coracle.ok(&["get", "deploy/orders", "-o", "yaml"]).contains("replicas: 3"));
    let pods = coracle.get(&["pods", "-l", "app=orders"]);
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(3), "{pods}");
    eventually("its Events are there", || {
        let described = coracle.ok(&["describe", "deploy/orders"]);
        if described.contains("ScalingReplicaSet") { Ok(()) } else { Err(described) }
    });
    assert!(coracle.ok(&["logs", "deploy/orders", "--tail", "1"]).contains("\"service\":\"orders\""));
    assert!(coracle.ok(&["status"]).contains("deployment/orders"));
    let status: Value = serde_json::from_str(&coracle.ok(&["status", "-o", "json"])).expect("JSON");
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(coracle.ok(&["kubeconfig"]).trim(), coracle.kubeconfig());
    let version =
        std::process::Command::new(crate::harness::CORACLE).arg("version").output().expect("the binary starts");
    assert!(String::from_utf8_lossy(&version.stdout).contains("Kubernetes API 1.33"));
    assert!(coracle.ok(&["get", "gateways,httproutes"]).contains("shop"));
    let missing = coracle.run(&["get", "pod/none"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("\"none\" not found"));
    let output = coracle.run(&["down", "--purge"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!coracle.data().exists(), "purged");
}

#[test]
#[ignore = "needs curl"]
fn curl_speaks_http_1_and_2_to_the_gateway() {
    let directory = manifests(&[("app.yaml", &application("spoken", 2, ""))]);
    let coracle = Coracle::up(directory.path());
    let url = format!("http://{}/", coracle.gateway());
    for (option, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let output = std::process::Command::new("curl")
            .args(["-sS", option, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", &url])
            .output()
            .expect("curl starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{version} 200"), "{output:?}");
    }
}

/// Volumes at their paths, Services by name, and a Service port below 1024, all without root.
#[test]
#[ignore = "needs root, to become an ordinary user"]
fn an_ordinary_user_gets_volumes_names_and_low_ports() {
    let text = format!(
        "{}---
apiVersion: v1
kind: ConfigMap
metadata: {{name: conf}}
data: {{a.txt: from a volume}}
---
apiVersion: v1
kind: Service
metadata: {{name: low}}
spec: {{selector: {{app: plain}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: looks}}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command: [sh, -c, 'id -u; cat /etc/conf/a.txt; echo; getent hosts plain; echo port $(LOW_SERVICE_PORT)']
      volumeMounts: [{{name: conf, mountPath: /etc/conf}}]
  volumes: [{{name: conf, configMap: {{name: conf}}}}]
",
        application("plain", 1, "")
    );
    let directory = manifests(&[("app.yaml", &text)]);
    let copy = directory.path().join("fixture-copy");
    std::fs::copy(fixture(), &copy).expect("a copy");
    let recipe = format!("images: {{fixture: {{command: [{copy:?}]}}}}\n");
    std::fs::write(directory.path().join("coracle.yaml"), recipe).expect("writable");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("writable");
    for path in [directory.path(), &data] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    }
    let coracle = Coracle::up_as_nobody(directory.path(), &data);
    assert_eq!(get(coracle.gateway(), "/").expect("an answer").status, 200);
    let log = coracle.told_by("looks", "default");
    for part in ["65534", "from a volume", "plain.default.svc.cluster.local", "port 8080"] {
        assert!(log.contains(part), "{log}\nlacks {part:?}");
    }
}

#[test]
fn completion_is_offered_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = std::process::Command::new(crate::harness::CORACLE).args(["completion", shell]).output();
        let output = output.expect("the binary starts");
        assert!(output.status.success() && !output.stdout.is_empty(), "{shell}");
    }
}

/// Processes whose command line names this data directory's Pods, by a mark that every container of the test gets.
fn processes_below(data: &std::path::Path) -> BTreeSet<u32> {
    let mark = data.to_str().expect("UTF-8").as_bytes().to_vec();
    let holds = |pid: u32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(mark.len()).any(|part| part == mark.as_slice())
    };
    let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let pids = entries.filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| holds(*pid, "environ") || holds(*pid, "cmdline")).collect()
}

/// kill -9 in the middle of rollouts: nothing is left over, nothing acknowledged is gone, the next `up` converges.
fn killed(times: usize) {
    let data = tempfile::tempdir().expect("a temporary directory");
    // Each round places one order, so the round's number is how many there must be.
    for round in 0..times {
        let mut coracle = Coracle::up_on(&shop(), data.path(), &[]).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let list = get(coracle.gateway(), "/api/orders").expect("the orders");
        let list: Value = serde_json::from_str(&list.body).expect("JSON");
        assert!(list["orders"].as_array().map_or(0, Vec::len) >= round.min(50), "round {round}: an order is gone");
        let body = r#"{"user":"grace","sku":"lath","quantity":1}"#;
        let answer = request(coracle.gateway(), "POST", "/api/orders", body).expect("an answer");
        assert_eq!(answer.status, 201, "round {round}: {answer:?}");
        assert!(!processes_below(data.path()).is_empty(), "the search for left-over processes finds living ones");
        restart(&coracle, "orders", &round.to_string());
        let template =
            coracle.get(&["deploy/orders"])["spec"]["template"]["metadata"]["annotations"]["restarted"].clone();
        assert_eq!(template, round.to_string(), "acknowledged");
        coracle.child.kill().expect("the process is ours");
        coracle.child.wait().expect("a child to wait for");
        eventually("no process is left over", || {
            let left = processes_below(data.path());
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
    let coracle = Coracle::up_on(&shop(), data.path(), &[]).expect("it starts again");
    let pods = coracle.get(&["pods", "-l", "app=orders"]);
    eventually("three orders Pods are left", || {
        let living = coracle.get(&["pods", "-l", "app=orders"])["items"].as_array().map_or(0, Vec::len);
        if living == 3 { Ok(()) } else { Err(format!("{living}")) }
    });
    assert!(pods["items"].is_array());
}

#[test]
fn kill_minus_nine_in_a_rollout_loses_nothing() {
    killed(3);
}

#[test]
#[ignore = "takes minutes"]
fn kill_minus_nine_in_fifty_rollouts_loses_nothing() {
    killed(50);
}

#[test]
fn a_kustomization_is_built_and_brought_up() {
    let directory = manifests(&[
        (
            "web.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 3\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - {name: web, image: fixture, envFrom: [{configMapRef: {name: settings}}], readinessProbe: {httpGet: {path: /readyz, port: 8080}}, ports: [{containerPort: 8080}]}\n",
        ),
        ("notes.yaml", "this: is no manifest, and no resource of the kustomization\n"),
        (
            "kustomization.yaml",
            "namePrefix: my-\nresources: [web.yaml]\nreplicas: [{name: web, count: 1}]\nconfigMapGenerator: [{name: settings, literals: [COLOUR=green]}]\n",
        ),
    ]);
    let coracle = Coracle::up(directory.path());
    let web = coracle.get(&["deployments/my-web"]);
    assert_eq!(web["spec"]["replicas"], 1);
    assert_eq!(web["status"]["readyReplicas"], 1, "up waits until it is ready");
    let settings = web["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].clone();
    let settings = settings.as_str().expect("a name");
    assert!(settings.starts_with("my-settings-"), "{settings}");
    assert_eq!(coracle.get(&[&format!("configmaps/{settings}")])["data"]["COLOUR"], "green");
}

/// What is made by the same command counts when that command asks whether all would be taken.
#[test]
fn a_pod_and_its_service_account_come_together() {
    let yaml = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: clerk}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: desk}\nspec:\n  serviceAccountName: clerk\n  containers:\n  \
                - {name: main, image: coracle.dev/host, command: [sleep, '600']}\n";
    let directory = manifests(&[("desk.yaml", yaml)]);
    let coracle = Coracle::up(directory.path());
    assert_eq!(coracle.get(&["pod/desk"])["spec"]["serviceAccountName"], "clerk");
    let stray = manifests(&[(
        "stray.yaml",
        &yaml
            .replace("kind: ServiceAccount\nmetadata: {name: clerk}", "kind: ServiceAccount\nmetadata: {name: other}")
            .replace("desk", "stray")
            .replace("Name: clerk", "Name: nobody"),
    )]);
    let refused = coracle.run(&["apply", "-f", &stray.path().to_string_lossy()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("nothing was changed"), "{said}");
}
