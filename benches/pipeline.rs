//! What one cost record costs, beside what the AWS SDK's own parsing of it costs.
//!
//! Everything is the product's own code; only the network and the output are replaced by memory.
//! Times differ by machine, so ratios are what is reported: they are printed at the end, each from
//! many rounds in which all candidates take turns.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::float_arithmetic, reason = "times are floats, and no money is counted here")]
#![allow(clippy::print_stdout, reason = "the figures are what was asked for")]

mod support;

use std::{
    cell::RefCell,
    hint::black_box,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    clock::Clock,
    config::{BudgetConfig, ConnectionConfig, CredentialsConfig, PollConfig},
    cost::{CostMetric, Granularity, GroupBy},
    cycle::{self, ClaimWatch, Context, When, WindowPoll},
    dedup::{ConnectionState, Ledger},
    event::{EventFactory, structured_json},
    poller::{CostExplorer, Page, Window},
    telemetry::Metrics,
    transport::{Batch, Delivery, Transport, TransportError},
};
use aws_sdk_costexplorer::operation::get_cost_and_usage::{GetCostAndUsage, GetCostAndUsageOutput};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
        runtime_plugin::RuntimePlugin as _,
        ser_de::{DeserializeResponse as _, SharedResponseDeserializer},
    },
    http::StatusCode,
};
use aws_smithy_types::{
    body::SdkBody,
    config_bag::{ConfigBag, FrozenLayer},
};
use criterion::{Criterion, Throughput};
use jiff::{Timestamp, civil::date};
use support::Shape;
use tokio::{runtime::Runtime, sync::Mutex as AsyncMutex};
use tokio_util::sync::CancellationToken;

/// The window of a poll at [`NOW`]: February, because it has not settled, and March to date.
const SHAPE: Shape = Shape { from: date(2026, 2, 1), days: 33, accounts: 5 };
const NOW: &str = "2026-03-05T08:00:00Z";

/// How often the candidates take turns for a ratio.
const ROUNDS: usize = 60;

fn main() {
    let bench = Bench::new();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    let rows = u64::try_from(SHAPE.rows()).expect("few rows");
    let mut group = criterion.benchmark_group("per row");
    group.throughput(Throughput::Elements(rows));
    for (name, candidate) in bench.candidates() {
        group.bench_function(name, |b| b.iter(&candidate));
    }
    group.finish();
    // `cargo test --benches` only wants to know that it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        bench.report();
    }
    criterion.final_summary();
}

/// What is measured, by name.
type Candidate<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// Everything measured, ready to run: a ledger that holds every row of the page.
struct Bench {
    runtime: Runtime,
    body: String,
    operation: FrozenLayer,
    sdk: aws_sdk_costexplorer::Client,
    aws: CostExplorer,
    connection: ConnectionConfig,
    poll: PollConfig,
    clock: Clock,
    window: Window,
    factory: EventFactory,
    transport: Memory,
    metrics: Metrics,
    gate: AsyncMutex<()>,
    /// The page the ledger knows, and the same rows with other amounts.
    pages: [Page; 2],
    quiet: RefCell<Ledger>,
    changing: RefCell<(Ledger, usize)>,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let now: Timestamp = NOW.parse().expect("a constant");
        let clock = Clock::manual(now);
        let connection = connection();
        let window = Window::due(Granularity::Daily, now, 10, None);
        let body = SHAPE.answer(0, SHAPE.rows(), 0, None);
        let aws = |body: &str| {
            let http = canned(body.to_owned());
            runtime.block_on(CostExplorer::connect(&connection, &http, clock.clone())).expect("no network")
        };
        let other = SHAPE.answer(0, SHAPE.rows(), 1, None);
        let pages = [&body, &other].map(|body| {
            runtime.block_on(aws(body).page(&window, None)).unwrap_or_else(|error| panic!("{error}"))
        });
        assert_eq!(pages[0].records.len(), SHAPE.rows());
        let bench = Self {
            operation: GetCostAndUsage::new().config().expect("an operation has a configuration"),
            sdk: sdk(canned(body.clone())),
            aws: aws(&body),
            factory: EventFactory::new(
                connection.scope("cloud.amazon.billing", "111122223333"),
                "amazon.billing",
            ),
            poll: PollConfig {
                interval: Duration::from_hours(8),
                claim_ttl: Duration::from_mins(2),
                instance: None,
                settle_days: 10,
                publish_zero: false,
                concurrency: 4,
                max_pages: 500,
                grace: Duration::from_secs(20),
            },
            transport: Memory::default(),
            metrics: Metrics::new(),
            gate: AsyncMutex::new(()),
            quiet: RefCell::default(),
            changing: RefCell::default(),
            runtime,
            body,
            connection,
            clock,
            window,
            pages,
        };
        bench.take(&mut bench.quiet.borrow_mut(), 0);
        assert_eq!(bench.quiet.borrow().len(), SHAPE.rows());
        bench
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        vec![
            ("sdk: parse the answer", Box::new(|| self.parse())),
            ("sdk: one request, in memory", Box::new(|| self.sdk_request())),
            ("request and records", Box::new(|| self.records())),
            ("classify, unchanged", Box::new(|| self.unchanged())),
            ("classify and encode, changed", Box::new(|| self.changed())),
            ("quiet poll, whole cycle", Box::new(|| self.quiet_poll())),
        ]
    }

    /// The yardstick: bytes to the SDK's output and nothing else.
    fn parse(&self) {
        let mut response = HttpResponse::new(ok(), SdkBody::from(self.body.as_str()));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
        let deserializer = self.operation.load::<SharedResponseDeserializer>().expect("and in it this one");
        let output = deserializer
            .deserialize_nonstreaming_with_config(&response, &ConfigBag::base())
            .unwrap_or_else(|error| panic!("{error:?}"));
        let output = output.downcast::<GetCostAndUsageOutput>().expect("the operation's output");
        drop(black_box(output));
    }

    /// A client of the SDK that asks for the page and drops it.
    fn sdk_request(&self) {
        let output = self.runtime.block_on(self.sdk.get_cost_and_usage().send());
        drop(black_box(output.expect("a good answer")));
    }

    /// The product's client: a request and the page as cost records.
    fn records(&self) {
        let page = self.runtime.block_on(self.aws.page(&self.window, None));
        drop(black_box(page.expect("a good answer")));
    }

    /// A page in which every row is known.
    fn unchanged(&self) {
        self.take(&mut self.quiet.borrow_mut(), 0);
    }

    /// A page in which every row is revised, encoded as the JSON a file or NATS gets.
    fn changed(&self) {
        let (ledger, version) = &mut *self.changing.borrow_mut();
        self.take(ledger, *version);
        *version = 1 - *version;
    }

    fn take(&self, ledger: &mut Ledger, version: usize) {
        let context = self.context();
        let mut poll = WindowPoll::new(&context, ledger, ConnectionState::default(), self.window);
        let taken = self.runtime.block_on(poll.take(&self.pages[version]));
        assert!(taken.expect("memory takes everything").is_continue());
    }

    /// What the program does when a poll is due and AWS has nothing new.
    fn quiet_poll(&self) {
        let report = self.runtime.block_on(cycle::run(
            &self.context(),
            &self.aws,
            &mut self.quiet.borrow_mut(),
            &mut ClaimWatch::new(),
            &[Granularity::Daily],
            When::Now,
            &CancellationToken::new(),
        ));
        let report = report.expect("memory takes everything");
        assert_eq!(report.counts.unchanged, u64::try_from(SHAPE.rows()).expect("few rows"));
        assert!(report.is_complete());
    }

    fn context(&self) -> Context<'_, Memory> {
        Context {
            transport: &self.transport,
            factory: &self.factory,
            connection: &self.connection,
            poll: &self.poll,
            budget: BudgetConfig { requests_per_day: None, requests_per_month: None },
            clock: &self.clock,
            instance: "bench",
            gate: &self.gate,
            metrics: &self.metrics,
        }
    }

    /// The ratios, from rounds in which every candidate runs once.
    fn report(&self) {
        let candidates = self.candidates();
        let mut rounds = vec![Vec::with_capacity(ROUNDS); candidates.len()];
        for _ in 0..ROUNDS {
            for (times, (_, candidate)) in rounds.iter_mut().zip(&candidates) {
                let start = Instant::now();
                candidate();
                times.push(start.elapsed().as_secs_f64());
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "few rows")]
        let rows = SHAPE.rows() as f64;
        println!("\n{} rows, two metrics, {} bytes; medians of {ROUNDS} rounds\n", rows, self.body.len());
        println!("{:<32} {:>10} {:>26}", "", "ns per row", "times the SDK's parsing");
        for ((name, _), times) in candidates.iter().zip(&rounds) {
            let ratio = median(times.iter().zip(&rounds[0]).map(|(time, parse)| time / parse));
            let nanoseconds = median(times.iter().copied()) * 1e9 / rows;
            println!("{name:<32} {nanoseconds:>10.0} {ratio:>26.3}");
        }
        let against_request = median(rounds[5].iter().zip(&rounds[1]).map(|(poll, request)| poll / request));
        println!("\na quiet poll is {against_request:.3} times the SDK's request for the same page");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn connection() -> ConnectionConfig {
    ConnectionConfig {
        name: "bench".to_owned(),
        account_id: Some("111122223333".to_owned()),
        granularity: vec![Granularity::Daily],
        metrics: vec![CostMetric::AmortizedCost, CostMetric::UnblendedCost],
        group_by: Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned())),
        filter: None,
        endpoint_url: Some("http://127.0.0.1:9".to_owned()),
        sts_endpoint_url: None,
        region: "us-east-1".to_owned(),
        credentials: CredentialsConfig::Keys {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "any-secret-will-do".to_owned().into(),
            session_token: None,
        },
    }
}

/// The SDK as it comes, with nothing of ours in it.
fn sdk(http: SharedHttpClient) -> aws_sdk_costexplorer::Client {
    use aws_sdk_costexplorer::config::{BehaviorVersion, Config, Credentials, Region};
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKIAIOSFODNN7EXAMPLE", "any-secret", None, None, "bench"))
        .endpoint_url("http://127.0.0.1:9")
        .http_client(http)
        .build();
    aws_sdk_costexplorer::Client::from_conf(config)
}

fn ok() -> StatusCode {
    StatusCode::try_from(200).expect("a status")
}

/// An HTTP client that gives one answer to everything.
fn canned(body: String) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(Canned(body));
    http_client_fn(move |_, _| connector.clone())
}

#[derive(Debug)]
struct Canned(String);

impl HttpConnector for Canned {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let mut response = HttpResponse::new(ok(), SdkBody::from(self.0.as_str()));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
        response.headers_mut().insert("date", "Thu, 05 Mar 2026 08:00:00 GMT");
        HttpConnectorFuture::ready(Ok(response))
    }
}

/// An output that encodes every event and forgets it, and a state of one connection.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<ConnectionState>>);

impl Transport for Memory {
    async fn recover(&self, _: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        ledger.set_recovered_to(0);
        Ok(self.0.lock().expect("no panic").clone())
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        *self.0.lock().expect("no panic") = batch.connection;
        let encoded = batch.events.into_iter().map(|outgoing| {
            black_box(structured_json(outgoing.event()).expect("an event with data"));
            black_box(outgoing.record.to_json());
            Delivery::Stored(0)
        });
        Ok(encoded.collect())
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        Ok(Vec::new())
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        Ok(Vec::new())
    }

    async fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }

    fn comes_back(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
