use k8s_openapi::api::core::v1::Container;

use super::*;
use crate::container::Ended;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("in range")
}

fn record(name: &str, part: Part) -> Record {
    Record::new(&Container { name: name.to_owned(), ..Container::default() }, part)
}

fn running(mut record: Record) -> Record {
    record.begin();
    record.state = State::Running { id: "x".to_owned(), since: at(0) };
    record.started = true;
    record
}

/// Ran from second 0 to `second`.
fn ended(mut record: Record, code: i32, second: i64) -> Record {
    record.begin();
    record.end(Ended {
        code,
        signal: None,
        reason: String::new(),
        message: None,
        started: Some(at(0)),
        finished: at(second),
        id: "x".to_owned(),
    });
    record
}

fn stopping(mut record: Record) -> Record {
    record.stopping = true;
    record
}

struct Case<'a> {
    what: &'a str,
    records: Vec<Record>,
    policy: Policy,
    ending: bool,
    initialized: bool,
    now: i64,
    actions: Vec<Action>,
    wake: Option<i64>,
    phase: Phase,
    quiet: bool,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case {
            what: "",
            records: Vec::new(),
            policy: Policy::Always,
            ending: false,
            initialized: true,
            now: 100,
            actions: Vec::new(),
            wake: None,
            phase: Phase::Running,
            quiet: false,
        }
    }
}

fn hold(cases: Vec<Case<'_>>) {
    for case in cases {
        let plan = plan(&Snapshot {
            records: &case.records,
            policy: case.policy,
            prepared: true,
            ending: case.ending,
            failed: false,
            initialized: case.initialized,
            deadline: None,
            now: at(case.now),
        });
        assert_eq!(plan.actions, case.actions, "{}: actions", case.what);
        assert_eq!(plan.wake, case.wake.map(at), "{}: wake", case.what);
        assert_eq!(plan.phase, case.phase, "{}: phase", case.what);
        assert_eq!(plan.quiet, case.quiet, "{}: quiet", case.what);
    }
}

use Action::{Expire, Start, Stop};
use Part::{Init, Main, Sidecar};

#[test]
fn containers_start_in_their_order() {
    let (init, side, main) = (record("i", Init), record("s", Sidecar), record("m", Main));
    let pending = |what, records, actions| Case {
        what,
        records,
        actions,
        initialized: false,
        phase: Phase::Pending,
        ..Case::default()
    };
    let mut starting = side.clone();
    starting.begin();
    let mut unstarted = running(side.clone());
    unstarted.started = false;
    hold(vec![
        pending("the first alone", vec![init.clone(), side.clone(), main.clone()], vec![Start(0)]),
        pending("while it runs, no other", vec![running(init.clone()), side.clone(), main.clone()], vec![]),
        pending("then the next", vec![ended(init.clone(), 0, 1), side.clone(), main.clone()], vec![Start(1)]),
        pending("a sidecar that starts holds back", vec![ended(init.clone(), 0, 1), starting, main.clone()], vec![]),
        pending("until its startup probe has passed", vec![ended(init.clone(), 0, 1), unstarted, main.clone()], vec![]),
        pending(
            "then all main ones",
            vec![running(side.clone()), main.clone(), main.clone()],
            vec![Start(1), Start(2)],
        ),
        Case {
            what: "a sidecar that ended later holds nothing back",
            records: vec![ended(side, 1, 1), ended(main, 1, 1)],
            actions: vec![Start(0), Start(1)],
            ..Case::default()
        },
        Case {
            what: "a failed init container is tried again",
            records: vec![ended(init.clone(), 1, 1), record("m", Main)],
            initialized: false,
            actions: vec![Start(0)],
            phase: Phase::Pending,
            ..Case::default()
        },
        Case {
            what: "or fails the Pod",
            records: vec![ended(init, 1, 1), record("m", Main)],
            initialized: false,
            policy: Policy::Never,
            phase: Phase::Failed,
            quiet: true,
            ..Case::default()
        },
    ]);
}

#[test]
fn ended_containers_restart_by_policy_and_not_too_soon() {
    let main = || record("m", Main);
    let twice = ended(ended(main(), 1, 1), 1, 99);
    let mut again = ended(main(), 0, 1);
    again.again = true;
    let mut changed = ended(main(), 137, 1);
    changed.changed = true;
    hold(vec![
        Case { what: "at once", records: vec![ended(main(), 1, 1)], actions: vec![Start(0)], ..Case::default() },
        Case { what: "then after ten seconds", records: vec![twice.clone()], wake: Some(109), ..Case::default() },
        Case { what: "which pass", records: vec![twice], now: 109, actions: vec![Start(0)], ..Case::default() },
        Case {
            what: "also after success",
            records: vec![ended(main(), 0, 1)],
            actions: vec![Start(0)],
            ..Case::default()
        },
        Case {
            what: "not after success on failure only",
            policy: Policy::OnFailure,
            records: vec![ended(main(), 0, 1), running(main())],
            ..Case::default()
        },
        Case {
            what: "but when its liveness probe ended it",
            policy: Policy::OnFailure,
            records: vec![again],
            actions: vec![Start(0)],
            ..Case::default()
        },
        Case {
            what: "all ended well",
            policy: Policy::OnFailure,
            records: vec![ended(main(), 0, 1)],
            phase: Phase::Succeeded,
            quiet: true,
            ..Case::default()
        },
        Case {
            what: "one ended badly, for good",
            policy: Policy::Never,
            records: vec![ended(main(), 0, 1), ended(main(), 2, 1)],
            phase: Phase::Failed,
            quiet: true,
            ..Case::default()
        },
        Case {
            what: "sidecars end when the rest is done",
            policy: Policy::Never,
            records: vec![running(record("s", Sidecar)), ended(main(), 0, 1)],
            actions: vec![Stop(0)],
            ..Case::default()
        },
        Case {
            what: "and only then the Pod is over",
            policy: Policy::Never,
            records: vec![ended(record("s", Sidecar), 143, 2), ended(main(), 0, 1)],
            phase: Phase::Succeeded,
            quiet: true,
            ..Case::default()
        },
        Case {
            what: "a sidecar may outlive what failed before main containers began",
            policy: Policy::Never,
            initialized: false,
            records: vec![running(record("s", Sidecar)), ended(record("i", Init), 1, 1), main()],
            phase: Phase::Pending,
            actions: vec![Stop(0)],
            ..Case::default()
        },
        Case {
            what: "another image runs whatever the policy",
            policy: Policy::Never,
            records: vec![changed],
            actions: vec![Start(0)],
            ..Case::default()
        },
    ]);
}

#[test]
fn an_ending_pod_stops_main_containers_before_sidecars_in_reverse() {
    let side = |n: &str| running(record(n, Sidecar));
    let main = || running(record("m", Main));
    let ending =
        |what, records, actions, quiet| Case { what, records, actions, quiet, ending: true, ..Case::default() };
    hold(vec![
        ending("all main ones at once", vec![side("a"), main(), main()], vec![Stop(1), Stop(2)], false),
        ending("each once", vec![side("a"), stopping(main()), main()], vec![Stop(2)], false),
        ending(
            "then the last sidecar",
            vec![side("a"), side("b"), ended(record("m", Main), 0, 1)],
            vec![Stop(1)],
            false,
        ),
        ending(
            "one after the other",
            vec![side("a"), stopping(side("b")), ended(record("m", Main), 0, 1)],
            vec![],
            false,
        ),
        ending("until nothing is left", vec![ended(record("m", Main), 1, 1)], vec![], true),
    ]);
}

#[test]
fn time_runs_out_once() {
    let records = vec![running(record("m", Main))];
    let mut now = Snapshot {
        records: &records,
        policy: Policy::Always,
        prepared: true,
        ending: false,
        failed: false,
        initialized: true,
        deadline: Some(at(50)),
        now: at(49),
    };
    assert_eq!(plan(&now).wake, Some(at(50)));
    now.now = at(50);
    assert_eq!(plan(&now).actions, [Expire]);
    now.failed = true;
    let ending = plan(&now);
    assert_eq!((ending.actions, ending.phase), (vec![Stop(0)], Phase::Running));
    let records = vec![ended(record("m", Main), 137, 51)];
    now.records = &records;
    let over = plan(&now);
    assert_eq!((over.phase, over.quiet), (Phase::Failed, true));
}
