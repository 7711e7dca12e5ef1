use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::plan::{Action, Plan, World, plan};
use super::*;

const UID: &str = "u1";

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("as upstream writes it")
}

/// A claim `shop/data` for 1Gi, changed by a merge.
fn claim(change: Value) -> Value {
    let mut claim = json!({
        "metadata": {"namespace": "shop", "name": "data", "uid": UID, "resourceVersion": "1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}
    });
    merge(&mut claim, change);
    claim
}

fn volume(name: &str, change: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "",
                 "hostPath": {"path": "/srv"}, "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}
    });
    merge(&mut volume, change);
    volume
}

/// The volume that is made here for `shop/data`.
fn made(change: Value) -> Value {
    let mut volume = volume(
        "pvc-u1",
        json!({
            "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "coracle.dev/directory"}},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "coracle",
                     "hostPath": {"path": "/d/volumes/shop_data_u1"}, "persistentVolumeReclaimPolicy": "Delete",
                     "claimRef": held(UID)},
            "status": {"phase": "Bound"}
        }),
    );
    merge(&mut volume, change);
    volume
}

fn held(uid: &str) -> Value {
    json!({"namespace": "shop", "name": "data", "uid": uid})
}

/// What a claim has that is bound to a volume.
fn bound(to: &str) -> Value {
    json!({
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}, "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"volumeName": to},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}
    })
}

fn with(mut value: Value, change: Value) -> Value {
    merge(&mut value, change);
    value
}

fn merge(value: &mut Value, change: Value) {
    match change {
        Value::Object(fields) if value.is_object() => {
            for (key, field) in fields {
                merge(&mut value[key.as_str()], field);
            }
        }
        other => *value = other,
    }
}

const DELETED: &str = "2030-01-01T00:00:00Z";

fn decided(claims: &[Value], volumes: &[Value], classes: &[Value], used: bool) -> Plan {
    let (mut claim_shelf, mut volume_shelf, mut class_shelf) = (Shelf::default(), Shelf::default(), Shelf::default());
    for claim in claims {
        claim_shelf.learn(typed::<PersistentVolumeClaim>(claim.clone()));
    }
    for volume in volumes {
        volume_shelf.learn(typed::<PersistentVolume>(volume.clone()));
    }
    for class in classes {
        class_shelf.learn(typed::<StorageClass>(class.clone()));
    }
    let used = if used { BTreeSet::from([("shop".to_owned(), "data".to_owned())]) } else { BTreeSet::new() };
    plan(&World {
        claims: &claim_shelf,
        volumes: &volume_shelf,
        classes: &class_shelf,
        used: &used,
        root: Path::new("/d/volumes"),
    })
}

/// A plan in words.
fn words(plan: &Plan) -> Vec<String> {
    let name = |meta: &kube::api::ObjectMeta| meta.name.clone().unwrap_or_default();
    let actions = plan.actions.iter().map(|action| match action {
        Action::Provision { claim, directory, volume } => format!(
            "provision {} {} {} at {}",
            name(&claim.metadata),
            volume["spec"]["storageClassName"].as_str().unwrap_or_default(),
            volume["spec"]["persistentVolumeReclaimPolicy"].as_str().unwrap_or_default(),
            directory.display()
        ),
        Action::Claim { claim, change } => format!("claim {} {change}", name(&claim.metadata)),
        Action::ClaimStatus { claim, status } => format!("status {} {}", name(&claim.metadata), status["phase"]),
        Action::Lose { claim, volume } => format!("lose {} {volume}", name(&claim.metadata)),
        Action::Volume { volume, change } => format!("volume {} {change}", name(&volume.metadata)),
        Action::VolumeStatus { volume, status } => format!("status {} {}", name(&volume.metadata), status["phase"]),
        Action::Reclaim { volume, directory } => format!("reclaim {} {}", name(&volume.metadata), directory.display()),
    });
    actions.chain(plan.words.iter().map(|word| format!("{}: {}", word.reason, word.message))).collect()
}

/// Each expected text is found in what is planned at its place, and nothing else is planned.
fn check(what: &str, plan: &Plan, expected: &[&str]) {
    let got = words(plan);
    let matches = got.len() == expected.len() && got.iter().zip(expected).all(|(got, part)| got.contains(part));
    assert!(matches, "{what}: {got:#?}, not {expected:?}");
}

#[test]
fn a_claim_gets_a_directory_step_by_step() {
    let mine = |name: &str| json!({"metadata": {"name": name}, "provisioner": PROVISIONER, "reclaimPolicy": "Retain"});
    let class = |name: &str| claim(json!({"spec": {"storageClassName": name}}));
    let unbound = made(json!({"status": {"phase": "Pending"}}));
    let named = with(claim(bound("pvc-u1")), json!({"status": {"phase": "Pending"}}));
    for (what, claims, volumes, classes, expected) in [
        ("new", claim(json!({})), vec![], vec![], vec!["provision data coracle Delete at /d/volumes/shop_data_u1"]),
        ("its class is named", class("coracle"), vec![], vec![], vec!["provision data coracle Delete"]),
        ("a class of one's own", class("kept"), vec![], vec![mine("kept")], vec!["provision data kept Retain"]),
        (
            "another default",
            claim(json!({})),
            vec![],
            vec![with(
                mine("kept"),
                json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
            )],
            vec!["provision data kept Retain"],
        ),
        (
            "the volume is there",
            claim(json!({})),
            vec![unbound.clone()],
            vec![],
            vec![
                r#""finalizers":["kubernetes.io/pvc-protection"]},"spec":{"storageClassName":"coracle","volumeName":"pvc-u1"}"#,
            ],
        ),
        (
            "the claim names it",
            named,
            vec![unbound],
            vec![],
            vec![r#"status data "Bound""#, r#"status pvc-u1 "Bound""#],
        ),
        ("all is done", claim(bound("pvc-u1")), vec![made(json!({}))], vec![], vec![]),
        (
            "it is to be larger",
            with(claim(bound("pvc-u1")), json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})),
            vec![made(json!({}))],
            vec![],
            vec![r#"volume pvc-u1 {"spec":{"capacity":{"storage":"3Gi"}}}"#],
        ),
        (
            "it is larger",
            claim(bound("pvc-u1")),
            vec![made(json!({"spec": {"capacity": {"storage": "3Gi"}}}))],
            vec![],
            vec![r#"status data "Bound""#],
        ),
        (
            "the data directory has been moved",
            claim(bound("pvc-u1")),
            vec![made(json!({"spec": {"hostPath": {"path": "/old/volumes/shop_data_u1"}}}))],
            vec![],
            vec![r#"volume pvc-u1 {"spec":{"hostPath":{"path":"/d/volumes/shop_data_u1"}}}"#],
        ),
    ] {
        check(what, &decided(&[claims], &volumes, &classes, false), &expected);
    }
}

#[test]
fn a_claim_gets_a_volume_that_was_there_before() {
    let wants = |name: &str| claim(json!({"spec": {"volumeName": name}}));
    let none = claim(json!({"spec": {"storageClassName": ""}}));
    let fast = claim(json!({"spec": {"storageClassName": "fast"}}));
    let taken = |uid: &str| volume("pv", json!({"spec": {"claimRef": held(uid)}}));
    let reserved = r#""spec":{"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"data","namespace":"shop","resourceVersion":"1","uid":"u1"}}"#;
    let protect = r#"claim data {"metadata":{"finalizers":["kubernetes.io/pvc-protection"]}}"#;
    let large = volume("large", json!({"spec": {"capacity": {"storage": "9Gi"}}}));
    for (what, claim, volumes, expected) in [
        ("named", wants("pv"), vec![volume("pv", json!({}))], vec![reserved]),
        (
            "named, whatever its class",
            wants("pv"),
            vec![volume("pv", json!({"spec": {"storageClassName": "x"}}))],
            vec![reserved],
        ),
        ("named and missing", wants("pv"), vec![], vec![protect, "FailedBinding: volume \"pv\" not found"]),
        (
            "named and another's",
            wants("pv"),
            vec![taken("u2")],
            vec![protect, "status pv \"Released\"", "already bound to a different"],
        ),
        (
            "named and too small",
            wants("pv"),
            vec![volume("pv", json!({"spec": {"capacity": {"storage": "1Mi"}}}))],
            vec![protect, "VolumeMismatch: Cannot bind to requested volume \"pv\": requested PV is too small"],
        ),
        ("the smallest that fits", none.clone(), vec![large, volume("pv", json!({}))], vec!["volume pv "]),
        (
            "kept for it by name",
            none.clone(),
            vec![volume("pv", json!({"spec": {"claimRef": {"namespace": "shop", "name": "data"}}}))],
            vec![reserved],
        ),
        ("given to it before", none.clone(), vec![taken(UID)], vec![r#""spec":{"volumeName":"pv"}"#]),
        (
            "another mode",
            with(none.clone(), json!({"spec": {"accessModes": ["ReadWriteMany"]}})),
            vec![volume("pv", json!({}))],
            vec![protect, "FailedBinding: no persistent volumes available"],
        ),
        (
            "by its labels",
            with(none.clone(), json!({"spec": {"selector": {"matchLabels": {"disk": "b"}}}})),
            vec![volume("a", json!({})), volume("b", json!({"metadata": {"labels": {"disk": "b"}}}))],
            vec!["volume b "],
        ),
        (
            "its class has one",
            fast.clone(),
            vec![volume("pv", json!({"spec": {"storageClassName": "fast"}}))],
            vec!["volume pv "],
        ),
        (
            "its class has none",
            fast,
            vec![volume("pv", json!({}))],
            vec![
                protect,
                "ProvisioningFailed: storageclass.storage.k8s.io \"fast\" not found; leave storageClassName out",
            ],
        ),
    ] {
        check(what, &decided(&[claim], &volumes, &[], false), &expected);
    }
}

#[test]
fn two_claims_do_not_get_one_volume() {
    let one = claim(json!({"spec": {"storageClassName": ""}}));
    let two = with(one.clone(), json!({"metadata": {"name": "other", "uid": "u2"}}));
    let plan = decided(&[one, two], &[volume("pv", json!({}))], &[], false);
    check("the second waits", &plan, &["volume pv ", "claim other ", "FailedBinding"]);
}

#[test]
fn what_can_not_be_made_is_told_with_the_way_out() {
    let foreign = json!({"metadata": {"name": "ebs"}, "provisioner": "ebs.csi.aws.com"});
    for (what, change, expected) in [
        ("another's class", json!({"storageClassName": "ebs"}), "(ebs.csi.aws.com) here; leave storageClassName out"),
        ("a block device", json!({"volumeMode": "Block"}), "use volumeMode Filesystem"),
        ("a selector", json!({"selector": {}}), "leave the selector out"),
        ("a copy", json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}), "leave dataSource"),
        ("no size", json!({"resources": null}), "set resources.requests.storage"),
    ] {
        let plan = decided(&[claim(json!({"spec": change}))], &[], std::slice::from_ref(&foreign), false);
        check(what, &plan, &["claim data ", expected]);
        assert!(plan.words[0].warning && plan.words[0].reason == "ProvisioningFailed", "{what}");
    }
}

#[test]
fn nothing_goes_while_it_is_in_use() {
    let going = with(claim(bound("pvc-u1")), json!({"metadata": {"deletionTimestamp": DELETED}}));
    let kept = made(json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    let deleted = json!({"metadata": {"deletionTimestamp": DELETED}});
    let foreign = |reclaim: &str| {
        volume(
            "pv",
            json!({"spec": {"claimRef": held(UID), "persistentVolumeReclaimPolicy": reclaim}, "status": {"phase": "Bound"}}),
        )
    };
    let released = r#"volume pv {"metadata":{"finalizers":[]}}"#;
    let reclaim = "reclaim pvc-u1 /d/volumes/shop_data_u1";
    let recreated = with(claim(bound("pvc-u1")), json!({"metadata": {"uid": "u2"}}));
    for (what, claims, volumes, used, expected) in [
        ("a Pod uses the claim", vec![going.clone()], vec![made(json!({}))], true, vec![]),
        (
            "no Pod uses it any more",
            vec![going],
            vec![made(json!({}))],
            false,
            vec![r#"claim data {"metadata":{"finalizers":[]}}"#],
        ),
        ("the claim is gone", vec![], vec![made(json!({}))], false, vec![reclaim]),
        ("and its volume is going", vec![], vec![made(deleted.clone())], false, vec![reclaim]),
        ("it is to be kept", vec![], vec![kept], false, vec!["status pvc-u1 \"Released\""]),
        ("it was not made here", vec![], vec![foreign("Delete")], false, vec!["status pv \"Released\""]),
        (
            "another claim of that name",
            vec![recreated],
            vec![made(json!({}))],
            false,
            vec!["lose data pvc-u1", reclaim],
        ),
        ("a bound volume is deleted", vec![claim(bound("pvc-u1"))], vec![made(deleted.clone())], false, vec![]),
        ("a released one is", vec![], vec![with(foreign("Retain"), deleted)], false, vec![released]),
        ("its volume is gone", vec![claim(bound("pvc-u1"))], vec![], false, vec!["lose data pvc-u1"]),
        (
            "a path that was not made here",
            vec![],
            vec![made(json!({"spec": {"hostPath": {"path": "/etc"}}}))],
            false,
            vec!["status pvc-u1 \"Released\""],
        ),
        (
            "a name that was not given here",
            vec![],
            vec![made(json!({"metadata": {"name": "pv"}}))],
            false,
            vec!["status pv \"Released\""],
        ),
    ] {
        check(what, &decided(&claims, &volumes, &[], used), &expected);
    }
}
