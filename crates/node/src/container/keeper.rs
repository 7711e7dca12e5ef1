//! The task that keeps one run of one container.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::ends::Ends;
use super::hooks::Reach;
use super::live::{Live, PIECES, Place, TRACES};
use super::prepare::{Prepared, mark, prepare};
use super::probing::{Attempt, Prober};
use super::process::Process;
use super::{Ended, Message, News, Setup, Stop};
use crate::context::Context;
use crate::leftovers::{self, View};
use crate::logs::{Capture, Source};
use crate::owners::Launcher;
use crate::probe::Kind;
use crate::recipe::Lease;
use crate::shim::{self, Order, Report, Stdin};

/// As upstream: no more of a container's last words is kept.
const LAST_WORDS: usize = 4096;
/// How long the last of the output may take to be written once the program is gone.
const REST: Duration = Duration::from_secs(5);

/// One run of one container, to be started.
pub(crate) struct Keeper {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub setup: Arc<Setup>,
    pub index: usize,
    /// Which run of this worker's.
    pub run: u64,
    /// How often the container was restarted before.
    pub instance: u32,
    /// Whether its probes mean anything: not for a container that is to end by itself.
    pub probed: bool,
    pub stop: watch::Receiver<Option<Stop>>,
    pub out: mpsc::Sender<Message>,
}

/// What a running program is kept with.
struct Course {
    process: Process,
    reach: Reach,
    id: String,
    started: Timestamp,
    capture: AbortOnDropHandle<()>,
    last_words: std::path::PathBuf,
    image_id: String,
    /// Where others find it, as long as it runs.
    place: Place,
    /// The marks of commands beside it of which something may be left.
    left: mpsc::Receiver<String>,
    /// What it sees, and all that belongs to it.
    view: Option<View>,
    /// Its program stays until nothing of it runs.
    _lease: Lease,
}

/// How far a run's end has got.
#[derive(Default)]
struct Farewell {
    begun: bool,
    /// What comes before SIGTERM, while it goes on.
    before: Option<Pending<()>>,
    kill_at: Option<Instant>,
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Keeper {
    /// Runs to the end of the run. Dropped midway, it takes the program along.
    pub(crate) async fn keep(self) {
        let last = match self.start().await {
            Ok(course) => News::Ended(self.follow(course).await),
            Err(news) => news,
        };
        self.tell(last).await;
    }

    async fn tell(&self, news: News) {
        // A worker that is gone has nothing to learn.
        let _ = self.out.send(Message { index: self.index, run: self.run, news }).await;
    }

    async fn start(&self) -> Result<Course, News> {
        let mut prepared =
            prepare(&self.context, &self.pod, &self.container, &self.setup).await.map_err(News::Refused)?;
        let name = &self.container.name;
        let events = &self.context.events;
        let image = self.container.image.as_deref().unwrap_or_default();
        events.normal(
            &self.pod,
            Some(name),
            "Pulled",
            format!("Image \"{image}\" is {} on this machine", prepared.image_id),
        );
        let directory = self.setup.directory.join(name);
        let refused = |e: std::io::Error| {
            let message = format!("can't start {}: {e}", self.context.settings.shim.display());
            News::Refused(super::Refused { reason: "CreateContainerError", message })
        };
        let wanted = |flag: Option<bool>| flag == Some(true);
        let mut ends = Ends::make(wanted(self.container.stdin), wanted(self.container.tty)).map_err(refused)?;
        prepared.config.stdin = ends.stdin.clone();
        let spawned = Process::spawn(&self.launcher(), &prepared.config).await;
        let (mut process, out, err) = spawned.map_err(refused)?;
        let (out, err) = ends.outputs(out, err).map_err(refused)?;
        remember(&directory, &process);
        events.normal(&self.pod, Some(name), "Created", format!("Created container: {name}"));
        let source = Source {
            namespace: self.pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            pod: self.pod.metadata.name.as_deref().unwrap_or_default().into(),
            container: name.as_str().into(),
        };
        let (output, _) = broadcast::channel(PIECES);
        let told = output.downgrade();
        let capture = Capture::begin(&self.context.logs, source, &directory, self.instance, output).await;
        let capture = AbortOnDropHandle::new(tokio::spawn(capture.run(out, err)));
        let began = match self.started(&mut process).await {
            Ok(began) => began,
            Err(why) => {
                process.finish().await;
                let _ = capture.await;
                return Err(News::Ended(self.failed(&why)));
            }
        };
        events.normal(&self.pod, Some(name), "Started", format!("Started container {name}"));
        ends.taken();
        Ok(self.course(process, prepared, began, capture, (ends, told)))
    }

    fn course(
        &self,
        process: Process,
        prepared: Prepared,
        (pid, view): (i32, Option<View>),
        capture: AbortOnDropHandle<()>,
        (ends, output): (Ends, broadcast::WeakSender<super::Piece>),
    ) -> Course {
        let Prepared { mut config, last_words, image_id, lease } = prepared;
        config.join = Some(pid);
        config.stdin = Stdin::Nothing;
        let reach = Reach {
            launcher: self.launcher(),
            config,
            container: self.container.clone(),
            ports: self.setup.ports.clone(),
            address: self.setup.address(),
            network: self.setup.sandbox.as_ref().map(|sandbox| sandbox.network().clone()),
        };
        let id = self.id();
        let meta = &self.pod.metadata;
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let (told, left) = mpsc::channel(TRACES);
        let mark = mark(&self.setup.directory.join(&self.container.name));
        let live = Live::new((reach.clone(), mark), self.setup.sandbox.clone(), ends, output, told);
        let place = self.context.running.enter(&of(&meta.namespace), &of(&meta.name), live);
        let started = Timestamp::now();
        Course { process, reach, id, started, capture, last_words, image_id, place, left, view, _lease: lease }
    }

    fn launcher(&self) -> Launcher {
        self.context.owners.launcher(self.context.settings.shim.clone(), &self.pod)
    }

    fn id(&self) -> String {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        format!("process://{uid}/{}/{}", self.container.name, self.instance)
    }

    /// Waits for its program to begin, and takes hold of what it sees.
    async fn started(&self, process: &mut Process) -> Result<(i32, Option<View>), String> {
        let mut stop = self.stop.clone();
        let mut view = None;
        loop {
            tokio::select! {
                report = process.next() => match report {
                    Some(Report::Started(pid)) => return Ok((pid, view.and_then(|view| View::of(pid, view)))),
                    Some(Report::View(number)) => view = Some(number),
                    Some(Report::Plain(why)) => self.tell(News::Plain(why)).await,
                    Some(Report::Failed(why)) => return Err(why),
                    Some(Report::Exited { .. }) | None => return Err("the shim ended before the program began".to_owned()),
                },
                Ok(()) = stop.changed() => process.order(Order::Kill).await,
            }
        }
    }

    fn failed(&self, why: &str) -> Ended {
        let now = Timestamp::now();
        let message = format!("failed to start container \"{}\": {why}", self.container.name);
        self.context.events.warning(&self.pod, Some(&self.container.name), "Failed", format!("Error: {message}"));
        Ended {
            code: 128,
            signal: None,
            reason: "StartError".to_owned(),
            message: Some(message),
            started: None,
            finished: now,
            id: self.id(),
        }
    }

    /// Follows a running program: its hooks, its probes, its end.
    async fn follow(&self, mut course: Course) -> Ended {
        let began = Instant::now();
        let image_id = course.image_id.clone();
        self.tell(News::Running { id: course.id.clone(), image_id, at: course.started }).await;
        let mut probes = JoinSet::new();
        let mut hook: Option<Pending<Result<(), String>>> = self.post_start(&course.reach);
        let mut stop = self.stop.clone();
        let mut end = Farewell::default();
        let mut clearing: Option<Pending<usize>> = None;
        if hook.is_none() {
            self.hooked(Ok(()), &course.reach, began, &mut probes).await;
        }
        let (code, signal) = loop {
            let deadline = end.kill_at.unwrap_or_else(Instant::now);
            tokio::select! {
                report = course.process.next() => match report {
                    Some(Report::Exited { code, signal }) => break (code, signal),
                    Some(Report::Failed(why)) => tracing::debug!(why, "the shim failed late"),
                    Some(_) => {}
                    // The shim itself was killed.
                    None => break (None, Some(9)),
                },
                Some(mark) = course.left.recv(), if clearing.is_none() => {
                    let mut marks = vec![mark];
                    marks.extend(std::iter::from_fn(|| course.left.try_recv().ok()));
                    clearing = Some(Box::pin(leftovers::kill_marked(marks)));
                }
                _ = pending(&mut clearing) => clearing = None,
                result = pending(&mut hook) => {
                    hook = None;
                    self.hooked(result, &course.reach, began, &mut probes).await;
                }
                Ok(()) = stop.changed() => {
                    let wanted = *stop.borrow_and_update();
                    if let Some(wanted) = wanted {
                        probes.shutdown().await;
                        self.stop(&mut end, wanted, &course.reach);
                    }
                }
                () = pending(&mut end.before) => {
                    end.before = None;
                    course.process.order(Order::Terminate).await;
                    end.kill_at = end.kill_at.map(|at| if at <= Instant::now() { self.last_chance() } else { at });
                }
                () = tokio::time::sleep_until(deadline), if end.kill_at.is_some() => {
                    let order = self.out_of_time(&mut end);
                    course.process.order(order).await;
                }
            }
        };
        probes.shutdown().await;
        self.ended(course, code, signal).await
    }

    fn post_start(&self, reach: &Reach) -> Option<Pending<Result<(), String>>> {
        let handler = self.container.lifecycle.as_ref()?.post_start.clone()?;
        let reach = reach.clone();
        // As upstream, it has no limit of its own: the container's end is its end.
        Some(Box::pin(async move { reach.hook(&handler, Duration::from_secs(24 * 3600)).await }))
    }

    async fn hooked(&self, result: Result<(), String>, reach: &Reach, began: Instant, probes: &mut JoinSet<()>) {
        let good = result.is_ok();
        self.tell(News::Hooked(result)).await;
        if good && self.probed {
            let (out, index, run) = (self.out.clone(), self.index, self.run);
            let reach = reach.clone();
            probes.spawn(async move { Box::pin(probe(&reach, began, out, index, run)).await });
        }
    }

    /// Takes an order to stop: the first begins the end, later ones can only make it come sooner.
    fn stop(&self, end: &mut Farewell, wanted: Stop, reach: &Reach) {
        end.kill_at = Some(end.kill_at.map_or(wanted.deadline, |at| at.min(wanted.deadline)));
        let limit = wanted.deadline.saturating_duration_since(Instant::now());
        if !std::mem::replace(&mut end.begun, true) && !limit.is_zero() {
            end.before = Some(self.before_end(reach, wanted, limit));
        }
    }

    /// What to do when patience has ended. A program that was not asked to end yet, because its preStop hook took all the time
    /// there was, is asked now, as upstream does.
    fn out_of_time(&self, end: &mut Farewell) -> Order {
        if end.before.take().is_none() {
            end.kill_at = None;
            return Order::Kill;
        }
        end.kill_at = Some(self.last_chance());
        if self.container.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()) {
            let message = "PreStopHook failed: it did not end within the grace period".to_owned();
            self.context.events.warning(&self.pod, Some(&self.container.name), "FailedPreStopHook", message);
        }
        Order::Terminate
    }

    /// Until when a program has time that is asked to end as late as now.
    fn last_chance(&self) -> Instant {
        Instant::now() + self.context.settings.after_hook
    }

    /// What comes before SIGTERM: the preStop hook, while traffic goes elsewhere.
    fn before_end(&self, reach: &Reach, stop: Stop, limit: Duration) -> Pending<()> {
        let handler = self.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let drains: Vec<_> = match stop.drain {
            Some(drain) => self.addresses().map(|address| self.context.traffic.drained(address, drain)).collect(),
            None => Vec::new(),
        };
        let (reach, context, pod) = (reach.clone(), Arc::clone(&self.context), Arc::clone(&self.pod));
        let drained = async move {
            let all = futures::future::join_all(drains);
            // The bound is kept here too, whatever the data plane does.
            let _ = tokio::time::timeout(stop.drain.unwrap_or_default(), all).await;
        };
        Box::pin(async move {
            let hook = async {
                let Some(handler) = handler else { return };
                if let Err(why) = reach.hook(&handler, limit).await {
                    let message = format!("PreStopHook failed: {why}");
                    context.events.warning(&pod, Some(&reach.container.name), "FailedPreStopHook", message);
                }
            };
            tokio::join!(hook, drained);
        })
    }

    /// Where this container may be reached.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let ports = self.container.ports.iter().flatten().filter_map(|p| u16::try_from(p.container_port).ok());
        let (setup, own) = (&self.setup, self.setup.sandbox.is_some());
        let reached = ports.filter_map(move |p| if own { Some(p) } else { setup.ports.get(&p).copied() });
        reached.map(|p| SocketAddr::new(self.setup.address(), p))
    }

    async fn ended(&self, course: Course, code: Option<i32>, signal: Option<i32>) -> Ended {
        // What was started beside it ends with it.
        drop(course.place);
        course.process.finish().await;
        // Where a shim was killed, what was below it may live on.
        leftovers::kill_container(&self.setup.directory.join(&self.container.name), course.view.as_ref()).await;
        let mut capture = course.capture;
        if tokio::time::timeout(REST, &mut capture).await.is_err() {
            capture.abort();
        }
        let code = code.unwrap_or(128 + signal.unwrap_or(9));
        Ended {
            code,
            signal,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: self.last_words(&course.last_words, code).await,
            started: Some(course.started),
            finished: Timestamp::now(),
            id: course.id,
        }
    }

    async fn last_words(&self, path: &Path, code: i32) -> Option<String> {
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LAST_WORDS)..]).into_owned();
        if !text.is_empty() {
            return Some(text);
        }
        let from_logs = self.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if code == 0 || !from_logs {
            return None;
        }
        self.context.logs.last_lines(&self.setup.directory.join(&self.container.name), 80, 2048).await
    }
}

/// Runs an optional future; without one, never resolves.
async fn pending<T>(future: &mut Option<Pending<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The startup probe to its success, then the others for good.
async fn probe(reach: &Reach, began: Instant, out: mpsc::Sender<Message>, index: usize, run: u64) {
    let send = |kind: Kind, attempt: Attempt| {
        let news = News::Probed { kind, failure: attempt.failure, verdict: attempt.verdict };
        let out = out.clone();
        async move { out.send(Message { index, run, news }).await.is_ok() }
    };
    if let Some(mut prober) = Prober::new(reach, Kind::Startup, began) {
        loop {
            let attempt = prober.next().await;
            let passed = attempt.verdict == Some(true);
            if !send(Kind::Startup, attempt).await {
                return;
            }
            if passed {
                break;
            }
        }
    }
    // Without a startup probe the others count from the start; with one, from its success.
    let began = if Kind::Startup.of(&reach.container).is_some() { Instant::now() } else { began };
    let forever = |kind: Kind| async move {
        let Some(mut prober) = Prober::new(reach, kind, began) else { return };
        while send(kind, prober.next().await).await {}
    };
    tokio::join!(forever(Kind::Readiness), forever(Kind::Liveness));
}

/// Writes down which process is the shim, so that a later life can find it.
fn remember(directory: &Path, process: &Process) {
    if let Some(shim) = process.id().and_then(shim::Process::of) {
        let _ = std::fs::write(directory.join("shim"), format!("{} {}", shim.pid, shim.started));
    }
}
