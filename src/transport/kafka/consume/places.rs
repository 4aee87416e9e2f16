//! Which partitions are read, and from where to where.

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tracing::{info, warn};

use super::{Offsets, Source};
use crate::{
    consume::{ConsumerName, Start},
    transport::{
        TransportError, TransportErrorKind as Kind,
        kafka::{client::TRANSACTION, context::Context, errors::all_answered},
    },
};

/// The partitions to read.
pub(super) fn partitions(source: &Source, only: Option<i32>) -> Result<Vec<i32>, TransportError> {
    partitions_of(source, &source.consumer, only)
}

/// The same, asked by another client.
pub(super) fn partitions_of(
    source: &Source,
    client: &BaseConsumer<Context>,
    only: Option<i32>,
) -> Result<Vec<i32>, TransportError> {
    let topic = &source.topic;
    let metadata = source.clients.metadata(client, topic)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found else { return Err(no_topic(topic)) };
    if let Some(error) = found.error() {
        let error = KafkaError::MetadataFetch(Code::from(error));
        return Err(source.fail(&format!("read the metadata of topic `{topic}`"), &error));
    }
    let mut all: Vec<_> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    all.sort_unstable();
    match only {
        None if all.is_empty() => Err(no_topic(topic)),
        None => Ok(all),
        Some(partition) if all.contains(&partition) => Ok(vec![partition]),
        Some(partition) => {
            let last = all.len().saturating_sub(1);
            let message = format!("topic `{topic}` has no partition {partition}: they are 0 to {last}");
            Err(TransportError::new(Kind::Rejected, message))
        }
    }
}

pub(super) fn ends(source: &Source, partitions: &[i32]) -> Result<Offsets, TransportError> {
    partitions.iter().map(|partition| Ok((*partition, source.range(*partition)?.1))).collect()
}

/// What the group has committed, as far as that is still in the topic.
pub(super) fn committed(
    source: &Source,
    name: &ConsumerName,
    partitions: &[i32],
) -> Result<Offsets, TransportError> {
    let topic = &source.topic;
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    let fail = |e: &KafkaError| source.fail(&format!("read the offsets of group `{name}`"), e);
    // The first group of a cluster waits for it to create the topic of all groups' offsets.
    let ask = || source.consumer.committed_offsets(list.clone(), TRANSACTION).and_then(all_answered);
    let found = source.clients.settled(&source.consumer, fail, ask)?;
    let mut offsets = source.offsets(&found);
    for (partition, offset) in &mut offsets {
        let (low, end) = source.range(*partition)?;
        if *offset > end {
            let message = format!(
                "group `{name}` has read `{topic}/{partition}` up to offset {offset}, and it ends at {end}"
            );
            return Err(TransportError::new(Kind::Regressed, message).with_hint(
                "the topic was created anew, or lost records; choose another name, or delete the group's offsets",
            ));
        }
        if *offset < low {
            warn!(
                topic,
                partition,
                from = *offset,
                until = low,
                "the group `{name}` has not read these offsets, and the topic does not keep them any more"
            );
            *offset = low;
        }
        info!(topic, partition, offset = *offset, "`{name}` goes on");
    }
    Ok(offsets)
}

/// Where to begin in these partitions.
pub(super) fn begin(
    source: &Source,
    partitions: &[i32],
    start: Start,
    of: usize,
) -> Result<Offsets, TransportError> {
    if partitions.is_empty() {
        return Ok(Offsets::new());
    }
    let topic = &source.topic;
    match start {
        Start::Time(time) => source.at_time(&source.consumer, partitions, time),
        Start::End => ends(source, partitions),
        Start::Beginning => {
            partitions.iter().map(|partition| Ok((*partition, source.range(*partition)?.0))).collect()
        }
        Start::Position(_) if of > 1 => {
            let message = format!("topic `{topic}` has {of} partitions, each with offsets of its own");
            Err(TransportError::new(Kind::Rejected, message)
                .with_hint("name one with `--partition`, or begin at a time with `--since`"))
        }
        Start::Position(offset) => {
            let mut offsets = Offsets::new();
            for partition in partitions {
                let (low, end) = source.range(*partition)?;
                if !(low..=end).contains(&offset) {
                    let message = if low == end {
                        format!(
                            "offset {offset} is not in `{topic}/{partition}`, which is empty; its next offset is {end}"
                        )
                    } else {
                        format!(
                            "offset {offset} is not in `{topic}/{partition}`: it has {low} to {}",
                            end - 1
                        )
                    };
                    return Err(TransportError::new(Kind::Rejected, message));
                }
                offsets.insert(*partition, offset);
            }
            Ok(offsets)
        }
    }
}

pub(super) fn no_topic(topic: &str) -> TransportError {
    TransportError::new(Kind::Rejected, format!("there is no topic `{topic}`"))
        .with_hint("the first `run` creates it where `kafka.create_topics` is set; see `kafka.topic`")
}
