//! Load at a fixed rate: callers that ask at times set beforehand, whether or not what was asked before has been answered.
//!
//! Each caller is a thread with one connection, which sleeps until its next request is due, as the runtime's clock is too coarse (a
//! millisecond) and would let requests start in pairs. A request that cannot be sent when it is due, as its connection still waits
//! for an answer, counts from when it was due. A caller that is woken late is not the party's fault, and is told apart.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::load::{self, Outcome};

/// How much is asked.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) callers: usize,
    /// Requests a second of all of them together.
    pub(crate) rate: usize,
    pub(crate) lasting: Duration,
}

/// What came of it.
pub(crate) struct Paced {
    pub(crate) outcome: Outcome,
    /// How many were asked.
    pub(crate) requests: usize,
    /// How late callers woke, in microseconds: of a hundred, the second worst.
    pub(crate) late: f64,
}

/// Nanoseconds of answers, and of the callers' own lateness.
type Times = (Vec<u32>, Vec<u32>);

/// Asks an address at a pace.
pub(crate) async fn run(address: SocketAddr, pace: Pace) -> Fallible<Paced> {
    tokio::task::spawn_blocking(move || run_threads(address, pace)).await?
}

fn run_threads(address: SocketAddr, pace: Pace) -> Fallible<Paced> {
    let started = Instant::now();
    let pause = Duration::from_secs_f64(pace.callers as f64 / pace.rate as f64);
    let mut callers = Vec::with_capacity(pace.callers);
    for number in 0..pace.callers {
        // One after the other, evenly.
        let begin = started + pause.mul_f64(number as f64 / pace.callers as f64);
        let caller = std::thread::Builder::new().name(format!("caller-{number}"));
        callers.push(caller.spawn(move || call(address, begin, started + pace.lasting, pause))?);
    }
    let (mut times, mut late) = (Vec::new(), Vec::new());
    for caller in callers {
        let part = caller.join().map_err(|_| "a caller broke down")??;
        times.extend(part.0);
        late.extend(part.1);
    }
    let requests = times.len();
    let outcome = load::outcome(times, started);
    Ok(Paced { outcome, requests, late: load::outcome(late, started).p99 })
}

/// Asks every so often over one connection.
fn call(address: SocketAddr, mut due: Instant, end: Instant, pause: Duration) -> Fallible<Times> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (request, mut buffer) = (load::request(0), vec![0; 128 * 1024]);
    let (mut times, mut late) = (Vec::new(), Vec::new());
    while due < end {
        let left = due.saturating_duration_since(Instant::now());
        let mut from = due;
        if !left.is_zero() {
            std::thread::sleep(left);
            from = Instant::now();
            late.push(load::nanos(from - due));
        }
        stream.write_all(&request)?;
        answer(&mut stream, &mut buffer)?;
        times.push(load::nanos(from.elapsed()));
        due += pause;
    }
    Ok((times, late))
}

/// Waits for a whole answer.
fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Fallible<()> {
    let mut filled = 0;
    let whole = loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Err("the connection was closed before the answer".into());
        }
        filled += read;
        if let Some(length) = load::whole(&buffer[..filled])? {
            break length;
        }
    };
    let mut left = whole.saturating_sub(filled);
    while left > 0 {
        let most = left.min(buffer.len());
        let read = stream.read(&mut buffer[..most])?;
        if read == 0 {
            return Err("the connection was closed in the middle of an answer".into());
        }
        left -= read;
    }
    Ok(())
}
