//! A topic, and what is asked and told about it: offsets of a group, of times, of the log's ends.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tracing::debug;

use super::places::no_topic;
use crate::transport::{
    TransportError, TransportErrorKind as Kind,
    kafka::{
        client::{Clients, REQUEST, close},
        context::Context,
        errors::{all_answered, code, is_no_topic},
    },
};

/// Offsets by partition.
pub(super) type Offsets = BTreeMap<i32, u64>;

/// A topic and the consumer that reads it.
pub(super) struct Source {
    pub(super) clients: Clients,
    pub(super) consumer: BaseConsumer<Context>,
    pub(super) topic: String,
    /// Whether the group was joined, and partitions come and go.
    pub(super) joined: bool,
}

impl Source {
    pub(super) fn fail(&self, what: &str, error: &KafkaError) -> TransportError {
        if is_no_topic(error) {
            return no_topic(&self.topic);
        }
        let forbidden =
            matches!(code(error), Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed));
        let error = self.clients.error(what, error);
        if forbidden {
            return error.with_hint(
                "grant the principal Read and Describe on the topic, and with a name Read on the group of that name",
            );
        }
        error
    }

    pub(super) fn list(&self, offsets: &Offsets) -> Result<TopicPartitionList, TransportError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.topic, *partition, offset)
                .map_err(|e| self.fail("name an offset", &e))?;
        }
        Ok(list)
    }

    pub(super) fn offsets(&self, list: &TopicPartitionList) -> Offsets {
        let known = list.elements_for_topic(&self.topic).into_iter().filter_map(|element| {
            let offset = u64::try_from(element.offset().to_raw()?).ok()?;
            Some((element.partition(), offset))
        });
        known.collect()
    }

    pub(super) fn commit(&self, offsets: &Offsets) -> Result<(), TransportError> {
        let topic = &self.topic;
        let mut offsets = offsets.clone();
        if self.joined {
            let mine = self.consumer.assignment().map_err(|e| self.not_committed(&e))?;
            offsets.retain(|partition, offset| {
                let kept = mine.find_partition(topic, *partition).is_some();
                if !kept {
                    debug!(partition, offset, "not committed: another member has the partition by now");
                }
                kept
            });
            if offsets.is_empty() {
                return Ok(());
            }
        }
        self.consumer.commit(&self.list(&offsets)?, CommitMode::Sync).map_err(|e| self.not_committed(&e))
    }

    /// Commits where a name begins, before anything is read: so it stays there, also where nothing ever is.
    pub(super) fn commit_first(&self, begin: &Offsets) -> Result<(), TransportError> {
        let list = self.list(begin)?;
        let commit = || match self.consumer.commit(&list, CommitMode::Sync) {
            // Somebody of the group was faster.
            Err(error) if self.joined && is_of_others(&error) => Ok(()),
            committed => committed,
        };
        self.clients.settled(&self.consumer, |e| self.not_committed(e), commit)
    }

    fn not_committed(&self, error: &KafkaError) -> TransportError {
        let what = format!("commit offsets of topic `{}`", self.topic);
        if is_no_topic(error) {
            // Whether it is gone, reading tells.
            return TransportError::new(Kind::Unavailable, format!("could not {what}: {error}"));
        }
        if !is_of_others(error) {
            return self.fail(&what, error);
        }
        if self.joined {
            // Once that is done the partition is this member's again, or no longer its business.
            let message = format!("could not {what}: the group shares its partitions out anew");
            return TransportError::new(Kind::Unavailable, message);
        }
        let message = format!("could not {what}: members of that group are reading");
        TransportError::new(Kind::Conflict, message).with_hint("stop them first, or choose another name")
    }

    /// The oldest offset kept, and the end of what is committed.
    pub(super) fn range(&self, partition: i32) -> Result<(u64, u64), TransportError> {
        self.clients.watermarks(&self.consumer, &self.topic, partition)
    }

    /// The first offset stored at a time or later, by partition; the end where there is none.
    /// Asked by a client that reads nothing yet: to ask, its queue is emptied.
    pub(super) fn at_time(
        &self,
        asking: &BaseConsumer<Context>,
        partitions: &[i32],
        time: Timestamp,
    ) -> Result<Offsets, TransportError> {
        let what = format!("find the offsets of {time} in topic `{}`", self.topic);
        // Kafka's times are whole milliseconds: the first that is not before.
        let part = i64::from(time.subsec_nanosecond() % 1_000_000 > 0);
        let millis = u64::try_from(time.as_millisecond() + part).unwrap_or(0);
        let times = self.list(&partitions.iter().map(|partition| (*partition, millis)).collect())?;
        self.clients.metadata(asking, &self.topic)?;
        // Before the question: what is stored after it may be of a later time.
        let ranges = partitions
            .iter()
            .map(|partition| Ok((*partition, self.clients.watermarks(asking, &self.topic, *partition)?)));
        let ranges = ranges.collect::<Result<Vec<_>, TransportError>>()?;
        let ask = || asking.offsets_for_times(times.clone(), REQUEST).and_then(all_answered);
        let found = self.offsets(&self.clients.settled(asking, |e| self.fail(&what, e), ask)?);
        let at = |(partition, (low, end)): (i32, (u64, u64))| {
            (partition, found.get(&partition).map_or(end, |at| (*at).max(low)))
        };
        Ok(ranges.into_iter().map(at).collect())
    }

    /// Where a time lies that ends reading. What was sent before it counts although its transaction is open:
    /// it is waited for.
    pub(super) fn until(&self, partitions: &[i32], time: Timestamp) -> Result<Offsets, TransportError> {
        self.at_time(&self.clients.uncommitted()?, partitions, time)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        close(&self.consumer);
    }
}

/// Whether a group has members that decide about its offsets.
fn is_of_others(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::RebalanceInProgress | Code::IllegalGeneration | Code::UnknownMemberId))
}
