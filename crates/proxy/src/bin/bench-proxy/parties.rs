//! The processes that take part: a backend, our proxy, haproxy, nginx. Each ends when it is dropped.
//!
//! Every proxy is set up to do the same: keep connections to the backend, and say who asked and how.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Fallible;

/// The longest that a party may take to listen.
const START: Duration = Duration::from_secs(10);

/// How many clients haproxy may have. It wants two open files for each, and starts without them (`no strict-limits`) where the system does not
/// allow so many: clients that wait need one each.
const HAPROXY_CONNECTIONS: usize = 12_000;

/// Files of [`Site::directory`], where TLS is spoken: a certificate, its key, and both in one.
pub(crate) const CERTIFICATE: &str = "cert.pem";
pub(crate) const KEY: &str = "key.pem";
const BOTH: &str = "both.pem";

/// What is spoken with clients, and behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1 on both sides.
    Http1,
    /// HTTP/2 in clear, and HTTP/1.1 behind.
    Http2,
    /// HTTP/1.1 over TLS 1.3, and HTTP/1.1 in clear behind.
    Tls,
    /// gRPC: HTTP/2 in clear on both sides.
    Grpc,
}

impl Wire {
    pub(crate) const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Tls, Self::Grpc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Grpc => "grpc",
        }
    }

    pub(crate) fn parse(name: &str) -> Fallible<Self> {
        let found = Self::ALL.into_iter().find(|wire| wire.name() == name);
        found.ok_or_else(|| format!("{name} is none of http1, http2, tls and grpc").into())
    }
}

/// How our proxy is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As a gateway: it passes on.
    Gateway,
    /// As a hop between two services, with all that the mesh does on the way.
    Hop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Hop => "hop",
        }
    }

    pub(crate) fn parse(name: &str) -> Fallible<Self> {
        let found = [Self::Gateway, Self::Hop].into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("{name} is neither gateway nor hop").into())
    }
}

/// What a proxy is set up for.
pub(crate) struct Site<'a> {
    pub(crate) wire: Wire,
    /// Where requests go, with commas between. Only our proxy uses more than the first.
    pub(crate) backends: &'a str,
    /// Where its files are, and the certificate.
    pub(crate) directory: &'a Path,
}

/// A process that listens.
pub(crate) struct Party {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// All addresses at which it listens.
    pub(crate) addresses: String,
    /// What is said to it and what it says, where it is this program in another role.
    talk: Option<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    /// Ends the process when dropped.
    process: Child,
}

impl Site<'_> {
    fn backend(&self) -> &str {
        self.backends.split(',').next().unwrap_or_default()
    }
}

impl Party {
    /// Answers every request with so many bytes, at so many addresses.
    pub(crate) async fn backend(wire: Wire, body: usize, listeners: usize) -> Fallible<Self> {
        Self::own("backend", &["backend", wire.name(), &body.to_string(), &listeners.to_string()]).await
    }

    /// Our proxy.
    pub(crate) async fn coracle(site: &Site<'_>, kind: Kind, routes: usize) -> Fallible<Self> {
        let routes = routes.to_string();
        let directory = site.directory.to_str().ok_or("a directory whose name is text")?;
        Self::own("coracle", &["proxy", site.wire.name(), site.backends, kind.name(), &routes, directory]).await
    }

    /// Says a line to it, and brings back the line that it answers.
    pub(crate) async fn ask(&mut self, line: &str) -> Fallible<String> {
        let (words, answers) = self.talk.as_mut().ok_or("this party does not talk")?;
        words.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(answers.next_line().await?.ok_or("it ended instead of answering")?)
    }

    /// This program in another role; it says where it listens.
    async fn own(name: &'static str, arguments: &[&str]) -> Fallible<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("no output to read")?).lines();
        let line = tokio::time::timeout(START, lines.next_line()).await??;
        let addresses = line.ok_or_else(|| format!("{name} ended before it listened"))?;
        let address = addresses.split(',').next().unwrap_or_default().parse()?;
        let talk = process.stdin.take().map(|words| (words, lines));
        Ok(Self { name, address, addresses, talk, process })
    }

    /// haproxy, if it is installed.
    pub(crate) async fn haproxy(site: &Site<'_>) -> Fallible<Option<Self>> {
        let Some(program) = installed("haproxy") else { return Ok(None) };
        let address = free().await?;
        let file = site.directory.join("haproxy.cfg");
        let bind = match site.wire {
            Wire::Http1 => String::new(),
            Wire::Http2 | Wire::Grpc => "proto h2".to_owned(),
            Wire::Tls => format!("ssl crt {} alpn http/1.1", site.directory.join(BOTH).display()),
        };
        let server = if site.wire == Wire::Grpc { "proto h2" } else { "" };
        let backend = site.backend();
        let configuration = format!(
            "global\n  nbthread 2\n  no strict-limits\n  maxconn {HAPROXY_CONNECTIONS}\ndefaults\n  mode http\n  option forwardfor\n  http-reuse always\n  timeout connect 3s\n\
             \n  timeout client 60s\n  timeout server 60s\nfrontend in\n  bind {address} {bind}\n  unique-id-format %rt%pid\n\
             \n  unique-id-header x-request-id\n  http-request set-header x-forwarded-proto http\n  default_backend out\nbackend out\n  server one {backend} {server}\n"
        );
        std::fs::write(&file, configuration)?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file);
        Self::foreign("haproxy", address, command).await.map(Some)
    }

    /// nginx, if it is installed.
    pub(crate) async fn nginx(site: &Site<'_>) -> Fallible<Option<Self>> {
        let Some(program) = installed("nginx") else { return Ok(None) };
        let address = free().await?;
        let (directory, backend) = (site.directory, site.backend());
        let file = directory.join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", directory.display()))
            .collect();
        let path = |name: &str| directory.join(name).display().to_string();
        let listen = match site.wire {
            Wire::Http1 => format!("listen {address};"),
            Wire::Http2 | Wire::Grpc => format!("listen {address} http2;"),
            Wire::Tls => format!(
                "listen {address} ssl;\n  ssl_certificate {};\n  ssl_certificate_key {};",
                path(CERTIFICATE),
                path(KEY)
            ),
        };
        let (pass, set) = match site.wire {
            Wire::Grpc => ("grpc_pass grpc://out;", "grpc"),
            _ => {
                ("proxy_pass http://out;\n    proxy_http_version 1.1;\n    proxy_set_header connection \"\";", "proxy")
            }
        };
        let configuration = format!(
            "daemon off;\nworker_processes 2;\nerror_log stderr crit;\npid {}/nginx.pid;\nevents {{ worker_connections 19000; }}\n\
             http {{\n{temporary}  access_log off;\n  keepalive_requests 100000000;\n  upstream out {{ server {backend}; keepalive 256; keepalive_requests 100000000; }}\n\
             server {{\n  {listen}\n  location / {{\n    {pass}\n\
             {set}_set_header host $host;\n    {set}_set_header x-forwarded-for $remote_addr;\n    {set}_set_header x-forwarded-proto $scheme;\n\
             {set}_set_header x-request-id $request_id;\n  }} }}\n}}\n",
            directory.display()
        );
        std::fs::write(&file, configuration)?;
        let mut command = Command::new(program);
        command.arg("-p").arg(directory).arg("-e").arg("stderr").arg("-c").arg(&file);
        Self::foreign("nginx", address, command).await.map(Some)
    }

    async fn foreign(name: &'static str, address: SocketAddr, mut command: Command) -> Fallible<Self> {
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let listening = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(START, listening).await.map_err(|_| format!("{name} does not listen on {address}"))?;
        Ok(Self { name, address, addresses: address.to_string(), talk: None, process })
    }

    /// The process and those that it started.
    pub(crate) fn processes(&self) -> Fallible<Vec<u32>> {
        let root = self.process.id().ok_or_else(|| format!("{} has ended", self.name))?;
        let mut all = vec![root];
        if let Ok(children) = std::fs::read_to_string(format!("/proc/{root}/task/{root}/children")) {
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        Ok(all)
    }

    /// CPU time used so far by all threads, as the scheduler counts it.
    pub(crate) fn cpu(&self) -> Fallible<Duration> {
        self.processes()?.into_iter().map(cpu_of).sum()
    }

    /// How often its threads went to sleep so far, to wait for something.
    pub(crate) fn sleeps(&self) -> Fallible<u64> {
        let mut total = 0;
        for id in self.processes()? {
            for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
                let text = std::fs::read_to_string(thread?.path().join("status"))?;
                let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                total += line.unwrap_or("0").trim().parse::<u64>()?;
            }
        }
        Ok(total)
    }

    /// Resident memory in kB.
    pub(crate) fn memory(&self) -> Fallible<u64> {
        let mut total = 0;
        for id in self.processes()? {
            let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
            total += line.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(total)
    }
}

/// CPU time used so far by the threads that a process has.
fn cpu_of(id: u32) -> Fallible<Duration> {
    let mut total = 0;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        total += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

/// CPU time used so far by all threads that this process has and had.
pub(crate) fn own_cpu() -> Fallible<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, which may hold anything: state, 10 more, and the two counts, in hundredths of a second.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let counts: u64 = rest.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
    Ok(Duration::from_millis(counts * 10))
}

impl Drop for Party {
    fn drop(&mut self) {
        // A main process takes its own children along when asked, and would leave them behind when killed.
        let Some(id) = self.process.id() else { return };
        let asked = std::process::Command::new("kill").arg(id.to_string()).status();
        let until = Instant::now() + START;
        while asked.is_ok() && Instant::now() < until && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // What does not listen to that is killed with the handle.
    }
}

pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).collect::<Vec<_>>();
    places.push("/usr/sbin".into());
    places.into_iter().map(|place| place.join(program)).find(|program| program.is_file())
}

async fn free() -> Fallible<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

/// A directory of this run's own, gone when dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Fallible<Self> {
        let directory = std::env::temp_dir().join(format!("bench-proxy-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes the certificate. False where there is no openssl to make it.
pub(crate) fn certify(directory: &Path) -> Fallible<bool> {
    let Some(openssl) = installed("openssl") else { return Ok(false) };
    let made = std::process::Command::new(openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test"])
        .arg("-keyout")
        .arg(directory.join(KEY))
        .arg("-out")
        .arg(directory.join(CERTIFICATE))
        .output()?;
    if !made.status.success() {
        return Err(format!("openssl made no certificate: {}", String::from_utf8_lossy(&made.stderr)).into());
    }
    let read = |name: &str| std::fs::read(directory.join(name));
    std::fs::write(directory.join(BOTH), [read(CERTIFICATE)?, read(KEY)?].concat())?;
    Ok(true)
}
