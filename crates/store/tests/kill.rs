//! A process that writes is killed (SIGKILL) at random moments, many times; nothing it had acknowledged may be gone, and
//! nothing may be there that it did not write.

use std::{
    collections::BTreeMap,
    env,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use store::{Op, Precondition, Settings, SqliteStore, Store};
use tempfile::TempDir;

const PATH: &str = "STORE_KILL_TEST_PATH";
const ROUND: &str = "STORE_KILL_TEST_ROUND";
const ROUNDS: u64 = 30;
const KEYS: u64 = 12;

/// A small history and small steps, so that compaction is under way at most moments.
fn settings(path: PathBuf) -> Settings {
    Settings { history: 30, trim_step: 3, ..Settings::new(path) }
}

/// What the `step`th write of a round gives a key: every fifth deletes it.
fn value(round: u64, step: u64) -> Option<String> {
    (step % 5 != 4).then(|| format!("{round}.{step}.{}", "x".repeat((step % 7 * 900) as usize)))
}

/// The process that is killed; the test below starts it. It prints `ack key step revision` after each write.
#[test]
#[ignore = "run by the test that kills it"]
fn victim() {
    let path = env::var(PATH).expect("the path comes from the test");
    let round: u64 = env::var(ROUND).expect("so does the round").parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (store, _task) = SqliteStore::open(settings(path.into())).unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for key in 0..KEYS {
            let store = store.clone();
            writers.spawn(async move {
                for step in 0.. {
                    let (key, when) = (key.to_string(), Precondition::Any);
                    let op = match value(round, step) {
                        Some(value) => Op::Put { key: key.clone(), value: value.into(), when },
                        None => Op::Delete { key: key.clone(), when },
                    };
                    let revision = store.write(op).await.unwrap();
                    println!("\nack {key} {step} {revision}");
                }
            });
        }
        writers.join_next().await;
    });
}

/// Starts the process, kills it after so many acknowledgements, and gives all that it printed: key -> (step, revision).
fn run_and_kill(path: &Path, round: u64, acknowledgements: u64) -> BTreeMap<String, (u64, u64)> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env(PATH, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = BTreeMap::new();
    let mut seen = 0;
    if acknowledgements == 0 {
        child.kill().unwrap();
    }
    // What was printed before the end is read to its end; a last line without its end was not printed.
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n') && line.starts_with("ack ") {
            let words: Vec<&str> = line.split_whitespace().collect();
            let numbers = (words[2].parse().unwrap(), words[3].parse().unwrap());
            last.insert(words[1].to_owned(), numbers);
            seen += 1;
            if seen == acknowledgements {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(seen >= acknowledgements, "the process ended by itself");
    last
}

#[test]
fn a_kill_loses_nothing_acknowledged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let random = RandomState::new();
    let mut before: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut revision = 1;
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        // Every tenth is killed while it opens.
        let limit = if round % 10 == 0 { 0 } else { random.hash_one(round) % 400 };
        let last = run_and_kill(&path, round, limit);
        let (store, task) = SqliteStore::open(settings(path.clone())).unwrap();
        assert!(store.revision() >= revision, "round {round}");
        for key in 0..KEYS {
            let key = key.to_string();
            let entry = store.get(&key).0;
            let held = entry.as_ref().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
            // The last acknowledged write, or the one that was under way after it.
            let (is, next) = match last.get(&key) {
                Some((step, written)) => {
                    acknowledged += step + 1;
                    assert!(store.revision() >= *written, "round {round}");
                    if held.is_some() && held == value(round, *step) {
                        assert_eq!(entry.unwrap().revision, *written, "round {round}");
                    }
                    (value(round, *step), value(round, step + 1))
                }
                None => (before.get(&key).cloned().flatten(), value(round, 0)),
            };
            assert!(
                held == is || held == next,
                "round {round}, key {key}: acknowledged {is:?}, under way {next:?}, found {held:?}"
            );
            before.insert(key, held);
        }
        assert!(store.list("", None, 0, None).unwrap().entries.len() as u64 <= KEYS);
        revision = store.revision();
        drop(task);
    }
    assert!(acknowledged > 0, "nothing was ever acknowledged");
}
