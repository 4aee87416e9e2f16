//! Replicas: no poll is paid for twice.

use std::time::{Duration, Instant};

use amazon_billing_source::{
    admin::Readiness,
    app::{self, Mode, World},
    clock::Clock,
    config::{
        BudgetConfig, Config, ConnectionConfig, CredentialsConfig, PollConfig, SourceConfig, TransportConfig,
    },
    cost::{CostMetric, Granularity},
    exit::Exit,
    simulator::{Options, Simulator},
    telemetry::Metrics,
    transport::nats::Nats,
};
use tokio_util::sync::CancellationToken;

use crate::support::{Server, Violations, consume, judge, newest, versions};

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_pay_no_poll_twice() {
    for version in versions() {
        let server = Server::start(version);
        let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
        let connections = ["111122223333", "222233334444"].map(|account| connection(account, &simulator));
        let config = polling(TransportConfig::Nats(server.config()), connections.into());
        let stop = CancellationToken::new();
        let run = |instance: &str| {
            app::run(config.clone(), Nats::new(server.config()), world(instance), Mode::Service, stop.clone())
        };
        let started = Instant::now();
        let stopper = async {
            // Each connection is due at once, and then two seconds after its last poll began.
            while simulator.bill().chargeable < 6 && started.elapsed() < Duration::from_secs(90) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            stop.cancel();
        };
        let (one, two, three, ()) = tokio::join!(run("one"), run("two"), run("three"), stopper);
        assert_eq!((one, two, three), (Exit::Done, Exit::Done, Exit::Done), "{version}");
        let paid = simulator.bill().chargeable;
        let due = 2 * (1 + started.elapsed().as_secs() / 2);
        assert!((6..=due).contains(&paid), "{version}: {paid} requests, {due} were due");
        assert_eq!(judge(&consume(&server).await).0, Violations::default());
    }
}

/// A page that takes longer than a claim lives: the process that waits for it shows that it is alive, and
/// no other asks for the same.
#[tokio::test]
async fn a_long_poll_is_not_taken_over() {
    let server = Server::start(newest());
    let aws = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    let mut connection = connection("111122223333", &simulator);
    connection.endpoint_url = Some(format!("http://{}", aws.local_addr().unwrap()));
    let mut config = polling(TransportConfig::Nats(server.config()), vec![connection]);
    config.poll.claim_ttl = Duration::from_secs(5);
    let stop = CancellationToken::new();
    let run = |instance: &str| {
        app::run(config.clone(), Nats::new(server.config()), world(instance), Mode::Service, stop.clone())
    };
    let asked = async {
        // Taken, and never answered.
        let mut taken = Vec::new();
        let deadline = tokio::time::sleep(Duration::from_secs(15));
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => break,
                connection = aws.accept() => taken.push(connection.unwrap()),
            }
        }
        stop.cancel();
        taken.len()
    };
    let (_, _, asked) = tokio::join!(run("one"), run("two"), asked);
    assert_eq!(asked, 1);
}

fn world(instance: &str) -> World {
    World {
        clock: Clock::system(),
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        instance: instance.to_owned(),
    }
}

/// A configuration that polls every two seconds and has no budget.
pub(crate) fn polling(transport: TransportConfig, connections: Vec<ConnectionConfig>) -> Config {
    Config {
        source: SourceConfig {
            source: "cloud.amazon.billing".to_owned(),
            type_prefix: "amazon.billing".to_owned(),
        },
        poll: PollConfig {
            interval: Duration::from_secs(2),
            claim_ttl: Duration::from_mins(2),
            instance: None,
            settle_days: 0,
            publish_zero: false,
            concurrency: 4,
            max_pages: 100,
            grace: Duration::from_secs(10),
        },
        budget: BudgetConfig { requests_per_day: None, requests_per_month: None },
        connections,
        transport,
        admin: None,
    }
}

/// An output that takes claims and no events: what AWS answered is paid for once, not with every try.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_is_not_paid_for_again_and_again() {
    let server = Server::start(newest());
    let full = async_nats::jetstream::stream::Config {
        name: "BILLING".to_owned(),
        subjects: vec!["aws.cost.>".to_owned()],
        max_bytes: 2_000,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    server.jetstream().await.create_stream(full).await.unwrap();
    let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    let mut config =
        polling(TransportConfig::Nats(server.config()), vec![connection("111122223333", &simulator)]);
    config.poll.interval = Duration::from_hours(8);
    let stop = CancellationToken::new();
    let world = world("one");
    let readiness = world.readiness.clone();
    let run = app::run(config, Nats::new(server.config()), world, Mode::Service, stop.clone());
    let stopper = async {
        let started = Instant::now();
        while simulator.bill().chargeable == 0 && started.elapsed() < Duration::from_mins(1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // It is tried again after one, two and four seconds.
        tokio::time::sleep(Duration::from_secs(9)).await;
        let (ready, said) = readiness.report();
        assert!(!ready && said.contains("could not be published"), "{said}");
        stop.cancel();
    };
    let (exit, ()) = tokio::join!(run, stopper);
    assert_eq!((exit, simulator.bill().chargeable), (Exit::Done, 1));
}

pub(crate) fn connection(account: &str, simulator: &Simulator) -> ConnectionConfig {
    ConnectionConfig {
        name: format!("c{account}"),
        account_id: Some(account.to_owned()),
        granularity: vec![Granularity::Daily],
        metrics: vec![CostMetric::UnblendedCost],
        group_by: None,
        filter: None,
        endpoint_url: Some(simulator.url()),
        sts_endpoint_url: None,
        region: "us-east-1".to_owned(),
        credentials: CredentialsConfig::Keys {
            access_key_id: "AKIA".to_owned(),
            secret_access_key: "s".into(),
            session_token: None,
        },
    }
}
