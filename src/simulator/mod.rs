//! The simulated Cost Explorer: AWS's protocol, AWS's rules and an invented company's bill, for
//! `simulate`, for `demo` and for tests.
//!
//! It is no AWS: it verifies no signatures and knows one operation of Cost Explorer and two of STS.
//! Nothing of the product depends on it but those commands. Nothing here sleeps.

mod answer;
mod auth;
mod bill;
mod book;
mod control;
mod expression;
mod fault;
mod query;
mod recorded;
mod refusal;
mod scenario;
mod server;
mod sts;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
};

use jiff::{SignedDuration, Timestamp, civil::Date};
use rust_decimal::Decimal;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use bill::Bill;
pub use fault::{Fault, Faults, Injection};
pub use recorded::{Recorded, RecordedError, Skipped};
pub use scenario::{SCENARIOS, Scenario};

use crate::{
    clock::Clock,
    cost::{Amount, CostMetric, midnight},
};
use answer::Bucket;
use book::{Book, View};
use query::{Bucketing, Dimension, Group, Limits, Query};

/// The paying account of every access key that is not known to belong to another.
pub const DEFAULT_ACCOUNT: &str = "111122223333";

/// Groups on a page unless told otherwise. AWS's number is not documented; pages of 945 groups were
/// seen. With this one the longest window of a poll, about 5,600 groups here, is one page.
pub const DEFAULT_PAGE_SIZE: usize = 10_000;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What is simulated, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// What the invented charges are a function of, beside the paying account.
    pub seed: u64,
    /// The kind of account.
    pub scenario: Scenario,
    /// Groups on a page; at least 1.
    pub page_size: usize,
    /// Recorded answers instead of invented charges.
    pub recorded: Option<Recorded>,
    /// The external id every `AssumeRole` must give, where there is one.
    pub external_id: Option<String>,
    /// Takes periods that reach past what its clock allows: for callers whose clock is ahead of it.
    pub any_period: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            scenario: Scenario::default(),
            page_size: DEFAULT_PAGE_SIZE,
            recorded: None,
            external_id: None,
            any_period: false,
        }
    }
}

/// A running simulator. It ends when it is dropped.
#[derive(Debug)]
pub struct Simulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    clock: Clock,
    book: Book,
    faults: Faults,
    bill: bill::Counter,
    /// Requests so far; the number is in every request id.
    serial: AtomicU64,
    shutdown: CancellationToken,
}

impl Simulator {
    /// Binds and begins to serve; every answer is as of the clock's present.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: Options, clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let faults = Faults::default();
        if let Some(injection) = options.scenario.faults() {
            faults.inject(injection);
        }
        let shared = Arc::new(Shared {
            book: Book::new(options.seed),
            options,
            clock,
            faults,
            bill: bill::Counter::default(),
            serial: AtomicU64::new(0),
            shutdown: shutdown.clone(),
        });
        let task = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, shutdown, task: Some(task) })
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint URL for a client, `http://127.0.0.1:5055`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What AWS would have charged so far.
    pub fn bill(&self) -> Bill {
        self.shared.bill.bill()
    }

    /// The queue of faults.
    pub fn faults(&self) -> Faults {
        self.shared.faults.clone()
    }

    /// AWS's own figures at the clock's present: the exact sum of a metric per service over the days
    /// `from..to` of a paying account, faults aside. The rows are those of an answer.
    pub fn totals(
        &self,
        account: &str,
        metric: CostMetric,
        from: Date,
        to: Date,
    ) -> BTreeMap<String, Decimal> {
        let query = by_service(from, to, vec![metric]);
        let mut totals = BTreeMap::new();
        for bucket in self.shared.buckets(&query, account, "USD", self.now()) {
            for row in bucket.rows.iter() {
                let figure = row.figures.iter().find(|(of, _)| *of == metric).map(|(_, figure)| figure);
                let (Some(service), Some(figure)) = (row.keys.first(), figure) else {
                    continue;
                };
                let amount = Amount::parse(figure.amount.clone(), figure.unit.to_string())
                    .expect("recorded amounts are checked, invented ones have ten decimals");
                *totals.entry(service.clone()).or_insert(Decimal::ZERO) += amount.value();
            }
        }
        totals
    }

    /// Whether AWS still calls the rows of a date `Estimated` at the clock's present; recorded ones
    /// are what they were when they were recorded, and not estimated where there are none.
    pub fn estimated(&self, account: &str, date: Date) -> bool {
        let buckets = self.shared.buckets(
            &by_service(date, date.saturating_add(DAY), vec![]),
            account,
            "USD",
            self.now(),
        );
        buckets.first().is_some_and(|bucket| bucket.estimated)
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Stops serving, and waits until every connection is closed.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "simulator failed");
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The DAILY request by service for the days `from..to`.
fn by_service(from: Date, to: Date, metrics: Vec<CostMetric>) -> Query {
    Query {
        granularity: Bucketing::Daily,
        start: query::hours(midnight(from)),
        end: query::hours(midnight(to)),
        metrics,
        group_by: vec![Group::Dimension(Dimension::Service)],
        filter: None,
        token: None,
        digest: String::new(),
        shape: "by service".to_owned(),
    }
}

impl Shared {
    /// The buckets of a request, with every row, as the books showed them at an instant.
    fn buckets(&self, query: &Query, payer: &str, currency: &'static str, at: Timestamp) -> Vec<Bucket> {
        if let Some(recorded) = &self.options.recorded {
            return recorded.buckets(query);
        }
        let at = at.as_second();
        let shape = format!("{currency}{}", query.shape);
        let view = View {
            payer,
            currency,
            at,
            group_by: &query.group_by,
            filter: query.filter.as_ref(),
            shape: &shape,
        };
        let mut buckets = Vec::new();
        let mut start = query.start;
        while start < query.end {
            let day = start.div_euclid(24);
            let end = match query.granularity {
                Bucketing::Daily => start + 24,
                Bucketing::Hourly => start + 1,
                Bucketing::Monthly => book::calendar::next_month(day) * 24,
            };
            let end = end.min(query.end);
            let rows = self.book.rows(&view, start, end);
            buckets.push(Bucket { start, end, estimated: self.book.estimated(payer, day, at), rows });
            start = end;
        }
        buckets
    }

    fn limits(&self) -> Limits {
        let relaxed = self.options.recorded.is_some() || self.options.any_period;
        if relaxed { Limits::Relaxed } else { Limits::At(self.clock.now()) }
    }
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
