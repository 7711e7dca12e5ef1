//! The shim against real programs: what they see, how they end, and that nothing of them is left.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);

/// A shim that was told what to run.
struct Shim {
    child: Child,
    reports: BufReader<UnixStream>,
    socket: UnixStream,
}

impl Shim {
    fn start(config: &Value) -> Shim {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let child = Command::new(env!("CARGO_BIN_EXE_container-shim"))
            .arg("container-shim")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        ours.set_read_timeout(Some(LIMIT)).expect("set");
        let mut shim = Shim { child, reports: BufReader::new(ours.try_clone().expect("cloned")), socket: ours };
        shim.send(config);
        shim
    }

    fn send(&mut self, line: &Value) {
        writeln!(self.socket, "{line}").expect("sent");
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.reports.read_line(&mut line).expect("a report in time");
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// What comes before the program begins, and the number of the view that was made for it.
    fn beginning(&mut self) -> (Option<u64>, Value) {
        let first = self.next();
        match first["view"].as_u64() {
            Some(view) => (Some(view), self.next()),
            None => (None, first),
        }
    }

    fn started(&mut self) -> i64 {
        let report = self.next();
        report["started"].as_i64().unwrap_or_else(|| panic!("started, but: {report}"))
    }

    /// The rest of standard output, and the last report.
    fn finish(mut self) -> (String, Value) {
        let mut text = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        let report = self.next();
        self.child.wait().expect("ended");
        (text, report)
    }
}

fn config(script: &str, mounts: &Value, staging: &Path) -> Value {
    json!({
        "command": ["sh", "-c", script],
        "env": [["PATH", "/usr/bin:/bin"], ["A", "b"]],
        "working_dir": "/", "mounts": mounts, "staging": staging, "join": null,
    })
}

fn run(script: &str) -> (String, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut shim = Shim::start(&config(script, &json!([]), dir.path()));
    shim.started();
    shim.finish()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a program has no view of its own, as this machine gives none. Where `CORACLE_TEST_NAMESPACES=1` says that it does, that is a failure.
fn is_plain(beginning: &Value) -> bool {
    let Some(why) = beginning["plain"].as_str() else { return false };
    let required = std::env::var("CORACLE_TEST_NAMESPACES").is_ok_and(|is| is == "1");
    assert!(!required, "there are to be namespaces: {why}");
    eprintln!("NOT TESTED: this machine gives no mount namespaces: {why}");
    true
}

/// Whether a process lives; a zombie does not.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|s| !s.is_empty() && !s.trim_start().starts_with('Z'))
}

/// A program whose grandchild has left its session and group, and which writes down both process numbers.
fn daemon(dir: &Path, then: &str) -> String {
    let dir = dir.display();
    format!(
        "setsid sh -c 'trap \"\" TERM HUP; echo $$ > {dir}/daemon.new; mv {dir}/daemon.new {dir}/daemon; while :; do sleep 300; done' & \
         echo $$ > {dir}/main.new; mv {dir}/main.new {dir}/main; while [ ! -e {dir}/daemon ]; do sleep 0.01; done; {then}"
    )
}

fn pid_in(file: &Path) -> String {
    until("the program writes its number", || file.exists());
    std::fs::read_to_string(file).expect("read")
}

#[test]
fn a_program_gets_the_limit_of_open_files_that_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut told = config("ulimit -Sn; ulimit -Hn", &json!([]), dir.path());
    let (unsaid, _) = run("ulimit -Sn; ulimit -Hn");
    let (soft, hard) = unsaid.trim().split_once('\n').expect("two lines");
    assert_ne!(soft, "77");
    told["open_files"] = json!(77);
    let mut shim = Shim::start(&told);
    shim.started();
    assert_eq!(shim.finish().0, format!("77\n{hard}\n"));
}

#[test]
fn a_program_gets_its_environment_and_its_end_is_told() {
    let (text, end) = run("env | sort | grep -v -e ^PWD -e ^SHLVL -e ^_= -e ^OLDPWD; exit 3");
    assert_eq!(text.lines().filter(|l| !l.starts_with("PATH=")).collect::<Vec<_>>(), ["A=b"]);
    assert_eq!(end, json!({"exited": {"code": 3, "signal": null}}));
    let (_, end) = run("kill -9 $$");
    assert_eq!(end, json!({"exited": {"code": null, "signal": 9}}));
}

#[test]
fn what_can_not_be_started_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wrong = config("", &json!([]), dir.path());
    wrong["command"] = json!(["no-such-program"]);
    let (_, end) = Shim::start(&wrong).finish();
    assert_eq!(end, json!({"failed": "exec: \"no-such-program\": executable file not found in $PATH"}));
    let mut wrong = config("", &json!([]), dir.path());
    wrong["working_dir"] = json!("/no/such/place");
    let (_, end) = Shim::start(&wrong).finish();
    assert!(end["failed"].as_str().expect("failed").contains("/no/such/place"), "{end}");
}

#[test]
fn volumes_appear_at_their_paths_and_nowhere_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    };
    let (data, conf, staging) = (at("data"), at("conf"), at("staging"));
    std::fs::write(conf.join("level"), "debug").expect("written");
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "127.96.0.5 users\n").expect("written");
    let mounts = json!([
        {"source": data, "target": "/coracle-test-data", "read_only": false},
        {"source": conf, "target": "/etc/coracle-test/config", "read_only": true},
        {"source": hosts, "target": "/etc/hosts", "read_only": false},
    ]);
    let script = "cat /etc/coracle-test/config/level; echo; cat /etc/hosts; echo x > /coracle-test-data/file; \
                  echo y 2>/dev/null > /etc/coracle-test/config/level || echo read-only; test -e /etc/passwd && echo passwd; \
                  cat /proc/self/comm; pwd";
    let mut shim = Shim::start(&config(script, &mounts, &staging));
    let (_, first) = shim.beginning();
    if is_plain(&first) {
        return;
    }
    let (text, end) = shim.finish();
    assert_eq!(text, "debug\n127.96.0.5 users\nread-only\npasswd\ncat\n/\n", "{end}");
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("written"), "x\n");
    assert!(!Path::new("/coracle-test-data").exists() && !Path::new("/etc/coracle-test").exists());
    assert_eq!(std::fs::read_dir(&staging).expect("read").count(), 0, "the host sees nothing of it");
}

#[test]
fn a_command_beside_a_program_sees_what_it_sees() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, staging) = (dir.path().join("data"), dir.path().join("staging"));
    std::fs::create_dir_all(&data).expect("made");
    std::fs::create_dir_all(&staging).expect("made");
    std::fs::write(data.join("file"), "seen").expect("written");
    let mounts = json!([{"source": data, "target": "/coracle-test-beside", "read_only": false}]);
    let mut shim = Shim::start(&config("sleep 300", &mounts, &staging));
    let (view, first) = shim.beginning();
    if is_plain(&first) {
        return;
    }
    let sees = std::fs::read_link(format!("/proc/{}/ns/mnt", first["started"])).expect("it runs");
    assert_eq!(sees.to_str(), view.map(|view| format!("mnt:[{view}]")).as_deref());
    let mut beside = config("cat /coracle-test-beside/file", &json!([]), &staging);
    beside["join"] = first["started"].clone();
    let mut other = Shim::start(&beside);
    other.started();
    assert_eq!(other.finish().0, "seen");
    shim.send(&json!("kill"));
    assert_eq!(shim.finish().1, json!({"exited": {"code": null, "signal": 9}}));
}

#[test]
fn nothing_is_left_when_the_program_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut shim = Shim::start(&config(&daemon(dir.path(), "exit 0"), &json!([]), dir.path()));
    shim.started();
    let left = pid_in(&dir.path().join("daemon"));
    let (_, end) = shim.finish();
    assert_eq!(end, json!({"exited": {"code": 0, "signal": null}}));
    assert!(!alive(&left), "the end is told when nothing is left");
}

#[test]
fn nothing_is_left_when_coracle_dies() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut shim = Shim::start(&config(&daemon(dir.path(), "wait"), &json!([]), dir.path()));
    shim.started();
    let (main, left) = (pid_in(&dir.path().join("main")), pid_in(&dir.path().join("daemon")));
    let Shim { mut child, reports, socket } = shim;
    drop((reports, socket)); // as the kernel does it, however Coracle dies
    child.wait().expect("ended");
    assert!(!alive(&main) && !alive(&left));
}

#[test]
fn a_program_dies_with_its_shim() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut shim = Shim::start(&config(&daemon(dir.path(), "wait"), &json!([]), dir.path()));
    shim.started();
    let (main, left) = (pid_in(&dir.path().join("main")), pid_in(&dir.path().join("daemon")));
    shim.child.kill().expect("killed");
    shim.child.wait().expect("ended");
    until("the program is gone", || !alive(&main));
    // What had left its session is found by its mark at the next start; this one has none.
    let pid = nix::unistd::Pid::from_raw(left.trim().parse().expect("a number"));
    nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
}

#[test]
fn a_shells_child_may_take_its_time_when_asked_to_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().display();
    // The shell dies of SIGTERM at once; its child cleans up first, and is not cut short.
    let script = format!(
        "sh -c 'trap \"sleep 0.2; echo clean > {at}/clean; exit 0\" TERM; echo > {at}/up; while :; do sleep 0.01; done' & wait"
    );
    let mut shim = Shim::start(&config(&script, &json!([]), dir.path()));
    shim.started();
    until("the child is up", || dir.path().join("up").exists());
    shim.send(&json!("terminate"));
    let (_, end) = shim.finish();
    assert_eq!(end, json!({"exited": {"code": null, "signal": 15}}));
    assert!(dir.path().join("clean").exists());
}
