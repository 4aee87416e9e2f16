//! One month for a backfill: recover, ask AWS, classify, publish; claimed and paid for as a poll is.
//!
//! What polls remember stays as it is. Which months are read, and when, is not decided here.

use std::ops::ControlFlow;

use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::{ClaimWatch, Context, Outcome, WindowPoll, read_pages, window_of};
use crate::{
    cost::{Granularity, Period},
    dedup::{Counts, Ledger},
    poller::{CostExplorer, Window},
    transport::{Transport, TransportError},
};

/// Whether a month that was read completely is read, and paid for, once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reread {
    /// It is left as it is.
    Unfinished,
    /// It is.
    Everything,
}

/// A month that was read, or was to be.
#[derive(Debug)]
pub struct MonthRead {
    /// How it ended; `NotDue`: it had been read completely before, perhaps by another process.
    pub outcome: Outcome,
    /// Verdicts on the cost records.
    pub counts: Counts,
    /// Chargeable requests: $0.01 each.
    pub requests: u32,
    /// Rows that were published and are not in the complete answer, with nothing concluded.
    pub missing: usize,
    /// A poll of this connection was due when the month was begun: somebody may be waiting for it.
    pub poll_is_due: bool,
}

/// Reads the month that begins on a day, and publishes what changed.
///
/// | the month | what a row's absence leads to |
/// |---|---|
/// | polls read it too | nothing: they judge it |
/// | no poll reads it any more | a retraction, once two complete readings in a row lack the row |
///
/// # Errors
/// When the transport fails: the ledger is cleared then, and the next attempt recovers it.
pub async fn read_month<T: Transport>(
    context: &Context<'_, T>,
    aws: &CostExplorer,
    ledger: &mut Ledger,
    watch: &mut ClaimWatch,
    (first, reread): (Date, Reread),
    shutdown: &CancellationToken,
) -> Result<MonthRead, TransportError> {
    let requests = aws.requests();
    let read = try_month(context, aws, ledger, watch, (first, reread), shutdown).await;
    context.metrics.requests(requests, aws.requests());
    if read.is_err() {
        // Whatever was stored, the next recovery reads it back.
        ledger.clear();
    }
    read
}

async fn try_month<T: Transport>(
    context: &Context<'_, T>,
    aws: &CostExplorer,
    ledger: &mut Ledger,
    watch: &mut ClaimWatch,
    (first, reread): (Date, Reread),
    shutdown: &CancellationToken,
) -> Result<MonthRead, TransportError> {
    let started = context.clock.now();
    let settle_days = context.poll.settle_days;
    let window = Window::month(first);
    let scope = context.factory.scope().id();
    let state = context.transport.recover_window(&scope, ledger, &|_| window).await?;
    let is_due = |granularity: &Granularity| {
        let due_at = state.due_at(*granularity, context.poll.interval, started);
        due_at.is_none_or(|at| at <= started)
    };
    let poll_is_due = context.connection.granularity.iter().any(is_due);
    let ended =
        |outcome| MonthRead { outcome, counts: Counts::default(), requests: 0, missing: 0, poll_is_due };
    if reread == Reread::Unfinished && state.has_month(first, settle_days, started) {
        return Ok(ended(Outcome::NotDue));
    }
    if !watch.may_claim(state.claim.as_ref(), context.instance, context.poll.claim_ttl) {
        return Ok(ended(Outcome::Claimed));
    }
    let polls = window_of(Granularity::Daily, started, context.poll, &state);
    let expected = state.pages_of(first);
    let polled = polls.contains(Period::day(first));
    let mut poll = WindowPoll::new(context, ledger, state, window).of_month(first, polled);
    if let ControlFlow::Break(outcome) = poll.claim(expected).await? {
        return Ok(ended(outcome));
    }
    let (outcome, requests) = read_pages(context, aws, &mut poll, window, shutdown).await?;
    let outcome = match outcome {
        Outcome::Claimed => Outcome::Claimed,
        Outcome::Complete => poll.complete(started).await?,
        outcome => {
            poll.fail(&outcome, started).await?;
            outcome
        }
    };
    Ok(MonthRead { outcome, counts: poll.counts(), requests, missing: poll.missing(), poll_is_due })
}
