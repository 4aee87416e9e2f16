//! The position of a name in a file of JSON lines: a small file beside it, written atomically.
//!
//! It remembers the last line that was done with, not only its place: where another line lies there
//! by now, the file was replaced, and nothing is read over that silently.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{ConsumerName, LineMark, Place};
use crate::transport::{TransportError, TransportErrorKind as Kind};

/// The version of the file this program writes, and the newest it reads.
const VERSION: u32 = 1;

/// A name's position in a file, locked against a second process of that name. Clones are of the same.
#[derive(Clone, Debug)]
pub(super) struct PositionFile(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
    turn: Mutex<Turn>,
}

/// Where one file follows another. Places are [`Place::number`]s.
#[derive(Debug, Default)]
struct Turn {
    committed: (u32, u64),
    /// The last place given out when reading left a file, until it is committed; and the beginning of the
    /// file that follows.
    left_behind: Option<((u32, u64), Stored)>,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    version: u32,
    /// How many lines are done with.
    pub(super) lines: u64,
    /// The byte behind the last of them.
    pub(super) bytes: u64,
    /// The byte at which it starts.
    last_line_start: u64,
    /// The first 64 bits of its SHA-256.
    last_line_digest: u64,
    /// Where no line is done with, there is none to know the file by: device and number, on Unix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<(u64, u64)>,
}

/// The first 64 bits of a line's SHA-256, its line feed left out.
fn digest(line: &[u8]) -> u64 {
    let digest = Sha256::digest(line);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl PositionFile {
    /// The name's position in a file, `None` where it has none yet.
    ///
    /// # Errors
    /// `InUse` when another process has it, `Regressed` when the file is another one by now,
    /// `Foreign` when the position cannot be read, `Unavailable` when the folder cannot be written.
    pub(super) fn open(
        output: &Path,
        file: &mut File,
        name: &ConsumerName,
    ) -> Result<(Self, Option<Stored>), TransportError> {
        let beside = |suffix: &str| {
            let mut path = output.as_os_str().to_owned();
            path.push(format!(".{name}.{suffix}"));
            PathBuf::from(path)
        };
        let (path, lock) = (beside("position"), beside("lock"));
        let failed = |path: &Path, e: &io::Error| {
            let message = format!("could not keep the position of `{name}` in `{}`: {e}", path.display());
            TransportError::new(Kind::Unavailable, message)
                .with_hint("the folder of the events must be writable; without a name no position is kept")
        };
        let held = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let held = held.map_err(|e| failed(&lock, &e))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process reads `{}` as `{name}`", output.display());
                return Err(TransportError::new(Kind::InUse, message)
                    .with_hint("stop that one first, or choose another name"));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&lock, &e)),
        }
        let position = |committed| {
            let turn = Mutex::new(Turn { committed: (0, committed), left_behind: None });
            Self(Arc::new(Held { path: path.clone(), _lock: held, turn }))
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((position(0), None)),
            Err(e) => return Err(failed(&path, &e)),
        };
        let stored: Stored = serde_json::from_slice(&text)
            .ok()
            .filter(|stored: &Stored| stored.version <= VERSION && stored.last_line_start <= stored.bytes)
            .ok_or_else(|| {
                let message = format!("`{}` is no position this program can read", path.display());
                TransportError::new(Kind::Foreign, message)
                    .with_hint("remove it to begin anew, or choose another name")
            })?;
        if !stored.fits(file).map_err(|e| failed(output, &e))? {
            let message = format!(
                "`{}` is not the file in which `{name}` read {} lines: it was rotated, replaced or cut since",
                output.display(),
                stored.lines
            );
            return Err(TransportError::new(Kind::Regressed, message).with_hint(format!(
                "what was not read of the former file is read with `--file`; remove `{}` to begin with this one",
                path.display()
            )));
        }
        Ok((position(stored.lines), Some(stored)))
    }

    /// Writes where a name begins that has no position yet, so that it stays there.
    pub(super) fn begin(&self, stored: Stored, file: &File) -> Result<(), TransportError> {
        self.turn().committed = (0, stored.lines);
        let stored = if stored.bytes == 0 { Stored::beginning(file) } else { stored };
        write(&self.0.path, stored)
    }

    /// Reading has left a file, of which this was the last place given out. Once that is done with, the
    /// name is at the beginning of the file that follows: it would not be found again in this one.
    pub(super) fn leave(&self, last: (u32, u64), next: &File) -> Result<(), TransportError> {
        let mut turn = self.turn();
        if turn.committed == last {
            return write(&self.0.path, Stored::beginning(next));
        }
        turn.left_behind = Some((last, Stored::beginning(next)));
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the position behind a line.
    pub(super) async fn commit(&self, place: &Place) -> Result<(), TransportError> {
        let LineMark { start, end, line, .. } = &place.mark;
        let stored = Stored {
            version: VERSION,
            lines: place.position,
            bytes: *end,
            last_line_start: *start,
            last_line_digest: digest(line),
            file: None,
        };
        let (position, number) = (self.clone(), place.number());
        let write = move || {
            let mut turn = position.turn();
            let next = turn.left_behind.filter(|(last, _)| *last == number).map(|(_, next)| next);
            write(&position.0.path, next.unwrap_or(stored))?;
            turn.committed = number;
            if next.is_some() {
                turn.left_behind = None;
            }
            Ok(())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written,
            Err(e) => Err(TransportError::new(Kind::Unknown, format!("writing a position failed: {e}"))),
        }
    }
}

/// What tells a file from another one under the same path.
#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
pub(super) fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
pub(super) const fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

impl Stored {
    /// A position behind so many lines, the last of which is given with its start.
    pub(super) fn behind(lines: u64, bytes: u64, last: Option<(u64, &[u8])>) -> Self {
        let (last_line_start, last_line_digest) =
            last.map_or((bytes, 0), |(start, line)| (start, digest(line)));
        Self { version: VERSION, lines, bytes, last_line_start, last_line_digest, file: None }
    }

    /// The beginning of a file, which another one of the same path does not have.
    fn beginning(file: &File) -> Self {
        Self { file: file.metadata().ok().as_ref().and_then(identity), ..Self::behind(0, 0, None) }
    }

    /// Whether the file still has the last line where it was.
    fn fits(&self, file: &mut File) -> io::Result<bool> {
        let metadata = file.metadata()?;
        if self.bytes == 0 {
            return Ok(self.file.is_none_or(|known| identity(&metadata).is_none_or(|there| there == known)));
        }
        if metadata.len() < self.bytes {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.last_line_start))?;
        let mut line = Vec::new();
        file.take(self.bytes - self.last_line_start).read_to_end(&mut line)?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(digest(&line) == self.last_line_digest)
    }
}

/// Beside it first, then in its place: after a power cut it is the one or the other.
fn write(path: &Path, stored: Stored) -> Result<(), TransportError> {
    let attempt = || -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = File::create(&beside)?;
        serde_json::to_writer(&mut file, &stored)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        #[cfg(unix)]
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    };
    attempt().map_err(|e| {
        let message = format!("could not write the position `{}`: {e}", path.display());
        TransportError::new(Kind::Unavailable, message)
            .with_hint("what was read since the last time is read again by the next start")
    })
}
