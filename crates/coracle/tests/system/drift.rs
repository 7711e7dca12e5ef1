//! What others change behind the back of Git or of an applied set is seen without being asked for: a condition that names the
//! field and the manager, a number on /metrics, Events when it begins and ends (scenario 28).

use crate::gitsync::{Work, application, remote};
use crate::harness::{Coracle, eventually};
use serde_json::{Value, json};

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: green}\n";

/// A change by hand.
fn by_hand(coracle: &Coracle, colour: &str) {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    std::fs::write(file.path(), MAP.replace("green", colour)).expect("a file");
    coracle.ok(&["apply", "-f", file.path().to_str().expect("UTF-8"), "--force-conflicts"]);
}

fn number(coracle: &Coracle, subject: &str) -> Option<u64> {
    let text = coracle.ok(&["get", "--raw", "/metrics"]);
    let line = text.lines().find(|line| line.starts_with("coracle_drifted_objects{") && line.contains(subject))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// The reasons and messages of the Events about drift in a namespace.
fn events(coracle: &Coracle, namespace: &str) -> Vec<(String, String)> {
    let all = coracle.get(&["events", "-n", namespace]);
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let of = |event: &Value| {
        let reason = event["reason"].as_str().filter(|reason| reason.starts_with("Drift"))?;
        Some((reason.to_owned(), event["message"].as_str()?.to_owned()))
    };
    all.iter().filter_map(of).collect()
}

fn told(coracle: &Coracle, namespace: &str, reason: &str, words: &str) {
    eventually(reason, || {
        let all = events(coracle, namespace);
        let fits = |(known, message): &(String, String)| known == reason && message.contains(words);
        if all.iter().any(fits) { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

fn counted(coracle: &Coracle, subject: &str, wanted: u64) {
    eventually("the number", || match number(coracle, subject) {
        Some(number) if number == wanted => Ok(()),
        other => Err(format!("{subject}: {other:?}, not {wanted}")),
    });
}

#[test]
fn an_application_that_is_changed_by_hand_says_what_and_by_whom() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    work.write("deploy/map.yaml", MAP);
    work.commit("First");
    assert!(work.push().contains("live application/shop"));
    counted(&coracle, "name=\"shop\"", 0);
    let mut hold = application(&coracle);
    hold = json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": { "name": "shop", "namespace": "argocd" }, "spec": hold["spec"] });
    hold["spec"]["syncPolicy"]["automated"]["selfHeal"] = false.into();
    work.write("hold.json", &hold.to_string());
    let hold = work.path().join("hold.json");
    coracle.ok(&["apply", "-f", hold.to_str().expect("UTF-8"), "--force-conflicts"]);
    by_hand(&coracle, "black");
    let condition = |object: &Value| {
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["type"] == "Drifted")
    };
    eventually("the condition", || {
        let object = application(&coracle);
        let Some(found) = condition(&object) else { return Err(object["status"].to_string()) };
        let message = found["message"].as_str().unwrap_or_default();
        let all = [".data.colour", "\"green\"", "\"black\"", "(by coracle"];
        let since = found["lastTransitionTime"].as_str().is_some_and(|time| time.starts_with("20"));
        if since && all.iter().all(|part| message.contains(part)) { Ok(()) } else { Err(found.to_string()) }
    });
    eventually("it is out of sync", || match &application(&coracle)["status"]["sync"]["status"] {
        status if status == "OutOfSync" => Ok(()),
        other => Err(other.to_string()),
    });
    counted(&coracle, "name=\"shop\"", 1);
    told(&coracle, "argocd", "Drifted", ".data.colour");

    // Undone by hand as well: all is said to be over.
    by_hand(&coracle, "green");
    told(&coracle, "argocd", "DriftGone", "as the repository says");
    counted(&coracle, "name=\"shop\"", 0);
    eventually("no condition any more", || match condition(&application(&coracle)) {
        None => Ok(()),
        Some(found) => Err(found.to_string()),
    });
}

#[test]
fn an_applied_set_that_is_changed_by_hand_says_what_and_by_whom() {
    let coracle = Coracle::serve(&["--git-port", "0"]);
    let set = tempfile::tempdir().expect("a folder");
    std::fs::write(set.path().join("map.yaml"), MAP).expect("a file");
    let path = set.path().to_str().expect("UTF-8");
    coracle.ok(&["apply", path, "--set", "site", "--yes"]);
    counted(&coracle, "kind=\"ApplySet\",namespace=\"default\",name=\"site\"", 0);
    by_hand_elsewhere(&coracle, "black");
    counted(&coracle, "name=\"site\"", 1);
    told(&coracle, "default", "Drifted", ".data.colour was applied as \"green\" and is \"black\" (by person");
    let condition = || {
        let record = coracle.get(&["secrets/site"]);
        let text = record["metadata"]["annotations"]["coracle.dev/drifted"].as_str().unwrap_or("{}").to_owned();
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let conditioned = |status: &str, words: &str| {
        eventually("the condition", || {
            let found = condition();
            let said = found["message"].as_str().is_some_and(|message| message.contains(words));
            if said && found["status"] == status { Ok(()) } else { Err(found.to_string()) }
        });
    };
    conditioned("True", "(by person");

    coracle.ok(&["apply", path, "--set", "site", "--yes", "--force-conflicts"]);
    told(&coracle, "default", "DriftGone", "as it was applied again");
    counted(&coracle, "name=\"site\"", 0);
    conditioned("False", "");
}

/// A change through the API by a manager of its own.
fn by_hand_elsewhere(coracle: &Coracle, colour: &str) {
    let kubeconfig = kube::config::Kubeconfig::read_from(coracle.kubeconfig()).expect("a kubeconfig");
    let patch = json!({ "data": { "colour": colour } });
    let change = async {
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options);
        let client = kube::Client::try_from(config.await.expect("a cluster")).expect("a client");
        let api = ::delivery::api::Api::over(client);
        api.merge("/api/v1/namespaces/default/configmaps/settings", &patch, "person").await.expect("it is changed")
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(change);
}
