//! Reading a partition of the state topic to its proven end.
//!
//! The end is the high watermark, open transactions included, and it is reached when the position of
//! a `read_committed` consumer is there: everything before it is then either committed and read, or
//! aborted. Neither an empty poll nor the end-of-partition event proves that.
//!
//! Of a long log one thread asks the client for records and another takes them apart.

use std::{
    mem,
    panic::resume_unwind,
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};

use super::{
    client::{Clients, TRANSACTION},
    context::Context,
    errors::code,
};
use crate::transport::{TransportError, TransportErrorKind as Kind};

/// Records that are ready, in their order. They are let go together: the client's thread makes records where
/// these are freed, and each has to wait for the other.
type Part<'a> = Vec<BorrowedMessage<'a>>;

/// So many records make a part.
const PART: usize = 2048;

/// So many parts wait to be taken apart.
const WAITING: usize = 4;

/// A log of so many records is worth another thread.
const LONG: u64 = 10_000;

/// Without progress for so long, an open transaction of a process that died is in the way: one that is
/// being written is committed sooner, also on a busy broker, and would be fenced in vain.
const STALL: Duration = Duration::from_secs(2);

/// Without progress for so long, it is given up: longer than any transaction may stand open.
const GIVE_UP: Duration = Duration::from_secs(TRANSACTION.as_secs() + 15);

/// Gives every committed record in `from..to` of a partition to `each`, and returns once the end is
/// proven. `stalled` is called once when an open transaction holds the reader up.
pub(super) fn read(
    clients: &Clients,
    consumer: &BaseConsumer<Context>,
    (topic, partition): (&str, i32),
    (from, to): (u64, u64),
    stalled: impl FnMut(),
    mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<(), TransportError> + Send,
) -> Result<(), TransportError> {
    let take = move |part: Part<'_>| part.iter().try_for_each(&mut each);
    if to.saturating_sub(from) < LONG {
        return poll(clients, consumer, (topic, partition), (from, to), stalled, take);
    }
    thread::scope(|threads| {
        let (parts, ready) = sync_channel(WAITING);
        let other = threads.spawn(move || ready.into_iter().try_for_each(take));
        // Once a record is refused nobody takes any more; why, the other thread says.
        let gone = |_| TransportError::new(Kind::Unknown, "reading was given up");
        let give = |part| parts.send(part).map_err(gone);
        let polled = poll(clients, consumer, (topic, partition), (from, to), stalled, give);
        drop(parts);
        other.join().unwrap_or_else(|panic| resume_unwind(panic)).and(polled)
    })
}

/// As [`read`], by the part.
fn poll<'a>(
    clients: &Clients,
    consumer: &'a BaseConsumer<Context>,
    (topic, partition): (&str, i32),
    (from, to): (u64, u64),
    mut stalled: impl FnMut(),
    mut give: impl FnMut(Part<'a>) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    if from >= to {
        return Ok(());
    }
    let what = format!("read `{topic}/{partition}`");
    let fail = |e: &KafkaError| clients.error(&what, e);
    let mut at = TopicPartitionList::new();
    let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
    at.add_partition_offset(topic, partition, offset).map_err(|e| fail(&e))?;
    consumer.assign(&at).map_err(|e| fail(&e))?;

    let mut part = Part::new();
    let mut position = from;
    let mut progress = Instant::now();
    // A clock for every record would be a good part of its price: it is looked at when none is there.
    let mut moved = false;
    let mut told = false;
    while position < to {
        let ready = consumer.poll(Duration::ZERO);
        if (ready.is_none() && !part.is_empty()) || part.len() == PART {
            give(mem::take(&mut part))?;
        }
        match ready.or_else(|| consumer.poll(Duration::from_millis(20))) {
            Some(Ok(message)) => {
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                if offset >= to {
                    break;
                }
                part.push(message);
                position = offset + 1;
                moved = true;
                continue;
            }
            Some(Err(error)) => match code(&error) {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                    return Err(regressed(topic, partition, from));
                }
                // No group is joined; without the right to, reading goes on all the same.
                Some(Code::GroupAuthorizationFailed) => {}
                Some(
                    Code::TopicAuthorizationFailed
                    | Code::UnknownTopicOrPartition
                    | Code::UnknownTopic
                    | Code::UnknownPartition
                    | Code::ClusterAuthorizationFailed,
                ) => return Err(fail(&error)),
                _ => tracing::debug!(%error, topic, partition, "while reading"),
            },
            None => {}
        }
        let reached = reached(consumer, topic, partition).map_err(|e| fail(&e))?;
        if mem::take(&mut moved) || reached > position {
            position = reached.max(position);
            progress = Instant::now();
        }
        if !told && progress.elapsed() >= STALL {
            told = true;
            stalled();
        }
        if progress.elapsed() >= GIVE_UP {
            let message = format!("could not {what} to its end {to}: it stands at {position}");
            return Err(TransportError::new(Kind::Unavailable, message)
                .with_hint("an open transaction of another program, or one whose end was lost with a broker (`kafka-transactions.sh find-hanging` and `abort`), or a broker that does not answer"));
        }
    }
    give(part)
}

/// The position after the last record given out, markers and aborted records included.
pub(super) fn reached(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partition: i32,
) -> Result<u64, KafkaError> {
    let position = consumer.position()?;
    let offset = position.find_partition(topic, partition).and_then(|place| place.offset().to_raw());
    Ok(offset.and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0))
}

pub(super) fn regressed(topic: &str, partition: i32, from: u64) -> TransportError {
    let message = format!("`{topic}/{partition}` went backwards: what was read up to offset {from} is gone");
    TransportError::new(Kind::Regressed, message)
        .with_hint("the topic was recreated, or an unclean leader election lost records; what is missing is published again")
}
