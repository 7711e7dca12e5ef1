use serde_json::{Value, json};

use super::*;

fn pod(volumes: Value, mounts: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"a": "b"}},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]}
    }))
    .expect("a pod")
}

fn lookups(level: &str) -> Lookups {
    let typed = |value: Value| serde_json::from_value(value).expect("a map");
    Lookups {
        config_maps: BTreeMap::from([("conf".to_owned(), Some(typed(json!({"data": {"level": level, "b": "2"}}))))]),
        secrets: BTreeMap::from([(
            "sec".to_owned(),
            Some(serde_json::from_value(json!({"data": {"pass": "cA=="}})).expect("a secret")),
        )]),
    }
}

#[test]
fn volumes_are_what_their_source_says() {
    let file = |content: &str, mode: u32| (content.as_bytes().to_vec(), mode);
    let files = |entries: &[(&str, (Vec<u8>, u32))]| {
        Source::Files(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    };
    for (volume, expected) in [
        (json!({"emptyDir": {}}), Ok(Source::Empty)),
        (
            json!({"hostPath": {"path": "/srv", "type": "Directory"}}),
            Ok(Source::Host("/srv".into(), "Directory".into())),
        ),
        (json!({"configMap": {"name": "conf"}}), Ok(files(&[("b", file("2", 0o644)), ("level", file("x", 0o644))]))),
        (
            json!({"configMap": {"name": "conf", "defaultMode": 256, "items": [{"key": "level", "path": "d/l"}]}}),
            Ok(files(&[("d/l", file("x", 0o400))])),
        ),
        (json!({"secret": {"secretName": "sec"}}), Ok(files(&[("pass", file("p", 0o644))]))),
        (json!({"secret": {"secretName": "no", "optional": true}}), Ok(files(&[]))),
        (
            json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            Ok(files(&[("labels", file("a=\"b\"", 0o644))])),
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "sec"}}, {"configMap": {"name": "conf", "items": [{"key": "b", "path": "b"}]}}]}}),
            Ok(files(&[("b", file("2", 0o644)), ("pass", file("p", 0o644))])),
        ),
        (json!({"configMap": {"name": "gone"}}), Err("configmap \"gone\" not found")),
        (
            json!({"configMap": {"name": "conf", "items": [{"key": "no", "path": "x"}]}}),
            Err("references non-existent key in configmap \"conf\": no"),
        ),
        (json!({"configMap": {"name": "conf", "items": [{"key": "b", "path": "../x"}]}}), Err("without \"..\"")),
        (json!({"nfs": {"server": "s", "path": "/"}}), Err("no volumes of kind nfs")),
    ] {
        let mut named = volume.clone();
        named["name"] = json!("v");
        match (plan(&pod(json!([named]), json!([])), &lookups("x")), expected) {
            (Ok(plan), Ok(expected)) => assert_eq!(plan, [("v".to_owned(), expected)], "{volume}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{volume}: {error}"),
            (got, _) => panic!("{volume}: {got:?}"),
        }
    }
}

#[test]
fn files_change_by_one_swap_and_stay_when_nothing_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("v");
    let pod = pod(json!([{"name": "v", "configMap": {"name": "conf"}}]), json!([]));
    let write = |level: &str| {
        let plan = plan(&pod, &lookups(level)).expect("planned");
        make("v", &plan[0].1, &place).expect("made");
        std::fs::read_link(place.join("..data")).expect("a link")
    };
    let first = write("info");
    assert_eq!(std::fs::read_to_string(place.join("level")).expect("read"), "info");
    assert_eq!(write("info"), first, "nothing changed");
    let second = write("debug");
    assert_ne!(second, first);
    assert_eq!(std::fs::read_to_string(place.join("level")).expect("read"), "debug");
    assert!(!place.join(first).exists());
}

#[test]
fn sub_paths_stay_in_their_volume() {
    let dir = tempfile::tempdir().expect("a directory");
    let places = BTreeMap::from([("v".to_owned(), dir.path().to_owned())]);
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("linked");
    let env = BTreeMap::from([("WHO".to_owned(), "me".to_owned())]);
    let mounted = |mount: Value| {
        let pod = pod(json!([{"name": "v", "emptyDir": {}}]), json!([mount]));
        let container = pod.spec.clone().expect("a spec").containers.remove(0);
        mounts(&pod, &container, &places, &env)
    };
    let real = dir.path().canonicalize().expect("real");
    let ok = mounted(json!({"name": "v", "mountPath": "/data", "subPathExpr": "a/$(WHO)"})).expect("mounted");
    assert_eq!(ok[0].source, real.join("a/me"));
    for bad in ["../x", "out", "/abs"] {
        assert!(mounted(json!({"name": "v", "mountPath": "/data", "subPath": bad})).is_err(), "{bad}");
    }
    assert!(mounted(json!({"name": "other", "mountPath": "/data"})).is_err());
}
