//! What one question of access costs, in clusters of several sizes. Prints figures.
//!
//! `cargo run --release -p rules --example bench-rbac`

use std::time::Instant;

use rules::rbac::{Attributes, Index, Subject, Target, bootstrap};
use serde_json::json;

fn main() {
    println!("namespaces  bindings     allowed      denied  a change");
    for namespaces in [1usize, 100, 1_000] {
        let mut index = Index::default();
        for declared in bootstrap::objects() {
            let name = declared.object["metadata"]["name"].as_str().unwrap_or_default();
            index.set(declared.plural, "", name, Some(&declared.object));
        }
        let per_namespace = 10;
        for space in 0..namespaces {
            for number in 0..per_namespace {
                let object = json!({ "roleRef": { "kind": "ClusterRole", "name": "edit" },
                    "subjects": [{ "kind": "ServiceAccount", "name": format!("robot-{number}") }] });
                index.set("rolebindings", &format!("ns-{space}"), &format!("b-{number}"), Some(&object));
            }
        }
        let groups = rules::rbac::account_groups("ns-0");
        let subject = Subject { name: "system:serviceaccount:ns-0:robot-3", groups: &groups };
        let question = |resource| Attributes {
            verb: "patch",
            target: Target::Resource { group: "apps", resource, subresource: "", namespace: "ns-0", name: "web" },
        };
        let time = |resource: &'static str, expected: bool| {
            const ROUNDS: u32 = 200_000;
            let begun = Instant::now();
            for _ in 0..ROUNDS {
                assert_eq!(std::hint::black_box(&index).allows(subject, &question(resource)), expected);
            }
            begun.elapsed() / ROUNDS
        };
        let (allowed, denied) = (time("deployments", true), time("nothing", false));
        let object = json!({ "roleRef": { "kind": "ClusterRole", "name": "edit" },
            "subjects": [{ "kind": "ServiceAccount", "name": "robot-3" }] });
        let begun = Instant::now();
        for _ in 0..10_000 {
            index.set("rolebindings", "ns-0", "b-3", Some(&object));
        }
        let change = begun.elapsed() / 10_000;
        println!(
            "{namespaces:>10} {:>9} {:>11} {:>11} {:>9}",
            namespaces * per_namespace,
            format!("{allowed:?}"),
            format!("{denied:?}"),
            format!("{change:?}")
        );
    }
}
