//! Starting Coracle, talking to it, and waiting for conditions with a limit.
//!
//! Nothing here sleeps to let something happen: a wait asks again until the condition holds or the limit has passed.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take here before the test fails. Machines of tests are slow and shared.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The binary under test.
pub(crate) const CORACLE: &str = env!("CARGO_BIN_EXE_coracle");

/// What Coracle says when one of its own parts is refused by its own API. It fails the test.
const DENIED: &str = "a part of this program asks for more than its role allows";

/// The program of `examples/fixture.rs`, which `cargo test` builds beside the binary.
pub(crate) fn fixture() -> PathBuf {
    let path = Path::new(CORACLE).parent().expect("the binary is in a folder").join("examples/fixture");
    assert!(path.is_file(), "{} is missing; build it with `cargo build --example fixture`", path.display());
    path
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is two folders up")
}

/// A directory of manifests that is gone after the test, with a recipe for the image `fixture`.
pub(crate) fn manifests(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recipe = format!("images:\n  fixture:\n    command: [{:?}]\n", fixture());
    std::fs::write(directory.path().join("coracle.yaml"), recipe).expect("a writable directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("a writable directory");
    }
    directory
}

/// A running Coracle; ended (and its data deleted) when dropped.
pub(crate) struct Coracle {
    pub(crate) child: Child,
    pub(crate) ready: Value,
    data: Option<TempDir>,
    data_path: PathBuf,
    home: TempDir,
    /// The network namespace that it is in, where it is in one of its own.
    namespace: Option<String>,
    /// What a part of it asked for that its role does not allow.
    asked_for_more: Arc<Mutex<Option<String>>>,
    /// The last of what it said on stderr.
    words: Arc<Mutex<String>>,
}

/// A command of the binary, in an environment of its own.
fn command(home: &Path) -> Command {
    let mut command = Command::new(CORACLE);
    command.env("HOME", home).env_remove("XDG_STATE_HOME").env_remove("KUBECONFIG").env_remove("CORACLE_DATA");
    // Builds inside recipes need cargo's own home, whatever HOME says.
    if let Some(original) = std::env::var_os("HOME") {
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none() {
                command.env(name, Path::new(&original).join(folder));
            }
        }
    }
    command
}

impl Coracle {
    /// `coracle up DIRECTORY` with a data directory of its own; returns when it says it is ready.
    pub(crate) fn up(directory: &Path) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().to_owned();
        let mut this = Self::up_on(directory, &path, &[]).unwrap_or_else(|output| panic!("up failed:\n{output}"));
        this.data = Some(data);
        this
    }

    /// `coracle up DIRECTORY` on a data directory of the caller's. An end before it is ready is an error with its stderr.
    pub(crate) fn up_on(directory: &Path, data: &Path, more: &[&str]) -> Result<Self, String> {
        Self::up_as_written(directory, data, &[&["--gateway-port", "0"], more].concat())
    }

    /// The same, with Gateways on the ports that their manifests say.
    pub(crate) fn up_as_written(directory: &Path, data: &Path, more: &[&str]) -> Result<Self, String> {
        let directory = directory.to_str().expect("a path in UTF-8");
        Self::start(&[&["up", directory, "-o", "json"], more].concat(), data)
    }

    /// As [`Coracle::up_on`], with a point at which the process ends itself as `kill -9` would.
    pub(crate) fn up_until(directory: &Path, data: &Path, more: &[&str], fault: &str) -> Result<Self, String> {
        let directory = directory.to_str().expect("a path in UTF-8");
        let mut arguments = vec!["up", directory, "--gateway-port", "0", "-o", "json"];
        arguments.extend(more);
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut command = command(home.path());
        command.env("CORACLE_FAULT", fault);
        Self::launch(command, home, &arguments, data)
    }

    /// Runs a command that ends itself at a point as `kill -9` would; whether it came to that.
    pub(crate) fn ended_at(&self, fault: &str, arguments: &[&str]) -> bool {
        let mut command = command(self.home.path());
        command.env("CORACLE_FAULT", fault).args(arguments).arg("--data").arg(&self.data_path).stdin(Stdio::null());
        let status = command.output().expect("the binary starts").status;
        std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait_for_end(&mut self) {
        eventually("the process ends", || match self.child.try_wait().expect("a child to wait for") {
            Some(_) => Ok(()),
            None => Err("it runs".to_owned()),
        });
    }

    /// `coracle serve` with a data directory of its own.
    #[allow(dead_code, reason = "not every set of tests serves without manifests")]
    pub(crate) fn serve(more: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().to_owned();
        let mut arguments = vec!["serve", "--gateway-port", "0", "-o", "json"];
        arguments.extend(more);
        let mut this = Self::start(&arguments, &path).unwrap_or_else(|output| panic!("serve failed:\n{output}"));
        this.data = Some(data);
        this
    }

    /// `coracle up DIRECTORY` as an ordinary user, with copies of the programs that such a user may read. Needs root.
    pub(crate) fn up_as_nobody(directory: &Path, data: &Path) -> Self {
        let binary = directory.join("coracle-copy");
        std::fs::copy(CORACLE, &binary).expect("a copy");
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
        let home = tempfile::tempdir().expect("a temporary directory");
        setpriv.env("HOME", home.path());
        let directory = directory.to_str().expect("a path in UTF-8");
        let arguments = ["up", directory, "--gateway-port", "0", "-o", "json"];
        Self::launch(setpriv, home, &arguments, data).unwrap_or_else(|output| panic!("up failed:\n{output}"))
    }

    /// `coracle up DIRECTORY` in a network namespace. Needs root.
    pub(crate) fn up_in_namespace(
        namespace: &str,
        directory: &Path,
        data: &Path,
        more: &[&str],
    ) -> Result<Self, String> {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", namespace, CORACLE]);
        let home = tempfile::tempdir().expect("a temporary directory");
        ip.env("HOME", home.path());
        let directory = directory.to_str().expect("a path in UTF-8");
        let mut arguments = vec!["up", directory, "--gateway-port", "0", "-o", "json"];
        arguments.extend(more);
        let mut this = Self::launch(ip, home, &arguments, data)?;
        this.namespace = Some(namespace.to_owned());
        Ok(this)
    }

    fn start(arguments: &[&str], data: &Path) -> Result<Self, String> {
        let home = tempfile::tempdir().expect("a temporary directory");
        Self::launch(command(home.path()), home, arguments, data)
    }

    fn launch(mut command: Command, home: TempDir, arguments: &[&str], data: &Path) -> Result<Self, String> {
        let mut child = command
            .args(arguments)
            .arg("--data")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let (said, heard) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = said.send(lines.next().and_then(Result::ok));
            lines.for_each(drop);
        });
        let asked_for_more = Arc::new(Mutex::new(None));
        let denied = asked_for_more.clone();
        let words = Arc::new(Mutex::new(String::new()));
        let shared = words.clone();
        let errors = std::thread::spawn(move || {
            let mut kept = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                if std::env::var_os("CORACLE_TEST_SHOW").is_some() {
                    let _ = std::io::stderr().write_all(&buffer[..count]);
                }
                kept.extend_from_slice(&buffer[..count]);
                kept.drain(..kept.len().saturating_sub(64 * 1024));
                *shared.lock().expect("nobody panics with it") = String::from_utf8_lossy(&kept).into_owned();
                if let Some(at) = String::from_utf8_lossy(&kept).find(DENIED) {
                    let line = String::from_utf8_lossy(&kept)[at..].lines().next().map(str::to_owned);
                    *denied.lock().expect("nobody panics with it") = line;
                }
            }
            String::from_utf8_lossy(&kept).into_owned()
        });
        // A first build of a recipe may take minutes.
        match heard.recv_timeout(Duration::from_secs(900)) {
            Ok(Some(line)) => {
                let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("stdout is {line:?}: {e}"));
                let data_path = data.to_owned();
                Ok(Self { child, ready, data: None, data_path, home, namespace: None, asked_for_more, words })
            }
            Ok(None) => {
                let status = child.wait().expect("a child to wait for");
                Err(format!("{status}\n{}", errors.join().unwrap_or_default()))
            }
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("not ready in time\n{}", errors.join().unwrap_or_default()))
            }
        }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data_path
    }

    pub(crate) fn kubeconfig(&self) -> &str {
        self.ready["kubeconfig"].as_str().expect("the ready line names the kubeconfig")
    }

    /// The gateway's address.
    pub(crate) fn gateway(&self) -> SocketAddr {
        let url = self.ready["gateway"].as_str().expect("the ready line names the gateway");
        url.trim_start_matches("http://").parse().expect("an address")
    }

    /// Waits until it has said this on stderr.
    pub(crate) fn says(&self, what: &str) {
        eventually(&format!("it says {what:?}"), || {
            let words = self.words.lock().expect("nobody panics with it");
            if words.contains(what) { Ok(()) } else { Err(words.clone()) }
        });
    }

    /// Runs a command of the binary against this instance; its output, whatever its exit code.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = command(self.home.path());
        if let Some(namespace) = &self.namespace {
            command = Command::new("ip");
            command.args(["netns", "exec", namespace, CORACLE]).env("HOME", self.home.path());
        }
        command.args(arguments).arg("--data").arg(&self.data_path).stdin(Stdio::null());
        command.output().expect("the binary starts")
    }

    /// The same, which must succeed; its stdout.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "coracle {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The objects of a kind as JSON.
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[&["get"], arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits until a Pod that asks something has ended well; what it wrote.
    #[allow(dead_code, reason = "not every set of tests has Pods that ask")]
    pub(crate) fn told_by(&self, pod: &str, namespace: &str) -> String {
        let log = || self.ok(&["logs", pod, "-n", namespace]);
        eventually("the Pod has asked", || match self.get(&[&format!("pod/{pod}"), "-n", namespace])["status"]["phase"]
            .as_str()
        {
            Some("Succeeded") => Ok(log()),
            Some("Failed") => panic!("{}", log()),
            other => Err(format!("{other:?}")),
        })
    }

    /// Runs kubectl against this instance.
    #[allow(dead_code, reason = "only tests that need kubectl use it")]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.home.path());
        kubectl.stdin(Stdio::null()).output().expect("kubectl starts; is it installed?")
    }

    /// Sends a signal and waits for the end; the exit code, or None where a signal ended it.
    pub(crate) fn end(&mut self, signal: nix::sys::signal::Signal) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("the process is ours");
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().expect("a child to wait for");
            status.map(drop).ok_or_else(|| "it runs".to_owned())
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Coracle {
    fn drop(&mut self) {
        // Its shims see the end and take everything with them.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let denied = self.asked_for_more.lock().map_or(None, |mut denied| denied.take());
        if let (Some(line), false) = (denied, std::thread::panicking()) {
            panic!("{line}; a role in crates/rules/src/rbac/bootstrap/parts.rs lacks it, or the part should not ask");
        }
    }
}

/// Asks until it holds; panics with the last reason after [`LIMIT`].
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match check() {
            Ok(value) => return value,
            Err(reason) if Instant::now() > deadline => panic!("{what}: not so after {LIMIT:?}: {reason}"),
            // The pause between two looks, not a wait for something to have happened.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One GET on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    request(address, "GET", path, "")
}

/// One request on a connection of its own.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n\
         idempotency-key: {}\r\ncontent-length: {}\r\n\r\n{body}",
        unique(),
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push_str(&line);
        line.clear();
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no answer but {head:?}")))?;
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        read_chunks(&mut reader, &mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        std::io::copy(&mut reader.take(size), body)?;
        line.clear();
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// A port that nobody comes by who asks for any: what a manifest says cannot be left to the system.
pub(crate) fn port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let seed = std::process::id().wrapping_mul(41).wrapping_add(number).wrapping_mul(0x9E37_79B1);
        // Below those that the system gives out.
        let port = 12_000 + u16::try_from((seed >> 8) % 20_000).expect("small");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A name that no other in this run has.
pub(crate) fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
