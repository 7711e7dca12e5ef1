//! The SQLite store: conformance, restarts, locks, damage, limits.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{Precondition, WatchItem, WriteError, conformance};

fn settings(directory: &TempDir) -> Settings {
    Settings { history: 40, trim_step: 4, ..Settings::new(directory.path().join("data/store.db")) }
}

fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.to_owned(), value: value.into(), when: Precondition::Any }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned(), when: Precondition::Any }
}

fn everything(store: &SqliteStore) -> Vec<Entry> {
    store.list("", None, 0, None).unwrap().entries
}

/// All events that are kept.
async fn history(store: &SqliteStore, from: u64) -> Vec<crate::Event> {
    let mut watch = store.watch("", from).unwrap();
    let mut events = Vec::new();
    while watch.progress() < store.revision() {
        match watch.next().await.unwrap() {
            WatchItem::Event(event) => events.push((*event).clone()),
            WatchItem::Progress(_) => {}
        }
    }
    events
}

#[test]
fn conforms() {
    conformance::suite(|| {
        let directory = TempDir::new().unwrap();
        let (store, task) = SqliteStore::open(settings(&directory)).unwrap();
        conformance::Fixture { store: Arc::new(store), history: 40, keep: Box::new((task, directory)) }
    });
}

#[tokio::test]
async fn a_restart_brings_back_entries_history_and_revision() {
    let directory = TempDir::new().unwrap();
    let (mut revision, mut entries, mut events, mut oldest) = (1, Vec::new(), Vec::new(), 1);
    for round in 0..6 {
        let (store, task) = SqliteStore::open(settings(&directory)).unwrap();
        assert_eq!(store.revision(), revision);
        assert_eq!(everything(&store), entries);
        assert_eq!(history(&store, oldest).await, events);
        for write in 0..17 {
            store.write(put(&format!("{}", write % 5), format!("{round} {write}"))).await.unwrap();
        }
        store.write(delete("3")).await.unwrap();
        revision = store.revision();
        entries = everything(&store);
        oldest = store.watch("", 0).unwrap_err().oldest;
        events = history(&store, oldest).await;
        task.close().await.unwrap();
    }
    assert_eq!(events.len(), 40);
    assert_eq!(events.last().map(|event| event.revision), Some(revision));
}

#[tokio::test]
async fn a_deleted_tail_does_not_turn_the_revision_back() {
    let directory = TempDir::new().unwrap();
    let small = Settings { history: 1, trim_step: 1, ..settings(&directory) };
    let (store, task) = SqliteStore::open(small.clone()).unwrap();
    for _ in 0..10 {
        store.write(put("a", "1")).await.unwrap();
        store.write(delete("a")).await.unwrap();
    }
    task.close().await.unwrap();
    let (store, _task) = SqliteStore::open(small).unwrap();
    assert_eq!(store.revision(), 21);
    assert_eq!(everything(&store), []);
}

#[tokio::test]
async fn the_file_is_compacted() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let (store, task) = SqliteStore::open(settings.clone()).unwrap();
    let value = Bytes::from(vec![7; 10_000]);
    for write in 0..600 {
        store.write(put(&format!("{}", write % 3), value.clone())).await.unwrap();
    }
    task.close().await.unwrap();
    let size = fs::metadata(&settings.path).unwrap().len();
    // 40 events and 3 entries of 10 kB, some steps behind; not the 6 MB that were written.
    assert!(size < 1_000_000, "{size} bytes");
    let connection = rusqlite::Connection::open(&settings.path).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert!((40..70).contains(&rows), "{rows} rows");
}

#[tokio::test]
async fn many_writes_share_a_commit_and_all_are_there() {
    let directory = TempDir::new().unwrap();
    let (store, task) = SqliteStore::open(settings(&directory)).unwrap();
    let mut writes = tokio::task::JoinSet::new();
    for key in 0..2000 {
        writes.spawn(store.write(put(&format!("{key:04}"), vec![1; 100])));
    }
    let mut revisions: Vec<u64> = Vec::new();
    while let Some(result) = writes.join_next().await {
        revisions.push(result.unwrap().unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=2001).collect::<Vec<_>>());
    drop(task);
    let (store, _task) = SqliteStore::open(settings(&directory)).unwrap();
    assert_eq!(everything(&store).len(), 2000);
}

#[tokio::test]
async fn a_queue_smaller_than_the_writes_makes_them_wait() {
    let directory = TempDir::new().unwrap();
    let settings = Settings { queue_bytes: 4096, write_bytes: 4096, ..settings(&directory) };
    let (store, _task) = SqliteStore::open(settings).unwrap();
    let mut writes = tokio::task::JoinSet::new();
    for key in 0..100 {
        writes.spawn(store.write(put(&format!("{key:04}"), vec![1; 2000])));
    }
    while let Some(result) = writes.join_next().await {
        result.unwrap().unwrap();
    }
    assert_eq!(store.revision(), 101);
    let refused = store.write(put("large", vec![1; 4096])).await.unwrap_err();
    assert!(matches!(refused, WriteError::TooLarge { size: 4101, limit: 4096, .. }), "{refused}");
}

#[tokio::test]
async fn closing_does_what_waits_and_refuses_the_rest() {
    let directory = TempDir::new().unwrap();
    let (store, task) = SqliteStore::open(settings(&directory)).unwrap();
    store.write(put("a", "1")).await.unwrap();
    task.run(std::future::ready(())).await.unwrap();
    let refused = store.write(put("a", "2")).await.unwrap_err();
    assert!(matches!(refused, WriteError::Closed { .. }), "{refused}");
    assert_eq!(store.get("a").0.unwrap().revision, 2);
    // Closed well, all of it is in the one file.
    assert!(!directory.path().join("data/store.db-wal").exists());
}

#[test]
fn a_second_opener_is_told_who_is_first() {
    let directory = TempDir::new().unwrap();
    let (_store, task) = SqliteStore::open(settings(&directory)).unwrap();
    let refused = SqliteStore::open(settings(&directory)).unwrap_err();
    let OpenError::Locked { path, holder } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*path, settings(&directory).path);
    assert_eq!(*holder, Some(std::process::id()));
    assert!(refused.to_string().contains("store.db"), "{refused}");
    drop(task);
    SqliteStore::open(settings(&directory)).unwrap();
}

#[cfg(unix)]
#[test]
fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let (_store, _task) = SqliteStore::open(settings(&directory)).unwrap();
    for file in fs::read_dir(directory.path().join("data")).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
    }
}

fn refusal(settings: Settings) -> OpenError {
    let before = fs::read(&settings.path).ok();
    let refused = SqliteStore::open(settings.clone()).unwrap_err();
    assert_eq!(fs::read(&settings.path).ok(), before, "the file was changed");
    refused
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let settings = Settings::new(directory.path().join("store.db"));
    fs::write(&settings.path, vec![b'x'; 5000]).unwrap();
    let refused = refusal(settings.clone());
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains("store.db"), "{refused}");

    fs::remove_file(&settings.path).unwrap();
    let other = rusqlite::Connection::open(&settings.path).unwrap();
    other.execute_batch("CREATE TABLE t (a)").unwrap();
    other.close().unwrap();
    let refused = refusal(settings.clone());
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");

    fs::remove_file(&settings.path).unwrap();
    drop(SqliteStore::open(settings.clone()).unwrap());
    damage(&settings.path, "PRAGMA user_version = 99");
    let refused = refusal(settings.clone());
    assert!(matches!(refused, OpenError::Format { found: 99, .. }), "{refused}");

    let nowhere = Settings::new("/proc/no/such/store.db");
    let refused = SqliteStore::open(nowhere).unwrap_err();
    assert!(matches!(refused, OpenError::Unreachable { .. }), "{refused}");
    let zero = Settings { history: 0, ..settings };
    let refused = SqliteStore::open(zero).unwrap_err();
    assert!(refused.to_string().contains("`history`"), "{refused}");
}

fn damage(path: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
}

#[tokio::test]
async fn damage_is_found() {
    for (sql, says) in [
        ("UPDATE log SET value = 'other' WHERE revision = 3", "checksum of revision 3"),
        ("DELETE FROM log WHERE revision = 4", "revision 4 is missing"),
        ("DELETE FROM log WHERE revision = 2", "revision 2 is missing"),
        ("UPDATE log SET key = 'other' WHERE revision = 2", "checksum of revision 2"),
        ("UPDATE meta SET value = 6", "twice in the compacted part"),
        ("DELETE FROM log WHERE revision < 4; UPDATE meta SET value = 5", "revision 5 deletes, but is compacted"),
        ("DELETE FROM meta", "floor is missing"),
    ] {
        let directory = TempDir::new().unwrap();
        let settings = settings(&directory);
        let (store, task) = SqliteStore::open(settings.clone()).unwrap();
        for value in ["1", "2", "3"] {
            store.write(put("a", value)).await.unwrap();
        }
        store.write(delete("a")).await.unwrap();
        store.write(put("b", "1")).await.unwrap();
        task.close().await.unwrap();
        damage(&settings.path, sql);
        let refused = refusal(settings);
        assert!(matches!(refused, OpenError::Corrupt { .. }), "{sql}: {refused}");
        assert!(refused.to_string().contains(says), "{sql}: {refused}");
    }
}

#[tokio::test]
async fn flipped_bytes_are_found_or_harmless() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let (store, task) = SqliteStore::open(settings.clone()).unwrap();
    for write in 0..30 {
        store.write(put(&format!("{write}"), vec![b'v'; 700])).await.unwrap();
    }
    let expected = everything(&store);
    task.close().await.unwrap();
    let whole = fs::read(&settings.path).unwrap();
    let mut found = 0;
    for position in (0..whole.len()).step_by(997) {
        let mut flipped = whole.clone();
        flipped[position] ^= 0x10;
        fs::write(&settings.path, &flipped).unwrap();
        match SqliteStore::open(settings.clone()) {
            Err(_) => found += 1,
            // Some bytes of the file mean nothing; then nothing may differ.
            Ok((store, _task)) => assert_eq!(everything(&store), expected, "byte {position}"),
        }
    }
    assert!(found > 10, "only {found} were found");
}

#[tokio::test]
async fn without_space_writes_fail_reads_go_on_and_space_heals() {
    let directory = TempDir::new().unwrap();
    let settings = Settings { max_bytes: Some(400_000), ..settings(&directory) };
    let (store, task) = SqliteStore::open(settings.clone()).unwrap();
    let mut written = 0;
    let refused = loop {
        match store.write(put(&format!("{written}"), vec![1; 5000])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the limit does not hold");
    };
    let WriteError::Full { path, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*path, settings.path);
    assert_eq!(store.revision(), written + 1);
    assert_eq!(everything(&store).len() as u64, written);
    // A conflict is still a conflict.
    let conflict = store.write(Op::Put { key: "0".to_owned(), value: Bytes::new(), when: Precondition::Absent }).await;
    assert!(matches!(conflict, Err(WriteError::Conflict { .. })));

    store.set_max_bytes(Some(4_000_000));
    assert_eq!(store.write(put("more", vec![1; 5000])).await.unwrap(), written + 2);
    let expected = everything(&store);
    task.close().await.unwrap();
    assert!(fs::metadata(&settings.path).unwrap().len() < 4_000_000);
    let (store, _task) = SqliteStore::open(Settings { max_bytes: None, ..settings }).unwrap();
    assert_eq!(everything(&store), expected);
}

#[tokio::test]
async fn a_failed_batch_is_undone_whole_and_its_conflicts_are_not_reported() {
    let directory = TempDir::new().unwrap();
    let settings = Settings { max_bytes: Some(400_000), ..settings(&directory) };
    let (store, _task) = SqliteStore::open(settings).unwrap();
    // The first write keeps the writer busy, so that the others come in one batch as far as possible; whatever the
    // batches are, none may leave a trace of what failed.
    let mut writes = tokio::task::JoinSet::new();
    for key in 0..200 {
        let key = format!("{}", key / 2);
        let op = Op::Put { key: key.clone(), value: vec![1; 20_000].into(), when: Precondition::Absent };
        let write = store.write(op);
        writes.spawn(async move { (key, write.await) });
    }
    let mut acknowledged = std::collections::BTreeMap::new();
    while let Some(result) = writes.join_next().await {
        match result.unwrap() {
            (key, Ok(revision)) => assert_eq!(acknowledged.insert(key, revision), None),
            (_, Err(WriteError::Full { .. })) => {}
            (key, Err(WriteError::Conflict { current, .. })) => {
                assert_eq!(store.get(&key).0, current, "conflict with what is not there");
            }
            (key, Err(error)) => panic!("{key}: {error}"),
        }
    }
    let there: std::collections::BTreeMap<String, u64> =
        everything(&store).iter().map(|entry| (entry.key.to_string(), entry.revision)).collect();
    assert_eq!(there, acknowledged);
    assert!(there.len() < 100, "the limit does not hold");
}
