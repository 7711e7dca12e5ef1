//! Which node a Pod goes to, as a function of the Pod and the nodes.
//!
//! Invariants: synchronous and deterministic. Looked at: readiness, cordons, `nodeName`-like fields, node selectors, required node
//! affinity, taints. Not looked at: resources, ports, affinity between Pods, volumes, topology spread.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::pods;

pub(crate) const SCHEDULER: &str = "default-scheduler";

/// What becomes of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It isn't ours to schedule, or it is scheduled.
    Nothing,
    Bind {
        node: String,
    },
    /// No node will do, for now.
    Unschedulable {
        message: String,
    },
    /// It is held back by scheduling gates.
    Gated {
        message: String,
    },
}

/// Whether a Pod waits for a node from us.
pub(crate) fn waits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let unassigned = spec.node_name.as_deref().unwrap_or("").is_empty();
    let ours = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER) == SCHEDULER;
    unassigned && ours && !pods::has_ended(pod) && !pods::is_going(pod)
}

pub(crate) fn decide(pod: &Pod, nodes: &[&Node]) -> Decision {
    if !waits(pod) {
        return Decision::Nothing;
    }
    let gates: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.scheduling_gates.iter().flatten())
        .map(|gate| gate.name.as_str())
        .collect();
    if !gates.is_empty() {
        let message = format!("Scheduling is blocked due to non-empty scheduling gates: {gates:?}");
        return Decision::Gated { message };
    }
    if nodes.is_empty() {
        return Decision::Unschedulable { message: "no nodes available to schedule pods".to_owned() };
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes {
        match obstacle(pod, node) {
            None => return Decision::Bind { node: node.metadata.name.clone().unwrap_or_default() },
            Some(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    let reasons: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let message = format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", "));
    Decision::Unschedulable { message }
}

/// Why a Pod can't go to a node.
fn obstacle(pod: &Pod, node: &Node) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let node_spec = node.spec.clone().unwrap_or_default();
    if node_spec.unschedulable == Some(true) && !tolerates_cordon(tolerations) {
        return Some("node(s) were unschedulable".to_owned());
    }
    if !matches_selectors(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let forbidding = node_spec
        .taints
        .iter()
        .flatten()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    if let Some(taint) = forbidding {
        let value = taint.value.as_deref().unwrap_or("");
        return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (!ready).then(|| "node(s) were not ready".to_owned())
}

fn tolerates_cordon(tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or("");
    let effect = toleration.effect.as_deref().unwrap_or("");
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        _ => !key.is_empty() && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
    }
}

fn matches_selectors(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = spec.node_selector.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let field = |name: &str| (name == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
    expressions.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compare = |larger: bool| {
        let (Some(value), Some(bound)) = (value.and_then(|v| v.parse::<i64>().ok()), values.first()) else {
            return false;
        };
        bound.parse::<i64>().is_ok_and(|bound| if larger { value > bound } else { value < bound })
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}
