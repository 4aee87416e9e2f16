//! Reading the stream back: from any place, to a proven end or for ever, and as a durable consumer.
//!
//! Nothing here decides what an event is. Without a name an ordered consumer reads, which the server
//! forgets; with one, a durable with explicit acknowledgement, which is the name's position.

mod behind;
mod reading;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{
    jetstream::{
        ErrorCode,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        stream::ConsumerErrorKind,
    },
    subject::Subject,
};
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::client::{Failure, JetStream, refusal};
use crate::{
    config::NatsConfig,
    consume::{BATCH, Bound, ConsumerName, Feed, Lines, Place, ReadOptions, Start},
    transport::{TransportError, TransportErrorKind as Kind},
};
use reading::Reading;

/// How long a message may stay unacknowledged before the server gives it out again; what is held is
/// reported as in progress three times as often.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// How many messages a durable may have out at once: more than are read ahead.
const OUT: i64 = 8 * 1024;

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
    let mut reading = Reading {
        source,
        options,
        feed,
        policy,
        begins_behind: behind,
        held,
        at: 0,
        end,
        behind: None,
        lines: Lines::default(),
        batch: Vec::with_capacity(BATCH),
    };
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
    pub(crate) async fn commit(&self, place: &Place) -> Result<(), TransportError> {
        let index = |held: &VecDeque<(u64, Subject)>| {
            held.iter().position(|(sequence, _)| *sequence == place.position)
        };
        // In hand until it is known that the server has it: asked again, it is told again.
        let done: Vec<_> = {
            let held = lock(&self.held);
            let Some(index) = index(&held) else { return Ok(()) };
            held.range(..=index).map(|(_, reply)| reply.clone()).collect()
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
            Ok(Ok(_)) => {
                let mut held = lock(&self.held);
                let index = index(&held);
                index.map(|index| held.drain(..=index));
                Ok(())
            }
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

    /// That it is still the same stream: a consumer of one made anew would wait for sequences that
    /// are long past there.
    async fn compare(&self) -> Result<(), TransportError> {
        if facts(&self.js, &self.stream).await?.created == self.created {
            return Ok(());
        }
        let message = format!("stream `{}` was deleted and created anew", self.stream);
        Err(TransportError::new(Kind::Regressed, message)
            .with_hint("begin again, at the beginning of the new one"))
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
