//! The poll of one window, from the claim to the judgement of absence: everything but AWS itself.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    time::Instant,
};

use jiff::Timestamp;
use tracing::{error, trace, warn};
use uuid::Uuid;

use super::{Context, Outcome, all_spent, budget_resets_at, retry_at};
use crate::{
    cost::CostRecord,
    dedup::{
        Change, ChangeKind, Claim, ConnectionState, Counts, Ledger, MissingRow, Sightings, Status, Verdict,
        ZeroRows, classify,
    },
    poller::{Allowance, Page, Spent, Window},
    transport::{Batch, Delivery, Outgoing, Transport, TransportError, TransportErrorKind},
};

/// The most events in one batch: what a Kafka transaction carries well, a few megabytes.
const BATCH: usize = 10_000;

/// How often a batch is decided anew after a conflict or an unknown outcome, before giving up.
const ATTEMPTS: u32 = 5;

/// One window's poll under way.
#[derive(Debug)]
pub struct WindowPoll<'a, T> {
    context: &'a Context<'a, T>,
    scope: String,
    ledger: &'a mut Ledger,
    state: ConnectionState,
    window: Window,
    sightings: Sightings,
    /// Set when the ledger was read anew under way: then absence is not judged this time.
    recovered: bool,
    /// What had been spent before the claim; the state counts the reservation on top until the end.
    spent_before: Spent,
    requests: u32,
    pages: u32,
    observed_at: Option<Timestamp>,
    counts: Counts,
}

impl<'a, T: Transport> WindowPoll<'a, T> {
    /// Over a ledger that has just been recovered, with the state that came with it.
    pub fn new(
        context: &'a Context<'a, T>,
        ledger: &'a mut Ledger,
        state: ConnectionState,
        window: Window,
    ) -> Self {
        Self {
            context,
            scope: context.factory.scope().id(),
            sightings: Sightings::new(window, ledger),
            ledger,
            spent_before: state.spent,
            state,
            window,
            recovered: false,
            requests: 0,
            pages: 0,
            observed_at: None,
            counts: Counts::default(),
        }
    }

    /// Writes the claim into the log and counts the expected pages as spent before they are asked
    /// for, so that a process killed under way has never spent more than the log says.
    ///
    /// `Break` with the outcome where the budget does not hold them or another process was faster.
    pub async fn claim(&mut self, expected: u32) -> Result<ControlFlow<Outcome>, TransportError> {
        let connection = self.context.connection;
        self.state.name.clone_from(&connection.name);
        self.state.account.clone_from(&self.context.factory.scope().account);
        self.state.claim = Some(Claim {
            instance: self.context.instance.to_owned(),
            token: Uuid::new_v4().to_string(),
            reserved: 0,
        });
        self.reserve(expected).await
    }

    /// Counts another page as spent once more have come than were expected.
    pub async fn reserve_another(&mut self) -> Result<ControlFlow<Outcome>, TransportError> {
        let reserved = self.state.claim.as_ref().map_or(0, |claim| claim.reserved);
        if self.requests < reserved {
            return Ok(ControlFlow::Continue(()));
        }
        // As many again: a poll of many pages writes the log a few times, not once per page.
        self.reserve(reserved.saturating_mul(2).max(self.requests + 1)).await
    }

    async fn reserve(&mut self, wanted: u32) -> Result<ControlFlow<Outcome>, TransportError> {
        let context = self.context;
        let now = context.clock.now();
        let _gate = context.gate.lock().await;
        let connections = context.transport.connections().await?;
        let spent = all_spent(&self.scope, &self.spent_before, &connections);
        let left = Allowance::left(context.budget, now, &spent);
        context.metrics.budget_left(left);
        let wanted = match left {
            // Better a poll that ends with the budget than none, once it has begun.
            Allowance::Requests(left) if self.requests > 0 && left > self.requests => wanted.min(left),
            _ => wanted,
        };
        if !left.covers(wanted) {
            let until = budget_resets_at(now, context.budget, &spent, wanted);
            return Ok(ControlFlow::Break(Outcome::BudgetSpent(until)));
        }
        self.state.spent = self.spent_before;
        self.state.spent.add(now, wanted);
        if let Some(claim) = &mut self.state.claim {
            claim.reserved = wanted;
        }
        match self.store(Vec::new(), self.state.clone()).await {
            Ok(_) => Ok(ControlFlow::Continue(())),
            Err(error) if is_doubt(error.kind) => Ok(ControlFlow::Break(Outcome::Claimed)),
            Err(error) => Err(error),
        }
    }

    /// Notes requests that were really made.
    pub const fn spent(&mut self, requests: u32) {
        self.requests += requests;
    }

    /// Forgets the pages seen: the window is read again from its first page.
    pub fn restart(&mut self) {
        self.sightings = Sightings::new(self.window, self.ledger);
        self.pages = 0;
    }

    /// How many cost records AWS listed.
    pub const fn records(&self) -> usize {
        self.sightings.records()
    }

    /// What was found.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Publishes what a page changes. `false` when another process has taken the poll over: the
    /// rest of the answer is dropped.
    pub async fn take(&mut self, page: &Page) -> Result<bool, TransportError> {
        self.pages += 1;
        self.observed_at = Some(page.observed_at);
        self.sightings.note(self.ledger, &page.records, page.observed_at);
        let zero_rows = if self.context.poll.publish_zero { ZeroRows::Publish } else { ZeroRows::Skip };
        let classify_page = |ledger: &Ledger, counts: &mut Counts| {
            classify_records(&page.records, page.observed_at, ledger, zero_rows, counts)
        };
        self.publish(classify_page, &page.group_names, None).await
    }

    /// Ends a poll whose every page has arrived: judges absence, retracts what is gone, and writes
    /// the connection's state with the last of it.
    pub async fn complete(&mut self, started: Timestamp) -> Result<Outcome, TransportError> {
        let granularity = self.window.granularity();
        let before = self.state.poll(granularity).missing;
        let (gone, missing) = if self.recovered {
            (Vec::new(), before)
        } else {
            let judgement = self.sightings.judge(self.ledger, &before);
            let gone = judgement.gone.iter().map(|id| MissingRow::of(&self.ledger.get(*id).key()));
            (gone.collect(), judgement.missing)
        };
        let mut closing = self.settled();
        let pages = self.pages;
        let poll = closing.poll_mut(granularity);
        poll.last_complete = Some(started);
        poll.retry_at = None;
        poll.failures = 0;
        poll.pages = pages;
        poll.missing = missing;
        let observed_at = self.observed_at.unwrap_or(started);
        let retract = |ledger: &Ledger, counts: &mut Counts| {
            let changes: Vec<_> =
                gone.iter().filter_map(|row| retraction(row, observed_at, ledger)).collect();
            counts.removed += changes.len() as u64;
            changes
        };
        let mine = self.publish(retract, &BTreeMap::new(), Some(closing)).await?;
        if mine {
            self.context.metrics.succeeded(&self.context.connection.name, started);
        }
        Ok(if mine { Outcome::Complete } else { Outcome::Claimed })
    }

    /// Ends a poll that has no complete answer: the state remembers what was spent and when to try
    /// again, and concludes nothing.
    pub async fn fail(&mut self, outcome: &Outcome, now: Timestamp) -> Result<(), TransportError> {
        let mut closing = self.settled();
        let (paid, pages) = (self.requests > 0, self.pages);
        let poll = closing.poll_mut(self.window.granularity());
        match outcome {
            Outcome::Interrupted => {}
            Outcome::BudgetSpent(until) => {
                poll.retry_at = Some(*until);
                // The next attempt knows how much it needs before it begins.
                poll.pages = poll.pages.max(pages + 1);
            }
            _ => {
                poll.failures = poll.failures.saturating_add(1);
                poll.retry_at = Some(retry_at(now, poll.failures, paid, self.context.poll.interval));
            }
        }
        match self.store(Vec::new(), closing).await {
            Ok(_) => Ok(()),
            // Another process writes this state now; nothing of ours is lost but a note.
            Err(error) if is_doubt(error.kind) => {
                self.ledger.clear();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a poll that was never claimed.
    pub async fn close_without_answer(&mut self, outcome: Outcome) -> Result<Outcome, TransportError> {
        match outcome {
            Outcome::BudgetSpent(until) => {
                let mut closing = self.settled();
                closing.poll_mut(self.window.granularity()).retry_at = Some(until);
                self.store(Vec::new(), closing).await?;
            }
            _ => self.ledger.clear(),
        }
        Ok(outcome)
    }

    /// The connection's state with what was really spent, and nobody polling.
    fn settled(&self) -> ConnectionState {
        let mut state = self.state.clone();
        state.claim = None;
        state.spent = self.spent_before;
        state.spent.add(self.context.clock.now(), self.requests);
        state
    }

    /// Decides and publishes, batch by batch; after a conflict or an unknown outcome recovers and
    /// decides again. `closing` goes with the last batch, or alone where nothing changed.
    async fn publish<'c>(
        &mut self,
        decide: impl Fn(&Ledger, &mut Counts) -> Vec<Change<'c>>,
        group_names: &BTreeMap<String, String>,
        closing: Option<ConnectionState>,
    ) -> Result<bool, TransportError> {
        let mut attempt = 1;
        loop {
            let mut counts = Counts::default();
            let changes = decide(self.ledger, &mut counts);
            match self.publish_changes(&changes, group_names, closing.as_ref(), &mut counts).await {
                Ok(()) => {
                    self.context.metrics.classified(&counts);
                    self.counts += counts;
                    return Ok(true);
                }
                Err(error) if is_doubt(error.kind) && attempt < ATTEMPTS => {
                    self.context.metrics.failed("publish", error.kind.name());
                    warn!(connection = self.context.connection.name, attempt, "{error}; recovering");
                    attempt += 1;
                    self.recovered = true;
                    if error.kind == TransportErrorKind::Regressed {
                        self.ledger.clear();
                    }
                    let state = self.context.transport.recover(&self.scope, self.ledger).await?;
                    if state.claim.as_ref().map(|claim| &claim.token)
                        != self.state.claim.as_ref().map(|claim| &claim.token)
                    {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn publish_changes(
        &mut self,
        changes: &[Change<'_>],
        group_names: &BTreeMap<String, String>,
        closing: Option<&ConnectionState>,
        counts: &mut Counts,
    ) -> Result<(), TransportError> {
        let batches = changes.len().div_ceil(BATCH);
        for (number, chunk) in changes.chunks(BATCH).enumerate() {
            let factory = self.context.factory;
            let outgoing = |change: &Change<'_>| {
                let expected = self.ledger.previous(&change.key).map_or(0, |known| known.sequence());
                Outgoing::of(factory, change, group_names).over(expected)
            };
            let events = chunk.iter().map(outgoing).collect();
            let state = closing.filter(|_| number + 1 == batches).unwrap_or(&self.state).clone();
            let deliveries = self.store(events, state).await?;
            for (change, delivery) in chunk.iter().zip(deliveries) {
                match delivery {
                    Delivery::Stored(end) => {
                        trace!(key = %change.key, revision = change.revision, kind = change.kind.name(), "published");
                        self.ledger.apply_at(&change.key, &change.statement(), end);
                        let follows = self.ledger.recovered_to().is_some_and(|known| known + 1 == end);
                        if follows || self.context.transport.receipts_prove_the_end() {
                            self.ledger.set_recovered_to(end);
                        }
                    }
                    Delivery::Rejected(reason) => {
                        counts.rejected += 1;
                        error!(key = %change.key, "the output refused an event: {reason}");
                    }
                }
            }
        }
        match closing {
            Some(state) if batches == 0 => self.store(Vec::new(), state.clone()).await.map(drop),
            _ => Ok(()),
        }
    }

    async fn store(
        &self,
        events: Vec<Outgoing>,
        connection: ConnectionState,
    ) -> Result<Vec<Delivery>, TransportError> {
        let started = Instant::now();
        let count = events.len();
        let batch =
            Batch { scope: self.scope.clone(), recovered_to: self.ledger.recovered_to(), events, connection };
        let deliveries = self.context.transport.publish(batch).await?;
        if count > 0 {
            self.context.metrics.published(self.context.transport.name(), count, started.elapsed());
        }
        Ok(deliveries)
    }
}

/// Whether the outcome has to be looked up in the log before anything is decided.
const fn is_doubt(kind: TransportErrorKind) -> bool {
    matches!(kind, TransportErrorKind::Conflict | TransportErrorKind::Unknown | TransportErrorKind::Regressed)
}

/// The changes a page brings. The same key twice on one page is one change: the later row counts.
fn classify_records<'r>(
    records: &'r [CostRecord],
    observed_at: Timestamp,
    ledger: &Ledger,
    zero_rows: ZeroRows,
    counts: &mut Counts,
) -> Vec<Change<'r>> {
    let mut changes: Vec<Change<'r>> = Vec::new();
    for record in records {
        let previous = ledger.previous(&record.key());
        match classify(record, observed_at, previous, zero_rows) {
            Verdict::Changed(kind) => {
                match kind {
                    ChangeKind::New => counts.new += 1,
                    ChangeKind::Revised | ChangeKind::Removed => counts.revised += 1,
                }
                changes.push(Change::of_record(record, kind, observed_at, previous));
            }
            Verdict::Unchanged => counts.unchanged += 1,
            Verdict::Zero => counts.zero += 1,
            Verdict::Stale => counts.stale += 1,
        }
    }
    drop_repeated_keys(&mut changes);
    changes
}

fn drop_repeated_keys(changes: &mut Vec<Change<'_>>) {
    let mut last = HashMap::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        last.insert((change.key.period, change.key.service, change.key.group), index);
    }
    if last.len() < changes.len() {
        let mut index = 0;
        changes.retain(|change| {
            let keep = last.get(&(change.key.period, change.key.service, change.key.group)) == Some(&index);
            index += 1;
            keep
        });
    }
}

/// The retraction of a row that is gone; `None` where the log has something newer by now.
fn retraction<'r>(row: &'r MissingRow, observed_at: Timestamp, ledger: &Ledger) -> Option<Change<'r>> {
    let key = row.key()?;
    let previous = ledger.previous(&key)?;
    let live = previous.status() == Status::Live && previous.observed_at() <= observed_at;
    live.then(|| Change::retraction(key, observed_at, previous))
}
