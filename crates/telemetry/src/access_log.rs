//! The access log: one line of JSON for each record, in a file of limited size or on stdout.
//!
//! Invariants: a line is written whole; the files together hold no more than the limit; when writing fails, lines are dropped and counted,
//! and the failure is said once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::error::SettingError;
use crate::record::Record;

/// How large a file gets before the next one is begun.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;
/// How many files there are, with the one that is written.
const FILES: u32 = 4;

/// How the access log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub destination: Destination,
    /// How large a file may get, in bytes.
    pub file_limit: u64,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a file, and when it is full on to `.1`, `.2` and `.3`.
    File(PathBuf),
    /// To stdout.
    Stdout,
}

impl AccessLog {
    /// An access log with the usual limits: four files of 16 MiB.
    #[must_use]
    pub fn to(destination: Destination) -> Self {
        Self { destination, file_limit: FILE_LIMIT }
    }
}

/// Writes lines.
pub(crate) struct Writer {
    out: Out,
    /// Whether the last attempt failed, and that was said.
    failing: bool,
}

enum Out {
    File { path: PathBuf, file: File, written: u64, limit: u64 },
    Stdout,
}

impl Writer {
    pub(crate) fn open(settings: AccessLog) -> Result<Self, SettingError> {
        let out = match settings.destination {
            Destination::Stdout => Out::Stdout,
            Destination::File(path) => {
                let opened = open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
                match opened {
                    Ok((written, file)) => Out::File { path, file, written, limit: settings.file_limit },
                    Err(source) => return Err(SettingError::AccessLog { path, source }),
                }
            }
        };
        Ok(Self { out, failing: false })
    }

    /// Writes the records; says how many lines were lost.
    pub(crate) fn write(&mut self, records: &[Record]) -> usize {
        let mut text = Vec::with_capacity(records.len() * 640);
        for record in records {
            // A record is always JSON; if it were not, it would be left out whole.
            let end = text.len();
            match serde_json::to_writer(&mut text, record) {
                Ok(()) => text.push(b'\n'),
                Err(_) => text.truncate(end),
            }
        }
        match self.put(&text) {
            Ok(()) => {
                self.failing = false;
                0
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the access log cannot be written; lines are lost until it can");
                }
                records.len()
            }
        }
    }

    fn put(&mut self, text: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Out::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text)?;
                out.flush()
            }
            Out::File { path, file, written, limit } => {
                if *written > 0 && *written + text.len() as u64 > *limit {
                    for number in (1..FILES).rev() {
                        let older = numbered(path, number);
                        let newer = if number == 1 { path.clone() } else { numbered(path, number - 1) };
                        match std::fs::rename(newer, older) {
                            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                            _ => {}
                        }
                    }
                    *file = open(path)?;
                    *written = 0;
                }
                file.write_all(text)?;
                *written += text.len() as u64;
                Ok(())
            }
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    // It says who calls whom, which is nobody else's business.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn numbered(path: &std::path::Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::hop;

    #[test]
    fn files_are_bounded_and_lines_are_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let settings = AccessLog { destination: Destination::File(path.clone()), file_limit: 2_000 };
        let mut writer = Writer::open(settings.clone()).expect("a file");
        for span in 0..40 {
            assert_eq!(writer.write(&[hop(span, None, ["a", "b"], [0, 1])]), 0);
        }
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["access.log", "access.log.1", "access.log.2", "access.log.3"]);
        let mut spans = Vec::new();
        for name in names.iter().rev() {
            let text = std::fs::read_to_string(folder.path().join(name)).expect("a file");
            assert!(text.len() <= 2_000, "{name} has {}", text.len());
            let lines = text.lines().map(|line| serde_json::from_str::<Record>(line).expect("a whole line"));
            spans.extend(lines.map(|record| u64::from_str_radix(&record.span_id, 16).expect("a number")));
        }
        assert!(spans.is_sorted() && spans.last() == Some(&39), "{spans:?}");
        // What is there already counts.
        let before = std::fs::metadata(&path).expect("a file").len();
        Writer::open(settings).expect("a file").write(&[hop(40, None, ["a", "b"], [0, 1])]);
        assert!(std::fs::metadata(&path).expect("a file").len() != before);
    }

    #[test]
    fn what_cannot_be_written_is_counted_as_lost() {
        let full = AccessLog::to(Destination::File("/dev/full".into()));
        let mut writer = Writer::open(full).expect("it opens");
        assert_eq!(writer.write(&[hop(1, None, ["a", "b"], [0, 1])]), 1);
        let nowhere = AccessLog::to(Destination::File("/nonexistent/access.log".into()));
        assert!(Writer::open(nowhere).is_err_and(|error| error.to_string().contains("/nonexistent/access.log")));
    }
}
