//! The threads that serve clients' connections. Each has a runtime of its own, and a connection stays on one for its life,
//! with the connections to endpoints that its requests use: nothing on the path of a request wakes another thread.
//!
//! Invariants: a thread ends with its owner, and what is parked on it too, and with nothing else; a connection goes to the thread that carries the fewest. Where
//! there are no threads (none are wanted, or none can be started) connections are served by the runtime that accepts them, and none is parked.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::parked::{self, Lot, Parked};

/// How long a thread may take to end once it carries nothing. It then only lets go of what it has.
const LAST: Duration = Duration::from_secs(5);

thread_local! {
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the thread that this is, from zero; zero as well on threads that are none of these.
pub(crate) fn here() -> usize {
    HERE.get().unwrap_or(0)
}

/// Serves connections on the threads of a [`Threads`].
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    carries: Arc<AtomicUsize>,
    parking: parked::Way,
}

/// One connection of those that a thread carries; it counts until this is dropped.
pub(crate) struct Carried(Arc<AtomicUsize>);

impl Carried {
    fn by(worker: &Worker) -> Self {
        worker.carries.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&worker.carries))
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Serves a connection on one of the threads, as one of `tasks`. It is of those that the thread carries for as long as what `serve`
    /// is given.
    pub(crate) fn serve<F>(
        &self,
        tasks: &TaskTracker,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream, Option<Carried>) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.carries.load(Ordering::Relaxed)) else {
            tasks.spawn(serve(stream, None));
            return Ok(());
        };
        let (carried, stream) = (Carried::by(worker), stream.into_std()?);
        let served = async move {
            // From now on it is that thread which hears of the socket.
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream, Some(carried)).await,
                Err(error) => tracing::debug!(%error, "a client's connection ended before it was served"),
            }
        };
        tasks.spawn_on(served, &worker.runtime);
        Ok(())
    }

    /// A place to park a connection of this thread, if there is one.
    pub(crate) fn place(&self) -> Option<mpsc::OwnedPermit<Parked>> {
        self.here()?.parking.place()
    }

    /// Whether connections of this thread are parked at all.
    pub(crate) fn parks(&self) -> bool {
        self.here().is_some_and(|worker| worker.parking.is_open())
    }

    fn here(&self) -> Option<&Worker> {
        self.0.get(HERE.get()?)
    }

    /// How many connections are parked.
    pub(crate) fn parked(&self) -> usize {
        self.0.iter().map(|worker| worker.parking.parked()).sum()
    }
}

/// Owns the threads, and ends them when it is dropped.
pub(crate) struct Threads {
    stop: CancellationToken,
    running: Vec<(std::thread::JoinHandle<()>, oneshot::Receiver<()>)>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts so many threads, which look for answers for so long ([`crate::glance`]). Where one cannot be started, there are fewer.
pub(crate) fn start(wanted: usize, glance: Duration) -> (Threads, Workers) {
    let stop = CancellationToken::new();
    let started = numbered(wanted, |number| start_one(number, glance, stop.clone()));
    let (workers, running) = started.into_iter().unzip();
    (Threads { stop, running }, Workers(workers))
}

/// Starts so many, each with its number, which is its place among those that did start.
fn numbered<T>(wanted: usize, mut start: impl FnMut(usize) -> io::Result<T>) -> Vec<T> {
    let mut started = Vec::with_capacity(wanted);
    for _ in 0..wanted {
        let number = started.len();
        match start(number) {
            Ok(one) => started.push(one),
            Err(error) => tracing::warn!(%error, number, wanted, "a thread for connections cannot be started"),
        }
    }
    started
}

type Running = (std::thread::JoinHandle<()>, oneshot::Receiver<()>);

fn start_one(number: usize, glance: Duration, stop: CancellationToken) -> io::Result<(Worker, Running)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (parking, ground) = parked::way();
    let worker = Worker { runtime: runtime.handle().clone(), carries: Arc::default(), parking };
    let (tell, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("proxy-{number}")).spawn(move || {
        HERE.set(Some(number));
        crate::glance::allow(glance);
        run(runtime, &stop, ground);
        // Nobody may wait for it.
        let _ = tell.send(());
    })?;
    Ok((worker, (thread, ended)))
}

fn run(runtime: Runtime, stop: &CancellationToken, ground: parked::Ground) {
    runtime.block_on(async {
        // A task of its own, which ends with the runtime: connections are served without it.
        let lot = Lot::open(ground).map(|lot| tokio::spawn(lot.attend()));
        match lot {
            Ok(lot) => {
                if let Some(Err(error)) = stop.run_until_cancelled(lot).await {
                    tracing::error!(%error, "connections of a thread are parked no more, and those that were are closed");
                }
            }
            Err(error) => tracing::warn!(%error, "connections that wait are not parked"),
        }
        stop.cancelled().await;
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
}

impl Threads {
    /// Ends the threads, and what they still carry with them.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        for (thread, ended) in std::mem::take(&mut self.running) {
            // An error means that it has ended already.
            if tokio::time::timeout(LAST, ended).await.is_err() {
                tracing::warn!("a thread for connections does not end");
            } else if thread.join().is_err() {
                tracing::warn!("a thread for connections broke down");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::net::TcpListener;

    use super::*;

    async fn accepted() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        (listener.accept().await.expect("a connection").0, client)
    }

    #[test]
    fn the_number_of_a_thread_is_its_place_among_those_that_started() {
        let mut asked = Vec::new();
        let started = numbered(4, |number| {
            asked.push(number);
            if asked.len() == 2 { Err(io::Error::other("no more memory")) } else { Ok(number) }
        });
        assert_eq!((started, asked), (vec![0, 1, 2], vec![0, 1, 1, 2]));
    }

    #[tokio::test]
    async fn connections_spread_over_threads_and_stay_there() {
        let (threads, workers) = start(3, Duration::ZERO);
        let (tasks, mut places, mut clients) = (TaskTracker::new(), HashSet::new(), Vec::new());
        for _ in 0..3 {
            let (stream, client) = accepted().await;
            let (tell, told) = oneshot::channel();
            let serve = |stream: TcpStream, carried| async move {
                let _ = tell.send((here(), std::thread::current().id()));
                // Until the client goes.
                let _ = stream.readable().await;
                drop(carried);
            };
            workers.serve(&tasks, stream, serve).expect("served");
            places.insert(told.await.expect("a place"));
            clients.push(client);
        }
        assert_eq!(places.len(), 3, "{places:?}");
        assert!(places.iter().all(|(_, thread)| *thread != std::thread::current().id()));
        drop(clients);
        tasks.close();
        tokio::time::timeout(Duration::from_secs(60), tasks.wait()).await.expect("the sockets are heard of");
        tokio::time::timeout(Duration::from_secs(60), threads.end()).await.expect("the threads end");
    }

    #[tokio::test]
    async fn without_threads_the_own_runtime_serves() {
        let (threads, workers) = start(0, Duration::ZERO);
        let (stream, _client) = accepted().await;
        let (tell, told) = oneshot::channel();
        let tasks = TaskTracker::new();
        let serve = |_, _| async move { tell.send(std::thread::current().id()).expect("somebody waits") };
        workers.serve(&tasks, stream, serve).expect("served");
        assert_eq!(told.await.expect("served"), std::thread::current().id());
        threads.end().await;
    }

    #[tokio::test]
    async fn what_a_thread_still_carries_ends_with_it() {
        let (threads, workers) = start(1, Duration::ZERO);
        let (stream, _client) = accepted().await;
        let tasks = TaskTracker::new();
        workers.serve(&tasks, stream, |_, _| std::future::pending()).expect("served");
        threads.end().await;
        tasks.close();
        tokio::time::timeout(Duration::from_secs(60), tasks.wait()).await.expect("dropped with its runtime");
    }
}
