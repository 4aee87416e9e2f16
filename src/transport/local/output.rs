//! The output: JSON lines to a file that never gets an event twice, or to a stream such as stdout.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::store::{Pending, Store, writable_folder};
use crate::transport::{TransportError, TransportErrorKind as Kind};

/// How every line of ours begins.
const LINE_START: &str = "{\"specversion\":";

/// Where lines go.
pub(super) enum Output {
    /// Cannot be asked what it already took.
    Stream { name: &'static str, writer: Box<dyn Write + Send> },
    /// Can.
    File(LogFile),
}

/// An open file of JSON lines.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// As in the state: absolute, so that another working folder is no other file.
    name: String,
    file: File,
    /// The length up to which the file holds whole events of ours.
    end: u64,
    /// Ids past the position the state knows of: written before a crash, not to be written again.
    written: HashSet<String>,
}

impl Output {
    pub(super) fn stdout() -> Self {
        Self::Stream { name: "stdout", writer: Box::new(io::stdout()) }
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Stream { name, .. } => (*name).to_owned(),
            Self::File(log) => log.path.display().to_string(),
        }
    }

    /// Writes out the outbox and proves it: a file is synced and its new length noted with the
    /// deletion from the outbox. On an error the outbox stays, for the next attempt.
    pub(super) fn drain(&mut self, store: &mut Store) -> Result<(), TransportError> {
        let pending = store.outbox()?;
        let Some(last) = pending.last().map(|event| event.number) else { return Ok(()) };
        if let Self::File(log) = self {
            log.follow_rotation(store)?;
        }
        self.write(&pending).map_err(|e| self.failed("write to", &e))?;
        match self {
            Self::Stream { .. } => store.written(last, None),
            Self::File(log) => {
                store.written(last, Some((&log.name, log.end)))?;
                // Only these: a state restored from a backup knows less than the file holds.
                for event in &pending {
                    log.written.remove(&event.id);
                }
                Ok(())
            }
        }
    }

    fn write(&mut self, pending: &[Pending]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(pending.iter().map(|event| event.line.len() + 1).sum());
        for event in pending {
            if matches!(self, Self::File(log) if log.written.contains(&event.id)) {
                continue;
            }
            bytes.extend_from_slice(&event.line);
            bytes.push(b'\n');
        }
        match self {
            Self::Stream { writer, .. } => {
                writer.write_all(&bytes)?;
                writer.flush()
            }
            Self::File(log) => {
                let length = log.file.metadata()?.len();
                if length < log.end {
                    tracing::warn!(path = %log.path.display(), "the output was cut by somebody else; going on where it ends now");
                    log.end = length;
                }
                log.file.seek(SeekFrom::Start(log.end))?;
                // Of an attempt that failed. Whoever follows the file has read it: it stays.
                let mut there = Vec::new();
                (&log.file).take(bytes.len() as u64).read_to_end(&mut there)?;
                let kept = there.iter().zip(&bytes).take_while(|(there, ours)| there == ours).count();
                let written = log.end + kept as u64;
                if length > written {
                    log.file.set_len(written)?;
                }
                log.file.seek(SeekFrom::Start(written))?;
                log.file.write_all(&bytes[kept..])?;
                log.file.sync_data()?;
                log.end += bytes.len() as u64;
                log.written.extend(pending.iter().map(|event| event.id.clone()));
                Ok(())
            }
        }
    }

    fn failed(&self, verb: &str, error: &io::Error) -> TransportError {
        let message = format!("could not {verb} `{}`: {error}", self.name());
        TransportError::new(Kind::Unavailable, message).with_hint(match error.kind() {
            io::ErrorKind::BrokenPipe => "the reader has gone; nothing is lost, the next start writes it out",
            io::ErrorKind::StorageFull => "the disk is full; nothing is lost, the next start writes it out",
            _ => "nothing is lost, the next start writes it out; see `local.output`",
        })
    }
}

impl LogFile {
    /// Opens or creates the file and brings it in order: a torn last line of ours is cut, and what
    /// a crash left past the noted position is known from then on. Whatever is not ours is refused.
    pub(super) fn open(path: &Path, store: &Store) -> Result<Self, TransportError> {
        let error = |e: io::Error| not_opened(path, &e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("the output `{}` is in use by another process", path.display());
                return Err(TransportError::new(Kind::InUse, message)
                    .with_hint("stop that one first, or give this one a `local.output` of its own"));
            }
            Err(TryLockError::Error(e)) => return Err(error(e)),
        }
        let name = std::path::absolute(path).map_err(error)?.to_string_lossy().into_owned();
        let metadata = file.metadata().map_err(error)?;
        if !metadata.is_file() {
            return Err(not_regular(path));
        }
        let length = metadata.len();
        let noted = store.position(&name)?;
        if noted.is_none() && length > 0 && store.is_new()? {
            return Err(events_without_state(path));
        }
        let start = match noted {
            Some(position) if position <= length => position,
            Some(position) => {
                tracing::warn!(path = %path.display(), position, length, "the output is shorter than it was: rotated, or cut by somebody else");
                0
            }
            None => 0,
        };
        let mut log = Self { path: path.to_owned(), name, file, end: start, written: HashSet::new() };
        log.scan(start).map_err(error)??;
        if log.end < length {
            tracing::warn!(path = %path.display(), bytes = length - log.end, "cut a torn last line");
            log.file.set_len(log.end).map_err(error)?;
            log.file.sync_data().map_err(error)?;
        }
        if noted.is_none() {
            if length == 0 && !store.is_new()? {
                tracing::warn!(path = %path.display(), "the events so far went to another output; what changes from now on goes to this one");
            }
            store.set_position(&log.name, log.end)?;
        }
        Ok(log)
    }

    /// A file that was renamed or deleted under its old name is left to whoever did that; the lines
    /// go on in a new one.
    fn follow_rotation(&mut self, store: &Store) -> Result<(), TransportError> {
        if self.is_in_place() {
            return Ok(());
        }
        tracing::info!(path = %self.path.display(), "the output was rotated");
        store.set_position(&self.name, 0)?;
        let path = self.path.clone();
        *self = Self::open(&path, store)?;
        Ok(())
    }

    #[cfg(unix)]
    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let there = std::fs::metadata(&self.path).map(identity);
        there.is_ok_and(|there| self.file.metadata().map(identity).is_ok_and(|here| here == there))
    }

    #[cfg(not(unix))]
    fn is_in_place(&self) -> bool {
        self.path.exists()
    }

    /// Reads the lines from a position on, which must be events; the last one may be torn.
    fn scan(&mut self, start: u64) -> io::Result<Result<(), TransportError>> {
        #[derive(Deserialize)]
        struct Line {
            id: String,
        }
        self.file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(Ok(()));
            }
            if line.last() == Some(&b'\n') {
                match serde_json::from_slice::<Line>(&line) {
                    Ok(event) if line.starts_with(LINE_START.as_bytes()) => {
                        self.written.insert(event.id);
                        self.end += read as u64;
                    }
                    _ => return Ok(Err(self.foreign())),
                }
            } else if is_torn(&line) {
                return Ok(Ok(()));
            } else {
                return Ok(Err(self.foreign()));
            }
        }
    }

    fn foreign(&self) -> TransportError {
        let message = format!(
            "the output `{}` has a line after byte {} that is no event",
            self.path.display(),
            self.end
        );
        TransportError::new(Kind::Foreign, message)
            .with_hint("it was left as it is; point `local.output` to a file of its own")
    }
}

/// Whether a new file could be created; one that is there has no state and is refused, as by `run`.
pub(super) fn probe(path: &Path) -> Result<String, TransportError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => {}
        Ok(metadata) if metadata.is_file() => return Err(events_without_state(path)),
        Ok(_) => return Err(not_regular(path)),
        Err(_) => writable_folder(path).map_err(|e| not_opened(path, &e))?,
    }
    Ok(format!("output `{}` can be written", path.display()))
}

fn not_opened(path: &Path, error: &io::Error) -> TransportError {
    let message = format!("could not open the output `{}`: {error}", path.display());
    TransportError::new(Kind::Unavailable, message)
        .with_hint("the folder must exist and be writable for this user; see `local.output`")
}

fn not_regular(path: &Path) -> TransportError {
    let message = format!("the output `{}` is no regular file", path.display());
    TransportError::new(Kind::Foreign, message).with_hint(
        "it could not be asked which events it already has; write to stdout, `output = \"-\"`, and redirect that",
    )
}

/// Half a line of ours, or the zeros a file system leaves after a power cut.
fn is_torn(tail: &[u8]) -> bool {
    let start = LINE_START.as_bytes();
    tail.iter().all(|byte| *byte == 0) || start.starts_with(tail) || tail.starts_with(start)
}

fn events_without_state(path: &Path) -> TransportError {
    let message = format!("the output `{}` is not empty, but the state is new", path.display());
    TransportError::new(Kind::StateMissing, message).with_hint(
        "it was left as it is: publishing again would repeat every event; restore the state file that \
         belongs to it, or move the output away to begin anew",
    )
}
