//! Who may do what, with the real kubectl and real tokens: `--as`, `auth`, tokens of accounts, a stolen one of the Git sync.

use crate::harness::{Coracle, eventually};
use std::process::{Command, Output};

fn kubectl(coracle: &Coracle, words: &str) -> Output {
    coracle.kubectl(&words.split_whitespace().collect::<Vec<_>>())
}

/// Must succeed; stdout.
fn ok(coracle: &Coracle, words: &str) -> String {
    let output = kubectl(coracle, words);
    assert!(output.status.success(), "kubectl {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Must fail; stdout and stderr.
fn refused(coracle: &Coracle, words: &str) -> String {
    let output = kubectl(coracle, words);
    assert!(!output.status.success(), "kubectl {words} succeeded");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
#[ignore = "needs kubectl"]
fn kubectl_is_told_the_truth() {
    let coracle = Coracle::serve(&["--git-port", "0"]);
    let said = refused(&coracle, "get deployments -n default --as x");
    let expected = r#"Error from server (Forbidden): deployments.apps is forbidden: User "x" cannot list resource "deployments" in API group "apps" in the namespace "default""#;
    assert_eq!(said.trim(), expected);
    assert_eq!(refused(&coracle, "auth can-i list pods --as ann").trim(), "no");
    ok(&coracle, "create rolebinding ann --clusterrole view --user ann -n default");
    assert_eq!(ok(&coracle, "auth can-i list pods --as ann").trim(), "yes");
    assert_eq!(refused(&coracle, "auth can-i create pods --as ann").trim(), "no");
    assert_eq!(refused(&coracle, "auth can-i list pods --as ann -n kube-system").trim(), "no");
    assert_eq!(ok(&coracle, "auth can-i get /version --as ann").trim(), "yes");
    assert_eq!(ok(&coracle, "auth can-i delete nodes --as ann --as-group system:masters").trim(), "yes");
    let list = ok(&coracle, "auth can-i --list --as ann -n default");
    assert!(list.contains("pods/log") && !list.contains("secrets"), "{list}");
    ok(&coracle, "get pods --as ann");
    assert!(refused(&coracle, "get secrets --as ann").contains("cannot list resource \"secrets\""));
    let whoami = ok(&coracle, "auth whoami --as ann --as-group team");
    assert!(whoami.contains("ann") && whoami.contains("team"), "{whoami}");
    // A role in a namespace, by kubectl's own commands.
    ok(&coracle, "create role restarter --verb get,patch --resource deployments.apps -n default");
    ok(&coracle, "create rolebinding restarter --role restarter --user bob -n default");
    assert_eq!(ok(&coracle, "auth can-i patch deployments.apps/web --as bob").trim(), "yes");
    assert!(
        refused(&coracle, "create clusterrolebinding me --clusterrole cluster-admin --user bob --as bob")
            .contains("forbidden")
    );

    ok(&coracle, "create serviceaccount robot");
    let token = ok(&coracle, "create token robot");
    // Another configuration: where a token is in the file, it counts before the one of the command line.
    let config = std::fs::read_to_string(coracle.kubeconfig()).expect("a kubeconfig");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["users"][0]["user"]["token"] = token.trim().into();
    let file = coracle.data().join("robot.kubeconfig");
    std::fs::write(&file, config.to_string()).expect("a file");
    let as_robot = format!("--kubeconfig {}", file.display());
    assert!(ok(&coracle, &format!("auth whoami {as_robot}")).contains("system:serviceaccount:default:robot"));
    let said = refused(&coracle, &format!("get pods {as_robot}"));
    assert!(said.contains(r#"User "system:serviceaccount:default:robot" cannot list resource "pods""#), "{said}");
    assert!(refused(&coracle, &format!("get --raw /metrics {as_robot}")).contains("cannot get path"));
    ok(&coracle, "create rolebinding robot --clusterrole edit --serviceaccount default:robot -n default");
    ok(&coracle, &format!("create configmap mine {as_robot}"));
    assert!(refused(&coracle, &format!("create configmap mine -n kube-system {as_robot}")).contains("forbidden"));
    // Git: nobody pushes or reads without a role.
    let url = format!("{}/shop.git", coracle.ready["git"].as_str().expect("an address"));
    let git = |url: &str| {
        let header = format!("http.extraHeader=Authorization: Bearer {}", token.trim());
        let output =
            Command::new("git").args(["-c", &header, "ls-remote", url]).env("GIT_TERMINAL_PROMPT", "0").output();
        String::from_utf8_lossy(&output.expect("git runs").stderr).into_owned()
    };
    assert!(git(&url).contains("403"), "{}", git(&url));
    ok(&coracle, "create clusterrole reads-shop --verb get --non-resource-url /git/shop.git");
    ok(&coracle, "create clusterrolebinding reads-shop --clusterrole reads-shop --serviceaccount default:robot");
    assert!(git(&url).contains("not found"), "it may read, but there is no such repository yet: {}", git(&url));
}

#[test]
#[ignore = "needs kubectl"]
fn a_stolen_token_of_the_sync_is_held_by_the_api() {
    let (coracle, folder) = (Coracle::serve(&["--git-port", "0"]), tempfile::tempdir().expect("a folder"));
    let run = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder.path()).args(arguments).env("HOME", folder.path());
        for name in ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"] {
            git.env(name, "ann@example.com");
        }
        assert!(git.status().expect("git runs").success(), "git {arguments:?}");
    };
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n";
    std::fs::write(folder.path().join("map.yaml"), map).expect("a file");
    run(&["init", "-q", "-b", "main"]);
    run(&["add", "-A"]);
    run(&["commit", "-q", "-m", "First"]);
    let manifests = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {{name: argocd}}\n---\n\
         apiVersion: argoproj.io/v1alpha1\nkind: AppProject\nmetadata: {{name: team, namespace: argocd}}\n\
         spec: {{sourceRepos: ['*'], destinations: [{{server: '*', namespace: shop}}], namespaceResourceBlacklist: [{{group: '', kind: Secret}}]}}\n---\n\
         apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {{name: shop, namespace: argocd}}\n\
         spec:\n  project: team\n  source: {{repoURL: {}, path: ., targetRevision: main}}\n\
         \x20 destination: {{server: https://kubernetes.default.svc, namespace: shop}}\n  syncPolicy: {{automated: {{}}}}\n",
        folder.path().display()
    );
    let file = coracle.data().join("team.yaml");
    std::fs::write(&file, manifests).expect("a file");
    ok(&coracle, &format!("apply -f {}", file.display()));
    eventually("it is synced", || {
        let output = kubectl(&coracle, "get configmap settings -n shop");
        output.status.success().then_some(()).ok_or_else(|| {
            let status = kubectl(&coracle, "get application shop -n argocd -o jsonpath={.status.conditions}");
            String::from_utf8_lossy(&status.stdout).into_owned()
        })
    });
    let token = ok(&coracle, "create token sync.application.argocd.shop -n kube-system");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(coracle.kubeconfig()).expect("a kubeconfig")).expect("JSON");
    config["users"][0]["user"]["token"] = token.trim().into();
    let stolen = coracle.data().join("stolen.kubeconfig");
    std::fs::write(&stolen, config.to_string()).expect("a file");
    let stolen = format!("--kubeconfig {}", stolen.display());
    ok(&coracle, &format!("get configmap settings -n shop {stolen}"));
    ok(&coracle, &format!("create configmap more -n shop {stolen}"));
    for words in [
        "get configmaps -n default",
        "create configmap x -n default",
        "get secrets -n shop",
        "get secrets -A",
        "get pods -n argocd",
        "create token sync.application.argocd.shop -n kube-system",
        "create clusterrolebinding me --clusterrole cluster-admin --user me",
        "create rolebinding me --clusterrole admin --user me -n shop",
        "delete namespace default",
        "get configmaps -n shop --as system:admin",
        "get --raw /coracle/v1/edges",
    ] {
        let said = refused(&coracle, &format!("{words} {stolen}"));
        assert!(said.contains("forbidden"), "{words}: {said}");
    }
}
