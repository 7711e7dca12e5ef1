//! User namespaces: making one, and saying who is who in it.
//!
//! Everybody keeps their number. As root all users of the machine are there; as anybody else only that user is.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid, getpid};

use super::{MAP, SUBCOMMAND};

/// Says which users there are in the new user namespace of process `pid`, as the one who owns it, from outside of it.
pub(crate) fn map(pid: i32) -> io::Result<()> {
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, text).map_err(|e| io::Error::new(e.kind(), format!("can't write {path}: {e}")))
    };
    if geteuid().is_root() {
        write("uid_map", &same(&std::fs::read_to_string("/proc/self/uid_map")?))?;
        return write("gid_map", &same(&std::fs::read_to_string("/proc/self/gid_map")?));
    }
    let (uid, gid) = (geteuid(), getegid());
    write("setgroups", "deny")?;
    write("uid_map", &format!("{uid} {uid} 1"))?;
    write("gid_map", &format!("{gid} {gid} 1"))
}

/// A map by which all that have a number here keep it, from the map of here.
fn same(map: &str) -> String {
    let mut text = String::new();
    for line in map.lines() {
        let mut fields = line.split_ascii_whitespace();
        if let (Some(first), Some(count)) = (fields.next(), fields.nth(1)) {
            let _ = writeln!(text, "{first} {first} {count}");
        }
    }
    text
}

/// Moves this process into a new user namespace and new ones of the kinds in `more`.
pub(super) fn enter_new(more: CloneFlags) -> io::Result<()> {
    let unshared = |more| unshare(CloneFlags::CLONE_NEWUSER | more).map_err(io::Error::from);
    if !geteuid().is_root() {
        let (uid, gid) = (geteuid(), getegid());
        unshared(more)?;
        let write = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text)
                .map_err(|e| io::Error::new(e.kind(), format!("can't write {file}: {e}")))
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{uid} {uid} 1"))?;
        return write("gid_map", format!("{gid} {gid} 1"));
    }
    // More than oneself can only be mapped from outside, so somebody stays there.
    let mut outside = Command::new("/proc/self/exe")
        .args([SUBCOMMAND, MAP, &getpid().to_string()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let result = unshared(more);
    // The end of its input tells that it is time.
    drop(outside.stdin.take());
    let mut why = String::new();
    if let Some(mut told) = outside.stderr.take() {
        told.read_to_string(&mut why)?;
    }
    let mapped = outside.wait()?.success();
    result?;
    if mapped { Ok(()) } else { Err(io::Error::other(why.trim().to_owned())) }
}

/// What the one who stays outside does: waits until it is time, and maps.
pub(super) fn run(pid: Option<i32>) -> io::Result<()> {
    let pid = pid.ok_or_else(|| io::Error::other("whose users?"))?;
    io::stdin().read_to_end(&mut Vec::new())?;
    map(pid)
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn everybody_keeps_their_number() {
        assert_eq!(same("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(same("0 100000 1000\n1000 1000 1\n"), "0 0 1000\n1000 1000 1\n");
    }
}
