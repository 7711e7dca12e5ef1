//! What is left behind: processes of a container or of a command beside it, which should be gone already, those of an earlier life of
//! Coracle, and directories of Pods that are no more.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::container::{MARK, mark};
use crate::shim::{self, Process};

/// How long killed processes may take to be gone, and how often that is looked at.
const ROUNDS: u32 = 100;
const ROUND: Duration = Duration::from_millis(20);

/// Kills what is left of Pods' processes below `root`, of which no other Coracle may make use. Returns how many there were.
pub(crate) async fn kill_processes(root: &Path) -> usize {
    let root = root.to_owned();
    kill_all(move || processes(&root)).await
}

/// What a container sees of the file system. It is held, so that its number is not given to another.
pub(crate) struct View {
    number: u64,
    _held: File,
}

impl View {
    /// The view that was made for a program, `said` by its shim. None where the program sees another by now: it may be somebody else's.
    pub(crate) fn of(pid: i32, said: u64) -> Option<View> {
        let held = File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
        let number = held.metadata().ok()?.ino();
        let of = |process: &str| std::fs::metadata(format!("/proc/{process}/ns/mnt")).ok().map(|view| view.ino());
        // Init's can't be read by everybody.
        is_its_own(number, said, [of("self"), of("1")]).then_some(View { number, _held: held })
    }
}

/// Whether a view is one program's alone: that which was made for it, and none of the machine's.
fn is_its_own(found: u64, said: u64, [own, init]: [Option<u64>; 2]) -> bool {
    found == said && own.is_some_and(|own| own != found) && init != Some(found)
}

/// Kills what is left of a container: what carries its mark, and what sees its view though it hides its mark.
pub(crate) async fn kill_container(directory: &Path, view: Option<&View>) -> usize {
    let (mark, view) = (mark(directory), view.map(|view| view.number));
    kill_all(move || {
        let mut found: BTreeSet<Process> = shim::marked(MARK, &mark).into_iter().collect();
        found.extend(view.into_iter().flat_map(shim::seeing));
        found
    })
    .await
}

/// Kills what carries one of these marks.
pub(crate) async fn kill_marked(marks: Vec<String>) -> usize {
    kill_all(move || marks.iter().flat_map(|mark| shim::marked(MARK, mark)).collect()).await
}

/// Kills what is found until nothing is, within bounds.
async fn kill_all(look: impl Fn() -> BTreeSet<Process> + Send + Sync + 'static) -> usize {
    let mut found = BTreeSet::new();
    let look = Arc::new(look);
    for _ in 0..ROUNDS {
        let again = Arc::clone(&look);
        // On a machine with many processes it takes a while.
        let left = tokio::task::spawn_blocking(move || again()).await.unwrap_or_default();
        if left.is_empty() {
            break;
        }
        for process in &left {
            process.kill();
        }
        found.extend(left);
        tokio::time::sleep(ROUND).await;
    }
    found.len()
}

fn processes(root: &Path) -> BTreeSet<Process> {
    let mut found = BTreeSet::new();
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    for container in below(root).flat_map(|pod| below(&pod).collect::<Vec<_>>()) {
        if let Some(shim) = recorded(&container.join("shim")) {
            found.extend(shim::tree(shim.pid));
            found.insert(shim);
        }
    }
    found.extend(shim::marked(MARK, &format!("{}/", root.display())));
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    found.retain(|p| p.pid != own);
    found
}

/// The process that a file names, if it is still that one.
fn recorded(file: &Path) -> Option<Process> {
    let text = std::fs::read_to_string(file).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let noted = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
    (Process::of(noted.pid) == Some(noted)).then_some(noted)
}

/// Removes the directories of Pods that are not among `uids`.
pub(crate) fn remove_directories(root: &Path, uids: &BTreeSet<String>) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let uid = name.to_str().and_then(|n| n.rsplit_once('_')).map(|(_, uid)| uid);
        if uid.is_some_and(|uid| !uids.contains(uid))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "the directory of a Pod that is gone could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_killed_in_only_where_it_was_made_for_its_program() {
        for (found, said, machine, expected) in [
            (3, 3, [Some(1), Some(1)], true),
            (3, 3, [Some(1), Some(2)], true),
            (3, 3, [Some(1), None], true),
            // The program has gone into another's, or into the machine's.
            (4, 3, [Some(1), Some(1)], false),
            (1, 3, [Some(1), Some(1)], false),
            (1, 1, [Some(1), Some(2)], false),
            (2, 2, [Some(1), Some(2)], false),
            (3, 3, [None, Some(2)], false),
        ] {
            assert_eq!(is_its_own(found, said, machine), expected, "{found} {said} {machine:?}");
        }
        let own = std::fs::metadata("/proc/self/ns/mnt").expect("a view").ino();
        assert!(View::of(i32::try_from(std::process::id()).expect("a number"), own).is_none());
    }

    #[tokio::test]
    async fn marked_processes_are_found_and_killed_and_others_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let sleep = |root: &Path| {
            let mut command = std::process::Command::new("sleep");
            let child = command.arg("300").env(MARK, root.join("a_b_c")).spawn().expect("started");
            // A program that has just been started has its environment a moment later.
            let began = std::time::Instant::now();
            while std::fs::read(format!("/proc/{}/environ", child.id())).expect("readable").is_empty() {
                assert!(began.elapsed().as_secs() < 30, "it has no environment");
                std::thread::yield_now();
            }
            child
        };
        let (mut ours, mut other) = (sleep(dir.path()), sleep(Path::new("/elsewhere")));
        assert_eq!(kill_processes(dir.path()).await, 1);
        assert!(!ours.wait().expect("ended").success());
        assert!(other.try_wait().expect("known").is_none());
        other.kill().expect("killed");
        other.wait().expect("ended");
    }

    #[test]
    fn directories_of_unknown_pods_go() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["shop_a_1", "shop_b_2", "other"] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
        }
        remove_directories(dir.path(), &BTreeSet::from(["2".to_owned()]));
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).expect("read").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "shop_b_2"]);
    }
}
