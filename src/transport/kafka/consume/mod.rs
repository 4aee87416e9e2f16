//! Reading the event topic back: from any place, to a proven end or for ever, and under a group's name.
//!
//! Nothing here decides what an event is. Without a name no group is touched; with one, a reader that
//! follows joins the group, and one with an end uses the group's offsets without joining it.

mod places;
mod source;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Headers as _},
};
use tokio::{sync::mpsc::error::TrySendError, task::JoinHandle, time::timeout};
use tracing::{debug, warn};

use super::{
    client::{Clients, REQUEST, TRANSACTION, wait},
    errors::code,
};
use crate::{
    config::KafkaConfig,
    consume::{BATCH, Bound, ConsumerName, Feed, Lines, Place, ReadOptions, Received},
    event::Binding,
    transport::{TransportError, TransportErrorKind as Kind},
};
use places::{begin, committed, ends, partitions, partitions_of};
use source::{Offsets, Source};

/// How long an empty poll waits.
const POLL: Duration = Duration::from_millis(50);

/// The same where an end is known. A transaction's last record is none that a poll would return with, and the
/// end of most topics.
const POLL_TO_END: Duration = Duration::from_millis(2);

/// So long a batch that is not full waits for the next record: what is handed over wakes somebody.
const LINGER: Duration = Duration::from_millis(1);

/// So long after a time to come it is asked where it lies: a record has the time at which it was sent.
const LATE: SignedDuration = SignedDuration::from_secs(1);

/// How often a topic is looked for that a broker does not know.
const LOOK: Duration = Duration::from_millis(500);

/// Without progress for so long, an end that was proven is given up.
const GIVE_UP: Duration = Duration::from_secs(TRANSACTION.as_secs() + 15);

/// How often brokers that do not answer are complained of.
const COMPLAIN: Duration = Duration::from_secs(30);

/// Where a group's offsets are committed.
pub(crate) struct KafkaPosition {
    source: Arc<Source>,
    /// A commit that took too long. Without a coordinator librdkafka waits as long as a session lasts.
    late: Option<JoinHandle<Result<(), TransportError>>>,
}

impl std::fmt::Debug for KafkaPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaPosition").field("topic", &self.source.topic).finish_non_exhaustive()
    }
}

/// Finds start and end, then reads in the background.
pub(crate) async fn read_events(
    config: &KafkaConfig,
    options: ReadOptions,
    feed: Feed,
) -> Result<(Option<KafkaPosition>, JoinHandle<()>), TransportError> {
    let config = config.clone();
    let open = move || {
        let named = options.name.is_some();
        let mut reading = Reading::open(&config, options, feed)?;
        let position = named.then(|| KafkaPosition { source: Arc::clone(&reading.source), late: None });
        let done = tokio::task::spawn_blocking(move || {
            let last = match reading.run() {
                Ok(()) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
            // A reader that has gone needs neither.
            reading.feed.blocking_send(last).ok();
        });
        Ok((position, done))
    };
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => opened,
        Err(e) => Err(TransportError::new(Kind::Unknown, format!("reading failed: {e}"))),
    }
}

/// Whoever reads under the name is done.
impl Drop for KafkaPosition {
    fn drop(&mut self) {
        self.source.clients.close();
    }
}

impl KafkaPosition {
    /// Commits the offset behind a record.
    pub(crate) async fn commit(&mut self, place: &Place) -> Result<(), TransportError> {
        let late = || {
            let message = format!("could not commit offsets of topic `{}`: no answer yet", self.source.topic);
            Err(TransportError::new(Kind::Unavailable, message))
        };
        // What became of an earlier one is not this one's.
        if let Some(earlier) = &mut self.late {
            match timeout(REQUEST, earlier).await {
                Ok(_) => self.late = None,
                Err(_) => return late(),
            }
        }
        let source = Arc::clone(&self.source);
        let next = BTreeMap::from([(place.partition, place.position + 1)]);
        let mut commit = tokio::task::spawn_blocking(move || source.commit(&next));
        match timeout(REQUEST, &mut commit).await {
            Ok(Ok(committed)) => committed,
            Ok(Err(e)) => Err(TransportError::new(Kind::Unknown, format!("committing failed: {e}"))),
            Err(_) => {
                self.late = Some(commit);
                late()
            }
        }
    }
}

/// A topic being read.
struct Reading {
    source: Arc<Source>,
    feed: Feed,
    options: ReadOptions,
    partitions: Vec<i32>,
    /// Where to stop, once that is known.
    ends: Option<Offsets>,
    /// Where the time to stop at lies, in partitions that have been read so far.
    behind: Offsets,
    lines: Lines,
    batch: Vec<Received>,
}

impl Reading {
    fn open(config: &KafkaConfig, options: ReadOptions, feed: Feed) -> Result<Self, TransportError> {
        let clients = Clients::new(config)?;
        let joined = options.name.is_some() && options.bound == Bound::Follow && options.partition.is_none();
        let group = options.name.as_ref().map(ConsumerName::as_str);
        let consumer = clients.reader(group, options.bound == Bound::End)?;
        let source = Source { clients, consumer, topic: config.topic.clone(), joined };
        let partitions = partitions(&source, options.partition)?;
        let now = options.clock.now();
        let ends = match options.bound {
            Bound::End => Some(ends(&source, &partitions)?),
            Bound::Until(time) if time + LATE <= now => Some(source.until(&partitions, time)?),
            Bound::Follow | Bound::Until(_) => None,
        };
        let committed = match &options.name {
            None => Offsets::new(),
            Some(name) => committed(&source, name, &partitions)?,
        };
        let unknown: Vec<_> = partitions.iter().copied().filter(|p| !committed.contains_key(p)).collect();
        let begin = begin(&source, &unknown, options.start, partitions.len())?;
        if options.name.is_some() && !begin.is_empty() {
            source.commit_first(&begin)?;
        }
        let what = format!("read topic `{}`", source.topic);
        if joined {
            source.consumer.subscribe(&[&source.topic]).map_err(|e| source.fail(&what, &e))?;
        } else {
            let from: Offsets = committed.into_iter().chain(begin).collect();
            source.consumer.assign(&source.list(&from)?).map_err(|e| source.fail(&what, &e))?;
        }
        let source = Arc::new(source);
        let (behind, lines, batch) = (Offsets::new(), Lines::default(), Vec::with_capacity(BATCH));
        Ok(Self { source, feed, options, partitions, ends, behind, lines, batch })
    }

    fn run(&mut self) -> Result<(), TransportError> {
        let mut progress = Instant::now();
        // A clock for every record would be a good part of its price: it is looked at when none is there.
        let mut moved = false;
        let mut complained: Option<Instant> = None;
        let mut at = Offsets::new();
        let source = Arc::clone(&self.source);
        loop {
            let wait = match (&self.ends, self.batch.is_empty()) {
                (_, false) => LINGER,
                (Some(_), true) => POLL_TO_END,
                (None, true) => POLL,
            };
            match source.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let wanted = self.is_wanted(&message);
                    if wanted {
                        moved = true;
                        self.take(&message);
                    }
                    if self.batch.len() == BATCH && !self.hand_over()? {
                        return Ok(());
                    }
                    if wanted {
                        continue;
                    }
                }
                Some(Err(error)) => self.judge(&error, &mut complained)?,
                None => {}
            }
            if !self.batch.is_empty() && !self.hand_over()? {
                return Ok(());
            }
            if self.feed.is_closed() {
                return Ok(());
            }
            if let (None, Bound::Until(time)) = (&self.ends, self.options.bound)
                && self.options.clock.now() >= time + LATE
            {
                match source.until(&self.partitions, time) {
                    Ok(mut ends) => {
                        for (partition, from) in &self.behind {
                            ends.entry(*partition).and_modify(|end| *end = (*from).min(*end));
                        }
                        (self.ends, progress) = (Some(ends), Instant::now());
                    }
                    // As whatever comes until then is waited for.
                    Err(error) if error.kind == Kind::Unavailable => debug!("{error}; asking again"),
                    Err(error) => return Err(error),
                }
            }
            if let Some(ends) = &self.ends {
                let position =
                    source.consumer.position().map_err(|e| source.fail("tell how far it read", &e))?;
                let reached = source.offsets(&position);
                if std::mem::take(&mut moved) || reached != at {
                    at = reached;
                    progress = Instant::now();
                }
                let left = ends.iter().find(|(partition, end)| !is_reached(&source, &at, **partition, **end));
                let Some((partition, end)) = left else { return Ok(()) };
                if progress.elapsed() >= GIVE_UP {
                    let topic = &source.topic;
                    let message = format!("could not read `{topic}/{partition}` to its end {end}");
                    return Err(TransportError::new(Kind::Unavailable, message).with_hint(
                        "no broker answered for too long; what was read until now was given out",
                    ));
                }
            }
        }
    }

    /// Whether a record lies before the end. Where that is a time to come, the partition's first record of
    /// that time or later is its end; only of one that has none by then it is asked.
    fn is_wanted(&mut self, message: &BorrowedMessage<'_>) -> bool {
        let (partition, offset) = (message.partition(), u64::try_from(message.offset()).unwrap_or(0));
        if let Some(ends) = &self.ends {
            return ends.get(&partition).is_some_and(|end| offset < *end);
        }
        if let Bound::Until(time) = self.options.bound {
            if stored_at(message).is_some_and(|at| at >= time) {
                self.behind.entry(partition).or_insert(offset);
            }
            return self.behind.get(&partition).is_none_or(|from| offset < *from);
        }
        true
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let offset = u64::try_from(message.offset()).unwrap_or(0);
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.filter_map(|header| Some((header.key, header.value?)));
        let line = self.lines.take(Binding::Kafka, headers, message.payload(), Lines::copy);
        self.batch.push(Received::new(Place::of(message.partition(), offset), stored_at(message), line));
    }

    /// Hands the batch over; false when nobody reads any more. A member of a group goes on polling
    /// while it waits, or the group would count it as gone.
    fn hand_over(&mut self) -> Result<bool, TransportError> {
        let mut full = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        if !self.source.joined {
            return Ok(self.feed.blocking_send(Ok(full)).is_ok());
        }
        let source = Arc::clone(&self.source);
        let fail = |e: KafkaError| source.fail("pause reading", &e);
        // Also what is another member's by now: a pause outlasts that, and would hold when it comes back.
        let mut paused = TopicPartitionList::new();
        loop {
            full = match self.feed.try_send(Ok(full)) {
                Ok(()) => break,
                Err(TrySendError::Closed(_)) => return Ok(false),
                Err(TrySendError::Full(batch)) => batch?,
            };
            let mine = source.consumer.assignment().map_err(fail)?;
            source.consumer.pause(&mine).map_err(fail)?;
            for place in mine.elements() {
                if paused.find_partition(place.topic(), place.partition()).is_none() {
                    paused.add_partition(place.topic(), place.partition());
                }
            }
            match source.consumer.poll(POLL) {
                // On its way before the pause.
                Some(Ok(message)) => self.take(&message),
                Some(Err(error)) => self.judge(&error, &mut None)?,
                None => {}
            }
        }
        if paused.count() > 0 {
            source.consumer.resume(&paused).map_err(fail)?;
        }
        Ok(true)
    }

    /// What ends reading, and what librdkafka mends by itself.
    fn judge(&self, error: &KafkaError, complained: &mut Option<Instant>) -> Result<(), TransportError> {
        let topic = &self.source.topic;
        match code(error) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                let message = format!("topic `{topic}` does not have any more what was to be read next");
                Err(TransportError::new(Kind::Regressed, message).with_hint(
                    "it is older than the topic keeps, or the topic was created anew; begin again, at the \
                     beginning or at another offset",
                ))
            }
            // No group is joined without a name; reading goes on all the same.
            Some(Code::GroupAuthorizationFailed) if self.options.name.is_none() => Ok(()),
            // A broker that has just started may not know yet what it has.
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                // Asked by another client: to ask, a queue is emptied, and in this one's are events.
                let other = self.source.clients.uncommitted()?;
                let deadline = Instant::now() + REQUEST;
                loop {
                    match partitions_of(&self.source, &other, self.options.partition) {
                        Err(_) if self.feed.is_closed() => return Ok(()),
                        Err(error) if error.kind == Kind::Rejected && Instant::now() < deadline => {
                            wait(LOOK);
                        }
                        found => return found.map(drop),
                    }
                }
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::Fatal,
            ) => Err(self.source.fail(&format!("read topic `{topic}`"), error)),
            Some(Code::AllBrokersDown) => {
                if complained.is_none_or(|since| since.elapsed() > COMPLAIN) {
                    *complained = Some(Instant::now());
                    warn!(topic, "no broker can be reached; reading goes on when one comes back");
                }
                Ok(())
            }
            _ => {
                debug!(%error, topic, "while reading");
                Ok(())
            }
        }
    }
}

/// Whether a partition was read to its end: the position is there, or there was nothing to read.
fn is_reached(source: &Source, at: &Offsets, partition: i32, end: u64) -> bool {
    if let Some(position) = at.get(&partition) {
        return *position >= end;
    }
    // Nothing was given out yet: then it counts where reading began.
    let assigned = source.consumer.assignment().map(|list| source.offsets(&list)).unwrap_or_default();
    assigned.get(&partition).is_some_and(|from| *from >= end)
}

fn stored_at(message: &BorrowedMessage<'_>) -> Option<Timestamp> {
    message.timestamp().to_millis().and_then(|ms| Timestamp::from_millisecond(ms).ok())
}
