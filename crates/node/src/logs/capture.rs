//! Takes what a program writes, line by line, into its log's files and to those who listen to all logs.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{broadcast, watch};

use super::files::{FILE_LIMIT, Writer};
use super::{Logs, Progress, record};
use crate::container::Piece;
use crate::handle::LogLine;

/// How much is read at once.
const CHUNK: usize = 32 << 10;

/// Whose output it is.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub container: Arc<str>,
}

/// The capture of one run of a container.
pub(crate) struct Capture {
    logs: Arc<Logs>,
    source: Source,
    progress: Arc<watch::Sender<Progress>>,
    writer: Option<Writer>,
    /// Those who see it as it comes, line or not.
    pieces: broadcast::Sender<Piece>,
}

impl Capture {
    /// Begins the log of a run. Where no file can be written, lines still reach those who listen.
    pub(crate) async fn begin(
        logs: &Arc<Logs>,
        source: Source,
        directory: &Path,
        instance: u32,
        pieces: broadcast::Sender<Piece>,
    ) -> Capture {
        Capture { pieces, ..Self::with_limit(logs, source, directory, instance, FILE_LIMIT).await }
    }

    pub(super) async fn with_limit(
        logs: &Arc<Logs>,
        source: Source,
        directory: &Path,
        instance: u32,
        limit: u64,
    ) -> Capture {
        let writer = match Writer::open(directory, instance, limit).await {
            Ok(writer) => Some(writer),
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "a container's log can't be written; it is lost");
                None
            }
        };
        let progress = logs.progress(directory);
        progress.send_modify(|p| *p = Progress { instance, written: 0, over: false });
        Capture { logs: Arc::clone(logs), source, progress, writer, pieces: broadcast::Sender::new(1) }
    }

    /// Runs until both outputs are closed.
    pub(crate) async fn run(
        mut self,
        out: impl AsyncRead + Send + Unpin + 'static,
        err: impl AsyncRead + Send + Unpin + 'static,
    ) {
        let (mut out, mut err) = (Pipe::new(Box::new(out), false), Pipe::new(Box::new(err), true));
        let mut records = Vec::new();
        while out.open || err.open {
            let pipe = tokio::select! {
                () = out.fill(), if out.open => &mut out,
                () = err.fill(), if err.open => &mut err,
            };
            if pipe.fresh > 0 && self.pieces.receiver_count() > 0 {
                let fresh = &pipe.rest[pipe.rest.len() - pipe.fresh..];
                // Nobody looking any more is no failure.
                let _ = self.pieces.send((pipe.stderr, Bytes::copy_from_slice(fresh)));
            }
            let now = Timestamp::now();
            records.clear();
            let lines = pipe.lines(now, &mut records);
            self.write(&records).await;
            self.tell(lines, pipe.stderr, now);
        }
    }

    async fn write(&mut self, records: &[u8]) {
        let Some(writer) = &mut self.writer else { return };
        if records.is_empty() {
            return;
        }
        // A full disk loses lines; the program goes on.
        if let Err(error) = writer.append(records).await {
            tracing::debug!(%error, container = %self.source.container, "lines of a log were lost");
        }
        self.progress.send_modify(|p| p.written += records.len() as u64);
    }

    fn tell(&self, lines: Vec<Bytes>, stderr: bool, time: Timestamp) {
        if self.logs.lines.receiver_count() == 0 {
            return;
        }
        for text in lines {
            // Nobody listening any more is no failure.
            let _ = self.logs.lines.send(LogLine {
                namespace: Arc::clone(&self.source.namespace),
                pod: Arc::clone(&self.source.pod),
                container: Arc::clone(&self.source.container),
                stderr,
                time,
                text,
            });
        }
    }
}

/// One of a program's outputs.
struct Pipe {
    input: Box<dyn AsyncRead + Send + Unpin>,
    stderr: bool,
    open: bool,
    rest: BytesMut,
    /// How much of the end came last.
    fresh: usize,
}

impl Pipe {
    fn new(input: Box<dyn AsyncRead + Send + Unpin>, stderr: bool) -> Self {
        Pipe { input, stderr, open: true, rest: BytesMut::new(), fresh: 0 }
    }

    /// Cancel safe: what was read is in `rest`.
    async fn fill(&mut self) {
        self.rest.reserve(CHUNK);
        self.fresh = self.input.read_buf(&mut self.rest).await.unwrap_or_default();
        self.open = self.fresh > 0;
    }

    /// Takes all whole lines, and what is too long or last, as records.
    fn lines(&mut self, now: Timestamp, records: &mut Vec<u8>) -> Vec<Bytes> {
        let time = record::time(now);
        let mut lines = Vec::new();
        loop {
            let window = &self.rest[..self.rest.len().min(record::TEXT_LIMIT + 1)];
            let (text, full) = match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    let text = self.rest.split_to(end + 1).freeze();
                    (text.slice(..end), true)
                }
                None if self.rest.len() > record::TEXT_LIMIT => {
                    (self.rest.split_to(record::TEXT_LIMIT).freeze(), false)
                }
                None if !self.open && !self.rest.is_empty() => (self.rest.split().freeze(), true),
                None => return lines,
            };
            record::write(records, &time, self.stderr, full, &text);
            lines.push(text);
        }
    }
}
