//! Limits of servers, accounts and streams that are reached: each with its class and what to do.

use amazon_billing_source::{
    config::NatsConfig,
    transport::{TransportErrorKind, nats::Nats},
};
use async_nats::jetstream::{self, consumer::pull};

use crate::support::{Poller, Server, Violations, consume, judge, records, second, versions};
#[cfg(target_os = "linux")]
use crate::{disk::SmallDisk, support::new_dir};

/// A server with one account that everybody uses, within these limits of JetStream.
fn limited(version: &'static str, limits: &str) -> Server {
    let file = format!(
        "accounts {{ BILLING {{ {limits} users: [ {{ user: billing, password: b }} ] }} }}\n\
         no_auth_user: billing\n"
    );
    Server::with(version, &["-js"], &file)
}

/// What so many new events come to.
async fn refused(config: NatsConfig, count: usize) -> (TransportErrorKind, String, String) {
    let error = Poller::new(Nats::new(config)).attempt(&records(count, 100), second(0)).await.unwrap_err();
    (error.kind, error.message, error.hint.unwrap_or_default())
}

#[tokio::test]
async fn what_is_full_is_waited_for_and_what_was_stored_is_found() {
    for version in versions() {
        let full_server = Server::with(version, &["-js"], "jetstream { max_file_store: 300K }\n");
        let full_account = limited(version, "jetstream: { max_file: 300K },");
        for server in [&full_server, &full_account] {
            let (kind, said, hint) = refused(server.config(), 2000).await;
            assert!(
                matches!(kind, TransportErrorKind::Unknown | TransportErrorKind::Unavailable),
                "{version} {kind:?} {said}"
            );
            assert!(said.contains("resource") && hint.contains("is full"), "{version} {said} {hint}");
            let (kind, said, hint) = refused(server.config(), 2000).await;
            assert_eq!(kind, TransportErrorKind::Unavailable, "{version}: nothing more is stored: {said}");
            assert!(hint.contains("nats account info"), "{hint}");
            let stored = consume(server).await.len();
            assert!((150..2000).contains(&stored), "{version}: {stored}");

            // Room is made: what others have there goes.
            let js = server.jetstream().await;
            js.get_stream("BILLING").await.unwrap().purge().keep(50).await.unwrap();
            let mut poller = Poller::new(server.transport());
            assert_eq!(poller.poll(&records(100, 100), second(1)).await, 100, "{version}");
            assert_eq!(judge(&consume(server).await).0, Violations::default());
        }
    }
}

/// A server that gives out fewer messages at a time than are asked for elsewhere.
#[tokio::test]
async fn what_a_server_allows_at_a_time_is_not_exceeded() {
    for version in versions() {
        let server = Server::with(version, &["-js"], "jetstream { limits { max_request_batch: 7 } }\n");
        assert_eq!(Poller::new(server.transport()).poll(&records(100, 100), second(0)).await, 100);
        // Another process has it all to read back.
        assert_eq!(Poller::new(server.transport()).poll(&records(100, 100), second(1)).await, 0, "{version}");
    }
}

/// A server whose disk takes no more: nothing is lost and nothing comes twice, and it goes on when there is
/// room again and the server was started anew.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_waited_for() {
    for version in versions() {
        let dir = new_dir();
        let disk = SmallDisk::new(&dir.join("store"), 32);
        let mut server = Server::within(version, dir, disk.within());
        let mut poller = Poller::new(server.transport());
        assert_eq!(poller.poll(&records(10, 100), second(0)).await, 10);
        disk.fill();
        let error = poller.attempt(&records(2000, 100), second(1)).await.unwrap_err();
        assert!(error.hint.as_ref().unwrap().contains("disk"), "{version} {error}");
        // As often as it is tried.
        let error = poller.attempt(&records(2000, 100), second(1)).await.unwrap_err();
        assert!(
            matches!(error.kind, TransportErrorKind::Unknown | TransportErrorKind::Unavailable),
            "{version} {:?} {error}",
            error.kind
        );
        server.kill();
        disk.free();
        server.restart();
        let mut poller = Poller::new(server.transport());
        assert!(poller.poll(&records(2000, 100), second(2)).await > 0, "{version}");
        let (violations, keys) = judge(&consume(&server).await);
        assert_eq!(violations, Violations::default(), "{version}");
        assert_eq!(keys.len(), 2000, "{version}");
    }
}

#[tokio::test]
async fn limits_of_the_account_are_named() {
    for version in versions() {
        for (limits, kind, said, hint) in [
            (
                "jetstream: { max_streams: 1 },",
                TransportErrorKind::Rejected,
                "maximum number of streams",
                "needs two",
            ),
            (
                "jetstream: { max_file: 100M, max_bytes_required: true },",
                TransportErrorKind::Rejected,
                "max bytes",
                "--max-bytes",
            ),
            ("", TransportErrorKind::Rejected, "JetStream not enabled for account", "enable it"),
        ] {
            let server = limited(version, limits);
            let refused = refused(server.config(), 3).await;
            assert_eq!(refused.0, kind, "{version} {limits} {refused:?}");
            assert!(refused.1.contains(said) && refused.2.contains(hint), "{version} {limits} {refused:?}");
        }
    }
}

#[tokio::test]
async fn too_many_consumers_are_waited_out() {
    for version in versions() {
        let server = limited(version, "jetstream: { max_consumers: 1 },");
        assert_eq!(Poller::new(server.transport()).poll(&records(3, 100), second(0)).await, 3);
        let stream = server.jetstream().await.get_stream("BILLING").await.unwrap();
        let durable = pull::Config { durable_name: Some("warehouse".to_owned()), ..Default::default() };
        // The consumers that read the state back go by themselves.
        while stream.create_consumer(durable.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let (kind, said, hint) = refused(server.config(), 3).await;
        assert_eq!(kind, TransportErrorKind::Unavailable, "{version} {said}");
        assert!(said.contains("maximum consumers") && hint.contains("nats consumer ls"), "{said} {hint}");
        stream.delete_consumer("warehouse").await.unwrap();
        assert_eq!(Poller::new(server.transport()).poll(&records(3, 100), second(1)).await, 0);
    }
}

#[tokio::test]
async fn more_replicas_than_servers_are_named() {
    for version in versions() {
        let server = Server::start(version);
        let (kind, said, hint) = refused(NatsConfig { replicas: 3, ..server.config() }, 3).await;
        assert_eq!(kind, TransportErrorKind::Rejected, "{version} {said}");
        assert!(said.contains("replicas > 1") && hint.contains("`replicas`"), "{said} {hint}");
    }
}

/// Between recovery and publishing: the next recovery creates the stream anew, or says what to type.
#[tokio::test]
async fn a_stream_that_is_deleted_under_way_is_a_regression() {
    for version in versions() {
        let server = Server::start(version);
        let mut poller = Poller::new(server.transport());
        assert_eq!(poller.poll(&records(3, 100), second(0)).await, 3);
        let state = poller.recover().await.unwrap();
        let js: jetstream::Context = server.jetstream().await;
        js.delete_stream("BILLING").await.unwrap();
        let error = poller.publish(&records(3, 200), second(1), state).await.unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Regressed, "{version} {error}");
        let own = NatsConfig { create_stream: false, ..server.config() };
        let (kind, said, hint) = refused(own, 3).await;
        assert_eq!(kind, TransportErrorKind::Rejected);
        assert!(said.contains("no stream `BILLING`") && hint.contains("nats stream add"), "{said} {hint}");
        poller.ledger.clear();
        assert_eq!(poller.poll(&records(3, 200), second(2)).await, 3, "{version}");
        assert_eq!(judge(&consume(&server).await).0, Violations::default());
    }
}
