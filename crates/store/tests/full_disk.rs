//! A file system that really runs full: a small tmpfs. Needs the right to mount; where it is not to be had, the limit on the
//! store's own size stands in for it (in the crate's own tests).

use std::{fs, path::Path, process::Command};

use store::{Entry, Op, Precondition, Settings, SqliteStore, Store, WriteError};
use tempfile::TempDir;

/// A small file system; taken away at the end.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let directory = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Small(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a test that panics may still have the store open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn put(key: u64) -> Op {
    Op::Put { key: format!("{key:05}"), value: vec![key as u8; 10_000].into(), when: Precondition::Any }
}

fn everything(store: &SqliteStore) -> Vec<Entry> {
    store.list("", None, 0, None).unwrap().entries
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let Some(small) = Small::mount() else {
        eprintln!("skipped: this user may not mount a file system");
        return;
    };
    let ballast = small.path().join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let settings = Settings::new(small.path().join("data/store.db"));
    let (store, task) = SqliteStore::open(settings.clone()).unwrap();
    let mut written = 0;
    let refused = loop {
        match store.write(put(written)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, WriteError::Full { path, .. } if *path == settings.path), "{refused}");
    assert!(written > 10);
    // Reads go on, and nothing of the refused write is seen.
    assert_eq!(everything(&store).len() as u64, written);
    assert_eq!(store.revision(), written + 1);

    fs::remove_file(&ballast).unwrap();
    assert_eq!(store.write(put(written)).await.unwrap(), written + 2);
    let expected = everything(&store);
    task.close().await.unwrap();
    let (store, task) = SqliteStore::open(settings).unwrap();
    assert_eq!(everything(&store), expected);
    drop(task);
    drop(small);
}
