//! Runs the build commands of recipes: one after the other, each at most once, and not at all when its inputs are as they
//! were at the last success.
//!
//! A build that is dropped midway is killed with all its process group, and counts as not done.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::{Recipe, Recipes, fingerprint};

/// How many of a failed build's last lines are told.
const LAST_LINES: usize = 40;
/// A line longer than this is cut.
const LINE_LIMIT: usize = 4096;

/// What goes on while recipes are built.
#[derive(Debug)]
pub enum BuildProgress<'a> {
    /// A build begins.
    Started {
        /// The images that it makes.
        images: &'a [String],
        /// The shell command.
        command: &'a str,
    },
    /// The build said something.
    Line {
        /// The images that it makes.
        images: &'a [String],
        /// One line of its output.
        text: &'a str,
    },
    /// The build succeeded.
    Finished {
        /// The images that it makes.
        images: &'a [String],
        /// How long it took.
        elapsed: Duration,
    },
    /// Nothing it depends on has changed since it last succeeded.
    Unchanged {
        /// The images that it makes.
        images: &'a [String],
    },
}

/// A build did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum BuildFailed {
    /// The command could not be started.
    #[error("can't start the build of {images}, `{command}` in {directory}: {source}", images = images.join(", "))]
    Start {
        /// The images that it makes.
        images: Vec<String>,
        /// The shell command.
        command: String,
        /// Where it was to run.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The command ended with a failure.
    #[error(
        "the build of {images} failed ({exit}): `{command}` in {directory}\n{tail}",
        images = images.join(", "), tail = lines.join("\n")
    )]
    Exit {
        /// The images that it makes.
        images: Vec<String>,
        /// The shell command.
        command: String,
        /// Where it ran.
        directory: PathBuf,
        /// Its exit status in words.
        exit: String,
        /// The last lines that it wrote.
        lines: Vec<String>,
    },
}

impl Recipes {
    /// Builds the named images (all, when `names` is empty) and remembers in `state_dir` what was built from what.
    pub async fn build(
        &self,
        names: &[String],
        state_dir: &Path,
        progress: impl FnMut(BuildProgress<'_>) + Send,
    ) -> Result<(), BuildFailed> {
        self.build_with(names, state_dir, &[], progress).await
    }

    /// As [`Recipes::build`], with variables for the commands.
    pub(super) async fn build_with(
        &self,
        names: &[String],
        state_dir: &Path,
        environment: &[(&str, String)],
        progress: impl FnMut(BuildProgress<'_>) + Send,
    ) -> Result<(), BuildFailed> {
        let mut progress = progress;
        for job in jobs(self, names) {
            let recorded = state_dir.join("builds").join(&job.key);
            let before = job.fingerprint();
            if before.is_some() && std::fs::read_to_string(&recorded).ok() == before {
                progress(BuildProgress::Unchanged { images: &job.images });
                continue;
            }
            // A build that fails or is killed must not leave the record of an older success behind.
            let _ = std::fs::remove_file(&recorded);
            job.run(environment, &mut progress).await?;
            // Taken again: a build may write beside its inputs (a lock file), and that is no change.
            if let Some(after) = job.fingerprint() {
                let kept = recorded.parent().map(std::fs::create_dir_all).transpose();
                if let Err(error) = kept.and_then(|_| std::fs::write(&recorded, after)) {
                    tracing::debug!(%error, "can't remember a build; it will run again");
                }
            }
        }
        Ok(())
    }
}

/// One command in one directory; several images may come from it.
struct Job {
    key: String,
    images: Vec<String>,
    command: String,
    directory: PathBuf,
    inputs: Vec<String>,
}

fn jobs(recipes: &Recipes, names: &[String]) -> Vec<Job> {
    let chosen: Vec<&Recipe> = if names.is_empty() {
        recipes.images.values().collect()
    } else {
        let wanted: std::collections::BTreeSet<_> =
            names.iter().filter_map(|n| recipes.lookup(n)).map(|r| &r.name).collect();
        recipes.images.values().filter(|r| wanted.contains(&r.name)).collect()
    };
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for recipe in chosen {
        let Some(command) = &recipe.build else { continue };
        let mut hash = Sha256::new();
        hash.update(recipe.working_dir.as_os_str().as_encoded_bytes());
        hash.update([0]);
        hash.update(command);
        let key = hex(&hash.finalize());
        let job = jobs.entry(key.clone()).or_insert_with(|| Job {
            key,
            images: Vec::new(),
            command: command.clone(),
            directory: recipe.working_dir.clone(),
            inputs: recipe.inputs.clone(),
        });
        job.images.push(recipe.name.clone());
        if recipe.inputs.is_empty() {
            job.inputs.clear(); // one that can't say makes it unknown for all
        } else if !job.inputs.is_empty() {
            job.inputs.extend(recipe.inputs.iter().cloned());
        }
    }
    jobs.into_values().collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Kills what is left of a build's process group when the build is given up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Job {
    fn fingerprint(&self) -> Option<String> {
        if self.inputs.is_empty() {
            return None;
        }
        fingerprint::of(&self.directory, &self.inputs)
    }

    async fn run(
        &self,
        environment: &[(&str, String)],
        progress: &mut (impl FnMut(BuildProgress<'_>) + Send),
    ) -> Result<(), BuildFailed> {
        let began = Instant::now();
        progress(BuildProgress::Started { images: &self.images, command: &self.command });
        let failed = |source| BuildFailed::Start {
            images: self.images.clone(),
            command: self.command.clone(),
            directory: self.directory.clone(),
            source,
        };
        let mut child = tokio::process::Command::new("sh")
            .arg("-c")
            .arg(&self.command)
            .current_dir(&self.directory)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let (mut out, mut err) = (Lines::new(child.stdout.take()), Lines::new(child.stderr.take()));
        let mut last = VecDeque::with_capacity(LAST_LINES);
        loop {
            let line = tokio::select! {
                Some(line) = out.next() => line,
                Some(line) = err.next() => line,
                else => break,
            };
            progress(BuildProgress::Line { images: &self.images, text: &line });
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        let status = child.wait().await.map_err(failed)?;
        group.0 = None; // reaped: the number may be another's from now on
        if !status.success() {
            return Err(BuildFailed::Exit {
                images: self.images.clone(),
                command: self.command.clone(),
                directory: self.directory.clone(),
                exit: status.to_string(),
                lines: last.into(),
            });
        }
        progress(BuildProgress::Finished { images: &self.images, elapsed: began.elapsed() });
        Ok(())
    }
}

/// Lines of one output, each bounded; `None` for good at its end.
struct Lines<R>(Option<BufReader<R>>, Vec<u8>);

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(input: Option<R>) -> Self {
        Lines(input.map(BufReader::new), Vec::new())
    }

    /// Cancel safe: what was read of a line so far stays in the buffer.
    async fn next(&mut self) -> Option<String> {
        loop {
            let input = self.0.as_mut()?;
            let chunk = match input.fill_buf().await {
                Ok(chunk) if !chunk.is_empty() => chunk,
                _ => {
                    self.0 = None;
                    return (!self.1.is_empty()).then(|| self.take());
                }
            };
            let end = chunk.iter().position(|b| *b == b'\n');
            let text = &chunk[..end.unwrap_or(chunk.len())];
            let room = LINE_LIMIT.saturating_sub(self.1.len()).min(text.len());
            self.1.extend_from_slice(&text[..room]);
            let used = end.map_or(chunk.len(), |at| at + 1);
            input.consume(used);
            if end.is_some() {
                return Some(self.take());
            }
        }
    }

    fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.1)).trim_end_matches('\r').to_owned()
    }
}
