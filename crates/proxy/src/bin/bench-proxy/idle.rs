//! What connections cost that do nothing: each has asked once and waits.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Fallible;
use crate::parties::{Party, installed};

/// How long they are left alone before memory is looked at: what a party does for a connection that goes on waiting is done by then.
const SETTLED: Duration = Duration::from_secs(5);

/// Opens so many connections to each party in turn, so many a second or as fast as that goes, and prints how its memory grew.
pub(crate) async fn measure(parties: &[Party], connections: usize, rate: Option<usize>) -> Fallible<()> {
    raise_limit(std::process::id()).await?;
    let paced = rate.map_or(String::new(), |rate| format!(", opened {rate} a second"));
    println!("\n{connections} connections that have asked once and wait{paced}");
    println!("{:10} {:>12} {:>12} {:>18} {:>18}", "", "memory kB", "grew kB", "bytes a connection", "at once, kB");
    for party in parties {
        for id in party.processes()? {
            // Not ours to change where a process runs as another user; then its own limit has to do.
            let _ = raise_limit(id).await;
        }
        let before = party.memory()?;
        let mut open = Vec::with_capacity(connections);
        let start = Instant::now();
        for number in 0..connections {
            if let Some(rate) = rate {
                tokio::time::sleep_until(start + Duration::from_secs(1) * number as u32 / rate as u32).await;
            }
            let mut stream = TcpStream::connect(party.address).await?;
            stream.write_all(b"GET /bench HTTP/1.1\r\nhost: bench.test\r\n\r\n").await?;
            let mut head = [0; 512];
            if stream.read(&mut head).await? == 0 {
                return Err(format!("{} closed a connection", party.name).into());
            }
            open.push(stream);
        }
        let at_once = party.memory()?;
        tokio::time::sleep(SETTLED).await;
        let after = party.memory()?;
        let grew = after.saturating_sub(before);
        let each = grew * 1024 / connections as u64;
        println!("{:10} {after:>12} {grew:>12} {each:>18} {at_once:>18}", party.name);
    }
    Ok(())
}

/// Lets a process have as many open files as it may.
async fn raise_limit(process: u32) -> Fallible<()> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits"))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("no limit of open files")?;
    let hard = line.split_whitespace().nth(4).ok_or("no hard limit of open files")?;
    let program = installed("prlimit").ok_or("prlimit (util-linux) is needed to open so many connections")?;
    let (pid, limit) = (format!("--pid={process}"), format!("--nofile={hard}:{hard}"));
    let done = tokio::process::Command::new(program).args([pid, limit]).output().await?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("prlimit: {}", String::from_utf8_lossy(&done.stderr)).into()),
    }
}
