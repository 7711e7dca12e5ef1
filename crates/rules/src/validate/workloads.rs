//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs and CronJobs.

use super::{not_negative, one_of, pod, text};
use crate::field::FieldError;
use crate::select::LabelSelector;
use serde_json::Value;

pub(super) fn deployment(obj: &Value, wrong: &mut Vec<FieldError>) {
    let spec = &obj["spec"];
    not_negative(spec, "replicas", "spec", wrong);
    selector_and_template(spec, "Deployment", wrong);
    strategy(&spec["strategy"], wrong);
    for number in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(spec, number, "spec", wrong);
    }
    let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64().unwrap_or(0));
    if let Some(deadline) = deadline.filter(|deadline| *deadline <= ready && *deadline >= 0) {
        wrong.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
}

pub(super) fn replica_set(obj: &Value, wrong: &mut Vec<FieldError>) {
    let spec = &obj["spec"];
    not_negative(spec, "replicas", "spec", wrong);
    not_negative(spec, "minReadySeconds", "spec", wrong);
    selector_and_template(spec, "ReplicaSet", wrong);
}

/// A StatefulSet or a DaemonSet.
pub(super) fn set(obj: &Value, wrong: &mut Vec<FieldError>) {
    let spec = &obj["spec"];
    not_negative(spec, "replicas", "spec", wrong);
    not_negative(spec, "minReadySeconds", "spec", wrong);
    selector_and_template(spec, "StatefulSet", wrong);
    one_of(&spec["updateStrategy"]["type"], "spec.updateStrategy.type", &["OnDelete", "RollingUpdate"], wrong);
    one_of(&spec["podManagementPolicy"], "spec.podManagementPolicy", &["OrderedReady", "Parallel"], wrong);
}

fn selector_and_template(spec: &Value, kind: &str, wrong: &mut Vec<FieldError>) {
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    if selector.is_null() {
        wrong.push(FieldError::required("spec.selector", ""));
    } else if selector
        .as_object()
        .is_some_and(|fields| fields.values().all(|value| value.is_null() || *value == serde_json::json!({})))
    {
        let detail = format!("empty selector is invalid for {}", kind.to_lowercase());
        wrong.push(FieldError::invalid("spec.selector", selector.clone(), detail));
    }
    match LabelSelector::from_object(selector) {
        Err(error) => wrong.push(FieldError::invalid("spec.selector", selector.clone(), error.to_string())),
        Ok(parsed) if !selector.is_null() && !parsed.matches(labels) => wrong.push(FieldError::invalid(
            "spec.template.metadata.labels",
            if labels.is_null() { serde_json::json!({}) } else { labels.clone() },
            "`selector` does not match template `labels`",
        )),
        Ok(_) => {}
    }
    if !spec["template"].is_object() {
        wrong.push(FieldError::required("spec.template", ""));
        return;
    }
    let claims = super::list(spec, "/volumeClaimTemplates").iter().map(|claim| text(claim, "/metadata/name"));
    pod::template(&spec["template"], "spec.template", &claims.collect::<Vec<_>>(), wrong);
    let policy = text(spec, "/template/spec/restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        wrong.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if !spec["template"]["spec"]["activeDeadlineSeconds"].is_null() {
        wrong.push(FieldError::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
}

fn strategy(strategy: &Value, wrong: &mut Vec<FieldError>) {
    const PATH: &str = "spec.strategy";
    one_of(&strategy["type"], "spec.strategy.type", &["Recreate", "RollingUpdate"], wrong);
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" && rolling.is_object() {
        wrong.push(FieldError::forbidden(
            format!("{PATH}.rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ));
    } else if strategy["type"] == "RollingUpdate" && rolling.is_object() {
        let amounts = ["maxUnavailable", "maxSurge"]
            .map(|name| amount(&rolling[name], &format!("{PATH}.rollingUpdate.{name}"), wrong));
        if amounts == [Some(0), Some(0)] {
            wrong.push(FieldError::invalid(
                format!("{PATH}.rollingUpdate.maxUnavailable"),
                rolling["maxUnavailable"].clone(),
                "may not be 0 when `maxSurge` is 0",
            ));
        }
        if amounts[0].is_some_and(|percent| percent > 100) && rolling["maxUnavailable"].is_string() {
            wrong.push(FieldError::invalid(
                format!("{PATH}.rollingUpdate.maxUnavailable"),
                rolling["maxUnavailable"].clone(),
                "must not be greater than 100%",
            ));
        }
    }
}

/// A count or a percentage.
fn amount(value: &Value, path: &str, wrong: &mut Vec<FieldError>) -> Option<i64> {
    let number = match value {
        Value::Null => return None,
        Value::String(text) => match text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok()) {
            Some(percent) => i64::from(percent),
            None => {
                wrong.push(FieldError::invalid(
                    path,
                    text.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ));
                return None;
            }
        },
        other => other.as_i64()?,
    };
    if number < 0 {
        wrong.push(FieldError::invalid(path, number, "must be greater than or equal to 0"));
    }
    Some(number)
}

pub(super) fn job(obj: &Value, wrong: &mut Vec<FieldError>) {
    job_spec(&obj["spec"], "spec", wrong);
}

fn job_spec(spec: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    for number in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(spec, number, path, wrong);
    }
    one_of(&spec["completionMode"], &format!("{path}.completionMode"), &["Indexed", "NonIndexed"], wrong);
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        wrong.push(FieldError::required(format!("{path}.completions"), "when completion mode is Indexed"));
    }
    if !spec["template"].is_object() {
        wrong.push(FieldError::required(format!("{path}.template"), ""));
        return;
    }
    pod::template(&spec["template"], &format!("{path}.template"), &[], wrong);
    let policy = text(spec, "/template/spec/restartPolicy");
    if policy == "Always" || policy.is_empty() {
        let policy = format!("{path}.template.spec.restartPolicy");
        let detail = "valid values: \"OnFailure\", \"Never\"";
        wrong.push(FieldError::required(policy, detail));
    }
    let selector = &spec["selector"];
    if !selector.is_null() {
        let labels = &spec["template"]["metadata"]["labels"];
        match LabelSelector::from_object(selector) {
            Err(error) => {
                wrong.push(FieldError::invalid(format!("{path}.selector"), selector.clone(), error.to_string()))
            }
            Ok(parsed) if !parsed.matches(labels) => wrong.push(FieldError::invalid(
                format!("{path}.template.metadata.labels"),
                labels.clone(),
                "`selector` does not match template `labels`",
            )),
            Ok(_) => {}
        }
    }
}

pub(super) fn cron_job(obj: &Value, wrong: &mut Vec<FieldError>) {
    let spec = &obj["spec"];
    let schedule = text(spec, "/schedule");
    if schedule.is_empty() {
        wrong.push(FieldError::required("spec.schedule", ""));
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let count = schedule.split_whitespace().count();
        wrong.push(FieldError::invalid("spec.schedule", schedule, format!("expected exactly 5 fields, found {count}")));
    }
    one_of(&spec["concurrencyPolicy"], "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"], wrong);
    for number in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec, number, "spec", wrong);
    }
    job_spec(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", wrong);
    let name = text(obj, "/metadata/name");
    if name.len() > 52 {
        wrong.push(FieldError::invalid("metadata.name", name, "must be no more than 52 characters"));
    }
}
