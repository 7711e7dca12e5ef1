//! Repositories on this machine tell of themselves: file events on where git keeps references.
//!
//! On Linux by inotify; elsewhere nothing is heard, and the period of looking is what is left.

use std::path::PathBuf;

/// The path of a repository on this machine.
#[must_use]
pub(crate) fn local_path(url: &str) -> Option<PathBuf> {
    if url.starts_with('/') {
        return Some(PathBuf::from(url));
    }
    let path = url.strip_prefix("file://")?;
    path.starts_with('/').then(|| PathBuf::from(path.replace("%20", " ").replace("%25", "%")))
}

#[cfg(target_os = "linux")]
mod linux {
    //! The events of Linux.

    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::path::{Path, PathBuf};

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use tokio::io::unix::AsyncFd;

    /// How many directories of one repository are watched.
    const MOST: usize = 512;

    /// The events' file, as the runtime wants it.
    struct Source(Inotify);

    impl AsRawFd for Source {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_fd().as_raw_fd()
        }
    }

    /// Hears of changed references.
    pub(crate) struct Events {
        inotify: AsyncFd<Source>,
        git: PathBuf,
    }

    /// Begins to hear of a repository on this machine; none where that cannot be.
    pub(crate) fn watch(url: &str) -> Option<Events> {
        let path = super::local_path(url)?;
        let git = if path.join("HEAD").is_file() { path } else { path.join(".git") };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe to call; this file is owned, and open as long as it is registered"
        )]
        let inotify = AsyncFd::new(Source(inotify)).ok()?;
        let events = Events { inotify, git };
        events.add();
        Some(events)
    }

    impl Events {
        /// Watches every directory that may hold references; those that are watched already stay so.
        fn add(&self) {
            let mut left = MOST;
            self.one(&self.git, &mut left);
            for below in ["refs", "reftable"] {
                self.below(&self.git.join(below), &mut left, 0);
            }
        }

        fn below(&self, dir: &Path, left: &mut usize, depth: usize) {
            self.one(dir, left);
            let Ok(entries) = std::fs::read_dir(dir) else { return };
            for entry in entries.flatten() {
                if *left > 0 && depth < 8 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    self.below(&entry.path(), left, depth + 1);
                }
            }
        }

        fn one(&self, dir: &Path, left: &mut usize) {
            // git writes a lock and moves it over the file.
            let flags = AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF;
            if *left > 0 && self.inotify.get_ref().0.add_watch(dir, flags).is_ok() {
                *left -= 1;
            }
        }

        /// Whether anything that was told is about references.
        async fn next(&self) {
            loop {
                let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
                let mut told = false;
                while let Ok(events) = self.inotify.get_ref().0.read_events() {
                    let of_references = |name: &std::ffi::OsStr| {
                        let name = name.to_string_lossy();
                        !name.ends_with(".lock")
                            && !matches!(
                                &*name,
                                "index" | "COMMIT_EDITMSG" | "FETCH_HEAD" | "ORIG_HEAD" | "config" | "objects" | "logs"
                            )
                    };
                    told |= events.iter().any(|event| event.name.as_deref().is_none_or(of_references));
                }
                ready.clear_ready();
                if told {
                    // A new branch may have come with a directory of its own.
                    self.add();
                    return;
                }
            }
        }
    }

    /// Resolves when references may have changed; never where nothing is heard.
    pub(crate) async fn changed(events: &mut Option<Events>) {
        match events {
            Some(events) => events.next().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{changed, watch};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    //! Where nothing is heard.

    /// Nothing.
    pub(crate) struct Events;

    pub(crate) fn watch(_: &str) -> Option<Events> {
        None
    }

    pub(crate) async fn changed(_: &mut Option<Events>) {
        std::future::pending().await
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{changed, watch};
