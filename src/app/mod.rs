//! The run: every connection polled when due, within a limit, until told to stop.
//!
//! Each connection is a task of its own, so one that fails holds up no other. What a cycle does is
//! not decided here.

mod connection;

use std::{collections::HashMap, sync::Arc};

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admin::{Health, Readiness},
    clock::Clock,
    config::{Config, ConnectionConfig},
    cycle::CycleReport,
    exit::Exit,
    poller::{FetchError, FetchErrorKind, http_client},
    telemetry::Metrics,
    transport::{Transport, TransportError},
};

/// The world as the program finds it; handed in, so that tests bring their own.
#[derive(Clone, Debug)]
pub struct World {
    /// UTC.
    pub clock: Clock,
    /// What operators see.
    pub metrics: Metrics,
    /// Each connection's health.
    pub readiness: Readiness,
    /// This process, in poll claims.
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
    /// Done with its one cycle.
    Done(CycleReport),
    /// Shut down.
    Stopped,
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
    /// Held during a cycle, one per scope: a daily and an hourly connection may share one.
    scopes: Mutex<HashMap<String, Arc<Mutex<()>>>>,
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
        scopes: Mutex::default(),
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
        tasks.spawn(connection::run(Arc::clone(&shared), connection));
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
                    // Whoever watches over the process starts it again whole.
                    error!("a connection's task failed: {error}");
                    shared.shutdown.cancel();
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
    if ends.iter().any(|end| matches!(end, End::Broken)) {
        return Exit::Failed;
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
