//! A file of JSON lines, read from a line on, to its end or as it grows.
//!
//! A file that is renamed away and begun anew is followed, as `tail -F` does. What the lines mean is
//! not asked, but for their time where a time was asked for.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{runtime::Handle, sync::mpsc::error::SendTimeoutError, task::JoinHandle};
use tracing::{info, warn};

use super::{
    BATCH, Bound, Event, Feed, LineMark, Place, ReadOptions, Received, Shapes, Start,
    position::{PositionFile, Stored, identity},
};
use crate::transport::{TransportError, TransportErrorKind as Kind};

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// The longest line: an event has less than 64 kB.
const LONGEST: usize = 64 * 1024 * 1024;

/// How often a file is looked at that has not grown.
const LOOK: Duration = Duration::from_millis(100);

/// A file that was renamed is read on until nothing was added for so long: whoever writes may have it
/// open. Where it ends within a line, for longer.
const LEAVE: Duration = Duration::from_secs(1);
const LEAVE_TORN: Duration = Duration::from_secs(10);

/// A file being read.
struct Follower {
    path: PathBuf,
    file: File,
    /// What was found under the path since and when, oldest first: opened at once, as it may be renamed, too.
    next: VecDeque<(File, Instant)>,
    /// When the file last had something new.
    grew: Instant,
    position: Option<PositionFile>,
    /// The last place that was handed over.
    last: (u32, u64),
    options: ReadOptions,
    shapes: Shapes,
    feed: Feed,
    /// How many files were read before, for they were rotated or cut.
    files: u32,
    /// How many lines and bytes are read.
    lines: u64,
    bytes: u64,
    /// The last line read before had no line feed yet.
    unended: bool,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Where to stop; unknown while a time is to come.
    end: Option<u64>,
}

/// Finds the start and the end, then reads in the background.
pub(super) fn read_lines(
    path: &Path,
    options: ReadOptions,
    feed: Feed,
) -> Result<(Option<PositionFile>, JoinHandle<()>), TransportError> {
    let mut options = options;
    let mut file = open(path)?;
    let length = file.metadata().map_err(|e| unreadable(path, &e))?.len();
    let mut position = None;
    let mut stored = None;
    if let Some(name) = &options.name {
        let (file, known) = PositionFile::open(path, &mut file, name)?;
        position = Some(file);
        stored = known;
    }
    let mut unended = false;
    let begin = if let Some(stored) = stored {
        // It is not asked again where to begin.
        options.start = Start::Beginning;
        unended =
            stored.bytes > 0 && !ends_a_line(&mut file, stored.bytes).map_err(|e| unreadable(path, &e))?;
        stored
    } else {
        let begin = find(path, &mut file, options.start)?;
        if let Some(position) = &position {
            position.begin(begin, &file)?;
        }
        begin
    };
    let now = options.clock.now();
    let end = match options.bound {
        Bound::End => Some(length),
        Bound::Until(time) if time <= now => Some(length),
        Bound::Follow | Bound::Until(_) => None,
    };
    file.seek(SeekFrom::Start(begin.bytes)).map_err(|e| unreadable(path, &e))?;
    let path = path.to_owned();
    let (lines, bytes) = (begin.lines, begin.bytes);
    let mut lines = Follower {
        path,
        file,
        next: VecDeque::new(),
        grew: Instant::now(),
        position: position.clone(),
        last: (0, lines),
        options,
        shapes: Shapes::default(),
        feed,
        files: 0,
        lines,
        bytes,
        unended,
        partial: Vec::new(),
        end,
    };
    let feeder = tokio::task::spawn_blocking(move || {
        let last = lines.run().map(|()| Vec::new()).map_err(|e| unreadable(&lines.path, &e));
        // A reader that has gone needs neither the end nor a reason.
        lines.feed.blocking_send(last).ok();
    });
    Ok((position, feeder))
}

impl Follower {
    fn run(&mut self) -> io::Result<()> {
        loop {
            if !self.read_on()? {
                return Ok(());
            }
            // Everything that is there was read.
            if self.end.is_some() {
                self.finish();
                return Ok(());
            }
            if self.feed.is_closed() {
                return Ok(());
            }
            if self.follow()? {
                continue;
            }
            // What was written until then may be in files that follow.
            if let Bound::Until(time) = self.options.bound
                && self.options.clock.now() >= time
                && self.next.is_empty()
            {
                self.end = Some(self.file.metadata()?.len());
            } else {
                Handle::current().block_on(tokio::time::sleep(LOOK));
            }
        }
    }

    /// Reads and hands over to the end of the file; false when nobody reads any more.
    fn read_on(&mut self) -> io::Result<bool> {
        loop {
            let read_to = self.bytes + self.partial.len() as u64;
            let left = self.end.map_or(CHUNK as u64, |end| end.saturating_sub(read_to).min(CHUNK as u64));
            let mut chunk = std::mem::take(&mut self.partial);
            let before = chunk.len();
            chunk.reserve(CHUNK);
            let read = (&mut self.file).take(left).read_to_end(&mut chunk)?;
            let Some(last) = chunk[before..].iter().rposition(|byte| *byte == b'\n') else {
                self.partial = chunk;
                if read == 0 {
                    return Ok(true);
                }
                self.grew = Instant::now();
                if self.partial.len() > LONGEST {
                    let message = format!("line {} is longer than {LONGEST} bytes", self.lines + 1);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
                continue;
            };
            self.grew = Instant::now();
            self.partial = chunk.split_off(before + last + 1);
            if !self.hand_over(&Bytes::from(chunk)) {
                return Ok(false);
            }
        }
    }

    /// Hands whole lines over; false when nobody reads any more.
    fn hand_over(&mut self, chunk: &Bytes) -> bool {
        let mut batch = Vec::with_capacity(BATCH);
        let mut from = 0;
        while from < chunk.len() {
            let length = memchr::memchr(b'\n', &chunk[from..]).unwrap_or(chunk.len() - from);
            let line = chunk.slice(from..from + length);
            from += length + 1;
            match self.line(line, length as u64 + 1) {
                Line::Read(received) => batch.push(received),
                Line::LeftOut => {}
                Line::PastTheBound => {
                    self.send(batch);
                    return false;
                }
            }
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                if !self.send(full) {
                    return false;
                }
            }
        }
        self.send(batch)
    }

    /// Waits until somebody takes a batch; false when nobody reads any more.
    fn send(&mut self, batch: Vec<Received>) -> bool {
        let Some(last) = batch.last() else { return true };
        self.last = last.place.number();
        let mut batch = Ok(batch);
        loop {
            match Handle::current().block_on(self.feed.send_timeout(batch, LEAVE)) {
                Ok(()) => return true,
                Err(SendTimeoutError::Closed(_)) => return false,
                Err(SendTimeoutError::Timeout(back)) => batch = back,
            }
            if self.end.is_none() {
                // However long it takes: every file that comes by is seen.
                self.look();
            }
        }
    }

    /// A line with its place.
    fn line(&mut self, line: Bytes, length: u64) -> Line {
        let start = self.bytes;
        self.bytes += length;
        if std::mem::take(&mut self.unended) && line.is_empty() {
            // The line feed of the line before.
            return Line::LeftOut;
        }
        self.lines += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            return Line::LeftOut;
        }
        match self.in_time(&line) {
            InTime::Yes => {}
            // A position says that everything before it is done with: nothing behind the bound is.
            InTime::Later if self.options.name.is_some() => return Line::PastTheBound,
            InTime::Earlier | InTime::Later => return Line::LeftOut,
        }
        let known_again = if self.options.name.is_some() { line.clone() } else { Bytes::new() };
        let mark = LineMark { file: self.files, start, end: self.bytes, line: known_again };
        let place = Place { partition: 0, position: self.lines, mark };
        Line::Read(Received { place, stored_at: None, line, unreadable: None })
    }

    /// What is no event has no time, and is not left out for it.
    fn in_time(&mut self, line: &[u8]) -> InTime {
        let since = match self.options.start {
            Start::Time(time) => Some(time),
            _ => None,
        };
        let until = match self.options.bound {
            Bound::Until(time) => Some(time),
            _ => None,
        };
        if since.is_none() && until.is_none() {
            return InTime::Yes;
        }
        let time = self.shapes.read(line).ok().and_then(|event| event.get("time")?.parse::<Timestamp>().ok());
        match time {
            Some(time) if since.is_some_and(|since| time < since) => InTime::Earlier,
            Some(time) if until.is_some_and(|until| time >= until) => InTime::Later,
            _ => InTime::Yes,
        }
    }

    /// What lies behind the last line feed: an event whose line feed is not there, or a torn line.
    fn finish(&mut self) {
        let rest = std::mem::take(&mut self.partial);
        if rest.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if Event::read(&rest).is_err() {
            warn!(
                path = %self.path.display(), bytes = rest.len(),
                "the last line has no end: it is being written, or was torn by a crash; it is not read"
            );
            return;
        }
        let length = rest.len() as u64;
        if let Line::Read(message) = self.line(rest.into(), length) {
            self.send(vec![message]);
        }
    }

    /// Opens what is under the path by now, where that is another file.
    fn look(&mut self) {
        let newest = self.next.back().map_or(&self.file, |(file, _)| file);
        let Ok(newest) = newest.metadata() else { return };
        if std::fs::metadata(&self.path).is_ok_and(|there| identity(&there) != identity(&newest))
            && let Ok(file) = File::open(&self.path)
        {
            self.next.push_back((file, Instant::now()));
        }
    }

    /// Goes on with the file that follows, or with one that was cut; false where there is nothing to
    /// go on with yet.
    fn follow(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.bytes {
            warn!(path = %self.path.display(), "the file was cut; reading goes on from its beginning");
            self.file.seek(SeekFrom::Start(0))?;
        } else {
            self.look();
            let patience = if self.partial.is_empty() { LEAVE } else { LEAVE_TORN };
            let quiet = self.grew.elapsed() >= patience;
            let next = self.next.pop_front_if(|(_, seen)| quiet && seen.elapsed() >= patience);
            let Some((file, _)) = next else { return Ok(false) };
            if !self.partial.is_empty() {
                warn!(path = %self.path.display(), bytes = self.partial.len(), "the rotated file ends within a line");
            }
            info!(path = %self.path.display(), "the file was rotated; reading goes on in the new one");
            self.file = file;
        }
        if let Some(position) = &self.position
            && let Err(error) = position.leave(self.last, &self.file)
        {
            warn!("{error}");
        }
        self.grew = Instant::now();
        self.partial.clear();
        self.files += 1;
        (self.lines, self.bytes) = (0, 0);
        Ok(true)
    }
}

/// What a line is to whoever reads.
enum Line {
    Read(Received),
    /// Empty, or outside of the times asked for.
    LeftOut,
    /// Behind the time to end at.
    PastTheBound,
}

/// Where an event lies beside the times asked for.
enum InTime {
    Earlier,
    Yes,
    Later,
}

/// Whether a line feed lies before a byte.
fn ends_a_line(file: &mut File, bytes: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(bytes - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The lines before the start, and the last of them.
fn find(path: &Path, file: &mut File, start: Start) -> Result<Stored, TransportError> {
    let skip = match start {
        Start::Beginning | Start::Time(_) => return Ok(Stored::behind(0, 0, None)),
        Start::Position(0) => {
            return Err(TransportError::new(Kind::Rejected, "there is no line 0")
                .with_hint("lines are counted from 1"));
        }
        Start::Position(line) => line - 1,
        Start::End => u64::MAX,
    };
    let (mut lines, mut bytes, mut last) = (0, 0, None);
    let mut line = Vec::new();
    let mut reader = io::BufReader::with_capacity(CHUNK, file);
    while lines < skip {
        line.clear();
        let read =
            io::BufRead::read_until(&mut reader, b'\n', &mut line).map_err(|e| unreadable(path, &e))?;
        if line.pop() != Some(b'\n') {
            break;
        }
        last = Some((bytes, line.clone()));
        lines += 1;
        bytes += read as u64;
    }
    if lines < skip && start != Start::End {
        let message = format!("line {} is not in `{}`: it has {lines} lines", skip + 1, path.display());
        return Err(TransportError::new(Kind::Rejected, message));
    }
    Ok(Stored::behind(lines, bytes, last.as_ref().map(|(start, line)| (*start, &**line))))
}

fn open(path: &Path) -> Result<File, TransportError> {
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => {
            let message = format!("`{}` is no regular file", path.display());
            Err(TransportError::new(Kind::Rejected, message).with_hint("only a file can be read back"))
        }
        Err(e) => Err(unreadable(path, &e)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> TransportError {
    let message = format!("could not read the events in `{}`: {error}", path.display());
    let error_of = TransportError::new(Kind::Unavailable, message);
    match error.kind() {
        io::ErrorKind::NotFound => error_of.with_hint("the first `run` creates it; see `local.output`"),
        _ => error_of,
    }
}
