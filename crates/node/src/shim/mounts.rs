//! The program's view of the file system: volumes at their paths, everything else as on the host.
//!
//! [`plan`] decides from what exists on the host; [`apply`] carries it out. Where every target exists, it is mounted over.
//! Where one does not, the nearest directory above it can't be written to (that would be the host's), so a new root on
//! a tmpfs is put together from mounts of the old one's entries, with real directories only along the way to the target.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Mount;

/// One step of making a view, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A directory of the new root.
    Directory(PathBuf),
    /// A link of the new root.
    Link { at: PathBuf, to: PathBuf },
    /// A mount point at `at` is made, and the host's `from` mounted there; skipped when it has gone meanwhile.
    Entry { from: PathBuf, at: PathBuf },
    /// A volume.
    Volume { from: PathBuf, at: PathBuf, make: bool, read_only: bool },
}

/// What the host has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
    Nothing,
}

/// The host as [`plan`] sees it.
trait Host {
    fn kind(&self, path: &Path) -> Kind;
    fn entries(&self, path: &Path) -> Vec<OsString>;
    fn link(&self, path: &Path) -> Option<PathBuf>;
    /// The path with all links resolved as far as it exists.
    fn resolve(&self, path: &Path) -> PathBuf;
}

struct Disk;

impl Host for Disk {
    fn kind(&self, path: &Path) -> Kind {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Kind::Directory,
            Ok(meta) if meta.is_symlink() => Kind::Link,
            Ok(_) => Kind::File,
            Err(_) => Kind::Nothing,
        }
    }

    fn entries(&self, path: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        let mut rest = Vec::new();
        let mut at = path;
        loop {
            if let Ok(real) = fs::canonicalize(at) {
                return rest.iter().rev().fold(real, |path: PathBuf, part| path.join(part));
            }
            match (at.parent(), at.file_name()) {
                (Some(parent), Some(name)) => {
                    rest.push(name.to_owned());
                    at = parent;
                }
                _ => return path.to_owned(),
            }
        }
    }
}

/// The wanted mounts as a tree of path segments.
#[derive(Default)]
struct Tree<'a> {
    mount: Option<&'a Mount>,
    children: BTreeMap<OsString, Tree<'a>>,
}

/// Whether a new root is needed, and the steps.
fn plan(mounts: &[Mount], host: &impl Host) -> (bool, Vec<Step>) {
    let mut tree = Tree::default();
    for mount in mounts {
        let target = host.resolve(&mount.target);
        let mut at = &mut tree;
        for part in target.components() {
            if let Component::Normal(name) = part {
                at = at.children.entry(name.to_owned()).or_default();
            }
        }
        at.mount = Some(mount);
    }
    let mut steps = Vec::new();
    let new_root = !fits(&tree, Path::new("/"), host);
    if new_root {
        build(&tree, Path::new("/"), host, &mut steps);
    } else {
        over(&tree, Path::new("/"), false, &mut steps);
    }
    (new_root, steps)
}

/// Whether every target below `at` can be mounted over as it is.
fn fits(tree: &Tree<'_>, at: &Path, host: &impl Host) -> bool {
    if let Some(mount) = tree.mount {
        let directory = host.kind(&mount.source) == Kind::Directory;
        let there = host.kind(at);
        // What is nested in a volume lies in that volume, not on the host.
        return directory == (there == Kind::Directory) && matches!(there, Kind::Directory | Kind::File);
    }
    host.kind(at) == Kind::Directory && tree.children.iter().all(|(name, child)| fits(child, &at.join(name), host))
}

/// Mounts everything below `at` over what is there; `inside` a volume, mount points are made in the volume.
fn over(tree: &Tree<'_>, at: &Path, inside: bool, steps: &mut Vec<Step>) {
    if let Some(mount) = tree.mount {
        steps.push(Step::Volume {
            from: mount.source.clone(),
            at: at.to_owned(),
            make: inside,
            read_only: mount.read_only,
        });
    }
    for (name, child) in &tree.children {
        over(child, &at.join(name), inside || tree.mount.is_some(), steps);
    }
}

/// Puts the directory `at` together in the new root.
fn build(tree: &Tree<'_>, at: &Path, host: &impl Host, steps: &mut Vec<Step>) {
    steps.push(Step::Directory(at.to_owned()));
    for name in host.entries(at) {
        let path = at.join(&name);
        if tree.children.contains_key(&name) {
            continue;
        }
        match host.kind(&path) {
            Kind::Link => {
                if let Some(to) = host.link(&path) {
                    steps.push(Step::Link { at: path, to });
                }
            }
            Kind::Nothing => {}
            Kind::Directory | Kind::File => steps.push(Step::Entry { from: path.clone(), at: path }),
        }
    }
    for (name, child) in &tree.children {
        let path = at.join(name);
        if let Some(mount) = child.mount {
            steps.push(Step::Volume {
                from: mount.source.clone(),
                at: path.clone(),
                make: true,
                read_only: mount.read_only,
            });
            for (below, grandchild) in &child.children {
                over(grandchild, &path.join(below), true, steps);
            }
        } else if host.kind(&path) == Kind::Directory && fits(child, &path, host) {
            steps.push(Step::Entry { from: path.clone(), at: path.clone() });
            over(child, &path, false, steps);
        } else {
            build(child, &path, host, steps);
        }
    }
}

const NONE: Option<&str> = None;

/// Makes the view in the mount namespace of this process, which must be its own already.
pub(super) fn apply(mounts: &[Mount], staging: &Path) -> Result<(), String> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(|e| format!("can't make the mounts private: {e}"))?;
    let (new_root, steps) = plan(mounts, &Disk);
    let root = if new_root { staging } else { Path::new("/") };
    if new_root {
        mount(Some("tmpfs"), staging, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=1m"))
            .map_err(|e| format!("can't mount a new root on {}: {e}", staging.display()))?;
        // Else the mounts of the directories above it would bring it along, and all that is mounted in it by then.
        mount(NONE, staging, NONE, MsFlags::MS_UNBINDABLE, NONE)
            .map_err(|e| format!("can't set up the new root: {e}"))?;
    }
    for step in &steps {
        perform(step, root)?;
    }
    if new_root { switch(staging) } else { Ok(()) }
}

fn perform(step: &Step, root: &Path) -> Result<(), String> {
    let place = |at: &Path| root.join(at.strip_prefix("/").unwrap_or(at));
    match step {
        Step::Directory(at) => fs::create_dir_all(place(at)).map_err(|e| format!("can't make {}: {e}", at.display())),
        Step::Link { at, to } => {
            symlink(to, place(at)).map_err(|e| format!("can't make the link {}: {e}", at.display()))
        }
        Step::Entry { from, at } => {
            let at = place(at);
            let bound = point(from, &at).and_then(|()| bind(from, &at));
            // The host's files come and go; one that can't be had now is not worth the Pod.
            if let Err(error) = bound
                && from.symlink_metadata().is_ok()
                && error.kind() != std::io::ErrorKind::PermissionDenied
            {
                return Err(format!("can't mount {}: {error}", from.display()));
            }
            Ok(())
        }
        Step::Volume { from, at, make, read_only } => {
            let to = place(at);
            let failed = |e: std::io::Error| format!("can't mount {} at {}: {e}", from.display(), at.display());
            if *make {
                point(from, &to).map_err(failed)?;
            }
            bind(from, &to).map_err(failed)?;
            if *read_only { protect(&to).map_err(failed) } else { Ok(()) }
        }
    }
}

/// Makes a mount point of the right kind.
fn point(from: &Path, at: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(at)
    } else {
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        if !at.exists() {
            File::create(at)?;
        }
        Ok(())
    }
}

fn bind(from: &Path, at: &Path) -> std::io::Result<()> {
    Ok(mount(Some(from), at, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?)
}

/// Read-only, keeping the flags that an unprivileged namespace may not take off.
fn protect(at: &Path) -> std::io::Result<()> {
    let has = statvfs(at)?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (set, flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if has.contains(set) {
            flags |= flag;
        }
    }
    Ok(mount(NONE, at, NONE, flags, NONE)?)
}

/// Makes the new root the root.
fn switch(staging: &Path) -> Result<(), String> {
    let failed = |what: &'static str| move |e: nix::Error| format!("can't {what} the new root: {e}");
    std::env::set_current_dir(staging).map_err(|e| format!("can't enter the new root: {e}"))?;
    match nix::unistd::pivot_root(".", ".") {
        // The old root lies on top of the new one now, and is taken off.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).map_err(failed("uncover"))?,
        // A root that can't be moved (an initial ramdisk's) is left where it is.
        Err(_) => nix::unistd::chroot(".").map_err(failed("enter"))?,
    }
    std::env::set_current_dir("/").map_err(|e| format!("can't enter the new root: {e}"))?;
    mount(NONE, "/", NONE, MsFlags::MS_PRIVATE, NONE).map_err(failed("settle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of paths: those that end with `/` are directories, `a->b` are links.
    struct Fake(&'static [&'static str]);

    impl Fake {
        fn find(&self, path: &Path) -> Option<&'static str> {
            self.0.iter().copied().find(|e| Path::new(e.split("->").next().unwrap_or(e).trim_end_matches('/')) == path)
        }
    }

    impl Host for Fake {
        fn kind(&self, path: &Path) -> Kind {
            match self.find(path) {
                _ if path == Path::new("/") => Kind::Directory,
                None => Kind::Nothing,
                Some(entry) if entry.contains("->") => Kind::Link,
                Some(entry) if entry.ends_with('/') => Kind::Directory,
                Some(_) => Kind::File,
            }
        }

        fn entries(&self, path: &Path) -> Vec<OsString> {
            let clean = |e: &'static str| Path::new(e.split("->").next().unwrap_or(e).trim_end_matches('/'));
            let below = self.0.iter().map(|e| clean(e)).filter(|p| p.parent() == Some(path));
            below.filter_map(|p| p.file_name()).map(OsString::from).collect()
        }

        fn link(&self, path: &Path) -> Option<PathBuf> {
            self.find(path)?.split_once("->").map(|(_, to)| PathBuf::from(to))
        }

        fn resolve(&self, path: &Path) -> PathBuf {
            path.to_owned()
        }
    }

    const HOST: Fake =
        Fake(&["/bin->usr/bin", "/etc/", "/etc/hosts", "/etc/passwd", "/usr/", "/tmp/", "/v/", "/v/a/", "/v/file"]);

    fn mounted(mounts: &[(&str, &str)]) -> (bool, Vec<String>) {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|(source, target)| Mount { source: source.into(), target: target.into(), read_only: false })
            .collect();
        let (root, steps) = plan(&mounts, &HOST);
        let told = steps
            .iter()
            .map(|step| match step {
                Step::Directory(at) => format!("dir {}", at.display()),
                Step::Link { at, to } => format!("link {} {}", at.display(), to.display()),
                Step::Entry { at, .. } => format!("host {}", at.display()),
                Step::Volume { from, at, make, .. } => {
                    format!("volume {} {}{}", from.display(), at.display(), if *make { " made" } else { "" })
                }
            })
            .collect();
        (root, told)
    }

    #[test]
    fn what_exists_is_mounted_over() {
        assert_eq!(
            mounted(&[("/v/file", "/etc/hosts"), ("/v/a", "/tmp")]),
            (false, vec!["volume /v/file /etc/hosts".to_owned(), "volume /v/a /tmp".to_owned()])
        );
    }

    #[test]
    fn a_missing_top_directory_takes_a_new_root() {
        let (root, steps) = mounted(&[("/v/a", "/data"), ("/v/file", "/etc/hosts")]);
        assert!(root);
        assert_eq!(
            steps,
            [
                "dir /",
                "link /bin usr/bin",
                "host /usr",
                "host /tmp",
                "host /v",
                "volume /v/a /data made",
                "host /etc",
                "volume /v/file /etc/hosts"
            ]
        );
    }

    #[test]
    fn a_missing_nested_directory_makes_those_above_it_real() {
        let (root, steps) = mounted(&[("/v/a", "/etc/config/deep"), ("/v/file", "/etc/hosts")]);
        assert!(root);
        assert_eq!(
            steps[steps.len() - 5..],
            [
                "dir /etc",
                "host /etc/passwd",
                "dir /etc/config",
                "volume /v/a /etc/config/deep made",
                "volume /v/file /etc/hosts made"
            ]
        );
    }

    #[test]
    fn a_volume_in_a_volume_is_mounted_after_it() {
        let (_, steps) = mounted(&[("/v/file", "/data/sub/file"), ("/v/a", "/data")]);
        assert_eq!(steps[steps.len() - 2..], ["volume /v/a /data made", "volume /v/file /data/sub/file made"]);
    }

    #[test]
    fn a_file_where_the_host_has_a_directory_takes_a_new_root() {
        assert!(mounted(&[("/v/file", "/tmp")]).0);
    }
}
