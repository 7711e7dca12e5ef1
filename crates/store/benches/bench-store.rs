//! Durable writes, beside what the disk itself gives for the same bytes in the same run: append and fdatasync.
//!
//! `cargo bench -p store` (the directory is `BENCH_STORE_DIR`, or the working directory: not a tmpfs).

use std::{
    env,
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use store::{Op, Precondition, Settings, SqliteStore, Store};

const VALUE: usize = 1500;
const KEYS: usize = 500;
const BLOCK: usize = 100;
const BLOCKS: usize = 30;
const WRITERS: usize = 64;
const GROUP_WRITES: usize = 32_000;

fn put(number: usize) -> Op {
    Op::Put {
        key: format!("/registry/pods/default/pod-{:05}", number % KEYS),
        value: Bytes::from(vec![(number % 251) as u8; VALUE]),
        when: Precondition::Any,
    }
}

/// The quantile, in microseconds.
fn quantile(times: &mut [Duration], quantile: f64) -> f64 {
    times.sort_unstable();
    let position = ((times.len() - 1) as f64 * quantile).round() as usize;
    times[position].as_secs_f64() * 1e6
}

/// One at a time, in turns, so that both meet the same disk.
async fn single(store: &SqliteStore, directory: &Path) -> std::io::Result<()> {
    let mut raw = OpenOptions::new().create_new(true).append(true).open(directory.join("raw"))?;
    let bytes = vec![7; VALUE];
    let (mut raw_times, mut store_times) = (Vec::new(), Vec::new());
    for block in 0..BLOCKS {
        for _ in 0..BLOCK {
            let begin = Instant::now();
            raw.write_all(&bytes)?;
            raw.sync_data()?;
            raw_times.push(begin.elapsed());
        }
        for write in 0..BLOCK {
            let begin = Instant::now();
            store.write(put(block * BLOCK + write)).await.map_err(std::io::Error::other)?;
            store_times.push(begin.elapsed());
        }
    }
    println!("single durable write of {VALUE} bytes, {} each", BLOCK * BLOCKS);
    for q in [0.5, 0.99] {
        let (raw, store) = (quantile(&mut raw_times, q), quantile(&mut store_times, q));
        println!(
            "  p{:<3} raw append+fdatasync {raw:8.0} us   store {store:8.0} us   ratio {:.2}",
            q * 100.0,
            store / raw
        );
    }
    Ok(())
}

/// Many writers at once; the raw side appends and syncs as many bytes as one round of all writers has.
async fn group(store: &SqliteStore, directory: &Path) -> std::io::Result<()> {
    let mut raw = OpenOptions::new().create_new(true).append(true).open(directory.join("raw-group"))?;
    let round = vec![7; VALUE * WRITERS];
    let begin = Instant::now();
    for _ in 0..GROUP_WRITES / WRITERS {
        raw.write_all(&round)?;
        raw.sync_data()?;
    }
    let raw_rate = GROUP_WRITES as f64 / begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for write in 0..GROUP_WRITES / WRITERS {
                store.write(put(writer * 1009 + write)).await?;
            }
            Ok::<_, store::WriteError>(())
        });
    }
    while let Some(result) = writers.join_next().await {
        result?.map_err(std::io::Error::other)?;
    }
    let store_rate = GROUP_WRITES as f64 / begin.elapsed().as_secs_f64();
    println!("{WRITERS} writers at once, {GROUP_WRITES} durable writes of {VALUE} bytes");
    println!(
        "  raw append+fdatasync of {WRITERS} at a time {raw_rate:8.0}/s   store {store_rate:8.0}/s   ratio {:.2}",
        store_rate / raw_rate
    );
    Ok(())
}

/// Listing from memory, at the current and at an older revision.
fn list(store: &SqliteStore) {
    let at = store.revision() - 1000;
    for (what, at) in [("now", None), ("1000 revisions ago", Some(at))] {
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let begin = Instant::now();
                let listing = store.list("/registry/pods/", None, 0, at);
                assert_eq!(listing.map(|listing| listing.entries.len()), Ok(KEYS));
                begin.elapsed()
            })
            .collect();
        println!("list {KEYS} {what}: p50 {:.0} us", quantile(&mut times, 0.5));
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = env::var_os("BENCH_STORE_DIR").map_or_else(env::current_dir, |dir| Ok(dir.into()))?;
    let directory = tempfile::Builder::new().prefix("bench-store-").tempdir_in(parent)?;
    let settings = Settings::new(directory.path().join("store.db"));
    let (store, task) = SqliteStore::open(settings.clone())?;
    single(&store, directory.path()).await?;
    group(&store, directory.path()).await?;
    list(&store);
    task.close().await?;
    let size = std::fs::metadata(&settings.path)?.len();
    let begin = Instant::now();
    let (store, task) = SqliteStore::open(settings)?;
    println!(
        "open with {} revisions behind it: {:.0} ms, file {:.1} MB",
        store.revision(),
        begin.elapsed().as_secs_f64() * 1e3,
        size as f64 / 1e6
    );
    task.close().await?;
    Ok(())
}
