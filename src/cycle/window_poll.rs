//! The poll of one window, from the claim to the judgement of absence: everything but AWS itself.
//! The reading of a month by a backfill is one too; it leaves what polls remember as it is.

mod hold;

use std::{collections::BTreeMap, ops::ControlFlow, time::Instant};

use jiff::{Timestamp, civil::Date};
use tracing::{error, trace, warn};

use super::{
    Context, Outcome,
    changes::{classify_page, retraction},
    failure::note_failure,
};
use crate::{
    dedup::{
        Change, ConnectionState, Counts, Judgement, Ledger, MissingRow, MonthState, PollState, Sightings,
        Status, ZeroRows,
    },
    poller::{Allowance, FetchError, Page, Spent, Window},
    transport::{Batch, Delivery, Outgoing, Transport, TransportError, TransportErrorKind},
};

/// The most events in one batch: what a Kafka transaction carries well, a few megabytes.
const BATCH: usize = 10_000;

/// So often in its time to live a claim is written again: one writing may fail, or be slow.
const RENEWALS: u32 = 3;

/// How often a batch is decided anew after a conflict or an unknown outcome, before giving up.
const ATTEMPTS: u32 = 5;

/// So many bytes of missing rows are remembered, as brokers take records of a megabyte. What is missing
/// beyond that is remembered by the polls that follow, as the first are retracted.
const MISSING_OF_A_POLL: usize = 250_000;
const MISSING_OF_A_MONTH: usize = 20_000;

/// What a window is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A poll, which is due again an interval later.
    Poll,
    /// A backfill of the month that begins on this day.
    Month {
        /// The month.
        first: Date,
        /// Polls read it too, and alone judge what is absent from it.
        polled: bool,
    },
}

/// One window's poll under way.
#[derive(Debug)]
pub struct WindowPoll<'a, T> {
    context: &'a Context<'a, T>,
    scope: String,
    ledger: &'a mut Ledger,
    state: ConnectionState,
    window: Window,
    purpose: Purpose,
    sightings: Sightings,
    /// What had been spent before the claim; the state counts the reservation on top until the end.
    spent_before: Spent,
    /// What the budget held before this poll.
    left: Allowance,
    /// When the claim was last known to be written.
    claimed_at: Instant,
    requests: u32,
    pages: u32,
    observed_at: Option<Timestamp>,
    /// What AWS calls the group values, as far as its pages have told.
    group_names: BTreeMap<String, String>,
    counts: Counts,
    missing: usize,
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
            left: Allowance::Unlimited,
            state,
            window,
            purpose: Purpose::Poll,
            claimed_at: Instant::now(),
            requests: 0,
            pages: 0,
            observed_at: None,
            group_names: BTreeMap::new(),
            counts: Counts::default(),
            missing: 0,
        }
    }

    /// The same for a backfill of the month that begins on a day. Where polls read that month too, they
    /// alone judge what is absent from it.
    #[must_use]
    pub fn of_month(self, first: Date, polled: bool) -> Self {
        Self { purpose: Purpose::Month { first, polled }, ..self }
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

    /// Publishes what a page changes. `Break` when another process has taken the poll over, or when
    /// the answer contradicts itself: the rest of it is dropped.
    pub async fn take(&mut self, page: &Page) -> Result<ControlFlow<Outcome>, TransportError> {
        self.pages += 1;
        self.observed_at = Some(page.observed_at);
        self.group_names.extend(page.group_names.clone());
        self.sightings.page(page.records.len(), page.observed_at);
        let zero_rows = if self.context.poll.publish_zero { ZeroRows::Publish } else { ZeroRows::Skip };
        let decide = |ledger: &Ledger, sightings: &mut Sightings, counts: &mut Counts| {
            classify_page(page, ledger, sightings, zero_rows, counts)
        };
        self.publish(decide, None).await
    }

    /// Ends a poll whose every page has arrived: judges absence, retracts what is gone, and writes
    /// the connection's state with the last of it.
    pub async fn complete(&mut self, started: Timestamp) -> Result<Outcome, TransportError> {
        let granularity = self.window.granularity();
        let before = match self.purpose {
            Purpose::Poll => self.state.poll(granularity).missing,
            Purpose::Month { first, .. } => self.state.month(first).missing,
        };
        let judgement = match self.purpose {
            Purpose::Month { polled: true, .. } => Judgement::default(),
            Purpose::Poll => {
                let mut judged = self.sightings.judge(self.ledger, &before, MISSING_OF_A_POLL);
                // One more look back for a row whose period is over; not for ever, where nothing is
                // listed any more that would tell.
                let last = self.state.poll(granularity).last_complete;
                let due = Window::due(granularity, started, self.context.poll.settle_days, last);
                judged.missing.retain(|row| {
                    !before.contains(row) || row.key().is_some_and(|key| due.contains(key.period))
                });
                judged
            }
            Purpose::Month { .. } => self.sightings.judge(self.ledger, &before, MISSING_OF_A_MONTH),
        };
        let gone: Vec<_> =
            judgement.gone.iter().map(|id| MissingRow::of(&self.ledger.get(*id).key())).collect();
        let mut closing = self.settled();
        let (pages, missing) = (self.pages, judgement.missing);
        self.missing = missing.len();
        match self.purpose {
            Purpose::Poll => {
                let poll = closing.poll_mut(granularity);
                *poll = PollState { last_complete: Some(started), pages, missing, ..PollState::default() };
            }
            Purpose::Month { first, .. } => {
                closing.note_month(first, MonthState { read_at: Some(started), pages, missing }, started);
            }
        }
        let since = closing.complete_since(&self.context.connection.granularity);
        let observed_at = self.observed_at.unwrap_or(started);
        let retract = |ledger: &Ledger, _: &mut Sightings, counts: &mut Counts| {
            let changes: Vec<_> =
                gone.iter().filter_map(|row| retraction(row, observed_at, ledger)).collect();
            counts.removed += changes.len() as u64;
            Ok(changes)
        };
        if let ControlFlow::Break(outcome) = self.publish(retract, Some(closing)).await? {
            return Ok(outcome);
        }
        since.inspect(|since| self.context.metrics.succeeded(&self.context.connection.name, *since));
        Ok(Outcome::Complete)
    }

    /// Ends a poll that has no complete answer: the state remembers what was spent and concludes
    /// nothing. Returns when to try again.
    ///
    /// Only a failure that was paid for waits over a restart too: what was free is tried at once by a
    /// process that may have been given other credentials, and a budget is judged afresh.
    pub async fn fail(
        &mut self,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, TransportError> {
        let mut closing = self.settled();
        let (paid, pages) = (self.requests > 0, self.pages);
        let knows_rows =
            self.ledger.rows().any(|(_, row)| row.status() == Status::Live && row.within(&self.window));
        let retry = match self.purpose {
            Purpose::Poll => {
                let poll = closing.poll_mut(self.window.granularity());
                note_failure(poll, outcome, (now, paid, pages), knows_rows, self.context.poll.interval)
            }
            // Whoever asked for the month decides when to ask again.
            Purpose::Month { first, .. } => match outcome {
                // The next attempt knows how much it needs before it begins.
                Outcome::BudgetSpent { until, .. } => {
                    let mut month = closing.month(first);
                    month.pages = month.pages.max(pages + 1);
                    closing.note_month(first, month, now);
                    Some(*until)
                }
                _ => None,
            },
        };
        match self.store(Vec::new(), closing).await {
            Ok(_) => Ok(retry),
            // Another process writes this state now; nothing of ours is lost but a note.
            Err(error) if is_doubt(error.kind) => {
                self.ledger.clear();
                Ok(retry)
            }
            Err(error) => Err(error),
        }
    }

    /// The claim, and how many requests were made under it.
    pub fn made(&self) -> Option<(String, u32)> {
        self.state.claim.as_ref().map(|claim| (claim.token.clone(), self.requests))
    }

    /// How many pages have come.
    pub const fn pages(&self) -> u32 {
        self.pages
    }

    /// How many rows the complete answer did not list, and nothing was concluded from that.
    pub const fn missing(&self) -> usize {
        self.missing
    }

    /// The connection's state with what was really spent, and nobody polling.
    fn settled(&self) -> ConnectionState {
        self.context.metrics.budget_left(self.left.after(self.requests));
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
        decide: impl Fn(&Ledger, &mut Sightings, &mut Counts) -> Result<Vec<Change<'c>>, FetchError>,
        closing: Option<ConnectionState>,
    ) -> Result<ControlFlow<Outcome>, TransportError> {
        let (mut attempt, mut left) = (1, usize::MAX);
        loop {
            let mut counts = Counts::default();
            let changes = match decide(self.ledger, &mut self.sightings, &mut counts) {
                Ok(changes) => changes,
                Err(error) => return Ok(ControlFlow::Break(Outcome::Failed(error))),
            };
            if changes.len() < left {
                // An output that is slow stores a part each time.
                (attempt, left) = (1, changes.len());
            }
            match self.publish_changes(&changes, closing.as_ref(), &mut counts).await {
                Ok(()) => {
                    self.context.metrics.classified(&counts);
                    self.counts += counts;
                    return Ok(ControlFlow::Continue(()));
                }
                Err(error) if is_doubt(error.kind) && attempt < ATTEMPTS => {
                    self.context.metrics.failed("publish", error.kind.name());
                    warn!(connection = self.context.connection.name, attempt, "{error}; recovering");
                    attempt += 1;
                    let state = self.recover(&error).await?;
                    if closing.as_ref() == Some(&state) {
                        // It was stored, and only the answer was lost.
                        self.context.metrics.classified(&counts);
                        self.counts += counts;
                        return Ok(ControlFlow::Continue(()));
                    }
                    if !self.is_ours(&state) {
                        return Ok(ControlFlow::Break(Outcome::Claimed));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks up in the log what came of something: the connection's state there.
    async fn recover(&mut self, error: &TransportError) -> Result<ConnectionState, TransportError> {
        self.sightings.lose();
        if error.kind == TransportErrorKind::Regressed {
            self.ledger.clear();
        }
        let window = self.window;
        let transport = self.context.transport;
        transport.recover_window(&self.scope, self.ledger, &|_| window).await
    }

    /// Whether the poll is still this process's, after something of which it is not known what came of it.
    async fn holds_after(&mut self, error: &TransportError) -> Result<bool, TransportError> {
        let state = self.recover(error).await?;
        Ok(self.is_ours(&state))
    }

    fn is_ours(&self, state: &ConnectionState) -> bool {
        let token = |state: &ConnectionState| state.claim.as_ref().map(|claim| claim.token.clone());
        token(state) == token(&self.state)
    }

    async fn publish_changes(
        &mut self,
        changes: &[Change<'_>],
        closing: Option<&ConnectionState>,
        counts: &mut Counts,
    ) -> Result<(), TransportError> {
        let batches = changes.len().div_ceil(BATCH);
        for (number, chunk) in changes.chunks(BATCH).enumerate() {
            let factory = self.context.factory;
            let outgoing = |change: &Change<'_>| {
                let expected = self.ledger.previous(&change.key).map_or(0, |known| known.sequence());
                Outgoing::of(factory, change, &self.group_names).over(expected)
            };
            let events = chunk.iter().map(outgoing).collect();
            if self.claimed_at.elapsed() > self.context.poll.claim_ttl / RENEWALS
                && let Some(claim) = &mut self.state.claim
            {
                claim.renewed += 1;
                self.claimed_at = Instant::now();
            }
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
