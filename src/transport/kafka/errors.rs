//! What librdkafka's errors mean here, and what to do about them.

use rdkafka::{
    TopicPartitionList,
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use crate::transport::TransportErrorKind as Kind;

/// What to do where a partition cannot be written to.
pub(super) const TOO_FEW_IN_SYNC: &str = "fewer replicas are in sync than `min.insync.replicas` asks for; nothing is lost, it goes on when they are back";

/// What to do where nothing more is known.
pub(super) const OUT_OF_REACH: &str = "is the broker up, and `kafka.bootstrap_servers` right? Nothing is lost; it goes on when the broker is back";

/// What to do where the principal lacks rights on a topic.
pub(super) const TOPIC_DENIED: &str = "grant the principal Read, Write, Describe and DescribeConfigs on both topics; `check --connect` prints the commands";

/// What to do where it may not create one.
pub(super) const CREATE_DENIED: &str = "grant the principal Create on both topics, on Amazon MSK with IAM `kafka-cluster:CreateTopic`, or have them created: `check --connect` without `kafka.create_topics` prints the commands";

/// What to do where the principal may not have transactions.
pub(super) const ID_DENIED: &str = "grant the principal Write and Describe on transactional ids that begin with the state topic's name, or set `delivery = \"at_least_once\"`; `check --connect` prints the command";

/// librdkafka's code of an error, where it has one.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Whether another producer of the same `transactional.id` was here, in any of the forms in which a
/// fenced instance learns of it.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(
            Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::PurgeQueue
                | Code::PurgeInflight
                | Code::InvalidProducerIdMapping
                | Code::TransactionCoordinatorFenced
        )
    )
}

/// Whether there is no such topic.
pub(super) fn is_no_topic(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition))
}

/// Whether a partition is without its leader, or a group without its coordinator, for a moment: just
/// created, or moved to another broker. librdkafka calls a partition without a leader unknown, and so does
/// a broker of one that it does not know yet to be its own.
pub(super) fn is_settling(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(
            Code::NotLeaderForPartition
                | Code::DestroyBroker
                | Code::LeaderNotAvailable
                | Code::ReplicaNotAvailable
                | Code::OffsetNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
        )
    )
}

/// A list of partitions of which none has an error of its own, which would otherwise look like one of
/// which nothing is known.
pub(super) fn all_answered(list: TopicPartitionList) -> Result<TopicPartitionList, KafkaError> {
    list.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)?;
    Ok(list)
}

/// What an error means where nothing can have been stored.
pub(super) fn classify(error: &KafkaError) -> (Kind, Option<&'static str>) {
    if is_fenced(error) {
        return (Kind::Conflict, None);
    }
    match code(error) {
        Some(Code::TopicAuthorizationFailed) => (Kind::Rejected, Some(TOPIC_DENIED)),
        Some(Code::TransactionalIdAuthorizationFailed) => (Kind::Rejected, Some(ID_DENIED)),
        Some(Code::ClusterAuthorizationFailed) => (
            Kind::Rejected,
            Some("grant the principal IdempotentWrite on the cluster; with `create_topics` also Create"),
        ),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => (
            Kind::Rejected,
            Some(
                "set `kafka.create_topics = true`, or see `check --connect` for the commands that create the topics",
            ),
        ),
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
            (Kind::Rejected, Some("raise the topic's `max.message.bytes`"))
        }
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient) => {
            (Kind::Unavailable, Some(TOO_FEW_IN_SYNC))
        }
        Some(Code::QueueFull) => (
            Kind::Unavailable,
            Some(
                "the brokers take no records; nothing is lost, and `queue.buffering.max.messages` in `[kafka.librdkafka]` need not grow",
            ),
        ),
        Some(Code::KafkaStorageError) => {
            (Kind::Unavailable, Some("a broker cannot write to its disk; see its log"))
        }
        Some(Code::UnsupportedFeature | Code::UnsupportedVersion) => {
            (Kind::Rejected, Some("the broker is too old for this, or does not offer it"))
        }
        Some(Code::InvalidTransactionTimeout) => {
            (Kind::Rejected, Some("the broker's `transaction.max.timeout.ms` is below 30 seconds; raise it"))
        }
        // Also of a login that failed: whether it was refused, or cut, only the complaint tells.
        _ => (Kind::Unavailable, Some(OUT_OF_REACH)),
    }
}
