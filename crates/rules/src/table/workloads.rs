//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, autoscalers, disruption budgets.

use super::age::{human_duration, seconds_between, since};
use super::{
    AGE, INTEGER, NAME, Printer, STRING, age, containers, count, labels, list, name, number, or_none, selector, text,
    title,
};
use crate::pods;
use jiff::Timestamp;
use serde_json::Value;

fn with_containers(mut cells: Vec<Value>, spec: &Value) -> Vec<Value> {
    cells.extend(containers(spec));
    cells
}

pub(super) const DEPLOYMENT: Printer = Printer {
    headings: &[
        NAME,
        ("Ready", STRING, 0),
        ("Up-to-date", INTEGER, 0),
        ("Available", INTEGER, 0),
        AGE,
        ("Containers", STRING, 1),
        ("Images", STRING, 1),
        ("Selector", STRING, 1),
    ],
    cells: |obj, now| {
        let cells = vec![
            name(obj),
            format!("{}/{}", number(obj, "/status/readyReplicas"), number(obj, "/spec/replicas")).into(),
            number(obj, "/status/updatedReplicas").into(),
            number(obj, "/status/availableReplicas").into(),
            age(obj, now),
        ];
        let mut cells = with_containers(cells, &obj["spec"]["template"]["spec"]);
        cells.push(selector(&obj["spec"]["selector"]));
        cells
    },
};

fn replicas(obj: &Value, now: Timestamp) -> Vec<Value> {
    let cells = vec![
        name(obj),
        number(obj, "/spec/replicas").into(),
        number(obj, "/status/replicas").into(),
        number(obj, "/status/readyReplicas").into(),
        age(obj, now),
    ];
    with_containers(cells, &obj["spec"]["template"]["spec"])
}

const REPLICAS: &[super::Heading] = &[
    NAME,
    ("Desired", INTEGER, 0),
    ("Current", INTEGER, 0),
    ("Ready", INTEGER, 0),
    AGE,
    ("Containers", STRING, 1),
    ("Images", STRING, 1),
    ("Selector", STRING, 1),
];

pub(super) const REPLICA_SET: Printer = Printer {
    headings: REPLICAS,
    cells: |obj, now| {
        let mut cells = replicas(obj, now);
        cells.push(selector(&obj["spec"]["selector"]));
        cells
    },
};

pub(super) const REPLICATION_CONTROLLER: Printer = Printer {
    headings: REPLICAS,
    cells: |obj, now| {
        let mut cells = replicas(obj, now);
        cells.push(or_none(labels(&obj["spec"]["selector"])));
        cells
    },
};

pub(super) const STATEFUL_SET: Printer = Printer {
    headings: &[NAME, ("Ready", STRING, 0), AGE, ("Containers", STRING, 1), ("Images", STRING, 1)],
    cells: |obj, now| {
        let ready = format!("{}/{}", number(obj, "/status/readyReplicas"), number(obj, "/spec/replicas"));
        with_containers(vec![name(obj), ready.into(), age(obj, now)], &obj["spec"]["template"]["spec"])
    },
};

pub(super) const DAEMON_SET: Printer = Printer {
    headings: &[
        NAME,
        ("Desired", INTEGER, 0),
        ("Current", INTEGER, 0),
        ("Ready", INTEGER, 0),
        ("Up-to-date", INTEGER, 0),
        ("Available", INTEGER, 0),
        ("Node Selector", STRING, 0),
        AGE,
        ("Containers", STRING, 1),
        ("Images", STRING, 1),
        ("Selector", STRING, 1),
    ],
    cells: |obj, now| {
        let cells = vec![
            name(obj),
            number(obj, "/status/desiredNumberScheduled").into(),
            number(obj, "/status/currentNumberScheduled").into(),
            number(obj, "/status/numberReady").into(),
            number(obj, "/status/updatedNumberScheduled").into(),
            number(obj, "/status/numberAvailable").into(),
            or_none(labels(&obj["spec"]["template"]["spec"]["nodeSelector"])),
            age(obj, now),
        ];
        let mut cells = with_containers(cells, &obj["spec"]["template"]["spec"]);
        cells.push(selector(&obj["spec"]["selector"]));
        cells
    },
};

pub(super) const CONTROLLER_REVISION: Printer = Printer {
    headings: &[NAME, ("Controller", STRING, 0), ("Revision", STRING, 0), AGE],
    cells: |obj, now| {
        let owner = pods::controller_of(obj).map(|owner| {
            let (group, kind) = (text(owner, "/apiVersion"), text(owner, "/kind").to_lowercase());
            let group = group.split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
            format!("{kind}{group}/{}", text(owner, "/name"))
        });
        vec![name(obj), or_none(owner.unwrap_or_default()), number(obj, "/revision").to_string().into(), age(obj, now)]
    },
};

pub(super) const JOB: Printer = Printer {
    headings: &[
        NAME,
        ("Status", STRING, 0),
        ("Completions", STRING, 0),
        ("Duration", STRING, 0),
        AGE,
        ("Containers", STRING, 1),
        ("Images", STRING, 1),
        ("Selector", STRING, 1),
    ],
    cells: |obj, now| {
        let succeeded = number(obj, "/status/succeeded");
        let completions = match (obj["spec"]["completions"].as_i64(), number(obj, "/spec/parallelism")) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        };
        let end = text(obj, "/status/completionTime").parse().unwrap_or(now);
        let duration = seconds_between(text(obj, "/status/startTime"), end).map(human_duration).unwrap_or_default();
        let cells = vec![name(obj), job_status(obj).into(), completions.into(), duration.into(), age(obj, now)];
        let mut cells = with_containers(cells, &obj["spec"]["template"]["spec"]);
        cells.push(selector(&obj["spec"]["selector"]));
        cells
    },
};

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| pods::condition_is_true(job, kind);
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if pods::is_terminating(job) {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) const CRON_JOB: Printer = Printer {
    headings: &[
        NAME,
        ("Schedule", STRING, 0),
        ("Timezone", STRING, 0),
        ("Suspend", "boolean", 0),
        ("Active", INTEGER, 0),
        ("Last Schedule", STRING, 0),
        AGE,
        ("Containers", STRING, 1),
        ("Images", STRING, 1),
        ("Selector", STRING, 1),
    ],
    cells: |obj, now| {
        let last = &obj["status"]["lastScheduleTime"];
        let last = if last.is_null() { "<none>".to_owned() } else { since(last, now) };
        let cells = vec![
            name(obj),
            text(obj, "/spec/schedule").into(),
            or_none(text(obj, "/spec/timeZone")),
            title(obj["spec"]["suspend"] == true).into(),
            count(obj, "/status/active").into(),
            last.into(),
            age(obj, now),
        ];
        let spec = &obj["spec"]["jobTemplate"]["spec"];
        let mut cells = with_containers(cells, &spec["template"]["spec"]);
        cells.push(selector(&spec["selector"]));
        cells
    },
};

pub(super) const AUTOSCALER: Printer = Printer {
    headings: &[
        NAME,
        ("Reference", STRING, 0),
        ("Targets", STRING, 0),
        ("MinPods", STRING, 0),
        ("MaxPods", INTEGER, 0),
        ("Replicas", INTEGER, 0),
        AGE,
    ],
    cells: |obj, now| {
        let target = &obj["spec"]["scaleTargetRef"];
        let minimum =
            obj["spec"]["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |number| number.to_string());
        vec![
            name(obj),
            format!("{}/{}", text(target, "/kind"), text(target, "/name")).into(),
            or_none(targets(obj)),
            minimum.into(),
            number(obj, "/spec/maxReplicas").into(),
            number(obj, "/status/currentReplicas").into(),
            age(obj, now),
        ]
    },
};

/// `cpu: 10%/80%` for each metric, two at most.
fn targets(obj: &Value) -> String {
    let metrics = list(obj, "/spec/metrics");
    let mut shown: Vec<String> =
        metrics.iter().enumerate().take(2).map(|(at, metric)| target(obj, at, metric)).collect();
    if metrics.len() > 2 {
        shown.push(format!("{} more...", metrics.len() - 2));
        return shown.join(" + ").replacen(" + ", ", ", 1);
    }
    shown.join(", ")
}

fn target(obj: &Value, at: usize, metric: &Value) -> String {
    let (prefix, field) = match text(metric, "/type") {
        "ContainerResource" => ("", "containerResource"),
        "Resource" => ("", "resource"),
        "Pods" => ("", "pods"),
        "Object" => ("", "object"),
        "External" => ("", "external"),
        _ => return "<unknown type>".to_owned(),
    };
    let name = text(&metric[field], "/name");
    let wanted = &metric[field]["target"];
    let current = obj.pointer(&format!("/status/currentMetrics/{at}/{field}/current")).unwrap_or(&Value::Null);
    let show = |from: &Value, percent: &str| match (
        from[percent].as_i64(),
        from["averageValue"].as_str(),
        from["value"].as_str(),
    ) {
        (Some(percent), _, _) => format!("{percent}%"),
        (None, Some(average), _) => average.to_owned(),
        (None, None, Some(value)) => value.to_owned(),
        _ => "<unknown>".to_owned(),
    };
    let text = format!("{}/{}", show(current, "averageUtilization"), show(wanted, "averageUtilization"));
    if name.is_empty() { format!("{prefix}{text}") } else { format!("{name}: {text}") }
}

pub(super) const DISRUPTION_BUDGET: Printer = Printer {
    headings: &[
        NAME,
        ("Min Available", STRING, 0),
        ("Max Unavailable", STRING, 0),
        ("Allowed Disruptions", INTEGER, 0),
        AGE,
    ],
    cells: |obj, now| {
        let show = |field: &str| match &obj["spec"][field] {
            Value::Null => "N/A".into(),
            Value::String(text) => Value::from(text.as_str()),
            other => other.to_string().into(),
        };
        vec![
            name(obj),
            show("minAvailable"),
            show("maxUnavailable"),
            number(obj, "/status/disruptionsAllowed").into(),
            age(obj, now),
        ]
    },
};
