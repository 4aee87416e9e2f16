//! The backfill: months that polls no longer read, one after the other, newest first.
//!
//! It runs beside the polls as one more replica would: each month is claimed where the state lives,
//! counted before it is asked for, and noted there once it is complete. It keeps so much of the budget
//! as the polls will need, and stays away between two months while a poll is due. What a month's
//! reading does is not decided here.

mod jobs;
mod progress;
pub mod quote;
mod terms;

use std::time::Duration;

use jiff::civil::Date;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    app::World,
    config::{Config, ConnectionConfig, TransportConfig},
    cycle::{self, Context, MonthRead, Outcome, Reread},
    exit::Exit,
    poller::{FetchError, FetchErrorKind},
    transport::{Transport, TransportError},
};
use jobs::{Job, prepare};
use progress::Progress;
use quote::{Quote, label};
use terms::Terms;

/// How often one month is tried while AWS or the output is in trouble that may pass.
const ATTEMPTS: u32 = 4;

/// The pause before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// How long to leave a month to the process that has claimed the connection before looking again.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);

/// How long a due poll is given to claim the connection: a process that waits looks every second.
const ROOM: Duration = Duration::from_secs(2);

/// How often room is left for a poll that nobody comes for: it may be due because nothing runs.
const ROOMS: u32 = 2;

/// After so many months without any row in a row nothing older is asked for.
const EMPTY_MONTHS: u32 = 2;

/// What to read.
#[derive(Clone, Debug)]
pub struct Request {
    /// First days of months, newest first, as [`quote::months`] gives them.
    pub months: Vec<Date>,
    /// Whose; in this order.
    pub connections: Vec<ConnectionConfig>,
    /// What to do about months that were read before.
    pub reread: Reread,
    /// Whether the price is agreed to.
    pub consent: Consent,
}

/// Who agrees to the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It was given on the command line.
    Given,
    /// Somebody on the terminal is asked once the price is known.
    Asked,
}

/// What all months have in common.
struct Work<'a, T> {
    config: &'a Config,
    transport: &'a T,
    world: &'a World,
    /// In claims: no other process has this name, so nobody takes our claims for their own.
    instance: String,
    gate: Mutex<()>,
    reread: Reread,
    consent: Consent,
    terms: Terms,
    shutdown: &'a CancellationToken,
}

/// How one connection's months went so far.
#[derive(Default)]
struct Course {
    /// Rooms left for a due poll since one was made.
    rooms: u32,
    /// Months without any row in a row.
    empty: u32,
    /// A month is not finished, or the output refused an event.
    failed: bool,
}

/// What comes after a month.
enum Next {
    /// The next month.
    Month,
    /// The next connection; this one failed.
    Connection(Exit),
    /// Nothing more.
    Stop(Exit),
}

/// Tells the price, waits for consent, and reads every month; drains when shut down.
pub async fn run<T: Transport>(
    config: Config,
    transport: T,
    world: World,
    request: Request,
    shutdown: CancellationToken,
) -> Exit {
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(config.poll.grace).await;
    };
    let exit = tokio::select! {
        exit = Box::pin(prepare_and_read(&config, &transport, &world, request, &shutdown)) => exit,
        () = overdue => {
            warn!("the grace is over with a month unfinished; nothing is lost, the next start recovers it");
            return Exit::Failed;
        }
    };
    if let Err(error) = transport.close().await {
        warn!("{error}");
    }
    exit
}

async fn prepare_and_read<T: Transport>(
    config: &Config,
    transport: &T,
    world: &World,
    request: Request,
    shutdown: &CancellationToken,
) -> Exit {
    let prepared = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Exit::Done,
        prepared = prepare(config, transport, world, &request.connections) => prepared,
    };
    let (mut jobs, states) = match prepared {
        Ok(prepared) => prepared,
        Err(exit) => return exit,
    };
    let now = world.clock.now();
    let quotes: Vec<_> = jobs
        .iter()
        .map(|job| {
            let (name, settle) = (&job.connection.name, config.poll.settle_days);
            Quote::new(name, &request.months, request.reread, &job.state, settle, now)
        })
        .collect();
    let terms = Terms::new(config, now, quotes, states);
    terms.tell(&request.months);
    if terms.requests() == 0 {
        info!("nothing is left to read; `--again` reads, and pays for, everything once more");
        return Exit::Done;
    }
    if terms.months_held() == 0 {
        return Exit::Failed;
    }
    let is_agreed = match request.consent {
        Consent::Given => true,
        Consent::Asked => terms::confirmed("Ask AWS and publish?".to_owned(), None, shutdown).await,
    };
    if !is_agreed {
        info!("nothing was asked of AWS and nothing was paid");
        return if shutdown.is_cancelled() { Exit::Done } else { Exit::Failed };
    }
    let id = Uuid::new_v4().simple().to_string();
    let work = Work {
        config,
        transport,
        world,
        instance: format!("{}/backfill-{}", world.instance, &id[..8]),
        gate: Mutex::new(()),
        reread: request.reread,
        consent: request.consent,
        terms,
        shutdown,
    };
    work.read(&mut jobs).await
}

impl<T: Transport> Work<'_, T> {
    async fn read(&self, jobs: &mut [Job]) -> Exit {
        let mut progress = Progress::begin(self.terms.months(), self.events_on_stdout());
        let mut exits = Vec::new();
        let mut agreed = self.terms.requests();
        'jobs: for (number, (job, quote)) in jobs.iter_mut().zip(&self.terms.quotes).enumerate() {
            let (mut course, mut ended) = (Course::default(), Exit::Done);
            let others: u64 = self.terms.quotes[number + 1..].iter().map(Quote::requests).sum();
            progress.largest = 0;
            for (done, (month, _)) in (1..).zip(&quote.months) {
                let mut next = self.month(job, *month, &mut course, &mut progress).await;
                if matches!(next, Next::Month) {
                    let price = progress.requests + quote.rest(done, progress.largest) + others;
                    next = self.agree(price, &mut agreed, &progress).await;
                }
                match next {
                    Next::Month => {}
                    Next::Connection(exit) => {
                        ended = exit;
                        break;
                    }
                    Next::Stop(exit) => {
                        exits.push(exit);
                        break 'jobs;
                    }
                }
            }
            exits.push(if course.failed { ended.max(Exit::Failed) } else { ended });
            // The keys of one connection at a time.
            job.ledger.clear();
        }
        progress.end();
        // As with `run --once`: one account out of reach is a failure, all of them are AWS.
        if !exits.is_empty() && exits.iter().all(|exit| *exit == Exit::Unavailable) {
            return Exit::Unavailable;
        }
        exits
            .into_iter()
            .map(|exit| if exit == Exit::Unavailable { Exit::Failed } else { exit })
            .max()
            .unwrap_or(Exit::Done)
    }

    /// Months turned out to have more pages than was thought: the price is told anew, and agreed to anew
    /// where somebody was asked before.
    async fn agree(&self, price: u64, agreed: &mut u64, progress: &Progress) -> Next {
        if price <= *agreed || progress.open() == 0 {
            return Next::Month;
        }
        let (told, price_now) = (quote::dollars(*agreed), quote::dollars(price));
        *agreed = price;
        if self.consent == Consent::Given {
            warn!(told, now = price_now, pages_per_month = progress.largest, "it costs more than was told");
            return Next::Month;
        }
        let (pages, spent) = (progress.largest, quote::dollars(progress.requests));
        let question = format!(
            "A month has {pages} pages: it will cost {price_now} instead of {told}, {spent} of it spent. Go on?"
        );
        if terms::confirmed(question, progress.bar(), self.shutdown).await {
            return Next::Month;
        }
        info!(open = progress.open(), hint = "the same command goes on from here", "stopped");
        Next::Stop(if self.shutdown.is_cancelled() { Exit::Done } else { Exit::Failed })
    }

    /// One month, until it is finished or will not be.
    async fn month(&self, job: &mut Job, month: Date, course: &mut Course, progress: &mut Progress) -> Next {
        let name = job.connection.name.clone();
        let (mut attempt, mut waited) = (1, false);
        loop {
            if self.shutdown.is_cancelled() {
                return self.stopped(&name, month, progress);
            }
            progress.now(&name, month, "");
            let read = match self.attempt(job, month).await {
                Ok(read) => read,
                Err(error) if self.transport.comes_back() && error.kind.may_pass() && attempt < ATTEMPTS => {
                    warn!(connection = name, month = label(month), kind = error.kind.name(), "{error}");
                    self.pause(&mut attempt, (&name, month), progress).await;
                    continue;
                }
                Err(error) => {
                    tell_failure(&name, month, (error.kind.name(), error.hint.as_deref()), &error);
                    return Next::Stop(Exit::from(&error));
                }
            };
            progress.attempted(&read);
            match &read.outcome {
                Outcome::Complete | Outcome::NotDue => {
                    tell_rest(&name, month, &read);
                    course.empty = 0;
                    course.failed |= read.counts.rejected > 0;
                    progress.finished(&name, month, &read);
                    self.leave_room(&name, month, read.poll_is_due, course, progress).await;
                    return Next::Month;
                }
                Outcome::Claimed => {
                    if !waited {
                        let ttl = self.config.poll.claim_ttl;
                        info!(
                            connection = name,
                            month = label(month),
                            ?ttl,
                            "another process is at this connection; waiting for it"
                        );
                        waited = true;
                    }
                    progress.now(&name, month, ": waiting for another process");
                    self.sleep(CLAIM_PAUSE).await;
                }
                Outcome::Failed(error) if may_pass(error) && attempt < ATTEMPTS => {
                    warn!(connection = name, month = label(month), kind = error.kind.name(), "{error}");
                    self.pause(&mut attempt, (&name, month), progress).await;
                }
                Outcome::Failed(error) => {
                    tell_failure(&name, month, (error.kind.name(), error.hint.as_deref()), error);
                    return Next::Connection(Exit::from(error));
                }
                Outcome::Empty => return without_rows(&name, month, course),
                Outcome::BudgetSpent { until, needed } => {
                    let hint = "the same command goes on from here once the budget holds more; see \
                                `budget.requests_per_day` and `requests_per_month`";
                    let (month, open) = (label(month), progress.open());
                    warn!(
                        connection = name, month, needed, %until, open, hint,
                        "the request budget is spent, but for what the polls need; stopped before this month"
                    );
                    return Next::Stop(Exit::Failed);
                }
                Outcome::Interrupted => return self.stopped(&name, month, progress),
            }
        }
    }

    fn events_on_stdout(&self) -> bool {
        matches!(&self.config.transport, TransportConfig::Local(local) if local.output.is_none())
    }

    async fn attempt(&self, job: &mut Job, month: Date) -> Result<MonthRead, TransportError> {
        let context = Context {
            transport: self.transport,
            factory: &job.factory,
            connection: &job.connection,
            poll: &self.config.poll,
            budget: self.terms.left_for_us(self.config, self.world.clock.now()),
            clock: &self.world.clock,
            instance: &self.instance,
            gate: &self.gate,
            metrics: &self.world.metrics,
        };
        let which = (month, self.reread);
        cycle::read_month(&context, &job.aws, &mut job.ledger, &mut job.watch, which, self.shutdown).await
    }

    fn stopped(&self, connection: &str, month: Date, progress: &Progress) -> Next {
        let (month, open) = (label(month), progress.open());
        let hint = match self.reread {
            Reread::Unfinished => "the same command goes on from here".to_owned(),
            Reread::Everything => format!("to go on from here, add `--to {month}-01`"),
        };
        info!(connection, month, open, hint, "stopped before this month");
        Next::Stop(Exit::Done)
    }

    /// A poll of another process comes before the next month: room is left for it, unless nobody came
    /// for it before.
    async fn leave_room(
        &self,
        connection: &str,
        month: Date,
        poll_is_due: bool,
        course: &mut Course,
        progress: &Progress,
    ) {
        // Nobody else can be at a local state.
        if !poll_is_due || matches!(self.config.transport, TransportConfig::Local(_)) {
            course.rooms = 0;
        } else if course.rooms < ROOMS {
            course.rooms += 1;
            progress.now(connection, month, " done: leaving room for a poll");
            self.sleep(ROOM).await;
        }
    }

    async fn pause(&self, attempt: &mut u32, (connection, month): (&str, Date), progress: &Progress) {
        let pause = FIRST_PAUSE.saturating_mul(1 << (*attempt - 1).min(8));
        *attempt += 1;
        progress.now(connection, month, ": trying again soon");
        self.sleep(pause).await;
    }

    async fn sleep(&self, pause: Duration) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn tell_failure(
    connection: &str,
    month: Date,
    (kind, hint): (&str, Option<&str>),
    error: &dyn std::fmt::Display,
) {
    let (month, hint) = (label(month), hint.unwrap_or_default());
    error!(connection, month, kind, hint, "{error}");
}

/// A whole month with no row is odd: it stays unfinished. An account that began later has only such
/// months, and each costs a cent.
fn without_rows(connection: &str, month: Date, course: &mut Course) -> Next {
    let month = label(month);
    course.failed = true;
    course.empty += 1;
    if course.empty < EMPTY_MONTHS {
        warn!(connection, month, "the answer has no rows at all; nothing is concluded from that");
        return Next::Month;
    }
    let hint = "if the account is younger, choose a later `--from`";
    warn!(connection, month, hint, "again no rows at all; nothing older is asked for");
    Next::Connection(Exit::Failed)
}

/// What is to be said of a month that is finished.
fn tell_rest(connection: &str, month: Date, read: &MonthRead) {
    let month = label(month);
    if read.missing > 0 {
        let hint = "a second complete reading in a row that lacks them retracts them: `--again`";
        warn!(
            connection,
            month,
            rows = read.missing,
            hint,
            "rows that were published are not listed any more"
        );
    }
    if read.counts.stale > 0 {
        let hint = "AWS answered with an older date than before: harmless once, else ask what answers";
        warn!(
            connection,
            month,
            rows = read.counts.stale,
            hint,
            "rows older than what was published were left out"
        );
    }
}

/// Whether time may mend it within a minute.
const fn may_pass(error: &FetchError) -> bool {
    matches!(
        error.kind,
        FetchErrorKind::Throttled | FetchErrorKind::Unavailable | FetchErrorKind::RestartQuery
    )
}
