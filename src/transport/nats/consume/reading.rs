//! The messages of a consumer, made anew where it fails, until the bound.

use std::{sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull},
    },
};
use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{Held, Source, behind::Behind, lock, timestamp};
use crate::{
    consume::{BATCH, Bound, Feed, Lines, Place, ReadOptions, Received, Start},
    event::Binding,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// How often the bound is looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(250);

/// How often it is made sure that the stream is still the same one.
const COMPARE: Duration = Duration::from_secs(5);

/// Without progress for so long, an end that was proven is given up.
const GIVE_UP: Duration = Duration::from_secs(45);

/// Before a consumer that failed is made anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Messages of either kind of consumer.
type Messages = BoxStream<'static, Result<jetstream::Message, String>>;

/// A stream being read.
pub(super) struct Reading {
    pub(super) source: Arc<Source>,
    pub(super) options: ReadOptions,
    pub(super) feed: Feed,
    pub(super) policy: DeliverPolicy,
    /// The sequence before the start; 0 where that is a time, or the beginning.
    pub(super) begins_behind: u64,
    pub(super) held: Held,
    /// The sequence of the last message given out.
    pub(super) at: u64,
    /// Where to stop, once that is known.
    pub(super) end: Option<u64>,
    /// What is waited for before anything is given out.
    pub(super) behind: Option<Behind>,
    pub(super) lines: Lines,
    pub(super) batch: Vec<Received>,
}

impl Reading {
    pub(super) async fn run(&mut self) -> Result<(), TransportError> {
        let mut failing: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let failed = match self.attempt(&mut failing).await {
                Err(error) if error.kind == Kind::Unavailable => error,
                ended => return ended,
            };
            let forbidden = self.source.js.forbidden_within(begun.elapsed(), &failed.message);
            if let Some(forbidden) = forbidden {
                return Err(forbidden);
            }
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

    /// Reads to the bound with one consumer, or until nobody reads any more.
    async fn attempt(&mut self, failing: &mut Option<Instant>) -> Result<(), TransportError> {
        if self.is_done().await? {
            return Ok(());
        }
        let messages = self.messages().await?;
        self.read(messages, failing).await
    }

    /// A consumer of what comes behind the last message given out.
    async fn messages(&mut self) -> Result<Messages, TransportError> {
        let source = &self.source;
        source.compare().await?;
        if let Some(name) = &self.options.name {
            let consumer = source.durable(name, self.policy).await?;
            let kept = self.behind.take().map(Behind::release).unwrap_or_default();
            self.behind = Behind::of(consumer.cached_info(), lock(&self.held).len(), kept);
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

    async fn read(
        &mut self,
        mut messages: Messages,
        failing: &mut Option<Instant>,
    ) -> Result<(), TransportError> {
        let failed = |why: &str, stream: &str| {
            TransportError::new(Kind::Unavailable, format!("reading stream `{stream}` failed: {why}"))
        };
        let mut progress = Instant::now();
        let mut looked = Instant::now();
        let mut compared = Instant::now();
        loop {
            let at_hand = messages.next().now_or_never();
            let next = if at_hand.is_some() {
                at_hand
            } else {
                if !self.batch.is_empty() {
                    if !self.hand_over().await {
                        return Ok(());
                    }
                    progress = Instant::now();
                }
                timeout(LOOK, messages.next()).await.ok()
            };
            match next {
                Some(Some(Ok(message))) => {
                    (progress, *failing) = (Instant::now(), None);
                    if !self.receive(message) {
                        self.hand_over().await;
                        return Ok(());
                    }
                    if self.batch.len() == BATCH {
                        if !self.hand_over().await {
                            return Ok(());
                        }
                        // Whoever reads may have taken long.
                        progress = Instant::now();
                    }
                }
                Some(Some(Err(error))) => return Err(failed(&error, &self.source.stream)),
                Some(None) => return Err(failed("the consumer has ended", &self.source.stream)),
                None if self.feed.is_closed() => return Ok(()),
                None => {}
            }
            if self.batch.is_empty() && compared.elapsed() >= COMPARE {
                compared = Instant::now();
                self.source.compare().await?;
            }
            if self.behind.is_some() && looked.elapsed() >= LOOK {
                looked = Instant::now();
                if !self.catch_up().await? {
                    self.hand_over().await;
                    return Ok(());
                }
            }
            let reached = self.end.is_some_and(|end| self.at >= end);
            if reached && self.options.name.is_none() {
                self.hand_over().await;
                return Ok(());
            }
            if (reached || progress.elapsed() >= LOOK) && looked.elapsed() >= LOOK {
                if self.is_done().await? {
                    self.hand_over().await;
                    return Ok(());
                }
                looked = Instant::now();
                if self.end.is_some() && progress.elapsed() > GIVE_UP {
                    if self.options.name.is_some() {
                        warn!(stream = self.source.stream, "others of the same name hold what is left");
                        return Ok(());
                    }
                    return Err(failed("no message came", &self.source.stream));
                }
            }
        }
    }

    /// Takes a message in; false where one lies behind the time asked for.
    fn receive(&mut self, message: jetstream::Message) -> bool {
        let Ok(info) = message.info() else {
            debug!(subject = %message.subject, "a message without a place");
            return true;
        };
        let (sequence, again) = (info.stream_sequence, info.delivered > 1);
        if let (Some(_), Some(reply)) = (&self.options.name, &message.reply) {
            let mut held = lock(&self.held);
            if again && let Some(known) = held.iter_mut().find(|(known, _)| *known == sequence) {
                // In hand already: the server was not told in time.
                known.1 = reply.clone();
                return true;
            }
            held.push_back((sequence, reply.clone()));
        }
        let Some(behind) = &mut self.behind else { return self.take(&message) };
        behind.keep(sequence, message);
        !behind.is_complete() || self.release()
    }

    /// Asks the server whether anything is still to be waited for; false as for a message.
    async fn catch_up(&mut self) -> Result<bool, TransportError> {
        let (Some(name), Some(behind)) = (&self.options.name, &self.behind) else { return Ok(true) };
        let mut consumer = self.source.durable_as_it_is(name).await?;
        let info = consumer.info().await.map_err(|error| self.source.fail(&error))?;
        Ok(!behind.is_over(info, lock(&self.held).len()) || self.release())
    }

    /// Gives out what was kept; false as for a message.
    fn release(&mut self) -> bool {
        let kept = self.behind.take().map(Behind::release).unwrap_or_default();
        {
            // In hand in the order they are given out, which is the order they are committed in.
            let mut held = lock(&self.held);
            let first = held.len().saturating_sub(kept.len());
            held.make_contiguous()[first..].sort_by_key(|(sequence, _)| *sequence);
        }
        kept.iter().all(|(_, message)| self.take(message))
    }

    /// Adds a message to the batch; false where it lies behind the time asked for.
    fn take(&mut self, message: &jetstream::Message) -> bool {
        let Ok(info) = message.info() else { return true };
        let stored_at = timestamp(info.published.unix_timestamp_nanos());
        if let (Bound::Until(until), Some(at)) = (self.options.bound, stored_at)
            && at >= until
        {
            return false;
        }
        if self.options.name.is_none() && !self.is_asked_for(info.stream_sequence, stored_at) {
            return true;
        }
        self.at = self.at.max(info.stream_sequence);
        let headers = message.headers.as_ref().map(HeaderMap::iter).into_iter().flatten();
        let headers = headers.filter_map(|(name, values)| {
            Some((AsRef::<str>::as_ref(name), values.first()?.as_str().as_bytes()))
        });
        let payload = &message.payload;
        let line = self.lines.take(Binding::Nats, headers, Some(payload), |_, _| payload.clone());
        self.batch.push(Received::new(Place::of(0, info.stream_sequence), stored_at, line));
        true
    }

    /// Whether a message lies behind the start and behind what was given out. The client makes its ordered
    /// consumer anew by itself where that is lost, and before its first message from the stream's beginning.
    fn is_asked_for(&self, sequence: u64, stored_at: Option<jiff::Timestamp>) -> bool {
        let in_time = match (self.options.start, stored_at) {
            (Start::Time(since), Some(at)) => at >= since,
            _ => true,
        };
        in_time && sequence > self.at.max(self.begins_behind)
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
                let delivered = info.delivered.stream_sequence;
                let mut all_there = self.at >= end || delivered >= end;
                if !all_there && info.num_pending == 0 {
                    // Perhaps the end itself was deleted since. That nothing is pending is not enough: the
                    // consumer's server may be behind the stream's.
                    all_there = self.source.last().await?.is_none_or(|(last, _)| last <= delivered);
                }
                let given_out = self.behind.is_none() && all_there;
                Ok(given_out && info.num_ack_pending <= out)
            }
        }
    }

    /// What was given out and not acknowledged may go to somebody else at once.
    pub(super) async fn give_back(&self) {
        self.feed.closed().await;
        let replies: Vec<_> = lock(&self.held).drain(..).map(|(_, reply)| reply).collect();
        let client = &self.source.js.client;
        // First the server has to know that nobody waits here any more, which it finds out when it is
        // asked: else it tries to give the first one out here, and puts it behind the others.
        let told = timeout(self.source.timeout, client.flush()).await;
        if let (Ok(Ok(())), Some(name)) = (told, &self.options.name)
            && let Err(error) = self.source.durable_as_it_is(name).await
        {
            debug!("{error}");
        }
        for reply in replies {
            client.publish(reply, "-NAK".into()).await.ok();
        }
        // The last acknowledgements may still be on their way.
        if timeout(self.source.timeout, client.flush()).await.is_err() {
            debug!("not everything was written to NATS in time");
        }
    }
}
