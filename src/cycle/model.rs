//! Random histories of answers, faults, rivals and crashes against a simple model.
//!
//! Whatever happened, once AWS has answered completely a few times: per key the revisions are
//! 1, 2, 3, ..., no two neighbours are equal, no id occurs twice, and the highest revision per key
//! adds up to AWS's own total.

mod doubt;
mod twice;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::Mutex as StdMutex,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rust_decimal::Decimal;
use tokio::sync::Mutex;

use super::*;
use crate::{
    config::CredentialsConfig,
    cost::{Amount, CostMetric, CostRecord, Period},
    dedup::Status,
    event::tests::scope,
    poller::Page,
    transport::{Batch, Delivery, StateRecord, TransportErrorKind},
};

const SERVICES: [&str; 4] = ["Anchor", "EC2 - Other", "AWS Lambda", "Tax"];
const DAYS: i8 = 3;

/// What the log does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing is stored, and it says so.
    Unavailable,
    /// Stored, but the acknowledgement is lost.
    LostAcknowledgement,
    /// Not stored, and nobody can tell.
    LostBatch,
}

/// A log in memory: transactions, and a conflict for whoever writes over an old view.
#[derive(Default)]
struct Memory {
    log: StdMutex<Log>,
    /// The mechanism switched off: old views are written over, as without fencing.
    unfenced: bool,
}

#[derive(Default)]
struct Log {
    events: Vec<StateRecord>,
    connection: ConnectionState,
    faults: VecDeque<Fault>,
}

impl Transport for Memory {
    async fn recover(&self, _: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        let log = self.log.lock().unwrap();
        let from = usize::try_from(ledger.recovered_to().unwrap_or(0)).unwrap();
        for record in &log.events[from..] {
            ledger.apply(&record.key(), &record.statement);
        }
        ledger.set_recovered_to(log.events.len() as u64);
        Ok(log.connection.clone())
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        let mut log = self.log.lock().unwrap();
        let count = batch.events.len() as u64;
        let fault = log.faults.pop_front();
        if fault == Some(Fault::Unavailable) {
            return Err(TransportError::new(TransportErrorKind::Unavailable, "down"));
        }
        if batch.recovered_to != Some(log.events.len() as u64) && !self.unfenced {
            return Err(TransportError::new(TransportErrorKind::Conflict, "fenced"));
        }
        if fault != Some(Fault::LostBatch) {
            log.events.extend(batch.events.into_iter().map(|outgoing| outgoing.record));
            log.connection = batch.connection;
        }
        if fault.is_some() {
            return Err(TransportError::new(TransportErrorKind::Unknown, "no acknowledgement"));
        }
        let end = log.events.len() as u64;
        Ok((end - count + 1..=end).map(Delivery::Stored).collect())
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        Ok(vec![(scope().id(), self.log.lock().unwrap().connection.clone())])
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        Ok(Vec::new())
    }

    async fn close(&self) -> Result<(), TransportError> {
        Ok(())
    }

    fn comes_back(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

/// AWS's book at one moment: what every row costs, and whether it is listed.
type Book = BTreeMap<(i8, usize), (i64, bool)>;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// AWS restates a row.
    Restate { day: i8, service: usize, cents: i64, estimated: bool },
    /// AWS withdraws a row; the anchor stays, so that its period is never empty.
    Withdraw { day: i8, service: usize },
    /// A poll or a backfill, with what goes wrong on the way.
    Poll(PollStep),
}

#[derive(Clone, Debug)]
struct PollStep {
    page_size: usize,
    /// A backfill of the month, and whether it leaves absence to the polls.
    month: Option<bool>,
    /// How many snapshots ago this answer was given.
    age: usize,
    /// Killed, or the page failed, after so many pages.
    ends_after: Option<(usize, End)>,
    /// A rival polls in full after so many pages.
    rival_after: Option<usize>,
    faults: Vec<Option<Fault>>,
    empty: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    PageFailed,
}

struct World {
    log: Memory,
    /// Snapshots with AWS's clock, newest last.
    books: Vec<(Timestamp, Book)>,
    ledgers: [Ledger; 2],
    clock: Clock,
    metrics: Metrics,
    gate: Mutex<()>,
    factory: EventFactory,
    connection: ConnectionConfig,
    poll: PollConfig,
}

impl World {
    fn new(unfenced: bool) -> Self {
        let start: Timestamp = "2026-03-04T00:00:00Z".parse().unwrap();
        let anchors = (1..=DAYS).map(|day| ((day, 0), (100, true))).collect();
        Self {
            log: Memory { unfenced, ..Memory::default() },
            books: vec![(start, anchors)],
            ledgers: [Ledger::new(), Ledger::new()],
            clock: Clock::manual(start),
            metrics: Metrics::new(),
            gate: Mutex::new(()),
            factory: EventFactory::new(scope(), "amazon.billing"),
            connection: ConnectionConfig {
                name: "main".to_owned(),
                account_id: None,
                granularity: vec![Granularity::Daily],
                metrics: vec![CostMetric::UnblendedCost],
                group_by: None,
                filter: None,
                endpoint_url: None,
                sts_endpoint_url: None,
                region: "us-east-1".to_owned(),
                credentials: CredentialsConfig::Default,
            },
            poll: PollConfig {
                interval: Duration::from_hours(8),
                claim_ttl: Duration::from_mins(2),
                instance: None,
                settle_days: 0,
                publish_zero: false,
                concurrency: 1,
                max_pages: 100,
                grace: Duration::from_secs(1),
            },
        }
    }

    fn tick(&self) {
        self.clock.set(self.clock.now().checked_add(SignedDuration::from_secs(1)).unwrap());
    }

    fn change(&mut self, change: impl FnOnce(&mut Book)) {
        self.tick();
        let mut book = self.books.last().unwrap().1.clone();
        change(&mut book);
        self.books.push((self.clock.now(), book));
    }

    fn pages(&self, step: &PollStep) -> Vec<Page> {
        let index = self.books.len().saturating_sub(1 + step.age);
        let (at, book) = &self.books[index];
        // The newest answer is given now; an old one keeps the date it had.
        let observed_at = if step.age == 0 { self.clock.now() } else { *at };
        let records: Vec<_> = book
            .iter()
            .filter(|_| !step.empty)
            .map(|((day, service), (cents, estimated))| record(*day, *service, *cents, *estimated))
            .collect();
        let page = |records: &[CostRecord]| Page {
            records: records.to_vec(),
            group_names: BTreeMap::new(),
            observed_at,
            next: None,
        };
        if records.is_empty() {
            return vec![page(&[])];
        }
        records.chunks(step.page_size).map(page).collect()
    }

    /// As `cycle::poll`, with pages out of the book instead of AWS.
    async fn run(&mut self, step: &PollStep, instance: usize) {
        self.tick();
        let mut ledgers = std::mem::take(&mut self.ledgers);
        let (own, other) = ledgers.split_at_mut(1);
        let (own, other) =
            if instance == 0 { (&mut own[0], &mut other[0]) } else { (&mut other[0], &mut own[0]) };
        self.log.log.lock().unwrap().faults =
            step.faults.iter().copied().take_while(Option::is_some).flatten().collect();
        let polls = self.log.log.lock().unwrap().connection.polls.clone();
        let killed = self.drive(step, own, other, ["a", "b"][instance]).await;
        self.log.log.lock().unwrap().faults.clear();
        if step.month.is_some() && step.rival_after.is_none() {
            assert_eq!(self.log.log.lock().unwrap().connection.polls, polls, "a backfill changes no poll");
        }
        if killed {
            // A new process has an empty ledger.
            own.clear();
        }
        self.ledgers = ledgers;
    }

    fn context(&self, instance: &'static str) -> Context<'_, Memory> {
        Context {
            transport: &self.log,
            factory: &self.factory,
            connection: &self.connection,
            poll: &self.poll,
            budget: BudgetConfig { requests_per_day: None, requests_per_month: None },
            clock: &self.clock,
            instance,
            gate: &self.gate,
            metrics: &self.metrics,
        }
    }

    /// A poll that is claimed, and a page paid for.
    async fn paid<'a>(
        &self,
        context: &'a Context<'a, Memory>,
        ledger: &'a mut Ledger,
    ) -> WindowPoll<'a, Memory> {
        let state = self.log.recover("", ledger).await.unwrap();
        let window = Window::due(Granularity::Daily, self.clock.now(), 0, None);
        let mut poll = WindowPoll::new(context, ledger, state, window);
        assert!(poll.claim(1).await.unwrap().is_continue());
        poll.spent(1);
        poll
    }

    /// What AWS answers now.
    fn page(&self, records: Vec<CostRecord>) -> Page {
        Page { records, group_names: BTreeMap::new(), observed_at: self.clock.now(), next: None }
    }

    /// Whether the process died on the way.
    async fn drive(
        &self,
        step: &PollStep,
        ledger: &mut Ledger,
        rival: &mut Ledger,
        instance: &'static str,
    ) -> bool {
        let context = self.context(instance);
        let result: Result<bool, TransportError> = async {
            let started = self.clock.now();
            let state = self.log.recover("", ledger).await?;
            let last = state.poll(Granularity::Daily).last_complete;
            let first = jiff::civil::date(2026, 3, 1);
            let window = match step.month {
                None => Window::due(Granularity::Daily, started, 0, last),
                Some(_) => Window::month(first),
            };
            let mut poll = WindowPoll::new(&context, ledger, state, window);
            if let Some(polled) = step.month {
                poll = poll.of_month(first, polled);
            }
            if poll.claim(1).await?.is_break() {
                return Ok(false);
            }
            for (number, page) in self.pages(step).iter().enumerate() {
                match step.ends_after {
                    Some((after, End::Killed)) if after == number => return Ok(true),
                    Some((after, End::PageFailed)) if after == number => {
                        poll.fail(&Outcome::Empty, started).await?;
                        return Ok(false);
                    }
                    _ => {}
                }
                if step.rival_after == Some(number) {
                    let clean =
                        PollStep { rival_after: None, ends_after: None, age: 0, month: None, ..step.clone() };
                    self.tick();
                    Box::pin(self.drive(&clean, rival, &mut Ledger::new(), "b")).await;
                }
                poll.spent(1);
                if poll.take(page).await?.is_break() {
                    return Ok(false);
                }
            }
            if poll.records() == 0 {
                poll.fail(&Outcome::Empty, started).await?;
            } else {
                poll.complete(started).await?;
            }
            Ok(false)
        }
        .await;
        if result.is_err() {
            ledger.clear();
        }
        result.unwrap_or(false)
    }

    /// Every promise, over the whole log.
    fn violations(&self) -> Vec<String> {
        let log = self.log.log.lock().unwrap();
        let mut violations = Vec::new();
        let mut last: BTreeMap<String, &StateRecord> = BTreeMap::new();
        let mut ids = HashSet::new();
        for record in &log.events {
            let key = record.key().to_string();
            let previous = last.get(&key).copied();
            if record.statement.revision != previous.map_or(0, |p| p.statement.revision) + 1 {
                violations.push(format!("{key}: revision {}", record.statement.revision));
            }
            if previous.is_some_and(|p| content(p) == content(record)) {
                violations.push(format!("{key}: revision {} repeats", record.statement.revision));
            }
            if previous.is_some_and(|p| record.statement.observed_at < p.statement.observed_at) {
                violations.push(format!("{key}: revision {} is stale", record.statement.revision));
            }
            if !ids.insert(record.event_id) {
                violations.push(format!("{key}: an id twice"));
            }
            last.insert(key, record);
        }
        let published: Decimal =
            last.values().flat_map(|r| r.statement.amounts.iter()).map(|(_, amount)| amount.value()).sum();
        let book = &self.books.last().unwrap().1;
        let expected: Decimal = book.values().map(|(cents, _)| Decimal::new(*cents, 2)).sum();
        if published != expected {
            violations.push(format!("published {published}, AWS says {expected}"));
        }
        violations
    }
}

fn content(record: &StateRecord) -> (Decimal, bool, Status) {
    let statement = &record.statement;
    (statement.amounts[0].1.value(), statement.estimated, statement.status)
}

fn record(day: i8, service: usize, cents: i64, estimated: bool) -> CostRecord {
    let amount = Amount::from_value(Decimal::new(cents, 2), "USD");
    CostRecord {
        period: Period::day(jiff::civil::date(2026, 3, day)),
        service: SERVICES[service].into(),
        group: None,
        amounts: [(CostMetric::UnblendedCost, amount)].into_iter().collect(),
        estimated,
    }
}

fn clean(page_size: usize) -> PollStep {
    PollStep {
        page_size,
        month: None,
        age: 0,
        ends_after: None,
        rival_after: None,
        faults: Vec::new(),
        empty: false,
    }
}

fn walk(steps: &[Step], unfenced: bool) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut world = World::new(unfenced);
    runtime.block_on(async {
        for step in steps {
            match step {
                Step::Restate { day, service, cents, estimated } => {
                    world.change(|book| {
                        book.insert((*day, *service), (*cents, *estimated));
                    });
                }
                Step::Withdraw { day, service } => world.change(|book| {
                    book.remove(&(*day, *service));
                }),
                Step::Poll(poll) => world.run(poll, 0).await,
            }
        }
        // AWS answers completely: once to see what is missing, twice to be sure of it.
        for _ in 0..3 {
            world.run(&clean(2), 0).await;
        }
    });
    world.violations()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Fault::Unavailable)),
        2 => Just(Some(Fault::LostAcknowledgement)),
        1 => Just(Some(Fault::LostBatch)),
    ];
    let end = prop_oneof![Just(End::Killed), Just(End::PageFailed)];
    let poll = (
        1_usize..6,
        proptest::option::weighted(0.25, any::<bool>()),
        prop_oneof![4 => Just(0_usize), 1 => 1_usize..4],
        proptest::option::weighted(0.3, (0_usize..4, end)),
        proptest::option::weighted(0.2, 0_usize..4),
        proptest::collection::vec(fault, 0..5),
        proptest::bool::weighted(0.05),
    )
        .prop_map(|(page_size, month, age, ends_after, rival_after, faults, empty)| {
            Step::Poll(PollStep { page_size, month, age, ends_after, rival_after, faults, empty })
        });
    let row = (1..=DAYS, 1..SERVICES.len());
    let step = prop_oneof![
        3 => (row.clone(), -3_i64..4, any::<bool>())
            .prop_map(|((day, service), cents, estimated)| Step::Restate { day, service, cents, estimated }),
        1 => row.prop_map(|(day, service)| Step::Withdraw { day, service }),
        4 => poll,
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_in_the_truth(steps in steps()) {
        prop_assert_eq!(walk(&steps, false), Vec::<String>::new());
    }
}

/// The negative control: a rival over an old view, once refused and once, with fencing switched
/// off, believed.
#[test]
fn without_fencing_a_rival_repeats_events() {
    let restate = |cents| Step::Restate { day: 1, service: 1, cents, estimated: true };
    let rival = Step::Poll(PollStep { rival_after: Some(0), ..clean(10) });
    let steps = [restate(5), rival];
    assert_eq!(walk(&steps, false), Vec::<String>::new());
    let violations: BTreeSet<_> = walk(&steps, true).into_iter().collect();
    assert!(violations.iter().any(|v| v.contains("revision 1")), "{violations:?}");
}
