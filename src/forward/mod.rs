//! Forwarding: the events of the output, read under a name, to an HTTP endpoint.
//!
//! Per key one after the other, in the order of the log; keys side by side. The position of the name
//! moves over an event once the endpoint has taken it, or it was put aside, or a filter leaves it
//! out, and never over one before which something is not done. So after any end the next start goes
//! on without loss: an event may be delivered twice, with equal `source` and `id`, and is never left
//! out. How the output is read and where the position is kept is `consume`'s.

mod binding;
mod dead_letter;
mod endpoint;
mod error;
mod lanes;
mod retry;
mod sign;

pub use binding::HttpMode;
pub use dead_letter::DeadLetterTarget;
pub use endpoint::Failure;
pub use error::ForwardError;
pub use retry::RetryPolicy;
pub use sign::Signer;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Url, header::HeaderMap};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin::{Health, Readiness},
    clock::Clock,
    config::TransportConfig,
    consume::{Bound, ConsumerName, Filter, NotOurs, Place, ReadOptions, Reader, Received, Shapes, Start},
    exit::Exit,
    http,
    telemetry::Metrics,
    transport::{TransportError, TransportErrorKind},
};
use dead_letter::{DeadLetters, Label};
use endpoint::{Endpoint, Mood, Outcome, Parcel, label};
use lanes::{Lane, Lanes, Ticket};

/// The position is moved at most so often: what was delivered since is delivered again after a kill.
const COMMIT: Duration = Duration::from_millis(500);

/// So long it is tried to move the position at the end.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// How long a batch waits for more events.
const LINGER: Duration = Duration::from_millis(20);

/// How often a forwarder that does something says what.
const REPORT: Duration = Duration::from_mins(1);

/// So many events are between reading and done at least; a batch mode has room for two of each.
const WINDOW: usize = 1000;

/// Before a dead letter is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// So many messages that are no events are told of one by one.
const TOLD: u64 = 10;

/// What to forward, where to, and how.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// Under which the position is kept.
    pub name: ConsumerName,
    /// Where the name begins.
    pub start: Start,
    /// `Bound::End`: what is there now, then an end.
    pub bound: Bound,
    /// What is forwarded; the rest is passed over.
    pub filter: Filter,
    /// The endpoint.
    pub url: Url,
    /// How events lie in a request.
    pub mode: HttpMode,
    /// With every request; none that the binding or the signature sets.
    pub headers: HeaderMap,
    /// Signs requests.
    pub signer: Option<Signer>,
    /// Roots beside the host's, PEM.
    pub more_roots: Option<Vec<u8>>,
    /// For each request.
    pub timeout: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Requests under way at once; at least 1.
    pub concurrency: usize,
    /// Events in a request of `HttpMode::Batch`; at least 1.
    pub batch_size: usize,
    /// Where events go that are not taken; `None`: the first one ends the run.
    pub dead_letter: Option<DeadLetterTarget>,
    /// How long requests under way may take after a stop.
    pub grace: Duration,
}

/// What goes in one request.
type Unit = Vec<(Lane, Ticket, Parcel)>;

/// A delivery that ended, and what became of each event.
type Settled = (Unit, Vec<Outcome>);

/// What a message is to the forwarder.
enum Look {
    Forward(Lane, Option<Box<Result<binding::Content, String>>>),
    Filtered,
    NotOurs(NotOurs),
}

struct Forwarder {
    reader: Reader,
    shapes: Shapes,
    lanes: Lanes<Parcel>,
    work: JoinSet<Settled>,
    endpoint: Arc<Endpoint>,
    dead_letters: Option<DeadLetters>,
    /// Where the position may move to, by partition.
    movable: BTreeMap<i32, Place>,
    /// The position could not be moved the last time, and that was told.
    behind: bool,
    counts: Counts,
    /// What was reported last.
    reported: Counts,
    config: ForwardConfig,
    /// The endpoint's URL without secrets.
    label: String,
}

/// What became of the events read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    delivered: u64,
    dead_letters: u64,
    filtered: u64,
    not_ours: u64,
}

/// Forwards until it is told to stop, the bound is reached, or it cannot go on.
///
/// # Errors
/// `ForwardError`; whatever it is, the position is before everything that is not done.
pub async fn run(
    transport: &TransportConfig,
    config: ForwardConfig,
    (clock, metrics, readiness): (Clock, Metrics, Readiness),
    shutdown: &CancellationToken,
) -> Result<Exit, ForwardError> {
    let endpoint = Endpoint {
        client: http::client(config.timeout, config.more_roots.as_deref())?,
        url: config.url.clone(),
        batched: config.mode == HttpMode::Batch,
        headers: config.headers.clone(),
        signer: config.signer.clone(),
        retry: config.retry,
        clock: clock.clone(),
        metrics,
        readiness,
        name: config.name.to_string(),
        goes_on: config.dead_letter.is_some(),
        stop: shutdown.child_token(),
        mood: Mutex::new(Mood::default()),
    };
    endpoint.readiness.set(&endpoint.name, Health::Starting);
    let dead_letters = match &config.dead_letter {
        Some(target) => Some(DeadLetters::open(target, transport).await.map_err(ForwardError::DeadLetter)?),
        None => None,
    };
    let options = ReadOptions {
        start: config.start,
        bound: config.bound,
        partition: None,
        name: Some(config.name.clone()),
        clock,
    };
    let reader = tokio::select! {
        reader = Reader::open(transport, options) => reader?,
        () = shutdown.cancelled() => return Ok(Exit::Done),
    };
    endpoint.readiness.set(&endpoint.name, Health::Ready);
    let label = label(&config.url);
    info!(name = %config.name, to = label, "forwarding");
    let forwarder = Forwarder {
        reader,
        shapes: Shapes::default(),
        lanes: Lanes::default(),
        work: JoinSet::new(),
        endpoint: Arc::new(endpoint),
        dead_letters,
        movable: BTreeMap::new(),
        behind: false,
        counts: Counts::default(),
        reported: Counts::default(),
        config,
        label,
    };
    // A task like its requests: from outside of the runtime's threads the end of each is a wait across threads.
    // In a set, as that ends it with this future.
    let shutdown = shutdown.clone();
    let mut forwarding = JoinSet::from_iter([async move { forwarder.run(&shutdown).await }]);
    match forwarding.join_next().await.expect("it has one task") {
        Ok(ended) => ended,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Forwarder {
    async fn run(mut self, shutdown: &CancellationToken) -> Result<Exit, ForwardError> {
        let mut result = self.forward(shutdown).await;
        let unfinished = self.drain(&mut result).await;
        let committed = match timeout(self.config.grace.min(LAST_COMMIT), self.commit_all()).await {
            Ok(committed) => committed,
            Err(_) => Err(TransportError::new(
                TransportErrorKind::Unavailable,
                "could not move the position; what was delivered last is delivered again by the next start",
            )),
        };
        let Counts { delivered, dead_letters, filtered, not_ours } = self.counts;
        info!(delivered, dead_letters, filtered, not_ours, "stopped");
        if timeout(self.config.grace, self.reader.close()).await.is_err() {
            warn!("the output was left without a word");
        }
        result?;
        committed?;
        if unfinished > 0 {
            warn!(unfinished, "the grace is over; the next start delivers these again");
            return Ok(Exit::Failed);
        }
        Ok(Exit::Done)
    }

    /// Until the end, a stop, or something that ends it.
    async fn forward(&mut self, shutdown: &CancellationToken) -> Result<(), ForwardError> {
        let mut commit = ticks(COMMIT);
        let mut report = ticks(REPORT);
        let window = WINDOW.max(2 * self.most() * self.config.concurrency);
        let (mut at_end, mut lingered) = (false, false);
        loop {
            self.begin(at_end || lingered);
            lingered = false;
            if at_end && self.work.is_empty() {
                return Ok(());
            }
            let has_room = self.work.len() < self.config.concurrency;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = self.work.join_next() => self.settle(done).await?,
                // An output that is out of reach is waited for, but not by whoever is to stop.
                _ = commit.tick() => tokio::select! {
                    committed = self.commit() => committed?,
                    () = shutdown.cancelled() => return Ok(()),
                },
                _ = report.tick() => self.report(),
                next = self.reader.next(), if !at_end && self.lanes.len() < window => match next? {
                    Some(received) => {
                        self.take_in(received);
                        // And what came with it: to look around between two messages costs more than one.
                        while self.lanes.len() < window
                            && let Some(received) = self.reader.at_hand()
                        {
                            self.take_in(received);
                        }
                    }
                    None => at_end = true,
                },
                () = tokio::time::sleep(LINGER), if has_room && self.lanes.ready() > 0 => lingered = true,
            }
        }
    }

    /// Events in a request at most.
    fn most(&self) -> usize {
        if self.config.mode == HttpMode::Batch { self.config.batch_size } else { 1 }
    }

    /// Begins as many deliveries as may run at once; a batch that is not full only when nothing more
    /// is to be waited for.
    fn begin(&mut self, partial: bool) {
        let most = self.most();
        while self.work.len() < self.config.concurrency && (partial || self.lanes.ready() >= most) {
            let unit = self.lanes.take(most);
            if unit.is_empty() {
                return;
            }
            let endpoint = Arc::clone(&self.endpoint);
            self.work.spawn(async move {
                let outcomes = endpoint.deliver(unit.iter().map(|(_, _, parcel)| parcel)).await;
                (unit, outcomes)
            });
        }
    }

    fn take_in(&mut self, received: Received) {
        let look = self.look(&received);
        let (place, json) = received.into_parts();
        match look {
            Look::Forward(lane, binary) => self.lanes.push(lane, place, Parcel { binary, json }),
            Look::Filtered => {
                self.counts.filtered += 1;
                self.endpoint.metrics.forwarded("filtered", 1);
                self.pass(place);
            }
            Look::NotOurs(why) => {
                self.counts.not_ours += 1;
                self.endpoint.metrics.forwarded("not_ours", 1);
                if self.counts.not_ours <= TOLD {
                    let Place { partition, position, .. } = place;
                    warn!(partition, position, "passed over what is no event of ours: {why}");
                }
                if self.counts.not_ours == TOLD {
                    warn!("more of them are only counted; `tail --all` shows them");
                }
                self.pass(place);
            }
        }
    }

    fn look(&mut self, received: &Received) -> Look {
        let event = match received.event(&mut self.shapes) {
            Ok(event) => event,
            Err(why) => return Look::NotOurs(why),
        };
        if !self.config.filter.matches(&event) {
            return Look::Filtered;
        }
        let binary = (self.config.mode == HttpMode::Binary).then(|| Box::new(binding::binary(&event)));
        Look::Forward(self.lanes.lane(event.key()), binary)
    }

    fn pass(&mut self, place: Place) {
        self.lanes.pass(place);
        self.advance();
    }

    fn advance(&mut self) {
        for place in self.lanes.advance() {
            self.movable.insert(place.partition, place);
        }
    }

    /// Takes note of a delivery that ended, and puts aside what was not taken.
    async fn settle(&mut self, done: Result<Settled, JoinError>) -> Result<(), ForwardError> {
        let (unit, outcomes) = match done {
            Ok(settled) => settled,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a stop cancels, and then nothing is asked for any more.
                Err(_) => return Ok(()),
            },
        };
        let delivered =
            outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Delivered)).count() as u64;
        self.counts.delivered += delivered;
        self.endpoint.metrics.forwarded("delivered", delivered);
        for ((_, ticket, parcel), outcome) in unit.iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered => {}
                Outcome::Failed(failure) => {
                    if !self.put_aside(*ticket, parcel, failure).await? {
                        return Ok(());
                    }
                }
                Outcome::Moved(answer) => {
                    return Err(ForwardError::Moved { endpoint: self.label.clone(), answer });
                }
                Outcome::Abandoned => return Ok(()),
            }
            self.lanes.done(*ticket);
        }
        self.lanes.free(unit.iter().map(|(lane, _, _)| *lane));
        self.advance();
        Ok(())
    }

    /// Puts an event among the dead letters; false where it was told to stop before they took it.
    async fn put_aside(
        &mut self,
        ticket: Ticket,
        parcel: &Parcel,
        failure: endpoint::Failure,
    ) -> Result<bool, ForwardError> {
        let (id, key) = (parcel.attribute("id"), parcel.attribute("partitionkey"));
        let Some(dead_letters) = &self.dead_letters else {
            return Err(ForwardError::Undelivered { endpoint: self.label.clone(), id, key, failure });
        };
        let now = self.endpoint.clock.now();
        let label = Label::new(now, (self.config.name.as_str(), &self.label), &failure, ticket);
        let (began, mut told) = (Instant::now(), None::<Instant>);
        while let Err(error) = dead_letters.write(&label, (&id, &key), &parcel.json).await {
            // Who is to end by itself does not wait for ever.
            let over = self.config.bound != Bound::Follow && began.elapsed() >= REPORT;
            if over || !dead_letters.come_back() || !error.kind.may_pass() {
                return Err(ForwardError::DeadLetter(error));
            }
            if self.endpoint.stop.is_cancelled() {
                warn!(id, key, "a dead letter is not written; the next start tries the event again: {error}");
                return Ok(false);
            }
            if told.is_none_or(|told| told.elapsed() >= REPORT) {
                told = Some(Instant::now());
                warn!(id, key, "a dead letter is not written yet: {error}");
                let health = Health::Failing("dead letters cannot be written".to_owned());
                self.endpoint.readiness.set(&self.endpoint.name, health);
            }
            timeout(PAUSE, self.endpoint.stop.cancelled()).await.ok();
        }
        if told.is_some() {
            self.endpoint.readiness.set(&self.endpoint.name, Health::Ready);
        }
        let (reason, attempts) = (&failure.reason, failure.attempts);
        warn!(id, key, attempts, "an event is among the dead letters: {reason}");
        self.counts.dead_letters += 1;
        self.endpoint.metrics.forwarded("dead_letter", 1);
        Ok(true)
    }

    async fn commit_all(&mut self) -> Result<(), TransportError> {
        loop {
            self.commit().await?;
            if self.movable.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LINGER).await;
        }
    }

    /// Moves the position. What cannot be written now is written with what follows.
    async fn commit(&mut self) -> Result<(), TransportError> {
        while let Some((&partition, place)) = self.movable.first_key_value() {
            match self.reader.commit(place).await {
                Ok(()) => {
                    self.behind = false;
                    self.movable.remove(&partition)
                }
                Err(error) if error.kind == TransportErrorKind::Unavailable => {
                    if !std::mem::replace(&mut self.behind, true) {
                        warn!("the position stays where it is for now: {error}");
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Waits for the requests under way; what they came to is noted as ever. How many are left.
    async fn drain(&mut self, result: &mut Result<(), ForwardError>) -> usize {
        self.endpoint.stop.cancel();
        let deadline = Instant::now() + self.config.grace;
        while let Ok(Some(done)) = timeout_at(deadline, self.work.join_next()).await {
            let settled = self.settle(done).await;
            if result.is_ok() {
                *result = settled;
            }
        }
        self.advance();
        let unfinished = self.work.len();
        self.work.abort_all();
        unfinished
    }

    fn report(&mut self) {
        if self.counts != self.reported || !self.work.is_empty() {
            let Counts { delivered, dead_letters, filtered, not_ours } = self.counts;
            info!(delivered, dead_letters, filtered, not_ours, waiting = self.lanes.len(), "forwarding");
            self.reported = self.counts;
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
