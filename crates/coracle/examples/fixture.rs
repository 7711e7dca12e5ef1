//! A program that misbehaves on request, for the system tests. Standard library only.
//!
//! It serves HTTP/1.1 on `PORT`, or on any free port where none is given. `START_DELAY_MS` delays listening. Paths:
//! `/` name of the Pod · `/count` a counter in memory · `/env?NAME` a variable · `/slow?MS` answers later ·
//! `/hang` from now on nothing is answered · `/unready` and `/ready-again` turn `/readyz` to 503 and back ·
//! `/fail?STATUS` from now on all else is answered so, and `/heal` ends that · `/order?MS` keeps an order under the request's
//! Idempotency-Key, and answers later if it is new · `/orders` how many there are, and how often was asked ·
//! `/caller` who the mesh says is calling · `/exit?CODE` ends the program · `/healthz`, `/readyz` · `/via?SERVICE/REST` answers what that Service answers to `/REST`, which it
//! is asked with the trace's headers passed on (`/via-id?...`: only the request's id; `/slow-via?MS/...` and `/slow-via-id?MS/...`: after so long). With the argument `exit CODE` it prints a line and ends.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static HUNG: AtomicBool = AtomicBool::new(false);
static UNREADY: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static FAIL: AtomicU64 = AtomicU64::new(0);
static ORDERS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, code] = arguments.as_slice()
        && word == "exit"
    {
        println!("fixture: ending with {code} as told");
        std::process::exit(code.parse().unwrap_or(1));
    }
    println!("fixture: starting with {arguments:?}");
    if let Ok(delay) = variable("START_DELAY_MS").parse() {
        std::thread::sleep(Duration::from_millis(delay));
    }
    let port: u16 = variable("PORT").parse().unwrap_or(0);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("fixture: listening on {port}");
    for stream in listener.incoming() {
        std::thread::spawn(move || stream.and_then(serve));
    }
    Ok(())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut length, mut headers) = (0, Vec::new());
        let (mut caller, mut key) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if TRACE.iter().any(|name| line.to_ascii_lowercase().starts_with(name)) {
                headers.push(line.clone());
            }
            if line.to_ascii_lowercase().starts_with(CALLER) {
                caller = line[CALLER.len()..].trim().to_owned();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("idempotency-key:") {
                key = value.trim().to_owned();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        std::io::copy(&mut std::io::Read::take(&mut reader, length), &mut std::io::sink())?;
        while HUNG.load(Ordering::SeqCst) {
            std::thread::park();
        }
        let target = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (path, query) = late(path, query);
        let (status, body) = match path {
            "/via" => call(query, &headers.concat())?,
            "/via-id" => {
                call(query, &headers.into_iter().filter(|line| line.starts_with("x-request")).collect::<String>())?
            }
            "/caller" => (200, caller),
            "/order" => order(key, query),
            _ => answer(path, query),
        };
        write!(
            writer,
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nx-pod: {}\r\n\r\n{body}",
            body.len(),
            variable("HOSTNAME")
        )?;
    }
}

/// The headers that a program passes on, so that what it causes is seen as its doing.
const TRACE: [&str; 3] = ["traceparent:", "tracestate:", "x-request-id:"];

/// The header by which the mesh tells who calls.
const CALLER: &str = "x-forwarded-client-cert:";

/// `/slow-via?MS/REST` is `/via?REST`, after so long.
fn late<'a>(path: &'a str, query: &'a str) -> (&'a str, &'a str) {
    let Some((pause, rest)) = query.split_once('/').filter(|_| path.starts_with("/slow-via")) else {
        return (path, query);
    };
    std::thread::sleep(Duration::from_millis(pause.parse().unwrap_or(0)));
    (if path.ends_with("-id") { "/via-id" } else { "/via" }, rest)
}

/// Asks a Service, which Kubernetes' variables tell the address of.
fn call(target: &str, headers: &str) -> std::io::Result<(u16, String)> {
    let (service, rest) = target.split_once('/').unwrap_or((target, ""));
    let prefix = service.to_ascii_uppercase().replace('-', "_");
    let host = variable(&format!("{prefix}_SERVICE_HOST"));
    let port = variable(&format!("{prefix}_SERVICE_PORT"));
    let Ok(mut stream) = TcpStream::connect(format!("{host}:{port}")) else {
        return Ok((502, format!("cannot connect to {service} at {host}:{port}")));
    };
    let mut answer = String::new();
    let asked = write!(stream, "GET /{rest} HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\n{headers}\r\n")
        .and_then(|()| std::io::Read::read_to_string(&mut stream, &mut answer));
    if asked.is_err() || answer.is_empty() {
        return Ok((502, format!("no answer from {service}: {asked:?}")));
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(502);
    Ok((status, body.to_owned()))
}

/// Keeps an order once, however often it comes.
fn order(key: String, delay: &str) -> (u16, String) {
    COUNT.fetch_add(1, Ordering::SeqCst);
    let new = ORDERS.lock().is_ok_and(|mut orders| orders.insert(key.clone()));
    if new {
        std::thread::sleep(Duration::from_millis(delay.parse().unwrap_or(0)));
    }
    (200, key)
}

fn answer(path: &str, query: &str) -> (u16, String) {
    let failing = FAIL.load(Ordering::SeqCst);
    if failing > 0 && !["/heal", "/healthz", "/readyz"].contains(&path) {
        COUNT.fetch_add(1, Ordering::SeqCst);
        return (u16::try_from(failing).unwrap_or(500), "as told".into());
    }
    match path {
        "/fail" => {
            FAIL.store(query.parse().unwrap_or(500), Ordering::SeqCst);
            (200, "from now on failing".into())
        }
        "/heal" => {
            FAIL.store(0, Ordering::SeqCst);
            (200, COUNT.load(Ordering::SeqCst).to_string())
        }
        "/orders" => {
            let orders = ORDERS.lock().map_or(0, |orders| orders.len());
            (200, format!("{orders} {}", COUNT.load(Ordering::SeqCst)))
        }
        "/count" => (200, COUNT.fetch_add(1, Ordering::SeqCst).to_string()),
        "/env" => (200, variable(query)),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(query.parse().unwrap_or(0)));
            (200, "slow".into())
        }
        "/hang" => {
            HUNG.store(true, Ordering::SeqCst);
            (200, "from now on silent".into())
        }
        "/unready" => {
            UNREADY.store(true, Ordering::SeqCst);
            (200, "from now on unready".into())
        }
        "/ready-again" => {
            UNREADY.store(false, Ordering::SeqCst);
            (200, "ready again".into())
        }
        "/exit" => std::process::exit(query.parse().unwrap_or(1)),
        "/readyz" if UNREADY.load(Ordering::SeqCst) => (503, "unready".into()),
        "/healthz" | "/readyz" => (200, "ok".into()),
        _ => (200, variable("HOSTNAME")),
    }
}
