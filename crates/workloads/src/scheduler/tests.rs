//! Which Pods go where, in a table.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeCondition, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, NodeSpec,
    NodeStatus, Pod, PodSchedulingGate, PodSpec, Taint, Toleration,
};
use kube::api::ObjectMeta;

use super::plan::{Decision, decide};

fn node(change: impl FnOnce(&mut Node)) -> Node {
    let mut node = Node {
        metadata: ObjectMeta {
            name: Some("coracle".into()),
            labels: Some(BTreeMap::from([("disk".to_owned(), "ssd".to_owned()), ("cores".to_owned(), "8".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
    };
    change(&mut node);
    node
}

fn pod(change: impl FnOnce(&mut PodSpec)) -> Pod {
    let mut spec = PodSpec { scheduler_name: Some("default-scheduler".into()), ..PodSpec::default() };
    change(&mut spec);
    Pod { spec: Some(spec), ..Pod::default() }
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

fn affinity(terms: Vec<NodeSelectorTerm>) -> Option<Affinity> {
    Some(Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: terms }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    })
}

fn term(requirements: Vec<NodeSelectorRequirement>) -> NodeSelectorTerm {
    NodeSelectorTerm { match_expressions: Some(requirements), match_fields: None }
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.into(), value: Some("v".into()), effect: effect.into(), time_added: None }
}

fn unschedulable(why: &str) -> Decision {
    Decision::Unschedulable { message: format!("0/1 nodes are available: 1 {why}.") }
}

fn bind() -> Decision {
    Decision::Bind { node: "coracle".into() }
}

fn plain() -> Node {
    node(|_| {})
}

fn check(table: impl IntoIterator<Item = (&'static str, Pod, Node, Decision)>) {
    for (what, pod, node, expected) in table {
        assert_eq!(decide(&pod, &[&node]), expected, "{what}");
    }
}

#[test]
fn selectors_and_affinity() {
    let mismatch = || unschedulable("node(s) didn't match Pod's node affinity/selector");
    let selecting = |value: &str| {
        let selector = BTreeMap::from([("disk".to_owned(), value.to_owned())]);
        pod(|spec| spec.node_selector = Some(selector))
    };
    let requiring =
        |requirements: Vec<NodeSelectorRequirement>| pod(|spec| spec.affinity = affinity(vec![term(requirements)]));
    check([
        ("plain", pod(|_| {}), plain(), bind()),
        ("another scheduler's", pod(|spec| spec.scheduler_name = Some("mine".into())), plain(), Decision::Nothing),
        ("bound already", pod(|spec| spec.node_name = Some("coracle".into())), plain(), Decision::Nothing),
        ("selector holds", selecting("ssd"), plain(), bind()),
        ("selector fails", selecting("tape"), plain(), mismatch()),
        ("in", requiring(vec![requirement("disk", "In", &["hdd", "ssd"])]), plain(), bind()),
        ("not in", requiring(vec![requirement("disk", "NotIn", &["ssd"])]), plain(), mismatch()),
        ("greater", requiring(vec![requirement("cores", "Gt", &["4"])]), plain(), bind()),
        ("less", requiring(vec![requirement("cores", "Lt", &["4"])]), plain(), mismatch()),
        ("absent", requiring(vec![requirement("gpu", "DoesNotExist", &[])]), plain(), bind()),
        (
            "an empty term matches nothing",
            pod(|spec| spec.affinity = affinity(vec![term(vec![])])),
            plain(),
            mismatch(),
        ),
        (
            "one term is enough",
            pod(|spec| {
                let terms =
                    vec![term(vec![requirement("x", "Exists", &[])]), term(vec![requirement("disk", "Exists", &[])])];
                spec.affinity = affinity(terms);
            }),
            plain(),
            bind(),
        ),
    ]);
}

#[test]
fn nodes_that_keep_pods_away() {
    let tainted = |effect: &'static str| {
        node(move |node| {
            node.spec.as_mut().expect("a spec").taints = Some(vec![taint("gpu", effect)]);
        })
    };
    let tolerating = |operator: &str, value: Option<&str>| {
        let toleration = Toleration {
            key: Some("gpu".into()),
            operator: Some(operator.into()),
            value: value.map(str::to_owned),
            ..Toleration::default()
        };
        pod(|spec| spec.tolerations = Some(vec![toleration]))
    };
    check([
        ("tainted", pod(|_| {}), tainted("NoSchedule"), unschedulable("node(s) had untolerated taint {gpu: v}")),
        ("only preferred not to", pod(|_| {}), tainted("PreferNoSchedule"), bind()),
        ("tolerated", tolerating("Exists", None), tainted("NoExecute"), bind()),
        ("tolerated by value", tolerating("Equal", Some("v")), tainted("NoSchedule"), bind()),
        (
            "another value",
            tolerating("Equal", Some("w")),
            tainted("NoSchedule"),
            unschedulable("node(s) had untolerated taint {gpu: v}"),
        ),
        (
            "cordoned",
            pod(|_| {}),
            node(|node| node.spec.as_mut().expect("a spec").unschedulable = Some(true)),
            unschedulable("node(s) were unschedulable"),
        ),
        ("not ready", pod(|_| {}), node(|node| node.status = None), unschedulable("node(s) were not ready")),
        (
            "gated",
            pod(|spec| spec.scheduling_gates = Some(vec![PodSchedulingGate { name: "quota".into() }])),
            plain(),
            Decision::Gated { message: "Scheduling is blocked due to non-empty scheduling gates: [\"quota\"]".into() },
        ),
    ]);
    let message = "no nodes available to schedule pods".to_owned();
    assert_eq!(decide(&pod(|_| {}), &[]), Decision::Unschedulable { message });
}
