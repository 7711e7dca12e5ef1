//! One connection: a request is read, answered, and its answer written, then the next one.
//!
//! What clients see is what hyper shows them: a client that ends its side before it has the whole answer takes its request along;
//! requests that were sent ahead wait, unread but for the first bytes of them; the time that a head may take counts from its first byte, and
//! that of which nothing has come from the end of the answer before it; a connection whose listener drains ends with the answer that is under way.
//!
//! Invariants: between two requests there is no buffer; while an answer is made, no more is read ahead than once; what is not ours
//! goes back whole.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response, request as asked};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFuture;

use super::answer::{self, Framing, Size, To};
use super::direct::{self, Passed, Passing};
use super::form::{Landed, Lines, Written};
use super::head::{self, Limits, Look, look, may_be_whole};
use super::outlet::Outlet;
use crate::config::Settings;
use crate::connection::{Broken, Ended};
use crate::deadline;
use crate::incoming::Incoming;
use crate::landing;
use crate::listen::Life;
use crate::observe::Seen;
use crate::parked::Park;
use crate::patience::{Patience, first_look, next_look};
use crate::request::{self, Caller};

/// Serves a client until its connection ends, has it served `otherwise` from what it sends on that is not ours, or has it parked where it waits.
/// `since` is when the head that is awaited began to come, or to be awaited, here and there.
///
/// What is made here is held for as long as the connection lasts: what a request needs beyond it is in boxes that go with the request.
pub(crate) fn serve<S, F>(
    mut caller: Arc<Caller>,
    (read, stream): (Bytes, S),
    mut since: std::time::Instant,
    otherwise: impl FnOnce(Arc<Caller>, Bytes, std::time::Instant, S) -> Pin<Box<F>>,
    park: Option<Park<S>>,
) -> impl Future<Output = Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Ended>,
{
    let mut line = Line { stream, read };
    let park = park.filter(|_| caller.shared.settings.park.is_some() && caller.shared.workers.parks());
    async move {
        loop {
            let left = 'served: {
                let (settings, life) = (&caller.shared.settings, &*caller.slot.life);
                let limits = Limits { headers: settings.max_headers, bytes: settings.max_head_bytes };
                let limit = settings.header_timeout;
                let tick = tick(settings, park.is_some());
                let due = Instant::from_std(since) + limit;
                let clock = pin!(tokio::time::sleep_until(first_look(tick, Some(due))));
                let ending = pin!(life.draining());
                let parks = park.is_some();
                let mut watch = Watch::new((life, ending), (clock, tick), (limit, due), parks);
                let mut patience = Patience::default();
                let mut first = true;
                loop {
                    // What has come of the first one was awaited before.
                    if !std::mem::take(&mut first) {
                        watch.awaits();
                    }
                    let kept = match line.head(&caller, limits, &mut watch).await? {
                        Next::Ours(asked) => {
                            let (answer, to) = answering(&caller, asked);
                            line.answer(answer, &mut watch, |response, life| Writing::of(response, to, life)).await?
                        }
                        Next::Direct(passing, last) => {
                            let (to, form) = (To { head: passing.is_head(), last }, Lines::new(life, last));
                            if passing.meets_policy() {
                                let answer = Box::pin(direct::pass_by_policy(&caller, passing, &mut patience, form));
                                line.answer(answer, &mut watch, |passed, life| Writing::passed(passed, to, life))
                                    .await?
                            } else {
                                let answer = Box::pin(direct::pass(&caller, passing, &mut patience, form));
                                line.answer(answer, &mut watch, |passed, life| Writing::passed(passed, to, life))
                                    .await?
                            }
                        }
                        Next::Other => break 'served Left::Other(watch.since()),
                        Next::Rest => break 'served Left::Waits(watch.since()),
                        Next::End => break,
                        Next::Cut => return Ok(()),
                    };
                    match kept {
                        Some(true) => {}
                        Some(false) => break,
                        None => return Ok(()),
                    }
                }
                return Ok(line.end(&mut watch).await?);
            };
            match (left, park) {
                (Left::Other(since), _) => return otherwise(caller, line.read, since, line.stream).await,
                (Left::Waits(from), Some(park)) => match park(line.stream, caller, from)? {
                    None => return Ok(()),
                    Some(back) => ((line.stream, caller), since) = (back, from),
                },
                (Left::Waits(from), None) => since = from,
            }
        }
    }
}

/// How often the clock looks: at least twice in the time that a client has, and as often as it takes to have one parked.
fn tick(settings: &Settings, parks: bool) -> Duration {
    let half = half(settings.header_timeout);
    settings.park.filter(|_| parks).map_or(half, |pause| pause.min(half).max(LEAST))
}

/// The least time between two looks at the clock.
const LEAST: Duration = Duration::from_millis(1);

/// Half of a limit, within which the clock comes round twice.
fn half(limit: Duration) -> Duration {
    (limit / 2).max(LEAST)
}

/// What is left of a connection that is not over, and served no further here.
enum Left {
    /// What is not ours, of which the head began to come then.
    Other(std::time::Instant),
    /// Nothing to do, since then.
    Waits(std::time::Instant),
}

/// What answers a request, and what the answer needs to know of it.
fn answering(caller: &Arc<Caller>, asked: Box<Asked>) -> (Pin<Box<impl Future<Output = Response<Seen>>>>, To) {
    let Asked { parts, last } = *asked;
    let to = To { head: parts.method == Method::HEAD, last };
    (Box::pin(request::answered(caller, parts, Incoming::Nothing)), to)
}

/// What comes next on a connection.
enum Next {
    Ours(Box<Asked>),
    /// One of ours that is passed on as it came, and whether the client wants the connection to end with the answer.
    Direct(Box<Passing>, bool),
    Other,
    /// Nothing for the time being.
    Rest,
    /// Nothing: it is over.
    End,
    /// It is over, and nothing is owed to anybody.
    Cut,
}

/// A request of ours.
struct Asked {
    parts: asked::Parts,
    /// Whether the client wants the connection to end with the answer.
    last: bool,
}

/// What the first bytes that were read lead to; of a request, with where its head ends.
fn begin(caller: &Arc<Caller>, bytes: &[u8], all: impl Fn() -> Bytes, limits: Limits) -> Option<(Next, usize)> {
    let mut room = head::room();
    match look(bytes, limits, &mut room) {
        Look::Partial => None,
        Look::Other => Some((Next::Other, 0)),
        Look::Ours(plain) => Some(match Landed::of(&plain, &all).and_then(|landed| direct::begin(caller, &landed)) {
            Some(passing) => (Next::Direct(passing, plain.last), plain.end),
            None => match plain.parts(&all()) {
                Some(parts) => (Next::Ours(Box::new(Asked { parts, last: plain.last })), plain.end),
                None => (Next::Other, 0),
            },
        }),
    }
}

/// What ends a connection from without: its listener, and time.
struct Watch<'a, 'l> {
    life: &'l Life,
    /// The next that is to come of the listener's end: that it drains, and then that it ends by force.
    ending: Pin<&'a mut WaitForCancellationFuture<'l>>,
    /// Wakes every so often; it spares a registration for every request.
    clock: Pin<&'a mut Sleep>,
    tick: Duration,
    /// How long the client may take for what is awaited of it, when that ends, and how much of it the clock has seen go by.
    limit: Duration,
    due: Instant,
    spent: Spent,
    /// Whether it is the client that has to do something; the clock has time while it is not.
    awaiting: bool,
    /// Whether a client that takes long is let be.
    parks: bool,
    registered: bool,
    finishing: bool,
}

/// How much of its time a client has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spent {
    Little,
    /// As long as the clock takes to come round.
    ATick,
    All,
}

/// How much has gone by of so long a time, which ends when it is due.
fn spent(now: Instant, due: Instant, limit: Duration, tick: Duration) -> Spent {
    if due <= now {
        Spent::All
    } else if due - limit + tick <= now {
        Spent::ATick
    } else {
        Spent::Little
    }
}

impl<'a, 'l> Watch<'a, 'l> {
    /// One that awaits something of the client, which may be due already.
    fn new(
        (life, ending): (&'l Life, Pin<&'a mut WaitForCancellationFuture<'l>>),
        (clock, tick): (Pin<&'a mut Sleep>, Duration),
        (limit, due): (Duration, Instant),
        parks: bool,
    ) -> Self {
        let (spent, awaiting, registered, finishing) = (Spent::Little, true, false, false);
        Self { life, ending, clock, tick, limit, due, spent, awaiting, parks, registered, finishing }
    }

    /// Whether the connection must end at once. Wakes the task when anything changes.
    fn forced(&mut self, cx: &mut Context<'_>) -> bool {
        let first = !std::mem::replace(&mut self.registered, true);
        // Looked at once to be woken, and then only when there is something to see: this runs several times a request.
        if first || self.clock.is_elapsed() {
            while self.clock.as_mut().poll(cx).is_ready() {
                self.spent = spent(Instant::now(), self.due, self.limit, self.tick);
                let look = if self.awaiting { (self.tick, Some(self.due)) } else { (half(self.limit), None) };
                self.clock.as_mut().reset(next_look(look.0, look.1));
            }
        }
        if first || self.life.changed() {
            if !self.finishing && self.ending.as_mut().poll(cx).is_ready() {
                self.finishing = true;
                self.ending.set(self.life.forced());
            }
            return self.finishing && self.ending.as_mut().poll(cx).is_ready();
        }
        false
    }

    /// Something is awaited of the client from now on. As the clock wakes more often than that ends, it is told in time.
    fn awaits(&mut self) {
        let now = Instant::now();
        (self.due, self.spent, self.awaiting) = (now + self.limit, Spent::Little, true);
        // It has time only where an answer took longer than it takes to come round.
        if self.clock.deadline() > now + self.tick {
            self.clock.as_mut().reset(now + self.tick);
            self.registered = false;
        }
    }

    /// Nothing is awaited of the client until then.
    fn answers(&mut self) {
        self.awaiting = false;
    }

    /// Since when what is awaited is, or comes.
    fn since(&self) -> std::time::Instant {
        (self.due - self.limit).into_std()
    }

    /// Whether the client has had its time.
    fn late(&self) -> bool {
        self.spent == Spent::All
    }

    /// Whether nothing is to be kept ready for the client any longer.
    fn rests(&self) -> bool {
        self.parks && self.spent == Spent::ATick
    }
}

/// A client's connection.
struct Line<S> {
    stream: S,
    /// What was read and not looked at, or not understood yet.
    read: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Reads more, once. Zero is the end of what the client sends.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = &mut self.read;
        landing::poll_read(&mut self.stream, cx, |landed| add(read, landed))
    }

    /// The same, and looks at what has come if there was nothing before.
    fn poll_begin(&mut self, caller: &Arc<Caller>, limits: Limits, cx: &mut Context<'_>) -> Poll<io::Result<Arrived>> {
        let read = &mut self.read;
        landing::poll_read(&mut self.stream, cx, |landed| {
            if read.is_empty() && !landed.is_empty() {
                let all = || Bytes::copy_from_slice(landed);
                if let Some((next, end)) = begin(caller, landed, all, limits) {
                    add(read, &landed[end..]);
                    return Arrived::Whole(next);
                }
            }
            add(read, landed);
            Arrived::Some(landed.len())
        })
    }

    /// Looks at what was read and not looked at.
    fn begin(&mut self, caller: &Arc<Caller>, limits: Limits) -> Option<Next> {
        let (next, end) = begin(caller, &self.read, || self.read.clone(), limits)?;
        // An empty rest would hold on to all that was read.
        self.read = if end < self.read.len() { self.read.slice(end..) } else { Bytes::new() };
        Some(next)
    }

    /// Waits for the next head.
    fn head(
        &mut self,
        caller: &Arc<Caller>,
        limits: Limits,
        watch: &mut Watch<'_, '_>,
    ) -> impl Future<Output = io::Result<Next>> {
        // Of how many bytes it is known that they are no whole head.
        let mut seen = 0;
        std::future::poll_fn(move |cx| {
            // First of all, so that a request that has arrived already is begun before anything is finished.
            loop {
                let looked = if seen == 0 { !self.read.is_empty() } else { may_be_whole(&self.read, seen) };
                if (looked || self.read.len() >= limits.bytes)
                    && let Some(next) = self.begin(caller, limits)
                {
                    return Poll::Ready(Ok(next));
                }
                seen = self.read.len();
                match self.poll_begin(caller, limits, cx)? {
                    Poll::Ready(Arrived::Whole(next)) => return Poll::Ready(Ok(next)),
                    Poll::Ready(Arrived::Some(0)) if self.read.is_empty() => return Poll::Ready(Ok(Next::End)),
                    Poll::Ready(Arrived::Some(0)) => return Poll::Ready(Ok(Next::Cut)),
                    // The first bytes of a head that is not whole.
                    Poll::Ready(Arrived::Some(_)) if seen == 0 => watch.awaits(),
                    Poll::Ready(Arrived::Some(_)) => {}
                    Poll::Pending => break,
                }
            }
            if watch.forced(cx) || watch.late() {
                return Poll::Ready(Ok(Next::Cut));
            }
            // What has begun to arrive is answered.
            match self.read.is_empty() {
                true if watch.finishing => Poll::Ready(Ok(Next::End)),
                true if watch.rests() => Poll::Ready(Ok(Next::Rest)),
                _ => Poll::Pending,
            }
        })
    }

    /// Whether the client has gone. What it sends ahead is read once, and nothing is known of what comes after that.
    fn gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.read.is_empty() && matches!(self.poll_read(cx), Poll::Ready(Ok(0) | Err(_)))
    }

    /// Waits for an answer and writes it. Says whether the connection goes on after it; none where it was cut off.
    fn answer<T>(
        &mut self,
        answer: Pin<Box<impl Future<Output = T>>>,
        watch: &mut Watch<'_, '_>,
        write: impl Fn(T, &Life) -> Writing,
    ) -> impl Future<Output = Result<Option<bool>, Broken>> {
        let mut step = Step::Made(answer);
        watch.answers();
        std::future::poll_fn(move |cx| {
            let made = match &mut step {
                Step::Written(writing) => return self.poll_write(writing, watch, cx),
                Step::Made(answer) => match answer.as_mut().poll(cx) {
                    Poll::Ready(made) => made,
                    Poll::Pending if self.gone(cx) || watch.forced(cx) => return Poll::Ready(Ok(None)),
                    Poll::Pending => return Poll::Pending,
                },
            };
            let mut writing = write(made, watch.life);
            let written = self.poll_write(&mut writing, watch, cx);
            // Most are written at once.
            if written.is_pending() {
                step = Step::Written(Box::new(writing));
            }
            written
        })
    }

    /// Writes what is made already of an answer and the rest of its body, if there is one.
    fn poll_write(
        &mut self,
        writing: &mut Writing,
        watch: &mut Watch<'_, '_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<bool>, Broken>> {
        loop {
            writing.poll_body(cx)?;
            if writing.out.is_empty() {
                let flushed = Pin::new(&mut self.stream).poll_flush(cx)?;
                if flushed.is_ready() && writing.body.is_none() {
                    return Poll::Ready(Ok(Some(!writing.last)));
                }
                break;
            }
            if writing.out.poll_write(Pin::new(&mut self.stream), cx)?.is_pending() {
                break;
            }
        }
        if self.gone(cx) {
            return Poll::Ready(Err("the client went away before it had the whole answer".into()));
        }
        if watch.forced(cx) { Poll::Ready(Ok(None)) } else { Poll::Pending }
    }

    /// Ends the connection in order.
    async fn end(&mut self, watch: &mut Watch<'_, '_>) -> io::Result<()> {
        watch.awaits();
        std::future::poll_fn(|cx| {
            let ended = Pin::new(&mut self.stream).poll_shutdown(cx)?;
            if ended.is_ready() || watch.forced(cx) || watch.late() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

/// How far a request is.
enum Step<A> {
    Made(Pin<Box<A>>),
    Written(Box<Writing>),
}

/// An answer on its way to the client.
struct Writing {
    out: Outlet,
    framing: Framing,
    /// What is still to come of its body.
    body: Option<Seen>,
    /// Whether the connection ends with it.
    last: bool,
}

impl Writing {
    fn of(response: Response<Seen>, to: To, life: &Life) -> Self {
        let (head, body) = response.into_parts();
        let size = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        let size = size.map_or(Size::Unknown, Size::Known);
        let mut out = Outlet::new();
        // Asked here, as the listener may have begun to drain while the answer was made, on any thread.
        let to = To { last: to.last || life.changed(), ..to };
        let (framing, last) = answer::write(&head, size, to, out.head());
        Self { out, framing, body: Some(body).filter(|_| framing.has_body()), last }
    }

    fn passed(passed: Passed<Written>, to: To, life: &Life) -> Self {
        match passed {
            Passed::Made(Written { out, last }, None) => Self { out, framing: Framing::Nothing, body: None, last },
            Passed::Made(Written { out, last }, Some((left, body))) => {
                Self { out, framing: Framing::Length(left), body: Some(body), last }
            }
            Passed::Other(response) => Self::of(response, to, life),
        }
    }

    /// Takes of the body what there is and there is room for.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while let Some(body) = self.body.as_mut().filter(|_| self.out.has_room()) {
            let ended = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => true,
                Poll::Ready(Some(frame)) => match frame?.into_data() {
                    Ok(data) => {
                        self.out.take(&mut self.framing, data)?;
                        body.is_end_stream()
                    }
                    // Trailers are for clients that have said that they take them, who are not served here.
                    Err(_) => true,
                },
            };
            if ended {
                self.out.end(self.framing)?;
                self.body = None;
            }
        }
        if let Some(body) = self.body.as_mut().filter(|_| !self.out.has_room())
            && body.drive(cx)
        {
            return Err(deadline::Passed.into());
        }
        Ok(())
    }
}

/// What reading once has brought.
enum Arrived {
    Whole(Next),
    Some(usize),
}

/// Keeps what has landed. Says how much that is.
fn add(read: &mut Bytes, landed: &[u8]) -> usize {
    if read.is_empty() {
        *read = Bytes::copy_from_slice(landed);
    } else if !landed.is_empty() {
        let mut all = BytesMut::from(std::mem::take(read));
        all.extend_from_slice(landed);
        *read = all.freeze();
    }
    landed.len()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    type Otherwise = fn(Arc<Caller>, Bytes, std::time::Instant, TcpStream) -> Pin<Box<std::future::Ready<Ended>>>;
    type Serves<F> = fn(Arc<Caller>, (Bytes, TcpStream), std::time::Instant, Otherwise, Option<Park<TcpStream>>) -> F;

    fn waiting<F>(_: Serves<F>) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_clock_sees_how_much_of_its_time_a_client_has_taken() {
        let (limit, tick) = (Duration::from_secs(60), Duration::from_secs(1));
        let since = Instant::now();
        for (millis, expected) in [
            (0, Spent::Little),
            (999, Spent::Little),
            (1_000, Spent::ATick),
            (59_999, Spent::ATick),
            (60_000, Spent::All),
            (90_000, Spent::All),
        ] {
            assert_eq!(spent(since + Duration::from_millis(millis), since + limit, limit, tick), expected, "{millis}");
        }
    }

    #[tokio::test]
    async fn the_clock_comes_round_seldom_while_an_answer_is_made_and_in_time_after_it() {
        let (limit, tick) = (Duration::from_secs(3600), Duration::from_millis(5));
        let (life, begun) = (Life::default(), Instant::now());
        let clock = pin!(tokio::time::sleep_until(begun + tick));
        let ending = pin!(life.draining());
        let mut watch = Watch::new((&life, ending), (clock, tick), (limit, begun + limit), true);
        let mut wakes = 0;
        watch.answers();
        let far = std::future::poll_fn(|cx| {
            wakes += 1;
            assert!(!watch.forced(cx));
            if watch.clock.deadline() >= begun + limit / 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(60), far).await.expect("it comes round once");
        assert!(wakes <= 2, "{wakes}");
        watch.awaits();
        let rests = std::future::poll_fn(|cx| {
            assert!(!watch.forced(cx));
            if watch.rests() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(60), rests).await.expect("the client has had a tick of its time");
        assert!(!watch.late());
    }

    #[test]
    fn a_connection_that_waits_is_small() {
        let bytes = waiting(serve);
        assert!(bytes <= 512, "{bytes}");
        let line = size_of::<Line<TcpStream>>();
        assert!(line <= 128, "{line}: what was read is elsewhere, and only while there is any");
    }
}
