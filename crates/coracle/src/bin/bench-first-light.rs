//! Measures what a newcomer feels: from the command to the first answer, and what an idle Coracle costs.
//!
//! `cargo build --release -p coracle && cargo run --release -p coracle --bin bench-first-light -- [DIRECTORY] [RUNS]`
//!
//! Each run is a new data directory and free ports; recipes are built before the first. "First 200" is asked for on a
//! connection of its own every two milliseconds from the moment of exec. Idle figures are of the last run: resident memory of
//! the process itself, the proportional share of its shims, and CPU over 30 s. Peers that are on the machine (k3s) are
//! measured in the same run; where there are none, that is said.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(600);
/// Time for start-up work to end before idling is measured.
const SETTLE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| "examples/shop".into()));
    let runs: usize = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let binary = std::env::current_exe()?.with_file_name("coracle");
    if !binary.is_file() {
        return Err(format!("{} is missing; build it first: cargo build --release -p coracle", binary.display()).into());
    }
    println!("{} up {}, {runs} runs after one that builds", binary.display(), directory.display());
    let mut answers = Vec::new();
    let mut readies = Vec::new();
    for run in 0..=runs {
        let mut instance = Instance::start(&binary, &directory)?;
        let answer = instance.first_answer()?;
        let ready = instance.ready()?;
        if run > 0 {
            answers.push(answer);
            readies.push(ready);
        }
        if run == runs {
            instance.idle()?;
        }
    }
    print("exec to first 200 through the gateway", &mut answers, "goal under 1000 ms");
    print("exec to everything ready", &mut readies, "");
    peers();
    Ok(())
}

fn print(what: &str, times: &mut [Duration], note: &str) {
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        let median = times[times.len() / 2];
        println!("{what}: min {:.0} ms, median {:.0} ms, max {:.0} ms  {note}", ms(*first), ms(median), ms(*last));
    }
}

struct Instance {
    child: Child,
    gateway: SocketAddr,
    began: Instant,
    data: PathBuf,
}

impl Instance {
    fn start(binary: &Path, directory: &Path) -> std::io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let data = std::env::temp_dir().join(format!("bench-first-light-{}-{port}", std::process::id()));
        let began = Instant::now();
        let child = Command::new(binary)
            .arg("up")
            .arg(directory)
            .args(["-o", "json", "--gateway-port", &port.to_string(), "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, gateway: (Ipv4Addr::LOCALHOST, port).into(), began, data })
    }

    fn first_answer(&mut self) -> Result<Duration, Box<dyn std::error::Error>> {
        while self.began.elapsed() < LIMIT {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("coracle up ended with {status} before it answered").into());
            }
            if answers(self.gateway) {
                return Ok(self.began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err("no answer in time".into())
    }

    fn ready(&mut self) -> Result<Duration, Box<dyn std::error::Error>> {
        let stdout = self.child.stdout.take().ok_or("stdout is piped once")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(self.began.elapsed())
    }

    fn idle(&self) -> std::io::Result<()> {
        std::thread::sleep(SETTLE);
        let pid = self.child.id();
        let before = cpu(pid)?;
        std::thread::sleep(IDLE);
        let used = cpu(pid)? - before;
        let shims = children(pid)?;
        let share: u64 = shims.iter().filter_map(|shim| kib(*shim, "smaps_rollup", "Pss:").ok()).sum();
        println!("idle, resident memory: {:.1} MB  goal under 50 MB", kib(pid, "status", "VmRSS:")? as f64 / 1024.0);
        println!("idle, {} shims together: {:.1} MB (proportional share)", shims.len(), share as f64 / 1024.0);
        println!("idle, CPU over 30 s: {:.3} % of a core  goal under 0.5 %", used / IDLE.as_secs_f64() * 100.0);
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(100))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// Seconds of CPU that a process has used, in user mode and in the kernel.
fn cpu(pid: u32) -> std::io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Linux counts these in hundredths of a second for every program.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

fn kib(pid: u32, file: &str, key: &str) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn children(pid: u32) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|n| n.parse::<u32>().ok()));
    }
    Ok(found)
}

fn peers() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["k3s", "k0s", "minikube", "nomad"]
        .into_iter()
        .filter(|name| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
        .collect::<Vec<_>>();
    if found.is_empty() {
        println!("peers: none of k3s, k0s, minikube, nomad is on this machine, so there is nothing to compare with");
    } else {
        println!("peers on this machine, not measured by this program: {}", found.join(", "));
    }
}
