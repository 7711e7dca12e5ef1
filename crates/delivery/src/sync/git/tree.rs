//! Writes the files of a commit into a directory, as far as they can be trusted.
//!
//! Invariants: nothing is written outside of the directory, and no link in it leads out of it; names are UTF-8 without `..`;
//! files, their number and their sum are bounded; nothing that git runs on a checkout (filters, hooks, attributes) takes part.
//! What is wrong below the wanted path refuses the commit; what is wrong elsewhere in the repository is left out and told.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::GitError;
use super::mirror::Mirror;

/// How many links may lead from one to the next.
const HOPS: usize = 40;

/// The files of a commit, as they are on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The directory that stands for the repository's root.
    pub root: PathBuf,
    /// What was left out, which is nothing below the wanted path.
    pub left_out: Vec<LeftOut>,
    /// Every file and link that was written, with the name of its content (and `+x` where it may be run).
    pub files: BTreeMap<String, String>,
}

/// Something that was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path in the repository.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// One entry of a commit's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    /// Whether it may be run.
    program: bool,
    object: String,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Link,
    Module,
}

impl Mirror {
    /// Writes a commit that is here into `into`, which must not be there yet. `path` is the directory that matters, relative
    /// to the root (`""` or `.` for all of it).
    ///
    /// # Errors
    ///
    /// When the commit holds what is refused, or a disk fails.
    pub async fn export(&self, commit: &str, path: &str, into: &Path) -> Result<Export, GitError> {
        self.write_out(commit, path, into, self.git.limits().file).await
    }

    /// As [`Mirror::export`], for programs to be made there: a single file may be as large as all together.
    ///
    /// # Errors
    ///
    /// As [`Mirror::export`].
    pub async fn check_out(&self, commit: &str, path: &str, into: &Path) -> Result<Export, GitError> {
        self.write_out(commit, path, into, self.git.limits().tree).await
    }

    async fn write_out(&self, commit: &str, path: &str, into: &Path, most: u64) -> Result<Export, GitError> {
        let path = normal(path).map_err(|reason| self.refuse(commit, path, reason))?;
        let listing = self.list(commit).await?;
        let (mut entries, mut left_out) = (BTreeMap::new(), Vec::new());
        let limits = self.git.limits();
        let mut sum = 0;
        for (name, outcome) in listing {
            let matters = path.is_empty() || name == path || name.starts_with(&format!("{path}/"));
            let outcome = outcome.and_then(|entry| bounded(entry, most));
            match outcome {
                Ok(entry) => {
                    sum += entry.size;
                    entries.insert(name, entry);
                }
                Err(reason) if matters || reason == DANGEROUS => return Err(self.refuse(commit, &name, reason)),
                Err(reason) => left_out.push(LeftOut { path: name, reason }),
            }
        }
        if sum > limits.tree {
            return Err(GitError::TooLarge {
                attempt: "read a commit of",
                repository: self.shown(),
                what: format!("all files of {commit} together"),
                limit: limits.tree,
            });
        }
        let contents = self.contents(&entries).await?;
        let links = self.links(commit, &path, &mut entries, &contents, &mut left_out)?;
        write(into, &entries, &contents, &links).map_err(|(path, error)| GitError::Disk {
            attempt: "write",
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        left_out.truncate(100);
        let content = |entry: &Entry| format!("{}{}", entry.object, if entry.program { "+x" } else { "" });
        let files = entries.iter().map(|(name, entry)| (name.clone(), content(entry))).collect();
        Ok(Export { root: into.to_owned(), left_out, files })
    }

    fn refuse(&self, commit: &str, path: &str, reason: impl Into<String>) -> GitError {
        let (repository, commit) = (self.shown(), commit.chars().take(12).collect());
        GitError::Content { repository, commit, path: path.to_owned(), reason: reason.into() }
    }

    async fn list(&self, commit: &str) -> Result<Vec<(String, Result<Entry, String>)>, GitError> {
        let dir = self.directory().display().to_string();
        let arguments = ["-C", &dir, "ls-tree", "-r", "-z", "-l", "--full-tree", commit];
        let listing = self.git.run(&arguments, self.doing("list the files of"), Vec::new()).await?;
        let most = self.git.limits().files;
        let lines = listing.split(|byte| *byte == 0).filter(|line| !line.is_empty());
        let entries: Vec<_> = lines.take(most + 1).map(entry).collect();
        if entries.len() > most {
            let reason = format!("the repository has more than {most} files");
            return Err(self.refuse(commit, ".", reason));
        }
        Ok(entries)
    }

    /// The content of every entry, by object.
    async fn contents(&self, entries: &BTreeMap<String, Entry>) -> Result<BTreeMap<String, Vec<u8>>, GitError> {
        let mut objects: Vec<&str> =
            entries.values().filter(|entry| entry.kind != Kind::Module).map(|entry| entry.object.as_str()).collect();
        objects.sort_unstable();
        objects.dedup();
        if objects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let dir = self.directory().display().to_string();
        let mut asked = objects.join("\n").into_bytes();
        asked.push(b'\n');
        let doing = self.doing("read the files of");
        let command = self.git.command(&["-C", &dir, "cat-file", "--batch"], &super::credential::Held::default(), 512);
        // Beside the content comes a line for each.
        let most = self.git.limits().tree + 256 * objects.len() as u64;
        let outcome = super::run::collect(command, doing, asked, self.git.limits().local_time, most).await?;
        let answer = outcome.or_refused(doing)?;
        batch(&answer).ok_or_else(|| GitError::Refused {
            attempt: "read the files of",
            repository: self.shown(),
            reason: "git's answer ends too early; the mirror is broken".to_owned(),
        })
    }

    /// Where each link leads, once all that lead nowhere good are out.
    fn links(
        &self,
        commit: &str,
        path: &str,
        entries: &mut BTreeMap<String, Entry>,
        contents: &BTreeMap<String, Vec<u8>>,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<BTreeMap<String, String>, GitError> {
        let mut targets = BTreeMap::new();
        for (name, entry) in entries.iter().filter(|(_, entry)| entry.kind == Kind::Link) {
            let target = contents.get(&entry.object).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            targets.insert(name.clone(), target.unwrap_or_default());
        }
        let mut good = BTreeMap::new();
        for (name, target) in &targets {
            match follow(name, &targets) {
                Ok(()) => drop(good.insert(name.clone(), target.clone())),
                Err(reason) => {
                    let below = path.is_empty() || name.starts_with(&format!("{path}/"));
                    // A path that itself passes a bad link is the same trouble.
                    let above = path == name || path.starts_with(&format!("{name}/"));
                    if below || above {
                        return Err(self.refuse(commit, name, reason));
                    }
                    left_out.push(LeftOut { path: name.clone(), reason: reason.to_owned() });
                    entries.remove(name);
                }
            }
        }
        Ok(good)
    }
}

const DANGEROUS: &str = "its name leads out of the repository or into git's own files";

/// A path inside the repository without `.` and empty parts.
fn normal(path: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("a path with .. may lead out of the repository; write it from the root");
    }
    Ok(parts.join("/"))
}

/// Reads `MODE TYPE OBJECT SIZE\tNAME`.
fn entry(line: &[u8]) -> (String, Result<Entry, String>) {
    let tab = line.iter().position(|byte| *byte == b'\t').unwrap_or(line.len());
    let (head, name) = (&line[..tab], line.get(tab + 1..).unwrap_or_default());
    let head = String::from_utf8_lossy(head);
    let mut words = head.split_whitespace();
    let (mode, _, object, size) = (words.next(), words.next(), words.next(), words.next());
    let Ok(text) = std::str::from_utf8(name) else {
        return (String::from_utf8_lossy(name).into_owned(), Err("its name is no UTF-8".to_owned()));
    };
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.eq_ignore_ascii_case(".git");
    if text.split('/').any(bad) || text.contains('\\') && text.split(['/', '\\']).any(bad) {
        return (text.to_owned(), Err(DANGEROUS.to_owned()));
    }
    let kind = match mode {
        Some("100644" | "100755" | "100664") => Kind::File,
        Some("120000") => Kind::Link,
        Some("160000") => Kind::Module,
        _ => return (text.to_owned(), Err("it is no file, link or directory".to_owned())),
    };
    let size = size.and_then(|size| size.parse().ok()).unwrap_or(0);
    let program = mode == Some("100755");
    (text.to_owned(), Ok(Entry { kind, program, object: object.unwrap_or_default().to_owned(), size }))
}

fn bounded(entry: Entry, most: u64) -> Result<Entry, String> {
    match entry.kind {
        Kind::Module => Err("submodules are not followed; name the other repository as a source of its own".to_owned()),
        Kind::Link if entry.size > 4096 => Err("the link is longer than a path may be".to_owned()),
        _ if entry.size > most => Err(format!("it has {} bytes, more than the limit of {most}", entry.size)),
        _ => Ok(entry),
    }
}

/// Whether a link ends inside the repository, wherever the links on its way lead.
fn follow(name: &str, links: &BTreeMap<String, String>) -> Result<(), &'static str> {
    let out = Err("the link leads out of the repository");
    let mut hops = 0;
    let mut at: Vec<String> = Vec::new();
    let mut ahead: Vec<String> = name.split('/').rev().map(str::to_owned).collect();
    while let Some(part) = ahead.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                if at.pop().is_none() {
                    return out;
                }
                continue;
            }
            _ => at.push(part),
        }
        let Some(target) = links.get(&at.join("/")) else { continue };
        hops += 1;
        if hops > HOPS {
            return Err("the link leads in a circle");
        }
        if target.starts_with('/') || target.contains('\0') {
            return out;
        }
        at.pop();
        ahead.extend(target.split('/').rev().map(str::to_owned));
    }
    Ok(())
}

/// Reads `git cat-file --batch`: `OBJECT TYPE SIZE\n` and as many bytes, and a newline.
fn batch(answer: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut rest = answer;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(&rest[..end]).ok()?;
        let mut words = head.split(' ');
        let (object, _, size) = (words.next()?, words.next()?, words.next()?.parse::<usize>().ok()?);
        let content = rest.get(end + 1..end + 1 + size)?;
        found.insert(object.to_owned(), content.to_vec());
        rest = rest.get(end + 2 + size..)?;
    }
    Some(found)
}

type Failed = (PathBuf, std::io::Error);

fn write(
    into: &Path,
    entries: &BTreeMap<String, Entry>,
    contents: &BTreeMap<String, Vec<u8>>,
    links: &BTreeMap<String, String>,
) -> Result<(), Failed> {
    std::fs::create_dir_all(into).map_err(|error| (into.to_owned(), error))?;
    let mut made = std::collections::BTreeSet::new();
    for (name, entry) in entries {
        let path = into.join(name);
        let outcome = || -> std::io::Result<()> {
            let parent = path.parent().unwrap_or(into);
            if made.insert(parent.to_owned()) {
                std::fs::create_dir_all(parent)?;
            }
            match (entry.kind, links.get(name)) {
                (Kind::Link, Some(target)) => std::os::unix::fs::symlink(target, &path),
                (Kind::File, _) => {
                    std::fs::write(&path, contents.get(&entry.object).map_or(&[][..], Vec::as_slice))?;
                    if entry.program {
                        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
                    }
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        let mut outcome = outcome;
        outcome().map_err(|error| (path.clone(), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_and_nowhere_else() {
        let links = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, target)| ((*name).to_owned(), (*target).to_owned())).collect()
        };
        for (pairs, name, good) in [
            (&[("a/l", "../b/f")][..], "a/l", true),
            (&[("l", "../f")][..], "l", false),
            (&[("l", "/etc/passwd")][..], "l", false),
            (&[("a/l", "../../f")][..], "a/l", false),
            (&[("a/l", "m/../../../x"), ("a/m", "../b")][..], "a/l", false),
            // What looks inside by its words alone is outside through another link.
            (&[("d", "a/b"), ("l", "d/../../../x")][..], "l", false),
            (&[("d", "a/b"), ("l", "d/../x")][..], "l", true),
            (&[("a", "b"), ("b", "a")][..], "a", false),
        ] {
            assert_eq!(follow(name, &links(pairs)).is_ok(), good, "{pairs:?}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let line = |name: &[u8]| [b"100644 blob 0123456789012345678901234567890123456789       2\t", name].concat();
        for (name, good) in [
            (&b"a/b.yaml"[..], true),
            (b"..a/b", true),
            (b"a/../../etc/passwd", false),
            (b"a//b", false),
            (b".git/hooks/post-checkout", false),
            (b"a/.GIT/config", false),
            (b"..\\x", false),
            (b"caf\xe9.yaml", false),
        ] {
            let (_, outcome) = entry(&line(name));
            assert_eq!(outcome.is_ok(), good, "{:?}", String::from_utf8_lossy(name));
        }
        assert_eq!(normal("./a//b/").as_deref(), Ok("a/b"));
        assert!(normal("a/../..").is_err());
    }

    #[test]
    fn a_batch_is_read_whole_or_not_at_all() {
        let answer = b"aa blob 3\nx\ny\nbb blob 0\n\n";
        let found = batch(answer).expect("whole");
        assert_eq!((found["aa"].as_slice(), found["bb"].as_slice()), (&b"x\ny"[..], &b""[..]));
        assert_eq!(batch(&answer[..12]), None);
        assert_eq!(batch(b"cc missing\n"), None);
    }
}
