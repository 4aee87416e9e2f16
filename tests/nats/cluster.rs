//! Three nodes and a stream of three replicas: leaders that change, servers that are killed.

use std::time::{Duration, Instant};

use amazon_billing_source::{
    config::NatsConfig,
    transport::{Transport as _, TransportErrorKind, nats::Nats},
};
use async_nats::jetstream;

use crate::{
    ports::free_port,
    soak::{Publisher, answer, now, whole},
    support::{
        Poller, Server, Violations, any_config, consume, judge, newest, pause, records, second, versions,
    },
};

struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    fn start(version: &'static str) -> Self {
        let ports: Vec<_> = (0..3).map(|_| free_port()).collect();
        let routes: Vec<_> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let node = |(number, port): (usize, &u16)| {
            let file = format!(
                "http: \"127.0.0.1:-1\"\nlame_duck_duration: 30s\nlame_duck_grace_period: 1s\nserver_name: n{number}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
                routes.join(", ")
            );
            Server::with(version, &["-js"], &file)
        };
        Self { nodes: ports.iter().enumerate().map(node).collect() }
    }

    /// Every node, and before them one that is not there.
    fn config(&self) -> NatsConfig {
        let nowhere = "nats://127.0.0.1:1".to_owned();
        let servers = [nowhere].into_iter().chain(self.nodes.iter().map(Server::url)).collect();
        NatsConfig { servers, replicas: 3, timeout: Duration::from_secs(3), ..any_config() }
    }

    fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// Polls as soon as the cluster lets it.
    async fn poll(&self, records: &[amazon_billing_source::cost::CostRecord], at: jiff::Timestamp) -> usize {
        let deadline = Instant::now() + Duration::from_secs(90);
        let mut poller = Poller::new(Nats::new(self.config()));
        loop {
            match poller.attempt(records, at).await {
                Ok(deliveries) => return deliveries.len(),
                Err(error) => {
                    assert!(error.kind.may_pass() && Instant::now() < deadline, "{:?} {error}", error.kind);
                }
            }
            poller.ledger.clear();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Servers answer a publish that is stored already in two ways, by version and number of nodes. All
/// of them come to: stored, at the place it has. A rival's is a conflict, whatever it is called.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "what was measured, for who runs it")]
async fn a_publish_that_is_stored_already_is_found_and_a_rivals_is_a_conflict() {
    for version in versions() {
        let cluster = Cluster::start(version);
        let one = Server::start(version);
        for (nodes, config, node) in [(1, one.config(), &one), (3, cluster.config(), &cluster.nodes[0])] {
            let batch = records(200, 100);
            let mut poller = Poller::new(Nats::new(config.clone()));
            let state = patiently(&mut poller).await;
            let first = poller.publish(&batch, second(0), state.clone()).await.unwrap();
            // The ledger knows nothing of it: the same events, expected over the same sequences.
            let again = poller.publish(&batch, second(0), state.clone()).await.unwrap();
            assert_eq!(first, again, "{version}, {nodes} nodes");
            assert_eq!(consume(node).await.len(), 200, "{version}, {nodes} nodes");

            // Which of the two answers it was.
            let seen = consume(node).await.remove(0);
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", seen.event["id"].as_str().unwrap());
            headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
            let js = node.jetstream().await;
            let sent = js.publish_with_headers(seen.subject.clone(), headers, "{}".into()).await.unwrap();
            let answer = sent.await.map(|ack| ack.duplicate).map_err(|error| error.to_string());
            println!("{version}, {nodes} nodes: a stored publish repeated: {answer:?}");

            let error = poller.publish(&records(200, 200), second(1), state.clone()).await.unwrap_err();
            assert_eq!(error.kind, TransportErrorKind::Conflict, "{version}, {nodes} nodes: {error}");
            assert_eq!(poller.poll(&records(200, 200), second(1)).await, 200);
            // Of two at once over the same view, each key takes one.
            let mut rival = Poller::new(Nats::new(config.clone()));
            let (own, theirs) = (poller.recover().await.unwrap(), rival.recover().await.unwrap());
            let (cheap, dear) = (records(200, 300), records(200, 400));
            let (one, other) =
                tokio::join!(poller.publish(&cheap, second(2), own), rival.publish(&dear, second(2), theirs));
            for result in [one, other] {
                let kind = result.err().map(|error| error.kind);
                assert!(kind.is_none_or(|kind| kind == TransportErrorKind::Conflict), "{version} {kind:?}");
            }
            poller.poll(&records(200, 500), second(3)).await;
            assert_eq!(judge(&consume(node).await).0, Violations::default(), "{version}, {nodes} nodes");
        }
    }
}

/// As soon as the cluster lets it.
async fn patiently(poller: &mut Poller) -> amazon_billing_source::dedup::ConnectionState {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        match poller.recover().await {
            Ok(state) => return state,
            Err(error) => {
                assert!(error.kind.may_pass() && Instant::now() < deadline, "{:?} {error}", error.kind);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_leader_that_steps_down_under_way_loses_nothing() {
    let cluster = Cluster::start(newest());
    assert_eq!(cluster.poll(&records(10, 100), second(0)).await, 10);
    let mut poller = Poller::new(Nats::new(cluster.config()));
    let facts = poller.nats.check().await.unwrap();
    assert!(facts.iter().any(|fact| fact.contains("3 replicas")), "{facts:?}");
    assert!(!facts.iter().any(|fact| fact.starts_with("warning")), "{facts:?}");
    let js: jetstream::Context = cluster.nodes[0].jetstream().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let unrest = async {
        let mut changes = 0;
        while !stop.is_cancelled() {
            let asked: Result<serde_json::Value, _> =
                js.request("STREAM.LEADER.STEPDOWN.BILLING", &serde_json::json!({})).await;
            changes += usize::from(asked.is_ok());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        changes
    };
    let polls = async {
        for round in 1..=12 {
            poller.poll(&records(1000, 100 + round), second(round)).await;
        }
        stop.cancel();
    };
    let (changes, ()) = tokio::join!(unrest, polls);
    assert!(changes > 0);
    assert_eq!(cluster.poll(&records(1000, 112), second(100)).await, 0);
    let seen = consume(&cluster.nodes[0]).await;
    assert_eq!(judge(&seen).0, Violations::default());
    assert_eq!(seen.len(), 10 + 12 * 1000, "{changes} changes of the leader");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "what was measured, for who runs it")]
async fn publishers_and_nodes_killed() {
    for version in versions() {
        let mut cluster = Cluster::start(version);
        cluster.poll(&answer(now()), whole(now())).await;
        let ports = cluster.ports();
        let mut running: Vec<_> = (0..3).map(|_| Publisher::start(&ports, "slow")).collect();
        for kill in 0..16_usize {
            tokio::task::spawn_blocking(move || pause(Duration::from_millis(500 + 97 * (kill as u64 % 7))))
                .await
                .unwrap();
            running.remove(0);
            running.push(Publisher::start(&ports, "slow"));
            if kill % 4 == 1 {
                cluster.nodes[kill % 3].kill();
            } else if kill % 4 == 3 {
                cluster.nodes[(kill - 2) % 3].restart();
            }
        }
        running.clear();
        let at = now();
        let later = jiff::Timestamp::from_second(at.as_second() + 1).unwrap();
        cluster.poll(&answer(at), later).await;
        let seen = consume(&cluster.nodes[0]).await;
        let (violations, _) = judge(&seen);
        println!(
            "{version}: three nodes, 16 kills of publishers, 4 of nodes: {} events, {violations:?}",
            seen.len()
        );
        assert_eq!(violations, Violations::default(), "{version}");
        assert!(seen.len() > 400, "{}", seen.len());
    }
}

/// As an upgrade does it: every node in turn is told to drain, ends, and comes back.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what was measured, for who runs it")]
async fn nodes_that_drain_one_after_the_other_lose_nothing() {
    for version in versions() {
        let mut cluster = Cluster::start(version);
        assert_eq!(cluster.poll(&records(1000, 100), second(0)).await, 1000);
        let mut poller = Poller::new(Nats::new(cluster.config()));
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let drains = tokio::task::spawn_blocking(move || {
            for node in &mut cluster.nodes {
                node.lame_duck();
                node.restart();
                // Until it has caught up: a second one may not be missing.
                node.wait_until_healthy();
            }
            stopped.cancel();
            cluster
        });
        let mut rounds = 0;
        while !stop.is_cancelled() {
            rounds += 1;
            poller.poll(&records(1000, 100 + rounds), second(rounds)).await;
        }
        let cluster = drains.await.unwrap();
        assert_eq!(cluster.poll(&records(1000, 100 + rounds), second(rounds + 1)).await, 0);
        let seen = consume(&cluster.nodes[0]).await;
        println!("{version}: three nodes drained in turn: {rounds} polls of 1000 events");
        assert_eq!(judge(&seen).0, Violations::default(), "{version}");
        assert_eq!(seen.len(), 1000 * (1 + usize::try_from(rounds).unwrap()), "{version}");
        assert!(rounds > 0);
    }
}
