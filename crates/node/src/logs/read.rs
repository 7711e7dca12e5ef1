//! Reads a log back: from a place that the query decides, to the end that is there or on with what comes.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::watch;

use super::files::{self, Present};
use super::record::{self, Record};
use super::{Chosen, Logs, Progress};
use crate::error::LogError;
use crate::handle::{LogQuery, LogStream};

const CHUNK: usize = 64 << 10;

impl Logs {
    /// The wanted part of a container's log.
    pub(crate) async fn read(self: &Arc<Self>, chosen: Chosen, query: LogQuery) -> Result<LogStream, LogError> {
        let progress = self.known(&chosen.directory);
        let present = Present::look(&chosen.directory);
        let Some(last) = present.instances.last().copied() else {
            let reason = chosen.waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
            return Err(LogError::NotStarted { pod: chosen.pod, container: chosen.container, reason });
        };
        // While a container waits for its next run, the last one is both the current and the previous.
        let instance = if query.previous && chosen.waiting.is_none() {
            present.instances.iter().rev().find(|i| **i < last).copied().filter(|_| last > 0)
        } else {
            Some(last)
        };
        let Some(instance) = instance else {
            return Err(LogError::NoPrevious { pod: chosen.pod, container: chosen.container });
        };
        let segments = present.segments(instance);
        let (segment, offset) = match query.tail_lines {
            Some(tail) => {
                let directory = chosen.directory.clone();
                let found =
                    tokio::task::spawn_blocking(move || tail_start(&directory, instance, &segments, tail)).await;
                found
                    .map_err(io::Error::other)
                    .and_then(|r| r)
                    .map_err(|source| LogError::Io { path: chosen.directory.clone(), source })?
            }
            None => (segments.first().copied().unwrap_or_default(), 0),
        };
        let reader = Reader {
            directory: chosen.directory,
            instance,
            segment,
            offset,
            file: None,
            drained: false,
            rest: Vec::new(),
            begin: true,
            left: query.limit_bytes,
            since: since(&query, Timestamp::now()),
            timestamps: query.timestamps,
            follow: if query.follow && !query.previous { progress } else { None },
        };
        let parts =
            stream::try_unfold(
                reader,
                |mut reader| async move { Ok(reader.next().await?.map(|bytes| (bytes, reader))) },
            );
        Ok(parts.boxed())
    }
}

fn since(query: &LogQuery, now: Timestamp) -> Option<String> {
    let by_age = query.since_seconds.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok());
    by_age.into_iter().chain(query.since_time).max().map(record::time)
}

/// Where the last `tail` lines of a run begin.
fn tail_start(directory: &Path, instance: u32, segments: &[u64], tail: u64) -> io::Result<(u64, u64)> {
    let end = segments.last().copied().unwrap_or_default();
    let mut wanted = usize::try_from(tail).unwrap_or(usize::MAX);
    let mut start = None;
    for segment in segments.iter().rev().copied() {
        let Some(mut file) = open_blocking(directory, instance, segment)? else { continue };
        let (starts, length) = last_starts(&mut file, wanted)?;
        if tail == 0 {
            return Ok((segment, length));
        }
        if let Some(first) = starts.front() {
            start = Some((segment, *first));
        }
        wanted -= starts.len();
        if wanted == 0 {
            break;
        }
    }
    Ok(start.unwrap_or((end, 0)))
}

/// The offsets of the last `wanted` lines' first records, and the length that was looked through.
fn last_starts(file: &mut std::fs::File, wanted: usize) -> io::Result<(VecDeque<u64>, u64)> {
    use std::io::BufRead;
    let mut input = io::BufReader::with_capacity(CHUNK, file);
    let (mut starts, mut at, mut begin, mut line) = (VecDeque::new(), 0, true, Vec::new());
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok((starts, at));
        }
        if begin && wanted > 0 {
            if starts.len() == wanted {
                starts.pop_front();
            }
            starts.push_back(at);
        }
        begin = Record::parse(&line[..read - 1]).is_none_or(Record::full);
        at += read as u64;
    }
}

fn open_blocking(directory: &Path, instance: u32, segment: u64) -> io::Result<Option<std::fs::File>> {
    let kept = |result: io::Result<std::fs::File>| match result {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let old = files::rotated(directory, instance, segment);
    if let Some(file) = kept(std::fs::File::open(&old))? {
        return Ok(Some(file));
    }
    let file = kept(std::fs::File::open(files::current(directory, instance)))?;
    // Rotated in between: what was opened is the next segment.
    if old.exists() {
        return kept(std::fs::File::open(&old));
    }
    let newest = Present::look(directory).segments(instance).last().copied();
    Ok(file.filter(|_| newest == Some(segment)))
}

struct Reader {
    directory: PathBuf,
    instance: u32,
    segment: u64,
    offset: u64,
    file: Option<File>,
    /// This segment was rotated, and has been read to its end since.
    drained: bool,
    /// The beginning of a record whose end was not read yet.
    rest: Vec<u8>,
    /// The next record begins a line.
    begin: bool,
    left: Option<u64>,
    since: Option<String>,
    timestamps: bool,
    follow: Option<watch::Receiver<Progress>>,
}

impl Reader {
    /// The next part; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = Vec::new();
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            // Taken before reading: what comes later is a change again.
            let seen = self.follow.as_mut().map(|f| *f.borrow_and_update());
            if self.read(&mut out).await? {
                if !out.is_empty() {
                    return Ok(Some(Bytes::from(out)));
                }
                continue;
            }
            if self.advance(seen) {
                continue;
            }
            let Some(follow) = &mut self.follow else { return Ok(None) };
            if seen.is_some_and(|s| s.over && s.instance <= self.instance) {
                return Ok(None);
            }
            if follow.changed().await.is_err() {
                self.follow = None; // the node has ended; what is there is all there will be
            }
        }
    }

    /// Reads on in this segment; false at its end.
    async fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.file.is_none() {
            let (directory, instance, segment) = (self.directory.clone(), self.instance, self.segment);
            let opened = tokio::task::spawn_blocking(move || open_blocking(&directory, instance, segment)).await;
            let Some(file) = opened.map_err(io::Error::other)?? else { return Ok(false) };
            let mut file = File::from_std(file);
            file.seek(io::SeekFrom::Start(self.offset)).await?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let mut chunk = Vec::with_capacity(CHUNK);
        if file.take(CHUNK as u64).read_to_end(&mut chunk).await? == 0 {
            return Ok(false);
        }
        self.rest.extend_from_slice(&chunk);
        self.emit(out);
        Ok(true)
    }

    fn emit(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        let mut at = 0;
        while let Some(end) = rest[at..].iter().position(|b| *b == b'\n') {
            if let Some(record) = Record::parse(&rest[at..at + end]) {
                self.format(record, out);
            }
            at += end + 1;
        }
        self.rest = rest[at..].to_vec();
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
    }

    fn format(&mut self, record: Record<'_>, out: &mut Vec<u8>) {
        if self.since.as_ref().is_some_and(|since| record.time() < since.as_bytes()) {
            return;
        }
        if self.timestamps && self.begin {
            out.extend_from_slice(record.time());
            out.push(b' ');
        }
        out.extend_from_slice(record.text());
        self.begin = record.full();
        if self.begin {
            out.push(b'\n');
        }
    }

    /// Goes to the next segment or run, where there is one and this one is done. `seen` was taken before the last read, so
    /// that nothing written since is skipped.
    fn advance(&mut self, seen: Option<Progress>) -> bool {
        let present = Present::look(&self.directory);
        let next = present.segments(self.instance).into_iter().find(|s| *s > self.segment);
        let here = present.rotated.contains(&(self.instance, self.segment));
        let gone = next.is_some() && !here;
        if let Some(next) = next.filter(|_| here || gone) {
            // Rotated since the read: there may be more in it.
            if here && !std::mem::replace(&mut self.drained, true) {
                return true;
            }
            (self.segment, self.offset, self.file, self.drained) = (next, 0, None, false);
            self.rest.clear();
            return true;
        }
        if let Some(seen) = seen.filter(|s| s.instance > self.instance) {
            let first = present.segments(seen.instance).first().copied().unwrap_or_default();
            (self.instance, self.segment, self.offset, self.file) = (seen.instance, first, 0, None);
            self.rest.clear();
            self.drained = false;
            self.begin = true;
            return true;
        }
        false
    }
}

impl Logs {
    /// The last lines of a container's current run, at most so many bytes of them.
    pub(crate) async fn last_lines(self: &Arc<Self>, directory: &Path, lines: u64, bytes: usize) -> Option<String> {
        let chosen =
            Chosen { pod: String::new(), container: String::new(), directory: directory.to_owned(), waiting: None };
        let query = LogQuery { tail_lines: Some(lines), ..LogQuery::default() };
        let mut parts = self.read(chosen, query).await.ok()?;
        let mut text = Vec::new();
        while let Some(Ok(part)) = parts.next().await {
            text.extend_from_slice(&part);
            let over = text.len().saturating_sub(bytes);
            text.drain(..over);
        }
        (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
    }
}
