//! Defaults of Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs and autoscalers.

use super::fill::{each, set, set_in, set_text};
use super::pod;
use crate::meta::object_at;
use serde_json::{Value, json};

fn spec_of(obj: &mut Value) -> Option<&mut Value> {
    let spec = obj.get_mut("spec").filter(|spec| spec.is_object())?;
    if let Some(template) = spec.get_mut("template") {
        pod::template(template);
    }
    Some(spec)
}

pub(super) fn deployment(obj: &mut Value) {
    let Some(spec) = spec_of(obj) else { return };
    set(spec, "replicas", 1);
    set_in(spec, "strategy", "type", "RollingUpdate");
    set_text(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        set(&mut spec["strategy"], "rollingUpdate", json!({}));
        let rolling = &mut spec["strategy"]["rollingUpdate"];
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
}

pub(super) fn replica_set(obj: &mut Value) {
    if let Some(spec) = spec_of(obj) {
        set(spec, "replicas", 1);
    }
}

pub(super) fn replication_controller(obj: &mut Value) {
    let Some(spec) = spec_of(obj) else { return };
    set(spec, "replicas", 1);
    let labels = spec.pointer("/template/metadata/labels").cloned().filter(|labels| labels.is_object());
    if let Some(labels) = labels {
        if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
            spec["selector"] = labels.clone();
        }
        set_in(obj, "metadata", "labels", labels);
    }
}

pub(super) fn stateful_set(obj: &mut Value) {
    let Some(spec) = spec_of(obj) else { return };
    set_text(spec, "podManagementPolicy", "OrderedReady");
    set_in(spec, "updateStrategy", "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
    }
    set_in(spec, "persistentVolumeClaimRetentionPolicy", "whenDeleted", "Retain");
    set_in(spec, "persistentVolumeClaimRetentionPolicy", "whenScaled", "Retain");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    each(spec, "/volumeClaimTemplates", |claim| {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        set_in(claim, "spec", "volumeMode", "Filesystem");
        set_in(claim, "status", "phase", "Pending");
    });
}

pub(super) fn daemon_set(obj: &mut Value) {
    let Some(spec) = spec_of(obj) else { return };
    set_in(spec, "updateStrategy", "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        let rolling = &mut spec["updateStrategy"]["rollingUpdate"];
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    set(spec, "revisionHistoryLimit", 10);
}

pub(super) fn job(obj: &mut Value) {
    let labels = obj.pointer("/spec/template/metadata/labels").cloned().filter(Value::is_object);
    let unlabelled = obj["metadata"]["labels"].as_object().is_none_or(serde_json::Map::is_empty);
    if let (Some(labels), true, Some(metadata)) = (labels, unlabelled, object_at(obj, &["metadata"])) {
        metadata.insert("labels".to_owned(), labels);
    }
    let Some(spec) = spec_of(obj) else { return };
    job_spec(spec);
}

fn job_spec(spec: &mut Value) {
    // With neither given a Job is one Pod; with parallelism alone it is a work queue.
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    let per_index = !spec["backoffLimitPerIndex"].is_null();
    set(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    set(spec, "podReplacementPolicy", replacement);
    each(spec, "/podFailurePolicy/rules", |rule| {
        each(rule, "/onPodConditions", |condition| set_text(condition, "status", "True"))
    });
}

pub(super) fn cron_job(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    // The Job's own defaults come when it is made; its Pod template is filled in already here.
    if let Some(template) = spec.pointer_mut("/jobTemplate/spec/template") {
        pod::template(template);
    }
}

pub(super) fn autoscaler(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set(spec, "minReplicas", 1);
    if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    set(behavior, "scaleUp", json!({}));
    set(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
    set(&mut behavior["scaleUp"], "policies", json!([pods, percent]));
    set(behavior, "scaleDown", json!({}));
    set(&mut behavior["scaleDown"], "policies", json!([percent]));
    for direction in ["scaleUp", "scaleDown"] {
        set(&mut behavior[direction], "selectPolicy", "Max");
    }
}

/// What a container gets that says nothing: at most the maximum, and as its request the limit, else the minimum.
pub(super) fn limit_range(obj: &mut Value) {
    each(obj, "/spec/limits", |limit| {
        if limit["type"] != "Container" {
            return;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let amounts = limit[from].as_object().cloned().unwrap_or_default();
            for (resource, amount) in amounts {
                set_in(limit, to, &resource, amount);
            }
        }
    });
}
