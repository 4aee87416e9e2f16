//! The run: every connection polled when due, within a limit, until told to stop.
//!
//! Each connection is a task of its own, so one that fails holds up no other. What a cycle does is
//! not decided here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use jiff::Timestamp;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admin::{Health, Readiness},
    clock::Clock,
    config::{Config, ConnectionConfig, collide},
    cost::Granularity,
    cycle::{self, ClaimWatch, Context, CycleReport, Outcome},
    dedup::Ledger,
    event::EventFactory,
    exit::Exit,
    poller::{CostExplorer, FetchError, FetchErrorKind, http_client},
    telemetry::Metrics,
    transport::{Transport, TransportError, TransportErrorKind},
};

/// A sleep is never longer than this, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The pauses while the output or STS cannot be reached: doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The world as the program finds it; handed in, so that tests bring their own.
#[derive(Clone, Debug)]
pub struct World {
    /// UTC.
    pub clock: Clock,
    /// What operators see.
    pub metrics: Metrics,
    /// Each connection's health.
    pub readiness: Readiness,
    /// This process, in poll claims: the host name.
    pub instance: String,
}

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One cycle of every connection now, due or not.
    Once,
    /// Until shut down.
    Service,
}

/// Why a connection's task ended.
#[derive(Debug)]
enum End {
    /// Shut down, or done with its one cycle.
    Done(CycleReport),
    /// Its credentials could not be asked whose they are.
    Fetch(FetchError),
    /// Its keys collide with another connection's.
    Collision,
    /// It panicked: a fault of the program.
    Broken,
    /// The output failed for good.
    Transport(TransportError),
}

/// What all connections share.
struct Shared<T> {
    config: Config,
    transport: T,
    world: World,
    http: SharedHttpClient,
    mode: Mode,
    polls: Semaphore,
    gate: Mutex<()>,
    /// The connections by account, once known: two of one account may collide.
    accounts: Mutex<HashMap<String, Vec<ConnectionConfig>>>,
    shutdown: CancellationToken,
}

/// Polls every connection and publishes, until done or shut down; then drains within the grace.
pub async fn run<T: Transport>(
    config: Config,
    transport: T,
    world: World,
    mode: Mode,
    shutdown: CancellationToken,
) -> Exit {
    let grace = config.poll.grace;
    info!(
        connections = config.connections.len(),
        transport = transport.name(),
        interval = ?config.poll.interval,
        "started"
    );
    let shared = Arc::new(Shared {
        polls: Semaphore::new(config.poll.concurrency),
        gate: Mutex::new(()),
        accounts: Mutex::default(),
        http: http_client(),
        config,
        transport,
        world,
        mode,
        // A child: one connection's fatal error stops the others without stopping the caller.
        shutdown: shutdown.child_token(),
    });
    let mut tasks = JoinSet::new();
    for connection in shared.config.connections.clone() {
        shared.world.readiness.set(&connection.name, Health::Starting);
        tasks.spawn(connection_task(Arc::clone(&shared), connection));
    }
    let mut ends = Vec::new();
    let joined = async {
        while let Some(end) = tasks.join_next().await {
            match end {
                Ok(end) => {
                    if matches!(end, End::Transport(_)) {
                        shared.shutdown.cancel();
                    }
                    ends.push(end);
                }
                Err(error) => {
                    error!("a connection's task failed: {error}");
                    ends.push(End::Broken);
                }
            }
        }
    };
    let overdue = async {
        shared.shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    let drained = tokio::select! {
        () = joined => true,
        () = overdue => false,
    };
    let events = shared.world.metrics.events();
    if !drained {
        warn!(
            unfinished = tasks.len(),
            events,
            grace = ?grace,
            "the grace is over with work unfinished; nothing is lost, the next start recovers it"
        );
        return Exit::Failed;
    }
    if let Err(error) = shared.transport.close().await {
        warn!("{error}");
    }
    info!(events, "stopped");
    verdict(mode, &ends)
}

/// The exit code: the output's trouble first, then AWS's.
fn verdict(mode: Mode, ends: &[End]) -> Exit {
    if let Some(exit) = ends.iter().find_map(|end| match end {
        End::Transport(error) => Some(Exit::from(error)),
        _ => None,
    }) {
        return exit;
    }
    if ends.iter().any(|end| matches!(end, End::Collision)) {
        return Exit::Config;
    }
    if mode == Mode::Service {
        return Exit::Done;
    }
    let unreachable = |end: &End| match end {
        End::Done(report) => report.is_unreachable(),
        End::Fetch(error) => error.kind == FetchErrorKind::Unavailable,
        _ => false,
    };
    if !ends.is_empty() && ends.iter().all(unreachable) {
        Exit::Unavailable
    } else if ends.iter().all(|end| matches!(end, End::Done(report) if report.is_complete())) {
        Exit::Done
    } else {
        Exit::Failed
    }
}

async fn connection_task<T: Transport>(shared: Arc<Shared<T>>, connection: ConnectionConfig) -> End {
    let aws = match CostExplorer::connect(&connection, &shared.http, shared.world.clock.clone()).await {
        Ok(aws) => aws,
        Err(error) => return fetch_end(&shared, &connection, error),
    };
    let account = match account(&shared, &connection, &aws).await {
        Ok(Some(account)) => account,
        Ok(None) => return End::Done(CycleReport::default()),
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
    let result = match shared.mode {
        Mode::Once => once(&shared, &context, &aws).await,
        Mode::Service => serve(&shared, &context, &aws).await,
    };
    match result {
        Ok(report) => End::Done(report),
        Err(error) => {
            let hint = error.hint.as_deref().unwrap_or_default();
            error!(connection = connection.name, kind = error.kind.name(), hint, "{error}");
            shared.world.metrics.failed("output", error.kind.name());
            End::Transport(error)
        }
    }
}

/// One cycle now.
async fn once<T: Transport>(
    shared: &Shared<T>,
    context: &Context<'_, T>,
    aws: &CostExplorer,
) -> Result<CycleReport, TransportError> {
    let Ok(_permit) = shared.polls.acquire().await else { return Ok(CycleReport::default()) };
    let granularities = &context.connection.granularity;
    let mut ledger = Ledger::new();
    let mut watch = ClaimWatch::new();
    loop {
        let report =
            cycle::run(context, aws, &mut ledger, &mut watch, granularities, &shared.shutdown).await?;
        let claimed = report.outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Claimed));
        if claimed && sleep(shared, Duration::from_secs(1)).await {
            // Another process is at it: done when it is, or when its claim is void.
            continue;
        }
        finish(shared, context, &report);
        return Ok(report);
    }
}

/// A cycle whenever one is due.
async fn serve<T: Transport>(
    shared: &Shared<T>,
    context: &Context<'_, T>,
    aws: &CostExplorer,
) -> Result<CycleReport, TransportError> {
    let mut ledger = Ledger::new();
    let mut watch = ClaimWatch::new();
    let mut pause = FIRST_PAUSE;
    let scope = context.factory.scope().id();
    let connection = &*context.connection.name;
    while !shared.shutdown.is_cancelled() {
        let result: Result<Option<Timestamp>, TransportError> = async {
            let state = context.transport.recover(&scope, &mut ledger).await?;
            let now = shared.world.clock.now();
            let due_at = |granularity: Granularity| state.due_at(granularity, context.poll.interval);
            let (due, later): (Vec<Granularity>, Vec<Granularity>) = context
                .connection
                .granularity
                .iter()
                .partition(|granularity| due_at(**granularity).is_none_or(|at| at <= now));
            if due.is_empty() {
                for granularity in later {
                    if let Some(last) = state.poll(granularity).last_complete {
                        shared.world.metrics.succeeded(connection, last);
                    }
                }
                return Ok(context.connection.granularity.iter().filter_map(|g| due_at(*g)).min());
            }
            let Ok(_permit) = shared.polls.acquire().await else { return Ok(None) };
            let report = cycle::run(context, aws, &mut ledger, &mut watch, &due, &shared.shutdown).await?;
            finish(shared, context, &report);
            let claimed = report.outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Claimed));
            Ok(claimed.then(|| later_by(now, Duration::from_secs(5))))
        }
        .await;
        match result {
            Ok(next) => {
                pause = FIRST_PAUSE;
                if let Some(next) = next {
                    shared.world.readiness.started(connection);
                    sleep_until(shared, next).await;
                }
            }
            Err(error) if shared.transport.comes_back() && is_passing(error.kind) => {
                warn!(connection, kind = error.kind.name(), pause = ?pause, "{error}");
                shared.world.metrics.failed("output", error.kind.name());
                shared.world.readiness.set(connection, Health::Failing(error.kind.name().to_owned()));
                ledger.clear();
                sleep(shared, pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(CycleReport::default())
}

/// Whether time may mend it.
const fn is_passing(kind: TransportErrorKind) -> bool {
    matches!(
        kind,
        TransportErrorKind::Unavailable
            | TransportErrorKind::Conflict
            | TransportErrorKind::Unknown
            | TransportErrorKind::Regressed
    )
}

/// One line for people and the health of the connection, after a cycle.
fn finish<T>(shared: &Shared<T>, context: &Context<'_, T>, report: &CycleReport) {
    let counts = report.counts;
    info!(
        connection = context.connection.name,
        complete = report.is_complete(),
        requests = report.requests,
        new = counts.new,
        revised = counts.revised,
        removed = counts.removed,
        unchanged = counts.unchanged,
        "cycle finished"
    );
    let failing = report.outcomes.iter().find_map(|(_, outcome)| match outcome {
        Outcome::Failed(error) if matches!(error.kind, FetchErrorKind::Denied | FetchErrorKind::Invalid) => {
            Some(error.kind.name())
        }
        _ => None,
    });
    let health = failing.map_or(Health::Ready, |kind| Health::Failing(kind.to_owned()));
    shared.world.readiness.set(&context.connection.name, health);
}

/// The paying account. `None`: shut down while asking.
async fn account<T: Transport>(
    shared: &Shared<T>,
    connection: &ConnectionConfig,
    aws: &CostExplorer,
) -> Result<Option<String>, FetchError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return Ok(None),
            asked = aws.account_id() => asked,
        };
        match asked {
            Ok(account) => return Ok(Some(account)),
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

async fn sleep_until<T>(shared: &Shared<T>, instant: Timestamp) {
    loop {
        let left = instant.duration_since(shared.world.clock.now());
        let left = Duration::try_from(left).unwrap_or_default();
        if left.is_zero() || !sleep(shared, left.min(LONGEST_SLEEP)).await {
            return;
        }
    }
}

fn later_by(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}
