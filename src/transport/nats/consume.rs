//! Reading the stream back: from any place, to a proven end or for ever, and as a durable consumer.
//!
//! Nothing here decides what an event is. Without a name an ordered consumer reads, which the server
//! forgets; with one, a durable with explicit acknowledgement, which is the name's position.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        stream::ConsumerErrorKind,
    },
    subject::Subject,
};
use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::client::{Failure, JetStream, refusal};
use crate::{
    config::NatsConfig,
    consume::{BATCH, Bound, ConsumerName, Feed, Place, ReadOptions, Received, Start, line_of},
    event::Binding,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// How long a message may stay unacknowledged before the server gives it out again; what is held is
/// reported as in progress three times as often.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// How many messages a durable may have out at once: more than are read ahead.
const OUT: i64 = 8 * 1024;

/// How often the bound is looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(250);

/// Without progress for so long, an end that was proven is given up.
const GIVE_UP: Duration = Duration::from_secs(45);

/// Before a consumer that failed is made anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Messages of either kind of consumer.
type Messages = BoxStream<'static, Result<jetstream::Message, String>>;

/// Messages that were given out and not acknowledged, oldest first: sequence and where to answer.
type Held = Arc<Mutex<VecDeque<(u64, Subject)>>>;

/// Where a durable's messages are acknowledged.
#[derive(Debug)]
pub(crate) struct NatsPosition {
    source: Arc<Source>,
    held: Held,
    /// Reports what is held as in progress.
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
struct Source {
    js: JetStream,
    stream: String,
    filter: String,
    timeout: Duration,
    /// When the stream was created: another instant is another stream.
    created: String,
}

/// Finds start and end, then reads in the background.
pub(crate) async fn read_events(
    config: &NatsConfig,
    options: ReadOptions,
    feed: Feed,
) -> Result<(Option<NatsPosition>, JoinHandle<()>), TransportError> {
    let js = JetStream::connect(config).await?;
    let facts = facts(&js, &config.stream).await?;
    let source = Arc::new(Source {
        js,
        stream: config.stream.clone(),
        filter: format!("{}.>", config.subject_prefix),
        timeout: config.timeout,
        created: facts.created.clone(),
    });
    let (policy, behind) = begin(&source, &facts, options.start)?;
    let last = source.last().await?;
    let ends_now = match options.bound {
        Bound::End => true,
        Bound::Until(time) => time <= options.clock.now(),
        Bound::Follow => false,
    };
    let nothing = match options.start {
        Start::Time(time) => last.is_none_or(|(_, at)| at < time),
        _ => last.is_none_or(|(sequence, _)| sequence <= behind),
    };
    let end = ends_now.then_some(match last {
        Some((sequence, _)) if !nothing || options.name.is_some() => sequence,
        _ => 0,
    });
    let held = Held::default();
    let mut position = None;
    if let Some(name) = &options.name {
        source.durable(name, policy).await?;
        let keeper = tokio::spawn(keep(Arc::clone(&source), Arc::clone(&held)));
        position = Some(NatsPosition { source: Arc::clone(&source), held: Arc::clone(&held), keeper });
    }
    let mut reading =
        Reading { source, options, feed, policy, held, at: 0, end, batch: Vec::with_capacity(BATCH) };
    let feeder = tokio::spawn(async move {
        let last = reading.run().await.map(|()| Vec::new());
        // A reader that has gone needs neither the end nor a reason.
        reading.feed.send(last).await.ok();
        reading.give_back().await;
    });
    Ok((position, feeder))
}

impl NatsPosition {
    /// Acknowledges a message and everything given out before it.
    pub(crate) async fn commit(&self, place: Place) -> Result<(), TransportError> {
        let done: Vec<_> = {
            let mut held = lock(&self.held);
            let Some(index) = held.iter().position(|(sequence, _)| *sequence == place.position) else {
                return Ok(());
            };
            held.drain(..=index).map(|(_, reply)| reply).collect()
        };
        let client = &self.source.js.client;
        let what = format!("could not acknowledge messages of stream `{}`", self.source.stream);
        let Some((last, before)) = done.split_last() else { return Ok(()) };
        for reply in before {
            client
                .publish(reply.clone(), "+ACK".into())
                .await
                .map_err(|e| TransportError::new(Kind::Unavailable, format!("{what}: {e}")))?;
        }
        // Its answer proves the ones before, which went the same way.
        match timeout(self.source.timeout, client.request(last.clone(), "+ACK".into())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.source.js.silence(&what, &error)),
            Err(_) => Err(TransportError::new(Kind::Unavailable, format!("{what}: no answer"))
                .with_hint("what was not acknowledged is given out again")),
        }
    }
}

impl Drop for NatsPosition {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn lock(held: &Held) -> MutexGuard<'_, VecDeque<(u64, Subject)>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as a message is held it is not given out again, however long it takes.
async fn keep(source: Arc<Source>, held: Held) {
    loop {
        sleep(ACK_WAIT / 3).await;
        let replies: Vec<_> = lock(&held).iter().map(|(_, reply)| reply.clone()).collect();
        for reply in replies {
            if let Err(error) = source.js.client.publish(reply, "+WPI".into()).await {
                debug!(%error, "not reported as in progress");
            }
        }
    }
}

struct Facts {
    created: String,
    first: u64,
    last: u64,
}

async fn facts(js: &JetStream, stream: &str) -> Result<Facts, TransportError> {
    let info = match js.request(&format!("STREAM.INFO.{stream}"), &json!({})).await {
        Ok(info) => info,
        Err(Failure::Silent(error)) => return Err(error),
        Err(Failure::Refused(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            return Err(TransportError::new(Kind::Rejected, format!("there is no stream `{stream}`"))
                .with_hint(
                    "the first `run` creates it where `nats.create_stream` is set; see `nats.stream`",
                ));
        }
        Err(Failure::Refused(error)) => {
            return Err(refusal(&format!("could not look at stream `{stream}`"), &error));
        }
    };
    let number = |name: &str| info["state"][name].as_u64().unwrap_or(0);
    Ok(Facts {
        created: info["created"].as_str().unwrap_or_default().to_owned(),
        first: number("first_seq"),
        last: number("last_seq"),
    })
}

/// Where to begin, and the sequence before it as far as that is known.
fn begin(source: &Source, facts: &Facts, start: Start) -> Result<(DeliverPolicy, u64), TransportError> {
    let at = |start_sequence: u64| (DeliverPolicy::ByStartSequence { start_sequence }, start_sequence - 1);
    match start {
        Start::Beginning => Ok((DeliverPolicy::All, 0)),
        Start::End => Ok(at(facts.last + 1)),
        Start::Position(sequence) => {
            let first = facts.first.max(1);
            if (first..=facts.last + 1).contains(&sequence) {
                return Ok(at(sequence));
            }
            let stream = &source.stream;
            let message = if first > facts.last {
                format!(
                    "sequence {sequence} is not in stream `{stream}`, which is empty; its next sequence is {}",
                    facts.last + 1
                )
            } else {
                format!("sequence {sequence} is not in stream `{stream}`: it has {first} to {}", facts.last)
            };
            Err(TransportError::new(Kind::Rejected, message))
        }
        Start::Time(time) => {
            let start_time = async_nats::datetime::from_nanos(time.as_nanosecond()).map_err(|e| {
                TransportError::new(Kind::Rejected, format!("{time} cannot be asked for: {e}"))
            })?;
            Ok((DeliverPolicy::ByStartTime { start_time }, 0))
        }
    }
}

impl Source {
    /// The newest message of the filter, as the stream's leader has it.
    async fn last(&self) -> Result<Option<(u64, Timestamp)>, TransportError> {
        let stream = self.js.stream(&self.stream).await?;
        let last = self.js.last(&stream, &self.filter).await?;
        Ok(last.map(|last| (last.sequence, timestamp(last.time.unix_timestamp_nanos()).unwrap_or_default())))
    }

    fn fail(&self, error: &dyn std::error::Error) -> TransportError {
        self.js.silence(&format!("could not read stream `{}`", self.stream), error)
    }

    /// The name's durable, created where it does not exist.
    async fn durable(
        &self,
        name: &ConsumerName,
        policy: DeliverPolicy,
    ) -> Result<PullConsumer, TransportError> {
        match self
            .js
            .context
            .get_consumer_from_stream::<pull::Config, _, _>(name.as_str(), &self.stream)
            .await
        {
            Ok(consumer) => {
                let known = consumer.cached_info();
                if known.config.ack_policy != AckPolicy::Explicit {
                    return Err(self.other_kind(name));
                }
                info!(
                    stream = self.stream,
                    acknowledged = known.ack_floor.stream_sequence,
                    "`{name}` goes on"
                );
                Ok(consumer)
            }
            Err(error) if error.kind() == ConsumerErrorKind::InvalidConsumerType => {
                Err(self.other_kind(name))
            }
            Err(error) if is_no_consumer(&error.kind()) => {
                let config = pull::Config {
                    durable_name: Some(name.as_str().to_owned()),
                    description: Some("amazon-billing-source: reads as this name".to_owned()),
                    deliver_policy: policy,
                    ack_policy: AckPolicy::Explicit,
                    ack_wait: ACK_WAIT,
                    max_ack_pending: OUT,
                    filter_subject: self.filter.clone(),
                    ..Default::default()
                };
                let created = self.js.context.create_consumer_on_stream(config, &self.stream).await;
                created.map_err(|error| {
                    let what = format!("could not create consumer `{name}` of stream `{}`", self.stream);
                    self.js.silence(&what, &error)
                })
            }
            Err(error) => Err(self.fail(&error)),
        }
    }
}

fn is_no_consumer(kind: &ConsumerErrorKind) -> bool {
    matches!(kind, ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

fn timestamp(nanos: i128) -> Option<Timestamp> {
    Timestamp::from_nanosecond(nanos).ok()
}

/// A stream being read.
struct Reading {
    source: Arc<Source>,
    options: ReadOptions,
    feed: Feed,
    policy: DeliverPolicy,
    held: Held,
    /// The sequence of the last message given out.
    at: u64,
    /// Where to stop, once that is known.
    end: Option<u64>,
    batch: Vec<Received>,
}

impl Reading {
    async fn run(&mut self) -> Result<(), TransportError> {
        let mut failing: Option<Instant> = None;
        loop {
            if self.is_done().await? {
                return Ok(());
            }
            let failed = match self.messages().await {
                Ok(messages) => match self.read(messages, &mut failing).await? {
                    None => return Ok(()),
                    Some(failed) => TransportError::new(
                        Kind::Unavailable,
                        format!("reading stream `{}` failed: {failed}", self.source.stream),
                    ),
                },
                Err(error) if error.kind == Kind::Unavailable => error,
                Err(error) => return Err(error),
            };
            let since = *failing.get_or_insert_with(|| {
                warn!("{failed}; trying on");
                Instant::now()
            });
            if self.options.bound != Bound::Follow && since.elapsed() > GIVE_UP {
                return Err(failed);
            }
            if timeout(PAUSE, self.feed.closed()).await.is_ok() {
                return Ok(());
            }
        }
    }

    /// A consumer of what comes behind the last message given out.
    async fn messages(&self) -> Result<Messages, TransportError> {
        let source = &self.source;
        if facts(&source.js, &source.stream).await?.created != source.created {
            let message = format!("stream `{}` was deleted and created anew", source.stream);
            return Err(TransportError::new(Kind::Regressed, message)
                .with_hint("begin again, at the beginning of the new one"));
        }
        if let Some(name) = &self.options.name {
            // What was held when the former one failed comes again.
            lock(&self.held).clear();
            let consumer = source.durable(name, self.policy).await?;
            let messages = consumer.stream().max_messages_per_batch(BATCH).messages().await;
            let messages = messages.map_err(|error| source.fail(&error))?;
            return Ok(messages.map(|message| message.map_err(|error| error.to_string())).boxed());
        }
        let deliver_policy = match self.at {
            0 => self.policy,
            at => DeliverPolicy::ByStartSequence { start_sequence: at + 1 },
        };
        let config = pull::OrderedConfig {
            filter_subject: source.filter.clone(),
            deliver_policy,
            description: Some("amazon-billing-source: reads back".to_owned()),
            ..Default::default()
        };
        let consumer = source.js.context.create_consumer_on_stream(config, &source.stream).await;
        let messages = consumer.map_err(|error| source.fail(&error))?.messages().await;
        let messages = messages.map_err(|error| source.fail(&error))?;
        Ok(messages.map(|message| message.map_err(|error| error.to_string())).boxed())
    }

    /// Reads until the bound; otherwise why the consumer failed.
    async fn read(
        &mut self,
        mut messages: Messages,
        failing: &mut Option<Instant>,
    ) -> Result<Option<String>, TransportError> {
        let mut progress = Instant::now();
        let mut looked = Instant::now();
        loop {
            let next = match messages.next().now_or_never() {
                Some(next) => Some(next),
                None => {
                    if !self.hand_over().await {
                        return Ok(None);
                    }
                    timeout(LOOK, messages.next()).await.ok()
                }
            };
            match next {
                Some(Some(Ok(message))) => {
                    (progress, *failing) = (Instant::now(), None);
                    if !self.take(&message) {
                        self.hand_over().await;
                        return Ok(None);
                    }
                    if self.batch.len() == BATCH && !self.hand_over().await {
                        return Ok(None);
                    }
                }
                Some(Some(Err(error))) => return Ok(Some(error)),
                Some(None) => return Ok(Some("the consumer has ended".to_owned())),
                None if self.feed.is_closed() => return Ok(None),
                None => {}
            }
            let reached = self.end.is_some_and(|end| self.at >= end);
            if reached && self.options.name.is_none() {
                self.hand_over().await;
                return Ok(None);
            }
            if (reached || progress.elapsed() >= LOOK) && looked.elapsed() >= LOOK {
                if self.is_done().await? {
                    self.hand_over().await;
                    return Ok(None);
                }
                looked = Instant::now();
                if self.end.is_some() && progress.elapsed() > GIVE_UP {
                    if self.options.name.is_some() {
                        warn!(stream = self.source.stream, "others of the same name hold what is left");
                        return Ok(None);
                    }
                    return Ok(Some("no message came".to_owned()));
                }
            }
        }
    }

    /// Adds a message to the batch; false where it lies behind the time asked for.
    fn take(&mut self, message: &jetstream::Message) -> bool {
        let Ok(info) = message.info() else {
            debug!(subject = %message.subject, "a message without a place");
            return true;
        };
        let stored_at = timestamp(info.published.unix_timestamp_nanos());
        if let (Bound::Until(until), Some(at)) = (self.options.bound, stored_at)
            && at >= until
        {
            return false;
        }
        self.at = self.at.max(info.stream_sequence);
        if self.options.name.is_some()
            && let Some(reply) = &message.reply
        {
            lock(&self.held).push_back((info.stream_sequence, reply.clone()));
        }
        let headers = message.headers.as_ref().map(HeaderMap::iter).into_iter().flatten();
        let headers = headers.filter_map(|(name, values)| {
            Some((AsRef::<str>::as_ref(name), values.first()?.as_str().as_bytes()))
        });
        let line = line_of(Binding::Nats, headers, Some(message.payload.clone()));
        self.batch.push(Received::new(Place::of(0, info.stream_sequence), stored_at, line));
        true
    }

    /// Hands the batch over; false when nobody reads any more.
    async fn hand_over(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.feed.send(Ok(batch)).await.is_ok()
    }

    /// Whether everything up to the bound was given out, or taken by others of the same name.
    async fn is_done(&mut self) -> Result<bool, TransportError> {
        if let (None, Bound::Until(time)) = (self.end, self.options.bound)
            && self.options.clock.now() >= time
        {
            self.end = Some(self.source.last().await?.map_or(0, |(sequence, _)| sequence));
        }
        let Some(end) = self.end else { return Ok(false) };
        match &self.options.name {
            None if self.at >= end => Ok(true),
            // Perhaps the end itself was deleted since.
            None => Ok(self.source.last().await?.is_none_or(|(sequence, _)| sequence <= self.at)),
            // What a process of the name left unacknowledged when it died comes again, and is waited for.
            Some(name) => {
                let mut consumer = self.source.durable_as_it_is(name).await?;
                let info = consumer.info().await.map_err(|error| self.source.fail(&error))?;
                let out = lock(&self.held).len();
                Ok((self.at >= end || info.num_pending == 0) && info.num_ack_pending <= out)
            }
        }
    }

    /// What was given out and not acknowledged may go to somebody else at once.
    async fn give_back(&self) {
        self.feed.closed().await;
        let replies: Vec<_> = lock(&self.held).drain(..).map(|(_, reply)| reply).collect();
        let client = &self.source.js.client;
        for reply in replies {
            client.publish(reply, "-NAK".into()).await.ok();
        }
        // The last acknowledgements may still be on their way.
        if timeout(self.source.timeout, client.flush()).await.is_err() {
            debug!("not everything was written to NATS in time");
        }
    }
}

impl Source {
    fn other_kind(&self, name: &ConsumerName) -> TransportError {
        let message = format!(
            "consumer `{name}` of stream `{}` is not a pull consumer with explicit acknowledgement",
            self.stream
        );
        TransportError::new(Kind::Foreign, message).with_hint("another program made it; choose another name")
    }

    /// The name's durable, which exists.
    async fn durable_as_it_is(&self, name: &ConsumerName) -> Result<PullConsumer, TransportError> {
        let found = self.js.context.get_consumer_from_stream(name.as_str(), &self.stream).await;
        found.map_err(|error| self.fail(&error))
    }
}
