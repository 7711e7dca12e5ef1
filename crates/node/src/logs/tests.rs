use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::handle::LogQuery;

struct Bench {
    logs: Arc<Logs>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench { logs: Arc::new(Logs::new()), dir: tempfile::tempdir().expect("a directory") }
    }

    async fn run(&self, instance: u32, text: &str) {
        let text = std::io::Cursor::new(text.as_bytes().to_vec());
        let capture = self.capture(instance, u64::MAX).await;
        capture.run(text, tokio::io::empty()).await;
    }

    async fn capture(&self, instance: u32, limit: u64) -> Capture {
        let source = Source { namespace: "shop".into(), pod: "a".into(), container: "c".into() };
        Capture::with_limit(&self.logs, source, self.dir.path(), instance, limit).await
    }

    fn chosen(&self, waiting: Option<&str>) -> Chosen {
        Chosen {
            pod: "a".to_owned(),
            container: "c".to_owned(),
            directory: self.dir.path().to_owned(),
            waiting: waiting.map(str::to_owned),
        }
    }

    async fn read(&self, query: LogQuery) -> String {
        let stream = self.logs.read(self.chosen(None), query).await.expect("a log");
        let parts: Vec<_> = stream.try_collect().await.expect("readable");
        String::from_utf8(parts.concat()).expect("text")
    }
}

#[tokio::test]
async fn parts_of_a_log_are_read_as_asked() {
    let bench = Bench::new();
    bench.run(0, "one\ntwo\nthree").await;
    for (query, expected) in [
        (LogQuery::default(), "one\ntwo\nthree\n"),
        (LogQuery { tail_lines: Some(2), ..LogQuery::default() }, "two\nthree\n"),
        (LogQuery { tail_lines: Some(0), ..LogQuery::default() }, ""),
        (LogQuery { tail_lines: Some(9), ..LogQuery::default() }, "one\ntwo\nthree\n"),
        (LogQuery { limit_bytes: Some(5), ..LogQuery::default() }, "one\nt"),
        (LogQuery { since_seconds: Some(3600), ..LogQuery::default() }, "one\ntwo\nthree\n"),
        (LogQuery { since_time: Some(jiff::Timestamp::MAX), ..LogQuery::default() }, ""),
    ] {
        assert_eq!(bench.read(query.clone()).await, expected, "{query:?}");
    }
    let stamped = bench.read(LogQuery { timestamps: true, tail_lines: Some(1), ..LogQuery::default() }).await;
    let (time, text) = stamped.split_once(' ').expect("a time in front");
    assert_eq!(text, "three\n");
    time.parse::<jiff::Timestamp>().expect("a time");
}

#[tokio::test]
async fn a_long_line_is_kept_in_parts_and_read_as_one() {
    let bench = Bench::new();
    let long = "x".repeat(record::TEXT_LIMIT * 2 + 7);
    bench.run(0, &format!("a\n{long}\nb\n")).await;
    assert_eq!(bench.read(LogQuery { tail_lines: Some(2), ..LogQuery::default() }).await, format!("{long}\nb\n"));
}

#[tokio::test]
async fn earlier_runs_are_told_from_the_current_one() {
    let bench = Bench::new();
    let none = bench.logs.read(bench.chosen(Some("PodInitializing")), LogQuery::default()).await;
    assert!(none.is_err_and(|e| e.to_string().contains("waiting to start: PodInitializing")));
    bench.run(0, "first\n").await;
    let previous = LogQuery { previous: true, ..LogQuery::default() };
    assert!(bench.logs.read(bench.chosen(None), previous.clone()).await.is_err());
    bench.run(1, "second\n").await;
    bench.run(2, "third\n").await;
    assert_eq!(bench.read(LogQuery::default()).await, "third\n");
    assert_eq!(bench.read(previous).await, "second\n");
    assert!(!files::current(bench.dir.path(), 0).exists(), "logs of older runs go");
}

#[tokio::test]
async fn rotation_bounds_the_disk_and_keeps_what_is_newest() {
    let bench = Bench::new();
    let capture = bench.capture(0, 200).await;
    let (mut writer, reader) = tokio::io::duplex(64);
    let lines: Vec<String> = (0..200).map(|n| format!("line {n}\n")).collect();
    let write = async move {
        for line in lines {
            writer.write_all(line.as_bytes()).await.expect("taken");
        }
    };
    tokio::join!(capture.run(reader, tokio::io::empty()), write);
    let files = std::fs::read_dir(bench.dir.path()).expect("listed").count();
    assert!(files as u64 <= files::FILES_KEPT, "{files}");
    let all = bench.read(LogQuery::default()).await;
    assert!(all.ends_with("line 198\nline 199\n"), "{all}");
    let tail = bench.read(LogQuery { tail_lines: Some(8), ..LogQuery::default() }).await;
    assert_eq!(tail.lines().count(), 8);
    assert!(all.ends_with(&tail));
}

#[tokio::test]
async fn a_follower_sees_every_line_across_rotation_and_restart_and_ends_with_the_container() {
    let bench = Bench::new();
    let (mut writer, reader) = tokio::io::duplex(64);
    let capture = bench.capture(0, 5000).await;
    let first = tokio::spawn(capture.run(reader, tokio::io::empty()));
    writer.write_all(b"hello\n").await.expect("taken");
    let query = LogQuery { follow: true, ..LogQuery::default() };
    // The file may be empty still; following is what this is about.
    let mut stream = bench.logs.read(bench.chosen(None), query).await.expect("a log");
    let mut seen = String::new();
    while !seen.contains("hello\n") {
        let part = stream.next().await.expect("goes on").expect("readable");
        seen.push_str(std::str::from_utf8(&part).expect("text"));
    }
    let expected: String = (0..300).map(|n| format!("line {n}\n")).collect();
    let text = expected.clone();
    let produce = async {
        writer.write_all(text.as_bytes()).await.expect("taken");
        drop(writer);
        first.await.expect("ended");
        bench.run(1, "again\n").await;
        bench.logs.close(bench.dir.path());
    };
    let collect = async {
        while let Some(part) = stream.next().await {
            seen.push_str(std::str::from_utf8(&part.expect("readable")).expect("text"));
        }
    };
    tokio::join!(produce, collect);
    assert_eq!(seen, format!("hello\n{expected}again\n"));
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_missed() {
    let bench = Bench::new();
    let mut lines = crate::handle::Lines(bench.logs.subscribe());
    let text: String = (0..LINES_KEPT + 10).map(|n| format!("{n}\n")).collect();
    bench.run(0, &text).await;
    let lost = lines.next().await.expect("open").expect_err("lagged");
    assert!(lost.0 >= 10);
    let line = lines.next().await.expect("open").expect("a line");
    assert_eq!((&*line.pod, line.text.as_ref()), ("a", lost.0.to_string().as_bytes()));
}
