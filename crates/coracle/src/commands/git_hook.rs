//! `coracle git-hook pre-receive`: what git calls before it takes a push to one of our repositories. It looks for secrets.

use crate::cli::GitHook;
use crate::exit;
use anyhow::Context;
use delivery::sync::http::scan;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

/// The longest list of references that is read, in bytes.
const REFERENCES: u64 = 1024 * 1024;
/// How much of a push's text is looked through, in bytes.
const TEXT: u64 = 256 * 1024 * 1024;

pub(crate) fn run(arguments: &GitHook) -> anyhow::Result<ExitCode> {
    if arguments.hook != "pre-receive" {
        return Err(exit::bad_input(format!("there is no hook {:?}, only pre-receive", arguments.hook)));
    }
    let mut references = String::new();
    std::io::stdin().take(REFERENCES).read_to_string(&mut references).context("reading what is pushed")?;
    let mut found = Vec::new();
    for line in references.lines() {
        let Some(new) = line.split(' ').nth(1).filter(|new| !new.bytes().all(|byte| byte == b'0')) else { continue };
        found.extend(scan::findings(&patch(new)?));
    }
    if found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("coracle: the push is refused: it holds what looks like secrets");
    for one in found.iter().take(20) {
        let place = if one.line > 0 { format!("{}:{}", one.file, one.line) } else { one.file.clone() };
        eprintln!("coracle:   {place}: {}", one.what);
    }
    eprintln!(
        "coracle: take them out of every commit (git rebase -i), and change them: they were on this machine's disk."
    );
    eprintln!("coracle: a line that only looks so passes with the words coracle:allow-secret in it.");
    Ok(ExitCode::from(1))
}

/// The lines that the new commits add.
fn patch(new: &str) -> anyhow::Result<String> {
    let arguments = [
        "log",
        "-p",
        "-U0",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--diff-filter=AMR",
        "--format=",
        "-m",
        new,
        "--not",
        "--all",
    ];
    let mut child = Command::new("git").args(arguments).stdout(Stdio::piped()).spawn().context("cannot run git")?;
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(TEXT + 1).read_to_end(&mut text).context("reading what is pushed")?;
    }
    if text.len() as u64 > TEXT {
        let _ = child.kill();
        let _ = child.wait();
        anyhow::bail!(
            "the push adds more than {TEXT} bytes of text, more than is looked through for secrets; push it in parts"
        );
    }
    let status = child.wait().context("cannot run git")?;
    anyhow::ensure!(status.success(), "git log failed on what is pushed: {status}");
    Ok(String::from_utf8_lossy(&text).into_owned())
}
