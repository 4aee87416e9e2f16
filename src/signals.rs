//! How a command runs: on a runtime of its own, until it ends or signals end it.
//!
//! What a command does when it is told to stop is its own affair.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::exit::{Exit, report};

/// What signals mean to a command. The first one asks it to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signals {
    /// It has something to drain: said with the first, ended at once with the second.
    Drain,
    /// The same where there is nothing worth a word.
    Quiet,
    /// What they always mean: it is ended. It only reads.
    Default,
    /// It ends with the first by itself, and has a terminal to put right before it does.
    Own,
}

/// Runs a command until it ends by itself, or as `signals` says. Threads stuck in a write are left
/// behind.
pub(crate) fn on_runtime<F: Future<Output = Exit>>(
    signals: Signals,
    command: impl FnOnce(CancellationToken) -> F,
) -> Exit {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&format!("could not start: {error}"), None);
            return Exit::Failed;
        }
    };
    let shutdown = CancellationToken::new();
    let exit = runtime.block_on(async {
        // Listened for before the command does anything: whoever sees it started may stop it.
        let ended = ended_by(signals, shutdown.clone());
        tokio::select! {
            exit = command(shutdown) => exit,
            exit = ended => exit,
        }
    });
    runtime.shutdown_background();
    exit
}

fn runtime() -> io::Result<Runtime> {
    // Waiting for AWS and for a disk is no work for many threads.
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Returns with the second signal, where that is for the program to obey. Listens from the call
/// on, not only once it is awaited.
fn ended_by(signals: Signals, shutdown: CancellationToken) -> impl Future<Output = Exit> {
    let first = (signals != Signals::Default).then(wait_for_signal);
    async move {
        let Some(first) = first else { return std::future::pending().await };
        if let Err(error) = first.await {
            warn!("signals cannot be received: {error}");
            std::future::pending::<()>().await;
        }
        // Listened for before the first is told of: whoever reads that may send it at once.
        let second = wait_for_signal();
        if signals == Signals::Drain {
            info!("stopping; once more to stop at once");
        }
        shutdown.cancel();
        if signals == Signals::Own {
            std::future::pending::<()>().await;
        }
        if let Err(error) = second.await {
            warn!("signals cannot be received: {error}");
        }
        warn!("stopped at once; nothing is lost, the next start recovers it");
        Exit::Failed
    }
}

/// Likewise.
#[cfg(unix)]
fn wait_for_signal() -> impl Future<Output = io::Result<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (mut terminate, mut interrupt) = (terminate?, interrupt?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use super::*;

    /// Many times, since which of the two is polled first is left to chance.
    #[test]
    fn a_signal_with_the_first_thing_a_command_does_asks_it_to_stop() {
        let kill = &format!("kill -TERM {}", std::process::id());
        for _ in 0..16 {
            let exit = on_runtime(Signals::Quiet, |shutdown| async move {
                assert!(Command::new("sh").args(["-c", kill]).status().unwrap().success());
                shutdown.cancelled().await;
                Exit::Done
            });
            assert_eq!(exit, Exit::Done);
        }
    }
}
