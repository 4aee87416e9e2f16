//! Codes a real broker gives too seldom to wait for, from librdkafka's own mock of a cluster: what each
//! of them means. It proves nothing about what is stored.

use amazon_billing_source::transport::{TransportErrorKind as Kind, kafka::Kafka};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code},
};

use crate::support::{Process, change, config_of, scope};

#[tokio::test(flavor = "multi_thread")]
async fn every_code_has_its_meaning() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["events", "events-state"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let mut config = config_of(&cluster.bootstrap_servers(), "codes");
    "events".clone_into(&mut config.topic);
    "events-state".clone_into(&mut config.state_topic);
    config.create_topics = false;
    let kafka = Kafka::connect(&config).unwrap();
    for (api, code, times, expected) in [
        (Api::InitProducerId, Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, 3, None),
        (Api::InitProducerId, Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, 1, Some((Kind::Conflict, ""))),
        (
            Api::InitProducerId,
            Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            1,
            Some((Kind::Rejected, "transactional ids")),
        ),
        (
            Api::InitProducerId,
            Code::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT,
            1,
            Some((Kind::Rejected, "transaction.max.timeout.ms")),
        ),
        // A broker that does not know yet of a partition it leads, or has no leader for it.
        (Api::ListOffsets, Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, 2, None),
        (Api::ListOffsets, Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, 2, None),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, 2, None),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, 2, None),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, 2, None),
        (
            Api::Produce,
            Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            1,
            Some((Kind::Rejected, "grant the principal")),
        ),
        (Api::EndTxn, Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, 2, None),
        (Api::EndTxn, Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, 1, Some((Kind::Conflict, ""))),
        (Api::EndTxn, Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, 1, Some((Kind::Conflict, ""))),
    ] {
        // The mock's log has no commit, so each begins anew with what is there.
        let mut process = Process::of(kafka.clone(), scope());
        process.recover().await.unwrap();
        let key = change("Tax", 1);
        let revision = process.ledger.previous(&key.key).map_or(1, |known| known.revision() + 1);
        cluster.request_errors(api, &vec![code; times]);
        let outcome = process.publish(&[change("Tax", revision)]).await;
        cluster.clear_request_errors(api);
        match (outcome, expected) {
            (Ok(_), None) => {}
            (Err(error), Some((kind, hint))) => {
                assert_eq!(error.kind, kind, "{code:?}: {error}");
                let given = error.hint.clone().unwrap_or_default();
                assert!(given.contains(hint), "{code:?}: {error} {given}");
            }
            (outcome, expected) => panic!("{api:?} {code:?}: {outcome:?}, expected {expected:?}"),
        }
    }
}
