//! One cycle of one connection: recover, ask AWS, classify, publish, and judge what is absent.
//!
//! A cycle is one function and one page is the unit of work and of memory: nothing is queued
//! between the stages, backpressure is waiting. When to poll is not decided here.

mod changes;
mod claim;
mod failure;
#[cfg(test)]
mod model;
mod month;
mod window_poll;

pub use claim::ClaimWatch;
pub(crate) use failure::retry_at;
pub use month::{MonthRead, Reread, read_month};
pub use window_poll::WindowPoll;

use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp, ToSpan as _};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    clock::Clock,
    config::{BudgetConfig, ConnectionConfig, PollConfig},
    cost::{Granularity, midnight, utc_date},
    dedup::{ConnectionState, Counts, Ledger, PollState},
    event::EventFactory,
    poller::{Allowance, CostExplorer, FetchError, FetchErrorKind, PageGuard, Spent, Window},
    telemetry::Metrics,
    transport::{Transport, TransportError},
};

/// What a cycle works with; the same for every cycle of a connection.
#[derive(Debug)]
pub struct Context<'a, T> {
    /// Where events go and the state lives.
    pub transport: &'a T,
    /// The scope, and how its events look.
    pub factory: &'a EventFactory,
    /// What to ask AWS.
    pub connection: &'a ConnectionConfig,
    /// `[poll]`.
    pub poll: &'a PollConfig,
    /// `[budget]`.
    pub budget: BudgetConfig,
    /// UTC.
    pub clock: &'a Clock,
    /// This process, in claims.
    pub instance: &'a str,
    /// Held while the budget is read and a claim written: connections of one process share both.
    pub gate: &'a Mutex<()>,
    /// What operators see.
    pub metrics: &'a Metrics,
}

/// How the poll of one window ended.
#[derive(Debug)]
pub enum Outcome {
    /// Every page arrived and everything is published.
    Complete,
    /// AWS gave no complete answer; what had arrived is published.
    Failed(FetchError),
    /// The answer had no rows at all: nothing is concluded from that.
    Empty,
    /// The budget does not hold the poll.
    BudgetSpent {
        /// When it holds more again, UTC.
        until: Timestamp,
        /// How many requests the poll needs, as far as is known.
        needed: u32,
    },
    /// Another process is at it.
    Claimed,
    /// Another process has been at it since this one looked.
    NotDue,
    /// Told to stop.
    Interrupted,
}

impl Outcome {
    /// The label in metrics and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed(_) => "failed",
            Self::Empty => "empty",
            Self::BudgetSpent { .. } => "budget_spent",
            Self::Claimed => "claimed",
            Self::NotDue => "not_due",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Whether a window is polled only when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Due or not.
    Now,
    /// Judged once the state is recovered: another process may have polled meanwhile.
    Due,
}

/// One window's poll, ended.
#[derive(Debug)]
pub struct Polled {
    /// Day or hour.
    pub granularity: Granularity,
    /// How it ended.
    pub outcome: Outcome,
    /// After a failure: not to be tried again before.
    pub retry_at: Option<Timestamp>,
}

/// What one cycle did.
#[derive(Debug, Default)]
pub struct CycleReport {
    /// One per granularity polled.
    pub polled: Vec<Polled>,
    /// Verdicts on the cost records.
    pub counts: Counts,
    /// Chargeable requests: $0.01 each.
    pub requests: u32,
    /// Pages that came.
    pub pages: u32,
}

impl CycleReport {
    /// Whether everything asked for arrived and everything that changed was published.
    pub fn is_complete(&self) -> bool {
        self.counts.rejected == 0
            && self.polled.iter().all(|poll| matches!(poll.outcome, Outcome::Complete | Outcome::NotDue))
    }

    /// Whether AWS could not be reached at all.
    pub fn is_unreachable(&self) -> bool {
        let unavailable = |poll: &Polled| matches!(&poll.outcome, Outcome::Failed(error) if error.kind == FetchErrorKind::Unavailable);
        self.pages == 0 && !self.polled.is_empty() && self.polled.iter().all(unavailable)
    }

    /// Adds what was done later in the same cycle: a poll that was left to another process counts
    /// as it ended at last.
    pub fn merge(&mut self, later: Self) {
        self.polled.retain(|poll| !matches!(poll.outcome, Outcome::Claimed));
        self.polled.extend(later.polled);
        self.counts += later.counts;
        self.requests += later.requests;
        self.pages += later.pages;
    }

    /// The granularities another process is at.
    pub fn claimed(&self) -> Vec<Granularity> {
        let claimed = self.polled.iter().filter(|poll| matches!(poll.outcome, Outcome::Claimed));
        claimed.map(|poll| poll.granularity).collect()
    }
}

/// Polls one window per granularity and publishes what changed.
///
/// # Errors
/// When the transport fails: the ledger is cleared then, and the next cycle recovers it.
pub async fn run<T: Transport>(
    context: &Context<'_, T>,
    aws: &CostExplorer,
    ledger: &mut Ledger,
    watch: &mut ClaimWatch,
    granularities: &[Granularity],
    when: When,
    shutdown: &CancellationToken,
) -> Result<CycleReport, TransportError> {
    let mut report = CycleReport::default();
    for &granularity in granularities {
        if shutdown.is_cancelled() {
            report.polled.push(Polled { granularity, outcome: Outcome::Interrupted, retry_at: None });
            break;
        }
        let requests = aws.requests();
        let result = poll(context, aws, ledger, watch, (granularity, when), &mut report, shutdown).await;
        context.metrics.requests(requests, aws.requests());
        if result.is_err() {
            // Whatever was stored, the next recovery reads it back.
            ledger.clear();
        }
        let (outcome, retry_at) = result?;
        context.metrics.polled(&context.connection.name, granularity, outcome.name());
        log_failure(context, granularity, &outcome);
        let interrupted = matches!(outcome, Outcome::Interrupted);
        report.polled.push(Polled { granularity, outcome, retry_at });
        if interrupted {
            break;
        }
    }
    context.metrics.ledger_rows(&context.connection.name, ledger.len());
    Ok(report)
}

async fn poll<T: Transport>(
    context: &Context<'_, T>,
    aws: &CostExplorer,
    ledger: &mut Ledger,
    watch: &mut ClaimWatch,
    (granularity, when): (Granularity, When),
    report: &mut CycleReport,
    shutdown: &CancellationToken,
) -> Result<(Outcome, Option<Timestamp>), TransportError> {
    let started = context.clock.now();
    let window_of = |state: &ConnectionState| window_of(granularity, started, context.poll, state);
    let mut state =
        context.transport.recover_window(&context.factory.scope().id(), ledger, &window_of).await?;
    watch.settle(&mut state);
    let due_at = state.due_at(granularity, context.poll.interval, started);
    if when == When::Due && due_at.is_some_and(|at| started < at) {
        return Ok((Outcome::NotDue, None));
    }
    if !watch.may_claim(state.claim.as_ref(), context.instance, context.poll.claim_ttl) {
        return Ok((Outcome::Claimed, None));
    }
    let window = window_of(&state);
    let pages = state.poll(granularity).pages;
    let mut poll = WindowPoll::new(context, ledger, state, window);
    let ended = poll_window(context, aws, &mut poll, (window, started, pages.max(1)), report, shutdown).await;
    if ended.as_ref().map_or(true, |(outcome, _)| matches!(outcome, Outcome::Claimed)) {
        watch.leave(poll.made());
    }
    report.counts += poll.counts();
    report.pages += poll.pages();
    ended
}

/// From the claim to the end of one window's poll.
async fn poll_window<T: Transport>(
    context: &Context<'_, T>,
    aws: &CostExplorer,
    poll: &mut WindowPoll<'_, T>,
    (window, started, expected): (Window, Timestamp, u32),
    report: &mut CycleReport,
    shutdown: &CancellationToken,
) -> Result<(Outcome, Option<Timestamp>), TransportError> {
    if let ControlFlow::Break(outcome) = poll.claim(expected).await? {
        // Nothing was asked: a budget that is raised is believed at the next start.
        let until = match outcome {
            Outcome::BudgetSpent { until, .. } => Some(until),
            _ => None,
        };
        return Ok((outcome, until));
    }
    let (outcome, requests) = read_pages(context, aws, poll, window, shutdown).await?;
    report.requests += requests;
    match outcome {
        Outcome::Claimed => Ok((Outcome::Claimed, None)),
        Outcome::Complete => Ok((poll.complete(started).await?, None)),
        outcome => {
            let retry_at = poll.fail(&outcome, context.clock.now()).await?;
            Ok((outcome, retry_at))
        }
    }
}

/// Asks for the pages of a claimed window, one after the other, and publishes each. Returns how that
/// ended and what was spent, the requests AWS charges for; the poll is still to be ended.
async fn read_pages<T: Transport>(
    context: &Context<'_, T>,
    aws: &CostExplorer,
    poll: &mut WindowPoll<'_, T>,
    window: Window,
    shutdown: &CancellationToken,
) -> Result<(Outcome, u32), TransportError> {
    let (mut restarted, mut spent) = (false, 0);
    let outcome = 'query: loop {
        let mut guard = PageGuard::new(context.poll.max_pages);
        let mut token: Option<String> = None;
        loop {
            let asked = async {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => None,
                    page = aws.page(&window, token.as_deref()) => Some(page),
                }
            };
            let answer = poll.renewing(asked).await;
            let requests = aws.take_spent();
            poll.spent(requests);
            spent += requests;
            let page = match answer? {
                ControlFlow::Break(outcome) => break 'query outcome,
                ControlFlow::Continue(None) => break 'query Outcome::Interrupted,
                ControlFlow::Continue(Some(Ok(page))) => page,
                ControlFlow::Continue(Some(Err(error)))
                    if error.kind == FetchErrorKind::RestartQuery && !restarted =>
                {
                    debug!(%error, "the window is read again from its first page");
                    restarted = true;
                    poll.restart();
                    if let ControlFlow::Break(outcome) = poll.reserve_another().await? {
                        break 'query outcome;
                    }
                    continue 'query;
                }
                ControlFlow::Continue(Some(Err(error))) => break 'query Outcome::Failed(error),
            };
            token.clone_from(&page.next);
            let followed = guard.follow(page.next.as_deref());
            debug!(
                connection = context.connection.name,
                page = guard.pages(),
                records = page.records.len(),
                "page"
            );
            if let ControlFlow::Break(outcome) = poll.take(&page).await? {
                break 'query outcome;
            }
            if let Err(error) = followed {
                break 'query Outcome::Failed(error);
            }
            if token.is_none() {
                break 'query if poll.records() == 0 { Outcome::Empty } else { Outcome::Complete };
            }
            if let ControlFlow::Break(outcome) = poll.reserve_another().await? {
                break 'query outcome;
            }
        }
    };
    Ok((outcome, spent))
}

/// What a poll that begins at `started` asks for: what is due, back to the oldest row that has to be
/// looked at once more.
pub(crate) fn window_of(
    granularity: Granularity,
    started: Timestamp,
    poll: &PollConfig,
    state: &ConnectionState,
) -> Window {
    let PollState { last_complete, missing, .. } = state.poll(granularity);
    let due = Window::due(granularity, started, poll.settle_days, last_complete);
    let missing = missing.iter().filter_map(|row| Some(row.key()?.period));
    missing.min().map_or(due, |oldest| due.reaching(oldest))
}

/// What an operator should look at; a complete cycle says so once, at its end.
fn log_failure<T>(context: &Context<'_, T>, granularity: Granularity, outcome: &Outcome) {
    let connection = &*context.connection.name;
    match outcome {
        Outcome::Failed(error) => {
            context.metrics.failed("fetch", error.kind.name());
            let hint = error.hint.as_deref().unwrap_or_default();
            warn!(connection, %granularity, kind = error.kind.name(), hint, "{error}");
        }
        Outcome::Empty => {
            context.metrics.failed("fetch", "empty");
            warn!(connection, %granularity, "the answer has no rows at all; nothing is concluded from that");
        }
        Outcome::BudgetSpent { until, .. } if is_soon(context, *until) => {
            debug!(connection, %granularity, %until, "what is left of the budget is reserved by others");
        }
        Outcome::BudgetSpent { until, needed } => {
            context.metrics.failed("budget", "spent");
            let hint = if [context.budget.requests_per_day, context.budget.requests_per_month]
                .into_iter()
                .flatten()
                .any(|cap| cap < *needed)
            {
                "the budget never holds so many: raise `budget.requests_per_day` or `requests_per_month`"
            } else {
                "see `budget.requests_per_day` and `budget.requests_per_month`"
            };
            warn!(
                connection, %granularity, needed, %until, hint,
                "the request budget does not hold the poll; no request before `until`"
            );
        }
        // Once a second, as long as that one takes.
        Outcome::Claimed => debug!(connection, %granularity, "another process has this poll"),
        Outcome::Complete | Outcome::NotDue | Outcome::Interrupted => {}
    }
}

/// Whether no more is waited for than what others have reserved, and may give back.
fn is_soon<T>(context: &Context<'_, T>, until: Timestamp) -> bool {
    let left = until.duration_since(context.clock.now());
    SignedDuration::try_from(context.poll.claim_ttl).is_ok_and(|ttl| left <= ttl)
}

/// When the budget holds more again: the next UTC day, or the next month once that cap is reached.
pub(crate) fn budget_resets_at(
    now: Timestamp,
    budget: BudgetConfig,
    spent: &[Spent],
    needed: u32,
) -> Timestamp {
    let today = utc_date(now);
    let month_only = BudgetConfig { requests_per_day: None, ..budget };
    let next = if Allowance::left(month_only, now, spent).covers(needed) {
        today.saturating_add(1.day())
    } else {
        today.first_of_month().saturating_add(1.month())
    };
    midnight(next)
}

/// What every connection spent, with this one's newest figure in place of the log's.
fn all_spent(scope: &str, own: &Spent, connections: &[(String, ConnectionState)]) -> Vec<Spent> {
    let others = connections.iter().filter(|(id, _)| id != scope).map(|(_, state)| state.spent);
    others.chain([*own]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_resets_with_the_day_or_the_month() {
        let now: Timestamp = "2026-12-05T13:00:00Z".parse().unwrap();
        let mut spent = Spent::default();
        spent.add(now, 24);
        let budget =
            |day, month| BudgetConfig { requests_per_day: Some(day), requests_per_month: Some(month) };
        let resets = |budget| budget_resets_at(now, budget, &[spent], 1).to_string();
        assert_eq!(resets(budget(24, 100)), "2026-12-06T00:00:00Z");
        assert_eq!(resets(budget(24, 24)), "2027-01-01T00:00:00Z");
    }
}
