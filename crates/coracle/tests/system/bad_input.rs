//! Bad input: each gives one clear message that names the object and the way out, and changes nothing.

use crate::harness::{Coracle, eventually, manifests};
use crate::probes::application;
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::path::Path;

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

/// Starts on a new data directory, which must fail; the words on stderr.
fn refused(directory: &Path, more: &[&str]) -> String {
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().join("data");
    match Coracle::up_on(directory, &path, more) {
        Ok(_) => panic!("it started"),
        Err(output) => output,
    }
}

fn contains(output: &str, parts: &[&str]) {
    for part in parts {
        assert!(output.contains(part), "{output}\nlacks {part:?}");
    }
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn manifests_that_are_wrong_are_refused_whole_before_anything_starts() {
    let cases: &[(&str, &[&str])] = &[
        ("kind: [1\n", &["bad.yaml", "line"]),
        (&format!("{CONFIG}dato: {{}}\n"), &["configmap/a (bad.yaml)", "unknown field \"dato\""]),
        (&format!("{CONFIG}data: {{x: '1'}}\ndata: {{x: '2'}}\n"), &["bad.yaml", "duplicate"]),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", &["pod/p", "spec.containers"]),
        (
            &application("lost", 1, "").replace("fixture:1", "nowhere/lost:2"),
            &["nowhere/lost:2", "deployment/lost", "coracle.yaml"],
        ),
    ];
    for (text, parts) in cases {
        let directory = manifests(&[
            ("bad.yaml", text),
            ("good.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n"),
        ]);
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().join("data");
        let output = Coracle::up_on(directory.path(), &path, &[]).err().expect("it is refused");
        contains(&output, parts);
        contains(&output, &["exit status: 2", "nothing was changed"]);
        assert!(!path.exists(), "a refused start left {} behind", path.display());
    }
}

#[test]
fn a_recipe_file_that_is_wrong_is_refused_with_its_line() {
    let directory = manifests(&[("app.yaml", &application("a", 1, ""))]);
    std::fs::write(directory.path().join("coracle.yaml"), "images:\n  fixture:\n    comand: [x]\n").expect("writable");
    contains(&refused(directory.path(), &[]), &["coracle.yaml", "comand", "exit status: 2"]);
}

#[test]
fn a_build_that_fails_shows_its_last_lines() {
    let directory = manifests(&[("app.yaml", &application("a", 1, ""))]);
    let recipe = "images:\n  fixture:\n    build: echo the compiler says no >&2; exit 3\n    command: [x]\n";
    std::fs::write(directory.path().join("coracle.yaml"), recipe).expect("writable");
    contains(&refused(directory.path(), &[]), &["fixture", "the compiler says no", "3", "exit status: 1"]);
}

#[test]
fn a_program_that_ends_is_named_with_its_last_lines_and_the_way_out() {
    let directory = manifests(&[("app.yaml", &application("brief", 1, "          args: [exit, '7']"))]);
    let output = refused(directory.path(), &[]);
    contains(
        &output,
        &["deployment/brief", "exit code 7", "fixture: ending with 7 as told", "coracle up", "exit status: 1"],
    );
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let directory = manifests(&[("app.yaml", &application("a", 1, ""))]);
    std::fs::write(directory.path().join("coracle.yaml"), "images:\n  fixture:\n    command: [/no/such/program]\n")
        .expect("writable");
    contains(&refused(directory.path(), &[]), &["deployment/a", "/no/such/program", "exit status: 1"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let directory = manifests(&[("app.yaml", &application("a", 1, ""))]);
    contains(&refused(directory.path(), &["--api-port", &port]), &[&port, "API", "exit status: 1"]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory_text = directory.path().to_str().expect("UTF-8");
    let output = std::process::Command::new(crate::harness::CORACLE)
        .args(["up", directory_text, "--gateway-port", &port, "-o", "json", "--data"])
        .arg(data.path())
        .output()
        .expect("the binary starts");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    contains(&words, &[&port, "gateway/a"]);
    assert_eq!(output.status.code(), Some(1), "{words}");
}

#[test]
fn a_second_up_on_the_same_data_is_refused_and_the_first_goes_on() {
    let directory = manifests(&[("app.yaml", &application("a", 1, ""))]);
    let mut first = Coracle::up(directory.path());
    let output = Coracle::up_on(directory.path(), first.data(), &[]).err().expect("it is refused");
    contains(&output, &["in use", &first.child.id().to_string(), "coracle down", "exit status: 2"]);
    assert_eq!(crate::harness::get(first.gateway(), "/").expect("an answer").status, 200);
    assert_eq!(first.end(Signal::SIGTERM), Some(0));
}

/// The directory's own file system is full (a small tmpfs), so that a write fails for real.
#[test]
#[ignore = "needs to mount a tmpfs"]
fn a_full_data_directory_is_named_and_nothing_acknowledged_is_lost() {
    let directory = manifests(&[("app.yaml", &application("a", 1, ""))]);
    let disk = tempfile::tempdir().expect("a temporary directory");
    let mount = |arguments: &[&str]| {
        let output =
            std::process::Command::new("mount").args(arguments).arg(disk.path()).output().expect("mount starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    mount(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"]);
    let unmount = Unmount(disk.path().to_owned());
    let data = disk.path().join("data");
    let coracle = Coracle::up_on(directory.path(), &data, &[]).expect("there is room to start");
    let filler = disk.path().join("filler");
    let full = std::fs::write(&filler, vec![0_u8; 64 << 20]);
    assert!(full.is_err(), "the disk must be full now");
    let manifest = directory.path().join("big.json");
    let object = |n: usize| {
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("big-{n}")},
            "data": {"x": "x".repeat(400_000)}})
    };
    let mut acknowledged = Vec::new();
    let refusal = (0..200).find_map(|n| {
        std::fs::write(&manifest, object(n).to_string()).expect("another disk");
        let output = coracle.run(&["apply", "-f", manifest.to_str().expect("UTF-8")]);
        if output.status.success() {
            acknowledged.push(format!("big-{n}"));
            return None;
        }
        Some(String::from_utf8_lossy(&output.stderr).into_owned())
    });
    contains(&refusal.expect("a full disk refuses"), &["configmap/big-", "no space left", "state.db", "Free space"]);
    assert_eq!(crate::harness::get(coracle.gateway(), "/").expect("an answer").status, 200, "the data plane goes on");
    std::fs::remove_file(&filler).expect("room again");
    eventually("writes work again", || {
        let output = coracle.run(&["apply", "-f", manifest.to_str().expect("UTF-8")]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    drop(coracle);
    let again = Coracle::up_on(directory.path(), &data, &[]).expect("it starts again");
    let kept = again.ok(&["get", "configmaps", "-o", "name"]);
    for name in acknowledged {
        assert!(kept.contains(&name), "{name} was acknowledged and is gone: {kept}");
    }
    drop(again);
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
