//! `tail` and `replay`: the events of the output, read back, filtered and shown.
//!
//! Both read alike; `tail` begins at the end and follows, `replay` begins at the beginning and ends
//! at the end proven when it began. Nothing is written but, where a name is given, its position.

mod args;
mod out;
mod show;

pub use args::{ReplayArgs, TailArgs};

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::{LocalConfig, TransportConfig},
    consume::{Bound, By, Current, Filter, Place, ReadOptions, Reader, Received, Shapes, Start},
    exit::{Exit, report},
    transport::{TransportError, TransportErrorKind},
};
use args::{Format, ReadArgs, Totals, where_and_what};
use out::Out;
use show::Show;

/// How often the position of a name is written while events keep coming.
const COMMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// What to do, everything checked.
struct Plan {
    output: TransportConfig,
    options: ReadOptions,
    filter: Filter,
    limit: Option<u64>,
    show: Show,
    all: bool,
}

/// Shows what comes from now on.
pub async fn tail(args: TailArgs, shutdown: CancellationToken) -> Exit {
    let start = if args.from_beginning { Start::Beginning } else { Start::End };
    let table = wants_table(args.read.format);
    match plan(args.read, start, Bound::Follow, Show::events(table)) {
        Ok(plan) => read(plan, shutdown).await,
        Err(exit) => exit,
    }
}

/// Shows what there is.
pub async fn replay(args: ReplayArgs, shutdown: CancellationToken) -> Exit {
    let bound = if args.follow { Bound::Follow } else { Bound::End };
    let table = wants_table(args.read.format);
    let show = if args.current {
        let by = args.by.map(|by| match by {
            Totals::Day => By::Day,
            Totals::Service => By::Service,
            Totals::Account => By::Account,
        });
        Show::Current { state: Current::default(), by, table }
    } else {
        Show::events(table)
    };
    match plan(args.read, Start::Beginning, bound, show) {
        Ok(plan) => read(plan, shutdown).await,
        Err(exit) => exit,
    }
}

fn wants_table(format: Option<Format>) -> bool {
    match format {
        Some(format) => format == Format::Table,
        None => io::stdout().is_terminal(),
    }
}

fn plan(args: ReadArgs, start: Start, bound: Bound, show: Show) -> Result<Plan, Exit> {
    let clock = Clock::system();
    let (start, bound, filter) = match where_and_what(&args, start, bound, clock.now()) {
        Ok(meant) => meant,
        Err((problem, hint)) => {
            report(&problem, hint);
            return Err(Exit::Usage);
        }
    };
    let output = match args.file {
        Some(path) => TransportConfig::Local(LocalConfig { output: Some(path), state: PathBuf::new() }),
        None => args.files.load()?.config.transport,
    };
    let options = ReadOptions { start, bound, partition: args.partition, name: args.name, clock };
    Ok(Plan { output, options, filter, limit: args.limit, show, all: args.all })
}

/// What was read so far.
#[derive(Default)]
struct Tally {
    read: u64,
    shown: u64,
    left_out: u64,
}

async fn read(plan: Plan, shutdown: CancellationToken) -> Exit {
    let Plan { output, options, filter, limit, mut show, all } = plan;
    let named = options.name.is_some();
    let partitioned = has_partitions(&output);
    let reader = tokio::select! {
        reader = Reader::open(&output, options) => reader,
        () = shutdown.cancelled() => return Exit::Done,
    };
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return failed(&error),
    };
    let mut out = Out::stdout();
    show.begin(partitioned, &mut out.buffer);
    let mut tally = Tally::default();
    let mut shapes = Shapes::default();
    let mut position = Unwritten::default();
    let mut exit = Exit::Done;
    let mut whole = false;
    while limit.is_none_or(|limit| tally.shown < limit) && !shutdown.is_cancelled() && !out.is_broken() {
        let next = if let Some(received) = reader.at_hand() {
            Ok(Some(received))
        } else if let Some(next) = reader.next().now_or_never() {
            next
        } else {
            // Nothing at hand: what was read until now is shown before waiting.
            let settled = if named {
                position.settle(&mut reader, &mut out, &shutdown).await
            } else {
                pass(&mut out, &shutdown).await;
                Ok(())
            };
            if let Err(error) = settled
                && !position.waits_for(&error)
            {
                exit = failed(&error);
                break;
            }
            tokio::select! {
                next = reader.next() => next,
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(COMMIT), if position.is_behind() => continue,
            }
        };
        let received = match next {
            Ok(Some(received)) => received,
            Ok(None) => {
                whole = true;
                break;
            }
            Err(error) => {
                exit = failed(&error);
                break;
            }
        };
        tally.read += 1;
        take(&received, &mut shapes, &filter, &mut show, all, &mut tally, &mut out.buffer);
        if named {
            position.note(received.place);
        }
        if out.is_full() {
            pass(&mut out, &shutdown).await;
        }
        if named
            && position.is_due()
            && let Err(error) = position.settle(&mut reader, &mut out, &shutdown).await
            && !position.waits_for(&error)
        {
            exit = failed(&error);
            break;
        }
    }
    if shutdown.is_cancelled() && !whole && matches!(show, Show::Current { .. }) {
        report(&"it was ended before everything was read: there are no figures", None);
        exit = Exit::Failed;
    }
    if exit == Exit::Done
        && let Err(problem) = show.end(&mut out.buffer)
    {
        report(&problem, None);
        exit = Exit::Failed;
    }
    if named && let Err(error) = position.settle(&mut reader, &mut out, &shutdown).await {
        exit = exit.max(failed(&error));
    }
    reader.close().await;
    let broken = out.is_broken();
    let written = out.finish(&shutdown).await;
    if tally.left_out > 0 && !all {
        warn!(
            messages = tally.left_out,
            "no events of this program were among what was read, and left out; `--all` shows them"
        );
    }
    // Whoever ended it knows.
    if !shutdown.is_cancelled() && !broken {
        info!(read = tally.read, shown = tally.shown, "read back");
    }
    exit.max(written)
}

/// Hands over what is buffered, or is told to stop: what is left is for the end.
async fn pass(out: &mut Out, shutdown: &CancellationToken) {
    tokio::select! {
        biased;
        () = out.pass() => {}
        () = shutdown.cancelled() => {}
    }
}

fn has_partitions(config: &TransportConfig) -> bool {
    #[cfg(feature = "kafka")]
    if matches!(config, TransportConfig::Kafka(_)) {
        return true;
    }
    let _ = config;
    false
}

/// Shows a message, or counts what is left out.
fn take(
    received: &Received,
    shapes: &mut Shapes,
    filter: &Filter,
    show: &mut Show,
    all: bool,
    tally: &mut Tally,
    buffer: &mut Vec<u8>,
) {
    let shown = match received.event(shapes) {
        Ok(event) if !filter.matches(&event) => return,
        Ok(event) => show.event(received, &event, buffer),
        Err(why) => Err(why),
    };
    match shown {
        Ok(()) => tally.shown += 1,
        Err(why) => {
            tally.left_out += 1;
            if all {
                show.not_an_event(received, &why, buffer);
            } else if tally.left_out == 1 {
                let Place { partition, position, .. } = received.place;
                warn!(partition, position, "a message is no event of this program: {why}");
            }
        }
    }
}

fn failed(error: &TransportError) -> Exit {
    report(error, error.hint.as_deref());
    Exit::from(error)
}

/// Places whose messages were taken and whose position was not committed yet.
struct Unwritten {
    places: BTreeMap<i32, Place>,
    since: std::time::Instant,
    /// It could not be committed, and that was told.
    told: bool,
}

impl Default for Unwritten {
    fn default() -> Self {
        Self { places: BTreeMap::new(), since: std::time::Instant::now(), told: false }
    }
}

impl Unwritten {
    fn note(&mut self, place: Place) {
        self.places.insert(place.partition, place);
    }

    fn is_due(&self) -> bool {
        self.since.elapsed() >= COMMIT
    }

    fn is_behind(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether an error passes once the output is back; the position is where it was until then.
    fn waits_for(&mut self, error: &TransportError) -> bool {
        let passes = error.kind == TransportErrorKind::Unavailable;
        if passes && !std::mem::replace(&mut self.told, true) {
            warn!("the position stays where it is for now: {error}");
        }
        passes
    }

    /// Commits once everything is written out: a position never moves over an event that was not
    /// shown.
    async fn settle(
        &mut self,
        reader: &mut Reader,
        out: &mut Out,
        shutdown: &CancellationToken,
    ) -> Result<(), TransportError> {
        self.since = std::time::Instant::now();
        if !out.settle(shutdown).await {
            return Ok(());
        }
        while let Some(entry) = self.places.first_entry() {
            reader.commit(entry.get()).await?;
            entry.remove();
        }
        self.told = false;
        Ok(())
    }
}
