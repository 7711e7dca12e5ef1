//! Finding processes: the descendants of one, those that carry a mark in their environment, and those that see one view of the file system.
//!
//! Everything here is a look at `/proc`, out of date as soon as it is taken; whoever kills by it looks again until nothing is
//! left.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process, told from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    pub pid: i32,
    /// In clock ticks since the machine started.
    pub started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Process> {
        let (_, started) = stat(pid)?;
        Some(Process { pid, started })
    }

    /// Kills it, if it is still the one that has this number.
    pub(crate) fn kill(self) {
        if Process::of(self.pid) == Some(self) {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// Parent and start time. The command's name may hold spaces and parentheses, so fields are counted behind the last one.
fn stat(pid: i32) -> Option<(i32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let behind = &text[text.rfind(')')? + 1..];
    let mut fields = behind.split_ascii_whitespace();
    // Behind the name: state, parent, ..., and the 20th is the start time.
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((parent, started))
}

fn all() -> Vec<i32> {
    let Ok(read) = std::fs::read_dir("/proc") else { return Vec::new() };
    read.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The parent of a living process.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|(parent, _)| parent)
}

/// The living descendants of a process, without itself.
pub(crate) fn tree(root: i32) -> Vec<Process> {
    trees(&[root]).pop().unwrap_or_default()
}

/// The living descendants of each of some processes, by one look at all processes.
pub(crate) fn trees(roots: &[i32]) -> Vec<Vec<Process>> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for pid in all() {
        if let Some((parent, started)) = stat(pid) {
            children.entry(parent).or_default().push(Process { pid, started });
        }
    }
    roots.iter().map(|root| below(*root, &children)).collect()
}

fn below(root: i32, children: &BTreeMap<i32, Vec<Process>>) -> Vec<Process> {
    let (mut found, mut open) = (Vec::new(), vec![root]);
    let mut seen = BTreeSet::from([root]);
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child.pid) {
                open.push(child.pid);
                found.push(*child);
            }
        }
    }
    found
}

/// The living processes whose mount namespace has this number.
pub(crate) fn seeing(view: u64) -> Vec<Process> {
    let sees = |pid: &i32| std::fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns.ino() == view);
    such(sees)
}

/// The living processes whose environment has a variable `name` with a value that begins with `prefix`.
pub(crate) fn marked(name: &str, prefix: &str) -> Vec<Process> {
    let wanted = format!("{name}={prefix}");
    such(|pid| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|b| *b == 0).any(|entry| entry.starts_with(wanted.as_bytes())))
    })
}

/// The living processes of which something is true. It is asked again once the start time is known: the number may have been given to
/// another between the two.
fn such(is: impl Fn(&i32) -> bool) -> Vec<Process> {
    all().into_iter().filter(&is).filter_map(Process::of).filter(|process| is(&process.pid)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_later_process_of_that_number_is_not_killed() {
        for (later, expected) in [(1, Signal::SIGTERM), (0, Signal::SIGKILL)] {
            let mut child = std::process::Command::new("sleep").arg("300").spawn().expect("started");
            let process = Process::of(i32::try_from(child.id()).expect("a number")).expect("it lives");
            Process { started: process.started - later, ..process }.kill();
            // Of the two the kernel takes the other first, where that was sent.
            kill(Pid::from_raw(process.pid), Signal::SIGTERM).expect("it is not waited for yet");
            assert_eq!(child.wait().expect("ended").signal(), Some(expected as i32));
        }
    }
}
