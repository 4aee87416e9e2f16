//! Forwarding to an endpoint on the loopback, beside the bare HTTP client that sends the same bodies with
//! the same concurrency.
//!
//! `cargo bench --bench forward -- 20000`: events per run, else 400,000; with `batch` or `structured`, only that. The
//! endpoint reads a request and takes it, in a thread of its own. Both run in turn, in one process; the
//! ratio is what counts. Ours reads a file, tells what is an event, keeps the order of keys and moves the
//! position; the bare client has its bodies ready.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails is none")]
#![allow(missing_docs, clippy::float_arithmetic, clippy::cast_precision_loss)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amazon_billing_source::{
    admin::Readiness,
    clock::Clock,
    config::{LocalConfig, TransportConfig},
    consume::{Bound, ConsumerName, Filter, Start},
    cost::{Amount, CostKey, CostMetric, Period, Scope},
    dedup::{Change, ChangeKind},
    event::{EventFactory, structured_json},
    exit::Exit,
    forward::{ForwardConfig, HttpMode, RetryPolicy, run},
    http,
    telemetry::Metrics,
};
use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use tokio_util::sync::CancellationToken;

const CONCURRENCY: usize = 8;
const BATCH: usize = 100;

/// How often each is measured; the median counts.
const ROUNDS: usize = 5;

/// An endpoint in a thread of its own, and how many bytes it took.
fn endpoint() -> (String, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let take = move |body: Bytes| async move {
                count.fetch_add(body.len(), Ordering::Relaxed);
                StatusCode::NO_CONTENT
            };
            let router = Router::new().route("/", post(take));
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
        });
    });
    (url, taken)
}

/// Events of a thousand keys, as lines.
fn events(count: usize) -> Vec<String> {
    let scope = Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: None,
        filter: None,
    };
    let factory = EventFactory::new(scope, "amazon.billing");
    let amounts = |n: usize| {
        [CostMetric::AmortizedCost, CostMetric::UnblendedCost]
            .into_iter()
            .map(|metric| (metric, Amount::parse(format!("{n}.2672917174"), "USD".to_owned()).unwrap()))
            .collect()
    };
    let event = |n: usize| {
        let (service, revision) = (format!("Amazon Service Number {:04}", n % 1000), n / 1000 + 1);
        let change = Change {
            key: CostKey {
                period: Period::from_label("2026-03-01").unwrap(),
                service: &service,
                group: None,
            },
            kind: ChangeKind::Revised,
            revision: u32::try_from(revision).unwrap(),
            amounts: std::borrow::Cow::Owned(amounts(n)),
            estimated: true,
            observed_at: "2026-03-02T00:00:00Z".parse().unwrap(),
            previous: Some((amounts(n + 1), true)),
        };
        let event = factory.event(&change, &BTreeMap::new());
        String::from_utf8(structured_json(event).unwrap()).unwrap()
    };
    (0..count).map(event).collect()
}

/// The bare client: bodies that are ready.
async fn bare(url: &str, bodies: Vec<Bytes>, content_type: &'static str) -> Duration {
    let client = http::client(Duration::from_secs(30), None).unwrap();
    let bodies = Arc::new(bodies);
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (client, bodies, next, url) = (client.clone(), bodies.clone(), next.clone(), url.to_owned());
        workers.spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                let request = client.post(&url).header("content-type", content_type).body(body.clone());
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), StatusCode::NO_CONTENT);
                response.bytes().await.unwrap();
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    started.elapsed()
}

/// The forwarder, from opening the file to the last commit.
async fn ours(url: &str, file: &Path, name: &str, mode: HttpMode) -> Duration {
    let config = ForwardConfig {
        name: ConsumerName::parse(name).unwrap(),
        start: Start::Beginning,
        bound: Bound::End,
        filter: Filter::everything(),
        url: url.parse().unwrap(),
        mode,
        headers: reqwest::header::HeaderMap::new(),
        signer: None,
        more_roots: None,
        timeout: Duration::from_secs(30),
        retry: RetryPolicy {
            first: Duration::from_secs(1),
            longest: Duration::from_mins(1),
            give_up: Some(Duration::from_mins(1)),
        },
        concurrency: CONCURRENCY,
        batch_size: BATCH,
        dead_letter: None,
        grace: Duration::from_secs(20),
    };
    let transport =
        TransportConfig::Local(LocalConfig { output: Some(file.to_owned()), state: "unused".into() });
    let world = (Clock::system(), Metrics::new(), Readiness::default());
    let started = Instant::now();
    let exit = run(&transport, config, world, &CancellationToken::new()).await.unwrap();
    assert_eq!(exit, Exit::Done);
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let count = std::env::args().skip(1).find_map(|count| count.parse().ok()).unwrap_or(400_000);
    let only = std::env::args().find(|arg| ["structured", "batch"].contains(&arg.as_str()));
    let (url, taken) = endpoint();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    let events = events(count);
    let mut text = String::new();
    for line in &events {
        writeln!(text, "{line}").unwrap();
    }
    std::fs::write(&file, &text).unwrap();
    let single: Vec<_> = events.iter().map(|line| Bytes::from(line.clone())).collect();
    let batches: Vec<_> =
        events.chunks(BATCH).map(|lines| Bytes::from(format!("[{}]", lines.join(",")))).collect();
    for (what, mode, bodies, content_type) in [
        ("structured", HttpMode::Structured, single, "application/cloudevents+json"),
        ("batch", HttpMode::Batch, batches, "application/cloudevents-batch+json"),
    ] {
        if only.as_deref().is_some_and(|only| only != what) {
            continue;
        }
        let (mut theirs, mut mine) = (Vec::new(), Vec::new());
        let bytes: usize = bodies.iter().map(Bytes::len).sum();
        for round in 0..ROUNDS {
            taken.store(0, Ordering::Relaxed);
            theirs.push(runtime.block_on(bare(&url, bodies.clone(), content_type)));
            assert_eq!(taken.swap(0, Ordering::Relaxed), bytes);
            let name = format!("{what}-{round}");
            mine.push(runtime.block_on(ours(&url, &file, &name, mode)));
            let got = taken.load(Ordering::Relaxed);
            assert!(got >= text.len() - count, "{got} of {bytes} bytes");
        }
        let (theirs, mine) = (median(theirs), median(mine));
        let rate = |took: Duration| count as f64 / took.as_secs_f64() / 1000.0;
        println!(
            "{what}: {:.1}k events/s bare, {:.1}k/s forwarded ({:.0} %)",
            rate(theirs),
            rate(mine),
            100.0 * theirs.as_secs_f64() / mine.as_secs_f64(),
        );
    }
}
