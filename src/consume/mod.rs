//! Reading back: the events of the configured output, in order, each with its place.
//!
//! One contract over a file of JSON lines, a Kafka topic and a NATS stream: a [`Reader`] begins at a
//! [`Start`], ends at a [`Bound`], and gives out what lies there, events and what is none. With a
//! [`ConsumerName`] it goes on where that name last committed. Nothing is published here, nothing is
//! created in the output but the position of a name.

mod current;
mod event;
mod file;
mod filter;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod line;
mod position;
mod shape;

pub use current::{By, Current, Exact, Sum, Total, View};
pub use event::{Event, NotOurs};
pub use filter::{Filter, Segments};
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use line::Lines;
pub use shape::Shapes;

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    clock::Clock,
    config::TransportConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};
use position::PositionFile;

#[cfg(feature = "kafka")]
use crate::transport::kafka::KafkaPosition;
#[cfg(feature = "nats")]
use crate::transport::nats::NatsPosition;

/// How many messages go from hand to hand at once.
pub(crate) const BATCH: usize = 512;

/// How many batches may wait for the reader: what is read ahead, and all the memory that takes.
const AHEAD: usize = 4;

/// Where reading begins where a name has no position yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// What comes from now on.
    End,
    /// The oldest that is kept.
    Beginning,
    /// An offset of a Kafka partition, a sequence of a NATS stream, a line of a file from 1.
    Position(u64),
    /// What the broker stored at this time or later; in a file, where lines have no time of their
    /// own, the events whose `time` is this or later.
    Time(Timestamp),
}

/// Where reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Never: what comes is waited for.
    Follow,
    /// At the end proven when reading began.
    End,
    /// Before what was stored at this time or later; a time to come is waited for.
    Until(Timestamp),
}

/// The name under which a position is kept: a Kafka consumer group, a NATS durable, a file beside
/// the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerName(String);

impl ConsumerName {
    /// At most 64 of `[A-Za-z0-9_-]`, which every output takes as it is.
    ///
    /// # Errors
    /// For any other text, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(fine) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("`{text}` is not the name of a consumer: 1 to 64 letters, digits, `-` and `_`"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Where to begin; a name that has a position goes on there instead.
    pub start: Start,
    /// Where to end.
    pub bound: Bound,
    /// Only this partition; Kafka alone has several.
    pub partition: Option<i32>,
    /// Whose position is kept; `None`: nobody's is touched.
    pub name: Option<ConsumerName>,
    /// For a bound that lies ahead.
    pub clock: Clock,
}

/// Where a message lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The Kafka partition; 0 elsewhere.
    pub partition: i32,
    /// The offset, the stream's sequence, or the line from 1.
    pub position: u64,
    mark: LineMark,
}

/// Where a line of a file lies, for the position file; zeros elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LineMark {
    /// How many files were read before: lines are counted anew in one that was rotated or cut.
    file: u32,
    /// The byte it starts at, and the one behind its line feed.
    start: u64,
    end: u64,
    /// The line, where a name has to know it again.
    line: Bytes,
}

impl Place {
    /// A place in a broker's log.
    #[cfg(any(test, feature = "kafka", feature = "nats"))]
    pub(crate) fn of(partition: i32, position: u64) -> Self {
        Self { partition, position, mark: LineMark::default() }
    }

    /// What no other place of its partition shares while reading goes on.
    pub(crate) const fn number(&self) -> (u32, u64) {
        (self.mark.file, self.position)
    }

    /// A line of a file, for tests.
    #[cfg(test)]
    pub(crate) fn of_line(file: u32, position: u64) -> Self {
        Self { partition: 0, position, mark: LineMark { file, ..LineMark::default() } }
    }
}

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it lies.
    pub place: Place,
    /// When the broker took it; `None` in a file.
    pub stored_at: Option<Timestamp>,
    /// The event in the JSON event format, as one line; or whatever the message holds.
    line: Bytes,
    /// Why it cannot be an event, where that is known already.
    unreadable: Option<String>,
}

impl Received {
    /// A message of a broker, its headers and payload already in the JSON event format.
    #[cfg(any(feature = "kafka", feature = "nats"))]
    pub(crate) fn new(
        place: Place,
        stored_at: Option<Timestamp>,
        line: Result<Bytes, (String, Bytes)>,
    ) -> Self {
        match line {
            Ok(line) => Self { place, stored_at, line, unreadable: None },
            Err((why, line)) => Self { place, stored_at, line, unreadable: Some(why) },
        }
    }

    /// The event, borrowed from the message.
    ///
    /// # Errors
    /// When it is no event of this program, or of a version it does not read.
    pub fn event<'a>(&'a self, shapes: &'a mut Shapes) -> Result<Event<'a>, NotOurs> {
        match &self.unreadable {
            None => shapes.read(&self.line),
            Some(why) => Err(NotOurs(why.clone())),
        }
    }

    /// What the message holds; of a binary message that is an event, its JSON form.
    pub fn bytes(&self) -> &[u8] {
        &self.line
    }

    /// Its place and what it holds.
    pub(crate) fn into_parts(self) -> (Place, Bytes) {
        (self.place, self.line)
    }
}

/// What the feeder of a reader hands over; an empty batch says that the end was reached.
pub(crate) type Feed = mpsc::Sender<Result<Vec<Received>, TransportError>>;

/// Reads an output. Dropped, it lets go of everything; a name's position stays as last committed.
#[derive(Debug)]
pub struct Reader {
    feed: mpsc::Receiver<Result<Vec<Received>, TransportError>>,
    queue: VecDeque<Received>,
    position: Option<Position>,
    /// What reads in the background.
    feeder: JoinHandle<()>,
    ended: bool,
}

/// Where a name's position is kept.
#[derive(Debug)]
enum Position {
    File(PositionFile),
    #[cfg(feature = "kafka")]
    Kafka(KafkaPosition),
    #[cfg(feature = "nats")]
    Nats(NatsPosition),
}

impl Reader {
    /// Reaches the output, finds the start and, where there is one, proves the end.
    ///
    /// # Errors
    /// `Rejected`: a start that is out of range, no such topic or stream, an output that cannot be
    /// read back. `Unavailable`: not to be reached. `Regressed`, `Foreign`: the name's position
    /// belongs to another log.
    pub async fn open(config: &TransportConfig, options: ReadOptions) -> Result<Self, TransportError> {
        match config {
            TransportConfig::Local(local) => {
                let path = local.output.as_ref().ok_or_else(not_kept)?;
                Self::open_file(path, options).await
            }
            #[cfg(feature = "kafka")]
            TransportConfig::Kafka(kafka) => {
                let (sender, feed) = mpsc::channel(AHEAD);
                let (position, feeder) = crate::transport::kafka::read_events(kafka, options, sender).await?;
                Ok(Self::new(feed, position.map(Position::Kafka), feeder))
            }
            #[cfg(feature = "nats")]
            TransportConfig::Nats(nats) => {
                if options.partition.is_some() {
                    return Err(no_partitions("a NATS stream"));
                }
                let (sender, feed) = mpsc::channel(AHEAD);
                let (position, feeder) = crate::transport::nats::read_events(nats, options, sender).await?;
                Ok(Self::new(feed, position.map(Position::Nats), feeder))
            }
        }
    }

    const fn new(
        feed: mpsc::Receiver<Result<Vec<Received>, TransportError>>,
        position: Option<Position>,
        feeder: JoinHandle<()>,
    ) -> Self {
        Self { feed, queue: VecDeque::new(), position, feeder, ended: false }
    }

    /// Reads a file of JSON lines.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub async fn open_file(path: &Path, options: ReadOptions) -> Result<Self, TransportError> {
        if options.partition.is_some() {
            return Err(no_partitions("a file"));
        }
        let (sender, feed) = mpsc::channel(AHEAD);
        let path: PathBuf = path.to_owned();
        let open = move || file::read_lines(&path, options, sender);
        let (position, feeder) = match tokio::task::spawn_blocking(open).await {
            Ok(opened) => opened?,
            Err(e) => return Err(TransportError::new(Kind::Unknown, format!("reading failed: {e}"))),
        };
        Ok(Self::new(feed, position.map(Position::File), feeder))
    }

    /// The next message; `None` at the end. It may be dropped while waiting and called again: no
    /// message is lost by that.
    ///
    /// # Errors
    /// `Unavailable` when the output is lost for good; `Regressed` when what was to be read next is
    /// gone.
    pub async fn next(&mut self) -> Result<Option<Received>, TransportError> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match self.feed.recv().await {
                Some(batch) => self.queue = batch?.into(),
                None => return Err(TransportError::new(Kind::Unknown, "reading stopped before its end")),
            }
            self.ended = self.queue.is_empty();
        }
    }

    /// The next message, where it has come already.
    pub fn at_hand(&mut self) -> Option<Received> {
        self.queue.pop_front()
    }

    /// Moves the name's position behind a message this reader gave out: it and everything given out
    /// before it in its partition is done with, and not read again under the name. Durable when it
    /// returns.
    ///
    /// # Errors
    /// `Rejected` without a name. `Conflict` when another process reads under the name by now.
    /// `Unavailable` when it could not be written: the position is where it was, or there.
    pub async fn commit(&mut self, place: &Place) -> Result<(), TransportError> {
        match &mut self.position {
            None => Err(TransportError::new(Kind::Rejected, "without a name no position is kept")),
            Some(Position::File(file)) => file.commit(place).await,
            #[cfg(feature = "kafka")]
            Some(Position::Kafka(kafka)) => kafka.commit(place).await,
            #[cfg(feature = "nats")]
            Some(Position::Nats(nats)) => nats.commit(place).await,
        }
    }

    /// Lets go of everything and waits until that is done: a group learns at once that its member
    /// has left. What was not committed is read again under the name.
    pub async fn close(self) {
        let Self { feed, queue, position, feeder, .. } = self;
        drop((feed, queue, position));
        if let Err(error) = feeder.await {
            tracing::debug!("reading ended badly: {error}");
        }
    }
}

fn not_kept() -> TransportError {
    TransportError::new(Kind::Rejected, "the events went to stdout, which cannot be read back").with_hint(
        "name the configuration with `--config`, or set `local.output` in it to a file; what was redirected to a file can be read with `replay --file FILE`",
    )
}

fn no_partitions(what: &str) -> TransportError {
    TransportError::new(Kind::Rejected, format!("{what} has no partitions"))
        .with_hint("leave `--partition` away; it is for Kafka")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_every_output_takes() {
        for (text, fine) in [
            ("alerts", true),
            ("Team_7-alerts", true),
            ("", false),
            ("a.b", false),
            ("a b", false),
            ("../x", false),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(ConsumerName::parse(text).is_ok(), fine, "{text}");
        }
    }
}
