use super::*;
use crate::container::Refused;
use crate::pod::record::records;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("in range")
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "shop", "uid": "u"},
        "spec": {
            "initContainers": [{"name": "i", "image": "a"}],
            "containers": [{"name": "m", "image": "b", "resources": {"requests": {"cpu": "1"}}}]
        }
    }))
    .expect("a pod")
}

fn ended(code: i32, second: i64) -> Ended {
    Ended {
        code,
        signal: None,
        reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        started: Some(at(second - 1)),
        finished: at(second),
        id: "process://u/m/0".to_owned(),
    }
}

fn seen(pod: &Pod, records: &[Record], phase: Phase, initialized: bool, ending: bool) -> Value {
    let input = Input {
        pod,
        records,
        policy: Policy::Always,
        phase,
        address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        obstacle: None,
        initialized,
        ending,
        failure: None,
        started: at(0),
        now: at(5),
    };
    status(&input, &mut Conditions::new())
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["conditions"].as_array().expect("conditions");
    all.iter().find(|c| c["type"] == name).expect("there")
}

#[test]
fn a_new_pod_waits_for_its_init_containers() {
    let pod = pod();
    let records = records(pod.spec.as_ref().expect("a spec"));
    let status = seen(&pod, &records, Phase::Pending, false, false);
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["qosClass"], "Burstable");
    assert_eq!(status["startTime"], "2023-11-14T22:13:20Z");
    assert_eq!(status["initContainerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&status, "Initialized")["reason"], "ContainersNotInitialized");
    assert_eq!(condition(&status, "Initialized")["message"], "containers with incomplete status: [i]");
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [m]");
}

#[test]
fn readiness_comes_and_goes_with_its_containers_and_the_pods_end() {
    let pod = pod();
    let mut records = records(pod.spec.as_ref().expect("a spec"));
    records[0].begin();
    records[0].end(ended(0, 1));
    records[1].begin();
    records[1].state = State::Running { id: "x".to_owned(), since: at(2) };
    (records[1].started, records[1].ready) = (true, true);
    let status = seen(&pod, &records, Phase::Running, true, false);
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert!(condition(&status, "Ready").get("reason").is_none());
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    let ending = seen(&pod, &records, Phase::Running, true, true);
    assert_eq!(condition(&ending, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(ending["containerStatuses"][0]["ready"], false);
}

#[test]
fn a_crashing_container_says_how_long_it_waits() {
    let pod = pod();
    let mut records = records(pod.spec.as_ref().expect("a spec"));
    records[0].begin();
    records[0].end(ended(0, 1));
    for _ in 0..2 {
        records[1].begin();
        records[1].end(ended(1, 4));
    }
    let status = seen(&pod, &records, Phase::Running, true, false);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(container["state"]["waiting"]["message"], "back-off 10s restarting failed container=m pod=p_shop(u)");
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(container["restartCount"], 1);
    records[1].state = State::Waiting(Some(Refused { reason: "ErrImagePull", message: "no".to_owned() }));
    let status = seen(&pod, &records, Phase::Running, true, false);
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ErrImagePull");
}

#[test]
fn a_completed_pod_says_so() {
    let mut pod = pod();
    pod.spec.as_mut().expect("a spec").init_containers = None;
    let mut records = records(pod.spec.as_ref().expect("a spec"));
    records[0].begin();
    records[0].end(ended(0, 4));
    let status = seen(&pod, &records, Phase::Succeeded, true, false);
    assert_eq!(condition(&status, "Ready")["reason"], "PodCompleted");
    assert_eq!(condition(&status, "Initialized")["reason"], "PodCompleted");
    assert_eq!(condition(&status, "PodReadyToStartContainers")["status"], "False");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
}
