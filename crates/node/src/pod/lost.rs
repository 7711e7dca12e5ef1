//! Takes over a Pod of an earlier life of Coracle: its processes are gone, what its status says of them is remembered.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};

use super::record::{Part, Record, State};
use crate::container::Ended;

/// Brings records in line with what the API knows. Init containers of a Pod that goes on run again, as after a restart of a
/// machine.
pub(super) fn recall(pod: &Pod, records: &mut [Record], now: Timestamp) {
    let Some(status) = &pod.status else { return };
    let statuses = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for record in records.iter_mut() {
        if let Some(status) = statuses().find(|s| s.name == record.name) {
            one(record, status, now);
        }
    }
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let main_done = records.iter().filter(|r| r.part == Part::Main).all(|r| r.ended().is_some());
    if over || main_done {
        return;
    }
    for record in records.iter_mut().filter(|r| r.part == Part::Init) {
        if let State::Ended(ended) = &record.state {
            record.last = Some(ended.clone());
            record.state = State::Waiting(None);
            record.not_before = None;
        }
    }
}

fn one(record: &mut Record, status: &ContainerStatus, now: Timestamp) {
    record.restarts = u32::try_from(status.restart_count).unwrap_or_default();
    record.image_id.clone_from(&status.image_id);
    let terminated = |state: &Option<ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    record.last = terminated(&status.last_state).map(|t| ended(&t, now));
    let running = status.state.as_ref().and_then(|s| s.running.as_ref());
    if let Some(last) = terminated(&status.state) {
        record.ran = true;
        record.state = State::Ended(ended(&last, now));
    } else if let Some(running) = running {
        record.ran = true;
        record.state = State::Ended(Ended {
            code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some("Coracle ended while the container was running, and took its processes along".to_owned()),
            started: running.started_at.as_ref().map(|t| t.0),
            finished: now,
            id: status.container_id.clone().unwrap_or_default(),
        });
    } else {
        record.ran = record.last.is_some();
    }
}

fn ended(state: &ContainerStateTerminated, now: Timestamp) -> Ended {
    Ended {
        code: state.exit_code,
        signal: state.signal,
        reason: state.reason.clone().unwrap_or_default(),
        message: state.message.clone(),
        started: state.started_at.as_ref().map(|t| t.0),
        finished: state.finished_at.as_ref().map_or(now, |t| t.0),
        id: state.container_id.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::record::records;
    use super::*;

    #[test]
    fn what_ran_counts_as_ended_and_init_containers_run_again() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]},
            "status": {
                "phase": "Running",
                "initContainerStatuses": [{"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0}}}],
                "containerStatuses": [
                    {"name": "a", "image": "", "imageID": "x", "ready": true, "restartCount": 2,
                     "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
                    {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {}}}
                ]
            }
        }))
        .expect("a pod");
        let mut records = records(pod.spec.as_ref().expect("a spec"));
        recall(&pod, &mut records, Timestamp::UNIX_EPOCH);
        assert_eq!(records[0].state, State::Waiting(None));
        assert!(records[0].ran, "so that its next run is a restart");
        let ended = records[1].ended().expect("ended");
        assert_eq!((ended.code, ended.reason.as_str(), records[1].restarts), (137, "ContainerStatusUnknown", 2));
        assert_eq!((&records[2].state, records[2].ran), (&State::Waiting(None), false));
        records[1].begin();
        assert_eq!(records[1].restarts, 3);
    }
}
