//! A file of lines that takes a bounded room: when it is full it becomes `.1`, what was `.1` becomes `.2`, and the oldest goes.
//!
//! Invariants: a line is in the file as a whole or not at all; a file that can't be made way for becomes longer, up to twice its size,
//! before a line is lost; that lines are lost is said once, and how many when they are written again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use parking_lot::Mutex;

/// How many full files are kept beside the one that is written.
pub(crate) const FULL_FILES: u32 = 3;
/// How many lines have to be written in a row until lines that are lost again are news.
const CALM: u32 = 100;

/// Where lines go.
pub(crate) struct Lines {
    path: PathBuf,
    /// How large a file becomes.
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<(File, u64)>,
    losses: Losses,
    /// A file that is full can't be put aside.
    stuck: bool,
}

/// Lines that were lost, and what is said of it. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Losses {
    lost: u64,
    /// How many lines were written since.
    since: u32,
}

impl Losses {
    /// One is lost; whether that is to be said.
    fn lose(&mut self) -> bool {
        self.lost += 1;
        self.since = 0;
        self.lost == 1
    }

    /// One is written; how many were lost before, where that is to be said.
    fn keep(&mut self) -> Option<u64> {
        if self.lost == 0 {
            return None;
        }
        self.since += 1;
        (self.since >= CALM).then(|| std::mem::take(self).lost)
    }
}

/// What lines are put at the end of.
trait Sink: Write {
    /// Takes off what is beyond `size`.
    fn cut(&mut self, size: u64) -> Result<()>;
}

impl Sink for File {
    fn cut(&mut self, size: u64) -> Result<()> {
        self.set_len(size)
    }
}

/// Puts a line at the end of a file of `size` bytes, or leaves it as it is.
fn put(file: &mut impl Sink, size: &mut u64, line: &[u8]) -> Result<()> {
    if let Err(error) = file.write_all(line) {
        // What is left of it would make the next line unreadable.
        file.cut(*size)?;
        return Err(error);
    }
    *size += line.len() as u64;
    Ok(())
}

impl Lines {
    /// Lines at a path; the file is made for the first one.
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes, state: Mutex::default() }
    }

    /// Adds a line, which ends with a line break.
    pub(crate) fn write(&self, line: &str) {
        let mut state = self.state.lock();
        match self.append(&mut state, line.as_bytes()) {
            Ok(()) => {
                if let Some(lost) = state.losses.keep() {
                    tracing::warn!(path = %self.path.display(), lost, "the audit trail is written again; lines are missing in it");
                }
            }
            Err(error) => {
                if state.losses.lose() {
                    tracing::error!(
                        path = %self.path.display(), %error,
                        "the audit trail can't be written, and lines are left out until it can; free space there, or mend the folder"
                    );
                }
            }
        }
    }

    fn append(&self, state: &mut State, line: &[u8]) -> Result<()> {
        let length = line.len() as u64;
        let (mut file, mut size) = match state.file.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if size > 0 && size + length > self.bytes {
            match self.next() {
                Ok(next) => {
                    (file, size) = next;
                    state.stuck = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut state.stuck, true) {
                        tracing::warn!(path = %self.path.display(), %error, "a full file of the audit trail can't be put aside; it becomes longer");
                    }
                    if size + length > 2 * self.bytes {
                        state.file = Some((file, size));
                        return Err(error);
                    }
                }
            }
        }
        // A file that can't be cut to whole lines is opened anew, which ends the half one.
        let written = put(&mut file, &mut size, line);
        if file.metadata().is_ok_and(|is| is.len() == size) {
            state.file = Some((file, size));
        }
        written
    }

    fn open(&self) -> Result<(File, u64)> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&self.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                put(&mut file, &mut size, b"\n")?;
            }
        }
        Ok((file, size))
    }

    /// Makes way for a new file, and opens it.
    fn next(&self) -> Result<(File, u64)> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.path.exists() {
            for number in (1..FULL_FILES).rev() {
                if numbered(number).exists() {
                    std::fs::rename(numbered(number), numbered(number + 1))?;
                }
            }
            std::fs::rename(&self.path, numbered(1))?;
        }
        self.open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn line(number: u32) -> String {
        format!("{{\"line\":{number},\"text\":\"some words\"}}\n")
    }

    fn all(folder: &Path) -> Vec<String> {
        let files = std::fs::read_dir(folder).expect("a folder").flatten().filter(|entry| entry.path().is_file());
        let texts = files.map(|entry| std::fs::read_to_string(entry.path()).expect("text"));
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn has(lines: &[String], number: u32) -> bool {
        lines.iter().any(|line| line.contains(&format!("\"line\":{number},")))
    }

    #[test]
    fn the_files_are_bounded_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let trail = Lines::new(path.clone(), 100);
        for number in 0..50 {
            trail.write(&line(number));
        }
        let files: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
        assert_eq!(files.len(), 1 + FULL_FILES as usize);
        for entry in files {
            let metadata = entry.metadata().expect("a file");
            assert!(metadata.len() <= 100);
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
        let lines = all(folder.path());
        assert!(has(&lines, 49) && has(&lines, 48) && !has(&lines, 0), "the newest stay, the oldest go: {lines:?}");
        // A new start goes on where the old one ended, and ends the line that was begun there.
        std::fs::write(&path, "{\"line\":7,").expect("written");
        Lines::new(path.clone(), 100).write("{}\n");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "{\"line\":7,\n{}\n");
    }

    #[test]
    fn what_can_not_be_put_aside_becomes_longer_and_loses_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let trail = Lines::new(folder.path().join("audit.log"), 200);
        // A folder that is not empty is nobody's to replace.
        std::fs::create_dir_all(folder.path().join("audit.log.3/x")).expect("a folder");
        std::fs::write(folder.path().join("audit.log.2"), "").expect("a file");
        let mut written = 0;
        while (u64::from(written) + 1) * line(10).len() as u64 <= 400 {
            trail.write(&line(10 + written));
            written += 1;
        }
        trail.write(&line(99));
        let lines = all(folder.path());
        assert!((0..written).all(|number| has(&lines, 10 + number)), "{lines:?}");
        assert!(!has(&lines, 99), "but not without end");
        std::fs::remove_dir_all(folder.path().join("audit.log.3")).expect("removed");
        trail.write(&line(98));
        let lines = all(folder.path());
        assert!(has(&lines, 98) && has(&lines, 10), "it goes on by itself: {lines:?}");
    }

    /// A disk that is full after some bytes.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let room = self.1.saturating_sub(self.0.len()).min(bytes.len());
            self.0.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Sink for Full {
        fn cut(&mut self, size: u64) -> Result<()> {
            self.0.truncate(usize::try_from(size).expect("small"));
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_leaves_no_half_line() {
        let (mut disk, mut size) = (Full(Vec::new(), 10), 0);
        assert!(put(&mut disk, &mut size, b"first\n").is_ok());
        assert!(put(&mut disk, &mut size, b"second\n").is_err());
        assert_eq!((disk.0.as_slice(), size), (&b"first\n"[..], 6));
        disk.1 = 100;
        assert!(put(&mut disk, &mut size, b"third\n").is_ok());
        assert_eq!((disk.0.as_slice(), size), (&b"first\nthird\n"[..], 12));
    }

    #[test]
    fn losses_are_said_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let trail = Lines::new(folder.path().join("gone/audit.log"), 1000);
        for _ in 0..5 {
            trail.write("{}\n");
        }
        assert_eq!(trail.state.lock().losses, Losses { lost: 5, since: 0 });
        std::fs::create_dir(folder.path().join("gone")).expect("a folder");
        trail.write("{}\n");
        assert_eq!(all(&folder.path().join("gone")), ["{}"]);

        let mut losses = Losses::default();
        assert_eq!(losses.keep(), None);
        assert_eq!([losses.lose(), losses.lose(), losses.lose()], [true, false, false]);
        for _ in 1..CALM {
            assert_eq!(losses.keep(), None, "not yet");
        }
        assert!(!losses.lose(), "still the same trouble");
        for _ in 1..CALM {
            assert_eq!(losses.keep(), None);
        }
        assert_eq!(losses.keep(), Some(4));
        assert!(losses.lose(), "news again");
    }
}
