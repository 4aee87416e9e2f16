//! One connection's task: whose account it is, then a cycle now or whenever one is due.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use super::{End, Mode, Shared};
use crate::{
    admin::Health,
    config::{ConnectionConfig, collide},
    cost::Granularity,
    cycle::{self, ClaimWatch, Context, CycleReport, Outcome, When},
    dedup::{ConnectionState, Ledger},
    event::EventFactory,
    poller::{CostExplorer, FetchError, FetchErrorKind},
    transport::{Transport, TransportError},
};

/// A sleep is never longer than this, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The pauses while the output or STS cannot be reached: doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long to leave a poll to the process that has claimed it before looking again.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);

/// Runs until done or shut down.
pub(super) async fn run<T: Transport>(shared: Arc<Shared<T>>, connection: ConnectionConfig) -> End {
    let (aws, account) = match account(&shared, &connection).await {
        Ok(Some(known)) => known,
        Ok(None) => return End::Stopped,
        Err(error) => return fetch_end(&shared, &connection, error),
    };
    if let Err(end) = register(&shared, &connection, &account).await {
        return end;
    }
    let source = &shared.config.source;
    let factory = EventFactory::new(connection.scope(&source.source, &account), &source.type_prefix);
    let context = Context {
        transport: &shared.transport,
        factory: &factory,
        connection: &connection,
        poll: &shared.config.poll,
        budget: shared.config.budget,
        clock: &shared.world.clock,
        instance: &shared.world.instance,
        gate: &shared.gate,
        metrics: &shared.world.metrics,
    };
    let scope = Arc::clone(shared.scopes.lock().await.entry(factory.scope().id()).or_default());
    let work = Work {
        shared: &shared,
        context,
        aws,
        scope: &scope,
        ledger: Ledger::new(),
        watch: ClaimWatch::new(),
        refused: BTreeMap::new(),
        unpublished: 0,
        polled: false,
    };
    let result = match shared.mode {
        Mode::Once => work.once().await,
        Mode::Service => work.serve().await,
    };
    result.unwrap_or_else(|error| {
        let hint = error.hint.as_deref().unwrap_or_default();
        error!(connection = connection.name, kind = error.kind.name(), hint, "{error}");
        shared.world.metrics.failed("output", error.kind.name());
        End::Transport(error)
    })
}

/// What a connection's cycles need, from one to the next.
struct Work<'a, T> {
    shared: &'a Shared<T>,
    context: Context<'a, T>,
    aws: CostExplorer,
    /// Held during a cycle.
    scope: &'a Mutex<()>,
    ledger: Ledger,
    watch: ClaimWatch,
    /// What an operator must look at, by granularity, until a poll of it is complete.
    refused: BTreeMap<Granularity, &'static str>,
    /// Polls in a row that were paid for and could not be published.
    unpublished: u32,
    /// This process has polled: what the state says of polls before is no longer news.
    polled: bool,
}

impl<T: Transport> Work<'_, T> {
    /// One cycle now. What another process is at is done when that process is, or when its claim is
    /// void.
    async fn once(mut self) -> Result<End, TransportError> {
        let mut granularities = self.context.connection.granularity.clone();
        let mut all = CycleReport::default();
        loop {
            let Some(report) = self.cycle(&granularities, When::Now).await? else { return Ok(End::Stopped) };
            granularities = report.claimed();
            all.merge(report);
            if granularities.is_empty() || !sleep(self.shared, CLAIM_PAUSE).await {
                self.finish(&all);
                return Ok(End::Done(all));
            }
        }
    }

    /// A cycle whenever one is due.
    async fn serve(mut self) -> Result<End, TransportError> {
        let name = &*self.context.connection.name;
        let scope = self.context.factory.scope().id();
        let mut pause = FIRST_PAUSE;
        // Waits that are no longer than this process: for a budget, after a failure that was free, or
        // because what was paid for could not be published.
        let mut waits: BTreeMap<Granularity, Timestamp> = BTreeMap::new();
        let mut announced = None;
        while !self.shared.shutdown.is_cancelled() {
            // What is polled, and what had been paid before.
            let mut polling: Option<(Granularity, u64)> = None;
            let result: Result<Timestamp, TransportError> = async {
                // Where the state alone can be read, the keys are held only while they are polled.
                let peeked = self.context.transport.peek(&scope).await?;
                let lets_go = peeked.is_some();
                let state = if let Some(state) = peeked {
                    state
                } else {
                    // Another connection of this scope may be at a poll; a scope is used by one at a time.
                    let _scope = self.scope.lock().await;
                    self.context.transport.recover(&scope, &mut self.ledger).await?
                };
                self.tell(&state);
                let now = self.shared.world.clock.now();
                let due_at = |granularity: &Granularity| {
                    let due = state.due_at(*granularity, self.context.poll.interval, now);
                    due.max(waits.get(granularity).copied())
                };
                let all = &self.context.connection.granularity;
                let due: Vec<Granularity> =
                    all.iter().filter(|g| due_at(g).is_none_or(|at| at <= now)).copied().collect();
                if due.is_empty() {
                    if lets_go {
                        self.ledger.clear();
                    }
                    return Ok(all.iter().filter_map(due_at).min().unwrap_or(now));
                }
                let mut report = CycleReport::default();
                for granularity in due {
                    polling = Some((granularity, self.aws.requests().paid()));
                    let Some(polled) = self.cycle(&[granularity], When::Due).await? else { break };
                    report.merge(polled);
                }
                self.finish(&report);
                self.renew(&report).await;
                for poll in &report.polled {
                    match poll.retry_at {
                        Some(retry) => waits.insert(poll.granularity, retry),
                        None => waits.remove(&poll.granularity),
                    };
                }
                Ok(if report.claimed().is_empty() { now } else { later_by(now, CLAIM_PAUSE) })
            }
            .await;
            match result {
                Ok(next) => {
                    pause = FIRST_PAUSE;
                    if next > later_by(self.shared.world.clock.now(), CLAIM_PAUSE) && announced != Some(next)
                    {
                        info!(connection = name, %next, "waiting for the next poll");
                        announced = Some(next);
                    }
                    if sleep_until(self.shared, next).await == Woken::ClockSetBack {
                        // These were reckoned with another time; what they held up is judged anew.
                        waits.clear();
                    }
                }
                Err(error) if self.shared.transport.comes_back() && error.kind.may_pass() => {
                    warn!(connection = name, kind = error.kind.name(), pause = ?pause, "{error}");
                    self.shared.world.metrics.failed("output", error.kind.name());
                    self.health(Health::Failing(error.kind.name().to_owned()));
                    self.ledger.clear();
                    if let Some((granularity, before)) = polling
                        && self.aws.requests().paid() > before
                    {
                        // An output that takes claims and no events would have AWS paid each time.
                        self.unpublished += 1;
                        let (now, interval) = (self.shared.world.clock.now(), self.context.poll.interval);
                        let retry = cycle::retry_at(now, self.unpublished, true, interval);
                        let hint = "what AWS answered was paid for and could not be published";
                        warn!(connection = name, %granularity, %retry, hint, "AWS is asked again later");
                        waits.insert(granularity, retry);
                    }
                    sleep(self.shared, pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(End::Stopped)
    }

    /// One cycle, when it is this connection's turn; `None` when shut down before.
    async fn cycle(
        &mut self,
        granularities: &[Granularity],
        when: When,
    ) -> Result<Option<CycleReport>, TransportError> {
        let turn = async { (self.scope.lock().await, self.shared.polls.acquire().await) };
        let shutdown = &self.shared.shutdown;
        let (_scope, _permit) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            turn = turn => turn,
        };
        let (context, ledger, watch) = (&self.context, &mut self.ledger, &mut self.watch);
        cycle::run(context, &self.aws, ledger, watch, granularities, when, shutdown).await.map(Some)
    }

    /// What the state says of earlier polls, for metrics and health.
    fn tell(&mut self, state: &ConnectionState) {
        let connection = self.context.connection;
        // Of several granularities the one that is behind counts: the other must not hide it.
        let since = state.complete_since(&connection.granularity);
        self.shared.world.metrics.succeeded(&connection.name, since.unwrap_or(Timestamp::UNIX_EPOCH));
        // Perhaps another process has completed it.
        self.refused.retain(|granularity, _| state.poll(*granularity).failures > 0);
        let failed = connection.granularity.iter().any(|granularity| state.poll(*granularity).failures > 0);
        self.tell_health(failed && !self.polled);
    }

    fn tell_health(&self, failed_before: bool) {
        self.health(match self.refused.values().next() {
            Some(kind) => Health::Failing((*kind).to_owned()),
            None if self.unpublished > 0 => {
                Health::Failing("what was polled last could not be published".to_owned())
            }
            None if failed_before => Health::Failing("the last poll failed".to_owned()),
            None => Health::Ready,
        });
    }

    /// Credentials are looked up anew after AWS has refused them: what a profile held when it was first
    /// read stays in the client that read it.
    async fn renew(&mut self, report: &CycleReport) {
        let denied = |poll: &cycle::Polled| matches!(&poll.outcome, Outcome::Failed(error) if error.kind == FetchErrorKind::Denied);
        if report.polled.iter().any(denied) {
            let clock = self.shared.world.clock.clone();
            match CostExplorer::connect(self.context.connection, &self.shared.http, clock).await {
                Ok(aws) => self.aws = aws,
                Err(error) => warn!(connection = self.context.connection.name, "{error}"),
            }
        }
    }

    /// One line for people and the health of the connection, after a cycle.
    fn finish(&mut self, report: &CycleReport) {
        if report.polled.iter().all(|poll| matches!(poll.outcome, Outcome::NotDue | Outcome::Claimed)) {
            return;
        }
        let counts = report.counts;
        let connection = &*self.context.connection.name;
        info!(
            connection,
            complete = report.is_complete(),
            requests = report.requests,
            new = counts.new,
            revised = counts.revised,
            removed = counts.removed,
            unchanged = counts.unchanged,
            stale = counts.stale,
            "cycle finished"
        );
        if counts.stale > 0 {
            let hint = "AWS answered with an older date than before: harmless once, else ask what answers";
            warn!(connection, rows = counts.stale, hint, "rows older than what was published were left out");
        }
        (self.polled, self.unpublished) = (true, 0);
        for poll in &report.polled {
            match &poll.outcome {
                Outcome::Failed(error)
                    if matches!(error.kind, FetchErrorKind::Denied | FetchErrorKind::Invalid) =>
                {
                    self.refused.insert(poll.granularity, error.kind.name());
                }
                Outcome::Complete => drop(self.refused.remove(&poll.granularity)),
                // What was refused before is not mended by a budget that is spent.
                _ => {}
            }
        }
        self.tell_health(false);
    }

    fn health(&self, health: Health) {
        self.shared.world.readiness.set(&self.context.connection.name, health);
    }
}

/// A client, and the paying account. `None`: shut down while asking.
async fn account<T: Transport>(
    shared: &Shared<T>,
    connection: &ConnectionConfig,
) -> Result<Option<(CostExplorer, String)>, FetchError> {
    let mut pause = FIRST_PAUSE;
    loop {
        // Each time a client of its own: one that did not find its credentials does not look again.
        let ask = async {
            let clock = shared.world.clock.clone();
            let aws = CostExplorer::connect(connection, &shared.http, clock).await?;
            let account = aws.account_id().await?;
            Ok((aws, account))
        };
        let asked = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return Ok(None),
            asked = ask => asked,
        };
        match asked {
            Ok(known) => return Ok(Some(known)),
            Err(error) if shared.mode == Mode::Once => return Err(error),
            Err(error) => {
                let hint = error.hint.as_deref().unwrap_or_default();
                warn!(connection = connection.name, hint, pause = ?pause, "{error}");
                shared.world.metrics.failed("fetch", error.kind.name());
                shared.world.readiness.set(&connection.name, Health::Failing(error.kind.name().to_owned()));
                sleep(shared, pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Refuses a connection whose keys could collide with those of another one of the same account.
async fn register<T>(shared: &Shared<T>, connection: &ConnectionConfig, account: &str) -> Result<(), End> {
    let mut accounts = shared.accounts.lock().await;
    let others = accounts.entry(account.to_owned()).or_default();
    if let Some(other) = others.iter().find(|other| collide(other, connection)) {
        let message = format!(
            "the connections `{}` and `{}` both belong to account {account} and would write the same keys",
            other.name, connection.name
        );
        let hint = "remove one of them, or give them different filters, groupings or granularities";
        error!(connection = connection.name, hint, "{message}");
        shared.world.readiness.set(&connection.name, Health::Failing("collision".to_owned()));
        return Err(End::Collision);
    }
    others.push(connection.clone());
    Ok(())
}

fn fetch_end<T>(shared: &Shared<T>, connection: &ConnectionConfig, error: FetchError) -> End {
    let hint = error.hint.as_deref().unwrap_or_default();
    error!(connection = connection.name, kind = error.kind.name(), hint, "{error}");
    shared.world.metrics.failed("fetch", error.kind.name());
    shared.world.readiness.set(&connection.name, Health::Failing(error.kind.name().to_owned()));
    End::Fetch(error)
}

/// `false` when shut down meanwhile.
async fn sleep<T>(shared: &Shared<T>, pause: Duration) -> bool {
    tokio::select! {
        () = shared.shutdown.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// It was time, or there is a shutdown.
    InTime,
    /// The machine's clock was set back: what is due is to be reckoned again.
    ClockSetBack,
}

async fn sleep_until<T>(shared: &Shared<T>, instant: Timestamp) -> Woken {
    let mut before = shared.world.clock.now();
    loop {
        let left = Duration::try_from(instant.duration_since(before)).unwrap_or_default();
        if left.is_zero() || !sleep(shared, left.min(LONGEST_SLEEP)).await {
            return Woken::InTime;
        }
        let now = shared.world.clock.now();
        if now < before {
            return Woken::ClockSetBack;
        }
        before = now;
    }
}

fn later_by(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}
