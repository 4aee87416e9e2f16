//! Three brokers: leaders killed while events are published, too few replicas in sync, and a leader
//! elected that lacks acknowledged records.

use std::{
    fs,
    net::TcpStream,
    process::Child,
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::KafkaConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    binary::wait_until,
    broker::{Jvm, folder, java, ports::free_port, run},
    support::{Process, config_of, consume, surely, violations},
};

struct Node {
    port: u16,
    folder: std::path::PathBuf,
    child: Option<Child>,
}

impl Node {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    fn start(&mut self) {
        let properties = self.folder.join("server.properties");
        self.child = Some(run(&properties, &self.folder, &Jvm::default()));
        let port = self.port;
        wait_until("the node", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Three nodes, each broker and controller.
struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    fn start() -> Self {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, (_, controller))| format!("{}@127.0.0.1:{controller}", index + 1))
            .collect();
        let voters = voters.join(",");
        let mut nodes = Vec::new();
        for (index, (port, controller)) in ports.iter().enumerate() {
            let folder = folder();
            let properties = format!(
                "process.roles=broker,controller
node.id={}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=6000
replica.lag.time.max.ms=5000
controlled.shutdown.enable=false
",
                index + 1,
                folder.join("data").display()
            );
            fs::write(folder.join("server.properties"), properties).unwrap();
            let formatted = java()
                .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"])
                .arg(folder.join("server.properties"))
                .output()
                .unwrap();
            assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
            let child = Some(run(&folder.join("server.properties"), &folder, &Jvm::default()));
            nodes.push(Node { port: *port, folder, child });
        }
        for node in &nodes {
            wait_until("the cluster", || TcpStream::connect(("127.0.0.1", node.port)).is_ok());
        }
        let cluster = Self { nodes };
        let client = cluster.client();
        wait_until("three brokers", || {
            let metadata = client.fetch_metadata(None, Duration::from_secs(5));
            metadata.is_ok_and(|metadata| metadata.brokers().len() == 3)
        });
        cluster
    }

    fn servers(&self) -> String {
        let servers: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        servers.join(",")
    }

    fn config(&self, name: &str) -> KafkaConfig {
        config_of(&self.servers(), name)
    }

    fn client(&self) -> BaseConsumer {
        ClientConfig::new().set("bootstrap.servers", self.servers()).create().unwrap()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.servers()).create().unwrap()
    }

    /// Leader and replicas in sync of a topic's first partition.
    fn partition(&self, topic: &str) -> Option<(usize, Vec<i32>)> {
        let metadata = self.client().fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
        let partition = metadata.topics().first()?.partitions().first()?;
        let leader = usize::try_from(partition.leader()).ok()?;
        Some((leader, partition.isr().to_vec()))
    }

    fn in_sync(&self, topic: &str, count: usize) {
        wait_until("replicas in sync", || self.partition(topic).is_some_and(|(_, isr)| isr.len() == count));
    }
}

/// One cluster for all three, one after the other: three more Javas at once are too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_may_lose_brokers_and_even_records() {
    let mut cluster = Cluster::start();
    leaders_are_killed_while_events_are_published(&mut cluster).await;
    too_few_replicas_in_sync_are_waited_for(&mut cluster).await;
    an_unclean_leader_is_noticed(&mut cluster).await;
}

async fn leaders_are_killed_while_events_are_published(cluster: &mut Cluster) {
    let config = cluster.config("leader");
    let mut process = Process::new(&config);
    surely(&mut process, "Tax", 1).await;
    let state = config.state_topic.clone();
    cluster.in_sync(&config.topic, 3);
    let mut revision = 1;
    let mut outcomes: Vec<TransportError> = Vec::new();
    for topic in [&config.topic, &state, &config.topic] {
        let (leader, _) = cluster.partition(topic).unwrap();
        let publishing = tokio::spawn({
            async move {
                let mut errors = Vec::new();
                for _ in 0..12 {
                    revision += 1;
                    errors.extend(surely(&mut process, "Tax", revision).await.0);
                }
                (process, errors)
            }
        });
        // Somewhere in the middle of it.
        let seen = revision as usize;
        wait_until("it publishes", || {
            consume(&config.bootstrap_servers, &config.topic, "read_committed").len() > seen
        });
        cluster.nodes[leader - 1].kill();
        let (back, errors) = publishing.await.unwrap();
        process = back;
        revision += 12;
        outcomes.extend(errors);
        cluster.nodes[leader - 1].start();
        cluster.in_sync(&config.topic, 3);
        cluster.in_sync(&state, 3);
    }
    for error in &outcomes {
        println!("leader killed: {:?}: {error}", error.kind);
    }
    let records = consume(&config.bootstrap_servers, &config.topic, "read_committed");
    assert_eq!(records.len(), revision as usize);
    assert_eq!(violations(&records), [""; 0]);
}

async fn too_few_replicas_in_sync_are_waited_for(cluster: &mut Cluster) {
    let config = cluster.config("in-sync");
    let mut process = Process::new(&config);
    surely(&mut process, "Tax", 1).await;
    cluster.in_sync(&config.topic, 3);
    for (topic, policy) in [(&config.topic, "delete"), (&config.state_topic, "compact")] {
        // What is not named is set back.
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic))
            .set("min.insync.replicas", "3")
            .set("cleanup.policy", policy);
        cluster.admin().alter_configs(&[change], &AdminOptions::new()).await.unwrap();
    }
    let (leader, _) = cluster.partition(&config.topic).unwrap();
    let other = leader % 3;
    cluster.nodes[other].kill();
    cluster.in_sync(&config.topic, 2);
    let started = Instant::now();
    // A new leader does not even tell the end of its log then.
    let error = match process.recover().await {
        Ok(()) => process.publish(&[crate::support::change("Tax", 2)]).await.unwrap_err(),
        Err(error) => error,
    };
    println!("too few in sync, {:?}: {:?}: {error}; {:?}", started.elapsed(), error.kind, error.hint);
    assert!(matches!(error.kind, Kind::Unavailable | Kind::Unknown), "{error}");
    assert!(error.hint.unwrap().contains("min.insync.replicas"), "{}", error.message);
    cluster.nodes[other].start();
    surely(&mut process, "Tax", 2).await;
    let records = consume(&config.bootstrap_servers, &config.topic, "read_committed");
    assert_eq!(records.len(), 2);
    assert_eq!(violations(&records), [""; 0]);
}

/// Two replicas. The follower is gone, events are acknowledged by the leader alone, then the leader is
/// gone and the follower leads, without them.
async fn an_unclean_leader_is_noticed(cluster: &mut Cluster) {
    let config = cluster.config("unclean");
    let settings = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
    for (topic, policy) in [(&config.topic, "delete"), (&config.state_topic, "compact")] {
        let placed: Vec<&[i32]> = vec![&[1, 2]];
        let mut new =
            NewTopic::new(topic, 1, TopicReplication::Variable(&placed)).set("cleanup.policy", policy);
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let created = cluster.admin().create_topics(&[new], &AdminOptions::new()).await.unwrap();
        for topic in created {
            topic.unwrap();
        }
    }
    let config = KafkaConfig { state_partitions: 1, ..config };
    let mut process = Process::new(&config);
    surely(&mut process, "Tax", 1).await;
    cluster.in_sync(&config.topic, 2);
    cluster.in_sync(&config.state_topic, 2);
    // Its end is proven, so the follower has the commit as well. A transaction that lost its end hangs for
    // ever, as Kafka's own documentation says.
    process.recover().await.unwrap();
    cluster.nodes[1].kill();
    cluster.in_sync(&config.topic, 1);
    cluster.in_sync(&config.state_topic, 1);
    for revision in 2..=4 {
        surely(&mut process, "Tax", revision).await;
    }
    process.recover().await.unwrap();
    cluster.nodes[0].kill();
    cluster.nodes[1].start();
    wait_until("the follower leads", || {
        [&config.topic, &config.state_topic]
            .iter()
            .all(|topic| cluster.partition(topic).is_some_and(|(leader, _)| leader == 2))
    });
    let error = loop {
        match process.recover().await {
            Ok(()) => panic!("it was not noticed"),
            Err(error) if error.kind == Kind::Unavailable => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, Kind::Regressed, "{error}");
    println!("unclean: {error}");
    while let Err(error) = process.recover().await {
        assert!(matches!(error.kind, Kind::Regressed | Kind::Unavailable), "{error}");
        process.ledger.clear();
    }
    // What was lost comes again, from where the log ends now.
    let known = process.ledger.previous(&crate::support::change("Tax", 1).key).map(|p| p.revision());
    assert_eq!(known, Some(1));
    surely(&mut process, "Tax", 2).await;
    let records = consume(&config.bootstrap_servers, &config.topic, "read_committed");
    assert_eq!(violations(&records), [""; 0]);
    assert_eq!(records.len(), 2);
    cluster.nodes[0].start();
}
